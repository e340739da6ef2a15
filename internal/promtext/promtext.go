// Package promtext counts things and writes them in Prometheus' text exposition format, version 0.0.4.
//
// It is the small part of that format which the broker's /metrics needs: counters, counters with one label, and gauges,
// all of whole numbers. Metrics are made at start-up with constant names, so a wrong or repeated name panics. Counting
// allocates nothing and takes no lock; everything here is safe for concurrent use.
package promtext

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// ContentType is the media type of what [Registry.WriteTo] writes.
const ContentType = "text/plain; version=0.0.4"

// MaxLabelValues is how many values of one label are told apart; see [CounterVec.With].
const MaxLabelValues = 64

// otherValue is the label value under which everything beyond MaxLabelValues is counted.
const otherValue = "other"

// Registry is a list of metrics, written in the order in which they were made. The zero value is empty and ready; it must
// not be copied.
type Registry struct {
	mu      sync.Mutex
	metrics []metric // guarded by mu; append only
}

type metric struct {
	name, help, kind string
	samples          func(*bytes.Buffer)
}

var _ io.WriterTo = (*Registry)(nil)

// NewCounter adds a counter. It panics if name is taken or not [a-zA-Z_:][a-zA-Z0-9_:]*.
func (r *Registry) NewCounter(name, help string) *Counter {
	c := new(Counter)
	r.add(metric{name, help, "counter", func(b *bytes.Buffer) { writeSample(b, name, "", "", strconv.FormatUint(c.Value(), 10)) }})
	return c
}

// NewGauge adds a gauge, which starts at 0. It panics like NewCounter.
func (r *Registry) NewGauge(name, help string) *Gauge {
	g := new(Gauge)
	r.NewGaugeFunc(name, help, g.Value)
	return g
}

// NewGaugeFunc adds a gauge whose value is asked for whenever the registry is written, possibly by several goroutines at
// once; value should be quick. It panics like NewCounter.
func (r *Registry) NewGaugeFunc(name, help string, value func() int64) {
	r.add(metric{name, help, "gauge", func(b *bytes.Buffer) { writeSample(b, name, "", "", strconv.FormatInt(value(), 10)) }})
}

// NewCounterVec adds a counter per value of one label. Make V a type of its own with a constant per value: then nothing a
// peer sent can become a label value without a conversion that a reader sees. It panics like NewCounter, and if label is
// not [a-zA-Z_][a-zA-Z0-9_]* or begins with two underscores.
func NewCounterVec[V ~string](r *Registry, name, help, label string) *CounterVec[V] {
	if !validName(label) || strings.Contains(label, ":") || strings.HasPrefix(label, "__") {
		panic(fmt.Sprintf("promtext: %q is no label name", label))
	}
	v := new(CounterVec[V])
	v.byValue.Store(&map[V]*Counter{})
	r.add(metric{name, help, "counter", func(b *bytes.Buffer) {
		counters := *v.byValue.Load()
		for _, value := range slices.Sorted(maps.Keys(counters)) {
			writeSample(b, name, label, string(value), strconv.FormatUint(counters[value].Value(), 10))
		}
		if len(counters) == 0 {
			writeSample(b, name, "", "", "0")
		}
	}})
	return v
}

func (r *Registry) add(m metric) {
	if !validName(m.name) {
		panic(fmt.Sprintf("promtext: %q is no metric name", m.name))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.metrics, func(o metric) bool { return o.name == m.name }) {
		panic(fmt.Sprintf("promtext: %s is registered twice", m.name))
	}
	r.metrics = append(r.metrics, m)
}

// WriteTo writes all metrics to w with a single Write. Values are read one after another, not at one instant.
func (r *Registry) WriteTo(w io.Writer) (int64, error) {
	r.mu.Lock()
	metrics := r.metrics
	r.mu.Unlock()
	var b bytes.Buffer
	for _, m := range metrics {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", m.name, helpEscaper.Replace(m.help), m.name, m.kind)
		m.samples(&b)
	}
	return b.WriteTo(w)
}

// Counter is a number that only grows, from 0.
type Counter struct{ n atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Value returns the count.
func (c *Counter) Value() uint64 { return c.n.Load() }

// Gauge is a number that goes up and down.
type Gauge struct{ n atomic.Int64 }

// Set makes the value n.
func (g *Gauge) Set(n int64) { g.n.Store(n) }

// Add adds n, which may be negative.
func (g *Gauge) Add(n int64) { g.n.Add(n) }

// Value returns the value.
func (g *Gauge) Value() int64 { return g.n.Load() }

// CounterVec is a counter per value of a label. A value is written once it was asked for.
type CounterVec[V ~string] struct {
	mu      sync.Mutex // held while byValue is replaced
	byValue atomic.Pointer[map[V]*Counter]
}

// With returns the counter of value, which must be a constant. Only the first [MaxLabelValues] values get one of their
// own; the others share that of "other", so that a mistake cannot fill memory. It allocates only on a value's first use.
func (v *CounterVec[V]) With(value V) *Counter {
	counters := *v.byValue.Load()
	if c, ok := counters[value]; ok {
		return c
	}
	if c, ok := counters[otherValue]; ok && len(counters) > MaxLabelValues {
		return c
	}
	return v.create(value)
}

func (v *CounterVec[V]) create(value V) *Counter {
	v.mu.Lock()
	defer v.mu.Unlock()
	counters := *v.byValue.Load()
	if _, ok := counters[value]; !ok && len(counters) >= MaxLabelValues {
		value = otherValue
	}
	if c, ok := counters[value]; ok {
		return c
	}
	c := new(Counter)
	grown := maps.Clone(counters)
	grown[value] = c
	v.byValue.Store(&grown)
	return c
}

var (
	helpEscaper  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	valueEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func writeSample(b *bytes.Buffer, name, label, value, number string) {
	b.WriteString(name)
	if label != "" {
		b.WriteString("{" + label + `="` + valueEscaper.Replace(strings.ToValidUTF8(value, "\uFFFD")) + `"}`)
	}
	b.WriteString(" " + number + "\n")
}

func validName(name string) bool {
	for i, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c == ':'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
