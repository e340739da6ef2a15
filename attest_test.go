package broker_test

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/edwards25519"
	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
)

// identityPoint is the point of order 1, which has the shape of a public key.
var identityPoint = "01" + strings.Repeat("0", 62)

// attestedBy is the attestation of a session's key, for a hello.
func attestedBy(member *brokertest.Member, session identity.KeyPair) frame {
	return attestationOf(identity.NewAttestation(member.Key, session.Public(), time.Now()))
}

func TestH29AttestationsAreShown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		bo, key, plain := mesh.Member("bo"), sessionKey(t), sessionKey(t)
		first := attestedBy(bo, key)
		ana := mesh.Dial("ana", explicit)
		c := mesh.Dial("bo", brokertest.SessionKey(key), brokertest.With(frame{"attestation": first}))
		s := mesh.Dial("cy", brokertest.SessionKey(plain), brokertest.Attested())
		mesh.Dial("di", brokertest.SessionKey(sessionKey(t)))

		shown := peers(ana)
		require.Equal(t, map[string]any(first), shown["bo"]["attestation"])
		require.Equal(t, plain.Public(), shown["cy"]["attestation"].(map[string]any)["sessionPubkey"])
		require.NotContains(t, shown["di"], "attestation")
		require.NotContains(t, shown["ana"], "attestation")

		// The same on every path: live, from the store, pushed again.
		away := mesh.Member("el")
		c.Say(ana.Member.Pubkey, "now", "live")
		require.Equal(t, map[string]any(first), ana.ExpectPush()["attestation"])
		c.Say(away.Pubkey, "now", "waiting")
		require.Equal(t, map[string]any(first), mesh.Dial("el", explicit).ExpectPush()["attestation"])
		time.Sleep(50 * time.Second)
		again := ana.ExpectPush()
		require.Equal(t, []any{true, map[string]any(first)}, []any{again["redelivered"], again["attestation"]})
		ana.Say(bo.Pubkey, "now", "from no session")
		require.NotContains(t, c.ExpectPush(), "attestation")

		second := attestedBy(bo, key)
		require.NotEqual(t, first, second)
		require.Equal(t, "ack", c.Request(frame{"type": "attest", "attestation": second}).Type())
		require.Equal(t, map[string]any(second), peers(ana)["bo"]["attestation"])
		c.Say(ana.Member.Pubkey, "now", "later")
		require.Equal(t, map[string]any(second), ana.ExpectPush()["attestation"])
		require.NotEmpty(t, s.Request(frame{"type": "attest", "attestation": attestedBy(s.Member, plain)})["_reqId"], "by either hello")

		// It lives in the presence: through a restart, until the session comes back with another.
		time.Sleep(2 * time.Second)
		mesh.Restart()
		ana = mesh.Dial("ana", explicit)
		require.Equal(t, map[string]any(second), peers(ana)["bo"]["attestation"])
		third := attestedBy(bo, key)
		c = mesh.Dial("bo", brokertest.SessionKey(key), brokertest.With(frame{"attestation": third}))
		require.Equal(t, map[string]any(third), peers(ana)["bo"]["attestation"])
		c.Say(ana.Member.Pubkey, "now", "back")
		found := false
		synctest.Wait()
		for _, p := range ana.Pushes() {
			if brokertest.Text(p) == "back" {
				found = true
				require.Equal(t, map[string]any(third), p["attestation"])
			}
		}
		require.True(t, found)
		mesh.Dial("bo", brokertest.SessionKey(key))
		require.NotContains(t, peers(ana)["bo"], "attestation", "what the newest hello brought counts")
	})
}

func TestAttestationOfAHelloMustHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		bo, eve := mesh.Member("bo"), mesh.Member("eve")
		nobody := &brokertest.Member{Member: store.Member{ID: identity.NewID()}, Key: sessionKey(t)}
		now := time.Now()
		fresh := func() draft {
			mine := sessionKey(t)
			a := attestedBy(bo, mine)
			return draft{mesh: mesh.ID, member: bo, session: &mine, at: now.UnixMilli(), more: frame{"sessionId": identity.NewID(), "attestation": a}}
		}
		change := func(name string, v any) func(*draft) {
			return func(d *draft) { d.more["attestation"].(frame)[name] = v }
		}
		sign := func(by *brokertest.Member, at time.Time) func(*draft) {
			return func(d *draft) {
				d.more["attestation"] = attestationOf(identity.NewAttestation(by.Key, d.session.Public(), at))
			}
		}
		for _, r := range []rung{
			{"of another session", change("sessionPubkey", eve.Pubkey), "attestation_mismatch", "attestation does not bind…", "", ""},
			{"by another member", sign(eve, now), "attestation_mismatch", "attestation does not bind…", "", ""},
			{"in another case", change("parentMemberPubkey", strings.ToUpper(bo.Pubkey)), "attestation_mismatch", "attestation does not bind…", "", ""},
			{"without a session", func(d *draft) { d.session = nil }, "attestation_mismatch", "attestation does not bind…", "", ""},
			{"by nobody", func(d *draft) { d.member = nobody; sign(nobody, now)(d) }, "unauthorized", "pubkey not found in mesh", "", ""},
			{"without an end", change("expiresAt", json.RawMessage("1e999")), "malformed", "attestation rejected: malformed", "attestation_malformed", ""},
			{"that has ended", sign(bo, now.Add(-identity.AttestationTTL)), "expired", "attestation rejected: expired", "attestation_expired", ""},
			{"for too long", sign(bo, now.Add(12*time.Hour+time.Millisecond)), "ttl_too_long", "attestation rejected: ttl_too_long", "attestation_ttl_too_long", ""},
			{"of a text", change("signature", "zz"), "malformed", "attestation rejected: malformed", "attestation_malformed", ""},
			{"signed by another", func(d *draft) {
				a := identity.NewAttestation(eve.Key, d.session.Public(), now)
				d.more["attestation"].(frame)["signature"] = a.Signature
			}, "bad_signature", "attestation rejected: bad_signature", "attestation_bad_signature", ""},
			{"that is no object", func(d *draft) { d.more["attestation"] = "x" }, "malformed", "attestation must be…", "", ""},
		} {
			climb(t, mesh, false, []rung{r}, fresh)
		}
		d := fresh()
		c := mesh.Connect()
		c.Read()
		c.Send(d.sign(t, false))
		c.Expect("hello_ack")
	})
}

func TestAttest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		key, other := sessionKey(t), sessionKey(t)
		bo := mesh.Dial("bo", brokertest.SessionKey(key))
		eve, plain := mesh.Member("eve"), mesh.Dial("ana")
		at := func(by *brokertest.Member, session identity.KeyPair, at time.Time) frame {
			return attestationOf(identity.NewAttestation(by.Key, session.Public(), at))
		}
		changed := at(bo.Member, key, time.Now())
		changed["expiresAt"] = changed["expiresAt"].(float64) - 1
		for _, tt := range []struct {
			name        string
			c           *brokertest.Conn
			attestation any
			want        string
		}{
			{"none", bo, nil, "invalid_args"},
			{"a text", bo, "x", "malformed"},
			{"of another session", bo, at(bo.Member, other, time.Now()), "attestation_mismatch"},
			{"by another member", bo, at(eve, key, time.Now()), "attestation_mismatch"},
			{"that has ended", bo, at(bo.Member, key, time.Now().Add(-identity.AttestationTTL)), "expired"},
			{"for too long", bo, at(bo.Member, key, time.Now().Add(13*time.Hour)), "ttl_too_long"},
			{"changed", bo, changed, "bad_signature"},
			{"without an end", bo, frame{"sessionPubkey": key.Public(), "parentMemberPubkey": bo.Member.Pubkey, "signature": changed["signature"]}, "malformed"},
			{"of a session that has no key", plain, at(plain.Member, key, time.Now()), "attestation_mismatch"},
		} {
			require.Equal(t, tt.want, tt.c.Request(frame{"type": "attest", "attestation": tt.attestation})["code"], tt.name)
		}
		require.NotContains(t, peers(plain)["bo"], "attestation")
		stranger := mesh.Connect()
		stranger.Read()
		require.Equal(t, "no_hello", stranger.Request(frame{"type": "attest", "attestation": at(bo.Member, key, time.Now())})["code"])
		require.Equal(t, "ack", bo.Request(frame{"type": "attest", "attestation": at(bo.Member, key, time.Now())}).Type())
		require.Contains(t, peers(plain)["bo"], "attestation")
	})
}

// A session's key is one that others seal for, so it is held to what a member's is.
func TestSessionKeyMustBeAGoodPoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		raw, err := hex.DecodeString(sessionKey(t).Public())
		require.NoError(t, err)
		good, err := new(edwards25519.Point).SetBytes(raw)
		require.NoError(t, err)
		torsion, err := hex.DecodeString("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a") // of order 8
		require.NoError(t, err)
		small, err := new(edwards25519.Point).SetBytes(torsion)
		require.NoError(t, err)
		mixed := hex.EncodeToString(new(edwards25519.Point).Add(good, small).Bytes())
		for name, key := range map[string]string{
			"the identity": identityPoint, "of order 8": hex.EncodeToString(torsion), "a good point and one of order 8": mixed,
			"not canonical": "ee" + strings.Repeat("ff", 30) + "7f", "no point": "02" + strings.Repeat("0", 62),
		} {
			for _, attested := range []bool{false, true} {
				session := sessionKey(t)
				d := draft{mesh: mesh.ID, member: mesh.Member("bo"), session: &session, at: time.Now().UnixMilli(), more: frame{"sessionPubkey": key}}
				climb(t, mesh, attested, []rung{{name, func(*draft) {}, "bad_session_pubkey", "sessionPubkey…", "", ""}}, func() draft { return d })
			}
		}
	})
}
