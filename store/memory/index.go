package memory

import (
	"cmp"
	"slices"
	"sort"
	"strings"
)

// index finds messages by the start of their id. Ids arrive in no order, so they are kept in sorted runs, of which each is at least
// twice as long as the next: adding costs O(log n) on average, asking one binary search per run.
type index struct {
	fresh []*message // not sorted, fewer than runLength
	runs  [][]*message
	total int // entries, pruned ones included
	dead  int // entries whose message was pruned
}

// runLength is the length of the shortest run, and how many entries are searched one by one.
const runLength = 128

func (x *index) add(m *message) {
	x.total++
	x.fresh = append(x.fresh, m)
	if len(x.fresh) < runLength {
		return
	}
	run := slices.Clone(x.fresh)
	clear(x.fresh)
	x.fresh = x.fresh[:0]
	slices.SortFunc(run, byID)
	for n := len(x.runs); n > 0 && len(x.runs[n-1]) < 2*len(run); n-- {
		run = merge(x.runs[n-1], run)
		x.runs[n-1] = nil
		x.runs = x.runs[:n-1]
	}
	x.runs = append(x.runs, run)
}

func byID(a, b *message) int { return cmp.Compare(a.ID, b.ID) }

func merge(a, b []*message) []*message {
	out := make([]*message, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].ID <= b[0].ID {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// drop notes that a message of the index was pruned. When half of them are, the index is made anew.
func (x *index) drop() {
	if x.dead++; x.dead < runLength || x.dead < x.total/2 {
		return
	}
	var left []*message
	for _, run := range append(x.runs, x.fresh) {
		for _, m := range run {
			if !m.pruned {
				left = append(left, m)
			}
		}
	}
	slices.SortFunc(left, byID)
	*x = index{runs: [][]*message{left}, total: len(left)}
}

// find returns up to two messages whose id starts with prefix.
func (x *index) find(prefix string) (first, second *message) {
	take := func(m *message) (enough bool) {
		switch {
		case m.pruned:
		case first == nil:
			first = m
		default:
			second = m
		}
		return second != nil
	}
	for _, m := range x.fresh {
		if strings.HasPrefix(m.ID, prefix) && take(m) {
			return first, second
		}
	}
	for _, run := range x.runs {
		from := sort.Search(len(run), func(i int) bool { return run[i].ID >= prefix })
		for _, m := range run[from:] {
			if !strings.HasPrefix(m.ID, prefix) {
				break
			}
			if take(m) {
				return first, second
			}
		}
	}
	return first, second
}
