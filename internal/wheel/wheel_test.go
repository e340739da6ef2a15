package wheel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTimerFiresOnceAndNeverEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New()
		defer w.Stop()
		time.Sleep(7 * time.Millisecond) // off the wheel's ticks
		for _, d := range []time.Duration{
			-time.Second, 0, 1, time.Millisecond, Tick - 1, Tick, Tick + 1, time.Second, slots*Tick - 1, slots * Tick,
			slots*Tick + 1, 90 * time.Second, 8 * time.Hour,
		} {
			begin := time.Now()
			var fired []time.Duration
			w.After(d, func() { fired = append(fired, time.Since(begin)) })
			time.Sleep(max(d, 0) + 2*Tick)
			synctest.Wait()
			require.Len(t, fired, 1, "%v", d)
			require.GreaterOrEqual(t, fired[0], max(d, 0), "%v", d)
			require.LessOrEqual(t, fired[0], max(d, 0)+Tick, "%v", d)
			require.Zero(t, w.Len())
		}
	})
}

func TestStoppedTimerDoesNotFire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New()
		defer w.Stop()
		timer := w.After(time.Second, func() { t.Error("fired") })
		require.Equal(t, 1, w.Len())
		require.True(t, timer.Stop())
		require.False(t, timer.Stop())
		require.Zero(t, w.Len())
		time.Sleep(time.Minute)

		fired := w.After(0, func() {})
		time.Sleep(time.Second)
		synctest.Wait()
		require.False(t, fired.Stop())
	})
}

func TestResetMovesAndRevives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New()
		defer w.Stop()
		var fired atomic.Int64
		timer := w.After(time.Second, func() { fired.Add(1) })
		for range 10 {
			time.Sleep(900 * time.Millisecond)
			require.True(t, timer.Reset(time.Second))
		}
		require.Zero(t, fired.Load())
		time.Sleep(time.Second + Tick)
		synctest.Wait()
		require.EqualValues(t, 1, fired.Load())
		require.False(t, timer.Reset(time.Second))
		time.Sleep(time.Second + Tick)
		synctest.Wait()
		require.EqualValues(t, 2, fired.Load())
		require.False(t, timer.Reset(time.Hour))
		require.True(t, timer.Reset(0), "closer than what the goroutine sleeps for")
		time.Sleep(Tick)
		synctest.Wait()
		require.EqualValues(t, 3, fired.Load())
	})
}

func TestCallbackMaySetMoveAndStopTimers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New()
		defer w.Stop()
		var ticks int
		var ticker, victim *Timer
		ticker = w.After(time.Second, func() {
			if ticks++; ticks < 5 {
				ticker.Reset(time.Second)
			}
		})
		// Both are due in one tick; the first, which was set first, stops the second.
		w.After(time.Second, func() { require.True(t, victim.Stop()) })
		victim = w.After(time.Second, func() { t.Error("fired") })
		nested := false
		w.After(time.Minute, func() { w.After(0, func() { nested = true }) })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Equal(t, 5, ticks)
		require.True(t, nested)
	})
}

func TestNothingFiresAfterStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New()
		w.After(time.Second, func() { t.Error("fired") })
		w.Stop()
		w.Stop()
		late := w.After(0, func() { t.Error("fired") })
		require.False(t, late.Stop())
		require.False(t, late.Reset(time.Second))
		time.Sleep(time.Minute)
	})
}

func TestStopWaitsForTheRunningCallbackAndDropsTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New()
		begun, release := make(chan struct{}), make(chan struct{})
		var done atomic.Bool
		w.After(time.Second, func() {
			close(begun)
			<-release
			done.Store(true)
		})
		w.After(time.Second, func() { t.Error("fired") })
		<-begun
		go func() {
			time.Sleep(time.Minute)
			close(release)
		}()
		w.Stop()
		require.True(t, done.Load())
	})
}

// An idle wheel must not move a bubble's clock: if it ticked, the sleep would be cut into pieces; if its goroutine were
// not durably blocked, synctest.Wait would hang.
func TestIdleWheelSleeps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New()
		defer w.Stop()
		w.After(time.Second, func() {})
		w.After(time.Hour, func() {}).Stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		w.mu.Lock()
		require.EqualValues(t, never, w.next)
		w.mu.Unlock()
		time.Sleep(100 * 365 * 24 * time.Hour) // two billion ticks

		begin, fired := time.Now(), time.Time{}
		w.After(time.Second, func() { fired = time.Now() })
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.WithinDuration(t, begin.Add(time.Second+Tick/2), fired, Tick/2)
	})
}

func TestHugeDelayDoesNotOverflow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New()
		defer w.Stop()
		time.Sleep(time.Hour)
		timer := w.After(math.MaxInt64, func() { t.Error("fired") })
		time.Sleep(time.Hour)
		require.True(t, timer.Stop())
	})
}

// A callback that takes its time delays the others, but they come in order and none is lost.
func TestSlowCallbackDelaysTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New()
		defer w.Stop()
		var order []int
		w.After(time.Second, func() { time.Sleep(3 * slots * Tick) })
		for i := range 200 {
			w.After(2*time.Second+time.Duration(i)*333*time.Millisecond, func() { order = append(order, i) })
		}
		time.Sleep(5 * slots * Tick)
		synctest.Wait()
		require.Len(t, order, 200)
		require.True(t, slices.IsSorted(order), order)
	})
}

// Random use is compared with a model that knows only deadlines.
func TestWheelAgreesWithModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		agree(t, seed)
	}
}

func FuzzWheel(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(agree)
}

func agree(t *testing.T, seed uint64) {
	synctest.Test(t, func(t *testing.T) {
		type model struct {
			timer    *Timer
			deadline time.Time // zero when it is not pending
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		delay := func() time.Duration {
			return time.Duration(rng.Int64N(int64([]time.Duration{Tick, time.Second, time.Minute, time.Hour}[rng.IntN(4)])))
		}
		w := New()
		defer w.Stop()
		var timers []*model
		var mu sync.Mutex // guards deadlines while a timer is reset
		for range 300 {
			switch op := rng.IntN(10); {
			case op < 5 || len(timers) == 0:
				m, d := new(model), delay()
				m.deadline = time.Now().Add(d)
				m.timer = w.After(d, func() {
					mu.Lock()
					defer mu.Unlock()
					late := time.Since(m.deadline)
					if m.deadline.IsZero() || late < 0 || late > Tick {
						t.Errorf("seed %d: fired %v after its deadline %v", seed, late, m.deadline)
					}
					m.deadline = time.Time{}
				})
				timers = append(timers, m)
			case op < 7:
				m := timers[rng.IntN(len(timers))]
				mu.Lock()
				require.Equal(t, !m.deadline.IsZero(), m.timer.Stop(), "seed %d", seed)
				m.deadline = time.Time{}
				mu.Unlock()
			case op < 8:
				m, d := timers[rng.IntN(len(timers))], delay()
				mu.Lock()
				require.Equal(t, !m.deadline.IsZero(), m.timer.Reset(d), "seed %d", seed)
				m.deadline = time.Now().Add(d)
				mu.Unlock()
			default:
				time.Sleep(delay())
			}
			synctest.Wait() // a timer of this very instant may be firing
			pending := 0
			for _, m := range timers {
				if !m.deadline.IsZero() {
					pending++
					require.LessOrEqual(t, time.Since(m.deadline), Tick, "seed %d: overdue", seed)
				}
			}
			require.Equal(t, pending, w.Len(), "seed %d", seed)
		}
		time.Sleep(time.Hour + Tick)
		synctest.Wait()
		require.Zero(t, w.Len(), "seed %d", seed)
	})
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New()
		var fired, stopped atomic.Int64
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(g), 0))
				for range 500 {
					timer := w.After(time.Duration(rng.IntN(2000))*time.Millisecond, func() { fired.Add(1) })
					time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
					switch rng.IntN(3) {
					case 0:
						if timer.Stop() {
							stopped.Add(1)
						}
					case 1:
						if !timer.Reset(time.Second) {
							stopped.Add(-1) // it fires twice
						}
					}
				}
			})
		}
		wg.Wait()
		time.Sleep(3 * time.Second)
		w.Stop()
		require.EqualValues(t, 8*500, fired.Load()+stopped.Load())
	})
}

func BenchmarkWheel(b *testing.B) {
	const n = 100_000
	fill := func(w *Wheel) []*Timer {
		timers := make([]*Timer, n)
		for i := range timers {
			timers[i] = w.After(time.Hour+time.Duration(i)*time.Millisecond, func() {})
		}
		return timers
	}
	b.Run(fmt.Sprintf("set and stop %d", n), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w := New()
			for _, timer := range fill(w) {
				timer.Stop()
			}
			w.Stop()
		}
	})
	b.Run(fmt.Sprintf("reset one of %d", n), func(b *testing.B) {
		w := New()
		defer w.Stop()
		timers := fill(w)
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			timers[i%n].Reset(30 * time.Second)
			i++
		}
	})
}
