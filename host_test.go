package broker_test

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

func TestNewMeshHasAPublicGeneralTopic(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	m, err := mesh.Broker.CreateMesh(t.Context(), broker.NewMesh{OwnerPubkey: strings.ToUpper(mesh.Owner.Public())})
	require.NoError(t, err)
	require.Len(t, m.ID, 32)
	require.Equal(t, []string{m.ID, m.ID, mesh.Owner.Public()}, []string{m.Slug, m.Name, m.OwnerPubkey}, "defaults, and a key in lower case")
	got, err := mesh.Broker.MeshBySlug(t.Context(), m.Slug)
	require.NoError(t, err)
	require.Equal(t, m, got)
	topics, err := mesh.Store.Topics(t.Context(), m.ID)
	require.NoError(t, err)
	require.Len(t, topics, 1)
	require.Equal(t, "general", topics[0].Name)
	require.Equal(t, wire.VisibilityPublic, topics[0].Visibility)
	require.Empty(t, topics[0].EncryptedKeyPubkey)

	for _, n := range []broker.NewMesh{{ID: "a|b"}, {Slug: "a b"}, {Name: "\x00"}, {OwnerPubkey: "00"}, {OwnerPubkey: strings.Repeat("0", 64)}} {
		_, err := mesh.Broker.CreateMesh(t.Context(), n)
		require.ErrorIs(t, err, wire.InvalidArgs, n)
	}
	for _, n := range []broker.NewMesh{{ID: m.ID, Slug: "x"}, {Slug: m.Slug}} {
		_, err := mesh.Broker.CreateMesh(t.Context(), n)
		require.ErrorIs(t, err, store.ErrConflict, n)
	}
}

func TestAddMemberChecksWhatItIsGiven(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	good := broker.NewMember{Name: " ana ", Pubkey: strings.ToUpper(hostKey(t).Public())}
	m, err := mesh.Broker.AddMember(t.Context(), mesh.ID, good)
	require.NoError(t, err)
	require.Equal(t, "ana", m.Name)
	require.Equal(t, store.RoleMember, m.Role)
	byKey, err := mesh.Broker.MemberByKey(t.Context(), mesh.ID, good.Pubkey)
	require.NoError(t, err)
	require.Equal(t, m.ID, byKey.ID)

	for name, change := range map[string]func(*broker.NewMember){
		"id":   func(n *broker.NewMember) { n.ID = "a|b" },
		"name": func(n *broker.NewMember) { n.Name = " " },
		"key":  func(n *broker.NewMember) { n.Pubkey = strings.Repeat("0", 64) },
		"role": func(n *broker.NewMember) { n.Role = "owner" },
		"mode": func(n *broker.NewMember) { n.MessageMode = "loud" },
		"tag":  func(n *broker.NewMember) { n.RoleTag = strings.Repeat("x", 129) },
		"groups": func(n *broker.NewMember) {
			n.DefaultGroups = []wire.Group{{Name: "#x"}}
		},
	} {
		n := broker.NewMember{Name: "bo", Pubkey: hostKey(t).Public()}
		change(&n)
		_, err := mesh.Broker.AddMember(t.Context(), mesh.ID, n)
		require.ErrorIs(t, err, wire.InvalidArgs, name)
	}
	_, err = mesh.Broker.AddMember(t.Context(), mesh.ID, good)
	require.ErrorIs(t, err, store.ErrConflict)
	_, err = mesh.Broker.AddMember(t.Context(), "nowhere", broker.NewMember{Name: "bo", Pubkey: hostKey(t).Public()})
	require.ErrorIs(t, err, store.ErrNotFound)
}

// hostStream opens an event stream and returns a channel that is closed when it ends.
func hostStream(t *testing.T, mesh *brokertest.Mesh, secret string) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+brokertest.Host+"/v1/topics/general/stream", nil)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+secret)
	resp, err := mesh.HTTP.Do(r)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	lines := bufio.NewScanner(resp.Body)
	require.True(t, lines.Scan(), "ready")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines.Scan() {
		}
		_ = resp.Body.Close()
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return ended
}

func TestRevokedMemberIsGoneWithinASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Member("bo")
		live := mesh.Dial("bo", explicit, brokertest.With(frame{"sessionId": "live"}))
		lost := mesh.Dial("bo", brokertest.With(frame{"sessionId": "lost"}))
		lost.Cut()
		live.Request(frame{"type": "set_status", "status": "dnd"})
		held := ana.Say(bo.Pubkey, "next", "held")
		secret, key, err := mesh.Broker.CreateAPIKey(t.Context(), mesh.ID, broker.NewAPIKey{Label: "x", Capabilities: []string{"read"}, IssuedBy: bo.ID})
		require.NoError(t, err)
		stream := hostStream(t, mesh, secret)
		synctest.Wait()
		require.Len(t, mesh.Broker.Sessions(mesh.ID), 3)
		ana.Waiting()

		at := time.Now()
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, bo.ID))
		code, reason := live.Closed()
		require.Equal(t, wire.CloseBanned, code)
		require.Equal(t, "banned", reason)
		<-stream
		left := ana.ExpectEvent("peer_left")
		require.Less(t, time.Since(at), time.Second)
		require.Equal(t, "bo", left["eventData"].(map[string]any)["name"])
		ana.ExpectEvent("peer_left") // the place in grace ends, too
		require.Len(t, mesh.Broker.Sessions(mesh.ID), 1)

		status := ana.Request(frame{"type": "message_status", "messageId": held["messageId"]})
		require.Equal(t, "expired", status["recipients"].([]any)[0].(map[string]any)["state"])
		kept, err := mesh.Store.APIKey(t.Context(), mesh.ID, key.ID)
		require.NoError(t, err)
		require.False(t, kept.RevokedAt.IsZero())
		require.Contains(t, string(hostMetrics(t, mesh.Broker)), "\nbroker_deliveries_expired_total 1\n")
		again := mesh.Connect()
		again.Send(mesh.HelloFrame(bo, nil, false, frame{"sessionId": "s", "pid": 1, "cwd": "/"}))
		again.Read()
		require.Equal(t, "revoked", again.Expect("error")["code"])
		code, _ = again.Closed()
		require.Equal(t, wire.CloseBanned, code)
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, bo.ID), "twice")
		require.ErrorIs(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, "nobody"), store.ErrNotFound)

		require.NoError(t, mesh.Broker.RestoreMember(t.Context(), mesh.ID, bo.ID))
		back := mesh.Dial("bo", explicit)
		synctest.Wait()
		require.Empty(t, back.Pushes(), "what the ban ended stays ended")
	})
}

func TestRevokingCatchesAHelloOnItsWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		entering, goOn := make(chan struct{}), make(chan struct{})
		st := &hostStore{opened: func() { close(entering); <-goOn }}
		mesh := brokertest.New(t, st.wrap)
		bo := mesh.Member("bo")
		c := mesh.Connect()
		c.Send(mesh.HelloFrame(bo, nil, false, frame{"sessionId": "s", "pid": 1, "cwd": "/"}))
		c.Read()
		<-entering // the store has given the place, the broker does not know it yet
		done := make(chan error)
		go func() { done <- mesh.Broker.RevokeMember(t.Context(), mesh.ID, bo.ID) }()
		synctest.Wait()
		close(goOn)
		require.NoError(t, <-done)
		code, _ := c.Closed()
		require.Equal(t, wire.CloseBanned, code)
		require.Empty(t, mesh.Broker.Sessions(mesh.ID))
	})
}

func TestDisconnectEndsPlacesButNotMembership(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		ana.ExpectEvent("peer_joined")
		require.NoError(t, mesh.Broker.Disconnect(t.Context(), mesh.ID, bo.Member.ID))
		code, reason := bo.Closed()
		require.Equal(t, wire.CloseNormal, code)
		require.Equal(t, "disconnected", reason)
		ana.ExpectEvent("peer_left")
		require.False(t, mesh.Online("bo"))
		require.NoError(t, mesh.Broker.Disconnect(t.Context(), mesh.ID, bo.Member.ID), "nobody is there")
		require.ErrorIs(t, mesh.Broker.Disconnect(t.Context(), mesh.ID, "nobody"), store.ErrNotFound)
		mesh.Dial("bo")
		ana.ExpectEvent("peer_returned")
		require.Len(t, mesh.Broker.Sessions(mesh.ID), 2)
	})
}

func TestOnlineIsALiveConnectionThatTakesMail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		require.False(t, mesh.Broker.Online("nowhere", "nobody"))
		mesh.Member("ana")
		require.False(t, mesh.Online("ana"))
		asker := mesh.Dial("ana", brokertest.With(frame{"capabilities": []string{"no_push"}}))
		require.False(t, mesh.Online("ana"), "it only asks")
		c := mesh.Dial("ana")
		synctest.Wait()
		require.True(t, mesh.Online("ana"))
		c.Cut()
		synctest.Wait()
		require.False(t, mesh.Online("ana"), "in grace")
		sessions := mesh.Broker.Sessions(mesh.ID)
		require.Len(t, sessions, 2)
		require.Equal(t, asker.Hello["presenceId"], sessions[0].ID, "connected ones first")
		require.Equal(t, []bool{true, false}, []bool{sessions[0].Online, sessions[1].Online})
	})
}

func TestOwnerGovernsWhateverItsRole(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	b, ctx := mesh.Broker, t.Context()
	mesh.Member("admin")
	ana := mesh.Dial("ana")
	admin := frame{"type": "apikey_create", "label": "x", "capabilities": []string{"admin"}}
	require.Equal(t, "forbidden", ana.Request(admin)["code"])
	require.NoError(t, b.SetOwner(ctx, mesh.ID, ana.Member.ID, ""))
	require.Equal(t, "apikey_created", ana.Request(admin).Type())
	m, err := b.Mesh(ctx, mesh.ID)
	require.NoError(t, err)
	require.Equal(t, ana.Member.ID, m.OwnerMemberID)
	require.Equal(t, mesh.Owner.Public(), m.OwnerPubkey, "left as it was")
	general, err := mesh.Store.Topic(ctx, mesh.ID, "general")
	require.NoError(t, err)
	sub, err := mesh.Store.Subscription(ctx, mesh.ID, general.ID, ana.Member.ID)
	require.NoError(t, err)
	require.Equal(t, wire.TopicLead, sub.Role)

	require.ErrorIs(t, b.SetOwner(ctx, mesh.ID, "nobody", ""), store.ErrNotFound)
	require.ErrorIs(t, b.SetOwner(ctx, mesh.ID, "", "00"), wire.InvalidArgs)
	require.ErrorIs(t, b.SetMemberRole(ctx, mesh.ID, ana.Member.ID, "king"), wire.InvalidArgs)
	require.ErrorIs(t, b.SetMemberRole(ctx, mesh.ID, "nobody", store.RoleAdmin), store.ErrNotFound)
}

func TestRequireHello2HoldsFromTheNextHello(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	ana := mesh.Member("ana")
	require.NoError(t, mesh.Broker.SetRequireHello2(t.Context(), mesh.ID, ana.ID, true))
	refusedWith(t, mesh, ana, "hello2_required")
	require.NoError(t, mesh.Broker.SetRequireHello2(t.Context(), mesh.ID, ana.ID, false))
	mesh.Dial("ana")
}

func TestHostsAPIKeys(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	b, ctx, ana := mesh.Broker, t.Context(), mesh.Member("ana")
	secret, key, err := b.CreateAPIKey(ctx, mesh.ID, broker.NewAPIKey{
		Label: "ci", Capabilities: []string{"read"}, IssuedBy: ana.ID, ExpiresAt: time.Now().Add(time.Hour),
	})
	require.NoError(t, err)
	get := func() int {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+brokertest.Host+"/v1/members", nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+secret)
		resp, err := mesh.HTTP.Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	require.Equal(t, http.StatusOK, get())
	require.NoError(t, b.RevokeAPIKey(ctx, mesh.ID, key.ID))
	require.Equal(t, http.StatusUnauthorized, get())

	scope := []string{"general"}
	for name, n := range map[string]broker.NewAPIKey{
		"label":        {Capabilities: []string{"read"}},
		"capability":   {Label: "x", Capabilities: []string{"fly"}},
		"none":         {Label: "x"},
		"expiry":       {Label: "x", Capabilities: []string{"read"}, ExpiresAt: time.Now().Add(-time.Second)},
		"scoped rekey": {Label: "x", Capabilities: []string{"read"}, IssuedBy: ana.ID, Rekey: true, TopicScopes: &scope},
		"rekey nobody": {Label: "x", Capabilities: []string{"read"}, Rekey: true},
	} {
		_, _, err := b.CreateAPIKey(ctx, mesh.ID, n)
		require.ErrorIs(t, err, wire.InvalidArgs, name)
	}
	banned := mesh.Member("banned")
	require.NoError(t, b.RevokeMember(ctx, mesh.ID, banned.ID))
	for _, issuer := range []string{"nobody", banned.ID} {
		_, _, err := b.CreateAPIKey(ctx, mesh.ID, broker.NewAPIKey{Label: "x", Capabilities: []string{"read"}, IssuedBy: issuer})
		require.ErrorIs(t, err, store.ErrNotFound)
	}
}

func TestHostCallsAfterShutdownFail(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	b, ctx, ana := mesh.Broker, t.Context(), mesh.Member("ana")
	require.NoError(t, b.Shutdown(ctx))
	_, err := b.CreateMesh(ctx, broker.NewMesh{})
	require.ErrorIs(t, err, broker.ErrClosed)
	require.ErrorIs(t, b.RevokeMember(ctx, mesh.ID, ana.ID), broker.ErrClosed)
	require.ErrorIs(t, b.Seed(ctx, strings.NewReader(`{"meshes":[{"slug":"x"}]}`)), broker.ErrClosed)
	require.Equal(t, http.StatusServiceUnavailable, hostPostJoin(t, b, frame{}).code)
	require.Equal(t, http.StatusServiceUnavailable, hostHook(t, b, frame{}).code)
}

func TestOperationsPageListsEverything(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	page := string(raw)
	for f := range reflect.TypeFor[broker.Options]().Fields() {
		require.Contains(t, page, "`"+f.Name+"`")
	}
	for line := range strings.Lines(string(hostMetrics(t, brokertest.New(t).Broker))) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			require.Contains(t, page, "`"+name+"`")
		}
	}
}
