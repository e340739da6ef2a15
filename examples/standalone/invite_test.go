package main

import (
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShortLinksAreASetting(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	off := start(t, state, nil)
	code, body := off.post("/invites/abcd2345/claim", map[string]any{})
	require.Equal(t, http.StatusNotImplemented, code)
	require.Equal(t, "invite_v2_disabled", body["error"])
	off.invite() // stderr is complete
	require.Contains(t, off.text(), "claudemesh invite create --owner-key "+shellWord(filepath.Join(state, "claudemesh", "dev-owner.key"))+"\n")
	off.stop()

	on := start(t, state, map[string]string{"BROKER_INVITE_V2_ENABLED": "1"})
	code, body = on.post("/invites/abcd2345/claim", map[string]any{})
	require.Equal(t, http.StatusNotFound, code, "claims are looked at")
	require.Equal(t, "not_found", body["error"])
	on.stop()
}

func TestShellWord(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/home/ana/.local/state/claudemesh/dev-owner.key": "/home/ana/.local/state/claudemesh/dev-owner.key",
		"/Users/Ana Ö/x": "'/Users/Ana Ö/x'",
		"/a'b":           `'/a'\''b'`,
		"/a$(x)":         "'/a$(x)'",
		`C:\state\x`:     `C:\state\x`,
	} {
		require.Equal(t, want, shellWord(path))
	}
}
