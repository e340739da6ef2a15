package client

// recent is a map that keeps the newest so many keys. It is not safe for concurrent use.
type recent[V any] struct {
	size   int
	values map[string]V
	ring   []string // grows to size, then the oldest is replaced
	next   int
}

func newRecent[V any](size int) recent[V] {
	return recent[V]{size: size, values: make(map[string]V)}
}

func (r *recent[V]) get(key string) (V, bool) {
	v, ok := r.values[key]
	return v, ok
}

// put sets the value of key. A new key takes the place of the oldest.
func (r *recent[V]) put(key string, v V) {
	if _, known := r.values[key]; !known {
		if len(r.ring) < r.size {
			r.ring = append(r.ring, key)
		} else {
			delete(r.values, r.ring[r.next])
			r.ring[r.next] = key
			r.next = (r.next + 1) % r.size
		}
	}
	r.values[key] = v
}
