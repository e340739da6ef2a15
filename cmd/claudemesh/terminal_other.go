//go:build !unix && !windows

package main

import "io"

// terminalColumns returns the width of the terminal that w is; ok is false if it is none. Here nobody knows.
func terminalColumns(io.Writer) (columns int, ok bool) { return 0, false }
