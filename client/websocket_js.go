package client

import (
	"context"
	"net/http"

	"github.com/coder/websocket"
)

// pingsSeen is false in a browser, which answers pings without telling anybody.
const pingsSeen = false

func dialWebSocket(ctx context.Context, url string, _ *http.Client, _ func()) (*websocket.Conn, *http.Response, error) {
	return websocket.Dial(ctx, url, nil)
}
