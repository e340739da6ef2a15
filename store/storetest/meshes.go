package storetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

var meshes = checks{
	"CreateMesh stores the mesh with its first topic": func(w *world) {
		want := aMesh("m")
		general := store.Topic{ID: "g", MeshID: "m", Name: "general", Description: "all", Visibility: wire.VisibilityPublic, CreatedAt: noon}
		require.NoError(w, w.CreateMesh(w.ctx, want, general))
		got, err := w.Mesh(w.ctx, "m")
		require.NoError(w, err)
		require.Equal(w, want, got)
		topic, err := w.Topic(w.ctx, "m", "general")
		require.NoError(w, err)
		require.Equal(w, general, topic)
	},
	"CreateMesh with a used id is a conflict and changes nothing": func(w *world) {
		w.mesh("m")
		again := aMesh("m")
		again.Slug = "other"
		require.ErrorIs(w, w.CreateMesh(w.ctx, again, store.Topic{ID: "x", Name: "x"}), store.ErrConflict)
		_, err := w.MeshBySlug(w.ctx, "other")
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.Topic(w.ctx, "m", "x")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"CreateMesh with a used slug is a conflict and changes nothing": func(w *world) {
		w.mesh("m")
		other := aMesh("n")
		other.Slug = aMesh("m").Slug
		require.ErrorIs(w, w.CreateMesh(w.ctx, other, store.Topic{ID: "x", Name: "x"}), store.ErrConflict)
		_, err := w.Mesh(w.ctx, "n")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"CreateMesh from many at once makes one": func(w *world) {
		var o outcomes
		together(10, func(i int) {
			o.add(w.CreateMesh(w.ctx, aMesh("m"), store.Topic{ID: "g", Name: "general", CreatedAt: noon}))
		})
		o.require(w, 1, store.ErrConflict)
	},
	"Mesh finds archived ones and no unknown ones": func(w *world) {
		w.mesh("m")
		require.NoError(w, w.ArchiveMesh(w.ctx, "m", noon))
		_, err := w.Mesh(w.ctx, "m")
		require.NoError(w, err)
		_, err = w.Mesh(w.ctx, "n")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"MeshBySlug finds by slug alone": func(w *world) {
		w.mesh("m")
		got, err := w.MeshBySlug(w.ctx, "slug-m")
		require.NoError(w, err)
		require.Equal(w, "m", got.ID)
		_, err = w.MeshBySlug(w.ctx, "m")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"Meshes pages by id, in byte order": func(w *world) {
		page := func(after string, limit int) []string {
			ms, err := w.Meshes(w.ctx, after, limit)
			require.NoError(w, err)
			ids := []string{}
			for _, m := range ms {
				ids = append(ids, m.ID)
			}
			return ids
		}
		require.Empty(w, page("", 10))
		for _, id := range []string{"b", "A", "a", "_", "Z"} {
			w.mesh(id)
		}
		require.Equal(w, []string{"A", "Z", "_", "a", "b"}, page("", 10))
		require.Equal(w, []string{"A", "Z", "_", "a", "b"}, page("", 5))
		require.Equal(w, []string{"A", "Z"}, page("", 2))
		require.Equal(w, []string{"_", "a"}, page("Z", 2))
		require.Equal(w, []string{"b"}, page("a", 2))
		require.Empty(w, page("b", 2))
	},
	"SetRootKey gives a key to a mesh that has none, once": func(w *world) {
		for _, mesh := range []string{"m", "n"} {
			bare := aMesh(mesh)
			bare.RootKey = ""
			require.NoError(w, w.CreateMesh(w.ctx, bare, store.Topic{ID: "g", Name: "general", CreatedAt: noon}))
		}
		rootKey := func(mesh string) string {
			m, err := w.Mesh(w.ctx, mesh)
			require.NoError(w, err)
			return m.RootKey
		}
		require.NoError(w, w.SetRootKey(w.ctx, "m", "one"))
		require.NoError(w, w.SetRootKey(w.ctx, "m", "one"), "the same again")
		for _, other := range []string{"two", "ONE", ""} {
			require.ErrorIs(w, w.SetRootKey(w.ctx, "m", other), store.ErrConflict, "%q", other)
		}
		require.Equal(w, "one", rootKey("m"))
		require.Empty(w, rootKey("n"))
		require.ErrorIs(w, w.SetRootKey(w.ctx, "none", "one"), store.ErrNotFound)
		var o outcomes
		together(10, func(i int) { o.add(w.SetRootKey(w.ctx, "n", fmt.Sprint("key ", i))) })
		o.require(w, 1, store.ErrConflict)
	},
	"SetMeshOwner keeps what it is given empty": func(w *world) {
		w.mesh("m", "ana")
		owner := func() [2]string {
			m, err := w.Mesh(w.ctx, "m")
			require.NoError(w, err)
			return [2]string{m.OwnerMemberID, m.OwnerPubkey}
		}
		require.NoError(w, w.SetMeshOwner(w.ctx, "m", "ana", ""))
		require.Equal(w, [2]string{"ana", key("owner of m")}, owner())
		require.NoError(w, w.SetMeshOwner(w.ctx, "m", "", key("new")))
		require.Equal(w, [2]string{"ana", key("new")}, owner())
		require.ErrorIs(w, w.SetMeshOwner(w.ctx, "n", "ana", ""), store.ErrNotFound)
	},
	"ArchiveMesh keeps the first time": func(w *world) {
		w.mesh("m")
		require.NoError(w, w.ArchiveMesh(w.ctx, "m", noon))
		require.NoError(w, w.ArchiveMesh(w.ctx, "m", after(time.Hour)))
		m, err := w.Mesh(w.ctx, "m")
		require.NoError(w, err)
		require.Equal(w, noon, m.ArchivedAt)
		require.ErrorIs(w, w.ArchiveMesh(w.ctx, "n", noon), store.ErrNotFound)
	},
	"DeleteMesh deletes everything of it and nothing else": func(w *world) {
		for _, mesh := range []string{"m", "n"} {
			w.mesh(mesh, "ana", "bo")
			w.topic(mesh, "t", "ana", "bo")
			w.open(aPresence(mesh, "p", "ana", key("s")))
			w.send(mesh, post("t", with(draft("1", "ana", "bo"), func(d *store.Draft) {
				d.Mentions, d.Message.ClientMessageID = []string{"bo"}, "c"
			})))
			k, i := anAPIKey(mesh, "k", "ana"), anInvite(mesh, "i")
			i.TokenHash += mesh
			i.Code += mesh
			require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
			require.NoError(w, w.CreateInvite(w.ctx, i))
		}
		require.NoError(w, w.DeleteMesh(w.ctx, "m"))
		require.NoError(w, w.DeleteMesh(w.ctx, "m"), "an unknown one is not an error")

		_, err := w.Mesh(w.ctx, "m")
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.Member(w.ctx, "m", "ana")
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.InviteByToken(w.ctx, anInvite("m", "i").TokenHash+"m")
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.InviteByCode(w.ctx, anInvite("m", "i").Code+"m")
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.InviteByCode(w.ctx, anInvite("n", "i").Code+"n")
		require.NoError(w, err)
		keys, err := w.APIKeysByPrefix(w.ctx, anAPIKey("m", "k", "ana").Prefix)
		require.NoError(w, err)
		require.Len(w, keys, 1)
		require.Equal(w, "n", keys[0].MeshID)
		require.Equal(w, []string{"1"}, w.mail("n", "bo"))
		n, err := w.PendingCount(w.ctx)
		require.NoError(w, err)
		require.EqualValues(w, 1, n)

		w.mesh("m", "ana", "bo")
		freed := anInvite("m", "i")
		freed.TokenHash, freed.Code = freed.TokenHash+"m", freed.Code+"m"
		require.NoError(w, w.CreateInvite(w.ctx, freed), "its token and its code are free again")
		require.Empty(w, w.mail("m", "bo"), "made again, it is empty")
		seq, err := w.LastSeq(w.ctx, "m")
		require.NoError(w, err)
		require.Zero(w, seq)
	},
	"an unknown mesh has nothing and takes nothing": func(w *world) {
		_, err := w.Roster(w.ctx, "m")
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.LastSeq(w.ctx, "m")
		require.ErrorIs(w, err, store.ErrNotFound)
		require.ErrorIs(w, w.AddMember(w.ctx, aMember("m", "ana"), 0), store.ErrNotFound)
		_, _, err = w.CreateTopic(w.ctx, store.NewTopic{Topic: aTopic("m", "t", "")})
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.OpenPresence(w.ctx, aPresence("m", "p", "ana", ""))
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.Enqueue(w.ctx, "m", 1, []store.Draft{draft("1", "ana")}, store.Quota{}, noon)
		require.ErrorIs(w, err, store.ErrNotFound)
		require.ErrorIs(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k", ""), 0), store.ErrNotFound)
		require.ErrorIs(w, w.CreateInvite(w.ctx, anInvite("m", "i")), store.ErrNotFound)
		ms, err := w.Members(w.ctx, "m")
		require.NoError(w, err)
		require.Empty(w, ms)
		ts, err := w.Topics(w.ctx, "m")
		require.NoError(w, err)
		require.Empty(w, ts)
		require.Empty(w, w.mail("m", "ana"))
		require.Empty(w, w.ack("m", "ana", "1"))
	},
}

var rosters = checks{
	"Roster lists members that are not revoked by JoinedAt, then in the order in which they were stored": func(w *world) {
		w.mesh("m")
		for _, j := range []struct {
			id string
			at time.Time
		}{{"c", noon}, {"a", after(time.Second)}, {"Z", noon}, {"b", noon}, {"d", after(-time.Second)}, {"gone", noon}} {
			m := aMember("m", j.id)
			m.JoinedAt = j.at
			require.NoError(w, w.AddMember(w.ctx, m, 0))
		}
		_, err := w.RevokeMember(w.ctx, "m", "gone", noon)
		require.NoError(w, err)
		r, err := w.Roster(w.ctx, "m")
		require.NoError(w, err)
		ids := []string{}
		for _, m := range r.Members {
			ids = append(ids, m.ID)
		}
		require.Equal(w, []string{"d", "c", "Z", "b", "a"}, ids)
	},
	"Roster holds grants, saved peer state, open presences, topics and subscribers": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		require.NoError(w, w.SavePeerState(w.ctx, "m", "ana", store.PeerStateUpdate{Groups: &[]wire.Group{{Name: "g"}}, Visible: ptr(false)}, noon))
		p := aPresence("m", "p", "ana", key("s"))
		p.Groups, p.Visible = []wire.Group{{Name: "dev", Role: "lead"}}, false
		w.open(p)
		lost := w.open(aPresence("m", "q", "ana", key("s2")))
		lost.LeaseUntil = after(time.Minute)
		_, err := w.SavePresences(w.ctx, []store.Presence{lost})
		require.NoError(w, err)
		closed := w.open(aPresence("m", "r", "ana", key("s3")))
		_, err = w.ClosePresence(w.ctx, "m", "r", closed.BrokerID, closed.Epoch, noon)
		require.NoError(w, err)
		w.topic("m", "z", "bo", "ana", "cy")
		w.topic("m", "Y", "bo")
		w.topic("m", "old", "bo")
		_, err = w.ArchiveTopic(w.ctx, "m", "old", noon)
		require.NoError(w, err)
		_, err = w.RevokeMember(w.ctx, "m", "cy", noon)
		require.NoError(w, err)

		r, err := w.Roster(w.ctx, "m")
		require.NoError(w, err)
		require.Len(w, r.Members, 2)
		ana := r.Members[0]
		require.Equal(w, aMember("m", "ana").Grants, ana.Grants)
		require.NotNil(w, ana.Saved)
		require.False(w, ana.Saved.Visible)
		require.Equal(w, []wire.Group{{Name: "g"}}, ana.Saved.Groups)
		require.Len(w, ana.Presences, 2, "open ones, in grace or not")
		require.ElementsMatch(w, []string{"p", "q"}, []string{ana.Presences[0].ID, ana.Presences[1].ID})
		for _, got := range ana.Presences {
			if got.ID == "p" {
				require.Equal(w, store.RosterPresence{ID: "p", SessionPubkey: key("s"), Groups: p.Groups}, got)
			}
		}
		require.Nil(w, r.Members[1].Saved)
		require.Empty(w, r.Members[1].Presences)
		names := []string{}
		for _, t := range r.Topics {
			names = append(names, t.Name)
		}
		require.Equal(w, []string{"Y", "general", "z"}, names, "not archived, by bytes")
		z := r.Topics[2]
		require.Equal(w, aTopic("m", "z", "bo"), z.Topic)
		require.Len(w, z.Subscribers, 2)
		require.Equal(w, "ana", z.Subscribers[0].MemberID)
		require.Equal(w, "bo", z.Subscribers[1].MemberID)
		require.Equal(w, wire.TopicLead, z.Subscribers[1].Role)
	},
	"a snapshot never changes": func(w *world) {
		w.mesh("m", "ana")
		p := w.open(aPresence("m", "p", "ana", ""))
		require.NoError(w, w.SavePeerState(w.ctx, "m", "ana", store.PeerStateUpdate{}, noon))
		old, err := w.Roster(w.ctx, "m")
		require.NoError(w, err)
		version := old.Version

		require.NoError(w, w.SetGrants(w.ctx, "m", "ana", map[string]*[]string{key("friend"): nil}, 0))
		require.NoError(w, w.SetRole(w.ctx, "m", "ana", store.RoleAdmin))
		require.NoError(w, w.SavePeerState(w.ctx, "m", "ana", store.PeerStateUpdate{Visible: ptr(false)}, noon))
		p.Visible = false
		_, err = w.SavePresences(w.ctx, []store.Presence{p})
		require.NoError(w, err)
		_, err = w.Unsubscribe(w.ctx, "m", "general-id", "ana", noon)
		require.NoError(w, err)

		require.Equal(w, version, old.Version)
		require.Equal(w, aMember("m", "ana").Grants, old.Members[0].Grants)
		require.Equal(w, store.RoleMember, old.Members[0].Role)
		require.True(w, old.Members[0].Saved.Visible)
		require.True(w, old.Members[0].Presences[0].Visible)
		require.Len(w, old.Topics[0].Subscribers, 1)
	},
	"every change by which recipients are chosen raises the version": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		k := store.SealedKey{EncryptedKey: "e", Nonce: "n", SealedByMemberID: "ana", CreatedAt: noon}
		p := aPresence("m", "p", "ana", key("s"))
		save := func(change func(*store.Presence)) func() error {
			return func() error {
				change(&p)
				lost, err := w.SavePresences(w.ctx, []store.Presence{p})
				require.Empty(w, lost)
				return err
			}
		}
		for _, change := range []struct {
			what string
			do   func() error
		}{
			{"AddMember", func() error { return w.AddMember(w.ctx, aMember("m", "cy"), 0) }},
			{"RedeemInvite", func() error {
				require.NoError(w, w.CreateInvite(w.ctx, anInvite("m", "i")))
				_, _, err := w.RedeemInvite(w.ctx, store.Redemption{TokenHash: anInvite("m", "i").TokenHash, Member: aMember("m", "dee"), Now: noon})
				return err
			}},
			{"SetGrants", func() error { return w.SetGrants(w.ctx, "m", "bo", map[string]*[]string{key("x"): {"dm"}}, 0) }},
			{"SetRole", func() error { return w.SetRole(w.ctx, "m", "bo", store.RoleAdmin) }},
			{"RevokeMember", func() error { return second(w.RevokeMember(w.ctx, "m", "bo", noon)) }},
			{"RestoreMember", func() error { return w.RestoreMember(w.ctx, "m", "bo") }},
			{"RekeyMember", func() error { return w.RekeyMember(w.ctx, "m", "bo", key("bo2"), noon) }},
			{"OpenPresence", func() error { epoch, err := w.OpenPresence(w.ctx, p); p.Epoch = epoch; return err }},
			{"SavePresences: groups", save(func(p *store.Presence) { p.Groups = []wire.Group{{Name: "g"}} })},
			{"SavePresences: a group's role", save(func(p *store.Presence) { p.Groups = []wire.Group{{Name: "g", Role: "r"}} })},
			{"SavePresences: visible", save(func(p *store.Presence) { p.Visible = false })},
			{"ClosePresence", func() error { return second(w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon)) }},
			{"SavePeerState: the first", func() error { return w.SavePeerState(w.ctx, "m", "ana", store.PeerStateUpdate{}, noon) }},
			{"SavePeerState: groups", func() error {
				return w.SavePeerState(w.ctx, "m", "ana", store.PeerStateUpdate{Groups: &[]wire.Group{{Name: "g"}}}, noon)
			}},
			{"SavePeerState: visible", func() error {
				return w.SavePeerState(w.ctx, "m", "ana", store.PeerStateUpdate{Visible: ptr(false)}, noon)
			}},
			{"CreateTopic", func() error { return third(w.CreateTopic(w.ctx, store.NewTopic{Topic: aTopic("m", "u", "ana")})) }},
			{"Subscribe", func() error { return second(w.Subscribe(w.ctx, "m", "t", "bo", wire.TopicMember, false, noon)) }},
			{"Subscribe: role", func() error { return second(w.Subscribe(w.ctx, "m", "t", "bo", wire.TopicLead, true, noon)) }},
			{"Unsubscribe", func() error { return second(w.Unsubscribe(w.ctx, "m", "t", "bo", noon)) }},
			{"MarkRead that subscribes", func() error { return second(w.MarkRead(w.ctx, "m", "t", "bo", true, noon)) }},
			{"ClaimTopicKey", func() error { return w.ClaimTopicKey(w.ctx, "m", "t", "ana", key("x"), k, false) }},
			{"ArchiveTopic", func() error { return second(w.ArchiveTopic(w.ctx, "m", "t", noon)) }},
			{"RestoreTopic", func() error { return w.RestoreTopic(w.ctx, "m", "t") }},
			{"AdoptPresences that closes", func() error {
				q := aPresence("m", "q", "ana", "")
				q.LeaseUntil, q.BrokerID = noon, "dead"
				w.open(q)
				before := w.version("m")
				out, err := w.AdoptPresences(w.ctx, "b2", noon, time.Second, time.Minute)
				require.Len(w, out, 1)
				require.Greater(w, w.version("m"), before)
				return err
			}},
		} {
			before := w.version("m")
			require.NoError(w, change.do(), change.what)
			now := w.version("m")
			require.Greater(w, now, before, change.what)
			_, err := w.Enqueue(w.ctx, "m", before, []store.Draft{draft("x", "ana", "ana")}, store.Quota{}, noon)
			require.ErrorIs(w, err, store.ErrStale, change.what)
		}
	},
	"reading and mail do not raise the version": func(w *world) {
		w.mesh("m", "ana", "bo")
		before := w.version("m")
		w.send("m", draft("1", "ana", "bo"))
		w.mail("m", "bo")
		w.ack("m", "bo", "1")
		_, err := w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		_, err = w.Topics(w.ctx, "m")
		require.NoError(w, err)
		_, err = w.MarkRead(w.ctx, "m", "general-id", "ana", true, noon)
		require.NoError(w, err)
		_, err = w.Expire(w.ctx, after(2*time.Hour), 0, 10)
		require.NoError(w, err)
		require.Equal(w, before, w.version("m"))
	},
	"versions of meshes are their own": func(w *world) {
		w.mesh("m", "ana")
		w.mesh("n", "ana")
		before := w.version("n")
		w.join("m", "bo")
		require.Equal(w, before, w.version("n"))
	},
	"members that join at once are all in it": func(w *world) {
		w.mesh("m")
		names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
		together(len(names), func(i int) {
			_ = w.AddMember(w.ctx, aMember("m", names[i]), 0)
			_, _ = w.Roster(w.ctx, "m")
		})
		r, err := w.Roster(w.ctx, "m")
		require.NoError(w, err)
		require.Len(w, r.Members, len(names))
		require.Len(w, r.Topics[0].Subscribers, len(names))
	},
}

func third(_, _ any, err error) error { return err }
