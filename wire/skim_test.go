package wire_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/wire"
)

func TestSkim(t *testing.T) {
	t.Parallel()
	req, empty := "r", ""
	long := strings.Repeat
	for _, tt := range []struct {
		name, frame string
		want        wire.Head
		content     int
	}{
		{"plain", `{"type":"send","_reqId":"r","id":"i","ciphertext":"QUJD","nonce":"AA==","targetSpec":"*"}`, wire.Head{Type: "send", ReqID: &req, ID: "i"}, 9},
		{"white space", " {\n\t\"type\" : \"send\" ,\r\n \"_reqId\" : \"\" } ", wire.Head{Type: "send", ReqID: &empty}, 0},
		{"type behind the body", `{"ciphertext":"` + long("QUJD", 30_000) + `","type":"send"}`, wire.Head{Type: "send"}, 120_000},
		{"type inside another object", `{"a":{"type":"x","ciphertext":"QUJD"},"type":"send"}`, wire.Head{Type: "send"}, 0},
		{"only inside another object", `{"a":{"type":"x"},"b":[{"type":"y"}],"c":[["type","z"]]}`, wire.Head{}, 0},
		{"braces inside strings", `{"a":"}{\"type\":\"x\"[]","}":"{","type":"send"}`, wire.Head{Type: "send"}, 0},
		{"a text that looks like a member", `{"a":"type","b":"send"}`, wire.Head{}, 0},
		{"values that are names", `{"x":["type","send"],"type":"a","y":"id"}`, wire.Head{Type: "a"}, 0},
		{"quotes and backslashes", `{"a":"\\","b":"\"","c":"\\\"","type":"send"}`, wire.Head{Type: "send"}, 0},
		{"escaped value is left out", `{"type":"\u0073end","id":"a\"b","_reqId":"r"}`, wire.Head{ReqID: &req}, 0},
		{"escaped name is another name", `{"\u0074ype":"send"}`, wire.Head{}, 0},
		{"other kinds of values", `{"type":7,"_reqId":null,"id":["i"],"x":true}`, wire.Head{}, 0},
		{"longest value", `{"type":"send","id":"` + long("i", 256) + `"}`, wire.Head{Type: "send", ID: long("i", 256)}, 0},
		{"longer than that", `{"type":"send","id":"` + long("i", 257) + `"}`, wire.Head{Type: "send"}, 0},
		{"long name", `{"` + long("type", 1000) + `":"x","type":"send"}`, wire.Head{Type: "send"}, 0},
		{"array", `["type","send",{"type":"send"}]`, wire.Head{}, 0},
		{"text", `"type"`, wire.Head{}, 0},
		{"nothing", ``, wire.Head{}, 0},
		{"broken off", `{"type":"send","id":"i`, wire.Head{Type: "send"}, 0},
		{"not JSON", "}}]]\x00\xff{\"type\"", wire.Head{}, 0},
	} {
		for name, r := range map[string]io.Reader{
			"at once":      strings.NewReader(tt.frame),
			"byte by byte": iotest.OneByteReader(strings.NewReader(tt.frame)),
		} {
			got, err := wire.Skim(r)
			require.NoError(t, err, tt.name)
			require.Equal(t, wire.Skimmed{Head: tt.want, Size: len(tt.frame), Content: tt.content}, got, "%s, %s", tt.name, name)
		}
	}
}

func TestSkimReturnsTheReadersError(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection lost")
	got, err := wire.Skim(io.MultiReader(strings.NewReader(`{"type":"send",`), iotest.ErrReader(broken)))
	require.ErrorIs(t, err, broken)
	require.Equal(t, "send", got.Type)
}

// endless is a frame of any size that nobody has to keep.
type endless struct {
	start, fill string
	left        int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.start != "" {
		n := copy(p, e.start)
		e.start = e.start[n:]
		return n, nil
	}
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.left)
	for i := range n {
		p[i] = e.fill[i%len(e.fill)]
	}
	e.left -= n
	return n, nil
}

func TestSkimNeedsNoMoreMemoryForMore(t *testing.T) { // serial: it counts allocations
	for _, tt := range []struct{ start, fill string }{
		{`{"type":"send","ciphertext":"`, "A"}, {`{"type":"send","other":"`, "A"}, {`{"type":"send","`, "n"}, {`{"type":"send","a":`, "["}, {`{"type":"send","a":1`, ` ,"b":"c"`},
	} {
		allocs := func(size int) float64 {
			return testing.AllocsPerRun(5, func() {
				got, err := wire.Skim(&endless{start: tt.start, fill: tt.fill, left: size})
				require.NoError(t, err)
				require.Equal(t, len(tt.start)+size, got.Size)
				require.Equal(t, "send", got.Type)
			})
		}
		require.LessOrEqual(t, allocs(1<<20), allocs(4096)+2, "%s", tt.start)
	}
}

// For a frame that is one, Skim tells what Peek tells.
func FuzzSkim(f *testing.F) {
	for _, file := range frameFiles {
		for _, l := range lines(f, file) {
			if len(l.rest) < 2000 {
				f.Add([]byte(l.rest))
			}
		}
	}
	for _, s := range []string{
		`{"a":{"type":"x"},"type":"send","_reqId":"","b":[[],{}],"id":"i"}`, `{"a":"}{","type":"x"}`, `["type","x"]`, `{"type":"a","b":[1,"type","x"]}`, `}{"type":"x"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := wire.Skim(bytes.NewReader(raw))
		require.NoError(t, err)
		require.Equal(t, len(raw), got.Size)
		require.LessOrEqual(t, got.Content, got.Size)
		head, err := wire.Peek(raw)
		if err != nil || bytes.IndexByte(raw, '\\') >= 0 || len(head.Type) > 256 || len(head.ID) > 256 || head.ReqID != nil && len(*head.ReqID) > 256 {
			return
		}
		require.Equal(t, head, got.Head)
	})
}
