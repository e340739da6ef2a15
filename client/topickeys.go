package client

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

const (
	// sealInterval is how often members without a key are looked for.
	sealInterval = 30 * time.Second
	// missAge is for how long Receive believes that there is no key yet.
	missAge = 3 * time.Second
	// recheckAge is how old a key must be before a message that it does not open makes the client ask for the key again.
	recheckAge = 30 * time.Second
	// pendingPage is how many members without a key the broker names at once.
	pendingPage = 50
)

// TopicKeyInfo says where a topic's key came from.
type TopicKeyInfo struct {
	TopicID, Topic string
	// SealedBy is the id of the member that passed the key on; this one for a key that the client made itself.
	SealedBy string
	// Own says that the copy was sealed by this member for itself.
	Own bool
	// BrokerMade says that the broker made the key, for a topic created by an older client. It may have kept it.
	BrokerMade bool
}

// keyring holds the topics and their keys.
type keyring struct {
	gate  chan struct{} // held by the one who asks for a key
	joins chan string   // ids of topics that somebody joined

	mu       sync.Mutex
	topics   map[string]Topic    // guarded by mu; by id
	topicsAt time.Time           // guarded by mu
	held     map[string]*heldKey // guarded by mu; by topic id
	misses   map[string]keyMiss  // guarded by mu; by topic id
}

// heldKey is a key that was accepted. It is not changed but for proven and at, under the keyring's mu.
type heldKey struct {
	key  topickey.Key
	info TopicKeyInfo
	// proven says that it was made here or that it opened another member's message, so that posting with it reaches the others.
	proven bool
	at     time.Time // when the broker was last asked for it
}

type keyMiss struct {
	err   error
	until time.Time
}

func (k *keyring) init() {
	k.gate, k.joins = make(chan struct{}, 1), make(chan string, 16)
	k.topics, k.held, k.misses = map[string]Topic{}, map[string]*heldKey{}, map[string]keyMiss{}
}

// joined says that a member may need the topic's key. When many join at once, the next round finds those that are left out here.
func (k *keyring) joined(topicID string) {
	select {
	case k.joins <- topicID:
	default:
	}
}

// learn takes a list of all topics.
func (k *keyring) learn(topics []Topic) {
	k.forgetTopics()
	for _, t := range topics {
		k.add(t)
	}
}

// add takes one topic that is certain.
func (k *keyring) add(t Topic) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.topicsAt) > topicAge {
		clear(k.topics)
		k.topicsAt = time.Now()
	}
	k.topics[t.ID] = t
}

func (k *keyring) forgetTopics() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.topics)
	k.topicsAt = time.Time{}
}

func (k *keyring) topic(ref string) (Topic, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.topicsAt) > topicAge {
		return Topic{}, false
	}
	if t, ok := k.topics[ref]; ok {
		return t, true
	}
	for _, t := range k.topics {
		if t.Name == ref {
			return t, true
		}
	}
	return Topic{}, false
}

func (k *keyring) get(topicID string) *heldKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[topicID]
}

func (k *keyring) hold(topicID string, key topickey.Key, info TopicKeyInfo) *heldKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := &heldKey{key: key, info: info, proven: info.Own, at: time.Now()}
	if was := k.held[topicID]; was != nil && was.key == key {
		h.proven = h.proven || was.proven
	}
	k.held[topicID] = h
	delete(k.misses, topicID)
	return h
}

func (k *keyring) drop(topicID string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.held, topicID)
	delete(k.misses, topicID)
}

func (k *keyring) prove(h *heldKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h.proven = true
}

func (k *keyring) isProven(h *heldKey) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return h.proven
}

// due reports, once per recheckAge, that the broker may be asked again for a key that did not open something.
func (k *keyring) due(h *heldKey) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(h.at) < recheckAge {
		return false
	}
	h.at = time.Now()
	return true
}

func (k *keyring) miss(topicID string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m := k.misses[topicID]; time.Now().Before(m.until) {
		return m.err
	}
	return nil
}

func (k *keyring) setMiss(topicID string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.misses) > 1000 {
		clear(k.misses)
	}
	k.misses[topicID] = keyMiss{err, time.Now().Add(missAge)}
}

// topicsHeld lists the ids of the topics whose key is here.
func (k *keyring) topicsHeld() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	ids := make([]string, 0, len(k.held))
	for id := range k.held {
		ids = append(ids, id)
	}
	return ids
}

// TopicKey returns the topic's key, asking the broker for this member's copy if need be. ErrKeyPending: nobody has passed the
// key on yet; ErrUnencrypted: the topic has none; *KeyRefusedError: the copy comes from somebody who has no business to make one.
func (c *Client) TopicKey(ctx context.Context, topic string) (topickey.Key, error) {
	h, err := c.namedKey(ctx, topic)
	if err != nil {
		return topickey.Key{}, err
	}
	return h.key, nil
}

// TopicKeyInfo is TopicKey, but tells where the key came from and not the key.
func (c *Client) TopicKeyInfo(ctx context.Context, topic string) (TopicKeyInfo, error) {
	h, err := c.namedKey(ctx, topic)
	if err != nil {
		return TopicKeyInfo{}, err
	}
	return h.info, nil
}

func (c *Client) namedKey(ctx context.Context, topic string) (*heldKey, error) {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	return c.topicKey(ctx, t)
}

// WaitTopicKey is TopicKey, but waits while the key is pending, until ctx ends: some member who holds the key must be online to
// pass it on.
func (c *Client) WaitTopicKey(ctx context.Context, topic string) (topickey.Key, error) {
	wait := 250 * time.Millisecond
	for {
		key, err := c.TopicKey(ctx, topic)
		if !errors.Is(err, ErrKeyPending) {
			return key, err
		}
		if sleep(ctx, wait) != nil {
			return topickey.Key{}, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// topicKey returns the key that is held, else asks for it.
func (c *Client) topicKey(ctx context.Context, t Topic) (*heldKey, error) {
	if h := c.keys.get(t.ID); h != nil {
		return h, nil
	}
	return c.askKey(ctx, t, nil)
}

// askKey asks the broker for this member's copy and judges it. Of several callers one asks; instead is what they had before.
func (c *Client) askKey(ctx context.Context, t Topic, instead *heldKey) (*heldKey, error) {
	select {
	case c.keys.gate <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.keys.gate }()
	if h := c.keys.get(t.ID); h != instead && h != nil {
		return h, nil
	}
	if t.Name == "" {
		var err error
		if t, err = c.topic(ctx, t.ID); err != nil {
			return nil, err
		}
	}
	var answer struct {
		TopicID      string  `json:"topicId"`
		EncryptedKey string  `json:"encryptedKey"`
		Nonce        string  `json:"nonce"`
		SenderPubkey *string `json:"senderPubkey"`
	}
	err := c.rest.do(ctx, restCall{method: "GET", path: topicPath(t.Name, "/key"), into: &answer})
	refused, _ := errors.AsType[*HTTPError](err)
	switch {
	case err == nil:
	case refused != nil && refused.Status == http.StatusConflict:
		if encrypted, err := c.pinnedEncrypted(t.ID); err != nil {
			return nil, err
		} else if encrypted {
			return nil, &KeyRefusedError{Topic: t.Name, TopicID: t.ID, Reason: RefusedDowngrade}
		}
		return nil, ErrUnencrypted
	case refused != nil && refused.Status == http.StatusNotFound && refused.Code != wire.TopicNotFound && !refused.plain:
		if err := c.pinEncrypted(t.ID); err != nil {
			return nil, err
		}
		return nil, ErrKeyPending
	default:
		return nil, err
	}
	if answer.TopicID != t.ID {
		return nil, &KeyRefusedError{Topic: t.Name, TopicID: t.ID, Reason: RefusedOtherTopic}
	}
	if err := c.pinEncrypted(t.ID); err != nil {
		return nil, err
	}
	key, senderX, err := topickey.Open(topickey.Sealed{EncryptedKey: answer.EncryptedKey, Nonce: answer.Nonce}, c.o.Key)
	if err != nil {
		return nil, &KeyRefusedError{Topic: t.Name, TopicID: t.ID, Reason: RefusedUnopenable}
	}
	metadata := ""
	if answer.SenderPubkey != nil {
		metadata = lower(*answer.SenderPubkey)
	}
	info, err := c.provenance(ctx, t, senderX, metadata)
	if err != nil {
		return nil, err
	}
	if info.BrokerMade {
		c.o.Logger.Debug("topic key made by the broker", "topic", t.ID)
	}
	return c.keys.hold(t.ID, key, info), nil
}

// provenance says whose key sealed a copy of a topic key. The copy is good when that is this member itself or a member of the
// topic by its pinned key: the box proves the sealer, and what the broker says about the topic proves nothing. A copy by nobody
// known, announced as the broker's own work, is a broker-made key.
func (c *Client) provenance(ctx context.Context, t Topic, senderX [32]byte, metadata string) (TopicKeyInfo, error) {
	info := TopicKeyInfo{TopicID: t.ID, Topic: t.Name}
	if own, _ := c.o.Key.X25519(); senderX == own {
		info.SealedBy, info.Own = c.o.MemberID, true
		return info, nil
	}
	refuse := func(reason KeyRefusal, by string) (TopicKeyInfo, error) {
		return TopicKeyInfo{}, &KeyRefusedError{Topic: t.Name, TopicID: t.ID, Reason: reason, SealedBy: by}
	}
	sealedBy := func(pubkey string) bool {
		x, err := identity.PublicToX25519(pubkey)
		return err == nil && x == senderX
	}
	roster, err := c.roster(ctx, t)
	if err != nil {
		return info, err
	}
	for _, m := range roster {
		if sealedBy(m.Pubkey) {
			if m.KeyChanged {
				return refuse(RefusedChangedKey, m.MemberID)
			}
			info.SealedBy = m.MemberID
			return info, nil
		}
	}
	members, err := c.Members(ctx)
	if err != nil {
		return info, err
	}
	for _, m := range members {
		if sealedBy(m.Pubkey) {
			return refuse(RefusedOutsider, m.MemberID)
		}
	}
	if metadata != hex.EncodeToString(senderX[:]) {
		return refuse(RefusedStranger, "")
	}
	if c.o.RefuseBrokerMadeKeys {
		return refuse(RefusedBrokerMade, "")
	}
	info.BrokerMade = true
	return info, nil
}

// postingKey is topicKey for a post. A key that was received must have opened another member's message first, if there is one:
// otherwise somebody may have handed this member a key that nobody else has.
func (c *Client) postingKey(ctx context.Context, t Topic) (topickey.Key, error) {
	h, err := c.topicKey(ctx, t)
	if err != nil {
		return topickey.Key{}, err
	}
	if c.keys.isProven(h) {
		return h.key, nil
	}
	latest, err := c.history(ctx, t, 50, "")
	if err != nil {
		return topickey.Key{}, err
	}
	others := 0
	for _, m := range latest {
		if m.BodyVersion != topickey.V2 || m.SenderMemberID == c.o.MemberID {
			continue
		}
		others++
		if _, err := topickey.OpenV2(m.Nonce, m.Ciphertext, h.key); err == nil {
			others = 0
			break
		}
	}
	if others > 0 {
		c.keys.drop(t.ID) // it may have been replaced meanwhile
		return topickey.Key{}, &KeyRefusedError{Topic: t.Name, TopicID: t.ID, Reason: RefusedNoPost, SealedBy: h.info.SealedBy}
	}
	c.keys.prove(h)
	return h.key, nil
}

// openTopicBody fills in the text of a topic message whose topic is known.
func (c *Client) openTopicBody(ctx context.Context, m *Message, version int, nonce, ciphertext string) {
	switch version {
	case 0, topickey.V1:
		m.Text = topickey.DecodeV1(ciphertext)
		encrypted, err := c.pinnedEncrypted(m.TopicID)
		m.Untrusted = encrypted || err != nil
		return
	case topickey.V2:
		m.Encrypted = true
	default:
		m.Encrypted = true
		m.Err = fmt.Errorf("client: message body of unknown version %d", version)
		return
	}
	t := Topic{ID: m.TopicID, Name: m.Topic}
	if t.ID == "" {
		if t, m.Err = c.topic(ctx, m.Topic); m.Err != nil {
			return
		}
		m.TopicID = t.ID
	}
	h, err := c.readingKey(ctx, t)
	if err != nil {
		m.Err = err
		return
	}
	text, err := topickey.OpenV2(nonce, ciphertext, h.key)
	if err != nil && c.keys.due(h) {
		// The topic may have a new key since.
		limited, cancel := context.WithTimeout(ctx, keyPatience)
		defer cancel()
		if fresh, ferr := c.askKey(limited, t, h); ferr == nil && fresh.key != h.key {
			h = fresh
			text, err = topickey.OpenV2(nonce, ciphertext, h.key)
		}
	}
	if err != nil {
		m.Err = fmt.Errorf("client: open a message of topic %s: %w", t.ID, err)
		return
	}
	m.Text = text
	if m.FromMemberID != "" && m.FromMemberID != c.o.MemberID {
		c.keys.prove(h)
	}
}

// readingKey is topicKey with little patience, and without asking the broker for every message while there is no key.
func (c *Client) readingKey(ctx context.Context, t Topic) (*heldKey, error) {
	if h := c.keys.get(t.ID); h != nil {
		return h, nil
	}
	if err := c.keys.miss(t.ID); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, keyPatience)
	defer cancel()
	h, err := c.topicKey(limited, t)
	if err != nil && ctx.Err() == nil {
		c.keys.setMiss(t.ID, err)
	}
	return h, err
}

func (c *Client) pinEncrypted(topicID string) error {
	_, err := c.o.Pins.Pin(c.o.MeshID, Pin{PinTopic, topicID, topicEncrypted})
	return err
}

func (c *Client) pinnedEncrypted(topicID string) (bool, error) {
	v, err := c.o.Pins.Get(c.o.MeshID, PinTopic, topicID)
	return v == topicEncrypted, err
}

// RejectTopicKey deletes this member's copy of the topic key, and no other, so that some member seals it anew. Whoever sealed
// the copy is not asked again.
func (c *Client) RejectTopicKey(ctx context.Context, topic string) error {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return err
	}
	c.keys.drop(t.ID)
	return c.rest.do(ctx, restCall{method: "DELETE", path: topicPath(t.Name, "/key")})
}

// ClaimTopicKey gives a key to a topic that has none (ErrUnencrypted), or a new one to a topic of which no copy is left, which
// takes a lead or an admin. Another member may have been first: the error is then an *HTTPError of status 409, and TopicKey asks
// for that member's key.
func (c *Client) ClaimTopicKey(ctx context.Context, topic string) error {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return err
	}
	key, err := topickey.NewKey()
	if err != nil {
		return fmt.Errorf("client: make a topic key: %w", err)
	}
	copied, err := topickey.Seal(key, c.o.Key.Public(), c.o.Key)
	if err != nil {
		return fmt.Errorf("client: seal a topic key: %w", err)
	}
	body := map[string]string{"encryptedKeyPubkey": c.ownX(), "encryptedKey": copied.EncryptedKey, "nonce": copied.Nonce}
	if err := c.rest.do(ctx, restCall{method: "POST", path: topicPath(t.Name, "/claim-key"), body: body}); err != nil {
		return err
	}
	if err := c.pinEncrypted(t.ID); err != nil {
		return err
	}
	c.keys.hold(t.ID, key, TopicKeyInfo{TopicID: t.ID, Topic: t.Name, SealedBy: c.o.MemberID, Own: true})
	return nil
}

// SealTarget is a member of a topic that has no copy of its key.
type SealTarget struct {
	MemberID    string `json:"memberId"`
	Pubkey      string `json:"pubkey"`
	DisplayName string `json:"displayName"`
}

// SkippedSeal is a member that the key was not passed on to, and why: a *KeyChangedError, or the broker's refusal.
type SkippedSeal struct {
	SealTarget
	Err error
}

// SealPending passes the topic's key on to the members of the topic that have none, whatever the SealPolicy says, but never to
// one whose key has changed. The client does so by itself, every 30 s and when somebody joins, where the policy allows it.
func (c *Client) SealPending(ctx context.Context, topic string) (sealed []SealTarget, skipped []SkippedSeal, err error) {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	return c.sealPending(ctx, t)
}

func (c *Client) sealPending(ctx context.Context, t Topic) (sealed []SealTarget, skipped []SkippedSeal, err error) {
	h, err := c.topicKey(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	for {
		var answer struct {
			Pending []SealTarget `json:"pending"`
		}
		if err := c.rest.do(ctx, restCall{method: "GET", path: topicPath(t.Name, "/pending-seals"), into: &answer}); err != nil {
			return sealed, skipped, err
		}
		skipped = nil // they come again
		before := len(sealed)
		for _, who := range answer.Pending {
			err := c.sealFor(ctx, t, h, who)
			refused, _ := errors.AsType[*HTTPError](err)
			switch {
			case err == nil:
				sealed = append(sealed, who)
			case ctx.Err() != nil:
				return sealed, skipped, err
			case refused != nil && refused.Code == "already_sealed":
				// Another member was faster.
			case refused != nil && refused.Status == http.StatusTooManyRequests:
				return sealed, skipped, err
			default:
				skipped = append(skipped, SkippedSeal{who, err})
			}
		}
		if len(answer.Pending) < pendingPage || len(sealed) == before {
			return sealed, skipped, nil
		}
	}
}

func (c *Client) sealFor(ctx context.Context, t Topic, h *heldKey, who SealTarget) error {
	pinned, err := c.pinMember(who.MemberID, who.Pubkey)
	if err != nil {
		return err
	}
	if pinned != lower(who.Pubkey) {
		return &KeyChangedError{
			Name: who.DisplayName, MemberID: who.MemberID, PinnedMemberID: who.MemberID, PinnedKey: pinned, OfferedPubkey: lower(who.Pubkey),
		}
	}
	copied, err := topickey.Seal(h.key, pinned, c.o.Key)
	if err != nil {
		return fmt.Errorf("client: seal the key of topic %s for member %s: %w", t.ID, who.MemberID, err)
	}
	return c.rest.do(ctx, restCall{method: "POST", path: topicPath(t.Name, "/seal"), once: true, body: map[string]string{
		"memberId": who.MemberID, "encryptedKey": copied.EncryptedKey, "nonce": copied.Nonce,
	}})
}

// sealLoop passes keys on: at once when somebody joins a topic, and every 30 s for what was missed.
func (c *Client) sealLoop() {
	t := time.NewTicker(sealInterval)
	defer t.Stop()
	for {
		var ids []string
		select {
		case <-c.background.Done():
			return
		case id := <-c.keys.joins:
			ids = []string{id}
		case <-t.C:
			if c.Connected() {
				ids = c.keys.topicsHeld()
			}
		}
		for _, id := range ids {
			if err := c.sealByPolicy(c.background, id); err != nil && c.background.Err() == nil {
				c.o.Logger.Debug("pass a topic key on", "topic", id, "cause", err)
			}
		}
	}
}

func (c *Client) sealByPolicy(ctx context.Context, topicID string) error {
	ctx, cancel := context.WithTimeout(ctx, sealInterval)
	defer cancel()
	t, err := c.topic(ctx, topicID)
	if err != nil {
		return err
	}
	if c.o.SealPolicy == SealPublic {
		// A topic that was private when it was first seen does not become public because the broker says so.
		pinned, err := c.o.Pins.Pin(c.o.MeshID, Pin{PinVisibility, t.ID, t.Visibility})
		if err != nil || t.Visibility != wire.VisibilityPublic || pinned[0].Value != wire.VisibilityPublic {
			return err
		}
	}
	_, skipped, err := c.sealPending(ctx, t)
	for _, s := range skipped {
		c.o.Logger.Debug("topic key not passed on", "topic", t.ID, "peer", s.MemberID, "cause", s.Err)
	}
	return err
}

// topicPath is the path of a topic's REST route. The API names topics, it does not know their ids.
func topicPath(name, route string) string { return "/v1/topics/" + url.PathEscape(name) + route }
