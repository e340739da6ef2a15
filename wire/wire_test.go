package wire_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/wire"
)

func TestFormatTime(t *testing.T) {
	t.Parallel()
	east := time.FixedZone("east", 2*60*60)
	for _, tt := range []struct {
		at   time.Time
		want string
	}{
		{time.Time{}, ""},
		{time.Date(2026, 5, 2, 20, 3, 11, 0, time.UTC), "2026-05-02T20:03:11.000Z"},
		{time.Date(2026, 5, 2, 22, 3, 11, 5_999_999, east), "2026-05-02T20:03:11.005Z"},
		{time.UnixMilli(0), "1970-01-01T00:00:00.000Z"},
		{time.Date(2026, 1, 1, 0, 0, 0, 120_000_000, time.UTC), "2026-01-01T00:00:00.120Z"},
	} {
		require.Equal(t, tt.want, wire.FormatTime(tt.at))
		if tt.want == "" {
			require.Nil(t, wire.FormatTimePtr(tt.at))
			continue
		}
		require.Equal(t, tt.want, *wire.FormatTimePtr(tt.at))
		back, err := wire.ParseTime(tt.want)
		require.NoError(t, err)
		require.Equal(t, tt.at.UTC().Truncate(time.Millisecond), back)
	}
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 5, 2, 20, 3, 11, 0, time.UTC)
	for in, ms := range map[string]int{
		"2026-05-02T20:03:11Z": 0, "2026-05-02T20:03:11.000Z": 0, "2026-05-02T22:03:11.5+02:00": 500, "2026-05-02T20:03:11.123456789Z": 123,
		"2026-05-02T20:03:11.9999Z": 999,
	} {
		got, err := wire.ParseTime(in)
		require.NoError(t, err, in)
		require.Equal(t, want.Add(time.Duration(ms)*time.Millisecond), got, in)
	}
	for _, in := range []string{
		"", "now", "2026-05-02", "2026-05-02T20:03:11", "2026-05-02 20:03:11Z", "1777752191000", "2026-13-02T20:03:11Z", "2026-05-02T25:03:11Z",
		"2026-05-02T20:03:11Z ", "20260502T200311Z",
	} {
		_, err := wire.ParseTime(in)
		require.Error(t, err, "%q", in)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for _, p := range []wire.Priority{wire.PriorityNow, wire.PriorityNext, wire.PriorityLow} {
		require.True(t, p.Valid())
	}
	for _, s := range []wire.Status{wire.StatusIdle, wire.StatusWorking, wire.StatusDND} {
		require.True(t, s.Valid())
	}
	require.False(t, wire.Priority("").Valid())
	require.False(t, wire.Priority("Now").Valid())
	require.False(t, wire.Status("").Valid())
}

func TestFaultIsItsCodeAndItsCause(t *testing.T) {
	t.Parallel()
	plain := &wire.Fault{Code: wire.NotFound, Text: "no such message"}
	require.EqualError(t, plain, "not_found: no such message")
	require.ErrorIs(t, plain, wire.NotFound)
	require.NotErrorIs(t, plain, wire.Forbidden)
	require.Equal(t, "not_found", wire.NotFound.Error())

	caused := fmt.Errorf("somewhere: %w", &wire.Fault{Code: wire.Internal, Text: "try again", Cause: io.ErrUnexpectedEOF})
	require.ErrorIs(t, caused, wire.Internal)
	require.ErrorIs(t, caused, io.ErrUnexpectedEOF)
	f, ok := errors.AsType[*wire.Fault](caused)
	require.True(t, ok)
	require.NotContains(t, f.Error(), "EOF", "the cause is for the log alone")

	bad := wire.BadField("label", "must have 1 to 128 characters")
	require.ErrorIs(t, bad, wire.InvalidArgs)
	require.Equal(t, "label", bad.Field)
	require.Equal(t, "label must have 1 to 128 characters", bad.Text)
}

func TestRepliesEchoTheRequest(t *testing.T) {
	t.Parallel()
	id := "r-1"
	done, err := wire.Encode(wire.Done(&id))
	require.NoError(t, err)
	require.Equal(t, `{"type":"ack","_reqId":"r-1","id":"r-1","messageId":"","queued":false}`, string(done))
	done, err = wire.Encode(wire.Done(nil))
	require.NoError(t, err)
	require.Equal(t, `{"type":"ack","id":"","messageId":"","queued":false}`, string(done))

	var reply wire.Message = &wire.Error{Header: wire.Header{Type: wire.TypeError}, Code: wire.NotFound, Message: "<no> & such"}
	reply.Correlate(&id)
	raw, err := wire.Encode(reply)
	require.NoError(t, err)
	require.Equal(t, `{"type":"error","_reqId":"r-1","code":"not_found","message":"<no> & such"}`, string(raw))

	offline := false
	accepted, err := wire.Encode(&wire.Ack{Header: wire.Header{Type: wire.TypeAck}, ID: "7", MessageID: "m", Queued: true, Offline: &offline, Recipients: &wire.Recipients{}})
	require.NoError(t, err)
	require.Equal(t, `{"type":"ack","id":"7","messageId":"m","queued":true,"offline":false,"recipients":{"total":0,"online":0}}`, string(accepted),
		"offline is always there on accepted sends, error never")
}

func TestEncodeFailsOnWhatJSONCannotHold(t *testing.T) {
	t.Parallel()
	_, err := wire.Encode(make(chan int))
	require.ErrorContains(t, err, "chan int")
}

func TestEvent(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 5, 2, 20, 3, 11, 0, time.UTC)
	p, err := wire.Event("id", "m", wire.EventPeerLeft, wire.PeerEvent{Name: "a<\u2028b", DisplayName: "a", Pubkey: "k"}, at)
	require.NoError(t, err)
	require.Equal(t, `{"type":"push","messageId":"id","meshId":"m","senderPubkey":"system","priority":"low","nonce":"","ciphertext":"",`+
		`"createdAt":"2026-05-02T20:03:11.000Z","subtype":"system","event":"peer_left",`+
		`"eventData":{"name":"a<\u2028b","displayName":"a","pubkey":"k"}}`, string(p.Append(nil)))

	_, err = wire.Event("id", "m", "x", make(chan int), at)
	require.Error(t, err)

	joined, err := wire.Event("id", "m", wire.EventPeerJoined, wire.PeerEvent{Groups: &[]wire.Group{}}, at)
	require.NoError(t, err)
	require.Equal(t, `{"name":"","displayName":"","pubkey":"","groups":[]}`, string(joined.EventData), "a join always has groups")
}

// Constants that clients match are written down once more, so that a rename is noticed.
func TestCodesKeepTheirWords(t *testing.T) {
	t.Parallel()
	require.Equal(t, strings.Fields(`no_hello already_hello unknown_message_type malformed invalid_args invalid invalid_argument forbidden not_found
		topic_not_found ambiguous_prefix rate_limit internal bad_session_pubkey bad_parent_pubkey attestation_mismatch expired ttl_too_long
		bad_signature timestamp_skew revoked unauthorized parent_member_id_mismatch session_pubkey_in_use capacity hello_timeout hello_budget
		replayed hello2_required payload_too_large target_not_found queue_full internal_error`), words(
		wire.NoHello, wire.AlreadyHello, wire.UnknownMessageType, wire.Malformed, wire.InvalidArgs, wire.Invalid, wire.InvalidArgument, wire.Forbidden, wire.NotFound,
		wire.TopicNotFound, wire.AmbiguousPrefix, wire.RateLimit, wire.Internal, wire.BadSessionPubkey, wire.BadParentPubkey, wire.AttestationMismatch, wire.Expired, wire.TTLTooLong,
		wire.BadSignature, wire.TimestampSkew, wire.Revoked, wire.Unauthorized, wire.ParentMismatch, wire.SessionPubkeyInUse, wire.Capacity, wire.HelloTimeout, wire.HelloBudget,
		wire.Replayed, wire.Hello2Required, wire.PayloadTooLarge, wire.TargetNotFound, wire.QueueFull, wire.InternalError,
	))
	for _, reason := range []string{
		wire.ReasonReplaced, wire.ReasonShutdown, wire.ReasonSlow, wire.ReasonNoStore, wire.ReasonBanned, wire.ReasonKicked, wire.ReasonKeyChange,
	} {
		require.LessOrEqual(t, len(reason), 123, "a close frame holds no more")
	}
}

func words(codes ...wire.Code) []string {
	var all []string
	for _, c := range codes {
		all = append(all, string(c))
	}
	return all
}
