package storetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
)

// aValue is an entry of the shared state that a member set at noon.
func aValue(key, member, value string) store.StateEntry {
	return store.StateEntry{Key: key, Value: json.RawMessage(value), UpdatedByMemberID: member, UpdatedByName: "name of " + member, UpdatedAt: noon}
}

func (w *world) set(l store.StateLimits, e store.StateEntry) error {
	w.Helper()
	err := w.SetState(w.ctx, "m", e, l)
	if err != nil {
		require.ErrorIs(w, err, store.ErrLimit)
	}
	return err
}

func (w *world) state(mesh string) []store.StateEntry {
	w.Helper()
	all, err := w.StateEntries(w.ctx, mesh, "", 1_000_000)
	require.NoError(w, err)
	return all
}

var states = checks{
	"SetState keeps every field, the value byte for byte": func(w *world) {
		w.mesh("m")
		for i, value := range []string{
			`null`, ` { "b" : 1.0, "a": [1e2, "\u00e9", "\u0000", "\ud83d"], "b":2 }` + "\n", `"` + strings.Repeat("ü", 16_000) + `"`, `-0`, `1e999`, `""`,
		} {
			want := aValue(fmt.Sprint("k", i), "ana", value)
			want.UpdatedAt = after(time.Duration(i) * time.Microsecond)
			require.NoError(w, w.set(store.StateLimits{}, want))
			got, err := w.StateEntry(w.ctx, "m", want.Key)
			require.NoError(w, err)
			require.Equal(w, want, got)
		}
		for i, text := range texts {
			if len(text) > 1000 {
				continue // keys are short
			}
			want := aValue(text, "ana", fmt.Sprint(i))
			want.UpdatedByName = text
			require.NoError(w, w.set(store.StateLimits{}, want))
			got, err := w.StateEntry(w.ctx, "m", text)
			require.NoError(w, err)
			require.Equal(w, want, got)
		}
	},
	"SetState replaces what is there, with who and when": func(w *world) {
		w.mesh("m")
		require.NoError(w, w.set(store.StateLimits{}, aValue("k", "ana", `{"a":1}`)))
		next := aValue("k", "", `[]`)
		next.UpdatedAt = after(-time.Hour)
		require.NoError(w, w.set(store.StateLimits{}, next))
		require.Equal(w, []store.StateEntry{next}, w.state("m"))
	},
	"StateEntry finds by the exact name": func(w *world) {
		w.mesh("m")
		w.mesh("n")
		require.NoError(w, w.set(store.StateLimits{}, aValue("Key_%", "ana", "1")))
		for _, k := range []string{"", "key_%", "Key_", "Key_%%", "Key__", "%", "none"} {
			_, err := w.StateEntry(w.ctx, "m", k)
			require.ErrorIs(w, err, store.ErrNotFound, k)
		}
		for _, mesh := range []string{"n", "none"} {
			_, err := w.StateEntry(w.ctx, mesh, "Key_%")
			require.ErrorIs(w, err, store.ErrNotFound)
		}
	},
	"DeleteState says whether there was one": func(w *world) {
		w.mesh("m")
		w.mesh("n")
		require.NoError(w, w.set(store.StateLimits{}, aValue("k", "ana", "1")))
		for _, c := range []struct {
			mesh, key string
			want      bool
		}{{"m", "K", false}, {"n", "k", false}, {"none", "k", false}, {"m", "k", true}, {"m", "k", false}} {
			got, err := w.DeleteState(w.ctx, c.mesh, c.key)
			require.NoError(w, err)
			require.Equal(w, c.want, got, "%+v", c)
		}
		require.Empty(w, w.state("m"))
	},
	"StateEntries pages by key, in byte order, and StateKeys has the names": func(w *world) {
		w.mesh("m")
		for _, none := range []string{"m", "none"} {
			require.Empty(w, w.state(none))
			keys, err := w.StateKeys(w.ctx, none)
			require.NoError(w, err)
			require.Empty(w, keys)
		}
		for _, k := range []string{"b", "é", "A", "_", "a", "a.b", "Z"} {
			require.NoError(w, w.set(store.StateLimits{}, aValue(k, "ana", `"`+k+`"`)))
		}
		all := []string{"A", "Z", "_", "a", "a.b", "b", "é"}
		page := func(after string, limit int) []string {
			entries, err := w.StateEntries(w.ctx, "m", after, limit)
			require.NoError(w, err)
			out := []string{}
			for _, e := range entries {
				require.Equal(w, aValue(e.Key, "ana", `"`+e.Key+`"`), e)
				out = append(out, e.Key)
			}
			return out
		}
		require.Equal(w, all, page("", 100))
		require.Equal(w, all, page("", 7))
		require.Equal(w, all[:2], page("", 2))
		require.Equal(w, all[2:4], page("Z", 2))
		require.Equal(w, all[4:], page("a", 3), "a page that ends exactly at the limit")
		require.Equal(w, all[4:5], page("a", 1))
		require.Equal(w, all[5:], page("a.c", 9), "above a name that is not there")
		require.Empty(w, page("é", 9))
		require.Empty(w, page("", 0))
		require.Empty(w, page("", -1))
		_, err := w.DeleteState(w.ctx, "m", "a")
		require.NoError(w, err)
		keys, err := w.StateKeys(w.ctx, "m")
		require.NoError(w, err)
		require.Equal(w, slices.Delete(slices.Clone(all), 3, 4), keys)
	},
	"SetState stops exactly at each limit and then changes nothing": func(w *world) {
		w.mesh("m")
		w.mesh("n")
		keys, own, bytes := store.StateLimits{Keys: 3}, store.StateLimits{PerMember: 2}, store.StateLimits{Bytes: 20}
		require.NoError(w, w.SetState(w.ctx, "n", aValue("elsewhere", "ana", `"does not count"`), store.StateLimits{}))
		for _, c := range []struct {
			what string
			l    store.StateLimits
			e    store.StateEntry
			ok   bool
		}{
			{"the first", keys, aValue("1", "ana", "1"), true},
			{"the second", own, aValue("2", "ana", "2"), true},
			{"a third of one member", own, aValue("3", "ana", "3"), false},
			{"of another", own, aValue("3", "bo", "3"), true},
			{"the last key is set", keys, aValue("4", "bo", "4"), false},
			{"one that is there", keys, aValue("3", "bo", "33"), true},
			{"what another set is one more", own, aValue("3", "ana", "3"), false},
			{"what it set itself is not", own, aValue("2", "ana", "22"), true},
			{"19 bytes", bytes, aValue("1", "ana", `"1234567890"`), true}, // 1+12, 1+2, 1+2
			{"21 bytes", bytes, aValue("2", "ana", "2222"), false},
			{"20 bytes", bytes, aValue("2", "ana", "222"), true},
			{"no more of them", bytes, aValue("5", "cy", "5"), false},
			{"no more than before, though over the limit", store.StateLimits{Bytes: 5}, aValue("2", "bo", "333"), true},
			{"less, though over the limit", store.StateLimits{Bytes: 5}, aValue("2", "bo", "2"), true},
			{"now ana has one", own, aValue("5", "ana", "5"), true},
			{"and bo two", own, aValue("6", "bo", "6"), false},
			{"no limits", store.StateLimits{}, aValue("6", "bo", "6"), true},
			{"negative ones are none", store.StateLimits{Keys: -1, PerMember: -1, Bytes: -1}, aValue("7", "bo", "7"), true},
		} {
			before := w.state("m")
			err := w.set(c.l, c.e)
			require.Equal(w, c.ok, err == nil, c.what)
			if !c.ok {
				require.Equal(w, before, w.state("m"), c.what)
			}
		}
	},
	"what is deleted makes room": func(w *world) {
		w.mesh("m")
		full := store.StateLimits{Keys: 2, PerMember: 2, Bytes: 8}
		for _, k := range []string{"1", "2"} {
			require.NoError(w, w.set(full, aValue(k, "ana", "333")))
		}
		for _, l := range []store.StateLimits{{Keys: 2}, {PerMember: 2}, {Bytes: 8}} {
			require.Error(w, w.set(l, aValue("3", "ana", "333")))
		}
		_, err := w.DeleteState(w.ctx, "m", "1")
		require.NoError(w, err)
		require.NoError(w, w.set(full, aValue("3", "ana", "333")))
		require.Error(w, w.set(full, aValue("1", "ana", "333")))
	},
	"SetState by many at once holds the limits": func(w *world) {
		for i, l := range []store.StateLimits{{Keys: 5}, {PerMember: 5}, {Bytes: 5 * 4}} {
			mesh := fmt.Sprint("m", i)
			w.mesh(mesh)
			var o outcomes
			together(20, func(j int) { o.add(w.SetState(w.ctx, mesh, aValue(fmt.Sprintf("%02d", j), "ana", "22"), l)) })
			o.require(w, 5, store.ErrLimit)
			require.Len(w, w.state(mesh), 5)
		}
	},
	"SetState and DeleteState of one key by many at once leave one value, and the numbers are right": func(w *world) {
		w.mesh("m")
		var mu sync.Mutex
		deleted := 0
		together(10, func(i int) {
			for j := range 10 {
				_ = w.SetState(w.ctx, "m", aValue("k", fmt.Sprint("member ", (i+j)%3), fmt.Sprint(i)), store.StateLimits{})
				if gone, _ := w.DeleteState(w.ctx, "m", "k"); gone {
					mu.Lock()
					deleted++
					mu.Unlock()
				}
			}
		})
		require.Empty(w, w.state("m"), "whoever set it last deleted it, or found that another had")
		require.Positive(w, deleted)
		require.NoError(w, w.set(store.StateLimits{Keys: 1, PerMember: 1, Bytes: 2}, aValue("k", "member 0", "1")))
		require.Error(w, w.set(store.StateLimits{Keys: 1}, aValue("l", "member 1", "1")))
		require.Error(w, w.set(store.StateLimits{PerMember: 1}, aValue("l", "member 0", "1")))
	},
	"state is a mesh's own and does not outlive it": func(w *world) {
		for _, mesh := range []string{"m", "n"} {
			w.mesh(mesh)
			require.NoError(w, w.SetState(w.ctx, mesh, aValue("k", "ana", `"`+mesh+`"`), store.StateLimits{Keys: 1}))
		}
		require.Equal(w, []store.StateEntry{aValue("k", "ana", `"m"`)}, w.state("m"))
		require.NoError(w, w.DeleteMesh(w.ctx, "m"))
		require.Empty(w, w.state("m"))
		require.ErrorIs(w, w.SetState(w.ctx, "m", aValue("k", "ana", "1"), store.StateLimits{}), store.ErrNotFound)
		w.mesh("m")
		require.Empty(w, w.state("m"))
		require.NoError(w, w.set(store.StateLimits{Keys: 1, PerMember: 1, Bytes: 2}, aValue("l", "ana", "1")))
		require.Equal(w, []store.StateEntry{aValue("k", "ana", `"n"`)}, w.state("n"))
	},
	"values of revoked members stay": func(w *world) {
		w.mesh("m", "ana")
		require.NoError(w, w.set(store.StateLimits{}, aValue("k", "ana", "1")))
		_, err := w.RevokeMember(w.ctx, "m", "ana", noon)
		require.NoError(w, err)
		require.Len(w, w.state("m"), 1)
	},
	"the caller may reuse what it gave and change what it got": func(w *world) {
		w.mesh("m")
		want := aValue("k", "ana", `"good"`)
		e := aValue("k", "ana", `"good"`)
		require.NoError(w, w.set(store.StateLimits{}, e))
		e.Value[1] = 'b'
		for range 2 {
			one, err := w.StateEntry(w.ctx, "m", "k")
			require.NoError(w, err)
			require.Equal(w, want, one)
			one.Value[1] = 'c'
			all := w.state("m")
			require.Equal(w, []store.StateEntry{want}, all)
			all[0].Value[1] = 'd'
			keys, err := w.StateKeys(w.ctx, "m")
			require.NoError(w, err)
			require.Equal(w, []string{"k"}, keys)
			keys[0] = "x"
		}
	},
	"state does not raise the roster's version": func(w *world) {
		w.mesh("m", "ana")
		before := w.version("m")
		require.NoError(w, w.set(store.StateLimits{}, aValue("k", "ana", "1")))
		_, err := w.DeleteState(w.ctx, "m", "k")
		require.NoError(w, err)
		require.Equal(w, before, w.version("m"))
	},
}
