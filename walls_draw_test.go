package broker_test

import (
	"encoding/hex"
	"slices"
	"strings"
)

// What the random requests of walls_test.go are made of.

// draw makes the values of one request.
type draw struct {
	w    *walls
	r    *realm
	p    *plug    // nil for a request over HTTP
	refs []string // values of others in this request, which its answer may repeat
	said []string // everything that the request names
	// twin is the only value of another mesh that the request looks up, if there is one and nothing else is.
	twin string
	kept bool   // a value of another mesh is kept
	to   *realm // who hears the answer; HTTP only
}

func (d *draw) n(n int) int { return d.w.rng.IntN(n) }

// chance is true once in n.
func (d *draw) chance(n int) bool { return d.n(n) == 0 }

func (d *draw) pick(of ...string) string { return of[d.n(len(of))] }

// text is a new text of the mesh.
func (d *draw) text(what string) string {
	v := d.w.text(d.r, what)
	d.said = append(d.said, v)
	return v
}

// other is another mesh.
func (d *draw) other() *realm {
	for {
		if r := d.w.realms[d.n(len(d.w.realms))]; r != d.r {
			return r
		}
	}
}

// own is a value of the mesh's own.
func (d *draw) own(kind string) string {
	have := d.r.pool[kind]
	if len(have) == 0 {
		return d.madeUp(kind)
	}
	v := have[d.n(len(have))]
	d.said = append(d.said, v)
	return v
}

// theirs is a value of another mesh.
func (d *draw) theirs(kind string) string {
	have := d.other().pool[kind]
	if len(have) == 0 {
		return d.madeUp(kind)
	}
	v := have[d.n(len(have))]
	d.refs, d.said = append(d.refs, v), append(d.said, v)
	d.w.foreign++
	return v
}

// madeUp is a value that nobody has.
func (d *draw) madeUp(kind string) string {
	if have := d.r.pool[kind]; len(have) > 0 {
		return d.like(have[d.n(len(have))])
	}
	return d.like("0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0u")
}

// like is a text of the same shape that means nothing.
func (d *draw) like(s string) string {
	_, err := hex.DecodeString(s)
	out := []byte(s)
	for i, c := range out {
		some := d.n(1 << 20) // for each character one number, whatever it is, so that the same seed goes on in the same way
		switch {
		case i < 3 && strings.HasPrefix(s, "cm_"):
		case err == nil:
			out[i] = "0123456789abcdef"[some%16]
		case '0' <= c && c <= '9':
			out[i] = byte('0' + some%10)
		case 'a' <= c && c <= 'z':
			out[i] = byte('a' + some%16) // up to p, and so no mark
		case 'A' <= c && c <= 'Z':
			out[i] = byte('A' + some%26)
		}
	}
	return string(out)
}

// ref is a value that the request looks up: the mesh's own, another's, or nobody's.
func (d *draw) ref(kind string) string {
	switch n := d.n(100); {
	case n < 55:
		return d.own(kind)
	case n < 85:
		v := d.theirs(kind)
		d.twin = ""
		if len(d.refs) == 1 && !slices.Contains(d.r.pool[kind], v) && !d.w.isIntroduced(d.r, v) {
			d.twin = v // else it is the mesh's own as well, or two would have to be compared at once
		}
		return v
	default:
		return d.madeUp(kind)
	}
}

// name is a value under which something is kept: known in the mesh, new, or as another mesh has it.
func (d *draw) name(kind string) string {
	switch n := d.n(100); {
	case n < 60:
		return d.own(kind)
	case n < 85:
		v := d.text(kind)
		d.r.know(kind, v)
		return v
	default:
		return d.keep(d.theirs(kind))
	}
}

// keep says that a value of another mesh is kept by what the request does.
func (d *draw) keep(v string) string {
	d.kept = true
	d.w.introduce(d.r, v)
	return v
}

// mayHear is what the request names and its answer may repeat: to a stranger, nothing else.
func (d *draw) mayHear() []string {
	if d.to == nil {
		return d.said
	}
	return d.refs
}

// keepRef is ref for a value that is kept if it is found.
func (d *draw) keepRef(kind string) string {
	v := d.ref(kind)
	if slices.Contains(d.refs, v) {
		d.keep(v)
	}
	return v
}
