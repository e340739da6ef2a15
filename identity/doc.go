// Package identity says who signed what: keys, canonical strings, fingerprints.
//
// A member of a mesh is an ed25519 key pair, a [KeyPair]. It signs short texts that are built from the fields of a frame with
// one "|" between them: [HelloText], [AttestationText] and their siblings. Whoever receives the frame builds the same text
// from the fields as they arrived and checks the signature over it; nothing but the text is signed, so a field that is not in
// it is not protected. The types with a Verify method ([Hello], [SessionHello], [Attestation], [InviteV1], [Receipt] and
// others) do that in a fixed order and answer with the first thing that is wrong, as a [Class].
//
// The same key pair encrypts. A direct message is a NaCl box between two members' keys, converted from ed25519 to x25519:
// [SealDirect] and [OpenDirect]. The conversion refuses every key that is not a canonical point of the prime-order subgroup
// ([CheckPublic]), because a box for such a key can be read by anybody.
//
// The rest are formats that more than one program must compute alike: API keys, the request fingerprint, canonical JSON and
// the hash chain of the audit log.
//
// Every format is described in docs/formats.md. Functions here read no clock: the time is an argument. Everything is safe for
// concurrent use, and nothing that holds a secret prints it.
package identity
