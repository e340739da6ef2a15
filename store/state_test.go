package store_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
)

func TestStateLimitsAllow(t *testing.T) {
	t.Parallel()
	entry := func(key, member, value string) *store.StateEntry {
		return &store.StateEntry{Key: key, Value: json.RawMessage(value), UpdatedByMemberID: member}
	}
	all := store.StateLimits{Keys: 10, PerMember: 4, Bytes: 100}
	mine, others := entry("k", "ana", "123456789"), entry("k", "bo", "123456789") // 10 bytes each
	for _, c := range []struct {
		name               string
		l                  store.StateLimits
		next, old          *store.StateEntry
		keys, owned, bytes int
		want               bool
	}{
		{"the first", all, mine, nil, 0, 0, 0, true},
		{"the last key", all, mine, nil, 9, 0, 0, true},
		{"one key too many", all, mine, nil, 10, 0, 0, false},
		{"no new key", all, mine, mine, 10, 4, 90, true},
		{"the member's last", all, mine, nil, 5, 3, 0, true},
		{"one too many of the member", all, mine, nil, 5, 4, 0, false},
		{"another's becomes its last", all, mine, others, 10, 3, 90, true},
		{"another's would be one too many", all, mine, others, 10, 4, 90, false},
		{"the last bytes", all, mine, nil, 5, 0, 90, true},
		{"a byte too many", all, mine, nil, 5, 0, 91, false},
		{"growing to the last byte", all, entry("k", "ana", "1234567890"), mine, 5, 1, 99, true},
		{"growing a byte too far", all, entry("k", "ana", "1234567890"), mine, 5, 1, 100, false},
		{"a key counts with its value", all, entry("key", "ana", "12345678"), nil, 5, 0, 90, false},
		{"as large, though over all limits", all, mine, mine, 20, 9, 200, true},
		{"smaller, though over all limits", all, entry("k", "ana", "1"), mine, 20, 9, 200, true},
		{"smaller, but one more of the member", all, entry("k", "ana", "1"), others, 20, 4, 200, false},
		{"without limits", store.StateLimits{}, mine, nil, 1e9, 1e9, 1e9, true},
		{"negative limits are none", store.StateLimits{Keys: -1, PerMember: -1, Bytes: -1}, mine, nil, 1e9, 1e9, 1e9, true},
		{"keys alone", store.StateLimits{Keys: 1}, mine, nil, 1, 0, 0, false},
		{"the member's alone", store.StateLimits{PerMember: 1}, mine, nil, 0, 1, 0, false},
		{"bytes alone", store.StateLimits{Bytes: 9}, mine, nil, 0, 0, 0, false},
		{"the host's keys count as its own", all, entry("k", "", "1"), nil, 5, 4, 0, false},
	} {
		require.Equal(t, c.want, c.l.Allow(c.next, c.old, c.keys, c.owned, c.bytes), c.name)
	}
}
