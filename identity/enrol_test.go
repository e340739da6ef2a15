package identity_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

// smallOrderKey is the point of order 2: with R its own double and S zero, it "signs" every second text.
const smallOrderKey = "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"

func TestJoinProvesTheKey(t *testing.T) {
	t.Parallel()
	peer := seedPair(t, 2)
	j := identity.Join{InviteToken: "token", PeerPubkey: publicB}
	text := identity.JoinText(identity.TokenHash("token"), publicB)
	require.Equal(t, "claudemesh-join|3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0|"+publicB, text)
	j.Signature = peer.Sign(text)
	require.NoError(t, j.Verify())

	other := j
	other.InviteToken = "token2"
	requireClass(t, "bad_signature", other.Verify())
	other = j
	other.PeerPubkey = publicS
	requireClass(t, "bad_signature", other.Verify())
	other.PeerPubkey = smallOrderKey
	requireClass(t, "malformed", other.Verify())
	other = j
	other.Signature = ""
	requireClass(t, "malformed", other.Verify())
}

func TestRekeyProvesTheNewKey(t *testing.T) {
	t.Parallel()
	r := identity.Rekey{MeshID: docMesh, MemberID: docMember, NewPubkey: publicB, Timestamp: docTime}
	text := identity.RekeyText(docMesh, docMember, publicB, docTime)
	require.Equal(t, "claudemesh-rekey|"+docMesh+"|"+docMember+"|"+publicB+"|1777752191000", text)
	r.Signature = seedPair(t, 2).Sign(text)
	require.NoError(t, r.Verify(testNow))
	requireClass(t, "timestamp_skew", r.Verify(testNow.Add(2*identity.MaxSkew)))

	other := r
	other.MemberID = "somebody|else"
	requireClass(t, "malformed", other.Verify(testNow))
	other.MemberID = "somebody"
	requireClass(t, "bad_signature", other.Verify(testNow))
	other = r
	other.NewPubkey = smallOrderKey
	requireClass(t, "malformed", other.Verify(testNow))
	other = r
	other.Signature = seedPair(t, 1).Sign(text)
	requireClass(t, "bad_signature", other.Verify(testNow))
}

func TestValidID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{docMesh, "m_demo", "a", "-", strings.Repeat("x", 64), identity.NewID(), identity.NewUUID()} {
		require.True(t, identity.ValidID(id), "%q", id)
	}
	for _, id := range []string{"", "a|b", "a b", "é", "a\x00", "a.b", strings.Repeat("x", 65)} {
		require.False(t, identity.ValidID(id), "%q", id)
	}
}
