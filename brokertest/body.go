package brokertest

import (
	"encoding/base64"
	"errors"

	"github.com/coder/websocket"
)

// Body is the ciphertext of an unencrypted message: base64 of the text.
func Body(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// Text is the text of an unencrypted message.
func Text(push Frame) string {
	raw, err := base64.StdEncoding.DecodeString(push.Str("ciphertext"))
	if err != nil {
		return "not base64: " + push.Str("ciphertext")
	}
	return string(raw)
}

func asCloseError(err error) (websocket.CloseError, bool) {
	return errors.AsType[websocket.CloseError](err)
}
