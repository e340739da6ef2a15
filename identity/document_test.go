package identity_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

// The values of docs/formats.md, "Test values". Key pairs are from seeds of 32 equal bytes.
const (
	docMesh   = "Mesh0000000000000000000000000001"
	docMember = "Memb0000000000000000000000000001"
	docTime   = 1777752191000

	publicA = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
	publicB = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"
	publicO = "ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1"
	publicS = "ca93ac1705187071d67b83c7ff0efe8108e8ec4530575d7726879333dbdabe7c"

	docNonce      = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
	docCiphertext = "wpj7kgPa51fzvbDkz/nau6sdsc4zTYyPpdS7"
)

var testNow = time.UnixMilli(docTime)

// seedPair is the key pair of a seed of 32 equal bytes.
func seedPair(t testing.TB, b byte) identity.KeyPair {
	t.Helper()
	k, err := identity.KeyPairFromSeed(bytes.Repeat([]byte{b}, 32))
	require.NoError(t, err)
	return k
}

// requireDocumented compares a value, and looks it up on the page that promises it.
func requireDocumented(t *testing.T, want, got string) {
	t.Helper()
	require.Equal(t, want, got)
	page, err := os.ReadFile(filepath.Join("..", "docs", "formats.md"))
	require.NoError(t, err)
	require.Contains(t, string(page), "`"+want+"`")
}

func countUp(from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(from + i)
	}
	return b
}

func TestDocumentedKeys(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		seed                     byte
		public, xPublic, xSecret string
	}{
		{1, publicA, "1b1b58dd50ea14b60da17b790cd02754d970c9bab864ebb3c0f3016fe51d3f57", "58e86efb75fa4e2c410f46e16de9f6acae1a1703528651b69bc176c088bef36e"},
		{2, publicB, "60346e7c911a5f6ba154129174cafe75b294ac3bbd5549632f48cec6266f8410", "a83c626bc9c38c8c201878ebb1d5b0b50ac40e8986c78793db1d4ef369fca14e"},
		{3, publicO, "", ""},
		{4, publicS, "", ""},
	} {
		k := seedPair(t, c.seed)
		requireDocumented(t, c.public, k.Public())
		if c.xPublic != "" {
			public, secret := k.X25519()
			requireDocumented(t, c.xPublic, hex.EncodeToString(public[:]))
			requireDocumented(t, c.xSecret, hex.EncodeToString(secret[:]))
		}
	}
}

func TestDocumentedSignatures(t *testing.T) {
	t.Parallel()
	a, b, o, s := seedPair(t, 1), seedPair(t, 2), seedPair(t, 3), seedPair(t, 4)

	hello := identity.Hello{MeshID: docMesh, MemberID: docMember, Pubkey: publicA, Timestamp: docTime}
	hello.Signature = a.Sign(identity.HelloText(docMesh, docMember, publicA, docTime))
	requireDocumented(t, "54b4d39b73fc0fb05a503742f49c704086ba2e2821b337e7313a305ae123568c0688052ce6b038b72687993eb0c07b9ff64a0409d63129b2fd9b5aa1192b4402", hello.Signature)
	require.NoError(t, hello.Verify(testNow))

	hello2 := goodHello2(t)
	requireDocumented(t, "af0e9ce810b307f8bcab9014bd086406f5efafa4181850dc6540b2b2e9b845b0c7e5ddd5cbcd0e3027f0673230753e9da7e36930d887c993bca9950684ab7801", hello2.Signature)
	requireDocumented(t, "83aa08159b4c1dfda72b1334e2e489b9eedff5ed54bce84cae7e1a4dc3d33bf4f1e80afb3a377a0e4173f20d20ec4517e25b9d0b98c98518aa03a63fb40a0808", hello2.SessionSignature)
	requireDocumented(t, "dbed8d4188447d54da36e0a81aaad6389b2b9676681c63d43a6c84cf9b30d1c0c1e634742df2c6cb479dd7fd344a606a8cff9b7b688e1f60809c9192d9e26008", b.Sign(identity.JoinText(identity.TokenHash("token"), publicB)))
	requireDocumented(t, "bc86f487106cc7a4d91784e038956bd74ed5b8de174c29c35b61521cc9c4a7ab32ef1a66421122a807bd97fa9bf0c4568d29283fbf72e8708ed8bff2167d2001", b.Sign(identity.RekeyText(docMesh, docMember, publicB, docTime)))

	attestation := identity.NewAttestation(a, publicS, testNow)
	require.EqualValues(t, 1777795391000, attestation.ExpiresAt)
	requireDocumented(t, "8db6f50410eb75622eee8a29e9a0863b9795e93425c72a03b8a9e947608529b0e78f93897402ebd2858cc38fc9534a8de9230ae83a80eea999a6398b324f6407", attestation.Signature)
	require.NoError(t, attestation.Verify(testNow))

	session := identity.SessionHello{MeshID: docMesh, ParentPubkey: publicA, SessionPubkey: publicS, Timestamp: docTime}
	session.Signature = s.Sign(identity.SessionHelloText(docMesh, publicA, publicS, docTime))
	requireDocumented(t, "53737a61e2474cca8ca698b2042561273bfb4369bf5ee2413488eb1a65ac33854de3399faec8b7d2f3e8456273986ba3bb1fa6c5c0ee3b99b981470f7deb3a05", session.Signature)
	require.NoError(t, session.Verify(testNow))

	rootKey := base64.RawURLEncoding.EncodeToString(countUp(0x40, 32))
	require.Equal(t, "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8", rootKey)
	v1, err := identity.InviteV1{
		MeshID: docMesh, MeshSlug: "team", BrokerURL: "ws://127.0.0.1:7900/ws", ExpiresAt: 1790000000,
		MeshRootKey: rootKey, Role: identity.RoleMember,
	}.Sign(o)
	require.NoError(t, err)
	require.Equal(t, "1|"+docMesh+"|team|ws://127.0.0.1:7900/ws|1790000000|"+rootKey+"|member|"+publicO, v1.Text())
	requireDocumented(t, "fe2e83fa56d09a6c57c45d6f662dab33ee3735568cf5c2b1cc27aaf14680baeb74801493a8c2d38239a63734550a858cc0c217cddbff4f8f1e6fd73b127af709", v1.Signature)
	require.Len(t, v1.Token(), 582)
	require.Equal(t, "eyJ2IjoxLCJtZXNoX2lkIjoi", v1.Token()[:24])
	requireDocumented(t, "7b15b96fa22a08c47b9223c926a67bfe3daf45d43c4629b7a0c2dd59be8b4015", identity.TokenHash(v1.Token()))

	v2, err := identity.InviteV2{
		MeshID: docMesh, InviteID: "Invi0000000000000000000000000001", ExpiresAt: 1790000000, Role: identity.RoleMember,
	}.Sign(o)
	require.NoError(t, err)
	requireDocumented(t, "4fc2340f0839cb0d3088056f5bef5b42129b1981919c634d94247b2ad9291ea463b91f1566f5ff7dd933cc169329a05f0637fd46c738a40a5cf32f0bd5012806", v2.Signature)
	require.NoError(t, v2.Verify(testNow))

	subject := identity.ReceiptSubject{
		MeshID: docMesh, MessageID: "Mess0000000000000000000000000001", SentAt: testNow, RecipientPubkey: publicB,
		BodyHash: identity.ReceiptBodyHash(docNonce, docCiphertext),
	}
	requireDocumented(t, "f9b733a2464ab05e3f73f3a576bb42505cdaf61726f34434a61a99fa2a2c63d0", subject.BodyHash)
	receipt := identity.NewReceipt(subject, testNow, b, nil)
	requireDocumented(t, "f4b6cfcd20b64f798747c505d2d84f9177af4675b86ca997caaf2d5757704ea9618659dede178d7e74dbcc60e16c3716fe7f11e08f20fd3211567c6a69e85c0c", receipt.Signature)
	require.NoError(t, receipt.Verify(subject, testNow))
}

func TestDocumentedDirectMessage(t *testing.T) {
	t.Parallel()
	nonce, ciphertext, err := identity.SealDirectNonce("hello, mesh", publicB, seedPair(t, 1), [24]byte(countUp(0, 24)))
	require.NoError(t, err)
	require.Equal(t, docNonce, nonce)
	require.Equal(t, docCiphertext, ciphertext)
	text, err := identity.OpenDirect(nonce, ciphertext, publicA, seedPair(t, 2))
	require.NoError(t, err)
	require.Equal(t, "hello, mesh", text)
}

func TestDocumentedAPIKey(t *testing.T) {
	t.Parallel()
	secret, prefix, hash := identity.APIKeyFromBytes([32]byte(countUp(0, 32)))
	require.Equal(t, "cm_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", secret)
	require.Equal(t, "cm_AAECAwQF", prefix)
	requireDocumented(t, "6e87955afdd27e3ab924dd75d364bc07f0b96fc695c1dc163dc744c372f8ff9b", hash)
}

func TestDocumentedFingerprints(t *testing.T) {
	t.Parallel()
	dm := identity.RequestFingerprint{DestinationKind: identity.DestinationDM, DestinationRef: "bob", Priority: "next", Body: []byte("hello, mesh")}
	requireDocumented(t, "d406eb991ec1d638b3b49d66c6d3373da6788cfdb4d5308bad718001ddf8394b", dm.Sum())
	meta, err := identity.CanonicalMeta([]byte(` { "b" : [2, {"y":"z", "x":null}], "a" : 1 } `))
	require.NoError(t, err)
	require.Equal(t, `{"a":1,"b":[2,{"x":null,"y":"z"}]}`, meta)
	topic := identity.RequestFingerprint{
		DestinationKind: identity.DestinationTopic, DestinationRef: "deploys", ReplyTo: "R1", Priority: "now", Meta: meta, Body: []byte("hi"),
	}
	requireDocumented(t, "ebfb431b1d0a36407ddb51a6d70ede9e331f2b48fdbf0710efb7b6ce1276cbec", topic.Sum())
}

func TestDocumentedAuditEntries(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 5, 2, 20, 3, 11, 0, time.UTC)
	payload, err := identity.CanonicalJSON([]byte(`{"role":"control-plane","restored":false,"pubkey":"` + publicA + `","groups":[]}`))
	require.NoError(t, err)
	first := identity.ChainHash(identity.ChainGenesis, docMesh, "peer_joined", docMember, string(payload), identity.ChainTime(at))
	requireDocumented(t, "b83466d0900f27b2b87f21615659dbd2054e25fa787ef5224df21c04d3906c20", first)
	second := identity.ChainHash(first, docMesh, "peer_left", "", "{}", "2026-05-02T20:04:00.500Z")
	requireDocumented(t, "c0a43ab0f29b194b31200cceae12cb36ba220dbac2858fd58a94a3739775195b", second)

	checkpoint := identity.NewCheckpoint(docMesh, 2, second, "2026-05-02T20:05:00.000Z", seedPair(t, 3))
	requireDocumented(t, "e9731f553e338f1267ed7e5e68c445e9865dfe2af9cba2c6d351fc577df02ec0cff4ab42fa9ddf863e9d786d539f585089af248a33f7253163aa0490098d6a0d", checkpoint.Signature)
	require.NoError(t, checkpoint.Verify(docMesh, second, "2026-05-02T20:05:00.000Z", publicO))
}
