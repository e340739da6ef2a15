package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

func receiptSubject() identity.ReceiptSubject {
	return identity.ReceiptSubject{
		MeshID: docMesh, MessageID: "Mess0000000000000000000000000001", RecipientPubkey: publicB, SentAt: testNow,
		BodyHash: identity.ReceiptBodyHash(docNonce, docCiphertext),
	}
}

func TestReceiptFitsOneSubjectOnly(t *testing.T) {
	t.Parallel()
	good := receiptSubject()
	receipt := identity.NewReceipt(good, testNow.Add(time.Second), seedPair(t, 2), nil)
	require.NoError(t, receipt.Verify(good, testNow.Add(time.Hour)))

	for _, c := range []struct {
		name   string
		change func(*identity.ReceiptSubject)
		want   identity.Class
	}{
		{"another mesh", func(s *identity.ReceiptSubject) { s.MeshID = "m" }, identity.ClassBadSignature},
		{"another message", func(s *identity.ReceiptSubject) { s.MessageID = "m" }, identity.ClassBadSignature},
		{"another body", func(s *identity.ReceiptSubject) { s.BodyHash = identity.ReceiptBodyHash(docNonce, "") }, identity.ClassBadSignature},
		{"another recipient", func(s *identity.ReceiptSubject) { s.RecipientPubkey = publicA }, identity.ClassBadSignature},
		{"upper-case recipient", func(s *identity.ReceiptSubject) { s.RecipientPubkey = strings.ToUpper(publicB) }, identity.ClassMalformed},
		{"sent later", func(s *identity.ReceiptSubject) { s.SentAt = testNow.Add(62 * time.Second) }, identity.ClassTimestampSkew},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			subject := good
			c.change(&subject)
			requireClass(t, string(c.want), receipt.Verify(subject, testNow.Add(time.Hour)))
		})
	}
}

func TestReceiptTimes(t *testing.T) {
	t.Parallel()
	subject, signer := receiptSubject(), seedPair(t, 2)
	early := identity.NewReceipt(subject, testNow.Add(-identity.MaxSkew), signer, nil)
	require.NoError(t, early.Verify(subject, testNow))
	earlier := identity.NewReceipt(subject, testNow.Add(-identity.MaxSkew-time.Millisecond), signer, nil)
	requireClass(t, "timestamp_skew", earlier.Verify(subject, testNow))
	ahead := identity.NewReceipt(subject, testNow.Add(identity.MaxSkew), signer, nil)
	require.NoError(t, ahead.Verify(subject, testNow))
	farther := identity.NewReceipt(subject, testNow.Add(identity.MaxSkew+time.Millisecond), signer, nil)
	requireClass(t, "timestamp_skew", farther.Verify(subject, testNow))
	fraction := identity.NewReceipt(subject, testNow, signer, nil)
	fraction.AckedAt += 0.5
	requireClass(t, "malformed", fraction.Verify(subject, testNow))
}

func TestReceiptBySession(t *testing.T) {
	t.Parallel()
	subject, member, session := receiptSubject(), seedPair(t, 2), seedPair(t, 4)
	attestation := identity.NewAttestation(member, session.Public(), testNow)
	receipt := identity.NewReceipt(subject, testNow.Add(time.Minute), session, &attestation)
	require.Equal(t, publicS, receipt.SessionPubkey)
	require.NoError(t, receipt.Verify(subject, testNow.Add(30*24*time.Hour)), "long after the session")

	foreign := identity.NewAttestation(seedPair(t, 1), session.Public(), testNow)
	r := identity.NewReceipt(subject, testNow, session, &foreign)
	requireClass(t, "bad_signature", r.Verify(subject, testNow))

	unbound := receipt
	unbound.Attestation = nil
	requireClass(t, "malformed", unbound.Verify(subject, testNow.Add(time.Hour)))

	expired := identity.NewReceipt(subject, testNow.Add(identity.AttestationTTL), session, &attestation)
	requireClass(t, "expired", expired.Verify(subject, testNow.Add(identity.AttestationTTL)))

	tampered := attestation
	tampered.ExpiresAt++
	r = identity.NewReceipt(subject, testNow, session, &tampered)
	requireClass(t, "bad_signature", r.Verify(subject, testNow))

	byMember := identity.NewReceipt(subject, testNow, session, &attestation)
	byMember.Signature = member.Sign(identity.ReceiptText(subject.MeshID, subject.MessageID, subject.BodyHash, publicB, docTime))
	requireClass(t, "bad_signature", byMember.Verify(subject, testNow))
}
