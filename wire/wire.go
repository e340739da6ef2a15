// Package wire holds every frame that broker and clients exchange: its fields, their formats and limits, and the codes of
// refusals. It does no I/O, knows no rules about who may do what, and imports only the standard library.
//
// A frame is one JSON object in one WebSocket text message. Its "type" names the shape; a request may carry "_reqId", which
// every reply to it echoes unchanged. [Peek] reads just the parts that every frame shares, [Decode] fills a typed frame and
// refuses what two JSON readers could understand differently, [Encode] writes one.
//
// One file holds one family of messages. docs/protocol.md tells the same story for people.
package wire

import (
	"time"
	"unicode/utf8"
)

// Header is embedded in every reply and event. It carries the two members that all frames share.
type Header struct {
	// Type is the frame's type, one of the Type constants or a host's own.
	Type string `json:"type"`
	// ReqID echoes the request's _reqId; nil leaves the key out.
	ReqID *string `json:"_reqId,omitempty"`
}

// Correlate sets the _reqId that the frame echoes.
func (h *Header) Correlate(reqID *string) { h.ReqID = reqID }

// Message is a frame that the broker can send: a pointer to a struct that embeds [Header].
type Message interface{ Correlate(reqID *string) }

// Priority says how urgently a message wants its reader; see docs/protocol.md, priorities.
type Priority string

// The three priorities. PriorityNow goes out at once; the other two wait while the recipient is working or dnd.
const (
	PriorityNow  Priority = "now"
	PriorityNext Priority = "next"
	PriorityLow  Priority = "low"
)

// Valid reports whether p is one of the three priorities.
func (p Priority) Valid() bool { return p == PriorityNow || p == PriorityNext || p == PriorityLow }

// Status is what a session's person or program is doing.
type Status string

// The three statuses. Working and dnd hold back messages of priority next and low.
const (
	StatusIdle    Status = "idle"
	StatusWorking Status = "working"
	StatusDND     Status = "dnd"
)

// Valid reports whether s is one of the three statuses.
func (s Status) Valid() bool { return s == StatusIdle || s == StatusWorking || s == StatusDND }

// timeLayout is ISO-8601 in UTC with exactly three fraction digits, the only form in which the broker writes a time.
const timeLayout = "2006-01-02T15:04:05.000Z"

// FormatTime writes t as the wire does: ISO-8601, UTC, exactly three fraction digits, "Z". The zero time is the empty string.
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

// FormatTimePtr is [FormatTime] with nil for the zero time, for fields that are null when unset.
func FormatTimePtr(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := FormatTime(t)
	return &s
}

// ParseTime reads an ISO-8601 time with a zone and any number of fraction digits, cut to milliseconds.
func ParseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, err
	}
	return t.UTC().Truncate(time.Millisecond), nil
}

// Chars counts characters the way the limits in this package do: Unicode code points.
func Chars(s string) int { return utf8.RuneCountInString(s) }
