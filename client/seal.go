package client

import (
	"fmt"
	"unicode/utf8"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// openDirect opens a direct message. The sender may have addressed the session's key or the member's; bySession says that it was the session's.
func (c *Client) openDirect(p *wire.Push) (text string, bySession bool, err error) {
	var first error
	for _, own := range []identity.KeyPair{c.o.SessionKey, c.o.Key} {
		if own.IsZero() {
			continue
		}
		text, err := identity.OpenDirect(p.Nonce, p.Ciphertext, p.SenderPubkey, own)
		if err == nil {
			return text, own.Public() != c.o.Key.Public(), nil
		}
		if first == nil {
			first = err
		}
	}
	return "", false, fmt.Errorf("client: open a direct message: %w", first)
}

// sealPlain writes the body of a message that is not encrypted. The wire has no empty body.
func sealPlain(text string) (nonce, ciphertext string, err error) {
	if text == "" {
		return "", "", newSendError(wire.Invalid, "an unencrypted message must not be empty")
	}
	if !utf8.ValidString(text) {
		return "", "", fmt.Errorf("client: the message is not text: %w", identity.ClassBadUTF8)
	}
	nonce, ciphertext = topickey.EncodeV1(text)
	return nonce, ciphertext, nil
}
