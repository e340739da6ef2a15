package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// The exit codes. Scripts rely on them, so their meanings never change; docs/cli.md lists them for people.
const (
	exitOK          = 0
	exitFailed      = 1 // something failed here
	exitUsage       = 2 // the command line, or no such membership
	exitRefused     = 3 // the broker said no, or does not know what was named
	exitUnreachable = 4 // no answer: not reachable, too slow, or the outcome is not known
	exitNotYet      = 5 // not delivered to everybody yet, or the topic's key is still to come
	exitUnsafe      = 6 // held back: a key changed, a name is ambiguous, a topic key is not to be trusted, or encryption was required
	exitUnsigned    = 7 // delivered to everybody whom send --wait waited for, but not everybody signed for it
	exitAuditOpen   = 8 // an audit log is sound, and leaves something open that the auditor should know
	exitAuditBroken = 9 // an audit log is broken
)

// failure is an error as the user meets it: one sentence that says what to do, a word for programs, and the exit code.
type failure struct {
	exit  int
	code  string
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

func failf(exit int, code, format string, args ...any) *failure {
	return &failure{exit: exit, code: code, text: fmt.Sprintf(format, args...)}
}

// explain makes a failure of any error. What came from the broker is made safe for a terminal.
func explain(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	f := explained(err)
	f.cause = err
	return f
}

func explained(err error) *failure {
	if refused, ok := errors.AsType[*client.RefusedError](err); ok {
		return explainRefused(refused)
	}
	if e, ok := errors.AsType[*client.KeyChangedError](err); ok {
		return explainKeyChanged(e)
	}
	if e, ok := errors.AsType[*client.AmbiguousError](err); ok {
		keys := make([]string, len(e.Candidates))
		for i, c := range e.Candidates {
			keys[i] = name(c.DisplayName) + " " + line(c.Pubkey)
		}
		return failf(exitUnsafe, "ambiguous", "Several members are called %s (%s); nothing was sent, use the key of the one you mean.", name(e.Name), strings.Join(keys, ", "))
	}
	if e, ok := errors.AsType[*client.UnknownNameError](err); ok {
		return failf(exitRefused, string(wire.TargetNotFound), "Nobody in the mesh is called %s; claudemesh members lists who there is.", name(e.Name))
	}
	if e, ok := errors.AsType[*client.KeyRefusedError](err); ok {
		return failf(exitUnsafe, "key_refused", "The key of #%s is not used: %s; claudemesh topic key reject %[1]s asks for another copy.", topicName(e.Topic), line(string(e.Reason)))
	}
	if e, ok := errors.AsType[*client.SendError](err); ok {
		return explainSend(e)
	}
	switch {
	case errors.Is(err, client.ErrKeyPending):
		return failf(exitNotYet, "key_pending", "Nobody has passed the topic's key on to you yet; a member who has it must be online (claudemesh inbox --follow does).")
	case errors.Is(err, client.ErrUnencrypted):
		return failf(exitUnsafe, "unencrypted", "The broker could read this message, so it was not sent; leave out --encrypted to send it all the same.")
	case errors.Is(err, client.ErrOutcomeUnknown):
		return failf(exitUnreachable, "outcome_unknown", "The broker did not answer in time, so it is not known whether the request took effect.")
	}
	if e, ok := errors.AsType[*client.RequestError](err); ok {
		return refusedRequest(e.Code, e.Text)
	}
	if e, ok := errors.AsType[*client.HTTPError](err); ok {
		return explainHTTP(e)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return failf(exitFailed, "interrupted", "Interrupted.")
	case errors.Is(err, context.DeadlineExceeded):
		return failf(exitUnreachable, "timeout", "The broker did not answer in time; try again, or give it longer with --timeout.")
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok { // before the network: the system's error numbers are network errors, too
		return failf(exitFailed, "file", "%s: %s.", line(e.Path), line(e.Err.Error()))
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return unreachable(err)
	}
	switch identity.ClassOf(err) {
	case identity.ClassBadKey, identity.ClassInvalidPoint, identity.ClassBadRecipient:
		return failf(exitUsage, "bad_key", "This is no public key that a message could be sealed for; claudemesh --json members shows the keys.")
	case identity.ClassBadUTF8:
		return failf(exitUsage, "bad_text", "The text is not valid UTF-8, so it was not sent.")
	}
	return failf(exitFailed, "failed", "It failed: %s.", line(strings.TrimPrefix(err.Error(), "client: ")))
}

// unreachable is what a network error means to a person.
func unreachable(err error) *failure {
	cause := line(strings.TrimPrefix(err.Error(), "client: "))
	if op, ok := errors.AsType[*net.OpError](err); ok { // without the layers that wrapped it
		cause = line(op.Error())
	}
	return failf(exitUnreachable, "unreachable", "The broker cannot be reached (%s); is it running, and is its address right? claudemesh whoami shows it.", cause)
}

func explainRefused(e *client.RefusedError) *failure {
	code := string(e.Code)
	exit := exitRefused
	if !e.Permanent() {
		exit = exitUnreachable
	}
	if e.HTTPStatus != 0 {
		switch {
		case e.HTTPStatus == http.StatusTooManyRequests || e.HTTPStatus >= 500:
			return failf(exitUnreachable, fmt.Sprintf("http_%d", e.HTTPStatus), "The broker is busy or starting (HTTP status %d); try again in a moment.", e.HTTPStatus)
		default:
			return failf(exitRefused, fmt.Sprintf("http_%d", e.HTTPStatus), "There is no broker at this address (HTTP status %d); claudemesh whoami shows it.", e.HTTPStatus)
		}
	}
	switch e.Code {
	case wire.Unauthorized, wire.NotFound, wire.BadSignature:
		return failf(exit, code, "The broker does not know this membership; it may have been removed, so ask for a new invite and join again.")
	case wire.Revoked, wire.ReasonBanned:
		return failf(exit, code, "This membership was revoked; ask an admin of the mesh for a new invite.")
	case wire.ReasonKicked, wire.ReasonKickedStale:
		return failf(exit, code, "An admin ended this session.")
	case wire.TimestampSkew:
		return failf(exit, code, "This machine's clock is more than a minute off; set it and try again.")
	case wire.Capacity:
		return failf(exit, code, "The broker has no room for another session; try again later.")
	case wire.ReasonShutdown:
		return failf(exitUnreachable, code, "The broker is shutting down; try again in a moment.")
	}
	text := line(e.Text)
	if text == "" {
		text = line(code)
	}
	if text == "" {
		text = fmt.Sprintf("close code %d", e.CloseCode)
	}
	return failf(exit, line(code), "The broker refused the connection: %s.", strings.TrimSuffix(text, "."))
}

func explainKeyChanged(e *client.KeyChangedError) *failure {
	if e.PinnedMemberID != e.MemberID {
		return failf(exitUnsafe, "name_moved",
			"%s was member %s before and is now member %s (key %s), so nothing was sent; ask them by another way, then run: claudemesh trust %[1]s --key %[4]s",
			name(e.Name), line(e.PinnedMemberID), line(e.MemberID), line(e.OfferedPubkey))
	}
	who := name(e.Name)
	if e.Name == "" {
		who = line(e.MemberID)
	}
	return failf(exitUnsafe, "key_changed",
		"The key of %s was %s and is now %s, so nothing was sent; ask them by another way, then run: claudemesh trust %[1]s --key %[3]s",
		who, line(e.PinnedKey), line(e.OfferedPubkey))
}

func explainSend(e *client.SendError) *failure {
	switch e.Code {
	case wire.TargetNotFound:
		return failf(exitRefused, string(e.Code), "The broker knows no such target; claudemesh members and claudemesh topic list show what there is.")
	case wire.QueueFull:
		return failf(exitRefused, string(e.Code), "The recipient's mailbox is full, so the message was not taken; try again when they have read some.")
	case wire.RateLimit:
		return failf(exitUnreachable, string(e.Code), "The broker asked to slow down until the time was over; try again later.")
	case wire.InternalError:
		return failf(exitUnreachable, string(e.Code), "The broker had a fault, so it is not known whether the message was stored.")
	}
	return refusedRequest(e.Code, e.Text)
}

func refusedRequest(code wire.Code, text string) *failure {
	switch code {
	case wire.TopicNotFound:
		return failf(exitRefused, string(code), "There is no such topic, or none that you may see; claudemesh topic list shows them.")
	case wire.RateLimit:
		return failf(exitUnreachable, string(code), "The broker asked to slow down; try again in a moment.")
	case wire.Internal:
		return failf(exitFailed, string(code), "The broker had a fault; its log has the cause.")
	case wire.InviteV2Disabled:
		return failf(exitRefused, string(code), "This broker takes no short links; leave out --short.")
	case wire.UnknownMessageType:
		return failf(exitRefused, string(code), "This broker does not offer that.")
	}
	if text = strings.TrimSuffix(line(text), "."); text == "" {
		text = line(string(code))
	}
	return failf(exitRefused, line(string(code)), "The broker refused: %s.", text)
}

func explainHTTP(e *client.HTTPError) *failure {
	switch e.Code {
	case "invite_expired":
		return failf(exitRefused, string(e.Code), "The invite has expired; ask for a new one.")
	case "invite_exhausted":
		return failf(exitRefused, string(e.Code), "The invite was used as often as it may be; ask for a new one.")
	case "invite_revoked":
		return failf(exitRefused, string(e.Code), "The invite was taken back; ask for a new one.")
	case "invite_not_found":
		return failf(exitRefused, string(e.Code), "The broker knows no such invite; ask for a new one.")
	case wire.InviteV2Disabled:
		return failf(exitRefused, string(e.Code), "This broker takes no short links; ask for a link that begins with ic://join/.")
	}
	switch {
	case e.Status == http.StatusTooManyRequests, e.Status == http.StatusServiceUnavailable:
		return failf(exitUnreachable, codeOf(e), "The broker is busy; try again in a moment.")
	case e.Status >= 500:
		return failf(exitUnreachable, codeOf(e), "The broker had a fault (HTTP status %d); try again in a moment.", e.Status)
	case e.Code == "" && e.Status == http.StatusNotFound:
		return failf(exitRefused, codeOf(e), "The broker does not offer this at its address (HTTP status 404).")
	}
	return refusedRequest(wire.Code(codeOf(e)), e.Text)
}

func codeOf(e *client.HTTPError) string {
	if e.Code != "" {
		return line(string(e.Code))
	}
	return fmt.Sprintf("http_%d", e.Status)
}
