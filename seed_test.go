package broker_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
)

func TestSeedingTwiceIsSeedingOnce(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	b, ctx := mesh.Broker, t.Context()
	alice, bob := hostKey(t), hostKey(t)
	file := fmt.Sprintf(`{"meshes":[
		{"id":"m_demo","slug":"demo","name":"Demo","ownerPubkey":%q,"note":"ignored","members":[
			{"memberId":"mem_a","displayName":"alice","role":"admin","pubkey":%q,"secretKey":%q},
			{"displayName":"bob","pubkey":%q}]},
		{"slug":"other"}]}`, mesh.Owner.Public(), strings.ToUpper(alice.Public()), alice.SeedHex(), bob.Public())
	for range 2 {
		require.NoError(t, b.Seed(ctx, strings.NewReader(file)))
		m, err := b.MeshBySlug(ctx, "demo")
		require.NoError(t, err)
		require.Equal(t, []string{"m_demo", "Demo", mesh.Owner.Public()}, []string{m.ID, m.Name, m.OwnerPubkey})
		members, err := b.Members(ctx, "m_demo")
		require.NoError(t, err)
		require.Len(t, members, 2)
		a, err := b.Member(ctx, "m_demo", "mem_a")
		require.NoError(t, err)
		require.Equal(t, []string{"alice", store.RoleAdmin, alice.Public()}, []string{a.Name, a.Role, a.Pubkey})
		other, err := b.MeshBySlug(ctx, "other")
		require.NoError(t, err)
		require.Empty(t, other.OwnerPubkey)
	}
	hostSignIn(t, mesh, store.Member{MeshID: "m_demo", ID: "mem_a"}, alice, nil)

	// What was missing is added, what was changed since is left.
	require.NoError(t, b.SetMemberRole(ctx, "m_demo", "mem_a", store.RoleMember))
	more := strings.Replace(file, `{"slug":"other"}`, fmt.Sprintf(`{"slug":"other","ownerPubkey":%q}`, bob.Public()), 1)
	require.NoError(t, b.Seed(ctx, strings.NewReader(more)))
	a, err := b.Member(ctx, "m_demo", "mem_a")
	require.NoError(t, err)
	require.Equal(t, store.RoleMember, a.Role)
	other, err := b.MeshBySlug(ctx, "other")
	require.NoError(t, err)
	require.Equal(t, bob.Public(), other.OwnerPubkey)
}

func TestSeedErrorsNameTheEntry(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	b, ctx := mesh.Broker, t.Context()
	known, owner, fresh := hostKey(t), mesh.Owner.Public(), hostKey(t).Public()
	_, err := b.CreateMesh(ctx, broker.NewMesh{ID: "m1", Slug: "one", OwnerPubkey: owner})
	require.NoError(t, err)
	_, err = b.AddMember(ctx, "m1", broker.NewMember{ID: "a", Name: "ana", Pubkey: known.Public()})
	require.NoError(t, err)
	for _, row := range []struct{ file, want string }{
		{`{`, "broker: seed: file is not valid JSON"},
		{`[]`, "broker: seed: file must be one JSON object, not an array"},
		{`{"meshes":[{"id":7}]}`, "must be a string"},
		{`{"meshes":[{"ID":"m1"}]}`, "ID"},
		{`{"meshes":[{"id":"m1"},{"name":"x"}]}`, "meshes[1] (): needs an id or a slug"},
		{`{"meshes":[{"id":"a/b"}]}`, "meshes[0] (a/b): invalid_args: ID must be"},
		{`{"meshes":[{"id":"m1","slug":"two"}]}`, `meshes[0] (m1): exists with slug "one"`},
		{`{"meshes":[{"id":"m2","slug":"one"}]}`, `meshes[0] (m2): create mesh: store: conflict`},
		{`{"meshes":[{"id":"m1","ownerPubkey":"` + fresh + `"}]}`, "meshes[0] (m1): exists with owner " + owner},
		{`{"meshes":[{"id":"m1","members":[{"displayName":"bo"}]}]}`, "meshes[0] (m1).members[0] (bo): invalid_args: pubkey must be"},
		{`{"meshes":[{"id":"m1","members":[{"memberId":"b","pubkey":"` + fresh + `"}]}]}`, "members[0] (b): invalid_args: Name must"},
		{`{"meshes":[{"id":"m1","members":[{"memberId":"b","pubkey":"` + known.Public() + `"}]}]}`, "members[0] (b): its key is member a's"},
		{`{"meshes":[{"id":"m1","members":[{"memberId":"a","pubkey":"` + fresh + `"}]}]}`, "members[0] (a): exists with another key"},
		{`{"meshes":[{"id":"m1","members":[{"displayName":"bo","role":"king","pubkey":"` + fresh + `"}]}]}`, "members[0] (bo): invalid_args: Role must be"},
	} {
		require.ErrorContains(t, b.Seed(ctx, strings.NewReader(row.file)), row.want, row.file)
	}
}
