package status

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// decisions is the first table of docs/presence.md, "Decision tables":
// # | status | source | age in ms | event | in | -> status | -> source | ts | drain.
const decisions = `
| 1 | idle | jsonl | 0 | H | working | working | hook | yes | no |
| 2 | idle | jsonl | 100000 | H | idle | idle | hook | yes | no |
| 3 | idle | manual | 1000 | H | idle | idle | hook | yes | no |
| 4 | working | hook | 1000 | H | idle | idle | hook | yes | yes |
| 5 | working | hook | 1000 | H | working | working | hook | yes | no |
| 6 | working | jsonl | 1000 | H | working | working | hook | yes | no |
| 7 | dnd | manual | 1000 | H | idle | - | - | no | no |
| 8 | dnd | manual | 900000 | H | working | - | - | no | no |
| 9 | dnd | hook | 1000 | H | idle | - | - | no | no |
| 10 | idle | jsonl | 0 | H | dnd | dnd | hook | yes | no |
| 11 | idle | hook | 1000 | M | dnd | dnd | manual | yes | no |
| 12 | dnd | manual | 5000 | M | idle | idle | manual | yes | yes |
| 13 | dnd | hook | 5000 | M | working | working | manual | yes | no |
| 14 | working | hook | 10000 | M | working | - | - (hook) | yes | no |
| 15 | working | hook | 30000 | M | working | - | - (hook) | yes | no |
| 16 | working | hook | 30001 | M | working | working | manual | yes | no |
| 17 | working | hook | 10000 | M | idle | idle | manual | yes | yes |
| 18 | idle | jsonl | 10000 | M | idle | idle | manual | yes | no |
| 19 | idle | manual | 10000 | M | working | working | manual | yes | no |
| 20 | working | hook | 10000 | J | idle | - | - | no | no |
| 21 | working | hook | 30000 | J | idle | - | - | no | no |
| 22 | working | hook | 30001 | J | idle | idle | jsonl | yes | yes |
| 23 | working | hook | 45000 | J | working | working | jsonl | yes | no |
| 24 | idle | hook | 45000 | J | working | working | jsonl | yes | no |
| 25 | working | manual | 10000 | J | idle | - | - | no | no |
| 26 | working | manual | 30001 | J | idle | idle | jsonl | yes | yes |
| 27 | idle | manual | 45000 | J | idle | idle | jsonl | yes | no |
| 28 | idle | jsonl | 10000 | J | working | working | jsonl | yes | no |
| 29 | idle | jsonl | 10000 | J | idle | idle | jsonl | yes | no |
| 30 | dnd | manual | 500000 | J | working | - | - | no | no |
| 31 | working | hook | 60000 | T | - | - | - | no | no |
| 32 | working | hook | 60001 | T | - | idle | jsonl | yes | yes |
| 33 | working | manual | 120000 | T | - | idle | jsonl | yes | yes |
| 34 | working | jsonl | 59999 | T | - | - | - | no | no |
| 35 | dnd | manual | 300000 | T | - | - | - | no | no |
| 36 | idle | hook | 300000 | T | - | - | - | no | no |
| 37 | idle | jsonl | 0 | P (9 s old) | working | working | hook | yes | no |
| 38 | idle | jsonl | 0 | P (10 000 ms old) | working | working | hook | yes | no |
| 39 | idle | jsonl | 0 | P (10 001 ms old) | working | - | - | no | no |
| 40 | idle | jsonl | 0 | P (two: idle older, working newer) | working | working | hook | yes | no |
| 41 | working | hook | -5000 | M | working | working | manual | yes | no |
| 42 | working | hook | -5000 | J | idle | idle | jsonl | yes | yes |
| 43 | dnd | manual | 1000 | M | dnd | dnd | manual | yes | no |
| 44 | idle | hook | 1000 | T | - | - | - | no | no |
`

// writes is the second: # | status | source | age in ms | write | -> status | -> source | ts.
const writes = `
| w1 | working | hook | 1000 | idle, jsonl | idle | jsonl | yes |
| w2 | working | hook | 120000 | working, jsonl | working | jsonl | yes |
| w3 | working | hook | 1000 | working, jsonl | working | hook | yes |
| w4 | working | jsonl | 1000 | working, hook | working | hook | yes |
| w5 | working | manual | 1000 | working, jsonl | working | manual | yes |
| w6 | working | manual | 31000 | working, jsonl | working | jsonl | yes |
| w7 | idle | manual | 1000 | idle, hook | idle | hook | yes |
| w8 | dnd | manual | 1000 | idle, jsonl | idle | jsonl | yes |
| w9 | idle | hook | 0 | idle, hook | idle | hook | yes |
`

var (
	noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	here = netip.MustParseAddr("127.0.0.1")
)

// cells splits a table into rows of trimmed cells.
func cells(table string) [][]string {
	var rows [][]string
	for line := range strings.Lines(strings.TrimSpace(table)) {
		row := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		rows = append(rows, row)
	}
	return rows
}

func aged(t *testing.T, status, source, age string) State {
	t.Helper()
	ms, err := strconv.Atoi(age)
	require.NoError(t, err)
	return State{Status(status), Source(source), noon.Add(-time.Duration(ms) * time.Millisecond)}
}

func TestDecisionTable(t *testing.T) {
	t.Parallel()
	rows := cells(decisions)
	require.Len(t, rows, 44)
	for i, c := range rows {
		require.Equal(t, strconv.Itoa(i+1), c[0])
		t.Run(c[0], func(t *testing.T) {
			t.Parallel()
			prev := aged(t, c[1], c[2], c[3])
			want := prev
			if c[6] != "-" {
				want.Status = Status(c[6])
			}
			if source, _, _ := strings.Cut(c[7], " "); source != "-" {
				want.Source = Source(source)
			}
			if c[8] == "yes" {
				want.UpdatedAt = noon
			}
			var got State
			var effect Effect
			switch in := Status(c[5]); c[4] {
			case "H":
				got, effect = Rules{}.Hook(prev, in, noon)
			case "M":
				got, effect = Rules{}.Manual(prev, in, noon)
			case "J":
				got, effect = Rules{}.Infer(prev, in, noon)
			case "T":
				got, effect = Rules{}.Sweep(prev, noon)
			default:
				got, effect = connect(t, prev, c[4], in)
			}
			require.Equal(t, want, got, "row %v", c)
			require.Equal(t, Effect{Written: c[8] == "yes", Changed: want.Status != prev.Status, Drain: c[9] == "yes"}, effect, "row %v", c)
		})
	}
}

// connect plays rows 37 to 40: signals wait, a presence connects, the one it takes is applied.
func connect(t *testing.T, prev State, event string, in Status) (State, Effect) {
	t.Helper()
	age, ok := map[string]time.Duration{
		"P (9 s old)":                        9 * time.Second,
		"P (10 000 ms old)":                  10 * time.Second,
		"P (10 001 ms old)":                  10*time.Second + time.Millisecond,
		"P (two: idle older, working newer)": time.Second,
	}[event]
	require.True(t, ok, event)
	var p Pending
	p.Stash(Signal{PID: 7, CWD: "/src", Addr: here, Status: in, CreatedAt: noon.Add(-age)})
	if strings.Contains(event, "two") {
		p.Stash(Signal{PID: 7, CWD: "/src", Addr: here, Status: Idle, CreatedAt: noon.Add(-age - time.Second)})
	}
	s, ok := p.Take(7, "/src", "", here, noon)
	if !ok {
		return prev, Effect{}
	}
	return Rules{}.Write(prev, s.Status, FromHook, noon)
}

func TestWriteTable(t *testing.T) {
	t.Parallel()
	rows := cells(writes)
	require.Len(t, rows, 9)
	for i, c := range rows {
		require.Equal(t, fmt.Sprintf("w%d", i+1), c[0])
		t.Run(c[0], func(t *testing.T) {
			t.Parallel()
			to, source, ok := strings.Cut(c[4], ", ")
			require.True(t, ok)
			require.Equal(t, "yes", c[7])
			prev := aged(t, c[1], c[2], c[3])
			got, effect := Rules{}.Write(prev, Status(to), Source(source), noon)
			require.Equal(t, State{Status(c[5]), Source(c[6]), noon}, got, "row %v", c)
			changed := c[1] != to
			require.Equal(t, Effect{Written: true, Changed: changed, Drain: changed && to == "idle"}, effect, "row %v", c)
		})
	}
}

func TestDocumentedTablesAreTheTestedOnes(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/presence.md")
	require.NoError(t, err)
	require.Contains(t, string(doc), strings.TrimSpace(decisions))
	require.Contains(t, string(doc), strings.TrimSpace(writes))
}

func TestInitialStateIsIdleFromNobody(t *testing.T) {
	t.Parallel()
	require.Equal(t, State{Idle, FromJSONL, noon}, Initial(noon))
}

func TestHookDNDDecaysAndManualDNDDoesNot(t *testing.T) {
	t.Parallel()
	const limit = 8 * time.Hour
	for _, tt := range []struct {
		name  string
		rules Rules
		prev  State
		want  State
	}{
		{"at the limit", Rules{}, State{DND, FromHook, noon.Add(-limit)}, State{DND, FromHook, noon.Add(-limit)}},
		{"past the limit", Rules{}, State{DND, FromHook, noon.Add(-limit - 1)}, State{Idle, FromJSONL, noon}},
		{"manual", Rules{}, State{DND, FromManual, noon.Add(-100 * limit)}, State{DND, FromManual, noon.Add(-100 * limit)}},
		{"off", Rules{HookDNDDecay: -1}, State{DND, FromHook, noon.Add(-100 * limit)}, State{DND, FromHook, noon.Add(-100 * limit)}},
		{"set", Rules{HookDNDDecay: time.Second}, State{DND, FromHook, noon.Add(-2 * time.Second)}, State{Idle, FromJSONL, noon}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, effect := tt.rules.Sweep(tt.prev, noon)
			require.Equal(t, tt.want, got)
			moved := tt.want.Status == Idle
			require.Equal(t, Effect{Written: moved, Changed: moved, Drain: moved}, effect)
		})
	}
}

func TestManualDNDTakesOverTheDNDOfAFreshHook(t *testing.T) {
	t.Parallel()
	hooked, _ := Rules{}.Hook(Initial(noon), DND, noon)
	manual, effect := Rules{}.Manual(hooked, DND, noon.Add(time.Second))
	require.Equal(t, State{DND, FromManual, noon.Add(time.Second)}, manual)
	require.Equal(t, Effect{Written: true}, effect)
	swept, _ := Rules{}.Sweep(manual, noon.Add(9*time.Hour))
	require.Equal(t, manual, swept)
}

func TestRulesCanBeSetAndSwitchedOff(t *testing.T) {
	t.Parallel()
	old := State{Working, FromHook, noon.Add(-time.Hour)}
	got, _ := Rules{TTL: -1}.Sweep(old, noon)
	require.Equal(t, old, got, "negative: never swept")
	got, _ = Rules{TTL: time.Hour}.Sweep(old, noon)
	require.Equal(t, old, got, "the limit itself is not past it")
	got, _ = Rules{TTL: time.Hour - 1}.Sweep(old, noon)
	require.Equal(t, Idle, got.Status)

	now := State{Working, FromHook, noon}
	got, _ = Rules{FreshWindow: -1}.Infer(now, Idle, noon)
	require.Equal(t, Idle, got.Status, "negative: nothing is fresh")
	got, _ = Rules{FreshWindow: time.Hour}.Infer(old, Idle, noon)
	require.Equal(t, old, got)
}

func TestUnknownTimeIsOldAndOddInferenceIsIgnored(t *testing.T) {
	t.Parallel()
	got, _ := Rules{}.Sweep(State{Status: Working, Source: FromHook}, noon)
	require.Equal(t, Idle, got.Status)
	got, _ = Rules{}.Infer(State{Status: Working, Source: FromHook}, Idle, noon)
	require.Equal(t, Idle, got.Status)
	for _, odd := range []Status{DND, "", "busy"} {
		got, effect := Rules{}.Infer(Initial(noon), odd, noon)
		require.Equal(t, Initial(noon), got)
		require.Zero(t, effect)
		require.Equal(t, odd == DND, odd.Valid())
	}
}

// Whatever is heard in whatever order, only manual input and the decay of a hook's dnd leave dnd, and every effect tells
// the truth about the two states.
func TestAnyHistoryKeepsTheInvariants(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	all := []Status{Idle, Working, DND}
	now, state := noon, Initial(noon)
	for range 20_000 {
		now = now.Add(time.Duration(rng.IntN(90_000)-5000) * time.Millisecond)
		prev, to, event := state, all[rng.IntN(3)], rng.IntN(4)
		var effect Effect
		switch event {
		case 0:
			state, effect = Rules{}.Hook(prev, to, now)
		case 1:
			state, effect = Rules{}.Manual(prev, to, now)
		case 2:
			state, effect = Rules{}.Infer(prev, to, now)
		case 3:
			state, effect = Rules{}.Sweep(prev, now)
		}
		if prev.Status == DND && state.Status != DND {
			require.True(t, event == 1 || event == 3 && prev.Source == FromHook && now.Sub(prev.UpdatedAt) > 8*time.Hour)
		}
		require.Equal(t, state.Status != prev.Status, effect.Changed)
		require.Equal(t, effect.Changed && state.Status == Idle, effect.Drain)
		if effect.Written {
			require.Equal(t, now, state.UpdatedAt)
		} else {
			require.Equal(t, prev, state)
		}
	}
}

func TestPendingIsTakenOnceByPidAndDirectoryThenBySession(t *testing.T) {
	t.Parallel()
	there := netip.MustParseAddr("192.0.2.1")
	var p Pending
	p.Stash(Signal{PID: 1, CWD: "/a", SessionID: "s1", Addr: here, Status: Working, CreatedAt: noon})
	p.Stash(Signal{PID: 2, CWD: "/a", SessionID: "s2", Addr: here, Status: DND, CreatedAt: noon})

	for _, tt := range []struct {
		name    string
		pid     int64
		cwd     string
		session string
		addr    netip.Addr
	}{
		{"other pid", 3, "/a", "", here},
		{"other directory", 1, "/b", "", here},
		{"other address", 1, "/a", "", there},
		{"other session", 3, "/a", "s3", here},
	} {
		_, ok := p.Take(tt.pid, tt.cwd, tt.session, tt.addr, noon)
		require.False(t, ok, tt.name)
	}
	s, ok := p.Take(1, "/a", "s2", here, noon)
	require.True(t, ok)
	require.Equal(t, "s1", s.SessionID, "pid and directory come first")
	s, ok = p.Take(1, "/a", "s2", there, noon)
	require.True(t, ok)
	require.Equal(t, DND, s.Status, "the session id needs no address")
	_, ok = p.Take(2, "/a", "s2", here, noon)
	require.False(t, ok, "a signal is applied once")
	require.Zero(t, p.Len())
}

func TestEmptySessionMatchesNoPendingSignal(t *testing.T) {
	t.Parallel()
	var p Pending
	p.Stash(Signal{PID: 1, CWD: "/a", Addr: here, Status: Working, CreatedAt: noon})
	_, ok := p.Take(2, "/a", "", here, noon)
	require.False(t, ok)
}

func TestPendingDropsTheOldestWhenFull(t *testing.T) {
	t.Parallel()
	var p Pending
	for i := range int64(MaxPending + 2) {
		p.Stash(Signal{PID: i, CWD: "/a", Addr: here, CreatedAt: noon.Add(time.Duration(i) * time.Millisecond)})
	}
	require.Equal(t, MaxPending, p.Len())
	for pid, want := range map[int64]bool{0: false, 1: false, 2: true, MaxPending + 1: true} {
		_, ok := p.Take(pid, "/a", "", here, noon.Add(2*time.Second))
		require.Equal(t, want, ok, "pid %d", pid)
	}
}

func TestPendingSweepKeepsWhatCanStillBeTaken(t *testing.T) {
	t.Parallel()
	var p Pending
	p.Stash(Signal{PID: 1, CreatedAt: noon.Add(time.Millisecond)}) // late and out of order
	p.Stash(Signal{PID: 2, CreatedAt: noon})
	p.Stash(Signal{PID: 3, CreatedAt: noon.Add(-time.Millisecond)})
	require.Equal(t, 0, p.Sweep(noon))
	require.Equal(t, 1, p.Sweep(noon.Add(PendingTTL)))
	_, ok := p.Take(2, "", "", netip.Addr{}, noon.Add(PendingTTL))
	require.True(t, ok)
	require.Equal(t, 1, p.Sweep(noon.Add(time.Hour)))
	require.Zero(t, p.Len())
}

func TestPendingGivesEachSignalToOneTaker(t *testing.T) {
	t.Parallel()
	var p Pending
	var wg sync.WaitGroup
	taken := make(chan int64, 1000)
	for range 4 {
		wg.Go(func() {
			for i := range int64(200) {
				p.Stash(Signal{PID: i, CWD: "/a", CreatedAt: noon})
				p.Sweep(noon)
				if s, ok := p.Take(i, "/a", "", netip.Addr{}, noon); ok {
					taken <- s.PID
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, 800, len(taken)+p.Len())
}
