package identity_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	k, invite := seedPair(t, 7), goodInvite(t)
	type holder struct {
		Exported identity.KeyPair
		hidden   identity.KeyPair
		Invite   identity.InviteV1
	}
	h := holder{k, k, invite}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb+verb+"\n", k, &k, h, invite)
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("x", "key", k, "pointer", &k, "invite", invite, "list", []identity.KeyPair{k})
	}
	//lint:ignore SA9005 that nothing of it is encoded is what is tested
	marshalled, err := json.Marshal(k)
	require.NoError(t, err)
	out.Write(marshalled)
	for _, canary := range []string{
		k.SeedHex(), strings.ToUpper(k.SeedHex()), "7 7 7 7", "7, 7, 7", "0x7, 0x7", "0707", hex.EncodeToString([]byte(k.SeedHex())),
		invite.MeshRootKey, hex.EncodeToString([]byte(invite.MeshRootKey)),
	} {
		require.NotContains(t, out.String(), canary)
	}
	require.Contains(t, out.String(), "[redacted]")
}

func TestGenerateKeyMakesDistinctUsableKeys(t *testing.T) {
	t.Parallel()
	a, err := identity.GenerateKey()
	require.NoError(t, err)
	b, err := identity.GenerateKey()
	require.NoError(t, err)
	require.NotEqual(t, a.Public(), b.Public())
	require.NoError(t, identity.CheckPublic(a.Public()))
	require.NoError(t, identity.Verify(a.Public(), "text", a.Sign("text")))
	requireClass(t, "bad_signature", identity.Verify(b.Public(), "text", a.Sign("text")))
	nonce, ciphertext, err := identity.SealDirect("hi", b.Public(), a)
	require.NoError(t, err)
	text, err := identity.OpenDirect(nonce, ciphertext, a.Public(), b)
	require.NoError(t, err)
	require.Equal(t, "hi", text)
	again, _, err := identity.SealDirect("hi", b.Public(), a)
	require.NoError(t, err)
	require.NotEqual(t, nonce, again, "nonces are fresh")
}

func TestKeyPairRefusesDamage(t *testing.T) {
	t.Parallel()
	k := seedPair(t, 1)
	_, err := identity.KeyPairFromSeed(make([]byte, 31))
	requireClass(t, "bad_length", err)
	_, err = identity.KeyPairFromSeedHex(k.SeedHex()[1:])
	requireClass(t, "bad_hex", err)
	_, err = identity.KeyPairFromSeedHex(k.SecretHex())
	requireClass(t, "bad_length", err)
	_, err = identity.KeyPairFromSecretHex(k.SeedHex() + publicB)
	requireClass(t, "bad_key", err)
	secret := strings.Repeat("zz", 64)
	_, err = identity.KeyPairFromSecretHex(secret)
	requireClass(t, "bad_hex", err)
	require.NotContains(t, err.Error(), "z", "an error must not quote a secret")
}

func TestSealRefusesWhatNobodyCouldOpen(t *testing.T) {
	t.Parallel()
	_, _, err := identity.SealDirect("\xff", publicB, seedPair(t, 1))
	requireClass(t, "bad_utf8", err)
	_, _, err = identity.SealDirect("x", smallOrderKey, seedPair(t, 1))
	requireClass(t, "bad_key", err)
	require.ErrorIs(t, err, identity.ClassInvalidPoint, "the reason is still there")
	_, err = identity.SealRootKey("AAAA", "AAAA")
	requireClass(t, "bad_key_length", err)
}

// With a public key and R of small order and S = 0, R = S*B - h*A can hold for texts that nobody signed.
func TestVerifyRefusesSmallOrderPoints(t *testing.T) {
	t.Parallel()
	identityPoint := "01" + strings.Repeat("00", 31)
	for _, key := range []string{
		identityPoint,
		smallOrderKey,
		"ee" + strings.Repeat("ff", 30) + "7f", // the identity, with y = p+1
		"01" + strings.Repeat("00", 30) + "80", // the identity, with the sign of x = 0
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
	} {
		for _, r := range []string{identityPoint, smallOrderKey} {
			for _, text := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
				requireClass(t, "bad_signature", identity.Verify(key, text, r+strings.Repeat("00", 32)))
			}
		}
	}
	// A good key does not make a small R good: S*B = h*A + R has no known solution, so only the shape is tried here.
	requireClass(t, "bad_signature", identity.Verify(publicA, "a", identityPoint+strings.Repeat("00", 32)))
}

func TestSharedKeyRefusesLowOrder(t *testing.T) {
	t.Parallel()
	_, secret := seedPair(t, 1).X25519()
	for _, low := range []string{
		strings.Repeat("00", 32),
		"01" + strings.Repeat("00", 31),
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		_, err := identity.SharedKey(unhex32(t, low), secret)
		requireClass(t, "bad_key", err)
	}
}

func TestCheckX25519(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, key string
		want      identity.Class
	}{
		{"a key", "1b1b58dd50ea14b60da17b790cd02754d970c9bab864ebb3c0f3016fe51d3f57", ""},
		{"the base point", "0900000000000000000000000000000000000000000000000000000000000000", ""},
		{"0", "0000000000000000000000000000000000000000000000000000000000000000", identity.ClassInvalidPoint},
		{"1", "0100000000000000000000000000000000000000000000000000000000000000", identity.ClassInvalidPoint},
		{"of order 8", "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800", identity.ClassInvalidPoint},
		{"of order 8, the other", "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157", identity.ClassInvalidPoint},
		{"p - 1", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", identity.ClassInvalidPoint},
		{"p, which is 0", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", identity.ClassInvalidPoint},
		{"p + 1, which is 1", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", identity.ClassInvalidPoint},
		{"p + 9, the base point again", "f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", identity.ClassInvalidPoint},
		{"a key with the highest bit", "1b1b58dd50ea14b60da17b790cd02754d970c9bab864ebb3c0f3016fe51d3fd7", identity.ClassInvalidPoint},
	} {
		raw, err := hex.DecodeString(c.key)
		require.NoError(t, err)
		require.Equal(t, c.want, identity.ClassOf(identity.CheckX25519([32]byte(raw))), c.name)
	}
}
