package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
)

func TestSharedState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	require.Contains(t, ana.run("state", "list").stderr, "no shared state")
	require.Contains(t, ana.fails(exitRefused, "state", "get", "build"), "state list")

	require.Equal(t, "Set build.\n", ana.ok("state", "set", "build", `{"green": true, "n": 1.50}`))
	require.Equal(t, `{"green":true,"n":1.50}`+"\n", bo.ok("state", "get", "build"))
	got := bo.one("state", "get", "build")
	require.Equal(t, []any{"state", "build", "ana"}, []any{got["type"], got["key"], got["updatedBy"]})
	require.NotEmpty(t, got["updatedAt"])
	r := bo.run("--json", "state", "get", "build")
	require.Contains(t, r.stdout, `"value":{"green":true,"n":1.50}`, "as it was set")

	require.Equal(t, object{"type": "state_set", "key": "note"}, bo.one("state", "set", "note", "--text", "two", "words"))
	require.Equal(t, "\"two words\"\n", ana.ok("state", "get", "note"))
	require.Equal(t, "two words\n", ana.ok("state", "get", "note", "--text"))
	require.Equal(t, `{"green":true,"n":1.50}`+"\n", ana.ok("state", "get", "build", "--text"), "which is no text")
	require.Equal(t, exitOK, bo.runWith("[1,\n2]\n", "state", "set", "from stdin", "-").code)
	require.Equal(t, exitOK, bo.runWith("two\nlines\n", "state", "set", "lines", "-", "--text").code)
	require.Equal(t, "two\nlines\n", ana.ok("state", "get", "lines", "--text"))
	bo.ok("state", "set", "n", "--", "-1")
	require.Equal(t, "-1\n", ana.ok("state", "get", "n"))
	bo.ok("state", "set", "null", "null")
	require.Equal(t, "null\n", ana.ok("state", "get", "null", "--text"))

	require.NoError(t, w.b.SetState(t.Context(), w.mesh, "host", json.RawMessage("1")))
	listed := ana.ok("state", "list")
	require.Regexp(t, `(?m)^KEY +VALUE +BY +AT$`, listed)
	require.Regexp(t, `(?m)^build +\{"green":true,"n":1.50\} +ana +\d{4}-`, listed)
	require.Regexp(t, `(?m)^host +1 +the host +`, listed)
	keys := []string{}
	for _, o := range objects(t, ana.ok("--json", "state", "list")) {
		require.Equal(t, "state", o["type"])
		keys = append(keys, o["key"].(string))
	}
	require.Equal(t, []string{"build", "from stdin", "host", "lines", "n", "note", "null"}, keys)

	require.Equal(t, object{"type": "state_deleted", "key": "build"}, bo.one("state", "delete", "build"))
	require.Equal(t, "Deleted build.\n", bo.ok("state", "delete", "build"))
	require.Contains(t, ana.fails(exitRefused, "state", "get", "build"), "There is no key build")

	require.Contains(t, ana.fails(exitUsage, "state", "set", "k", "two", "words"), "--text")
	require.Contains(t, ana.fails(exitUsage, "state", "set", "k"), "no value")
	require.Contains(t, ana.fails(exitRefused, "state", "set", "", "1"), "key")
	require.Contains(t, ana.fails(exitRefused, "state", "set", "k", `{"a":1,"a":2}`), "twice")
	require.Contains(t, ana.fails(exitUsage, "state", "watch", "--max", "-1"), "--max")
}

func TestFullSharedStateSaysWhatToDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana := w.join("ana")
	value, err := json.Marshal(strings.Repeat("x", 32_000))
	require.NoError(t, err)
	for i := range 262 {
		require.NoError(t, w.b.SetState(t.Context(), w.mesh, fmt.Sprint(i), value))
	}
	require.Contains(t, ana.fails(exitRefused, "state", "set", "k", string(value)), "delete keys that nobody needs")
	require.Len(t, objects(t, ana.ok("--json", "state", "list")), 262, "page by page")
	ana.ok("state", "delete", "0")
	ana.ok("state", "set", "k", string(value))
}

func TestWatchingSharedState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	ana.ok("state", "set", "a", "1")
	ana.ok("state", "set", "b", "1")
	f, only := bo.follow("state", "watch"), bo.follow("state", "watch", "b", "c", "-n", "3")
	o := f.next()
	require.Equal(t, []any{"state", "a", 1.0, "ana"}, []any{o["type"], o["key"], o["value"], o["updatedBy"]})
	require.Equal(t, "b", f.next()["key"])
	require.Equal(t, "ready", f.next()["type"])
	require.Equal(t, "b", only.next()["key"])
	require.Equal(t, "ready", only.next()["type"])

	ana.ok("state", "set", "a", "2")
	ana.ok("state", "set", "c", "3")
	ana.ok("state", "delete", "b")
	bo.ok("state", "set", "c", "4") // another session of the watcher's member
	for _, want := range [][]any{{"state", "a", 2.0}, {"state", "c", 3.0}, {"state_deleted", "b", nil}, {"state", "c", 4.0}} {
		o := f.next()
		require.Equal(t, want, []any{o["type"], o["key"], o["value"]})
		require.NotEmpty(t, o["updatedBy"])
	}
	require.Equal(t, exitOK, only.wait(), "three changes of its keys")
	for _, want := range [][]any{{"state", "c"}, {"state_deleted", "b"}, {"state", "c"}} {
		o := only.next()
		require.Equal(t, want, []any{o["type"], o["key"]})
	}

	ana.ok("send", "bo", "while watching")
	w.conns.drop()
	ana.ok("state", "set", "a", "5")
	ana.ok("state", "delete", "c")
	require.Equal(t, object{"type": "connection", "connected": false}, f.await("connection"))
	seen := map[string]bool{}
	for len(seen) < 3 { // the list and the changes may tell the same, in either order, and each is printed once
		o := f.next()
		k := fmt.Sprint(o["type"], " ", o["key"], " ", o["value"])
		require.False(t, seen[k], "%v twice", o)
		seen[k] = true
	}
	require.Equal(t, map[string]bool{"connection <nil> <nil>": true, "state a 5": true, "state_deleted c <nil>": true}, seen)
	require.Equal(t, exitOK, f.end())
	require.Contains(t, bo.ok("inbox"), "while watching", "the message waited")
}

func TestSharedStateCannotSteerTheTerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana := w.join("ana")
	eve := w.stranger("eve")
	eve.ok("join", w.invite(broker.InviteOptions{}), "--name", "eve\u202e")
	const evil = "\x1b[2J\u202e\u009b1mx\ry\u2028\nz = 1 (ana)"
	eve.ok("state", "set", "key\u202e = 1 (ana)", "--text", evil)
	eve.ok("state", "set", "object", `{"`+"\u202e\u200f"+`":"\u001b[2J"}`)
	for _, args := range [][]string{
		{"list"}, {"get", "key\u202e = 1 (ana)"}, {"get", "key\u202e = 1 (ana)", "--text"}, {"get", "object"}, {"get", "\u202e"}, {"set", "\u202ex", "1"}, {"delete", "\u202ex"},
	} {
		for _, format := range []string{"--json", "--json=false"} {
			r := ana.run(append([]string{format, "state"}, args...)...)
			for _, c := range r.stdout + r.stderr {
				require.False(t, hostile(c) && c != '\n', "%q: %q", args, r.stdout)
			}
		}
	}
	require.Equal(t, `{"\u202e\u200f":"\u001b[2J"}`+"\n", ana.ok("state", "get", "object"))
	require.Contains(t, ana.ok("state", "list"), `"key = 1 (ana)"`, "a key that looks like more than a key")
}
