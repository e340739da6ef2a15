package status

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Limits of [Pending]; docs/presence.md, "Pending hook signals".
const (
	// PendingTTL is how long a stashed signal may still be taken, both ends included.
	PendingTTL = 10 * time.Second
	// MaxPending is how many signals are kept; a further one displaces the oldest.
	MaxPending = 1024
)

// Signal is a hook post that matched no presence.
type Signal struct {
	PID       int64      // 0 when the hook gave none
	CWD       string     // as the hook gave it
	SessionID string     // the editor's session; empty when the hook gave none
	Addr      netip.Addr // where the hook came from
	Status    Status
	CreatedAt time.Time // when it was heard
}

// Pending keeps hook signals for presences that are about to connect: an editor's first hook often wins the race
// against its hello. It is tied to no mesh, because none is known yet. The zero value is empty and ready; Pending is safe
// for concurrent use and must not be copied. It reads no clock.
type Pending struct {
	mu      sync.Mutex
	signals []Signal // guarded by mu; ascending CreatedAt, equal ones in order of arrival
}

// Stash keeps s, and drops the oldest signal if there are more than [MaxPending].
func (p *Pending) Stash(s Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := len(p.signals)
	for at > 0 && p.signals[at-1].CreatedAt.After(s.CreatedAt) {
		at--
	}
	p.signals = slices.Insert(p.signals, at, s)
	if len(p.signals) > MaxPending {
		p.signals = slices.Delete(p.signals, 0, 1)
	}
}

// Take removes and returns the signal for a presence that connects freshly: the newest of the last [PendingTTL] with the
// same pid and directory from the same address (zero equals only zero), or else the newest with the same non-empty
// session id, whose address does not matter. Apply it with [Rules.Write] and [FromHook].
func (p *Pending) Take(pid int64, cwd, sessionID string, addr netip.Addr, now time.Time) (Signal, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.takeLocked(now, func(s *Signal) bool { return s.PID == pid && s.CWD == cwd && s.Addr == addr })
	if !ok && sessionID != "" {
		s, ok = p.takeLocked(now, func(s *Signal) bool { return s.SessionID == sessionID })
	}
	return s, ok
}

func (p *Pending) takeLocked(now time.Time, match func(*Signal) bool) (Signal, bool) {
	oldest := now.Add(-PendingTTL)
	for i := len(p.signals) - 1; i >= 0 && !p.signals[i].CreatedAt.Before(oldest); i-- {
		if s := p.signals[i]; match(&s) {
			p.signals = slices.Delete(p.signals, i, i+1)
			return s, true
		}
	}
	return Signal{}, false
}

// Sweep drops the signals that can no longer be taken and returns how many those were. The caller asks every 10 s.
func (p *Pending) Sweep(now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := now.Add(-PendingTTL)
	n := 0
	for n < len(p.signals) && p.signals[n].CreatedAt.Before(oldest) {
		n++
	}
	p.signals = slices.Delete(p.signals, 0, n)
	return n
}

// Len returns how many signals are kept.
func (p *Pending) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.signals)
}
