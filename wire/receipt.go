package wire

// EventReceipt is the system event by which a sender gets a recipient's signed word.
const EventReceipt = "receipt"

// MaxReceipts is how many receipts one client_ack may carry; the rest is ignored.
const MaxReceipts = 64

// Receipt is an element of client_ack.receipts: the recipient's signature over docs/formats.md, receipts.
type Receipt struct {
	MessageID     string       `json:"messageId"`
	AckedAt       *Number      `json:"ackedAt"`                 // ms since the epoch, by the recipient's clock
	Signature     string       `json:"signature"`               // 128 hex digits, by the member key or by SessionPubkey
	SessionPubkey string       `json:"sessionPubkey,omitempty"` // with Attestation
	Attestation   *Attestation `json:"attestation,omitempty"`
}

// StoredReceipt is RecipientStatus.Receipt.
type StoredReceipt struct {
	AckedAt       int64        `json:"ackedAt"`
	Signature     string       `json:"signature"`
	SessionPubkey string       `json:"sessionPubkey,omitempty"`
	Attestation   *Attestation `json:"attestation,omitempty"`
	MemberPubkey  string       `json:"memberPubkey"` // as the broker has it; a sender trusts only the key that it knows
}

// ReceiptEvent is the data of the event receipt.
type ReceiptEvent struct {
	MessageID string `json:"messageId"` // of the acknowledged message
	MemberID  string `json:"memberId"`  // of the recipient
	StoredReceipt
}
