// Package topickey turns the bytes of a topic-key envelope into a value and back. It knows nothing about who may have one.
//
// A topic has one symmetric [Key], made by whoever creates the topic. Each member holds a copy of it, [Sealed] for that member
// alone: a NaCl box from the sealer's x25519 key, with the sealer's public key in front, so that it can be opened without
// asking who sealed it. [Open] returns that public key; whether it belongs to somebody who may seal is for the caller to judge.
//
// Message bodies come in two versions: [V1], base64 of the text and no secret, and [V2], a secretbox under the topic key.
// Names that a text mentions are found by [Mentions].
//
// The byte formats are described in docs/formats.md. Errors carry an identity.Class.
package topickey
