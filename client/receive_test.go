package client

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

func messageID(n int) string { return fmt.Sprintf("Mess%028d", n) }

func ackedIDs(s *stub) (ids []string) {
	for _, f := range s.of(wire.TypeClientAck) {
		if one := str(f, "brokerMessageId"); one != "" {
			ids = append(ids, one)
		}
		many, _ := f["brokerMessageIds"].([]any)
		for _, id := range many {
			ids = append(ids, id.(string))
		}
	}
	return ids
}

func TestH02EachMessageIsHandedOverOnceAndAcknowledgedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, own := testKey(t, "02"), testKey(t, "01")
		s := newStub(t, func(k *stubConn) {
			same := "one and the same"
			for i := range 3 {
				p := directPush(t, messageID(i), fmt.Sprint("text ", i), bob, own)
				p.ClientMessageID = same // two senders may use the same one; the broker's id counts
				k.write(p)
				k.write(p)
			}
			k.serveAll()
		})
		c := s.dial()
		synctest.Wait() // all six are there
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for i := range 3 {
			m, err := c.Receive(ctx)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("text ", i), m.Text)
			require.Equal(t, messageID(i), m.ID)
		}
		_, err := c.Receive(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, []string{messageID(0), messageID(1), messageID(2)}, ackedIDs(s))

		// The acknowledgement was lost: the broker pushes again on the next connection.
		s.mu.Lock()
		for k := range s.socks {
			go func() { _ = k.ws.CloseNow() }()
		}
		s.mu.Unlock()
		time.Sleep(5 * time.Second)
		require.Len(t, ackedIDs(s), 9, "each push of a known message is acknowledged")
		require.Empty(t, c.inbox.queue)
	})
}

func TestManualAcknowledgementsWaitForTheBroker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			for i := range 2 {
				k.write(directPush(t, messageID(i), "hello", testKey(t, "02"), testKey(t, "04")))
			}
			k.serveAll()
		})
		c := s.dial(func(o *Options) { o.ManualAck = true })
		for range 2 {
			_, err := c.Receive(context.Background())
			require.NoError(t, err)
		}
		synctest.Wait()
		require.Empty(t, s.of(wire.TypeClientAck))
		require.NoError(t, c.Ack(context.Background(), messageID(0), messageID(1)))
		require.Equal(t, []string{messageID(0), messageID(1)}, ackedIDs(s))
		require.Len(t, s.of(wire.TypeClientAck), 1)
	})
}

func TestReceivedMessagesSayWhatIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, session, own := testKey(t, "02"), testKey(t, "05"), testKey(t, "01")
		plain := func(id int, spec string) *wire.Push {
			p := directPush(t, messageID(id), "x", bob, own)
			p.TargetSpec = spec
			p.Nonce, p.Ciphertext = topickey.EncodeV1("to all")
			return p
		}
		s := newStub(t, func(k *stubConn) {
			k.write(directPush(t, messageID(0), "from a member key", bob, own))
			k.write(directPush(t, messageID(1), "from a session key", session, testKey(t, "04")))
			k.write(plain(2, "*"))
			k.write(plain(3, "@eng/core"))
			p := directPush(t, messageID(4), "for somebody else", bob, testKey(t, "09"))
			p.SenderMemberPubkey = testKey(t, "06").Public()
			k.write(p)
			p = plain(5, "")
			p.Subtype, p.Nonce = wire.SubtypeReminder, ""
			k.write(p)
			k.serveAll()
		})
		c := s.dial()
		var got []Message
		for range 6 {
			m, err := c.Receive(context.Background())
			require.NoError(t, err)
			got = append(got, m)
		}
		require.Equal(t, Message{
			ID: messageID(0), MeshID: testMesh, From: "bob", FromMemberID: bobMember, FromPubkey: bob.Public(), FromMemberPubkey: bob.Public(),
			Text: "from a member key", To: ToMember, Priority: wire.PriorityNext, CreatedAt: time.Date(2026, 5, 2, 20, 3, 11, 0, time.UTC),
			Encrypted: true,
		}, got[0])
		require.Equal(t, "from a session key", got[1].Text)
		require.True(t, got[1].Unverified)
		require.Equal(t, ToAll, got[2].To)
		require.Equal(t, "to all", got[2].Text)
		require.False(t, got[2].Encrypted)
		require.Equal(t, ToGroup, got[3].To)
		require.Equal(t, "eng/core", got[3].Group)
		require.Error(t, got[4].Err)
		require.True(t, got[4].KeyChanged)
		require.Empty(t, got[4].Text)
		require.True(t, got[5].Reminder)
		require.Equal(t, "to all", got[5].Text)
	})
}

func TestReceiveKeepsAMessageWhoseCallerGaveUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			k.write(directPush(t, messageID(0), "hello", testKey(t, "02"), testKey(t, "01")))
			k.serveAll()
		})
		c := s.dial()
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := c.Receive(ctx)
		require.ErrorIs(t, err, context.Canceled)
		for m, err := range c.Messages(context.Background()) {
			require.NoError(t, err)
			require.Equal(t, "hello", m.Text)
			break
		}
	})
}

func TestRecentForgetsTheOldest(t *testing.T) {
	t.Parallel()
	r := newRecent[int](2)
	r.put("a", 1)
	r.put("b", 2)
	r.put("a", 3)
	r.put("c", 4)
	_, known := r.get("a")
	require.False(t, known)
	v, _ := r.get("b")
	require.Equal(t, 2, v)
	r.put("d", 5)
	require.Len(t, r.values, 2)
}
