package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/internal/memconn"
	"github.com/claudemesh/broker/wire"
)

// bubble runs a test with a mesh in it. Contexts end with the test; every wait is in fake time.
func bubble(t *testing.T, test func(t *testing.T, mesh *brokertest.Mesh)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, brokertest.New(t)) })
}

func TestDirectMessageReachesEverySessionOnce(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ana := mesh.Join("ana")
		bo, bo2 := mesh.Join("bo"), mesh.Join("bo", func(o *client.Options) { o.SessionHello = true })
		sent := ana.Send("BO", "are you there?", client.Priority(wire.PriorityNow))
		require.True(t, sent.Encrypted)
		require.False(t, sent.Offline)
		require.Equal(t, 1, sent.Recipients.Total)
		synctest.Wait() // both have it before one acknowledges
		for _, p := range []*brokertest.Peer{bo, bo2} {
			m := p.Receive()
			require.Equal(t, "are you there?", m.Text)
			require.Equal(t, sent.MessageID, m.ID)
			require.Equal(t, ana.Member.ID, m.FromMemberID)
			require.Equal(t, ana.SessionPubkey(), m.FromPubkey)
			require.Equal(t, ana.Pubkey(), m.FromMemberPubkey)
			require.Equal(t, "ana", m.From)
			require.Equal(t, client.ToMember, m.To)
			require.True(t, m.Encrypted)
			require.False(t, m.Unverified, "ana's own key says that the session is hers")
		}
		synctest.Wait()
		status, err := ana.MessageStatus(t.Context(), sent.MessageID)
		require.NoError(t, err)
		require.True(t, status.Delivered)

		_, err = ana.Client.Send(t.Context(), "nobody", "hello")
		require.ErrorIs(t, err, wire.TargetNotFound)

		again, err := bo.Client.Send(t.Context(), ana.SessionPubkey(), "to your session")
		require.NoError(t, err)
		require.True(t, again.Encrypted)
		require.Equal(t, "to your session", ana.Receive().Text)
	})
}

func TestMailWaitsForAMemberThatIsAway(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		mesh.Member("bo")
		ana := mesh.Join("ana", func(o *client.Options) { o.NoSessionKey = true })
		for i := range 5 {
			require.True(t, ana.Send("bo", fmt.Sprint(i)).Offline)
		}
		quiet := mesh.Join("bo", func(o *client.Options) { o.NoPush = true })
		require.False(t, mesh.Online("bo"))
		require.NoError(t, quiet.Close())
		bo := mesh.Join("bo")
		for i := range 5 {
			m := bo.Receive()
			require.Equal(t, fmt.Sprint(i), m.Text)
			require.False(t, m.Unverified, "it is sealed with ana's own key")
		}
	})
}

func TestMulticastsAreNotEncrypted(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ana, bo := mesh.Join("ana"), mesh.Join("bo", func(o *client.Options) { o.Groups = []wire.Group{{Name: "eng/core"}} })
		require.False(t, ana.Send("*", "to all").Encrypted)
		m := bo.Receive()
		require.Equal(t, client.ToAll, m.To)
		require.Equal(t, "to all", m.Text)
		require.False(t, ana.Send("@eng", "to the group").Encrypted)
		m = bo.Receive()
		require.Equal(t, client.ToGroup, m.To)
		require.Equal(t, "eng", m.Group)
		require.Equal(t, "to the group", m.Text)
		require.False(t, m.Encrypted)
	})
}

func TestTopicFromCreationToTail(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ctx := t.Context()
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		topic, created, err := ana.CreateTopic(ctx, "deploys", client.TopicOptions{Description: "what goes out"})
		require.NoError(t, err)
		require.True(t, created)
		sent, err := ana.Post(ctx, "deploys", "first, @bo")
		require.NoError(t, err)
		require.True(t, sent.Encrypted)

		again, created, err := bo.CreateTopic(ctx, "deploys", client.TopicOptions{})
		require.NoError(t, err)
		require.False(t, created)
		require.Equal(t, topic.ID, again.ID)
		require.NoError(t, bo.JoinTopic(ctx, "deploys", ""))
		begin := time.Now()
		_, err = bo.WaitTopicKey(ctx, "deploys")
		require.NoError(t, err)
		require.Less(t, time.Since(begin), 5*time.Second, "ana passes the key on when bo joins, not at the next round")
		info, err := bo.TopicKeyInfo(ctx, "deploys")
		require.NoError(t, err)
		require.Equal(t, client.TopicKeyInfo{TopicID: topic.ID, Topic: "deploys", SealedBy: ana.Member.ID}, info)

		tail := make(chan client.TopicMessage, 10)
		ready := make(chan struct{})
		ctxTail, stop := context.WithCancel(ctx)
		var tailing sync.WaitGroup
		tailing.Go(func() {
			for m, err := range ana.Tail(ctxTail, "deploys", client.TailOptions{LastEventID: sent.MessageID, OnReady: sync.OnceFunc(func() { close(ready) })}) {
				if err != nil {
					assert.ErrorIs(t, err, context.Canceled)
					return
				}
				tail <- m
			}
		})
		<-ready
		reply, err := bo.Post(ctx, "#deploys", "second", client.ReplyTo(sent.MessageID))
		require.NoError(t, err)
		require.True(t, reply.Encrypted)
		m := ana.Receive()
		require.Equal(t, "second", m.Text)
		require.Equal(t, client.ToTopic, m.To)
		require.Equal(t, "deploys", m.Topic)
		require.Equal(t, sent.MessageID, m.ReplyToID)
		m = <-tail
		require.Equal(t, "second", m.Text)
		require.Equal(t, reply.MessageID, m.ID)
		time.Sleep(10 * time.Minute) // the key of the stream ends meanwhile
		_, err = bo.Post(ctx, "deploys", "third")
		require.NoError(t, err)
		require.Equal(t, "third", (<-tail).Text)
		stop()
		tailing.Wait()

		history, err := bo.History(ctx, "deploys", client.HistoryOptions{})
		require.NoError(t, err)
		require.Len(t, history, 3)
		for i, want := range []string{"third", "second", "first, @bo"} {
			require.NoError(t, history[i].Err)
			require.Equal(t, want, history[i].Text)
			require.True(t, history[i].Encrypted)
		}
		older, err := bo.History(ctx, "deploys", client.HistoryOptions{Before: reply.MessageID, Limit: 1})
		require.NoError(t, err)
		require.Equal(t, sent.MessageID, older[0].ID)

		mentions, err := bo.Notifications(ctx, client.NotificationOptions{Unread: true})
		require.NoError(t, err)
		require.Len(t, mentions, 1)
		require.Equal(t, "first, @bo", mentions[0].Text)
		require.NoError(t, bo.MarkNotificationsRead(ctx, mentions[0].ID))
		mentions, err = bo.Notifications(ctx, client.NotificationOptions{Unread: true})
		require.NoError(t, err)
		require.Empty(t, mentions)
		require.NoError(t, bo.MarkRead(ctx, "deploys"))
		members, err := ana.TopicMembers(ctx, "deploys")
		require.NoError(t, err)
		require.Len(t, members, 2)
		for _, m := range members {
			require.True(t, m.HasKey)
			require.False(t, m.KeyChanged)
		}

		require.NoError(t, bo.LeaveTopic(ctx, "deploys"))
		require.NoError(t, ana.ArchiveTopic(ctx, "deploys"))
		_, err = ana.Post(ctx, "deploys", "too late")
		require.ErrorIs(t, err, wire.TopicNotFound)
	})
}

func TestPrivateTopicKeysArePassedOnByAPerson(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ctx := t.Context()
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		_, _, err := ana.CreateTopic(ctx, "hr", client.TopicOptions{Visibility: wire.VisibilityPrivate})
		require.NoError(t, err)
		require.ErrorIs(t, bo.JoinTopic(ctx, "hr", ""), wire.TopicNotFound)
		require.NoError(t, ana.AddToTopic(ctx, "hr", bo.Member.ID, ""))
		time.Sleep(2 * time.Minute)
		_, err = bo.Post(ctx, "hr", "secret")
		require.ErrorIs(t, err, client.ErrKeyPending)
		sealed, skipped, err := ana.SealPending(ctx, "hr")
		require.NoError(t, err)
		require.Empty(t, skipped)
		require.Len(t, sealed, 1)
		require.Equal(t, bo.Pubkey(), sealed[0].Pubkey)
		sent, err := bo.Post(ctx, "hr", "secret")
		require.NoError(t, err)
		require.True(t, sent.Encrypted)
		require.Equal(t, "secret", ana.Receive().Text)

		// A copy that is refused is deleted, and sealed anew by another.
		require.NoError(t, bo.RejectTopicKey(ctx, "hr"))
		_, err = bo.TopicKey(ctx, "hr")
		require.ErrorIs(t, err, client.ErrKeyPending)
		_, skipped, err = ana.SealPending(ctx, "hr")
		require.NoError(t, err)
		require.Len(t, skipped, 1, "who sealed a rejected copy may not seal again")
	})
}

// The broker makes the key of a topic that an older client creates: it is used, and said to be the broker's.
func TestBrokerMadeKeysAreSaidToBe(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ctx := t.Context()
		old := mesh.Join("ana")
		var made wire.TopicCreated
		require.NoError(t, old.Call(ctx, &wire.TopicCreate{Header: wire.Header{Type: wire.TypeTopicCreate}, Name: "old"}, &made))
		info, err := old.TopicKeyInfo(ctx, "old")
		require.NoError(t, err)
		require.True(t, info.BrokerMade)
		strict := mesh.Join("ana", func(o *client.Options) { o.RefuseBrokerMadeKeys = true })
		_, err = strict.TopicKey(ctx, "old")
		refused, ok := errors.AsType[*client.KeyRefusedError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, client.RefusedBrokerMade, refused.Reason)
	})
}

func TestTopicWithoutAKeyCanBeGivenOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.TopicKeys = broker.ClientClaim })
		ctx := t.Context()
		ana := mesh.Join("ana")
		require.NoError(t, ana.Call(ctx, &wire.TopicCreate{Header: wire.Header{Type: wire.TypeTopicCreate}, Name: "open"}, nil))
		sent, err := ana.Post(ctx, "open", "for all to read")
		require.NoError(t, err)
		require.False(t, sent.Encrypted)
		require.NoError(t, ana.ClaimTopicKey(ctx, "open"))
		sent, err = ana.Post(ctx, "open", "secret")
		require.NoError(t, err)
		require.True(t, sent.Encrypted)
		history, err := ana.History(ctx, "open", client.HistoryOptions{})
		require.NoError(t, err)
		require.Equal(t, "secret", history[0].Text)
		require.True(t, history[1].Untrusted)
	})
}

// The broker goes away and comes back in the middle of everything: nothing is lost and nothing comes twice.
func TestSendsSurviveARestart(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		const n = 60
		var sending sync.WaitGroup
		sending.Go(func() {
			for i := range n {
				_, err := ana.Client.Send(t.Context(), bo.Pubkey(), fmt.Sprint(i))
				assert.NoError(t, err)
				time.Sleep(100 * time.Millisecond)
			}
		})
		sending.Go(func() {
			for range 3 {
				time.Sleep(1500 * time.Millisecond)
				mesh.Restart()
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		for i := range n {
			m, err := bo.Client.Receive(ctx)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), m.Text)
		}
		sending.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		m, err := bo.Client.Receive(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded, "%v", m)
	})
}

func TestStatusHoldsMessagesBack(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ctx := t.Context()
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		require.NoError(t, bo.SetStatus(ctx, wire.StatusDND))
		require.NoError(t, bo.SetSummary(ctx, "thinking"))
		ana.Send("bo", "when you have time")
		ana.Send("bo", "at once", client.Priority(wire.PriorityNow))
		require.Equal(t, "at once", bo.Receive().Text)
		peers, err := ana.Peers(ctx)
		require.NoError(t, err)
		require.Len(t, peers, 2)
		i := slices.IndexFunc(peers, func(p wire.Peer) bool { return p.MemberID == bo.Member.ID })
		require.Equal(t, wire.StatusDND, peers[i].Status)
		require.Equal(t, "thinking", *peers[i].Summary)
		members, err := ana.Members(ctx)
		require.NoError(t, err)
		i = slices.IndexFunc(members, func(m client.Member) bool { return m.MemberID == bo.Member.ID })
		require.Equal(t, "dnd", members[i].Status)
		require.Equal(t, bo.Pubkey(), members[i].Pubkey)
		require.NoError(t, bo.SetStatus(ctx, wire.StatusIdle))
		require.Equal(t, "when you have time", bo.Receive().Text)
		require.NoError(t, bo.JoinGroup(ctx, "eng", "lead"))
		require.NoError(t, bo.SetVisible(ctx, false))
		require.NoError(t, bo.SetProfile(ctx, wire.Profile{}))
		require.NoError(t, bo.SetStats(ctx, wire.Stats{}))
		require.NoError(t, bo.SetGrants(ctx, map[string]*[]string{ana.Pubkey(): {}}))
		_, err = ana.Client.Send(ctx, bo.Pubkey(), "blocked")
		require.ErrorIs(t, err, wire.Forbidden)
		info, err := bo.MeshInfo(ctx)
		require.NoError(t, err)
		require.Equal(t, []wire.Group{{Name: "eng", Role: "lead"}}, info.YourGroups)
		require.NoError(t, bo.LeaveGroup(ctx, "@eng"))
	})
}

func TestBannedClientEnds(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		mesh.Member("ana")
		bo := mesh.Join("bo")
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, bo.Member.ID))
		<-bo.Done()
		refused, ok := errors.AsType[*client.RefusedError](bo.Err())
		require.True(t, ok)
		require.Equal(t, wire.CloseBanned, refused.CloseCode)
		require.True(t, refused.Permanent())
	})
}

func TestAPIKeys(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ctx := t.Context()
		ana := mesh.Join("ana")
		made, err := ana.CreateAPIKey(ctx, client.APIKeyOptions{Label: "ci", Capabilities: []string{wire.KeyRead}, Topics: []string{"general"}})
		require.NoError(t, err)
		require.NotEmpty(t, made.Secret)
		list, err := ana.ListAPIKeys(ctx)
		require.NoError(t, err)
		require.Len(t, list, 1)
		id, err := ana.RevokeAPIKey(ctx, made.ID[:8])
		require.NoError(t, err)
		require.Equal(t, made.ID, id)
		_, err = ana.RevokeAPIKey(ctx, "nosuchkey")
		require.ErrorIs(t, err, wire.NotFound)

		_, err = ana.Members(ctx) // makes the client's own key
		require.NoError(t, err)
		require.NoError(t, ana.Close())
		bo := mesh.Join("ana")
		list, err = bo.ListAPIKeys(ctx)
		require.NoError(t, err)
		require.Len(t, list, 2)
		for _, k := range list {
			require.NotNil(t, k.RevokedAt, k.Label)
		}
	})
}

// A host mounts the broker under a prefix; everything follows the URL of the invite.
func TestJoinThroughAMountedBroker(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ctx := t.Context()
		mux := http.NewServeMux()
		mux.Handle("/team/mesh/", http.StripPrefix("/team/mesh", mesh.Broker))
		l := memconn.Listen()
		server := &http.Server{Handler: mux}
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(l) }()
		transport := &http.Transport{DialContext: l.DialContext}
		defer func() {
			transport.CloseIdleConnections()
			_ = server.Close()
			<-served
		}()
		hc := &http.Client{Transport: transport}

		link, _, err := mesh.Broker.CreateInvite(ctx, mesh.ID, mesh.Owner, broker.InviteOptions{BrokerURL: "ws://host/team/mesh/ws", MaxUses: 1})
		require.NoError(t, err)
		got, err := client.Join(ctx, client.JoinOptions{Invite: link, DisplayName: "cy", HTTPClient: hc})
		require.NoError(t, err)
		require.Equal(t, mesh.ID, got.MeshID)
		_, err = client.Join(ctx, client.JoinOptions{Invite: link, DisplayName: "dee", HTTPClient: hc})
		require.ErrorIs(t, err, wire.Code("invite_exhausted"))
		same, err := client.Join(ctx, client.JoinOptions{Invite: link, DisplayName: "cy", Key: got.Key, HTTPClient: hc})
		require.NoError(t, err)
		require.True(t, same.AlreadyMember)
		require.Equal(t, got.MemberID, same.MemberID)

		o := got.Options()
		o.HTTPClient = hc
		c, err := client.Dial(ctx, o)
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		require.Equal(t, "cy", c.Hello().MemberDisplayName)
		members, err := c.Members(ctx)
		require.NoError(t, err)
		require.Len(t, members, 1)
	})
}

func Example() {
	// In a program the mesh is somewhere else, and this is what Join returned or a file remembers.
	ctx := context.Background()
	var me client.Membership
	o := me.Options()
	o.DisplayName = "ada"
	c, err := client.Dial(ctx, o)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Send(ctx, "bo", "the build is green"); err != nil {
		fmt.Println(err)
	}
	for m, err := range c.Messages(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(m.From, m.Text)
	}
	// Output:
	// client: Options.URL "" must be ws://host/ws or wss://host/ws
}
