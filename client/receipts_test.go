package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// offering lets the stub offer receipts, as our broker does.
func (s *stub) offering(capabilities ...string) *stub {
	s.greet = func(k *stubConn, _ map[string]any) bool {
		ack := helloAck("p1")
		ack.Capabilities = append(ack.Capabilities, capabilities...)
		k.write(ack)
		return true
	}
	return s
}

// ledger is what a stub says of one message.
type ledger struct {
	mu        sync.Mutex
	rows      []wire.RecipientStatus // guarded by mu
	polls     int                    // guarded by mu; how often it was asked
	events    []wire.ReceiptEvent    // guarded by mu; written before the next answer
	duplicate bool                   // guarded by mu; sends are said to be known
}

// say sets the rows, and the events that come before them.
func (l *ledger) say(rows []wire.RecipientStatus, events ...wire.ReceiptEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows, l.events, l.polls = rows, events, 0
}

func (l *ledger) asked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.polls
}

// serve answers message_status with what was said.
func (l *ledger) serve(k *stubConn) {
	for f := k.read(); f != nil; f = k.read() {
		l.mu.Lock()
		rows, events, duplicate := l.rows, l.events, l.duplicate
		if f["type"] == wire.TypeMessageStatus {
			l.polls++
			l.events = nil
		}
		l.mu.Unlock()
		id := str(f, "_reqId")
		switch f["type"] {
		case wire.TypeMessageStatus:
			for _, e := range events {
				k.write(receiptPush(k.s.t, e))
			}
			k.write(&wire.MessageStatusResult{
				Header: wire.Header{Type: wire.TypeMessageStatusResult, ReqID: &id}, MessageID: str(f, "messageId"), Recipients: rows,
			})
		case wire.TypeSend:
			ack := k.accepted(f)
			ack.Duplicate = duplicate
			k.write(ack)
		default:
			k.answer(f)
		}
	}
}

func receiptPush(t testing.TB, e wire.ReceiptEvent) *wire.Push {
	p, err := wire.Event(identity.NewUUID(), testMesh, wire.EventReceipt, e, time.Now())
	require.NoError(t, err)
	return p
}

// acked is the row of a recipient that has confirmed, with a receipt.
func acked(memberID string, member identity.KeyPair, r *wire.StoredReceipt) wire.RecipientStatus {
	return wire.RecipientStatus{
		Name: "bob", Pubkey: member.Public(), MemberID: memberID, Status: wire.StatusDelivered, State: wire.StateAcked, By: "client",
		Since: wire.FormatTime(time.Now()), Receipt: r,
	}
}

// statement is what a receipt says, and who signs it.
type statement struct {
	mesh, message, hash, recipient string
	at                             time.Time
	signer                         identity.KeyPair
	attestation                    *identity.Attestation
}

func (s statement) receipt() *wire.StoredReceipt {
	r := &wire.StoredReceipt{
		AckedAt: s.at.UnixMilli(), MemberPubkey: s.recipient,
		Signature: s.signer.Sign(identity.ReceiptText(s.mesh, s.message, s.hash, s.recipient, float64(s.at.UnixMilli()))),
	}
	if s.attestation != nil {
		r.SessionPubkey, r.Attestation = s.signer.Public(), attestationFrame(*s.attestation)
	}
	return r
}

// about is the honest statement of a recipient about a message that the stub was sent.
func (s *stub) about(sent Sent, by identity.KeyPair) statement {
	for _, f := range s.of(wire.TypeSend) {
		if str(f, "client_message_id") == sent.ClientMessageID {
			return statement{
				mesh: testMesh, message: sent.MessageID, hash: identity.ReceiptBodyHash(str(f, "nonce"), str(f, "ciphertext")),
				recipient: by.Public(), at: time.Now(), signer: by,
			}
		}
	}
	s.t.Fatal("no such message")
	return statement{}
}

func attestFor(member, session identity.KeyPair, at time.Time) *identity.Attestation {
	a := identity.NewAttestation(member, session.Public(), at)
	return &a
}

// receiptEvents are the events about receipts that have come.
func receiptEvents(c *Client) (out []Event) {
	for {
		select {
		case e := <-c.Events():
			if e.Name == wire.EventReceipt {
				out = append(out, e)
			}
		default:
			return out
		}
	}
}

// Whatever a broker shows, only the recipient's own signature for this very message counts.
func TestD37OnlyTheRecipientsOwnReceiptCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, eve, session, brokers := testKey(t, "02"), testKey(t, "03"), testKey(t, "05"), testKey(t, "0b")
		l := &ledger{}
		s := newStub(t, l.serve).offering(wire.CapReceipts)
		c := s.dial()
		ctx := context.Background()
		require.NoError(t, c.TrustMember(bobMember, bob.Public()))
		before, err := c.Send(ctx, bob.Public(), "an earlier message")
		require.NoError(t, err)
		earlier := s.about(before, bob)
		for _, tt := range []struct {
			name   string
			holds  bool
			change func(*statement)
			frame  func(*wire.StoredReceipt) // what is changed after signing
		}{
			{name: "by the member's key", holds: true},
			{name: "by a session that the member attested", holds: true, change: func(r *statement) { r.signer, r.attestation = session, attestFor(bob, session, r.at) }},
			{name: "by a session whose attestation ended since", holds: true, change: func(r *statement) {
				r.signer, r.attestation = session, attestFor(bob, session, r.at.Add(time.Millisecond-identity.AttestationTTL))
			}},
			{name: "a minute early", holds: true, change: func(r *statement) { r.at = r.at.Add(-time.Minute) }},
			{name: "a minute late", holds: true, change: func(r *statement) { r.at = r.at.Add(time.Minute) }},
			{name: "with another key beside it", holds: true, frame: func(r *wire.StoredReceipt) { r.MemberPubkey = brokers.Public() }},

			{name: "forged by the broker", change: func(r *statement) { r.signer = brokers }},
			{name: "forged by the broker under a key of its own", change: func(r *statement) { r.signer, r.recipient = brokers, brokers.Public() }},
			{name: "by another member", change: func(r *statement) { r.signer = eve }},
			{name: "by another member for itself", change: func(r *statement) { r.signer, r.recipient = eve, eve.Public() }},
			{name: "for another message", change: func(r *statement) { r.message = before.MessageID }},
			{name: "replayed", change: func(r *statement) { *r = earlier }},
			{name: "for another body", change: func(r *statement) { r.hash = earlier.hash }},
			{name: "for another mesh", change: func(r *statement) { r.mesh = "other" }},
			{name: "too early", change: func(r *statement) { r.at = r.at.Add(-time.Minute - time.Millisecond) }},
			{name: "too late", change: func(r *statement) { r.at = r.at.Add(time.Minute + time.Millisecond) }},
			{name: "by a session without an attestation", change: func(r *statement) { r.signer = session }},
			{name: "by a session attested by another member", change: func(r *statement) { r.signer, r.attestation = session, attestFor(eve, session, r.at) }},
			{name: "by a session attested by the broker", change: func(r *statement) { r.signer, r.attestation = session, attestFor(brokers, session, r.at) }},
			{name: "with the attestation of another session", change: func(r *statement) { r.signer, r.attestation = session, attestFor(bob, testKey(t, "06"), r.at) }},
			{name: "with an attestation that had ended", change: func(r *statement) {
				r.signer, r.attestation = session, attestFor(bob, session, r.at.Add(-identity.AttestationTTL))
			}},
			{name: "with a changed time", frame: func(r *wire.StoredReceipt) { r.AckedAt++ }},
			{name: "with a changed attestation", change: func(r *statement) { r.signer, r.attestation = session, attestFor(bob, session, r.at) }, frame: func(r *wire.StoredReceipt) {
				*r.Attestation.ExpiresAt++
			}},
			{name: "without a signature", frame: func(r *wire.StoredReceipt) { r.Signature = "" }},
		} {
			time.Sleep(2 * time.Minute) // so that what was signed before is too early now
			sent, err := c.Send(ctx, bob.Public(), "the same text")
			require.NoError(t, err)
			r := s.about(sent, bob)
			if tt.change != nil {
				tt.change(&r)
			}
			stored := r.receipt()
			if tt.frame != nil {
				tt.frame(stored)
			}
			l.say([]wire.RecipientStatus{acked(bobMember, bob, stored)},
				wire.ReceiptEvent{MessageID: sent.MessageID, MemberID: bobMember, StoredReceipt: *stored})
			all, err := c.Wait(ctx, sent.MessageID)
			require.NoError(t, err, tt.name)
			require.Len(t, all, 1, tt.name)
			events := receiptEvents(c)
			require.Len(t, events, 1, tt.name)
			if tt.holds {
				require.Equal(t, OutcomeAcked, all[0].State, "%s: %v", tt.name, all[0].ReceiptErr)
				stored.MemberPubkey = bob.Public() // the key that was checked is shown, whatever came with it
				require.Equal(t, stored, all[0].Receipt, tt.name)
				require.Equal(t, r.at.UnixMilli(), all[0].At.UnixMilli(), tt.name)
				require.NoError(t, events[0].Err, tt.name)
				require.Equal(t, &ReceiptEvent{MessageID: sent.MessageID, MemberID: bobMember, AckedAt: time.UnixMilli(stored.AckedAt), Receipt: *stored}, events[0].Receipt)
				continue
			}
			require.Equal(t, OutcomeUnsigned, all[0].State, tt.name)
			require.Nil(t, all[0].Receipt, tt.name)
			for _, err := range []error{all[0].ReceiptErr, events[0].Err} {
				bad, ok := errors.AsType[*ReceiptError](err)
				require.True(t, ok, "%s: %v", tt.name, err)
				require.Equal(t, sent.MessageID, bad.MessageID)
			}
			require.Nil(t, events[0].Receipt, tt.name)
			require.Nil(t, events[0].Data, "%s: what does not hold is not shown", tt.name)
		}
	})
}

// H28: the key by which a receipt is judged is the one that was pinned for the addressed member, never one that came along.
func TestH28MulticastReceiptsAreJudgedByPinnedKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, eve, changed := testKey(t, "02"), testKey(t, "03"), testKey(t, "08")
		const carolMember = "Memb0000000000000000000000000004"
		carol := testKey(t, "07")
		l := &ledger{}
		s := newStub(t, l.serve).offering(wire.CapReceipts)
		var asked atomic.Int32
		s.json("GET /mesh/v1/members", 200, func(*http.Request) any {
			asked.Add(1)
			return object{"members": []object{member(bobMember, "bob", bob), member(eveMember, "eve", changed), member(carolMember, "carol", carol)}}
		})
		c := s.dial()
		require.NoError(t, c.TrustMember(eveMember, eve.Public())) // eve's key is known; the broker shows another
		sent, err := c.Send(context.Background(), "*", "to all")
		require.NoError(t, err)
		of := func(k identity.KeyPair) *wire.StoredReceipt { return s.about(sent, k).receipt() }
		l.say([]wire.RecipientStatus{
			acked(bobMember, bob, of(bob)), acked(eveMember, changed, of(changed)), acked(carolMember, carol, of(bob)),
			acked("Memb0000000000000000000000000009", changed, of(changed)), acked(bobMember, carol, of(bob)),
		})
		all, err := c.Wait(context.Background(), sent.MessageID)
		require.NoError(t, err)
		require.Equal(t, OutcomeAcked, all[0].State)
		for i, why := range map[int]string{1: "with a key that is not the pinned one", 2: "another member's", 4: "one receipt for two rows"} {
			require.Equal(t, OutcomeUnsigned, all[i].State, why)
			_, bad := errors.AsType[*ReceiptError](all[i].ReceiptErr)
			require.True(t, bad, "%s: %v", why, all[i].ReceiptErr)
		}
		require.Equal(t, OutcomeUnsigned, all[3].State)
		require.ErrorIs(t, all[3].ReceiptErr, ErrUnknownRecipient, "a member that is in no list")
		require.EqualValues(t, 1, asked.Load())
	})
}

// H28: a signed outcome shows the name and the key of the member that signed, whatever the broker writes into its row.
func TestH28TheSignerIsTheOneWhoIsShown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, eve, session, other := testKey(t, "02"), testKey(t, "03"), testKey(t, "05"), testKey(t, "06")
		l := &ledger{}
		s := newStub(t, l.serve).offering(wire.CapReceipts)
		eveName := "eve"
		s.json("GET /mesh/v1/members", 200, func(*http.Request) any {
			return object{"members": []object{member(bobMember, "bob", bob), member(eveMember, eveName, eve)}}
		})
		bySession := func(r *statement) { r.signer, r.attestation = session, attestFor(bob, session, r.at) }
		for _, tt := range []struct {
			name, to, memberID, shown string
			by, key                   identity.KeyPair // who signs; the key in the row
			change                    func(*statement)
			listed                    string // what the list of members calls eve; empty: eve
			pinned                    bool   // somebody wrote to bob by his name before
			holds                     bool
		}{
			{name: "eve's own row", to: "*", memberID: eveMember, shown: "eve", by: eve, key: eve, holds: true},
			{name: "bob's own row", to: "*", memberID: bobMember, shown: "Bob", by: bob, key: bob, holds: true},
			{name: "eve's under bob's name and keys", to: "*", memberID: eveMember, shown: "bob", by: eve, key: bob},
			{name: "eve's under bob's key", to: "*", memberID: eveMember, shown: "eve", by: eve, key: bob},
			{name: "eve's under bob's name", to: "*", memberID: eveMember, shown: "bob", by: eve, key: eve},
			{name: "eve's under bob's name, as listed", to: "*", memberID: eveMember, shown: "bob", by: eve, key: eve, listed: "bob", pinned: true},
			{name: "eve's under bob's id", to: "*", memberID: bobMember, shown: "bob", by: eve, key: bob},
			{name: "a session's key of which nothing is known", to: "*", memberID: bobMember, shown: "bob", by: bob, key: session, change: bySession},
			{name: "for bob", to: bob.Public(), memberID: bobMember, shown: "bob", by: bob, key: bob, holds: true},
			{name: "for bob, by a session", to: bob.Public(), memberID: bobMember, shown: "bob", by: bob, key: bob, change: bySession, holds: true},
			{name: "for bob, with the session's key", to: bob.Public(), memberID: bobMember, shown: "bob", by: bob, key: session, change: bySession},
			{name: "for bob, under eve's id", to: bob.Public(), memberID: eveMember, shown: "eve", by: bob, key: bob},
			{name: "for bob, under eve's id and key", to: bob.Public(), memberID: eveMember, shown: "eve", by: bob, key: eve},
			{name: "for bob, signed by eve", to: bob.Public(), memberID: eveMember, shown: "bob", by: eve, key: bob},
			{name: "for a session", to: session.Public(), memberID: bobMember, shown: "bob", by: bob, key: session, change: bySession, holds: true},
			{name: "for a session, with another's key", to: session.Public(), memberID: bobMember, shown: "bob", by: bob, key: other, change: bySession},
			{name: "for a session, under eve's name", to: session.Public(), memberID: bobMember, shown: "eve", by: bob, key: session, change: bySession},
		} {
			if eveName = "eve"; tt.listed != "" {
				eveName = tt.listed
			}
			c := s.dial()
			if tt.pinned {
				require.NoError(t, c.TrustName("bob", bobMember))
			}
			sent, err := c.Send(context.Background(), tt.to, "hello")
			require.NoError(t, err)
			said := s.about(sent, tt.by)
			if tt.change != nil {
				tt.change(&said)
			}
			r := said.receipt()
			r.MemberPubkey = other.Public()
			if !tt.holds {
				r.MemberPubkey = tt.key.Public()
			}
			row := acked(tt.memberID, tt.key, r)
			row.Name = tt.shown
			waits := row
			waits.State, waits.Status, waits.Receipt = wire.StateQueued, wire.StatusHeld, nil
			for _, way := range []string{"asked", "told"} {
				if l.say([]wire.RecipientStatus{row}); way == "told" { // by an event, between two questions
					l.say([]wire.RecipientStatus{waits})
					event := receiptPush(t, wire.ReceiptEvent{MessageID: sent.MessageID, MemberID: tt.memberID, StoredReceipt: *r})
					go func() {
						time.Sleep(50 * time.Millisecond)
						s.mu.Lock()
						var conn *stubConn
						for k := range s.socks {
							if conn == nil || k.n > conn.n {
								conn = k
							}
						}
						s.mu.Unlock()
						conn.write(event)
						time.Sleep(time.Minute)
						l.say([]wire.RecipientStatus{row})
					}()
				}
				start := time.Now()
				all, err := c.Wait(context.Background(), sent.MessageID)
				require.NoError(t, err)
				o := all[0]
				if !tt.holds {
					require.Equal(t, OutcomeUnsigned, o.State, "%s, %s", tt.name, way)
					_, bad := errors.AsType[*ReceiptError](o.ReceiptErr)
					require.True(t, bad, "%s, %s: %v", tt.name, way, o.ReceiptErr)
					require.Nil(t, o.Receipt, tt.name)
					continue
				}
				require.Equal(t, OutcomeAcked, o.State, "%s, %s: %v", tt.name, way, o.ReceiptErr)
				require.Equal(t, map[string]string{bobMember: "bob", eveMember: "eve"}[tt.memberID], o.Name, tt.name)
				require.Equal(t, []string{tt.key.Public(), tt.by.Public()}, []string{o.Pubkey, o.Receipt.MemberPubkey}, "%s, %s", tt.name, way)
				require.Less(t, time.Since(start), time.Minute, tt.name)
			}
			require.NoError(t, c.Close())
		}
	})
}

// H28: once it is proved the row keeps the name of who signed, and a name that nothing here confirms is not shown as the signer's.
func TestH28AProvedOutcomeKeepsItsName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, eve := testKey(t, "02"), testKey(t, "03")
		l := &ledger{}
		s := newStub(t, l.serve).offering(wire.CapReceipts) // it has no list of members
		c := s.dial()
		ctx := context.Background()
		require.NoError(t, c.TrustMember(bobMember, bob.Public()))
		require.NoError(t, c.TrustMember(eveMember, eve.Public()))
		require.NoError(t, c.TrustName("bob", bobMember))
		sent, err := c.Send(ctx, "*", "to all")
		require.NoError(t, err)
		of := func(id string, k identity.KeyPair, name string) wire.RecipientStatus {
			row := acked(id, k, s.about(sent, k).receipt())
			row.Name = name
			return row
		}
		tr := newTracking(c, sent.MessageID)
		for _, rows := range [][]wire.RecipientStatus{
			{of(bobMember, bob, "bob"), of(eveMember, eve, "carol")}, {of(bobMember, bob, "eve"), of(eveMember, eve, "bob")},
		} {
			all := tr.outcomes(ctx, &wire.MessageStatusResult{Recipients: rows})
			tr.remember(all)
			require.Equal(t, []any{OutcomeAcked, "bob", bob.Public()}, []any{all[0].State, all[0].Name, all[0].Receipt.MemberPubkey})
			require.Equal(t, []any{OutcomeAcked, "", eve.Public()}, []any{all[1].State, all[1].Name, all[1].Receipt.MemberPubkey})
		}

		// Nobody is known by that id: the key that the message was sealed for does not say whose it is.
		sent, err = c.Send(ctx, testKey(t, "07").Public(), "to a key")
		require.NoError(t, err)
		l.say([]wire.RecipientStatus{acked("Memb0000000000000000000000000004", testKey(t, "07"), s.about(sent, testKey(t, "07")).receipt())})
		all, err := c.Wait(ctx, sent.MessageID)
		require.NoError(t, err)
		require.Equal(t, OutcomeUnsigned, all[0].State)
		require.ErrorIs(t, all[0].ReceiptErr, ErrUnknownRecipient)
	})
}

// A direct message has one recipient, whatever rows a broker makes up.
func TestOneReceiptDoesNotServeTwoRows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, eve := testKey(t, "02"), testKey(t, "03")
		l := &ledger{}
		s := newStub(t, l.serve).offering(wire.CapReceipts)
		c := s.dial()
		require.NoError(t, c.TrustMember(bobMember, bob.Public()))
		sent, err := c.Send(context.Background(), bob.Public(), "for bob")
		require.NoError(t, err)
		r := s.about(sent, bob).receipt()
		l.say([]wire.RecipientStatus{acked(bobMember, bob, r), acked(eveMember, eve, r)})
		all, err := c.Wait(context.Background(), sent.MessageID)
		require.NoError(t, err)
		require.Equal(t, []OutcomeState{OutcomeAcked, OutcomeUnsigned}, []OutcomeState{all[0].State, all[1].State})
		require.Error(t, all[1].ReceiptErr)

		// What was proved once stays, and another row that comes before it gets nothing of it.
		waits := wire.RecipientStatus{Name: "eve", Pubkey: eve.Public(), MemberID: eveMember, Status: wire.StatusHeld, State: wire.StateQueued}
		l.say([]wire.RecipientStatus{acked(bobMember, bob, r), waits})
		limited, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		got := map[string][]OutcomeState{}
		for o, err := range c.Track(limited, sent.MessageID) {
			if err != nil {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				break
			}
			got[o.Pubkey] = append(got[o.Pubkey], o.State)
			lost := acked(bobMember, bob, nil)
			lost.State = wire.StateExpired
			l.say([]wire.RecipientStatus{acked(eveMember, eve, r), lost})
		}
		require.Equal(t, map[string][]OutcomeState{bob.Public(): {OutcomeAcked}, eve.Public(): {OutcomePending, OutcomeUnsigned}}, got)
	})
}

// A message for one session is signed for by that session's key; the member that attests it is the pinned one.
func TestReceiptForASessionIsItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, eve, session := testKey(t, "02"), testKey(t, "03"), testKey(t, "05")
		l := &ledger{}
		s := newStub(t, l.serve).offering(wire.CapReceipts)
		s.json("GET /mesh/v1/members", 200, func(*http.Request) any {
			return object{"members": []object{member(bobMember, "bob", bob), member(eveMember, "eve", eve)}}
		})
		c := s.dial()
		for _, tt := range []struct {
			name, memberID string
			change         func(*statement)
			holds          bool
		}{
			{"by the session", bobMember, func(r *statement) { r.signer, r.attestation = session, attestFor(bob, session, r.at) }, true},
			{"by the member's key alone", bobMember, func(*statement) {}, false},
			{"by a member that claims the session", eveMember, func(r *statement) {
				r.recipient, r.signer, r.attestation = eve.Public(), eve, attestFor(eve, session, r.at)
			}, false},
			{"by a session under another member", eveMember, func(r *statement) { r.signer, r.attestation = session, attestFor(bob, session, r.at) }, false},
			{"by another session", bobMember, func(r *statement) { r.signer, r.attestation = testKey(t, "06"), attestFor(bob, testKey(t, "06"), r.at) }, false},
		} {
			sent, err := c.Send(context.Background(), session.Public(), "for that session")
			require.NoError(t, err)
			r := s.about(sent, bob)
			tt.change(&r)
			row := acked(tt.memberID, bob, r.receipt())
			row.Pubkey = session.Public()
			l.say([]wire.RecipientStatus{row})
			all, err := c.Wait(context.Background(), sent.MessageID)
			require.NoError(t, err)
			require.Equal(t, tt.holds, all[0].State == OutcomeAcked, "%s: %v", tt.name, all[0].ReceiptErr)
			require.Equal(t, tt.holds, all[0].ReceiptErr == nil, tt.name)
		}
	})
}

// What this process does not know the bytes of, it cannot judge; that is not held against anybody.
func TestReceiptsOfUnknownMessagesAreNotJudged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob := testKey(t, "02")
		l := &ledger{}
		s := newStub(t, l.serve).offering(wire.CapReceipts)
		c := s.dial()
		ctx := context.Background()
		require.NoError(t, c.TrustMember(bobMember, bob.Public()))
		other := statement{mesh: testMesh, message: "MessOfAnotherProcess", recipient: bob.Public(), at: time.Now(), signer: bob}
		l.say([]wire.RecipientStatus{acked(bobMember, bob, other.receipt())})
		all, err := c.Outcomes(ctx, "MessOfAnotherProcess")
		require.NoError(t, err)
		require.Equal(t, OutcomeUnsigned, all[0].State)
		require.ErrorIs(t, all[0].ReceiptErr, ErrUnknownSend)

		// The broker had it before: perhaps other bytes. Those that are ours are judged all the same.
		l.mu.Lock()
		l.duplicate = true
		l.mu.Unlock()
		out, err := c.Seal(ctx, bob.Public(), "hello", ClientMessageID("again"))
		require.NoError(t, err)
		sent, err := c.SendSealed(ctx, out)
		require.NoError(t, err)
		r := s.about(sent, bob)
		foreign := r
		foreign.hash = identity.ReceiptBodyHash("", "other bytes")
		l.say([]wire.RecipientStatus{acked(bobMember, bob, foreign.receipt())})
		all, err = c.Wait(ctx, sent.MessageID)
		require.NoError(t, err)
		require.ErrorIs(t, all[0].ReceiptErr, ErrUnknownSend)
		l.say([]wire.RecipientStatus{acked(bobMember, bob, r.receipt())})
		all, err = c.Wait(ctx, sent.MessageID)
		require.NoError(t, err)
		require.Equal(t, OutcomeAcked, all[0].State)
	})
}

// signedFor collects the receipts of the client's acknowledgements, by message id.
func signedFor(s *stub) map[string][]object {
	out := map[string][]object{}
	for _, f := range s.of(wire.TypeClientAck) {
		receipts, _ := f["receipts"].([]any)
		for _, r := range receipts {
			r := r.(object)
			out[str(r, "messageId")] = append(out[str(r, "messageId")], r)
		}
	}
	return out
}

func holds(t *testing.T, r object, p *wire.Push, member identity.KeyPair) {
	t.Helper()
	signed := identity.Receipt{
		MessageID: str(r, "messageId"), AckedAt: r["ackedAt"].(float64), Signature: str(r, "signature"), SessionPubkey: str(r, "sessionPubkey"),
	}
	if a, ok := r["attestation"].(object); ok {
		signed.Attestation = &identity.Attestation{
			ParentPubkey: str(a, "parentMemberPubkey"), SessionPubkey: str(a, "sessionPubkey"), ExpiresAt: a["expiresAt"].(float64), Signature: str(a, "signature"),
		}
	}
	require.NoError(t, signed.Verify(identity.ReceiptSubject{
		MeshID: testMesh, MessageID: p.MessageID, BodyHash: identity.ReceiptBodyHash(p.Nonce, p.Ciphertext), RecipientPubkey: member.Public(),
		SentAt: time.Now(),
	}, time.Now()))
}

func TestAcknowledgementsAreSigned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, own, session := testKey(t, "02"), testKey(t, "01"), testKey(t, "04")
		pushes := make([]*wire.Push, 100)
		for i := range pushes {
			to := own
			if i%2 == 1 {
				to = session
			}
			pushes[i] = directPush(t, messageID(i), fmt.Sprint(i), bob, to)
		}
		unreadable := directPush(t, messageID(200), "for somebody else", bob, testKey(t, "09"))
		odd := directPush(t, "a|b", "an id that shifts fields", bob, own)
		for _, manual := range []bool{false, true} {
			s := newStub(t, func(k *stubConn) {
				for _, p := range pushes {
					k.write(p)
				}
				k.write(unreadable)
				k.write(odd)
				k.serveAll()
			}).offering(wire.CapReceipts)
			c := s.dial(func(o *Options) { o.ManualAck = manual })
			synctest.Wait()
			var ids []string
			for range len(pushes) + 2 {
				m, err := c.Receive(context.Background())
				require.NoError(t, err)
				ids = append(ids, m.ID)
			}
			synctest.Wait()
			if manual {
				require.Empty(t, s.of(wire.TypeClientAck))
				require.NoError(t, c.Ack(context.Background(), append(ids, "neverSeen")...))
			}
			for _, f := range s.of(wire.TypeClientAck) {
				receipts, _ := f["receipts"].([]any)
				require.LessOrEqual(t, len(receipts), wire.MaxReceipts)
			}
			signed := signedFor(s)
			require.Len(t, signed, len(pushes)+1, "all but the odd one, and what was never seen")
			for i, p := range append(pushes, unreadable) {
				require.Len(t, signed[p.MessageID], 1)
				r := signed[p.MessageID][0]
				holds(t, r, p, own)
				if bySession := i < len(pushes) && i%2 == 1; bySession {
					require.Equal(t, session.Public(), str(r, "sessionPubkey"), "the key that it was sealed for signs")
				} else {
					require.NotContains(t, r, "sessionPubkey")
				}
			}
			require.Contains(t, ackedIDs(s), "a|b")
		}
	})
}

// An acknowledgement that was lost is made again, and signed again.
func TestLostAcknowledgementIsSignedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, own := testKey(t, "02"), testKey(t, "01")
		p := directPush(t, messageID(1), "hello", bob, own)
		s := newStub(t, func(k *stubConn) {
			k.write(p)
			k.serveAll()
		}).offering(wire.CapReceipts)
		c := s.dial()
		_, err := c.Receive(context.Background())
		require.NoError(t, err)
		synctest.Wait()
		s.mu.Lock()
		for k := range s.socks {
			go func() { _ = k.ws.CloseNow() }()
		}
		s.mu.Unlock()
		time.Sleep(5 * time.Second)
		signed := signedFor(s)[p.MessageID]
		require.Len(t, signed, 2)
		for _, r := range signed {
			holds(t, r, p, own)
		}
	})
}

func TestNothingIsSignedUnasked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		offers []string
		change func(*Options)
	}{
		"the broker does not offer it":  {nil, func(*Options) {}},
		"the program does not want to":  {[]string{wire.CapReceipts}, func(o *Options) { o.NoReceipts = true }},
		"nor when it acknowledges":      {[]string{wire.CapReceipts}, func(o *Options) { o.NoReceipts, o.ManualAck = true, true }},
		"an older broker, acknowledged": {nil, func(o *Options) { o.ManualAck = true }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStub(t, func(k *stubConn) {
					for i := range 70 {
						k.write(directPush(t, messageID(i), "hello", testKey(t, "02"), testKey(t, "01")))
					}
					k.serveAll()
				}).offering(test.offers...)
				c := s.dial(test.change)
				var ids []string
				for range 70 {
					m, err := c.Receive(context.Background())
					require.NoError(t, err)
					ids = append(ids, m.ID)
				}
				if c.o.ManualAck {
					require.NoError(t, c.Ack(context.Background(), ids...))
					require.Len(t, s.of(wire.TypeClientAck), 1, "one frame for all")
				}
				synctest.Wait()
				require.Len(t, ackedIDs(s), 70)
				for _, f := range s.of(wire.TypeClientAck) {
					require.NotContains(t, f, "receipts")
				}
			})
		})
	}
}

// Track asks with growing pauses, hears receipts at once, and ends when all is settled.
func TestTrackAsksSeldomAndHearsReceiptsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob := testKey(t, "02")
		l := &ledger{}
		held := []wire.RecipientStatus{{
			Name: "bob", Pubkey: bob.Public(), MemberID: bobMember, Status: wire.StatusHeld, State: wire.StateHeld, Reason: wire.ReasonDND,
		}}
		l.say(held)
		conns := make(chan *stubConn, 2)
		s := newStub(t, func(k *stubConn) { conns <- k; l.serve(k) }).offering(wire.CapReceipts)
		c := s.dial()
		conn, ctx := <-conns, context.Background()
		require.NoError(t, c.TrustMember(bobMember, bob.Public()))
		sent, err := c.Send(ctx, bob.Public(), "when you have time")
		require.NoError(t, err)

		limited, cancel := context.WithTimeout(ctx, time.Hour)
		all, err := c.Wait(limited, sent.MessageID)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, []any{OutcomePending, wire.StateHeld, wire.ReasonDND, false}, []any{all[0].State, all[0].Stage, all[0].Reason, all[0].Final()})
		require.Less(t, l.asked(), 260, "four a minute")
		require.Greater(t, l.asked(), 230)

		var states []OutcomeState
		start := time.Now()
		for o, err := range c.Track(ctx, sent.MessageID) {
			require.NoError(t, err)
			if states = append(states, o.State); o.State == OutcomePending {
				go func() {
					time.Sleep(time.Minute)
					bad, good := s.about(sent, testKey(t, "03")).receipt(), s.about(sent, bob).receipt()
					for _, r := range []*wire.StoredReceipt{bad, good} {
						conn.write(receiptPush(t, wire.ReceiptEvent{MessageID: sent.MessageID, MemberID: bobMember, StoredReceipt: *r}))
					}
				}()
			}
		}
		require.Equal(t, []OutcomeState{OutcomePending, OutcomeAcked}, states)
		require.Equal(t, time.Minute, time.Since(start), "it does not wait for the next question")

		for o, err := range c.Track(ctx, sent.MessageID) {
			require.NoError(t, err)
			require.Equal(t, OutcomePending, o.State)
			break // who has seen enough stops
		}
		l.say(held)
		asks := s.dial(func(o *Options) { o.NoPush, o.SessionID = true, "s-2" })
		limited, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, err = asks.Wait(limited, sent.MessageID)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.InDelta(t, 33, l.asked(), 3, "who gets no events asks more often")
		require.Empty(t, c.sent.watchers)
	})
}

func TestOutcomesInTheWordsOfAnOlderBroker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{rows: []wire.RecipientStatus{
			{Name: "a", Pubkey: strings.Repeat("a", 64), Status: wire.StatusDelivered}, {Name: "b", Pubkey: strings.Repeat("b", 64), Status: wire.StatusDisconnected},
			{Name: "c", Pubkey: strings.Repeat("c", 64), State: wire.StateExpired, Reason: wire.ReasonTTL},
			{Name: "d", Pubkey: strings.Repeat("d", 64), State: wire.StateRefused, Reason: wire.ReasonQuota},
			{Name: "e", Pubkey: strings.Repeat("e", 64), State: wire.StateAcked, By: "transport"},
		}}
		s := newStub(t, l.serve)
		all, err := s.dial().Outcomes(context.Background(), "Mess0000")
		require.NoError(t, err)
		var got []any
		for _, o := range all {
			got = append(got, []any{o.State, o.Reason, o.By, o.Final()})
		}
		require.Equal(t, []any{
			[]any{OutcomeUnsigned, "", "", true}, []any{OutcomePending, "", "", false}, []any{OutcomeExpired, "ttl", "", true},
			[]any{OutcomeRefused, "quota", "", true}, []any{OutcomeUnsigned, "", "transport", true},
		}, got)
	})
}

func TestTrackTellsWhyItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			for f := k.read(); f != nil; f = k.read() {
				id := str(f, "_reqId")
				k.write(&wire.Error{Header: wire.Header{Type: wire.TypeError, ReqID: &id}, Code: wire.NotFound, Message: "no such message"})
			}
		})
		c := s.dial()
		_, err := c.Wait(context.Background(), "Mess0000")
		require.ErrorIs(t, err, wire.NotFound)
		n := 0
		for _, err := range c.Track(context.Background(), "Mess0000") {
			n++
			require.ErrorIs(t, err, wire.NotFound)
		}
		require.Equal(t, 1, n)
		require.NoError(t, c.Close())
		_, err = c.Wait(context.Background(), "Mess0000")
		require.ErrorIs(t, err, ErrClosed)
	})
}
