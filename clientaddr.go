package broker

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/claudemesh/broker/internal/ratelimit"
)

// Who is at the other end of a connection. Limits count by the client's address, and hooks are matched to sessions by it. That is the TCP peer,
// unless the peer is a proxy that the host trusts (Options.TrustedProxies): then it is whom the proxy says that it serves. Trust in "this very
// machine" never rests on what a header says.

// remoteAddr is the TCP peer of a request, as http.Server writes it. The zero Addr where it is not known.
func remoteAddr(hostport string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return plainAddr(ap.Addr())
}

// plainAddr is an address in its one spelling: IPv4 as itself, and no zone, which means something on one machine only.
func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// addrKey is the key under which the client of a request is limited.
func (o *Options) addrKey(r *http.Request) string { return ratelimit.AddrKey(o.clientAddr(r)) }

// clientAddr is the address of the client of a request; the zero Addr where it is not known. Each proxy adds whom it serves to the end of
// X-Forwarded-For, so reading starts there and goes on only as long as the speaker is trusted: what stands before the first address that is not
// trusted was written by a stranger. A hop that names nobody, or its own machine, leaves the client with the address of that hop.
//
// The header Forwarded (RFC 7239) is not read: a proxy that writes one of the two headers passes the other on as its client made it up, and
// nothing in a request tells which one the proxy wrote.
func (o *Options) clientAddr(r *http.Request) netip.Addr {
	addr := remoteAddr(r.RemoteAddr)
	lines := r.Header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0 && o.trusts(addr); i-- {
		for rest, more := lines[i], true; more && o.trusts(addr); {
			var entry string
			if at := strings.LastIndexByte(rest, ','); at >= 0 {
				rest, entry = rest[:at], rest[at+1:]
			} else {
				entry, more = rest, false
			}
			named, ok := forwardedFor(entry)
			if !ok || named.IsLoopback() || named.IsUnspecified() {
				return addr
			}
			addr = named
		}
	}
	return addr
}

// trusts reports whether what comes from an address may say whom it serves.
func (o *Options) trusts(addr netip.Addr) bool {
	if !addr.IsValid() {
		return false
	}
	for _, p := range o.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// forwardedFor reads one address of X-Forwarded-For: with or without a port, IPv6 with or without brackets.
func forwardedFor(s string) (netip.Addr, bool) {
	s = strings.Trim(s, " \t")
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return plainAddr(a), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return plainAddr(ap.Addr()), true
	}
	return netip.Addr{}, false
}

// checkProxies brings prefixes into the form that addresses are compared in.
func checkProxies(given []netip.Prefix) ([]netip.Prefix, error) {
	checked := make([]netip.Prefix, 0, len(given))
	for _, p := range given {
		if a, bits := p.Addr(), p.Bits(); a.Is4In6() && bits >= 96 {
			p = netip.PrefixFrom(a.Unmap(), bits-96)
		}
		switch {
		case !p.IsValid():
			return nil, fmt.Errorf("broker: Options.TrustedProxies: %s is no prefix; 192.0.2.1/32 is one address", p)
		case p.Bits() == 0:
			return nil, fmt.Errorf("broker: Options.TrustedProxies: %s would let everybody choose an address; name your proxies", p)
		}
		checked = append(checked, p.Masked())
	}
	return checked, nil
}

// isForwarded reports whether a request shows that it came by way of a proxy.
func isForwarded(h http.Header) bool {
	for name := range h {
		if name == "Forwarded" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			return true
		}
	}
	return false
}

// fromThisMachine reports whether a request comes straight from a process on this machine. Behind a proxy here everybody's TCP peer is loopback,
// so a request that was forwarded is not, whatever address the proxy gives.
func fromThisMachine(r *http.Request) bool {
	return remoteAddr(r.RemoteAddr).IsLoopback() && !isForwarded(r.Header)
}
