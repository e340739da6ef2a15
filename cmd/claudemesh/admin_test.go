package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

// agent is a session of somebody's that runs beside the command line, with a session key.
func (w *world) agent(p *person) *client.Client {
	w.t.Helper()
	who := p.one("whoami")
	m, err := findMembership(p, w.mesh)
	require.NoError(w.t, err)
	key, err := m.key()
	require.NoError(w.t, err)
	c, err := client.Dial(w.t.Context(), client.Options{
		URL: w.url(), MeshID: w.mesh, MemberID: who["memberId"].(string), Key: key, Backoff: func(int) time.Duration { return 10 * time.Millisecond },
	})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

func findMembership(p *person, mesh string) (membership, error) {
	h, err := findHome(p.dir, "", func(string) string { return "" })
	if err != nil {
		return membership{}, err
	}
	return h.choose(mesh)
}

func TestAdminKickAndDisconnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	agent := w.agent(bo)
	inbox := bo.follow("inbox", "--follow") // a control connection without a session key
	inbox.await("ready")

	require.Equal(t, object{"type": "kicked", "names": []any{"bo"}, "spared": []any{"bo"}}, ana.one("admin", "kick", "bo"))
	<-agent.Done()
	require.ErrorIs(t, agent.Err(), wire.Code(wire.ReasonKicked))
	r := ana.run("admin", "kick", "bo")
	require.Equal(t, exitOK, r.code)
	require.Empty(t, r.stdout)
	require.Equal(t, "Not kicked, because they are control connections: bo; claudemesh admin disconnect ends them.\n", r.stderr)

	require.Equal(t, "Disconnected 1 session: bo.\n", ana.ok("admin", "disconnect", "bo"))
	require.Equal(t, false, inbox.await("connection")["connected"])
	require.Equal(t, true, inbox.await("connection")["connected"], "it comes back by itself")

	agent = w.agent(bo)
	who := agent.Pubkey()
	require.Equal(t, "Kicked 1 session: bo.\n", ana.ok("admin", "kick", agent.SessionPubkey()))
	<-agent.Done()
	require.Equal(t, object{"type": "disconnected", "names": []any{"bo"}, "spared": []any{}}, ana.one("admin", "disconnect", who[:8]))
	inbox.await("connection")
	inbox.await("connection")
	require.Equal(t, []any{"bo"}, ana.one("admin", "disconnect", "--all")["names"], "and not the command's own")
	inbox.await("connection")
	inbox.await("connection")
	require.Equal(t, []any{}, ana.one("admin", "disconnect", "--stale", "1h")["names"])
	require.Equal(t, []any{"bo"}, ana.one("admin", "kick", "--all", "--yes")["spared"])
	require.Equal(t, "No session was ended; claudemesh peers shows those that are connected.\n", ana.run("admin", "disconnect", "carl").stderr)
	require.Equal(t, exitOK, inbox.end())
}

func TestAdminBan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	require.Equal(t, "Nobody is banned.\n", bo.run("admin", "bans").stderr)
	inbox := bo.follow("inbox", "--follow")
	inbox.await("ready")
	require.Equal(t, object{"type": "banned", "name": "bo"}, ana.one("admin", "ban", "bo", "--reason", "left", "--yes"))
	require.Equal(t, exitRefused, inbox.wait())
	require.Contains(t, inbox.stderr.String(), "revoked")
	require.Contains(t, bo.fails(exitRefused, "peers"), "revoked")
	require.NotContains(t, ana.ok("members"), "bo")

	ban := ana.one("admin", "bans")
	require.Equal(t, []any{"ban", "bo"}, []any{ban["type"], ban["name"]})
	_, err := wire.ParseTime(ban["bannedAt"].(string))
	require.NoError(t, err)
	require.Regexp(t, `(?m)^NAME +KEY +BANNED\nbo +[0-9a-f]{16} +20`, ana.ok("admin", "bans"))
	require.Equal(t, "bo may come back.\n", ana.ok("admin", "unban", ban["key"].(string)[:8]))
	bo.ok("peers")
	require.Equal(t, "Banned bo.\n", ana.ok("admin", "ban", ban["key"].(string), "-y"))
	require.Equal(t, object{"type": "unbanned", "name": "bo"}, ana.one("admin", "unban", "bo"))
}

func TestAdminRoleAndInfo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	agent := w.agent(bo)
	require.NoError(t, agent.JoinGroup(t.Context(), "eng", ""))
	info := bo.one("admin", "info")
	require.Equal(t, object{
		"type": "mesh_info", "mesh": w.mesh, "sessions": 1.0, "groups": []any{"@eng"}, "stateKeys": []any{}, "name": "bo", "yourGroups": info["yourGroups"],
	}, info)
	require.Regexp(t, `(?m)^mesh +`+w.mesh+`\nsessions +1\ngroups +@eng\n`, ana.ok("admin", "info"))

	id := bo.one("whoami")["memberId"].(string)
	require.Equal(t, "bo is an admin now.\n", ana.ok("admin", "role", "bo", "admin"))
	require.Equal(t, object{"type": "role", "member": id, "role": "admin"}, bo.one("admin", "role", id, "admin"))
	require.Equal(t, "ANA is a member now.\n", bo.ok("admin", "role", "ANA", "member"), "a name means its pinned key")
	require.Contains(t, bo.fails(exitRefused, "admin", "role", "bo", "member"), "nobody else governs")
	require.Contains(t, ana.fails(exitRefused, "admin", "role", "ana", "admin"), "only owner or admin")
	require.Equal(t, "ana is an admin now.\n", bo.ok("admin", "role", "ana", "admin"))
}

func TestAdminErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	for _, c := range []struct {
		who  *person
		code int
		want string
		args string
	}{
		{ana, exitUsage, "one of these only", "kick"},
		{ana, exitUsage, "one of these only", "kick bo --all"},
		{ana, exitUsage, "one of these only", "disconnect --stale 1m --all"},
		{ana, exitUsage, "must be positive", "kick --stale=-1m"},
		{ana, exitUsage, "--yes", "kick --all"},
		{ana, exitUsage, "--yes", "ban bo"},
		{ana, exitUsage, "", "role bo king"},
		{ana, exitUsage, "", "ban"},
		{ana, exitRefused, "yourself", "ban ana --yes"},
		{ana, exitRefused, "no such member", "ban carl --yes"},
		{ana, exitRefused, "500 characters", "ban bo --yes --reason " + strings.Repeat("x", 501)},
		{ana, exitRefused, "no such member is banned", "unban bo"},
		{ana, exitRefused, "Nobody in the mesh is called", "role no.body admin"},
		{ana, exitRefused, "no such member", "role nobody admin"},
		{bo, exitRefused, "only owner or admin can kicked", "kick ana"},
		{bo, exitRefused, "only owner or admin can disconnected", "disconnect --all"},
		{bo, exitRefused, "only owner or admin can ban", "ban ana --yes"},
		{bo, exitRefused, "only owner or admin can unban", "unban ana"},
		{bo, exitRefused, "only owner or admin can change roles", "role bo admin"},
	} {
		require.Contains(t, c.who.fails(c.code, append([]string{"admin"}, strings.Fields(c.args)...)...), c.want, c.args)
	}
	bo.ok("peers")
}
