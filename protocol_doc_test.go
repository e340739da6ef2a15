package broker_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/wire"
)

// A row of the table begins with the type in backticks and ends with the file of its operation.
var messageTypeRow = regexp.MustCompile("^\\| `([a-z_]+)` .*\\| `([a-z]+\\.go)` \\|$")

func TestProtocolDocListsEveryMessageType(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("docs/protocol.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(raw), "\n## Message types\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")

	var documented []string
	for row := range strings.Lines(section) {
		row = strings.TrimSpace(row)
		if !strings.HasPrefix(row, "| `") {
			continue
		}
		m := messageTypeRow.FindStringSubmatch(row)
		require.NotNil(t, m, "not a row of the table: %s", row)
		documented = append(documented, m[1])
		source, err := os.ReadFile(m[2])
		require.NoError(t, err, "the file of %s", m[1])
		require.Contains(t, string(source), typeConstant(t, m[1]), "%s is not in %s", m[1], m[2])
	}

	b, err := broker.New(broker.Options{Store: memory.New()})
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Shutdown(t.Context())) }()
	registered := append(b.Types(), wire.TypeHello, wire.TypeSessionHello)
	slices.Sort(registered)
	slices.Sort(documented)
	require.Equal(t, registered, documented, "the table in docs/protocol.md and the registered operations differ")
}

// typeConstant is how the source names a type: by its constant in package wire. The acknowledgement has a reader of its own.
func typeConstant(t *testing.T, typ string) string {
	t.Helper()
	if typ == wire.TypeClientAck {
		return "wire.ClientAck"
	}
	var name strings.Builder
	for word := range strings.SplitSeq(typ, "_") {
		if word == "apikey" {
			name.WriteString("APIKey")
			continue
		}
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	if typ == wire.TypeSend {
		return "wire.Send"
	}
	return "wire.Type" + name.String()
}
