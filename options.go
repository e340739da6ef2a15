package broker

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/claudemesh/broker/store"
)

// Options configure a [Broker]. The zero value of a field means its default; a negative number turns a limit off. docs/operations.md
// lists them with the environment variables that examples/standalone reads.
type Options struct {
	// Store keeps meshes, members and undelivered mail. Required; a typed nil is not detected. The caller closes it, after Shutdown.
	Store store.Store
	// Auth decides who a hello and who a REST request speaks for. Default: the members and API keys of Store.
	Auth Auth
	// Logger gets the broker's log. Default slog.Default(). No body, key, nonce or secret is ever logged.
	Logger *slog.Logger

	// Version and GitSHA appear in /health. Defaults "dev" and "unknown".
	Version string
	GitSHA  string

	// OriginPatterns are the origins other than the broker's own host whose pages may connect, such as "app.example.com" or
	// "https://*.example.com" (path.Match). Applies to WebSocket handshakes and to requests that a browser authenticates by cookie.
	OriginPatterns []string
	// TrustedProxies are the addresses of the proxies in front of this broker. A request whose TCP peer is one of them counts as coming from
	// the rightmost address of its X-Forwarded-For that is not one of them: for the limits that count by address, and for matching hooks to
	// sessions. It never makes anybody a loopback peer. Default: none, and forwarding headers are not believed. Name no network in which
	// clients are: they could choose their address.
	TrustedProxies []netip.Prefix

	// PingInterval is the time between pings to one peer. Default 30 s.
	PingInterval time.Duration
	// StaleAfter is how long a peer may show no sign of life, neither pong nor frame, before its connection is dropped. Default 75 s.
	StaleAfter time.Duration
	// HelloDeadline is how long a new connection has for an accepted hello. Default 10 s.
	HelloDeadline time.Duration
	// LeaseGrace is how long a session that lost its socket keeps its place. Default 90 s; negative: not at all.
	LeaseGrace time.Duration
	// LeaseOnCleanClose keeps the place also after a clean close by the client. Default false: a clean close ends the presence.
	LeaseOnCleanClose bool
	// StatusTTL is the age at which "working" decays to "idle". Default 60 s.
	StatusTTL time.Duration
	// HookFreshWindow is how long a hook's status outweighs weaker sources. Default 30 s.
	HookFreshWindow time.Duration
	// TransportConfirmDelay is the wait between pushes to a client that never acknowledges and the ping whose pong confirms them.
	// Default 500 ms.
	TransportConfirmDelay time.Duration
	// RedeliverAfter is how long a pushed message may stay unacknowledged on a live connection before it is pushed again. Default
	// 30 s, and ten times that from the fifth attempt on.
	RedeliverAfter time.Duration
	// MessageTTL is how long an undelivered message is kept. Default 7 days.
	MessageTTL time.Duration
	// TopicRetention is how long topic messages are kept. Default (0): as long as the store keeps them.
	TopicRetention time.Duration
	// SessionMailTTL is how long mail addressed to one session waits after that session was last seen. Default 24 h.
	SessionMailTTL time.Duration
	// AuditCheckpointInterval is the time after which a mesh's audit log gets a signed checkpoint, besides the one each 1000 entries and at each
	// export. It is looked at every minute. Default 1 h; negative: never, so that a log that lost its end looks like one in which nothing happened.
	AuditCheckpointInterval time.Duration

	// MaxMessageBytes bounds ciphertext, nonce and targetSpec of a message together. Default 65,536, at most 1 MiB less 16 KiB.
	MaxMessageBytes int
	// MaxConnectionsPerMesh bounds the presences of a mesh, online and in grace. Default 100.
	MaxConnectionsPerMesh int
	// MaxPresencesPerMember bounds the presences of one member. Default 32; the oldest in grace makes room first.
	MaxPresencesPerMember int
	// MaxPendingHandshakes bounds connections without an accepted hello; beyond it upgrades are answered 503. Default 1000.
	MaxPendingHandshakes int
	// MaxPendingHandshakesPerAddr is the same for one remote address (IPv6: its /64). Default 50.
	MaxPendingHandshakesPerAddr int
	// HandshakesPerSecondPerAddr bounds new connections of one remote address (IPv6: its /64). Default 20, with a burst of three seconds' worth.
	HandshakesPerSecondPerAddr int
	// SendRatePerMin and SendRateBurst are a member's message budget. Defaults 60 and 10.
	SendRatePerMin int
	SendRateBurst  int
	// DeliveryRatePerMin is how many deliveries a minute a member may cause: a message costs one for each recipient. A minute's worth may be
	// used at once; a message to more recipients than that needs the whole of it, and the rest is owed. Default 60,000.
	DeliveryRatePerMin int
	// InboundBytesPerSec is how fast the frames of one member, all its connections together, are read; a burst of four seconds' worth is
	// read at once. Over it reading pauses, and nothing is dropped or refused. Acknowledgements do not count. Default 262,144.
	InboundBytesPerSec int
	// ControlRatePerMin and ControlRateBurst are a connection's budget of other requests. Defaults 600 and 120.
	ControlRatePerMin int
	ControlRateBurst  int
	// APIRatePerMin is an API key's budget of requests other than posts. Default 600.
	APIRatePerMin int
	// AuthFailAddrRatePerMin is a remote address's budget of failed authentications over REST. Default 60.
	AuthFailAddrRatePerMin int
	// JoinAddrRatePerMin is a remote address's budget of joins, claims and uploads of short links together. Default 30.
	JoinAddrRatePerMin int
	// HookRatePerMin is the budget of hook signals per pid and directory, HookAddrRatePerMin per remote address. Defaults 30 and 300.
	HookRatePerMin     int
	HookAddrRatePerMin int
	// MaxPendingPerRecipient bounds one mailbox, MaxPendingPerSender the part of it that one sender may fill. Defaults 1000 and a
	// quarter of the former. Priority "now" has 100 places of its own besides, a quarter of them per sender.
	MaxPendingPerRecipient int
	MaxPendingPerSender    int
	// MaxMembersPerMesh, MaxTopicsPerMesh and MaxTopicsPerMember bound a mesh. Defaults 10,000, 1000 and 100.
	MaxMembersPerMesh  int
	MaxTopicsPerMesh   int
	MaxTopicsPerMember int
	// MaxStateKeysPerMesh bounds the keys of a mesh's shared state, MaxStateKeysPerMember those that one member was the last to set, and
	// MaxStateBytesPerMesh keys and values together. Defaults 10,000, 500 and 8 MiB.
	MaxStateKeysPerMesh   int
	MaxStateKeysPerMember int
	MaxStateBytesPerMesh  int
	// MaxGrantsPerMember bounds a member's grant entries. Default 1000.
	MaxGrantsPerMember int
	// MaxAPIKeysPerMember bounds a member's live API keys. Default 100.
	MaxAPIKeysPerMember int
	// MaxStreamsPerKey bounds the event streams of one API key. Default 10.
	MaxStreamsPerKey int

	// HookToken is the bearer token that POST /hook/set-status requires of everyone.
	HookToken string
	// InsecureOpenHook hears hooks without a token from everyone: whoever reaches the broker, a web page in a user's browser included,
	// can set the status of any session whose directory it guesses, and so hold back or release its mail.
	InsecureOpenHook bool
	// HookLoopback says that the host serves this broker on a loopback listener of its own, not behind a proxy, so that a direct
	// loopback peer may send hooks without a token. Without it and without HookToken the route answers 403.
	HookLoopback bool
	// InferStatus reads the status of loopback sessions from transcripts below this home directory (docs/presence.md). Default "": off.
	InferStatus string

	// TopicKeys says who makes the key of a topic whose creator brings none. Default BrokerSeal.
	TopicKeys TopicKeyPolicy
	// RequireEncryptedTopics refuses unencrypted posts (body version 1) to topics that have a key.
	RequireEncryptedTopics bool
	// RequireJoinProof refuses a /join without a signature by the joining key. Older clients send none.
	RequireJoinProof bool
	// AllowHelloReplay turns the replay cache of older hellos off: whoever captures one can sign in with it for a minute, with a session
	// key of its own, and read the member's mail.
	AllowHelloReplay bool
	// JoinCORS answers /join and the claims of invites with CORS headers, so that pages of any origin can join. Off by default.
	JoinCORS bool
	// InviteV2 takes invites of version 2, short links to a code. For them the broker keeps the mesh's root key, which it hands out sealed, and who
	// finds a code can join: claims are limited as joins are (JoinAddrRatePerMin). Off by default.
	InviteV2 bool
}

// TopicKeyPolicy says who makes the key of a topic whose creator brings none.
type TopicKeyPolicy string

const (
	// BrokerSeal makes a key and seals it for the creator, then forgets it, so that older clients can encrypt.
	BrokerSeal TopicKeyPolicy = "broker-seal"
	// ClientClaim never makes a key: such a topic is unencrypted until a client claims one. The broker then never holds a key at all.
	ClientClaim TopicKeyPolicy = "client-claim"
)

// Fixed bounds; docs/protocol.md, limits.
const (
	maxFrame         = 1 << 20            // an authenticated frame above it closes 1009
	helloFrame       = 24 << 10           // a frame before the hello is accepted
	helloBytes       = 32 << 10           // all frames before the hello is accepted
	helloFrames      = 4                  // their number
	frameSlack       = 8192               // what a frame may hold besides the message itself
	maxInFlightSends = 256                // sends of one connection that wait for their commit
	maxUnwritten     = 1 << 20            // bytes that wait to be written to one connection
	maxUnwrittenN    = 1024               // frames that wait to be written to one connection
	maxUnacked       = 1000               // pushes of one connection that wait for their acknowledgement
	pullPage         = 64                 // rows of one pull
	maxReply         = 16 << 20           // a reply that is refused as too large
	maxPage          = 4 << 20            // a history page is cut here
	drainTime        = 5 * time.Second    // how long a connection that cannot be written to is still read
	storeTimeout     = 5 * time.Second    // one store operation of a batch
	recentBytes      = 4 << 20            // messages of one mesh that are kept at hand
	nowPlaces        = 100                // mailbox places that only priority now may take
	maxSessionSeen   = 7 * 24 * time.Hour // how long a session key stays an address
)

// withDefaults returns a copy with every default filled in, or an error that names the field.
func (o Options) withDefaults() (Options, error) {
	if o.Store == nil { // never fall back to memory: an ack would promise what it cannot keep
		return o, errors.New("broker: Options.Store is nil; use memory.New() for a broker that forgets")
	}
	if o.HookToken != "" && o.InsecureOpenHook {
		return o, errors.New("broker: Options.HookToken and Options.InsecureOpenHook contradict each other; set one")
	}
	for _, p := range o.OriginPatterns {
		if _, err := path.Match(strings.ToLower(p), ""); err != nil {
			return o, fmt.Errorf("broker: Options.OriginPatterns: %q is no pattern: %w", p, err)
		}
	}
	var err error
	if o.TrustedProxies, err = checkProxies(o.TrustedProxies); err != nil {
		return o, err
	}
	if o.MaxMessageBytes > maxFrame-2*frameSlack {
		return o, fmt.Errorf("broker: Options.MaxMessageBytes is %d; at most %d", o.MaxMessageBytes, maxFrame-2*frameSlack)
	}
	o.TopicKeys = cmp.Or(o.TopicKeys, BrokerSeal)
	if o.TopicKeys != BrokerSeal && o.TopicKeys != ClientClaim {
		return o, fmt.Errorf("broker: Options.TopicKeys is %q; use BrokerSeal or ClientClaim", o.TopicKeys)
	}
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.Version = cmp.Or(o.Version, "dev")
	o.GitSHA = cmp.Or(o.GitSHA, "unknown")
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&o.PingInterval, 30 * time.Second},
		{&o.StaleAfter, 75 * time.Second},
		{&o.HelloDeadline, 10 * time.Second},
		{&o.LeaseGrace, 90 * time.Second},
		{&o.StatusTTL, 60 * time.Second},
		{&o.HookFreshWindow, 30 * time.Second},
		{&o.TransportConfirmDelay, 500 * time.Millisecond},
		{&o.RedeliverAfter, 30 * time.Second},
		{&o.MessageTTL, 7 * 24 * time.Hour},
		{&o.SessionMailTTL, 24 * time.Hour},
		{&o.AuditCheckpointInterval, time.Hour},
	} {
		*d.field = cmp.Or(*d.field, d.value)
	}
	for _, n := range []struct {
		field *int
		value int
	}{
		{&o.MaxMessageBytes, 65536},
		{&o.MaxConnectionsPerMesh, 100},
		{&o.MaxPresencesPerMember, 32},
		{&o.MaxPendingHandshakes, 1000},
		{&o.MaxPendingHandshakesPerAddr, 50},
		{&o.HandshakesPerSecondPerAddr, 20},
		{&o.SendRatePerMin, 60},
		{&o.SendRateBurst, 10},
		{&o.DeliveryRatePerMin, 60_000},
		{&o.InboundBytesPerSec, 256 << 10},
		{&o.ControlRatePerMin, 600},
		{&o.ControlRateBurst, 120},
		{&o.APIRatePerMin, 600},
		{&o.AuthFailAddrRatePerMin, 60},
		{&o.JoinAddrRatePerMin, 30},
		{&o.HookRatePerMin, 30},
		{&o.HookAddrRatePerMin, 300},
		{&o.MaxPendingPerRecipient, 1000},
		{&o.MaxMembersPerMesh, 10_000},
		{&o.MaxTopicsPerMesh, 1000},
		{&o.MaxTopicsPerMember, 100},
		{&o.MaxStateKeysPerMesh, 10_000},
		{&o.MaxStateKeysPerMember, 500},
		{&o.MaxStateBytesPerMesh, 8 << 20},
		{&o.MaxGrantsPerMember, 1000},
		{&o.MaxAPIKeysPerMember, 100},
		{&o.MaxStreamsPerKey, 10},
	} {
		*n.field = cmp.Or(*n.field, n.value)
	}
	if o.MaxMessageBytes < 0 {
		o.MaxMessageBytes = maxFrame - 2*frameSlack
	}
	if o.MaxPendingPerSender == 0 {
		o.MaxPendingPerSender = o.MaxPendingPerRecipient / 4
	}
	return o, nil
}

// Unlimited returns o with every rate and quota lifted that a load test would meet: send, delivery, control, API and handshake rates, inbound bytes, and
// the numbers of connections, handshakes and presences; a mailbox takes a million. Benchmarks and fault tests share it; a broker that strangers reach should not use it.
func (o Options) Unlimited() Options {
	o.SendRatePerMin, o.ControlRatePerMin, o.APIRatePerMin = -1, -1, -1
	o.DeliveryRatePerMin, o.InboundBytesPerSec = -1, -1
	o.MaxConnectionsPerMesh, o.MaxPresencesPerMember = -1, -1
	o.MaxPendingHandshakes, o.MaxPendingHandshakesPerAddr, o.HandshakesPerSecondPerAddr = -1, -1, -1
	o.MaxPendingPerRecipient, o.MaxPendingPerSender = 1_000_000, -1
	o.JoinAddrRatePerMin, o.HookRatePerMin, o.HookAddrRatePerMin = -1, -1, -1
	return o
}

func (o *Options) quota() store.Quota {
	now, perSender := nowPlaces, nowPlaces/4
	if o.MaxPendingPerSender < 0 {
		perSender = 0
	}
	return store.Quota{PerMailbox: o.MaxPendingPerRecipient, PerSender: o.MaxPendingPerSender, NowPlaces: now, NowPerSender: perSender}
}

// originAllowed reports whether a page of that Origin may act for its user here: none was sent, it is the request's own host, or
// one of the patterns matches.
func (o *Options) originAllowed(origin, host string) bool {
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if strings.EqualFold(u.Host, host) {
		return true
	}
	for _, p := range o.OriginPatterns {
		target := u.Host
		if strings.Contains(p, "://") {
			target = u.Scheme + "://" + u.Host
		}
		if ok, err := path.Match(strings.ToLower(p), strings.ToLower(target)); err == nil && ok {
			return true
		}
	}
	return false
}

// limitOr gives n, or no limit (0, as the store contract has it) where it is negative.
func limitOr(n int) int { return max(n, 0) }
