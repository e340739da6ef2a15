package storetest

import (
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// anAttestation is a member's word for a session key, for a name.
func anAttestation(name string) *wire.Attestation {
	return &wire.Attestation{
		SessionPubkey: key("session of " + name), ParentMemberPubkey: key(name), ExpiresAt: ptr(wire.Number(1777795391000.5)), Signature: key(name) + key(name),
	}
}

// aReceipt is by a member's key; signature tells it from others for the same message.
func aReceipt(message, member, signature string) store.Receipt {
	return store.Receipt{MessageID: message, MemberPubkey: key(member), AckedAt: 1777752191000, Signature: key(signature) + key(signature)}
}

// sessionReceipt is by a session's key.
func sessionReceipt(message, member, signature string) store.Receipt {
	r := aReceipt(message, member, signature)
	r.SessionPubkey, r.Attestation = key("session of "+member), anAttestation(member)
	return r
}

// receive confirms as the recipient, with receipts.
func (w *world) receive(mesh, by string, ids []string, receipts ...store.Receipt) store.Acked {
	w.Helper()
	a := anAck(mesh, by, ids...)
	a.Receipts = receipts
	out, err := w.Ack(w.ctx, []store.Ack{a})
	require.NoError(w, err)
	return out
}

// kept are the receipts of a message's deliveries, by recipient.
func (w *world) kept(mesh, message string) map[store.Recipient]store.Receipt {
	w.Helper()
	ds, err := w.Deliveries(w.ctx, mesh, message)
	require.NoError(w, err)
	out := map[store.Recipient]store.Receipt{}
	for _, d := range ds {
		if d.Receipt != nil {
			require.Equal(w, store.Done, d.State)
			out[d.Recipient] = *d.Receipt
		}
	}
	return out
}

// of is one receipt of one recipient.
func of(to string, r store.Receipt) map[store.Recipient]store.Receipt {
	return map[store.Recipient]store.Receipt{recipient(to): r}
}

// none are no ids, or no receipts.
var none []string

var receipts = checks{
	"a receipt is kept with the delivery that its ack completes": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("1", "ana", "bo", "ana"), draft("2", "ana", "bo"))
		for id, want := range map[string]store.Receipt{"1": aReceipt("1", "bo", "x"), "2": sessionReceipt("2", "bo", "y")} {
			out := w.receive("m", "bo", []string{id}, want)
			require.Equal(w, []string{id}, messageIDs(out.Done))
			require.Len(w, out.Receipts, 1)
			require.Equal(w, want, *out.Receipts[0].Receipt)
			require.Equal(w, of("bo", want), w.kept("m", id))
			ds, err := w.Deliveries(w.ctx, "m", id)
			require.NoError(w, err)
			require.Contains(w, ds, out.Receipts[0], "it is the delivery as it is now")
		}
		require.Equal(w, map[string]store.DeliveryState{"ana": store.Pending, "bo": store.Done}, w.states("m", "1"))
	},
	"a receipt may come after the ack, and after the body went": func(w *world) {
		w.mesh("m", "ana", "bo")
		d := draft("1", "ana", "bo")
		d.Message.BodyHash = identity.ReceiptBodyHash(d.Message.Nonce, d.Message.Ciphertext)
		w.send("m", d)
		a := anAck("m", "bo", "1")
		a.By = store.ByTransport
		changed, err := w.Ack(w.ctx, []store.Ack{a})
		require.NoError(w, err)
		require.Len(w, changed.Done, 1)
		require.Empty(w, changed.Receipts)
		got, err := w.Message(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Equal(w, d.Message.BodyHash, got.BodyHash, "by which the receipt is verified")
		for i, ids := range [][]string{none, {"1"}} {
			out := w.receive("m", "bo", ids, aReceipt("1", "bo", "x"))
			require.Empty(w, out.Done)
			require.Len(w, out.Receipts, 1-i)
		}
		require.Equal(w, of("bo", aReceipt("1", "bo", "x")), w.kept("m", "1"))
		ds, err := w.Deliveries(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Equal(w, []any{store.ByTransport, noon}, []any{ds[0].DoneBy, ds[0].DoneAt}, "who confirmed it first stays")
	},
	"the first receipt stays": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("1", "ana", "bo"), draft("2", "ana", "bo"))
		first, second := aReceipt("1", "bo", "first"), sessionReceipt("1", "bo", "second")
		require.Len(w, w.receive("m", "bo", []string{"1"}, first, second).Receipts, 1, "of one ack")
		require.Empty(w, w.receive("m", "bo", []string{"1"}, second).Receipts)
		require.Equal(w, of("bo", first), w.kept("m", "1"))
		a, b := anAck("m", "bo", "2"), anAck("m", "bo", "2")
		a.Receipts, b.Receipts = []store.Receipt{aReceipt("2", "bo", "first")}, []store.Receipt{aReceipt("2", "bo", "second")}
		out, err := w.Ack(w.ctx, []store.Ack{a, b})
		require.NoError(w, err)
		require.Len(w, out.Done, 1)
		require.Len(w, out.Receipts, 1, "of one call")
		require.Equal(w, of("bo", aReceipt("2", "bo", "first")), w.kept("m", "2"))
	},
	"a receipt of who has no done delivery of that message changes nothing": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.mesh("n", "ana", "bo")
		s, other := key("s"), key("other")
		for _, mesh := range []string{"m", "n"} {
			w.send(mesh, draft("pending", "ana", "bo"), draft("expired", "ana", "bo"), draft("done", "ana", "bo"), draft("session", "ana", "bo/"+s))
		}
		w.expire(after(time.Hour), 0, 100)
		w.sendAt(after(time.Hour), "m", with(draft("fresh", "ana", "bo"), func(d *store.Draft) { d.Message.ExpiresAt = after(9 * time.Hour) }))
		w.mesh("o", "ana", "bo")
		w.send("o", draft("done", "ana", "bo"), draft("session", "ana", "bo/"+s), draft("pending", "ana", "bo"))
		w.ack("o", "bo/"+s, "done", "session")

		for what, a := range map[string]store.Ack{
			"expired":                   receiving("m", "bo", "expired"),
			"pending":                   receiving("m", "bo", "fresh"),
			"pending, of another mesh":  receiving("o", "bo", "pending"),
			"unknown message":           receiving("o", "bo", "none"),
			"start of an id":            receiving("o", "bo", "don"),
			"unknown member":            receiving("o", "cy", "done"),
			"another member":            receiving("o", "ana", "done"),
			"nobody":                    receiving("o", "", "done"),
			"another session":           receiving("o", "bo/"+other, "session"),
			"no session":                receiving("o", "bo", "session"),
			"the same id elsewhere":     receiving("n", "bo", "done"), // expired there
			"an unknown mesh":           receiving("none", "bo", "done"),
			"another session's as one ": receiving("o", "ana/"+s, "session"),
		} {
			out, err := w.Ack(w.ctx, []store.Ack{a})
			require.NoError(w, err, what)
			require.Empty(w, out.Done, what)
			require.Empty(w, out.Receipts, what)
		}
		for _, mesh := range []string{"m", "n", "o"} {
			for _, id := range []string{"pending", "expired", "done", "session", "fresh"} {
				require.Empty(w, w.kept(mesh, id), "%s %s", mesh, id)
			}
		}
		require.Equal(w, []string{"pending"}, w.mail("o", "bo"), "and completes nothing")
		require.Len(w, w.receive("o", "bo/"+s, none, aReceipt("done", "bo", "x"), aReceipt("session", "bo", "x")).Receipts, 2)
	},
	"a receipt goes with all that the connection may confirm: the member's and its session's": func(w *world) {
		w.mesh("m", "ana", "bo")
		s, other := key("s"), key("other")
		w.send("m", draft("1", "ana", "bo", "bo/"+s, "bo/"+other))
		w.ack("m", "bo", "1")
		w.ack("m", "bo/"+other, "1")
		r := sessionReceipt("1", "bo", "x")
		out := w.receive("m", "bo/"+s, []string{"1"}, r)
		require.Len(w, out.Done, 1)
		require.Len(w, out.Receipts, 2, "also with what was done before")
		require.Equal(w, map[store.Recipient]store.Receipt{recipient("bo"): r, recipient("bo/" + s): r}, w.kept("m", "1"))
		last := aReceipt("1", "bo", "y")
		require.Len(w, w.receive("m", "bo/"+other, none, last).Receipts, 1, "only where none is")
		require.Equal(w, last, w.kept("m", "1")[recipient("bo/"+other)])
	},
	"a receipt above UpTo is left alone": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("1", "ana", "bo"), draft("2", "ana", "bo"), draft("3", "ana", "bo"))
		w.ack("m", "bo", "3")
		a := anAck("m", "bo", "1", "2")
		a.UpTo = 1
		a.Receipts = []store.Receipt{aReceipt("3", "bo", "x"), aReceipt("2", "bo", "x"), aReceipt("1", "bo", "x")}
		out, err := w.Ack(w.ctx, []store.Ack{a})
		require.NoError(w, err)
		require.Equal(w, []string{"1"}, messageIDs(out.Done))
		require.Equal(w, []string{"1"}, messageIDs(out.Receipts))
		require.Empty(w, w.kept("m", "2"))
		require.Empty(w, w.kept("m", "3"))
	},
	"one call takes receipts of many recipients and meshes": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.mesh("n", "ana", "bo")
		w.send("m", draft("1", "ana", "bo", "cy"), draft("2", "ana", "bo"))
		w.send("n", draft("1", "ana", "bo"))
		acks := []store.Ack{anAck("m", "bo", "1", "2"), anAck("n", "bo", "1"), anAck("none", "bo", "1"), anAck("m", "cy", "1")}
		acks[0].Receipts = []store.Receipt{aReceipt("2", "bo", "m2"), aReceipt("1", "bo", "m1")}
		acks[1].Receipts = []store.Receipt{sessionReceipt("1", "bo", "n1")}
		acks[2].Receipts = acks[1].Receipts
		out, err := w.Ack(w.ctx, acks)
		require.NoError(w, err)
		require.Len(w, out.Done, 4)
		require.Len(w, out.Receipts, 3)
		require.Equal(w, of("bo", aReceipt("1", "bo", "m1")), w.kept("m", "1"))
		require.Equal(w, of("bo", aReceipt("2", "bo", "m2")), w.kept("m", "2"))
		require.Equal(w, of("bo", sessionReceipt("1", "bo", "n1")), w.kept("n", "1"))
	},
	"a broadcast keeps one of each recipient": func(w *world) {
		names := []string{}
		for i := range 300 {
			names = append(names, fmt.Sprintf("m%03d", i*7%300))
		}
		w.mesh("m", append(names, "a", "m0015", "z")...)
		w.send("m", draft("1", "m000", append(names, "m001/"+key("s"))...))
		acks := []store.Ack{}
		for _, name := range names {
			acks = append(acks, anAck("m", name, "1"))
		}
		out, err := w.Ack(w.ctx, acks)
		require.NoError(w, err)
		require.Len(w, out.Done, 300)
		for _, other := range []string{"a", "m0015", "z"} { // who sort before, between and behind them
			require.Empty(w, w.receive("m", other, none, aReceipt("1", other, "x")).Receipts, other)
		}
		for i := range acks {
			acks[i].Receipts = []store.Receipt{aReceipt("1", names[i], names[i])}
		}
		out, err = w.Ack(w.ctx, acks)
		require.NoError(w, err)
		require.Empty(w, out.Done)
		require.Len(w, out.Receipts, 300)
		kept := w.kept("m", "1")
		require.Len(w, kept, 300)
		for to, r := range kept {
			require.Equal(w, aReceipt("1", to.MemberID, to.MemberID), r)
		}
		require.Len(w, w.receive("m", "m001/"+key("s"), []string{"1"}, aReceipt("1", "m001", "s")).Receipts, 1)
	},
	"receipts of many connections at once: one stays": func(w *world) {
		w.mesh("m", "ana", "bo")
		ids := []string{}
		for i := range 20 {
			ids = append(ids, fmt.Sprint(i))
			w.send("m", draft(fmt.Sprint(i), "ana", "bo"))
		}
		var mu sync.Mutex
		got := map[string][]store.Receipt{}
		together(8, func(i int) {
			a := anAck("m", "bo", ids...)
			for _, id := range ids {
				a.Receipts = append(a.Receipts, aReceipt(id, "bo", fmt.Sprint(i)))
			}
			out, _ := w.Ack(w.ctx, []store.Ack{a})
			mu.Lock()
			defer mu.Unlock()
			for _, d := range out.Receipts {
				got[d.MessageID] = append(got[d.MessageID], *d.Receipt)
			}
		})
		for _, id := range ids {
			require.Len(w, got[id], 1, "message %s", id)
			require.Equal(w, of("bo", got[id][0]), w.kept("m", id))
		}
	},
	"receipts outlive a ban and go with their message": func(w *world) {
		w.mesh("m", "ana", "bo")
		d := draft("1", "ana", "bo")
		w.send("m", d)
		r := aReceipt("1", "bo", "x")
		w.receive("m", "bo", []string{"1"}, r)
		_, err := w.RevokeMember(w.ctx, "m", "bo", noon)
		require.NoError(w, err)
		require.Equal(w, of("bo", r), w.kept("m", "1"))
		w.pruned(after(2*time.Hour), store.Retention{Messages: time.Hour})
		ds, err := w.Deliveries(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Empty(w, ds)
		require.NoError(w, w.RestoreMember(w.ctx, "m", "bo"))
		d.Message.ExpiresAt = after(9 * time.Hour)
		w.sendAt(after(2*time.Hour), "m", d)
		w.ack("m", "bo", "1")
		require.Empty(w, w.kept("m", "1"), "another message under that id")
	},
	"the caller may reuse the receipts that it gave": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("1", "ana", "bo"), draft("2", "ana", "bo"))
		given := []store.Receipt{sessionReceipt("1", "bo", "x"), aReceipt("2", "bo", "x")}
		out := w.receive("m", "bo", []string{"1", "2"}, given...)
		given[0].Attestation.Signature, *given[0].Attestation.ExpiresAt = "changed", 1
		given[0].Signature, given[1] = "changed", given[0]
		for _, want := range []store.Receipt{sessionReceipt("1", "bo", "x"), aReceipt("2", "bo", "x")} {
			require.Equal(w, of("bo", want), w.kept("m", want.MessageID))
			for _, d := range out.Receipts {
				if d.MessageID == want.MessageID {
					require.Equal(w, want, *d.Receipt)
				}
			}
		}
	},
}

// receiving is an ack that brings a receipt for a message and confirms nothing.
func receiving(mesh, by, message string) store.Ack {
	a := anAck(mesh, by)
	a.Receipts = []store.Receipt{aReceipt(message, a.MemberID, "x")}
	return a
}
