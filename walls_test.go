package broker_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/internal/memconn"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/wire"
)

// The walls between meshes. Three meshes live on one broker; their peers, keys and strangers do at random whatever the table of
// walls_table_test.go lists, with ids, keys, names, codes and cursors that are their own, made up, or another mesh's. Every byte that the broker
// gives out is searched for what belongs to another mesh than the one it is given to:
//
//   - Whatever a mesh chooses for itself (its texts, names, ids of members and sessions) carries its mark.
//   - Whatever the broker chooses (ids, secrets, hashes) belongs to the mesh in whose outputs it is seen first.
//
// What a request names it may hear again in its answer, and what a mesh was told by its own people it may go on telling; nothing else passes. Besides:
// a value of another mesh is answered exactly as one that nobody has; and what happens in one mesh changes neither the messages nor the log of another.
//
// The operations follow from the seed, batch by batch. A batch is of one connection, so that its outcome does not depend on the others.

var (
	wallsSeed = flag.Uint64("seed", envNumber("WALLS_SEED", 1), "seed of the random operations across meshes; also WALLS_SEED")
	wallsOps  = flag.Uint64("walls", envNumber("WALLS_OPS", 20_000), "how many random operations across meshes; also WALLS_OPS")
)

func envNumber(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// epoch is how many operations one broker and its store see: they keep everything, and lists get long.
const epoch = 25_000

func TestNothingCrossesTheWallsBetweenMeshes(t *testing.T) {
	t.Parallel()
	began, total := time.Now(), wallsTotals{did: map[string]int{}}
	for n := uint64(0); n < *wallsOps; n += epoch {
		w := newWalls(t, *wallsSeed+n/epoch, nil)
		w.run(int(min(epoch, *wallsOps-n)))
		w.close()
		total.add(w)
		if len(w.crossings) > 0 {
			break
		}
	}
	took := time.Since(began)
	t.Logf("walls: %d operations (%.0f/s), seed %d, %d crossings; %d outputs, %d MiB; %d values of others, %d of them compared with made-up ones; %d hellos, %d joins, %d streams",
		total.ops, float64(total.ops)/took.Seconds(), *wallsSeed, total.crossings, total.outputs, total.bytes>>20, total.foreign, total.twins,
		total.did["hello"], total.did["POST /join"], total.did["GET /topics/{name}/stream"])
	for _, c := range total.found {
		t.Errorf("%s", c)
	}
	require.Zero(t, total.crossings)
	if *wallsOps < 20_000 {
		return
	}
	for _, typ := range newWallsTypes(t) {
		require.NotZero(t, total.did[typ], "%s never happened", typ)
	}
	require.NotZero(t, total.did["claimed"], "no short link let anybody in")
	for name := range wallRoutes {
		require.NotZero(t, total.did[name], "%s never happened", name)
	}
}

// A message type or a route without an entry in the table would go untested.
func TestWallsHaveEveryTypeAndRoute(t *testing.T) {
	t.Parallel()
	for _, typ := range newWallsTypes(t) {
		require.Contains(t, wallTypes, typ, "say in walls_table_test.go what a random %s looks like", typ)
	}
	known := map[string]bool{}
	for _, rt := range append(broker.APIRoutes(), broker.PlainRoutes()...) {
		name := rt.Method + " " + rt.Path
		known[name] = true
		if rt.Path != "/ws" { // which is dialled
			require.Contains(t, wallRoutes, name, "say in walls_table_test.go what a random request looks like")
		}
	}
	for name := range wallRoutes {
		require.Contains(t, known, name, "an entry for a route that is gone")
	}
}

func newWallsTypes(t *testing.T) []string {
	t.Helper()
	b, err := broker.New(broker.Options{Store: memory.New(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Shutdown(context.Background())) }()
	return b.Types()
}

// wallsTotals sums epochs up.
type wallsTotals struct {
	ops, crossings, outputs, bytes, foreign, twins int
	did                                            map[string]int
	found                                          []string
}

func (s *wallsTotals) add(w *walls) {
	s.ops += w.ops
	s.crossings += w.crossed
	s.outputs += w.outputs
	s.bytes += w.bytes
	s.foreign += w.foreign
	s.twins += w.twins
	s.found = append(s.found, w.crossings...)
	for name, n := range w.did {
		s.did[name] += n
	}
}

// walls is a broker with three meshes, and the driver of what happens in them.
type walls struct {
	t             *testing.T
	rng           *rand.Rand
	inner         *memory.Store
	store         store.Store // what the broker sees
	b             *broker.Broker
	listener      *memconn.Listener
	server        *http.Server
	served        chan struct{}
	realms        []*realm
	types         []string // to pick from, each as often as its weight
	routes        []string
	did           map[string]int
	ops           int
	foreign       int // values of other meshes in requests
	twins         int
	seq           int
	untilCrossing bool
	auditKey      string // signs the checkpoints of every log, and is no mesh's own

	mu        sync.Mutex
	owner     map[string]*realm // of what the broker or a key pair made; guarded by mu
	crossings []string          // the first ones; guarded by mu
	crossed   int               // guarded by mu
	outputs   int               // guarded by mu
	bytes     int               // guarded by mu
}

// realm is one mesh.
type realm struct {
	letter     byte
	mark       string
	id         string
	owner      identity.KeyPair // also that of people[0], who governs the mesh whatever happens
	people     []*dweller
	plugs      []*plug
	taps       []*tap
	pool       map[string][]string // what the mesh knows, by kind
	introduced []string            // other meshes' values that its own people brought in; guarded by walls.mu
	joined     int
	minted     int
	invited    int
	seq, log   int64 // as they were when the mesh was last touched
}

// dweller is a member.
type dweller struct {
	id, name string
	key      identity.KeyPair
}

// marks all begin so; the letter of the mesh and a dash follow. No id, key or hash of the broker's can hold one.
const markStart = "qzq"

func newWalls(t *testing.T, seed uint64, wrap func(*memory.Store) store.Store) *walls {
	t.Helper()
	w := &walls{t: t, rng: rand.New(rand.NewPCG(seed, 7)), inner: memory.New(), owner: map[string]*realm{}, did: map[string]int{}}
	w.store = w.inner
	var err error
	w.auditKey, err = w.inner.AuditKey(t.Context())
	require.NoError(t, err)
	w.start()
	for _, letter := range []byte("abc") {
		w.found(letter)
	}
	if wrap != nil { // the meshes are founded honestly
		w.stop()
		w.store = wrap(w.inner)
		w.start()
	}
	offered := w.b.Types()
	for _, typ := range slices.Sorted(maps.Keys(wallTypes)) {
		if slices.Contains(offered, typ) { // an entry for what this broker does not offer waits for it
			w.types = append(w.types, slices.Repeat([]string{typ}, wallTypes[typ].weight)...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wallRoutes)) {
		w.routes = append(w.routes, slices.Repeat([]string{name}, wallRoutes[name].weight)...)
	}
	return w
}

// start runs a broker on the store.
func (w *walls) start() {
	b, err := broker.New(broker.Options{
		Store: w.store, Logger: slog.New(slog.DiscardHandler), AuthFailAddrRatePerMin: -1, MaxStreamsPerKey: -1, MaxTopicsPerMesh: -1, MaxTopicsPerMember: -1,
		MaxAPIKeysPerMember: -1, MaxGrantsPerMember: -1, HookToken: "s3cret", LeaseGrace: time.Hour, InviteV2: true,
	}.Unlimited())
	require.NoError(w.t, err)
	w.b, w.listener, w.served = b, memconn.ListenBuffer(-1), make(chan struct{}) // without a bound, a write never waits for a reader
	w.server = &http.Server{Handler: b, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func(server *http.Server, l net.Listener, served chan struct{}) {
		defer close(served)
		_ = server.Serve(l) // ends with ErrServerClosed
	}(w.server, w.listener, w.served)
}

// stop ends the broker, and with it every connection and stream.
func (w *walls) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(w.t, w.b.Shutdown(ctx))
	require.NoError(w.t, w.server.Shutdown(ctx))
	<-w.served
	for _, r := range w.realms {
		for _, p := range r.plugs {
			p.hangUp()
		}
		for _, tap := range r.taps {
			<-tap.done
		}
		r.taps = nil
	}
}

func (w *walls) close() { w.stop() }

// found makes a mesh with an owner, seven members, some of them connected, topics, keys and an invite.
func (w *walls) found(letter byte) {
	t, ctx := w.t, w.t.Context()
	r := &realm{letter: letter, mark: markStart + string(letter) + "-", pool: map[string][]string{}}
	w.realms = append(w.realms, r)
	r.owner = w.newKey(r, "key")
	r.id = w.text(r, "mesh")
	mesh, err := w.b.CreateMesh(ctx, broker.NewMesh{ID: r.id, Slug: r.mark + "slug", Name: w.text(r, "name of the mesh"), OwnerPubkey: r.owner.Public(), RootKey: identity.DeriveRootKey(r.owner, r.id)})
	require.NoError(t, err)
	require.Equal(t, r.id, mesh.ID)
	r.know("mesh", r.id)
	for n := range 8 {
		key := r.owner
		if n > 0 {
			key = w.newKey(r, "key")
		}
		role := store.RoleMember
		if n < 2 {
			role = store.RoleAdmin
		}
		d := &dweller{id: w.text(r, "member"), name: r.mark + "person-" + strconv.Itoa(n), key: key}
		_, err := w.b.AddMember(ctx, r.id, broker.NewMember{
			ID: d.id, Name: d.name, Pubkey: key.Public(), Role: role, RoleTag: w.text(r, "tag"), DefaultGroups: []wire.Group{{Name: r.mark + "everybody"}},
		})
		require.NoError(t, err)
		r.know("member", d.id)
		r.know("name", d.name)
		r.people = append(r.people, d)
	}
	r.know("group", r.mark+"everybody")
	for n := range 8 {
		p := &plug{w: w, r: r, d: r.people[n%6], sessionID: w.text(r, "session-id"), attested: n%3 == 1, older: n%4 == 3}
		if n%3 > 0 {
			session := w.newKey(r, "session")
			p.session = &session
		}
		r.plugs = append(r.plugs, p)
	}
	for n, k := range []broker.NewAPIKey{
		{Capabilities: readSend, IssuedBy: r.people[0].id},
		{Capabilities: []string{wire.KeyAdmin}, IssuedBy: r.people[1].id},
		{Capabilities: readSend, IssuedBy: r.people[3].id},
		{Capabilities: readSend, IssuedBy: r.people[4].id, TopicScopes: &[]string{"general", r.mark + "topic-1"}},
		{Capabilities: []string{wire.KeyAdmin}},
		{Capabilities: readSend, IssuedBy: r.people[7].id, Rekey: true},
	} {
		k.Label = w.text(r, "label")
		secret, key, err := w.b.CreateAPIKey(ctx, r.id, k)
		require.NoError(t, err)
		w.own(r, secret, key.ID, key.Prefix)
		r.know("apikey", key.ID)
		r.know("prefix", key.Prefix)
		if n < 5 {
			r.know("secret", secret)
		} else {
			r.know("rekey", secret)
		}
	}
	for _, role := range []string{store.RoleMember, store.RoleAdmin} {
		link, invite, err := w.b.CreateInvite(ctx, r.id, r.owner, broker.InviteOptions{BrokerURL: "ws://broker.test/ws", Role: role, MaxUses: 1_000_000})
		require.NoError(t, err)
		token, err := identity.ParseInviteLink(link)
		require.NoError(t, err)
		w.own(r, token, invite.ID)
		r.know("token", token)
		r.know("invite", invite.ID)
	}
	r.know("topicname", "general")
	general, err := w.inner.Topic(ctx, r.id, "general")
	require.NoError(t, err)
	w.own(r, general.ID)
	r.know("topic", general.ID)
	for n := range 4 {
		r.know("topicname", r.mark+"topic-"+strconv.Itoa(n))
		r.know("group", r.mark+"group-"+strconv.Itoa(n))
		r.know("state", r.mark+"state-"+strconv.Itoa(n))
		r.know("code", fmt.Sprintf("Code%c%03d", letter, n)) // of a short invite
	}
	w.touched(r)
}

// newKey makes a key pair of a mesh. Key pairs are not of the seed: what is done with them is.
func (w *walls) newKey(r *realm, kind string) identity.KeyPair {
	k, err := identity.GenerateKey()
	require.NoError(w.t, err)
	w.own(r, k.Public())
	r.know(kind, k.Public())
	return k
}

// text makes a text of a mesh that nobody has used before.
func (w *walls) text(r *realm, what string) string {
	w.seq++
	return r.mark + strings.ReplaceAll(what, " ", "-") + "-" + strconv.Itoa(w.seq)
}

// knows is how many values of a kind a mesh keeps at hand.
const knows = 100

// know keeps a value at hand.
func (r *realm) know(kind, value string) {
	if value == "" || slices.Contains(r.pool[kind], value) {
		return
	}
	if r.pool[kind] = append(r.pool[kind], value); len(r.pool[kind]) > knows {
		r.pool[kind] = slices.Delete(r.pool[kind], 0, 1)
	}
}

// own says whose values are that the broker, or a key pair, made.
func (w *walls) own(r *realm, values ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range values {
		for _, run := range runs([]byte(v)) {
			w.owner[string(run)] = r
		}
	}
}

// introduce says that a mesh's own people brought a value of another mesh in, under which something is kept from now on.
func (w *walls) introduce(r *realm, value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, run := range runs([]byte(value)) {
		if !slices.Contains(r.introduced, string(run)) {
			r.introduced = append(r.introduced, string(run))
		}
	}
}

// isIntroduced reports whether a mesh has a value of another mesh as its own.
func (w *walls) isIntroduced(r *realm, value string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(runs([]byte(value)), func(run []byte) bool { return slices.Contains(r.introduced, string(run)) })
}

// tokenByte reports whether a byte can be part of an id, a key, a mark or a name of ours.
var tokenByte = func() (is [256]bool) {
	for _, c := range []byte("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-") {
		is[c] = true
	}
	return is
}()

// runs splits an output into what could be ids, keys and marks.
func runs(raw []byte) (found [][]byte) {
	for i := 0; i < len(raw); {
		if !tokenByte[raw[i]] {
			i++
			continue
		}
		from := i
		for i < len(raw) && tokenByte[raw[i]] {
			i++
		}
		if i-from >= 5 {
			found = append(found, raw[from:i])
		}
	}
	return found
}

// isMade reports whether a run looks like something that the broker made: long, and no word of its protocol.
func isMade(run []byte) bool {
	if len(run) < 20 && !bytes.HasPrefix(run, []byte("cm_")) {
		return false
	}
	for _, c := range run {
		if c != '_' && c != '-' && (c < 'a' || c > 'z') {
			return true
		}
	}
	return false
}

// scan looks through what the broker gave to somebody of a mesh, or to a stranger (nil), in answer to a request that named refs.
func (w *walls) scan(to *realm, via string, raw []byte, refs []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outputs++
	w.bytes += len(raw)
	for i := 0; i < len(raw); {
		if !tokenByte[raw[i]] {
			i++
			continue
		}
		from := i
		for i < len(raw) && tokenByte[raw[i]] {
			i++
		}
		run := raw[from:i]
		if len(run) < 5 {
			continue
		}
		var whose *realm
		if at := bytes.Index(run, []byte(markStart)); at >= 0 && at+len(markStart)+1 < len(run) && run[at+len(markStart)+1] == '-' {
			whose = w.realmOf(run[at+len(markStart)])
		} else if isMade(run) && string(run) != w.auditKey {
			if whose = w.owner[string(run)]; whose == nil && to != nil {
				w.owner[string(run)] = to // seen for the first time, and here
				continue
			}
		}
		if whose != nil && whose != to && !w.mayHearLocked(to, run, refs) {
			w.crossLocked(fmt.Sprintf("%q of mesh %c reached %s by %s: %.600s", run, whose.letter, to.who(), via, raw))
		}
	}
}

func (r *realm) who() string {
	if r == nil {
		return "a stranger"
	}
	return "mesh " + string(r.letter)
}

func (w *walls) realmOf(letter byte) *realm {
	for _, r := range w.realms {
		if r.letter == letter {
			return r
		}
	}
	return nil
}

// mayHearLocked reports whether somebody said this itself.
func (w *walls) mayHearLocked(to *realm, run []byte, refs []string) bool {
	for _, ref := range refs {
		for _, said := range runs([]byte(ref)) {
			if bytes.Equal(run, said) {
				return true
			}
		}
	}
	if to == nil {
		return false
	}
	return slices.ContainsFunc(to.introduced, func(said string) bool {
		rest, found := strings.CutPrefix(string(run), said)
		return found && (rest == "" || rest[0] == '-') // a number behind a name that was taken
	})
}

func (w *walls) crossLocked(what string) {
	w.crossed++
	if len(w.crossings) < 5 {
		w.crossings = append(w.crossings, what)
	}
}

func (w *walls) cross(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.crossLocked(fmt.Sprintf(format, args...))
}

func (w *walls) hasCrossing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.crossed > 0
}

// touched notes how a mesh stands after something happened in it.
func (w *walls) touched(r *realm) {
	r.seq, r.log = w.standing(r)
}

func (w *walls) standing(r *realm) (seq, log int64) {
	seq, err := w.inner.LastSeq(w.t.Context(), r.id)
	require.NoError(w.t, err)
	head, err := w.inner.AuditHead(w.t.Context(), r.id)
	require.NoError(w.t, err)
	return seq, head.Count
}

// untouched proves that something that happened in one mesh, or nowhere (nil), changed no other.
func (w *walls) untouched(in *realm, what string) {
	for _, r := range w.realms {
		if r == in {
			w.touched(r)
			continue
		}
		if seq, log := w.standing(r); seq != r.seq || log != r.log {
			w.cross("%s in %s changed mesh %c: messages %d to %d, log %d to %d", what, in.who(), r.letter, r.seq, seq, r.log, log)
			r.seq, r.log = seq, log
		}
	}
}

// run does n operations.
func (w *walls) run(n int) {
	restarted := false
	for w.ops < n && !(w.untilCrossing && w.hasCrossing()) {
		if !restarted && w.ops > n/2 { // the next broker takes over what the first one left
			restarted = true
			w.stop()
			w.start()
			for _, r := range w.realms {
				w.touched(r)
			}
		}
		r := w.realms[w.rng.IntN(len(w.realms))]
		switch what := w.rng.IntN(100); {
		case what < 62:
			w.batch(r.plugs[w.rng.IntN(len(r.plugs))], 1+w.rng.IntN(min(48, n-w.ops)))
			w.untouched(r, "a batch of requests")
		case what < 90:
			for range 8 {
				w.request(r)
			}
		case what < 94:
			w.knock(r)
			w.untouched(nil, "a refused hello")
		default:
			w.unplug(r.plugs[w.rng.IntN(len(r.plugs))])
			w.untouched(r, "a lost connection")
		}
	}
}
