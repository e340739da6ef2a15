package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"rsc.io/qr"
)

// modules reads a drawing back: whether each module is dark.
func modules(t *testing.T, lines []string, colour bool) [][]bool {
	t.Helper()
	var rows [][]bool
	for _, l := range lines {
		if colour {
			var found bool
			l, found = strings.CutPrefix(l, "\x1b[38;5;16;48;5;231m")
			require.True(t, found, "black on white, on any terminal")
			l, found = strings.CutSuffix(l, "\x1b[0m")
			require.True(t, found)
		}
		var top, bottom []bool
		for _, r := range l {
			ink := map[rune][2]bool{'█': {true, true}, '▀': {true, false}, '▄': {false, true}, ' ': {false, false}}
			pair, known := ink[r]
			require.True(t, known, "%q", r)
			top, bottom = append(top, pair[0] == colour), append(bottom, pair[1] == colour)
		}
		rows = append(rows, top, bottom)
	}
	return rows
}

// What is drawn is the encoder's matrix, with the quiet zone around it, and nothing else.
func TestQRIsDrawnAsItWasEncoded(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"https://mesh.example/i/abcd2345", "http://127.0.0.1:7900/i/ZZZZZZZZ", "ic://join/" + strings.Repeat("eyJ2Ijox", 73),
	} {
		for _, level := range []qr.Level{qr.L, qr.M} {
			c, err := qr.Encode(text, level)
			require.NoError(t, err)
			for _, colour := range []bool{false, true} {
				rows := modules(t, qrLines(c, colour), colour)
				require.GreaterOrEqual(t, len(rows), c.Size+2*quietZone)
				require.LessOrEqual(t, len(rows), c.Size+2*quietZone+1)
				for y, row := range rows {
					require.Len(t, row, c.Size+2*quietZone)
					for x, dark := range row {
						require.Equal(t, c.Black(x-quietZone, y-quietZone), dark, "%d, %d", x, y)
					}
				}
				// It is a QR code: the three finders stand in the corners of the quiet zone.
				for _, at := range [][2]int{{0, 0}, {c.Size - 7, 0}, {0, c.Size - 7}} {
					for i := range 7 {
						require.True(t, rows[quietZone+at[1]][quietZone+at[0]+i], "upper edge of a finder")
						require.True(t, rows[quietZone+at[1]+i][quietZone+at[0]], "left edge of a finder")
					}
				}
			}
		}
	}
}

func TestQRIsForTerminalsThatHaveRoom(t *testing.T) {
	t.Parallel()
	const link = "https://mesh.example/i/abcd2345" // 29 modules, 37 columns with its quiet zone
	yes, no := true, false
	for _, c := range []struct {
		name     string
		columns  int
		terminal bool
		wanted   *bool
		json     bool
		drawn    bool
		says     string
	}{
		{name: "terminal", columns: 80, terminal: true, drawn: true},
		{name: "just wide enough", columns: 37, terminal: true, drawn: true},
		{name: "too narrow", columns: 36, terminal: true, says: "37 columns, and this one has 36; so"},
		{name: "too narrow, and wanted", columns: 36, terminal: true, wanted: &yes, says: "37 columns"},
		{name: "width unknown", terminal: true, drawn: true},
		{name: "not wanted", columns: 80, terminal: true, wanted: &no},
		{name: "no terminal", drawn: false},
		{name: "no terminal, and wanted", wanted: &yes, drawn: true},
		{name: "JSON", columns: 80, terminal: true, wanted: &yes, json: true},
	} {
		var out, errs bytes.Buffer
		p := &program{
			printer:  &printer{out: &out, err: &errs, json: c.json},
			terminal: func(io.Writer) (int, bool) { return c.columns, c.terminal },
		}
		require.NoError(t, p.showQR(link, qr.M, c.wanted, "; so"), c.name)
		require.Equal(t, c.drawn, strings.Contains(out.String(), "█"), c.name)
		require.Equal(t, c.says != "", errs.Len() > 0, "%s: %s", c.name, errs.String())
		require.Contains(t, errs.String(), c.says, c.name)
	}
	var out, errs bytes.Buffer
	p := &program{printer: &printer{out: &out, err: &errs}, terminal: func(io.Writer) (int, bool) { return 80, true }}
	require.NoError(t, p.showQR(strings.Repeat("x", 3000), qr.L, nil, ""))
	require.Empty(t, out.String())
	require.Contains(t, errs.String(), "too long")
	columns, terminal := terminalColumns(&out)
	require.False(t, terminal, columns)
}
