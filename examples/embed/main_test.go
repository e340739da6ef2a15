package main

import (
	"context"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
)

// site runs the application on a loopback port.
func site(t *testing.T) *httptest.Server {
	t.Helper()
	app := newApp(map[string]string{"ana": "pw-ana", "bo": "pw-bo"})
	b, err := app.mesh(t.Context())
	require.NoError(t, err)
	server := httptest.NewServer(app.handler(b))
	t.Cleanup(func() {
		require.NoError(t, b.Shutdown(context.Background())) // the test's own context has ended
		server.Close()
	})
	return server
}

// browser is an HTTP client that is logged in as user.
func browser(t *testing.T, server *httptest.Server, user, password string) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	c := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.PostForm(server.URL+"/login", url.Values{"user": {user}, "password": {password}})
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
	return c
}

func dial(t *testing.T, server *httptest.Server, c *http.Client, key identity.KeyPair) (*client.Client, error) {
	t.Helper()
	return client.Dial(t.Context(), client.Options{
		URL: "ws" + strings.TrimPrefix(server.URL, "http") + "/mesh/ws", MeshID: meshID, MemberID: "me", Key: key, HTTPClient: c,
	})
}

func key(t *testing.T) identity.KeyPair {
	t.Helper()
	k, err := identity.GenerateKey()
	require.NoError(t, err)
	return k
}

func TestLoggedInUsersAreMembers(t *testing.T) {
	t.Parallel()
	server := site(t)
	anaKey := key(t)
	ana, err := dial(t, server, browser(t, server, "ana", "pw-ana"), anaKey)
	require.NoError(t, err)
	defer ana.Close()
	bo, err := dial(t, server, browser(t, server, "bo", "pw-bo"), key(t))
	require.NoError(t, err)
	defer bo.Close()
	require.Equal(t, "ana", ana.Hello().MemberDisplayName)
	_, err = ana.Send(t.Context(), "bo", "hello")
	require.NoError(t, err)
	msg, err := bo.Receive(t.Context())
	require.NoError(t, err)
	require.Equal(t, []any{"ana", "hello", true}, []any{msg.From, msg.Text, msg.Encrypted})

	_, err = dial(t, server, browser(t, server, "bo", "pw-bo"), anaKey)
	require.Error(t, err, "ana's key in bo's session")
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	server := site(t)
	_, err := dial(t, server, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, key(t))
	var refused *client.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "unauthorized", string(refused.Code))
}

func TestCookieCountsOnlyForTheApplicationsOwnPages(t *testing.T) {
	t.Parallel()
	server := site(t)
	c := browser(t, server, "ana", "pw-ana")
	ana, err := dial(t, server, c, key(t))
	require.NoError(t, err)
	defer ana.Close()
	for origin, want := range map[string]int{"": 200, server.URL: 200, "https://evil.example": 403} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v1/topics", nil)
		require.NoError(t, err)
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		resp, err := c.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want, resp.StatusCode, "origin %q", origin)
	}
}
