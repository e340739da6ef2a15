package broker_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
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
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// stranger is a peer that keeps to no rule: it writes the bytes that it is told to, and notes what comes back.
type stranger struct {
	t    *testing.T
	link net.Conn
	done chan struct{} // closed when reading has ended

	mu     sync.Mutex
	frames []frame // guarded by mu
	pongs  int     // guarded by mu
	end    string  // how the connection ended, empty while it is open; guarded by mu
}

// dialStranger opens a connection and a WebSocket on it.
func dialStranger(t *testing.T, mesh *brokertest.Mesh) *stranger {
	t.Helper()
	link := dialBytes(t, mesh)
	_, err := io.WriteString(link, "GET /ws HTTP/1.1\r\nHost: "+brokertest.Host+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	require.NoError(t, err)
	in := bufio.NewReader(link)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	s := &stranger{t: t, link: link, done: make(chan struct{})}
	go s.read(in)
	t.Cleanup(func() {
		_ = link.Close()
		<-s.done
	})
	return s
}

// dialBytes opens a bare connection.
func dialBytes(t *testing.T, mesh *brokertest.Mesh) net.Conn {
	t.Helper()
	link, err := mesh.HTTP.Transport.(*http.Transport).DialContext(t.Context(), "tcp", brokertest.Host)
	require.NoError(t, err)
	return link
}

// The first byte of a WebSocket frame: the last frame of a message, its kind, and what no frame of ours may have.
const (
	fin      = 0x80
	rsv1     = 0x40
	rsv2     = 0x20
	opCont   = 0x0
	opText   = 0x1
	opBinary = 0x2
	opClose  = 0x8
	opPing   = 0x9
	opPong   = 0xa
)

// wsHead is the head of a masked frame. The mask is zero, so the payload follows as it is.
func wsHead(first byte, length int) []byte {
	head := []byte{first}
	switch {
	case length < 126:
		head = append(head, 0x80|byte(length))
	case length < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(length))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(length))
	}
	return append(head, 0, 0, 0, 0)
}

func wsFrame(first byte, payload string) []byte {
	return append(wsHead(first, len(payload)), payload...)
}

// bytes writes bytes as they are. The broker may have hung up already.
func (s *stranger) bytes(b ...byte) *stranger {
	_, _ = s.link.Write(b)
	return s
}

// say writes one text message: a string as it is, else as JSON.
func (s *stranger) say(m any) *stranger {
	s.t.Helper()
	text, ok := m.(string)
	if !ok {
		raw, err := json.Marshal(m)
		require.NoError(s.t, err)
		text = string(raw)
	}
	return s.bytes(wsFrame(fin|opText, text)...)
}

func (s *stranger) read(in *bufio.Reader) {
	defer close(s.done)
	for {
		op, payload, err := readWS(in)
		s.mu.Lock()
		switch {
		case err != nil:
			s.end = "cut"
		case op == opText:
			f := frame{}
			if json.Unmarshal(payload, &f) != nil {
				f = frame{"type": "not JSON: " + string(payload)}
			}
			s.frames = append(s.frames, f)
		case op == opClose && len(payload) >= 2:
			s.end = strings.TrimSpace(fmt.Sprint("close ", binary.BigEndian.Uint16(payload), " ", string(payload[2:])))
		case op == opClose:
			s.end = "close"
		case op == opPong:
			s.pongs++
		}
		ended := s.end != ""
		s.mu.Unlock()
		switch {
		case op == opClose && err == nil:
			_, _ = s.link.Write(wsFrame(fin|opClose, string(payload)))
			_ = s.link.Close()
		case op == opPing:
			_, _ = s.link.Write(wsFrame(fin|opPong, string(payload)))
		}
		if ended {
			return
		}
	}
}

// readWS reads one frame of a server that neither masks nor fragments.
func readWS(in *bufio.Reader) (op byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	length := uint64(head[1])
	for more, n := map[uint64]int{126: 2, 127: 8}[length], 0; n < more; n++ {
		b, err := in.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		if n == 0 {
			length = 0
		}
		length = length<<8 | uint64(b)
	}
	payload = make([]byte, length)
	_, err = io.ReadFull(in, payload)
	return head[0] & 0xf, payload, err
}

// take returns what has come since the last call, less what nobody asked for, and how the connection ended.
func (s *stranger) take() (frames []frame, end string) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.frames {
		if f.Type() != wire.TypePush {
			frames = append(frames, f)
		}
	}
	s.frames = nil
	return frames, s.end
}

// answer codes what has come since the last call: every reply, then the end of the connection; "silence" for nothing at all.
func (s *stranger) answer() string {
	frames, end := s.take()
	var parts []string
	for _, f := range frames {
		parts = append(parts, coded(f))
	}
	if end != "" {
		parts = append(parts, end)
	}
	if len(parts) == 0 {
		return "silence"
	}
	return strings.Join(parts, ", ")
}

// coded is the short form of a reply.
func coded(f frame) string {
	switch {
	case f.Type() == wire.TypeError:
		return "error " + f.Str("code")
	case f.Type() == wire.TypeAck && f.Str("error") != "":
		return "ack " + f.Str("error")
	case f.Type() == wire.TypeAck && f["queued"] == true:
		return fmt.Sprint("ack queued for ", f["recipients"].(map[string]any)["total"])
	case f.Type() == wire.TypeAPIKeyRevokeResponse:
		return f.Type() + " " + f.Str("status")
	default:
		return f.Type()
	}
}

// siege is a broker with two meshes. In the first, two members talk while a third, eve, does what she likes; she knows every id, name and
// public key of the second, which has members and topics of the same names, and must never be heard there.
type siege struct {
	t       *testing.T
	mesh    *brokertest.Mesh
	ana, bo *brokertest.Conn
	eve     *stranger // signed in; cases that do not end it share it
	member  *brokertest.Member
	log     *lockedBuffer

	deploys, hr, lair string // topics of the mesh: public, ana's and bo's own, eve's
	between           string // a message between ana and bo
	waiting           string // a message that waits for cy
	rest              map[string]string

	other struct {
		id             string
		ana, bo        *brokertest.Conn
		member         store.Member
		session        string // bo's session key
		deploys, hr    string
		message        string
		key, keyID     string
		token          string
		version, seq   int64
		owner          identity.KeyPair
		sealedByMember frame
	}
	rounds int // of healthy
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newSiege(t *testing.T) *siege {
	t.Helper()
	s := &siege{t: t, log: &lockedBuffer{}}
	s.mesh = brokertest.New(t, func(o *broker.Options) {
		o.Logger = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		o.MaxConnectionsPerMesh, o.MaxPresencesPerMember, o.AuthFailAddrRatePerMin = -1, -1, -1
		o.MaxGrantsPerMember = 10
	})
	s.ana, s.bo = s.mesh.Dial("ana", explicit), s.mesh.Dial("bo", explicit)
	cy, dan := s.mesh.Member("cy"), s.mesh.Member("dan")
	s.member = s.mesh.Member("eve")
	require.NoError(t, s.mesh.Store.SetGrants(t.Context(), s.mesh.ID, cy.ID, map[string]*[]string{s.member.Pubkey: {}}, 0))
	require.NoError(t, s.mesh.Broker.RevokeMember(t.Context(), s.mesh.ID, dan.ID))
	done(t, s.bo, frame{"type": "join_group", "name": "eng/core"})
	s.deploys, s.hr = newTopic(t, s.ana, "deploys", "public"), newTopic(t, s.ana, "hr", "private")
	done(t, s.bo, frame{"type": "topic_join", "topic": "deploys"})
	done(t, s.ana, frame{"type": "topic_add", "topic": "hr", "member": s.bo.Member.ID})
	s.between = s.ana.Say(s.bo.Member.Pubkey, "now", "between us").Str("messageId")
	s.waiting = s.ana.Request(frame{
		"type": "send", "targetSpec": cy.Pubkey, "nonce": "", "ciphertext": brokertest.Body("wait"), "client_message_id": "X",
	}).Str("messageId")
	s.ana.Say("#hr", "now", "salaries")

	s.eve = s.signIn(frame{"sessionId": "eve"})
	s.eve.say(frame{"type": "topic_create", "name": "lair", "_reqId": "r"})
	s.eve.say(frame{"type": "topic_join", "topic": "deploys"})
	frames, _ := s.eve.take()
	var made wire.TopicCreated
	require.NoError(t, frames[0].Into(&made))
	s.lair = made.Topic.ID

	s.rest = map[string]string{}
	for name, key := range map[string]door{
		"read": restKey(t, s.mesh, "eve", reads), "send": restKey(t, s.mesh, "eve", sends), "both": restKey(t, s.mesh, "eve", readSend),
		"scoped": restKey(t, s.mesh, "eve", readSend, scoped("general")), "nobody": restKey(t, s.mesh, "", readSend),
		"ana": restKey(t, s.mesh, "ana", readSend), "banned": restKey(t, s.mesh, "fay", readSend), "revoked": restKey(t, s.mesh, "eve", readSend),
		"expired": restKey(t, s.mesh, "eve", readSend, func(n *broker.NewAPIKey) { n.ExpiresAt = time.Now().Add(time.Second) }),
	} {
		s.rest[name] = key.key
		if name == "revoked" {
			require.NoError(t, s.mesh.Broker.RevokeAPIKey(t.Context(), s.mesh.ID, key.id))
		}
	}
	require.NoError(t, s.mesh.Broker.RevokeMember(t.Context(), s.mesh.ID, s.mesh.Member("fay").ID))
	s.foundOther()
	time.Sleep(2 * time.Second) // of the bubble; a key expires
	synctest.Wait()
	s.other.ana.Waiting()
	s.other.bo.Waiting()
	s.other.version, s.other.seq = s.version(s.other.id)
	return s
}

// foundOther makes the second mesh.
func (s *siege) foundOther() {
	t, b, o := s.t, s.mesh.Broker, &s.other
	o.owner = sessionKey(t)
	mesh, err := b.CreateMesh(t.Context(), broker.NewMesh{Slug: "other", Name: "Beyond the wall", OwnerPubkey: o.owner.Public()})
	require.NoError(t, err)
	o.id = mesh.ID
	enrol := func(name, role string) (store.Member, identity.KeyPair) {
		key := sessionKey(t)
		m, err := b.AddMember(t.Context(), o.id, broker.NewMember{Name: name, Pubkey: key.Public(), Role: role})
		require.NoError(t, err)
		return m, key
	}
	ana, anaKey := enrol("ana", store.RoleAdmin)
	bo, boKey := enrol("bo", store.RoleMember)
	session := sessionKey(t)
	o.member, o.session = bo, session.Public()
	o.ana = hostSignIn(t, s.mesh, ana, anaKey, frame{"capabilities": []string{"client_ack", "topic_events"}})
	o.bo = hostSignIn(t, s.mesh, bo, boKey, frame{"capabilities": []string{"client_ack", "topic_events"}, "sessionPubkey": o.session})
	o.deploys, o.hr = newTopic(t, o.ana, "deploys", "public"), newTopic(t, o.ana, "hr", "private")
	done(t, o.bo, frame{"type": "topic_join", "topic": "deploys"})
	done(t, o.bo, frame{"type": "join_group", "name": "eng/core"})
	o.message = o.ana.Say("#deploys", "now", "out of reach").Str("messageId")
	ackAll(o.bo, []frame{o.bo.ExpectPush()})
	secret, k, err := b.CreateAPIKey(t.Context(), o.id, broker.NewAPIKey{Label: "x", Capabilities: []string{wire.KeyAdmin}, IssuedBy: ana.ID})
	require.NoError(t, err)
	o.key, o.keyID = secret, k.ID
	link, _, err := b.CreateInvite(t.Context(), o.id, o.owner, broker.InviteOptions{BrokerURL: "ws://" + brokertest.Host + "/ws"})
	require.NoError(t, err)
	o.token, err = identity.ParseInviteLink(link)
	require.NoError(t, err)
}

// version is what changes in a mesh's store when anything happens there.
func (s *siege) version(meshID string) (roster, seq int64) {
	s.t.Helper()
	r, err := s.mesh.Store.Roster(s.t.Context(), meshID)
	require.NoError(s.t, err)
	seq, err = s.mesh.Store.LastSeq(s.t.Context(), meshID)
	require.NoError(s.t, err)
	return r.Version, seq
}

// hello is eve's hello.
func (s *siege) hello(more frame) frame {
	return s.mesh.HelloFrame(s.member, nil, false, merged(frame{"sessionId": identity.NewID(), "pid": 1, "cwd": "/"}, more))
}

// signIn lets eve in on a connection of its own.
func (s *siege) signIn(more frame) *stranger {
	s.t.Helper()
	c := dialStranger(s.t, s.mesh).say(s.hello(more))
	require.Equal(s.t, "hello_ack", c.answer())
	return c
}

// healthy proves that the others can still do all that they could.
func (s *siege) healthy(after string) {
	t := s.t
	t.Helper()
	s.rounds++
	synctest.Wait()
	s.ana.Waiting()
	s.bo.Waiting()
	text := fmt.Sprint("still here ", s.rounds)
	for _, target := range []string{s.bo.Member.Pubkey, "*", "@eng", "#deploys", "#hr"} {
		ack := s.ana.Say(target, "now", text)
		require.Equal(t, true, ack["queued"], "after %s: to %s: %v", after, target, ack)
		push := s.bo.ExpectPush()
		require.Equal(t, text, brokertest.Text(push), "after %s: to %s", after, target)
		require.Equal(t, s.ana.Member.ID, push.Str("senderMemberId"))
		ackAll(s.bo, []frame{push})
	}
	require.Equal(t, true, s.bo.Say(s.ana.Member.Pubkey, "now", text)["queued"], "after %s", after)
	push := s.ana.ExpectPush()
	require.Equal(t, text, brokertest.Text(push), "after %s", after)
	ackAll(s.ana, []frame{push})
	require.Equal(t, "peers_list", s.bo.Request(frame{"type": "list_peers"}).Type())
}

// quiet proves that nothing reached the other mesh.
func (s *siege) quiet(after string) {
	t := s.t
	t.Helper()
	require.Empty(t, s.other.ana.Waiting(), "after %s", after)
	require.Empty(t, s.other.bo.Waiting(), "after %s", after)
	version, seq := s.version(s.other.id)
	require.Equal(t, []int64{s.other.version, s.other.seq}, []int64{version, seq}, "after %s", after)
}

// The ways to make a case.

// ws says a frame with a _reqId, which the answer must repeat.
func (s *siege) ws(f frame) func() string {
	return func() string {
		id := identity.NewID()
		s.eve.say(merged(f, frame{"_reqId": id}))
		frames, end := s.eve.take()
		require.Len(s.t, frames, 1, "%v %s", f, end)
		require.Equal(s.t, id, frames[0].Str("_reqId"))
		require.Less(s.t, len(frames[0].Str("message")), 300, "%v", frames[0])
		s.tellsNothing(frames[0], f)
		return coded(frames[0])
	}
}

// send is ws for a message, which is a good one but for what is given.
func (s *siege) send(more frame) func() string {
	f := merged(frame{"type": "send", "targetSpec": s.bo.Member.Pubkey, "nonce": "", "ciphertext": "aGk="}, more)
	for k, v := range f {
		if v == nil {
			delete(f, k)
		}
	}
	return s.ws(f)
}

// to is send to a target.
func (s *siege) to(target string) func() string { return s.send(frame{"targetSpec": target}) }

// raw says a text as it is.
func (s *siege) raw(text string) func() string {
	return func() string { return s.eve.say(text).answer() }
}

// rawBytes writes bytes as they are to the socket that is signed in for it.
func (s *siege) rawBytes(b ...[]byte) func() string {
	return func() string {
		c := s.signIn(nil)
		for _, part := range b {
			c.bytes(part...)
		}
		return c.answer()
	}
}

// before says frames on a connection that has not said hello.
func (s *siege) before(frames ...any) func() string {
	return func() string {
		c := dialStranger(s.t, s.mesh)
		for _, f := range frames {
			c.say(f)
		}
		answer := c.answer()
		_ = c.link.Close()
		return answer
	}
}

// tellsNothing proves that an answer holds nothing of the other mesh but what was asked for by name.
func (s *siege) tellsNothing(answer, asked any) {
	s.t.Helper()
	request := fmt.Sprint(asked)
	for _, secret := range []string{
		s.other.id, "Beyond the wall", s.other.member.ID, s.other.member.Pubkey, s.other.session, s.other.deploys, s.other.hr, s.other.message,
		s.other.keyID, s.other.key,
	} {
		if !strings.Contains(request, secret) {
			require.NotContains(s.t, fmt.Sprint(answer), secret)
		}
	}
}

// call makes an HTTP request with a key of siege.rest, or a secret, or none, and codes the answer.
func (s *siege) call(key, method, path string, body any, headers ...string) func() string {
	return func() string {
		text := ""
		switch b := body.(type) {
		case nil:
		case string:
			text = b
		default:
			raw, err := json.Marshal(b)
			require.NoError(s.t, err)
			text = string(raw)
		}
		lines := []string{method + " " + path + " HTTP/1.1", "Host: " + brokertest.Host, "Connection: close"}
		if secret := s.rest[key]; secret != "" {
			lines = append(lines, "Authorization: Bearer "+secret)
		} else if key != "" {
			lines = append(lines, "Authorization: Bearer "+key)
		}
		if body != nil {
			lines = append(lines, "Content-Type: application/json", fmt.Sprint("Content-Length: ", len(text)))
		}
		// A header that is given takes the place of one of these.
		for _, h := range headers {
			name, _, _ := strings.Cut(h, ":")
			kept := lines[:1]
			for _, l := range lines[1:] {
				if !strings.HasPrefix(l, name+":") {
					kept = append(kept, l)
				}
			}
			lines = kept
			if !strings.HasSuffix(h, ":") {
				lines = append(lines, h)
			}
		}
		return s.http(strings.Join(lines, "\r\n") + "\r\n\r\n" + text)
	}
}

// http writes a request as it is and codes the answer: the status, then the code, the error or the text of the body. Of an event stream it
// tells the first two events.
func (s *siege) http(request string) string {
	s.t.Helper()
	link := dialBytes(s.t, s.mesh)
	wrote := make(chan struct{})
	go func() { // the broker may answer before it has read everything
		defer close(wrote)
		_, _ = io.WriteString(link, request)
	}()
	defer func() {
		_ = link.Close()
		<-wrote
	}()
	in := bufio.NewReader(link)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return "no answer"
	}
	out := fmt.Sprint(resp.StatusCode)
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		events := bufio.NewReader(resp.Body)
		for range 2 {
			e, err := readSSE(events)
			require.NoError(s.t, err)
			if out += " " + e.Name; e.Name == "error" {
				out += " " + e.json(s.t).Str("error")
			}
		}
		return out
	}
	raw, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	s.tellsNothing(string(raw), request)
	body := frame{}
	if json.Unmarshal(raw, &body) != nil {
		text, _, _ := strings.Cut(string(raw), "\n")
		return strings.TrimSpace(out + " " + text)
	}
	for _, name := range []string{"code", "error", "message"} {
		if code := body.Str(name); code != "" {
			return out + " " + code
		}
	}
	return out
}

// hook sends a hook as an editor on this machine does, but for the headers.
func (s *siege) hook(body any, headers ...string) func() string {
	return s.call("", "POST", "/hook/set-status", body, append([]string{"Host: localhost"}, headers...)...)
}

// join tampers with an invite: change gets the payload and the whole request, and what it leaves is sent.
func (s *siege) join(change func(p *identity.InviteV1, f frame)) func() string {
	return func() string {
		link, _, err := s.mesh.Broker.CreateInvite(s.t.Context(), s.mesh.ID, s.mesh.Owner, broker.InviteOptions{BrokerURL: "ws://" + brokertest.Host + "/ws"})
		require.NoError(s.t, err)
		token, err := identity.ParseInviteLink(link)
		require.NoError(s.t, err)
		payload, err := identity.ParseInviteToken(token)
		require.NoError(s.t, err)
		f := frame{"invite_token": token, "peer_pubkey": sessionKey(s.t).Public(), "display_name": "mallory"}
		change(&payload, f)
		if _, given := f["invite_payload"]; !given {
			f["invite_payload"] = payload
		}
		return s.call("", "POST", "/join", f)()
	}
}

type hostileCase struct {
	name string
	want string // of the coded answer; what ends in … is its beginning
	do   func() string
}

// A refusal of every kind that there is leaves everybody else alone: the same broker, hundreds of requests that no honest client would make.
func TestHostileInput(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSiege(t)
		s.healthy("nothing")
		var cases []hostileCase
		for _, family := range [][]hostileCase{
			s.textCases(), s.sendCases(), s.sessionCases(), s.topicCases(), s.keyCases(), s.handshakeCases(), s.socketCases(), s.adminCases(),
			s.authCases(), s.apiCases(), s.pathCases(), s.routeCases(), s.joinCases(),
		} {
			cases = append(cases, family...)
		}
		names := map[string]bool{}
		for i, c := range cases {
			require.False(t, names[c.name], "two cases are called %q", c.name)
			names[c.name] = true
			version, seq := s.version(s.mesh.ID)
			got := c.do()
			if want, prefix := strings.CutSuffix(c.want, "…"); prefix && strings.HasPrefix(got, want) {
				got = c.want
			}
			if got != c.want {
				t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
			}
			synctest.Wait()
			s.quiet(c.name)
			if refusal(c.want) {
				after, last := s.version(s.mesh.ID)
				require.Equal(t, []int64{version, seq}, []int64{after, last}, "%s was refused, and yet something happened", c.name)
			}
			if i%10 == 9 {
				s.healthy(c.name)
			}
		}
		s.healthy("everything")
		require.GreaterOrEqual(t, len(cases), 90)
		t.Logf("%d hostile requests", len(cases))
		require.NotContains(t, s.log.String(), "level=ERROR", "what a peer does wrong is no fault of ours")
		require.NotContains(t, s.log.String(), "level=WARN", "nor anything that an operator should look at")

		rows, err := s.mesh.Store.Deliveries(t.Context(), s.mesh.ID, s.waiting)
		require.NoError(t, err)
		require.Len(t, rows, 1)
		require.Equal(t, store.Pending, rows[0].State, "no forged acknowledgement counted")
	})
}

// refusal reports whether a coded answer says that nothing was done.
func refusal(want string) bool {
	if strings.Contains(want, "close") || strings.Contains(want, "cut") { // the end of a connection is something
		return false
	}
	return strings.HasPrefix(want, "error ") || strings.HasPrefix(want, "4") || strings.HasPrefix(want, "ack ") && !strings.HasPrefix(want, "ack queued")
}

// nested is a value that nests so deep.
func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

// long is a text of n characters.
func long(n int) string { return strings.Repeat("x", n) }

// textCases are frames that no decoder may let through, or only with care.
func (s *siege) textCases() []hostileCase {
	return []hostileCase{
		{"empty frame", "silence", s.raw("")},
		{"white space", "silence", s.raw(" \r\n\t")},
		{"not JSON", "silence", s.raw("hello?")},
		{"JavaScript", "silence", s.raw(`{type:'list_peers'}`)},
		{"array", "silence", s.raw(`[{"type":"list_peers","_reqId":"r"}]`)},
		{"null", "silence", s.raw("null")},
		{"number", "silence", s.raw("1e999")},
		{"two objects", "silence", s.raw(`{"type":"list_peers"}{"type":"list_peers"}`)},
		{"trailing comma", "silence", s.raw(`{"type":"list_peers",}`)},
		{"truncated object", "silence", s.raw(`{"type":"list_peers","_reqId":"r"`)},
		{"byte order mark", "silence", s.raw("\ufeff" + `{"type":"list_peers"}`)},
		{"NUL before the object", "silence", s.raw("\x00" + `{"type":"list_peers"}`)},
		{"invalid UTF-8", "silence", s.raw("\xff\xfe")},
		{"no type", "error malformed", s.raw(`{"_reqId":"r"}`)},
		{"empty type", "error malformed", s.raw(`{"type":"","_reqId":"r"}`)},
		{"type is a number", "error malformed", s.raw(`{"type":5,"_reqId":"r"}`)},
		{"type is an object", "error malformed", s.raw(`{"type":{"a":1},"_reqId":"r"}`)},
		{"_reqId is a number", "error malformed", s.raw(`{"type":"list_peers","_reqId":7}`)},
		{"_reqId is a number on a type without a reply", "silence", s.raw(`{"type":"set_status","status":"idle","_reqId":7}`)},
		{"id is a number", "error malformed", s.ws(frame{"type": "list_peers", "id": 5})},
		{"invalid UTF-8 in a value", "error malformed", s.raw("{\"type\":\"list_peers\",\"x\":\"\xc3\x28\",\"_reqId\":\"r\"}")},
		{"invalid UTF-8 in a name", "error malformed", s.raw("{\"type\":\"list_peers\",\"\xed\xa0\x80\":1,\"_reqId\":\"r\"}")},
		{"a name twice", "error malformed", s.raw(`{"type":"list_peers","_reqId":"r","pad":1,"pad":2}`)},
		{"type twice", "error malformed", s.raw(`{"type":"set_status","type":"list_peers","_reqId":"r"}`)},
		{"type twice, once escaped", "error malformed", s.raw(`{"type":"set_status","\u0074ype":"list_peers","_reqId":"r"}`)},
		{"a send hidden behind another type", "ack invalid: type…", s.raw(`{"type":"list_peers","_reqId":"r","\u0074ype":"send","targetSpec":"*","nonce":"","ciphertext":"aGk="}`)},
		{"a name in another case", "error malformed", s.raw(`{"Type":"list_peers","_reqId":"r"}`)},
		{"a name with a long s", "error malformed", s.raw(`{"type":"set_status","` + "\u017f" + `tatus":"idle","_reqId":"r"}`)},
		{"_REQID", "error malformed", s.raw(`{"type":"list_peers","_REQID":"r"}`)},
		{"nests 65 deep", "error malformed", s.raw(`{"type":"list_peers","_reqId":"r","x":` + nested(65) + `}`)},
		{"nests 20000 deep", "silence", s.raw(`{"type":"list_peers","_reqId":"r","x":` + nested(20_000) + `}`)},
		{"10000 names", "peers_list", s.raw(`{"type":"list_peers","_reqId":"r"` + manyNames(7000) + `}`)},
		{"unknown type", "error unknown_message_type", s.ws(frame{"type": "no_such_type"})},
		{"unknown type, nothing asked", "silence", s.raw(`{"type":"no_such_type"}`)},
		{"a broker's type", "error unknown_message_type", s.ws(frame{"type": "hello_ack"})},
		{"a broker's push", "error unknown_message_type", s.ws(frame{"type": "push", "messageId": "x", "senderPubkey": "system"})},
		{"type with NUL", "error unknown_message_type", s.ws(frame{"type": "list_peers\x00"})},
		{"type of 10 KB", "error unknown_message_type", s.ws(frame{"type": long(10_000)})},
		{"type with an escape sequence", "error unknown_message_type", s.ws(frame{"type": "\x1b]0;pwned\x07"})},
		{"type with SQL", "error unknown_message_type", s.ws(frame{"type": "'; DROP TABLE mesh; --"})},
		{"type with a slash", "error unknown_message_type", s.ws(frame{"type": "x-acme/poke"})},
		{"frame of 73729 bytes", "error payload_too_large", s.ws(frame{"type": "list_peers", "pad": long(73_729)})},
		{"frame of 73729 bytes without a reply", "silence", s.raw(`{"type":"set_summary","summary":"` + long(73_729) + `"}`)},
		{"frame of 900 KB", "error payload_too_large", s.ws(frame{"type": "list_peers", "pad": long(900_000)})},
	}
}

func manyNames(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"n%d":0`, i)
	}
	return b.String()
}

// sendCases are messages that may not be sent, or only as what they are.
func (s *siege) sendCases() []hostileCase {
	const unknown = "ack target_not_found: unknown target"
	later := func(d time.Duration) string { return wire.FormatTime(time.Now().Add(d)) }
	return []hostileCase{
		{"no target", "ack invalid: targetSpec…", s.send(frame{"targetSpec": nil})},
		{"target is a number", "ack invalid: targetSpec…", s.send(frame{"targetSpec": 5})},
		{"target is a list", "ack invalid: targetSpec…", s.send(frame{"targetSpec": []string{"*"}})},
		{"target with NUL", "ack invalid: targetSpec…", s.to("@eng\x00")},
		{"no ciphertext", "ack invalid: ciphertext…", s.send(frame{"ciphertext": nil})},
		{"empty ciphertext", "ack invalid: ciphertext…", s.send(frame{"ciphertext": ""})},
		{"ciphertext is an object", "ack invalid: ciphertext…", s.send(frame{"ciphertext": frame{"a": "b"}})},
		{"ciphertext holds NUL", "ack invalid: ciphertext…", s.send(frame{"ciphertext": "a\x00b="})},
		{"nonce is a number", "ack invalid: nonce…", s.send(frame{"nonce": 1})},
		{"nonce holds NUL", "ack invalid: nonce…", s.send(frame{"nonce": "n\x00"})},
		{"unknown priority", "ack invalid: priority…", s.send(frame{"priority": "urgent"})},
		{"priority in capitals", "ack invalid: priority…", s.send(frame{"priority": "NOW"})},
		{"priority is a number", "ack invalid: priority…", s.send(frame{"priority": 1})},
		{"send with a numeric id", "ack invalid: id…", s.send(frame{"id": 5})},
		{"send with an id of 257 bytes", "ack invalid: id…", s.send(frame{"id": long(257)})},
		{"empty client_message_id", "ack invalid: client_message_id…", s.send(frame{"client_message_id": ""})},
		{"client_message_id of 129", "ack invalid: client_message_id…", s.send(frame{"client_message_id": long(129)})},
		{"client_message_id with NUL", "ack invalid: client_message_id…", s.send(frame{"client_message_id": "a\x00"})},
		{"client_message_id is a list", "ack invalid: client_message_id…", s.send(frame{"client_message_id": []int{1}})},
		{"fingerprint of 63 digits", "ack invalid: request_fingerprint…", s.send(frame{"request_fingerprint": strings.Repeat("a", 63)})},
		{"fingerprint of no digits", "ack invalid: request_fingerprint…", s.send(frame{"request_fingerprint": strings.Repeat("g", 64)})},
		{"17 mentions", "ack invalid: mentions…", s.send(frame{"targetSpec": "#deploys", "mentions": make([]string, 17)})},
		{"mention of 65", "ack invalid: mentions…", s.send(frame{"targetSpec": "#deploys", "mentions": []string{long(65)}})},
		{"mentions is a text", "ack invalid: mentions…", s.send(frame{"targetSpec": "#deploys", "mentions": "ana"})},
		{"body version 3", "ack invalid: bodyVersion…", s.send(frame{"targetSpec": "#deploys", "bodyVersion": 3})},
		{"body version 1.5", "ack invalid: bodyVersion…", s.send(frame{"targetSpec": "#deploys", "bodyVersion": 1.5})},
		{"body version is a text", "ack invalid: bodyVersion…", s.send(frame{"targetSpec": "#deploys", "bodyVersion": "2"})},
		{"expires yesterday", "ack invalid: expiresAt…", s.send(frame{"expiresAt": later(-time.Hour)})},
		{"expires in a year", "ack invalid: expiresAt…", s.send(frame{"expiresAt": later(365 * 24 * time.Hour)})},
		{"expires some day", "ack invalid: expiresAt…", s.send(frame{"expiresAt": "some day"})},
		{"expires at a number", "ack invalid: expiresAt…", s.send(frame{"expiresAt": 1e12})},
		{"message of 65537 bytes", "ack payload_too_large: invalid size 65537 bytes > MAX_MESSAGE_BYTES=65536", s.send(frame{"targetSpec": "*", "ciphertext": strings.Repeat("AAAA", 65_536/4)})},
		{"message of 800 KB", "ack payload_too_large: invalid size 800001 bytes > MAX_MESSAGE_BYTES=65536", s.send(frame{"targetSpec": "*", "ciphertext": strings.Repeat("AAAA", 200_000)})},
		{"a field of the message twice", "ack invalid: targetSpec…", s.raw(`{"type":"send","id":"i","targetSpec":"*","targetSpec":"#hr","nonce":"","ciphertext":"aGk="}`)},
		{"a field of the message in another case", "ack invalid: targetSpec…", s.raw(`{"type":"send","id":"i","TargetSpec":"*","nonce":"","ciphertext":"aGk="}`)},

		{"to nobody's key", unknown, s.to(strings.Repeat("ab", 32))},
		{"to a key of 63 digits", unknown, s.to(strings.Repeat("a", 63))},
		{"to a name", unknown, s.to("bo")},
		{"to the empty group", unknown, s.to("@")},
		{"to a group with an empty segment", unknown, s.to("@eng//core")},
		{"to a group of 129", unknown, s.to("@" + long(64) + "/" + long(64))},
		{"to a group of nine segments", unknown, s.to("@a/b/c/d/e/f/g/h/i")},
		{"to @@all", unknown, s.to("@@all")},
		{"to a group with an escape sequence", unknown, s.to("@\x1b[2J")},
		{"to a group called like SQL", "ack queued for 0", s.to("@' OR 1=1; --")},
		{"to a pattern", unknown, s.to("%")},
		{"to everybody and more", unknown, s.to("**")},
		{"to the empty topic", unknown, s.to("#")},
		{"to an unknown topic", unknown, s.to("#nowhere")},
		{"to a topic of 65", unknown, s.to("#" + strings.Repeat("ü", 65))},
		{"to a topic called like SQL", unknown, s.to("#' UNION SELECT secret FROM api_key; --")},
		{"to a private topic by name", unknown, s.to("#hr")},
		{"to a private topic by id", unknown, s.to("#" + s.hr)},
		{"to a member of another mesh", unknown, s.to(s.other.member.Pubkey)},
		{"to a session of another mesh", unknown, s.to(s.other.session)},
		{"to a topic of another mesh", unknown, s.to("#" + s.other.deploys)},
		{"to another mesh by name", unknown, s.to(s.other.id + "/*")},
		{"to a banned member", unknown, s.to(s.mesh.Member("dan").Pubkey)},
		{"to somebody who blocks the sender", "ack forbidden: blocked by recipient grants (sender lacks dm capability)", s.to(s.mesh.Member("cy").Pubkey)},
		{"forged sender", "ack queued for 1", func() string {
			s.bo.Waiting()
			answer := s.send(frame{
				"senderPubkey": s.ana.Member.Pubkey, "senderMemberPubkey": s.ana.Member.Pubkey, "senderMemberId": s.ana.Member.ID, "senderName": "ana",
				"meshId": s.other.id, "messageId": s.between, "subtype": "system", "event": "peer_left", "redelivered": true,
			})()
			push := s.bo.ExpectPush()
			require.Equal(s.t, []string{s.member.Pubkey, s.member.Pubkey, s.member.ID, "eve", s.mesh.ID}, []string{
				push.Str("senderPubkey"), push.Str("senderMemberPubkey"), push.Str("senderMemberId"), push.Str("senderName"), push.Str("meshId"),
			})
			require.NotEqual(s.t, s.between, push.Str("messageId"))
			require.NotContains(s.t, push, "subtype")
			require.NotContains(s.t, push, "redelivered")
			ackAll(s.bo, []frame{push})
			return answer
		}},
		{"reply to a message of another mesh", "ack queued for 2", s.drops(frame{"targetSpec": "#deploys", "replyToId": s.other.message})},
		{"reply to a private topic", "ack queued for 2", s.drops(frame{"targetSpec": "#deploys", "replyToId": s.between})},
		{"reply to a pattern", "ack queued for 2", s.drops(frame{"targetSpec": "#deploys", "replyToId": "%"})},
		{"reply with NUL", "ack queued for 2", s.drops(frame{"targetSpec": "#deploys", "replyToId": "a\x00"})},
		{"somebody else's client_message_id", "ack queued for 1", s.send(frame{"client_message_id": "X"})},
		{"own client_message_id for something else", "ack invalid: idempotency_key_reused", s.send(frame{"client_message_id": "X", "ciphertext": "aG8="})},

		{"status of a foreign message", "error not_found", s.ws(frame{"type": "message_status", "messageId": s.between})},
		{"status of a prefix of a foreign message", "error not_found", s.ws(frame{"type": "message_status", "messageId": s.between[:8]})},
		{"status of another mesh's message", "error not_found", s.ws(frame{"type": "message_status", "messageId": s.other.message})},
		{"status without an id", "error invalid_argument", s.ws(frame{"type": "message_status"})},
		{"status of 7 characters", "error invalid_argument", s.ws(frame{"type": "message_status", "messageId": "aaaaaaa"})},
		{"status of 33 characters", "error invalid_argument", s.ws(frame{"type": "message_status", "messageId": long(33)})},
		{"status of a pattern", "error invalid_argument", s.ws(frame{"type": "message_status", "messageId": "%%%%%%%%"})},
		{"status of a number", "error malformed", s.ws(frame{"type": "message_status", "messageId": 12345678})},
		{"acknowledging for somebody else", "ack", s.ws(frame{"type": "client_ack", "brokerMessageId": s.waiting, "brokerMessageIds": []any{s.waiting, s.between, s.other.message, 5, nil}})},
		{"acknowledging a client's id of somebody else", "ack", s.ws(frame{"type": "client_ack", "clientMessageId": "X"})},
		{"acknowledging nonsense", "ack", s.ws(frame{"type": "client_ack", "brokerMessageId": frame{}, "brokerMessageIds": "all", "clientMessageId": 1e308})},
		{"acknowledging a name twice", "ack", s.raw(`{"type":"client_ack","_reqId":"r","brokerMessageId":"a","brokerMessageId":"b"}`)},
		{"acknowledging nonsense, nothing asked", "silence", s.raw(`{"type":"client_ack","brokerMessageIds":[[[[]]]]}`)},
		{"acknowledging 5000 at once", "ack", s.ws(frame{"type": "client_ack", "brokerMessageIds": strings.Split(strings.TrimSuffix(strings.Repeat("aaaaaaaa,", 5000), ","), ",")})},
	}
}

// drops is send whose replyToId must not reach anybody.
func (s *siege) drops(f frame) func() string {
	return func() string {
		s.bo.Waiting()
		answer := s.send(f)()
		push := s.bo.ExpectPush()
		require.NotContains(s.t, push, "replyToId")
		ackAll(s.bo, []frame{push})
		return answer
	}
}

// sessionCases are what a session may not say of itself.
func (s *siege) sessionCases() []hostileCase {
	const invalid, malformed = "error invalid_args", "error malformed"
	set := func(typ, field string, value any) func() string {
		f := frame{"type": typ}
		if value != nil {
			f[field] = value
		}
		return s.ws(f)
	}
	grants := func(n int) frame {
		all := frame{}
		for i := range n {
			all[fmt.Sprintf("%064x", i)] = []string{}
		}
		return all
	}
	strs := func(n int) []string { return make([]string, n) }
	return []hostileCase{
		{"status asleep", invalid, set("set_status", "status", "asleep")},
		{"status missing", invalid, set("set_status", "status", nil)},
		{"status a number", malformed, set("set_status", "status", 1)},
		{"status bad, nothing asked", "silence", s.raw(`{"type":"set_status","status":"asleep"}`)},
		{"summary missing", invalid, set("set_summary", "summary", nil)},
		{"summary of 2001", invalid, set("set_summary", "summary", strings.Repeat("ü", 2001))},
		{"summary with NUL", invalid, set("set_summary", "summary", "a\x00b")},
		{"summary a list", malformed, set("set_summary", "summary", []string{"x"})},
		{"stats missing", invalid, set("set_stats", "stats", nil)},
		{"stats negative", invalid, set("set_stats", "stats", frame{"messagesIn": -1})},
		{"stats a text", malformed, set("set_stats", "stats", "many")},
		{"stats of text", malformed, set("set_stats", "stats", frame{"errors": "none"})},
		{"stats beyond numbers", malformed, s.raw(`{"type":"set_stats","_reqId":"r","stats":{"errors":1e999}}`)},
		{"stats twice", malformed, s.raw(`{"type":"set_stats","_reqId":"r","stats":{"errors":1,"Errors":2}}`)},
		{"visible missing", invalid, set("set_visible", "visible", nil)},
		{"visible a text", malformed, set("set_visible", "visible", "false")},
		{"avatar of 257", invalid, set("set_profile", "avatar", long(257))},
		{"title of 129", invalid, set("set_profile", "title", long(129))},
		{"bio of 1025", invalid, set("set_profile", "bio", long(1025))},
		{"33 capabilities", invalid, set("set_profile", "capabilities", strs(33))},
		{"capability of 65", invalid, set("set_profile", "capabilities", []string{long(65)})},
		{"capabilities a text", malformed, set("set_profile", "capabilities", "all")},
		{"title a number", malformed, set("set_profile", "title", 1)},
		{"Title", malformed, set("set_profile", "Title", "x")},
		{"group missing", invalid, set("join_group", "name", nil)},
		{"group a number", malformed, set("join_group", "name", 5)},
		{"group all", invalid, set("join_group", "name", "@all")},
		{"group with an empty segment", invalid, set("join_group", "name", "eng//core")},
		{"group of nine segments", invalid, set("join_group", "name", "a/b/c/d/e/f/g/h/i")},
		{"group segment of 65", invalid, set("join_group", "name", long(65))},
		{"group of 129", invalid, set("join_group", "name", long(64)+"/"+long(64))},
		{"group of hashes", invalid, set("join_group", "name", "#deploys")},
		{"group with white space", invalid, set("join_group", "name", "eng /core")},
		{"group with NUL", invalid, set("join_group", "name", "eng\x00")},
		{"group with an escape sequence", invalid, set("join_group", "name", "\x1b[31meng")},
		{"group with a line break", invalid, set("join_group", "name", "a\nb")},
		{"role of 129", invalid, s.ws(frame{"type": "join_group", "name": "x", "role": long(129)})},
		{"leaving no group", invalid, set("leave_group", "name", nil)},
		{"leaving a group of 129", invalid, set("leave_group", "name", long(129))},
		{"leaving a group with NUL", invalid, set("leave_group", "name", "a\x00")},
		{"grants missing", invalid, set("set_grants", "grants", nil)},
		{"state without a key", invalid, s.raw(`{"type":"set_state","_reqId":"r","value":1}`)},
		{"state without a value", invalid, s.raw(`{"type":"set_state","_reqId":"r","key":"k"}`)},
		{"state of a key that is too long", invalid, s.raw(`{"type":"set_state","_reqId":"r","key":"` + long(257) + `","value":1}`)},
		{"state of a key with a line break", invalid, s.raw(`{"type":"set_state","_reqId":"r","key":"a\nb","value":1}`)},
		{"state of a list", malformed, s.raw(`{"type":"set_state","_reqId":"r","key":["k"],"value":1}`)},
		{"state that is too long", invalid, s.raw(`{"type":"set_state","_reqId":"r","key":"k","value":"` + long(32767) + `"}`)},
		{"state that nests", malformed, s.raw(`{"type":"set_state","_reqId":"r","key":"k","value":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}`)},
		{"state with a name twice", malformed, s.raw(`{"type":"set_state","_reqId":"r","key":"k","value":{"a":1,"a":2}}`)},
		{"getting a number", malformed, s.raw(`{"type":"get_state","_reqId":"r","key":1}`)},
		{"deleting nothing", invalid, s.raw(`{"type":"delete_state","_reqId":"r"}`)},
		{"listing after a line break", invalid, s.raw(`{"type":"list_state","_reqId":"r","after":"\u0007"}`)},
		{"grants a list", malformed, set("set_grants", "grants", []string{})},
		{"grants to no key", invalid, set("set_grants", "grants", frame{"eve": []string{"dm"}})},
		{"grants of nothing known", invalid, set("set_grants", "grants", frame{strings.Repeat("a", 64): []string{"root"}})},
		{"grants of a number", malformed, set("set_grants", "grants", frame{strings.Repeat("a", 64): 5})},
		{"grants to a key twice", malformed, s.raw(`{"type":"set_grants","_reqId":"r","grants":{"` + strings.Repeat("a", 64) + `":[],"` + strings.Repeat("a", 64) + `":null}}`)},
		{"grants to a key in two cases", invalid, set("set_grants", "grants", frame{strings.Repeat("a", 64): nil, strings.Repeat("A", 64): []string{}})},
		{"too many grants", invalid, set("set_grants", "grants", grants(11))},
		{"grants repeated", invalid, set("set_grants", "grants", frame{strings.Repeat("a", 64): strings.Split(strings.Repeat("dm,", 6)+"dm", ",")})},
	}
}

// topicCases are what eve may not do to topics: her own badly, other people's at all.
func (s *siege) topicCases() []hostileCase {
	const invalid, malformed, notFound, forbidden = "error invalid_args", "error malformed", "error topic_not_found", "error forbidden"
	op := func(typ string, topic any, more ...frame) func() string {
		f := merged(append([]frame{{"type": typ, "topic": topic}}, more...)...)
		if topic == nil {
			delete(f, "topic")
		}
		return s.ws(f)
	}
	create := func(more frame) func() string {
		return s.ws(merged(frame{"type": "topic_create", "name": "new"}, more))
	}
	sealed := seal(s.t, topickey.Key{1}, s.member, s.member)
	cases := []hostileCase{
		{"topic without a name", invalid, s.ws(frame{"type": "topic_create"})},
		{"topic of 65", invalid, create(frame{"name": strings.Repeat("ü", 65)})},
		{"topic of white space", invalid, create(frame{"name": "  "})},
		{"topic with a hash", invalid, create(frame{"name": "#x"})},
		{"topic with NUL", invalid, create(frame{"name": "a\x00"})},
		{"topic with an escape sequence", invalid, create(frame{"name": "\x1b[8mhidden"})},
		{"topic with a carriage return", invalid, create(frame{"name": "a\rb"})},
		{"topic name a number", malformed, create(frame{"name": 5})},
		{"topic visibility secret", invalid, create(frame{"visibility": "secret"})},
		{"topic visibility a number", malformed, create(frame{"visibility": 1})},
		{"topic description of 513", invalid, create(frame{"description": long(513)})},
		{"topic description with NUL", invalid, create(frame{"description": "\x00"})},
		{"topic with half a key", invalid, create(frame{"encryptedKey": sealed["encryptedKey"]})},
		{"topic with a garbage key", invalid, create(merged(sealed, frame{"encryptedKey": "AAAA"}))},
		{"topic with a garbage nonce", invalid, create(merged(sealed, frame{"nonce": "AAAA"}))},
		{"topic with another's key prefix", invalid, create(merged(sealed, frame{"encryptedKeyPubkey": strings.Repeat("a", 64)}))},
		{"topic with a key of no digits", invalid, create(merged(sealed, frame{"encryptedKeyPubkey": strings.Repeat("z", 64)}))},
		{"topic called like a private one", invalid, create(frame{"name": "hr"})},
		{"joining as king", invalid, op("topic_join", "deploys", frame{"role": "king"})},
		{"joining a number", malformed, op("topic_join", 5)},
		{"history with a limit of text", malformed, op("topic_history", "deploys", frame{"limit": "all"})},
		{"history with a huge limit", "topic_history_response", op("topic_history", "deploys", frame{"limit": 1e300})},
		{"history before another mesh's message", "topic_history_response", s.noHistory(s.other.message)},
		{"history before a message of no topic", "topic_history_response", s.noHistory(s.between)},
		{"history before a pattern", "topic_history_response", s.noHistory("%")},
		{"adding to somebody else's topic", forbidden, op("topic_add", "deploys", frame{"member": s.member.ID, "role": "lead"})},
		{"archiving somebody else's topic", forbidden, op("topic_archive", "deploys")},
		{"archiving general", forbidden, op("topic_archive", "general")},
		{"adding nobody", invalid, op("topic_add", "lair")},
		{"adding a member id of 65", invalid, op("topic_add", "lair", frame{"member": long(65)})},
		{"adding as king", invalid, op("topic_add", "lair", frame{"member": s.member.ID, "role": "king"})},
		{"adding another mesh's member", "error not_found", op("topic_add", "lair", frame{"member": s.other.member.ID})},
		{"adding another mesh's key", "error not_found", op("topic_add", "lair", frame{"member": s.other.member.Pubkey})},
		{"adding a banned member", "error not_found", op("topic_add", "lair", frame{"member": s.mesh.Member("dan").ID})},
		{"adding a pattern", "error not_found", op("topic_add", "lair", frame{"member": "%"})},
	}
	for _, typ := range []string{"topic_join", "topic_leave", "topic_members", "topic_history", "topic_mark_read", "topic_add", "topic_archive"} {
		more := frame{}
		if typ == "topic_add" {
			more["member"] = s.member.ID
		}
		cases = append(cases,
			hostileCase{typ + " of nothing", invalid, op(typ, nil, more)},
			hostileCase{typ + " of 65", invalid, op(typ, long(65), more)},
			hostileCase{typ + " with NUL", invalid, op(typ, "hr\x00", more)},
			hostileCase{typ + " of a private topic", notFound, op(typ, "hr", more)},
			hostileCase{typ + " of a private topic's id", notFound, op(typ, s.hr, more)},
			hostileCase{typ + " of another mesh's topic", notFound, op(typ, s.other.deploys, more)},
			hostileCase{typ + " of SQL", notFound, op(typ, "deploys' OR '1'='1", more)},
		)
	}
	return cases
}

// noHistory asks for what was before a message that is not of the topic: nothing.
func (s *siege) noHistory(before string) func() string {
	return func() string {
		s.eve.say(frame{"type": "topic_history", "topic": "deploys", "beforeId": before, "_reqId": "r"})
		frames, _ := s.eve.take()
		require.Len(s.t, frames, 1)
		require.Empty(s.t, frames[0]["messages"])
		return coded(frames[0])
	}
}

// keyCases are about API keys over the socket.
func (s *siege) keyCases() []hostileCase {
	const invalid, malformed = "error invalid_args", "error malformed"
	create := func(more frame) func() string {
		f := merged(frame{"type": "apikey_create", "label": "x", "capabilities": []string{"read"}}, more)
		return s.ws(f)
	}
	revoke := func(id any) func() string { return s.ws(frame{"type": "apikey_revoke", "id": id}) }
	return []hostileCase{
		{"key without a label", invalid, create(frame{"label": ""})},
		{"key with a label of 129", invalid, create(frame{"label": long(129)})},
		{"key with NUL in its label", invalid, create(frame{"label": "\x00"})},
		{"key with a numeric label", malformed, create(frame{"label": 5})},
		{"key without capabilities", invalid, create(frame{"capabilities": []string{}})},
		{"key with an unknown capability", invalid, create(frame{"capabilities": []string{"root"}})},
		{"key with a capability twice", invalid, create(frame{"capabilities": []string{"read", "read"}})},
		{"key with capabilities of text", malformed, create(frame{"capabilities": "read"})},
		{"admin key by no admin", "error forbidden", create(frame{"capabilities": []string{"read", "admin"}})},
		{"key with a bad scope", invalid, create(frame{"topicScopes": []string{"#x"}})},
		{"key with scopes of text", malformed, create(frame{"topicScopes": "general"})},
		{"key with 1001 scopes", invalid, create(frame{"topicScopes": strings.Split(strings.Repeat("a,", 1000)+"a", ",")})},
		{"key that has expired", invalid, create(frame{"expiresAt": "2000-01-01T00:00:00Z"})},
		{"key that expires some day", invalid, create(frame{"expiresAt": "some day"})},
		{"key that expires without a zone", invalid, create(frame{"expiresAt": "2999-01-01T00:00:00"})},
		{"key that expires at a number", malformed, create(frame{"expiresAt": 4e12})},
		{"key with capabilities twice, in two cases", malformed, s.raw(`{"type":"apikey_create","_reqId":"r","label":"x","capabilities":["read"],"Capabilities":["admin"]}`)},
		{"revoking nothing", invalid, s.ws(frame{"type": "apikey_revoke", "id": ""})},
		{"revoking an id of 65", invalid, revoke(long(65))},
		{"revoking a number", malformed, revoke(5)},
		{"revoking a pattern", "apikey_revoke_response not_found", revoke("%")},
		{"revoking everything with the scheme", "apikey_revoke_response not_found", revoke("cm_")},
		{"revoking somebody else's key", "apikey_revoke_response not_found", revoke(s.rest["ana"][:11])},
		{"revoking a key of another mesh", "apikey_revoke_response not_found", revoke(s.other.keyID)},
		{"revoking a key of another mesh by its prefix", "apikey_revoke_response not_found", revoke(s.other.key[:11])},
	}
}

// handshakeCases come before a hello is accepted, or after.
func (s *siege) handshakeCases() []hostileCase {
	list := frame{"type": "list_peers", "_reqId": "r"}
	return []hostileCase{
		{"a request before the hello", "error no_hello", s.before(list)},
		{"a message before the hello", "error no_hello", s.before(frame{"type": "send", "targetSpec": "*", "nonce": "", "ciphertext": "aGk="})},
		{"an acknowledgement before the hello", "error no_hello", s.before(frame{"type": "client_ack", "brokerMessageId": s.waiting})},
		{"garbage before the hello", "error malformed", s.before("garbage")},
		{"five requests before the hello", "error no_hello, error no_hello, error no_hello, error no_hello, error hello_budget, close 1008 hello_budget", s.before(list, list, list, list, list)},
		{"24577 bytes before the hello", "error hello_budget, close 1008 hello_budget", s.before(frame{"type": "hello", "pad": long(24_577)})},
		{"32769 bytes before the hello", "error no_hello, error hello_budget, close 1008 hello_budget", s.before(frame{"type": "x", "pad": long(20_000)}, frame{"type": "x", "pad": long(13_000)})},
		{"a megabyte before the hello", "error hello_budget, close 1008 hello_budget", s.before(frame{"type": "hello", "pad": long(1_000_000)})},
		{"empty hello", "error timestamp_skew, close 1008 timestamp_skew", s.before(frame{"type": "hello"})},
		{"hello of lists", "error malformed, close 1008 malformed", s.before(frame{"type": "hello", "meshId": []int{1}})},
		{"hello with a name twice", "error malformed, close 1008 malformed", s.before(`{"type":"hello","meshId":"a","mesh\u0049d":"b"}`)},
		{"hello of somebody else", "error bad_signature, close 1008 bad_signature", s.before(s.hello(frame{"pubkey": s.ana.Member.Pubkey}))},
		{"hello to another mesh", "error bad_signature, close 1008 bad_signature", s.before(s.hello(frame{"meshId": s.other.id}))},
		{"hello with a session key of another mesh's form", "error bad_session_pubkey, close 1008 bad_session_pubkey", s.before(s.hello(frame{"sessionPubkey": strings.ToUpper(s.other.session)}))},
		{"hello with somebody's member key as session key", "error session_pubkey_in_use, close 1008 session_pubkey_in_use", s.before(s.hello(frame{"sessionPubkey": s.ana.Member.Pubkey}))},
		{"hello with NUL", "error invalid_args, close 1008 invalid_args", s.before(s.hello(frame{"cwd": "/\x00"}))},
		{"hello of a banned member", "error revoked, close 4002 banned", s.before(s.mesh.HelloFrame(s.mesh.Member("dan"), nil, false, frame{"sessionId": "s"}))},
		{"second hello", "error already_hello", s.ws(s.hello(nil))},
		{"second hello, nothing asked", "error already_hello", func() string { return s.eve.say(s.hello(nil)).answer() }},
		{"second hello, empty", "error already_hello", s.ws(frame{"type": "hello"})},
		{"session_hello after hello", "error already_hello", s.ws(frame{"type": "session_hello"})},
	}
}

// socketCases break the rules of WebSockets themselves.
func (s *siege) socketCases() []hostileCase {
	const list = `{"type":"list_peers","_reqId":"r"}`
	unmasked := func(first byte, payload string) []byte { return append([]byte{first, byte(len(payload))}, payload...) }
	huge := func(length uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{fin | opText, 0x80 | 127}, length), 0, 0, 0, 0, '{')
	}
	bye := func(code uint16, reason string) []byte {
		return wsFrame(fin|opClose, string(binary.BigEndian.AppendUint16(nil, code))+reason)
	}
	return []hostileCase{
		{"binary frame of JSON", "peers_list", s.rawBytes(wsFrame(fin|opBinary, list))},
		{"binary garbage", "silence", s.rawBytes(wsFrame(fin|opBinary, "\x00\x01\x02\xff"))},
		{"message in fragments", "peers_list", s.rawBytes(wsFrame(opText, list[:9]), wsFrame(fin|opPing, ""), wsFrame(opCont, ""), wsFrame(fin|opCont, list[9:]))},
		{"unmasked frame", "cut", s.rawBytes(unmasked(fin|opText, list))},
		{"length with its highest bit", "cut", s.rawBytes(huge(1 << 63))},
		{"length of 2^63-1", "close 1009…", s.rawBytes(huge(1<<63-1), []byte(long(1<<20+1)))},
		{"frame above a megabyte", "close 1009…", s.rawBytes(wsHead(fin|opText, 1<<20+1), []byte(long(1<<20+1)))},
		{"fragments above a megabyte", "close 1009…", s.rawBytes(wsFrame(opText, `{"type":"x","pad":"`), wsFrame(opCont, long(1<<19)), wsFrame(opCont, long(1<<19)), wsFrame(fin|opCont, long(99)))},
		{"fragment without an end, then a close", "close 1000", s.rawBytes(wsFrame(opText, list), bye(1000, ""))},
		{"fragment without an end, then another message", "close 1002…", s.rawBytes(wsFrame(opText, list), wsFrame(fin|opText, list))},
		{"continuation of nothing", "close 1002…", s.rawBytes(wsFrame(fin|opCont, list))},
		{"ping of 126 bytes", "close 1002…", s.rawBytes(wsFrame(fin|opPing, long(126)))},
		{"ping in fragments", "close 1002…", s.rawBytes(wsFrame(opPing, "a"), wsFrame(fin|opCont, "b"))},
		{"compressed frame that nobody agreed on", "close 1002…", s.rawBytes(wsFrame(fin|rsv1|opText, list))},
		{"reserved bit", "close 1002…", s.rawBytes(wsFrame(fin|rsv2|opText, list))},
		{"reserved opcode", "close 1002…", s.rawBytes(wsFrame(fin|0x3, list))},
		{"reserved control opcode", "close 1002…", s.rawBytes(wsFrame(fin|0xb, ""))},
		{"close of one byte", "close 1002…", s.rawBytes(wsFrame(fin|opClose, "\x03"))},
		{"close with a forbidden code", "close 1002…", s.rawBytes(bye(1006, ""))},
		{"close with no code there is", "close 1002…", s.rawBytes(bye(999, ""))},
		{"close of 126 bytes", "close 1002…", s.rawBytes(bye(1000, long(124)))},
		{"close with a broker's code", "close 4002 banned", s.rawBytes(bye(4002, "banned"))},
		{"pong that nobody asked for", "silence", s.rawBytes(wsFrame(fin|opPong, "1"))},
		{"a hundred pings", "silence", func() string {
			c := s.signIn(nil)
			for range 100 {
				c.bytes(wsFrame(fin|opPing, "?")...)
			}
			answer := c.answer()
			c.mu.Lock()
			defer c.mu.Unlock()
			require.Equal(s.t, 100, c.pongs)
			return answer
		}},
		{"half a header", "cut", func() string {
			c := s.signIn(nil).bytes(fin|opText, 0x80|126, 1)
			_ = c.link.Close()
			return c.answer()
		}},
		{"HTTP on the socket", "close 1002…", s.rawBytes([]byte("GET / HTTP/1.1\r\n\r\n"))},
		{"upgrade of another version", "400 unsupported WebSocket…", s.upgrade("Sec-WebSocket-Version: 12")},
		{"upgrade without a key", "400 WebSocket protocol violation…", s.upgrade("Sec-WebSocket-Key:")},
		{"upgrade with a key of 3 bytes", "400 WebSocket protocol violation…", s.upgrade("Sec-WebSocket-Key: AAAA")},
		{"upgrade from another site", "403 request Origin…", s.upgrade("Origin: https://evil.example")},
		{"upgrade from a site that looks like ours", "403 request Origin…", s.upgrade("Origin: https://" + brokertest.Host + ".evil.example")},
		{"no upgrade at all", "426 WebSocket protocol violation…", s.call("", "GET", "/ws", nil)},
		{"upgrade elsewhere", "404 not found", s.upgradeAt("/ws/", "X-Nothing: 1")},
		{"posting to the socket", "404 not found", s.call("", "POST", "/ws", frame{})},
	}
}

func (s *siege) upgrade(header string) func() string { return s.upgradeAt("/ws", header) }

func (s *siege) upgradeAt(path, header string) func() string {
	h := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}
	return s.call("", "GET", path, nil, append(h, header)...)
}

// authCases are requests that nobody has the right to make.
func (s *siege) authCases() []hostileCase {
	const missing, invalid = "401 error.api_key_missing", "401 error.api_key_invalid"
	get := func(key, path string, headers ...string) func() string {
		return s.call(key, "GET", "/v1"+path, nil, headers...)
	}
	wrong := []byte(s.rest["both"])
	wrong[20] ^= 1
	return []hostileCase{
		{"no key", missing, get("", "/topics")},
		{"no key on an unknown route", missing, get("", "/nothing")},
		{"no key and a bad body", missing, s.call("", "POST", "/v1/messages", "not JSON")},
		{"key in the wrong scheme", missing, get("", "/topics", "Authorization: Basic "+s.rest["both"])},
		{"key in a scheme of lower case", missing, get("", "/topics", "Authorization: bearer "+s.rest["both"])},
		{"scheme without a key", missing, get("", "/topics", "Authorization: Bearer")},
		{"key in the query", missing, get("", "/topics?key="+s.rest["both"]+"&access_token="+s.rest["both"])},
		{"key in a cookie", missing, get("", "/topics", "Cookie: key="+s.rest["both"])},
		{"garbage key", invalid, get("garbage", "/topics")},
		{"empty key", missing, get("", "/topics", "Authorization: Bearer  ")},
		{"key of the scheme alone", invalid, get("cm_", "/topics")},
		{"key of SQL", invalid, get("cm_' OR '1'='1", "/topics")},
		{"key of a pattern", invalid, get("cm_%%%%%%%%%%%%", "/topics")},
		{"key of 100 KB", invalid, get("cm_"+long(100_000), "/topics")},
		{"key with one bit wrong", invalid, get(string(wrong), "/topics")},
		{"key's prefix", invalid, get(s.rest["both"][:11], "/topics")},
		{"two keys", invalid, get(s.rest["both"]+" "+s.rest["both"], "/topics")},
		{"revoked key", invalid, get("revoked", "/topics")},
		{"expired key", invalid, get("expired", "/topics")},
		{"key of a banned member", invalid, get("banned", "/topics")},
		{"key of another mesh with our topic's id", "404 topic_not_found", get(s.other.key, "/topics/"+s.deploys+"/messages")},
		{"key of another mesh with our private topic's id", "404 topic_not_found", get(s.other.key, "/topics/"+s.hr+"/stream")},
		{"our key with another mesh's topic", "404 topic_not_found", get("both", "/topics/"+s.other.deploys+"/messages")},
		{"our key with another mesh's topic key", "404 topic_not_found", get("both", "/topics/"+s.other.deploys+"/key")},
		{"our key and the other mesh by header", "200", get("both", "/members", "X-Mesh-Id: "+s.other.id, "X-Member-Id: "+s.other.member.ID)},
		{"reading with a key that may send", "403 error.api_key_missing_capability", get("send", "/topics")},
		{"streaming with a key that may send", "403 error.api_key_missing_capability", get("send", "/topics/deploys/stream")},
		{"sending with a key that may read", "403 error.api_key_missing_capability", s.call("read", "POST", "/v1/messages", postBody("deploys", "x"))},
		{"claiming with a key that may read", "403 error.api_key_missing_capability", s.call("read", "POST", "/v1/topics/general/claim-key", seal(s.t, topickey.Key{2}, s.member, s.member))},
		{"reading out of scope", "403 error.api_key_topic_out_of_scope", get("scoped", "/topics/deploys/messages")},
		{"reading out of scope by id", "403 error.api_key_topic_out_of_scope", get("scoped", "/topics/"+s.deploys+"/messages")},
		{"sending out of scope", "403 error.api_key_topic_out_of_scope", s.call("scoped", "POST", "/v1/messages", postBody("deploys", "x"))},
		{"reading a private topic", "404 topic_not_found", get("both", "/topics/hr/messages")},
		{"reading a private topic by id", "404 topic_not_found", get("both", "/topics/"+s.hr+"/messages")},
		{"sending to a private topic", "404 topic_not_found", s.call("both", "POST", "/v1/messages", postBody("hr", "x"))},
		{"sending for nobody", "400 api_key_has_no_issuer", s.call("nobody", "POST", "/v1/messages", postBody("general", "x"))},
		{"marking read for nobody", "400 api_key_has_no_issuer", s.call("nobody", "PATCH", "/v1/topics/general/read", nil)},
	}
}

// apiCases are requests of somebody who has a key, and bad manners.
func (s *siege) apiCases() []hostileCase {
	const invalid, malformed, media = "422 error.validation", "400 Malformed JSON in request body", "415 error.unsupported_media_type"
	post := func(body any, headers ...string) func() string {
		return s.call("both", "POST", "/v1/messages", body, headers...)
	}
	good := postBody("deploys", "x")
	but := func(field string, value any) func() string {
		f := merged(good, frame{field: value})
		if value == nil {
			delete(f, field)
		}
		return post(f)
	}
	get := func(path string, headers ...string) func() string {
		return s.call("both", "GET", "/v1"+path, nil, headers...)
	}
	topic := func(method, route string, body any) func() string {
		return s.call("both", method, "/v1/topics"+route, body)
	}
	sealed := seal(s.t, topickey.Key{3}, s.member, s.mesh.Member("bo"))
	sealFor := func(member string) frame {
		return frame{"memberId": member, "encryptedKey": sealed["encryptedKey"], "nonce": sealed["nonce"]}
	}
	raw, err := json.Marshal(good)
	require.NoError(s.t, err)
	return []hostileCase{
		{"form", media, post(good, "Content-Type: application/x-www-form-urlencoded")},
		{"text", media, post(good, "Content-Type: text/plain")},
		{"no content type", media, post(good, "Content-Type:")},
		{"content type of nonsense", media, post(good, "Content-Type: ;;;")},
		{"truncated JSON", malformed, post(string(raw[:len(raw)-2]))},
		{"no body", malformed, post("")},
		{"JSON and more", malformed, post(string(raw) + "{}")},
		{"array for a body", invalid, post("[]")},
		{"null for a body", invalid, post("null")},
		{"body in UTF-16", malformed, post("\xff\xfe{\x00}\x00")},
		{"body with invalid UTF-8", invalid, post(`{"topic":"` + "\xff" + `"}`)},
		{"body with a name twice", invalid, post(`{"topic":"deploys","topic":"hr"}`)},
		{"body with a name twice, once escaped", invalid, post(`{"topic":"deploys","\u0074opic":"hr"}`)},
		{"body with a name in another case", invalid, post(`{"Topic":"deploys"}`)},
		{"body that nests 100 deep", invalid, post(`{"topic":` + nested(100) + `}`)},
		{"body of 73729 bytes", "413 error.payload_too_large", post(`{"topic":"` + long(73_729) + `"}`)},
		{"body of 73729 bytes in chunks", "413 error.payload_too_large", post(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 80_000, `{"topic":"`+long(79_990)), "Content-Length:", "Transfer-Encoding: chunked")},
		{"body announced as a terabyte", "413 error.payload_too_large", post("{}", "Content-Length: 1099511627776")},
		{"message of 65537 bytes over REST", "413 error.payload_too_large", but("ciphertext", strings.Repeat("AAAA", 65_536/4))},
		{"post without a topic", invalid, but("topic", nil)},
		{"post to a number", invalid, but("topic", 5)},
		{"post to NUL", invalid, but("topic", "\x00")},
		{"post to a topic of 65", "404 topic_not_found", but("topic", long(65))},
		{"post to SQL", "404 topic_not_found", but("topic", "x'; DELETE FROM topic; --")},
		{"post without a body", invalid, but("ciphertext", nil)},
		{"post of a list", invalid, but("ciphertext", []int{1})},
		{"post without a nonce", invalid, but("nonce", nil)},
		{"post with priority urgent", invalid, but("priority", "urgent")},
		{"post with body version 3", invalid, but("bodyVersion", 3)},
		{"post with 17 mentions", invalid, but("mentions", make([]string, 17))},
		{"post in reply to 129", invalid, but("replyToId", long(129))},
		{"post with a client_message_id of 129", invalid, but("client_message_id", long(129))},
		{"post with a short fingerprint", invalid, but("request_fingerprint", "abc")},
		{"post that has expired", invalid, but("expiresAt", "2000-01-01T00:00:00Z")},
		{"post in another's name", "200", func() string {
			s.bo.Waiting()
			answer := post(merged(good, frame{"senderMemberId": s.ana.Member.ID, "senderName": "ana", "senderPubkey": s.ana.Member.Pubkey, "meshId": s.other.id}))()
			push := s.bo.ExpectPush()
			require.Equal(s.t, []string{s.member.ID, "eve"}, []string{push.Str("senderMemberId"), push.Str("senderName")})
			ackAll(s.bo, []frame{push})
			return answer
		}},
		{"limit 0", invalid, get("/topics/deploys/messages?limit=0")},
		{"limit 201", invalid, get("/topics/deploys/messages?limit=201")},
		{"limit -1", invalid, get("/topics/deploys/messages?limit=-1")},
		{"limit of text", invalid, get("/topics/deploys/messages?limit=all")},
		{"limit of nothing", invalid, get("/topics/deploys/messages?limit=")},
		{"limit beyond numbers", invalid, get("/topics/deploys/messages?limit=99999999999999999999")},
		{"limit of 1.5", invalid, get("/topics/deploys/messages?limit=1.5")},
		{"before another mesh's message", "200", get("/topics/deploys/messages?before=" + s.other.message)},
		{"before SQL", "200", get("/topics/deploys/messages?before=%27%20OR%201=1")},
		{"Last-Event-ID of garbage", "200 ready error resume_gap", get("/topics/deploys/stream", "Last-Event-ID: garbage")},
		{"Last-Event-ID of another mesh", "200 ready error resume_gap", get("/topics/deploys/stream", "Last-Event-ID: "+s.other.message)},
		{"Last-Event-ID of another topic", "200 ready error resume_gap", get("/topics/deploys/stream", "Last-Event-ID: "+s.between)},
		{"Last-Event-ID of 10 KB", "200 ready error resume_gap", get("/topics/deploys/stream", "Last-Event-ID: "+long(10_000))},
		{"since some day", "400 invalid_since", get("/notifications?since=someday")},
		{"reading notifications of nothing", invalid, s.call("both", "POST", "/v1/notifications/read", frame{})},
		{"reading 201 notifications", invalid, s.call("both", "POST", "/v1/notifications/read", frame{"ids": strings.Split(strings.Repeat("a,", 200)+"a", ",")})},
		{"reading notifications of numbers", invalid, s.call("both", "POST", "/v1/notifications/read", frame{"ids": []int{1}})},
		{"reading notifications before some day", "400 invalid_before", s.call("both", "POST", "/v1/notifications/read", frame{"all": true, "before": "some day"})},
		{"reading notifications by a pattern", "200", s.call("both", "POST", "/v1/notifications/read", frame{"ids": []string{"%"}})},
		{"sealing nothing", invalid, topic("POST", "/deploys/seal", frame{})},
		{"sealing garbage", "422 invalid_seal", topic("POST", "/deploys/seal", frame{"memberId": s.bo.Member.ID, "encryptedKey": "garbage", "nonce": "garbage"})},
		{"sealing 81 bytes", "422 invalid_seal", topic("POST", "/deploys/seal", merged(sealFor(s.bo.Member.ID), frame{"encryptedKey": strings.Repeat("AAAA", 27)}))},
		{"sealing without holding", "403 not_key_holder", topic("POST", "/deploys/seal", sealFor(s.bo.Member.ID))},
		{"sealing for another mesh's member", "404 recipient_not_in_topic", topic("POST", "/deploys/seal", sealFor(s.other.member.ID))},
		{"sealing for a banned member", "404 recipient_not_in_topic", topic("POST", "/deploys/seal", sealFor(s.mesh.Member("dan").ID))},
		{"sealing for SQL", "404 recipient_not_in_topic", topic("POST", "/deploys/seal", sealFor("' OR 1=1"))},
		{"sealing where there is no key", "409 topic_unencrypted", topic("POST", "/general/seal", sealFor(s.bo.Member.ID))},
		{"sealing in a private topic", "404 topic_not_found", topic("POST", "/hr/seal", sealFor(s.member.ID))},
		{"claiming a key that is there", "409 already_encrypted", topic("POST", "/deploys/claim-key", sealed)},
		{"claiming with another's key", "422 invalid_seal", topic("POST", "/general/claim-key", merged(sealed, frame{"encryptedKeyPubkey": strings.Repeat("a", 64)}))},
		{"claiming with garbage", "422 invalid_seal", topic("POST", "/general/claim-key", merged(sealed, frame{"encryptedKey": "garbage"}))},
		{"claiming with 4097 characters", invalid, topic("POST", "/general/claim-key", merged(sealed, frame{"encryptedKey": long(4097)}))},
		{"claiming a private topic", "404 topic_not_found", topic("POST", "/hr/claim-key", sealed)},
		{"rejecting where there is no key", "409 topic_unencrypted", topic("DELETE", "/general/key", nil)},
		{"becoming somebody else", "409 not_web_member", s.call("both", "POST", "/v1/me/peer-pubkey", frame{"pubkey": s.ana.Member.Pubkey, "proof": "00", "timestamp": 1})},
		{"becoming nobody", invalid, s.call("both", "POST", "/v1/me/peer-pubkey", frame{"pubkey": "zz"})},
	}
}

// pathCases play with paths, methods and the form of requests.
func (s *siege) pathCases() []hostileCase {
	const notFound, unknown = "404 topic_not_found", "404 404 Not Found"
	do := func(method, path string, headers ...string) func() string {
		return s.call("both", method, path, nil, headers...)
	}
	get := func(path string) func() string { return do("GET", path) }
	raw := func(request string) func() string { return func() string { return s.http(request) } }
	auth := "Host: x\r\nAuthorization: Bearer " + s.rest["both"] + "\r\n"
	return []hostileCase{
		{"dots in a path", notFound, get("/v1/topics/%2e%2e/messages")},
		{"slash in a path", notFound, get("/v1/topics/deploys%2Fmessages/messages")},
		{"slash instead of a route", unknown, get("/v1/topics/deploys%2Fmessages")},
		{"NUL in a path", notFound, get("/v1/topics/%00/messages")},
		{"invalid UTF-8 in a path", notFound, get("/v1/topics/%FF/messages")},
		{"line break in a path", notFound, get("/v1/topics/a%0D%0AX-Evil:%201/messages")},
		{"escape sequence in a path", notFound, get("/v1/topics/%1b%5b2J/messages")},
		{"SQL in a path", notFound, get("/v1/topics/x%27%20OR%20%271%27=%271/messages")},
		{"pattern for a name", notFound, get("/v1/topics/%25/messages")},
		{"name percent-encoded twice", notFound, get("/v1/topics/%2564eploys/messages")},
		{"name of 65", notFound, get("/v1/topics/" + long(65) + "/messages")},
		{"name of 100 KB", notFound, get("/v1/topics/" + long(100_000) + "/messages")},
		{"empty name", "307…", get("/v1/topics//messages")},
		{"path that climbs", "307…", get("/v1/../v1/topics")},
		{"path with two slashes", "307…", get("//v1/topics")},
		{"path with a semicolon", unknown, get("/v1/topics;x=1")},
		{"path in capitals", "404 not found", get("/V1/TOPICS")},
		{"path with a dot at its end", unknown, get("/v1/topics.")},
		{"path with a slash at its end", unknown, get("/v1/topics/")},
		{"bad escape", "400…", get("/v1/topics/%ZZ/messages")},
		{"no path", "400…", get("v1/topics")},
		{"path with a space", "400…", get("/v1/topics/a b/messages")},
		{"unknown route with a key", unknown, get("/v1/nothing")},
		{"unknown prefix", "404 not found", get("/v2/topics")},
		{"unknown method", unknown, do("PUT", "/v1/topics")},
		{"method of nonsense", unknown, do("PWN", "/v1/topics")},
		{"deleting messages", unknown, do("DELETE", "/v1/topics/deploys/messages")},
		{"getting what is posted", unknown, do("GET", "/v1/messages")},
		{"method by header", "200", do("GET", "/v1/topics", "X-HTTP-Method-Override: DELETE")},
		{"CONNECT", "404…", raw("CONNECT evil.example:443 HTTP/1.1\r\n" + auth + "Connection: close\r\n\r\n")},
		{"TRACE", unknown, do("TRACE", "/v1/topics")},
		{"absolute address of another host", "200", raw("GET http://evil.example/v1/topics HTTP/1.1\r\n" + auth + "Connection: close\r\n\r\n")},
		{"two lengths", "400…", raw("POST /v1/messages HTTP/1.1\r\n" + auth + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}")},
		{"a length and chunks", "415…", raw("POST /v1/messages HTTP/1.1\r\n" + auth + "Connection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")},
		{"bad chunk", "400 Malformed JSON in request body", raw("POST /v1/messages HTTP/1.1\r\n" + auth + "Connection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")},
		{"negative length", "400…", raw("POST /v1/messages HTTP/1.1\r\n" + auth + "Content-Length: -1\r\n\r\n")},
		{"no host", "400…", raw("GET /v1/topics HTTP/1.1\r\nConnection: close\r\n\r\n")},
		{"header with a line break", "400…", raw("GET /v1/topics HTTP/1.1\r\n" + auth + "X: a\r\n b\x00\r\nConnection: close\r\n\r\n")},
		{"TLS", "400…", raw("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")},
		{"nothing like HTTP", "400…", raw("SSH-2.0-OpenSSH_9.9\r\n\r\n")},
		{"HTTP/0.9", "400…", raw("GET /v1/topics\r\n\r\n")},
		{"headers of 2 MB", "431…", raw("GET /v1/topics HTTP/1.1\r\n" + auth + "X: " + long(2<<20) + "\r\n\r\n")},
	}
}

// routeCases are about the routes outside the API.
func (s *siege) routeCases() []hostileCase {
	good := frame{"cwd": "/src/ana", "pid": 1, "status": "dnd"}
	return []hostileCase{
		{"unknown path", "404 not found", s.call("", "GET", "/admin", nil)},
		{"hidden file", "404 not found", s.call("", "GET", "/.git/config", nil)},
		{"deleting health", "404 not found", s.call("", "DELETE", "/health", nil)},
		{"getting a hook", "404 not found", s.call("", "GET", "/hook/set-status", nil, "Host: localhost")},
		{"hook under a public name", "403 forbidden", s.call("", "POST", "/hook/set-status", good)},
		{"hook under a name that rebinds", "403 forbidden", s.hook(good, "Host: localhost.evil.example")},
		{"hook of a page", "403 forbidden", s.hook(good, "Origin: http://localhost")},
		{"hook of a page without an origin", "403 forbidden", s.hook(good, "Origin: null")},
		{"hook of a page that says so", "403 forbidden", s.hook(good, "Sec-Fetch-Site: same-origin")},
		{"hook through a proxy", "403 forbidden", s.hook(good, "X-Forwarded-For: 127.0.0.1")},
		{"hook through another proxy", "403 forbidden", s.hook(good, "Forwarded: for=127.0.0.1")},
		{"hook through a third proxy", "403 forbidden", s.hook(good, "X-Real-IP: 127.0.0.1")},
		{"hook with an API key", "403 forbidden", s.hook(good, "Host: "+brokertest.Host, "Authorization: Bearer "+s.rest["both"])},
		{"hook as text", "415 unsupported media type", s.hook(good, "Content-Type: text/plain")},
		{"hook of nothing", "400 invalid JSON", s.hook("")},
		{"hook of garbage", "400 invalid JSON", s.hook("garbage")},
		{"hook of a list", "400 invalid JSON", s.hook("[]")},
		{"hook with a name twice", "400 invalid JSON", s.hook(`{"cwd":"/a","cwd":"/b","status":"idle"}`)},
		{"hook without a status", "200 cwd and status required", s.hook(frame{"cwd": "/src/ana"})},
		{"hook without a directory", "200 cwd and status required", s.hook(frame{"status": "idle"})},
		{"hook with status asleep", "400 invalid status", s.hook(merged(good, frame{"status": "asleep"}))},
		{"hook with a status of numbers", "400 invalid JSON", s.hook(merged(good, frame{"status": 1}))},
		{"hook with a pid of text", "400 invalid JSON", s.hook(merged(good, frame{"pid": "1"}))},
		{"hook with a directory of 4097", "400 cwd or session_id too long", s.hook(merged(good, frame{"cwd": long(4097)}))},
		{"hook with a session of 257", "400 cwd or session_id too long", s.hook(merged(good, frame{"session_id": long(257)}))},
		{"hook of 65537 bytes", "413 payload too large", s.hook(merged(good, frame{"pad": long(65_537)}))},
		{"claiming an invite of version 2", "501 invite_v2_disabled", s.call("", "POST", "/invites/abc/claim", frame{})},
		{"asking for an invite's text", "404", s.call("", "GET", "/api/public/invite-code/abc", nil)},
		{"getting a join", "404 not found", s.call("", "GET", "/join", nil)},
	}
}

// joinCases are invites that were tampered with.
func (s *siege) joinCases() []hostileCase {
	const (
		badSignature = "400 invite_bad_signature"
		required     = "400 invite_token, invite_payload, peer_pubkey, display_name required"
	)
	set := func(field string, value any) func() string {
		return s.join(func(_ *identity.InviteV1, f frame) { f[field] = value })
	}
	sign := func(p *identity.InviteV1, by identity.KeyPair) {
		signed, err := p.Sign(by)
		require.NoError(s.t, err)
		*p = signed
	}
	return []hostileCase{
		{"join of nothing", required, s.call("", "POST", "/join", frame{})},
		{"join of garbage", "400 invalid JSON", s.call("", "POST", "/join", "garbage")},
		{"join as a form", "415 unsupported media type", s.call("", "POST", "/join", "a=b", "Content-Type: application/x-www-form-urlencoded")},
		{"join of 65537 bytes", "413 payload too large", set("display_name", long(65_537))},
		{"join without a token", required, set("invite_token", "")},
		{"join without a payload", required, set("invite_payload", nil)},
		{"join with a payload of text", "400 invalid JSON", set("invite_payload", "x")},
		{"join with a payload of nothing", badSignature, set("invite_payload", frame{})},
		{"join without a name", required, set("display_name", "")},
		{"join with a name of 129", "400 display_name must have 1 to 128 characters and no control characters", set("display_name", long(129))},
		{"join with an escape sequence", "400 display_name must have 1 to 128 characters and no control characters", set("display_name", "\x1b[1mroot")},
		{"join with NUL", "400 display_name must have 1 to 128 characters and no control characters", set("display_name", "a\x00")},
		{"join with a key of 63 digits", "400 peer_pubkey must be 64 hex chars (32 bytes)", set("peer_pubkey", strings.Repeat("a", 63))},
		{"join with a key of small order", "400 peer_pubkey is no ed25519 key that can be used; make a new one", set("peer_pubkey", "01"+strings.Repeat("0", 62))},
		{"join with a banned key", "400 member_banned", set("peer_pubkey", s.mesh.Member("dan").Pubkey)},
		{"join with a forged proof", "400 join_bad_signature", set("signature", strings.Repeat("0", 128))},
		{"join as admin", badSignature, s.join(func(p *identity.InviteV1, _ frame) { p.Role = "admin" })},
		{"join for longer", badSignature, s.join(func(p *identity.InviteV1, _ frame) { p.ExpiresAt += 1e6 })},
		{"join elsewhere", badSignature, s.join(func(p *identity.InviteV1, _ frame) { p.MeshID = s.other.id })},
		{"join with shifted fields", badSignature, s.join(func(p *identity.InviteV1, _ frame) { p.MeshID, p.MeshSlug = p.MeshID+"|"+p.MeshSlug, "" })},
		{"join with an owner of one's own", "400 invite_owner_mismatch", s.join(func(p *identity.InviteV1, _ frame) { sign(p, s.member.Key) })},
		{"join to no mesh", "400 mesh_not_found", s.join(func(p *identity.InviteV1, _ frame) { p.MeshID = "nowhere"; sign(p, s.mesh.Owner) })},
		{"join by an invite that was never made", "400 invite_not_found", s.join(func(p *identity.InviteV1, f frame) {
			p.ExpiresAt++
			sign(p, s.mesh.Owner)
			f["invite_token"] = p.Token()
		})},
		{"join by another mesh's invite", "400 invite_mesh_mismatch", set("invite_token", s.other.token)},
		{"join by one invite with another's payload", badSignature, s.join(func(p *identity.InviteV1, _ frame) { p.Role = "admin"; sign(p, s.mesh.Owner) })},
		{"join twice by an invite for one", "200 and then 400 invite_exhausted", func() string {
			first := ""
			second := s.join(func(p *identity.InviteV1, f frame) {
				first = s.call("", "POST", "/join", merged(f, frame{"invite_payload": *p}))()
				f["peer_pubkey"] = sessionKey(s.t).Public()
			})()
			return first + " and then " + second
		}},
		{"join by an invite that has ended", "400 invite_revoked", s.join(func(_ *identity.InviteV1, f frame) {
			invite, err := s.mesh.Store.InviteByToken(s.t.Context(), identity.TokenHash(f.Str("invite_token")))
			require.NoError(s.t, err)
			require.NoError(s.t, s.mesh.Store.RevokeInvite(s.t.Context(), s.mesh.ID, invite.ID, time.Now().UTC()))
		})},
	}
}
