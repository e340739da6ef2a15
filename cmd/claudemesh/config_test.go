package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

func testMembership(t *testing.T, mesh, slug string) membership {
	t.Helper()
	k, err := identity.GenerateKey()
	require.NoError(t, err)
	return membership{MeshID: mesh, MeshSlug: slug, BrokerURL: "ws://127.0.0.1:1/ws", MemberID: "mem", Name: "ana", Seed: k.SeedHex()}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("permissions are another thing there")
	}
	h := home{dir: filepath.Join(t.TempDir(), "a", "b")}
	require.NoError(t, h.save(testMembership(t, "m1", "dev")))
	found := 0
	require.NoError(t, filepath.WalkDir(h.dir, func(path string, d os.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		if d.IsDir() {
			require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), path)
			return nil
		}
		found++
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), path)
		return nil
	}))
	require.Equal(t, 2, found, "the membership and config.json")

	path := h.path(meshesDir, "m1.json")
	for _, mode := range []os.FileMode{0o640, 0o604, 0o644, 0o660} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := h.membership("m1")
		f := explain(err)
		require.Equal(t, "permissions", f.code, "%v", mode)
		require.Contains(t, f.text, "chmod 600 "+path)
	}
}

func TestDamagedFileIsNamedAndNotQuoted(t *testing.T) {
	t.Parallel()
	h := home{dir: t.TempDir()}
	m := testMembership(t, "m1", "dev")
	require.NoError(t, h.save(m))
	path := h.path(meshesDir, "m1.json")
	for _, content := range []string{"", "{", `{"seed":"` + m.Seed, `{"version":1,"seed":"` + m.Seed + `"}`, `{"version":2}`, `{"seed":` + m.Seed + `}`} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		_, err := h.memberships()
		f := explain(err)
		require.Equal(t, "damaged", f.code, "%q", content)
		require.Contains(t, f.text, path)
		require.NotContains(t, f.text, m.Seed[:8])
	}
}

func TestFileIsReplacedWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.json")
	require.NoError(t, writeJSON(path, "old"))
	require.Error(t, writeJSON(path, func() {}), "cannot be encoded")

	taken := filepath.Join(dir, "taken")
	require.NoError(t, os.MkdirAll(filepath.Join(taken, "sub"), 0o700))
	require.Error(t, writeJSON(taken, "x"), "a directory is in the way")

	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "nothing is left over")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "\"old\"\n", string(raw))

	long := strings.Repeat("x", 1<<16)
	var writers sync.WaitGroup
	for _, v := range []string{"a" + long, "b" + long, "c" + long} {
		writers.Go(func() {
			for range 20 {
				if writeJSON(path, v) != nil {
					t.Error("write failed")
				}
			}
		})
	}
	for range 50 {
		var got string
		if err := readSecret(path, &got); err != nil || got != "old" && len(got) != 1+len(long) {
			t.Errorf("a half-written file was seen: %v", err)
		}
	}
	writers.Wait()
}

func TestChoosingAMesh(t *testing.T) {
	t.Parallel()
	h := home{dir: t.TempDir()}
	_, err := h.choose("")
	require.Equal(t, "no_mesh", explain(err).code)

	require.NoError(t, h.save(testMembership(t, "m1", "dev")))
	require.NoError(t, h.save(testMembership(t, "m2", "prod")))
	require.NoError(t, h.save(testMembership(t, "m3", "prod")))
	for ref, want := range map[string]string{"": "m1", "dev": "m1", "m2": "m2", "m3": "m3"} {
		m, err := h.choose(ref)
		require.NoError(t, err)
		require.Equal(t, want, m.MeshID)
	}
	for ref, want := range map[string]string{"prod": "ambiguous_mesh", "other": "unknown_mesh"} {
		_, err := h.choose(ref)
		require.Equal(t, want, explain(err).code)
		require.Equal(t, exitUsage, explain(err).exit)
	}
	require.NoError(t, h.use("m3"))
	m, err := h.choose("")
	require.NoError(t, err)
	require.Equal(t, "m3", m.MeshID)
	require.NoError(t, h.forget("m3"))
	_, err = h.choose("")
	require.Equal(t, "no_default_mesh", explain(err).code)
}

func TestWhereTheFilesAre(t *testing.T) {
	t.Parallel()
	env := func(pairs ...string) func(string) string {
		return func(key string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == key {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	for _, c := range []struct {
		name, dir, profile string
		env                func(string) string
		want               string
	}{
		{"flag", "/a", "", env("CLAUDEMESH_HOME", "/b"), "/a"},
		{"environment", "", "", env("CLAUDEMESH_HOME", "/b"), "/b"},
		{"profile", "/a", "ana", env("CLAUDEMESH_PROFILE", "bo"), "/a/profiles/ana"},
		{"profile from the environment", "/a", "", env("CLAUDEMESH_PROFILE", "bo"), "/a/profiles/bo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, err := findHome(c.dir, c.profile, c.env)
			require.NoError(t, err)
			require.Equal(t, filepath.FromSlash(c.want), h.dir)
		})
	}
	for _, bad := range []string{"..", "a/b", " ", strings.Repeat("x", 65)} {
		_, err := findHome("/a", bad, env())
		require.Equal(t, exitUsage, explain(err).exit, "%q", bad)
	}
}

func TestMembershipDoesNotPrintItsKey(t *testing.T) {
	t.Parallel()
	m := testMembership(t, "m1", "dev")
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		_, err := (&out).WriteString(fmt.Sprintf(verb, m))
		require.NoError(t, err)
	}
	require.NotContains(t, out.String(), m.Seed)
}
