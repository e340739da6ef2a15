package client

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// withPeers lets the stub answer list_peers.
func withPeers(peers ...wire.Peer) func(*stubConn) {
	return func(k *stubConn) {
		for f := k.read(); f != nil; f = k.read() {
			if id := str(f, "_reqId"); f["type"] == wire.TypeListPeers {
				k.write(&wire.PeersList{Header: wire.Header{Type: wire.TypePeersList, ReqID: &id}, Peers: peers})
				continue
			}
			k.answer(f)
		}
	}
}

func TestH14NamesResolveToPinnedMembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, eve := testKey(t, "02"), testKey(t, "03")
		members := []object{member(bobMember, "Bob", bob)}
		s := newStub(t, withPeers(wire.Peer{MemberID: bobMember, MemberPubkey: bob.Public(), DisplayName: "bob-laptop"}))
		s.json("GET /mesh/v1/members", 200, func(*http.Request) any { return object{"members": members} })
		c := s.dial()
		ctx := context.Background()
		for _, name := range []string{"Bob", "bob", "ＢＯＢ", "b\u202eob", "bob-laptop"} {
			who, err := c.Resolve(ctx, name)
			require.NoError(t, err, name)
			require.Equal(t, bob.Public(), who.Pubkey, name)
		}
		_, err := c.Resolve(ctx, "carol")
		require.ErrorIs(t, err, wire.TargetNotFound)

		time.Sleep(directoryAge + time.Second)
		members = append(members, member(eveMember, "BOB", eve))
		_, err = c.Send(ctx, "bob", "secret")
		ambiguous, ok := errors.AsType[*AmbiguousError](err)
		require.True(t, ok, "%v", err)
		require.Len(t, ambiguous.Candidates, 2)

		time.Sleep(directoryAge + time.Second)
		members = []object{member(bobMember, "Bob", eve)}
		_, err = c.Send(ctx, "bob", "secret")
		changed, ok := errors.AsType[*KeyChangedError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, KeyChangedError{
			Name: "bob", MemberID: bobMember, PinnedMemberID: bobMember, PinnedKey: bob.Public(), OfferedPubkey: eve.Public(),
		}, *changed)

		time.Sleep(directoryAge + time.Second)
		members = []object{member(eveMember, "Bob", eve)}
		_, err = c.Send(ctx, "bob", "secret")
		changed, ok = errors.AsType[*KeyChangedError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, bobMember, changed.PinnedMemberID)
		require.Empty(t, s.of(wire.TypeSend))

		require.NoError(t, c.TrustName("bob", eveMember))
		_, err = c.Send(ctx, "bob", "not secret")
		require.NoError(t, err)
		f := s.of(wire.TypeSend)[0]
		require.Equal(t, eve.Public(), str(f, "targetSpec"))
		text, err := identity.OpenDirect(str(f, "nonce"), str(f, "ciphertext"), testKey(t, "04").Public(), eve)
		require.NoError(t, err)
		require.Equal(t, "not secret", text)
		require.Equal(t, identity.RequestFingerprint{
			DestinationKind: identity.DestinationDM, DestinationRef: "bob", Priority: "next", Body: []byte("not secret"),
		}.Sum(), str(f, "request_fingerprint"))
	})
}

func TestSealedMessageIsTiedToItsSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, nil)
		c := s.dial()
		out, err := c.Seal(context.Background(), testKey(t, "02").Public(), "hello")
		require.NoError(t, err)
		_, err = c.SendSealed(context.Background(), out)
		require.NoError(t, err)
		other := s.dial(func(o *Options) { o.SessionKey = testKey(t, "05") })
		_, err = other.SendSealed(context.Background(), out)
		require.ErrorContains(t, err, "another key")
		_, err = c.Seal(context.Background(), "*", "hello", RequireEncryption())
		require.ErrorIs(t, err, ErrUnencrypted)
	})
}
