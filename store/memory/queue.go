package memory

import "time"

// queue is a heap of values by time, earliest first. Values that stopped mattering are left in it and recognised when their time
// has come, so that nothing ever searches it.
type queue[T any] struct{ items []timed[T] }

type timed[T any] struct {
	at    time.Time
	value T
}

// push adds a value. It costs O(1) where times rise, as they mostly do.
func (q *queue[T]) push(at time.Time, value T) {
	q.items = append(q.items, timed[T]{at, value})
	i := len(q.items) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !q.items[i].at.Before(q.items[up].at) {
			break
		}
		q.items[i], q.items[up] = q.items[up], q.items[i]
		i = up
	}
}

// first returns the earliest value.
func (q *queue[T]) first() (at time.Time, value T, ok bool) {
	if len(q.items) == 0 {
		return at, value, false
	}
	return q.items[0].at, q.items[0].value, true
}

// drop takes the earliest value away.
func (q *queue[T]) drop() {
	last := len(q.items) - 1
	q.items[0] = q.items[last]
	q.items[last] = timed[T]{}
	q.items = q.items[:last]
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if q.items[child].at.Before(q.items[least].at) {
				least = child
			}
		}
		if least == i {
			return
		}
		q.items[i], q.items[least] = q.items[least], q.items[i]
		i = least
	}
}
