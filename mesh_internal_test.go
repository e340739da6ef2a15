package broker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/internal/status"
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

// What a rate limit remembers of a hook is short, whatever the directory is, and another for each process and directory.
func TestHookLimitRemembersNoDirectories(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range []status.Signal{
		{PID: 1, CWD: strings.Repeat("/x", 4096)}, {PID: 2, CWD: strings.Repeat("/x", 4096)}, {PID: 1, CWD: "/x"}, {PID: 1}, {CWD: "1:"}, {PID: 11}, {},
	} {
		key := hookKey(s)
		require.Len(t, key, 32)
		require.False(t, seen[key], "%+v", s)
		seen[key] = true
	}
}
