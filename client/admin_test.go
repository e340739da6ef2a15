package client_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

// ended waits for the end of a client and returns the broker's reason, having made sure that the client stays away.
func ended(t *testing.T, mesh *brokertest.Mesh, p *brokertest.Peer) *client.RefusedError {
	t.Helper()
	<-p.Done()
	refused, ok := errors.AsType[*client.RefusedError](p.Err())
	require.True(t, ok, "%v", p.Err())
	require.True(t, refused.Permanent())
	require.NotEmpty(t, refused.Text, "it says why")
	_, err := p.Client.Send(t.Context(), "*", "hello")
	require.ErrorIs(t, err, refused.Code, "requests fail with the reason")
	time.Sleep(time.Hour)
	for _, s := range mesh.Broker.Sessions(mesh.ID) {
		require.NotEqual(t, p.SessionID(), s.SessionID, "it does not come back by itself")
	}
	return refused
}

func TestKickEndsAClientForGood(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ana := mesh.Join("ana")
		for _, tt := range []struct {
			who  func(*brokertest.Peer) client.Selection
			code wire.Code
		}{
			{func(*brokertest.Peer) client.Selection { return client.Selection{Target: "bo"} }, "kicked"},
			{func(p *brokertest.Peer) client.Selection { return client.Selection{Target: p.SessionPubkey()} }, "kicked"},
			{func(*brokertest.Peer) client.Selection { return client.Selection{All: true} }, "kicked"},
			{func(*brokertest.Peer) client.Selection { return client.Selection{Stale: time.Microsecond} }, "kicked_stale"},
		} {
			bo := mesh.Join("bo")
			time.Sleep(time.Second)
			done, err := ana.Kick(t.Context(), tt.who(bo))
			require.NoError(t, err)
			require.Equal(t, client.Ended{Names: []string{"bo"}}, done)
			refused := ended(t, mesh, bo)
			var last client.Event
			for last = range bo.Events() {
			}
			require.Equal(t, client.EventDisconnected, last.Name)
			require.ErrorIs(t, last.Err, tt.code)
			require.Equal(t, tt.code, refused.Code)
			require.Equal(t, wire.CloseKicked, refused.CloseCode)
		}
		control := mesh.Join("bo", func(o *client.Options) { o.NoSessionKey = true })
		done, err := ana.Kick(t.Context(), client.Selection{Target: "bo"})
		require.NoError(t, err)
		require.Equal(t, client.Ended{Names: []string{}, Spared: []string{"bo"}}, done)
		require.True(t, control.Connected())
	})
}

func TestBanEndsAClientForGood(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		soon := func(o *client.Options) { o.Backoff = func(int) time.Duration { return 10 * time.Millisecond } }
		late := func(o *client.Options) { o.Backoff = func(int) time.Duration { return time.Minute } }
		ana, bo, away := mesh.Join("ana", soon), mesh.Join("bo", soon), mesh.Join("bo", late)
		mesh.Restart()
		time.Sleep(time.Second)
		require.Equal(t, []bool{true, true, false}, []bool{ana.Connected(), bo.Connected(), away.Connected()})
		name, err := ana.Ban(t.Context(), "bo", "left")
		require.NoError(t, err)
		require.Equal(t, "bo", name)
		for p, code := range map[*brokertest.Peer]wire.Code{bo: wire.ReasonBanned, away: wire.Revoked} {
			refused := ended(t, mesh, p)
			require.Equal(t, []any{wire.CloseBanned, code}, []any{refused.CloseCode, refused.Code})
		}
		bans, err := ana.Bans(t.Context())
		require.NoError(t, err)
		require.Len(t, bans, 1)
		require.Equal(t, bo.Pubkey(), bans[0].Pubkey)
		_, err = ana.Ban(t.Context(), "bo", "")
		require.ErrorIs(t, err, wire.NotFound)
		_, err = ana.Ban(t.Context(), "ana", "")
		require.ErrorIs(t, err, wire.Invalid)

		name, err = ana.Unban(t.Context(), bo.Pubkey())
		require.NoError(t, err)
		require.Equal(t, "bo", name)
		_, err = ana.Unban(t.Context(), "bo")
		require.ErrorIs(t, err, wire.NotFound)
		back := mesh.Join("bo")
		ana.Send("bo", "welcome back")
		require.Equal(t, "welcome back", back.Receive().Text)
	})
}

func TestDisconnectedClientComesBackAsItWas(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		require.NoError(t, bo.SetSummary(t.Context(), "writing tests"))
		before := bo.Hello().PresenceID
		done, err := ana.Disconnect(t.Context(), client.Selection{Target: "bo"})
		require.NoError(t, err)
		require.Equal(t, client.Ended{Names: []string{"bo"}}, done)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.NoError(t, bo.Err())
		require.True(t, bo.Connected())
		require.NotEqual(t, before, bo.Hello().PresenceID, "the old place is gone")
		peers, err := ana.Peers(t.Context())
		require.NoError(t, err)
		require.Len(t, peers, 2)
		require.Equal(t, "writing tests", *peers[1].Summary, "it was told again what it had been told")
		ana.Send("bo", "still there?")
		require.Equal(t, "still there?", bo.Receive().Text)

		// Oneself: the answer comes first.
		done, err = ana.Disconnect(t.Context(), client.Selection{Target: ana.SessionPubkey()})
		require.NoError(t, err)
		require.Equal(t, []string{"ana"}, done.Names)
		time.Sleep(time.Minute)
		require.True(t, ana.Connected())
	})
}

func TestMembersCannotGovern(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		ctx := t.Context()
		_, kick := bo.Kick(ctx, client.Selection{Target: "ana"})
		_, disconnect := bo.Disconnect(ctx, client.Selection{All: true})
		_, ban := bo.Ban(ctx, "ana", "")
		_, unban := bo.Unban(ctx, "ana")
		for _, err := range []error{kick, disconnect, ban, unban, bo.SetMemberRole(ctx, bo.MemberID(), "admin")} {
			require.ErrorIs(t, err, wire.Forbidden)
		}
		_, none := ana.Kick(ctx, client.Selection{})
		require.ErrorIs(t, none, wire.Invalid)
		require.NoError(t, ana.SetMemberRole(ctx, bo.Pubkey(), "admin"))
		_, err := bo.Kick(ctx, client.Selection{Target: "nobody"})
		require.NoError(t, err)
		require.NoError(t, bo.SetMemberRole(ctx, ana.MemberID(), "member"))
		require.ErrorIs(t, ana.SetMemberRole(ctx, ana.MemberID(), "admin"), wire.Forbidden)
	})
}
