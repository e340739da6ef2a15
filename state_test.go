package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// set is a set_state frame. The value is JSON text.
func set(key, value string) frame {
	return frame{"type": "set_state", "key": key, "value": json.RawMessage(value)}
}

// state lists the keys of the shared state with their values as JSON text, following truncated lists.
func state(t *testing.T, c *brokertest.Conn) map[string]string {
	t.Helper()
	out, after := map[string]string{}, ""
	for {
		reply := c.Request(frame{"type": "list_state", "after": after})
		require.Equal(t, "state_list", reply.Type(), "%v", reply)
		for _, e := range list(t, reply, "entries") {
			raw, err := json.Marshal(e["value"])
			require.NoError(t, err)
			after = e.Str("key")
			require.NotContains(t, out, after)
			out[after] = string(raw)
		}
		if reply["truncated"] != true {
			return out
		}
	}
}

// changes returns the state changes that a connection was told and not asked for yet, as "key=value by".
func changes(c *brokertest.Conn) []string {
	synctest.Wait()
	out := []string{}
	for _, f := range c.Waiting() {
		if f.Type() == "state_change" {
			raw, _ := json.Marshal(f["value"])
			text := fmt.Sprintf("%s=%s %s", f.Str("key"), raw, f.Str("updatedBy"))
			if f["deleted"] == true {
				text = fmt.Sprintf("%s deleted %s", f.Str("key"), f.Str("updatedBy"))
			}
			out = append(out, text)
		}
	}
	return out
}

func TestSharedState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana", brokertest.With(frame{"displayName": "ana's bot"}))
		bo := mesh.Dial("bo")
		get := func(c *brokertest.Conn) frame {
			got := c.Request(frame{"type": "get_state", "key": "build"})
			delete(got, "_reqId")
			return got
		}
		require.Equal(t, frame{"type": "state_result", "key": "build", "value": nil, "updatedBy": "", "updatedAt": ""}, get(ana), "what is missing")
		require.Empty(t, state(t, ana))

		time.Sleep(time.Second)
		at := wire.FormatTime(time.Now())
		done(t, ana, set("build", `{"green":true}`))
		require.Equal(t, frame{
			"type": "state_result", "key": "build", "value": map[string]any{"green": true}, "updatedBy": "ana", "updatedAt": at,
		}, get(bo), "by the member's name, not the session's")
		require.Equal(t, []string{`build={"green":true} ana`}, changes(bo))

		time.Sleep(time.Second)
		bo.Send(set("build", `null`)) // without _reqId nothing is answered
		require.Empty(t, bo.Waiting())
		require.Equal(t, []string{`build=null bo`}, changes(ana))
		got := get(ana)
		require.Equal(t, []any{nil, "bo", wire.FormatTime(time.Now())}, []any{got["value"], got["updatedBy"], got["updatedAt"]}, "null is a value")

		for _, key := range []string{"é", "a", "Z", "b/2", "b/10"} {
			done(t, ana, set(key, `1`))
		}
		keys := column(list(t, ana.Request(frame{"type": "list_state"}), "entries"), "key")
		require.Equal(t, []string{"Z", "a", "b/10", "b/2", "build", "é"}, keys, "by the bytes of the key")
		keys = column(list(t, ana.Request(frame{"type": "list_state", "after": "b/2"}), "entries"), "key")
		require.Equal(t, []string{"build", "é"}, keys)
		require.Empty(t, list(t, ana.Request(frame{"type": "list_state", "after": "ü"}), "entries"))
		info := bo.Request(frame{"type": "mesh_info"})
		require.Equal(t, []any{[]any{"Z", "a", "b/10", "b/2", "build", "é"}, 6.0}, []any{info["stateKeys"], info["stateKeyCount"]})
		changes(bo)

		done(t, ana, frame{"type": "delete_state", "key": "build"})
		require.Equal(t, []string{"build deleted ana"}, changes(bo))
		done(t, ana, frame{"type": "delete_state", "key": "build"})
		require.Empty(t, changes(bo), "it was gone already")
		require.NotContains(t, state(t, bo), "build")
		require.Equal(t, "", get(bo)["updatedAt"])
	})
}

func TestStateRefusals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		for _, c := range []struct{ code, frame string }{
			{"invalid_args", `{"type":"set_state","key":"","value":1,"_reqId":"r"}`},
			{"invalid_args", `{"type":"set_state","key":"k","_reqId":"r"}`},
			{"invalid_args", `{"type":"set_state","key":"k","value":"` + strings.Repeat("x", 32767) + `","_reqId":"r"}`},
			{"malformed", `{"type":"set_state","key":"k","value":{"a":1,"a":2},"_reqId":"r"}`},
			{"invalid_args", `{"type":"get_state"}`},
			{"invalid_args", `{"type":"delete_state"}`},
			{"invalid_args", `{"type":"list_state","after":"\n"}`},
		} {
			ana.Send(c.frame)
			require.Equal(t, c.code, ana.Expect("error", "ack", "state_result", "state_list").Str("code"), c.frame)
		}
		ana.Send(`{"type":"set_state","key":"","value":1}`)
		require.Empty(t, changes(ana), "a request that has no reply has no error either")
		require.Empty(t, ana.Waiting())
		require.Empty(t, changes(bo))
		require.Empty(t, state(t, bo))

		nobody := mesh.Connect()
		nobody.Read()
		for _, f := range []frame{set("k", "1"), {"type": "get_state", "key": "k"}, {"type": "list_state"}, {"type": "delete_state", "key": "k"}} {
			nobody.Send(f)
			require.Equal(t, "no_hello", nobody.Expect("error").Str("code"))
		}
	})
}

// A value is kept as the text that it was: nothing in it is rounded, sorted or spelt anew. Only white space around it goes.
func TestStateValuesComeBackByteForByte(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		told := mesh.Dial("bo", brokertest.NotReading())
		for i, c := range []struct{ set, want string }{
			{`0`, ``}, {`-0`, ``}, {`1e400`, ``}, {`1.0`, ``}, {`12345678901234567890123`, ``}, {`true`, ``}, {`null`, ``}, {`""`, ``},
			{`"\u0000"`, ``}, {`"\ud800"`, ``}, {`"\u0041A\/\n"`, ``}, {`"<&>"`, ``}, {"\"\u2028\u202e\"", ``}, {`"{\"type\":\"x\"}"`, ``},
			{`{"z":1,"a":[],"":{}}`, ``}, {strings.Repeat("[", 63) + strings.Repeat("]", 63), ``}, {`"` + strings.Repeat("é", 16383) + `"`, ``},
			{" {\n\t\"a\" : [ 1 , \" \" ] }\r\n", `{"a":[1," "]}`},
		} {
			if c.want == "" {
				c.want = c.set
			}
			key := fmt.Sprint(i)
			ana.Send(`{"type":"set_state","key":"` + key + `","value":` + c.set + `}`)
			_, raw, err := told.WS.Read(t.Context())
			require.NoError(t, err)
			require.Contains(t, string(raw), `"value":`+c.want+`,"updatedBy":"ana"`)
			told.Send(frame{"type": "get_state", "key": key})
			_, raw, err = told.WS.Read(t.Context())
			require.NoError(t, err)
			require.Contains(t, string(raw), `{"type":"state_result","key":"`+key+`","value":`+c.want+`,"updatedBy":`)
			told.Send(frame{"type": "list_state", "after": ""})
			_, raw, err = told.WS.Read(t.Context())
			require.NoError(t, err)
			require.Contains(t, string(raw), `{"key":"`+key+`","value":`+c.want+`,`)
			e, err := mesh.Broker.StateEntry(t.Context(), mesh.ID, key)
			require.NoError(t, err)
			require.Equal(t, c.want, string(e.Value))
		}
	})
}

func TestStateChangesAreToldToEverybodyElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		twin := mesh.Dial("ana", brokertest.SessionKey(sessionKey(t)))
		bo := mesh.Dial("bo")
		hidden := mesh.Dial("cy")
		done(t, hidden, frame{"type": "set_visible", "visible": false})
		busy := mesh.Dial("dan")
		done(t, busy, frame{"type": "set_status", "status": "dnd"})
		quiet := mesh.Dial("eve", brokertest.With(frame{"capabilities": []string{"no_push"}}))
		other, err := mesh.Broker.CreateMesh(t.Context(), broker.NewMesh{})
		require.NoError(t, err)
		key := hostKey(t)
		member, err := mesh.Broker.AddMember(t.Context(), other.ID, broker.NewMember{Name: "fay", Pubkey: key.Public()})
		require.NoError(t, err)
		fay := hostSignIn(t, mesh, member, key, nil)

		for _, do := range []struct {
			request frame
			want    []string
		}{
			{set("k", `"secret of the mesh"`), []string{`k="secret of the mesh" ana`}},
			{frame{"type": "delete_state", "key": "k"}, []string{"k deleted ana"}},
			{set("k", `2`), []string{"k=2 ana"}},
		} {
			done(t, ana, do.request)
			require.Empty(t, changes(ana), "who did it knows")
			for _, c := range []*brokertest.Conn{twin, bo, hidden, busy} {
				require.Equal(t, do.want, changes(c))
			}
			require.Empty(t, changes(quiet), "gets no events, and may ask")
			require.Empty(t, changes(fay))
		}
		require.Equal(t, map[string]string{"k": "2"}, state(t, quiet))

		// Another mesh sees nothing and changes nothing.
		require.Empty(t, state(t, fay))
		require.Equal(t, "", fay.Request(frame{"type": "get_state", "key": "k"})["updatedAt"])
		done(t, fay, frame{"type": "delete_state", "key": "k"})
		done(t, fay, set("k", `3`))
		require.Empty(t, changes(bo))
		require.Equal(t, map[string]string{"k": "2"}, state(t, bo))
		require.Equal(t, map[string]string{"k": "3"}, state(t, fay))
		info := fay.Request(frame{"type": "mesh_info"})
		require.Equal(t, []any{[]any{"k"}, 1.0}, []any{info["stateKeys"], info["stateKeyCount"]})
	})
}

// The limits of shared state, each at its edge. What is refused is neither kept, told nor logged.
func TestStateLimits(t *testing.T) {
	t.Parallel()
	forbidden := func(t *testing.T, c *brokertest.Conn, f frame, text string) {
		t.Helper()
		got := c.Request(f)
		require.Equal(t, []any{"error", "forbidden"}, []any{got["type"], got["code"]}, "%v", got)
		require.Contains(t, got["message"], text)
		require.Contains(t, got["message"], "delete keys that nobody needs")
	}
	for name, c := range map[string]struct {
		limit func(*broker.Options)
		run   func(t *testing.T, mesh *brokertest.Mesh, ana, bo *brokertest.Conn)
	}{
		"keys of the mesh": {func(o *broker.Options) { o.MaxStateKeysPerMesh = 3 }, func(t *testing.T, mesh *brokertest.Mesh, ana, bo *brokertest.Conn) {
			for _, key := range []string{"a", "b", "c"} {
				done(t, ana, set(key, "1"))
			}
			forbidden(t, bo, set("d", "1"), "at most 3 keys in the mesh, 500 keys that one member was the last to set, 8388608 bytes in the mesh")
			require.ErrorIs(t, mesh.Broker.SetState(t.Context(), mesh.ID, "d", json.RawMessage("1")), store.ErrLimit, "the host, too")
			done(t, bo, set("a", "2"))
			done(t, bo, frame{"type": "delete_state", "key": "b"}) // anybody may: else a full mesh would stay full
			done(t, bo, set("d", "1"))
			forbidden(t, bo, set("b", "1"), "3 keys")
		}},
		"keys of a member": {func(o *broker.Options) { o.MaxStateKeysPerMember = 2 }, func(t *testing.T, mesh *brokertest.Mesh, ana, bo *brokertest.Conn) {
			twin := mesh.Dial("ana")
			done(t, ana, set("a", "1"))
			done(t, twin, set("b", "1"))
			forbidden(t, ana, set("c", "1"), "2 keys that one member")
			done(t, twin, set("a", "2"))
			done(t, bo, set("c", "1"))
			forbidden(t, ana, set("c", "2"), "2 keys that one member")
			done(t, bo, set("a", "3")) // which is bo's from then on
			done(t, ana, set("c", "2"))
			forbidden(t, ana, set("d", "1"), "2 keys that one member")
			for i := range 5 {
				require.NoError(t, mesh.Broker.SetState(t.Context(), mesh.ID, fmt.Sprint("host ", i), json.RawMessage("1")), "the host is no member")
			}
			require.NoError(t, mesh.Broker.SetState(t.Context(), mesh.ID, "b", json.RawMessage("1")))
			done(t, ana, set("d", "1"))
		}},
		"bytes of the mesh": {func(o *broker.Options) { o.MaxStateBytesPerMesh = 100 }, func(t *testing.T, _ *brokertest.Mesh, ana, bo *brokertest.Conn) {
			value := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
			done(t, ana, set("a", value(59)))
			done(t, bo, set("b", value(39))) // 100 with both keys
			forbidden(t, ana, set("c", "1"), "100 bytes")
			forbidden(t, ana, set("a", value(60)), "100 bytes")
			done(t, ana, set("a", value(58)))
			forbidden(t, bo, set("b", value(41)), "100 bytes")
			done(t, bo, set("b", value(40)))
			done(t, bo, frame{"type": "delete_state", "key": "a"})
			done(t, bo, set("é", value(57))) // a key weighs its bytes
			forbidden(t, bo, set("c", "1"), "100 bytes")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t, c.limit)
				ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
				watcher := mesh.Dial("cy")
				c.run(t, mesh, ana, bo)
				synctest.Wait()
				told := map[string]string{}
				for _, f := range watcher.Waiting() {
					if f.Type() != "state_change" {
						continue
					}
					raw, err := json.Marshal(f["value"])
					require.NoError(t, err)
					told[f.Str("key")] = string(raw)
					if f["deleted"] == true {
						delete(told, f.Str("key"))
					}
				}
				require.Equal(t, state(t, ana), told, "who listened knows what is there, and nothing that was refused")
			})
		})
	}
}

func TestStateLimitsCanBeOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) {
			o.MaxStateKeysPerMesh, o.MaxStateKeysPerMember, o.MaxStateBytesPerMesh = -1, -1, -1
		})
		for i := range 10_001 {
			require.NoError(t, mesh.Broker.SetState(t.Context(), mesh.ID, fmt.Sprint(i), json.RawMessage("1")))
		}
		ana := mesh.Dial("ana")
		for i := range 501 {
			done(t, ana, set(fmt.Sprint(i), "2"))
		}
		done(t, ana, set("one more", "1"))
		info := ana.Request(frame{"type": "mesh_info"})
		require.Len(t, info["stateKeys"], 1000)
		require.EqualValues(t, 10_002, info["stateKeyCount"])
	})
}

// Without a _reqId a refusal is not told.
func TestStateLimitIsSilentWhereNobodyAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxStateKeysPerMesh = 1 })
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		ana.Send(set("a", "1"))
		ana.Send(set("b", "1"))
		ana.Send(set("a", "2"))
		synctest.Wait()
		for _, f := range ana.Waiting() {
			require.NotContains(t, []string{"error", "ack"}, f.Type())
		}
		told := changes(bo) // perhaps of the second alone, if it came before the first was written
		require.Equal(t, "a=2 ana", told[len(told)-1])
		require.NotContains(t, told, "b=1 ana")
		require.Equal(t, map[string]string{"a": "2"}, state(t, bo))
	})
}

// D19: the audit log names keys and never holds a value.
func TestD19AuditNamesStateKeysOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxStateKeysPerMesh = 2 })
		ana := mesh.Dial("ana", brokertest.With(frame{"displayName": "ana's bot"}))
		const canary = "canary-5b1c9f"
		value := `{"` + canary + `":"` + canary + `"}`
		done(t, ana, set(`build "1"`, value))
		ana.Send(set("b", value))
		require.Equal(t, "error", ana.Request(set("c", value)).Type())
		done(t, ana, frame{"type": "delete_state", "key": "b"})
		done(t, ana, frame{"type": "delete_state", "key": "b"})
		require.NoError(t, mesh.Broker.SetState(t.Context(), mesh.ID, "h", json.RawMessage(value)))
		was, err := mesh.Broker.DeleteState(t.Context(), mesh.ID, "h")
		require.NoError(t, err)
		require.True(t, was)

		entries, _, err := mesh.Store.AuditLog(t.Context(), store.AuditQuery{MeshID: mesh.ID, Limit: 100})
		require.NoError(t, err)
		var got []string
		for _, e := range slices.Backward(entries) {
			raw, err := json.Marshal(e)
			require.NoError(t, err)
			require.NotContains(t, string(raw), canary)
			require.NotContains(t, string(e.Payload), canary)
			if strings.HasPrefix(e.Type, "state_") {
				got = append(got, fmt.Sprintf("%s %s %q %v", e.Type, e.Payload, e.ActorName, e.ActorMemberID == ana.Member.ID))
			}
		}
		require.Equal(t, []string{
			`state_set {"key":"build \"1\""} "ana's bot" true`,
			`state_set {"key":"b"} "ana's bot" true`,
			`state_deleted {"key":"b"} "ana's bot" true`,
			`state_set {"key":"h"} "" false`,
			`state_deleted {"key":"h"} "" false`,
		}, got, "neither what was refused nor what changed nothing is there")
	})
}

// H21: shared state of any size is listed in pages that no connection is closed for.
func TestH21ListOfStateIsCutNotTheConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxStateKeysPerMember = -1 })
		eve := mesh.Dial("eve", brokertest.With(frame{"capabilities": []string{"no_push"}}))
		value := `"` + strings.Repeat("x", 32_766) + `"`
		kept := 0
		for i := range 400 { // of the 10,000 that would be 320 MB
			if eve.Request(set(fmt.Sprintf("%04d", i), value)).Type() == "ack" {
				kept++
			}
		}
		require.Equal(t, 8<<20/(32_768+4), kept, "8 MiB of keys and values")
		require.Len(t, state(t, eve), kept, "page by page each is there once")

		reader := mesh.Dial("bo", brokertest.NotReading())
		for after, seen := "", 0; ; {
			reader.Send(frame{"type": "list_state", "after": after})
			_, raw, err := reader.WS.Read(t.Context())
			require.NoError(t, err)
			require.LessOrEqual(t, len(raw), 4<<20)
			var page wire.StateList
			require.NoError(t, json.Unmarshal(raw, &page))
			seen += len(page.Entries)
			after = page.Entries[len(page.Entries)-1].Key
			require.Equal(t, seen < kept, page.Truncated)
			if !page.Truncated {
				require.Equal(t, kept, seen)
				break
			}
			require.Greater(t, len(raw), 4<<20-64<<10, "a page is as long as it may be")
		}
		for range 20 { // asked for again and again, and not read: 80 MB
			reader.Send(frame{"type": "list_state"})
		}
		time.Sleep(time.Second)
		_, raw, err := reader.WS.Read(t.Context())
		require.NoError(t, err, "who does not read is not read, and stays")
		require.Contains(t, string(raw[:100]), "state_list")
	})
}

// H21: what JSON makes longer counts as long as it is.
func TestH21ListOfStateWeighsItsText(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxStateKeysPerMember = -1 })
		key, err := mesh.Broker.AddMember(t.Context(), mesh.ID, broker.NewMember{Name: strings.Repeat(`"`, 128), Pubkey: hostKey(t).Public()})
		require.NoError(t, err)
		for i := range 10_000 { // as a member of that name would set them
			e := store.StateEntry{
				Key: fmt.Sprintf("%04d%s", i, strings.Repeat("\u2028", 252)), Value: json.RawMessage("0"), UpdatedByMemberID: key.ID,
				UpdatedByName: key.Name, UpdatedAt: time.Now().UTC(),
			}
			require.NoError(t, mesh.Store.SetState(t.Context(), mesh.ID, e, store.StateLimits{Keys: 10_000}))
		}
		reader := mesh.Dial("bo", brokertest.NotReading())
		seen := map[string]bool{}
		for after := ""; ; {
			reader.Send(frame{"type": "list_state", "after": after})
			_, raw, err := reader.WS.Read(t.Context())
			require.NoError(t, err)
			require.LessOrEqual(t, len(raw), 4<<20)
			var page wire.StateList
			require.NoError(t, json.Unmarshal(raw, &page))
			for _, e := range page.Entries {
				require.Greater(t, e.Key, after)
				after = e.Key
				seen[e.Key] = true
			}
			if !page.Truncated {
				break
			}
		}
		require.Len(t, seen, 10_000)
		reader.Send(frame{"type": "mesh_info"})
		_, raw, err := reader.WS.Read(t.Context())
		require.NoError(t, err)
		require.Less(t, len(raw), 2<<20)
	})
}

// A connection that reads slowly gets the latest value of a key, not all of them, and is not closed for those that it did not need.
func TestStateChangesOfAKeyAreOneWhileTheyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		slow := mesh.Dial("bo", brokertest.NotReading())
		pad := strings.Repeat("x", 30_000)
		for i := range 200 { // 6 MB
			done(t, ana, set("k", fmt.Sprintf(`"%03d%s"`, i, pad)))
			done(t, ana, set("gone", `1`))
		}
		done(t, ana, frame{"type": "delete_state", "key": "gone"})
		slow.Read()
		synctest.Wait()
		got := slow.Waiting()
		require.Less(t, len(got), 60, "what the network held, and the latest")
		last := map[string]frame{}
		for _, f := range got {
			last[f.Str("key")] = f
		}
		require.Equal(t, "199", last["k"].Str("value")[:3])
		require.Equal(t, true, last["gone"]["deleted"])
		require.Equal(t, "ack", slow.Request(frame{"type": "set_visible", "visible": true}).Type(), "still connected")
	})
}

// What a connection was still to be told of a key is outdated when it sets the key itself.
func TestOwnChangeOutdatesWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		slow := mesh.Dial("bo", brokertest.NotReading())
		pad := strings.Repeat("x", 30_000)
		for i := range 12 { // more than the network holds, less than stops the reader
			done(t, ana, set(fmt.Sprint("pad ", i), `"`+pad+`"`))
		}
		done(t, ana, set("k", `"ana's"`))
		done(t, ana, set("other", `"ana's"`))
		slow.Send(set("k", `"bo's"`))
		require.Equal(t, []string{`k="bo's" bo`}, changes(ana))
		slow.Read()
		synctest.Wait()
		told := map[string]int{}
		for _, f := range slow.Waiting() {
			told[f.Str("key")]++
		}
		require.NotContains(t, told, "k")
		require.Equal(t, 1, told["other"])
		require.Equal(t, 1, told["pad 11"])
	})
}

// Whoever listens from before the first change on ends with what the store has, whatever races.
func TestConcurrentSettersEndWithOneValue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		watcher := mesh.Dial("watcher")
		var setters []*brokertest.Conn
		for i := range 8 {
			setters = append(setters, mesh.Dial(fmt.Sprint("setter ", i)))
		}
		var wg sync.WaitGroup
		for i, c := range setters {
			wg.Go(func() {
				for n := range 50 {
					key := fmt.Sprint("key ", n%3)
					if n%10 == 9 {
						c.Send(frame{"type": "delete_state", "key": key, "_reqId": "d"})
						continue
					}
					c.Send(set(key, fmt.Sprintf(`"%d %d"`, i, n)))
				}
			})
		}
		wg.Go(func() {
			for n := range 50 {
				if err := mesh.Broker.SetState(t.Context(), mesh.ID, fmt.Sprint("key ", n%3), json.RawMessage(fmt.Sprint(n))); err != nil {
					t.Errorf("the host: %v", err)
				}
			}
		})
		wg.Wait()
		synctest.Wait()
		late := mesh.Dial("late")
		want := state(t, late)
		got, last := map[string]string{}, map[string]string{}
		n := 0
		for _, f := range watcher.Waiting() {
			if f.Type() != "state_change" {
				continue
			}
			n++
			key := f.Str("key")
			require.Greater(t, f.Str("updatedAt"), last[key], "each change of a key is later than the one before")
			last[key] = f.Str("updatedAt")
			raw, err := json.Marshal(f["value"])
			require.NoError(t, err)
			got[key] = string(raw)
			if f["deleted"] == true {
				delete(got, key)
			}
		}
		require.Equal(t, want, got)
		require.GreaterOrEqual(t, n, len(want), "of each key at least the last")
	})
}

// Who comes late lists and listens; by the times it knows which of the two is newer.
func TestLateJoinersConverge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprint("key ", n%50)
				if n%7 == 6 {
					ana.Send(frame{"type": "delete_state", "key": key, "_reqId": "d"})
				} else {
					ana.Send(set(key, fmt.Sprint(n)))
				}
				time.Sleep(time.Millisecond)
			}
		})
		type known struct {
			value, at string
			gone      bool
		}
		views := make([]map[string]known, 10)
		conns := make([]*brokertest.Conn, len(views))
		learn := func(view map[string]known, f frame) {
			if have, ok := view[f.Str("key")]; ok && have.at > f.Str("updatedAt") {
				return
			}
			raw, err := json.Marshal(f["value"])
			require.NoError(t, err)
			view[f.Str("key")] = known{string(raw), f.Str("updatedAt"), f["deleted"] == true}
		}
		for i := range views {
			time.Sleep(20 * time.Millisecond)
			views[i], conns[i] = map[string]known{}, mesh.Dial(fmt.Sprint("late ", i))
			for _, e := range list(t, conns[i].Request(frame{"type": "list_state"}), "entries") {
				learn(views[i], e)
			}
		}
		close(stop)
		wg.Wait()
		synctest.Wait()
		want := state(t, mesh.Dial("last"))
		for i, c := range conns {
			for _, f := range c.Waiting() {
				if f.Type() == "state_change" {
					learn(views[i], f)
				}
			}
			got := map[string]string{}
			for key, k := range views[i] {
				if !k.gone {
					got[key] = k.value
				}
			}
			require.Equal(t, want, got)
		}
	})
}

// State outlives the broker and its sessions, and the host sets and deletes it in nobody's name.
func TestHostSharesState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ctx := t.Context()
		require.NoError(t, mesh.Broker.SetState(ctx, mesh.ID, "a", json.RawMessage(` {"x": 1} `)), "before anybody has come")
		ana := mesh.Dial("ana")
		got := ana.Request(frame{"type": "get_state", "key": "a"})
		require.Equal(t, []any{map[string]any{"x": 1.0}, "", wire.FormatTime(time.Now())}, []any{got["value"], got["updatedBy"], got["updatedAt"]})
		require.NoError(t, mesh.Broker.SetState(ctx, mesh.ID, "b", json.RawMessage("2")))
		was, err := mesh.Broker.DeleteState(ctx, mesh.ID, "a")
		require.NoError(t, err)
		require.True(t, was)
		was, err = mesh.Broker.DeleteState(ctx, mesh.ID, "a")
		require.NoError(t, err)
		require.False(t, was)
		require.Equal(t, []string{"b=2 ", "a deleted "}, changes(ana))

		e, err := mesh.Broker.StateEntry(ctx, mesh.ID, "b")
		require.NoError(t, err)
		require.Equal(t, []string{"b", "2", "", ""}, []string{e.Key, string(e.Value), e.UpdatedByMemberID, e.UpdatedByName})
		_, err = mesh.Broker.StateEntry(ctx, mesh.ID, "a")
		require.ErrorIs(t, err, store.ErrNotFound)
		done(t, ana, set("c", "3"))
		all, err := mesh.Broker.StateEntries(ctx, mesh.ID, "", 10)
		require.NoError(t, err)
		require.Len(t, all, 2)
		require.Equal(t, ana.Member.ID, all[1].UpdatedByMemberID)
		all, err = mesh.Broker.StateEntries(ctx, mesh.ID, "b", 10)
		require.NoError(t, err)
		require.Len(t, all, 1)

		for key, value := range map[string]string{"": "1", "k": "", strings.Repeat("k", 257): "1", "k2": "{", "k3": `{"a":1,"a":1}`, "k4": "\"\xff\"", "k5": "1 2"} {
			var f *wire.Fault
			require.ErrorAs(t, mesh.Broker.SetState(ctx, mesh.ID, key, json.RawMessage(value)), &f, "%q %q", key, value)
		}
		require.ErrorIs(t, mesh.Broker.SetState(ctx, "nowhere", "a", json.RawMessage("1")), store.ErrNotFound)
		_, err = mesh.Broker.DeleteState(ctx, "nowhere", "a")
		require.ErrorIs(t, err, store.ErrNotFound)

		mesh.Restart()
		require.Equal(t, map[string]string{"b": "2", "c": "3"}, state(t, mesh.Dial("bo")))
		old := mesh.Broker
		mesh.Restart()
		require.ErrorIs(t, old.SetState(ctx, mesh.ID, "a", json.RawMessage("1")), broker.ErrClosed)
		_, err = old.DeleteState(ctx, mesh.ID, "a")
		require.ErrorIs(t, err, broker.ErrClosed)
	})
}

// A store that fails costs the peer an error, not the order of what is told.
func TestStateOfAStoreThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &stateStore{}
		mesh := brokertest.New(t, func(o *broker.Options) { f.Store, o.Store = o.Store, f })
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		f.fail = errStore
		for _, q := range []frame{set("k", "1"), {"type": "get_state", "key": "k"}, {"type": "list_state"}, {"type": "delete_state", "key": "k"}, {"type": "mesh_info"}} {
			require.Equal(t, "internal", ana.Request(q).Str("code"), "%v", q)
		}
		f.fail = nil
		done(t, ana, set("k", "2"))
		require.Equal(t, []string{"k=2 ana"}, changes(bo))
	})
}

// stateStore is a store whose shared state a test can break.
type stateStore struct {
	store.Store
	fail error
}

func (s *stateStore) SetState(ctx context.Context, mesh string, e store.StateEntry, l store.StateLimits, audit ...store.AuditEvent) error {
	if s.fail != nil {
		return s.fail
	}
	return s.Store.SetState(ctx, mesh, e, l, audit...)
}

func (s *stateStore) DeleteState(ctx context.Context, mesh, key string, audit ...store.AuditEvent) (bool, error) {
	if s.fail != nil {
		return false, s.fail
	}
	return s.Store.DeleteState(ctx, mesh, key, audit...)
}

func (s *stateStore) StateEntry(ctx context.Context, mesh, key string) (store.StateEntry, error) {
	if s.fail != nil {
		return store.StateEntry{}, s.fail
	}
	return s.Store.StateEntry(ctx, mesh, key)
}

func (s *stateStore) StateEntries(ctx context.Context, mesh, after string, limit int) ([]store.StateEntry, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	return s.Store.StateEntries(ctx, mesh, after, limit)
}

func (s *stateStore) StateKeys(ctx context.Context, mesh string) ([]string, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	return s.Store.StateKeys(ctx, mesh)
}
