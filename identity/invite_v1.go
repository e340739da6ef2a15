package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// The roles that an invite can give.
const (
	RoleAdmin  = "admin"
	RoleMember = "member"
)

// An InviteV1 is an invite whose link holds everything, the mesh's root key included: who has the link has the key. So an
// InviteV1 prints as "[redacted]". The order of its fields is that of the JSON inside a token.
type InviteV1 struct {
	V           float64 `json:"v"` // 1
	MeshID      string  `json:"mesh_id"`
	MeshSlug    string  `json:"mesh_slug"`
	BrokerURL   string  `json:"broker_url"`
	ExpiresAt   float64 `json:"expires_at"`    // seconds since the epoch
	MeshRootKey string  `json:"mesh_root_key"` // base64url of 32 bytes
	Role        string  `json:"role"`          // RoleAdmin or RoleMember
	OwnerPubkey string  `json:"owner_pubkey"`  // 64 hex digits, the mesh owner's key
	Signature   string  `json:"signature"`     // 128 hex digits, by OwnerPubkey over Text
}

// Text is [InviteV1Text] of the fields.
func (i InviteV1) Text() string {
	return InviteV1Text(i.V, i.MeshID, i.MeshSlug, i.BrokerURL, i.ExpiresAt, i.MeshRootKey, i.Role, i.OwnerPubkey)
}

// Sign returns the invite as version 1, by this owner, with its signature. It refuses with ClassMalformed what [InviteV1.Verify]
// would call malformed.
func (i InviteV1) Sign(owner KeyPair) (InviteV1, error) {
	i.V = 1
	i.OwnerPubkey = owner.Public()
	i.Signature = owner.Sign(i.Text())
	if err := i.checkShape(); err != nil {
		return InviteV1{}, err
	}
	return i, nil
}

// Verify is the check of somebody who wants to join, in this order: the shape (ClassMalformed: V not 1, an empty field, a
// field with a separator inside, an expiry that is not positive, an unknown role, hex), the expiry in whole seconds, the last
// one still being good (ClassExpired), the signature (ClassBadSignature). It cannot tell whether OwnerPubkey is the right
// owner: that rests on whoever passed the invite on.
func (i InviteV1) Verify(now time.Time) error {
	if err := i.checkShape(); err != nil {
		return err
	}
	if i.ExpiresAt < float64(now.Unix()) {
		return refuse(ClassExpired, "the invite has expired")
	}
	return i.VerifySignature()
}

// VerifySignature is the broker's first check: the signature over [InviteV1.Text] by OwnerPubkey. Everything wrong, bad hex
// included, is ClassBadSignature. A broker still compares OwnerPubkey with the mesh's.
func (i InviteV1) VerifySignature() error {
	if i.holdsSeparator() {
		return refuse(ClassBadSignature, "a signed field holds the separator")
	}
	return onlyBadSignature(Verify(i.OwnerPubkey, i.Text(), i.Signature))
}

func (i InviteV1) checkShape() error {
	switch {
	case i.V != 1:
		return refuse(ClassMalformed, "the invite's version is not 1")
	case i.MeshID == "", i.MeshSlug == "", i.BrokerURL == "", i.MeshRootKey == "":
		return refuse(ClassMalformed, "a field of the invite is empty")
	case i.holdsSeparator():
		return refuse(ClassMalformed, "a signed field holds the separator")
	case !(i.ExpiresAt > 0): // negated: NaN compares false
		return refuse(ClassMalformed, "the invite's expiry is not a positive number")
	case i.Role != RoleAdmin && i.Role != RoleMember:
		return refuse(ClassMalformed, "the invite's role is neither admin nor member")
	case !isHex(i.OwnerPubkey, 2*ed25519.PublicKeySize), !isHex(i.Signature, 2*ed25519.SignatureSize):
		return refuse(ClassMalformed, "the invite's key or signature is not hex of its length")
	}
	return nil
}

// holdsSeparator is true of an invite whose text another invite, with the fields cut elsewhere, could share.
func (i InviteV1) holdsSeparator() bool {
	return containsSeparator(i.MeshID, i.MeshSlug, i.BrokerURL, i.MeshRootKey, i.Role, i.OwnerPubkey)
}

func containsSeparator(fields ...string) bool {
	for _, f := range fields {
		if strings.Contains(f, separator) {
			return true
		}
	}
	return false
}

// onlyBadSignature makes one class of every failure, for checkers to whom the shapes of key and signature are part of it.
func onlyBadSignature(err error) error {
	if errors.Is(err, ClassMalformed) {
		return refuse(ClassBadSignature, "key or signature is not hex of its length")
	}
	return err
}

// Token returns the invite as base64url of its JSON, as JSON.stringify writes it, in the order of the fields. A token is
// compared byte for byte, so who received one keeps its text and does not make it again.
func (i InviteV1) Token() string {
	out := []byte(`{"v":`)
	out = appendNumber(out, i.V)
	out = appendText(append(out, `,"mesh_id":`...), i.MeshID)
	out = appendText(append(out, `,"mesh_slug":`...), i.MeshSlug)
	out = appendText(append(out, `,"broker_url":`...), i.BrokerURL)
	out = appendNumber(append(out, `,"expires_at":`...), i.ExpiresAt)
	out = appendText(append(out, `,"mesh_root_key":`...), i.MeshRootKey)
	out = appendText(append(out, `,"role":`...), i.Role)
	out = appendText(append(out, `,"owner_pubkey":`...), i.OwnerPubkey)
	out = appendText(append(out, `,"signature":`...), i.Signature)
	return base64.RawURLEncoding.EncodeToString(append(out, '}'))
}

// ParseInviteToken decodes a token without judging it: call Verify or VerifySignature next. Member names match exactly, unknown
// ones are ignored and missing ones leave their field empty. ClassBadEncoding (not strict base64url), ClassBadUTF8,
// ClassMalformed (not a JSON object, a member of the wrong type, two names that are equal but for case: one parser would take
// the first, another the last).
func ParseInviteToken(token string) (InviteV1, error) {
	raw, err := StrictBase64URL(token)
	if err != nil {
		return InviteV1{}, err
	}
	v, err := parseJSON(raw)
	if err != nil {
		return InviteV1{}, err
	}
	if v.kind != jsonObject {
		return InviteV1{}, refuse(ClassMalformed, "the token is not a JSON object")
	}
	var i InviteV1
	seen := make(map[string]bool, len(v.members))
	for _, m := range v.members {
		name := string(utf16.Decode(m.name))
		folded := strings.ToLower(strings.ToUpper(name)) // both ways: some letters have two lower-case forms
		if seen[folded] {
			return InviteV1{}, refuse(ClassMalformed, "the token repeats a member name")
		}
		seen[folded] = true
		if !i.set(name, m.value) {
			return InviteV1{}, refuse(ClassMalformed, "a member of the token has the wrong type")
		}
	}
	return i, nil
}

func (i *InviteV1) set(name string, v jsonValue) bool {
	switch name {
	case "v":
		return setNumber(&i.V, v)
	case "mesh_id":
		return setText(&i.MeshID, v)
	case "mesh_slug":
		return setText(&i.MeshSlug, v)
	case "broker_url":
		return setText(&i.BrokerURL, v)
	case "expires_at":
		return setNumber(&i.ExpiresAt, v)
	case "mesh_root_key":
		return setText(&i.MeshRootKey, v)
	case "role":
		return setText(&i.Role, v)
	case "owner_pubkey":
		return setText(&i.OwnerPubkey, v)
	case "signature":
		return setText(&i.Signature, v)
	}
	return true
}

func setNumber(to *float64, v jsonValue) bool {
	*to = v.number
	return v.kind == jsonNumber && isFinite(v.number)
}

// setText refuses lone surrogates, which a Go string cannot hold and which would change what is signed.
func setText(to *string, v jsonValue) bool {
	for rest := v.text; len(rest) > 0; {
		if !utf16.IsSurrogate(rune(rest[0])) {
			rest = rest[1:]
			continue
		}
		if len(rest) < 2 || utf16.DecodeRune(rune(rest[0]), rune(rest[1])) == utf8.RuneError {
			return false
		}
		rest = rest[2:]
	}
	*to = string(utf16.Decode(v.text))
	return v.kind == jsonString
}

// TokenHash returns the lower-case hex SHA-256 of a token's text. Brokers store and look up tokens by it, since the token
// itself holds the root key.
func TokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
