package broker_test

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"time"

	"github.com/claudemesh/broker/identity"
)

// What can happen in a mesh, for walls_test.go. An entry makes one random request. Its values come from a draw:
//
//	d.ref(kind)     something that is looked up: the mesh's own, another mesh's, or nobody's
//	d.name(kind)    something under which the mesh keeps a thing: known, new, or as another mesh has it
//	d.keepRef(kind) both: looked up, and kept if it is found
//	d.text(what)    a new text of the mesh
//
// and learn takes from the answer what later requests may name (d.r.know). Whatever else a new message type or route needs, a line here is enough.
// The weight is how often it happens. A type that the broker does not offer is passed over.

// wallType makes requests of one message type.
type wallType struct {
	weight int
	frame  func(d *draw) frame
	learn  func(d *draw, reply frame)
}

var wallTypes = map[string]wallType{
	// messages
	"send": {weight: 300, frame: wallSend, learn: func(d *draw, reply frame) { d.r.know("message", reply.Str("messageId")) }},
	"client_ack": {weight: 40, frame: func(d *draw) frame {
		f := frame{"brokerMessageId": d.ref("message")}
		if d.chance(2) {
			f = frame{"clientMessageId": d.ref("clientid")}
		}
		if d.chance(3) {
			f["brokerMessageIds"] = []string{d.ref("message"), d.own("message"), d.madeUp("message")}
		}
		if d.chance(4) {
			f["receipts"] = []frame{{"messageId": d.ref("message"), "ackedAt": time.Now().UnixMilli(), "signature": wallHex(d, 128)}}
		}
		return f
	}},
	"message_status": {weight: 50, frame: func(d *draw) frame {
		id := d.ref("message")
		if len(id) >= 32 && d.chance(3) {
			id = id[:8+d.n(24)]
		}
		return frame{"messageId": id}
	}},

	// sessions
	"set_status":  {weight: 30, frame: func(d *draw) frame { return frame{"status": d.pick("idle", "idle", "idle", "working", "dnd")} }},
	"set_summary": {weight: 20, frame: func(d *draw) frame { return frame{"summary": d.text("summary")} }},
	"set_stats":   {weight: 10, frame: func(d *draw) frame { return frame{"stats": frame{"messagesIn": d.n(100), "errors": d.n(3)}} }},
	"set_visible": {weight: 10, frame: func(d *draw) frame { return frame{"visible": !d.chance(3)} }},
	"set_profile": {weight: 10, frame: func(d *draw) frame {
		return frame{"title": d.text("title"), "bio": d.text("bio"), "avatar": d.text("avatar"), "capabilities": []string{d.text("skill")}}
	}},
	"join_group":  {weight: 10, frame: func(d *draw) frame { return frame{"name": d.name("group"), "role": d.text("role")} }},
	"leave_group": {weight: 15, frame: func(d *draw) frame { return frame{"name": d.ref("group")} }},
	"set_grants": {weight: 10, frame: func(d *draw) frame {
		var list any
		switch d.n(5) {
		case 0:
			list = []string{}
		case 1:
			list = []string{"dm"}
		case 2:
			list = []string{"dm", "broadcast"}
		}
		return frame{"grants": frame{d.ref(d.pick("key", "session")): list}}
	}},
	"attest": {weight: 10, frame: func(d *draw) frame {
		if d.p.session == nil || d.chance(3) { // for a session of another mesh, perhaps, by nobody
			return frame{"attestation": frame{
				"sessionPubkey": d.ref("session"), "parentMemberPubkey": d.ref("key"), "expiresAt": time.Now().Add(time.Hour).UnixMilli(), "signature": wallHex(d, 128),
			}}
		}
		a := identity.NewAttestation(d.p.d.key, d.p.session.Public(), time.Now())
		return frame{"attestation": frame{
			"sessionPubkey": a.SessionPubkey, "parentMemberPubkey": a.ParentPubkey, "expiresAt": a.ExpiresAt, "signature": a.Signature,
		}}
	}},
	"list_peers": {weight: 15, frame: func(*draw) frame { return frame{} }},
	"mesh_info":  {weight: 15, frame: func(*draw) frame { return frame{} }},

	// topics
	"topic_create": {weight: 15, frame: wallTopicCreate, learn: func(d *draw, reply frame) {
		if topic, ok := reply["topic"].(map[string]any); ok {
			d.r.know("topic", frame(topic).Str("id"))
		}
	}},
	"topic_list": {weight: 10, frame: func(*draw) frame { return frame{} }},
	"topic_join": {weight: 25, frame: func(d *draw) frame {
		return frame{"topic": wallTopic(d), "role": d.pick("", "lead", "member", "observer")}
	}},
	"topic_leave":   {weight: 10, frame: func(d *draw) frame { return frame{"topic": wallTopic(d)} }},
	"topic_members": {weight: 15, frame: func(d *draw) frame { return frame{"topic": wallTopic(d)} }},
	"topic_history": {weight: 20, frame: func(d *draw) frame {
		f := frame{"topic": wallTopic(d), "limit": 1 + d.n(20)}
		if d.chance(2) {
			f["beforeId"] = d.ref("message")
		}
		return f
	}},
	"topic_mark_read": {weight: 10, frame: func(d *draw) frame { return frame{"topic": wallTopic(d)} }},
	"topic_add": {weight: 15, frame: func(d *draw) frame {
		return frame{"topic": wallTopic(d), "member": d.ref(d.pick("member", "key")), "role": d.pick("", "member", "lead")}
	}},
	"topic_archive": {weight: 2, frame: func(d *draw) frame { return frame{"topic": d.ref("topic")} }},

	// API keys
	"apikey_create": {weight: 4, frame: wallAPIKey, learn: func(d *draw, reply frame) {
		d.r.know("apikey", reply.Str("id"))
		d.r.know("secret", reply.Str("secret"))
		d.r.know("prefix", reply.Str("prefix"))
	}},
	"apikey_list":   {weight: 4, frame: func(*draw) frame { return frame{} }},
	"apikey_revoke": {weight: 4, frame: func(d *draw) frame { return frame{"id": d.ref(d.pick("apikey", "prefix"))} }},

	// administration
	"kick":       {weight: 2, frame: func(d *draw) frame { return frame{"target": wallPerson(d)} }},
	"disconnect": {weight: 2, frame: func(d *draw) frame { return frame{"target": wallPerson(d)} }},
	"ban":        {weight: 1, frame: func(d *draw) frame { return frame{"target": wallPerson(d), "reason": d.text("reason")} }},
	"unban":      {weight: 6, frame: func(d *draw) frame { return frame{"target": wallPerson(d)} }},
	"list_bans":  {weight: 5, frame: func(*draw) frame { return frame{} }},
	"member_role": {weight: 3, frame: func(d *draw) frame {
		return frame{"member": d.ref(d.pick("member", "key")), "role": d.pick("admin", "member", "member")}
	}},

	// the audit log
	"audit_query": {weight: 8, frame: func(d *draw) frame {
		return frame{"limit": 1 + d.n(20), "offset": d.n(40), "eventType": d.pick("", "", "message_sent", "topic_created", "checkpoint")}
	}},
	"audit_verify": {weight: 1, frame: func(*draw) frame { return frame{} }},
	"audit_export": {weight: 2, frame: func(d *draw) frame { return frame{"afterId": d.n(1000), "limit": 1 + d.n(30)} }},

	// shared state
	"set_state": {weight: 20, frame: func(d *draw) frame {
		return frame{"key": d.name("state"), "value": frame{d.text("field"): d.text("value")}}
	}},
	"get_state":    {weight: 20, frame: func(d *draw) frame { return frame{"key": d.ref("state")} }},
	"delete_state": {weight: 5, frame: func(d *draw) frame { return frame{"key": d.ref("state")} }},
	"list_state":   {weight: 5, frame: func(d *draw) frame { return frame{"after": d.ref("state")} }},

	// invites
	"invite_create": {weight: 5, frame: wallInvite, learn: func(d *draw, reply frame) { d.r.know("invite", reply.Str("id")) }},
	"invite_list":   {weight: 3, frame: func(*draw) frame { return frame{} }},
	"invite_revoke": {weight: 2, frame: func(d *draw) frame { return frame{"id": d.ref("invite")} }},
}

func wallHex(d *draw, n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = "0123456789abcdef"[d.n(16)]
	}
	return string(out)
}

// wallTopic names a topic.
func wallTopic(d *draw) string { return d.ref(d.pick("topic", "topicname", "topicname")) }

// wallPerson names somebody as an admin does. What it finds is named by the broker, what it does not find is repeated.
func wallPerson(d *draw) string {
	v := d.ref(d.pick("name", "key", "session", "key"))
	if len(v) == 64 && d.chance(3) {
		v = v[:8+d.n(56)]
	}
	return v
}

func wallSend(d *draw) frame {
	f := frame{"nonce": "", "ciphertext": d.text("body"), "priority": d.pick("now", "next", "low")}
	switch d.n(8) {
	case 0, 1:
		f["targetSpec"] = d.ref("key")
	case 2:
		f["targetSpec"] = d.ref("session")
	case 3:
		f["targetSpec"] = d.pick("*", "@all")
	case 4:
		f["targetSpec"] = "@" + d.keepRef("group") // is stored, whether anybody is in the group or not
	default:
		f["targetSpec"] = "#" + wallTopic(d)
		if d.chance(3) {
			f["replyToId"] = d.ref("message")
		}
		switch d.n(4) {
		case 0:
			f["mentions"] = []string{d.ref("name")}
		case 1:
			f["ciphertext"] = base64.StdEncoding.EncodeToString([]byte("to @" + d.own("name") + " and @" + d.ref("name") + " " + d.text("body")))
			d.w.own(d.r, f["ciphertext"].(string))
		}
	}
	switch d.n(4) {
	case 0: // said before, perhaps, or by another mesh
		f["client_message_id"] = d.keepRef("clientid")
	case 1:
		f["client_message_id"] = d.name("clientid")
	}
	if d.chance(8) {
		f["id"] = d.text("id")
	}
	if d.chance(8) {
		f["request_fingerprint"] = wallHex(d, 64)
	}
	return f
}

// wallSealed makes a sealed copy of a key, as far as the broker can tell.
func wallSealed(d *draw) (pubkey, encryptedKey, nonce string) {
	raw := make([]byte, 80)
	for i := range raw {
		raw[i] = byte(d.n(256))
	}
	raw[31] &= 0x3f // else it is no key
	iv := make([]byte, 24)
	for i := range iv {
		iv[i] = byte(d.n(256))
	}
	return hexOf(raw[:32]), base64.StdEncoding.EncodeToString(raw), base64.StdEncoding.EncodeToString(iv)
}

func wallTopicCreate(d *draw) frame {
	f := frame{"description": d.text("description"), "visibility": d.pick("public", "public", "private", "dm")}
	if f["name"] = d.own("topicname"); d.chance(6) {
		f["name"] = d.name("topicname")
	}
	if d.chance(3) {
		f["encryptedKeyPubkey"], f["encryptedKey"], f["nonce"] = wallSealed(d)
	}
	return f
}

// wallMints bounds what a mesh has of things that its lists show for ever.
const wallMints = 100

func wallAPIKey(d *draw) frame {
	f := frame{"label": d.text("label"), "capabilities": []string{d.pick("read", "send", "state_write")}}
	if d.chance(4) {
		f["capabilities"] = []string{"admin"}
	}
	if d.chance(3) {
		f["topicScopes"] = []string{d.name("topicname"), "general"}
	}
	if d.r.minted++; d.r.minted > wallMints {
		f["label"] = ""
	}
	return f
}

// wallInvite is an invite of the mesh's owner's, or of another's.
func wallInvite(d *draw) frame {
	by, at := d.r, d.r
	if d.chance(4) {
		by = d.other()
	}
	if d.chance(4) {
		at = d.other()
		d.refs = append(d.refs, at.id) // inside the token
	}
	signed, err := identity.InviteV1{
		MeshID: at.id, MeshSlug: at.mark + "slug", BrokerURL: "ws://broker.test/ws", ExpiresAt: float64(time.Now().Unix() + 3600 + int64(d.n(1000))),
		MeshRootKey: base64.RawURLEncoding.EncodeToString(make([]byte, 32)), Role: d.pick("member", "admin"),
	}.Sign(by.owner)
	if err != nil {
		d.w.t.Errorf("invite: %v", err)
	}
	uses := 1 + d.n(3)
	if d.r.invited++; d.r.invited > wallMints {
		uses = -1
	}
	if d.chance(3) { // a short link
		id, code := identity.NewID(), identity.NewInviteCode()
		if d.chance(4) {
			code = d.keep(d.theirs("code")) // is in use, which it may hear
		}
		v2, err := identity.InviteV2{
			MeshID: at.id, InviteID: id, ExpiresAt: float64(time.Now().Unix()) + 3600, Role: d.pick("member", "admin"),
		}.Sign(by.owner)
		if err != nil {
			d.w.t.Errorf("invite: %v", err)
		}
		if by == d.r && at == d.r && uses > 0 {
			d.r.know("code", code)
		}
		return frame{"version": 2, "canonical": v2.Text(), "signature": v2.Signature, "code": code, "maxUses": uses}
	}
	return frame{"token": signed.Token(), "maxUses": uses}
}

// wallRoute makes requests of one route; nil: none this time.
type wallRoute struct {
	weight int
	call   func(d *draw) *wallCall
}

// withKey is a request with one of the mesh's keys.
func withKey(d *draw, c wallCall) *wallCall {
	c.secret = d.own("secret")
	if d.chance(40) { // or with one that nobody has: then nobody is answered
		c.secret, d.to = d.madeUp("secret"), nil
	}
	return &c
}

// atTopic is a request about a topic.
func atTopic(c wallCall) func(d *draw) *wallCall {
	return func(d *draw) *wallCall {
		c := c
		c.name = wallTopic(d)
		return withKey(d, c)
	}
}

var wallRoutes = map[string]wallRoute{
	"POST /messages": {weight: 60, call: func(d *draw) *wallCall {
		f := wallSend(d)
		for _, name := range []string{"targetSpec", "id"} {
			delete(f, name)
		}
		f["topic"], f["nonce"] = wallTopic(d), "AAAA"
		c := withKey(d, wallCall{body: f})
		c.learn = func(answer frame) { d.r.know("message", answer.Str("messageId")) }
		return c
	}},
	"GET /topics": {weight: 10, call: func(d *draw) *wallCall { return withKey(d, wallCall{}) }},
	"GET /topics/{name}/messages": {weight: 20, call: func(d *draw) *wallCall {
		c := atTopic(wallCall{})(d)
		c.query = url.Values{"limit": {fmt.Sprint(1 + d.n(20))}}
		if d.chance(2) {
			c.query.Set("before", d.ref("message"))
		}
		return c
	}},
	"GET /topics/{name}/stream": {weight: 10, call: func(d *draw) *wallCall {
		c := atTopic(wallCall{})(d)
		if d.chance(2) {
			c.header = map[string]string{"Last-Event-ID": d.ref("message")}
		}
		return c
	}},
	"PATCH /topics/{name}/read":        {weight: 10, call: atTopic(wallCall{})},
	"GET /topics/{name}/key":           {weight: 15, call: atTopic(wallCall{})},
	"DELETE /topics/{name}/key":        {weight: 5, call: atTopic(wallCall{})},
	"GET /topics/{name}/pending-seals": {weight: 10, call: atTopic(wallCall{})},
	"POST /topics/{name}/seal": {weight: 10, call: func(d *draw) *wallCall {
		c := atTopic(wallCall{})(d)
		_, sealed, nonce := wallSealed(d)
		c.body = frame{"memberId": d.ref("member"), "encryptedKey": sealed, "nonce": nonce}
		return c
	}},
	"POST /topics/{name}/claim-key": {weight: 5, call: func(d *draw) *wallCall {
		c := atTopic(wallCall{})(d)
		pubkey, sealed, nonce := wallSealed(d)
		c.body = frame{"encryptedKeyPubkey": pubkey, "encryptedKey": sealed, "nonce": nonce}
		return c
	}},
	"GET /notifications": {weight: 10, call: func(d *draw) *wallCall {
		c := withKey(d, wallCall{query: url.Values{"since": {"2000-01-01"}, "unread": {d.pick("", "1")}}})
		c.learn = func(answer frame) {
			list, _ := answer["notifications"].([]any)
			for _, n := range list {
				if n, ok := n.(map[string]any); ok {
					d.r.know("notification", frame(n).Str("notificationId"))
				}
			}
		}
		return c
	}},
	"POST /notifications/read": {weight: 10, call: func(d *draw) *wallCall {
		if d.chance(10) {
			return withKey(d, wallCall{body: frame{"all": true}})
		}
		return withKey(d, wallCall{body: frame{"ids": []string{d.ref("notification"), d.own("notification")}}})
	}},
	"GET /peers":   {weight: 10, call: func(d *draw) *wallCall { return withKey(d, wallCall{}) }},
	"GET /members": {weight: 10, call: func(d *draw) *wallCall { return withKey(d, wallCall{}) }},
	"POST /me/peer-pubkey": {weight: 5, call: func(d *draw) *wallCall {
		// A key that is another mesh's, which nobody here can prove; or, with the right to, a new one of one's own.
		f := frame{"pubkey": d.ref(d.pick("key", "session")), "proof": wallHex(d, 128), "timestamp": time.Now().UnixMilli()}
		c := withKey(d, wallCall{body: f})
		if !d.chance(4) {
			return c
		}
		who := d.r.people[7]
		key, at := d.w.newKey(d.r, "key"), time.Now().UnixMilli()
		c.secret, d.to, d.twin = d.own("rekey"), d.r, ""
		c.body = frame{"pubkey": key.Public(), "timestamp": at, "proof": key.Sign(identity.RekeyText(d.r.id, who.id, key.Public(), float64(at)))}
		c.learn = func(frame) { who.key = key }
		return c
	}},

	"POST /join":                            {weight: 10, call: wallJoin},
	"POST /invites/{code}/claim":            {weight: 10, call: wallClaim},
	"POST /api/public/invites/{code}/claim": {weight: 2, call: wallClaim},
	"GET /api/public/invite-code/{code}":    {weight: 3, call: func(d *draw) *wallCall { d.to = nil; return &wallCall{name: d.theirs("code")} }},
	"GET /health":                           {weight: 2, call: func(d *draw) *wallCall { d.to = nil; return &wallCall{} }},
	"GET /health/ready":                     {weight: 2, call: func(d *draw) *wallCall { d.to = nil; return &wallCall{} }},
	"GET /metrics":                          {weight: 3, call: func(d *draw) *wallCall { d.to = nil; return &wallCall{} }},
	"POST /hook/set-status":                 {weight: 5, call: wallHook},
}

// wallJoin joins by an invite, one's own or another's, with payload and key that may be of yet another mesh. The answer is for whom the invite is for.
func wallJoin(d *draw) *wallCall {
	token := d.own("token")
	if d.chance(3) {
		token = d.theirs("token")
	}
	payloadOf := token
	if d.chance(4) {
		payloadOf = d.theirs("token")
	}
	payload, err := identity.ParseInviteToken(payloadOf)
	if err != nil {
		d.w.t.Errorf("token: %v", err)
	}
	if d.chance(6) {
		payload.MeshID = d.ref("mesh")
	}
	d.to = nil
	for _, r := range d.w.realms {
		if payload.MeshID == r.id {
			d.to = r
		}
	}
	if d.to == nil {
		return &wallCall{body: frame{"invite_token": token, "invite_payload": payload, "peer_pubkey": d.own("key"), "display_name": d.text("name")}}
	}
	d.r = d.to
	d.twin, d.kept = "", true
	f := frame{"invite_token": token, "invite_payload": payload, "peer_pubkey": d.own("key"), "display_name": d.name("name")}
	if d.r.joined < wallMints {
		switch d.n(3) {
		case 0:
			d.r.joined++
			f["peer_pubkey"] = d.w.newKey(d.r, "key").Public()
		case 1: // one key can be a member of several meshes
			f["peer_pubkey"] = d.keep(d.theirs(d.pick("key", "session")))
		}
	}
	return &wallCall{body: f, learn: func(answer frame) { d.r.know("member", answer.Str("memberId")) }}
}

// wallClaim claims a code, which a stranger may: the answer is for the mesh that it lets in to.
func wallClaim(d *draw) *wallCall {
	code := d.ref("code")
	d.to, d.twin = nil, ""
	invite, err := d.w.inner.InviteByCode(d.w.t.Context(), code) // one mesh may have made a code that another only dreamt of
	for _, r := range d.w.realms {
		if err == nil && invite.MeshID == r.id {
			d.to = r
		}
	}
	key := d.madeUp("key")
	if d.to != nil && d.to.joined < wallMints {
		d.to.joined++
		d.r, d.kept = d.to, true
		key = d.w.newKey(d.to, "key").Public()
	}
	recipient, _, err := identity.GenerateX25519()
	if err != nil {
		d.w.t.Errorf("x25519: %v", err)
	}
	return &wallCall{name: code, body: frame{
		"recipient_x25519_pubkey": base64.RawURLEncoding.EncodeToString(recipient[:]), "peer_pubkey": key, "display_name": d.text("name"),
	}, learn: func(answer frame) {
		if id := answer.Str("member_id"); id != "" {
			d.r.know("member", id)
			d.w.did["claimed"]++
		}
	}}
}

// wallHook tells a status, as a program on some machine does, which is of no mesh. It may learn the id of the presence that it meant, of whatever mesh.
func wallHook(d *draw) *wallCall {
	c := &wallCall{header: map[string]string{"Authorization": "Bearer s3cret"}, body: frame{
		"cwd": "/src/" + d.text("cwd"), "pid": 1, "status": d.pick("idle", "working"), "session_id": d.ref("sessionid"),
	}}
	d.to, d.twin = nil, ""
	for _, r := range d.w.realms {
		d.said = append(d.said, r.pool["presence"]...)
	}
	return c
}
