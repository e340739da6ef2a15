package topickey_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/topickey"
)

type mentionVector struct {
	named
	BodyB64  string
	Text     *string
	Mentions []string
}

func TestBodyV1Vectors(t *testing.T) {
	t.Parallel()
	runVectors(t, "message_v1.json", map[string]func(*testing.T, mentionVector){
		"extract": func(t *testing.T, c mentionVector) {
			require.NotNil(t, c.Mentions)
			require.ElementsMatch(t, c.Mentions, topickey.MentionsV1(c.BodyB64))
			require.Equal(t, strings.Join(c.Mentions, " "), strings.Join(topickey.MentionsV1(c.BodyB64), " "), "in order")
			if c.Text == nil {
				return
			}
			require.Equal(t, *c.Text, topickey.DecodeV1(c.BodyB64))
			_, body := topickey.EncodeV1(*c.Text)
			require.Equal(t, *c.Text, topickey.DecodeV1(body))
			require.Equal(t, topickey.MentionsV1(c.BodyB64), topickey.Mentions(*c.Text))
		},
	})
}

func TestMentions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"hi @Ada and @bob!":                   {"ada", "bob"},
		"mail x@y.z":                          nil,
		"@@ada":                               {"ada"},
		"@a@b":                                {"a"},
		"@a @A":                               {"a"},
		"(@a_b-c)":                            {"a_b-c"},
		"@" + strings.Repeat("a", 64):         {strings.Repeat("a", 64)},
		"@" + strings.Repeat("a", 65):         nil,
		"@" + strings.Repeat("a", 65) + " @b": {"b"},
		"":                                    nil,
		"@":                                   nil,
		"a":                                   nil,
		"@a@":                                 {"a"},
		"é@a":                                 {"a"},
		"@é":                                  nil,
		"@İ":                                  nil,
		"\xff@a\xff":                          {"a"},
		"\n@a\n@b":                            {"a", "b"},
		strings.Repeat("@x ", 100) + "@y":     {"x", "y"},
		"@@@" + strings.Repeat("b", 64) + "@c @d": {strings.Repeat("b", 64), "d"},
	} {
		require.Equal(t, want, topickey.Mentions(text), "%q", text)
	}
	var many strings.Builder
	for i := range 20 {
		fmt.Fprintf(&many, "@n%d ", i)
	}
	found := topickey.Mentions(many.String())
	require.Len(t, found, topickey.MaxMentions)
	require.Equal(t, "n15", found[15])
}
