package wire_test

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/wire"
)

// pieces are what JSON writers treat in special ways, and plain text.
var pieces = []string{
	"", "a", "plain ascii", `"`, `\`, "/", "\x00", "\x07", "\b\f\n\r\t", "\x1f", "\x7f", "<script>&amp;", "é", "日本", "\u2028", "\u2029", "\U0001f600", "\ufffd",
	"\xff", "\xc3", "\xed\xa0\x80", "a\xffb\xc3\xa9", "\ufeff",
}

func randomText(r *rand.Rand) string {
	var s string
	for range r.IntN(4) {
		s += pieces[r.IntN(len(pieces))]
	}
	return s
}

func randomPush(r *rand.Rand) *wire.Push {
	p := &wire.Push{Header: wire.Header{Type: wire.TypePush}, BodyVersion: r.IntN(4) - 1, Redelivered: r.IntN(2) == 0, Priority: wire.Priority(randomText(r))}
	for _, s := range []*string{
		&p.MessageID, &p.MeshID, &p.SenderPubkey, &p.SenderMemberPubkey, &p.SenderMemberID, &p.SenderName, &p.Nonce, &p.Ciphertext, &p.CreatedAt, &p.TargetSpec,
		&p.Topic, &p.TopicID, &p.ReplyToID, &p.ClientMessageID, &p.RequestFingerprint, &p.Subtype, &p.Event,
	} {
		*s = randomText(r)
	}
	if r.IntN(2) == 0 {
		raw, err := wire.Encode(map[string]any{randomText(r): randomText(r), "n": r.IntN(10)})
		if err != nil {
			panic(err) // strings always encode
		}
		p.EventData = raw
	}
	return p
}

func TestAppendIsEncode(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	pushes := []*wire.Push{{Header: wire.Header{Type: wire.TypePush}}}
	for range 5000 {
		pushes = append(pushes, randomPush(r))
	}
	for _, s := range pieces { // each piece in each kind of place at least once
		pushes = append(pushes, &wire.Push{Header: wire.Header{Type: wire.TypePush}, MessageID: s, SenderName: s, Ciphertext: s, Topic: s})
	}
	for _, p := range pushes {
		want, err := wire.Encode(p)
		require.NoError(t, err)
		require.Equal(t, string(want), string(p.Append(nil)))
	}
	require.Equal(t, "before"+string(pushes[0].Append(nil)), string(pushes[0].Append([]byte("before"))), "it appends")
}

func TestAppendAllocatesNothing(t *testing.T) { // serial: it counts allocations
	p := &wire.Push{
		MessageID: "m", MeshID: "m", SenderPubkey: "k", SenderMemberPubkey: "k", SenderMemberID: "p", SenderName: "ada", Priority: wire.PriorityNow,
		Nonce: "AAAA", Ciphertext: "QUJD", CreatedAt: "2026-05-02T20:03:11.000Z", TargetSpec: "#t", Topic: "general", TopicID: "t", BodyVersion: 2,
	}
	buf := make([]byte, 0, 4096)
	require.Zero(t, testing.AllocsPerRun(100, func() { p.Append(buf) }))
}

// What Append writes is JSON that reads back as the same push.
func FuzzPush(f *testing.F) {
	for _, s := range pieces {
		f.Add(s, s, s, s, 0, false, "")
	}
	f.Add("m", "ada", "QUJD", "general", 2, true, "peer_left")
	f.Fuzz(func(t *testing.T, id, name, body, topic string, version int, again bool, event string) {
		p := wire.Push{
			Header: wire.Header{Type: wire.TypePush}, MessageID: id, MeshID: topic, SenderPubkey: name, SenderMemberPubkey: id, SenderName: name,
			Priority: wire.Priority(event), Nonce: id, Ciphertext: body, CreatedAt: name, TargetSpec: topic, Topic: topic, ReplyToID: id, BodyVersion: version,
			ClientMessageID: body, Subtype: event, Event: event, Redelivered: again,
		}
		if event != "" {
			raw, err := wire.Encode(map[string]string{event: body})
			require.NoError(t, err)
			p.EventData = raw
		}
		raw := p.Append(nil)
		want, err := wire.Encode(&p)
		require.NoError(t, err)
		require.Equal(t, string(want), string(raw))
		var got wire.Push
		require.NoError(t, json.Unmarshal(raw, &got))
		for _, s := range []*string{
			&p.MessageID, &p.MeshID, &p.SenderPubkey, &p.SenderMemberPubkey, &p.SenderName, &p.Nonce, &p.Ciphertext, &p.CreatedAt, &p.TargetSpec, &p.Topic,
			&p.ReplyToID, &p.ClientMessageID, &p.Subtype, &p.Event,
		} {
			*s = string([]rune(*s)) // JSON has no place for invalid UTF-8: each bad byte becomes U+FFFD
		}
		p.Priority = wire.Priority([]rune(string(p.Priority)))
		require.Equal(t, p, got)
	})
}
