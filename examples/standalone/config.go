package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/claudemesh/broker"
)

// config is what environment and flags say.
type config struct {
	host, port string
	seed       string // file, empty: none
	database   string
	url        string // for the invite; empty: the listening address
	level      slog.Level
	options    broker.Options
}

// setting is one value, settable by an environment variable and by the flag of the same meaning.
type setting struct {
	env   string // empty: none
	flag  string
	value string // what it takes, for the help; empty: a switch, on or off
	help  string // with the default
	set   func(c *config, value string) error
}

// settings is everything there is to set; docs/operations.md has the same list. Of a limit, 0 or unset means the default and a negative
// number turns it off.
var settings = []setting{
	{"BROKER_HOST", "host", "ADDRESS", "address to listen on (127.0.0.1; 0.0.0.0: every interface)", text(func(c *config) *string { return &c.host })},
	{"BROKER_PORT", "port", "PORT", "port to listen on (7900; 0: a free one)", setPort},
	{"", "listen", "ADDRESS:PORT", "both in one", setListen},
	{"", "url", "URL", "where members reach this broker, for the invite (ws://<listening address>/ws)", text(func(c *config) *string { return &c.url })},
	{"", "seed", "FILE", "make the meshes and members of this JSON file exist", text(func(c *config) *string { return &c.seed })},
	{"DATABASE_URL", "database-url", "URL", "where meshes are kept (memory:, the only one that this build has)", setDatabase},
	{"LOG_LEVEL", "log-level", "LEVEL", "debug, info, warn or error (info)", setLevel},
	{"BROKER_TRUSTED_PROXIES", "trusted-proxies", "LIST", "proxies in front of this broker, whose X-Forwarded-For is believed: addresses and prefixes, with commas (none)",
		setProxies},
	{"GIT_SHA", "git-sha", "SHA", "the commit that /health shows (unknown)", text(func(c *config) *string { return &c.options.GitSHA })},

	{"STATUS_TTL_SECONDS", "status-ttl-seconds", "N", `age at which "working" becomes "idle" (60)`,
		duration(time.Second, func(o *broker.Options) *time.Duration { return &o.StatusTTL })},
	{"HOOK_FRESH_WINDOW_SECONDS", "hook-fresh-window-seconds", "N", "how long a hook's status outweighs weaker sources (30)",
		duration(time.Second, func(o *broker.Options) *time.Duration { return &o.HookFreshWindow })},
	{"LEASE_GRACE_SECONDS", "lease-grace-seconds", "N", "how long a session that lost its socket keeps its place (90)",
		duration(time.Second, func(o *broker.Options) *time.Duration { return &o.LeaseGrace })},
	{"LEASE_ON_CLEAN_CLOSE", "lease-on-clean-close", "", "keep the place after a clean close too (off)",
		onOff(func(c *config) *bool { return &c.options.LeaseOnCleanClose })},
	{"TRANSPORT_CONFIRM_DELAY_MS", "transport-confirm-delay-ms", "N", "wait before the ping that confirms pushes to older clients (500)",
		duration(time.Millisecond, func(o *broker.Options) *time.Duration { return &o.TransportConfirmDelay })},
	{"MESSAGE_TTL_HOURS", "message-ttl-hours", "N", "how long an undelivered message is kept (168)",
		duration(time.Hour, func(o *broker.Options) *time.Duration { return &o.MessageTTL })},

	{"MAX_MESSAGE_BYTES", "max-message-bytes", "N", "size of one message (65536)", setMessageBytes},
	{"MAX_CONNECTIONS_PER_MESH", "max-connections-per-mesh", "N", "sessions of one mesh (100)",
		number(func(o *broker.Options) *int { return &o.MaxConnectionsPerMesh })},
	{"MAX_PENDING_PER_RECIPIENT", "max-pending-per-recipient", "N", "undelivered messages of one mailbox (1000)",
		number(func(o *broker.Options) *int { return &o.MaxPendingPerRecipient })},
	{"MAX_PENDING_HANDSHAKES", "max-pending-handshakes", "N", "connections that have not signed in yet (1000)",
		number(func(o *broker.Options) *int { return &o.MaxPendingHandshakes })},
	{"SEND_RATE_PER_MIN", "send-rate-per-min", "N", "messages of one member in a minute (60)",
		number(func(o *broker.Options) *int { return &o.SendRatePerMin })},
	{"SEND_RATE_BURST", "send-rate-burst", "N", "messages of one member at once (10)",
		number(func(o *broker.Options) *int { return &o.SendRateBurst })},
	{"CONTROL_RATE_PER_MIN", "control-rate-per-min", "N", "other requests of one connection in a minute (600)",
		number(func(o *broker.Options) *int { return &o.ControlRatePerMin })},
	{"API_RATE_PER_MIN", "api-rate-per-min", "N", "REST requests of one API key in a minute (600)",
		number(func(o *broker.Options) *int { return &o.APIRatePerMin })},
	{"AUTH_FAIL_ADDR_RATE_PER_MIN", "auth-fail-addr-rate-per-min", "N", "failed REST authentications of one address in a minute (60)",
		number(func(o *broker.Options) *int { return &o.AuthFailAddrRatePerMin })},
	{"JOIN_ADDR_RATE_PER_MIN", "join-addr-rate-per-min", "N", "joins of one address in a minute (30)",
		number(func(o *broker.Options) *int { return &o.JoinAddrRatePerMin })},
	{"HOOK_RATE_LIMIT_PER_MIN", "hook-rate-limit-per-min", "N", "hooks of one process and directory in a minute (30)",
		number(func(o *broker.Options) *int { return &o.HookRatePerMin })},
	{"HOOK_ADDR_RATE_PER_MIN", "hook-addr-rate-per-min", "N", "hooks of one address in a minute (300)",
		number(func(o *broker.Options) *int { return &o.HookAddrRatePerMin })},

	{"HOOK_TOKEN", "hook-token", "TOKEN", "bearer token that hooks must give (none: only this machine is heard; prefer the variable, flags show in ps)",
		text(func(c *config) *string { return &c.options.HookToken })},
	{"HOOK_ALLOW_REMOTE", "hook-allow-remote", "", "hear hooks from everyone without a token: whoever reaches this port can set any session's status (off)",
		onOff(func(c *config) *bool { return &c.options.InsecureOpenHook })},
	{"BROKER_INVITE_V2_ENABLED", "invite-v2", "", "take invites of version 2, short links; the broker then keeps the mesh's root key (off)",
		onOff(func(c *config) *bool { return &c.options.InviteV2 })},
}

// usageError is a mistake of whoever started the program.
type usageError struct{ error }

// parse reads environment and flags; a flag wins. Help goes to out and gives flag.ErrHelp; any other error is a usageError.
func parse(args []string, getenv func(string) string, out io.Writer) (*config, error) {
	c := &config{host: "127.0.0.1", port: "7900"}
	fs := flag.NewFlagSet("standalone", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // we say ourselves what is wrong, once
	fs.Usage = func() {}
	for _, s := range settings {
		if s.env != "" {
			if v := getenv(s.env); v != "" {
				if err := s.set(c, v); err != nil {
					return nil, usageError{fmt.Errorf("%s: %w", s.env, err)}
				}
			}
		}
		define := fs.Func
		if s.value == "" {
			define = fs.BoolFunc
		}
		define(s.flag, s.help, func(v string) error { return s.set(c, v) })
	}
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		help(out)
		return nil, err
	case err != nil:
		return nil, usageError{fmt.Errorf("%w; see --help", err)}
	case fs.NArg() > 0:
		return nil, usageError{fmt.Errorf("unexpected argument %q; see --help", fs.Arg(0))}
	case c.options.HookToken != "" && c.options.InsecureOpenHook:
		return nil, usageError{errors.New("HOOK_TOKEN and HOOK_ALLOW_REMOTE contradict each other; set one")}
	}
	return c, nil
}

func help(w io.Writer) {
	_, _ = io.WriteString(w, `Standalone runs a claudemesh broker: a WebSocket at /ws, a REST API under /v1, POST /join and /hook/set-status, /health and /metrics.

  go run ./examples/standalone [flags]

It prints one line of JSON on stdout when it listens, and everything else on stderr. On an empty store it makes a mesh "dev" and prints an
invite. SIGINT or SIGTERM ends it, quietly; a second one at once.

Flags, with the environment variable of the same meaning (a flag wins), and the default in brackets. Of a number, 0 means the default and
a negative one means none or no limit.

`)
	for _, s := range settings {
		head := strings.TrimSpace("-" + s.flag + " " + s.value)
		if s.env != "" {
			head += ", " + s.env
		}
		_, _ = fmt.Fprintf(w, "  %s\n        %s\n", head, s.help)
	}
}

func text(field func(*config) *string) func(*config, string) error {
	return func(c *config, v string) error {
		*field(c) = v
		return nil
	}
}

func onOff(field func(*config) *bool) func(*config, string) error {
	return func(c *config, v string) error {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", v)
		}
		*field(c) = on
		return nil
	}
}

// parseNumber reads a whole number that fits every option, also as seconds or hours.
func parseNumber(v string) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n > math.MaxInt32 || n < -math.MaxInt32 {
		return 0, fmt.Errorf("%q is not a whole number", v)
	}
	return n, nil
}

func number(field func(*broker.Options) *int) func(*config, string) error {
	return func(c *config, v string) (err error) {
		*field(&c.options), err = parseNumber(v)
		return err
	}
}

func duration(unit time.Duration, field func(*broker.Options) *time.Duration) func(*config, string) error {
	return func(c *config, v string) error {
		n, err := parseNumber(v)
		if err != nil {
			return err
		}
		if limit := int(100 * 365 * 24 * time.Hour / unit); n > limit {
			return fmt.Errorf("%d is more than a hundred years", n)
		}
		*field(&c.options) = time.Duration(n) * unit
		if n < 0 {
			*field(&c.options) = -1
		}
		return nil
	}
}

// maxMessageBytes is the largest broker.Options.MaxMessageBytes.
const maxMessageBytes = 1<<20 - 16<<10

func setMessageBytes(c *config, v string) (err error) {
	if c.options.MaxMessageBytes, err = parseNumber(v); err == nil && c.options.MaxMessageBytes > maxMessageBytes {
		return fmt.Errorf("%s is more than %d", v, maxMessageBytes)
	}
	return err
}

func setPort(c *config, v string) error {
	if _, err := strconv.ParseUint(v, 10, 16); err != nil {
		return fmt.Errorf("%q is not a port, 0 to 65535", v)
	}
	c.port = v
	return nil
}

func setListen(c *config, v string) error {
	host, port, err := net.SplitHostPort(v)
	if err != nil {
		return fmt.Errorf("%q is not of the form address:port", v)
	}
	c.host = host
	return setPort(c, port)
}

// setProxies reads addresses and prefixes between commas; broker.New checks the prefixes.
func setProxies(c *config, v string) error {
	c.options.TrustedProxies = nil
	for _, entry := range strings.Split(v, ",") {
		entry = strings.TrimSpace(entry)
		p, err := netip.ParsePrefix(entry)
		if a, addrErr := netip.ParseAddr(entry); addrErr == nil {
			p, err = netip.PrefixFrom(a.WithZone(""), a.BitLen()), nil
		}
		switch {
		case err != nil:
			return fmt.Errorf("%q is neither an address nor a prefix such as 10.0.0.0/8", entry)
		case p.Bits() == 0:
			return fmt.Errorf("%s would let everybody choose an address; name your proxies", entry)
		}
		c.options.TrustedProxies = append(c.options.TrustedProxies, p)
	}
	return nil
}

func setLevel(c *config, v string) error {
	levels := []string{"debug", "info", "warn", "error"}
	at := slices.Index(levels, strings.ToLower(v))
	if at < 0 {
		return fmt.Errorf("%q is not one of %s", v, strings.Join(levels, ", "))
	}
	c.level = slog.LevelDebug + slog.Level(4*at)
	return nil
}

func setDatabase(c *config, v string) error {
	scheme, _, _ := strings.Cut(v, ":") // the rest may hold a password
	switch scheme {
	case "memory":
		c.database = v
		return nil
	case "postgres", "postgresql", "sqlite":
		return fmt.Errorf("%s: this build keeps meshes in memory only; leave it unset", scheme)
	default:
		return errors.New("names no store of this build; leave it unset")
	}
}
