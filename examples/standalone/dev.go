package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/identity"
)

// makeDevMesh makes a mesh to try the broker with, and prints how to join it. The invite goes to people, never through the logger.
func makeDevMesh(ctx context.Context, b *broker.Broker, c *config, addr net.Addr, getenv func(string) string, stderr io.Writer) error {
	path, err := ownerKeyFile(getenv)
	if err != nil {
		return err
	}
	owner, err := ownerKey(path)
	if err != nil {
		return fmt.Errorf("key of the mesh dev's owner: %w", err)
	}
	mesh, err := b.CreateMesh(ctx, broker.NewMesh{Slug: "dev", Name: "dev", OwnerPubkey: owner.Public()})
	if err != nil {
		return err
	}
	if c.options.InviteV2 { // the owner is no member here, so nobody else could give it
		if err := b.SetRootKey(ctx, mesh.ID, identity.DeriveRootKey(owner, mesh.ID)); err != nil {
			return err
		}
	}
	url := c.url
	if url == "" {
		url = "ws://" + reachable(addr) + "/ws"
	}
	link, invite, err := b.CreateInvite(ctx, mesh.ID, owner, broker.InviteOptions{
		BrokerURL: url, MaxUses: 100, TTL: 30 * 24 * time.Hour, FirstIsAdmin: true,
	})
	if err != nil {
		return fmt.Errorf("invite to the mesh dev: %w", err)
	}
	say(stderr, `
The mesh "dev" waits for its members. This invite lets %d people join, the first of them as admin; whoever has it has the mesh's key:

  %s

Next, in a second terminal (CLAUDEMESH_PROFILE lets several people use one machine):

  export CLAUDEMESH_PROFILE=ana
  go run ./cmd/claudemesh join %[2]s --name ana
  go run ./cmd/claudemesh topic create deploys
  go run ./cmd/claudemesh inbox --follow

and in a third:

  export CLAUDEMESH_PROFILE=bo
  go run ./cmd/claudemesh join %[2]s --name bo
  go run ./cmd/claudemesh members
  go run ./cmd/claudemesh send ana "hello from bo"
  go run ./cmd/claudemesh topic join deploys
  go run ./cmd/claudemesh topic post deploys "it is out"
  go run ./cmd/claudemesh topic tail deploys

To answer, stop ana's inbox with Ctrl-C, or open a terminal of hers (CLAUDEMESH_PROFILE=ana):

  go run ./cmd/claudemesh send bo "well done"

To invite others (ana is an admin, and this is the owner's key; a colleague needs an address that reaches this machine, see -url):

  go run ./cmd/claudemesh invite create --owner-key %[3]s

Who joins later (a third profile, the same invite, topic join, topic tail) first waits for the topic's key, which a member who is listening passes on.
go run ./cmd/claudemesh --help tells the rest.

`, invite.MaxUses, link, shellWord(path))
	return nil
}

// shellWord quotes a path for a shell, if it needs that.
func shellWord(path string) string {
	if strings.IndexFunc(path, func(r rune) bool {
		return !strings.ContainsRune(`/\\:._-~`, r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) < 0 {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// reachable is the address under which this machine reaches a listener on addr.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(tcp.Port))
}

// ownerKeyFile is where the key of the mesh dev's owner is kept: below XDG_STATE_HOME, or below ~/.local/state.
func ownerKeyFile(getenv func(string) string) (string, error) {
	dir := getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) { // empty, or to be ignored
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no place for the key of the mesh dev's owner; set XDG_STATE_HOME: %w", err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "claudemesh", "dev-owner.key"), nil
}

// ownerKey reads a key file, or makes it: 64 hex digits, for its owner's eyes only.
func ownerKey(path string) (identity.KeyPair, error) {
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return makeOwnerKey(path)
	case err != nil:
		return identity.KeyPair{}, err
	}
	if info, err := os.Stat(path); err != nil {
		return identity.KeyPair{}, err
	} else if info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		return identity.KeyPair{}, fmt.Errorf("others may read %s; say chmod 600 on it, or delete it for a new one", path)
	}
	key, err := identity.KeyPairFromSeedHex(strings.TrimSpace(string(raw)))
	if err != nil {
		return identity.KeyPair{}, fmt.Errorf("%s is damaged; delete it for a new one: %w", path, err)
	}
	return key, nil
}

func makeOwnerKey(path string) (identity.KeyPair, error) {
	key, err := identity.GenerateKey()
	if err != nil {
		return identity.KeyPair{}, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return identity.KeyPair{}, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return identity.KeyPair{}, err
	}
	_, err = f.WriteString(key.SeedHex() + "\n")
	return key, errors.Join(err, f.Sync(), f.Close())
}
