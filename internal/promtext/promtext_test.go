package promtext

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

type reason string

const (
	tooLarge  reason = "too_large"
	rateLimit reason = "rate_limit"
)

func written(t *testing.T, r *Registry) string {
	t.Helper()
	var b strings.Builder
	n, err := r.WriteTo(&b)
	require.NoError(t, err)
	require.EqualValues(t, b.Len(), n)
	return b.String()
}

func TestExposition(t *testing.T) {
	t.Parallel()
	var r Registry
	require.Empty(t, written(t, &r))
	total := r.NewCounter("broker_connections_total", "Accepted connections.")
	rejected := NewCounterVec[reason](&r, "broker_messages_rejected_total", "Refused sends.", "reason")
	active := r.NewGauge("broker_connections_active", "Open connections.")
	healthy := int64(1)
	r.NewGaugeFunc("broker_db_healthy", "1 while the store answers.", func() int64 { return healthy })

	require.Equal(t, `# HELP broker_connections_total Accepted connections.
# TYPE broker_connections_total counter
broker_connections_total 0
# HELP broker_messages_rejected_total Refused sends.
# TYPE broker_messages_rejected_total counter
broker_messages_rejected_total 0
# HELP broker_connections_active Open connections.
# TYPE broker_connections_active gauge
broker_connections_active 0
# HELP broker_db_healthy 1 while the store answers.
# TYPE broker_db_healthy gauge
broker_db_healthy 1
`, written(t, &r))

	total.Inc()
	total.Add(1<<63 - 1)
	rejected.With(tooLarge).Inc()
	rejected.With(rateLimit).Add(2)
	active.Set(3)
	active.Add(-5)
	healthy = 0
	require.Equal(t, `# HELP broker_connections_total Accepted connections.
# TYPE broker_connections_total counter
broker_connections_total 9223372036854775808
# HELP broker_messages_rejected_total Refused sends.
# TYPE broker_messages_rejected_total counter
broker_messages_rejected_total{reason="rate_limit"} 2
broker_messages_rejected_total{reason="too_large"} 1
# HELP broker_connections_active Open connections.
# TYPE broker_connections_active gauge
broker_connections_active -2
# HELP broker_db_healthy 1 while the store answers.
# TYPE broker_db_healthy gauge
broker_db_healthy 0
`, written(t, &r))
}

func TestHelpAndLabelValuesAreEscaped(t *testing.T) {
	t.Parallel()
	var r Registry
	v := NewCounterVec[reason](&r, "x", "a\\b\n\"c\"", "l")
	v.With("a\\b\n\"c\"\xff").Inc()
	require.Equal(t, `# HELP x a\\b\n"c"`+"\n# TYPE x counter\n"+`x{l="a\\b\n\"c\"`+"\uFFFD"+`"} 1`+"\n", written(t, &r))
}

func TestLabelValuesAreBounded(t *testing.T) {
	t.Parallel()
	var r Registry
	v := NewCounterVec[reason](&r, "x", "", "l")
	for i := range 1000 {
		v.With(reason(fmt.Sprintf("v%03d", i))).Inc()
	}
	v.With("v063").Inc()
	require.EqualValues(t, 2, v.With("v063").Value())
	require.EqualValues(t, 936, v.With("v999").Value())
	require.Same(t, v.With("v999"), v.With(otherValue))
	out := written(t, &r)
	require.Equal(t, 2+MaxLabelValues+1, strings.Count(out, "\n"))
	require.Contains(t, out, `x{l="other"} 936`)
}

func TestValueOtherIsAnOrdinaryOne(t *testing.T) {
	t.Parallel()
	var r Registry
	v := NewCounterVec[reason](&r, "x", "", "l")
	v.With(otherValue).Inc()
	for i := range MaxLabelValues + 5 {
		v.With(reason(fmt.Sprint(i))).Inc()
	}
	require.EqualValues(t, 1+6, v.With(otherValue).Value())
	require.Equal(t, 2+MaxLabelValues, strings.Count(written(t, &r), "\n"))
}

func TestWrongNamesPanic(t *testing.T) {
	t.Parallel()
	var r Registry
	r.NewCounter("taken", "")
	for _, name := range []string{"", "1a", "a-b", "ä", "a b", "taken"} {
		require.Panics(t, func() { r.NewGauge(name, "") }, name)
	}
	for _, label := range []string{"", "1a", "a:b", "__name"} {
		require.Panics(t, func() { NewCounterVec[reason](&r, "fine", "", label) }, label)
	}
	r.NewCounter("a:b_1", "")
}

func TestWriteErrorIsReturned(t *testing.T) {
	t.Parallel()
	var r Registry
	r.NewCounter("x", "")
	_, err := r.WriteTo(failing{})
	require.ErrorIs(t, err, errFull)
}

var errFull = errors.New("full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFull }

func TestConcurrentCounting(t *testing.T) {
	t.Parallel()
	var r Registry
	c, g := r.NewCounter("c", ""), r.NewGauge("g", "")
	v := NewCounterVec[reason](&r, "v", "", "l")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				c.Inc()
				g.Add(1)
				v.With(reason(fmt.Sprint((i + j) % 100))).Inc()
				if j%50 == 0 {
					r.NewCounter(fmt.Sprintf("c_%d_%d", i, j), "")
					written(t, &r)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 800, c.Value())
	require.EqualValues(t, 800, g.Value())
	var sum uint64
	for _, counter := range *v.byValue.Load() {
		sum += counter.Value()
	}
	require.EqualValues(t, 800, sum)
}
