package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/internal/memconn"
)

// Connections that only take up room do not stay: neither before their first request, nor in the middle of its header, nor between two.
func TestConnectionsThatSayNothingEnd(t *testing.T) {
	t.Parallel()
	const ok = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, c := range []struct {
		name, first string
		drip        string // one more of these each second
		want        string
		least, most time.Duration
	}{
		{name: "nothing", least: 9 * time.Second, most: 11 * time.Second},
		{name: "half a line", first: "GET / HT", least: 9 * time.Second, most: 11 * time.Second},
		{name: "a header without an end", first: "GET / HTTP/1.1\r\nHost: x\r\n", drip: "X-Slow: 1\r\n", least: 9 * time.Second, most: 11 * time.Second},
		{name: "a header of one line", first: "GET / HTTP/1.1\r\nX: ", drip: "a", least: 9 * time.Second, most: 11 * time.Second},
		{name: "no second request", first: ok, want: "200", least: 2 * time.Minute, most: 2*time.Minute + time.Second},
		{name: "half a second request", first: ok + "GET / HT", want: "200", least: 9 * time.Second, most: 11 * time.Second},
		{name: "a header of 100 KB", first: "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 100_000) + "\r\n\r\n", want: "431", most: time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := memconn.Listen()
				server := newServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hi") }), slog.New(slog.DiscardHandler))
				served := make(chan struct{})
				go func() {
					defer close(served)
					_ = server.Serve(l) // ends with ErrServerClosed
				}()
				defer func() { // also when the test fails
					_ = server.Close()
					<-served
				}()
				link, err := l.DialContext(t.Context(), "tcp", "")
				require.NoError(t, err)
				began := time.Now()
				written := make(chan struct{})
				go func() {
					defer close(written)
					_, err := io.WriteString(link, c.first)
					for err == nil && c.drip != "" {
						time.Sleep(time.Second)
						_, err = io.WriteString(link, c.drip)
					}
				}()
				raw, _ := io.ReadAll(bufio.NewReader(link)) // a reset is an end as well
				took := time.Since(began)
				require.Contains(t, string(raw), c.want)
				require.True(t, took >= c.least && took <= c.most, fmt.Sprint(took))
				require.NoError(t, link.Close())
				<-written
			})
		})
	}
}
