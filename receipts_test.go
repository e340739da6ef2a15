package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// signing makes a bare connection say that it knows receipts.
var signing = brokertest.With(frame{"capabilities": []string{"receipts"}})

// attestationOf is the wire's form of an attestation.
func attestationOf(a identity.Attestation) frame {
	return frame{"sessionPubkey": a.SessionPubkey, "parentMemberPubkey": a.ParentPubkey, "expiresAt": a.ExpiresAt, "signature": a.Signature}
}

// signing of a push: by whom, when, and what it says.
type receipt struct {
	mesh, message, hash, recipient string
	at                             time.Time
	signer                         identity.KeyPair
	attestation                    *identity.Attestation
}

// receiptFor is the receipt that a recipient owes for a push.
func receiptFor(mesh *brokertest.Mesh, by *brokertest.Member, push frame) receipt {
	return receipt{
		mesh: mesh.ID, message: push.Str("messageId"), hash: identity.ReceiptBodyHash(push.Str("nonce"), push.Str("ciphertext")),
		recipient: by.Pubkey, at: time.Now(), signer: by.Key,
	}
}

func (r receipt) frame() frame {
	at := float64(r.at.UnixMilli())
	f := frame{
		"messageId": r.message, "ackedAt": at,
		"signature": r.signer.Sign(identity.ReceiptText(r.mesh, r.message, r.hash, r.recipient, at)),
	}
	if r.attestation != nil {
		f["sessionPubkey"], f["attestation"] = r.signer.Public(), attestationOf(*r.attestation)
	}
	return f
}

// row is the only recipient that message_status shows.
func row(t *testing.T, c *brokertest.Conn, id any) frame {
	t.Helper()
	status := c.Request(frame{"type": "message_status", "messageId": id})
	rows, _ := status["recipients"].([]any)
	require.Len(t, rows, 1, "%v", status)
	return rows[0].(map[string]any)
}

func TestD37ReceiptIsKeptAndHandedOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		session := sessionKey(t)
		ana := mesh.Dial("ana", signing)
		bo := mesh.Dial("bo", signing, brokertest.SessionKey(session))
		attested := identity.NewAttestation(bo.Member.Key, session.Public(), time.Now())
		for _, tt := range []struct {
			name   string
			change func(r *receipt)
		}{
			{"by the member's key", func(*receipt) {}},
			{"by the session's key", func(r *receipt) { r.signer, r.attestation = session, &attested }},
			{"as early as may be", func(r *receipt) { r.at = r.at.Add(-time.Minute) }},
			{"as late as may be", func(r *receipt) { r.at = r.at.Add(time.Minute) }},
		} {
			id := ana.Say(bo.Member.Pubkey, "now", tt.name)["messageId"]
			push := bo.ExpectPush()
			r := receiptFor(mesh, bo.Member, push)
			tt.change(&r)
			signed := r.frame()
			bo.Request(frame{"type": "client_ack", "brokerMessageId": id, "receipts": []frame{signed}})
			want := frame{"ackedAt": signed["ackedAt"], "signature": signed["signature"], "memberPubkey": bo.Member.Pubkey}
			if r.attestation != nil {
				want["sessionPubkey"], want["attestation"] = session.Public(), map[string]any(attestationOf(attested))
			}
			status := row(t, ana, id)
			require.Equal(t, map[string]any(want), status["receipt"], tt.name)
			require.Equal(t, []any{"delivered", "acked", "client", bo.Member.ID}, []any{status["status"], status["state"], status["by"], status["memberId"]}, tt.name)

			event := ana.ExpectEvent("receipt")
			want["messageId"], want["memberId"] = id, bo.Member.ID
			require.Equal(t, map[string]any(want), event["eventData"], tt.name)
		}
	})
}

// H27: who has not said that it knows them gets no receipts, and status has the three words that it always had.
func TestH27OlderClientsMeetNothingNew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxPendingPerRecipient = 8 })
		ana, bo := mesh.Dial("ana", signing), mesh.Dial("bo", signing)
		old, asks := mesh.Dial("ana", explicit), mesh.Dial("ana", brokertest.With(frame{"capabilities": []string{"receipts", "no_push"}}))
		dnd, away := mesh.Dial("dnd", explicit), mesh.Member("away")
		dnd.Request(frame{"type": "set_status", "status": "dnd"})
		words := map[any]any{}
		note := func(id any) {
			synctest.Wait()
			for _, r := range ana.Request(frame{"type": "message_status", "messageId": id})["recipients"].([]any) {
				r := r.(map[string]any)
				words[r["state"]] = r["status"]
			}
		}
		id := ana.Say(bo.Member.Pubkey, "now", "x")["messageId"]
		push := bo.ExpectPush()
		note(id)
		bo.Request(frame{"type": "client_ack", "brokerMessageId": id, "receipts": []frame{receiptFor(mesh, bo.Member, push).frame()}})
		note(id)
		note(ana.Say(dnd.Member.Pubkey, "next", "x")["messageId"])
		expires := wire.FormatTime(time.Now().Add(time.Second))
		brief := ana.Request(frame{"type": "send", "targetSpec": away.Pubkey, "nonce": "", "ciphertext": brokertest.Body("x"), "expiresAt": expires})["messageId"]
		note(brief)
		time.Sleep(2 * time.Second)
		note(brief)
		for range 2 { // a sender's quarter
			ana.Say(away.Pubkey, "next", "x")
		}
		note(ana.Say("*", "next", "x")["messageId"])
		require.Equal(t, map[any]any{
			"queued": "disconnected", "pushed": "held", "held": "held", "acked": "delivered", "expired": "disconnected", "refused": "disconnected",
		}, words)

		synctest.Wait()
		require.Equal(t, "receipt", ana.ExpectEvent("receipt").Str("event"))
		for _, c := range []*brokertest.Conn{old, asks, bo, dnd} {
			for _, f := range c.Waiting() {
				require.NotEqual(t, "receipt", f.Str("event"))
			}
		}
	})
}

// A client_ack with a receipt that does not hold is an acknowledgement all the same.
func TestD37BadReceiptIsDroppedAndTheAckCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		session, other := sessionKey(t), sessionKey(t)
		ana, bo, eve := mesh.Dial("ana", signing), mesh.Dial("bo", signing, brokertest.SessionKey(session)), mesh.Dial("eve", signing)
		before := ana.Say(bo.Member.Pubkey, "now", "an earlier message")["messageId"].(string)
		earlier := receiptFor(mesh, bo.Member, bo.ExpectPush())
		now := time.Now()
		attest := func(by identity.KeyPair, key identity.KeyPair, at time.Time) *identity.Attestation {
			a := identity.NewAttestation(by, key.Public(), at)
			return &a
		}
		for _, tt := range []struct {
			name   string
			change func(r *receipt)
			frame  func(f frame) // what is changed after signing
		}{
			{"by another member", func(r *receipt) { r.signer = eve.Member.Key }, nil},
			{"for another member", func(r *receipt) { r.signer, r.recipient = eve.Member.Key, eve.Member.Pubkey }, nil},
			{"by the broker", func(r *receipt) { r.signer = mesh.Owner }, nil},
			{"for another message", func(r *receipt) { r.message = before }, func(f frame) { f["messageId"] = "" }},
			{"replayed under this message's id", func(r *receipt) { *r = earlier }, nil},
			{"for another body", func(r *receipt) { r.hash = identity.ReceiptBodyHash("", brokertest.Body("x")) }, nil},
			{"for another mesh", func(r *receipt) { r.mesh = "other" }, nil},
			{"too early", func(r *receipt) { r.at = r.at.Add(-time.Minute - time.Millisecond) }, nil},
			{"too late", func(r *receipt) { r.at = r.at.Add(time.Minute + time.Millisecond) }, nil},
			{"by a session without an attestation", func(r *receipt) { r.signer = session }, nil},
			{"by a session that names itself alone", func(r *receipt) { r.signer = session }, func(f frame) { f["sessionPubkey"] = session.Public() }},
			{"with an attestation by another member", func(r *receipt) { r.signer, r.attestation = session, attest(eve.Member.Key, session, now) }, nil},
			{"with an attestation of another session", func(r *receipt) { r.signer, r.attestation = session, attest(bo.Member.Key, other, now) }, nil},
			{"with an attestation that had ended", func(r *receipt) {
				r.signer, r.attestation = session, attest(bo.Member.Key, session, now.Add(-identity.AttestationTTL))
			}, nil},
			{"with an attestation for too long", func(r *receipt) {
				r.signer, r.attestation = session, attest(bo.Member.Key, session, now.Add(13*time.Hour))
			}, nil},
			{"with a changed attestation", func(r *receipt) { r.signer, r.attestation = session, attest(bo.Member.Key, session, now) }, func(f frame) {
				f["attestation"].(frame)["expiresAt"] = float64(now.Add(time.Hour).UnixMilli())
			}},
			{"with an attestation without an end", func(r *receipt) { r.signer, r.attestation = session, attest(bo.Member.Key, session, now) }, func(f frame) {
				f["attestation"].(frame)["expiresAt"] = nil
			}},
			{"with a changed time", func(*receipt) {}, func(f frame) { f["ackedAt"] = f["ackedAt"].(float64) + 1 }},
			{"with a time of parts of a millisecond", func(*receipt) {}, func(f frame) { f["ackedAt"] = f["ackedAt"].(float64) + 0.5 }},
			{"with a signature of no digits", func(*receipt) {}, func(f frame) { f["signature"] = strings.Repeat("z", 128) }},
		} {
			id := ana.Say(bo.Member.Pubkey, "now", tt.name)["messageId"].(string)
			r := receiptFor(mesh, bo.Member, bo.ExpectPush())
			tt.change(&r)
			signed := r.frame()
			signed["messageId"] = id
			if tt.frame != nil {
				tt.frame(signed)
				signed["messageId"] = id
			}
			bo.Request(frame{"type": "client_ack", "brokerMessageId": id, "receipts": []frame{signed}})
			status := row(t, ana, id)
			require.Equal(t, []any{"acked", "client"}, []any{status["state"], status["by"]}, tt.name)
			require.NotContains(t, status, "receipt", tt.name)
		}
		synctest.Wait()
		for _, f := range ana.Waiting() {
			require.NotEqual(t, "receipt", f.Str("event"), "%v", f)
		}
	})
}

func TestReceiptForAMessageThatWasAcknowledgedBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana", signing), mesh.Dial("bo", signing)
		id := ana.Say(bo.Member.Pubkey, "now", "x")["messageId"]
		r := receiptFor(mesh, bo.Member, bo.ExpectPush())
		early := r.frame()
		bo.Request(frame{"type": "client_ack", "receipts": []frame{early}})
		require.Equal(t, "pushed", row(t, ana, id)["state"], "a receipt does not acknowledge")
		require.NotContains(t, row(t, ana, id), "receipt")

		bo.Request(frame{"type": "client_ack", "brokerMessageId": id})
		require.NotContains(t, row(t, ana, id), "receipt")
		bo.Request(frame{"type": "client_ack", "receipts": []frame{early}})
		require.Equal(t, early["signature"], row(t, ana, id)["receipt"].(map[string]any)["signature"])

		time.Sleep(time.Second)
		r.at = time.Now()
		bo.Request(frame{"type": "client_ack", "brokerMessageId": id, "receipts": []frame{r.frame()}})
		require.Equal(t, early["signature"], row(t, ana, id)["receipt"].(map[string]any)["signature"], "the first stays")
		synctest.Wait()
		told := 0
		for _, f := range ana.Waiting() {
			if f.Str("event") == "receipt" {
				told++
			}
		}
		require.Equal(t, 1, told)
	})
}

// The first receipt of a frame that holds counts, whatever stands before it; and one of a restarted broker's, which knows the message from the store.
func TestFirstGoodReceiptCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana", signing), mesh.Dial("bo", signing)
		one, two := ana.Say(bo.Member.Pubkey, "now", "one")["messageId"], ana.Say(bo.Member.Pubkey, "now", "two")["messageId"]
		first, second := receiptFor(mesh, bo.Member, bo.ExpectPush()), receiptFor(mesh, bo.Member, bo.ExpectPush())
		bad := first
		bad.signer = ana.Member.Key
		bo.Request(frame{"type": "client_ack", "brokerMessageIds": []any{one}, "receipts": []any{
			7, nil, frame{"messageId": one}, bad.frame(), first.frame(), second.frame(),
		}})
		require.Contains(t, row(t, ana, one), "receipt")
		require.NotContains(t, row(t, ana, two), "receipt", "it is not acknowledged yet")

		mesh.Restart()
		ana, bo = mesh.Dial("ana", signing), mesh.Dial("bo", signing)
		bo.ExpectPush()
		bo.Request(frame{"type": "client_ack", "brokerMessageId": two, "receipts": []any{second.frame()}})
		require.Contains(t, row(t, ana, two), "receipt", "and the sender, who was away, finds it")
	})
}

// A receipt for a message that went to others is not kept, however well it is signed.
func TestReceiptIsKeptForRecipientsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		here, there := sessionKey(t), sessionKey(t)
		ana, bo, eve := mesh.Dial("ana", signing), mesh.Dial("bo", signing, brokertest.SessionKey(here)), mesh.Dial("eve", signing)
		sibling := mesh.Dial("bo", signing, brokertest.SessionKey(there))
		toBo, toSession := ana.Say(bo.Member.Pubkey, "now", "x")["messageId"], ana.Say(here.Public(), "now", "y")["messageId"]
		first, second := bo.ExpectPush(), bo.ExpectPush()
		ackAll(bo, []frame{first, second})
		synctest.Wait()
		for _, c := range []*brokertest.Conn{eve, ana} {
			r := receiptFor(mesh, c.Member, first)
			c.Request(frame{"type": "client_ack", "brokerMessageId": toBo, "receipts": []frame{r.frame()}})
		}
		require.NotContains(t, row(t, ana, toBo), "receipt")
		r := receiptFor(mesh, bo.Member, second)
		sibling.Request(frame{"type": "client_ack", "brokerMessageId": toSession, "receipts": []frame{r.frame()}})
		require.NotContains(t, row(t, ana, toSession), "receipt", "it was for another session")
		bo.Request(frame{"type": "client_ack", "brokerMessageId": toSession, "receipts": []frame{r.frame()}})
		status := row(t, ana, toSession)
		require.Contains(t, status, "receipt")
		require.Equal(t, []any{here.Public(), bo.Member.ID}, []any{status["pubkey"], status["memberId"]})
		_, rival := mesh.Dial("bo", signing), mesh.Dial("mallory", signing)
		r = receiptFor(mesh, rival.Member, second)
		r.message = second.Str("messageId")[:8] // the start of an id finds a message, but is none
		rival.Request(frame{"type": "client_ack", "receipts": []frame{r.frame()}})
		require.Equal(t, bo.Member.Pubkey, row(t, ana, toSession)["receipt"].(map[string]any)["memberPubkey"])
	})
}

// H01 holds with receipts: what a connection may have checked is bounded, what it may acknowledge is not.
func TestReceiptsThatCostTooMuchAreSkipped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { *o = o.Unlimited() })
		ana, bo := mesh.Dial("ana", signing), mesh.Dial("bo", signing)
		id := ana.Say(bo.Member.Pubkey, "now", "x")["messageId"]
		good := receiptFor(mesh, bo.Member, bo.ExpectPush())
		bo.Request(frame{"type": "client_ack", "brokerMessageId": id})
		bad := good
		bad.signer = ana.Member.Key
		many := make([]frame, 64)
		for i := range many {
			many[i] = bad.frame()
		}
		for range 5 { // 320 failures: the budget of 256 is spent
			bo.Send(frame{"type": "client_ack", "receipts": many})
		}
		bo.Request(frame{"type": "client_ack", "receipts": []frame{good.frame()}})
		require.NotContains(t, row(t, ana, id), "receipt", "over the budget nothing is checked")

		// What is pushed and acknowledged is signed for all the same.
		for i := range 100 {
			ana.Say(bo.Member.Pubkey, "now", fmt.Sprint(i))
		}
		synctest.Wait()
		for _, push := range bo.Pushes() {
			r := receiptFor(mesh, bo.Member, push)
			bo.Request(frame{"type": "client_ack", "brokerMessageId": push["messageId"], "receipts": []frame{r.frame()}})
			require.Contains(t, row(t, ana, push["messageId"]), "receipt")
		}
		require.Contains(t, string(hostMetrics(t, mesh.Broker)), `broker_receipts_total{result="refused"} 256`)
		require.Contains(t, string(hostMetrics(t, mesh.Broker)), `broker_receipts_total{result="skipped"} 65`)
		require.Contains(t, string(hostMetrics(t, mesh.Broker)), `broker_receipts_total{result="stored"} 100`)

		time.Sleep(time.Second) // ten more
		bo.Request(frame{"type": "client_ack", "receipts": []frame{good.frame()}})
		require.Contains(t, row(t, ana, id), "receipt")
	})
}

// A sender that does not read its events is not thrown out for the receipts that others sign: they can be asked for.
func TestReceiptsNobodyReadsAreDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) {
			*o = o.Unlimited()
			o.PingInterval, o.StaleAfter = -1, -1
		})
		ana, bo := mesh.Dial("ana", signing), mesh.Dial("bo", signing)
		slow := mesh.Dial("ana", signing, brokertest.NotReading())
		var ids []any
		for i := range 1500 {
			ids = append(ids, ana.Say(bo.Member.Pubkey, "now", fmt.Sprint(i))["messageId"])
			push := bo.ExpectPush()
			r := receiptFor(mesh, bo.Member, push)
			bo.Request(frame{"type": "client_ack", "brokerMessageId": push["messageId"], "receipts": []frame{r.frame()}})
		}
		require.Contains(t, row(t, ana, ids[1499]), "receipt")
		slow.Read()
		synctest.Wait()
		require.NotEmpty(t, slow.Waiting())
		require.Equal(t, "peers_list", slow.Request(frame{"type": "list_peers"}).Type(), "the connection lives")
	})
}
