package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// helloTimeout is how long the broker may take to answer a hello; it gives one 10 s to arrive (docs/protocol.md, heartbeat).
const helloTimeout = 10 * time.Second

// connect dials and signs in. A refusal is a *RefusedError; any other error is one of the network.
func (c *Client) connect(ctx context.Context) (*conn, error) {
	if c.o.DialTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.o.DialTimeout)
		defer cancel()
	}
	k := &conn{gone: make(chan struct{})}
	ws, resp, err := dialWebSocket(ctx, c.o.URL, c.o.HTTPClient, k.hear)
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			return nil, &RefusedError{HTTPStatus: resp.StatusCode, retryAfter: retryAfter(resp.Header)}
		}
		return nil, fmt.Errorf("client: connect: %w", err)
	}
	ws.SetReadLimit(maxFrame)
	k.ws = ws
	if k.ack, err = c.signIn(ctx, ws); err != nil {
		k.kill(err)
		return nil, err
	}
	k.since = time.Now()
	k.hear()
	k.batch = slices.Contains(k.ack.Capabilities, wire.CapClientAckBatch)
	k.signs = slices.Contains(k.ack.Capabilities, wire.CapReceipts) && !c.o.NoReceipts
	return k, nil
}

// signIn says hello and reads the answer.
func (c *Client) signIn(ctx context.Context, ws *websocket.Conn) (wire.HelloAck, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	var ack wire.HelloAck
	hello, err := c.helloFrame(time.Now())
	if err != nil {
		return ack, err
	}
	if err := ws.Write(ctx, websocket.MessageText, hello); err != nil {
		return ack, fmt.Errorf("client: say hello: %w", err)
	}
	var refused *RefusedError
	for {
		_, frame, err := ws.Read(ctx)
		if err != nil {
			if ce, ok := errors.AsType[websocket.CloseError](err); ok {
				return ack, handshakeClose(refused, ce)
			}
			if refused != nil {
				return ack, refused
			}
			return ack, fmt.Errorf("client: wait for the answer to hello: %w", err)
		}
		head, err := wire.Peek(frame)
		if err != nil {
			return ack, fmt.Errorf("client: the answer to hello is no frame: %w", err)
		}
		switch head.Type {
		case wire.TypeHelloAck:
			if err := json.Unmarshal(frame, &ack); err != nil {
				return ack, fmt.Errorf("client: unreadable hello_ack: %w", err)
			}
			return ack, nil
		case wire.TypeError:
			var f wire.Error
			if err := json.Unmarshal(frame, &f); err != nil {
				return ack, fmt.Errorf("client: unreadable error frame: %w", err)
			}
			refused = &RefusedError{Code: f.Code, Text: f.Message, CloseCode: wire.ClosePolicy}
		default:
			return ack, fmt.Errorf("client: the broker answered hello with %q", head.Type)
		}
	}
}

// handshakeClose joins the error frame, if one came, with the close that followed.
func handshakeClose(refused *RefusedError, ce websocket.CloseError) error {
	if refused == nil {
		refused = &RefusedError{Code: wire.Code(ce.Reason)}
	}
	refused.CloseCode = int(ce.Code)
	if refused.Code == "" {
		refused.Code = map[int]wire.Code{
			wire.CloseKicked: wire.ReasonKicked, wire.CloseBanned: wire.ReasonBanned, wire.CloseGoingAway: wire.ReasonShutdown,
		}[refused.CloseCode]
	}
	return refused
}

// helloFrame builds a hello or session_hello for the moment now. Both carry the second signature, which binds the session and a
// nonce, so that nobody who sees a hello can use it.
func (c *Client) helloFrame(now time.Time) ([]byte, error) {
	o := &c.o
	nonce, err := identity.NewNonce()
	if err != nil {
		return nil, fmt.Errorf("client: make a nonce: %w", err)
	}
	common := wire.HelloCommon{
		ProtocolVersion: wire.ProtocolVersion,
		Capabilities:    []string{wire.CapClientAck, wire.CapTopicEvents, wire.CapReceipts},
		MeshID:          o.MeshID, DisplayName: o.DisplayName, SessionID: o.SessionID, PID: wire.Number(o.PID), Cwd: o.Cwd,
		Hostname: o.Hostname, PeerType: o.PeerType, Channel: o.Channel, Model: o.Model,
		Timestamp: wire.Number(now.UnixMilli()), Nonce: base64.StdEncoding.EncodeToString(nonce[:]),
	}
	if o.NoPush {
		common.Capabilities = append(common.Capabilities, wire.CapNoPush)
	}
	if o.Groups != nil {
		common.Groups = &o.Groups
	}
	ms, member, session := float64(common.Timestamp), o.Key.Public(), o.SessionKey.Public()
	text := identity.Hello2Text(o.MeshID, o.MemberID, member, session, o.SessionID, ms, common.Nonce)
	common.HelloSignature2 = o.Key.Sign(text)
	common.SessionSignature = o.SessionKey.Sign(text) // empty without a session key
	if o.SessionHello {
		common.Signature = o.SessionKey.Sign(identity.SessionHelloText(o.MeshID, member, session, ms))
		return wire.Encode(&wire.SessionHello{
			Header: header(wire.TypeSessionHello), HelloCommon: common,
			ParentMemberID: o.MemberID, ParentMemberPubkey: member, SessionPubkey: session,
			ParentAttestation: c.attestation(now),
		})
	}
	common.Signature = o.Key.Sign(identity.HelloText(o.MeshID, o.MemberID, member, ms))
	hello := &wire.Hello{
		Header: header(wire.TypeHello), HelloCommon: common, MemberID: o.MemberID, Pubkey: member, Attestation: c.attestation(now),
	}
	if session != "" {
		hello.SessionPubkey = &session
	}
	return wire.Encode(hello)
}

// retryAfter reads a Retry-After in seconds.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, time.Minute)
}
