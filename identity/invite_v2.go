package identity

import (
	"crypto/ed25519"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// An InviteV2 is the signed part of an invite behind a short code. It holds no secret: the root key is sealed for whoever
// claims the code ([SealRootKey]).
type InviteV2 struct {
	MeshID      string
	InviteID    string
	ExpiresAt   float64 // seconds since the epoch, rounded down
	Role        string  // RoleAdmin or RoleMember
	OwnerPubkey string  // 64 hex digits, the mesh owner's key
	Signature   string  // 128 hex digits, by OwnerPubkey over Text
}

// Text is [InviteV2Text] of the fields.
func (i InviteV2) Text() string {
	return InviteV2Text(i.MeshID, i.InviteID, i.ExpiresAt, i.Role, i.OwnerPubkey)
}

// Sign returns the invite as by this owner, with its signature. ClassMalformed for ids that are not [ValidID], an expiry that
// is not positive or an unknown role.
func (i InviteV2) Sign(owner KeyPair) (InviteV2, error) {
	if !ValidID(i.MeshID) || !ValidID(i.InviteID) || !(i.ExpiresAt > 0) || owner.IsZero() ||
		i.Role != RoleAdmin && i.Role != RoleMember {
		return InviteV2{}, refuse(ClassMalformed, "the invite has a bad id, expiry, role or owner")
	}
	i.OwnerPubkey = owner.Public()
	i.Signature = owner.Sign(i.Text())
	return i, nil
}

// maxInviteExpiry is the last second of the year 9999, the latest time that every store can keep.
const maxInviteExpiry = 253402300799

// ParseInviteV2 reads the text of a version 2 invite, and puts the signature beside it without judging it: call Verify next. It is strict, so
// that a text has one reading and is [InviteV2.Text] of the result: six fields, ids that are [ValidID], a whole number of seconds up to the
// year 9999, a role, and the owner's key in 64 lower-case hex digits. Anything else is ClassMalformed.
func ParseInviteV2(canonical, signature string) (InviteV2, error) {
	f := strings.Split(canonical, separator)
	if len(f) != 6 || f[0] != "v=2" {
		return InviteV2{}, refuse(ClassMalformed, "the text is not that of an invite of version 2")
	}
	expires, err := strconv.ParseFloat(f[3], 64)
	i := InviteV2{MeshID: f[1], InviteID: f[2], ExpiresAt: expires, Role: f[4], OwnerPubkey: f[5], Signature: signature}
	switch {
	case !ValidID(i.MeshID), !ValidID(i.InviteID):
		return InviteV2{}, refuse(ClassMalformed, "the invite has a bad id")
	case err != nil, !(expires > 0 && expires <= maxInviteExpiry), expires != math.Trunc(expires), i.Text() != canonical: // negated: NaN compares false
		return InviteV2{}, refuse(ClassMalformed, "the invite's expiry is not a whole number of seconds")
	case i.Role != RoleAdmin && i.Role != RoleMember:
		return InviteV2{}, refuse(ClassMalformed, "the invite's role is neither admin nor member")
	case !isLowerHex(i.OwnerPubkey, 2*ed25519.PublicKeySize):
		return InviteV2{}, refuse(ClassMalformed, "the owner's key is not 64 lower-case hex digits")
	}
	return i, nil
}

// Verify is the broker's check, in this order: the expiry not before now (ClassExpired), the signature, bad hex and a separator
// inside a field included (ClassBadSignature).
func (i InviteV2) Verify(now time.Time) error {
	if !(i.ExpiresAt*1000 >= millis(now)) { // negated: NaN compares false
		return refuse(ClassExpired, "the invite has expired")
	}
	if containsSeparator(i.MeshID, i.InviteID, i.Role, i.OwnerPubkey) {
		return refuse(ClassBadSignature, "a signed field holds the separator")
	}
	return onlyBadSignature(Verify(i.OwnerPubkey, i.Text(), i.Signature))
}

// inviteCapability is what a broker keeps of a version 2 invite.
type inviteCapability struct {
	Canonical string `json:"canonical"`
	Signature string `json:"signature"`
}

// Capability returns the JSON text {"canonical":…,"signature":…} that a broker stores with the invite.
func (i InviteV2) Capability() string {
	out := appendText([]byte(`{"canonical":`), i.Text())
	out = appendText(append(out, `,"signature":`...), i.Signature)
	return string(append(out, '}'))
}

// ParseCapability reads a stored capability as [ParseInviteV2] does, without judging it. ClassMalformed.
func ParseCapability(stored string) (InviteV2, error) {
	var c inviteCapability
	if err := json.Unmarshal([]byte(stored), &c); err != nil {
		return InviteV2{}, refuse(ClassMalformed, "the invite has no stored capability")
	}
	return ParseInviteV2(c.Canonical, c.Signature)
}

// VerifyCapability checks a stored capability against the fields of the invite's row, whose Signature is ignored: ClassMalformed
// when there is none or it is not such JSON, ClassBadSignature when its text is not that of the fields, then as Verify.
func (i InviteV2) VerifyCapability(stored string, now time.Time) error {
	var c inviteCapability
	if err := json.Unmarshal([]byte(stored), &c); err != nil || c.Canonical == "" {
		return refuse(ClassMalformed, "the invite has no stored capability")
	}
	if c.Canonical != i.Text() {
		return refuse(ClassBadSignature, "the stored capability is for another invite")
	}
	i.Signature = c.Signature
	return i.Verify(now)
}
