package broker

import (
	"encoding/json"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// What goes into the audit log, and what it says. Entries hold metadata only: who did what to whom, never a body, a value or a secret.
// docs/protocol.md, audit, lists them.

// audited is the event of something that a caller did. The payload's names are fixed for each type, so that every store hashes the same text.
func audited(by Caller, typ string, payload map[string]any) store.AuditEvent {
	return store.AuditEvent{Type: typ, ActorMemberID: by.Member.ID, ActorName: by.Name, Payload: canonical(payload), At: now()}
}

// host is who the host's own calls speak for: nobody of the mesh.
func host(meshID string) Caller { return Caller{MeshID: meshID} }

// canonical writes a payload as the chain hashes it. Values are ours: texts, numbers, lists and structs, which always encode.
func canonical(payload map[string]any) json.RawMessage {
	raw, err := wire.Encode(payload)
	if err == nil {
		raw, err = identity.CanonicalJSON(raw)
	}
	if err != nil {
		return json.RawMessage(`{}`)
	}
	return raw
}

// auditSubscribed is the event of a member that somebody, perhaps itself, made a topic's member, or gave another role in it.
func auditSubscribed(by Caller, t store.Topic, memberID, role string) store.AuditEvent {
	return audited(by, wire.AuditTopicMemberAdded, map[string]any{"name": t.Name, "role": role, "target": memberID, "topic": t.ID})
}

// auditMessage is the event of an accepted message. It is built by hand, because it is built for every message.
func auditMessage(m *store.Message, at time.Time) store.AuditEvent {
	p := identity.AppendCanonicalText([]byte(`{"message_id":`), m.ID)
	p = identity.AppendCanonicalText(append(p, `,"priority":`...), string(m.Priority))
	p = identity.AppendCanonicalText(append(p, `,"target":`...), m.TargetSpec)
	return store.AuditEvent{Type: wire.AuditMessageSent, ActorMemberID: m.SenderMemberID, ActorName: m.SenderName, Payload: append(p, '}'), At: at}
}

// auditJoined is the event of a session that took a new place.
func auditJoined(p *store.Presence, name string, byHello, restored bool, pubkey string) store.AuditEvent {
	groups := make([]string, 0, len(p.Groups))
	for _, g := range p.Groups {
		groups = append(groups, g.Name)
	}
	payload := map[string]any{"groups": groups, "pubkey": pubkey, "role": p.PeerRole}
	if p.SessionPubkey != "" {
		payload["session_pubkey"] = p.SessionPubkey
	}
	if byHello {
		payload["restored"] = restored
	} else {
		payload["via"] = wire.TypeSessionHello
	}
	return store.AuditEvent{Type: wire.AuditPeerJoined, ActorMemberID: p.MemberID, ActorName: name, Payload: canonical(payload), At: p.ConnectedAt}
}
