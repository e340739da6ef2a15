package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// seedFile lists meshes and members that are to exist; docs/operations.md, seeding.
type seedFile struct {
	Meshes []seedMesh `json:"meshes"`
}

type seedMesh struct {
	ID          string       `json:"id"`
	Slug        string       `json:"slug"`
	Name        string       `json:"name"`
	OwnerPubkey string       `json:"ownerPubkey"`
	Members     []seedMember `json:"members"`
}

// seedMember has no secretKey: a seed file may hold one, for the programs that it also drives, and the broker does not read it.
type seedMember struct {
	MemberID    string `json:"memberId"`
	DisplayName string `json:"displayName"`
	Role        string `json:"role"`
	Pubkey      string `json:"pubkey"`
}

// maxSeed bounds a seed file.
const maxSeed = 64 << 20

// Seed makes the meshes and members of a JSON file exist. A mesh is known by its id, or, when the file gives none, by its slug; a member by
// its id, or by its key. What exists already is left as it is, so that seeding again changes nothing; what exists differently, under another slug, with
// another owner or with another key, is an error. An error names the entry. The entries before it are done, and a second try goes on from there.
//
//	{"meshes":[{"id":"m_demo","slug":"demo","name":"Demo","ownerPubkey":"<64 hex digits, optional>",
//	  "members":[{"memberId":"mem_a","displayName":"alice","role":"admin","pubkey":"<64 hex digits>"}]}]}
func (b *Broker) Seed(ctx context.Context, r io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(r, maxSeed+1))
	if err != nil {
		return fmt.Errorf("broker: seed: %w", err)
	}
	if len(raw) > maxSeed {
		return fmt.Errorf("broker: seed: larger than %d bytes", maxSeed)
	}
	var f seedFile
	if err := wire.Decode(raw, &f); err != nil {
		return fmt.Errorf("broker: seed: %s", strings.Replace(fault(err).Text, "frame", "file", 1))
	}
	for i, entry := range f.Meshes {
		at := fmt.Sprintf("meshes[%d] (%s)", i, cmp.Or(entry.ID, entry.Slug))
		mesh, err := b.seedMesh(ctx, entry)
		if err != nil {
			return fmt.Errorf("broker: seed: %s: %w", at, err)
		}
		for j, member := range entry.Members {
			if err := b.seedMember(ctx, mesh.ID, member); err != nil {
				return fmt.Errorf("broker: seed: %s.members[%d] (%s): %w", at, j, cmp.Or(member.MemberID, member.DisplayName), err)
			}
		}
	}
	return nil
}

func (b *Broker) seedMesh(ctx context.Context, e seedMesh) (store.Mesh, error) {
	if e.ID == "" && e.Slug == "" {
		return store.Mesh{}, errors.New("needs an id or a slug")
	}
	var mesh store.Mesh
	var err error
	if e.ID != "" {
		mesh, err = b.store.Mesh(ctx, e.ID)
	} else {
		mesh, err = b.store.MeshBySlug(ctx, e.Slug)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return b.CreateMesh(ctx, NewMesh{ID: e.ID, Slug: e.Slug, Name: e.Name, OwnerPubkey: e.OwnerPubkey})
	case err != nil:
		return mesh, err
	case e.Slug != "" && e.Slug != mesh.Slug:
		return mesh, fmt.Errorf("exists with slug %q", mesh.Slug)
	case e.OwnerPubkey == "" || strings.EqualFold(e.OwnerPubkey, mesh.OwnerPubkey):
		return mesh, nil
	case mesh.OwnerPubkey != "":
		return mesh, fmt.Errorf("exists with owner %s", mesh.OwnerPubkey)
	default:
		return mesh, b.SetOwner(ctx, mesh.ID, "", e.OwnerPubkey)
	}
}

func (b *Broker) seedMember(ctx context.Context, meshID string, e seedMember) error {
	if err := checkKey("pubkey", e.Pubkey); err != nil {
		return err
	}
	byKey, err := b.MemberByKey(ctx, meshID, e.Pubkey)
	switch {
	case err == nil && e.MemberID != "" && byKey.ID != e.MemberID:
		return fmt.Errorf("its key is member %s's", byKey.ID)
	case err == nil:
		return nil
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if e.MemberID != "" {
		if _, err := b.store.Member(ctx, meshID, e.MemberID); err == nil {
			return errors.New("exists with another key")
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	_, err = b.AddMember(ctx, meshID, NewMember{ID: e.MemberID, Name: e.DisplayName, Pubkey: e.Pubkey, Role: e.Role})
	return err
}
