//go:build !js

package client

import (
	"context"
	"net/http"

	"github.com/coder/websocket"
)

// pingsSeen says that pings reach this program, so that silence means a dead connection.
const pingsSeen = true

func dialWebSocket(ctx context.Context, url string, hc *http.Client, heard func()) (*websocket.Conn, *http.Response, error) {
	own := *hc
	own.Timeout = 0 // ctx bounds dialing
	return websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient:     &own,
		OnPingReceived: func(context.Context, []byte) bool { heard(); return true },
	})
}
