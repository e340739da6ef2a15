package storetest

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

func anAPIKey(mesh, id, issuer string) store.APIKey {
	return store.APIKey{
		ID: id, MeshID: mesh, Label: "label", Hash: key("secret " + id), Prefix: "cm_12345678", Capabilities: []string{"send", "read"},
		TopicScopes: &[]string{"general"}, IssuedBy: issuer, CreatedAt: noon,
	}
}

func anInvite(mesh, id string) store.Invite {
	return store.Invite{
		ID: id, MeshID: mesh, TokenHash: key("token " + id), Code: "code " + id, Version: 2, Role: store.RoleMember, MaxUses: 1,
		Preset:    store.InvitePreset{DisplayName: "d", RoleTag: "r", Groups: []wire.Group{{Name: "g"}}, MessageMode: "inbox"},
		ExpiresAt: after(time.Hour), CreatedBy: "ana", CreatedAt: noon,
	}
}

func keyIDs(ks []store.APIKey) []string {
	ids := []string{}
	for _, k := range ks {
		ids = append(ids, k.ID)
	}
	return ids
}

// tied are ids of things that are stored in this order, the first four at one time and the rest at a later one: newest first, they are
// e f d b a c. They are in no order of their own, up or down, so that a store that orders ties by id shows itself.
var tied = []string{"c", "a", "b", "d", "f", "e"}

var apiKeys = checks{
	"CreateAPIKey forgets the oldest ended keys of the issuer, and no others": func(w *world) {
		w.mesh("m", "ana", "bo")
		for i := range store.MaxEndedAPIKeys + 2 {
			k := anAPIKey("m", fmt.Sprintf("ended-%04d", i), "ana")
			k.ExpiresAt, k.CreatedAt = noon, noon.Add(time.Duration(i-5000)*time.Second)
			require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
		}
		for _, by := range []string{"ana", "bo", ""} {
			k := anAPIKey("m", "live of "+by, by)
			k.CreatedAt, k.ExpiresAt = after(time.Hour), time.Time{}
			require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
		}
		keys, err := w.ListAPIKeys(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Len(w, keys, store.MaxEndedAPIKeys+1)
		require.Equal(w, "live of ana", keys[0].ID)
		require.Equal(w, "ended-0002", keys[len(keys)-1].ID)
		require.ErrorIs(w, second(w.APIKey(w.ctx, "m", "ended-0001")), store.ErrNotFound)
	},
	"CreateAPIKey keeps every field": func(w *world) {
		w.mesh("m", "ana")
		for i, scopes := range []*[]string{nil, {}, {"a", "b"}} {
			want := anAPIKey("m", fmt.Sprint(i), "ana")
			want.TopicScopes, want.Rekey, want.ExpiresAt = scopes, true, after(time.Hour)
			require.NoError(w, w.CreateAPIKey(w.ctx, want, 0))
			got, err := w.APIKey(w.ctx, "m", want.ID)
			require.NoError(w, err)
			require.Equal(w, want, got)
		}
		require.ErrorIs(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "1", "ana"), 0), store.ErrConflict)
		_, err := w.APIKey(w.ctx, "m", "none")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"CreateAPIKey counts the issuer's live keys": func(w *world) {
		w.mesh("m", "ana", "bo")
		k := anAPIKey("m", "1", "ana")
		k.ExpiresAt = after(time.Hour)
		require.NoError(w, w.CreateAPIKey(w.ctx, k, 2))
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "2", "ana"), 2))
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "3", "bo"), 1))
		require.ErrorIs(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "4", "ana"), 2), store.ErrLimit)
		k = anAPIKey("m", "5", "ana")
		k.CreatedAt = after(time.Hour)
		require.NoError(w, w.CreateAPIKey(w.ctx, k, 2), "1 has expired by then")
		require.NoError(w, w.RevokeAPIKey(w.ctx, "m", "2", noon))
		k.ID = "6"
		require.NoError(w, w.CreateAPIKey(w.ctx, k, 2))
	},
	"CreateAPIKey refuses a revoked issuer": func(w *world) {
		w.mesh("m", "ana")
		_, err := w.RevokeMember(w.ctx, "m", "ana", noon)
		require.NoError(w, err)
		require.ErrorIs(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "1", "ana"), 0), store.ErrRevoked)
		_, err = w.APIKey(w.ctx, "m", "1")
		require.ErrorIs(w, err, store.ErrNotFound)
		require.NoError(w, w.RestoreMember(w.ctx, "m", "ana"))
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "1", "ana"), 0))
	},
	"CreateAPIKey by many at once holds the limit": func(w *world) {
		w.mesh("m", "ana")
		var o outcomes
		together(20, func(i int) { o.add(w.CreateAPIKey(w.ctx, anAPIKey("m", fmt.Sprint(i), "ana"), 5)) })
		o.require(w, 5, store.ErrLimit)
	},
	"APIKeysByPrefix finds in all meshes, the revoked last, at most 16": func(w *world) {
		w.mesh("m", "ana")
		w.mesh("n", "ana")
		other := anAPIKey("m", "other", "ana")
		other.Prefix = "cm_12345679"
		require.NoError(w, w.CreateAPIKey(w.ctx, other, 0))
		for i := range 10 {
			for _, mesh := range []string{"m", "n"} {
				k := anAPIKey(mesh, fmt.Sprint(i), "ana")
				k.CreatedAt = after(time.Duration(i) * time.Second)
				require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
			}
			if i >= 2 {
				require.NoError(w, w.RevokeAPIKey(w.ctx, "n", fmt.Sprint(i), noon))
			}
		}
		ks, err := w.APIKeysByPrefix(w.ctx, "cm_12345678")
		require.NoError(w, err)
		require.Len(w, ks, 16)
		for i, k := range ks {
			require.Equal(w, i < 12, k.RevokedAt.IsZero(), "key %d", i)
		}
		for _, none := range []string{"", "cm_1234567", "cm_12345678x", "cm_%"} {
			ks, err = w.APIKeysByPrefix(w.ctx, none)
			require.NoError(w, err)
			require.Empty(w, ks)
		}
	},
	"APIKeysByPrefix lists newest first, over all meshes": func(w *world) {
		w.mesh("m", "ana")
		w.mesh("n", "ana")
		for i, id := range tied {
			k := anAPIKey([]string{"n", "m"}[i%2], id, "ana")
			k.CreatedAt = after(time.Duration(i/4) * time.Second)
			require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
		}
		ks, err := w.APIKeysByPrefix(w.ctx, "cm_12345678")
		require.NoError(w, err)
		require.Equal(w, []string{"e", "f", "d", "b", "a", "c"}, keyIDs(ks))
		require.NoError(w, w.RevokeAPIKey(w.ctx, "n", "f", noon))
		require.NoError(w, w.RevokeAPIKey(w.ctx, "m", "d", noon))
		ks, err = w.APIKeysByPrefix(w.ctx, "cm_12345678")
		require.NoError(w, err)
		require.Equal(w, []string{"e", "b", "a", "c", "f", "d"}, keyIDs(ks), "the revoked last")
	},
	"ListAPIKeys lists a member's or all, newest first": func(w *world) {
		w.mesh("m", "ana", "bo")
		for i, issuer := range []string{"ana", "bo", "ana", "", "bo", "ana"} {
			k := anAPIKey("m", tied[i], issuer)
			k.CreatedAt = after(time.Duration(i/4) * time.Second)
			require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
		}
		for _, id := range []string{"a", "f"} { // what changes stays in its place
			require.NoError(w, w.TouchAPIKey(w.ctx, "m", id, after(time.Hour)))
			require.NoError(w, w.RevokeAPIKey(w.ctx, "m", id, after(time.Hour)))
		}
		for member, want := range map[string][]string{"ana": {"e", "b", "c"}, "bo": {"f", "a"}, "cy": {}, "": {"e", "f", "d", "b", "a", "c"}} {
			ks, err := w.ListAPIKeys(w.ctx, "m", member)
			require.NoError(w, err)
			require.Equal(w, want, keyIDs(ks), member)
		}
	},
	"FindAPIKeys: exact id, else start of ids, else prefix": func(w *world) {
		w.mesh("m", "ana", "bo")
		for _, c := range [][3]string{
			{"abcdef", "ana", "cm_11111111"}, {"abcdefg", "ana", "cm_11111111"}, {"abcdefh", "bo", "cm_22222222"}, {"cm_33333333", "ana", "cm_44444444"},
			{"x", "ana", "cm_33333333"}, {"old1__", "ana", "cm_55555555"}, {"old1__2", "ana", "cm_55555555"},
		} {
			k := anAPIKey("m", c[0], c[1])
			k.Prefix = c[2]
			if strings.HasPrefix(k.ID, "old") {
				k.ExpiresAt = after(time.Hour)
			}
			require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
		}
		find := func(member, ref string, now time.Time) []string {
			ks, err := w.FindAPIKeys(w.ctx, "m", member, ref, now)
			require.NoError(w, err)
			return keyIDs(ks)
		}
		require.Equal(w, []string{"abcdef"}, find("ana", "abcdef", noon), "exact")
		require.Equal(w, []string{"abcdefh"}, find("bo", "abcdef", noon), "the start, of bo's alone")
		require.Empty(w, find("", "abcde", noon), "five characters are too few")
		require.Empty(w, find("", "abc%__", noon))
		require.Empty(w, find("", "", noon))
		require.ElementsMatch(w, []string{"abcdef", "abcdefg"}, find("", "cm_11111111", noon))
		require.Equal(w, []string{"cm_33333333"}, find("", "cm_33333333", noon), "an id before a prefix")
		require.Empty(w, find("", "cm_1111111", noon), "prefixes match whole")
		require.NoError(w, w.RevokeAPIKey(w.ctx, "m", "abcdef", noon))
		require.Equal(w, []string{"abcdefg"}, find("", "cm_11111111", noon), "only live ones")
		require.Equal(w, []string{"abcdef"}, find("", "abcdef", noon), "but for an exact id")
		require.ElementsMatch(w, []string{"old1__", "old1__2"}, find("", "cm_55555555", after(time.Hour)), "unless none is live")
	},
	"FindAPIKeys returns the newest, at most 16": func(w *world) {
		w.mesh("m", "ana")
		want := []string{}
		for i := range 20 {
			k := anAPIKey("m", fmt.Sprintf("abcdef%02d", i*7%20), "ana")
			k.CreatedAt = after(time.Duration(i/10) * time.Second)
			require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
			want = append([]string{k.ID}, want...)
		}
		for _, ref := range []string{"abcdef", "cm_12345678"} {
			ks, err := w.FindAPIKeys(w.ctx, "m", "", ref, noon)
			require.NoError(w, err)
			require.Equal(w, want[:16], keyIDs(ks))
		}
	},
	"RevokeAPIKey keeps the first time": func(w *world) {
		w.mesh("m", "ana")
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k", "ana"), 0))
		require.NoError(w, w.RevokeAPIKey(w.ctx, "m", "k", noon))
		require.NoError(w, w.RevokeAPIKey(w.ctx, "m", "k", after(time.Hour)))
		k, err := w.APIKey(w.ctx, "m", "k")
		require.NoError(w, err)
		require.Equal(w, noon, k.RevokedAt)
		require.ErrorIs(w, w.RevokeAPIKey(w.ctx, "m", "none", noon), store.ErrNotFound)
	},
	"TouchAPIKey only goes forward": func(w *world) {
		w.mesh("m", "ana")
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k", "ana"), 0))
		for _, at := range []time.Time{noon, after(time.Minute), after(time.Second)} {
			require.NoError(w, w.TouchAPIKey(w.ctx, "m", "k", at))
		}
		k, err := w.APIKey(w.ctx, "m", "k")
		require.NoError(w, err)
		require.Equal(w, after(time.Minute), k.LastUsedAt)
		require.NoError(w, w.TouchAPIKey(w.ctx, "m", "none", noon))
	},
	"ActiveIssuers: not revoked, key not revoked, used at or after": func(w *world) {
		w.mesh("m", "z", "a", "early", "never", "gone", "killed")
		for _, who := range []string{"z", "a", "early", "never", "gone", "killed", ""} {
			require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k"+who, who), 0))
			if who != "never" && who != "early" {
				require.NoError(w, w.TouchAPIKey(w.ctx, "m", "k"+who, noon))
			}
		}
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "second", "a"), 0))
		require.NoError(w, w.TouchAPIKey(w.ctx, "m", "second", after(time.Hour)))
		require.NoError(w, w.TouchAPIKey(w.ctx, "m", "kearly", after(-time.Microsecond)))
		require.NoError(w, w.RevokeAPIKey(w.ctx, "m", "kkilled", noon))
		_, err := w.RevokeMember(w.ctx, "m", "gone", noon)
		require.NoError(w, err)
		ids, err := w.ActiveIssuers(w.ctx, "m", noon)
		require.NoError(w, err)
		require.Equal(w, []string{"a", "z"}, ids)
	},
}

// redeem joins as id through invite "i" of mesh "m".
func (w *world) redeem(id string, change func(*store.Redemption)) (store.Member, bool, error) {
	r := store.Redemption{TokenHash: anInvite("m", "i").TokenHash, Member: aMember("m", id), Now: noon}
	if change != nil {
		change(&r)
	}
	return w.RedeemInvite(w.ctx, r)
}

var invites = checks{
	"CreateInvite keeps every field": func(w *world) {
		w.mesh("m", "ana")
		want := anInvite("m", "i")
		want.FirstRole = store.RoleAdmin
		want.UsedCount, want.MaxUses = 2, 5
		want.Capability = `{"canonical":"v=2|m|i|1790000000|member|\u00e9","signature":"00"}` + " \n"
		require.NoError(w, w.CreateInvite(w.ctx, want))
		got, err := w.InviteByToken(w.ctx, want.TokenHash)
		require.NoError(w, err)
		require.Equal(w, want, got)
		got, err = w.InviteByCode(w.ctx, want.Code)
		require.NoError(w, err)
		require.Equal(w, want, got)
		all, err := w.Invites(w.ctx, "m")
		require.NoError(w, err)
		require.Equal(w, []store.Invite{want}, all)
		for _, none := range []string{"", "none", want.Code} {
			_, err = w.InviteByToken(w.ctx, none)
			require.ErrorIs(w, err, store.ErrNotFound)
		}
	},
	"InviteByCode finds by the exact code, in whichever mesh, used up, expired or revoked": func(w *world) {
		w.mesh("m", "ana")
		w.mesh("n", "ana")
		for mesh, code := range map[string]string{"m": "aB34xyzQ", "n": "Ab34xyzQ"} {
			short := anInvite(mesh, "i")
			short.TokenHash, short.Code, short.MaxUses, short.ExpiresAt = "", code, 0, noon
			require.NoError(w, w.CreateInvite(w.ctx, short), "codes differ by case alone")
			require.NoError(w, w.RevokeInvite(w.ctx, mesh, "i", noon))
			got, err := w.InviteByCode(w.ctx, code)
			require.NoError(w, err)
			short.RevokedAt = noon
			require.Equal(w, short, got)
		}
		long := anInvite("m", "version 1")
		long.Version, long.Code = 1, ""
		require.NoError(w, w.CreateInvite(w.ctx, long))
		for _, none := range []string{"", "ab34xyzQ", "aB34xyz", "aB34xyzQ ", "aB34%", long.TokenHash} {
			_, err := w.InviteByCode(w.ctx, none)
			require.ErrorIs(w, err, store.ErrNotFound, "%q", none)
		}
	},
	"CreateInvite refuses used ids, token hashes and codes": func(w *world) {
		w.mesh("m", "ana")
		w.mesh("n", "ana")
		require.NoError(w, w.CreateInvite(w.ctx, anInvite("m", "i")))
		for what, change := range map[string]func(*store.Invite){
			"id":    func(i *store.Invite) { i.ID = "i" },
			"token": func(i *store.Invite) { i.TokenHash = anInvite("m", "i").TokenHash },
			"code":  func(i *store.Invite) { i.Code = anInvite("m", "i").Code },
		} {
			bad := anInvite("m", "j")
			change(&bad)
			require.ErrorIs(w, w.CreateInvite(w.ctx, bad), store.ErrConflict, what)
		}
		for _, id := range []string{"1", "2"} {
			plain := anInvite("m", id)
			plain.Code = ""
			require.NoError(w, w.CreateInvite(w.ctx, plain), "no code is not a code in use")
			coded := anInvite("n", id)
			coded.TokenHash = ""
			require.NoError(w, w.CreateInvite(w.ctx, coded))
		}
	},
	"Invites lists newest first": func(w *world) {
		w.mesh("m", "ana")
		for i, id := range tied {
			in := anInvite("m", id)
			in.CreatedAt = after(time.Duration(i/4) * time.Second)
			require.NoError(w, w.CreateInvite(w.ctx, in))
		}
		require.NoError(w, w.RevokeInvite(w.ctx, "m", "a", noon), "what changes stays in its place")
		is, err := w.Invites(w.ctx, "m")
		require.NoError(w, err)
		ids := []string{}
		for _, i := range is {
			ids = append(ids, i.ID)
		}
		require.Equal(w, []string{"e", "f", "d", "b", "a", "c"}, ids)
	},
	"RevokeInvite keeps the first time": func(w *world) {
		w.mesh("m", "ana")
		require.NoError(w, w.CreateInvite(w.ctx, anInvite("m", "i")))
		require.NoError(w, w.RevokeInvite(w.ctx, "m", "i", noon))
		require.NoError(w, w.RevokeInvite(w.ctx, "m", "i", after(time.Hour)))
		i, err := w.InviteByToken(w.ctx, anInvite("m", "i").TokenHash)
		require.NoError(w, err)
		require.Equal(w, noon, i.RevokedAt)
		require.ErrorIs(w, w.RevokeInvite(w.ctx, "m", "none", noon), store.ErrNotFound)
	},
	"RedeemInvite enrols with the invite's role and subscribes to general": func(w *world) {
		w.mesh("m", "ana")
		in := anInvite("m", "i")
		in.Role = store.RoleAdmin
		require.NoError(w, w.CreateInvite(w.ctx, in))
		got, already, err := w.redeem("bo", nil)
		require.NoError(w, err)
		require.False(w, already)
		want := aMember("m", "bo")
		want.Role = store.RoleAdmin
		require.Equal(w, want, got)
		kept, err := w.Member(w.ctx, "m", "bo")
		require.NoError(w, err)
		require.Equal(w, want, kept)
		_, err = w.Subscription(w.ctx, "m", "general-id", "bo")
		require.NoError(w, err)
		i, err := w.InviteByToken(w.ctx, in.TokenHash)
		require.NoError(w, err)
		require.Equal(w, 1, i.UsedCount)
	},
	"RedeemInvite gives the first role to exactly one": func(w *world) {
		w.mesh("m")
		in := anInvite("m", "i")
		in.FirstRole, in.MaxUses = store.RoleAdmin, 40
		require.NoError(w, w.CreateInvite(w.ctx, in))
		var o outcomes
		together(20, func(i int) {
			_, _, err := w.redeem(fmt.Sprint("x", i), nil)
			o.add(err)
		})
		o.require(w, 20, nil)
		ms, err := w.Members(w.ctx, "m")
		require.NoError(w, err)
		roles := map[string]int{}
		for _, m := range ms {
			roles[m.Role]++
		}
		require.Equal(w, map[string]int{store.RoleAdmin: 1, in.Role: 19}, roles)
	},
	"RedeemInvite refuses in its order, using nothing": func(w *world) {
		w.mesh("m", "ana", "gone")
		w.mesh("n")
		w.open(aPresence("m", "p", "ana", key("s")))
		require.NoError(w, w.RekeyMember(w.ctx, "m", "ana", key("ana2"), noon))
		_, err := w.RevokeMember(w.ctx, "m", "gone", noon)
		require.NoError(w, err)
		in := anInvite("m", "i")
		in.MaxUses = 0 // used up from the start, so that what comes before shows
		require.NoError(w, w.CreateInvite(w.ctx, in))
		as := func(pubkey string) error {
			return third(w.redeem("bo", func(r *store.Redemption) { r.Member.Pubkey, r.MaxMembers = key(pubkey), 1 }))
		}
		require.ErrorIs(w, third(w.redeem("bo", func(r *store.Redemption) { r.TokenHash = "none" })), store.ErrNotFound)
		require.ErrorIs(w, third(w.redeem("bo", func(r *store.Redemption) { r.Member.MeshID = "n" })), store.ErrNotFound)
		got, already, err := w.redeem("bo", func(r *store.Redemption) { r.Member.Pubkey = key("ana2") })
		require.NoError(w, err)
		require.True(w, already)
		require.Equal(w, "ana", got.ID)
		require.ErrorIs(w, as("gone"), store.ErrConflict, "of a revoked member")
		require.ErrorIs(w, as("ana"), store.ErrConflict, "a former key")
		require.ErrorIs(w, as("s"), store.ErrKeyInUse)
		require.ErrorIs(w, as("bo"), store.ErrExhausted, "before the limit")
		require.ErrorIs(w, third(w.redeem("bo", func(r *store.Redemption) { r.Now, r.Member.Pubkey = after(time.Hour), key("ana2") })), store.ErrExpired, "at that time")
		require.NoError(w, w.RevokeInvite(w.ctx, "m", "i", noon))
		require.ErrorIs(w, third(w.redeem("bo", func(r *store.Redemption) { r.Now = after(time.Hour) })), store.ErrRevoked, "before expired")
		i, err := w.InviteByToken(w.ctx, in.TokenHash)
		require.NoError(w, err)
		require.Zero(w, i.UsedCount)
		_, err = w.Member(w.ctx, "m", "bo")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"RedeemInvite takes a code as it takes a token": func(w *world) {
		w.mesh("m", "ana")
		w.mesh("n", "ana")
		short, both := anInvite("m", "i"), anInvite("m", "j")
		short.TokenHash, short.FirstRole, short.MaxUses = "", store.RoleAdmin, 2
		require.NoError(w, w.CreateInvite(w.ctx, short))
		require.NoError(w, w.CreateInvite(w.ctx, both))
		by := func(token, code string) func(*store.Redemption) {
			return func(r *store.Redemption) { r.TokenHash, r.Code = token, code }
		}
		for what, change := range map[string]func(*store.Redemption){
			"no code":                func(r *store.Redemption) { r.TokenHash, r.Code = "", "" },
			"an unknown code":        by("", "none"),
			"a code as a token":      by(short.Code, ""),
			"a token as a code":      by("", both.TokenHash),
			"the token counts first": by("none", short.Code),
			"code of another mesh":   func(r *store.Redemption) { r.TokenHash, r.Code, r.Member.MeshID = "", short.Code, "n" },
		} {
			require.ErrorIs(w, third(w.redeem("bo", change)), store.ErrNotFound, what)
		}
		for _, c := range []struct {
			id, code, role string
			already        bool
		}{
			{"bo", short.Code, store.RoleAdmin, false}, {"bo", short.Code, store.RoleAdmin, true},
			{"cy", short.Code, store.RoleMember, false}, {"dee", both.Code, store.RoleMember, false},
		} {
			got, already, err := w.redeem(c.id, by("", c.code))
			require.NoError(w, err)
			require.Equal(w, c.already, already)
			require.Equal(w, c.role, got.Role)
		}
		require.ErrorIs(w, third(w.redeem("eve", by("", short.Code))), store.ErrExhausted)
		require.ErrorIs(w, third(w.redeem("eve", by(both.TokenHash, ""))), store.ErrExhausted, "used by its code")
		got, err := w.InviteByCode(w.ctx, short.Code)
		require.NoError(w, err)
		require.Equal(w, 2, got.UsedCount)
		_, err = w.Member(w.ctx, "n", "bo")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"RedeemInvite by a code many times at once is used MaxUses times": func(w *world) {
		w.mesh("m")
		in := anInvite("m", "i")
		in.TokenHash, in.MaxUses = "", 3
		require.NoError(w, w.CreateInvite(w.ctx, in))
		var o outcomes
		together(20, func(i int) {
			_, _, err := w.redeem(fmt.Sprint("x", i), func(r *store.Redemption) { r.TokenHash, r.Code = "", in.Code })
			o.add(err)
		})
		o.require(w, 3, store.ErrExhausted)
		got, err := w.InviteByCode(w.ctx, in.Code)
		require.NoError(w, err)
		require.Equal(w, 3, got.UsedCount)
	},
	"RedeemInvite at the limit uses nothing": func(w *world) {
		w.mesh("m", "ana")
		require.NoError(w, w.CreateInvite(w.ctx, anInvite("m", "i")))
		require.ErrorIs(w, third(w.redeem("bo", func(r *store.Redemption) { r.MaxMembers = 1 })), store.ErrLimit)
		require.NoError(w, third(w.redeem("bo", func(r *store.Redemption) { r.MaxMembers = 2 })))
	},
	"RedeemInvite gives the first free name, by how names look": func(w *world) {
		w.mesh("m", "gone")
		_, err := w.RevokeMember(w.ctx, "m", "gone", noon)
		require.NoError(w, err)
		in := anInvite("m", "i")
		in.MaxUses = 100
		require.NoError(w, w.CreateInvite(w.ctx, in))
		long := strings.Repeat("ü", 128)
		for i, c := range [][2]string{
			{"Ana", "Ana"}, {"ana", "ana-2"}, {"ＡＮＡ", "ＡＮＡ-3"}, {"a\u200bna", "a\u200bna-4"}, {"ana-2", "ana-2-2"}, {"gone", "gone"},
			{long, long}, {long, long[:126*2] + "-2"}, {"e\u0301", "e\u0301"}, {"é", "é-2"},
		} {
			got, _, err := w.redeem(fmt.Sprint("x", i), func(r *store.Redemption) { r.Member.Name = c[0] })
			require.NoError(w, err)
			require.Equal(w, c[1], got.Name)
		}
	},
	"RedeemInvite by many at once is used MaxUses times": func(w *world) {
		w.mesh("m")
		in := anInvite("m", "i")
		in.MaxUses = 7
		require.NoError(w, w.CreateInvite(w.ctx, in))
		var o outcomes
		together(40, func(i int) {
			_, _, err := w.redeem(fmt.Sprint("x", i), func(r *store.Redemption) { r.Member.Name = "same" })
			o.add(err)
		})
		o.require(w, 7, store.ErrExhausted)
		ms, err := w.Members(w.ctx, "m")
		require.NoError(w, err)
		names := map[string]bool{}
		for _, m := range ms {
			names[m.Name] = true
		}
		require.Len(w, names, 7, "each with a name of its own")
		got, err := w.InviteByToken(w.ctx, in.TokenHash)
		require.NoError(w, err)
		require.Equal(w, 7, got.UsedCount)
	},
	"RedeemInvite with one key many times at once enrols once": func(w *world) {
		w.mesh("m")
		in := anInvite("m", "i")
		in.MaxUses = 10
		require.NoError(w, w.CreateInvite(w.ctx, in))
		var mu sync.Mutex
		fresh := 0
		together(10, func(i int) {
			_, already, err := w.redeem(fmt.Sprint("x", i), func(r *store.Redemption) { r.Member.Pubkey = key("same") })
			mu.Lock()
			defer mu.Unlock()
			if err == nil && !already {
				fresh++
			}
		})
		require.Equal(w, 1, fresh)
		got, err := w.InviteByToken(w.ctx, in.TokenHash)
		require.NoError(w, err)
		require.Equal(w, 1, got.UsedCount)
	},
}
