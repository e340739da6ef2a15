package broker

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/internal/ratelimit"
	"github.com/claudemesh/broker/store/memory"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestClientAddressBehindProxies(t *testing.T) {
	t.Parallel()
	trusted := prefixes("192.0.2.0/24", "10.0.0.7/32", "2001:db8:1::/48", "127.0.0.0/8", "::1/128", "::ffff:198.51.100.0/120")
	const proxy, client = "192.0.2.9:5555", "203.0.113.5"
	for _, c := range []struct {
		name    string
		peer    string
		headers []string // of X-Forwarded-For, one line each
		other   map[string]string
		want    string
	}{
		{name: "no header", peer: proxy, want: "192.0.2.9"},
		{name: "one hop", peer: proxy, headers: []string{client}, want: client},
		{name: "from nobody's proxy", peer: "203.0.113.9:1", headers: []string{"10.1.1.1"}, want: "203.0.113.9"},
		{name: "the client wrote one itself", peer: proxy, headers: []string{"10.1.1.1, " + client}, want: client},
		{name: "the client wrote a trusted one", peer: proxy, headers: []string{"192.0.2.1, " + client}, want: client},
		{name: "and a line of its own", peer: proxy, headers: []string{"10.1.1.1", client}, want: client},
		{name: "two proxies", peer: proxy, headers: []string{client + ", 10.0.0.7"}, want: client},
		{name: "two proxies, two lines", peer: proxy, headers: []string{"6.6.6.6, " + client, "10.0.0.7"}, want: client},
		{name: "only proxies", peer: proxy, headers: []string{"192.0.2.3, 10.0.0.7"}, want: "192.0.2.3"},
		{name: "a neighbour of the proxy", peer: proxy, headers: []string{client + ", 10.0.0.8"}, want: "10.0.0.8"},
		{name: "version 6", peer: "[2001:db8:1::5]:443", headers: []string{"2001:db8:2::1"}, want: "2001:db8:2::1"},
		{name: "version 6 in brackets", peer: proxy, headers: []string{"[2001:db8:2::1]"}, want: "2001:db8:2::1"},
		{name: "version 6 with a port", peer: proxy, headers: []string{"[2001:db8:2::1]:4711"}, want: "2001:db8:2::1"},
		{name: "version 6 with a zone", peer: proxy, headers: []string{"fe80::1%eth0"}, want: "fe80::1"},
		{name: "peer with a zone", peer: "[2001:db8:1::5%eth0]:443", headers: []string{client}, want: client},
		{name: "version 4 with a port", peer: proxy, headers: []string{client + ":80"}, want: client},
		{name: "version 4 inside 6", peer: "[::ffff:192.0.2.9]:1", headers: []string{"::ffff:203.0.113.5"}, want: client},
		{name: "a prefix of 4 inside 6", peer: "198.51.100.3:1", headers: []string{client}, want: client},
		{name: "peer on loopback", peer: "127.0.0.1:9", headers: []string{client}, want: client},
		{name: "the client says loopback", peer: proxy, headers: []string{"127.0.0.1"}, want: "192.0.2.9"},
		{name: "the client says loopback, version 6", peer: proxy, headers: []string{"::1"}, want: "192.0.2.9"},
		{name: "a chain by way of loopback", peer: proxy, headers: []string{client + ", 127.0.0.1"}, want: "192.0.2.9"},
		{name: "nowhere", peer: proxy, headers: []string{"0.0.0.0"}, want: "192.0.2.9"},
		{name: "empty", peer: proxy, headers: []string{""}, want: "192.0.2.9"},
		{name: "empty at the end", peer: proxy, headers: []string{client + ","}, want: "192.0.2.9"},
		{name: "spaces and tabs", peer: proxy, headers: []string{" 6.6.6.6 ,\t" + client + " "}, want: client},
		{name: "unknown", peer: proxy, headers: []string{client + ", unknown"}, want: "192.0.2.9"},
		{name: "obfuscated", peer: proxy, headers: []string{"_hidden"}, want: "192.0.2.9"},
		{name: "garbage behind a good one", peer: proxy, headers: []string{client + ", 10.0.0.7, <script>"}, want: "192.0.2.9"},
		{name: "garbage before a good one", peer: proxy, headers: []string{"<script>, " + client}, want: client},
		{name: "number with zeros", peer: proxy, headers: []string{"203.0.113.005"}, want: "192.0.2.9"},
		{name: "number alone", peer: proxy, headers: []string{"3405803781"}, want: "192.0.2.9"},
		{name: "a prefix", peer: proxy, headers: []string{"203.0.113.0/24"}, want: "192.0.2.9"},
		{name: "a name", peer: proxy, headers: []string{"example.com"}, want: "192.0.2.9"},
		{name: "in the other header's form", peer: proxy, headers: []string{"for=203.0.113.5"}, want: "192.0.2.9"},
		{name: "the other headers", peer: proxy, want: "192.0.2.9",
			other: map[string]string{"Forwarded": "for=" + client, "X-Real-IP": client, "X-Forwarded": client, "X-Client-IP": client}},
		{name: "the other headers beside it", peer: proxy, headers: []string{client}, want: client,
			other: map[string]string{"Forwarded": "for=6.6.6.6", "X-Real-IP": "6.6.6.6"}},
		{name: "ten thousand forged hops", peer: proxy, headers: []string{strings.Repeat("10.0.0.7,", 10_000) + client}, want: client},
		{name: "no peer", peer: "@", headers: []string{client}, want: "invalid IP"},
		{name: "peer is a name", peer: "localhost:80", headers: []string{client}, want: "invalid IP"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o, err := Options{Store: memory.New(), TrustedProxies: trusted}.withDefaults()
			require.NoError(t, err)
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = c.peer
			for _, line := range c.headers {
				r.Header.Add("x-forwarded-for", line)
			}
			for name, value := range c.other {
				r.Header.Set(name, value)
			}
			require.Equal(t, c.want, o.clientAddr(r).String())

			untrusting, err := Options{Store: memory.New()}.withDefaults()
			require.NoError(t, err)
			require.Equal(t, remoteAddr(c.peer), untrusting.clientAddr(r), "nobody is believed by default")
		})
	}
}

func TestTrustedProxiesAreChecked(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]netip.Prefix{
		"none":                  {},
		"everybody":             netip.MustParsePrefix("0.0.0.0/0"),
		"everybody, version 6":  netip.MustParsePrefix("::/0"),
		"everybody, 4 inside 6": netip.MustParsePrefix("::ffff:0:0/96"),
		"no such length":        netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 33),
	} {
		_, err := Options{Store: memory.New(), TrustedProxies: []netip.Prefix{bad}}.withDefaults()
		require.ErrorContains(t, err, "Options.TrustedProxies", name)
	}
	given := prefixes("10.1.2.3/8")
	o, err := Options{Store: memory.New(), TrustedProxies: given}.withDefaults()
	require.NoError(t, err)
	require.Equal(t, prefixes("10.0.0.0/8"), o.TrustedProxies)
	require.Equal(t, prefixes("10.1.2.3/8"), given, "the caller's list is its own")
}

// Whatever proxies and headers say, only a direct peer is on this machine: what the hooks of H19 and transcripts rest on.
func TestForwardedRequestIsNeverFromThisMachine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, peer, header, value string
		want                      bool
	}{
		{name: "direct", peer: "127.0.0.1:1", want: true},
		{name: "direct, version 6", peer: "[::1]:1", want: true},
		{name: "direct, 4 inside 6", peer: "[::ffff:127.0.0.1]:1", want: true},
		{name: "from afar", peer: "192.0.2.7:1"},
		{name: "from afar, saying loopback", peer: "192.0.2.7:1", header: "X-Forwarded-For", value: "127.0.0.1"},
		{name: "by a proxy here", peer: "127.0.0.1:1", header: "X-Forwarded-For", value: "192.0.2.7"},
		{name: "by a proxy here, saying loopback", peer: "127.0.0.1:1", header: "X-Forwarded-For", value: "127.0.0.1"},
		{name: "by a proxy here, saying nothing", peer: "127.0.0.1:1", header: "X-Forwarded-For", value: ""},
		{name: "by a proxy here: Forwarded", peer: "127.0.0.1:1", header: "Forwarded", value: "for=127.0.0.1"},
		{name: "by a proxy here: X-Real-IP", peer: "127.0.0.1:1", header: "X-Real-IP", value: "127.0.0.1"},
		{name: "by a proxy here: X-Forwarded-Proto", peer: "127.0.0.1:1", header: "X-Forwarded-Proto", value: "https"},
		{name: "no peer", peer: ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = c.peer
			if c.header != "" {
				r.Header.Set(c.header, c.value)
			}
			require.Equal(t, c.want, fromThisMachine(r))
		})
	}
}

// A forged header must not cost much, nor crash.
func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"203.0.113.5", "a, [2001:db8::1]:80", ",,,", "fe80::1%eth0", "::ffff:1.2.3.4", "[", "]", "[]", ":", " ", "10.0.0.1,10.0.0.2"} {
		f.Add(s, "192.0.2.1:1")
	}
	o, err := Options{Store: memory.New(), TrustedProxies: prefixes("192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32")}.withDefaults()
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, header, peer string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = peer
		r.Header["X-Forwarded-For"] = []string{header}
		got := o.clientAddr(r)
		if direct := remoteAddr(peer); !o.trusts(direct) {
			require.Equal(t, direct, got, "who is not trusted is not believed")
			return
		}
		require.True(t, got.IsValid())
		require.False(t, got.IsLoopback(), "nobody becomes a loopback peer")
		require.Equal(t, plainAddr(got), got)
		// Whatever a client puts in front of what the proxy adds changes nothing.
		r.Header["X-Forwarded-For"] = []string{header + ", 203.0.113.5"}
		require.Equal(t, "203.0.113.5", o.clientAddr(r).String())
	})
}

// The maps of limits that strangers fill are bounded, every one of them, and are emptied again.
func TestRateLimitMapsAreBounded(t *testing.T) {
	t.Parallel()
	require.Equal(t, 100_000, maxBuckets)
	b, err := New(Options{Store: memory.New(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Shutdown(context.Background())) })
	at, found := time.Now(), 0
	fields := reflect.ValueOf(b).Elem()
	for i := range fields.NumField() {
		f := fields.Field(i)
		if f.Type() != reflect.TypeFor[*ratelimit.Buckets]() {
			continue
		}
		buckets := reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem().Interface().(*ratelimit.Buckets) // set once
		found++
		name := fields.Type().Field(i).Name
		for n := range maxBuckets + 1000 {
			buckets.Take(strconv.Itoa(n), at)
		}
		require.Equal(t, maxBuckets, buckets.Len(), name)
		require.NoError(t, b.sweepBuckets(t.Context(), at.Add(24*time.Hour)))
		require.Zero(t, buckets.Len(), name)
	}
	require.GreaterOrEqual(t, found, 9)
}
