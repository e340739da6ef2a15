package broker_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/edwards25519"
	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// smallOrder are the eight points of small order, each as it is written.
var smallOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}

// badKeys are texts that are no ed25519 key which anybody may have, by what is wrong with them.
func badKeys(t *testing.T) map[string][]string {
	t.Helper()
	good := sessionKey(t)
	point := func(s string) *edwards25519.Point {
		raw, err := hex.DecodeString(s)
		require.NoError(t, err)
		p, err := new(edwards25519.Point).SetBytes(raw)
		require.NoError(t, err, s)
		return p
	}
	bad := map[string][]string{
		"shape": {
			good.Public()[:63], good.Public()[:62], good.Public() + "0", good.Public() + "00", strings.Repeat("g", 64), " " + good.Public()[:63],
			"0x" + good.Public()[:62], strings.Repeat("é", 32), good.Public()[:63] + "\x00",
		},
		"small order":     smallOrder,
		"second spelling": {"0100000000000000000000000000000000000000000000000000000000000080", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"},
	}
	// Every y of p or more that is on the curve.
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	for n := range int64(19) {
		raw := new(big.Int).Add(p, big.NewInt(n)).FillBytes(make([]byte, 32))
		slices.Reverse(raw)
		for _, sign := range []byte{0, 0x80} {
			raw[31] = raw[31]&0x7f | sign
			if _, err := new(edwards25519.Point).SetBytes(raw); err == nil {
				bad["second spelling"] = append(bad["second spelling"], hexOf(raw))
			}
		}
	}
	require.Greater(t, len(bad["second spelling"]), 10)
	for _, s := range smallOrder[1:] { // good ones with a part of small order
		bad["mixed order"] = append(bad["mixed order"], hexOf(new(edwards25519.Point).Add(point(good.Public()), point(s)).Bytes()))
	}
	for y := byte(2); len(bad["off the curve"]) < 5; y++ {
		raw := append([]byte{y}, make([]byte, 31)...)
		if _, err := new(edwards25519.Point).SetBytes(raw); err != nil {
			bad["off the curve"] = append(bad["off the curve"], hexOf(raw))
		}
	}
	return bad
}

// forge makes a signature by a key of small order that a lenient verifier takes: nobody holds a secret, and nobody needs one.
func forge(t *testing.T, key, text string) string {
	t.Helper()
	raw, err := hex.DecodeString(key)
	require.NoError(t, err)
	for n := byte(1); ; n++ {
		require.Less(t, n, byte(200), "no luck")
		s, err := edwards25519.NewScalar().SetCanonicalBytes(append([]byte{n}, make([]byte, 31)...))
		require.NoError(t, err)
		signature := append(new(edwards25519.Point).ScalarBaseMult(s).Bytes(), s.Bytes()...)
		if ed25519.Verify(raw, []byte(text), signature) {
			return hexOf(signature)
		}
	}
}

// keyMesh is a mesh with a member whose key may be replaced.
type keyMesh struct {
	*brokertest.Mesh
	rekey  door
	member store.Member
}

// hasMember reports whether a member has that key, as it is written.
func (w *keyMesh) hasMember(key string) bool {
	_, err := w.Store.MemberByKey(context.Background(), w.ID, key)
	return err == nil
}

// A key that enters the broker is a point of the prime-order group in its one spelling, wherever it enters, and is kept in lower case.
func TestEveryKeyThatEntersIsChecked(t *testing.T) {
	t.Parallel()
	host := func(err error) string {
		if err == nil {
			return "ok"
		}
		require.ErrorIs(t, err, wire.InvalidArgs)
		return "refused"
	}
	over := func(status int) string {
		switch status {
		case http.StatusOK:
			return "ok"
		case http.StatusBadRequest, http.StatusForbidden, http.StatusUnprocessableEntity:
			return "refused"
		default:
			return fmt.Sprint(status)
		}
	}
	seed := func(w *keyMesh, file any) string {
		raw, err := json.Marshal(file)
		require.NoError(t, err)
		if w.Broker.Seed(t.Context(), strings.NewReader(string(raw))) == nil {
			return "ok"
		}
		return "refused"
	}
	places := []struct {
		name string
		try  func(w *keyMesh, key string, sign func(text string) string) string
		kept func(w *keyMesh, key string) bool // the key is there, as it is written
	}{
		{"CreateMesh", func(w *keyMesh, key string, _ func(string) string) string {
			_, err := w.Broker.CreateMesh(t.Context(), broker.NewMesh{Slug: "s" + identity.NewID(), OwnerPubkey: key})
			return host(err)
		}, nil},
		{"SetOwner", func(w *keyMesh, key string, _ func(string) string) string {
			return host(w.Broker.SetOwner(t.Context(), w.ID, "", key))
		}, func(w *keyMesh, key string) bool {
			mesh, err := w.Store.Mesh(t.Context(), w.ID)
			return err == nil && mesh.OwnerPubkey == key
		}},
		{"AddMember", func(w *keyMesh, key string, _ func(string) string) string {
			_, err := w.Broker.AddMember(t.Context(), w.ID, broker.NewMember{Name: "x", Pubkey: key})
			return host(err)
		}, (*keyMesh).hasMember},
		{"a seeded mesh", func(w *keyMesh, key string, _ func(string) string) string {
			return seed(w, frame{"meshes": []frame{{"slug": "s" + identity.NewID(), "ownerPubkey": key}}})
		}, nil},
		{"a seeded member", func(w *keyMesh, key string, _ func(string) string) string {
			return seed(w, frame{"meshes": []frame{{"id": w.ID, "members": []frame{{"displayName": "x", "pubkey": key}}}}})
		}, (*keyMesh).hasMember},
		{"POST /join", func(w *keyMesh, key string, sign func(string) string) string {
			token, _ := hostInvite(t, w.Mesh, broker.InviteOptions{})
			return over(hostPostJoin(t, w.Broker, frame{
				"invite_token": token, "invite_payload": hostPayload(t, token), "peer_pubkey": key, "display_name": "x",
				"signature": sign(identity.JoinText(identity.TokenHash(token), key)),
			}).code)
		}, (*keyMesh).hasMember},
		{"POST /join, without a proof", func(w *keyMesh, key string, _ func(string) string) string {
			token, _ := hostInvite(t, w.Mesh, broker.InviteOptions{})
			return over(hostPostJoin(t, w.Broker, frame{
				"invite_token": token, "invite_payload": hostPayload(t, token), "peer_pubkey": key, "display_name": "x",
			}).code)
		}, (*keyMesh).hasMember},
		{"POST /me/peer-pubkey", func(w *keyMesh, key string, sign func(string) string) string {
			at := time.Now().UnixMilli()
			r := httptest.NewRequest("POST", "/v1/me/peer-pubkey", jsonReader(t, frame{
				"pubkey": key, "timestamp": at, "proof": sign(identity.RekeyText(w.ID, w.member.ID, key, float64(at))),
			}))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+w.rekey.key)
			return over(hostServe(w.Broker, r).code)
		}, (*keyMesh).hasMember},
	}
	bad := badKeys(t)
	tried := 0
	for _, place := range places {
		t.Run(place.name, func(t *testing.T) {
			mesh := brokertest.New(t, func(o *broker.Options) { o.JoinAddrRatePerMin = -1 })
			w := &keyMesh{Mesh: mesh, member: mesh.Member("ana").Member}
			w.rekey = restKey(t, mesh, "ana", readSend, func(n *broker.NewAPIKey) { n.Rekey = true })
			for class, keys := range bad {
				for _, key := range keys {
					sign := func(text string) string {
						if class == "small order" {
							return forge(t, key, text)
						}
						return strings.Repeat("0", 128)
					}
					require.Equal(t, "refused", place.try(w, key, sign), "%s: %q", class, key)
					require.False(t, w.hasMember(strings.ToLower(key)), "%s: %q", class, key)
					tried++
				}
			}
			good := sessionKey(t)
			require.Equal(t, "ok", place.try(w, good.Public(), good.Sign))
			if place.kept != nil {
				require.True(t, place.kept(w, good.Public()))
			}
			capitals := sessionKey(t)
			require.Equal(t, "ok", place.try(w, strings.ToUpper(capitals.Public()), capitals.Sign), "in capitals it is the same key")
			if place.kept != nil {
				require.True(t, place.kept(w, capitals.Public()), "and kept in lower case")
			}
		})
	}
	t.Logf("%d bad keys at %d places", tried, len(places))
}

func jsonReader(t *testing.T, v any) *strings.Reader {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return strings.NewReader(string(raw))
}

// H15, H16: the x25519 key in front of a sealed copy is one that only its owner opens, wherever a copy enters.
func TestEverySealedCopyIsChecked(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
	key := restKey(t, mesh, "ana", readSend)
	good := seal(t, topickey.Key{1}, ana.Member, ana.Member)
	// front puts another key in front of a good copy, which then opens for nobody: the broker cannot tell, and looks at the key alone.
	front := func(pubkey string) frame {
		raw, err := base64.StdEncoding.DecodeString(good.Str("encryptedKey"))
		require.NoError(t, err)
		prefix, err := hex.DecodeString(pubkey)
		require.NoError(t, err)
		return frame{"encryptedKeyPubkey": pubkey, "encryptedKey": b64(append(prefix, raw[32:]...)), "nonce": good["nonce"]}
	}
	bad := map[string]frame{
		"of 79 bytes":             merged(good, frame{"encryptedKey": b64(make([]byte, 79))}),
		"of 81 bytes":             merged(good, frame{"encryptedKey": b64(make([]byte, 81))}),
		"of zeros":                front(strings.Repeat("0", 64)),
		"with 1 in front":         front("01" + strings.Repeat("0", 62)),
		"of order 8":              front("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
		"of order 8, the other":   front("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
		"with p - 1 in front":     front("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
		"with p in front":         front("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
		"with p + 9 in front":     front("f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
		"with its highest bit":    front("1b1b58dd50ea14b60da17b790cd02754d970c9bab864ebb3c0f3016fe51d3fd7"),
		"with base64 without end": merged(good, frame{"encryptedKey": strings.TrimRight(good.Str("encryptedKey"), "=")}),
		"with a nonce of 23":      merged(good, frame{"nonce": b64(make([]byte, 23))}),
	}
	mismatch := merged(good, frame{"encryptedKeyPubkey": sessionKey(t).Public()})
	newTopic(t, ana, "unkeyed", "public")
	claimed := ana.Request(merged(frame{"type": "topic_create", "name": "keyed"}, good))
	require.Equal(t, "topic_created", claimed.Type())
	done(t, bo, frame{"type": "topic_join", "topic": "keyed"})
	for name, copied := range bad {
		made := ana.Request(merged(frame{"type": "topic_create", "name": "topic " + name}, copied))
		require.Equal(t, "invalid_args", made.Str("code"), "topic_create with a copy %s: %v", name, made)
		key.refused(422, "invalid_seal", "POST", topicPath("general", "/claim-key"), copied)
		key.refused(422, "invalid_seal", "POST", topicPath("keyed", "/seal"),
			frame{"memberId": bo.Member.ID, "encryptedKey": copied["encryptedKey"], "nonce": copied["nonce"]})
	}
	for _, pubkey := range []string{good.Str("encryptedKeyPubkey")[:63], good.Str("encryptedKeyPubkey") + "0", strings.Repeat("g", 64)} {
		copied := merged(good, frame{"encryptedKeyPubkey": pubkey})
		require.Equal(t, "invalid_args", ana.Request(merged(frame{"type": "topic_create", "name": "shape"}, copied)).Str("code"))
		key.refused(422, "error.validation", "POST", topicPath("general", "/claim-key"), copied)
	}
	require.Equal(t, "invalid_args", ana.Request(merged(frame{"type": "topic_create", "name": "mismatch"}, mismatch)).Str("code"))
	key.refused(422, "invalid_seal", "POST", topicPath("general", "/claim-key"), mismatch)
	topics := column(list(t, ana.Request(frame{"type": "topic_list"}), "topics"), "name")
	require.Equal(t, []string{"general", "keyed", "unkeyed"}, topics, "nothing was made by halves")

	capitals := merged(good, frame{"encryptedKeyPubkey": strings.ToUpper(good.Str("encryptedKeyPubkey"))})
	got := key.ok("POST", topicPath("general", "/claim-key"), capitals)
	require.Equal(t, good["encryptedKeyPubkey"], got["senderPubkey"], "kept in lower case")
	sealed := seal(t, topickey.Key{1}, ana.Member, bo.Member)
	key.ok("POST", topicPath("keyed", "/seal"), frame{"memberId": bo.Member.ID, "encryptedKey": sealed["encryptedKey"], "nonce": sealed["nonce"]})
}

// Where a public key only names somebody, its shape is checked and its case does not count; it finds nobody who is not there.
func TestKeyThatNamesSomebody(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
	newTopic(t, ana, "ops", "private")
	for name, ask := range map[string]func(key string) (done bool){
		"send": func(key string) bool { return ana.Say(key, "now", "x")["queued"] == true },
		"set_grants": func(key string) bool {
			return ana.Request(frame{"type": "set_grants", "grants": frame{key: []string{}}}).Type() == "ack"
		},
		"topic_add": func(key string) bool {
			return ana.Request(frame{"type": "topic_add", "topic": "ops", "member": key}).Type() == "ack"
		},
	} {
		for _, key := range badKeys(t)["shape"] {
			require.False(t, ask(key), "%s: %q", name, key)
		}
		require.True(t, ask(bo.Member.Pubkey), name)
		require.True(t, ask(strings.ToUpper(bo.Member.Pubkey)), name)
		if name != "set_grants" { // which may speak of whom it does not know yet
			require.False(t, ask(sessionKey(t).Public()), name)
		}
	}
}

// Even a key that came into the store by another way, long ago, does not sign anybody in if it is no good: anybody could sign for it.
func TestKeyOfSmallOrderSignsNobodyIn(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	at := time.Now().UnixMilli()
	for _, key := range smallOrder {
		id := identity.NewID()
		require.NoError(t, mesh.Store.AddMember(t.Context(), store.Member{ID: id, MeshID: mesh.ID, Pubkey: key, Name: id, Role: store.RoleMember, JoinedAt: time.Now().UTC()}, 0))
		at++
		c := mesh.Connect()
		c.Send(frame{
			"type": "hello", "meshId": mesh.ID, "memberId": id, "pubkey": key, "timestamp": at, "sessionId": "s",
			"signature": forge(t, key, identity.HelloText(mesh.ID, id, key, float64(at))),
		})
		c.Read()
		require.Equal(t, "bad_signature", c.Expect("error", "hello_ack").Str("code"), key)

		// Nor does it vouch for a session.
		session := sessionKey(t)
		expires := float64(time.Now().Add(time.Hour).UnixMilli())
		c = mesh.Connect()
		c.Send(frame{
			"type": "session_hello", "meshId": mesh.ID, "parentMemberPubkey": key, "sessionPubkey": session.Public(), "timestamp": at, "sessionId": "s",
			"parentAttestation": frame{"sessionPubkey": session.Public(), "parentMemberPubkey": key, "expiresAt": expires,
				"signature": forge(t, key, identity.AttestationText(key, session.Public(), expires))},
			"signature": session.Sign(identity.SessionHelloText(mesh.ID, key, session.Public(), float64(at))),
		})
		c.Read()
		require.Equal(t, "bad_signature", c.Expect("error", "hello_ack").Str("code"), key)
	}
}

// A signature has one spelling but for the case of its digits: with S + L in the place of S it says the same to a lenient verifier, and is refused
// here, wherever a signature comes in.
func TestEverySignatureIsStrict(t *testing.T) {
	t.Parallel()
	order, ok := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	require.True(t, ok)
	more := func(signature string) string { // S + L
		raw, err := hex.DecodeString(signature)
		require.NoError(t, err)
		s := slices.Clone(raw[32:])
		slices.Reverse(s)
		s = new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
		slices.Reverse(s)
		return hexOf(append(raw[:32:32], s...))
	}
	flipped := func(signature string) string {
		raw, err := hex.DecodeString(signature)
		require.NoError(t, err)
		raw[5] ^= 1
		return hexOf(raw)
	}
	const in, out = "in", "refused"
	spoils := []struct {
		name  string
		spoil func(string) string
		want  string
	}{
		{"as it is", func(s string) string { return s }, in},
		{"in capitals", strings.ToUpper, in},
		{"S + L", more, out},
		{"one bit wrong", flipped, out},
		{"zeros", func(string) string { return strings.Repeat("0", 128) }, out},
		{"short", func(s string) string { return s[:126] }, out},
		{"half a byte short", func(s string) string { return s[:127] }, out},
		{"long", func(s string) string { return s + "00" }, out},
		{"no hex", func(s string) string { return "g" + s[1:] }, out},
		{"of something else", nil, out}, // a good signature by the same key
	}
	mesh := brokertest.New(t, func(o *broker.Options) { o.JoinAddrRatePerMin = -1 })
	member := mesh.Member("ana")
	rekey := restKey(t, mesh, "ana", readSend, func(n *broker.NewAPIKey) { n.Rekey = true })
	at := time.Now().UnixMilli()
	entered := func(hello frame) string {
		c := mesh.Connect()
		c.Send(hello)
		c.Read()
		if c.Expect("error", "hello_ack").Type() == "hello_ack" {
			return in
		}
		return out
	}
	posted := func(status int) string {
		if status == http.StatusOK {
			return in
		}
		require.Less(t, status, 500)
		return out
	}
	signed := func(session *identity.KeyPair, attested, hello2 bool) frame {
		at++
		d := draft{mesh: mesh.ID, member: member, session: session, at: at, expires: time.Now().Add(time.Hour).UnixMilli(), hello2: hello2}
		d.more = frame{"sessionId": identity.NewID()}
		return d.sign(t, attested)
	}
	for _, place := range []struct {
		name string
		try  func(spoil func(string, identity.KeyPair) string) string
	}{
		{"hello", func(spoil func(string, identity.KeyPair) string) string {
			f := signed(nil, false, false)
			f["signature"] = spoil(f.Str("signature"), member.Key)
			return entered(f)
		}},
		{"hello, the member's second", func(spoil func(string, identity.KeyPair) string) string {
			f := signed(nil, false, true)
			f["helloSignature2"] = spoil(f.Str("helloSignature2"), member.Key)
			return entered(f)
		}},
		{"hello, the session's", func(spoil func(string, identity.KeyPair) string) string {
			session := sessionKey(t)
			f := signed(&session, false, true)
			f["sessionSignature"] = spoil(f.Str("sessionSignature"), session)
			return entered(f)
		}},
		{"session_hello", func(spoil func(string, identity.KeyPair) string) string {
			session := sessionKey(t)
			f := signed(&session, true, false)
			f["signature"] = spoil(f.Str("signature"), session)
			return entered(f)
		}},
		{"attestation", func(spoil func(string, identity.KeyPair) string) string {
			session := sessionKey(t)
			f := signed(&session, true, false)
			a := f["parentAttestation"].(frame)
			a["signature"] = spoil(a.Str("signature"), member.Key)
			return entered(f)
		}},
		{"invite", func(spoil func(string, identity.KeyPair) string) string {
			token, _ := hostInvite(t, mesh, broker.InviteOptions{})
			payload, err := identity.ParseInviteToken(token)
			require.NoError(t, err)
			payload.Signature = spoil(payload.Signature, mesh.Owner)
			return posted(hostPostJoin(t, mesh.Broker, frame{
				"invite_token": token, "invite_payload": payload, "peer_pubkey": sessionKey(t).Public(), "display_name": "x",
			}).code)
		}},
		{"join", func(spoil func(string, identity.KeyPair) string) string {
			token, _ := hostInvite(t, mesh, broker.InviteOptions{})
			key := sessionKey(t)
			return posted(hostPostJoin(t, mesh.Broker, frame{
				"invite_token": token, "invite_payload": hostPayload(t, token), "peer_pubkey": key.Public(), "display_name": "x",
				"signature": spoil(key.Sign(identity.JoinText(identity.TokenHash(token), key.Public())), key),
			}).code)
		}},
		{"rekey", func(spoil func(string, identity.KeyPair) string) string { // the last: the member has another key then
			key := sessionKey(t)
			body := rekeyProof(mesh, member, key, time.Now())
			body["proof"] = spoil(body.Str("proof"), key)
			status := rekey.do("POST", "/me/peer-pubkey", body).Status
			if status == http.StatusOK {
				member.Key, member.Pubkey = key, key.Public()
			}
			return posted(status)
		}},
	} {
		for _, s := range spoils {
			got := place.try(func(signature string, by identity.KeyPair) string {
				if s.spoil == nil {
					return by.Sign("something else")
				}
				return s.spoil(signature)
			})
			require.Equal(t, s.want, got, "%s: %s", place.name, s.name)
		}
	}
}
