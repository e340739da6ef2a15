// Package status decides what a presence's status becomes when something is heard about it.
//
// A presence is idle, working or dnd. Five kinds of signal arrive: hooks of an editor, the peer's own set_status,
// inference from a transcript, the sweep of old states, and hooks that were heard before the presence existed. Each has a
// method on [Rules] which first asks whether it may speak at all (the gate) and then applies the one low-level rule,
// [Rules.Write]. All of them are pure: the previous state, the signal and the time go in, the next state and what has to
// be done about it come out. Whoever holds the presence makes that atomic.
//
// Ages are differences of the given times, so callers truncate times to milliseconds, as they do for a store. The rules
// and their decision tables are in docs/presence.md.
package status

import (
	"cmp"
	"time"
)

// Status is what a peer is doing; its text is the word on the wire.
type Status string

// The three statuses; docs/presence.md, "Status and delivery".
const (
	Idle    Status = "idle"    // hears priorities now, next and low
	Working Status = "working" // hears priority now only
	DND     Status = "dnd"     // hears priority now only, and is left by manual input alone
)

// Valid reports whether s is one of the three statuses.
func (s Status) Valid() bool { return s == Idle || s == Working || s == DND }

// Source says who set a status; its text is the word on the wire.
type Source string

// The three sources, from the most trusted to the least; docs/presence.md, "Constants".
const (
	FromHook   Source = "hook"   // rank 3: an editor hook
	FromManual Source = "manual" // rank 2: set_status
	FromJSONL  Source = "jsonl"  // rank 1: inference, the sweep, and the state a presence starts in
)

// rank orders the sources; docs/presence.md, "Constants". An unknown source ranks below all.
func (s Source) rank() int {
	switch s {
	case FromHook:
		return 3
	case FromManual:
		return 2
	case FromJSONL:
		return 1
	}
	return 0
}

// State is the status of one presence.
type State struct {
	Status    Status
	Source    Source
	UpdatedAt time.Time // of the last write; zero counts as infinitely long ago
}

// Initial returns the state of a presence that connects freshly at now. A reattached one keeps its state.
func Initial(now time.Time) State {
	return State{Status: Idle, Source: FromJSONL, UpdatedAt: now}
}

// Effect says what follows from a signal.
type Effect struct {
	// Written: the signal passed its gate and the state was written, if only its UpdatedAt; mirror it to the store.
	Written bool
	// Changed: the status differs from before; tell the peers. Implies Written.
	Changed bool
	// Drain: the presence left working or dnd for idle, so held priorities are free; drain its queue. Implies Changed.
	Drain bool
}

// Defaults of [Rules]; docs/presence.md, "Constants".
const (
	DefaultTTL          = 60 * time.Second
	DefaultFreshWindow  = 30 * time.Second
	DefaultHookDNDDecay = 8 * time.Hour
)

// Rules holds the engine's parameters. The zero value has the defaults; Rules is safe for concurrent use.
type Rules struct {
	// TTL is the age above which Sweep makes a working presence idle. Default 60 s; negative: never.
	TTL time.Duration
	// FreshWindow is the age up to which a write still counts as fresh, both ends included. Default 30 s; negative: nothing is.
	FreshWindow time.Duration
	// HookDNDDecay is the age above which Sweep makes a dnd that a hook set idle: hooks carry no proof of who sent them,
	// so one of them must not silence a peer for ever. Default 8 h; negative: never. A manual dnd never decays.
	HookDNDDecay time.Duration
}

// Write is the low-level rule that every caller ends in. It knows nothing of gates: it leaves dnd, and a lower source
// overrides a higher one, whenever the status differs. When the status stays, the time is renewed, and the source too
// unless it would lose rank while the old write is fresh. to must be valid.
func (r Rules) Write(prev State, to Status, src Source, now time.Time) (State, Effect) {
	next := State{Status: to, Source: src, UpdatedAt: now}
	changed := to != prev.Status
	if !changed && src.rank() < prev.Source.rank() && r.fresh(prev, now) {
		next.Source = prev.Source // W3; the other cases W1, W2 and W4 take the new source
	}
	return next, Effect{Written: true, Changed: changed, Drain: changed && to == Idle}
}

// Hook applies what an editor hook said. It does nothing in dnd.
func (r Rules) Hook(prev State, to Status, now time.Time) (State, Effect) {
	if prev.Status == DND {
		return prev, Effect{}
	}
	return r.Write(prev, to, FromHook, now)
}

// Manual applies the peer's own set_status, which has no gate: it alone enters dnd for good and leaves it.
func (r Rules) Manual(prev State, to Status, now time.Time) (State, Effect) {
	next, effect := r.Write(prev, to, FromManual, now)
	if to == DND {
		// Where a hook set dnd moments ago, W3 would keep its source, and with it the decay that a manual dnd must not have.
		next.Source = FromManual
	}
	return next, effect
}

// Infer applies what a transcript suggests. It does nothing in dnd, after a fresh hook or manual write, and when inferred
// is neither idle nor working. The caller leaves it out when inference is off or the peer has no transcript.
func (r Rules) Infer(prev State, inferred Status, now time.Time) (State, Effect) {
	authoritative := prev.Source == FromHook || prev.Source == FromManual
	if prev.Status == DND || authoritative && r.fresh(prev, now) || inferred != Idle && inferred != Working {
		return prev, Effect{}
	}
	return r.Write(prev, inferred, FromJSONL, now)
}

// Sweep ends what nobody renewed: a working older than TTL, and a dnd set by a hook older than HookDNDDecay. The caller
// asks every 15 s, for connected presences only.
func (r Rules) Sweep(prev State, now time.Time) (State, Effect) {
	var limit time.Duration
	switch {
	case prev.Status == Working:
		limit = cmp.Or(r.TTL, DefaultTTL)
	case prev.Status == DND && prev.Source == FromHook:
		limit = cmp.Or(r.HookDNDDecay, DefaultHookDNDDecay)
	default:
		return prev, Effect{}
	}
	if limit < 0 || now.Sub(prev.UpdatedAt) <= limit {
		return prev, Effect{}
	}
	return r.Write(prev, Idle, FromJSONL, now)
}

// fresh reports whether the last write lies in the fresh window. A time in the future does not.
func (r Rules) fresh(s State, now time.Time) bool {
	age := now.Sub(s.UpdatedAt)
	return !s.UpdatedAt.IsZero() && age >= 0 && age <= cmp.Or(r.FreshWindow, DefaultFreshWindow)
}
