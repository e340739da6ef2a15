package client

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/claudemesh/broker/wire"
)

// ErrClosed is the error of everything after Close.
var ErrClosed = errors.New("client: closed")

// ErrOutcomeUnknown is wrapped by the errors of requests that were written but never answered: they may have taken effect.
var ErrOutcomeUnknown = errors.New("client: no answer, the outcome is not known")

// ErrKeyPending says that the topic is encrypted and nobody has passed its key on to this member yet. It may come at any moment;
// WaitTopicKey waits for it.
var ErrKeyPending = errors.New("client: no member has sealed the topic's key for us yet")

// ErrUnencrypted says that the topic has no key: what is posted there is readable by the broker.
var ErrUnencrypted = errors.New("client: the topic is not encrypted")

// RefusedError is the broker's refusal of a sign-in, or the close that ended a session for good.
type RefusedError struct {
	// Code is the broker's reason, such as unauthorized, revoked, kicked or capacity.
	Code wire.Code
	// Text is the broker's explanation, for people.
	Text string
	// CloseCode is the WebSocket close code, 0 when the upgrade itself was refused by an HTTP status.
	CloseCode int
	// HTTPStatus is set when the upgrade was refused before there was a socket.
	HTTPStatus int

	retryAfter time.Duration
}

func (e *RefusedError) Error() string {
	switch {
	case e.HTTPStatus != 0:
		return fmt.Sprintf("client: the broker refused the connection with HTTP status %d", e.HTTPStatus)
	case e.Code == "":
		return fmt.Sprintf("client: closed by the broker with code %d before it answered hello", e.CloseCode)
	case e.Text == "":
		return fmt.Sprintf("client: refused: %s", e.Code)
	default:
		return fmt.Sprintf("client: refused: %s: %s", e.Code, e.Text)
	}
}

// Unwrap makes errors.Is(err, wire.Capacity) and the like hold.
func (e *RefusedError) Unwrap() error {
	if e.Code == "" {
		return nil
	}
	return e.Code
}

// Permanent reports whether trying again with the same keys is pointless.
func (e *RefusedError) Permanent() bool {
	if e.HTTPStatus != 0 {
		return e.HTTPStatus != 429 && e.HTTPStatus < 500
	}
	switch e.CloseCode {
	case wire.CloseKicked, wire.CloseBanned:
		return true
	case wire.ClosePolicy:
	default:
		return false
	}
	switch e.Code {
	case "", wire.Replayed, wire.RateLimit, wire.Capacity, wire.TimestampSkew, wire.Expired, wire.HelloTimeout, wire.HelloBudget,
		wire.Internal, wire.InternalError, wire.NoHello:
		return false
	}
	return true
}

// SendError is the broker's refusal of a message.
type SendError struct {
	Code wire.Code
	Text string
	// Retryable says that the same message may be accepted later. The client itself retries rate_limit and internal_error while
	// ctx lasts, so those two come back only when it ended.
	Retryable bool

	cause error
}

func (e *SendError) Error() string {
	return fmt.Sprintf("client: send refused: %s: %s", e.Code, e.Text)
}

// Unwrap gives the code, and the end of ctx when that is why the client stopped trying.
func (e *SendError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.cause}
}

// sendError reads an ack's refusal text, "<code>: <detail>".
func sendError(text string) *SendError {
	code, detail, _ := strings.Cut(text, ":")
	return newSendError(wire.Code(strings.TrimSpace(code)), strings.TrimSpace(detail))
}

func newSendError(code wire.Code, text string) *SendError {
	return &SendError{Code: code, Text: text, Retryable: code == wire.RateLimit || code == wire.InternalError || code == wire.QueueFull || code == wire.Internal}
}

// RequestError is the broker's refusal of any other request on the socket.
type RequestError struct {
	Request string // the request's type
	Code    wire.Code
	Text    string
}

func (e *RequestError) Error() string {
	return fmt.Sprintf("client: %s refused: %s: %s", e.Request, e.Code, e.Text)
}

// Unwrap gives the code.
func (e *RequestError) Unwrap() error { return e.Code }

// HTTPError is the refusal of a REST request.
type HTTPError struct {
	Status int
	// Code is the word in the answer's body, such as topic_not_found or invite_expired; empty when there was none.
	Code wire.Code
	Text string
	// RetryAfter is what the answer asked for, 0 for nothing.
	RetryAfter time.Duration

	plain bool // not an answer of the broker's routes, but of something that does not know the path
}

func (e *HTTPError) Error() string {
	text := string(e.Code)
	if e.Text != "" && e.Text != text {
		text = strings.TrimPrefix(text+": "+e.Text, ": ")
	}
	return strings.TrimSuffix(fmt.Sprintf("client: HTTP status %d: %s", e.Status, text), ": ")
}

// Unwrap makes errors.Is(err, wire.TopicNotFound) and the like hold.
func (e *HTTPError) Unwrap() error {
	if e.Code == "" {
		return nil
	}
	return e.Code
}

// Candidate is one of the members that a name could mean.
type Candidate struct {
	MemberID    string
	DisplayName string
	Pubkey      string // the member key
}

// AmbiguousError says that several members go by a name. Address the one that is meant by its key.
type AmbiguousError struct {
	Name       string
	Candidates []Candidate
}

func (e *AmbiguousError) Error() string {
	parts := make([]string, len(e.Candidates))
	for i, c := range e.Candidates {
		parts[i] = c.DisplayName + " " + c.Pubkey
	}
	return fmt.Sprintf("client: several members are called %q: %s; use the key of the one you mean", e.Name, strings.Join(parts, ", "))
}

// UnknownNameError says that nobody in the mesh goes by a name. It is also wire.TargetNotFound.
type UnknownNameError struct{ Name string }

func (e *UnknownNameError) Error() string {
	return fmt.Sprintf("client: nobody in the mesh is called %q", e.Name)
}

// Unwrap gives wire.TargetNotFound.
func (e *UnknownNameError) Unwrap() error { return wire.TargetNotFound }

// KeyChangedError says that the broker shows another key for a member than it did before, or another member under a name that
// was written to before. Nothing was sent. It may be a member that lost its key and joined again, or an attack; who has made
// sure calls TrustMember or TrustName.
type KeyChangedError struct {
	Name                     string // as addressed; empty when no name was involved
	MemberID                 string // the member that the broker names now
	PinnedMemberID           string // the member that the name stood for; equal to MemberID when only the key changed
	PinnedKey, OfferedPubkey string // member keys; PinnedKey is empty when the name moved to another member
}

func (e *KeyChangedError) Error() string {
	if e.PinnedMemberID != e.MemberID {
		return fmt.Sprintf("client: %q was member %s and is now member %s", e.Name, e.PinnedMemberID, e.MemberID)
	}
	return fmt.Sprintf("client: the key of member %s (%s) was %s and is now %s", e.MemberID, e.Name, e.PinnedKey, e.OfferedPubkey)
}

// KeyRefusal says why a topic key was not accepted.
type KeyRefusal string

// The reasons. They are for people and logs as well as for comparing.
const (
	RefusedUnopenable KeyRefusal = "the copy does not open with our key"
	RefusedStranger   KeyRefusal = "sealed by no member of the mesh"
	RefusedOutsider   KeyRefusal = "sealed by a member that is not in the topic"
	RefusedChangedKey KeyRefusal = "sealed with a key that its member did not have before"
	RefusedBrokerMade KeyRefusal = "made by the broker"
	RefusedDowngrade  KeyRefusal = "the topic was encrypted before, and the broker says that it has no key"
	RefusedNoPost     KeyRefusal = "no message of another member opens with it"
	RefusedOtherTopic KeyRefusal = "the answer is about another topic"
)

// KeyRefusedError says that the client does not use the topic key that it was given. RejectTopicKey deletes the copy, so that
// another member seals it anew.
type KeyRefusedError struct {
	Topic, TopicID string
	Reason         KeyRefusal
	SealedBy       string // the member's id, where it is known
}

func (e *KeyRefusedError) Error() string {
	text := fmt.Sprintf("client: key of topic %q refused: %s", e.Topic, e.Reason)
	if e.SealedBy != "" {
		text += " (member " + e.SealedBy + ")"
	}
	return text
}
