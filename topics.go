package broker

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

var (
	_ = op(wire.TypeTopicCreate, (*Broker).opTopicCreate)
	_ = op(wire.TypeTopicList, (*Broker).opTopicList)
	_ = silentOp(wire.TypeTopicJoin, (*Broker).opTopicJoin)
	_ = silentOp(wire.TypeTopicLeave, (*Broker).opTopicLeave)
	_ = op(wire.TypeTopicMembers, (*Broker).opTopicMembers)
	_ = op(wire.TypeTopicHistory, (*Broker).opTopicHistory)
	_ = silentOp(wire.TypeTopicMarkRead, (*Broker).opTopicMarkRead)
	_ = op(wire.TypeTopicAdd, (*Broker).opTopicAdd)
	_ = op(wire.TypeTopicArchive, (*Broker).opTopicArchive)
)

func (b *Broker) opTopicCreate(ctx context.Context, by Caller, f wire.TopicCreate) (wire.Message, error) {
	t, created, err := b.createTopic(ctx, by, f)
	if err != nil {
		return nil, err
	}
	return &wire.TopicCreated{
		Header: wire.Header{Type: wire.TypeTopicCreated}, Topic: wire.TopicRef{ID: t.ID, Name: t.Name, Visibility: t.Visibility}, Created: created,
	}, nil
}

func (b *Broker) opTopicList(ctx context.Context, by Caller, _ wire.TopicList) (wire.Message, error) {
	topics, err := b.visibleTopics(ctx, by)
	if err != nil {
		return nil, err
	}
	list := &wire.TopicListResponse{Header: wire.Header{Type: wire.TypeTopicListResponse}, Topics: make([]wire.TopicInfo, 0, len(topics))}
	for _, t := range topics {
		list.Topics = append(list.Topics, wire.TopicInfo{
			ID: t.ID, Name: t.Name, Description: orNull(t.Description), Visibility: t.Visibility, MemberCount: len(t.Subscribers),
			CreatedAt: wire.FormatTime(t.CreatedAt),
		})
	}
	return list, nil
}

// orNull is nil for the empty string, for fields that are null when unset.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (b *Broker) opTopicJoin(ctx context.Context, by Caller, f wire.TopicJoin) (wire.Message, error) {
	t, err := b.visibleTopic(ctx, by, f.Topic)
	if err != nil {
		return nil, err
	}
	return nil, b.joinTopic(ctx, by, t, f.Role)
}

func (b *Broker) opTopicLeave(ctx context.Context, by Caller, f wire.TopicLeave) (wire.Message, error) {
	t, err := b.visibleTopic(ctx, by, f.Topic)
	if err != nil {
		return nil, err
	}
	return nil, b.leaveTopic(ctx, by, t)
}

func (b *Broker) opTopicMembers(ctx context.Context, by Caller, f wire.TopicMembers) (wire.Message, error) {
	t, err := b.visibleTopic(ctx, by, f.Topic)
	if err != nil {
		return nil, err
	}
	subs, err := b.store.Subscriptions(ctx, by.MeshID, t.ID)
	if err != nil {
		return nil, fmt.Errorf("subscriptions: %w", err)
	}
	members, err := b.store.Members(ctx, by.MeshID)
	if err != nil {
		return nil, fmt.Errorf("members: %w", err)
	}
	byID := make(map[string]*store.Member, len(members))
	for i := range members {
		byID[members[i].ID] = &members[i]
	}
	list := &wire.TopicMembersResponse{Header: wire.Header{Type: wire.TypeTopicMembersReply}, Topic: f.Topic, Members: []wire.TopicMemberInfo{}}
	for _, s := range subs {
		m := byID[s.MemberID]
		if m == nil {
			continue // revoked between the two reads
		}
		list.Members = append(list.Members, wire.TopicMemberInfo{
			MemberID: m.ID, Pubkey: m.Pubkey, DisplayName: m.Name, Role: s.Role, JoinedAt: wire.FormatTime(s.JoinedAt),
			LastReadAt: wire.FormatTimePtr(s.LastReadAt), HasKey: s.HasKey,
		})
	}
	slices.SortFunc(list.Members, func(x, y wire.TopicMemberInfo) int {
		return cmp.Or(cmp.Compare(x.DisplayName, y.DisplayName), cmp.Compare(x.MemberID, y.MemberID))
	})
	return list, nil
}

func (b *Broker) opTopicHistory(ctx context.Context, by Caller, f wire.TopicHistory) (wire.Message, error) {
	t, err := b.visibleTopic(ctx, by, f.Topic)
	if err != nil {
		return nil, err
	}
	list := &wire.TopicHistoryResponse{Header: wire.Header{Type: wire.TypeTopicHistoryReply}, Topic: f.Topic, Messages: []wire.HistoryMessage{}}
	var before int64
	if f.BeforeID != "" {
		before, err = b.seqOf(ctx, by.MeshID, t.ID, f.BeforeID)
		if err != nil || before == 0 {
			return list, err
		}
	}
	page, truncated, err := b.history(ctx, by.MeshID, t.ID, before, f.Count(), maxPage)
	if err != nil {
		return nil, err
	}
	list.Truncated = truncated
	for i := range page {
		m := &page[i]
		list.Messages = append(list.Messages, wire.HistoryMessage{
			ID: m.ID, SenderPubkey: cmp.Or(m.SenderSessionPubkey, m.SenderPubkey), SenderMemberID: m.SenderMemberID, SenderName: m.SenderName,
			Nonce: m.Nonce, Ciphertext: m.Ciphertext, BodyVersion: max(m.BodyVersion, topickey.V1), ReplyToID: m.ReplyToID,
			CreatedAt: wire.FormatTime(m.CreatedAt),
		})
	}
	return list, nil
}

func (b *Broker) opTopicMarkRead(ctx context.Context, by Caller, f wire.TopicMarkRead) (wire.Message, error) {
	t, err := b.visibleTopic(ctx, by, f.Topic)
	if err != nil {
		return nil, err
	}
	if _, err := b.store.MarkRead(ctx, by.MeshID, t.ID, by.Member.ID, false, now()); err != nil {
		return nil, fmt.Errorf("mark read: %w", err)
	}
	return nil, nil
}

func (b *Broker) opTopicAdd(ctx context.Context, by Caller, f wire.TopicAdd) (wire.Message, error) {
	t, err := b.visibleTopic(ctx, by, f.Topic)
	if err != nil {
		return nil, err
	}
	return nil, b.addToTopic(ctx, by, t, f.Member, f.Role)
}

func (b *Broker) opTopicArchive(ctx context.Context, by Caller, f wire.TopicArchive) (wire.Message, error) {
	t, err := b.visibleTopic(ctx, by, f.Topic)
	if err != nil {
		return nil, err
	}
	return nil, b.archiveTopic(ctx, by, t)
}

// errTopicNotFound says that there is no such topic, or none that the caller may see: nobody can tell which.
func errTopicNotFound(ref string) error {
	return &wire.Fault{Code: wire.TopicNotFound, Text: `topic "` + ref + `" not found`}
}

// visibleTopic finds a topic, by id or name, as a caller may know of it: not archived; a private one only for its members and the
// mesh's admins. Else errTopicNotFound.
func (b *Broker) visibleTopic(ctx context.Context, by Caller, ref string) (store.Topic, error) {
	if ref == "" || wire.Chars(ref) > wire.MaxTopicName || !wire.CleanText(ref) { // no id or name is like that, and no store need hold it
		return store.Topic{}, errTopicNotFound(ref)
	}
	t, err := b.store.Topic(ctx, by.MeshID, ref)
	if errors.Is(err, store.ErrNotFound) {
		return store.Topic{}, errTopicNotFound(ref)
	}
	if err != nil {
		return store.Topic{}, fmt.Errorf("topic: %w", err)
	}
	if seen, err := b.sees(ctx, by, t); err != nil {
		return store.Topic{}, err
	} else if !seen {
		return store.Topic{}, errTopicNotFound(ref)
	}
	return t, nil
}

// sees reports whether a topic exists as far as the caller is concerned.
func (b *Broker) sees(ctx context.Context, by Caller, t store.Topic) (bool, error) {
	if t.Visibility == wire.VisibilityPublic {
		return true, nil
	}
	role, err := b.topicRole(ctx, by, t)
	if err != nil || role != "" {
		return role != "", err
	}
	return b.isAdmin(ctx, by)
}

// topicRole is the caller's role in a topic, empty if it is no member of it.
func (b *Broker) topicRole(ctx context.Context, by Caller, t store.Topic) (string, error) {
	if by.Member.ID == "" {
		return "", nil
	}
	sub, err := b.store.Subscription(ctx, by.MeshID, t.ID, by.Member.ID)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("subscription: %w", err)
	}
	return sub.Role, nil
}

// governs reports whether the caller may add to a topic and archive it: its lead, or an admin of the mesh.
func (b *Broker) governs(ctx context.Context, by Caller, t store.Topic) (bool, error) {
	role, err := b.topicRole(ctx, by, t)
	if err != nil || role == wire.TopicLead {
		return err == nil, err
	}
	return b.isAdmin(ctx, by)
}

// visibleTopics lists the topics that exist as far as the caller is concerned, by name, with their members.
func (b *Broker) visibleTopics(ctx context.Context, by Caller) ([]store.RosterTopic, error) {
	roster, err := b.store.Roster(ctx, by.MeshID)
	if err != nil {
		return nil, fmt.Errorf("roster: %w", err)
	}
	admin, err := b.isAdmin(ctx, by)
	if err != nil {
		return nil, err
	}
	seen := make([]store.RosterTopic, 0, len(roster.Topics))
	for _, t := range roster.Topics {
		in := func(s store.Subscription) bool { return s.MemberID == by.Member.ID && s.MemberID != "" }
		if admin || t.Visibility == wire.VisibilityPublic || slices.ContainsFunc(t.Subscribers, in) {
			seen = append(seen, t)
		}
	}
	return seen, nil
}

// createTopic makes a topic with the caller as lead, or finds the one of that name and, if it is public, joins it. The name of one that the
// caller may not see is not available, which says no more than that the name is taken.
func (b *Broker) createTopic(ctx context.Context, by Caller, f wire.TopicCreate) (t store.Topic, created bool, err error) {
	at := now()
	n := store.NewTopic{
		Topic: store.Topic{
			ID: newID(), MeshID: by.MeshID, Name: f.Name, Description: f.Description, Visibility: f.Visibility,
			CreatedByMemberID: by.Member.ID, CreatedAt: at,
		},
		MaxTopics: limitOr(b.opts.MaxTopicsPerMesh), MaxOwned: limitOr(b.opts.MaxTopicsPerMember),
	}
	switch {
	case f.HasKey():
		n.EncryptedKeyPubkey = strings.ToLower(f.EncryptedKeyPubkey)
		if err := checkSeal(f.EncryptedKey, f.Nonce, n.EncryptedKeyPubkey); err != nil {
			return t, false, wire.BadField("encryptedKey", err.Error())
		}
		n.Key = &store.SealedKey{EncryptedKey: f.EncryptedKey, Nonce: f.Nonce, SealedByMemberID: by.Member.ID, CreatedAt: at}
	case b.opts.TopicKeys == BrokerSeal:
		if n.Key, n.EncryptedKeyPubkey, err = brokerSeal(by.Member.Pubkey); err != nil {
			return t, false, err
		}
		if n.Key != nil {
			n.Key.CreatedAt = at
		}
	}
	t, created, err = b.store.CreateTopic(ctx, n, audited(by, wire.AuditTopicCreated, map[string]any{
		"name": n.Name, "topic": n.ID, "visibility": n.Visibility,
	}))
	switch {
	case errors.Is(err, store.ErrLimit):
		return t, false, &wire.Fault{Code: wire.Forbidden, Text: "no more topics here: archive some first", Cause: err}
	case errors.Is(err, store.ErrNotFound):
		return t, false, &wire.Fault{Code: wire.Forbidden, Text: "you are no member of this mesh any more", Cause: err}
	case err != nil:
		return t, false, fmt.Errorf("create topic: %w", err)
	case created:
		return t, true, nil
	}
	if seen, err := b.sees(ctx, by, t); err != nil {
		return t, false, err
	} else if !seen {
		return store.Topic{}, false, wire.BadField("name", "not available")
	}
	if t.Visibility == wire.VisibilityPublic {
		err = b.joinTopic(ctx, by, t, wire.TopicMember)
	}
	return t, false, err
}

// checkSeal says what is wrong with a sealed copy that is announced with that public key, or with any if it is empty.
func checkSeal(encryptedKey, nonce, pubkey string) error {
	prefix, err := topickey.CheckSealed(topickey.Sealed{EncryptedKey: encryptedKey, Nonce: nonce})
	switch {
	case err != nil:
		return errors.New("must be base64 of 80 bytes, with a nonce of 24")
	case pubkey != "" && hex.EncodeToString(prefix[:]) != pubkey:
		return errors.New("must begin with encryptedKeyPubkey")
	case identity.CheckX25519(prefix) != nil:
		return errors.New("must begin with an x25519 key that can be used")
	default:
		return nil
	}
}

// brokerSeal makes a topic key for a creator that brought none, seals it, and forgets it. It makes none for a member whose key is no
// point that can be sealed for.
func brokerSeal(memberKey string) (sealed *store.SealedKey, pubkey string, err error) {
	key, err := topickey.NewKey()
	if err != nil {
		return nil, "", err
	}
	defer key.Wipe()
	copied, pubkey, err := topickey.SealEphemeral(key, memberKey)
	if err != nil {
		return nil, "", nil //nolint:nilerr // the topic is then without a key, and any member may claim one
	}
	return &store.SealedKey{EncryptedKey: copied.EncryptedKey, Nonce: copied.Nonce}, pubkey, nil
}

// joinTopic subscribes the caller to a topic that it sees. Only admins become leads this way; who is in already keeps its role.
func (b *Broker) joinTopic(ctx context.Context, by Caller, t store.Topic, role string) error {
	if role == wire.TopicLead {
		admin, err := b.isAdmin(ctx, by)
		if err != nil {
			return err
		}
		if !admin {
			role = wire.TopicMember
		}
	}
	return b.subscribe(ctx, by.MeshID, t, by.Member.ID, role, false, auditSubscribed(by, t, by.Member.ID, role))
}

// subscribe makes a member a topic member and tells those who wait for it.
func (b *Broker) subscribe(ctx context.Context, meshID string, t store.Topic, memberID, role string, replaceRole bool, audit ...store.AuditEvent) error {
	joined, err := b.store.Subscribe(ctx, meshID, t.ID, memberID, role, replaceRole, now(), audit...)
	if errors.Is(err, store.ErrNotFound) { // archived, or the member was revoked, since it was found
		return errTopicNotFound(t.Name)
	}
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if joined {
		b.topicJoined(ctx, meshID, t.ID, memberID)
	}
	return nil
}

// topicJoined tells a topic's other members of a new one. Every way into a topic ends here.
func (b *Broker) topicJoined(ctx context.Context, meshID, topicID, memberID string) {
	m := b.loaded(meshID)
	if m == nil {
		return // nobody is connected here
	}
	defer m.release()
	subs, err := b.store.Subscriptions(ctx, meshID, topicID)
	if err != nil {
		b.log.Warn("a new topic member could not be announced; others find it when they look", "mesh", meshID, "cause", err)
		return
	}
	m.announceTopicJoined(topicID, memberID, subs)
}

// leaveTopic takes the caller out of a topic, with its copy of the key and the posts that it has not got yet.
func (b *Broker) leaveTopic(ctx context.Context, by Caller, t store.Topic) error {
	meshID, memberID := by.MeshID, by.Member.ID
	left := audited(by, wire.AuditTopicMemberLeft, map[string]any{"name": t.Name, "topic": t.ID})
	gone, err := b.store.Unsubscribe(ctx, meshID, t.ID, memberID, now(), left)
	if err != nil {
		return fmt.Errorf("unsubscribe: %w", err)
	}
	b.expired(gone)
	if t.Visibility != wire.VisibilityPublic {
		b.endStreams(meshID, func(s *stream) bool { return s.topicID == t.ID && s.memberID == memberID })
	}
	return nil
}

// expired forgets deliveries that the store has ended.
func (b *Broker) expired(gone []store.Delivery) {
	b.metrics.expired.Add(uint64(len(gone)))
	b.settle(gone)
}

// addToTopic subscribes another member, named by id or public key; a given role replaces the one it has.
func (b *Broker) addToTopic(ctx context.Context, by Caller, t store.Topic, memberRef, role string) error {
	if ok, err := b.governs(ctx, by, t); err != nil {
		return err
	} else if !ok {
		return &wire.Fault{Code: wire.Forbidden, Text: "only a lead of the topic or an admin may add members"}
	}
	m, err := b.memberByRef(ctx, by.MeshID, memberRef)
	if err != nil {
		return err
	}
	role, replace := cmp.Or(role, wire.TopicMember), role != ""
	return b.subscribe(ctx, by.MeshID, t, m.ID, role, replace, auditSubscribed(by, t, m.ID, role))
}

// memberByRef finds a member that is not revoked, by public key or id; else wire.NotFound.
func (b *Broker) memberByRef(ctx context.Context, meshID, ref string) (store.Member, error) {
	m, err := store.Member{}, error(store.ErrNotFound)
	if wire.IsKey(ref) {
		m, err = b.store.MemberByKey(ctx, meshID, strings.ToLower(ref))
	}
	if errors.Is(err, store.ErrNotFound) && wire.IsID(ref) {
		m, err = b.store.Member(ctx, meshID, ref)
	}
	if errors.Is(err, store.ErrNotFound) || err == nil && !m.RevokedAt.IsZero() {
		return store.Member{}, &wire.Fault{Code: wire.NotFound, Text: "no such member"}
	}
	if err != nil {
		return store.Member{}, fmt.Errorf("member: %w", err)
	}
	return m, nil
}

// archiveTopic ends a topic: its posts that nobody has got yet expire, its streams end, its name is free. The history is kept.
func (b *Broker) archiveTopic(ctx context.Context, by Caller, t store.Topic) error {
	if ok, err := b.governs(ctx, by, t); err != nil {
		return err
	} else if !ok {
		return &wire.Fault{Code: wire.Forbidden, Text: "only a lead of the topic or an admin may archive it"}
	}
	gone, err := b.store.ArchiveTopic(ctx, by.MeshID, t.ID, now(), audited(by, wire.AuditTopicArchived, map[string]any{
		"name": t.Name, "topic": t.ID,
	}))
	if errors.Is(err, store.ErrNotFound) {
		return errTopicNotFound(t.Name)
	}
	if err != nil {
		return fmt.Errorf("archive topic: %w", err)
	}
	b.expired(gone)
	b.endStreams(by.MeshID, func(s *stream) bool { return s.topicID == t.ID })
	return nil
}

// RestoreTopic takes a topic out of the archive, with its members, history and key, for a host: members cannot, because whoever uses an
// archived name makes a new topic. store.ErrNotFound if there is none of that id, store.ErrConflict if its name is used again.
func (b *Broker) RestoreTopic(ctx context.Context, meshID, topicID string) error {
	if err := b.restoreTopic(ctx, meshID, topicID); err != nil {
		return fmt.Errorf("broker: restore topic %s: %w", clip(topicID), err)
	}
	return nil
}

func (b *Broker) restoreTopic(ctx context.Context, meshID, topicID string) error {
	t, err := b.store.TopicByID(ctx, meshID, topicID)
	if err != nil {
		return err
	}
	return b.store.RestoreTopic(ctx, meshID, topicID, audited(host(meshID), wire.AuditTopicRestored, map[string]any{"name": t.Name, "topic": t.ID}))
}

// seqOf is the place of a message in a topic's history, 0 if it is not there.
func (b *Broker) seqOf(ctx context.Context, meshID, topicID, messageID string) (int64, error) {
	if !wire.IsMessageID(messageID) {
		return 0, nil
	}
	m, err := b.store.Message(ctx, meshID, messageID)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrAmbiguous) || err == nil && (m.ID != messageID || m.TopicID != topicID) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("message: %w", err)
	}
	return m.Seq, nil
}

// messageOverhead is about what a message of a page needs besides nonce and ciphertext.
const messageOverhead = 512

// history is a page of a topic, newest first, below the message with seq before (0: from the newest). It is cut, and says so, before it
// exceeds so many bytes, but has one message if there is any.
func (b *Broker) history(ctx context.Context, meshID, topicID string, before int64, limit, bytes int) ([]store.Message, bool, error) {
	page, err := b.store.History(ctx, store.HistoryQuery{MeshID: meshID, TopicID: topicID, Before: before, Limit: limit})
	if err != nil {
		return nil, false, fmt.Errorf("history: %w", err)
	}
	size := 0
	for i := range page {
		if size += messageOverhead + len(page[i].Nonce) + len(page[i].Ciphertext); size > bytes && i > 0 {
			return page[:i], true, nil
		}
	}
	return page, false, nil
}
