package storetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

var members = checks{
	"AddMember stores what it is given": func(w *world) {
		w.mesh("m")
		want := aMember("m", "ana")
		want.LastSeenAt, want.RequireHello2, want.Role = after(time.Microsecond), true, store.RoleAdmin
		require.NoError(w, w.AddMember(w.ctx, want, 0))
		got, err := w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Equal(w, want, got)
		got, err = w.MemberByKey(w.ctx, "m", key("ana"))
		require.NoError(w, err)
		require.Equal(w, want, got)
	},
	"AddMember subscribes to general, where there is one": func(w *world) {
		w.mesh("m", "ana")
		sub, err := w.Subscription(w.ctx, "m", "general-id", "ana")
		require.NoError(w, err)
		require.Equal(w, store.Subscription{TopicID: "general-id", MemberID: "ana", Role: wire.TopicMember, JoinedAt: noon}, sub)
		_, err = w.ArchiveTopic(w.ctx, "m", "general-id", noon)
		require.NoError(w, err)
		w.join("m", "bo")
		_, err = w.Subscription(w.ctx, "m", "general-id", "bo")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"AddMember refuses keys and ids in use, also of the revoked": func(w *world) {
		w.mesh("m", "ana", "bo")
		again := aMember("m", "ana2")
		again.Pubkey = key("ana")
		require.ErrorIs(w, w.AddMember(w.ctx, again, 0), store.ErrConflict)
		again = aMember("m", "ana")
		again.Pubkey = key("new")
		require.ErrorIs(w, w.AddMember(w.ctx, again, 0), store.ErrConflict)
		_, err := w.RevokeMember(w.ctx, "m", "bo", noon)
		require.NoError(w, err)
		again = aMember("m", "bo2")
		again.Pubkey = key("bo")
		require.ErrorIs(w, w.AddMember(w.ctx, again, 0), store.ErrConflict)
		require.NoError(w, w.RekeyMember(w.ctx, "m", "ana", key("ana's next"), noon))
		again.Pubkey = key("ana")
		require.ErrorIs(w, w.AddMember(w.ctx, again, 0), store.ErrConflict, "a former key")
	},
	"AddMember refuses a key seen as a session key": func(w *world) {
		w.mesh("m", "ana")
		p := w.open(aPresence("m", "p", "ana", key("s")))
		_, err := w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon)
		require.NoError(w, err)
		bo := aMember("m", "bo")
		bo.Pubkey = key("s")
		require.ErrorIs(w, w.AddMember(w.ctx, bo, 0), store.ErrKeyInUse)
	},
	"AddMember stops exactly at the limit and counts only who is not revoked": func(w *world) {
		w.mesh("m")
		require.NoError(w, w.AddMember(w.ctx, aMember("m", "a"), 2))
		require.NoError(w, w.AddMember(w.ctx, aMember("m", "b"), 2))
		require.ErrorIs(w, w.AddMember(w.ctx, aMember("m", "c"), 2), store.ErrLimit)
		_, err := w.RevokeMember(w.ctx, "m", "a", noon)
		require.NoError(w, err)
		require.NoError(w, w.AddMember(w.ctx, aMember("m", "c"), 2))
		require.NoError(w, w.AddMember(w.ctx, aMember("m", "d"), 0), "0 is no limit")
	},
	"AddMember from many at once: one has the key, and the limit holds": func(w *world) {
		w.mesh("m")
		var o outcomes
		together(20, func(i int) {
			m := aMember("m", fmt.Sprint("x", i))
			m.Pubkey = key("same")
			o.add(w.AddMember(w.ctx, m, 0))
		})
		o.require(w, 1, store.ErrConflict)
		var limited outcomes
		together(20, func(i int) { limited.add(w.AddMember(w.ctx, aMember("m", fmt.Sprint("y", i)), 6)) })
		limited.require(w, 5, store.ErrLimit)
	},
	"Member and MemberByKey find the revoked, and not what is not there": func(w *world) {
		w.mesh("m", "ana")
		_, err := w.RevokeMember(w.ctx, "m", "ana", noon)
		require.NoError(w, err)
		got, err := w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Equal(w, noon, got.RevokedAt)
		_, err = w.MemberByKey(w.ctx, "m", key("ana"))
		require.NoError(w, err)
		_, err = w.Member(w.ctx, "m", "bo")
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.MemberByKey(w.ctx, "m", key("bo"))
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"Members leaves the revoked out, by JoinedAt, then in the order in which they were stored": func(w *world) {
		w.mesh("m", "b", "a", "gone", "d", "back", "c")
		early := aMember("m", "z")
		early.JoinedAt = after(-time.Microsecond)
		require.NoError(w, w.AddMember(w.ctx, early, 0))
		_, err := w.RevokeMember(w.ctx, "m", "gone", noon)
		require.NoError(w, err)
		ms, err := w.Members(w.ctx, "m")
		require.NoError(w, err)
		want := []store.Member{early}
		for _, id := range []string{"b", "a", "d", "back", "c"} {
			want = append(want, aMember("m", id))
		}
		require.Equal(w, want, ms)

		_, err = w.RevokeMember(w.ctx, "m", "back", noon)
		require.NoError(w, err)
		require.NoError(w, w.RestoreMember(w.ctx, "m", "back"))
		require.NoError(w, w.TouchMember(w.ctx, "m", "b", noon))
		require.NoError(w, w.SetRole(w.ctx, "m", "a", want[2].Role))
		want[1].LastSeenAt = noon
		ms, err = w.Members(w.ctx, "m")
		require.NoError(w, err)
		require.Equal(w, want, ms, "who changes or comes back keeps its place")
	},
	"RevokedMembers lists the latest first, of one time the one stored later": func(w *world) {
		w.mesh("m")
		w.mesh("n", "ana")
		revoked := func(mesh string) []string {
			ms, err := w.RevokedMembers(w.ctx, mesh)
			require.NoError(w, err)
			ids := []string{}
			for _, m := range ms {
				want := aMember(mesh, m.ID)
				want.JoinedAt, want.RevokedAt = m.JoinedAt, m.RevokedAt
				require.Equal(w, want, m)
				require.NotZero(w, m.RevokedAt)
				ids = append(ids, m.ID)
			}
			return ids
		}
		for i, id := range []string{"c", "a", "here", "b", "d"} { // stored in this order, which is not that of joining
			m := aMember("m", id)
			m.JoinedAt = after(time.Duration(i*3%5) * time.Second)
			require.NoError(w, w.AddMember(w.ctx, m, 0))
		}
		require.Empty(w, revoked("m"))
		require.Empty(w, revoked("none"))
		for id, at := range map[string]time.Time{"d": noon, "a": noon, "b": noon, "c": after(time.Microsecond)} {
			_, err := w.RevokeMember(w.ctx, "m", id, at)
			require.NoError(w, err)
		}
		require.Equal(w, []string{"c", "d", "b", "a"}, revoked("m"))
		_, err := w.RevokeMember(w.ctx, "m", "a", after(time.Hour))
		require.NoError(w, err)
		require.NoError(w, w.RestoreMember(w.ctx, "m", "b"))
		require.Equal(w, []string{"c", "d", "a"}, revoked("m"), "a second ban changes nothing, who is back is not among them")
		require.Empty(w, revoked("n"))
		got, err := w.RevokedMembers(w.ctx, "m")
		require.NoError(w, err)
		got[0].DefaultGroups[0].Name, got[0].Grants["x"] = "changed", nil
		require.Equal(w, []string{"c", "d", "a"}, revoked("m"), "results are copies")
	},
	"SetGrants merges: nil takes away, a list replaces": func(w *world) {
		w.mesh("m", "ana")
		require.NoError(w, w.SetGrants(w.ctx, "m", "ana", map[string]*[]string{
			key("friend"): nil, key("foe"): {"dm"}, key("new"): {"read", "dm"}, key("none"): nil,
		}, 0))
		m, err := w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Equal(w, map[string][]string{key("foe"): {"dm"}, key("new"): {"read", "dm"}}, m.Grants)
		require.NoError(w, w.SetGrants(w.ctx, "m", "ana", map[string]*[]string{key("new"): {}}, 0))
		m, err = w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Contains(w, m.Grants, key("new"), "an empty list is an entry")
		require.Empty(w, m.Grants[key("new")])
	},
	"SetGrants counts what is there afterwards, and over the limit changes nothing": func(w *world) {
		w.mesh("m", "ana") // has two
		swap := map[string]*[]string{key("foe"): nil, key("x"): {"dm"}}
		require.NoError(w, w.SetGrants(w.ctx, "m", "ana", swap, 2))
		require.ErrorIs(w, w.SetGrants(w.ctx, "m", "ana", map[string]*[]string{key("friend"): {"other"}, key("y"): {"dm"}}, 2), store.ErrLimit)
		m, err := w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Equal(w, map[string][]string{key("friend"): {"dm", "read"}, key("x"): {"dm"}}, m.Grants)
		require.ErrorIs(w, w.SetGrants(w.ctx, "m", "bo", swap, 2), store.ErrNotFound)
	},
	"SetRole and SetRequireHello2 change that alone": func(w *world) {
		w.mesh("m", "ana")
		require.NoError(w, w.SetRole(w.ctx, "m", "ana", store.RoleAdmin))
		require.NoError(w, w.SetRequireHello2(w.ctx, "m", "ana", true))
		want := aMember("m", "ana")
		want.Role, want.RequireHello2 = store.RoleAdmin, true
		got, err := w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Equal(w, want, got)
		require.ErrorIs(w, w.SetRole(w.ctx, "m", "bo", store.RoleAdmin), store.ErrNotFound)
		require.ErrorIs(w, w.SetRequireHello2(w.ctx, "m", "bo", true), store.ErrNotFound)
	},
	"RevokeMember ends presences, mail, API keys and sealed keys, and keeps subscriptions": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "bo")
		require.NoError(w, w.ClaimTopicKey(w.ctx, "m", "t", "bo", key("x"), store.SealedKey{EncryptedKey: "e", SealedByMemberID: "bo", CreatedAt: noon}, false))
		p := w.open(aPresence("m", "p", "bo", key("s")))
		w.send("m", draft("1", "ana", "bo", "ana"), draft("2", "ana", "bo/"+key("s")), draft("3", "ana", "bo"))
		w.ack("m", "bo", "3")
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k", "bo"), 0))
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k2", "ana"), 0))

		expired, err := w.RevokeMember(w.ctx, "m", "bo", after(time.Second))
		require.NoError(w, err)
		require.Equal(w, []string{"1", "2"}, messageIDs(expired))
		for _, d := range expired {
			require.Equal(w, "bo", d.MemberID)
			require.Equal(w, store.Expired, d.State)
			require.Equal(w, wire.ReasonRevoked, d.ExpiredReason)
			require.Equal(w, after(time.Second), d.DoneAt)
		}
		require.Equal(w, map[string]store.DeliveryState{"ana": store.Pending, "bo": store.Expired}, w.states("m", "1"))
		require.Equal(w, map[string]store.DeliveryState{"bo": store.Done}, w.states("m", "3"), "final stays final")
		closed, err := w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon)
		require.NoError(w, err)
		require.False(w, closed)
		k, err := w.APIKey(w.ctx, "m", "k")
		require.NoError(w, err)
		require.Equal(w, after(time.Second), k.RevokedAt)
		k, err = w.APIKey(w.ctx, "m", "k2")
		require.NoError(w, err)
		require.Zero(w, k.RevokedAt)
		n, err := w.TopicKeyCount(w.ctx, "m", "t")
		require.NoError(w, err)
		require.Zero(w, n)
		_, err = w.Subscription(w.ctx, "m", "t", "bo")
		require.NoError(w, err)
		_, _, err = w.SessionKeyOwner(w.ctx, "m", key("s"), noon)
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"RevokeMember keeps the first time": func(w *world) {
		w.mesh("m", "ana")
		_, err := w.RevokeMember(w.ctx, "m", "ana", noon)
		require.NoError(w, err)
		again, err := w.RevokeMember(w.ctx, "m", "ana", after(time.Hour))
		require.NoError(w, err)
		require.Empty(w, again)
		m, err := w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Equal(w, noon, m.RevokedAt)
		_, err = w.RevokeMember(w.ctx, "m", "bo", noon)
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"RestoreMember clears the ban; what it ended stays ended": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("1", "ana", "bo"))
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k", "bo"), 0))
		_, err := w.RevokeMember(w.ctx, "m", "bo", noon)
		require.NoError(w, err)
		require.NoError(w, w.RestoreMember(w.ctx, "m", "bo"))
		require.NoError(w, w.RestoreMember(w.ctx, "m", "bo"))
		m, err := w.Member(w.ctx, "m", "bo")
		require.NoError(w, err)
		require.Zero(w, m.RevokedAt)
		require.Empty(w, w.mail("m", "bo"))
		k, err := w.APIKey(w.ctx, "m", "k")
		require.NoError(w, err)
		require.Equal(w, noon, k.RevokedAt)
		require.ErrorIs(w, w.RestoreMember(w.ctx, "m", "cy"), store.ErrNotFound)
		w.send("m", draft("2", "ana", "bo"))
		require.Equal(w, []string{"2"}, w.mail("m", "bo"))
	},
	"RekeyMember moves the grants of others, and ends sealed keys and presences": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		require.NoError(w, w.ClaimTopicKey(w.ctx, "m", "t", "ana", key("x"), store.SealedKey{SealedByMemberID: "ana", CreatedAt: noon}, false))
		require.NoError(w, w.SetGrants(w.ctx, "m", "bo", map[string]*[]string{key("ana"): {"dm"}}, 0))
		p := w.open(aPresence("m", "p", "ana", key("s")))
		w.send("m", draft("1", "bo", "ana"))

		require.NoError(w, w.RekeyMember(w.ctx, "m", "ana", key("next"), after(time.Second)))
		m, err := w.MemberByKey(w.ctx, "m", key("next"))
		require.NoError(w, err)
		require.Equal(w, "ana", m.ID)
		require.Equal(w, aMember("m", "ana").Grants, m.Grants)
		_, err = w.MemberByKey(w.ctx, "m", key("ana"))
		require.ErrorIs(w, err, store.ErrNotFound)
		bo, err := w.Member(w.ctx, "m", "bo")
		require.NoError(w, err)
		want := aMember("m", "bo").Grants
		want[key("next")] = []string{"dm"}
		require.Equal(w, want, bo.Grants)
		_, err = w.TopicKey(w.ctx, "m", "t", "ana")
		require.ErrorIs(w, err, store.ErrNotFound)
		closed, err := w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon)
		require.NoError(w, err)
		require.False(w, closed)
		_, seen, err := w.SessionKeyOwner(w.ctx, "m", key("s"), noon)
		require.NoError(w, err)
		require.Equal(w, after(time.Second), seen)
		require.Equal(w, []string{"1"}, w.mail("m", "ana"), "mail stays")
	},
	"RekeyMember revokes the member's API keys that may not rekey": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.mesh("n", "ana")
		earlier := anAPIKey("m", "earlier", "ana")
		earlier.RevokedAt = after(-time.Hour)
		rekeys := anAPIKey("m", "rekeys", "ana")
		rekeys.Rekey = true
		for _, k := range []store.APIKey{
			anAPIKey("m", "1", "ana"), anAPIKey("m", "2", "ana"), earlier, rekeys, anAPIKey("m", "of bo", "bo"), anAPIKey("m", "of the host", ""), anAPIKey("n", "1", "ana"),
		} {
			require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
		}
		revoked := func(mesh string) map[string]time.Time {
			ks, err := w.ListAPIKeys(w.ctx, mesh, "")
			require.NoError(w, err)
			out := map[string]time.Time{}
			for _, k := range ks {
				out[k.ID] = k.RevokedAt
			}
			return out
		}
		before := revoked("m")
		require.NoError(w, w.RekeyMember(w.ctx, "m", "ana", key("ana"), noon))
		require.ErrorIs(w, w.RekeyMember(w.ctx, "m", "ana", key("bo"), noon), store.ErrKeyInUse)
		require.Equal(w, before, revoked("m"), "the key it has, or may not have, changes nothing")
		require.NoError(w, w.RekeyMember(w.ctx, "m", "ana", key("next"), after(time.Second)))
		require.Equal(w, map[string]time.Time{
			"1": after(time.Second), "2": after(time.Second), "earlier": after(-time.Hour), "rekeys": {}, "of bo": {}, "of the host": {},
		}, revoked("m"))
		require.Equal(w, map[string]time.Time{"1": {}}, revoked("n"))
	},
	"RekeyMember never accepts a key that anybody else has or had": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.open(aPresence("m", "p", "bo", key("s")))
		require.NoError(w, w.RekeyMember(w.ctx, "m", "ana", key("2"), noon))
		require.NoError(w, w.RekeyMember(w.ctx, "m", "bo", key("3"), noon))
		for name, k := range map[string]string{
			"another's": key("3"), "another's former": key("bo"), "its own former": key("ana"), "a session's of another": key("s"),
		} {
			require.ErrorIs(w, w.RekeyMember(w.ctx, "m", "ana", k, noon), store.ErrKeyInUse, name)
		}
		require.NoError(w, w.RekeyMember(w.ctx, "m", "ana", key("2"), noon), "the key it has changes nothing")
		require.ErrorIs(w, w.RekeyMember(w.ctx, "m", "cy", key("4"), noon), store.ErrNotFound)
		_, err := w.RevokeMember(w.ctx, "m", "bo", noon)
		require.NoError(w, err)
		require.ErrorIs(w, w.RekeyMember(w.ctx, "m", "bo", key("4"), noon), store.ErrNotFound)
	},
	"RekeyMember by two at once to one key: one gets it": func(w *world) {
		w.mesh("m", "ana", "bo")
		var o outcomes
		together(2, func(i int) { o.add(w.RekeyMember(w.ctx, "m", []string{"ana", "bo"}[i], key("same"), noon)) })
		o.require(w, 1, store.ErrKeyInUse)
	},
	"TouchMember only goes forward": func(w *world) {
		w.mesh("m", "ana")
		for _, at := range []time.Time{noon, after(time.Minute), after(time.Second)} {
			require.NoError(w, w.TouchMember(w.ctx, "m", "ana", at))
		}
		m, err := w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Equal(w, after(time.Minute), m.LastSeenAt)
		require.NoError(w, w.TouchMember(w.ctx, "m", "bo", noon))
		require.NoError(w, w.TouchMember(w.ctx, "n", "ana", noon))
	},
	"SavePeerState merges; a new row is visible and empty": func(w *world) {
		w.mesh("m", "ana")
		_, err := w.PeerState(w.ctx, "m", "ana")
		require.ErrorIs(w, err, store.ErrNotFound)
		require.NoError(w, w.SavePeerState(w.ctx, "m", "ana", store.PeerStateUpdate{LastName: ptr("Ana")}, noon))
		got, err := w.PeerState(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.True(w, got.Visible)
		require.Empty(w, got.Groups)
		require.Equal(w, "Ana", got.LastName)
		require.Equal(w, noon, got.UpdatedAt)

		full := store.PeerState{
			Groups:  []wire.Group{{Name: "a", Role: "r"}, {Name: "b"}},
			Profile: wire.Profile{Avatar: ptr("🦊"), Bio: ptr(""), Capabilities: &[]string{"x", "y"}},
			Visible: false, LastSummary: "did things", LastName: "Ana 2",
			Stats: wire.Stats{MessagesIn: ptr(3.0), ToolCalls: ptr(0.1)}, LastSeenAt: after(time.Second), UpdatedAt: after(time.Minute),
		}
		require.NoError(w, w.SavePeerState(w.ctx, "m", "ana", store.PeerStateUpdate{
			Groups: &full.Groups, Profile: &full.Profile, Visible: &full.Visible, LastSummary: &full.LastSummary, LastName: &full.LastName,
			Stats: &full.Stats, LastSeenAt: &full.LastSeenAt,
		}, full.UpdatedAt))
		got, err = w.PeerState(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Equal(w, full, got)

		require.NoError(w, w.SavePeerState(w.ctx, "m", "ana", store.PeerStateUpdate{Visible: ptr(true)}, after(time.Hour)))
		full.Visible, full.UpdatedAt = true, after(time.Hour)
		got, err = w.PeerState(w.ctx, "m", "ana")
		require.NoError(w, err)
		require.Equal(w, full, got)
		require.ErrorIs(w, w.SavePeerState(w.ctx, "m", "bo", store.PeerStateUpdate{}, noon), store.ErrNotFound)
		_, err = w.PeerState(w.ctx, "m", "bo")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
}
