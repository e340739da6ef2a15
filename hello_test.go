package broker_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// rejected reads the refused handshakes by reason from /metrics.
func rejected(t *testing.T, b *broker.Broker) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^broker_connections_rejected_total\{reason="([a-z0-9_]+)"\} (\d+)$`).FindAllSubmatch(hostMetrics(t, b), -1) {
		n, err := strconv.Atoi(string(m[2]))
		require.NoError(t, err)
		out[string(m[1])] = n
	}
	return out
}

// draft is a hello before it is signed.
type draft struct {
	mesh    string
	member  *brokertest.Member
	session *identity.KeyPair
	at      int64 // ms since the epoch
	expires int64 // of the attestation
	hello2  bool  // with the second signatures
	// These replace members of the frame, and of the attestation, after everything is signed; nil takes one away.
	more, attestation frame
}

// sign makes a hello, or with attested a session_hello.
func (d draft) sign(t *testing.T, attested bool) frame {
	t.Helper()
	at, key := float64(d.at), d.member.Key
	f := frame{"type": "hello", "_reqId": "r", "meshId": d.mesh, "timestamp": d.at, "sessionId": "s", "pid": 1, "cwd": "/"}
	session := ""
	if d.session != nil {
		session = d.session.Public()
		f["sessionPubkey"] = session
	}
	if attested {
		expires := float64(d.expires)
		a := frame{
			"sessionPubkey": session, "parentMemberPubkey": key.Public(), "expiresAt": expires,
			"signature": key.Sign(identity.AttestationText(key.Public(), session, expires)),
		}
		replace(a, d.attestation)
		f["type"], f["parentMemberPubkey"], f["parentMemberId"], f["parentAttestation"] = "session_hello", key.Public(), d.member.ID, a
		f["signature"] = d.session.Sign(identity.SessionHelloText(d.mesh, key.Public(), session, at))
	} else {
		f["memberId"], f["pubkey"] = d.member.ID, key.Public()
		f["signature"] = key.Sign(identity.HelloText(d.mesh, d.member.ID, key.Public(), at))
	}
	if id, ok := d.more["sessionId"].(string); ok { // it is signed, if at all, as it is sent
		f["sessionId"] = id
	}
	if d.hello2 {
		maps.Copy(f, second(t, f, d.member, d.session))
	}
	replace(f, d.more)
	return f
}

func replace(f, with frame) {
	for k, v := range with {
		if f[k] = v; v == nil {
			delete(f, k)
		}
	}
}

// second makes the second signatures of a hello, with a new nonce.
func second(t *testing.T, hello frame, member *brokertest.Member, session *identity.KeyPair) frame {
	t.Helper()
	raw, err := identity.NewNonce()
	require.NoError(t, err)
	nonce, key, at := b64(raw[:]), "", 0.0
	if session != nil {
		key = session.Public()
	}
	switch n := hello["timestamp"].(type) {
	case int64:
		at = float64(n)
	case float64:
		at = n
	}
	text := identity.Hello2Text(hello.Str("meshId"), member.ID, member.Key.Public(), key, hello.Str("sessionId"), at, nonce)
	f := frame{"nonce": nonce, "helloSignature2": member.Key.Sign(text)}
	if session != nil {
		f["sessionSignature"] = session.Sign(text)
	}
	return f
}

// rung is one check of a hello. Its fault makes a hello fail it, and is undone by the fault of an earlier check on the same thing.
type rung struct {
	name    string
	fault   func(d *draft)
	code    string
	message string // what ends in … is its beginning
	metric  string // default: code
	close   string // default: 1008 and the code
}

// climb says hellos that fail a check and all checks after it: what is told is always the first that applies. Refusals are counted by reason.
func climb(t *testing.T, mesh *brokertest.Mesh, attested bool, ladder []rung, fresh func() draft) {
	t.Helper()
	for i, r := range ladder {
		d := fresh()
		for _, later := range slices.Backward(ladder[i:]) {
			later.fault(&d)
		}
		before := rejected(t, mesh.Broker)
		c := dialStranger(t, mesh).say(d.sign(t, attested))
		frames, end := c.take()
		require.Len(t, frames, 1, "%s: %s", r.name, end)
		require.Equal(t, r.code, frames[0].Str("code"), "%s: %v", r.name, frames[0])
		if beginning, cut := strings.CutSuffix(r.message, "…"); cut {
			require.True(t, strings.HasPrefix(frames[0].Str("message"), beginning), "%s: %v", r.name, frames[0])
		} else {
			require.Equal(t, r.message, frames[0].Str("message"), r.name)
		}
		require.Equal(t, "r", frames[0].Str("_reqId"), r.name)
		if r.close == "" {
			r.close = "close 1008 " + r.code
		}
		require.Equal(t, r.close, end, r.name)
		if r.metric == "" {
			r.metric = r.code
		}
		before[r.metric]++
		require.Equal(t, before, rejected(t, mesh.Broker), r.name)
	}
}

// Every refusal of a hello: its code, text, close code, close reason and counter, and that the first check in the order of docs/protocol.md that
// fails is the one that is told.
func TestHelloIsRefusedByTheFirstCheckThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxConnectionsPerMesh = 5 })
		used := time.Now().UnixMilli()
		at := used
		ana, bo, banned, strict := mesh.Member("ana"), mesh.Member("bo"), mesh.Member("dan"), mesh.Member("eve")
		session := sessionKey(t)
		mesh.Dial("ana", brokertest.SessionKey(session))
		for _, m := range []string{"bo", "dan", "eve"} { // each with a hello at the same moment, to be replayed
			mesh.Dial(m, brokertest.With(frame{"timestamp": used}))
		}
		mesh.Dial("fay")
		require.NoError(t, mesh.Broker.SetRequireHello2(t.Context(), mesh.ID, banned.ID, true))
		require.NoError(t, mesh.Broker.SetRequireHello2(t.Context(), mesh.ID, strict.ID, true))
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, banned.ID))
		mesh.Dial("gus") // in dan's place: the mesh is full
		nobody := &brokertest.Member{Member: store.Member{ID: identity.NewID()}, Key: sessionKey(t)}

		ladder := []rung{
			{"a member of the wrong type", func(d *draft) { d.more["pid"] = "1" }, "malformed", "pid must be a number, not a string", "", ""},
			{"the shape of the session key", func(d *draft) { d.more["sessionPubkey"] = strings.ToUpper(session.Public()) }, "bad_session_pubkey", "sessionPubkey must be 64 lowercase hex chars", "", ""},
			{"the point of the session key", func(d *draft) { d.more["sessionPubkey"] = identityPoint }, "bad_session_pubkey", "sessionPubkey is no ed25519 key that can be used; make a new one", "", ""},
			{"the time", func(d *draft) { d.at = time.Now().UnixMilli() - 60_001 }, "timestamp_skew", "hello rejected: timestamp_skew", "", ""},
			{"the shape of the signature", func(d *draft) { d.more["signature"] = strings.Repeat("0", 127) }, "malformed", "hello rejected: malformed", "", ""},
			{"the signature", func(d *draft) { d.more["signature"] = strings.Repeat("0", 128) }, "bad_signature", "hello rejected: bad_signature", "", ""},
			{"the shape of the second signature", func(d *draft) { d.more["helloSignature2"] = "zz" }, "malformed", "hello rejected: second signature: malformed", "", ""},
			{"the second signature", func(d *draft) { d.hello2 = true; d.more["helloSignature2"] = strings.Repeat("0", 128) }, "bad_signature", "hello rejected: second signature: bad_signature", "", ""},
			{"the limits", func(d *draft) { d.more["displayName"] = long(129) }, "invalid_args", "displayName must have 1 to 128 characters, none of them a control character", "", ""},
			{"who it is", func(d *draft) { d.member = nobody }, "unauthorized", "pubkey not found in mesh", "", ""},
			{"whether it is still a member", func(d *draft) { d.member = banned }, "revoked", `You've been removed from "Test". Contact the mesh owner to rejoin.`, "", "close 4002 banned"},
			{"what the member demands", func(d *draft) { d.member = strict }, "hello2_required", "this member only signs in with helloSignature2", "", ""},
			{"first use", func(d *draft) { d.member, d.at = bo, used }, "replayed", "this hello was used before; sign a new one", "", ""},
			{"the session key", func(d *draft) { d.session = &ana.Key; d.more["sessionPubkey"] = ana.Pubkey }, "session_pubkey_in_use", "this session key belongs to another member; make a new one", "", ""},
			{"the places", func(*draft) {}, "capacity", "mesh at connection capacity", "", ""},
		}
		fresh := func() draft {
			at++
			return draft{mesh: mesh.ID, member: bo, at: at, more: frame{"sessionId": "another"}}
		}
		climb(t, mesh, false, ladder, fresh)

		// A fault that no other can hide, each alone.
		for _, r := range []rung{
			{"session key of 63 digits", func(d *draft) { d.more["sessionPubkey"] = strings.Repeat("a", 63) }, "bad_session_pubkey", "sessionPubkey…", "", ""},
			{"session key of no digits", func(d *draft) { d.more["sessionPubkey"] = strings.Repeat("g", 64) }, "bad_session_pubkey", "sessionPubkey…", "", ""},
			{"a time ahead", func(d *draft) { d.at = time.Now().UnixMilli() + 60_001 }, "timestamp_skew", "hello rejected: timestamp_skew", "", ""},
			{"no time", func(d *draft) { d.more["timestamp"] = nil }, "timestamp_skew", "hello rejected: timestamp_skew", "", ""},
			{"an endless time", func(d *draft) { d.more["timestamp"] = json.RawMessage("1e999") }, "timestamp_skew", "hello rejected: timestamp_skew", "", ""},
			{"a time of text", func(d *draft) { d.more["timestamp"] = "now" }, "malformed", "timestamp must be a number, not a string", "", ""},
			{"a name twice but for its case", func(d *draft) { d.more["Cwd"] = "/" }, "malformed", "…", "", ""},
			{"a key of 63 digits", func(d *draft) { d.more["pubkey"] = bo.Pubkey[1:] }, "malformed", "hello rejected: malformed", "", ""},
			{"no key", func(d *draft) { d.more["pubkey"] = nil }, "malformed", "hello rejected: malformed", "", ""},
			{"a key of small order", func(d *draft) {
				d.more["pubkey"], d.more["signature"] = "01"+strings.Repeat("0", 62), "01"+strings.Repeat("0", 126)
			}, "bad_signature", "hello rejected: bad_signature", "", ""},
			{"another member's key", func(d *draft) { d.more["pubkey"] = ana.Pubkey }, "bad_signature", "hello rejected: bad_signature", "", ""},
			{"another member's id", func(d *draft) { d.more["memberId"] = ana.ID }, "bad_signature", "hello rejected: bad_signature", "", ""},
			{"another mesh", func(d *draft) { d.more["meshId"] = "other" }, "bad_signature", "hello rejected: bad_signature", "", ""},
			{"a later time", func(d *draft) { d.more["timestamp"] = d.at + 1 }, "bad_signature", "hello rejected: bad_signature", "", ""},
			{"an unknown mesh", func(d *draft) { d.mesh = "nowhere" }, "unauthorized", "pubkey not found in mesh", "", ""},
			{"no mesh", func(d *draft) { d.mesh = "" }, "unauthorized", "pubkey not found in mesh", "", ""},
			{"no session id", func(d *draft) { d.more["sessionId"] = nil }, "invalid_args", "sessionId…", "", ""},
			{"a session id of 257", func(d *draft) { d.more["sessionId"] = long(257) }, "invalid_args", "sessionId…", "", ""},
			{"a name of white space", func(d *draft) { d.more["displayName"] = " " }, "invalid_args", "displayName…", "", ""},
			{"a name with an escape sequence", func(d *draft) { d.more["displayName"] = "\x1b[1m" }, "invalid_args", "displayName…", "", ""},
			{"a directory of 4097", func(d *draft) { d.more["cwd"] = long(4097) }, "invalid_args", "cwd…", "", ""},
			{"a host of 256", func(d *draft) { d.more["hostname"] = long(256) }, "invalid_args", "hostname…", "", ""},
			{"a peer of no kind", func(d *draft) { d.more["peerType"] = "robot" }, "invalid_args", "peerType…", "", ""},
			{"a channel of 129", func(d *draft) { d.more["channel"] = long(129) }, "invalid_args", "channel…", "", ""},
			{"a model of 129", func(d *draft) { d.more["model"] = long(129) }, "invalid_args", "model…", "", ""},
			{"65 capabilities", func(d *draft) { d.more["capabilities"] = make([]string, 65) }, "invalid_args", "capabilities…", "", ""},
			{"65 groups", func(d *draft) { d.more["groups"] = make([]frame, 65) }, "invalid_args", "groups…", "", ""},
			{"a bad group", func(d *draft) { d.more["groups"] = []frame{{"name": "a//b"}} }, "invalid_args", "groups…", "", ""},
			{"a group with a long role", func(d *draft) { d.more["groups"] = []frame{{"name": "a", "role": long(129)}} }, "invalid_args", "groups…", "", ""},
			{"the second signature without a nonce", func(d *draft) { d.hello2 = true; d.more["nonce"] = nil }, "malformed", "hello rejected: second…", "", ""},
			{"a nonce of 23 bytes", func(d *draft) { d.hello2 = true; d.more["nonce"] = b64(make([]byte, 23)) }, "malformed", "hello rejected: second…", "", ""},
			{"another nonce", func(d *draft) { d.hello2 = true; d.more["nonce"] = b64(make([]byte, 24)) }, "bad_signature", "hello rejected: second…", "", ""},
			{"a session signature without a session key", func(d *draft) { d.hello2 = true; d.more["sessionSignature"] = strings.Repeat("0", 128) }, "malformed", "hello rejected: second…", "", ""},
		} {
			climb(t, mesh, false, []rung{r}, fresh)
		}
		require.NoError(t, mesh.Store.ArchiveMesh(t.Context(), mesh.ID, time.Now().UTC()))
		climb(t, mesh, false, []rung{{"an archived mesh", func(*draft) {}, "unauthorized", "pubkey not found in mesh", "", ""}}, fresh)
	})
}

func TestSessionHelloIsRefusedByTheFirstCheckThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxConnectionsPerMesh = 3 })
		used := time.Now().UnixMilli()
		at := used
		ana, bo, banned, strict := mesh.Member("ana"), mesh.Member("bo"), mesh.Member("dan"), mesh.Member("eve")
		anas, bos, dans, eves := sessionKey(t), sessionKey(t), sessionKey(t), sessionKey(t)
		for _, e := range []struct {
			name string
			key  identity.KeyPair
		}{{"ana", anas}, {"dan", dans}, {"bo", bos}, {"eve", eves}} { // each with a hello at the same moment, to be replayed
			mesh.Dial(e.name, brokertest.SessionKey(e.key), brokertest.Attested(), brokertest.With(frame{"timestamp": used}))
			if e.name == "dan" { // whose place is free again
				require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, banned.ID))
			}
		}
		for _, m := range []*brokertest.Member{banned, strict} {
			require.NoError(t, mesh.Broker.SetRequireHello2(t.Context(), mesh.ID, m.ID, true))
		}
		nobody := &brokertest.Member{Member: store.Member{ID: identity.NewID()}, Key: sessionKey(t)}
		other := sessionKey(t)
		zero := strings.Repeat("0", 128)

		ladder := []rung{
			{"a member of the wrong type", func(d *draft) { d.more["cwd"] = 1 }, "malformed", "cwd must be a string, not a number", "", ""},
			{"the shape of the session key", func(d *draft) { d.more["sessionPubkey"] = strings.ToUpper(bos.Public()) }, "bad_session_pubkey", "sessionPubkey must be 64 lowercase hex chars", "", ""},
			{"the point of the session key", func(d *draft) { d.more["sessionPubkey"] = identityPoint }, "bad_session_pubkey", "sessionPubkey is no ed25519 key that can be used; make a new one", "", ""},
			{"the shape of the parent's key", func(d *draft) { d.more["parentMemberPubkey"] = strings.ToUpper(bo.Pubkey) }, "bad_parent_pubkey", "parentMemberPubkey must be 64 lowercase hex chars", "", ""},
			{"what the attestation binds", func(d *draft) { d.attestation["sessionPubkey"] = other.Public() }, "attestation_mismatch", "parentAttestation does not bind the claimed session+parent pubkeys", "", ""},
			{"who it is", func(d *draft) { d.member = nobody }, "unauthorized", "parent pubkey not found in mesh", "", ""},
			{"the attestation's end", func(d *draft) { d.attestation["expiresAt"] = json.RawMessage("1e999") }, "malformed", "attestation rejected: malformed", "attestation_malformed", ""},
			{"whether the attestation has ended", func(d *draft) { d.attestation["expiresAt"] = time.Now().UnixMilli() }, "expired", "attestation rejected: expired", "attestation_expired", ""},
			{"how long the attestation lasts", func(d *draft) { d.attestation["expiresAt"] = time.Now().UnixMilli() + 86_400_001 }, "ttl_too_long", "attestation rejected: ttl_too_long", "attestation_ttl_too_long", ""},
			{"the shape of the attestation", func(d *draft) { d.attestation["expiresAt"] = d.expires; d.attestation["signature"] = "zz" }, "malformed", "attestation rejected: malformed", "attestation_malformed", ""},
			{"the attestation's signature", func(d *draft) { d.attestation["signature"] = zero }, "bad_signature", "attestation rejected: bad_signature", "attestation_bad_signature", ""},
			{"the time", func(d *draft) { d.at = time.Now().UnixMilli() + 60_001 }, "timestamp_skew", "session_hello rejected: timestamp_skew", "session_timestamp_skew", ""},
			{"the shape of the signature", func(d *draft) { d.more["signature"] = "" }, "malformed", "session_hello rejected: malformed", "session_malformed", ""},
			{"the signature", func(d *draft) { d.more["signature"] = zero }, "bad_signature", "session_hello rejected: bad_signature", "session_bad_signature", ""},
			{"the second signature", func(d *draft) { d.hello2 = true; d.more["sessionSignature"] = zero }, "bad_signature", "hello rejected: second signature: bad_signature", "", ""},
			{"the limits", func(d *draft) { d.more["peerType"] = "robot" }, "invalid_args", "peerType must be ai, human or connector", "", ""},
			{"whether it is still a member", func(d *draft) { d.member, d.session, d.at = banned, &dans, used }, "revoked", `You've been removed from "Test". Contact the mesh owner to rejoin.`, "", "close 4002 banned"},
			{"the parent's id", func(d *draft) { d.member, d.session, d.at = strict, &eves, used; d.more["parentMemberId"] = ana.ID }, "parent_member_id_mismatch", "parentMemberId does not match parentMemberPubkey", "", ""},
			{"what the member demands", func(d *draft) { d.member, d.session, d.at = strict, &eves, used }, "hello2_required", "this member only signs in with helloSignature2", "", ""},
			{"first use", func(d *draft) { d.member, d.session, d.at = bo, &bos, used }, "replayed", "this hello was used before; sign a new one", "", ""},
			{"the session key", func(d *draft) { d.session = &anas }, "session_pubkey_in_use", "this session key belongs to another member; make a new one", "", ""},
			{"the places", func(*draft) {}, "capacity", "mesh at connection capacity", "", ""},
		}
		fresh := func() draft {
			at++
			mine := sessionKey(t)
			return draft{
				mesh: mesh.ID, member: bo, session: &mine, at: at, expires: time.Now().UnixMilli() + 1000,
				more: frame{"sessionId": "another"}, attestation: frame{},
			}
		}
		climb(t, mesh, true, ladder, fresh)

		for _, r := range []rung{
			{"no session key", func(d *draft) { d.more["sessionPubkey"] = nil }, "bad_session_pubkey", "sessionPubkey…", "", ""},
			{"no parent", func(d *draft) { d.more["parentMemberPubkey"] = nil }, "bad_parent_pubkey", "parent…", "", ""},
			{"no attestation", func(d *draft) { d.more["parentAttestation"] = nil }, "attestation_mismatch", "parentAttestation…", "", ""},
			{"an attestation by another parent", func(d *draft) { d.attestation["parentMemberPubkey"] = ana.Pubkey }, "attestation_mismatch", "parentAttestation…", "", ""},
			{"an attestation by another's signature", func(d *draft) {
				d.attestation["signature"] = ana.Key.Sign(identity.AttestationText(bo.Pubkey, d.session.Public(), float64(d.expires)))
			}, "bad_signature", "attestation…", "attestation_bad_signature", ""},
			{"an attestation of a text", func(d *draft) { d.attestation["expiresAt"] = "tomorrow" }, "malformed", "parentAttestation.expiresAt must be a number, not a string", "", ""},
			{"a hello that the member signed", func(d *draft) {
				d.more["signature"] = bo.Key.Sign(identity.SessionHelloText(mesh.ID, bo.Pubkey, d.session.Public(), float64(d.at)))
			}, "bad_signature", "session_hello…", "session_bad_signature", ""},
			{"an unknown mesh", func(d *draft) { d.mesh = "nowhere" }, "unauthorized", "parent pubkey not found in mesh", "", ""},
		} {
			climb(t, mesh, true, []rung{r}, fresh)
		}
	})
}

// The limits of the times are inside, and what is good is admitted where all those were refused.
func TestHelloAtTheLimitsIsAdmitted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		bo, key := mesh.Member("bo"), sessionKey(t)
		now := time.Now().UnixMilli()
		for i, d := range []draft{
			{at: now - 60_000}, {at: now + 60_000}, {at: now - 1, hello2: true},
			{at: now, more: frame{"displayName": " " + strings.Repeat("ü", 128) + " ", "sessionId": strings.Repeat("ü", 256), "cwd": long(4096), "hostname": long(255)}},
			{at: now + 1, more: frame{"pid": nil, "cwd": nil, "sessionPubkey": nil}},
			{at: now + 2, more: frame{"sessionPubkey": ""}},
			{at: now + 3, more: frame{"capabilities": []string{"what", "no_such"}, "unknown": frame{"x": []int{1}}}},
		} {
			d.mesh, d.member = mesh.ID, bo
			require.Equal(t, "hello_ack", dialStranger(t, mesh).say(d.sign(t, false)).answer(), "%d", i)
		}
		for _, expires := range []int64{now + 1, now + 86_400_000} {
			d := draft{mesh: mesh.ID, member: bo, session: &key, at: now, expires: expires, more: frame{"parentMemberId": ""}}
			require.Equal(t, "hello_ack", dialStranger(t, mesh).say(d.sign(t, true)).answer())
		}
	})
}

// A hello that comes after the deadline, while the connection is being closed, is not admitted, and is no reason to wake anybody.
func TestHelloAfterTheDeadlineIsTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		mesh := brokertest.New(t, func(o *broker.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		bo := mesh.Member("bo")
		c := mesh.Connect() // does not read, so it does not answer the close frame
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		for range 5 {
			require.NoError(t, c.TrySend("garbage"))
			require.NoError(t, c.TrySend(mesh.HelloFrame(bo, nil, false, frame{"sessionId": "s"})))
		}
		synctest.Wait()
		require.Empty(t, mesh.Broker.Sessions(mesh.ID))
		c.Read()
		require.Equal(t, "hello_timeout", c.Expect().Str("code"))
		code, reason := c.Closed()
		require.Equal(t, []any{1008, "hello_timeout"}, []any{code, reason})
		require.Empty(t, c.Waiting())
		require.Equal(t, map[string]int{"hello_timeout": 1}, rejected(t, mesh.Broker))
		require.Contains(t, string(hostMetrics(t, mesh.Broker)), "broker_bad_frames_total 0")
		require.NotContains(t, log.String(), "WARN")
	})
}

// keys lists the members of a frame.
func keys(f frame) []string { return slices.Sorted(maps.Keys(f)) }

func TestHelloAckTellsWhatTheSessionHas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		group := wire.Group{Name: "eng", Role: "lead"}
		member := mesh.Enroll(broker.NewMember{Name: "bo", RoleTag: "ops", DefaultGroups: []wire.Group{group}, MessageMode: "inbox"})
		always := []string{"capabilities", "leaseGraceMs", "memberDisplayName", "memberId", "meshPolicy", "presenceId", "protocolVersion", "type"}
		profiled := slices.Sorted(slices.Values(append([]string{"memberProfile"}, always...)))

		first := mesh.Dial("bo", brokertest.With(frame{"sessionId": "one"}))
		require.Equal(t, profiled, keys(first.Hello))
		require.Regexp(t, `^[0-9A-Za-z]{32}$`, first.Hello.Str("presenceId"))
		require.Equal(t, "bo", first.Hello.Str("memberDisplayName"))
		require.Equal(t, member.ID, first.Hello.Str("memberId"))
		require.Equal(t, map[string]any{
			"roleTag": "ops", "messageMode": "inbox", "groups": []any{map[string]any{"name": "eng", "role": "lead"}},
		}, first.Hello["memberProfile"])
		require.Equal(t, map[string]any{"selfEditable": map[string]any{
			"displayName": true, "roleTag": true, "groups": true, "messageMode": true,
		}}, first.Hello["meshPolicy"])
		require.Equal(t, []any{1.0, 90_000.0}, []any{first.Hello["protocolVersion"], first.Hello["leaseGraceMs"]})
		require.Equal(t, []any{"client_ack_batch", "hello2", "receipts"}, first.Hello["capabilities"])

		plain := mesh.Dial("ana", brokertest.With(frame{"displayName": " Ana at home ", "_reqId": "q"}))
		require.Equal(t, "Ana at home", plain.Hello.Str("memberDisplayName"))
		require.Equal(t, "q", plain.Hello.Str("_reqId"))
		require.Equal(t, map[string]any{"roleTag": nil, "messageMode": "push", "groups": []any{}}, plain.Hello["memberProfile"])

		// Lost and back: the same place, and nothing restored.
		done(t, first, frame{"type": "set_summary", "summary": "at work"})
		done(t, first, frame{"type": "join_group", "name": "night"})
		done(t, first, frame{"type": "set_stats", "stats": frame{"messagesIn": 3, "uptime": 9}})
		first.Cut()
		synctest.Wait()
		second := mesh.Dial("bo", brokertest.With(frame{"sessionId": "one"}))
		require.Equal(t, profiled, keys(second.Hello))
		require.Equal(t, first.Hello["presenceId"], second.Hello["presenceId"])

		// Gone and back: a new place, with what was saved.
		left := wire.FormatTime(time.Now())
		second.Close()
		synctest.Wait()
		time.Sleep(time.Hour)
		third := mesh.Dial("bo", brokertest.With(frame{"sessionId": "two"}))
		require.Equal(t, slices.Sorted(slices.Values(append([]string{"lastSeenAt", "lastSummary", "restored", "restoredGroups", "restoredStats"}, profiled...))), keys(third.Hello))
		require.NotEqual(t, first.Hello["presenceId"], third.Hello["presenceId"])
		require.Equal(t, []any{true, "at work", left}, []any{third.Hello["restored"], third.Hello["lastSummary"], third.Hello["lastSeenAt"]})
		require.Equal(t, []any{map[string]any{"name": "eng", "role": "lead"}, map[string]any{"name": "night"}}, third.Hello["restoredGroups"])
		require.Equal(t, map[string]any{"messagesIn": 3.0}, withoutZeros(third.Hello["restoredStats"]))

		// One that names its groups gets none back; one that enters by session_hello gets nothing back.
		fourth := mesh.Dial("bo", brokertest.With(frame{"groups": []frame{{"name": "own"}}}))
		require.Equal(t, true, fourth.Hello["restored"])
		require.NotContains(t, fourth.Hello, "restoredGroups")
		key := sessionKey(t)
		attested := mesh.Dial("bo", brokertest.SessionKey(key), brokertest.Attested())
		require.Equal(t, profiled, keys(attested.Hello))
		attested.Cut()
		synctest.Wait()
		again := mesh.Dial("bo", brokertest.SessionKey(key), brokertest.Attested())
		require.Equal(t, attested.Hello["presenceId"], again.Hello["presenceId"])
		require.Equal(t, always, keys(again.Hello), "who comes back by session_hello knows its profile")
	})
}

// withoutZeros leaves out the counters that count nothing.
func withoutZeros(stats any) map[string]any {
	out := map[string]any{}
	for k, v := range stats.(map[string]any) {
		if v != 0.0 {
			out[k] = v
		}
	}
	return out
}

// Nothing is pushed before hello_ack, however much waits.
func TestHelloAckComesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Member("bo")
		for range 5 {
			ana.Say(bo.Pubkey, "now", "waiting")
		}
		c := dialStranger(t, mesh).say(mesh.HelloFrame(bo, nil, false, frame{"sessionId": "s"}))
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		require.Len(t, c.frames, 6)
		require.Equal(t, "hello_ack", c.frames[0].Type())
	})
}

// groupsOf are the groups that a session has in the eyes of others.
func groupsOf(t *testing.T, c *brokertest.Conn) []string {
	t.Helper()
	for _, p := range list(t, c.Request(frame{"type": "list_peers"}), "peers") {
		if p.Str("memberId") == c.Member.ID { // one session each
			return column(list(t, p, "groups"), "name")
		}
	}
	t.Fatal("not listed")
	return nil
}

func TestInitialGroupsAndVisibility(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		mesh.Enroll(broker.NewMember{Name: "bo", DefaultGroups: []wire.Group{{Name: "default"}}})
		attested := func() []brokertest.DialOption {
			return []brokertest.DialOption{brokertest.SessionKey(sessionKey(t)), brokertest.Attested()}
		}
		with := func(groups ...frame) brokertest.DialOption {
			if groups == nil {
				groups = []frame{}
			}
			return brokertest.With(frame{"groups": groups})
		}
		enter := func(options ...brokertest.DialOption) (groups []string, peer frame) {
			c := mesh.Dial("bo", options...)
			groups = groupsOf(t, c)
			peer = list(t, c.Request(frame{"type": "list_peers"}), "peers")[0]
			c.Close()
			synctest.Wait()
			return groups, peer
		}
		expect := func(want []string, visible bool, options ...brokertest.DialOption) {
			t.Helper()
			groups, peer := enter(options...)
			require.Equal(t, want, groups)
			require.Equal(t, visible, peer["visible"])
			require.Equal(t, visible, peer["profile"] == nil, "%v", peer)
		}
		expect([]string{"default"}, true, attested()...)
		expect([]string{}, true, append(attested(), with())...)
		expect([]string{"a"}, true, append(attested(), with(frame{"name": "@a"}))...)

		c := mesh.Dial("bo", brokertest.With(frame{"sessionId": "x"}))
		done(t, c, frame{"type": "leave_group", "name": "a"}) // what session_hellos saved came back
		require.Equal(t, []string{}, groupsOf(t, c))
		c.Close()
		synctest.Wait()
		expect([]string{"default"}, true) // nothing is saved
		expect([]string{"default"}, true, with())

		c = mesh.Dial("bo")
		done(t, c, frame{"type": "join_group", "name": "saved"})
		done(t, c, frame{"type": "set_visible", "visible": false})
		done(t, c, frame{"type": "set_profile", "title": "night watch"})
		c.Close()
		synctest.Wait()
		expect([]string{"default", "saved"}, false)
		expect([]string{"default", "saved"}, false, with())
		expect([]string{"default"}, true, attested()...)
	})
}

// What a session that was told restoredStats counts goes on from there; what one counts that was not comes on top. Nothing is added twice.
func TestCountersContinue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		bo := mesh.Member("bo")
		saved := func() any {
			synctest.Wait()
			state, err := mesh.Store.PeerState(t.Context(), mesh.ID, bo.ID)
			require.NoError(t, err)
			if state.Stats.ToolCalls == nil {
				return nil
			}
			return *state.Stats.ToolCalls
		}
		report := func(c *brokertest.Conn, n int) {
			done(t, c, frame{"type": "set_stats", "stats": frame{"toolCalls": n}})
		}

		c := mesh.Dial("bo")
		report(c, 3)
		report(c, 5)
		c.Close()
		require.Equal(t, 5.0, saved(), "the first session's own")
		c = mesh.Dial("bo")
		require.Equal(t, 5.0, c.Hello["restoredStats"].(map[string]any)["toolCalls"])
		c.Close()
		require.Equal(t, 5.0, saved(), "no report, no change")
		c = mesh.Dial("bo", brokertest.With(frame{"sessionId": "flaps"}))
		report(c, 7)
		c.Cut()
		require.Equal(t, 7.0, saved(), "it went on from 5")
		c = mesh.Dial("bo", brokertest.With(frame{"sessionId": "flaps"}))
		report(c, 8)
		c.Cut()
		require.Equal(t, 8.0, saved(), "a lost socket adds nothing")
		time.Sleep(2 * time.Minute)
		require.Equal(t, 8.0, saved(), "nor does the end of its lease")

		key := sessionKey(t)
		c = mesh.Dial("bo", brokertest.SessionKey(key), brokertest.Attested())
		require.NotContains(t, c.Hello, "restoredStats")
		report(c, 2)
		c.Cut()
		require.Equal(t, 10.0, saved(), "it began at nothing")
		c = mesh.Dial("bo", brokertest.SessionKey(key), brokertest.Attested())
		report(c, 3)
		c.Close()
		require.Equal(t, 11.0, saved(), "and counted one more since")
	})
}

// H06: whoever captures a hello can at most say it again as it is.
func TestH06CapturedHelloIsGoodForItsOwnSessionOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		bo, thief := mesh.Member("bo"), sessionKey(t)
		hello := mesh.HelloFrame(bo, nil, false, frame{"sessionId": "s", "pid": 1, "cwd": "/"})
		say := func(change frame) string { return dialStranger(t, mesh).say(merged(hello, change)).answer() }
		const replayed = "error replayed, close 1008 replayed"
		require.Equal(t, "hello_ack", say(nil))
		require.Equal(t, replayed, say(frame{"sessionPubkey": thief.Public()}))
		require.Equal(t, replayed, say(frame{"sessionId": "x"}))
		require.Equal(t, replayed, say(frame{"sessionId": "x", "sessionPubkey": thief.Public()}))
		require.Equal(t, "hello_ack", say(nil), "the same session may try again")
		mesh.Restart()
		require.Equal(t, replayed, say(frame{"sessionId": "x"}), "another broker on the same store knows it, too")
		time.Sleep(61 * time.Second)
		require.Equal(t, "error timestamp_skew, close 1008 timestamp_skew", say(frame{"sessionId": "x"}))

		key := sessionKey(t)
		hello = mesh.HelloFrame(bo, &key, true, frame{"sessionId": "s", "pid": 1, "cwd": "/"})
		require.Equal(t, "hello_ack", say(nil))
		require.Equal(t, replayed, say(frame{"sessionId": "x"}))
		require.Equal(t, "hello_ack", say(nil))

		// A time a minute ahead is good for two.
		hello = mesh.HelloFrame(bo, nil, false, frame{"sessionId": "s", "timestamp": time.Now().UnixMilli() + 60_000})
		require.Equal(t, "hello_ack", say(nil))
		time.Sleep(2 * time.Minute)
		require.Equal(t, replayed, say(frame{"sessionId": "x"}))
	})
}

func TestH06ReplayOfOlderHellosIsAnOption(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.AllowHelloReplay = true })
		d := draft{mesh: mesh.ID, member: mesh.Member("bo"), at: time.Now().UnixMilli()}
		hello := d.sign(t, false)
		say := func(change frame) string { return dialStranger(t, mesh).say(merged(hello, change)).answer() }
		require.Equal(t, "hello_ack", say(nil))
		require.Equal(t, "hello_ack", say(frame{"sessionId": "x"}))
		d.hello2 = true
		hello = d.sign(t, false)
		require.Equal(t, "hello_ack", say(nil))
		require.Equal(t, "error replayed, close 1008 replayed", say(nil), "a nonce is good once, whatever is allowed")
	})
}

// H06: the second signatures bind the session, its key and a nonce that is good once.
func TestH06SecondSignatureBindsTheSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		bo, thief := mesh.Member("bo"), sessionKey(t)
		const (
			replayed = "error replayed, close 1008 replayed"
			bad      = "error bad_signature, close 1008 bad_signature"
			shape    = "error malformed, close 1008 malformed"
			required = "error hello2_required, close 1008 hello2_required"
		)
		at := time.Now().UnixMilli()
		for _, attested := range []bool{false, true} {
			key := sessionKey(t)
			fresh := func(hello2 bool) frame {
				at++
				d := draft{mesh: mesh.ID, member: bo, session: &key, at: at, expires: time.Now().UnixMilli() + 1000, hello2: hello2}
				return d.sign(t, attested)
			}
			say := func(hello, change frame) string {
				f := merged(hello, change)
				replace(f, change)
				return dialStranger(t, mesh).say(f).answer()
			}
			hello := fresh(true)
			require.Equal(t, bad, say(hello, frame{"sessionId": "x"}))
			require.Equal(t, bad, say(hello, frame{"nonce": b64(make([]byte, 24))}))
			require.Equal(t, bad, say(hello, frame{"sessionSignature": thief.Sign("x")}), "a session key that its owner does not hold")
			require.Equal(t, shape, say(hello, frame{"sessionSignature": nil}))
			require.Equal(t, shape, say(hello, frame{"nonce": nil}))
			require.Equal(t, shape, say(hello, frame{"helloSignature2": nil}))
			if !attested {
				require.Equal(t, bad, say(hello, frame{"sessionPubkey": thief.Public()}))
			}
			require.Equal(t, "hello_ack", say(hello, nil))
			require.Equal(t, replayed, say(hello, nil), "a nonce is good once")
			cut := frame{"nonce": nil, "helloSignature2": nil, "sessionSignature": nil}
			require.Equal(t, replayed, say(hello, cut), "the older signature alone is no way around")
			if !attested {
				require.Equal(t, replayed, say(hello, merged(cut, frame{"sessionPubkey": thief.Public(), "sessionId": "x"})))
			}
			mesh.Restart()
			require.Equal(t, replayed, say(hello, nil), "another broker on the same store knows the nonce")

			require.NoError(t, mesh.Broker.SetRequireHello2(t.Context(), mesh.ID, bo.ID, true))
			require.Equal(t, required, say(fresh(false), nil))
			require.Equal(t, required, say(fresh(true), cut))
			require.Equal(t, "hello_ack", say(fresh(true), nil))
			require.NoError(t, mesh.Broker.SetRequireHello2(t.Context(), mesh.ID, bo.ID, false))
			require.Equal(t, "hello_ack", say(fresh(false), nil))
		}
		require.ErrorIs(t, mesh.Broker.SetRequireHello2(t.Context(), mesh.ID, "nobody", true), store.ErrNotFound)
	})
}

// H20: a session key is nobody else's, and no member's.
func TestH20SessionKeyBelongsToOneMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, eve, banned := mesh.Member("ana"), mesh.Member("eve"), mesh.Member("dan")
		former := ana.Pubkey
		try := func(session string) string {
			return dialStranger(t, mesh).say(mesh.HelloFrame(eve, nil, false, frame{"sessionId": identity.NewID(), "sessionPubkey": session})).answer()
		}
		const inUse = "error session_pubkey_in_use, close 1008 session_pubkey_in_use"
		require.Equal(t, inUse, try(ana.Pubkey))
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, banned.ID))
		require.Equal(t, inUse, try(banned.Pubkey))

		key := sessionKey(t)
		c := mesh.Dial("ana", brokertest.SessionKey(key))
		require.Equal(t, inUse, try(key.Public()), "while it is online")
		c.Cut()
		synctest.Wait()
		require.Equal(t, inUse, try(key.Public()), "in grace")
		time.Sleep(2 * time.Minute)
		require.Equal(t, inUse, try(key.Public()), "and after")
		mesh.Dial("ana", brokertest.SessionKey(key)) // its owner may come back with it

		next := sessionKey(t)
		require.NoError(t, mesh.Store.RekeyMember(t.Context(), mesh.ID, ana.ID, next.Public(), time.Now().UTC()))
		require.Equal(t, inUse, try(former), "a former key of a member")
		require.Equal(t, inUse, try(next.Public()))

		// The other way round: nobody joins with the key of a session.
		_, err := mesh.Broker.AddMember(t.Context(), mesh.ID, broker.NewMember{Name: "fay", Pubkey: key.Public()})
		require.ErrorIs(t, err, store.ErrKeyInUse)

		// Another mesh is another matter.
		other, err := mesh.Broker.CreateMesh(t.Context(), broker.NewMesh{})
		require.NoError(t, err)
		mine := sessionKey(t)
		gus, err := mesh.Broker.AddMember(t.Context(), other.ID, broker.NewMember{Name: "gus", Pubkey: mine.Public()})
		require.NoError(t, err)
		hostSignIn(t, mesh, gus, mine, frame{"sessionPubkey": key.Public()})
	})
}

// H35: the handshakes of one address are checked at a pace; those above it wait and are not refused.
func TestH35HandshakesArePacedNotRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) {
			*o = o.Unlimited()
			o.HandshakesPerSecondPerAddr = 0 // the default: 20
		})
		bo := mesh.Member("bo")
		var all []*stranger
		for i := range 100 {
			hello := mesh.HelloFrame(bo, nil, false, frame{"sessionId": fmt.Sprint(i)})
			if i%2 == 0 && i < 60 {
				hello["signature"] = strings.Repeat("0", 128) // a bad signature costs as much
			}
			all = append(all, dialStranger(t, mesh).say(hello))
		}
		answered := func() (n int) {
			synctest.Wait()
			for _, c := range all {
				c.mu.Lock()
				if len(c.frames) > 0 {
					n++
				}
				c.mu.Unlock()
			}
			return n
		}
		require.Equal(t, 60, answered(), "three seconds' worth at once")
		time.Sleep(49 * time.Millisecond)
		require.Equal(t, 60, answered())
		time.Sleep(time.Millisecond)
		require.Equal(t, 61, answered())
		time.Sleep(time.Second)
		require.Equal(t, 81, answered())
		time.Sleep(time.Second)
		require.Equal(t, 100, answered())
		require.Equal(t, map[string]int{"bad_signature": 30}, rejected(t, mesh.Broker))
		require.Len(t, mesh.Broker.Sessions(mesh.ID), 70)
	})
}

// A hello that waits its turn beyond its deadline is told so, and does not come in by the back door when its turn comes.
func TestH35WaitingEndsAtTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		mesh := brokertest.New(t, func(o *broker.Options) {
			*o = o.Unlimited()
			o.HandshakesPerSecondPerAddr = 1
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		})
		bo := mesh.Member("bo")
		var conns []*brokertest.Conn
		const all = 40 // some wait so long that they are dropped before their turn
		for i := range all {
			c := mesh.Connect() // does not read yet, so it does not answer the close frame either
			c.Send(mesh.HelloFrame(bo, nil, false, frame{"sessionId": fmt.Sprint(i)}))
			conns = append(conns, c)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		in := len(mesh.Broker.Sessions(mesh.ID))
		require.InDelta(t, 3+10, in, 1, "three at once and one a second")
		got := map[string]int{}
		for _, c := range conns {
			c.Read()
			got[c.Expect().Type()]++
		}
		require.Equal(t, map[string]int{"hello_ack": in, "error": all - in}, got)
		require.Equal(t, map[string]int{"hello_timeout": all - in}, rejected(t, mesh.Broker))
		require.NotContains(t, log.String(), "WARN")
	})
}

// upgradeStatus asks for a WebSocket and returns the answer.
func upgradeStatus(t *testing.T, mesh *brokertest.Mesh) (status int, retryAfter string) {
	t.Helper()
	link := dialBytes(t, mesh)
	t.Cleanup(func() { _ = link.Close() })
	_, err := io.WriteString(link, "GET /ws HTTP/1.1\r\nHost: "+brokertest.Host+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(link), nil)
	require.NoError(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		_ = resp.Body.Close()
	}
	return resp.StatusCode, resp.Header.Get("Retry-After")
}

// H35: connections that say nothing are bounded, in all and for one address; what is beyond hears so before it costs anything.
func TestH35PendingHandshakesAreBounded(t *testing.T) {
	t.Parallel()
	for _, limit := range []func(o *broker.Options){
		func(o *broker.Options) { o.MaxPendingHandshakes = 3 },
		func(o *broker.Options) { o.MaxPendingHandshakesPerAddr = 3 },
	} {
		synctest.Test(t, func(t *testing.T) {
			mesh := brokertest.New(t, limit)
			bo := mesh.Member("bo")
			var idle []*stranger
			for range 3 {
				idle = append(idle, dialStranger(t, mesh))
			}
			synctest.Wait()
			status, after := upgradeStatus(t, mesh)
			require.Equal(t, []any{503, "1"}, []any{status, after})
			require.Equal(t, "hello_ack", idle[0].say(mesh.HelloFrame(bo, nil, false, frame{"sessionId": "s"})).answer())
			idle = append(idle, dialStranger(t, mesh))
			status, _ = upgradeStatus(t, mesh)
			require.Equal(t, 503, status, "the one that is signed in made room for one")
			require.NoError(t, idle[1].link.Close())
			synctest.Wait()
			idle = append(idle, dialStranger(t, mesh))
			require.Equal(t, "error timestamp_skew, close 1008 timestamp_skew", idle[2].say(frame{"type": "hello"}).answer())
			dialStranger(t, mesh)
			status, _ = upgradeStatus(t, mesh)
			require.Equal(t, 503, status)
			require.Equal(t, "peers_list", idle[0].say(frame{"type": "list_peers"}).answer(), "who is in does not notice")
		})
	}
}

// The default bound for one address is 50.
func TestH35FiftyPendingHandshakesOfOneAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, withRates)
		for range 50 {
			dialStranger(t, mesh)
		}
		status, after := upgradeStatus(t, mesh)
		require.Equal(t, []any{503, "1"}, []any{status, after})
		time.Sleep(11 * time.Second) // the silent ones were turned away
		synctest.Wait()
		dialStranger(t, mesh)
	})
}

// H45: no id shifts the fields of what is signed, and no version is less than 1.
func TestH45IDsAndVersions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		bo := mesh.Member("bo")
		at := time.Now().UnixMilli()
		say := func(d draft) (frame, string) {
			at++
			d.member, d.at = bo, at
			if d.mesh == "" {
				d.mesh = mesh.ID
			}
			frames, end := dialStranger(t, mesh).say(d.sign(t, false)).take()
			require.Len(t, frames, 1)
			return frames[0], end
		}
		for _, id := range []string{mesh.ID + "|" + bo.ID, mesh.ID + "|", "|" + mesh.ID, "../" + mesh.ID, mesh.ID + "\x00", mesh.ID + " ", long(65), "Ünïcode"} {
			f, end := say(draft{mesh: id})
			require.Equal(t, []string{"unauthorized", "close 1008 unauthorized"}, []string{f.Str("code"), end}, "%q", id)
		}
		f, end := say(draft{hello2: true, more: frame{"sessionId": "a|b"}})
		require.Equal(t, []string{"malformed", "close 1008 malformed"}, []string{f.Str("code"), end}, "where the session id is signed")
		f, _ = say(draft{more: frame{"sessionId": "a|b"}})
		require.Equal(t, "hello_ack", f.Type(), "where it is not")
		for _, version := range []any{nil, 0, -1, 0.5, 1, 1.5, 2, 99, json.RawMessage("1e999"), json.RawMessage("-1e999")} {
			f, _ := say(draft{more: frame{"protocolVersion": version}})
			require.Equal(t, 1.0, f["protocolVersion"], "%v", version)
		}
		f, _ = say(draft{more: frame{"protocolVersion": "1"}})
		require.Equal(t, "malformed", f.Str("code"))

		for _, bad := range []string{"a|b", "", "a b", long(65)} {
			_, err := mesh.Broker.CreateMesh(t.Context(), broker.NewMesh{ID: bad + "|", Slug: "s"})
			require.ErrorIs(t, err, wire.InvalidArgs, "%q", bad)
			_, err = mesh.Broker.AddMember(t.Context(), mesh.ID, broker.NewMember{ID: bad + "|", Name: "x", Pubkey: sessionKey(t).Public()})
			require.ErrorIs(t, err, wire.InvalidArgs, "%q", bad)
		}
	})
}

// A key means the same in either case; it is signed as it is written.
func TestMemberKeyInUpperCase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		bo := mesh.Member("bo")
		at := time.Now().UnixMilli()
		say := func(pubkey string, signed string) *stranger {
			at++
			return dialStranger(t, mesh).say(frame{
				"type": "hello", "meshId": mesh.ID, "memberId": bo.ID, "pubkey": pubkey, "sessionId": "s", "timestamp": at,
				"signature": strings.ToUpper(bo.Key.Sign(identity.HelloText(mesh.ID, bo.ID, signed, float64(at)))),
			})
		}
		upper := strings.ToUpper(bo.Pubkey)
		frames, _ := say(upper, upper).take()
		require.Equal(t, "hello_ack", frames[0].Type(), "%v", frames[0])
		place := frames[0]["presenceId"]
		c := say(bo.Pubkey, bo.Pubkey)
		frames, _ = c.take()
		require.Equal(t, place, frames[0]["presenceId"], "the same member, the same place")
		c.say(frame{"type": "list_peers"})
		frames, _ = c.take()
		require.Equal(t, []string{bo.Pubkey}, column(list(t, frames[0], "peers"), "memberPubkey"))
		require.Equal(t, "error bad_signature, close 1008 bad_signature", say(upper, bo.Pubkey).answer())
	})
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
