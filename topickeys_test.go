package broker_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// keyed is a public topic "ops" of ana, with a key of hers; bo and cy are in it.
type keyed struct {
	*brokertest.Mesh
	key                   topickey.Key
	ana, bo, cy           *brokertest.Conn
	anaREST, boREST, cyRE door
	id                    string
}

func newKeyed(t *testing.T) keyed {
	t.Helper()
	mesh := brokertest.New(t)
	k := keyed{Mesh: mesh, ana: mesh.Dial("ana"), bo: mesh.Dial("bo"), cy: mesh.Dial("cy")}
	var err error
	k.key, err = topickey.NewKey()
	require.NoError(t, err)
	made := k.ana.Request(merged(frame{"type": "topic_create", "name": "ops"}, seal(t, k.key, k.ana.Member, k.ana.Member)))
	require.Equal(t, true, made["created"], "%v", made)
	k.id = made["topic"].(map[string]any)["id"].(string)
	for _, c := range []*brokertest.Conn{k.bo, k.cy} {
		time.Sleep(time.Millisecond)
		done(t, c, frame{"type": "topic_join", "topic": "ops"})
	}
	k.anaREST, k.boREST, k.cyRE = restKey(t, mesh, "ana", readSend), restKey(t, mesh, "bo", reads), restKey(t, mesh, "cy", reads)
	return k
}

func sealBody(t *testing.T, key topickey.Key, by, to *brokertest.Member) frame {
	t.Helper()
	f := seal(t, key, by, to)
	delete(f, "encryptedKeyPubkey")
	return merged(f, frame{"memberId": to.ID})
}

func TestClientMadeTopicKeyIsStoredAsItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		key, err := topickey.NewKey()
		require.NoError(t, err)
		good := seal(t, key, ana.Member, ana.Member)
		create := func(f frame) frame {
			return ana.Request(merged(frame{"type": "topic_create", "name": "ops"}, good, f))
		}
		for name, bad := range map[string]frame{
			"another prefix": {"encryptedKeyPubkey": strings.Repeat("ab", 32)},
			"no prefix":      {"encryptedKeyPubkey": nil},
			"short":          {"encryptedKey": base64.StdEncoding.EncodeToString(make([]byte, 79))},
			"long":           {"encryptedKey": base64.StdEncoding.EncodeToString(make([]byte, 81))},
			"no base64":      {"encryptedKey": "!" + good.Str("encryptedKey")},
			"short nonce":    {"nonce": base64.StdEncoding.EncodeToString(make([]byte, 23))},
			"no nonce":       {"nonce": ""},
		} {
			require.Equal(t, "invalid_args", create(bad)["code"], name)
		}
		require.NotContains(t, column(list(t, ana.Request(frame{"type": "topic_list"}), "topics"), "name"), "ops")
		made := create(frame{"encryptedKeyPubkey": strings.ToUpper(good.Str("encryptedKeyPubkey"))})
		require.Equal(t, true, made["created"], "%v", made)

		d := restKey(t, mesh, "ana", reads)
		require.Equal(t, key, d.openKey("ops", ana.Member))
		got := d.ok("GET", topicPath("ops", "/key"), nil)
		require.Equal(t, good.Str("encryptedKeyPubkey"), got.Str("senderPubkey"), "in lower case")
		require.Equal(t, ana.Member.ID, got.Str("sealedByMemberId"))
		require.Equal(t, good.Str("encryptedKey"), got.Str("encryptedKey"))
	})
}

// What the broker does for older clients, and does not do where the host forbids it.
func TestBrokerMakesAKeyOnlyForWhoBringsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		newTopic(t, ana, "ops", "public")
		d := restKey(t, mesh, "ana", reads)
		d.openKey("ops", ana.Member)
		got := d.ok("GET", topicPath("ops", "/key"), nil)
		require.Nil(t, got["sealedByMemberId"])
		blob, err := base64.StdEncoding.DecodeString(got.Str("encryptedKey"))
		require.NoError(t, err)
		require.Equal(t, hexOf(blob[:32]), got.Str("senderPubkey"))

		claims := brokertest.New(t, func(o *broker.Options) { o.TopicKeys = broker.ClientClaim })
		newTopic(t, claims.Dial("ana"), "ops", "public")
		d = restKey(t, claims, "ana", reads)
		refused := d.refused(409, "topic_unencrypted", "GET", topicPath("ops", "/key"), nil)
		require.Equal(t, "ops", refused.Body.Str("topic"))
		require.NotEmpty(t, refused.Body.Str("hint"))
		d.refused(409, "topic_unencrypted", "DELETE", topicPath("ops", "/key"), nil)
		pending := d.ok("GET", topicPath("ops", "/pending-seals"), nil)
		require.Empty(t, list(t, pending, "pending"))
		require.Contains(t, pending, "senderPubkey")
		require.Nil(t, pending["senderPubkey"])
	})
}

func TestSealPassesTheKeyFromHolderToHolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeyed(t)
		waiting := k.boREST.refused(404, "key_not_sealed_for_member", "GET", topicPath("ops", "/key"), nil)
		require.Equal(t, "ops", waiting.Body.Str("topic"))
		pending := k.anaREST.ok("GET", topicPath("ops", "/pending-seals"), nil)
		require.Equal(t, []string{k.bo.Member.ID, k.cy.Member.ID}, column(list(t, pending, "pending"), "memberId"), "the oldest first")
		require.Equal(t, k.bo.Member.Pubkey, list(t, pending, "pending")[0].Str("pubkey"))
		require.Equal(t, []string{k.cy.Member.ID}, column(list(t, k.boREST.ok("GET", topicPath("ops", "/pending-seals"), nil), "pending"), "memberId"))

		forBo, forCy := sealBody(t, k.key, k.ana.Member, k.bo.Member), sealBody(t, k.key, k.bo.Member, k.cy.Member)
		k.boREST.refused(403, "not_key_holder", "POST", topicPath("ops", "/seal"), forCy)
		sealed := k.anaREST.ok("POST", topicPath("ops", "/seal"), forBo)
		require.Equal(t, k.bo.Member.ID, sealed.Str("memberId"))
		require.Equal(t, wire.FormatTime(time.Now()), sealed.Str("sealedAt"))
		require.Equal(t, k.key, k.boREST.openKey("ops", k.bo.Member))
		k.boREST.ok("POST", topicPath("ops", "/seal"), forCy) // with a key that only reads
		require.Equal(t, k.key, k.cyRE.openKey("ops", k.cy.Member))
		require.Empty(t, list(t, k.anaREST.ok("GET", topicPath("ops", "/pending-seals"), nil), "pending"))

		k.boREST.refused(409, "already_sealed", "POST", topicPath("ops", "/seal"), forCy)
		k.cyRE.ok("POST", topicPath("ops", "/seal"), sealBody(t, k.key, k.cy.Member, k.cy.Member)) // its own
		k.anaREST.ok("POST", topicPath("ops", "/seal"), sealBody(t, k.key, k.ana.Member, k.cy.Member))
		require.Equal(t, k.ana.Member.ID, k.cyRE.ok("GET", topicPath("ops", "/key"), nil).Str("sealedByMemberId"), "a lead replaces")

		for name, bad := range map[string]frame{
			"short":     {"encryptedKey": base64.StdEncoding.EncodeToString(make([]byte, 79))},
			"nonce":     {"nonce": "AAAA"},
			"no base64": {"nonce": "*"},
		} {
			k.anaREST.refused(422, "invalid_seal", "POST", topicPath("ops", "/seal"), merged(forBo, bad))
			_ = name
		}
		k.anaREST.refused(422, "error.validation", "POST", topicPath("ops", "/seal"), merged(forBo, frame{"memberId": ""}))
		eve := k.Member("eve")
		for _, stranger := range []string{eve.ID, "nobody", "x|y", "\u0000"} {
			k.anaREST.refused(404, "recipient_not_in_topic", "POST", topicPath("ops", "/seal"), merged(forBo, frame{"memberId": stranger}))
		}
	})
}

func TestLeavingGivesTheKeyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeyed(t)
		k.anaREST.ok("POST", topicPath("ops", "/seal"), sealBody(t, k.key, k.ana.Member, k.bo.Member))
		done(t, k.bo, frame{"type": "topic_leave", "topic": "ops"})
		k.boREST.refused(404, "key_not_sealed_for_member", "GET", topicPath("ops", "/key"), nil)
		k.anaREST.refused(404, "recipient_not_in_topic", "POST", topicPath("ops", "/seal"), sealBody(t, k.key, k.ana.Member, k.bo.Member))
	})
}

// H18: a bad copy is not for ever: its owner throws it away, and whoever made it is not heard again.
func TestH18RejectedCopyIsSealedAnewByAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeyed(t)
		wrong, err := topickey.NewKey()
		require.NoError(t, err)
		k.anaREST.ok("POST", topicPath("ops", "/seal"), sealBody(t, k.key, k.ana.Member, k.bo.Member))
		k.boREST.ok("POST", topicPath("ops", "/seal"), sealBody(t, wrong, k.bo.Member, k.cy.Member))
		require.Equal(t, k.bo.Member.ID, k.cyRE.ok("GET", topicPath("ops", "/key"), nil).Str("sealedByMemberId"))

		require.Equal(t, true, k.cyRE.ok("DELETE", topicPath("ops", "/key"), nil)["deleted"])
		require.Equal(t, false, k.cyRE.ok("DELETE", topicPath("ops", "/key"), nil)["deleted"])
		k.cyRE.refused(404, "key_not_sealed_for_member", "GET", topicPath("ops", "/key"), nil)
		pending := list(t, k.anaREST.ok("GET", topicPath("ops", "/pending-seals"), nil), "pending")
		require.Equal(t, []string{k.cy.Member.ID}, column(pending, "memberId"))
		require.EqualValues(t, 1, pending[0]["rejected"])
		k.boREST.refused(403, "sealer_rejected", "POST", topicPath("ops", "/seal"), sealBody(t, wrong, k.bo.Member, k.cy.Member))
		k.anaREST.ok("POST", topicPath("ops", "/seal"), sealBody(t, k.key, k.ana.Member, k.cy.Member))
		require.Equal(t, k.key, k.cyRE.openKey("ops", k.cy.Member))
	})
}

// H18: whoever holds a key seals at most 60 copies a minute.
func TestH18SealsAreLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeyed(t)
		forBo := sealBody(t, k.key, k.ana.Member, k.bo.Member)
		for range 60 {
			k.anaREST.ok("POST", topicPath("ops", "/seal"), forBo)
		}
		got := k.anaREST.refused(429, "rate_limit", "POST", topicPath("ops", "/seal"), forBo)
		require.Equal(t, "1", got.Header.Get("Retry-After"))
		k.anaREST.ok("GET", "/topics", nil)
		time.Sleep(time.Second)
		k.anaREST.ok("POST", topicPath("ops", "/seal"), forBo)
	})
}

func TestClaimGivesATopicItsKeyOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Member("ana"), mesh.Member("bo")
		a, b := restKey(t, mesh, "ana", readSend), restKey(t, mesh, "bo", readSend)
		key, err := topickey.NewKey()
		require.NoError(t, err)
		claim := seal(t, key, bo, bo)
		b.refused(422, "invalid_seal", "POST", topicPath("general", "/claim-key"), merged(claim, frame{"encryptedKeyPubkey": strings.Repeat("ab", 32)}))
		b.refused(422, "error.validation", "POST", topicPath("general", "/claim-key"), merged(claim, frame{"encryptedKeyPubkey": "ab"}))
		b.refused(422, "error.validation", "POST", topicPath("general", "/claim-key"), merged(claim, frame{"nonce": strings.Repeat("A", 65)}))
		restKey(t, mesh, "bo", reads).refused(403, "error.api_key_missing_capability", "POST", topicPath("general", "/claim-key"), claim)
		got := b.ok("POST", topicPath("general", "/claim-key"), claim)
		require.Equal(t, true, got["claimed"])
		require.Equal(t, claim["encryptedKeyPubkey"], got["senderPubkey"])
		require.Equal(t, bo.ID, got.Str("memberId"))
		require.Equal(t, key, b.openKey("general", bo))

		late := a.refused(409, "already_encrypted", "POST", topicPath("general", "/claim-key"), seal(t, key, ana, ana))
		require.Equal(t, claim["encryptedKeyPubkey"], late.Body["senderPubkey"])
		require.Equal(t, "general", late.Body.Str("topic"))

		// The last copy goes: the key is lost, and only those who govern the topic start a new one.
		b.ok("DELETE", topicPath("general", "/key"), nil)
		b.refused(403, "forbidden", "POST", topicPath("general", "/claim-key"), claim)
		fresh := seal(t, key, ana, ana)
		a.ok("POST", topicPath("general", "/claim-key"), fresh)
		require.Equal(t, fresh["encryptedKeyPubkey"], a.ok("GET", topicPath("general", "/key"), nil)["senderPubkey"])

		newTopic(t, mesh.Dial("bo", brokertest.With(nil)), "hr", "private")
		a.refused(403, "forbidden", "POST", topicPath("hr", "/claim-key"), fresh)
	})
}
