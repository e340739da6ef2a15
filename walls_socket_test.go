package broker_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
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
	"github.com/claudemesh/broker/wire"
)

// The connections of walls_test.go: those of members, which come and go, and those of strangers, which knock.

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
