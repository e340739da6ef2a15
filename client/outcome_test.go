package client_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

// by sorts outcomes into a map by the recipient's name.
func by(all []client.Outcome) map[string]client.Outcome {
	out := map[string]client.Outcome{}
	for _, o := range all {
		out[o.Name] = o
	}
	return out
}

func TestReceiptsFromEndToEnd(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ctx := t.Context()
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		unsigned := mesh.Join("cy", func(o *client.Options) { o.NoReceipts = true })
		mesh.Dial("old") // acknowledges nothing: its transport does
		mesh.Member("away")
		mesh.Member("shy")
		_, _, err := ana.CreateTopic(ctx, "deploys", client.TopicOptions{})
		require.NoError(t, err)
		for _, p := range []*brokertest.Peer{bo, unsigned} {
			require.NoError(t, p.JoinTopic(ctx, "deploys", ""))
			_, err := p.WaitTopicKey(ctx, "deploys")
			require.NoError(t, err)
		}
		for _, target := range []string{"bo", "*", "#deploys"} {
			sent := ana.Send(target, "to "+target)
			require.Equal(t, "to "+target, bo.Receive().Text)
			if target != "bo" {
				unsigned.Receive()
			}
			limited, cancel := context.WithTimeout(ctx, time.Minute)
			all, err := ana.Wait(limited, sent.MessageID)
			cancel()
			got := by(all)
			o := got["bo"]
			require.Equal(t, client.OutcomeAcked, o.State, "%s: %v", target, o.ReceiptErr)
			require.Equal(t, bo.Member.ID, o.MemberID)
			require.Equal(t, bo.Pubkey(), o.Receipt.MemberPubkey)
			require.WithinDuration(t, time.Now(), o.At, time.Minute+time.Second)
			if target == "bo" {
				require.NoError(t, err)
				continue
			}
			require.Equal(t, []any{client.OutcomeUnsigned, "client", error(nil)}, []any{got["cy"].State, got["cy"].By, got["cy"].ReceiptErr})
			if target == "*" {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, []any{client.OutcomeUnsigned, "transport"}, []any{got["old"].State, got["old"].By})
				require.Equal(t, []any{client.OutcomePending, wire.StateQueued, wire.ReasonOffline}, []any{got["away"].State, got["away"].Stage, got["away"].Reason})
			}
		}
	})
}

// A message for one session of a member is addressed to an attested key and signed for by it.
func TestSessionSignsForItself(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		other := mesh.Join("bo")
		peers, err := ana.Peers(t.Context())
		require.NoError(t, err)
		i := slices.IndexFunc(peers, func(p wire.Peer) bool { return p.SessionID == bo.SessionID() })
		key, isSession, err := ana.AddressOf(peers[i])
		require.NoError(t, err)
		require.True(t, isSession)
		require.Equal(t, bo.SessionPubkey(), key)
		sent := ana.Send(key, "to you alone")
		require.Equal(t, "to you alone", bo.Receive().Text)
		all, err := ana.Wait(t.Context(), sent.MessageID)
		require.NoError(t, err)
		require.Equal(t, client.OutcomeAcked, all[0].State, "%v", all[0].ReceiptErr)
		require.Equal(t, bo.SessionPubkey(), all[0].Receipt.SessionPubkey)
		synctest.Wait()
		require.Zero(t, other.Waiting())
	})
}

// The sender is away when the receipt comes, and finds it when it is back.
func TestSenderFindsTheReceiptLater(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ana := mesh.Join("ana", func(o *client.Options) { o.Backoff = func(int) time.Duration { return 5 * time.Minute } })
		mesh.Member("bo")
		sent := ana.Send("bo", "for later")
		mesh.Restart() // which throws everybody out
		bo := mesh.Join("bo")
		require.Equal(t, "for later", bo.Receive().Text)
		synctest.Wait()
		require.False(t, ana.Connected())
		require.NoError(t, bo.Close())
		time.Sleep(10 * time.Minute)
		all, err := ana.Outcomes(t.Context(), sent.MessageID)
		require.NoError(t, err)
		require.Equal(t, client.OutcomeAcked, all[0].State, "%v", all[0].ReceiptErr)
	})
}

// What a member reads in a topic's stream and acknowledges by hand is signed for as well.
func TestMessagesReadInAStreamAreSignedFor(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ctx := t.Context()
		ana, bo := mesh.Join("ana"), mesh.Join("bo", func(o *client.Options) { o.ManualAck = true })
		_, _, err := ana.CreateTopic(ctx, "deploys", client.TopicOptions{})
		require.NoError(t, err)
		require.NoError(t, bo.JoinTopic(ctx, "deploys", ""))
		_, err = bo.WaitTopicKey(ctx, "deploys")
		require.NoError(t, err)
		require.NoError(t, bo.SetStatus(ctx, wire.StatusDND)) // nothing is pushed
		var sent client.Sent
		for m, err := range bo.Tail(ctx, "deploys", client.TailOptions{OnReady: func() { sent = ana.Send("#deploys", "in the stream") }}) {
			require.NoError(t, err)
			require.Equal(t, sent.MessageID, m.ID)
			require.NoError(t, bo.Ack(ctx, m.ID))
			break
		}
		all, err := ana.Wait(ctx, sent.MessageID)
		require.NoError(t, err)
		require.Equal(t, client.OutcomeAcked, all[0].State, "%v", all[0].ReceiptErr)
		synctest.Wait()
		found := false
		for len(ana.Events()) > 0 {
			if e := <-ana.Events(); e.Name == wire.EventReceipt {
				found = true
				require.NoError(t, e.Err)
				require.Equal(t, sent.MessageID, e.Receipt.MessageID)
			}
		}
		require.True(t, found, "the sender is told")
	})
}

// A session that lives longer than an attestation stays verified.
func TestLongLivedSessionsStayVerified(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		for range 3 {
			ana.Send("bo", "still me")
			require.False(t, bo.Receive().Unverified)
			time.Sleep(11 * time.Hour)
		}
		peers, err := bo.Peers(t.Context())
		require.NoError(t, err)
		for _, p := range peers {
			_, isSession, err := bo.AddressOf(p)
			require.NoError(t, err)
			require.True(t, isSession, p.DisplayName)
		}
	})
}
