package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// event is an audit event by ana, with its type in its payload too.
func event(typ string) store.AuditEvent { return eventBy("ana", typ) }

func eventBy(actor, typ string) store.AuditEvent {
	payload := append(identity.AppendCanonicalText([]byte(`{"of":`), typ), '}')
	return store.AuditEvent{Type: typ, ActorMemberID: actor, ActorName: "name of " + actor, Payload: payload, At: noon}
}

// events are n of them, with consecutive numbers behind their type.
func events(typ string, n int) []store.AuditEvent {
	out := make([]store.AuditEvent, n)
	for i := range out {
		out[i] = event(fmt.Sprint(typ, i))
	}
	return out
}

func (w *world) record(mesh string, events ...store.AuditEvent) {
	w.Helper()
	require.NoError(w, w.AppendAudit(w.ctx, mesh, events...))
}

// logPage is the length of the pages that logged asks for.
const logPage = 300

// logged reads a mesh's log, oldest first, and holds it to its chain, its checkpoints and its head.
func (w *world) logged(mesh string) []store.AuditEntry {
	w.Helper()
	head, err := w.AuditHead(w.ctx, mesh)
	require.NoError(w, err)
	out := []store.AuditEntry{}
	verifier := identity.NewChainVerifier(mesh, head.AnchorHash)
	for last, more := int64(0), true; more; {
		page, err := w.AuditPage(w.ctx, mesh, last, logPage)
		require.NoError(w, err)
		require.LessOrEqual(w, len(page), logPage)
		more = len(page) == logPage
		for _, e := range page {
			w.requireFollows(mesh, head.AnchorCount, last, verifier, e)
			last = e.ID
			out = append(out, e)
		}
	}

	want := store.AuditHead{
		Count: head.AnchorCount + int64(len(out)), Hash: verifier.Last(), AnchorCount: head.AnchorCount, AnchorHash: head.AnchorHash,
		CheckpointCount: head.CheckpointCount, CheckpointAt: head.CheckpointAt, FirstAt: head.FirstAt,
	}
	if head.AnchorCount == 0 {
		want.AnchorHash, want.CheckpointCount, want.CheckpointAt, want.FirstAt = identity.ChainGenesis, 0, time.Time{}, time.Time{}
		if len(out) > 0 {
			want.FirstAt = out[0].At
		}
	}
	since := 0
	for i, e := range out {
		if since++; e.Type == identity.CheckpointEvent {
			want.CheckpointCount, want.CheckpointAt, since = head.AnchorCount+int64(i)+1, e.At, 0
		}
		require.Less(w, since, store.AuditCheckpointEvery, "entries without a checkpoint behind them")
	}
	require.Equal(w, want, head)
	return out
}

// requireFollows holds an entry to those before it, and a checkpoint to what it says.
func (w *world) requireFollows(mesh string, anchor, lastID int64, v *identity.ChainVerifier, e store.AuditEntry) {
	w.Helper()
	require.Equal(w, mesh, e.MeshID)
	require.Greater(w, e.ID, lastID, "ids rise")
	before, count := v.Last(), anchor+v.Count()
	require.NoError(w, v.Next(e.Chain()), "%+v", e)
	require.Equal(w, e.At.UTC().Truncate(time.Millisecond), e.At)
	if e.Type != identity.CheckpointEvent {
		return
	}
	key, err := w.AuditKey(w.ctx)
	require.NoError(w, err)
	var c identity.Checkpoint
	require.NoError(w, json.Unmarshal(e.Payload, &c))
	require.NoError(w, c.Verify(mesh, before, identity.ChainTime(e.At), key))
	require.Equal(w, count, c.Count, "entries before it")
	require.Equal(w, string(c.Payload()), string(e.Payload))
	require.Empty(w, e.ActorMemberID)
}

func eventTypes(entries []store.AuditEntry) []string {
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Type)
	}
	return out
}

// loggedTypes are the types of a mesh's log without checkpoints, oldest first.
func (w *world) loggedTypes(mesh string) []string {
	w.Helper()
	return slices.DeleteFunc(eventTypes(w.logged(mesh)), func(typ string) bool { return typ == identity.CheckpointEvent })
}

// auditLog asks for entries of mesh "m" and returns their types, newest first.
func (w *world) auditLog(q store.AuditQuery) ([]string, int) {
	w.Helper()
	q.MeshID = "m"
	entries, total, err := w.AuditLog(w.ctx, q)
	require.NoError(w, err)
	return eventTypes(entries), total
}

// step is a call that takes audit events, with what it must do to the log of mesh "m".
type step struct {
	what string
	want []string // types of the entries that it appends; the given events have "1" and "2"
	err  error
	do   func(ctx context.Context, audit ...store.AuditEvent) error
}

// given are the types of the events that each step is given; to some, what else is appended comes before or behind them.
var given = []string{"1", "2"}

// leaves are n events peer_left.
func leaves(n int) []string { return slices.Repeat([]string{wire.AuditPeerLeft}, n) }

// audited holds, for each operation that takes audit events, what it changes, what it leaves as it is and where it fails. Each runs on a store of
// its own with the meshes m and n, which both have the members ana and bo.
var audited = map[string]func(w *world) []step{
	"AppendAudit": func(w *world) []step {
		do := func(mesh string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error { return w.AppendAudit(ctx, mesh, audit...) }
		}
		return []step{{"an unknown mesh", nil, store.ErrNotFound, do("none")}, {"a mesh", given, nil, do("m")}, {"again", given, nil, do("m")}}
	},
	"AddMember": func(w *world) []step {
		w.open(aPresence("m", "p", "bo", key("s")))
		add := func(id, pubkey, mesh string, most int) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				m := aMember(mesh, id)
				m.Pubkey = key(pubkey)
				return w.AddMember(ctx, m, most, audit...)
			}
		}
		return []step{
			{"an unknown mesh", nil, store.ErrNotFound, add("cy", "cy", "none", 0)},
			{"an id in use", nil, store.ErrConflict, add("ana", "cy", "m", 0)},
			{"a key in use", nil, store.ErrConflict, add("cy", "ana", "m", 0)},
			{"a session's key", nil, store.ErrKeyInUse, add("cy", "s", "m", 0)},
			{"at the limit", nil, store.ErrLimit, add("cy", "cy", "m", 2)},
			{"a member", given, nil, add("cy", "cy", "m", 3)},
		}
	},
	"SetRole": func(w *world) []step {
		set := func(id, role string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				return w.SetRole(ctx, "m", id, role, audit...)
			}
		}
		return []step{
			{"an unknown member", nil, store.ErrNotFound, set("cy", store.RoleAdmin)},
			{"the role it has", nil, nil, set("ana", store.RoleMember)},
			{"another", given, nil, set("ana", store.RoleAdmin)},
			{"again", nil, nil, set("ana", store.RoleAdmin)},
		}
	},
	"RevokeMember": func(w *world) []step {
		w.open(aPresence("m", "p", "ana", key("s")))
		w.open(aPresence("m", "q", "ana", ""))
		revoke := func(id string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				_, err := w.RevokeMember(ctx, "m", id, noon, audit...)
				return err
			}
		}
		return []step{
			{"an unknown member", nil, store.ErrNotFound, revoke("cy")},
			{"a member that is here twice", slices.Concat(given, leaves(2)), nil, revoke("ana")},
			{"again", nil, nil, revoke("ana")},
			{"one that is away", given, nil, revoke("bo")},
		}
	},
	"RestoreMember": func(w *world) []step {
		restore := func(id string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				return w.RestoreMember(ctx, "m", id, audit...)
			}
		}
		_, err := w.RevokeMember(w.ctx, "m", "bo", noon)
		require.NoError(w, err)
		return []step{
			{"an unknown member", nil, store.ErrNotFound, restore("cy")},
			{"one that is not revoked", nil, nil, restore("ana")},
			{"one that is", given, nil, restore("bo")},
			{"again", nil, nil, restore("bo")},
		}
	},
	"RekeyMember": func(w *world) []step {
		w.join("m", "gone")
		w.open(aPresence("m", "p", "ana", key("s")))
		_, err := w.RevokeMember(w.ctx, "m", "gone", noon)
		require.NoError(w, err)
		rekey := func(id, pubkey string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				return w.RekeyMember(ctx, "m", id, key(pubkey), noon, audit...)
			}
		}
		return []step{
			{"an unknown member", nil, store.ErrNotFound, rekey("cy", "next")},
			{"a revoked member", nil, store.ErrNotFound, rekey("gone", "next")},
			{"another's key", nil, store.ErrKeyInUse, rekey("ana", "bo")},
			{"the key it has", nil, nil, rekey("ana", "ana")},
			{"a new key", slices.Concat(given, leaves(1)), nil, rekey("ana", "next")},
			{"its former key", nil, store.ErrKeyInUse, rekey("ana", "ana")},
			{"a new one while it is away", given, nil, rekey("ana", "third")},
		}
	},
	"OpenPresence": func(w *world) []step {
		w.join("m", "gone")
		_, err := w.RevokeMember(w.ctx, "m", "gone", noon)
		require.NoError(w, err)
		open := func(id, member, session string, change func(*store.Presence)) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				p := aPresence("m", id, member, key(session))
				if change != nil {
					change(&p)
				}
				_, err := w.OpenPresence(ctx, p, audit...)
				return err
			}
		}
		sameID := func(p *store.Presence) { p.SessionID = "session of p" }
		return []step{
			{"an unknown member", nil, store.ErrNotFound, open("p", "cy", "s", nil)},
			{"a revoked one", nil, store.ErrRevoked, open("p", "gone", "s", nil)},
			{"another's key", nil, store.ErrKeyInUse, open("p", "ana", "bo", nil)},
			{"a place", given, nil, open("p", "ana", "s", nil)},
			{"another's place", nil, store.ErrConflict, open("p", "bo", "", nil)},
			{"its own place again", given, nil, open("p", "ana", "s", nil)},
			{"another place with its session key", slices.Concat(leaves(1), given), nil, open("q", "ana", "s", nil)},
			{"its closed place, which closes the other", slices.Concat(leaves(1), given), nil, open("p", "ana", "s", nil)},
			{"a third with its session's id", slices.Concat(leaves(1), given), nil, open("r", "ana", "s2", sameID)},
			{"one beside it", given, nil, open("t", "ana", "s3", nil)},
		}
	},
	"CreateTopic": func(w *world) []step {
		w.topic("m", "old", "ana")
		create := func(id, name, creator string, most int) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				t := aTopic("m", id, creator)
				t.Name = name
				_, _, err := w.CreateTopic(ctx, store.NewTopic{Topic: t, MaxTopics: most}, audit...)
				return err
			}
		}
		return []step{
			{"an id in use", nil, store.ErrConflict, create("old", "new", "ana", 0)},
			{"an unknown creator", nil, store.ErrNotFound, create("t", "new", "cy", 0)},
			{"at the limit", nil, store.ErrLimit, create("t", "new", "ana", 2)},
			{"a name in use", nil, nil, create("t", "old", "ana", 0)},
			{"a topic", given, nil, create("t", "new", "ana", 3)},
			{"the host's", given, nil, create("u", "of the host", "", 0)},
		}
	},
	"Subscribe": func(w *world) []step {
		w.topic("m", "t", "ana")
		subscribe := func(topic, member, role string, replace bool) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				_, err := w.Subscribe(ctx, "m", topic, member, role, replace, noon, audit...)
				return err
			}
		}
		return []step{
			{"an unknown topic", nil, store.ErrNotFound, subscribe("none", "bo", wire.TopicMember, true)},
			{"an unknown member", nil, store.ErrNotFound, subscribe("t", "cy", wire.TopicMember, true)},
			{"a member", given, nil, subscribe("t", "bo", wire.TopicMember, false)},
			{"again", nil, nil, subscribe("t", "bo", wire.TopicMember, false)},
			{"another role that is not to replace", nil, nil, subscribe("t", "bo", wire.TopicLead, false)},
			{"another role", given, nil, subscribe("t", "bo", wire.TopicLead, true)},
			{"the role it has", nil, nil, subscribe("t", "bo", wire.TopicLead, true)},
		}
	},
	"ArchiveTopic": func(w *world) []step {
		w.topic("m", "t", "ana")
		archive := func(id string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				_, err := w.ArchiveTopic(ctx, "m", id, noon, audit...)
				return err
			}
		}
		return []step{
			{"an unknown topic", nil, store.ErrNotFound, archive("none")}, {"a topic", given, nil, archive("t")}, {"again", nil, nil, archive("t")},
		}
	},
	"RestoreTopic": func(w *world) []step {
		w.topic("m", "t", "ana")
		w.topic("m", "u", "ana")
		for _, id := range []string{"t", "u"} {
			require.NoError(w, second(w.ArchiveTopic(w.ctx, "m", id, noon)))
		}
		again := aTopic("m", "other", "ana")
		again.Name = "u"
		w.create(store.NewTopic{Topic: again})
		restore := func(id string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				return w.RestoreTopic(ctx, "m", id, audit...)
			}
		}
		return []step{
			{"an unknown topic", nil, store.ErrNotFound, restore("none")}, {"its name in use", nil, store.ErrConflict, restore("u")},
			{"a topic", given, nil, restore("t")}, {"again", nil, nil, restore("t")},
		}
	},
	"Unsubscribe": func(w *world) []step {
		w.topic("m", "t", "ana", "bo")
		leave := func(topic, id string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				return second(w.Unsubscribe(ctx, "m", topic, id, noon, audit...))
			}
		}
		return []step{
			{"an unknown topic", nil, nil, leave("none", "bo")}, {"an unknown member", nil, nil, leave("t", "none")},
			{"a member", given, nil, leave("t", "bo")}, {"again", nil, nil, leave("t", "bo")},
		}
	},
	"SetMeshOwner": func(w *world) []step {
		set := func(mesh, member, pubkey string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				return w.SetMeshOwner(ctx, mesh, member, pubkey, audit...)
			}
		}
		return []step{
			{"an unknown mesh", nil, store.ErrNotFound, set("none", "ana", "")}, {"nothing", nil, nil, set("m", "", "")},
			{"a member", given, nil, set("m", "ana", "")}, {"again", nil, nil, set("m", "ana", "")}, {"a key", given, nil, set("m", "", key("new"))},
			{"both as they are", nil, nil, set("m", "ana", key("new"))},
		}
	},
	"CreateAPIKey": func(w *world) []step {
		create := func(mesh, id string, most int) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				return w.CreateAPIKey(ctx, anAPIKey(mesh, id, "ana"), most, audit...)
			}
		}
		return []step{
			{"an unknown mesh", nil, store.ErrNotFound, create("none", "k", 0)},
			{"a key", given, nil, create("m", "k", 1)},
			{"an id in use", nil, store.ErrConflict, create("m", "k", 0)},
			{"at the limit", nil, store.ErrLimit, create("m", "l", 1)},
		}
	},
	"RevokeAPIKey": func(w *world) []step {
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k", "ana"), 0))
		revoke := func(id string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				return w.RevokeAPIKey(ctx, "m", id, noon, audit...)
			}
		}
		return []step{
			{"an unknown key", nil, store.ErrNotFound, revoke("none")}, {"a key", given, nil, revoke("k")}, {"again", nil, nil, revoke("k")},
		}
	},
	"CreateInvite": func(w *world) []step {
		create := func(mesh, id string, change func(*store.Invite)) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				i := anInvite(mesh, id)
				if change != nil {
					change(&i)
				}
				return w.CreateInvite(ctx, i, audit...)
			}
		}
		return []step{
			{"an unknown mesh", nil, store.ErrNotFound, create("none", "i", nil)},
			{"an invite", given, nil, create("m", "i", nil)},
			{"an id in use", nil, store.ErrConflict, create("m", "j", func(i *store.Invite) { i.ID = "i" })},
			{"a token in use", nil, store.ErrConflict, create("m", "j", func(i *store.Invite) { i.TokenHash = anInvite("m", "i").TokenHash })},
			{"a code in use", nil, store.ErrConflict, create("m", "j", func(i *store.Invite) { i.Code = anInvite("m", "i").Code })},
			{"another", given, nil, create("m", "j", nil)},
		}
	},
	"RevokeInvite": func(w *world) []step {
		require.NoError(w, w.CreateInvite(w.ctx, anInvite("m", "i")))
		revoke := func(id string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				return w.RevokeInvite(ctx, "m", id, noon, audit...)
			}
		}
		return []step{
			{"an unknown invite", nil, store.ErrNotFound, revoke("none")}, {"an invite", given, nil, revoke("i")}, {"again", nil, nil, revoke("i")},
		}
	},
	"RedeemInvite": func(w *world) []step {
		w.open(aPresence("m", "p", "ana", key("s")))
		i, j := anInvite("m", "i"), anInvite("m", "revoked")
		i.MaxUses = 2
		require.NoError(w, w.CreateInvite(w.ctx, i))
		require.NoError(w, w.CreateInvite(w.ctx, j))
		require.NoError(w, w.RevokeInvite(w.ctx, "m", "revoked", noon))
		_, err := w.RevokeMember(w.ctx, "m", "bo", noon)
		require.NoError(w, err)
		redeem := func(id string, change func(*store.Redemption)) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				r := store.Redemption{TokenHash: i.TokenHash, Member: aMember("m", id), Now: noon}
				if change != nil {
					change(&r)
				}
				_, _, err := w.RedeemInvite(ctx, r, audit...)
				return err
			}
		}
		return []step{
			{"an unknown token", nil, store.ErrNotFound, redeem("cy", func(r *store.Redemption) { r.TokenHash = "none" })},
			{"of another mesh", nil, store.ErrNotFound, redeem("cy", func(r *store.Redemption) { r.Member.MeshID = "n" })},
			{"revoked", nil, store.ErrRevoked, redeem("cy", func(r *store.Redemption) { r.TokenHash = j.TokenHash })},
			{"expired", nil, store.ErrExpired, redeem("cy", func(r *store.Redemption) { r.Now = i.ExpiresAt })},
			{"a member already", nil, nil, redeem("ana", nil)},
			{"a banned member", nil, store.ErrConflict, redeem("bo", nil)},
			{"a session's key", nil, store.ErrKeyInUse, redeem("cy", func(r *store.Redemption) { r.Member.Pubkey = key("s") })},
			{"at the limit", nil, store.ErrLimit, redeem("cy", func(r *store.Redemption) { r.MaxMembers = 1 })},
			{"a token", given, nil, redeem("cy", nil)},
			{"again", nil, nil, redeem("cy", nil)},
			{"a code", given, nil, redeem("dee", func(r *store.Redemption) { r.TokenHash, r.Code = "", i.Code })},
			{"used up", nil, store.ErrExhausted, redeem("eve", nil)},
		}
	},
	"SetState": func(w *world) []step {
		set := func(mesh, k string, keys int) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				return w.SetState(ctx, mesh, aValue(k, "ana", "1"), store.StateLimits{Keys: keys}, audit...)
			}
		}
		return []step{
			{"an unknown mesh", nil, store.ErrNotFound, set("none", "k", 0)},
			{"a key", given, nil, set("m", "k", 1)},
			{"at the limit", nil, store.ErrLimit, set("m", "l", 1)},
			{"what is there", given, nil, set("m", "k", 1)},
		}
	},
	"DeleteState": func(w *world) []step {
		require.NoError(w, w.SetState(w.ctx, "m", aValue("k", "ana", "1"), store.StateLimits{}))
		remove := func(mesh, k string) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				_, err := w.DeleteState(ctx, mesh, k, audit...)
				return err
			}
		}
		return []step{
			{"an unknown mesh", nil, nil, remove("none", "k")},
			{"an unknown key", nil, nil, remove("m", "none")},
			{"a key", given, nil, remove("m", "k")},
			{"again", nil, nil, remove("m", "k")},
		}
	},
	// Not by its signature: its drafts bring their events along.
	"Enqueue": func(w *world) []step {
		w.send("m", clientID("c", draft("0", "ana", "bo")))
		enqueue := func(stale int64, q store.Quota, d store.Draft) func(context.Context, ...store.AuditEvent) error {
			return func(ctx context.Context, audit ...store.AuditEvent) error {
				d.Audit = audit
				out, err := w.Enqueue(ctx, "m", w.version("m")-stale, []store.Draft{d}, q, noon)
				if err == nil {
					err = out[0].Err
				}
				return err
			}
		}
		full := store.Quota{PerMailbox: 1}
		again := clientID("c", draft("0b", "ana", "bo"))
		again.Message.ContentHash = draft("0", "ana").Message.ContentHash
		topicless := draft("2", "ana", "bo")
		topicless.Message.TopicID = "none"
		return []step{
			{"by an old roster", nil, store.ErrStale, enqueue(1, store.Quota{}, draft("1", "ana", "bo"))},
			{"a message", given, nil, enqueue(0, store.Quota{}, clientID("d", draft("1", "ana", "bo")))},
			{"the same, whose reply was lost", nil, nil, enqueue(0, store.Quota{}, clientID("d", draft("1", "ana", "bo")))},
			{"a duplicate", nil, nil, enqueue(0, store.Quota{}, again)},
			{"another under that client message id", nil, store.ErrConflict, enqueue(0, store.Quota{}, clientID("c", draft("2", "ana", "bo")))},
			{"another's id", nil, store.ErrConflict, enqueue(0, store.Quota{}, draft("1", "bo", "ana"))},
			{"to a full mailbox", nil, store.ErrQueueFull, enqueue(0, full, direct(draft("2", "ana", "bo")))},
			{"to nobody known", nil, store.ErrNotFound, enqueue(0, store.Quota{}, draft("2", "ana", "cy"))},
			{"to no topic", nil, store.ErrNotFound, enqueue(0, store.Quota{}, topicless)},
			{"what was refused, with room now", given, nil, enqueue(0, store.Quota{}, direct(draft("2", "ana", "bo")))},
			{"to many whose mailboxes are full", given, nil, enqueue(0, full, draft("3", "ana", "bo"))},
			{"to nobody", given, nil, enqueue(0, store.Quota{}, draft("4", "ana"))},
		}
	},
}

// audits are the checks of the audit log: one for each operation that takes events, and those of the log itself.
var audits = func() checks {
	all := maps.Clone(auditLogs)
	for operation, steps := range audited {
		all[operation+" logs its events if and only if it changes something"] = func(w *world) { w.requireAudited(steps) }
	}
	return all
}()

// requireAudited takes the steps of an operation one after the other.
func (w *world) requireAudited(steps func(w *world) []step) {
	w.Helper()
	w.mesh("m", "ana", "bo")
	w.mesh("n", "ana", "bo")
	w.record("n", event("of n"))
	other := w.logged("n")
	over, cancel := context.WithCancel(w.ctx)
	cancel()
	for _, s := range steps(w) {
		before := w.logged("m")
		require.ErrorIs(w, s.do(over, event("1"), event("2")), context.Canceled, "%s, with a context that is over", s.what)
		require.Equal(w, before, w.logged("m"), "%s, with a context that is over", s.what)
		err := s.do(w.ctx, event("1"), event("2"))
		if s.err != nil {
			require.ErrorIs(w, err, s.err, s.what)
		} else {
			require.NoError(w, err, s.what)
		}
		after := w.logged("m")
		require.Equal(w, before, after[:len(before)], "%s: what is written stays", s.what)
		require.Equal(w, append([]string{}, s.want...), eventTypes(after[len(before):]), s.what)
		for _, e := range after[len(before):] {
			if e.Type != wire.AuditPeerLeft {
				want := event(e.Type)
				want.At = want.At.Truncate(time.Millisecond)
				require.Equal(w, want, e.AuditEvent, s.what)
			}
		}
	}
	require.Equal(w, other, w.logged("n"), "another mesh")
}

var auditLogs = checks{
	"every operation that takes events is checked": func(w *world) {
		contract := reflect.TypeFor[store.Store]()
		want := []string{"Enqueue"}
		for i := range contract.NumMethod() {
			m := contract.Method(i)
			if m.Type.IsVariadic() && m.Type.In(m.Type.NumIn()-1) == reflect.TypeFor[[]store.AuditEvent]() {
				want = append(want, m.Name)
			}
		}
		require.ElementsMatch(w, want, slices.Collect(maps.Keys(audited)))
	},
	"a log begins empty": func(w *world) {
		w.mesh("m", "ana")
		require.NoError(w, w.AppendAudit(w.ctx, "m"), "no events are none")
		require.Empty(w, w.logged("m"))
		head, err := w.AuditHead(w.ctx, "m")
		require.NoError(w, err)
		require.Equal(w, store.NewAuditHead(), head)
		_, total := w.auditLog(store.AuditQuery{Limit: 9})
		require.Zero(w, total)
	},
	"an unknown mesh has no log": func(w *world) {
		_, err := w.AuditHead(w.ctx, "m")
		require.ErrorIs(w, err, store.ErrNotFound)
		entries, total, err := w.AuditLog(w.ctx, store.AuditQuery{MeshID: "m", Limit: 9})
		require.NoError(w, err)
		require.Empty(w, entries)
		require.Zero(w, total)
		entries, err = w.AuditPage(w.ctx, "m", 0, 9)
		require.NoError(w, err)
		require.Empty(w, entries)
	},
	"keeps every field, the payload byte for byte, the time to the millisecond": func(w *world) {
		w.mesh("m")
		want := []store.AuditEvent{}
		for i, text := range append([]string{"", "\x01\x1f\u2028\u2029<>&", "\x00"}, texts...) {
			payload := append(identity.AppendCanonicalText([]byte(`{"10":1,"9":1e+21,"a":[1.5,null,true,"\ud83d"],"b":`), text), '}')
			name := strings.ReplaceAll(text, "\x00", "")
			want = append(want, store.AuditEvent{
				Type: fmt.Sprint("type ", i), ActorMemberID: []string{"ana", ""}[i%2], ActorName: name, Payload: payload,
				At: noon.Add(time.Duration(i) * 999 * time.Microsecond),
			})
		}
		w.record("m", want...)
		got := w.logged("m")
		require.Len(w, got, len(want))
		for i, e := range got {
			want[i].At = want[i].At.Truncate(time.Millisecond)
			require.Equal(w, want[i], e.AuditEvent)
		}
		newest, _, err := w.AuditLog(w.ctx, store.AuditQuery{MeshID: "m", Limit: len(want)})
		require.NoError(w, err)
		slices.Reverse(newest)
		require.Equal(w, got, newest, "AuditLog and AuditPage show the same")
	},
	"a time may go back: the order of the log is that of writing": func(w *world) {
		w.mesh("m")
		for i, d := range []time.Duration{0, -time.Hour, time.Hour, 0} {
			e := event(fmt.Sprint(i))
			e.At = after(d)
			w.record("m", e)
		}
		require.Equal(w, []string{"0", "1", "2", "3"}, w.loggedTypes("m"))
		types, _ := w.auditLog(store.AuditQuery{Limit: 2})
		require.Equal(w, []string{"3", "2"}, types)
	},
	"the caller may reuse what it gave and change what it got": func(w *world) {
		w.mesh("m", "ana", "bo")
		payload := json.RawMessage(`{"a":1}`)
		e := event("x")
		e.Payload = payload
		w.record("m", e)
		d := draft("1", "ana", "bo")
		d.Audit = []store.AuditEvent{e}
		w.send("m", d)
		payload[5] = '2'
		for _, got := range w.logged("m") {
			require.Equal(w, `{"a":1}`, string(got.Payload))
			got.Payload[5] = '3'
		}
		newest, _, err := w.AuditLog(w.ctx, store.AuditQuery{MeshID: "m", Limit: 9})
		require.NoError(w, err)
		require.Len(w, newest, 2)
		for _, got := range newest {
			require.Equal(w, `{"a":1}`, string(got.Payload))
			got.Payload[5] = '4'
		}
		w.logged("m")
	},
	"AuditPage pages by id": func(w *world) {
		w.mesh("m")
		w.record("m", events("x", 6)...)
		all := w.logged("m")
		page := func(after int64, limit int) []string {
			entries, err := w.AuditPage(w.ctx, "m", after, limit)
			require.NoError(w, err)
			return eventTypes(entries)
		}
		require.Equal(w, []string{"x0", "x1"}, page(0, 2))
		require.Equal(w, []string{"x0"}, page(-1, 1))
		require.Equal(w, []string{"x2", "x3", "x4", "x5"}, page(all[1].ID, 4), "a page that ends exactly at the limit")
		require.Equal(w, []string{"x5"}, page(all[4].ID, 9))
		require.Empty(w, page(all[5].ID, 9))
		require.Empty(w, page(1<<62, 9))
		for _, none := range []int{0, -1} {
			require.Empty(w, page(0, none))
		}
	},
	"AuditLog gives the newest first, from an offset, by type and by actor": func(w *world) {
		w.mesh("m")
		w.record("m", eventBy("ana", "a"), eventBy("bo", "a"), eventBy("ana", "b"), eventBy("", "b"), eventBy("ana", "a"), eventBy("bo", "b"), eventBy("", "c"))
		all, _, err := w.AuditLog(w.ctx, store.AuditQuery{MeshID: "m", Limit: 100})
		require.NoError(w, err)
		numbered := func(entries []store.AuditEntry) string {
			out := ""
			for _, e := range entries {
				out += fmt.Sprint(slices.IndexFunc(all, func(other store.AuditEntry) bool { return other.ID == e.ID }))
			}
			return out
		}
		for _, c := range []struct {
			q     store.AuditQuery
			want  string // places among all of them
			total int
		}{
			{store.AuditQuery{Limit: 7}, "0123456", 7},
			{store.AuditQuery{Limit: 6}, "012345", 7},
			{store.AuditQuery{Limit: 2, Offset: 5}, "56", 7},
			{store.AuditQuery{Limit: 2, Offset: 6}, "6", 7},
			{store.AuditQuery{Limit: 2, Offset: 7}, "", 7},
			{store.AuditQuery{Limit: 2, Offset: 1 << 40}, "", 7},
			{store.AuditQuery{Limit: 0}, "", 7},
			{store.AuditQuery{Limit: -1}, "", 7},
			{store.AuditQuery{Type: "a", Limit: 9}, "256", 3},
			{store.AuditQuery{Type: "a", Limit: 1, Offset: 1}, "5", 3},
			{store.AuditQuery{Type: "a", Limit: 0}, "", 3},
			{store.AuditQuery{Type: "A", Limit: 9}, "", 0},
			{store.AuditQuery{Type: "a%", Limit: 9}, "", 0},
			{store.AuditQuery{Actor: "ana", Limit: 9}, "246", 3},
			{store.AuditQuery{Actor: "ana", Limit: 2, Offset: 1}, "46", 3},
			{store.AuditQuery{Actor: "ana", Limit: 2, Offset: 3}, "", 3},
			{store.AuditQuery{Actor: "cy", Limit: 9}, "", 0},
			{store.AuditQuery{Actor: "ana", Type: "a", Limit: 9}, "26", 2},
			{store.AuditQuery{Actor: "ana", Type: "a", Limit: 1}, "2", 2},
			{store.AuditQuery{Actor: "ana", Type: "a", Limit: 9, Offset: 1}, "6", 2},
			{store.AuditQuery{Actor: "bo", Type: "c", Limit: 9}, "", 0},
		} {
			c.q.MeshID = "m"
			entries, total, err := w.AuditLog(w.ctx, c.q)
			require.NoError(w, err)
			require.Equal(w, c.want, numbered(entries), "%+v", c.q)
			require.Equal(w, c.total, total, "%+v", c.q)
		}
	},
	"AuditLog counts by type or actor up to the cap, and by both looks at as many": func(w *world) {
		w.mesh("m")
		w.record("m", event("rare"), event("rare"), event("rare"))
		const often = store.AuditCountCap - 2 // so that the newest entries of ana up to the cap leave one of the rare ones out
		for left := often; left > 0; {
			n := min(left, 700)
			w.record("m", slices.Repeat([]store.AuditEvent{event("often")}, n)...)
			left -= n
		}
		w.record("m", slices.Repeat([]store.AuditEvent{eventBy("bo", "often")}, 5)...)
		head, err := w.AuditHead(w.ctx, "m")
		require.NoError(w, err)
		ask := func(q store.AuditQuery) [2]int {
			types, total := w.auditLog(q)
			return [2]int{len(types), total}
		}
		require.Equal(w, [2]int{3, int(head.Count)}, ask(store.AuditQuery{Limit: 3}), "all of them")
		require.Equal(w, [2]int{3, store.AuditCountCap}, ask(store.AuditQuery{Type: "often", Limit: 3}))
		require.Equal(w, [2]int{3, store.AuditCountCap}, ask(store.AuditQuery{Type: "often", Limit: 9, Offset: store.AuditCountCap}), "its pages reach further")
		require.Equal(w, [2]int{3, store.AuditCountCap}, ask(store.AuditQuery{Actor: "ana", Limit: 3}))
		require.Equal(w, [2]int{1, store.AuditCountCap}, ask(store.AuditQuery{Actor: "ana", Limit: 9, Offset: store.AuditCountCap}))
		require.Equal(w, [2]int{5, 5}, ask(store.AuditQuery{Actor: "bo", Limit: 9}))
		require.Equal(w, [2]int{3, 3}, ask(store.AuditQuery{Type: "rare", Limit: 9}))
		require.Equal(w, [2]int{2, 2}, ask(store.AuditQuery{Actor: "ana", Type: "rare", Limit: 9}))
		require.Equal(w, [2]int{9, often}, ask(store.AuditQuery{Actor: "ana", Type: "often", Limit: 9}))
		w.logged("m")
	},
	"a batch of drafts logs those that it stores, in order, and each once": func(w *world) {
		w.mesh("m", "ana", "bo")
		logging := func(d store.Draft) store.Draft {
			d.Audit = []store.AuditEvent{event("message " + d.Message.ID)}
			return d
		}
		batch := []store.Draft{
			logging(clientID("c", draft("1", "ana", "bo"))), logging(direct(draft("2", "ana", "bo"))), logging(clientID("c", draft("3", "ana", "bo"))),
			draft("4", "ana", "bo"), logging(direct(draft("5", "ana", "bo"))), logging(draft("6", "ana", "bo")),
		}
		batch[4].Audit = append(batch[4].Audit, event("more of 5"))
		out := w.try("m", store.Quota{PerMailbox: 4}, batch...)
		require.ErrorIs(w, out[2].Err, store.ErrConflict)
		want := []string{"message 1", "message 2", "message 5", "more of 5", "message 6"}
		require.Equal(w, want, w.loggedTypes("m"))
		out = w.try("m", store.Quota{PerMailbox: 4}, batch...) // its reply was lost
		for _, i := range []int{0, 1, 3, 4, 5} {
			require.NoError(w, out[i].Err)
		}
		require.Equal(w, want, w.loggedTypes("m"))
		_, err := w.Enqueue(w.ctx, "m", w.version("m")+1, []store.Draft{logging(draft("7", "ana", "bo"))}, store.Quota{}, noon)
		require.ErrorIs(w, err, store.ErrStale)
		require.Equal(w, want, w.loggedTypes("m"))
	},
	"RedeemInvite logs the name that the new member got": func(w *world) {
		w.mesh("m", "ana")
		in := anInvite("m", "i")
		in.MaxUses = 2
		require.NoError(w, w.CreateInvite(w.ctx, in))
		for _, c := range []struct{ id, asked, want string }{{"x1", "ANA", "ANA-2"}, {"x2", "bo", "bo"}} {
			m := aMember("m", c.id)
			m.Name = c.asked
			own, other := eventBy(c.id, "own"), eventBy("ana", "other")
			own.ActorName = c.asked
			got, _, err := w.RedeemInvite(w.ctx, store.Redemption{TokenHash: in.TokenHash, Member: m, Now: noon}, own, other)
			require.NoError(w, err)
			require.Equal(w, c.want, got.Name)
			newest, _, err := w.AuditLog(w.ctx, store.AuditQuery{MeshID: "m", Limit: 2})
			require.NoError(w, err)
			require.Equal(w, []string{"name of ana", c.want}, []string{newest[0].ActorName, newest[1].ActorName})
			require.Equal(w, string(own.Payload), string(newest[1].Payload), "the payload is as it was given")
		}
		w.logged("m")
	},
	"whatever closes an open presence logs peer_left": func(w *world) {
		at := after(time.Second)
		again := func(change func(*store.Presence)) func(p store.Presence) error {
			return func(p store.Presence) error {
				next := aPresence(p.MeshID, "next", "ana", key("other"))
				next.ConnectedAt, next.DisplayName = at, "not me"
				change(&next)
				_, err := w.OpenPresence(w.ctx, next)
				return err
			}
		}
		closePresence := func(p store.Presence) error {
			_, err := w.ClosePresence(w.ctx, p.MeshID, p.ID, p.BrokerID, p.Epoch, at)
			return err
		}
		for i, c := range []struct {
			what, display, want string
			do                  func(p store.Presence) error
		}{
			{"ClosePresence", "Ana at work", "Ana at work", closePresence},
			{"ClosePresence, without a display name", "", "ana", closePresence},
			{"OpenPresence with the session key", "A", "A", again(func(p *store.Presence) { p.SessionPubkey = key("s") })},
			{"OpenPresence with the session id", "", "ana", again(func(p *store.Presence) { p.SessionID = "session of p" })},
			{"RevokeMember", "A", "A", func(p store.Presence) error {
				_, err := w.RevokeMember(w.ctx, p.MeshID, "ana", at)
				return err
			}},
			{"RekeyMember", "", "ana", func(p store.Presence) error { return w.RekeyMember(w.ctx, p.MeshID, "ana", key("next"), at) }},
			{"SavePresences", "A", "renamed", func(p store.Presence) error {
				p.DisplayName, p.DisconnectedAt = "renamed", at
				_, err := w.SavePresences(w.ctx, []store.Presence{p})
				return err
			}},
			{"SavePresences that renames, then ClosePresence", "A", "renamed", func(p store.Presence) error {
				p.DisplayName = "renamed"
				_, err := w.SavePresences(w.ctx, []store.Presence{p})
				return errors.Join(err, closePresence(p))
			}},
			{"AdoptPresences whose lease has ended", "A", "A", func(p store.Presence) error {
				p.LeaseUntil = at
				_, err := w.SavePresences(w.ctx, []store.Presence{p})
				require.NoError(w, err)
				_, err = w.AdoptPresences(w.ctx, "b2", at, time.Second, time.Hour)
				return err
			}},
		} {
			mesh := fmt.Sprint("m", i)
			w.mesh(mesh, "ana", "bo")
			w.open(aPresence(mesh, "of bo", "bo", ""))
			p := aPresence(mesh, "p", "ana", key("s"))
			p.DisplayName = c.display
			p = w.open(p)
			require.Empty(w, w.logged(mesh), c.what)
			require.NoError(w, c.do(p), c.what)
			got := w.logged(mesh)
			require.Len(w, got, 1, c.what)
			require.Equal(w, store.AuditEvent{
				Type: wire.AuditPeerLeft, ActorMemberID: "ana", ActorName: c.want, Payload: json.RawMessage(`{}`), At: at.Truncate(time.Millisecond),
			}, got[0].AuditEvent, c.what)
		}
	},
	"nothing else logs peer_left": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		first := w.open(aPresence("m", "p", "ana", key("s")))
		p := w.open(aPresence("m", "p", "ana", key("s"))) // comes back under its ID
		lost := first
		lost.DisconnectedAt = noon
		ids, err := w.SavePresences(w.ctx, []store.Presence{lost, p})
		require.NoError(w, err)
		require.Equal(w, []string{"p"}, ids)
		closed, err := w.ClosePresence(w.ctx, "m", "p", first.BrokerID, first.Epoch, noon)
		require.NoError(w, err)
		require.False(w, closed)
		require.NoError(w, w.ReleasePresences(w.ctx, "b1", after(time.Minute)))
		p = w.adoptAll(noon)["p"]
		_, err = w.RevokeMember(w.ctx, "m", "bo", noon)
		require.NoError(w, err)
		_, err = w.Unsubscribe(w.ctx, "m", "t", "ana", noon)
		require.NoError(w, err)
		require.Empty(w, w.logged("m"))

		closed, err = w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon)
		require.NoError(w, err)
		require.True(w, closed)
		closed, err = w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon)
		require.NoError(w, err)
		require.False(w, closed)
		require.Len(w, w.logged("m"), 1)
		w.open(aPresence("m", "p", "ana", key("s")))
		require.Len(w, w.logged("m"), 1, "a closed one that opens again left once")
		require.NoError(w, w.ArchiveMesh(w.ctx, "m", noon))
		w.pruned(after(time.Hour), store.Retention{Presences: time.Second})
		require.Len(w, w.logged("m"), 1)
	},
	"presences that one operation closes leave in order": func(w *world) {
		ids := []string{"c", "A", "b", "_", "a"}
		left := func(mesh string) []string {
			names := []string{}
			for _, e := range w.logged(mesh) {
				names = append(names, e.ActorName)
			}
			return names
		}
		fill := func(mesh string) []store.Presence {
			w.mesh(mesh, "ana")
			out := []store.Presence{}
			for _, id := range ids {
				p := aPresence(mesh, id, "ana", "")
				p.DisplayName, p.LeaseUntil = id, noon
				out = append(out, w.open(p))
			}
			return out
		}
		byID := []string{"A", "_", "a", "b", "c"}
		fill("m1")
		_, err := w.RevokeMember(w.ctx, "m1", "ana", noon)
		require.NoError(w, err)
		require.Equal(w, byID, left("m1"))
		fill("m2")
		require.NoError(w, w.RekeyMember(w.ctx, "m2", "ana", key("next"), noon))
		require.Equal(w, byID, left("m2"))
		both := append(fill("m3"), fill("m4")...)
		for i := range both {
			both[i].DisconnectedAt = noon
		}
		lost, err := w.SavePresences(w.ctx, both)
		require.NoError(w, err)
		require.Empty(w, lost)
		require.Equal(w, ids, left("m3"), "as given")
		require.Equal(w, ids, left("m4"))
		fill("m5")
		fill("m6")
		require.Len(w, w.adoptAll(noon), len(ids))
		require.Equal(w, byID, left("m5"))
		require.Equal(w, byID, left("m6"))
	},
	"there is a checkpoint every so many entries, wherever in a batch": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.mesh("n")
		for _, n := range []int{1, store.AuditCheckpointEvery - 3, 1, 7, 2 * store.AuditCheckpointEvery, 5} {
			w.record("m", events("x", n)...)
		}
		at := func() []int64 {
			out := []int64{}
			for i, e := range w.logged("m") {
				if e.Type == identity.CheckpointEvent {
					out = append(out, int64(i)+1)
				}
			}
			return out
		}
		const every = store.AuditCheckpointEvery
		require.Equal(w, []int64{every, 2 * every, 3 * every}, at())
		require.Empty(w, w.logged("n"))
		n, err := w.CheckpointAudit(w.ctx, after(time.Hour), time.Hour, 10)
		require.NoError(w, err)
		require.Equal(w, 1, n)
		head, err := w.AuditHead(w.ctx, "m")
		require.NoError(w, err)
		between := head.CheckpointCount
		drafts := []store.Draft{}
		for i := range every {
			drafts = append(drafts, with(draft(fmt.Sprint(i), "ana", "bo"), func(d *store.Draft) { d.Audit = []store.AuditEvent{event("sent")} }))
		}
		w.send("m", drafts...)
		require.Equal(w, []int64{every, 2 * every, 3 * every, between, between + every}, at(), "counted from the last one, whatever made it")
	},
	"CheckpointAudit is due at the exact moment": func(w *world) {
		w.mesh("m")
		due := func(now time.Time) int {
			n, err := w.CheckpointAudit(w.ctx, now, time.Hour, 10)
			require.NoError(w, err)
			require.Len(w, w.logged("m"), int(w.count("m")))
			return n
		}
		require.Zero(w, due(after(1000*time.Hour)), "a log without entries")
		w.record("m", events("x", 2)...)
		first := noon.Truncate(time.Millisecond)
		require.Zero(w, due(first.Add(time.Hour-time.Microsecond)), "counted from the first entry")
		require.Equal(w, 1, due(first.Add(time.Hour)))
		require.Zero(w, due(first.Add(time.Hour)))
		w.record("m", event("y"))
		require.Zero(w, due(first.Add(2*time.Hour-time.Microsecond)), "counted from the last checkpoint")
		require.Zero(w, due(first), "time may go back")
		at := first.Add(2*time.Hour + 999*time.Microsecond)
		require.Equal(w, 1, due(at))
		require.Equal(w, 1, due(at.Add(time.Hour)), "also where nothing happened since")
		require.Equal(w, []string{"x0", "x1", identity.CheckpointEvent, "y", identity.CheckpointEvent, identity.CheckpointEvent}, eventTypes(w.logged("m")))
		last := w.logged("m")[5]
		require.Equal(w, at.Add(time.Hour).Truncate(time.Millisecond), last.At)
	},
	"CheckpointAudit does at most limit meshes, and less means that nothing is left": func(w *world) {
		for _, mesh := range []string{"a", "b", "c", "archived"} {
			w.mesh(mesh)
			w.record(mesh, event("x"))
		}
		w.mesh("empty")
		require.NoError(w, w.ArchiveMesh(w.ctx, "archived", noon))
		for _, want := range [][2]int{{0, 0}, {-1, 0}, {2, 2}, {2, 1}, {2, 0}} {
			n, err := w.CheckpointAudit(w.ctx, after(2*time.Hour), time.Hour, want[0])
			require.NoError(w, err)
			require.Equal(w, want[1], n, "limit %d", want[0])
		}
		for mesh, want := range map[string]int64{"a": 2, "b": 2, "c": 2, "archived": 1, "empty": 0} {
			require.Equal(w, want, w.count(mesh), mesh)
			w.logged(mesh)
		}
	},
	"CheckpointMesh makes a checkpoint, unless one is the newest entry": func(w *world) {
		require.ErrorIs(w, w.CheckpointMesh(w.ctx, "none", noon), store.ErrNotFound)
		for _, mesh := range []string{"m", "n", "archived"} {
			w.mesh(mesh)
		}
		types := func(mesh string) []string { return eventTypes(w.logged(mesh)) }
		require.NoError(w, w.CheckpointMesh(w.ctx, "m", noon))
		require.Empty(w, types("m"), "a log without entries")
		for _, mesh := range []string{"m", "n", "archived"} {
			w.record(mesh, event("x"))
		}
		require.NoError(w, w.ArchiveMesh(w.ctx, "archived", noon))
		at := after(time.Second + 999*time.Microsecond)
		for range 2 {
			for _, mesh := range []string{"m", "archived"} {
				require.NoError(w, w.CheckpointMesh(w.ctx, mesh, at))
				require.Equal(w, []string{"x", identity.CheckpointEvent}, types(mesh), "however soon, and once")
			}
		}
		require.Equal(w, []string{"x"}, types("n"), "another mesh")
		require.Equal(w, at.Truncate(time.Millisecond), w.logged("m")[1].At)
		head, err := w.AuditHead(w.ctx, "m")
		require.NoError(w, err)
		require.True(w, head.Vouched())
		require.Equal(w, []any{int64(2), at.Truncate(time.Millisecond)}, []any{head.CheckpointCount, head.CheckpointAt})

		w.record("m", events("y", store.AuditCheckpointEvery-1)...)
		n := len(types("m"))
		require.NoError(w, w.CheckpointMesh(w.ctx, "m", after(time.Minute)))
		require.Len(w, types("m"), n, "one by count is one, too")
		w.record("m", event("z"))
		made := make([]error, 8)
		together(len(made), func(i int) { made[i] = w.CheckpointMesh(w.ctx, "m", after(time.Minute)) })
		require.NoError(w, errors.Join(made...))
		require.Len(w, types("m"), n+2, "of many at once one")
		due, err := w.CheckpointAudit(w.ctx, after(time.Minute).Truncate(time.Millisecond).Add(time.Hour-time.Microsecond), time.Hour, 10)
		require.NoError(w, err)
		require.Equal(w, 1, due, "n; the hour of m is counted from it")
	},
	"CheckpointAudit by many at once makes one": func(w *world) {
		for _, mesh := range []string{"a", "b", "c"} {
			w.mesh(mesh)
			w.record(mesh, event("x"))
		}
		made := make([]int, 8)
		together(len(made), func(i int) { made[i], _ = w.CheckpointAudit(w.ctx, after(2*time.Hour), time.Hour, 10) })
		total := 0
		for _, n := range made {
			total += n
		}
		require.Equal(w, 3, total)
		for _, mesh := range []string{"a", "b", "c"} {
			require.Len(w, w.logged(mesh), 2)
		}
	},
	"AuditKey is one key, whoever asks first": func(w *world) {
		keys, errs := make([]string, 10), make([]error, 10)
		together(len(keys), func(i int) { keys[i], errs[i] = w.AuditKey(w.ctx) })
		for i, k := range keys {
			require.NoError(w, errs[i])
			require.Regexp(w, "^[0-9a-f]{64}$", k)
			require.Equal(w, keys[0], k)
		}
		require.NoError(w, identity.CheckPublic(keys[0]))
		for _, mesh := range []string{"m", "n"} {
			w.mesh(mesh)
			w.record(mesh, events("x", store.AuditCheckpointEvery)...)
			require.Len(w, w.logged(mesh), store.AuditCheckpointEvery+1, "with a checkpoint by that key")
		}
	},
	"DeleteMesh deletes the log, and a new mesh of that id begins anew": func(w *world) {
		for _, mesh := range []string{"m", "n"} {
			w.mesh(mesh)
			w.record(mesh, events("x", store.AuditCheckpointEvery)...)
		}
		kept := w.logged("n")
		require.NoError(w, w.DeleteMesh(w.ctx, "m"))
		_, err := w.AuditHead(w.ctx, "m")
		require.ErrorIs(w, err, store.ErrNotFound)
		page, err := w.AuditPage(w.ctx, "m", 0, 9)
		require.NoError(w, err)
		require.Empty(w, page)
		w.mesh("m")
		require.Empty(w, w.logged("m"))
		_, total := w.auditLog(store.AuditQuery{Type: "x1", Limit: 9})
		require.Zero(w, total)
		w.record("m", event("y"))
		got := w.logged("m")
		require.Len(w, got, 1)
		require.Equal(w, identity.ChainGenesis, got[0].PrevHash)
		require.Equal(w, kept, w.logged("n"))
	},
	"an archived mesh has a log like any other": func(w *world) {
		w.mesh("m")
		require.NoError(w, w.ArchiveMesh(w.ctx, "m", noon))
		w.record("m", event("x"))
		require.Equal(w, []string{"x"}, w.loggedTypes("m"))
	},
	"of many that do the same at once, one logs it": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k", "ana"), 0))
		require.NoError(w, w.CreateInvite(w.ctx, anInvite("m", "i")))
		require.NoError(w, w.SetState(w.ctx, "m", aValue("k", "ana", "1"), store.StateLimits{}))
		p := w.open(aPresence("m", "p", "ana", ""))
		v := w.version("m")
		d := draft("1", "ana", "bo")
		d.Audit = []store.AuditEvent{event("Enqueue")}
		together(8, func(int) { _, _ = w.Enqueue(w.ctx, "m", v, []store.Draft{d}, store.Quota{}, noon) })
		want := []string{"Enqueue"}
		for _, c := range []struct {
			what string
			do   func(e store.AuditEvent)
		}{
			{"SetRole", func(e store.AuditEvent) { _ = w.SetRole(w.ctx, "m", "ana", store.RoleAdmin, e) }},
			{"RevokeMember", func(e store.AuditEvent) { _, _ = w.RevokeMember(w.ctx, "m", "bo", noon, e) }},
			{"RestoreMember", func(e store.AuditEvent) { _ = w.RestoreMember(w.ctx, "m", "bo", e) }},
			{"RekeyMember", func(e store.AuditEvent) { _ = w.RekeyMember(w.ctx, "m", "cy", key("next"), noon, e) }},
			{"CreateTopic", func(e store.AuditEvent) {
				_, _, _ = w.CreateTopic(w.ctx, store.NewTopic{Topic: aTopic("m", "u", "ana")}, e)
			}},
			{"Subscribe", func(e store.AuditEvent) { _, _ = w.Subscribe(w.ctx, "m", "t", "cy", wire.TopicMember, true, noon, e) }},
			{"ArchiveTopic", func(e store.AuditEvent) { _, _ = w.ArchiveTopic(w.ctx, "m", "t", noon, e) }},
			{"RevokeAPIKey", func(e store.AuditEvent) { _ = w.RevokeAPIKey(w.ctx, "m", "k", noon, e) }},
			{"RedeemInvite", func(e store.AuditEvent) {
				_, _, _ = w.RedeemInvite(w.ctx, store.Redemption{TokenHash: anInvite("m", "i").TokenHash, Member: aMember("m", "dee"), Now: noon}, e)
			}},
			{"RevokeInvite", func(e store.AuditEvent) { _ = w.RevokeInvite(w.ctx, "m", "i", noon, e) }},
			{"DeleteState", func(e store.AuditEvent) { _, _ = w.DeleteState(w.ctx, "m", "k", e) }},
			{wire.AuditPeerLeft, func(store.AuditEvent) { _, _ = w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon) }},
		} {
			together(8, func(int) { c.do(event(c.what)) })
			want = append(want, c.what)
			require.Equal(w, want, w.loggedTypes("m"))
		}
	},
	"AppendAudit by many at once loses nothing and keeps what was given together": func(w *world) {
		w.mesh("m")
		const writers, each = 8, 20
		together(writers, func(i int) {
			for j := range each {
				_ = w.AppendAudit(w.ctx, "m", events(fmt.Sprintf("%d-%d-", i, j), 10)...)
			}
		})
		got := w.loggedTypes("m")
		require.Len(w, got, writers*each*10)
		seen := map[string]bool{}
		for len(got) > 0 {
			batch := strings.TrimSuffix(got[0], "0")
			require.False(w, seen[batch])
			seen[batch] = true
			for i := range 10 {
				require.Equal(w, fmt.Sprint(batch, i), got[i])
			}
			got = got[10:]
		}
	},
	"the log stays one chain under writers of every kind, and a reader that pages by id skips nothing": func(w *world) {
		for _, mesh := range []string{"m", "n"} {
			w.mesh(mesh, "ana", "bo")
			w.topic(mesh, "t", "ana")
			w.record(mesh, event("start"))
		}
		finished := make(chan struct{})
		var seen []string
		var broken error
		var reader sync.WaitGroup
		reader.Go(func() {
			v := identity.NewChainVerifier("m", "")
			var last int64
			for read := false; ; {
				select {
				case <-finished:
					read = true // once more, to the end
				default:
				}
				for {
					page, err := w.AuditPage(w.ctx, "m", last, 7)
					if err != nil || len(page) == 0 {
						break
					}
					for _, e := range page {
						seen, last = append(seen, e.Type), e.ID
						broken = errors.Join(broken, v.Next(e.Chain()))
					}
				}
				if read {
					return
				}
			}
		})
		var mu sync.Mutex
		wrote := map[string]int{}
		done := func(mesh, typ string, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				wrote[mesh+" "+typ]++
			}
		}
		together(12, func(i int) {
			mesh := []string{"m", "n"}[i/6]
			for j := range 15 {
				id := fmt.Sprintf("%d-%d", i, j)
				switch i % 6 {
				case 0:
					done(mesh, "appended", w.AppendAudit(w.ctx, mesh, event("appended")))
				case 1:
					for {
						r, _ := w.Roster(w.ctx, mesh)
						d := post("t", draft(id, "ana", "bo"))
						d.Audit = []store.AuditEvent{event("sent")}
						out, err := w.Enqueue(w.ctx, mesh, r.Version, []store.Draft{d}, store.Quota{}, noon)
						if err == nil {
							err = out[0].Err
						}
						if done(mesh, "sent", err); !errors.Is(err, store.ErrStale) {
							break
						}
					}
				case 2:
					_, err := w.OpenPresence(w.ctx, aPresence(mesh, id, "bo", key("s")), event("opened"))
					done(mesh, "opened", err)
					if j > 0 {
						done(mesh, wire.AuditPeerLeft, err)
					}
				case 3:
					done(mesh, "set", w.SetState(w.ctx, mesh, aValue(id, "ana", "1"), store.StateLimits{}, event("set")))
				case 4:
					done(mesh, "joined", w.AddMember(w.ctx, aMember(mesh, id), 0, event("joined")))
					_, err := w.RevokeMember(w.ctx, mesh, id, noon, event("banned"))
					done(mesh, "banned", err)
				case 5:
					_, _ = w.CheckpointAudit(w.ctx, after(time.Duration(2+i*15+j)*time.Hour), time.Hour, 9)
					_, _, _ = w.AuditLog(w.ctx, store.AuditQuery{MeshID: mesh, Type: "sent", Actor: "ana", Limit: 5})
				}
			}
		})
		close(finished)
		reader.Wait()
		require.NoError(w, broken)
		require.Equal(w, eventTypes(w.logged("m")), seen)
		got := map[string]int{}
		for _, mesh := range []string{"m", "n"} {
			for _, typ := range w.loggedTypes(mesh)[1:] {
				got[mesh+" "+typ]++
			}
		}
		require.Equal(w, wrote, got, "what was done was logged, and only that")
		require.Equal(w, 15, got["m sent"])
		require.Equal(w, 14, got["m "+wire.AuditPeerLeft])
	},
}

// count is the number of entries ever written to a mesh's log.
func (w *world) count(mesh string) int64 {
	w.Helper()
	head, err := w.AuditHead(w.ctx, mesh)
	require.NoError(w, err)
	return head.Count
}
