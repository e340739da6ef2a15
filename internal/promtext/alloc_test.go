//go:build !race

package promtext

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Serial, as testing.AllocsPerRun demands.
func TestCountingAllocatesNothing(t *testing.T) {
	var r Registry
	c, g, v := r.NewCounter("c", ""), r.NewGauge("g", ""), NewCounterVec[reason](&r, "v", "", "l")
	v.With(tooLarge).Inc()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		c.Inc()
		g.Add(1)
		v.With(tooLarge).Inc()
	}))
}
