package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

// A status, a summary and groups belong to a session, and the session of a short command is over when the command is. So the commands
// that run on (inbox --follow and topic tail) listen on a Unix socket in the configuration directory, which nobody else can open, and
// status, summary and groups ask them to set it. What is reported is the broker's answer.

// sessionFlags are what a command that runs on can say of its session.
type sessionFlags struct {
	Status   string   `enum:",idle,working,dnd" default:"" help:"Status of this session: idle, working or dnd. While it is working or dnd only messages of priority now arrive."`
	Summary  string   `placeholder:"TEXT" help:"What this session is doing."`
	Group    []string `placeholder:"NAME[:ROLE]" sep:"none" help:"Group of this session; can be repeated. Default: those that you had last."`
	PeerType string   `enum:",ai,human,connector" default:"" help:"What this session is: ai, human or connector."`
	Hidden   bool     `help:"Be in nobody's list, and get no messages to everybody and to groups."`
	Seal     string   `enum:"public,all,none" default:"public" help:"In which topics to pass the key on to new members while this runs: public, all or none. In private topics look first who they are: claudemesh topic members."`
}

// session is a command that runs on: a client that others see, which can be told things from the outside.
type session struct {
	*client.Client
	control *control // nil where there can be none
}

// join signs in as a session that the others see; one that runs on listens to status, summary and groups. End it with leave.
func (p *program) join(f sessionFlags, listen bool) (*session, membership, error) {
	o, m, err := p.options()
	if err != nil {
		return nil, m, err
	}
	o.ManualAck = true // what was not shown is not acknowledged
	o.PID = os.Getpid()
	o.PeerType = f.PeerType
	o.Cwd, _ = os.Getwd()         // what is not known is not told
	o.Hostname, _ = os.Hostname() // likewise
	o.SealPolicy = map[string]client.SealPolicy{"public": client.SealPublic, "all": client.SealAll, "none": client.SealNone}[f.Seal]
	if o.Groups, err = parseGroups(f.Group); err != nil {
		return nil, m, err
	}
	c, err := p.dial(p.ctx, o)
	if err != nil {
		return nil, m, err
	}
	s := &session{Client: c}
	if err := s.introduce(p, f); err != nil {
		s.leave()
		return nil, m, err
	}
	if !listen {
		return s, m, nil
	}
	if s.control, err = listenControl(p.home, c); err != nil {
		p.note("claudemesh: status, summary and groups will not reach this session: %s", line(err.Error()))
	}
	return s, m, nil
}

// introduce tells the broker what the flags say of the session.
func (s *session) introduce(p *program, f sessionFlags) error {
	ctx, cancel := p.quick()
	defer cancel()
	if f.Hidden {
		if err := s.SetVisible(ctx, false); err != nil {
			return err
		}
	}
	if f.Status != "" {
		if err := s.SetStatus(ctx, wire.Status(f.Status)); err != nil {
			return err
		}
	}
	if f.Summary != "" {
		return s.SetSummary(ctx, f.Summary)
	}
	return nil
}

func (s *session) leave() {
	if s.control != nil {
		s.control.close()
	}
	_ = s.Close() // always nil
}

// parseGroups reads the values of --group; nil for none.
func parseGroups(flags []string) (groups []wire.Group, err error) {
	for _, g := range flags {
		group, role, _ := strings.Cut(g, ":")
		group, ok := wire.GroupName(group)
		if !ok || wire.Chars(role) > wire.MaxLabel || !wire.CleanText(role) {
			return nil, badGroup(g)
		}
		groups = append(groups, wire.Group{Name: group, Role: role})
	}
	return groups, nil
}

func badGroup(g string) *failure {
	return failf(exitUsage, "usage", "%q is no group: write 1 to 8 names joined by /, such as backend/api, and a role behind a colon if you like.", line(g))
}

// running is a file in run: how to reach a session.
type running struct {
	Version int    `json:"version"` // 1
	Mesh    string `json:"mesh"`
	Member  string `json:"member"`
	Session string `json:"session"`
	PID     int    `json:"pid"`
	Socket  string `json:"socket"`
}

// order is what a session is asked to set, and answer what it says to that, each as one line of JSON.
type order struct {
	Set   string `json:"set"` // status, summary, join or leave
	Value string `json:"value"`
	Role  string `json:"role,omitempty"`
}

type answer struct {
	OK      bool   `json:"ok"`
	Exit    int    `json:"exit,omitempty"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

const (
	// maxSocketPath is what fits into the address of a Unix socket on every system; the smallest limit is 104 bytes.
	maxSocketPath = 100
	// maxOrder bounds a line on the socket: a summary has at most 2000 characters.
	maxOrder = 64 << 10
	// orderTime is how long an order may take, the broker's answer included.
	orderTime = 10 * time.Second
)

// control hears orders.
type control struct {
	c        *client.Client
	listener net.Listener
	remove   []string // what to remove at the end
	life     context.Context
	end      context.CancelFunc
	workers  sync.WaitGroup
}

func listenControl(h home, c *client.Client) (*control, error) {
	var random [6]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, fmt.Errorf("name the socket: %w", err)
	}
	id := hex.EncodeToString(random[:])
	if err := makeDir(h.path(runDir)); err != nil {
		return nil, err
	}
	k := &control{c: c}
	path := h.path(runDir, id+".sock")
	if len(path) > maxSocketPath {
		dir, err := os.MkdirTemp("", "claudemesh-") // mode 0700
		if err != nil {
			return nil, fmt.Errorf("make a directory for the socket: %w", err)
		}
		k.remove = append(k.remove, dir)
		path = filepath.Join(dir, "s")
	}
	var err error
	if k.listener, err = net.Listen("unix", path); err != nil {
		k.cleanUp()
		return nil, fmt.Errorf("listen: %w", err)
	}
	k.remove = append(k.remove, path)
	record := h.path(runDir, id+".json")
	k.remove = append(k.remove, record)
	err = errors.Join(os.Chmod(path, 0o600), writeJSON(record, running{
		Version: 1, Mesh: c.MeshID(), Member: c.MemberID(), Session: c.SessionID(), PID: os.Getpid(), Socket: path,
	}))
	if err != nil {
		_ = k.listener.Close()
		k.cleanUp()
		return nil, err
	}
	k.life, k.end = context.WithCancel(context.Background())
	k.workers.Go(k.serve)
	return k, nil
}

func (k *control) cleanUp() {
	for i := len(k.remove) - 1; i >= 0; i-- {
		_ = os.Remove(k.remove[i]) // what stays is found to be dead by the next command
	}
}

func (k *control) close() {
	k.end()
	_ = k.listener.Close() // it is removed below
	k.workers.Wait()
	k.cleanUp()
}

func (k *control) serve() {
	for {
		conn, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.workers.Go(func() {
			defer func() { _ = conn.Close() }()
			defer context.AfterFunc(k.life, func() { _ = conn.Close() })()
			_ = conn.SetDeadline(time.Now().Add(orderTime)) // a socket that cannot have one is closed at the end
			line, err := bufio.NewReader(io.LimitReader(conn, maxOrder)).ReadBytes('\n')
			if err != nil {
				return
			}
			out := answer{OK: true}
			if err := k.obey(line); err != nil {
				f := explain(err)
				out = answer{Exit: f.exit, Code: f.code, Message: f.text}
			}
			_ = json.NewEncoder(conn).Encode(out) // whoever asked has gone
		})
	}
}

func (k *control) obey(raw []byte) error {
	var o order
	if err := json.Unmarshal(raw, &o); err != nil {
		return failf(exitFailed, "bad_order", "The running session did not understand the request; is it of another version?")
	}
	ctx, cancel := context.WithTimeout(k.life, orderTime-time.Second)
	defer cancel()
	switch o.Set {
	case "status":
		return k.c.SetStatus(ctx, wire.Status(o.Value))
	case "summary":
		return k.c.SetSummary(ctx, o.Value)
	case "join":
		return k.c.JoinGroup(ctx, o.Value, o.Role)
	case "leave":
		return k.c.LeaveGroup(ctx, o.Value)
	default:
		return failf(exitFailed, "bad_order", "The running session does not know %q; is it of another version?", line(o.Set))
	}
}

// sessionsHere lists the sessions of a membership that run on this machine, and tidies up behind those that were killed.
func (h home) sessionsHere(m membership) ([]running, error) {
	entries, err := os.ReadDir(h.path(runDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for running sessions: %w", err)
	}
	var out []running
	for _, e := range entries {
		path := h.path(runDir, e.Name())
		if filepath.Ext(path) != ".json" || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		var r running
		if readSecret(path, &r) != nil || r.Version != 1 || r.Mesh != m.MeshID || r.Member != m.MemberID {
			continue
		}
		conn, err := net.DialTimeout("unix", r.Socket, time.Second)
		switch {
		case err == nil:
			_ = conn.Close() // it was only knocked at
			out = append(out, r)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), runtime.GOOS == "windows": // which has words of its own
			_ = os.Remove(r.Socket)
			_ = os.Remove(path)
		default:
			return nil, fmt.Errorf("reach the running session: %w", err)
		}
	}
	return out, nil
}

// tell gives an order to one session and returns its answer.
func (r running) tell(ctx context.Context, o order) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", r.Socket)
	if err != nil {
		return fmt.Errorf("reach the running session: %w", err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(orderTime + time.Second)) // ctx ends it otherwise
	if err := json.NewEncoder(conn).Encode(o); err != nil {
		return fmt.Errorf("ask the running session: %w", err)
	}
	var a answer
	if err := json.NewDecoder(io.LimitReader(conn, maxOrder)).Decode(&a); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return failf(exitUnreachable, "outcome_unknown", "The running session did not answer, so it is not known whether it took effect; claudemesh peers shows it.")
	}
	if !a.OK {
		return failf(a.Exit, a.Code, "%s", line(a.Message))
	}
	return nil
}

type statusCmd struct {
	Status string `arg:"" enum:"idle,working,dnd" help:"idle, working or dnd."`
}

func (statusCmd) Help() string {
	return "working falls back to idle when it is not said again for a while (a minute, unless the broker is set otherwise); idle and dnd stay.\n\n" +
		ofSession("status, value")
}

func (c statusCmd) Run(p *program) error {
	return p.tellSessions(order{Set: "status", Value: c.Status}, c.Status)
}

type summaryCmd struct {
	Text []string `arg:"" help:"What it is doing, at most 2000 characters; - reads it from stdin, and an empty text takes it away."`
}

func (summaryCmd) Help() string { return ofSession("summary, value") }

func (c summaryCmd) Run(p *program) error {
	text, err := p.text(c.Text)
	if err != nil {
		return err
	}
	if wire.Chars(text) > wire.MaxSummary || !wire.CleanText(text) {
		return failf(exitUsage, "usage", "A summary has at most %d characters.", wire.MaxSummary)
	}
	return p.tellSessions(order{Set: "summary", Value: text}, line(text))
}

type groupsCmd struct {
	Join  groupJoinCmd  `cmd:"" help:"Put your running session into a group."`
	Leave groupLeaveCmd `cmd:"" help:"Take your running session out of a group."`
}

type groupJoinCmd struct {
	Group string `arg:"" help:"The group, with or without @."`
	Role  string `help:"Your role in it."`
}

func (groupJoinCmd) Help() string { return ofSession("join, value, role") }

func (c groupJoinCmd) Run(p *program) error {
	group, ok := wire.GroupName(c.Group)
	if !ok {
		return badGroup(c.Group)
	}
	return p.tellSessions(order{Set: "join", Value: group, Role: c.Role}, "in @"+name(group))
}

type groupLeaveCmd struct {
	Group string `arg:"" help:"The group, with or without @."`
}

func (groupLeaveCmd) Help() string { return ofSession("leave, value") }

func (c groupLeaveCmd) Run(p *program) error {
	group, ok := wire.GroupName(c.Group)
	if !ok {
		return badGroup(c.Group)
	}
	return p.tellSessions(order{Set: "leave", Value: group}, "out of @"+name(group))
}

func ofSession(fields string) string {
	return `This is a property of a session, and the session of a short command ends with it. So the command speaks to the sessions that you
have running on this machine with the same configuration and profile (inbox --follow and topic tail), and fails if there is none; those
take --status, --summary and --group when they start, too. Sessions of other programs set theirs themselves.

JSON: one object per session: type session, session, pid, set (` + strings.SplitN(fields, ",", 2)[0] + `), ` + strings.TrimSpace(strings.SplitN(fields, ",", 2)[1]) + `.`
}

type sessionJSON struct {
	Type    string `json:"type"` // session
	Session string `json:"session"`
	PID     int    `json:"pid"`
	Set     string `json:"set"`
	Value   string `json:"value"`
	Role    string `json:"role,omitempty"`
}

// tellSessions gives an order to every running session of the membership.
func (p *program) tellSessions(o order, shown string) error {
	m, err := p.home.choose(p.opts.Mesh)
	if err != nil {
		return err
	}
	sessions, err := p.home.sessionsHere(m)
	if err != nil {
		return err
	}
	if len(sessions) == 0 {
		return failf(exitFailed, "no_session", "No session of yours is running here, and only a session has that; start one with: claudemesh inbox --follow")
	}
	ctx, cancel := p.quick()
	defer cancel()
	for _, r := range sessions {
		if err := r.tell(ctx, o); err != nil {
			return err
		}
		v := sessionJSON{Type: "session", Session: r.Session, PID: r.PID, Set: o.Set, Value: o.Value, Role: o.Role}
		if err := p.result(v, "Session %d in %s: %s", r.PID, m.slug(), shown); err != nil {
			return err
		}
	}
	return nil
}
