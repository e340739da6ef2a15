package wire_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/wire"
)

// requests makes an empty frame of every type that a client sends and whose fields are checked.
var requests = map[string]func() any{
	wire.TypeHello:         func() any { return new(wire.Hello) },
	wire.TypeSessionHello:  func() any { return new(wire.SessionHello) },
	wire.TypeSetStatus:     func() any { return new(wire.SetStatus) },
	wire.TypeSetSummary:    func() any { return new(wire.SetSummary) },
	wire.TypeSetStats:      func() any { return new(wire.SetStats) },
	wire.TypeSetVisible:    func() any { return new(wire.SetVisible) },
	wire.TypeSetProfile:    func() any { return new(wire.SetProfile) },
	wire.TypeJoinGroup:     func() any { return new(wire.JoinGroup) },
	wire.TypeLeaveGroup:    func() any { return new(wire.LeaveGroup) },
	wire.TypeSetGrants:     func() any { return new(wire.SetGrants) },
	wire.TypeListPeers:     func() any { return new(wire.ListPeers) },
	wire.TypeMeshInfo:      func() any { return new(wire.MeshInfo) },
	wire.TypeSend:          func() any { return new(wire.Send) },
	wire.TypeMessageStatus: func() any { return new(wire.MessageStatus) },
	wire.TypeTopicCreate:   func() any { return new(wire.TopicCreate) },
	wire.TypeTopicList:     func() any { return new(wire.TopicList) },
	wire.TypeTopicJoin:     func() any { return new(wire.TopicJoin) },
	wire.TypeTopicLeave:    func() any { return new(wire.TopicLeave) },
	wire.TypeTopicMembers:  func() any { return new(wire.TopicMembers) },
	wire.TypeTopicHistory:  func() any { return new(wire.TopicHistory) },
	wire.TypeTopicMarkRead: func() any { return new(wire.TopicMarkRead) },
	wire.TypeTopicAdd:      func() any { return new(wire.TopicAdd) },
	wire.TypeTopicArchive:  func() any { return new(wire.TopicArchive) },
	wire.TypeSetState:      func() any { return new(wire.SetState) },
	wire.TypeGetState:      func() any { return new(wire.GetState) },
	wire.TypeDeleteState:   func() any { return new(wire.DeleteState) },
	wire.TypeListState:     func() any { return new(wire.ListState) },
	wire.TypeAPIKeyCreate:  func() any { return new(wire.APIKeyCreate) },
	wire.TypeAPIKeyList:    func() any { return new(wire.APIKeyList) },
	wire.TypeAPIKeyRevoke:  func() any { return new(wire.APIKeyRevoke) },
	wire.TypeAttest:        func() any { return new(wire.Attest) },
	wire.TypeInviteCreate:  func() any { return new(wire.InviteCreate) },
	wire.TypeInviteList:    func() any { return new(wire.InviteList) },
	wire.TypeInviteRevoke:  func() any { return new(wire.InviteRevoke) },
	wire.TypeAuditQuery:    func() any { return new(wire.AuditQuery) },
	wire.TypeAuditVerify:   func() any { return new(wire.AuditVerify) },
	wire.TypeAuditExport:   func() any { return new(wire.AuditExport) },
	wire.TypeKick:          func() any { return new(wire.Kick) },
	wire.TypeDisconnect:    func() any { return new(wire.Disconnect) },
	wire.TypeBan:           func() any { return new(wire.Ban) },
	wire.TypeUnban:         func() any { return new(wire.Unban) },
	wire.TypeListBans:      func() any { return new(wire.ListBans) },
	wire.TypeMemberRole:    func() any { return new(wire.MemberRole) },
}

// check decodes a frame and runs its own checks, as the broker does.
func check(raw []byte, into any) error {
	if err := wire.Decode(raw, into); err != nil {
		return err
	}
	if c, ok := into.(interface{ Check() error }); ok {
		return c.Check()
	}
	return nil
}

// line is one case of a file in testdata; testdata/README.md.
type line struct {
	at, want, rest string
}

func lines(t testing.TB, file string) []line {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", file))
	require.NoError(t, err)
	var all []line
	for i, text := range strings.Split(string(raw), "\n") {
		if text == "" || text[0] == '#' {
			continue
		}
		want, rest, found := strings.Cut(text, " ")
		require.True(t, found, "%s:%d", file, i+1)
		all = append(all, line{fmt.Sprintf("%s:%d", file, i+1), expand(t, want), expand(t, rest)})
	}
	require.NotEmpty(t, all)
	return all
}

// expand replaces each «text*n», innermost first.
func expand(t testing.TB, s string) string {
	t.Helper()
	for {
		end := strings.Index(s, "»")
		if end < 0 {
			return s
		}
		start := strings.LastIndex(s[:end], "«")
		inner := s[start+len("«") : end]
		star := strings.LastIndexByte(inner, '*')
		n, err := strconv.Atoi(inner[star+1:])
		require.NoError(t, err, inner)
		var b strings.Builder
		for i := range n {
			b.WriteString(strings.ReplaceAll(inner[:star], "%d", strconv.Itoa(i)))
		}
		s = s[:start] + b.String() + s[end+len("»"):]
	}
}

var frameFiles = []string{"hello.txt", "session.txt", "send.txt", "topic.txt", "apikey.txt", "messagestatus.txt", "attest.txt", "state.txt", "invite.txt", "audit.txt", "admin.txt"}

func TestFrames(t *testing.T) {
	t.Parallel()
	accepted := map[string]bool{}
	for _, file := range frameFiles {
		for _, l := range lines(t, file) {
			head, _ := wire.Peek([]byte(l.rest))
			make := requests[head.Type]
			require.NotNil(t, make, "%s: no frame of type %q", l.at, head.Type)
			frame := make()
			err := check([]byte(l.rest), frame)
			if l.want == "ok" {
				if !isOK(t, err, l) {
					continue
				}
				accepted[head.Type] = true
				again := make()
				raw, err := wire.Encode(frame)
				require.NoError(t, err, l.at)
				if !strings.Contains(l.rest, "1e999") { // JSON has no infinity to write
					require.NoError(t, check(raw, again), l.at)
					require.Equal(t, frame, again, "%s: after encoding and decoding", l.at)
				}
				continue
			}
			var f *wire.Fault
			if !isFault(t, err, &f, l) {
				continue
			}
			if got := string(f.Code) + ":" + f.Field; got != l.want {
				t.Errorf("%s: got %s (%s), want %s", l.at, got, f.Text, l.want)
			}
			if f.Field != "" && !strings.Contains(f.Text, f.Field) {
				t.Errorf("%s: the text %q does not name %q", l.at, f.Text, f.Field)
			}
		}
	}
	for typ := range requests {
		if !accepted[typ] {
			t.Errorf("no accepted %s in testdata", typ)
		}
	}
}

func isOK(t *testing.T, err error, l line) bool {
	t.Helper()
	if err != nil {
		t.Errorf("%s: got %v, want ok", l.at, err)
	}
	return err == nil
}

func isFault(t *testing.T, err error, f **wire.Fault, l line) bool {
	t.Helper()
	if err == nil {
		t.Errorf("%s: accepted, want %s", l.at, l.want)
		return false
	}
	require.ErrorAs(t, err, f, l.at)
	return true
}

// What Check fills in and cleans.
func TestCheckCleans(t *testing.T) {
	t.Parallel()
	var send wire.Send
	require.NoError(t, check([]byte(`{"type":"send","targetSpec":"*","ciphertext":"QQ=="}`), &send))
	require.Equal(t, wire.PriorityNext, send.Priority)

	var hello wire.Hello
	require.NoError(t, check([]byte(`{"type":"hello","sessionId":"s","displayName":" ada ",
		"groups":[{"name":"@eng","role":"a"},{"name":"ops"},{"name":"eng","role":"b"}]}`), &hello))
	require.Equal(t, "ada", hello.DisplayName)
	require.Equal(t, []wire.Group{{Name: "eng", Role: "b"}, {Name: "ops"}}, *hello.Groups, "one entry per name, the last role")

	var join wire.JoinGroup
	require.NoError(t, check([]byte(`{"type":"join_group","name":"@eng/core"}`), &join))
	require.Equal(t, "eng/core", join.Name)
	var leave wire.LeaveGroup
	require.NoError(t, check([]byte(`{"type":"leave_group","name":"@eng"}`), &leave))
	require.Equal(t, "eng", leave.Name)

	var grants wire.SetGrants
	require.NoError(t, check([]byte(`{"type":"set_grants","grants":{"`+strings.Repeat("AB", 32)+`":null}}`), &grants))
	require.Contains(t, grants.Grants, strings.Repeat("ab", 32))

	var create wire.TopicCreate
	require.NoError(t, check([]byte(`{"type":"topic_create","name":" deploys "}`), &create))
	require.Equal(t, "deploys", create.Name)
	require.Equal(t, wire.VisibilityPublic, create.Visibility)
	require.False(t, create.HasKey())

	var topicJoin wire.TopicJoin
	require.NoError(t, check([]byte(`{"type":"topic_join","topic":"deploys"}`), &topicJoin))
	require.Equal(t, wire.TopicMember, topicJoin.Role)
	var add wire.TopicAdd
	require.NoError(t, check([]byte(`{"type":"topic_add","topic":"deploys","member":"p"}`), &add))
	require.Empty(t, add.Role, "only a role that was given replaces the old one")
}

func TestHelloKeys(t *testing.T) {
	t.Parallel()
	session := strings.Repeat("b", 64)
	for _, tt := range []struct {
		name, frame, want string
	}{
		{"absent", `{"type":"hello","pubkey":"AB"}`, ""},
		{"null", `{"type":"hello","pubkey":"AB","sessionPubkey":null}`, ""},
		{"empty", `{"type":"hello","pubkey":"AB","sessionPubkey":""}`, ""},
		{"given", `{"type":"hello","pubkey":"AB","sessionPubkey":"` + session + `"}`, session},
	} {
		var h wire.Hello
		require.NoError(t, wire.Decode([]byte(tt.frame), &h), tt.name)
		require.Equal(t, tt.want, h.Session(), tt.name)
		require.Equal(t, "ab", h.MemberKey(), tt.name)
	}
	var h wire.Hello
	require.NoError(t, wire.Decode([]byte(`{"type":"hello","capabilities":["client_ack"]}`), &h))
	require.True(t, h.Has(wire.CapClientAck))
	require.False(t, h.Has(wire.CapNoPush))
}

func TestTopicHistoryCount(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		limit string
		want  int
	}{
		{"", 50}, {`,"limit":null`, 50}, {`,"limit":0`, 1}, {`,"limit":1`, 1}, {`,"limit":1.9`, 1}, {`,"limit":200`, 200},
		{`,"limit":201`, 200}, {`,"limit":-5`, 1}, {`,"limit":1e999`, 200}, {`,"limit":-1e999`, 1}, {`,"limit":1e-999`, 1},
	} {
		var f wire.TopicHistory
		require.NoError(t, check([]byte(`{"type":"topic_history","topic":"t"`+tt.limit+`}`), &f), tt.limit)
		require.Equal(t, tt.want, f.Count(), tt.limit)
	}
}

func TestProfileMerge(t *testing.T) {
	t.Parallel()
	require.True(t, wire.Profile{}.Empty())
	old, title, none := "old", "new", []string{}
	have := wire.Profile{Avatar: &old, Title: &old, Bio: &old, Capabilities: &[]string{"go"}}
	got := have.Merge(wire.Profile{Title: &title, Capabilities: &none})
	require.Equal(t, wire.Profile{Avatar: &old, Title: &title, Bio: &old, Capabilities: &none}, got)
	require.Equal(t, have, have.Merge(wire.Profile{}))
	require.Equal(t, "old", *have.Title, "the receiver is not changed")
}
