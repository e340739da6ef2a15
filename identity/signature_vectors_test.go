package identity_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

type signatureVector struct {
	named
	Args     map[string]any
	ArgsJSON string `json:"argsJson"` // in place of Args, for what Args cannot say
	Special  *struct{ Field, Value string }
	NowMs    int64

	SignatureHex   string
	Verdict        string
	Canonical      *string
	SignatureValid *bool
	SignerSeedHex  string
}

// wireArgs are the fields as a frame brings them.
type wireArgs map[string]any

func (c signatureVector) args(t *testing.T) wireArgs {
	t.Helper()
	args := wireArgs(c.Args)
	if c.ArgsJSON != "" {
		require.NoError(t, json.Unmarshal([]byte(c.ArgsJSON), &args))
	}
	if c.Special != nil {
		value, ok := map[string]float64{"NaN": math.NaN(), "Infinity": math.Inf(1), "-Infinity": math.Inf(-1)}[c.Special.Value]
		require.True(t, ok, "unknown special value %q", c.Special.Value)
		args[c.Special.Field] = value
	}
	return args
}

func (a wireArgs) text(field string) string {
	s, _ := a[field].(string)
	return s
}

// number is NaN for a missing field and for anything that is no number, which is how a frame's decoder has to say it.
func (a wireArgs) number(field string) float64 {
	if f, ok := a[field].(float64); ok {
		return f
	}
	return math.NaN()
}

// check compares the verdict, the text, the signature over the text apart from times, and what the signer's seed makes of it.
func (c signatureVector) check(t *testing.T, text, signer string, verdict error) {
	t.Helper()
	if c.Verdict == "ok" {
		require.NoError(t, verdict)
	} else {
		requireClass(t, c.Verdict, verdict)
	}
	if c.Canonical == nil {
		return
	}
	require.Equal(t, *c.Canonical, text)
	require.NotNil(t, c.SignatureValid)
	if *c.SignatureValid {
		require.NoError(t, identity.Verify(signer, text, c.SignatureHex))
	} else {
		require.Error(t, identity.Verify(signer, text, c.SignatureHex))
	}
	if c.SignerSeedHex != "" && c.Verdict == "ok" {
		k, err := identity.KeyPairFromSeedHex(c.SignerSeedHex)
		require.NoError(t, err)
		if c.SignatureHex != "" && isLower(c.SignatureHex) {
			require.Equal(t, c.SignatureHex, k.Sign(text))
		}
	}
}

func isLower(s string) bool {
	for _, r := range s {
		if 'A' <= r && r <= 'F' {
			return false
		}
	}
	return true
}

func TestSignatureVectors(t *testing.T) {
	t.Parallel()
	runVectors(t, "signatures.json", map[string]func(*testing.T, signatureVector){
		"hello": func(t *testing.T, c signatureVector) {
			a := c.args(t)
			h := identity.Hello{
				MeshID: a.text("meshId"), MemberID: a.text("memberId"), Pubkey: a.text("pubkey"),
				Timestamp: a.number("timestamp"), Signature: c.SignatureHex,
			}
			text := identity.HelloText(h.MeshID, h.MemberID, h.Pubkey, h.Timestamp)
			c.check(t, text, h.Pubkey, h.Verify(time.UnixMilli(c.NowMs)))
		},
		"session_hello": func(t *testing.T, c signatureVector) {
			a := c.args(t)
			h := identity.SessionHello{
				MeshID: a.text("meshId"), ParentPubkey: a.text("parentMemberPubkey"), SessionPubkey: a.text("sessionPubkey"),
				Timestamp: a.number("timestamp"), Signature: c.SignatureHex,
			}
			text := identity.SessionHelloText(h.MeshID, h.ParentPubkey, h.SessionPubkey, h.Timestamp)
			c.check(t, text, h.SessionPubkey, h.Verify(time.UnixMilli(c.NowMs)))
		},
		"session_attestation": func(t *testing.T, c signatureVector) {
			a := c.args(t)
			v := identity.Attestation{
				ParentPubkey: a.text("parentMemberPubkey"), SessionPubkey: a.text("sessionPubkey"),
				ExpiresAt: a.number("expiresAt"), Signature: c.SignatureHex,
			}
			text := identity.AttestationText(v.ParentPubkey, v.SessionPubkey, v.ExpiresAt)
			c.check(t, text, v.ParentPubkey, v.Verify(time.UnixMilli(c.NowMs)))
		},
		"invite_v1": func(t *testing.T, c signatureVector) {
			a := c.args(t)
			i := identity.InviteV1{
				V: a.number("v"), MeshID: a.text("mesh_id"), MeshSlug: a.text("mesh_slug"), BrokerURL: a.text("broker_url"),
				ExpiresAt: a.number("expires_at"), MeshRootKey: a.text("mesh_root_key"), Role: a.text("role"),
				OwnerPubkey: a.text("owner_pubkey"), Signature: c.SignatureHex,
			}
			c.check(t, i.Text(), i.OwnerPubkey, i.Verify(time.UnixMilli(c.NowMs)))
			if c.SignatureValid != nil { // the broker's verdict
				if *c.SignatureValid {
					require.NoError(t, i.VerifySignature())
				} else {
					require.ErrorIs(t, i.VerifySignature(), identity.ClassBadSignature)
				}
			}
			if !math.IsNaN(i.V) && !math.IsNaN(i.ExpiresAt) {
				parsed, err := identity.ParseInviteToken(i.Token())
				require.NoError(t, err)
				require.Equal(t, i, parsed)
			}
		},
		"invite_v2": func(t *testing.T, c signatureVector) {
			a := c.args(t)
			i := identity.InviteV2{
				MeshID: a.text("mesh_id"), InviteID: a.text("invite_id"), ExpiresAt: a.number("expires_at"),
				Role: a.text("role"), OwnerPubkey: a.text("owner_pubkey"), Signature: c.SignatureHex,
			}
			c.check(t, i.Text(), i.OwnerPubkey, i.Verify(time.UnixMilli(c.NowMs)))
			stored := i.Capability()
			i.Signature = ""
			c.check(t, i.Text(), i.OwnerPubkey, i.VerifyCapability(stored, time.UnixMilli(c.NowMs)))
		},
	})
}
