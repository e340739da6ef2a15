package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// Topic keys have REST routes only. The broker keeps sealed copies and who rejected whose; it opens none, and who may have one is for the
// holders to say: docs/formats.md, sealed topic key.

// Codes of refusals about topic keys; docs/rest.md, topic keys.
const (
	codeUnencrypted      wire.Code = "topic_unencrypted"
	codeNotSealed        wire.Code = "key_not_sealed_for_member"
	codeNotInTopic       wire.Code = "recipient_not_in_topic"
	codeNotHolder        wire.Code = "not_key_holder"
	codeSealerRejected   wire.Code = "sealer_rejected"
	codeAlreadySealed    wire.Code = "already_sealed"
	codeAlreadyEncrypted wire.Code = "already_encrypted"
	codeInvalidSeal      wire.Code = "invalid_seal"
)

var errUnencrypted = &wire.Fault{Code: codeUnencrypted, Text: "the topic has no key; make one and claim it, or post unencrypted (bodyVersion 1)"}

// sealsPerMinute is how many copies of keys one API key may seal; docs/rest.md, limits.
const sealsPerMinute = 60

// topicKey is the caller's own copy of a topic's key.
func (b *Broker) topicKey(ctx context.Context, by Caller, t store.Topic) (store.SealedKey, error) {
	if t.EncryptedKeyPubkey == "" {
		return store.SealedKey{}, errUnencrypted
	}
	k, err := b.store.TopicKey(ctx, by.MeshID, t.ID, by.Member.ID)
	if errors.Is(err, store.ErrNotFound) {
		return k, &wire.Fault{Code: codeNotSealed, Text: "no copy for you yet; a member that holds the key seals one for topic members"}
	}
	if err != nil {
		return k, fmt.Errorf("topic key: %w", err)
	}
	return k, nil
}

// rejectTopicKey deletes the caller's own copy, whose sealer is not heard again for it, and reports whether there was one.
func (b *Broker) rejectTopicKey(ctx context.Context, by Caller, t store.Topic) (bool, error) {
	if t.EncryptedKeyPubkey == "" {
		return false, errUnencrypted
	}
	deleted, err := b.store.RejectTopicKey(ctx, by.MeshID, t.ID, by.Member.ID)
	if err != nil {
		return false, fmt.Errorf("reject topic key: %w", err)
	}
	return deleted, nil
}

// maxPendingSeals is how many members one list of pending seals names.
const maxPendingSeals = 50

// pendingSeals lists the topic's members that wait for a copy, but the caller, those that wait longest first.
func (b *Broker) pendingSeals(ctx context.Context, by Caller, t store.Topic) ([]store.PendingSeal, error) {
	if t.EncryptedKeyPubkey == "" {
		return nil, nil
	}
	waiting, err := b.store.PendingSeals(ctx, by.MeshID, t.ID, by.Member.ID, maxPendingSeals)
	if err != nil {
		return nil, fmt.Errorf("pending seals: %w", err)
	}
	return waiting, nil
}

// sealTopicKey stores a copy that the caller, a holder of the key, made for another member. Only the topic's leads, and the recipient
// itself, may replace one.
func (b *Broker) sealTopicKey(ctx context.Context, by Caller, t store.Topic, recipient, encryptedKey, nonce string) (at time.Time, err error) {
	if t.EncryptedKeyPubkey == "" {
		return at, errUnencrypted
	}
	if err := checkSeal(encryptedKey, nonce, ""); err != nil {
		return at, &wire.Fault{Code: codeInvalidSeal, Text: "encryptedKey " + err.Error()}
	}
	if !wire.IsID(recipient) {
		return at, &wire.Fault{Code: codeNotInTopic, Text: "no topic member has that id"}
	}
	overwrite := recipient == by.Member.ID
	if !overwrite {
		role, err := b.topicRole(ctx, by, t)
		if err != nil {
			return at, err
		}
		overwrite = role == wire.TopicLead
	}
	at = now()
	err = b.store.SealTopicKey(ctx, by.MeshID, t.ID, recipient, store.SealedKey{
		EncryptedKey: encryptedKey, Nonce: nonce, SealedByMemberID: by.Member.ID, CreatedAt: at,
	}, overwrite)
	for _, known := range []struct {
		is   error
		code wire.Code
		text string
	}{
		{store.ErrUnencrypted, codeUnencrypted, errUnencrypted.Text},
		{store.ErrNotFound, codeNotInTopic, "no topic member has that id"},
		{store.ErrNotHolder, codeNotHolder, "you hold no copy of the key yourself"},
		{store.ErrRejected, codeSealerRejected, "the member has rejected a copy of yours; another holder must seal for it"},
		{store.ErrConflict, codeAlreadySealed, "the member has a copy"},
	} {
		if errors.Is(err, known.is) {
			return at, &wire.Fault{Code: known.code, Text: known.text}
		}
	}
	if err != nil {
		return at, fmt.Errorf("seal topic key: %w", err)
	}
	return at, nil
}

// claimTopicKey gives a topic without a key the one that the caller made. A key of which no copy is left counts as none for those who
// govern the topic: what was posted under it stays unreadable.
func (b *Broker) claimTopicKey(ctx context.Context, by Caller, t store.Topic, pubkey, encryptedKey, nonce string) error {
	if err := checkSeal(encryptedKey, nonce, pubkey); err != nil {
		return &wire.Fault{Code: codeInvalidSeal, Text: "encryptedKey " + err.Error()}
	}
	if t.Visibility != wire.VisibilityPublic {
		if role, err := b.topicRole(ctx, by, t); err != nil {
			return err
		} else if role == "" { // an admin that sees the topic
			return &wire.Fault{Code: wire.Forbidden, Text: "not a member of this topic"}
		}
	}
	governs, err := b.governs(ctx, by, t)
	if err != nil {
		return err
	}
	err = b.store.ClaimTopicKey(ctx, by.MeshID, t.ID, by.Member.ID, pubkey, store.SealedKey{
		EncryptedKey: encryptedKey, Nonce: nonce, SealedByMemberID: by.Member.ID, CreatedAt: now(),
	}, governs)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return errTopicNotFound(t.Name)
	case errors.Is(err, store.ErrConflict):
		return b.claimRefused(ctx, by, t, governs)
	case err != nil:
		return fmt.Errorf("claim topic key: %w", err)
	}
	return nil
}

// claimRefused says why a topic's key could not be claimed: there is one, or it is lost and not the caller's to replace.
func (b *Broker) claimRefused(ctx context.Context, by Caller, t store.Topic, governs bool) error {
	copies, err := b.store.TopicKeyCount(ctx, by.MeshID, t.ID)
	if err != nil {
		return fmt.Errorf("topic key copies: %w", err)
	}
	if copies == 0 && !governs {
		return &wire.Fault{Code: wire.Forbidden, Text: "the key is lost; only a lead of the topic or an admin may start a new one"}
	}
	is, err := b.store.TopicByID(ctx, by.MeshID, t.ID)
	if err != nil {
		return fmt.Errorf("topic: %w", err)
	}
	return &restFault{
		Fault: &wire.Fault{Code: codeAlreadyEncrypted, Text: "ask for a copy of the topic's key instead"},
		more:  map[string]any{"senderPubkey": is.EncryptedKeyPubkey},
	}
}

// getKey is GET /topics/{name}/key.
type getKey struct{ noInput }

// keyAnswer is the caller's copy of a topic key.
type keyAnswer struct {
	topicRef
	EncryptedKey     string  `json:"encryptedKey"`
	Nonce            string  `json:"nonce"`
	SenderPubkey     string  `json:"senderPubkey"`     // of the topic; says nothing about who sealed this copy
	SealedByMemberID *string `json:"sealedByMemberId"` // as far as the broker knows; null: the broker did, for an older client
	CreatedAt        string  `json:"createdAt"`
}

// topicRef begins every answer about one topic.
type topicRef struct {
	Topic   string `json:"topic"`
	TopicID string `json:"topicId"`
}

func refTo(t store.Topic) topicRef { return topicRef{Topic: t.Name, TopicID: t.ID} }

func (*getKey) run(ctx context.Context, c *apiCall) (any, error) {
	k, err := c.b.topicKey(ctx, c.by, c.topic)
	if err != nil {
		return nil, err
	}
	return keyAnswer{
		topicRef: refTo(c.topic), EncryptedKey: k.EncryptedKey, Nonce: k.Nonce, SenderPubkey: c.topic.EncryptedKeyPubkey,
		SealedByMemberID: orNull(k.SealedByMemberID), CreatedAt: wire.FormatTime(k.CreatedAt),
	}, nil
}

// deleteKey is DELETE /topics/{name}/key.
type deleteKey struct{ noInput }

func (*deleteKey) run(ctx context.Context, c *apiCall) (any, error) {
	deleted, err := c.b.rejectTopicKey(ctx, c.by, c.topic)
	if err != nil {
		return nil, err
	}
	return struct {
		topicRef
		Deleted bool `json:"deleted"`
	}{refTo(c.topic), deleted}, nil
}

// getPendingSeals is GET /topics/{name}/pending-seals.
type getPendingSeals struct{ noInput }

type pendingSeal struct {
	MemberID    string `json:"memberId"`
	Pubkey      string `json:"pubkey"`
	DisplayName string `json:"displayName"`
	Rejected    int    `json:"rejected,omitempty"` // sealers whose copies it has rejected
}

func (*getPendingSeals) run(ctx context.Context, c *apiCall) (any, error) {
	waiting, err := c.b.pendingSeals(ctx, c.by, c.topic)
	if err != nil {
		return nil, err
	}
	pending := make([]pendingSeal, 0, len(waiting))
	for _, w := range waiting {
		pending = append(pending, pendingSeal{MemberID: w.Member.ID, Pubkey: w.Member.Pubkey, DisplayName: w.Member.Name, Rejected: w.Rejected})
	}
	return struct {
		topicRef
		SenderPubkey *string       `json:"senderPubkey"`
		Pending      []pendingSeal `json:"pending"`
	}{refTo(c.topic), orNull(c.topic.EncryptedKeyPubkey), pending}, nil
}

// postSeal is POST /topics/{name}/seal.
type postSeal struct {
	MemberID     string `json:"memberId"`
	EncryptedKey string `json:"encryptedKey"`
	Nonce        string `json:"nonce"`
}

func (f *postSeal) read(c *apiCall) error { return c.readJSON(f) }

func (f *postSeal) check() error {
	for _, field := range []struct{ name, value string }{{"memberId", f.MemberID}, {"encryptedKey", f.EncryptedKey}, {"nonce", f.Nonce}} {
		if field.value == "" {
			return invalid(field.name, "must not be empty")
		}
	}
	return nil
}

func (f *postSeal) run(ctx context.Context, c *apiCall) (any, error) {
	key, t := c.by.credential(), time.Now()
	if !c.b.seals.Take(key, t) {
		return nil, tooMany(c.b.seals.RetryAfter(key, t))
	}
	at, err := c.b.sealTopicKey(ctx, c.by, c.topic, f.MemberID, f.EncryptedKey, f.Nonce)
	if err != nil {
		return nil, err
	}
	return struct {
		topicRef
		MemberID string `json:"memberId"`
		SealedAt string `json:"sealedAt"`
	}{refTo(c.topic), f.MemberID, wire.FormatTime(at)}, nil
}

// postClaim is POST /topics/{name}/claim-key.
type postClaim struct {
	EncryptedKeyPubkey string `json:"encryptedKeyPubkey"` // 64 hex digits: the first 32 bytes of the copy
	EncryptedKey       string `json:"encryptedKey"`
	Nonce              string `json:"nonce"`
}

func (f *postClaim) read(c *apiCall) error { return c.readJSON(f) }

func (f *postClaim) check() error {
	switch {
	case !wire.IsKey(f.EncryptedKeyPubkey):
		return invalid("encryptedKeyPubkey", "must be 64 hex digits")
	case f.EncryptedKey == "" || len(f.EncryptedKey) > 4096:
		return invalid("encryptedKey", "must have 1 to 4096 characters")
	case f.Nonce == "" || len(f.Nonce) > 64:
		return invalid("nonce", "must have 1 to 64 characters")
	}
	f.EncryptedKeyPubkey = strings.ToLower(f.EncryptedKeyPubkey)
	return nil
}

func (f *postClaim) run(ctx context.Context, c *apiCall) (any, error) {
	if err := c.b.claimTopicKey(ctx, c.by, c.topic, f.EncryptedKeyPubkey, f.EncryptedKey, f.Nonce); err != nil {
		return nil, err
	}
	return struct {
		topicRef
		SenderPubkey string `json:"senderPubkey"`
		MemberID     string `json:"memberId"`
		Claimed      bool   `json:"claimed"`
	}{refTo(c.topic), f.EncryptedKeyPubkey, c.by.Member.ID, true}, nil
}
