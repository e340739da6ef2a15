package client_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// shortLinks switches invites of version 2 on.
func shortLinks(o *broker.Options) { o.InviteV2 = true }

// From signing to a member who talks, by both kinds of link.
func TestInviteFromOwnerToMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, shortLinks)
		ctx := t.Context()
		require.NoError(t, mesh.Broker.SetRootKey(ctx, mesh.ID, identity.DeriveRootKey(mesh.Owner, mesh.ID)))
		ana := mesh.Join("ana")
		var made []client.Invite
		for _, short := range []bool{false, true} {
			before := time.Now()
			i, err := ana.CreateInvite(ctx, client.InviteOptions{
				Owner: mesh.Owner, Short: short, MaxUses: 2, TTL: time.Hour, Preset: wire.InvitePreset{RoleTag: "dev", Groups: []wire.Group{{Name: "eng"}}},
			})
			require.NoError(t, err)
			require.Equal(t, short, i.Version == 2)
			require.Equal(t, short, strings.HasPrefix(i.Link, "http://"+brokertest.Host+"/i/"), "%t", short)
			require.Equal(t, identity.RoleMember, i.Role)
			require.Equal(t, 2, i.MaxUses)
			require.WithinDuration(t, before.Add(time.Hour), i.ExpiresAt, time.Second)
			require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", i, i, &i, []any{i}), i.Link)
			made = append(made, i)

			got, err := client.Join(ctx, client.JoinOptions{Invite: i.Link, DisplayName: "bo", HTTPClient: mesh.HTTP})
			require.NoError(t, err)
			require.Equal(t, mesh.URL, got.BrokerURL)
			require.Equal(t, mesh.ID, got.MeshID)
			require.Equal(t, "test", got.MeshSlug)
			require.Equal(t, identity.DeriveRootKey(mesh.Owner, mesh.ID), got.Invite.MeshRootKey, "every invite of the mesh gives the same")
			again, err := client.Join(ctx, client.JoinOptions{Invite: i.Link, DisplayName: "bo", Key: got.Key, HTTPClient: mesh.HTTP})
			require.NoError(t, err)
			require.True(t, again.AlreadyMember)
			require.Equal(t, got.MemberID, again.MemberID)

			o := got.Options()
			o.HTTPClient = mesh.HTTP
			bo, err := client.Dial(ctx, o)
			require.NoError(t, err)
			_, err = bo.Send(ctx, "ana", "here I am")
			require.NoError(t, err)
			require.Equal(t, "here I am", ana.Receive().Text)
			require.ErrorIs(t, bo.RevokeInvite(ctx, i.ID), wire.Forbidden)
			_, err = bo.CreateInvite(ctx, client.InviteOptions{Owner: mesh.Owner})
			require.ErrorIs(t, err, wire.Forbidden)
			require.NoError(t, bo.Close())
		}
		listed, err := ana.Invites(ctx)
		require.NoError(t, err)
		require.Len(t, listed, 2)
		for n, i := range listed {
			require.Equal(t, made[1-n].ID, i.ID, "newest first")
			require.Equal(t, 1, i.UsedCount)
			require.Nil(t, i.RevokedAt)
			require.NoError(t, ana.RevokeInvite(ctx, i.ID))
			_, err = client.Join(ctx, client.JoinOptions{Invite: made[1-n].Link, DisplayName: "cy", HTTPClient: mesh.HTTP})
			require.ErrorIs(t, err, wire.Code("invite_revoked"))
		}
		require.ErrorIs(t, ana.RevokeInvite(ctx, "nothing"), wire.NotFound)
	})
}

func TestInvitesThatMeetAreMadeAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Join("ana")
		links := map[string]bool{}
		for range 3 { // in one second
			i, err := ana.CreateInvite(t.Context(), client.InviteOptions{Owner: mesh.Owner})
			require.NoError(t, err)
			links[i.Link] = true
		}
		require.Len(t, links, 3)

		other, err := identity.GenerateKey()
		require.NoError(t, err)
		_, err = ana.CreateInvite(t.Context(), client.InviteOptions{Owner: other})
		require.ErrorIs(t, err, client.ErrNotOwner)
		_, err = ana.CreateInvite(t.Context(), client.InviteOptions{Owner: mesh.Owner, Short: true})
		require.ErrorIs(t, err, wire.InviteV2Disabled)
		for name, o := range map[string]client.InviteOptions{
			"no key": {}, "role": {Owner: mesh.Owner, Role: "owner"}, "address": {Owner: mesh.Owner, BrokerURL: "https://h/ws"},
			"time": {Owner: mesh.Owner, TTL: -time.Hour}, "uses": {Owner: mesh.Owner, MaxUses: -1},
			"short role": {Owner: mesh.Owner, Role: "owner", Short: true}, "separator": {Owner: mesh.Owner, BrokerURL: "ws://h/|/ws"},
		} {
			_, err = ana.CreateInvite(t.Context(), o)
			require.Error(t, err, name)
		}
		_, err = ana.CreateInvite(t.Context(), client.InviteOptions{Owner: mesh.Owner, MaxUses: 10_001})
		require.ErrorIs(t, err, wire.InvalidArgs)
		listed, err := ana.Invites(t.Context())
		require.NoError(t, err)
		require.Len(t, listed, 3)
	})
}

// An owner who is a member gives the root key with the first short link; an admin with the owner's key file cannot.
func TestRootKeyGoesWithTheOwnersFirstShortLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, shortLinks)
		ctx := t.Context()
		ana := mesh.Join("ana")
		_, err := ana.CreateInvite(ctx, client.InviteOptions{Owner: mesh.Owner, Short: true})
		require.ErrorIs(t, err, wire.Forbidden)
		require.NoError(t, mesh.Broker.SetOwner(ctx, mesh.ID, mesh.Member("ana").ID, ""))
		i, err := ana.CreateInvite(ctx, client.InviteOptions{Owner: mesh.Owner, Short: true})
		require.NoError(t, err)
		got, err := client.Join(ctx, client.JoinOptions{Invite: i.Link, DisplayName: "bo", HTTPClient: mesh.HTTP})
		require.NoError(t, err)
		require.Equal(t, identity.DeriveRootKey(mesh.Owner, mesh.ID), got.Invite.MeshRootKey)
		_, err = ana.CreateInvite(ctx, client.InviteOptions{Owner: mesh.Owner, Short: true, RootKey: strings.Repeat("A", 43)})
		require.ErrorIs(t, err, wire.InvalidArgs, "another than the mesh has")
	})
}

// An invite may be signed where there is no connection, and uploaded by an admin who has no key of the owner's.
func TestInviteIsSignedApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		made, err := client.MakeInvite(mesh.ID, "test", client.InviteOptions{Owner: mesh.Owner, BrokerURL: mesh.URL, Role: identity.RoleAdmin})
		require.NoError(t, err)
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", made, made, &made), made.Upload.Token)
		raw, err := wire.Encode(made.Upload)
		require.NoError(t, err)
		var carried wire.InviteCreate
		require.NoError(t, wire.Decode(raw, &carried))
		ana := mesh.Join("ana")
		_, err = client.Join(t.Context(), client.JoinOptions{Invite: made.Link, DisplayName: "bo", HTTPClient: mesh.HTTP})
		require.ErrorIs(t, err, wire.Code("invite_not_found"), "not before it was uploaded")
		id, err := ana.UploadInvite(t.Context(), carried)
		require.NoError(t, err)
		require.True(t, wire.IsID(id))
		_, err = ana.UploadInvite(t.Context(), carried)
		require.ErrorIs(t, err, wire.InviteExists)
		got, err := client.Join(t.Context(), client.JoinOptions{Invite: made.Link, DisplayName: "bo", HTTPClient: mesh.HTTP})
		require.NoError(t, err)
		require.Equal(t, identity.RoleAdmin, got.Role)
	})
}

// tap records what a client sends.
type tap struct {
	mu   sync.Mutex
	sent strings.Builder // guarded by mu
}

type tapped struct {
	net.Conn
	to *tap
}

func (c tapped) Write(p []byte) (int, error) {
	c.to.mu.Lock()
	c.to.sent.Write(p)
	c.to.mu.Unlock()
	return c.Conn.Write(p)
}

// D38: the owner's secret key signs here and goes nowhere: it is in no byte that is sent, and so cannot be stored.
func TestD38OwnersKeyStaysOnItsMachine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, shortLinks)
		ctx := t.Context()
		require.NoError(t, mesh.Broker.SetRootKey(ctx, mesh.ID, identity.DeriveRootKey(mesh.Owner, mesh.ID)))
		line := &tap{}
		transport, ok := mesh.HTTP.Transport.(*http.Transport)
		require.True(t, ok)
		dial := transport.DialContext
		recorded := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			return tapped{c, line}, err
		}}}
		ana := mesh.Join("ana", func(o *client.Options) { o.HTTPClient = recorded })
		long, err := ana.CreateInvite(ctx, client.InviteOptions{Owner: mesh.Owner})
		require.NoError(t, err)
		_, err = ana.CreateInvite(ctx, client.InviteOptions{Owner: mesh.Owner, Short: true})
		require.NoError(t, err)
		require.NoError(t, ana.Close())

		// The frames of a client are masked.
		line.mu.Lock()
		sent := line.sent.String()
		line.mu.Unlock()
		plain := unmask(t, sent)
		require.Contains(t, plain, `"invite_create"`, "the recording can be read")
		require.Contains(t, plain, strings.TrimPrefix(long.Link, "ic://join/"))
		seed, err := hex.DecodeString(mesh.Owner.SeedHex())
		require.NoError(t, err)
		_, x := mesh.Owner.X25519()
		for _, secret := range []string{mesh.Owner.SeedHex(), string(seed), hex.EncodeToString(x[:]), string(x[:])} {
			require.NotContains(t, plain, secret)
			require.NotContains(t, sent, secret)
		}
		// Of the token, which holds the root key, the store has the hash.
		rows, err := mesh.Store.Invites(ctx, mesh.ID)
		require.NoError(t, err)
		require.Len(t, rows, 2)
		require.Equal(t, identity.TokenHash(strings.TrimPrefix(long.Link, "ic://join/")), rows[1].TokenHash)
		require.Empty(t, rows[1].Capability, "nor the text that was signed, which holds it too")
		for _, row := range rows {
			text := fmt.Sprintf("%+v", struct{ store.Invite }{row})
			require.NotContains(t, text, identity.DeriveRootKey(mesh.Owner, mesh.ID))
			require.NotContains(t, text, mesh.Owner.SeedHex())
		}
	})
}

// unmask reads the WebSocket frames behind the request for the upgrade.
func unmask(t *testing.T, sent string) string {
	t.Helper()
	var out strings.Builder
	for _, part := range strings.SplitAfter(sent, "\r\n\r\n")[1:] {
		for raw := []byte(part); len(raw) >= 6 && raw[0]&0x80 != 0 && raw[1]&0x80 != 0; {
			n, at := int(raw[1]&0x7f), 2
			if n == 126 {
				n, at = int(raw[2])<<8|int(raw[3]), 4
			}
			if len(raw) < at+4+n {
				break
			}
			mask, body := raw[at:at+4], raw[at+4:at+4+n]
			for i := range body {
				out.WriteByte(body[i] ^ mask[i%4])
			}
			out.WriteByte('\n')
			raw = raw[at+4+n:]
		}
	}
	return out.String()
}
