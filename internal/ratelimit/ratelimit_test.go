package ratelimit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return noon.Add(d) }

func TestBurstThenRate(t *testing.T) {
	t.Parallel()
	b := New(10, 60, 0)
	for range 10 {
		require.True(t, b.Take("a", noon))
	}
	require.False(t, b.Take("a", noon))
	require.True(t, b.Take("b", noon), "keys do not share")
	require.False(t, b.Take("a", after(999*time.Millisecond)))
	require.True(t, b.Take("a", after(time.Second)))
	require.False(t, b.Take("a", after(time.Second)))
}

func TestFractionsAddUp(t *testing.T) {
	t.Parallel()
	b := NewBucket(1, 60)
	require.True(t, b.Take(noon))
	for i := 1; i < 10; i++ { // each refused take refills a tenth, which has no exact binary form
		require.False(t, b.Take(after(time.Duration(i)*100*time.Millisecond)))
	}
	require.True(t, b.Take(after(time.Second)))
}

func TestFillsToCapacityOnly(t *testing.T) {
	t.Parallel()
	b := NewBucket(2.5, 60)
	require.True(t, b.Take(noon))
	require.True(t, b.Take(after(time.Hour)))
	require.True(t, b.Take(after(time.Hour)))
	require.False(t, b.Take(after(time.Hour)), "half a token is left")
	require.True(t, b.Take(after(time.Hour+500*time.Millisecond)))
}

func TestTimeGoingBackwardsAddsNothing(t *testing.T) {
	t.Parallel()
	b := NewBucket(1, 60)
	require.True(t, b.Take(noon))
	require.False(t, b.Take(after(-time.Hour)))
	require.False(t, b.Take(noon), "nor does the way back")
	require.Equal(t, 3*time.Second, b.RetryAfter(after(-2*time.Second)))
	require.True(t, b.Take(after(time.Second)))
}

func TestRefundGivesBackUpToCapacity(t *testing.T) {
	t.Parallel()
	b := New(2, 60, 0)
	require.True(t, b.Take("a", noon))
	require.True(t, b.Take("a", noon))
	b.Refund("a", noon)
	require.True(t, b.Take("a", noon))
	require.False(t, b.Take("a", noon))
	for range 5 {
		b.Refund("a", noon)
	}
	require.True(t, b.Take("a", noon))
	require.True(t, b.Take("a", noon))
	require.False(t, b.Take("a", noon))

	b.Refund("unknown", noon)
	require.Equal(t, 1, b.Len())

	one := NewBucket(1, 0)
	require.True(t, one.Take(noon))
	one.Refund(noon)
	one.Refund(noon)
	require.True(t, one.Take(noon))
	require.False(t, one.Take(noon))
}

func TestRetryAfterIsWhenTakeSucceeds(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		b := NewBucket(1+rng.Float64()*10, 0.1+rng.Float64()*1000)
		now := noon
		for range 20 {
			now = now.Add(time.Duration(rng.IntN(200)) * time.Millisecond)
			b.Take(now)
		}
		wait := b.RetryAfter(now)
		if wait > 0 {
			early := b
			require.False(t, early.Take(now.Add(wait-2*time.Millisecond)), "%+v", b)
		}
		require.True(t, b.Take(now.Add(wait)), "%+v after %v", b, wait)
	}
}

func TestRetryAfterEdges(t *testing.T) {
	t.Parallel()
	b := New(1, 30, 0)
	require.Zero(t, b.RetryAfter("a", noon))
	require.Zero(t, b.Len(), "asking creates nothing")
	require.True(t, b.Take("a", noon))
	require.Equal(t, 2*time.Second, b.RetryAfter("a", noon))
	require.Equal(t, 500*time.Millisecond, b.RetryAfter("a", after(1500*time.Millisecond)))

	for _, never := range []Bucket{NewBucket(1, 0), NewBucket(1, 1e-300), NewBucket(0, 0), NewBucket(0.5, 60)} {
		never.Take(noon)
		require.Equal(t, time.Duration(math.MaxInt64), never.RetryAfter(noon))
	}
}

func TestZeroAllowsNothingAndNegativeEverything(t *testing.T) {
	t.Parallel()
	require.False(t, New(0, 60, 0).Take("a", noon))
	for _, b := range []*Buckets{New(-1, 60, 0), New(10, -1, 0)} {
		for range 1000 {
			require.True(t, b.Take("a", noon))
		}
		require.True(t, b.TakeN("a", 1_000_000, noon))
		require.Zero(t, b.Owe("a", 1_000_000, noon))
		b.Refund("a", noon)
		require.Zero(t, b.RetryAfter("a", noon))
		require.Zero(t, b.RetryAfterN("a", 1_000_000, noon))
		require.Zero(t, b.Len())
	}
	one := NewBucket(10, -1)
	for range 1000 {
		require.True(t, one.Take(noon))
	}
	one.Refund(noon)
	require.Zero(t, one.RetryAfter(noon))
}

func TestSeveralTokensAreTakenTogetherOrNotAtAll(t *testing.T) {
	t.Parallel()
	b := New(100, 60, 0)
	require.True(t, b.TakeN("a", 40, noon))
	require.True(t, b.TakeN("a", 60, noon))
	require.False(t, b.TakeN("a", 1, noon))
	require.True(t, b.TakeN("a", 0, noon), "of none there are always enough")
	require.True(t, b.TakeN("b", 100, noon), "keys do not share")
	require.Equal(t, 30*time.Second, b.RetryAfterN("a", 30, noon))
	require.False(t, b.TakeN("a", 30, after(29*time.Second)), "and what is there stays")
	require.True(t, b.TakeN("a", 29, after(29*time.Second)))

	b.RefundN("a", 50, after(29*time.Second))
	require.False(t, b.TakeN("a", 51, after(29*time.Second)))
	require.True(t, b.TakeN("a", 50, after(29*time.Second)))
	b.RefundN("a", 1000, after(29*time.Second))
	require.True(t, b.TakeN("a", 100, after(29*time.Second)))
	require.False(t, b.Take("a", after(29*time.Second)), "up to the capacity")

	b.RefundN("unknown", 5, noon)
	b.RefundN("a", -5, noon)
	require.Equal(t, 2, b.Len())
}

func TestMoreThanTheCapacityIsTakenFromAFullBucket(t *testing.T) {
	t.Parallel()
	b := New(100, 60, 0)
	require.Zero(t, b.RetryAfterN("a", 250, noon))
	require.True(t, b.TakeN("a", 250, noon))
	require.Equal(t, 151*time.Second, b.RetryAfter("a", noon), "150 in debt")
	require.False(t, b.Take("a", after(150*time.Second)))
	require.True(t, b.Take("a", after(151*time.Second)))
	require.Equal(t, 100*time.Second, b.RetryAfterN("a", 250, after(151*time.Second)), "when it is full again")
	require.False(t, b.TakeN("a", 250, after(250*time.Second)))
	require.True(t, b.TakeN("a", 250, after(251*time.Second)))
	require.Zero(t, b.Sweep(after(252*time.Second), time.Millisecond), "a debt is not forgotten")

	b.RefundN("a", 250, after(251*time.Second))
	require.True(t, b.TakeN("a", 250, after(251*time.Second)), "what is given back pays the debt first")

	for _, never := range []*Buckets{New(0, 60, 0), New(0.5, 60, 0)} {
		require.False(t, never.TakeN("a", 2, noon))
		require.Equal(t, time.Duration(math.MaxInt64), never.RetryAfterN("a", 2, noon))
	}
}

func TestManyTokensOfFractions(t *testing.T) {
	t.Parallel()
	b := New(60_000, 60_000, 0)
	require.True(t, b.TakeN("a", 60_000, noon))
	for i := 1; i < 60_000; i++ { // each refused take refills a fraction
		require.False(t, b.TakeN("a", 60_000, after(time.Duration(i)*time.Millisecond)))
	}
	require.True(t, b.TakeN("a", 60_000, after(time.Minute)))
	require.False(t, b.Take("a", after(time.Minute)), "and nothing is left")
}

func TestWhoOwesWaitsInTurn(t *testing.T) {
	t.Parallel()
	b := New(100, 60, 0)
	waits := func(want, got time.Duration, message string) {
		require.InDelta(t, want, got, float64(time.Millisecond), message) // rounding up may add one
	}
	require.Zero(t, b.Owe("a", 100, noon))
	waits(30*time.Second, b.Owe("a", 30, noon), "")
	waits(31*time.Second, b.Owe("a", 1, noon), "behind the one before, however little it wants")
	waits(231*time.Second, b.Owe("a", 200, noon), "more than the capacity")
	waits(231*time.Second, b.Owe("a", 9, after(9*time.Second)), "the rate holds")
	require.False(t, b.Take("a", after(240*time.Second)))
	require.Zero(t, b.Owe("a", 1, after(241*time.Second)))
	require.Zero(t, b.Owe("a", 0, noon))
	require.Zero(t, b.Owe("b", 1, noon), "keys do not share")

	never := New(1, 0, 0)
	require.Zero(t, never.Owe("a", 1, noon))
	require.Equal(t, time.Duration(math.MaxInt64), never.Owe("a", 1, noon))
}

func TestLeastRecentlyUsedKeyIsForgotten(t *testing.T) {
	t.Parallel()
	b := New(1, 0, 2)
	require.True(t, b.Take("a", noon))
	require.True(t, b.Take("b", noon))
	require.False(t, b.Take("a", noon), "which makes b the oldest")
	require.True(t, b.Take("c", noon))
	require.Equal(t, 2, b.Len())
	require.False(t, b.Take("a", noon))
	require.True(t, b.Take("b", noon), "forgotten, thus full")

	unbounded := New(1, 0, -1)
	for i := range DefaultMaxKeys + 1 {
		unbounded.Take(fmt.Sprint(i), noon)
	}
	require.Equal(t, DefaultMaxKeys+1, unbounded.Len())
}

func TestSweepForgetsIdleAndFullOnly(t *testing.T) {
	t.Parallel()
	b := New(60, 60, 0)
	for range 60 {
		require.True(t, b.Take("busy", noon))
	}
	require.True(t, b.Take("calm", noon))
	require.True(t, b.Take("late", after(20*time.Second)))
	require.Equal(t, 0, b.Sweep(after(9*time.Second), 10*time.Second))
	require.Equal(t, 1, b.Sweep(after(20*time.Second), 10*time.Second), "calm; busy is not full, late not idle")
	require.Equal(t, 2, b.Len())
	require.Equal(t, 2, b.Sweep(after(time.Minute), 10*time.Second))
	require.Zero(t, b.Len())
}

func TestConcurrentTakersShareOneBucket(t *testing.T) {
	t.Parallel()
	b := New(100, 0, 4)
	var taken atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				if b.Take("shared", noon) {
					taken.Add(1)
				}
				b.RetryAfter("shared", noon)
				b.Refund(fmt.Sprint(i), noon)
				b.Sweep(noon, time.Hour)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 100, taken.Load())
}

func TestAddrKey(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.1":           "192.0.2.1",
		"::ffff:192.0.2.1":    "192.0.2.1",
		"2001:db8:1:2:3:4::5": "2001:db8:1:2::/64",
		"fe80::1%eth0":        "fe80::/64",
		"::1":                 "::/64",
	} {
		require.Equal(t, want, AddrKey(netip.MustParseAddr(addr)))
	}
	require.Equal(t, "invalid IP", AddrKey(netip.Addr{}))
}

func BenchmarkTake(b *testing.B) {
	buckets := New(1, 60, 0)
	keys := make([]string, 50_000)
	for i := range keys {
		keys[i] = fmt.Sprint(i)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			buckets.Take(keys[i%len(keys)], noon)
		}
	})
}
