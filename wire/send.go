package wire

// Types of sending.
const (
	TypeSend = "send"
	TypeAck  = "ack"
)

// Send asks the broker to deliver one message.
type Send struct {
	Header
	TargetSpec string   `json:"targetSpec"`
	Priority   Priority `json:"priority,omitempty"` // default next
	Nonce      string   `json:"nonce"`              // standard base64 with padding, may be empty; opaque, passed on verbatim
	Ciphertext string   `json:"ciphertext"`         // standard base64 with padding, not empty; likewise
	ID         string   `json:"id,omitempty"`       // echoed in ack.id
	// ClientMessageID (1-128 characters) makes a retry of the same request harmless.
	ClientMessageID    *string  `json:"client_message_id,omitempty"`
	RequestFingerprint *string  `json:"request_fingerprint,omitempty"` // 64 hex digits; docs/formats.md
	Mentions           []string `json:"mentions,omitempty"`            // at most 16 names; topics only
	ReplyToID          string   `json:"replyToId,omitempty"`           // an earlier message of the same topic, else dropped
	BodyVersion        Number   `json:"bodyVersion,omitempty"`         // 1 (default) or 2; topics only
	ExpiresAt          string   `json:"expiresAt,omitempty"`           // ISO-8601
}

// Check sets the defaults and checks the fields' values. Its faults have code invalid and name the field.
func (s *Send) Check() error {
	if s.Priority == "" {
		s.Priority = PriorityNext
	}
	invalid := func(field, want string) *Fault { return &Fault{Code: Invalid, Field: field, Text: field + " " + want} }
	switch {
	case !s.Priority.Valid():
		return invalid("priority", "must be now, next or low")
	case s.TargetSpec == "" || !CleanText(s.TargetSpec):
		return invalid("targetSpec", "must not be empty")
	case s.Ciphertext == "" || !CleanText(s.Ciphertext): // its base64 is between the members; the broker does not look
		return invalid("ciphertext", "must not be empty")
	case !CleanText(s.Nonce):
		return invalid("nonce", "must be text")
	case len(s.ID) > 256:
		return invalid("id", "must have at most 256 bytes")
	case s.ClientMessageID != nil && (*s.ClientMessageID == "" || Chars(*s.ClientMessageID) > MaxClientID || !CleanText(*s.ClientMessageID)):
		return invalid("client_message_id", "must have 1 to 128 characters")
	case s.RequestFingerprint != nil && !IsKey(*s.RequestFingerprint):
		return invalid("request_fingerprint", "must be 64 hex digits")
	case len(s.Mentions) > MaxMentions:
		return invalid("mentions", "must have at most 16 entries")
	case s.BodyVersion != 0 && s.BodyVersion != 1 && s.BodyVersion != 2:
		return invalid("bodyVersion", "must be 1 or 2")
	}
	for _, m := range s.Mentions {
		if m == "" || Chars(m) > 64 || !CleanText(m) {
			return invalid("mentions", "must hold names of 1 to 64 characters")
		}
	}
	return nil
}

// Ack answers a send, and the requests whose only answer is that they were done. Error is absent when the send was accepted:
// clients take a non-empty error for a failure.
type Ack struct {
	Header
	ID         string      `json:"id"`
	MessageID  string      `json:"messageId"`
	Queued     bool        `json:"queued"`
	Error      string      `json:"error,omitempty"`  // "<code>: <what>"
	Detail     string      `json:"detail,omitempty"` // what was wrong with the field that an invalid error names
	Duplicate  bool        `json:"duplicate,omitempty"`
	Offline    *bool       `json:"offline,omitempty"` // on accepted sends: nobody addressed is connected now
	Recipients *Recipients `json:"recipients,omitempty"`
}

// Recipients counts whom an accepted message was addressed to.
type Recipients struct {
	Total   int `json:"total"`             // deliveries made
	Online  int `json:"online"`            // of them with a live connection
	Refused int `json:"refused,omitempty"` // addressed, but with a full mailbox: no delivery
}

// Done is the acknowledgement of a request that has no other reply.
func Done(reqID *string) *Ack {
	a := &Ack{Header: Header{Type: TypeAck, ReqID: reqID}}
	if reqID != nil {
		a.ID = *reqID
	}
	return a
}
