package broker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Frames beyond 1 MiB are remembered for as long as they count, and no longer.
func TestStrikesAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &mesh{strikes: map[string]*strikes{}}
		for range 5 {
			m.strike("eve")
		}
		m.strike("bo")
		time.Sleep(30 * time.Second)
		require.True(t, m.blocked("eve"))
		m.forgetStrikes(time.Now())
		require.True(t, m.blocked("eve"))
		require.Len(t, m.strikes, 2)
		time.Sleep(strikeWindow)
		m.strike("ana")
		m.forgetStrikes(time.Now())
		require.Len(t, m.strikes, 1)
		require.Contains(t, m.strikes, "ana")
	})
}
