package identity_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

func goodHello2(t testing.TB) identity.Hello2 {
	member, session := seedPair(t, 1), seedPair(t, 4)
	h := identity.Hello2{
		MeshID: docMesh, MemberID: docMember, Pubkey: publicA, SessionPubkey: publicS, SessionID: "s-1",
		Timestamp: docTime, Nonce: docNonce,
	}
	h.Signature, h.SessionSignature = member.Sign(h.Text()), session.Sign(h.Text())
	return h
}

func TestHello2BindsTheSession(t *testing.T) {
	t.Parallel()
	good := goodHello2(t)
	require.Equal(t, "claudemesh-hello-2|"+docMesh+"|"+docMember+"|"+publicA+"|"+publicS+"|s-1|1777752191000|"+docNonce, good.Text())
	require.NoError(t, good.Verify(testNow))
	require.NoError(t, good.Verify(testNow.Add(identity.MaxSkew)))

	for _, c := range []struct {
		name   string
		change func(*identity.Hello2)
		want   identity.Class
	}{
		{"late", func(h *identity.Hello2) { h.Timestamp -= 60001 }, identity.ClassTimestampSkew},
		{"no timestamp", func(h *identity.Hello2) { h.Timestamp = math.NaN() }, identity.ClassTimestampSkew},
		{"infinite timestamp", func(h *identity.Hello2) { h.Timestamp = math.Inf(1) }, identity.ClassTimestampSkew},
		{"separator in the mesh id", func(h *identity.Hello2) { h.MeshID = "a|b" }, identity.ClassMalformed},
		{"no member id", func(h *identity.Hello2) { h.MemberID = "" }, identity.ClassMalformed},
		{"separator in the session id", func(h *identity.Hello2) { h.SessionID = "s|1" }, identity.ClassMalformed},
		{"no session id", func(h *identity.Hello2) { h.SessionID = "" }, identity.ClassMalformed},
		{"endless session id", func(h *identity.Hello2) { h.SessionID = strings.Repeat("x", 1025) }, identity.ClassMalformed},
		{"short nonce", func(h *identity.Hello2) { h.Nonce = "AAAA" }, identity.ClassMalformed},
		{"nonce in another spelling", func(h *identity.Hello2) { h.Nonce += "\n" }, identity.ClassMalformed},
		{"upper-case session key", func(h *identity.Hello2) { h.SessionPubkey = strings.ToUpper(publicS) }, identity.ClassMalformed},
		{"session signature alone", func(h *identity.Hello2) { h.SessionPubkey = "" }, identity.ClassMalformed},
		{"no session signature", func(h *identity.Hello2) { h.SessionSignature = "" }, identity.ClassMalformed},
		{"no signature", func(h *identity.Hello2) { h.Signature = "" }, identity.ClassMalformed},
		{"another session", func(h *identity.Hello2) { h.SessionID = "s-2" }, identity.ClassBadSignature},
		{"another session key", func(h *identity.Hello2) { h.SessionPubkey = publicB }, identity.ClassBadSignature},
		{"another nonce", func(h *identity.Hello2) { h.Nonce = strings.Repeat("A", 32) }, identity.ClassBadSignature},
		{"session signature by the member", func(h *identity.Hello2) { h.SessionSignature = h.Signature }, identity.ClassBadSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := good
			c.change(&h)
			requireClass(t, string(c.want), h.Verify(testNow))
		})
	}
}

func TestHello2WithoutASessionKey(t *testing.T) {
	t.Parallel()
	h := goodHello2(t)
	h.SessionPubkey, h.SessionSignature = "", ""
	h.Signature = seedPair(t, 1).Sign(h.Text())
	require.NoError(t, h.Verify(testNow))
}

func TestZeroKeyPairSignsNothing(t *testing.T) {
	t.Parallel()
	var zero identity.KeyPair
	require.True(t, zero.IsZero())
	require.Empty(t, zero.Sign("x")+zero.Public()+zero.SeedHex()+zero.SecretHex())
	a := identity.NewAttestation(zero, publicS, testNow)
	requireClass(t, "malformed", a.Verify(testNow))
	_, _, err := identity.SealDirect("x", publicA, zero)
	requireClass(t, "bad_key", err)
	_, err = identity.OpenDirect(docNonce, docCiphertext, publicA, zero)
	requireClass(t, "bad_key", err)
}

func TestAttestationClassesComeInOrder(t *testing.T) {
	t.Parallel()
	a := identity.NewAttestation(seedPair(t, 1), publicS, testNow)
	require.NoError(t, a.Verify(testNow.Add(identity.AttestationTTL-time.Millisecond)))
	requireClass(t, "expired", a.Verify(testNow.Add(identity.AttestationTTL)))
	requireClass(t, "ttl_too_long", a.Verify(testNow.Add(-13*time.Hour)))
	a.ExpiresAt = math.Inf(1)
	requireClass(t, "malformed", a.Verify(testNow))
}
