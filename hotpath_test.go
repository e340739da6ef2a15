//go:build !race

package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// The way of a message through memory, without sockets and store: what each step may allocate is pinned, so that a change that costs more per
// recipient is noticed. Serial, because AllocsPerRun is; not under the race detector, which allocates for itself.

func hotMessage() *store.Message {
	return &store.Message{
		ID: newID(), MeshID: newID(), SenderMemberID: newID(), SenderPubkey: strings.Repeat("a", 64), SenderName: "ana", TargetSpec: "*",
		Priority: wire.PriorityNow, Nonce: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX", Ciphertext: strings.Repeat("QUJD", 128), CreatedAt: now(),
		ExpiresAt: now().AddDate(0, 0, 7),
	}
}

func TestFanOutAllocatesNothingPerRecipient(t *testing.T) {
	var room mailroom
	room.init(0)
	to := make([]store.Recipient, 100)
	for i := range to {
		to[i] = store.Recipient{MemberID: fmt.Sprint("member ", i)}
		room.boxes[to[i].MemberID] = &mailbox{written: map[string]int64{}}
	}
	msg, seq := hotMessage(), int64(0)
	frame := encodePush(msg, false)
	per := testing.AllocsPerRun(1000, func() {
		seq++
		l := &letter{seq: seq}
		l.content.Store(&content{msg: msg, frame: frame})
		room.publish([]*letter{l}, [][]store.Recipient{to})
	})
	// The letter, its content, two slices; and the mailboxes' rings, which are cut now and then.
	require.LessOrEqual(t, per, 10.0, "for 100 recipients")
}

func TestPushIsEncodedInOneAllocation(t *testing.T) {
	msg := hotMessage()
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { encodePush(msg, false) }), 2.0, "the frame, and the time")
}

func TestSendIsDecodedInAPinnedNumberOfAllocations(t *testing.T) {
	raw := []byte(`{"type":"send","id":"1","targetSpec":"` + strings.Repeat("a", 64) + `","priority":"now","nonce":"","ciphertext":"` + strings.Repeat("QUJD", 128) + `"}`)
	per := testing.AllocsPerRun(100, func() {
		if _, err := wire.Peek(raw); err != nil {
			t.Fatal(err)
		}
		if _, err := decodeFrame[wire.Send](raw); err != nil {
			t.Fatal(err)
		}
	})
	require.LessOrEqual(t, per, 40.0)
}
