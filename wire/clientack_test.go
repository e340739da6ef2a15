package wire_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/wire"
)

func TestReadClientAckTakesWhatItCan(t *testing.T) {
	t.Parallel()
	one, sig := wire.Number(1), strings.Repeat("a", 128)
	for _, tt := range []struct {
		name, frame string
		want        wire.ClientAck
	}{
		{"one", `{"type":"client_ack","brokerMessageId":"m1"}`, wire.ClientAck{MessageIDs: []string{"m1"}}},
		{"by the sender's id", `{"type":"client_ack","clientMessageId":"any text at all"}`, wire.ClientAck{ClientMessageID: "any text at all"}},
		{"both", `{"type":"client_ack","clientMessageId":"c","brokerMessageId":"m1"}`, wire.ClientAck{ClientMessageID: "c", MessageIDs: []string{"m1"}}},
		{"many", `{"type":"client_ack","brokerMessageId":"m1","brokerMessageIds":["m2","m1","m2","m3"]}`, wire.ClientAck{MessageIDs: []string{"m1", "m2", "m3"}}},
		{"bad elements", `{"type":"client_ack","brokerMessageIds":["m1",7,null,"","a|b",["m2"],{"m":1},"m3"]}`, wire.ClientAck{MessageIDs: []string{"m1", "m3"}}},
		{"wrong types", `{"type":"client_ack","clientMessageId":7,"brokerMessageId":["m1"],"brokerMessageIds":"m2"}`, wire.ClientAck{}},
		{"one wrong type", `{"type":"client_ack","clientMessageId":{},"brokerMessageIds":["m2"]}`, wire.ClientAck{MessageIDs: []string{"m2"}}},
		{"a bad single id", `{"type":"client_ack","brokerMessageId":"a b","brokerMessageIds":["m2"]}`, wire.ClientAck{MessageIDs: []string{"m2"}}},
		{"nulls", `{"type":"client_ack","clientMessageId":null,"brokerMessageId":null,"brokerMessageIds":null}`, wire.ClientAck{}},
		{"unknown members", `{"type":"client_ack","brokerMessageId":"m1","later":[{"messageId":"m1"}]}`, wire.ClientAck{MessageIDs: []string{"m1"}}},
		{"a receipt", `{"type":"client_ack","brokerMessageId":"m1","receipts":[{"messageId":"m1","ackedAt":1,"signature":"` + sig + `"}]}`,
			wire.ClientAck{MessageIDs: []string{"m1"}, Receipts: []wire.Receipt{{MessageID: "m1", AckedAt: &one, Signature: sig}}}},
		{"a receipt alone, by a session", `{"receipts":[{"messageId":"m1","ackedAt":1,"signature":"` + sig + `","sessionPubkey":"s","attestation":{"expiresAt":1}}]}`,
			wire.ClientAck{Receipts: []wire.Receipt{{
				MessageID: "m1", AckedAt: &one, Signature: sig, SessionPubkey: "s", Attestation: &wire.Attestation{ExpiresAt: &one},
			}}}},
		{"bad receipts", `{"type":"client_ack","brokerMessageId":"m1","receipts":[null,7,"x",[],{},{"messageId":"m1"},{"messageId":"m1","ackedAt":1},
			{"messageId":"a|b","ackedAt":1,"signature":"` + sig + `"},{"messageId":"m1","ackedAt":"1","signature":"` + sig + `"},
			{"messageId":"m1","ackedAt":null,"signature":"` + sig + `"},{"messageId":"m1","ackedAt":1,"signature":"` + sig + `0"},
			{"messageId":["m1"],"ackedAt":1,"signature":"` + sig + `"},{"messageId":"m1","ackedAt":1,"signature":"` + sig + `","attestation":"x"}]}`,
			wire.ClientAck{MessageIDs: []string{"m1"}}},
		{"receipts of a wrong type", `{"type":"client_ack","brokerMessageId":"m1","receipts":{"messageId":"m1"}}`, wire.ClientAck{MessageIDs: []string{"m1"}}},
		{"a receipt that says things twice", `{"type":"client_ack","brokerMessageId":"m1","receipts":[{"messageId":"m1","messageId":"m2"}]}`, wire.ClientAck{}},
		{"nothing", `{"type":"client_ack"}`, wire.ClientAck{}},
		{"ambiguous", `{"type":"client_ack","brokerMessageId":"m1","brokerMessageId":"m2"}`, wire.ClientAck{}},
		{"not JSON", `{"type":"client_ack"`, wire.ClientAck{}},
		{"not an object", `["m1"]`, wire.ClientAck{}},
	} {
		require.Equal(t, tt.want, wire.ReadClientAck([]byte(tt.frame)), tt.name)
	}
}

func TestReadClientAckIsBounded(t *testing.T) {
	t.Parallel()
	ids := make([]string, 0, 3000)
	for i := range cap(ids) {
		ids = append(ids, fmt.Sprint("m", i))
	}
	raw, err := json.Marshal(map[string]any{"type": "client_ack", "brokerMessageId": "first", "brokerMessageIds": ids})
	require.NoError(t, err)
	got := wire.ReadClientAck(raw).MessageIDs
	require.Len(t, got, wire.MaxBatchAcks)
	require.Equal(t, append([]string{"first"}, ids[:wire.MaxBatchAcks-1]...), got)

	receipts := make([]map[string]any, 100)
	for i := range receipts {
		receipts[i] = map[string]any{"messageId": fmt.Sprint("m", i), "ackedAt": 1, "signature": strings.Repeat("a", 128)}
	}
	raw, err = json.Marshal(map[string]any{"receipts": receipts})
	require.NoError(t, err)
	signed := wire.ReadClientAck(raw).Receipts
	require.Len(t, signed, wire.MaxReceipts)
	require.Equal(t, "m63", signed[63].MessageID)
}

func FuzzClientAck(f *testing.F) {
	for _, s := range []string{
		`{"clientMessageId":"c","brokerMessageId":"m1","brokerMessageIds":["m1","m2","m2",7,null]}`,
		`{"brokerMessageId":"","brokerMessageIds":[""]}`, `{"brokerMessageIds":{"a":1}}`, `[]`, `{`, `{"brokerMessageIds":[[[]]]}`,
		`{"brokerMessageIds":[` + strings.Repeat(`"m",`, 1500) + `"n"]}`,
		`{"brokerMessageId":"m1","receipts":[{"messageId":"m1","ackedAt":1777752191000,"signature":"` + strings.Repeat("0f", 64) + `"}]}`,
		`{"receipts":[{"messageId":"m1","ackedAt":1e999,"signature":"` + strings.Repeat("0f", 64) + `","sessionPubkey":"s",
			"attestation":{"sessionPubkey":"s","parentMemberPubkey":"p","expiresAt":1,"signature":"x"}},7,null,{"messageId":"a|b"}]}`,
		`{"receipts":[` + strings.Repeat(`{},`, 70) + `{"messageId":"m1","ackedAt":1,"signature":"` + strings.Repeat("0f", 64) + `"}]}`,
		`{"receipts":{"messageId":"m1"}}`, `{"receipts":[{"messageId":"m1","ackedAt":-0.5,"signature":"` + strings.Repeat("é", 64) + `"}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := wire.ReadClientAck(raw)
		require.LessOrEqual(t, len(got.MessageIDs), wire.MaxBatchAcks)
		seen := map[string]bool{}
		for _, id := range got.MessageIDs {
			require.True(t, wire.IsID(id), "%q", id)
			require.False(t, seen[id], "%q twice", id)
			seen[id] = true
		}
		require.LessOrEqual(t, len(got.Receipts), wire.MaxReceipts)
		for _, r := range got.Receipts {
			require.True(t, wire.IsID(r.MessageID), "%q", r.MessageID)
			require.NotNil(t, r.AckedAt)
			require.Len(t, r.Signature, 128)
		}
	})
}
