package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// The functions of this file build the texts that are signed (docs/formats.md, signed texts). They write every field as it
// is given, a key in upper case included, with one "|" between fields and nothing at the end; numbers as FormatNumber. They
// check nothing: a field that holds a "|" can stand for two, so whoever signs or admits must check ids with ValidID.

// HelloText is the text that a member signs to connect. The timestamp is in milliseconds since the epoch.
func HelloText(meshID, memberID, pubkey string, timestamp float64) string {
	return join(meshID, memberID, pubkey, FormatNumber(timestamp))
}

// SessionHelloText is the text that a session's key signs to connect. The timestamp is in milliseconds since the epoch.
func SessionHelloText(meshID, parentPubkey, sessionPubkey string, timestamp float64) string {
	return join("claudemesh-session-hello", meshID, parentPubkey, sessionPubkey, FormatNumber(timestamp))
}

// AttestationText is the text by which a member vouches for a session key until expiresAt, milliseconds since the epoch.
func AttestationText(parentPubkey, sessionPubkey string, expiresAt float64) string {
	return join("claudemesh-session-attest", parentPubkey, sessionPubkey, FormatNumber(expiresAt))
}

// Hello2Text is the text that binds a hello to its session and makes it single-use: signed by the member key and, if there is
// one, by the session key. nonceB64 is the base64 of 24 random bytes, fresh for each hello.
func Hello2Text(meshID, memberID, pubkey, sessionPubkey, sessionID string, timestamp float64, nonceB64 string) string {
	return join("claudemesh-hello-2", meshID, memberID, pubkey, sessionPubkey, sessionID, FormatNumber(timestamp), nonceB64)
}

// JoinText is the text by which somebody who joins proves to hold the key it enrols. The token enters as [TokenHash].
func JoinText(inviteTokenSHA256Hex, peerPubkey string) string {
	return join("claudemesh-join", inviteTokenSHA256Hex, peerPubkey)
}

// RekeyText is the text by which the holder of a new key accepts to become an existing member. The timestamp is in
// milliseconds since the epoch.
func RekeyText(meshID, memberID, newPubkey string, timestampMs float64) string {
	return join("claudemesh-rekey", meshID, memberID, newPubkey, FormatNumber(timestampMs))
}

// InviteV1Text is the text of a version 1 invite, signed by the mesh owner. expiresAt is in seconds since the epoch.
func InviteV1Text(v float64, meshID, meshSlug, brokerURL string, expiresAt float64, meshRootKey, role, ownerPubkey string) string {
	return join(FormatNumber(v), meshID, meshSlug, brokerURL, FormatNumber(expiresAt), meshRootKey, role, ownerPubkey)
}

// InviteV2Text is the text of a version 2 invite, signed by the mesh owner. expiresAt is in seconds since the epoch.
func InviteV2Text(meshID, inviteID string, expiresAt float64, role, ownerPubkey string) string {
	return join("v=2", meshID, inviteID, FormatNumber(expiresAt), role, ownerPubkey)
}

// ReceiptText is the text by which a recipient confirms a message. bodyHash is [ReceiptBodyHash]; recipientPubkey is the
// member's key, 64 lower-case hex digits, also when a session key signs; ackedAt is in milliseconds since the epoch.
func ReceiptText(meshID, messageID, bodyHash, recipientPubkey string, ackedAt float64) string {
	return join("claudemesh-receipt", meshID, messageID, bodyHash, recipientPubkey, FormatNumber(ackedAt))
}

// ReceiptBodyHash is the lower-case hex SHA-256 of the nonce text, one zero byte and the ciphertext text: the two base64 texts
// as they stand in the pushed message, not what they decode to.
func ReceiptBodyHash(nonce, ciphertext string) string {
	sum := sha256.Sum256([]byte(nonce + "\x00" + ciphertext))
	return hex.EncodeToString(sum[:])
}

// CheckpointText is the text of an audit checkpoint: how many rows of the mesh lie before it, pruned ones included, the hash
// of the last of them, and the checkpoint row's own time as [ChainTime] writes it.
func CheckpointText(meshID string, count int64, hash, createdAt string) string {
	return join("claudemesh-audit-checkpoint", meshID, strconv.FormatInt(count, 10), hash, createdAt)
}

const separator = "|"

func join(fields ...string) string { return strings.Join(fields, separator) }

// ValidID reports whether an id may stand in a signed text: 1 to 64 characters of [0-9A-Za-z_-], so that it cannot hold the
// separator. The Verify methods of the older formats do not ask for this, because older signers did not; a broker asks before
// it signs, stores or looks up an id.
func ValidID(id string) bool {
	if len(id) == 0 || len(id) > 64 {
		return false
	}
	for i := range len(id) {
		if !isTokenChar(id[i]) {
			return false
		}
	}
	return true
}

// isTokenChar reports whether c is in [0-9A-Za-z_-], the alphabet of ids and of base64url.
func isTokenChar(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c == '-'
}
