package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	apiKeyScheme    = "cm_"
	apiKeyPrefixLen = len(apiKeyScheme) + 8
)

// NewAPIKey makes an API key from 32 random bytes: the secret, 46 characters, which goes to its owner and is not kept; the
// prefix, its first 11 characters, by which it is looked up and shown; and the hash, 64 hex digits, which is stored
// (docs/formats.md, API keys).
func NewAPIKey() (secret, prefix, hash string, err error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", "", "", fmt.Errorf("identity: random API key: %w", err)
	}
	defer clear(b[:])
	secret, prefix, hash = APIKeyFromBytes(b)
	return secret, prefix, hash, nil
}

// APIKeyFromBytes is [NewAPIKey] of given bytes.
func APIKeyFromBytes(b [32]byte) (secret, prefix, hash string) {
	secret = apiKeyScheme + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, secret[:apiKeyPrefixLen], APIKeyHash(secret)
}

// APIKeyPrefix returns the first 11 characters of a presented secret, to look it up by; false when it does not start with
// "cm_" or is shorter.
func APIKeyPrefix(secret string) (prefix string, ok bool) {
	if !strings.HasPrefix(secret, apiKeyScheme) || len(secret) < apiKeyPrefixLen {
		return "", false
	}
	return secret[:apiKeyPrefixLen], true
}

// APIKeyHash returns the hex SHA-256 of the whole secret. The secret is 32 random bytes, so that a plain hash is enough.
func APIKeyHash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// MatchAPIKey reports whether a presented secret is the stored key: it starts with "cm_", its first 11 characters are prefix,
// and its SHA-256 is hash. Nothing is trimmed. The hashes are compared in constant time.
func MatchAPIKey(presented, prefix, hash string) bool {
	got, ok := APIKeyPrefix(presented)
	want, err := hex.DecodeString(hash)
	if !ok || got != prefix || err != nil {
		return false
	}
	sum := sha256.Sum256([]byte(presented))
	return subtle.ConstantTimeCompare(sum[:], want) == 1
}
