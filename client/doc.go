// Package client is the other end of the wire: a Go client for meshes of AI coding sessions, people and services.
//
// # Model
//
// A member of a mesh is an ed25519 key pair. [Dial] signs in with it and keeps one socket: when it is lost the client comes back
// by itself, waiting longer each time, until [Client.Close] or until the broker says that it must not (kicked, banned, refused
// for good), which ends [Client.Done] with the reason in [Client.Err]. Every client presents a session key of its own, signed by
// the member key, so that the broker can tell two processes of one member apart.
//
//	c, err := client.Dial(ctx, client.Options{URL: url, MeshID: mesh, MemberID: member, Key: key, DisplayName: "ada"})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	sent, err := c.Send(ctx, "bo", "the build is green")
//
// [Join] makes a member of whoever has an invite. The owner of a mesh signs invites with a key that stays on the owner's machine
// ([Client.CreateInvite], [MakeInvite]); the broker keeps them and cannot make one.
//
// # Sending
//
// [Client.Send] returns when the broker has stored the message for everybody that it addresses, connected or not. It lives
// through lost connections: the message is sealed once, and the same bytes go out again under the same client_message_id until
// there is an answer or ctx ends, so it is stored once. A target is a display name, a public key, "@group", "*" or "#topic".
//
// # Receiving
//
// [Client.Receive] hands over the messages for this member, each once, in the broker's order, and acknowledges them; with
// Options.ManualAck the program says when ([Client.Ack]). What is not acknowledged comes again. [Client.Events] tells who comes
// and goes; it is lossy by design. A program that receives nothing should say so with Options.NoPush: otherwise it counts as
// online and its member's mail waits in it.
//
// # What became of a message
//
// Whoever receives signs that it has the message, unless Options.NoReceipts is set. [Client.Track] and [Client.Wait] tell what became of a message
// with each recipient: OutcomeAcked where such a receipt holds, checked against the bytes that this process sent and the key that it
// trusts, and OutcomeUnsigned where only the broker says so. Receipts that do not hold count as none, and are reported.
//
// # Sharing
//
// A mesh has a small shared state, values under keys ([Client.SetState], [Client.State], [Client.ListState]). Changes of it are events. Neither the
// broker nor any member is kept from reading it.
//
// # What is secret
//
// Direct messages are sealed for the recipient's member key, topic messages with the topic's key. Messages to "*" and "@group"
// are not encrypted, nor are those of topics without a key; Encrypted is false on each of them. The client makes the keys of the
// topics that it creates, so that the broker never has one, and passes them on to new members ([SealPolicy]).
//
// A broker tells the client who is who, so the client remembers ([Pins]): the first key that it sees of a member, which member a
// name meant when it was first written to, and which topics are encrypted. Whatever contradicts that is an error
// ([KeyChangedError], [AmbiguousError], [KeyRefusedError]) and never a silent change. What was pinned on first sight is as good
// as the broker was then; whoever must be sure compares keys by another way and calls [Client.TrustMember]. Members attest the keys
// of their sessions; a message from a session that its pinned member does not vouch for is Unverified.
//
// Everything is safe for concurrent use. No log line holds a text, a key or a secret. docs/protocol.md and docs/formats.md
// describe the wire.
package client
