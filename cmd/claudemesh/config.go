package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// home is the directory of one person on this machine:
//
//	config.json         which mesh is meant when none is named
//	pins.json           what the brokers said first (client.FilePins)
//	meshes/<id>.json    one membership each, with its secret key
//	joining/<hash>.json the key of a join that has had no answer yet
//	run/                how to reach the sessions that are running
//	profiles/<name>/    the same again for another person
//
// Directories that are made here are 0700, files 0600, and a file is replaced whole or not at all.
type home struct{ dir string }

const (
	meshesDir  = "meshes"
	joiningDir = "joining"
	runDir     = "run"
)

// findHome chooses the directory: --config, CLAUDEMESH_HOME, or the user's configuration directory; and in it the profile.
func findHome(dir, profile string, getenv func(string) string) (home, error) {
	if dir == "" {
		dir = getenv("CLAUDEMESH_HOME")
	}
	if dir == "" {
		base, err := os.UserConfigDir()
		if err != nil {
			return home{}, failf(exitUsage, "no_config_dir", "There is no configuration directory on this machine; name one with --config or CLAUDEMESH_HOME.")
		}
		dir = filepath.Join(base, "claudemesh")
	}
	if profile == "" {
		profile = getenv("CLAUDEMESH_PROFILE")
	}
	if profile != "" {
		if !wire.IsID(profile) {
			return home{}, failf(exitUsage, "bad_profile", "A profile's name has 1 to 64 characters of A-Z, a-z, 0-9, _ and -.")
		}
		dir = filepath.Join(dir, "profiles", profile)
	}
	return home{dir: dir}, nil
}

func (h home) path(parts ...string) string {
	return filepath.Join(append([]string{h.dir}, parts...)...)
}

// membership is one file in meshes.
type membership struct {
	Version   int       `json:"version"` // 1
	MeshID    string    `json:"meshId"`
	MeshSlug  string    `json:"meshSlug"`
	BrokerURL string    `json:"brokerUrl"`
	MemberID  string    `json:"memberId"`
	Name      string    `json:"name"`           // as of joining
	Role      string    `json:"role,omitempty"` // as of joining
	Seed      string    `json:"seed"`           // the secret: 64 hex digits
	JoinedAt  time.Time `json:"joinedAt"`
}

// String keeps the seed out of whatever is printed or logged.
func (m membership) String() string { return "membership of " + m.MeshID }

// GoString is String.
func (m membership) GoString() string { return m.String() }

func (m membership) key() (identity.KeyPair, error) {
	k, err := identity.KeyPairFromSeedHex(m.Seed)
	if err != nil {
		return k, failf(exitFailed, "damaged", "The key in the file of mesh %s is damaged; restore the file or join again.", m.MeshID)
	}
	return k, nil
}

// slug is the mesh's short name for people; it comes from an invite.
func (m membership) slug() string { return name(m.MeshSlug) }

// memberships lists what was joined, by slug.
func (h home) memberships() ([]membership, error) {
	entries, err := os.ReadDir(h.path(meshesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the memberships: %w", err)
	}
	var out []membership
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		m, err := h.membership(strings.TrimSuffix(e.Name(), ".json"))
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	slices.SortStableFunc(out, func(a, b membership) int { return strings.Compare(a.MeshSlug, b.MeshSlug) })
	return out, nil
}

// membership reads one file. A key that others on the machine can read is no secret, so such a file is refused.
func (h home) membership(meshID string) (membership, error) {
	var m membership
	path := h.path(meshesDir, meshID+".json")
	if err := readSecret(path, &m); err != nil {
		return m, err
	}
	if m.Version != 1 || m.MeshID != meshID || !wire.IsID(m.MeshID) || !wire.IsID(m.MemberID) || m.BrokerURL == "" {
		return m, failf(exitFailed, "damaged", "The file %s is damaged; restore it or join again.", path)
	}
	return m, nil
}

// save writes a membership and makes it the default if there is none.
func (h home) save(m membership) error {
	m.Version = 1
	if !wire.IsID(m.MeshID) {
		return fmt.Errorf("mesh id %q is no id", m.MeshID)
	}
	if err := writeJSON(h.path(meshesDir, m.MeshID+".json"), m); err != nil {
		return err
	}
	s, err := h.settings()
	if err != nil || s.Default != "" {
		return err
	}
	return h.use(m.MeshID)
}

// forget removes a membership's file, and with it the only copy of its key.
func (h home) forget(meshID string) error {
	if err := os.Remove(h.path(meshesDir, meshID+".json")); err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	s, err := h.settings()
	if err != nil || s.Default != meshID {
		return err
	}
	return h.use("")
}

// settings is config.json.
type settings struct {
	Version int    `json:"version"` // 1
	Default string `json:"default"` // mesh id
}

func (h home) settings() (settings, error) {
	s := settings{Version: 1}
	raw, err := os.ReadFile(h.path("config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read %s: %w", h.path("config.json"), err)
	}
	return s, nil
}

func (h home) use(meshID string) error {
	return writeJSON(h.path("config.json"), settings{Version: 1, Default: meshID})
}

// choose finds the membership that ref means: a mesh's slug or id, or, when it is empty, the default or the only one.
func (h home) choose(ref string) (membership, error) {
	all, err := h.memberships()
	if err != nil {
		return membership{}, err
	}
	if len(all) == 0 {
		return membership{}, failf(exitUsage, "no_mesh", "You are in no mesh yet (looked in %s); ask somebody for an invite and run: claudemesh join <invite>", h.dir)
	}
	if ref == "" {
		s, err := h.settings()
		if err != nil {
			return membership{}, err
		}
		if len(all) == 1 {
			return all[0], nil
		}
		if ref = s.Default; ref == "" {
			return membership{}, failf(exitUsage, "no_default_mesh", "You are in several meshes; say which with --mesh, or choose one with: claudemesh use <mesh>")
		}
	}
	var found []membership
	for _, m := range all {
		if m.MeshID == ref {
			return m, nil
		}
		if m.MeshSlug == ref {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return membership{}, failf(exitUsage, "unknown_mesh", "You are in no mesh called %q; claudemesh meshes lists yours.", line(ref))
	default:
		return membership{}, failf(exitUsage, "ambiguous_mesh", "Several of your meshes are called %q; use the id, which claudemesh meshes shows.", line(ref))
	}
}

// pins opens the file that remembers keys.
func (h home) pins() (*client.FilePins, error) {
	if err := makeDir(h.dir); err != nil {
		return nil, err
	}
	pins, err := client.OpenFilePins(h.path("pins.json"))
	if err != nil {
		return nil, fmt.Errorf("open the pinned keys: %w", err)
	}
	return pins, nil
}

// makeDir makes a directory for its owner alone. One that exists is left as it is: the files in it protect themselves.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the configuration directory: %w", err)
	}
	return nil
}

// readSecret reads a JSON file that only its owner may read.
func readSecret(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return failf(exitFailed, "permissions", "Others on this machine may read the secret key in %s; make it yours alone with: chmod 600 %[1]s", path)
	}
	if err := json.NewDecoder(f).Decode(v); err != nil {
		// The decoder's own text could quote the secret.
		return failf(exitFailed, "damaged", "The file %s is damaged; restore it or join again.", path)
	}
	return nil
}

// writeJSON replaces a file by one that only its owner may read. After a crash there is the old one or the new one.
func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.Write(append(raw, '\n'))
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // the error before says what went wrong
		return fmt.Errorf("write %s: %w", path, err)
	}
	if d, err := os.Open(dir); err == nil { // so that the name survives a crash too; not every system can
		_ = d.Sync()
		_ = d.Close()
	}
	return nil
}
