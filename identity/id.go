package identity

import (
	"crypto/rand"
	"encoding/hex"
)

const (
	idAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	idLength   = 32
)

// NewID returns the id of a new entity: 32 characters of [0-9A-Za-z] from the system's random source, 190 bits.
func NewID() string {
	// The largest multiple of 62 in a byte: taking bytes above it too would make the first characters more likely.
	const limit = 256 / len(idAlphabet) * len(idAlphabet)
	id := make([]byte, 0, idLength)
	var random [2 * idLength]byte
	for {
		_, _ = rand.Read(random[:]) // never fails: it ends the process instead
		for _, b := range random {
			if int(b) >= limit {
				continue
			}
			if id = append(id, idAlphabet[int(b)%len(idAlphabet)]); len(id) == idLength {
				return string(id)
			}
		}
	}
}

// NewUUID returns a random UUID, version 4, in its text form of 36 lower-case characters.
func NewUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails: it ends the process instead
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	text := make([]byte, 0, 36)
	for i, part := range [][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			text = append(text, '-')
		}
		text = hex.AppendEncode(text, part)
	}
	return string(text)
}
