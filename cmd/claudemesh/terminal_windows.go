package main

import (
	"io"
	"os"

	"golang.org/x/sys/windows"
)

// terminalColumns returns the width of the terminal that w is; ok is false if it is none.
func terminalColumns(w io.Writer) (columns int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile {
		return 0, false
	}
	var info windows.ConsoleScreenBufferInfo
	if err := windows.GetConsoleScreenBufferInfo(windows.Handle(f.Fd()), &info); err != nil {
		return 0, false
	}
	return int(info.Window.Right) - int(info.Window.Left) + 1, true
}
