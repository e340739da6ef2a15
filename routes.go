package broker

import (
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/claudemesh/broker/wire"
)

// Who may use what over HTTP, said once for each route, in the tables of this file. A route is made by a call of api or plain. Their arguments
// are positional and of types of their own, so that a route which does not say what it takes to be heard does not compile; what compiles and
// makes no sense fails at start-up. What the tables say is checked here, before a handler runs. docs/rest.md tells both tables for people, and tests
// hold the pages, the tables and what the broker answers together.

// need is what a key must be capable of for a route.
type need string

const (
	needRead need = wire.KeyRead
	needSend need = wire.KeySend
	needKey  need = "any" // any valid key
)

// topicIn says where a request names its topic, which must lie in the key's scope and be visible to its issuer.
type topicIn string

const (
	topicNone topicIn = "none" // no one topic: what the request reads is filtered by scope and visibility
	topicPath topicIn = "path" // {name}
	topicBody topicIn = "body" // the operation's read sets apiCall.ref
)

// issuerNeed says whether a key must speak for a member.
type issuerNeed string

const (
	issuerNeeded   issuerNeed = "yes"
	issuerOptional issuerNeed = "no"
)

// bodyKind says what a request brings with it.
type bodyKind string

const (
	jsonBody bodyKind = "json" // one JSON object, which says so: a page of another origin cannot send that unasked
	noBody   bodyKind = "none" // what comes all the same cannot be read
)

// pace says what paces the requests of a route.
type pace string

const (
	keyPace    pace = "key"    // that of the key
	memberPace pace = "member" // that of the member's messages
)

// apiRoute is one line of the REST API.
type apiRoute struct {
	method string
	path   string // below /v1 and /api/v1
	need   need
	topic  topicIn
	issuer issuerNeed
	body   bodyKind
	pace   pace
	open   func() operation
}

// api makes a route of the REST API.
func api(method, path string, n need, t topicIn, i issuerNeed, b bodyKind, by pace, open func() operation) apiRoute {
	return apiRoute{method, path, n, t, i, b, by, open}
}

// with makes the operation of a route.
func with[T any, P interface {
	*T
	operation
}]() operation {
	return P(new(T))
}

// apiRoutes is the REST API.
var apiRoutes = checkAPI([]apiRoute{
	api("POST", "/messages", needSend, topicBody, issuerNeeded, jsonBody, memberPace, with[postMessage]),
	api("GET", "/topics", needRead, topicNone, issuerOptional, noBody, keyPace, with[getTopics]),
	api("GET", "/topics/{name}/messages", needRead, topicPath, issuerOptional, noBody, keyPace, with[getMessages]),
	api("GET", "/topics/{name}/stream", needRead, topicPath, issuerOptional, noBody, keyPace, with[getStream]),
	api("PATCH", "/topics/{name}/read", needRead, topicPath, issuerNeeded, noBody, keyPace, with[patchRead]),
	api("GET", "/topics/{name}/key", needRead, topicPath, issuerNeeded, noBody, keyPace, with[getKey]),
	api("DELETE", "/topics/{name}/key", needRead, topicPath, issuerNeeded, noBody, keyPace, with[deleteKey]),
	api("GET", "/topics/{name}/pending-seals", needRead, topicPath, issuerOptional, noBody, keyPace, with[getPendingSeals]),
	api("POST", "/topics/{name}/seal", needRead, topicPath, issuerNeeded, jsonBody, keyPace, with[postSeal]),
	api("POST", "/topics/{name}/claim-key", needSend, topicPath, issuerNeeded, jsonBody, keyPace, with[postClaim]),
	api("GET", "/notifications", needRead, topicNone, issuerOptional, noBody, keyPace, with[getNotifications]),
	api("POST", "/notifications/read", needRead, topicNone, issuerNeeded, jsonBody, keyPace, with[postNotificationsRead]),
	api("GET", "/peers", needRead, topicNone, issuerOptional, noBody, keyPace, with[getPeers]),
	api("GET", "/members", needRead, topicNone, issuerOptional, noBody, keyPace, with[getMembers]),
	api("POST", "/me/peer-pubkey", needKey, topicNone, issuerNeeded, jsonBody, keyPace, with[postPeerPubkey]),
})

// checkAPI refuses, at start-up, a route that does not say who may use it.
func checkAPI(all []apiRoute) []apiRoute {
	for _, rt := range all {
		switch {
		case rt.need != needRead && rt.need != needSend && rt.need != needKey,
			rt.topic != topicNone && rt.topic != topicPath && rt.topic != topicBody,
			rt.issuer != issuerNeeded && rt.issuer != issuerOptional,
			rt.pace != keyPace && rt.pace != memberPace,
			strings.Contains(rt.path, "{name}") != (rt.topic == topicPath),
			rt.topic == topicBody && rt.body != jsonBody,
			!fits(rt.method, rt.body), rt.open == nil:
			panic(fmt.Sprintf("broker: route %s %s does not say what it takes", rt.method, rt.path)) // by our own mistake
		}
	}
	return all
}

// fits reports whether requests of a method can bring such a body.
func fits(method string, b bodyKind) bool {
	switch method {
	case http.MethodGet, http.MethodDelete:
		return b == noBody
	case http.MethodPost, http.MethodPut:
		return b == jsonBody
	case http.MethodPatch:
		return b == jsonBody || b == noBody
	default:
		return false
	}
}

// callerKind is who may use a route outside the API, where there are no keys.
type callerKind string

const (
	callerAnyone  callerKind = "anyone"  // what it answers is no secret, and changes nothing
	callerPeer    callerKind = "peer"    // a WebSocket: its page must come from an allowed origin, and then its hello decides
	callerHook    callerKind = "hook"    // whom mayHook hears
	callerInvited callerKind = "invited" // who brings an invite, which the handler checks; attempts of an address are paced
)

// pageKind says of which origin a page must be to read the answers of a route.
type pageKind string

const (
	anyPage  pageKind = "any"
	ownPage  pageKind = "own"  // the route changes something, or lets in
	joinPage pageKind = "join" // ownPage, unless the host opens it (Options.JoinCORS)
)

// plainRoute is one line of what is served outside the API.
type plainRoute struct {
	method string
	path   string
	caller callerKind
	pages  pageKind
	body   bodyKind
	serve  func(*Broker, http.ResponseWriter, *http.Request)
}

// plain makes a route outside the API.
func plain(method, path string, who callerKind, p pageKind, b bodyKind, serve func(*Broker, http.ResponseWriter, *http.Request)) plainRoute {
	return plainRoute{method, path, who, p, b, serve}
}

// plainRoutes is everything outside the API.
var plainRoutes = checkPlain([]plainRoute{
	plain("GET", "/ws", callerPeer, ownPage, noBody, (*Broker).serveWS),
	plain("GET", "/health", callerAnyone, anyPage, noBody, (*Broker).serveHealth),
	plain("GET", "/health/ready", callerAnyone, anyPage, noBody, (*Broker).serveReady),
	plain("GET", "/metrics", callerAnyone, anyPage, noBody, (*Broker).serveMetrics),
	plain("GET", "/api/public/invite-code/{code}", callerAnyone, anyPage, noBody, (*Broker).serveInviteCode),
	plain("POST", "/hook/set-status", callerHook, ownPage, jsonBody, (*Broker).serveHook),
	plain("POST", "/join", callerInvited, joinPage, jsonBody, (*Broker).serveJoin),
	plain("POST", "/invites/{code}/claim", callerInvited, joinPage, jsonBody, (*Broker).serveInviteClaim),
	plain("POST", "/api/public/invites/{code}/claim", callerInvited, joinPage, jsonBody, (*Broker).serveInviteClaim),
})

// checkPlain is [checkAPI] for the other table.
func checkPlain(all []plainRoute) []plainRoute {
	for _, rt := range all {
		open := rt.caller == callerAnyone
		switch {
		case !open && rt.caller != callerPeer && rt.caller != callerHook && rt.caller != callerInvited,
			rt.pages != anyPage && rt.pages != ownPage && rt.pages != joinPage,
			open != (rt.pages == anyPage), // what anybody may ask changes nothing, and what changes something is no page's to ask
			open && rt.method != http.MethodGet,
			!fits(rt.method, rt.body), rt.serve == nil:
			panic(fmt.Sprintf("broker: route %s %s does not say who may use it", rt.method, rt.path)) // by our own mistake
		}
	}
	return all
}

// apiPrefixes are where the REST API is: older clients put /api in front.
var apiPrefixes = []string{"/v1", "/api/v1"}

// routes builds the mux of everything that the broker serves: the two tables, and what answers the rest.
func (b *Broker) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for _, prefix := range apiPrefixes {
		for i := range apiRoutes {
			rt := &apiRoutes[i]
			mux.HandleFunc(rt.method+" "+prefix+rt.path, func(w http.ResponseWriter, r *http.Request) { b.serveAPI(w, r, rt) })
		}
		unknown := func(w http.ResponseWriter, r *http.Request) { b.serveAPI(w, r, nil) }
		mux.HandleFunc(prefix, unknown)
		mux.HandleFunc(prefix+"/", unknown)
	}
	for i := range plainRoutes {
		rt := &plainRoutes[i]
		mux.HandleFunc(rt.method+" "+rt.path, func(w http.ResponseWriter, r *http.Request) { b.servePlain(w, r, rt) })
		mux.HandleFunc("OPTIONS "+rt.path, func(w http.ResponseWriter, _ *http.Request) {
			b.plainCORS(w.Header(), rt)
			w.WriteHeader(http.StatusNoContent)
		})
	}
	mux.HandleFunc("/", serveNotFound)
	return mux
}

// servePlain runs a request of a route outside the API, once the table is satisfied.
func (b *Broker) servePlain(w http.ResponseWriter, r *http.Request, rt *plainRoute) {
	b.plainCORS(w.Header(), rt)
	switch rt.caller {
	case callerAnyone:
		takeBody(r, rt.body)
		rt.serve(b, w, r)
		return
	case callerPeer:
		if !b.opts.originAllowed(r.Header.Get("Origin"), r.Host) {
			http.Error(w, "request Origin is not allowed", http.StatusForbidden)
			return
		}
		rt.serve(b, w, r) // through a gate of its own
		return
	case callerHook, callerInvited:
	}
	if !b.work.enterSession() {
		refuseShape(w, http.StatusServiceUnavailable, "shutting down", time.Second)
		return
	}
	defer b.work.leaveSession()
	addr, t := b.opts.addrKey(r), time.Now()
	attempts := b.joinAddrs
	if rt.caller == callerHook {
		b.metrics.hooks.Inc()
		if !b.mayHook(r) {
			refuseShape(w, http.StatusForbidden, "forbidden", 0)
			return
		}
		attempts = b.hookAddrs
	}
	if !attempts.Take(addr, t) {
		if rt.caller == callerHook {
			b.metrics.hooksLimited.Inc()
		}
		refuseShape(w, http.StatusTooManyRequests, "rate limited", attempts.RetryAfter(addr, t))
		return
	}
	if !takeBody(r, rt.body) {
		refuseShape(w, http.StatusUnsupportedMediaType, "unsupported media type", 0)
		return
	}
	rt.serve(b, w, r)
}

// takeBody reports whether a request brings the body that its route takes. One that the route does not take cannot be read any more.
func takeBody(r *http.Request, b bodyKind) bool {
	if b != jsonBody {
		r.Body = http.NoBody
		return true
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "application/json" && len(r.Header["Content-Type"]) == 1
}

// plainCORS lets pages read the answers of a route, where it is open to them.
func (b *Broker) plainCORS(h http.Header, rt *plainRoute) {
	if rt.pages == anyPage || rt.pages == joinPage && b.opts.JoinCORS {
		brokerCORS(h)
	}
}

func brokerCORS(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Content-Type, X-Mesh-Id, X-Member-Id, X-File-Name, X-Tags, X-Persistent, X-Target-Spec")
}

// serveNotFound answers what the broker does not have, preflights of pages included.
func serveNotFound(w http.ResponseWriter, r *http.Request) {
	brokerCORS(w.Header())
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	writeText(w, http.StatusNotFound, "not found")
}
