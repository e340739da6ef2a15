package store_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

func TestQuotaRefuse(t *testing.T) {
	t.Parallel()
	all := store.Quota{PerMailbox: 10, PerSender: 4, NowPlaces: 3, NowPerSender: 2}
	const now, next, low = wire.PriorityNow, wire.PriorityNext, wire.PriorityLow
	for _, c := range []struct {
		name                  string
		q                     store.Quota
		p                     wire.Priority
		n, r, fromNow, fromRe int
		want                  string
	}{
		{"empty", all, next, 0, 0, 0, 0, ""},
		{"one place left", all, next, 0, 9, 0, 0, ""},
		{"exactly full", all, next, 0, 10, 0, 0, wire.ReasonQueueFull},
		{"full for low too", all, low, 0, 10, 0, 0, wire.ReasonQueueFull},
		{"now ones in their places do not count", all, next, 3, 9, 0, 0, ""},
		{"now ones beyond their places count", all, next, 4, 9, 0, 0, wire.ReasonQueueFull},
		{"now has its places when the rest is full", all, now, 2, 10, 0, 0, ""},
		{"now without places left counts with the rest", all, now, 3, 10, 0, 0, wire.ReasonQueueFull},
		{"now beyond its places while the rest has room", all, now, 3, 9, 0, 0, ""},
		{"sender: one place left", all, next, 0, 3, 0, 3, ""},
		{"sender: exactly full", all, next, 0, 4, 0, 4, wire.ReasonQuota},
		{"sender: now in its places", all, now, 1, 4, 1, 4, ""},
		{"sender: now beyond its places", all, now, 2, 4, 2, 4, wire.ReasonQuota},
		{"sender: now ones beyond count with the rest", all, next, 3, 3, 3, 3, wire.ReasonQuota},
		{"the mailbox is asked first", all, next, 0, 10, 0, 10, wire.ReasonQueueFull},
		{"no bounds", store.Quota{}, next, 1000, 1000, 1000, 1000, ""},
		{"negative is no bound", store.Quota{PerMailbox: -1, PerSender: -1, NowPlaces: -1, NowPerSender: -1}, now, 9, 9, 9, 9, ""},
		{"only the sender is bounded", store.Quota{PerSender: 1}, next, 0, 100, 0, 1, wire.ReasonQuota},
		{"without now places, now counts with the rest", store.Quota{PerMailbox: 2}, now, 1, 1, 0, 0, wire.ReasonQueueFull},
		{"negative now places are none", store.Quota{PerMailbox: 2, NowPlaces: -5}, now, 1, 0, 0, 0, ""},
	} {
		require.Equal(t, c.want, c.q.Refuse(c.p, c.n, c.r, c.fromNow, c.fromRe), c.name)
	}
}

func TestFoldName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"": "", "Ana": "ana", "  Ana\t": "ana", "A n a": "a n a", "ＡＮＡ": "ana", "ﬁn": "fin", "e\u0301": "é", "É": "é", "a\u202ena\u202c": "ana",
		"a\u200bna": "ana", "\u200b Ana \u200b": "ana", "a\nna": "ana", "ÅNGSTRÖM": "ångström", "K": "k", "日本": "日本", "❤️": "❤️", "\u200d": "",
	} {
		require.Equal(t, want, store.FoldName(name), "%q", name)
		require.Equal(t, want, store.FoldName(store.FoldName(name)), "folding %q again changes nothing", name)
	}
}

func TestNumberedName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 128)
	for _, c := range []struct {
		name string
		n    int
		want string
	}{
		{"ana", 0, "ana"}, {"ana", 1, "ana"}, {"ana", 2, "ana-2"}, {"ana", 10, "ana-10"}, {"", 3, "-3"}, {long, 1, long},
		{long, 2, strings.Repeat("ü", 126) + "-2"}, {long, 1000, strings.Repeat("ü", 123) + "-1000"}, {strings.Repeat("x", 126), 2, strings.Repeat("x", 126) + "-2"},
	} {
		require.Equal(t, c.want, store.NumberedName(c.name, c.n), "%q, %d", c.name, c.n)
	}
}

func TestSameRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		a, b store.Message
		want bool
	}{
		{"equal fingerprints, other content", store.Message{RequestFingerprint: "ab", ContentHash: "1"}, store.Message{RequestFingerprint: "ab", ContentHash: "2"}, true},
		{"fingerprints are hex", store.Message{RequestFingerprint: "AB"}, store.Message{RequestFingerprint: "ab"}, true},
		{"other fingerprints, equal content", store.Message{RequestFingerprint: "ab", ContentHash: "1"}, store.Message{RequestFingerprint: "cd", ContentHash: "1"}, false},
		{"one fingerprint: content decides", store.Message{RequestFingerprint: "ab", ContentHash: "1"}, store.Message{ContentHash: "1"}, true},
		{"one fingerprint, other content", store.Message{RequestFingerprint: "ab", ContentHash: "1"}, store.Message{ContentHash: "2"}, false},
		{"none, equal content", store.Message{ContentHash: "1"}, store.Message{ContentHash: "1"}, true},
		{"none, other content", store.Message{ContentHash: "1"}, store.Message{ContentHash: "2"}, false},
	} {
		require.Equal(t, c.want, store.SameRequest(c.a, c.b), c.name)
		require.Equal(t, c.want, store.SameRequest(c.b, c.a), "%s, the other way round", c.name)
	}
}

func TestContentHash(t *testing.T) {
	t.Parallel()
	// printf '%s' '*|now|bg==|Ym9keQ==' | sha256sum
	require.Equal(t, "88321cc86e289c35c8b82006731365d00339fd53ad065edd889db92db780d2c1", store.ContentHash("*", wire.PriorityNow, "bg==", "Ym9keQ=="))
}

func TestNotificationID(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ message, member, want string }{
		// printf 'm1\0ana' | sha256sum | cut -c1-32
		{"m1", "ana", "6cece2c67c97f2d50f7d0654a7ee5f57"},
		{"m1", "bo", "fdf7d2d0f6d309724e76ea9a79c554e8"},
		{"m2", "ana", "44095dc36444112b00dd8bfe82600b58"},
		{"m1a", "na", "863ed0425c40fd822a471285bf718fdc"}, // where one id ends and the next begins counts
	} {
		got := store.NotificationID(c.message, c.member)
		require.Equal(t, c.want, got, "%q, %q", c.message, c.member)
		require.Regexp(t, "^[0-9a-f]{32}$", got)
	}
}
