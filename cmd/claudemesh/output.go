package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printer writes results to stdout and what a person should know besides to stderr. It is safe for concurrent use.
type printer struct {
	json  bool
	color bool // on stdout
	zone  *time.Location
	now   func() time.Time

	mu       sync.Mutex // held while writing
	out, err io.Writer
}

// object writes one JSON object as a line. Characters that could steer a terminal are escaped, which changes nothing of the value.
func (p *printer) object(v any) error {
	raw, err := encodeLine(v)
	if err != nil {
		return err
	}
	return p.write(p.out, raw)
}

func encodeLine(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	raw := b.Bytes()
	if !bytes.ContainsFunc(raw[:len(raw)-1], func(r rune) bool { return hostile(r) }) {
		return raw, nil
	}
	out := make([]byte, 0, len(raw)+16)
	for _, r := range string(raw[:len(raw)-1]) {
		switch {
		case !hostile(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return append(out, '\n'), nil
}

// result writes v with --json, else the text.
func (p *printer) result(v any, format string, args ...any) error {
	if p.json {
		return p.object(v)
	}
	return p.say(format, args...)
}

// say writes a line to stdout.
func (p *printer) say(format string, args ...any) error {
	return p.write(p.out, fmt.Appendf(nil, format+"\n", args...))
}

// note writes a line to stderr, for people only. A note that cannot be written is no reason to stop.
func (p *printer) note(format string, args ...any) {
	_ = p.write(p.err, fmt.Appendf(nil, format+"\n", args...))
}

func (p *printer) write(w io.Writer, raw []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := w.Write(raw); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// style is what a piece of text means; colour only repeats it.
type style string

const (
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

func (p *printer) paint(s style, text string) string {
	if !p.color || s == "" || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// isTerminal reports whether w shows colours to a person.
func isTerminal(w io.Writer, getenv func(string) string) bool {
	f, ok := w.(*os.File)
	if !ok || getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" || runtime.GOOS == "windows" && getenv("WT_SESSION") == "" {
		return false
	}
	return isCharDevice(f)
}

func isCharDevice(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull) // a character device, too, and nobody sits there
	return err != nil || !os.SameFile(info, null)
}

// cell is one field of a table. text is clean.
type cell struct {
	text  string
	style style
}

// table writes aligned columns. The last column is not padded; a column without any text is left out.
func (p *printer) table(head []string, rows [][]cell) error {
	widths := make([]int, len(head))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], columns(c.text))
		}
	}
	last := 0
	for i := range head {
		if widths[i] > 0 {
			widths[i] = max(widths[i], columns(head[i]))
			last = i
		}
	}
	titles := make([]cell, len(head))
	for i, h := range head {
		titles[i] = cell{h, dim}
	}
	var b strings.Builder
	for _, row := range append([][]cell{titles}, rows...) {
		for i, c := range row {
			if widths[i] == 0 {
				continue
			}
			b.WriteString(p.paint(c.style, c.text))
			if i == last {
				break
			}
			b.WriteString(strings.Repeat(" ", widths[i]-columns(c.text)+2))
		}
		s := strings.TrimRightFunc(b.String(), unicode.IsSpace)
		b.Reset()
		if err := p.say("%s", s); err != nil {
			return err
		}
	}
	return nil
}

// clock is a time for people: of today without the day.
func (p *printer) clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	t, now := t.In(p.zone), p.now().In(p.zone)
	if t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04")
}

// day is a moment for people in tables, to the minute.
func (p *printer) day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(p.zone).Format("2006-01-02 15:04")
}

// shortKey is the start of a public key, enough to compare by eye; --json has all of it.
func shortKey(key string) string {
	key = line(key)
	if len(key) <= 16 {
		return key
	}
	return key[:16]
}

// quantity is "1 member", "2 members".
func quantity(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if strings.HasSuffix(noun, "x") {
		noun += "e"
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
