package wire

import (
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// TypePush is a message on its way to a recipient, or a system event.
const TypePush = "push"

// Subtypes of a push.
const (
	SubtypeReminder = "reminder"
	SubtypeSystem   = "system"
)

// SystemSender is the senderPubkey of system events.
const SystemSender = "system"

// Push carries one message to one connection. The same envelope leaves by every path: live, from the mailbox, after a REST post.
type Push struct {
	Header
	MessageID          string          `json:"messageId"` // for topic messages also the id in history
	MeshID             string          `json:"meshId"`
	SenderPubkey       string          `json:"senderPubkey"` // session key if the sender's connection had one, else its member key
	SenderMemberPubkey string          `json:"senderMemberPubkey,omitempty"`
	SenderMemberID     string          `json:"senderMemberId,omitempty"`
	SenderName         string          `json:"senderName,omitempty"`
	Priority           Priority        `json:"priority"`
	Nonce              string          `json:"nonce"`
	Ciphertext         string          `json:"ciphertext"`
	CreatedAt          string          `json:"createdAt"`
	TargetSpec         string          `json:"targetSpec,omitempty"` // "*", "@group" or "#id"; absent on direct messages
	Topic              string          `json:"topic,omitempty"`      // the topic's name
	TopicID            string          `json:"topicId,omitempty"`
	ReplyToID          string          `json:"replyToId,omitempty"`
	BodyVersion        int             `json:"bodyVersion,omitempty"`
	ClientMessageID    string          `json:"client_message_id,omitempty"`
	RequestFingerprint string          `json:"request_fingerprint,omitempty"`
	Subtype            string          `json:"subtype,omitempty"`
	Event              string          `json:"event,omitempty"`
	EventData          json.RawMessage `json:"eventData,omitempty"`
	Attestation        *Attestation    `json:"attestation,omitempty"` // the sender's member's word for SenderPubkey, where its session gave one
	Redelivered        bool            `json:"redelivered,omitempty"`
}

// Append writes the push after b without reflection; the bytes are those of [Encode]. It is the hot path of every fan-out.
func (p *Push) Append(b []byte) []byte {
	b = append(b, `{"type":"push","messageId":`...)
	b = appendString(b, p.MessageID)
	b = appendField(b, `,"meshId":`, p.MeshID, true)
	b = appendField(b, `,"senderPubkey":`, p.SenderPubkey, true)
	b = appendField(b, `,"senderMemberPubkey":`, p.SenderMemberPubkey, false)
	b = appendField(b, `,"senderMemberId":`, p.SenderMemberID, false)
	b = appendField(b, `,"senderName":`, p.SenderName, false)
	b = appendField(b, `,"priority":`, string(p.Priority), true)
	b = appendField(b, `,"nonce":`, p.Nonce, true)
	b = appendField(b, `,"ciphertext":`, p.Ciphertext, true)
	b = appendField(b, `,"createdAt":`, p.CreatedAt, true)
	b = appendField(b, `,"targetSpec":`, p.TargetSpec, false)
	b = appendField(b, `,"topic":`, p.Topic, false)
	b = appendField(b, `,"topicId":`, p.TopicID, false)
	b = appendField(b, `,"replyToId":`, p.ReplyToID, false)
	if p.BodyVersion != 0 {
		b = append(b, `,"bodyVersion":`...)
		b = strconv.AppendInt(b, int64(p.BodyVersion), 10)
	}
	b = appendField(b, `,"client_message_id":`, p.ClientMessageID, false)
	b = appendField(b, `,"request_fingerprint":`, p.RequestFingerprint, false)
	b = appendField(b, `,"subtype":`, p.Subtype, false)
	b = appendField(b, `,"event":`, p.Event, false)
	if len(p.EventData) > 0 {
		b = append(b, `,"eventData":`...)
		b = append(b, p.EventData...)
	}
	if p.Attestation != nil {
		if raw, err := Encode(p.Attestation); err == nil { // it always encodes
			b = append(b, `,"attestation":`...)
			b = append(b, raw...)
		}
	}
	if p.Redelivered {
		b = append(b, `,"redelivered":true`...)
	}
	return append(b, '}')
}

func appendField(b []byte, name, value string, always bool) []byte {
	if value == "" && !always {
		return b
	}
	return appendString(append(b, name...), value)
}

// appendString writes s as a JSON string. Plain ASCII, which is nearly everything here, is copied.
func appendString(b []byte, s string) []byte {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			plain = false
			break
		}
	}
	if plain {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"')
	}
	quoted, err := Encode(s)
	if err != nil { // a string always encodes
		return append(b, `""`...)
	}
	return append(b, quoted...)
}

// Names of system events; docs/protocol.md, events.
const (
	EventPeerJoined     = "peer_joined"
	EventPeerReturned   = "peer_returned"
	EventPeerLeft       = "peer_left"
	EventPeerVisible    = "peer_visible"
	EventPeerHidden     = "peer_hidden"
	EventProfileUpdated = "profile_updated"
	EventTopicJoined    = "topic_joined"
)

// Event builds a system push. Events are not stored and not acknowledged.
func Event(id, meshID, event string, data any, now time.Time) (*Push, error) {
	raw, err := Encode(data)
	if err != nil {
		return nil, err
	}
	return &Push{
		Header: Header{Type: TypePush}, MessageID: id, MeshID: meshID, SenderPubkey: SystemSender, Priority: PriorityLow,
		CreatedAt: FormatTime(now), Subtype: SubtypeSystem, Event: event, EventData: raw,
	}, nil
}

// PeerEvent is the data of the events about a session: joined, returned, left, visible, hidden.
type PeerEvent struct {
	Name        string   `json:"name"`
	DisplayName string   `json:"displayName"`
	Pubkey      string   `json:"pubkey"`
	Groups      *[]Group `json:"groups,omitempty"`
	LastSeenAt  string   `json:"lastSeenAt,omitempty"`
	Summary     string   `json:"summary,omitempty"`
}

// TopicJoinedEvent is the data of topic_joined.
type TopicJoinedEvent struct {
	TopicID  string `json:"topicId"`
	MemberID string `json:"memberId"`
}
