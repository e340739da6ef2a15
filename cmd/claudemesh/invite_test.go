package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
)

// ownerFile is the owner's key as examples/standalone keeps it.
func (w *world) ownerFile() string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "dev-owner.key")
	require.NoError(w.t, os.WriteFile(path, []byte(w.owner.SeedHex()+"\n"), 0o600))
	return path
}

// shortWorld is a world whose broker takes short links.
func shortWorld(t *testing.T, wrap func(http.Handler) http.Handler) *world {
	t.Helper()
	w := newWorld(t, wrap, func(o *broker.Options) { o.InviteV2 = true })
	require.NoError(t, w.b.SetRootKey(t.Context(), w.mesh, identity.DeriveRootKey(w.owner, w.mesh)))
	return w
}

func TestInviteFromTheCommandLine(t *testing.T) {
	t.Parallel()
	w := shortWorld(t, nil)
	ana, key := w.join("ana"), w.ownerFile()
	require.Contains(t, ana.run("invite", "list").stderr, "no invites that are good", "hers is used up")

	r := ana.run("invite", "create", "--owner-key", key)
	require.Equal(t, exitOK, r.code, r.stderr)
	long := strings.TrimSuffix(r.stdout, "\n")
	require.True(t, strings.HasPrefix(long, "ic://join/"), "the link, alone: %s", r.stdout)
	require.NotContains(t, long, "\n")
	require.Contains(t, r.stderr, "This link is a secret")
	require.Contains(t, r.stderr, "root key")
	r = ana.run("invite", "create", "--owner-key", key, "--short", "--role", "admin", "--max-uses", "2", "--expires", "36h", "--name", "guest",
		"--role-tag", "helper", "--group", "eng/core:reviewer", "--message-mode", "inbox")
	require.Equal(t, exitOK, r.code, r.stderr)
	short := strings.TrimSuffix(r.stdout, "\n")
	require.Regexp(t, `^http://127\.0\.0\.1:\d+/i/[0-9A-Za-z]{8}$`, short)
	require.Contains(t, r.stderr, "as an admin")
	require.Contains(t, r.stderr, "2 times")
	require.NotContains(t, r.stderr, "root key")
	made := ana.one("invite", "create", "--owner-key", key, "--expires", "30d")
	until, err := time.Parse(time.RFC3339, made["expiresAt"].(string))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(30*24*time.Hour), until, time.Minute)

	got := w.stranger("bo").one("join", long, "--name", "bo")
	require.Equal(t, "member", got["role"])
	cy := w.stranger("cy")
	got = cy.one("join", short, "--name", "cy")
	require.Equal(t, "guest", got["name"], "as the invite says")
	require.Equal(t, "admin", got["role"])
	require.Equal(t, w.url(), got["broker"])
	require.Equal(t, "dev", got["slug"])
	ana.ok("send", "guest", "welcome")
	require.Contains(t, cy.ok("inbox"), "ana: welcome")
	row, err := w.b.Member(t.Context(), w.mesh, got["memberId"].(string))
	require.NoError(t, err)
	require.Equal(t, "helper", row.RoleTag)
	require.Equal(t, "inbox", row.MessageMode)
	require.Equal(t, "eng/core", row.DefaultGroups[0].Name)
	require.Equal(t, "reviewer", row.DefaultGroups[0].Role)

	all := objects(t, ana.ok("--json", "invite", "list", "--all"))
	require.Len(t, all, 4)
	for _, o := range all {
		require.NotContains(t, o, "link")
	}
	text := ana.ok("invite", "list")
	require.Contains(t, text, "short link")
	require.Contains(t, text, "1 of 2")
	require.NotContains(t, text, "used up")
	require.Contains(t, ana.ok("invite", "list", "--all"), "used up")
	id := made["id"].(string)
	ana.ok("invite", "revoke", id)
	require.Contains(t, ana.ok("invite", "list", "--all"), "revoked")
	require.NotContains(t, ana.ok("invite", "list"), id)
	require.Contains(t, w.stranger("dee").fails(exitRefused, "join", made["link"].(string), "--name", "dee"), "taken back")
	require.Contains(t, ana.fails(exitRefused, "invite", "revoke", "nothing"), "no such invite")
	require.Contains(t, ana.fails(exitUsage, "invite", "revoke", short), "no invite's id")
}

func TestWhoMayInvite(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo, key := w.join("ana"), w.join("bo"), w.ownerFile()
	require.Contains(t, ana.fails(exitUsage, "invite", "create"), "--owner-key", "ana is an admin, and her key is not the owner's")
	mine := writeKey(t, ana)
	require.Contains(t, ana.fails(exitUsage, "invite", "create", "--owner-key", mine), "not that of the owner of dev")
	require.Contains(t, bo.fails(exitRefused, "invite", "create", "--owner-key", key), "uploaded by the owner or an admin")
	require.Contains(t, bo.fails(exitRefused, "invite", "list"), "only the owner or an admin")
	require.Contains(t, bo.fails(exitRefused, "invite", "revoke", "x"), "only the owner or an admin")
	require.Contains(t, ana.fails(exitRefused, "invite", "create", "--owner-key", key, "--short"), "no short links")

	// The owner's own profile needs no file.
	require.NoError(t, w.b.SetOwner(t.Context(), w.mesh, "", bo.one("whoami")["key"].(string)))
	require.Contains(t, bo.ok("invite", "create"), "ic://join/")

	require.NoError(t, os.Chmod(key, 0o644))
	require.Contains(t, ana.fails(exitFailed, "invite", "create", "--owner-key", key), "chmod 600")
	junk := filepath.Join(t.TempDir(), "junk")
	require.NoError(t, os.WriteFile(junk, []byte("s3cret"), 0o600))
	got := ana.fails(exitFailed, "invite", "create", "--owner-key", junk)
	require.Contains(t, got, "no key")
	require.NotContains(t, got, "s3cret")
	for _, args := range [][]string{
		{"--expires", "0d"}, {"--expires", "-1h"}, {"--expires", "soon"}, {"--expires", "1.5d"}, {"--max-uses", "0"}, {"--max-uses", "10001"},
		{"--role", "owner"}, {"--url", "https://h/ws"}, {"--group", "all"}, {"--message-mode", "loud"},
	} {
		require.Equal(t, exitUsage, ana.run(append([]string{"invite", "create", "--owner-key", mine}, args...)...).code, args)
	}
}

func TestInviteShowsItsQRCodeOnATerminal(t *testing.T) {
	t.Parallel()
	w := shortWorld(t, nil)
	ana, key := w.join("ana"), w.ownerFile()
	on := func(columns int, args ...string) (stdout, stderr string) {
		var out, errs bytes.Buffer
		s := ana.system(strings.NewReader(""), &out, &errs)
		s.terminal = func(w io.Writer) (int, bool) { return columns, w == io.Writer(&out) }
		require.Equal(t, exitOK, s.run(t.Context(), append([]string{"--config", ana.dir, "invite", "create", "--owner-key", key}, args...)), errs.String())
		return out.String(), errs.String()
	}
	out, errs := on(80, "--short")
	require.Contains(t, out, "█")
	require.NotContains(t, errs, "█")
	require.Contains(t, errs, "This link is a secret")
	link, _, _ := strings.Cut(out, "\n")
	require.Contains(t, link, "/i/")
	out, errs = on(80)
	require.NotContains(t, out, "█", "a long link needs more than 80 columns")
	require.Contains(t, errs, "--short makes a smaller one")
	out, _ = on(120)
	require.Contains(t, out, "█")
	out, _ = on(80, "--short", "--no-qr")
	require.NotContains(t, out, "█")
	require.NotContains(t, ana.ok("invite", "create", "--owner-key", key, "--short"), "█", "into a file or a pipe goes the link alone")
	require.Contains(t, ana.ok("invite", "create", "--owner-key", key, "--short", "--qr"), "█")
}

func TestJoinByACode(t *testing.T) {
	t.Parallel()
	w := shortWorld(t, nil)
	w.join("ana")
	link, invite, err := w.b.CreateInvite(t.Context(), w.mesh, w.owner, broker.InviteOptions{Version: 2, BrokerURL: w.url(), MaxUses: 10})
	require.NoError(t, err)
	bo := w.stranger("bo")
	require.Contains(t, bo.fails(exitUsage, "join", invite.Code), "--broker")
	require.Contains(t, bo.fails(exitUsage, "join", invite.Code, "--broker", "http://h"), "--broker")
	require.Equal(t, "bo", bo.one("join", invite.Code, "--broker", w.url(), "--name", "bo")["name"])
	cy := w.stranger("cy")
	r := cy.runWith(link+"\n", "--json", "join", "-", "--name", "cy")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, w.stranger("dee").fails(exitRefused, "join", "abcd2345", "--broker", w.url(), "--name", "dee"), "no such invite")
	require.NoError(t, w.b.RevokeInvite(t.Context(), w.mesh, invite.ID))
	require.Contains(t, w.stranger("dee").fails(exitRefused, "join", link, "--name", "dee"), "taken back")

	off := newWorld(t, nil)
	require.Contains(t, off.stranger("eve").fails(exitRefused, "join", off.server.URL+"/i/abcd2345", "--name", "eve"), "ic://join/")
	left, err := filepath.Glob(filepath.Join(off.dir, "eve", joiningDir, "*"))
	require.NoError(t, err)
	require.Empty(t, left, "nobody was enrolled with that key")
}

// A short link does not say which mesh it is for; the key that one has there is never lost over it.
func TestShortLinkToAMeshThatOneIsIn(t *testing.T) {
	t.Parallel()
	w := shortWorld(t, nil)
	ana := w.join("ana")
	before := ana.one("whoami")
	link, _, err := w.b.CreateInvite(t.Context(), w.mesh, w.owner, broker.InviteOptions{Version: 2, BrokerURL: w.url()})
	require.NoError(t, err)
	require.Contains(t, ana.fails(exitFailed, "join", link, "--name", "other"), "--new")
	require.Equal(t, before["key"], ana.one("whoami")["key"])
	got := ana.one("join", link, "--name", "other", "--new")
	require.Equal(t, "other", got["name"])
	require.Equal(t, true, got["alreadyMember"], "the one that was enrolled, and no other")
	require.NotEqual(t, before["key"], got["key"])
	members, err := w.b.Members(t.Context(), w.mesh)
	require.NoError(t, err)
	require.Len(t, members, 2)
}

func TestClaimKeepsOneKeyThroughALostAnswer(t *testing.T) {
	t.Parallel()
	var drop atomic.Bool
	drop.Store(true)
	w := shortWorld(t, func(b http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/claim") && drop.CompareAndSwap(true, false) {
				b.ServeHTTP(httptest.NewRecorder(), r) // the member is enrolled, and nobody hears of it
				panic(http.ErrAbortHandler)
			}
			b.ServeHTTP(rw, r)
		})
	})
	link, invite, err := w.b.CreateInvite(t.Context(), w.mesh, w.owner, broker.InviteOptions{Version: 2, BrokerURL: w.url()})
	require.NoError(t, err)
	ana := w.stranger("ana")
	got := ana.fails(exitUnreachable, "join", link, "--name", "ana")
	require.Contains(t, got, "reach")
	require.NotContains(t, got, invite.Code)
	require.Equal(t, true, ana.one("join", link, "--name", "ana")["alreadyMember"], "the same key again")
	require.Contains(t, w.stranger("bo").fails(exitRefused, "join", link, "--name", "bo"), "used as often")
}

// The owner's key signs and is shown nowhere, and of what a link holds nothing is kept.
func TestInviteSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	w := shortWorld(t, nil)
	ana, key := w.join("ana"), w.ownerFile()
	var shown bytes.Buffer
	var links []string
	for _, args := range [][]string{
		{"create", "--owner-key", key}, {"create", "--owner-key", key, "--short"}, {"list", "--all"}, {"revoke", "nothing"},
	} {
		r := ana.run(append([]string{"--debug", "invite"}, args...)...)
		if args[0] == "create" {
			links = append(links, strings.TrimSpace(r.stdout))
			r.stdout = ""
		}
		shown.WriteString(r.stdout + r.stderr)
	}
	require.Len(t, links, 2)
	require.NotContains(t, shown.String(), w.owner.SeedHex())
	require.NoError(t, filepath.WalkDir(ana.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Type()&os.ModeSocket != 0 {
			return err
		}
		raw, err := os.ReadFile(path)
		shown.Write(raw)
		return err
	}))
	for _, l := range links {
		require.NotContains(t, shown.String(), l[strings.LastIndexByte(l, '/')+1:])
	}
	require.NotContains(t, shown.String(), w.owner.SeedHex())
	members, err := w.b.Invites(t.Context(), w.mesh)
	require.NoError(t, err)
	require.Equal(t, store.RoleMember, members[0].Role)
}
