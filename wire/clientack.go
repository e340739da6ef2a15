package wire

import "encoding/json"

// TypeClientAck says that a recipient has taken messages over. It has no reply and is never refused.
const TypeClientAck = "client_ack"

// ClientAck acknowledges messages by the broker's id, or one by the sender's. It is decoded by [ReadClientAck] alone, which skips what it cannot use.
type ClientAck struct {
	ClientMessageID string
	// MessageIDs is brokerMessageId and brokerMessageIds together, at most 1024 and without repetition.
	MessageIDs []string
	// Receipts is at most 64, each with a message id, a time and a signature of the right shape.
	Receipts []Receipt
}

// ReadClientAck reads a client_ack leniently: members of the wrong type and bad elements are skipped, because the frame has no
// reply and a strict reader would leave messages unacknowledged for ever.
func ReadClientAck(frame []byte) ClientAck {
	var raw struct {
		ClientMessageID  json.RawMessage `json:"clientMessageId"`
		BrokerMessageID  json.RawMessage `json:"brokerMessageId"`
		BrokerMessageIDs json.RawMessage `json:"brokerMessageIds"`
		Receipts         json.RawMessage `json:"receipts"`
	}
	var out ClientAck
	if Decode(frame, &raw) != nil {
		return out
	}
	_ = json.Unmarshal(raw.ClientMessageID, &out.ClientMessageID) // wrong type: stays empty
	var one string
	if json.Unmarshal(raw.BrokerMessageID, &one) == nil && IsID(one) {
		out.MessageIDs = append(out.MessageIDs, one)
	}
	var many []json.RawMessage
	_ = json.Unmarshal(raw.BrokerMessageIDs, &many)
	seen := map[string]bool{one: one != ""}
	for _, m := range many {
		var id string
		if len(out.MessageIDs) < MaxBatchAcks && json.Unmarshal(m, &id) == nil && IsID(id) && !seen[id] {
			seen[id] = true
			out.MessageIDs = append(out.MessageIDs, id)
		}
	}
	var signed []json.RawMessage
	if json.Unmarshal(raw.Receipts, &signed) != nil {
		return out
	}
	for _, m := range signed[:min(len(signed), MaxReceipts)] {
		var r Receipt
		if json.Unmarshal(m, &r) == nil && IsID(r.MessageID) && r.AckedAt != nil && len(r.Signature) == 128 {
			out.Receipts = append(out.Receipts, r)
		}
	}
	return out
}
