//go:build !race

package broker_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The push is encoded once for all its recipients, into a buffer that is large enough: nothing is allocated but that buffer. Serial, because AllocsPerRun is.
func TestEncodingAPushDoesNotAllocate(t *testing.T) {
	p, buf := benchPush(), make([]byte, 0, 4096)
	require.Zero(t, testing.AllocsPerRun(100, func() { buf = p.Append(buf[:0]) }))
}
