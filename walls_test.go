package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
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

// A wall with a hole is found out. Each of these stores answers one question, now and then, with what is another mesh's.
func TestHolesInTheWallsAreFound(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*holes){
		"topics are found in every mesh":         func(h *holes) { h.topic = true },
		"messages are found in every mesh":       func(h *holes) { h.message = true },
		"history is of another mesh":             func(h *holes) { h.history = true },
		"rosters have a member of another mesh":  func(h *holes) { h.roster = true },
		"members are listed of another mesh":     func(h *holes) { h.members = true },
		"lists of keys are of another mesh":      func(h *holes) { h.keys = true },
		"keys open another mesh":                 func(h *holes) { h.grant = true },
		"messages are stored in another mesh":    func(h *holes) { h.enqueue = true },
		"an error says which mesh has the topic": func(h *holes) { h.tells = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWalls(t, *wallsSeed, func(st *memory.Store) store.Store {
				h := &holes{Store: st, inner: st}
				spoil(h)
				return h
			})
			w.untilCrossing = true
			w.run(epoch)
			w.close()
			require.NotEmpty(t, w.crossings, "after %d operations", w.ops)
			t.Logf("after %d operations: %s", w.ops, w.crossings[0])
		})
	}
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
		MaxAPIKeysPerMember: -1, MaxGrantsPerMember: -1, HookToken: "s3cret", LeaseGrace: time.Hour,
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
	mesh, err := w.b.CreateMesh(ctx, broker.NewMesh{ID: r.id, Slug: r.mark + "slug", Name: w.text(r, "name of the mesh"), OwnerPubkey: r.owner.Public()})
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
		} else if isMade(run) {
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

// draw makes the values of one request.
type draw struct {
	w    *walls
	r    *realm
	p    *plug    // nil for a request over HTTP
	refs []string // values of others in this request, which its answer may repeat
	said []string // everything that the request names
	// twin is the only value of another mesh that the request looks up, if there is one and nothing else is.
	twin string
	kept bool   // a value of another mesh is kept
	to   *realm // who hears the answer; HTTP only
}

func (d *draw) n(n int) int { return d.w.rng.IntN(n) }

// chance is true once in n.
func (d *draw) chance(n int) bool { return d.n(n) == 0 }

func (d *draw) pick(of ...string) string { return of[d.n(len(of))] }

// text is a new text of the mesh.
func (d *draw) text(what string) string {
	v := d.w.text(d.r, what)
	d.said = append(d.said, v)
	return v
}

// other is another mesh.
func (d *draw) other() *realm {
	for {
		if r := d.w.realms[d.n(len(d.w.realms))]; r != d.r {
			return r
		}
	}
}

// own is a value of the mesh's own.
func (d *draw) own(kind string) string {
	have := d.r.pool[kind]
	if len(have) == 0 {
		return d.madeUp(kind)
	}
	v := have[d.n(len(have))]
	d.said = append(d.said, v)
	return v
}

// theirs is a value of another mesh.
func (d *draw) theirs(kind string) string {
	have := d.other().pool[kind]
	if len(have) == 0 {
		return d.madeUp(kind)
	}
	v := have[d.n(len(have))]
	d.refs, d.said = append(d.refs, v), append(d.said, v)
	d.w.foreign++
	return v
}

// madeUp is a value that nobody has.
func (d *draw) madeUp(kind string) string {
	if have := d.r.pool[kind]; len(have) > 0 {
		return d.like(have[d.n(len(have))])
	}
	return d.like("0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0u")
}

// like is a text of the same shape that means nothing.
func (d *draw) like(s string) string {
	_, err := hex.DecodeString(s)
	out := []byte(s)
	for i, c := range out {
		some := d.n(1 << 20) // for each character one number, whatever it is, so that the same seed goes on in the same way
		switch {
		case i < 3 && strings.HasPrefix(s, "cm_"):
		case err == nil:
			out[i] = "0123456789abcdef"[some%16]
		case '0' <= c && c <= '9':
			out[i] = byte('0' + some%10)
		case 'a' <= c && c <= 'z':
			out[i] = byte('a' + some%16) // up to p, and so no mark
		case 'A' <= c && c <= 'Z':
			out[i] = byte('A' + some%26)
		}
	}
	return string(out)
}

// ref is a value that the request looks up: the mesh's own, another's, or nobody's.
func (d *draw) ref(kind string) string {
	switch n := d.n(100); {
	case n < 55:
		return d.own(kind)
	case n < 85:
		v := d.theirs(kind)
		d.twin = ""
		if len(d.refs) == 1 && !slices.Contains(d.r.pool[kind], v) && !d.w.isIntroduced(d.r, v) {
			d.twin = v // else it is the mesh's own as well, or two would have to be compared at once
		}
		return v
	default:
		return d.madeUp(kind)
	}
}

// name is a value under which something is kept: known in the mesh, new, or as another mesh has it.
func (d *draw) name(kind string) string {
	switch n := d.n(100); {
	case n < 60:
		return d.own(kind)
	case n < 85:
		v := d.text(kind)
		d.r.know(kind, v)
		return v
	default:
		return d.keep(d.theirs(kind))
	}
}

// keep says that a value of another mesh is kept by what the request does.
func (d *draw) keep(v string) string {
	d.kept = true
	d.w.introduce(d.r, v)
	return v
}

// mayHear is what the request names and its answer may repeat: to a stranger, nothing else.
func (d *draw) mayHear() []string {
	if d.to == nil {
		return d.said
	}
	return d.refs
}

// keepRef is ref for a value that is kept if it is found.
func (d *draw) keepRef(kind string) string {
	v := d.ref(kind)
	if slices.Contains(d.refs, v) {
		d.keep(v)
	}
	return v
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

// asked is a request that waits for its answer.
type asked struct {
	id, typ string
	raw     []byte
	draw    *draw
	twinOf  int // the place of the request that this one is compared with; -1 for none
	with    string
}

// batch sends frames in one go and takes their answers, which come in the same order.
func (w *walls) batch(p *plug, n int) {
	if !p.alive && !p.dial() {
		return
	}
	var out []byte
	waiting := make([]asked, 0, n+n/4)
	add := func(typ string, d *draw, f frame, raw []byte, twinOf int, with string) {
		w.seq++
		a := asked{id: "q" + strconv.Itoa(w.seq), typ: typ, draw: d, twinOf: twinOf, with: with}
		if f != nil {
			f["type"], f["_reqId"] = typ, a.id
			var err error
			raw, err = json.Marshal(f)
			require.NoError(w.t, err)
		} else {
			raw = bytes.Replace(raw, []byte(`"`+waiting[twinOf].id+`"`), []byte(`"`+a.id+`"`), 1)
		}
		a.raw = raw
		out = append(append(out, wsHead(fin|opText, len(raw))...), raw...)
		waiting = append(waiting, a)
		w.ops++
		w.did[typ]++
	}
	for len(waiting) < n {
		typ := w.types[w.rng.IntN(len(w.types))]
		d := &draw{w: w, r: p.r, p: p}
		add(typ, d, wallTypes[typ].frame(d), nil, -1, "")
		if d.twin != "" && !d.kept && d.chance(3) {
			made, at := d.like(d.twin), len(waiting)-1
			twin := bytes.ReplaceAll(waiting[at].raw, []byte(d.twin), []byte(made))
			add(typ, &draw{w: w, r: p.r, p: p, refs: d.refs}, nil, twin, at, made)
		}
	}
	p.send(out)
	answers := make([][]byte, 0, len(waiting))
	for _, a := range waiting {
		got, ok := p.next(w.t)
		if !ok {
			p.alive = false // somebody ended it, and what it asked after that is forgotten
			return
		}
		require.Equal(w.t, a.id, got.id, "replies leave in the order of their requests: %s: %s", a.raw, got.raw)
		w.scan(p.r, "the answer to "+string(a.raw), got.raw, a.draw.refs)
		answers = append(answers, got.raw)
		if a.twinOf >= 0 {
			w.twins++
			of := waiting[a.twinOf]
			theirs := normal(answers[a.twinOf], of.id, of.draw.twin)
			if nobodys := normal(got.raw, a.id, a.with); theirs != nobodys {
				w.cross("mesh %c can tell that another mesh has %q: asked %s, answered %s; for a made-up one %s", p.r.letter, of.draw.twin, of.raw, theirs, nobodys)
			}
			continue
		}
		if learn := wallTypes[a.typ].learn; learn != nil {
			var f frame
			require.NoError(w.t, json.Unmarshal(got.raw, &f))
			learn(a.draw, f)
		}
	}
	p.acknowledge()
}

// normal is what an answer says of a value without the value itself: of a refusal all of it, of anything else that it is none.
func normal(raw []byte, id, value string) string {
	var f frame
	if json.Unmarshal(raw, &f) != nil {
		return string(raw)
	}
	if f.Type() != wire.TypeError && f.Str("error") == "" {
		return f.Type() + " " + f.Str("status")
	}
	return strings.NewReplacer(value, "•", `"`+id+`"`, `"#"`).Replace(string(raw))
}

// plug is a place for a connection.
type plug struct {
	w         *walls
	r         *realm
	d         *dweller
	session   *identity.KeyPair
	sessionID string
	attested  bool   // by session_hello
	older     bool   // acknowledges nothing
	alive     bool   // owned by the driver
	presence  string // owned by the driver

	link    net.Conn
	replies chan wallReply // closed when the connection has ended
	ended   chan struct{}

	mu     sync.Mutex
	pushed []string // messages that came and were not acknowledged; guarded by mu
}

type wallReply struct {
	id  string
	raw []byte
}

// connect opens a WebSocket and reads it: replies go to the driver, everything else is looked through.
func (p *plug) connect() {
	w := p.w
	link, err := w.listener.DialContext(w.t.Context(), "tcp", "")
	require.NoError(w.t, err)
	_, err = io.WriteString(link, "GET /ws HTTP/1.1\r\nHost: broker.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	require.NoError(w.t, err)
	in := bufio.NewReaderSize(link, 32<<10)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(w.t, err)
	require.NoError(w.t, resp.Body.Close())
	require.Equal(w.t, http.StatusSwitchingProtocols, resp.StatusCode)
	p.link, p.replies, p.ended = link, make(chan wallReply, 1024), make(chan struct{})
	p.mu.Lock()
	p.pushed = nil
	p.mu.Unlock()
	go p.read(in, link, p.replies, p.ended)
}

func (p *plug) read(in *bufio.Reader, link net.Conn, replies chan wallReply, ended chan struct{}) {
	defer close(ended)
	defer close(replies)
	defer func() { _ = link.Close() }()
	for {
		op, payload, err := readWS(in)
		if err != nil {
			return
		}
		switch op {
		case opText:
			if id := between(payload, `"_reqId":"`); id != "" {
				replies <- wallReply{id, payload}
				continue
			}
			p.w.scan(p.r, "a push", payload, nil)
			if !p.older && bytes.Contains(payload, []byte(`"type":"push"`)) && !bytes.Contains(payload, []byte(`"subtype":"system"`)) {
				p.mu.Lock()
				p.pushed = append(p.pushed, between(payload, `"messageId":"`))
				p.mu.Unlock()
			}
		case opClose:
			if len(payload) > 2 {
				p.w.scan(p.r, "a close reason", payload[2:], nil)
			}
			_, _ = link.Write(wsFrame(fin|opClose, string(payload)))
		case opPing:
			_, _ = link.Write(wsFrame(fin|opPong, string(payload)))
		}
	}
}

// between is the text behind a start, up to the next quote.
func between(raw []byte, start string) string {
	_, rest, ok := bytes.Cut(raw, []byte(start))
	if !ok {
		return ""
	}
	value, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(value)
}

func (p *plug) send(raw []byte) { _, _ = p.link.Write(raw) } // the end of the connection is seen by reading

// next is the next reply; false if the connection ended first.
func (p *plug) next(t *testing.T) (wallReply, bool) {
	select {
	case got, ok := <-p.replies:
		return got, ok
	case <-time.After(2 * time.Minute):
		require.FailNow(t, "no reply")
		return wallReply{}, false
	}
}

// acknowledge takes over what came meanwhile, so that more may come.
func (p *plug) acknowledge() {
	p.mu.Lock()
	ids := p.pushed
	p.pushed = nil
	p.mu.Unlock()
	for chunk := range slices.Chunk(ids, wire.MaxBatchAcks) {
		raw, err := json.Marshal(frame{"type": "client_ack", "brokerMessageIds": chunk})
		require.NoError(p.w.t, err)
		p.send(append(wsHead(fin|opText, len(raw)), raw...))
	}
}

// hangUp makes sure that the connection is over.
func (p *plug) hangUp() {
	if p.link == nil {
		return
	}
	_ = p.link.Close()
	<-p.ended
	p.alive = false
}

// dial signs the plug in and reports whether it was let in: a banned member is not.
func (p *plug) dial() bool {
	p.hangUp()
	p.connect()
	d := &draw{w: p.w, r: p.r, p: p}
	more := frame{"capabilities": []string{"client_ack", "topic_events", "receipts"}, "cwd": "/src/" + d.text("cwd"), "hostname": d.text("host"), "pid": 1}
	if p.older {
		delete(more, "capabilities")
	}
	if d.chance(3) {
		more["displayName"] = d.name("name")
	}
	if d.chance(4) {
		more["groups"] = []frame{{"name": d.name("group"), "role": d.text("role")}}
	}
	if d.chance(20) { // as another mesh's session calls itself
		p.sessionID = d.keep(d.theirs("sessionid"))
	}
	p.r.know("sessionid", p.sessionID)
	hello := p.w.hello(p.r, p.d, p.session, p.attested, p.sessionID, more)
	p.w.ops++
	p.w.did["hello"]++
	p.send(helloBytes(p.w.t, hello))
	got, ok := p.next(p.w.t)
	if !ok {
		return false
	}
	p.w.scan(p.r, "the answer to a hello", got.raw, d.refs)
	if p.alive = bytes.Contains(got.raw, []byte(`"type":"hello_ack"`)); !p.alive {
		p.hangUp()
		return false
	}
	p.presence = between(got.raw, `"presenceId":"`)
	p.r.know("presence", p.presence)
	p.w.touched(p.r) // somebody came
	return true
}

func helloBytes(t *testing.T, hello frame) []byte {
	t.Helper()
	raw, err := json.Marshal(hello)
	require.NoError(t, err)
	return append(wsHead(fin|opText, len(raw)), raw...)
}

// hello makes a good hello.
func (w *walls) hello(r *realm, d *dweller, session *identity.KeyPair, attested bool, sessionID string, more frame) frame {
	w.seq++
	at := float64(time.Now().UnixMilli() + int64(w.seq%40_000)) // no two are the same text
	f := frame{"type": "hello", "_reqId": "hello", "meshId": r.id, "memberId": d.id, "pubkey": d.key.Public(), "timestamp": at, "sessionId": sessionID}
	if session != nil {
		f["sessionPubkey"] = session.Public()
	}
	if attested {
		a := identity.NewAttestation(d.key, session.Public(), time.Now())
		f["type"] = "session_hello"
		f["parentMemberPubkey"], f["parentMemberId"] = d.key.Public(), d.id
		f["parentAttestation"] = frame{"sessionPubkey": a.SessionPubkey, "parentMemberPubkey": a.ParentPubkey, "expiresAt": a.ExpiresAt, "signature": a.Signature}
		f["signature"] = session.Sign(identity.SessionHelloText(r.id, d.key.Public(), session.Public(), at))
	} else {
		f["signature"] = d.key.Sign(identity.HelloText(r.id, d.id, d.key.Public(), at))
	}
	return merged(f, more)
}

// unplug ends a connection, in one way or another. It comes back when it is wanted.
func (w *walls) unplug(p *plug) {
	w.ops++
	w.did["unplug"]++
	if !p.alive {
		return
	}
	here := slices.ContainsFunc(w.b.Sessions(p.r.id), func(s broker.Session) bool { return s.ID == p.presence && s.Online })
	if w.rng.IntN(2) == 0 && here {
		_, before := w.standing(p.r)
		p.send(wsFrame(fin|opClose, string(binary.BigEndian.AppendUint16(nil, 1000))+"bye"))
		<-p.ended
		for began := time.Now(); ; { // the log tells of it a moment later
			if _, log := w.standing(p.r); log > before {
				break
			}
			require.Less(w.t, time.Since(began), time.Minute, "a presence that nobody has left")
			runtime.Gosched()
		}
	} else {
		p.hangUp()
	}
	p.alive = false
	if w.rng.IntN(3) == 0 { // as another session, perhaps of somebody else
		p.d, p.sessionID = p.r.people[w.rng.IntN(len(p.r.people)-1)], w.text(p.r, "session-id") // the last one changes its key
		if p.session != nil {
			session := w.newKey(p.r, "session")
			p.session = &session
		}
	}
}

// knock says things to the broker that must not let anybody in, and looks at what comes back.
func (w *walls) knock(r *realm) {
	d := &draw{w: w, r: r}
	other := d.other()
	mine, theirs := r.people[d.n(len(r.people)-1)], other.people[d.n(len(other.people)-1)]
	if w.isIntroduced(other, mine.key.Public()) || w.isIntroduced(r, theirs.key.Public()) {
		return // somebody joined that mesh with this key, too
	}
	session, err := identity.GenerateKey()
	require.NoError(w.t, err)
	refs := []string{mine.id, mine.key.Public(), theirs.id, theirs.key.Public(), r.id, other.id}
	as := func(r *realm, d *dweller) *realm { return &realm{id: r.id} }
	var say frame
	switch d.n(9) {
	case 0: // one's own key, at another mesh
		say = w.hello(as(other, mine), mine, nil, false, "s", nil)
	case 1: // by a session
		say = w.hello(as(other, mine), mine, &session, true, "s", nil)
	case 2: // another's hello, signed by oneself
		say = w.hello(other, &dweller{theirs.id, "", mine.key}, nil, false, "s", frame{"pubkey": theirs.key.Public()})
	case 3: // another mesh's hello, turned to one's own
		say = w.hello(other, theirs, nil, false, "s", frame{"meshId": r.id})
	case 4: // its member at one's own mesh
		say = w.hello(as(r, theirs), theirs, &session, d.chance(2), "s", nil)
	case 5: // a session that its member vouched for, at one's own
		say = w.hello(as(r, theirs), theirs, &session, true, "s", nil)
	case 6:
		say = frame{"type": "list_peers", "_reqId": "hello", "meshId": other.id}
	case 7:
		say = frame{"type": "topic_history", "_reqId": "hello", "topic": d.theirs("topic")}
	default: // something that another mesh has, in every place
		say = w.hello(r, mine, nil, false, d.theirs("sessionid"), frame{"timestamp": 1, "memberId": d.theirs("member"), "sessionPubkey": d.theirs("session")})
	}
	w.ops++
	w.did["knock"]++
	p := &plug{w: w, r: nil}
	p.connect()
	p.send(helloBytes(w.t, say))
	got, ok := p.next(w.t)
	require.True(w.t, ok, "%v", say)
	if bytes.Contains(got.raw, []byte(`"type":"hello_ack"`)) {
		w.cross("%v let somebody in: %s", say, got.raw)
	}
	w.scan(nil, fmt.Sprintf("the answer to %v", say), got.raw, append(refs, d.refs...))
	p.hangUp()
}

// request asks something over HTTP.
func (w *walls) request(r *realm) {
	name := w.routes[w.rng.IntN(len(w.routes))]
	d := &draw{w: w, r: r, to: r}
	call := wallRoutes[name].call(d)
	if call == nil {
		return
	}
	w.ops++
	w.did[name]++
	if strings.HasSuffix(name, "/stream") {
		w.tap(r, name, *call, d)
		return
	}
	status, code, body := w.ask(name, *call, d.to, d.mayHear())
	w.untouched(d.to, name)
	if status < 400 && call.learn != nil {
		var f frame
		require.NoError(w.t, json.Unmarshal(body, &f), "%s", body)
		call.learn(f)
	}
	if d.twin == "" || d.kept || status == http.StatusTooManyRequests || !d.chance(2) {
		return
	}
	made := d.like(d.twin)
	call.swap(d.twin, made)
	w.ops++
	w.twins++
	statusMade, codeMade, _ := w.ask(name, *call, d.to, d.mayHear())
	w.untouched(d.to, name)
	if statusMade != http.StatusTooManyRequests && (statusMade != status || codeMade != code) {
		w.cross("mesh %c can tell that another mesh has %q: %s answers %d %s, for a made-up one %d %s", r.letter, d.twin, name, status, code, statusMade, codeMade)
	}
}

// wallCall is a request over HTTP.
type wallCall struct {
	secret string // API key; empty: no Authorization
	name   string // of the topic, or the code, in the path
	query  url.Values
	header map[string]string
	body   any
	learn  func(answer frame)
}

// swap puts another value in the place of one.
func (c *wallCall) swap(old, by string) {
	c.name = strings.ReplaceAll(c.name, old, by)
	for _, values := range c.query {
		for i := range values {
			values[i] = strings.ReplaceAll(values[i], old, by)
		}
	}
	for k, v := range c.header {
		c.header[k] = strings.ReplaceAll(v, old, by)
	}
	if c.body != nil {
		raw, err := json.Marshal(c.body)
		if err == nil {
			c.body = json.RawMessage(bytes.ReplaceAll(raw, []byte(old), []byte(by)))
		}
	}
}

// httpRequest makes the request of a route.
func (c *wallCall) httpRequest(t *testing.T, ctx context.Context, name string) *http.Request {
	method, path, _ := strings.Cut(name, " ")
	for _, route := range broker.APIRoutes() {
		if route.Method == method && route.Path == path {
			path = "/v1" + path
			break
		}
	}
	path = strings.NewReplacer("{name}", url.PathEscape(c.name), "{code}", url.PathEscape(c.name)).Replace(path)
	if len(c.query) > 0 {
		path += "?" + c.query.Encode()
	}
	var body io.Reader
	if c.body != nil {
		raw, err := json.Marshal(c.body)
		require.NoError(t, err)
		body = bytes.NewReader(raw)
	}
	r := httptest.NewRequest(method, path, body).WithContext(ctx)
	r.RemoteAddr = "127.0.0.1:1"
	if c.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.secret != "" {
		r.Header.Set("Authorization", "Bearer "+c.secret)
	}
	for k, v := range c.header {
		r.Header.Set(k, v)
	}
	return r
}

// ask makes a request and looks through its answer.
func (w *walls) ask(name string, c wallCall, to *realm, refs []string) (status int, code string, body []byte) {
	rec := httptest.NewRecorder()
	w.b.ServeHTTP(rec, c.httpRequest(w.t, w.t.Context(), name))
	body = rec.Body.Bytes()
	via := fmt.Sprintf("%s %+v", name, c.name)
	for _, values := range rec.Header() {
		for _, v := range values {
			w.scan(to, "a header of "+via, []byte(v), refs)
		}
	}
	w.scan(to, via, body, refs)
	var f frame
	if json.Unmarshal(body, &f) == nil {
		if code = f.Str("code"); code == "" {
			code = f.Str("error")
		}
	}
	return rec.Code, code, body
}

// tap is an event stream that is looked through as it comes.
type tap struct {
	w    *walls
	r    *realm
	refs []string
	via  string
	head http.Header
	end  context.CancelFunc
	done chan struct{}
}

func (t *tap) Header() http.Header { return t.head }
func (t *tap) WriteHeader(int)     {}
func (t *tap) Flush()              {}

func (t *tap) Write(p []byte) (int, error) {
	t.w.scan(t.r, t.via, p, t.refs)
	return len(p), nil
}

// maxTaps is how many streams a mesh has open at a time.
const maxTaps = 5

func (w *walls) tap(r *realm, name string, c wallCall, d *draw) {
	if len(r.taps) == maxTaps {
		r.taps[0].end()
		<-r.taps[0].done
		r.taps = r.taps[1:]
	}
	ctx, end := context.WithCancel(context.Background())
	s := &tap{w: w, r: d.to, refs: d.mayHear(), via: "the stream of " + c.name, head: http.Header{}, end: end, done: make(chan struct{})}
	req := c.httpRequest(w.t, ctx, name)
	b := w.b
	go func() {
		defer close(s.done)
		defer end()
		b.ServeHTTP(s, req)
	}()
	r.taps = append(r.taps, s)
}

// holes is a store that answers some questions with what is another mesh's.
type holes struct {
	store.Store
	inner *memory.Store

	mu    sync.Mutex
	calls int // guarded by mu

	topic, message, history, roster, members, keys, grant, enqueue, tells bool
}

// leaks reports whether it is time for a wrong answer, and of which mesh.
func (h *holes) leaks(on bool, mesh string) (other string, now bool) {
	if !on {
		return "", false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls++
	if h.calls%7 > 0 {
		return "", false
	}
	for _, letter := range "abc" {
		if id := h.meshOf(letter); id != mesh && id != "" {
			return id, true
		}
	}
	return "", false
}

func (h *holes) meshOf(letter rune) string {
	m, err := h.inner.MeshBySlug(context.Background(), markStart+string(letter)+"-slug")
	if err != nil {
		return ""
	}
	return m.ID
}

func (h *holes) Topic(ctx context.Context, mesh, ref string) (store.Topic, error) {
	t, err := h.Store.Topic(ctx, mesh, ref)
	if err == nil || !h.topic && !h.tells {
		return t, err
	}
	for _, letter := range "abc" {
		if t, err := h.Store.Topic(ctx, h.meshOf(letter), ref); err == nil {
			if h.topic {
				return t, nil
			}
			return store.Topic{}, &wire.Fault{Code: wire.TopicNotFound, Text: `topic "` + ref + `" is in another mesh`}
		}
	}
	return t, err
}

func (h *holes) Message(ctx context.Context, mesh, id string) (store.Message, error) {
	m, err := h.Store.Message(ctx, mesh, id)
	if err == nil || !h.message {
		return m, err
	}
	for _, letter := range "abc" {
		if m, err := h.Store.Message(ctx, h.meshOf(letter), id); err == nil {
			m.MeshID = mesh
			return m, nil
		}
	}
	return m, err
}

func (h *holes) History(ctx context.Context, q store.HistoryQuery) ([]store.Message, error) {
	if other, now := h.leaks(h.history, q.MeshID); now {
		if general, err := h.Store.Topic(ctx, other, "general"); err == nil {
			q.MeshID, q.TopicID = other, general.ID
		}
	}
	return h.Store.History(ctx, q)
}

func (h *holes) Roster(ctx context.Context, mesh string) (*store.Roster, error) {
	mine, err := h.Store.Roster(ctx, mesh)
	other, now := h.leaks(h.roster, mesh)
	if err != nil || !now {
		return mine, err
	}
	theirs, err := h.Store.Roster(ctx, other)
	if err != nil {
		return mine, nil
	}
	mixed := *mine
	mixed.Topics = append(slices.Clone(mine.Topics), theirs.Topics...)
	return &mixed, nil
}

func (h *holes) Members(ctx context.Context, mesh string) ([]store.Member, error) {
	if other, now := h.leaks(h.members, mesh); now {
		mesh = other
	}
	return h.Store.Members(ctx, mesh)
}

func (h *holes) ListAPIKeys(ctx context.Context, mesh, member string) ([]store.APIKey, error) {
	if other, now := h.leaks(h.keys, mesh); now {
		mesh, member = other, ""
	}
	return h.Store.ListAPIKeys(ctx, mesh, member)
}

func (h *holes) APIKeysByPrefix(ctx context.Context, prefix string) ([]store.APIKey, error) {
	keys, err := h.Store.APIKeysByPrefix(ctx, prefix)
	for i := range keys {
		if other, now := h.leaks(h.grant, keys[i].MeshID); now {
			keys[i].MeshID, keys[i].IssuedBy = other, ""
		}
	}
	return keys, err
}

func (h *holes) Enqueue(ctx context.Context, mesh string, version int64, d []store.Draft, q store.Quota, now time.Time) ([]store.Enqueued, error) {
	stored, err := h.Store.Enqueue(ctx, mesh, version, d, q, now)
	if other, leak := h.leaks(h.enqueue, mesh); leak && err == nil {
		if theirs, rerr := h.Store.Roster(ctx, other); rerr == nil {
			copied := slices.Clone(d[:1])
			copied[0].Message.MeshID, copied[0].Message.ID, copied[0].Message.ClientMessageID = other, identity.NewID(), ""
			copied[0].Recipients = []store.Recipient{{MemberID: theirs.Members[0].ID}}
			_, _ = h.Store.Enqueue(ctx, other, theirs.Version, copied, q, now)
		}
	}
	return stored, err
}
