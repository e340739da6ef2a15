package broker_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// canary is something that must not be seen where it does not belong.
type canary struct {
	name   string
	value  []byte
	stored bool // the store may hold it: what the broker is given to read, and nonces
}

// spellings are the texts by which a canary gives itself away: as it is, quoted, in hex of either case, and in base64 of both alphabets, also as a
// part of something longer that was encoded.
func (c canary) spellings() []string {
	quoted := strconv.Quote(string(c.value))
	out := []string{
		string(c.value), quoted[1 : len(quoted)-1], hex.EncodeToString(c.value), strings.ToUpper(hex.EncodeToString(c.value)),
		strings.Trim(fmt.Sprint(c.value), "[]"), // as %v prints bytes
	}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 { // bytes before it, modulo 3: each shifts the text by another two bits
			text := enc.EncodeToString(append(make([]byte, before), c.value...))
			first, last := (before*8+5)/6, (before+len(c.value))*8/6 // characters that hold bits of the canary alone
			out = append(out, text[first:last])
		}
	}
	return out
}

// in reports how a text spells the canary, empty if it does not.
func (c canary) in(text string) string {
	for _, s := range c.spellings() {
		if strings.Contains(text, s) {
			return s
		}
	}
	return ""
}

// cage holds the canaries of a test.
type cage struct {
	t   *testing.T
	all []canary
}

func (c *cage) add(name string, value []byte, stored bool) {
	require.GreaterOrEqual(c.t, len(value), 16, "%s is too short to be told from chance", name)
	c.all = append(c.all, canary{name, value, stored})
}

// text makes a plaintext and returns it.
func (c *cage) text(name string, stored bool) string {
	text := strings.ReplaceAll(name, " ", "-") + "-" + identity.NewID()
	c.add(name, []byte(text), stored)
	return text
}

// key adds the secrets of a key pair: the seed, and the secret that it is converted to for boxes.
func (c *cage) key(name string, k identity.KeyPair) identity.KeyPair {
	seed, err := hex.DecodeString(k.SeedHex())
	require.NoError(c.t, err)
	_, x := k.X25519()
	c.add(name+", seed", seed, false)
	c.add(name+", x25519", x[:], false)
	return k
}

// secret adds an API key's secret, whole and the bytes in it.
func (c *cage) secret(name, secret string) string {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(secret, "cm_"))
	require.NoError(c.t, err)
	c.add(name, []byte(secret), false)
	c.add(name+", bytes", raw, false)
	return secret
}

// topicKey adds a topic key.
func (c *cage) topicKey(name string, k topickey.Key) { c.add(name, append([]byte{}, k[:]...), false) }

// nonce adds a nonce in base64.
func (c *cage) nonce(name, text string) {
	raw, err := base64.StdEncoding.DecodeString(text)
	require.NoError(c.t, err)
	c.add(name, raw, true)
}

// innards collects every text and byte string below v, unexported fields included.
func innards(v reflect.Value, seen map[any]bool, out *strings.Builder) {
	switch v.Kind() {
	case reflect.String:
		fmt.Fprintln(out, v.String())
	case reflect.Pointer:
		if v.IsNil() || seen[v.Pointer()] {
			return
		}
		seen[v.Pointer()] = true
		innards(v.Elem(), seen, out)
	case reflect.Interface:
		innards(v.Elem(), seen, out)
	case reflect.Struct:
		for i := range v.NumField() {
			innards(v.Field(i), seen, out)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			innards(it.Key(), seen, out)
			innards(it.Value(), seen, out)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			raw := make([]byte, v.Len())
			for i := range raw {
				raw[i] = byte(v.Index(i).Uint())
			}
			fmt.Fprintf(out, "%s\n%x\n", raw, raw)
			return
		}
		for i := range v.Len() {
			innards(v.Index(i), seen, out)
		}
	}
}

// rows is everything of a mesh that can be read through the store's contract, as text.
func rows(t *testing.T, s store.Store, meshID string, topics, messages, sessions []string) string {
	t.Helper()
	ctx, at := t.Context(), time.Now().UTC()
	var all []any
	add := func(v any, err error) {
		t.Helper()
		require.NoError(t, err)
		all = append(all, v)
	}
	maybe := func(v any, err error) {
		t.Helper()
		if err != nil {
			require.ErrorIs(t, err, store.ErrNotFound)
			return
		}
		all = append(all, v)
	}
	add(s.Meshes(ctx, "", 0))
	roster, err := s.Roster(ctx, meshID)
	add(roster, err)
	add(s.ListAPIKeys(ctx, meshID, ""))
	add(s.Invites(ctx, meshID))
	for _, topic := range topics {
		add(s.TopicByID(ctx, meshID, topic))
		add(s.Subscriptions(ctx, meshID, topic))
		add(s.PendingSeals(ctx, meshID, topic, "", 0))
		history, err := s.History(ctx, store.HistoryQuery{MeshID: meshID, TopicID: topic})
		add(history, err)
		for _, m := range history {
			messages = append(messages, m.ID)
		}
		for i := range roster.Members {
			maybe(s.TopicKey(ctx, meshID, topic, roster.Members[i].ID))
		}
	}
	for i := range roster.Members {
		id := roster.Members[i].ID
		maybe(s.PeerState(ctx, meshID, id))
		add(s.Notifications(ctx, store.NotificationQuery{MeshID: meshID, MemberID: id}))
		for _, key := range append(sessions, "") {
			add(s.Pending(ctx, store.PendingQuery{
				MeshID: meshID, MemberID: id, SessionPubkey: key, Now: at,
				After: map[wire.Priority]int64{wire.PriorityNow: 0, wire.PriorityNext: 0, wire.PriorityLow: 0},
			}))
		}
	}
	for _, id := range messages {
		add(s.Message(ctx, meshID, id))
		add(s.Deliveries(ctx, meshID, id))
	}
	add(s.AdoptPresences(ctx, "nobody", at.Add(time.Hour), time.Second, 24*time.Hour))
	raw, err := json.Marshal(all)
	require.NoError(t, err)
	return string(raw)
}

// auditText is everything of a mesh's audit log, as text.
func auditText(t *testing.T, s store.Store, meshID string) string {
	t.Helper()
	raw, err := json.Marshal(logged(t, s, meshID))
	require.NoError(t, err)
	return string(raw)
}

// unlit is a store that does not answer while it is dark.
type unlit struct {
	store.Store
	dark atomic.Bool
}

func (u *unlit) err() error {
	if u.dark.Load() {
		return fmt.Errorf("dial: %w", store.ErrUnavailable)
	}
	return nil
}

func (u *unlit) Enqueue(ctx context.Context, mesh string, v int64, d []store.Draft, q store.Quota, now time.Time) ([]store.Enqueued, error) {
	if err := u.err(); err != nil {
		return nil, err
	}
	return u.Store.Enqueue(ctx, mesh, v, d, q, now)
}

func (u *unlit) APIKeysByPrefix(ctx context.Context, prefix string) ([]store.APIKey, error) {
	if err := u.err(); err != nil {
		return nil, err
	}
	return u.Store.APIKeysByPrefix(ctx, prefix)
}

func (u *unlit) RedeemInvite(ctx context.Context, r store.Redemption, audit ...store.AuditEvent) (store.Member, bool, error) {
	if err := u.err(); err != nil {
		return store.Member{}, false, err
	}
	return u.Store.RedeemInvite(ctx, r, audit...)
}

func (u *unlit) OpenPresence(ctx context.Context, p store.Presence, audit ...store.AuditEvent) (int64, error) {
	if err := u.err(); err != nil {
		return 0, err
	}
	return u.Store.OpenPresence(ctx, p, audit...)
}

func (u *unlit) SetGrants(ctx context.Context, mesh, member string, g map[string]*[]string, n int) error {
	if u.dark.Load() {
		return fmt.Errorf("duplicate key value violates unique constraint") // that nobody expects
	}
	return u.Store.SetGrants(ctx, mesh, member, g, n)
}

// Nothing secret reaches the log, at any level, and the store keeps no secret and no plaintext that the broker was not given to read: after a
// day in the life of a mesh, with everything that can go wrong.
func TestCanariesStayOutOfLogAndStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		birds := &cage{t: t}
		log := &lockedBuffer{}
		logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}))
		dim := &unlit{}
		hookToken := birds.text("hook token", false)
		mesh := brokertest.New(t, func(o *broker.Options) {
			o.Logger, o.HookToken, o.HookLoopback = logger, hookToken, false
			dim.Store, o.Store = o.Store, dim
		})
		birds.key("owner key", mesh.Owner)
		var topics, messages, sessions []string
		session := func(name string) identity.KeyPair {
			k := birds.key(name, sessionKey(t))
			sessions = append(sessions, k.Public())
			return k
		}
		join := func(name string) *brokertest.Peer {
			key := session(name + "'s session key")
			birds.key(name+"'s member key", mesh.Member(name).Key)
			return mesh.Join(name, func(o *client.Options) { o.SessionKey, o.Logger = key, logger })
		}
		sent := func(m client.Sent) client.Sent {
			messages = append(messages, m.MessageID)
			return m
		}
		ctx := t.Context()

		// Messages of every kind, to those who are here and to one who is not.
		ana, bo := join("ana"), join("bo")
		cy := mesh.Member("cy")
		birds.key("cy's member key", cy.Key)
		require.NoError(t, bo.JoinGroup(ctx, "eng", "lead"))
		direct := birds.text("direct text", false)
		sent(ana.Send("bo", direct))
		require.Equal(t, direct, bo.Receive().Text)
		sent(ana.Send(cy.Pubkey, birds.text("direct text that waits", false)))
		sent(ana.Send(bo.SessionPubkey(), birds.text("direct text to a session", false)))
		sent(ana.Send("@eng", birds.text("group text", true)))
		sent(ana.Send("*", birds.text("broadcast text", true)))
		for range 3 {
			bo.Receive()
		}

		// A topic whose key ana made, with its history, seals and streams.
		topic, _, err := ana.CreateTopic(ctx, "plans", client.TopicOptions{})
		require.NoError(t, err)
		topics = append(topics, topic.ID)
		require.NoError(t, bo.JoinTopic(ctx, "plans", ""))
		_, _, err = ana.SealPending(ctx, "plans")
		require.NoError(t, err)
		key, err := bo.TopicKey(ctx, "plans")
		require.NoError(t, err)
		birds.topicKey("topic key", key)
		secretPost := birds.text("encrypted post", false)
		first, err := ana.Post(ctx, "plans", secretPost, client.Mentions("bo"))
		require.NoError(t, err)
		require.True(t, sent(first).Encrypted)
		require.Equal(t, secretPost, bo.Receive().Text)
		history, err := bo.History(ctx, "plans", client.HistoryOptions{})
		require.NoError(t, err)
		require.Equal(t, secretPost, history[0].Text)
		notes, err := bo.Notifications(ctx, client.NotificationOptions{})
		require.NoError(t, err)
		require.Len(t, notes, 1)

		// An older client, whose topic key the broker makes and forgets; an unencrypted post.
		time.Sleep(time.Second) // of the bubble: two hellos of one member need two milliseconds
		old := mesh.Dial("ana", explicit)
		made := newTopic(t, old, "older", "public")
		topics = append(topics, made)
		host := restKey(t, mesh, "ana", readSend)
		birds.secret("API key of the host", host.key)
		olderKey := host.openKey("older", mesh.Member("ana"))
		birds.topicKey("topic key that the broker made", olderKey)
		olderText := birds.text("encrypted post over REST", false)
		nonce, body, err := topickey.SealV2(olderText, olderKey)
		require.NoError(t, err)
		birds.nonce("nonce of a post", nonce)
		messages = append(messages, host.ok("POST", "/messages", frame{"topic": "older", "ciphertext": body, "nonce": nonce, "bodyVersion": 2}).Str("messageId"))
		messages = append(messages, host.post("general", birds.text("plain post", true)+" @bo"))
		general, err := mesh.Store.Topic(ctx, mesh.ID, "general")
		require.NoError(t, err)
		topics = append(topics, general.ID)
		host.stream("older", messages[0]).close()
		claimed, err := topickey.NewKey()
		require.NoError(t, err)
		birds.topicKey("topic key that was claimed", claimed)
		host.ok("POST", "/topics/general/claim-key", seal(t, claimed, mesh.Member("ana"), mesh.Member("ana")))

		// API keys.
		mine, err := bo.CreateAPIKey(ctx, client.APIKeyOptions{Label: "x", Capabilities: []string{"read"}})
		require.NoError(t, err)
		small := door{t: t, mesh: mesh, key: birds.secret("API key of bo", mine.Secret)}
		small.ok("GET", "/topics", nil)
		small.refused(403, "error.api_key_missing_capability", "POST", "/messages", postBody("general", birds.text("refused post", false)))
		_, err = bo.RevokeAPIKey(ctx, mine.ID)
		require.NoError(t, err)
		small.refused(401, "error.api_key_invalid", "GET", "/topics", nil)
		small.refused(401, "error.api_key_invalid", "GET", "/topics?key="+small.key, nil)
		almost := door{t: t, mesh: mesh, key: birds.secret("mistyped API key", host.key[:30]+strings.Repeat("A", 16))}
		almost.refused(401, "error.api_key_invalid", "GET", "/topics", nil)
		host.refused(400, "", "POST", "/messages", `{"topic":"general","ciphertext":"`+birds.text("truncated post", false))
		host.refused(422, "error.validation", "POST", "/messages", frame{"topic": "general", "ciphertext": []string{birds.text("post of the wrong type", false)}})
		host.refused(422, "error.validation", "POST", "/messages", frame{"topic": "general", "ciphertext": birds.text("refused post with a NUL", false), "nonce": "x\x00"})
		host.refused(422, "invalid_seal", "POST", "/topics/older/seal", frame{"memberId": cy.ID, "encryptedKey": b64(olderKey[:]), "nonce": b64(olderKey[:])})

		// Invites.
		link, _, err := mesh.Broker.CreateInvite(ctx, mesh.ID, mesh.Owner, broker.InviteOptions{BrokerURL: mesh.URL})
		require.NoError(t, err)
		token, err := identity.ParseInviteLink(link)
		require.NoError(t, err)
		birds.add("invite token", []byte(token), false)
		invite, err := identity.ParseInviteToken(token)
		require.NoError(t, err)
		root, err := identity.StrictBase64URL(invite.MeshRootKey)
		require.NoError(t, err)
		birds.add("root key of the mesh", root, false)
		newcomer := func(name string) frame {
			k := birds.key(name+"'s member key", sessionKey(t))
			payload, err := base64.RawURLEncoding.DecodeString(token)
			require.NoError(t, err)
			return frame{
				"invite_token": token, "invite_payload": json.RawMessage(payload), "peer_pubkey": k.Public(), "display_name": name,
				"signature": k.Sign(identity.JoinText(identity.TokenHash(token), k.Public())),
			}
		}
		nobody := door{t: t, mesh: mesh}
		post := func(path string, body any, headers ...header) int {
			req := nobody.request("POST", "", body, headers...)
			req.URL.Path = path
			resp, err := mesh.HTTP.Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			return resp.StatusCode
		}
		require.Equal(t, 400, post("/join", merged(newcomer("gil"), frame{"signature": strings.Repeat("0", 128)})))
		require.Equal(t, 400, post("/join", merged(newcomer("hal"), frame{"invite_token": token[:40]})))
		dim.dark.Store(true)
		require.Equal(t, 503, post("/join", newcomer("ida")))
		dim.dark.Store(false)
		require.Equal(t, 200, post("/join", newcomer("jon")))
		require.Equal(t, 400, post("/join", newcomer("kim")), "used up")
		require.Equal(t, 400, post("/join", fmt.Sprintf(`{"invite_token":%q`, token)))

		// Hooks.
		hook := frame{"cwd": "/src/bo", "pid": 1, "status": "working"}
		require.Equal(t, 200, post("/hook/set-status", hook, header{"Authorization", "Bearer " + hookToken}))
		require.Equal(t, 403, post("/hook/set-status", hook, header{"Authorization", "Bearer " + birds.text("wrong hook token", false)}))

		// Hellos that are refused, and frames that are.
		dan := birds.key("dan's member key", mesh.Member("dan").Key)
		require.NoError(t, mesh.Broker.RevokeMember(ctx, mesh.ID, mesh.Member("dan").ID))
		dans := session("dan's session key")
		good := draft{mesh: mesh.ID, member: mesh.Member("bo"), session: &dans, at: time.Now().UnixMilli(), expires: time.Now().UnixMilli() + 1000, hello2: true}
		for i, change := range []frame{
			{}, {"signature": dan.Sign("x")}, {"timestamp": 1}, {"sessionPubkey": "x"}, {"nonce": 1}, {"helloSignature2": dan.Sign("x")},
			{"sessionId": 5}, {"meshId": "nowhere"}, {"displayName": "\x00"}, {"pubkey": mesh.Member("ana").Pubkey},
		} {
			good.at++
			hello := merged(good.sign(t, i%2 == 1), change)
			if n, ok := hello["nonce"].(string); ok {
				birds.nonce(fmt.Sprint("nonce of hello ", i), n)
			}
			c := dialStranger(t, mesh).say(hello)
			c.answer()
			c.say(hello).answer()
		}
		dialStranger(t, mesh).say(mesh.HelloFrame(mesh.Member("dan"), nil, false, frame{"sessionId": "s"})).answer()
		bad := dialStranger(t, mesh)
		bad.say(mesh.HelloFrame(mesh.Member("eve"), nil, false, frame{"sessionId": "eve"})).answer()
		birds.key("eve's member key", mesh.Member("eve").Key)
		text := func(name string) string { return birds.text(name, false) }
		for _, f := range []any{
			frame{"type": "send", "_reqId": "r", "targetSpec": "*", "nonce": "", "ciphertext": text("text for a ciphertext") + "\x00"},
			frame{"type": "send", "_reqId": "r", "targetSpec": "*", "nonce": text("text for a nonce") + "\x00", "ciphertext": "aGk="},
			frame{"type": "send", "_reqId": "r", "targetSpec": "*", "nonce": "", "ciphertext": frame{"text": text("text in an object")}},
			frame{"type": "send", "_reqId": "r", "targetSpec": strings.Repeat("a", 64), "nonce": "", "ciphertext": brokertest.Body(text("text to nobody") + "..")},
			frame{"type": "send", "_reqId": "r", "targetSpec": "*", "nonce": "", "ciphertext": brokertest.Body(strings.Repeat(text("text that is too long"), 2000))},
			frame{"type": "send", "_reqId": "r", "targetSpec": "*", "nonce": "", "ciphertext": brokertest.Body(strings.Repeat(text("text that is much too long"), 9000))},
			`{"type":"send","_reqId":"r","ciphertext":"` + text("text in half a frame"),
			`{"type":"send","_reqId":"r","ciphertext":"a","ciphertext":"` + text("text in a repeated name") + `"}`,
			`{"type":"set_summary","_reqId":"r","` + text("text for a name") + `":1,"summary":[]}`,
			frame{"type": "no_such_type", "_reqId": "r", "text": text("text for an unknown type")},
			frame{"type": "client_ack", "_reqId": "r", "brokerMessageId": text("text for an id"), "brokerMessageIds": []string{text("text for ids")}},
			frame{"type": "topic_create", "_reqId": "r", "name": "x", "encryptedKey": b64(olderKey[:]), "nonce": b64(olderKey[:]), "encryptedKeyPubkey": strings.Repeat("a", 64)},
			frame{"type": "message_status", "_reqId": "r", "messageId": text("text for a message id")},
			frame{"type": "set_state", "_reqId": "r", "key": "k", "value": []string{birds.text("shared value", true)}},
			frame{"type": "set_state", "_reqId": "r", "value": text("shared value without a key")},
			frame{"type": "apikey_revoke", "_reqId": "r", "id": host.key},
			frame{"type": "apikey_create", "_reqId": "r", "label": "x", "capabilities": []string{text("text for a capability")}},
			text("no JSON at all"),
		} {
			bad.say(f).answer()
		}
		bad.bytes(wsFrame(fin|opBinary, text("text in a binary frame"))...)
		bad.bytes(wsFrame(fin|rsv2|opText, text("text in a reserved frame"))...).answer()

		// The store goes dark in the middle of everything.
		dim.dark.Store(true)
		host.refused(503, "error.unavailable", "POST", "/messages", postBody("general", text("post in the dark")))
		require.Contains(t, old.Say("*", "now", text("text in the dark"))["error"], "internal_error")
		require.Equal(t, "internal", old.Request(frame{"type": "set_grants", "grants": frame{}}).Str("code"))
		late := session("session key in the dark")
		dialStranger(t, mesh).say(mesh.HelloFrame(mesh.Member("bo"), &late, true, frame{"sessionId": "late"})).answer()
		dim.dark.Store(false)

		// A new key, a restart, redelivery, and time enough for every sweep.
		rekeys := restKey(t, mesh, "eve", reads, func(n *broker.NewAPIKey) { n.Rekey = true })
		birds.secret("API key that rekeys", rekeys.key)
		next := birds.key("eve's next key", sessionKey(t))
		wrong := rekeyProof(mesh, mesh.Member("eve"), next, time.Now())
		wrong["proof"] = dan.Sign("x")
		rekeys.refused(403, "bad_proof", "POST", "/me/peer-pubkey", wrong)
		rekeys.ok("POST", "/me/peer-pubkey", rekeyProof(mesh, mesh.Member("eve"), next, time.Now()))
		mesh.Dial("cy", explicit).Cut()
		mesh.Restart()
		time.Sleep(2 * time.Minute)
		sent(ana.Send("bo", birds.text("direct text after a restart", false)))
		bo.Receive()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		require.NoError(t, mesh.Broker.Shutdown(ctx))

		// What the scenario was for is there, and the log was one at all.
		lines := log.String()
		for _, want := range []string{"level=DEBUG", "level=WARN", "level=ERROR", `msg="handshake refused"`, `msg="request refused"`, `msg="messages could not be stored"`, `msg="join refused"`} {
			require.Contains(t, lines, want)
		}
		kept := rows(t, mesh.Store, mesh.ID, topics, messages, sessions)
		// The audit log tells who did what, and is kept for ever: nothing of what was said is in it, not even what the broker was given to read.
		auditRows := auditText(t, mesh.Store, mesh.ID)
		for _, want := range append([]string{"message_sent", "member_joined", "member_rekeyed", "apikey_created", "topic_created", cy.ID}, messages...) {
			require.Contains(t, auditRows, want)
		}
		for _, c := range birds.all {
			require.Empty(t, c.in(auditRows), "%s is in the audit log", c.name)
		}
		var inside strings.Builder
		innards(reflect.ValueOf(mesh.Store.(*memory.Store)), map[any]bool{}, &inside)
		require.Greater(t, len(birds.all), 80)
		names := map[string]bool{}
		for _, c := range birds.all {
			require.False(t, names[c.name], "two canaries are called %s", c.name)
			names[c.name] = true
			require.Empty(t, c.in(lines), "%s is in the log", c.name)
			if !c.stored {
				require.Empty(t, c.in(kept), "%s is in the store", c.name)
				require.Empty(t, c.in(inside.String()), "%s is inside the store", c.name)
			}
		}

		// The search finds what is there: what the broker was given to read, through the same rows, and every canary once it is put into this log
		// and into this store.
		for _, c := range birds.all {
			switch c.name {
			case "plain post", "nonce of a post": // of a topic: other bodies are dropped once everybody has them
				require.NotEmpty(t, c.in(kept), "%s is in the store", c.name)
				require.NotEmpty(t, c.in(inside.String()), "%s is inside the store", c.name)
			}
		}
		for i, c := range birds.all {
			spelling := c.spellings()[2+i%2*3] // in hex, in base64
			logger.Debug("planted", "cause", spelling)
			require.NotEmpty(t, c.in(log.String()), "%s in the log", c.name)
			require.NoError(t, mesh.Store.SavePeerState(ctx, mesh.ID, cy.ID, store.PeerStateUpdate{LastSummary: &spelling}, time.Now().UTC()))
			require.NotEmpty(t, c.in(rows(t, mesh.Store, mesh.ID, topics, messages, sessions)), "%s in the store", c.name)
		}
		inside.Reset()
		innards(reflect.ValueOf(mesh.Store.(*memory.Store)), map[any]bool{}, &inside)
		last := birds.all[len(birds.all)-1]
		require.NotEmpty(t, last.in(inside.String()), "%s inside the store", last.name)
	})
}

// The detector knows a secret in every dress that a careless line of code would give it, and nothing else.
func TestCanaryIsFoundInEverySpelling(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"a plaintext of some length", string([]byte{0xff, 0, 1, 2, 3, 250, 251, 252, 253, 254, 10, 13, 34, 92, 7, 8, 9, 100, 200, 201, 202, 203, 62, 63})} {
		c := canary{name: "it", value: []byte(value)}
		for _, handler := range []func(*lockedBuffer) slog.Handler{
			func(b *lockedBuffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			func(b *lockedBuffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			for before := range 7 {
				around := func(s string) string { return strings.Repeat("{", before) + s + strings.Repeat("}", before%3) }
				for name, text := range map[string]string{
					"hex": hex.EncodeToString([]byte(around(value))), "HEX": strings.ToUpper(hex.EncodeToString([]byte(around(value)))),
					"base64": base64.StdEncoding.EncodeToString([]byte(around(value))), "base64url": base64.URLEncoding.EncodeToString([]byte(around(value))),
					"unpadded": base64.RawURLEncoding.EncodeToString([]byte(around(value))), "bytes": fmt.Sprint([]byte(around(value))),
					"quoted": strconv.Quote(around(value)),
				} {
					var b lockedBuffer
					slog.New(handler(&b)).Info("x", "cause", fmt.Errorf("wrapped: %s", text))
					if name != "quoted" || !strings.Contains(value, "\xff") {
						require.NotEmpty(t, c.in(b.String()), "%s after %d: %s", name, before, b.String())
					}
					require.NotEmpty(t, c.in(text), "%s after %d", name, before)
				}
			}
		}
		require.NotEmpty(t, c.in("x"+value+"x"))
		require.Empty(t, c.in(fmt.Sprintf("%s %x %s", value[1:], value[:len(value)-1], base64.StdEncoding.EncodeToString([]byte(value[2:])))))
	}
	// A value below pointers, maps, slices and unexported fields.
	type hidden struct {
		deep map[string][]*struct{ text any }
	}
	var out strings.Builder
	innards(reflect.ValueOf(&hidden{map[string][]*struct{ text any }{"k": {{"a string"}, {[]byte("some bytes")}}}}), map[any]bool{}, &out)
	require.Contains(t, out.String(), "a string")
	require.Contains(t, out.String(), "some bytes")
}
