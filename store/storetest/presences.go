package storetest

import (
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// adoptAll makes broker "all" the owner of every presence, and so reads them.
func (w *world) adoptAll(now time.Time) map[string]store.Presence {
	w.Helper()
	ps, err := w.AdoptPresences(w.ctx, "all", now, time.Nanosecond, time.Hour)
	require.NoError(w, err)
	out := map[string]store.Presence{}
	for _, p := range ps {
		out[p.ID] = p
	}
	return out
}

var presences = checks{
	"OpenPresence keeps every field": func(w *world) {
		w.mesh("m", "ana")
		want := aPresence("m", "p", "ana", key("s"))
		want.DisplayName, want.PID, want.Cwd, want.Summary = "Ana", 1<<40, "/tmp/ü", ptr("")
		want.Groups, want.Profile = []wire.Group{{Name: "g", Role: "r"}}, wire.Profile{Title: ptr("t"), Capabilities: &[]string{"c"}}
		want.Stats, want.StatsRestored = &wire.Stats{Errors: ptr(2.0)}, true
		want.Hostname, want.PeerType, want.Channel, want.Model = "host", "ai", "chan", "model"
		want.LeaseUntil, want.Attestation = after(time.Hour), anAttestation("ana")
		require.EqualValues(w, 1, w.open(want).Epoch)
		want.BrokerID, want.Epoch = "all", 2
		require.Equal(w, map[string]store.Presence{"p": want}, w.adoptAll(noon))
	},
	"OpenPresence of the same ID takes the row over and raises the epoch": func(w *world) {
		w.mesh("m", "ana")
		first := w.open(aPresence("m", "p", "ana", key("s")))
		next := aPresence("m", "p", "ana", key("s"))
		next.BrokerID, next.SessionID, next.Cwd = "b2", "other", "/new"
		second := w.open(next)
		require.Greater(w, second.Epoch, first.Epoch)
		lost, err := w.SavePresences(w.ctx, []store.Presence{first})
		require.NoError(w, err)
		require.Equal(w, []string{"p"}, lost)
		got := w.adoptAll(noon)
		require.Len(w, got, 1)
		require.Equal(w, "/new", got["p"].Cwd)
	},
	"OpenPresence of a closed ID opens it again, with a higher epoch": func(w *world) {
		w.mesh("m", "ana")
		first := w.open(aPresence("m", "p", "ana", key("s")))
		_, err := w.ClosePresence(w.ctx, "m", "p", first.BrokerID, first.Epoch, noon)
		require.NoError(w, err)
		second := w.open(aPresence("m", "p", "ana", key("s")))
		require.Greater(w, second.Epoch, first.Epoch)
		_, seen, err := w.SessionKeyOwner(w.ctx, "m", key("s"), after(time.Hour))
		require.NoError(w, err)
		require.Equal(w, after(time.Hour), seen, "it is open")
	},
	"OpenPresence with the ID of another member or session key is a conflict": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.open(aPresence("m", "p", "ana", key("s")))
		_, err := w.OpenPresence(w.ctx, aPresence("m", "p", "bo", ""))
		require.ErrorIs(w, err, store.ErrConflict)
		_, err = w.OpenPresence(w.ctx, aPresence("m", "p", "ana", key("other")))
		require.ErrorIs(w, err, store.ErrConflict)
	},
	"OpenPresence refuses keys of other members, and former ones": func(w *world) {
		w.mesh("m", "ana", "bo")
		require.NoError(w, w.RekeyMember(w.ctx, "m", "bo", key("bo2"), noon))
		for _, k := range []string{"bo", "bo2"} {
			_, err := w.OpenPresence(w.ctx, aPresence("m", "p", "ana", key(k)))
			require.ErrorIs(w, err, store.ErrKeyInUse, k)
		}
		require.Empty(w, w.adoptAll(noon), "nothing was changed")
		w.open(aPresence("m", "p", "ana", key("ana"))) // its own is no theft
	},
	"OpenPresence refuses the session key of another member, open or closed, until it is pruned": func(w *world) {
		w.mesh("m", "ana", "bo")
		p := w.open(aPresence("m", "p", "ana", key("s")))
		theft := aPresence("m", "q", "bo", key("s"))
		_, err := w.OpenPresence(w.ctx, theft)
		require.ErrorIs(w, err, store.ErrKeyInUse)
		_, err = w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon)
		require.NoError(w, err)
		_, err = w.OpenPresence(w.ctx, theft)
		require.ErrorIs(w, err, store.ErrKeyInUse)
		w.open(aPresence("m", "p2", "ana", key("s"))) // its own member may
		w.pruned(after(24*time.Hour), store.Retention{Presences: time.Hour})
		_, err = w.OpenPresence(w.ctx, theft)
		require.ErrorIs(w, err, store.ErrKeyInUse, "p2 is open")
		own := w.adoptAll(after(24 * time.Hour))["p2"]
		_, err = w.ClosePresence(w.ctx, "m", "p2", own.BrokerID, own.Epoch, after(24*time.Hour))
		require.NoError(w, err)
		w.pruned(after(25*time.Hour), store.Retention{Presences: time.Hour})
		_, err = w.OpenPresence(w.ctx, theft)
		require.NoError(w, err)
	},
	"OpenPresence with one session key by two members at once: one gets it": func(w *world) {
		names := []string{}
		for i := range 8 {
			names = append(names, fmt.Sprint("m", i))
		}
		w.mesh("m", names...)
		var o outcomes
		together(len(names), func(i int) {
			_, err := w.OpenPresence(w.ctx, aPresence("m", fmt.Sprint("p", i), names[i], key("s")))
			o.add(err)
		})
		o.require(w, 1, store.ErrKeyInUse)
		require.Len(w, w.adoptAll(noon), 1)
	},
	"OpenPresence of a revoked or unknown member fails": func(w *world) {
		w.mesh("m", "ana")
		_, err := w.RevokeMember(w.ctx, "m", "ana", noon)
		require.NoError(w, err)
		_, err = w.OpenPresence(w.ctx, aPresence("m", "p", "ana", ""))
		require.ErrorIs(w, err, store.ErrRevoked)
		_, err = w.OpenPresence(w.ctx, aPresence("m", "p", "bo", ""))
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"OpenPresence closes the member's others of the session key or SessionID, and no more": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.open(aPresence("m", "same key", "ana", key("s")))
		sameID := aPresence("m", "same id", "ana", "")
		sameID.SessionID = "x"
		w.open(sameID)
		other := sameID
		other.ID, other.MemberID = "another member", "bo"
		w.open(other)
		w.open(aPresence("m", "no key", "ana", ""))
		p := aPresence("m", "p", "ana", key("s"))
		p.SessionID, p.ConnectedAt = "x", after(time.Minute)
		w.open(p)
		got := w.adoptAll(noon)
		require.Len(w, got, 3)
		for _, id := range []string{"another member", "no key", "p"} {
			require.Contains(w, got, id)
		}
	},
	"a presence without a session key does not close another without": func(w *world) {
		w.mesh("m", "ana")
		w.open(aPresence("m", "p", "ana", ""))
		w.open(aPresence("m", "q", "ana", ""))
		require.Len(w, w.adoptAll(noon), 2)
	},
	"OpenPresence of one session many times at once leaves one open": func(w *world) {
		w.mesh("m", "ana")
		together(10, func(i int) {
			p := aPresence("m", fmt.Sprint("p", i), "ana", key("s"))
			p.SessionID = "one"
			_, _ = w.OpenPresence(w.ctx, p)
		})
		require.Len(w, w.adoptAll(noon), 1)
	},
	"SavePresences writes only where BrokerID and Epoch match, and names the others": func(w *world) {
		w.mesh("m", "ana")
		w.mesh("n", "ana")
		p := w.open(aPresence("m", "p", "ana", key("s")))
		p.Status, p.Summary, p.LeaseUntil, p.Groups = wire.StatusDND, ptr("busy"), after(time.Hour), []wire.Group{{Name: "g"}}
		p.Attestation = anAttestation("ana")
		stale, foreign, unknown, noMesh := p, p, p, p
		stale.Epoch++
		foreign.BrokerID = "b2"
		unknown.MeshID = "n"
		noMesh.MeshID = "none"
		stale.Cwd, foreign.Cwd = "wrong", "wrong"
		lost, err := w.SavePresences(w.ctx, []store.Presence{stale, p, foreign, unknown, noMesh})
		require.NoError(w, err)
		require.Equal(w, []string{"p", "p", "p", "p"}, lost)
		want := p
		want.BrokerID, want.Epoch = "all", p.Epoch+1
		require.Equal(w, map[string]store.Presence{"p": want}, w.adoptAll(noon))
		lost, err = w.SavePresences(w.ctx, nil)
		require.NoError(w, err)
		require.Empty(w, lost)
	},
	"SavePresences cannot give a presence another member or key": func(w *world) {
		w.mesh("m", "ana", "bo")
		p := w.open(aPresence("m", "p", "ana", key("s")))
		bad := p
		bad.MemberID, bad.SessionPubkey, bad.SessionID = "bo", key("bo"), "x"
		_, err := w.SavePresences(w.ctx, []store.Presence{bad})
		require.NoError(w, err)
		got := w.adoptAll(noon)["p"]
		require.Equal(w, []string{p.MemberID, p.SessionPubkey, p.SessionID}, []string{got.MemberID, got.SessionPubkey, got.SessionID})
	},
	"an attestation is that of the socket which came last, or none": func(w *world) {
		w.mesh("m", "ana")
		p := aPresence("m", "p", "ana", key("s"))
		for i, a := range []*wire.Attestation{anAttestation("ana"), anAttestation("bo"), nil} {
			p.Attestation, p.BrokerID = a, "b1"
			w.open(p)
			require.Equal(w, a, w.adoptAll(noon)["p"].Attestation, "%d", i)
		}
	},
	"the caller may reuse the attestation that it gave": func(w *world) {
		w.mesh("m", "ana")
		p := aPresence("m", "p", "ana", key("s"))
		p.Attestation = anAttestation("ana")
		p = w.open(p)
		p.Attestation.Signature, *p.Attestation.ExpiresAt = "changed", 1
		require.Equal(w, anAttestation("ana"), w.adoptAll(noon)["p"].Attestation)
		p.Attestation, p.BrokerID, p.Epoch = anAttestation("ana"), "all", p.Epoch+1
		lost, err := w.SavePresences(w.ctx, []store.Presence{p})
		require.NoError(w, err)
		require.Empty(w, lost)
		*p.Attestation.ExpiresAt = 1
		got, err := w.AdoptPresences(w.ctx, "others", noon, time.Nanosecond, time.Hour)
		require.NoError(w, err)
		require.Equal(w, anAttestation("ana"), got[0].Attestation)
	},
	"SavePresences ignores closed rows": func(w *world) {
		w.mesh("m", "ana")
		p := w.open(aPresence("m", "p", "ana", ""))
		_, err := w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon)
		require.NoError(w, err)
		lost, err := w.SavePresences(w.ctx, []store.Presence{p})
		require.NoError(w, err)
		require.Equal(w, []string{"p"}, lost)
		require.Empty(w, w.adoptAll(noon))
	},
	"ClosePresence closes once, for its broker and epoch": func(w *world) {
		w.mesh("m", "ana")
		p := w.open(aPresence("m", "p", "ana", key("s")))
		for _, c := range []struct {
			mesh, id, broker string
			epoch            int64
			want             bool
		}{
			{"m", "p", "b2", p.Epoch, false},
			{"m", "p", "b1", p.Epoch + 1, false},
			{"m", "q", "b1", p.Epoch, false},
			{"n", "p", "b1", p.Epoch, false},
			{"m", "p", "b1", p.Epoch, true},
			{"m", "p", "b1", p.Epoch, false},
		} {
			got, err := w.ClosePresence(w.ctx, c.mesh, c.id, c.broker, c.epoch, after(time.Second))
			require.NoError(w, err)
			require.Equal(w, c.want, got, "%+v", c)
		}
		_, seen, err := w.SessionKeyOwner(w.ctx, "m", key("s"), after(time.Hour))
		require.NoError(w, err)
		require.Equal(w, after(time.Second), seen)
	},
	"ClosePresence by many at once closes once": func(w *world) {
		w.mesh("m", "ana")
		p := w.open(aPresence("m", "p", "ana", ""))
		var mu sync.Mutex
		won := 0
		together(10, func(int) {
			if ok, _ := w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon); ok {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
		require.Equal(w, 1, won)
	},
	"SessionKeyOwner: now while open, else the latest close": func(w *world) {
		w.mesh("m", "ana")
		_, _, err := w.SessionKeyOwner(w.ctx, "m", key("s"), noon)
		require.ErrorIs(w, err, store.ErrNotFound)
		p := w.open(aPresence("m", "p", "ana", key("s")))
		owner, seen, err := w.SessionKeyOwner(w.ctx, "m", key("s"), after(time.Hour))
		require.NoError(w, err)
		require.Equal(w, "ana", owner)
		require.Equal(w, after(time.Hour), seen)
		_, err = w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, after(time.Minute))
		require.NoError(w, err)
		q := w.open(aPresence("m", "q", "ana", key("s")))
		_, err = w.ClosePresence(w.ctx, "m", "q", q.BrokerID, q.Epoch, after(time.Second))
		require.NoError(w, err)
		_, seen, err = w.SessionKeyOwner(w.ctx, "m", key("s"), after(time.Hour))
		require.NoError(w, err)
		require.Equal(w, after(time.Minute), seen)
		w.pruned(after(time.Hour), store.Retention{Presences: time.Minute})
		_, _, err = w.SessionKeyOwner(w.ctx, "m", key("s"), noon)
		require.ErrorIs(w, err, store.ErrNotFound, "forgotten with its presences")
	},
	"AdoptPresences takes those of the dead, at the exact moment": func(w *world) {
		w.mesh("m", "ana")
		w.mesh("n", "ana")
		for i, owner := range []string{"alive", "dead", "silent", "me"} {
			p := aPresence([]string{"m", "n"}[i%2], "of "+owner, "ana", "")
			p.BrokerID = owner
			w.open(p)
		}
		require.NoError(w, w.Beat(w.ctx, "alive", after(time.Microsecond)))
		require.NoError(w, w.Beat(w.ctx, "dead", noon))
		require.NoError(w, w.Beat(w.ctx, "dead", after(-time.Minute))) // a beat never goes back
		now := after(15 * time.Second)
		got, err := w.AdoptPresences(w.ctx, "me", now, 15*time.Second, 90*time.Second)
		require.NoError(w, err)
		require.Len(w, got, 2)
		leases := map[string]time.Time{}
		for _, p := range got {
			require.Equal(w, "me", p.BrokerID)
			require.EqualValues(w, 2, p.Epoch)
			require.Zero(w, p.DisconnectedAt)
			leases[p.ID] = p.LeaseUntil
		}
		require.Equal(w, map[string]time.Time{"of dead": after(90 * time.Second), "of silent": now.Add(90 * time.Second)}, leases)
		got, err = w.AdoptPresences(w.ctx, "me", now, 15*time.Second, 90*time.Second)
		require.NoError(w, err)
		require.Empty(w, got, "a broker does not adopt from itself")
	},
	"AdoptPresences keeps leases and closes those that have ended": func(w *world) {
		w.mesh("m", "ana")
		for id, lease := range map[string]time.Time{"ended": noon, "running": after(time.Microsecond)} {
			p := aPresence("m", id, "ana", "")
			p.LeaseUntil = lease
			w.open(p)
		}
		got := w.adoptAll(noon)
		require.Len(w, got, 2)
		require.Equal(w, noon, got["ended"].DisconnectedAt)
		require.Zero(w, got["running"].DisconnectedAt)
		require.Equal(w, after(time.Microsecond), got["running"].LeaseUntil)
	},
	"AdoptPresences by many at once: each presence goes to one": func(w *world) {
		w.mesh("m", "ana")
		for i := range 20 {
			w.open(aPresence("m", fmt.Sprint("p", i), "ana", ""))
		}
		for i := range 4 {
			require.NoError(w, w.Beat(w.ctx, fmt.Sprint("n", i), noon))
		}
		var mu sync.Mutex
		owners := map[string]int{}
		together(4, func(i int) {
			ps, _ := w.AdoptPresences(w.ctx, fmt.Sprint("n", i), noon, time.Minute, time.Minute)
			mu.Lock()
			defer mu.Unlock()
			for _, p := range ps {
				owners[p.ID]++
			}
		})
		require.Len(w, owners, 20)
		for id, n := range owners {
			require.Equal(w, 1, n, id)
		}
	},
	"ReleasePresences puts a broker's own into grace, and others adopt them at once": func(w *world) {
		w.mesh("m", "ana")
		require.NoError(w, w.Beat(w.ctx, "b1", noon))
		w.open(aPresence("m", "p", "ana", ""))
		q := aPresence("m", "q", "ana", "")
		q.LeaseUntil = after(time.Second)
		w.open(q)
		other := aPresence("m", "r", "ana", "")
		other.BrokerID = "b2"
		w.open(other)
		require.NoError(w, w.Beat(w.ctx, "b2", noon))
		require.NoError(w, w.ReleasePresences(w.ctx, "b1", after(time.Minute)))
		got, err := w.AdoptPresences(w.ctx, "b3", noon, 15*time.Second, time.Hour)
		require.NoError(w, err)
		leases := map[string]time.Time{}
		for _, p := range got {
			leases[p.ID] = p.LeaseUntil
		}
		require.Equal(w, map[string]time.Time{"p": after(time.Minute), "q": after(time.Second)}, leases)
	},
	"ClaimOnce is first once, until its time": func(w *world) {
		w.mesh("m")
		w.mesh("n")
		claim := func(mesh, k, value string, until, now time.Time) [2]bool {
			first, same, err := w.ClaimOnce(w.ctx, mesh, k, value, until, now)
			require.NoError(w, err)
			return [2]bool{first, same}
		}
		until := after(time.Minute)
		require.True(w, claim("m", "k", "v", until, noon)[0])
		require.Equal(w, [2]bool{false, true}, claim("m", "k", "v", after(time.Hour), noon))
		require.Equal(w, [2]bool{false, false}, claim("m", "k", "other", after(time.Hour), noon))
		require.True(w, claim("m", "k2", "v", until, noon)[0])
		require.True(w, claim("n", "k", "v", until, noon)[0])
		require.False(w, claim("m", "k", "v", until, until.Add(-time.Microsecond))[0])
		require.True(w, claim("m", "k", "other", after(time.Hour), until)[0], "expired at that time")
		require.Equal(w, [2]bool{false, true}, claim("m", "k", "other", until, until))
	},
	"ClaimOnce by many at once: one is first": func(w *world) {
		w.mesh("m")
		var mu sync.Mutex
		firsts := 0
		together(20, func(i int) {
			if first, _, _ := w.ClaimOnce(w.ctx, "m", "k", fmt.Sprint(i), after(time.Minute), noon); first {
				mu.Lock()
				firsts++
				mu.Unlock()
			}
		})
		require.Equal(w, 1, firsts)
	},
}
