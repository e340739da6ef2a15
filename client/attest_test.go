package client

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// H29: a session's key proves its member only through an attestation by the pinned member key that was good at the time.
func TestH29UnattestedSessionsAreUnverified(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, eve, session, own := testKey(t, "02"), testKey(t, "03"), testKey(t, "05"), testKey(t, "01")
		now := time.Now()
		var pushes []*wire.Push
		tests := []struct {
			name     string
			from     identity.KeyPair
			at       time.Time
			attest   *identity.Attestation
			change   func(*wire.Push)
			verified bool
		}{
			{name: "the member's own key", from: bob, at: now, verified: true},
			{name: "an attested session", from: session, at: now, attest: attestFor(bob, session, now), verified: true},
			{name: "attested at the time of a message that waited", from: session, at: now.Add(-72 * time.Hour), attest: attestFor(bob, session, now.Add(-73*time.Hour)), verified: true},
			{name: "a session", from: session, at: now},
			{name: "attested by another member", from: session, at: now, attest: attestFor(eve, session, now)},
			{name: "attested by a key that the broker names", from: session, at: now, attest: attestFor(eve, session, now), change: func(p *wire.Push) { p.SenderMemberPubkey = eve.Public() }},
			{name: "another session's attestation", from: session, at: now, attest: attestFor(bob, testKey(t, "06"), now)},
			{name: "attested too long ago", from: session, at: now, attest: attestFor(bob, session, now.Add(-identity.AttestationTTL))},
			{name: "attested later", from: session, at: now.Add(-13 * time.Hour), attest: attestFor(bob, session, now)},
			{name: "said to be from the future", from: session, at: now.Add(20 * time.Hour), attest: attestFor(bob, session, now.Add(10*time.Hour).Add(3*time.Hour))},
			{name: "attested by a changed word", from: session, at: now, attest: attestFor(bob, session, now), change: func(p *wire.Push) { *p.Attestation.ExpiresAt-- }},
			{name: "attested without an end", from: session, at: now, attest: attestFor(bob, session, now), change: func(p *wire.Push) { p.Attestation.ExpiresAt = nil }},
		}
		for i, tt := range tests {
			p := directPush(t, messageID(i), tt.name, tt.from, own)
			p.CreatedAt = wire.FormatTime(tt.at)
			if tt.attest != nil {
				p.Attestation = attestationFrame(*tt.attest)
			}
			if tt.change != nil {
				tt.change(p)
			}
			pushes = append(pushes, p)
		}
		s := newStub(t, func(k *stubConn) {
			for _, p := range pushes {
				k.write(p)
			}
			k.serveAll()
		})
		c := s.dial()
		for _, tt := range tests {
			m, err := c.Receive(context.Background())
			require.NoError(t, err)
			require.Equal(t, tt.name, m.Text, "it is opened all the same")
			require.Equal(t, !tt.verified, m.Unverified, tt.name)
		}
	})
}

func TestH29OnlyAttestedSessionsAreAddressed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bob, eve, session := testKey(t, "02"), testKey(t, "03"), testKey(t, "05")
		c := newStub(t, nil).dial()
		row := func(a *identity.Attestation) wire.Peer {
			p := wire.Peer{MemberID: bobMember, MemberPubkey: bob.Public(), Pubkey: session.Public(), DisplayName: "bob"}
			if a != nil {
				p.Attestation = attestationFrame(*a)
			}
			return p
		}
		now := time.Now()
		for _, tt := range []struct {
			name string
			peer wire.Peer
			want string
		}{
			{"attested", row(attestFor(bob, session, now)), session.Public()},
			{"not attested", row(nil), bob.Public()},
			{"attested by another", row(attestFor(eve, session, now)), bob.Public()},
			{"attested once", row(attestFor(bob, session, now.Add(-identity.AttestationTTL))), bob.Public()},
			{"another session's", row(attestFor(bob, eve, now)), bob.Public()},
			{"without a session", wire.Peer{MemberID: bobMember, MemberPubkey: bob.Public(), Pubkey: bob.Public()}, bob.Public()},
			{"of an older broker", wire.Peer{MemberPubkey: bob.Public(), Pubkey: session.Public()}, bob.Public()},
		} {
			key, isSession, err := c.AddressOf(tt.peer)
			require.NoError(t, err, tt.name)
			require.Equal(t, tt.want, key, tt.name)
			require.Equal(t, tt.want == session.Public(), isSession, tt.name)
		}
		lies := row(attestFor(eve, session, now))
		lies.MemberPubkey = eve.Public()
		_, _, err := c.AddressOf(lies)
		changed, ok := errors.AsType[*KeyChangedError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, bob.Public(), changed.PinnedKey)
	})
}

func TestAttestationIsRenewedBeforeItEnds(t *testing.T) {
	t.Parallel()
	for name, sessionHello := range map[string]bool{"hello": false, "session_hello": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var refuse atomic.Int32 // how many renewals fail
				s := newStub(t, func(k *stubConn) {
					pings := time.NewTicker(time.Minute)
					defer pings.Stop()
					done := make(chan struct{})
					defer close(done)
					go func() { // or the client takes the connection for dead
						for {
							select {
							case <-pings.C:
								_ = k.ws.Ping(context.Background())
							case <-done:
								return
							}
						}
					}()
					for f := k.read(); f != nil; f = k.read() {
						if id := str(f, "_reqId"); f["type"] == wire.TypeAttest && refuse.Add(-1) >= 0 {
							k.write(&wire.Error{Header: wire.Header{Type: wire.TypeError, ReqID: &id}, Code: wire.Internal, Message: "no"})
							continue
						}
						k.answer(f)
					}
				})
				c := s.dial(func(o *Options) { o.SessionHello = sessionHello })
				given := s.of(name)[0]["attestation"]
				if sessionHello {
					given = s.of(name)[0]["parentAttestation"]
				}
				ends := func(a any) time.Time { return time.UnixMilli(int64(a.(object)["expiresAt"].(float64))) }
				last := ends(given)
				refuse.Store(2)
				for day := 0; day < 4; day++ {
					time.Sleep(time.Until(last))
					all := s.of(wire.TypeAttest)
					require.NotEmpty(t, all)
					next := all[len(all)-1]["attestation"]
					require.True(t, ends(next).After(last), "day %d: a new one before the old one ends", day)
					require.True(t, attested(wireAttestation(next), c.Pubkey(), c.SessionPubkey(), time.Now()))
					last = ends(next)
				}
				require.Negative(t, refuse.Load(), "what fails is tried again")
				require.Equal(t, 1, s.count())
			})
		})
	}
}

func wireAttestation(a any) *wire.Attestation {
	o := a.(object)
	expires := wire.Number(o["expiresAt"].(float64))
	return &wire.Attestation{
		SessionPubkey: str(o, "sessionPubkey"), ParentMemberPubkey: str(o, "parentMemberPubkey"), ExpiresAt: &expires, Signature: str(o, "signature"),
	}
}

func TestOlderBrokerIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			for f := k.read(); f != nil; f = k.read() {
				if id := str(f, "_reqId"); f["type"] == wire.TypeAttest {
					k.write(&wire.Error{Header: wire.Header{Type: wire.TypeError, ReqID: &id}, Code: wire.UnknownMessageType, Message: "no such thing"})
					continue
				}
				k.answer(f)
			}
		})
		s.dial(func(o *Options) { o.StaleAfter = -1 })
		s.dial(func(o *Options) {
			o.StaleAfter, o.NoSessionKey, o.SessionKey, o.SessionID = -1, true, identity.KeyPair{}, "s-2"
		})
		time.Sleep(48 * time.Hour)
		require.Len(t, s.of(wire.TypeAttest), 1)
		require.NotContains(t, s.of(wire.TypeHello)[1], "attestation", "there is no session key to vouch for")
	})
}
