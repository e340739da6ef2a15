package main

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// openTerminal opens a terminal, from which a program reads what a person types at the keyboard.
func openTerminal(t *testing.T) (tty, keyboard *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = keyboard.Close() })
	raw, err := keyboard.SyscallConn()
	require.NoError(t, err)
	var number, locked int32
	require.NoError(t, raw.Control(func(fd uintptr) {
		for request, arg := range map[uintptr]*int32{syscall.TIOCGPTN: &number, syscall.TIOCSPTLCK: &locked} {
			_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(arg)))
			require.Zero(t, errno)
		}
	}))
	tty, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tty.Close() })
	return tty, keyboard
}

// On a terminal ban and kick --all ask first, and only a yes lets them go on.
func TestHardDecisionsAreAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana := w.join("ana")
	w.join("bo")
	tty, keyboard := openTerminal(t)
	for _, tt := range []struct {
		typed string
		args  []string
		code  int
		asked string
		want  string // on stdout or stderr besides
	}{
		{"n\n", []string{"admin", "ban", "bo"}, exitFailed, "Ban bo from the mesh, with its sessions, API keys and waiting messages? [y/N] ", "Nothing was done."},
		{"\n", []string{"admin", "ban", "b\x1b[2Jo"}, exitFailed, "Ban bo from the mesh, with its sessions, API keys and waiting messages? [y/N] ", "Nothing was done."},
		{"\x04", []string{"admin", "ban", "bo"}, exitFailed, "[y/N] ", "Nothing was done."}, // Ctrl-D
		{"yes please\n", []string{"admin", "ban", "bo"}, exitFailed, "[y/N] ", "Nothing was done."},
		{"no\n", []string{"admin", "kick", "--all"}, exitFailed, "Kick every session but yours? [y/N] ", "Nothing was done."},
		{"y\n", []string{"admin", "kick", "--all"}, exitOK, "Kick every session but yours? [y/N] ", "No session was ended"},
		{"", []string{"admin", "kick", "bo"}, exitOK, "", "No session was ended"},
		{" YES \n", []string{"admin", "ban", "bo"}, exitOK, "[y/N] ", "Banned bo."},
	} {
		_, err := keyboard.WriteString(tt.typed)
		require.NoError(t, err)
		r := ana.runFrom(tty, tt.args...)
		require.Equal(t, tt.code, r.code, "%q %q: %s%s", tt.typed, tt.args, r.stdout, r.stderr)
		require.Contains(t, r.stderr, tt.asked)
		require.Contains(t, r.stdout+r.stderr, tt.want)
		if tt.asked == "" {
			require.NotContains(t, r.stderr, "[y/N]")
		}
	}
	require.Equal(t, "bo", ana.one("admin", "bans")["name"])
}
