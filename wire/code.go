package wire

// Code is a refusal: at once the word on the wire, the sentinel for errors.Is and the metric label. Its meaning never changes.
type Code string

// Error makes a Code an error, so that errors.Is(err, wire.NotFound) works.
func (c Code) Error() string { return string(c) }

// Codes of "error" frames on an open connection; docs/protocol.md, errors.
const (
	NoHello            Code = "no_hello"             // a request before an accepted hello
	AlreadyHello       Code = "already_hello"        // a second hello on one socket
	UnknownMessageType Code = "unknown_message_type" // no such operation here
	Malformed          Code = "malformed"            // not a JSON object, no type, or a field of the wrong JSON type
	InvalidArgs        Code = "invalid_args"         // a missing or bad field; the text names it
	Invalid            Code = "invalid"              // a missing or bad argument of an administrative request or a send
	InvalidArgument    Code = "invalid_argument"     // a message id of the wrong shape
	Forbidden          Code = "forbidden"            // not allowed
	NotFound           Code = "not_found"            // no such thing, or none that the caller may see
	TopicNotFound      Code = "topic_not_found"      // no such topic, or none that the caller may see
	AmbiguousPrefix    Code = "ambiguous_prefix"     // several messages start so
	RateLimit          Code = "rate_limit"           // too many requests; later is fine
	Internal           Code = "internal"             // a fault of the broker; the log has the cause
	AuditQueryError    Code = "audit_query_error"    // a fault of the broker when it read the audit log, for audit_query
	AuditVerifyError   Code = "audit_verify_error"   // likewise, for audit_verify
)

// Codes of a refused handshake, at the same time the close reason; docs/protocol.md, handshake.
const (
	BadSessionPubkey    Code = "bad_session_pubkey"
	BadParentPubkey     Code = "bad_parent_pubkey"
	AttestationMismatch Code = "attestation_mismatch"
	Expired             Code = "expired"
	TTLTooLong          Code = "ttl_too_long"
	BadSignature        Code = "bad_signature"
	TimestampSkew       Code = "timestamp_skew"
	Revoked             Code = "revoked"
	Unauthorized        Code = "unauthorized"
	ParentMismatch      Code = "parent_member_id_mismatch"
	SessionPubkeyInUse  Code = "session_pubkey_in_use"
	Capacity            Code = "capacity"
	HelloTimeout        Code = "hello_timeout"
	HelloBudget         Code = "hello_budget"
	// Replayed refuses a signed hello that was already used for another session, or a nonce that was used before.
	Replayed Code = "replayed"
	// Hello2Required refuses a hello without helloSignature2 from a member that demanded it.
	Hello2Required Code = "hello2_required"
)

// Codes of a refused send: the word before the colon in ack.error; docs/protocol.md, refusals.
const (
	PayloadTooLarge Code = "payload_too_large"
	TargetNotFound  Code = "target_not_found"
	QueueFull       Code = "queue_full"
	// InternalError means that the outcome is not known; a retry with the same client_message_id is safe.
	InternalError Code = "internal_error"
)

// Fault is an error with a text that a stranger may read and a cause that only the log sees.
type Fault struct {
	Code Code
	// Text is for the peer: what was wrong and what to do. It holds no secret, no SQL and nothing of another mesh.
	Text string
	// Field is the frame's member that was wrong, where it was one.
	Field string
	// Cause may be nil; it is logged and never sent.
	Cause error
}

// Error is the code and the text, without the cause.
func (f *Fault) Error() string { return string(f.Code) + ": " + f.Text }

// Unwrap gives errors.Is the code and the cause.
func (f *Fault) Unwrap() []error {
	if f.Cause == nil {
		return []error{f.Code}
	}
	return []error{f.Code, f.Cause}
}

// BadField is the fault for a member whose value is not acceptable: code invalid_args, with the member's name in the text.
func BadField(field, want string) *Fault {
	return &Fault{Code: InvalidArgs, Text: field + " " + want, Field: field}
}

// TypeError is the type of [Error] frames.
const TypeError = "error"

// Error refuses a request, or a handshake just before the close.
type Error struct {
	Header
	Code    Code   `json:"code"`
	Message string `json:"message"`
	// ID repeats the request's _reqId on topic errors, because older clients look for it there.
	ID string `json:"id,omitempty"`
}

// Close codes and their reasons; docs/protocol.md, closing.
const (
	CloseNormal     = 1000 // session_replaced, disconnected
	CloseGoingAway  = 1001 // shutdown
	ClosePolicy     = 1008 // a refused handshake
	CloseTooBig     = 1009 // a frame over 1 MiB
	CloseTryLater   = 1013 // slow_consumer, store_unavailable
	CloseKicked     = 4001 // kicked: do not reconnect by yourself
	CloseBanned     = 4002 // banned: membership revoked
	ReasonReplaced  = "session_replaced"
	ReasonShutdown  = "shutdown"
	ReasonSlow      = "slow_consumer"
	ReasonNoStore   = "store_unavailable"
	ReasonBanned    = "banned"
	ReasonKicked    = "kicked"
	ReasonKeyChange = "key_changed" // the member's key was replaced; sign in with the new one

	ReasonDisconnected = "disconnected"
)
