package broker

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/claudemesh/broker/internal/status"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// hookPost is the body of POST /hook/set-status. Editor hooks send it within a second of their event and look at no answer.
type hookPost struct {
	Cwd       string       `json:"cwd"`
	PID       *wire.Number `json:"pid"` // of the hook's parent, which often is not the process that said hello
	Status    string       `json:"status"`
	SessionID string       `json:"session_id"`
}

// hookAnswer is the body of every answer to a hook.
type hookAnswer struct {
	OK         bool   `json:"ok"`
	PresenceID string `json:"presence_id,omitempty"`
	Pending    bool   `json:"pending,omitempty"`
	Error      string `json:"error,omitempty"`
}

// serveHook answers POST /hook/set-status of somebody who may; docs/presence.md says which presences a hook means.
func (b *Broker) serveHook(w http.ResponseWriter, r *http.Request) {
	t, addr := now(), b.opts.clientAddr(r)
	var f hookPost
	if !b.readShape(w, r, &f) {
		return
	}
	if f.Cwd == "" || f.Status == "" {
		writeJSON(w, http.StatusOK, hookAnswer{Error: "cwd and status required"})
		return
	}
	st := status.Status(f.Status)
	if !st.Valid() {
		refuseShape(w, http.StatusBadRequest, "invalid status", 0)
		return
	}
	// No hello can have longer ones, so they match nobody, and the rate limits and the stash would keep them.
	if wire.Chars(f.Cwd) > wire.MaxCwd || wire.Chars(f.SessionID) > wire.MaxSessionID {
		refuseShape(w, http.StatusBadRequest, "cwd or session_id too long", 0)
		return
	}
	sig := status.Signal{PID: f.pid(), CWD: f.Cwd, SessionID: f.SessionID, Addr: hookOrigin(addr), Status: st, CreatedAt: t}
	if key := hookKey(sig); !b.hookKeys.Take(key, t) {
		b.metrics.hooksLimited.Inc()
		refuseShape(w, http.StatusTooManyRequests, "rate limited", b.hookKeys.RetryAfter(key, t))
		return
	}
	if id, ok := b.hook(sig); ok {
		writeJSON(w, http.StatusOK, hookAnswer{OK: true, PresenceID: id})
		return
	}
	writeJSON(w, http.StatusOK, hookAnswer{OK: true, Pending: true})
}

// hookKey names the process and directory of a signal for the rate limit. It is a hash, because a directory may have 16 KB and the limit remembers many.
func hookKey(s status.Signal) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s", s.PID, s.CWD))
	return string(sum[:])
}

// pid is the process id of a hook, 0 for none and for what can be none.
func (f *hookPost) pid() int64 {
	if f.PID == nil || !(math.Abs(float64(*f.PID)) < 1<<53) { // negated: NaN compares false
		return 0
	}
	return int64(*f.PID)
}

// mayHook reports whether a request may set a status. Without a token only a direct loopback peer is heard, and nothing that a web page or
// a proxy could have sent: a page's request carries Origin or Sec-Fetch-Site, one under a name of the page's own carries that name as Host,
// and behind a proxy everybody would come from loopback.
func (b *Broker) mayHook(r *http.Request) bool {
	switch {
	case b.opts.HookToken != "":
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got, want := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(b.opts.HookToken))
		return scheme == "Bearer" && subtle.ConstantTimeCompare(got[:], want[:]) == 1
	case b.opts.InsecureOpenHook:
		return true
	case !b.opts.HookLoopback || !fromThisMachine(r) || !loopbackName(r.Host):
		return false
	}
	_, origin := r.Header["Origin"]
	_, fetch := r.Header["Sec-Fetch-Site"]
	return !origin && !fetch
}

// loopbackName reports whether a Host header names this machine to itself: localhost or a loopback address.
func loopbackName(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// hookOrigin is the address by which hooks and sessions are brought together. A host has several loopback addresses (127.0.0.1, ::1), and
// which one "localhost" means may differ between an editor and its hook, so they count as one.
func hookOrigin(addr netip.Addr) netip.Addr {
	if addr.IsLoopback() {
		return netip.IPv6Loopback()
	}
	return addr
}

// hook applies a signal to the presences that it means and returns the one of them that connected last, or keeps the signal for a session
// that is about to say hello.
func (b *Broker) hook(sig status.Signal) (presenceID string, ok bool) {
	meant := b.hooked(sig)
	if len(meant) == 0 {
		b.stash.Stash(sig)
		// A session that took its place meanwhile looked into the stash before or after this: look for it once more, and take the signal
		// back if it has not.
		if meant = b.hooked(sig); len(meant) == 0 {
			return "", false
		}
		b.stash.Take(sig.PID, sig.CWD, sig.SessionID, sig.Addr, sig.CreatedAt)
	}
	var last *hookMatch
	for i := range meant {
		p := &meant[i]
		p.signal(func(prev status.State) (status.State, status.Effect) {
			return b.rules.Hook(prev, sig.Status, sig.CreatedAt)
		})
		if last == nil || p.later(last) {
			last = p
		}
	}
	return last.id, true
}

// takeHook applies the signal that came before its session, if there is one. It is called when the presence can be found by hooks.
func (p *presence) takeHook(s *session, t time.Time) {
	p.mesh.mu.Lock()
	pid, cwd, id := p.row.PID, p.row.Cwd, p.row.SessionID
	p.mesh.mu.Unlock()
	if sig, ok := p.mesh.b.stash.Take(pid, cwd, id, hookOrigin(s.addr), t); ok {
		p.signal(func(prev status.State) (status.State, status.Effect) {
			return p.mesh.b.rules.Write(prev, sig.Status, status.FromHook, t)
		})
	}
}

// hookMatch is a presence that a hook may mean, with what it is chosen by, as it was when it was looked at.
type hookMatch struct {
	*presence
	id   string
	at   time.Time // connected
	step hookStep
}

func (p *hookMatch) later(than *hookMatch) bool {
	return p.at.After(than.at) || p.at.Equal(than.at) && p.id > than.id
}

// hookStep says by what a hook matches a presence. A smaller one wins over all larger ones, in every mesh.
type hookStep int

const (
	bySession hookStep = iota + 1 // all presences with the hook's session id: one editor session may be in several meshes
	byProcess                     // all with its pid and directory
	byFolder                      // in each mesh the one in its directory that connected last
)

// hooked lists the presences that a signal means, of all meshes.
func (b *Broker) hooked(sig status.Signal) []hookMatch {
	var found []hookMatch
	best := byFolder
	for _, m := range b.allMeshes() {
		var folder *hookMatch
		m.mu.Lock()
		for _, p := range m.presences {
			match := hookMatch{presence: p, id: p.row.ID, at: p.row.ConnectedAt, step: p.hookStepLocked(sig)}
			switch {
			case match.step == 0 || match.step > best:
			case match.step < byFolder:
				best = match.step
				found = append(found, match)
			case folder == nil || match.later(folder):
				folder = &match
			}
		}
		m.mu.Unlock()
		m.release()
		if folder != nil {
			found = append(found, *folder)
		}
	}
	meant := found[:0]
	for _, match := range found {
		if match.step == best {
			meant = append(meant, match)
		}
	}
	return meant
}

// hookStepLocked says by what a signal matches the presence, 0 for not at all. Directories and pids are easily guessed, so a session takes
// signals by them only from its own address; a presence in grace has no socket, hence no address, and needs the pid too.
func (p *presence) hookStepLocked(sig status.Signal) hookStep {
	near := p.sess != nil && hookOrigin(p.sess.addr) == sig.Addr
	switch {
	case sig.SessionID != "" && p.row.SessionID == sig.SessionID:
		return bySession
	case p.row.Cwd != sig.CWD:
		return 0
	case p.row.PID == sig.PID && sig.PID != 0 && (near || p.sess == nil):
		return byProcess
	case near:
		return byFolder
	default:
		return 0
	}
}

// What the broker's own routes (not those under /v1) share.

// readShape fills v from a JSON body of at most MaxMessageBytes. When it cannot, it has answered.
func (b *Broker) readShape(w http.ResponseWriter, r *http.Request, v any) bool {
	err := readJSON(w, r, b.opts.MaxMessageBytes, v)
	switch {
	case err == nil:
		return true
	case errors.Is(err, wire.PayloadTooLarge):
		refuseShape(w, http.StatusRequestEntityTooLarge, "payload too large", 0)
	case errors.Is(err, codeTimeout):
		refuseShape(w, http.StatusRequestTimeout, "request timeout", 0)
	default:
		refuseShape(w, http.StatusBadRequest, "invalid JSON", 0)
	}
	return false
}

// refuseShape answers with the broker routes' shape of an error, and Retry-After where a time is known.
func refuseShape(w http.ResponseWriter, code int, text string, retryAfter time.Duration) {
	if retryAfter > 0 {
		seconds := int64(min((retryAfter+time.Second-1)/time.Second, 3600))
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	writeJSON(w, code, struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}{Error: text})
}

// failed answers a request that the broker could not do, and logs why.
func (b *Broker) failed(w http.ResponseWriter, what string, err error) {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		b.log.Warn("request failed: the store does not answer", "type", what, "cause", err)
		refuseShape(w, http.StatusServiceUnavailable, "unavailable", time.Second)
		return
	}
	if errors.Is(err, context.Canceled) {
		return // nobody is there to hear
	}
	b.log.Error("request failed", "type", what, "cause", err)
	refuseShape(w, http.StatusInternalServerError, "internal", 0)
}
