package main

import (
	"strings"

	"rsc.io/qr"
)

const (
	// quietZone is how many light modules are around a QR code; readers ask for it.
	quietZone = 4
	// unknownColumns is the width of a terminal that does not tell.
	unknownColumns = 80
)

// qrLines draws a QR code with two modules in a character, one above the other. In colour it is dark on light, as readers expect, whatever the
// terminal's colours; without, the light modules are drawn, which is right on a dark terminal.
func qrLines(c *qr.Code, colour bool) []string {
	var lines []string
	for y := -quietZone; y < c.Size+quietZone; y += 2 {
		var b strings.Builder
		if colour {
			b.WriteString("\x1b[38;5;16;48;5;231m")
		}
		for x := -quietZone; x < c.Size+quietZone; x++ {
			top, bottom := c.Black(x, y), c.Black(x, y+1)
			if !colour {
				top, bottom = !top, !bottom
			}
			switch {
			case top && bottom:
				b.WriteString("█")
			case top:
				b.WriteString("▀")
			case bottom:
				b.WriteString("▄")
			default:
				b.WriteByte(' ')
			}
		}
		if colour {
			b.WriteString("\x1b[0m")
		}
		lines = append(lines, b.String())
	}
	return lines
}

// showQR draws a text as a QR code on stdout, if that is a terminal wide enough or if it is wanted all the same.
func (p *program) showQR(text string, level qr.Level, wanted *bool, tooWide string) error {
	columns, terminal := p.terminal(p.out)
	if p.json || wanted != nil && !*wanted || wanted == nil && !terminal {
		return nil
	}
	c, err := qr.Encode(text, level)
	if err != nil {
		p.note("claudemesh: this is too long for a QR code.")
		return nil //nolint:nilerr // the text itself was printed
	}
	if columns == 0 {
		columns = unknownColumns
	}
	if need := c.Size + 2*quietZone; terminal && need > columns {
		p.note("claudemesh: its QR code would need a terminal of %d columns, and this one has %d%s.", need, columns, tooWide)
		return nil
	}
	return p.say("%s", strings.Join(qrLines(c, p.color), "\n"))
}
