package wire_test

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/wire"
)

func TestPeek(t *testing.T) {
	t.Parallel()
	req, empty := "r", ""
	for _, tt := range []struct {
		name, frame string
		want        wire.Head
		fault       string // what the text says; empty: accepted
	}{
		{"type alone", `{"type":"x"}`, wire.Head{Type: "x"}, ""},
		{"all three", ` {"id":"i","_reqId":"r","type":"x","more":[1,{"type":"y"}]} `, wire.Head{Type: "x", ReqID: &req, ID: "i"}, ""},
		{"empty _reqId is one", `{"type":"x","_reqId":""}`, wire.Head{Type: "x", ReqID: &empty}, ""},
		{"null _reqId is none", `{"type":"x","_reqId":null,"id":null}`, wire.Head{Type: "x"}, ""},
		{"escaped name", `{"\u0074ype":"x"}`, wire.Head{Type: "x"}, ""},
		{"escaped value", `{"type":"\u0078"}`, wire.Head{Type: "x"}, ""},
		{"same name in another object", `{"type":"x","a":{"type":1},"b":{"type":2}}`, wire.Head{Type: "x"}, ""},
		{"case of unknown names inside values", `{"type":"x","a":{"b":1,"B":2}}`, wire.Head{Type: "x"}, ""},

		{"nothing", ``, wire.Head{}, "not valid JSON"},
		{"text", `hello`, wire.Head{}, "not valid JSON"},
		{"half", `{"type":"x"`, wire.Head{}, "not valid JSON"},
		{"trailing data", `{"type":"x"}{}`, wire.Head{}, "not valid JSON"},
		{"trailing comma", `{"type":"x",}`, wire.Head{}, "not valid JSON"},
		{"NaN", `{"type":"x","n":NaN}`, wire.Head{}, "not valid JSON"},
		{"byte order mark", "\ufeff{\"type\":\"x\"}", wire.Head{}, "not valid JSON"},
		{"array", ` ["type"]`, wire.Head{}, "must be one JSON object, not an array"},
		{"string", `"type"`, wire.Head{}, "not a string"},
		{"number", `12`, wire.Head{}, "not a number"},
		{"boolean", `true`, wire.Head{}, "not a boolean"},
		{"null", `null`, wire.Head{}, "not null"},
		{"no type", `{"_reqId":"r"}`, wire.Head{ReqID: &req}, "type must be a non-empty string"},
		{"null type", `{"type":null,"_reqId":"r"}`, wire.Head{ReqID: &req}, "type must be a non-empty string"},
		{"numeric type", `{"type":7,"_reqId":"r"}`, wire.Head{ReqID: &req}, "type must be a string, not a number"},
		{"numeric _reqId", `{"type":"x","_reqId":7}`, wire.Head{Type: "x"}, "_reqId must be a string, not a number"},
		{"id is an object", `{"type":"x","id":{},"_reqId":"r"}`, wire.Head{Type: "x", ReqID: &req}, "id must be a string, not an object"},
		{"twice", `{"type":"x","_reqId":"r","a":1,"a":1}`, wire.Head{Type: "x", ReqID: &req}, `"a" occurs twice`},
		{"twice, once escaped", `{"type":"x","_reqId":"r","\u0074ype":"x"}`, wire.Head{Type: "x", ReqID: &req}, `"type" occurs twice`},
		{"twice, both escaped", `{"type":"x","a\n":1,"a\u000a":1}`, wire.Head{Type: "x"}, `occurs twice`},
		{"known name in another case", `{"type":"x","_REQID":"s","_reqId":"r"}`, wire.Head{Type: "x", ReqID: &req}, `"_REQID" differs only in case from "_reqId"`},
		{"known name in another case alone", `{"Type":"x"}`, wire.Head{Type: "x"}, `"Type" differs only in case from "type"`},
		{"unknown names in two cases", `{"type":"x","abc":1,"aBc":2}`, wire.Head{Type: "x"}, "occurs twice"},
		{"a long s folds to s, a Kelvin sign to k", `{"type":"x","ſky":1,"SKY":2}`, wire.Head{Type: "x"}, "occurs twice"},
		{"twice, deep inside", `{"type":"x","a":[{"b":[{"c":1,"c":1}]}]}`, wire.Head{Type: "x"}, `"c" occurs twice`},
		{"twice, deep inside, escaped", `{"type":"x","a":{"c":1,"\u0063":1}}`, wire.Head{Type: "x"}, `"c" occurs twice`},
		{"invalid UTF-8 in a value", "{\"type\":\"x\",\"_reqId\":\"r\",\"a\":\"\xff\"}", wire.Head{Type: "x", ReqID: &req}, "not valid UTF-8"},
		{"invalid UTF-8 in a name", "{\"type\":\"x\",\"\xc3\":1}", wire.Head{Type: "x"}, "not valid UTF-8"},
		{"invalid UTF-8 alone", "\xff", wire.Head{}, "not valid UTF-8"},
	} {
		got, err := wire.Peek([]byte(tt.frame))
		require.Equal(t, tt.want, got, tt.name)
		if tt.fault == "" {
			require.NoError(t, err, tt.name)
			continue
		}
		require.ErrorIs(t, err, wire.Malformed, tt.name)
		require.ErrorContains(t, err, tt.fault, tt.name)
	}
}

func TestDecodeBoundsNesting(t *testing.T) {
	t.Parallel()
	nested := func(open, shut string, n int) []byte {
		return []byte(`{"type":"x","a":` + strings.Repeat(open, n) + "1" + strings.Repeat(shut, n) + `}`)
	}
	for _, tt := range []struct{ open, shut string }{{"[", "]"}, {`{"b":`, "}"}, {`[{"b":`, "}]"}} {
		_, err := wire.Peek(nested(tt.open, tt.shut, 63/len(tt.shut)))
		require.NoError(t, err, tt.open)
		for _, n := range []int{65, 1000, 20_000} {
			_, err = wire.Peek(nested(tt.open, tt.shut, n))
			require.ErrorIs(t, err, wire.Malformed, "%s, %d deep", tt.open, n)
		}
	}
	_, err := wire.Peek(nested("[", "]", 65))
	require.ErrorContains(t, err, "nests deeper than 64")
}

// A repetition is found among any number of names, and texts about it stay short.
func TestDecodeFindsOneRepetitionAmongMany(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`{"type":"x"`)
	for i := range 50_000 {
		fmt.Fprintf(&b, `,"n%d":%d`, i, i)
	}
	many := b.String()
	_, err := wire.Peek([]byte(many + "}"))
	require.NoError(t, err)
	for _, i := range []int{0, 14, 15, 16, 17, 49_999} {
		_, err = wire.Peek(fmt.Appendf(nil, `%s,"N%d":0}`, many, i))
		require.ErrorContains(t, err, "occurs twice", "n%d", i)
	}
	name := strings.Repeat("\\u0001", 10_000)
	_, err = wire.Peek([]byte(`{"type":"x","` + name + `":1,"` + name + `":1}`))
	require.ErrorIs(t, err, wire.Malformed)
	require.Less(t, len(err.Error()), 500)

	var stats wire.SetStats
	err = wire.Decode([]byte(`{"type":"set_stats","stats":{"errors":1`+strings.Repeat("0", 10_000)+`}}`), &stats)
	require.ErrorIs(t, err, wire.Malformed)
	require.Less(t, len(err.Error()), 500)
}

func TestDecodeNamesTheField(t *testing.T) {
	t.Parallel()
	type inner struct {
		Deep []struct {
			N int `json:"n"`
		} `json:"deep"`
	}
	type hosts struct {
		wire.Header
		inner
		Plain map[string]*inner `json:"plain"`
	}
	for _, tt := range []struct{ frame, field, text string }{
		{`{"type":"x","deep":{}}`, "deep", "deep must be an array, not an object"},
		{`{"type":"x","deep":[{"n":"1"}]}`, "deep.n", "deep.n must be a number, not a string"},
		{`{"type":"x","deep":[{"n":true}]}`, "deep.n", "deep.n must be a number, not a bool"},
		{`{"type":"x","plain":[]}`, "plain", "plain must be an object, not an array"},
		{`{"type":"x","plain":{"k":{"deep":1}}}`, "plain.deep", "plain.deep must be an array, not a number"},
		{`{"type":false}`, "type", "type must be a string, not a bool"},
	} {
		var f hosts
		err := wire.Decode([]byte(tt.frame), &f)
		var fault *wire.Fault
		require.ErrorAs(t, err, &fault, tt.frame)
		require.Equal(t, wire.Malformed, fault.Code, tt.frame)
		require.Equal(t, tt.field, fault.Field, tt.frame)
		require.Equal(t, tt.text, fault.Text, tt.frame)
	}
}

// Names are free inside free-form values, but for an exact repetition.
func TestDecodeLeavesFreeFormValuesAlone(t *testing.T) {
	t.Parallel()
	type free struct {
		wire.Header
		Raw json.RawMessage `json:"raw"`
		Map map[string]any  `json:"map"`
		Any any             `json:"any"`
	}
	var f free
	require.NoError(t, wire.Decode([]byte(`{"type":"x","raw":{"a":1, "A":2},"map":{"type":1,"Type":2},"any":{"raw":0,"RAW":0}}`), &f))
	require.Equal(t, `{"a":1, "A":2}`, string(f.Raw), "byte for byte")
	require.Len(t, f.Map, 2)
	for _, frame := range []string{
		`{"type":"x","raw":{"a":1,"a":2}}`, `{"type":"x","map":{"a":1,"\u0061":2}}`, `{"type":"x","any":[[{"a":1,"a":2}]]}`,
	} {
		require.ErrorContains(t, wire.Decode([]byte(frame), &f), "occurs twice", frame)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]float64{
		"0": 0, "-0": math.Copysign(0, -1), "1": 1, "1.5": 1.5, "-2": -2, "1e3": 1000, "1e999": math.Inf(1), "-1e999": math.Inf(-1), "1e-999": 0,
		"9007199254740993": 9007199254740992,
	} {
		var n wire.Number
		require.NoError(t, json.Unmarshal([]byte(in), &n), in)
		require.Equal(t, want, float64(n), in)
		require.Equal(t, math.Signbit(want), math.Signbit(float64(n)), in)
	}
	for _, in := range []string{`"1"`, `true`, `null`, `[]`, `[1]`, `{}`, `""`} {
		var n wire.Number
		var te *json.UnmarshalTypeError
		require.ErrorAs(t, json.Unmarshal([]byte(in), &n), &te, in)
	}
	for _, in := range []string{``, `NaN`, `Infinity`, `-`, `1x`} {
		var n wire.Number
		require.Error(t, n.UnmarshalJSON([]byte(in)), in)
	}
	for n, want := range map[wire.Number]string{
		0: "0", 1777752191000: "1777752191000", 1.5: "1.5", wire.Number(math.Inf(1)): "null", wire.Number(math.Inf(-1)): "null",
	} {
		raw, err := json.Marshal(n)
		require.NoError(t, err)
		require.Equal(t, want, string(raw))
	}
	raw, err := json.Marshal(wire.Number(math.NaN()))
	require.NoError(t, err)
	require.Equal(t, "null", string(raw))
}

// Whatever Decode accepts is JSON without a repeated name, and says the same after encoding it.
func FuzzDecode(f *testing.F) {
	for _, file := range frameFiles {
		for _, l := range lines(f, file) {
			if len(l.rest) < 2000 {
				f.Add([]byte(l.rest))
			}
		}
	}
	f.Add([]byte(`{"type":"set_status","\u017ftatus":"idle"}`))
	f.Add([]byte(`{"type":"x","a":[{"b":{"c":[]}},{"b":null}],"\ud800":"\udc00"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		head, err := wire.Peek(raw)
		if err == nil {
			require.NotEmpty(t, head.Type)
			var m map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(raw, &m))
			requireNoRepetition(t, raw)
		} else {
			require.ErrorIs(t, err, wire.Malformed)
			return // refused, whatever its own decoder thinks: that one knows no "id", say, and so no "Id" that is mistaken for it
		}
		make := requests[head.Type]
		if make == nil {
			return
		}
		frame := make()
		if wire.Decode(raw, frame) != nil || check(raw, make()) != nil {
			return
		}
		if infinite(reflect.ValueOf(frame)) {
			return // JSON cannot hold it
		}
		encoded, err := wire.Encode(frame)
		require.NoError(t, err)
		again := make()
		require.NoError(t, wire.Decode(encoded, again))
		second, err := wire.Encode(again)
		require.NoError(t, err)
		require.Equal(t, string(encoded), string(second)) // not the frames: a free-form value loses its white space on the way
	})
}

// infinite reports whether a frame holds a number beyond the range of JSON's.
func infinite(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Float64:
		return math.IsInf(v.Float(), 0)
	case reflect.Pointer:
		return !v.IsNil() && infinite(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if infinite(v.Field(i)) {
				return true
			}
		}
	}
	return false
}

// requireNoRepetition reads raw with the tokeniser of encoding/json, which knows nothing of ours.
func requireNoRepetition(t *testing.T, raw []byte) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	var value func()
	value = func() {
		tok, err := dec.Token()
		require.NoError(t, err)
		switch tok {
		case json.Delim('{'):
			seen := map[string]bool{}
			for dec.More() {
				tok, err := dec.Token()
				require.NoError(t, err)
				name, ok := tok.(string)
				require.True(t, ok)
				require.False(t, seen[name], "%q is there twice", name)
				seen[name] = true
				value()
			}
			_, err = dec.Token()
			require.NoError(t, err)
		case json.Delim('['):
			for dec.More() {
				value()
			}
			_, err = dec.Token()
			require.NoError(t, err)
		}
	}
	value()
}
