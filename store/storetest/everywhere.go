package storetest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// texts are values that careless stores change or choke on.
var texts = []string{
	" ", "'; DROP TABLE message; --", `"quoted" \back\slash %_like $1 ?`, "👩‍👩‍👧‍👦 ❤️‍🔥", "e\u0301 versus é", "ﬁ Ａ \u202eright to left",
	"line\nbreak\ttab\r\n", "\u007f\u0080\u200b\ufeff", `{"b":1,"a":[1.0,1e2,"\u00e9"],"b":2}`, "\U0010ffff", strings.Repeat("long ", 20_000),
}

var everywhere = checks{
	"text comes back byte for byte": func(w *world) {
		w.mesh("m", "ana", "bo")
		for i, text := range texts {
			id := fmt.Sprint("x", i)
			m := aMember("m", id)
			m.Name, m.RoleTag, m.DefaultGroups = text, text, []wire.Group{{Name: text, Role: text}}
			m.Grants = map[string][]string{text: {text}}
			require.NoError(w, w.AddMember(w.ctx, m, 0))
			got, err := w.Member(w.ctx, "m", id)
			require.NoError(w, err)
			require.Equal(w, m, got)

			d := clientID(text[:min(len(text), 64)], draft(id, "ana", "bo"))
			d.Message.Ciphertext, d.Message.SenderName, d.Message.Group = text, text, text
			w.send("m", d)
			sent, err := w.Sent(w.ctx, "m", "ana", d.Message.ClientMessageID)
			require.NoError(w, err)
			require.Equal(w, []string{text, text, text}, []string{sent.Ciphertext, sent.SenderName, sent.Group})

			t := aTopic("m", id, "ana")
			t.Name, t.Description = text[:min(len(text), 64)], text
			w.create(store.NewTopic{Topic: t})
			found, err := w.Topic(w.ctx, "m", t.Name)
			require.NoError(w, err)
			require.Equal(w, t, found)

			u := store.PeerStateUpdate{LastSummary: &text, Profile: &wire.Profile{Bio: &text, Capabilities: &[]string{text}}, Groups: &[]wire.Group{{Name: text}}}
			require.NoError(w, w.SavePeerState(w.ctx, "m", "ana", u, noon))
			p, err := w.PeerState(w.ctx, "m", "ana")
			require.NoError(w, err)
			require.Equal(w, text, p.LastSummary)
			require.Equal(w, *u.Profile, p.Profile)
			require.Equal(w, *u.Groups, p.Groups)
		}
	},
	"an operation whose context is over does nothing": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		w.send("m", draft("0", "ana", "bo"))
		p := w.open(aPresence("m", "p", "ana", key("s")))
		require.NoError(w, w.CreateInvite(w.ctx, anInvite("m", "i")))
		require.NoError(w, w.SetState(w.ctx, "m", aValue("k", "ana", "1"), store.StateLimits{}))
		w.record("m", event("before"))
		version := w.version("m")
		over, cancel := context.WithCancel(w.ctx)
		cancel()
		for what, err := range map[string]error{
			"CreateMesh":      w.CreateMesh(over, aMesh("n"), store.Topic{}),
			"ArchiveMesh":     w.ArchiveMesh(over, "m", noon),
			"DeleteMesh":      w.DeleteMesh(over, "m"),
			"SetMeshOwner":    w.SetMeshOwner(over, "m", "ana", ""),
			"SetRootKey":      w.SetRootKey(over, "m", "root"),
			"Mesh":            second(w.Mesh(over, "m")),
			"Meshes":          second(w.Meshes(over, "", 1)),
			"Roster":          second(w.Roster(over, "m")),
			"AddMember":       w.AddMember(over, aMember("m", "cy"), 0),
			"Members":         second(w.Members(over, "m")),
			"RevokedMembers":  second(w.RevokedMembers(over, "m")),
			"SetRole":         w.SetRole(over, "m", "ana", store.RoleAdmin),
			"RevokeMember":    second(w.RevokeMember(over, "m", "ana", noon)),
			"RekeyMember":     w.RekeyMember(over, "m", "ana", key("2"), noon),
			"TouchMember":     w.TouchMember(over, "m", "ana", noon),
			"SavePeerState":   w.SavePeerState(over, "m", "ana", store.PeerStateUpdate{}, noon),
			"OpenPresence":    second(w.OpenPresence(over, aPresence("m", "q", "ana", ""))),
			"SavePresences":   second(w.SavePresences(over, []store.Presence{p})),
			"ClosePresence":   second(w.ClosePresence(over, "m", "p", p.BrokerID, p.Epoch, noon)),
			"AdoptPresences":  second(w.AdoptPresences(over, "b9", noon, 1, 1)),
			"Release":         w.ReleasePresences(over, "b1", noon),
			"Beat":            w.Beat(over, "b1", noon),
			"ClaimOnce":       third(w.ClaimOnce(over, "m", "k", "v", after(time.Hour), noon)),
			"Enqueue":         second(w.Enqueue(over, "m", version, []store.Draft{draft("1", "ana", "bo")}, store.Quota{}, noon)),
			"Pending":         second(w.Pending(over, pendingQuery("m", "bo"))),
			"Ack":             second(w.Ack(over, []store.Ack{anAck("m", "bo", "0")})),
			"Message":         second(w.Message(over, "m", "0")),
			"History":         second(w.History(over, store.HistoryQuery{MeshID: "m", TopicID: "t", Limit: 1})),
			"CreateTopic":     third(w.CreateTopic(over, store.NewTopic{Topic: aTopic("m", "u", "ana")})),
			"Subscribe":       second(w.Subscribe(over, "m", "t", "bo", wire.TopicMember, false, noon)),
			"Unsubscribe":     second(w.Unsubscribe(over, "m", "t", "ana", noon)),
			"Unread":          second(w.Unread(over, "m", "ana", []string{"t"}, 1)),
			"ArchiveTopic":    second(w.ArchiveTopic(over, "m", "t", noon)),
			"ClaimTopicKey":   w.ClaimTopicKey(over, "m", "t", "ana", key("x"), aKey("ana"), false),
			"CreateAPIKey":    w.CreateAPIKey(over, anAPIKey("m", "k", "ana"), 0),
			"APIKeysByPrefix": second(w.APIKeysByPrefix(over, "cm_12345678")),
			"CreateInvite":    w.CreateInvite(over, anInvite("m", "j")),
			"InviteByToken":   second(w.InviteByToken(over, anInvite("m", "i").TokenHash)),
			"InviteByCode":    second(w.InviteByCode(over, anInvite("m", "i").Code)),
			"RevokeInvite":    w.RevokeInvite(over, "m", "i", noon),
			"RedeemInvite":    third(w.RedeemInvite(over, store.Redemption{TokenHash: anInvite("m", "i").TokenHash, Member: aMember("m", "cy"), Now: noon})),
			"RedeemInvite 2":  third(w.RedeemInvite(over, store.Redemption{Code: anInvite("m", "i").Code, Member: aMember("m", "cy"), Now: noon})),
			"Notifications":   second(w.Notifications(over, store.NotificationQuery{MeshID: "m", MemberID: "ana", Limit: 1})),
			"SetState":        w.SetState(over, "m", aValue("k", "ana", "2"), store.StateLimits{}),
			"DeleteState":     second(w.DeleteState(over, "m", "k")),
			"StateEntry":      second(w.StateEntry(over, "m", "k")),
			"StateEntries":    second(w.StateEntries(over, "m", "", 1)),
			"StateKeys":       second(w.StateKeys(over, "m")),
			"AppendAudit":     w.AppendAudit(over, "m", event("x")),
			"AuditLog":        third(w.AuditLog(over, store.AuditQuery{MeshID: "m", Limit: 1})),
			"AuditPage":       second(w.AuditPage(over, "m", 0, 1)),
			"AuditHead":       second(w.AuditHead(over, "m")),
			"AuditKey":        second(w.AuditKey(over)),
			"CheckpointAudit": second(w.CheckpointAudit(over, after(9*time.Hour), time.Hour, 1)),
			"CheckpointMesh":  w.CheckpointMesh(over, "m", after(9*time.Hour)),
			"Ping":            w.Ping(over),
			"Expire":          second(w.Expire(over, after(9*time.Hour), 0, 9)),
			"Prune":           second(w.Prune(over, after(9*time.Hour), store.Retention{Messages: 1})),
			"PendingCount":    second(w.PendingCount(over)),
		} {
			require.ErrorIs(w, err, context.Canceled, what)
		}
		require.Equal(w, version, w.version("m"))
		require.Equal(w, []string{"0"}, w.mail("m", "bo"))
		m, err := w.Mesh(w.ctx, "m")
		require.NoError(w, err)
		require.Equal(w, aMesh("m"), m)
		i, err := w.InviteByToken(w.ctx, anInvite("m", "i").TokenHash)
		require.NoError(w, err)
		require.Zero(w, i.UsedCount)
		require.Equal(w, []store.StateEntry{aValue("k", "ana", "1")}, w.state("m"))
		require.Equal(w, []string{"before"}, eventTypes(w.logged("m")))
		first, _, err := w.ClaimOnce(w.ctx, "m", "k", "v", after(time.Hour), noon)
		require.NoError(w, err)
		require.True(w, first)
	},
	"equal ids in two meshes are two things": func(w *world) {
		for _, mesh := range []string{"m", "n"} {
			w.mesh(mesh, "ana", "bo")
			w.topic(mesh, "t", "ana", "bo")
			w.open(aPresence(mesh, "p", "ana", key("s")))
			w.send(mesh, post("t", clientID("c", draft("1", "ana", "bo"))))
			require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey(mesh, "k", "ana"), 1))
		}
		require.NoError(w, w.SetRole(w.ctx, "m", "ana", store.RoleAdmin))
		require.Equal(w, []string{"1"}, w.ack("m", "bo", "1"))
		require.NoError(w, w.RevokeAPIKey(w.ctx, "m", "k", noon))
		_, err := w.Unsubscribe(w.ctx, "m", "t", "bo", noon)
		require.NoError(w, err)
		_, err = w.ClosePresence(w.ctx, "m", "p", "b1", 1, noon)
		require.NoError(w, err)
		_, err = w.ArchiveTopic(w.ctx, "m", "t", noon)
		require.NoError(w, err)
		_, err = w.RevokeMember(w.ctx, "m", "bo", noon)
		require.NoError(w, err)

		ana, err := w.Member(w.ctx, "n", "ana")
		require.NoError(w, err)
		require.Equal(w, aMember("n", "ana"), ana)
		require.Equal(w, []string{"1"}, w.mail("n", "bo"))
		k, err := w.APIKey(w.ctx, "n", "k")
		require.NoError(w, err)
		require.Zero(w, k.RevokedAt)
		_, err = w.Subscription(w.ctx, "n", "t", "bo")
		require.NoError(w, err)
		_, err = w.Topic(w.ctx, "n", "t")
		require.NoError(w, err)
		_, seen, err := w.SessionKeyOwner(w.ctx, "n", key("s"), after(time.Hour))
		require.NoError(w, err)
		require.Equal(w, after(time.Hour), seen)
	},
	"what the caller gave may change afterwards": func(w *world) {
		w.mesh("m")
		m := aMember("m", "ana")
		require.NoError(w, w.AddMember(w.ctx, m, 0))
		m.DefaultGroups[0].Name, m.Grants[key("friend")][0], m.Grants["x"] = "changed", "changed", nil
		list := []string{"dm"}
		grants := map[string]*[]string{"y": &list}
		require.NoError(w, w.SetGrants(w.ctx, "m", "ana", grants, 0))
		list[0] = "changed"
		got, err := w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		want := aMember("m", "ana")
		want.Grants["y"] = []string{"dm"}
		require.Equal(w, want, got)

		groups, title, capabilities := []wire.Group{{Name: "g"}}, "t", []string{"c"}
		u := store.PeerStateUpdate{Groups: &groups, Profile: &wire.Profile{Title: &title, Capabilities: &capabilities}}
		require.NoError(w, w.SavePeerState(w.ctx, "m", "ana", u, noon))
		p := aPresence("m", "p", "ana", "")
		p.Groups, p.Summary, p.Profile = groups, &title, *u.Profile
		w.open(p)
		k := anAPIKey("m", "k", "ana")
		require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
		i := anInvite("m", "i")
		require.NoError(w, w.CreateInvite(w.ctx, i))
		groups[0].Name, title, capabilities[0] = "changed", "changed", "changed"
		k.Capabilities[0], (*k.TopicScopes)[0], i.Preset.Groups[0].Name = "changed", "changed", "changed"
		w.requireUnchanged()
	},
	"what the caller got may change afterwards": func(w *world) {
		w.mesh("m", "ana")
		u := store.PeerStateUpdate{Groups: &[]wire.Group{{Name: "g"}}, Profile: &wire.Profile{Title: ptr("t"), Capabilities: &[]string{"c"}}}
		require.NoError(w, w.SavePeerState(w.ctx, "m", "ana", u, noon))
		p := aPresence("m", "p", "ana", "")
		p.Groups, p.Summary, p.Profile, p.BrokerID = []wire.Group{{Name: "g"}}, ptr("t"), *u.Profile, "b0"
		w.open(p)
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k", "ana"), 0))
		require.NoError(w, w.CreateInvite(w.ctx, anInvite("m", "i")))

		m, err := w.Member(w.ctx, "m", "ana")
		require.NoError(w, err)
		m.DefaultGroups[0].Name, m.Grants[key("friend")][0], m.Grants["x"] = "changed", "changed", nil
		ms, err := w.Members(w.ctx, "m")
		require.NoError(w, err)
		require.Equal(w, aMember("m", "ana"), ms[0])
		s, err := w.PeerState(w.ctx, "m", "ana")
		require.NoError(w, err)
		s.Groups[0].Name, *s.Profile.Title, (*s.Profile.Capabilities)[0] = "changed", "changed", "changed"
		ps, err := w.AdoptPresences(w.ctx, "b1", noon, time.Second, time.Hour)
		require.NoError(w, err)
		ps[0].Groups[0].Name, *ps[0].Summary, (*ps[0].Profile.Capabilities)[0] = "changed", "changed", "changed"
		k, err := w.APIKey(w.ctx, "m", "k")
		require.NoError(w, err)
		k.Capabilities[0], (*k.TopicScopes)[0] = "changed", "changed"
		i, err := w.InviteByToken(w.ctx, anInvite("m", "i").TokenHash)
		require.NoError(w, err)
		i.Preset.Groups[0].Name = "changed"
		w.requireUnchanged()
	},
	"refusals come back whole after the caller changed them": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("0", "ana", "bo"))
		out := w.try("m", store.Quota{PerMailbox: 1}, draft("1", "ana", "bo"))
		out[0].Message.Refused[0].Reason = "changed"
		got, err := w.Message(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Equal(w, wire.ReasonQueueFull, got.Refused[0].Reason)
		got.Refused[0].Reason = "changed"
		got, err = w.Message(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Equal(w, wire.ReasonQueueFull, got.Refused[0].Reason)
	},
	"times keep their microseconds and are UTC": func(w *world) {
		w.mesh("m", "ana", "bo")
		at := time.Date(2026, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
		w.sendAt(at, "m", draft("1", "ana", "bo"))
		a := anAck("m", "bo", "1")
		a.At = at
		ds, err := w.Ack(w.ctx, []store.Ack{a})
		require.NoError(w, err)
		require.Equal(w, []time.Time{at, at, after(time.Hour)}, []time.Time{ds.Done[0].CreatedAt, ds.Done[0].DoneAt, ds.Done[0].ExpiresAt})
	},
	"one mesh stays whole under everything at once": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		together(8, func(i int) {
			for j := range 20 {
				id := fmt.Sprintf("%d-%d", i, j)
				switch i % 4 {
				case 0:
					r, _ := w.Roster(w.ctx, "m")
					_, _ = w.Enqueue(w.ctx, "m", r.Version, []store.Draft{post("t", draft(id, "ana", "bo"))}, store.Quota{}, noon)
				case 1:
					_, _ = w.OpenPresence(w.ctx, aPresence("m", id, "bo", key(id)))
					_, _ = w.Unsubscribe(w.ctx, "m", "t", "bo", noon)
				case 2:
					mail, _ := w.Pending(w.ctx, pendingQuery("m", "bo"))
					for _, got := range mail {
						_, _ = w.Ack(w.ctx, []store.Ack{anAck("m", "bo", got.Message.ID)})
					}
				case 3:
					_, _ = w.Expire(w.ctx, noon, time.Hour, 10)
					_, _ = w.Prune(w.ctx, noon, store.Retention{Messages: time.Hour, Topics: time.Hour})
					_, _ = w.PendingCount(w.ctx)
				}
			}
		})
		ms, err := w.History(w.ctx, store.HistoryQuery{MeshID: "m", TopicID: "t", Forward: true, Limit: 1000})
		require.NoError(w, err)
		last, err := w.LastSeq(w.ctx, "m")
		require.NoError(w, err)
		require.EqualValues(w, len(ms), last)
		pending := int64(0)
		for i, m := range ms {
			require.EqualValues(w, i+1, m.Seq)
			if w.states("m", m.ID)["bo"] == store.Pending {
				pending++
			}
		}
		n, err := w.PendingCount(w.ctx)
		require.NoError(w, err)
		require.Equal(w, pending, n)
		require.Len(w, w.mail("m", "bo"), int(pending))
	},
}

// requireUnchanged checks the peer state, the presence of broker b1, the API key and the invite that the checks on copying made.
func (w *world) requireUnchanged() {
	w.Helper()
	s, err := w.PeerState(w.ctx, "m", "ana")
	require.NoError(w, err)
	require.Equal(w, []wire.Group{{Name: "g"}}, s.Groups)
	require.Equal(w, wire.Profile{Title: ptr("t"), Capabilities: &[]string{"c"}}, s.Profile)
	p := w.adoptAll(noon)["p"]
	require.Equal(w, []wire.Group{{Name: "g"}}, p.Groups)
	require.Equal(w, "t", *p.Summary)
	require.Equal(w, s.Profile, p.Profile)
	k, err := w.APIKey(w.ctx, "m", "k")
	require.NoError(w, err)
	require.Equal(w, anAPIKey("m", "k", "ana"), k)
	i, err := w.InviteByToken(w.ctx, anInvite("m", "i").TokenHash)
	require.NoError(w, err)
	require.Equal(w, anInvite("m", "i"), i)
}
