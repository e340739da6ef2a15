package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// What a program that embeds the broker does to its meshes. All methods may be called from many goroutines and take effect at once, also on
// sessions that are connected. Their errors: a bad argument is a [wire.Fault] with code invalid_args and the name of the field; what the store
// refuses keeps its sentinel, such as store.ErrNotFound or store.ErrConflict, for errors.Is; after Shutdown, [ErrClosed].

// hosted admits a call of the host; each true needs one leaveSession.
func (b *Broker) hosted() error {
	if !b.work.enterSession() {
		return ErrClosed
	}
	return nil
}

// NewMesh describes a mesh to be made.
type NewMesh struct {
	// ID is the mesh's id, 1 to 64 characters of [0-9A-Za-z_-]. Default: a new one.
	ID string
	// Slug is a short unique name for links, of the same characters. Default: ID.
	Slug string
	// Name is for people, 1 to 128 characters. Default: Slug.
	Name string
	// OwnerPubkey is the ed25519 key, 64 hex digits, that signs the mesh's invites. A member that has it may govern the mesh. Without one
	// nobody can join by invite, until [Broker.SetOwner] names it.
	OwnerPubkey string
	// RootKey is the mesh's root key, base64url of 32 bytes, for invites of version 2 (Options.InviteV2). Default: none, until [Broker.SetRootKey], or
	// the owner with the first such invite, gives it. The broker has no other use for it.
	RootKey string
	// SelfEditable says what members may change about themselves. Default (nil): everything.
	SelfEditable *wire.SelfEditable
}

// CreateMesh makes a mesh with its first topic, "general", public and without a key until a client claims one. store.ErrConflict: the id or
// the slug is in use.
func (b *Broker) CreateMesh(ctx context.Context, n NewMesh) (store.Mesh, error) {
	if err := b.hosted(); err != nil {
		return store.Mesh{}, err
	}
	defer b.work.leaveSession()
	m := store.Mesh{
		ID: cmp.Or(n.ID, newID()), Name: n.Name, OwnerPubkey: strings.ToLower(n.OwnerPubkey), RootKey: n.RootKey, Visibility: "private",
		SelfEditable: wire.SelfEditable{DisplayName: true, RoleTag: true, Groups: true, MessageMode: true}, CreatedAt: now(),
	}
	if n.SelfEditable != nil {
		m.SelfEditable = *n.SelfEditable
	}
	m.Slug = cmp.Or(n.Slug, m.ID)
	m.Name = cmp.Or(n.Name, m.Slug)
	if !wire.IsID(m.ID) {
		return store.Mesh{}, wire.BadField("ID", "must be 1 to 64 characters of [0-9A-Za-z_-]")
	}
	if !wire.IsID(m.Slug) { // stands in the signed text of an invite
		return store.Mesh{}, wire.BadField("Slug", "must be 1 to 64 characters of [0-9A-Za-z_-]")
	}
	var ok bool
	if m.Name, ok = wire.DisplayName(m.Name); !ok {
		return store.Mesh{}, errName
	}
	if m.OwnerPubkey != "" {
		if err := checkKey("OwnerPubkey", m.OwnerPubkey); err != nil {
			return store.Mesh{}, err
		}
	}
	if m.RootKey != "" && identity.CheckRootKey(m.RootKey) != nil {
		return store.Mesh{}, errRootKey
	}
	general := store.Topic{ID: newID(), MeshID: m.ID, Name: generalTopic, Visibility: wire.VisibilityPublic, CreatedAt: m.CreatedAt}
	if err := b.store.CreateMesh(ctx, m, general); err != nil {
		return store.Mesh{}, fmt.Errorf("create mesh: %w", err)
	}
	return m, nil
}

var errName = wire.BadField("Name", fmt.Sprintf("must have 1 to %d characters and no control characters", wire.MaxDisplayName))

// checkKey is [identity.CheckPublic] as a fault of an argument.
func checkKey(field, pubkey string) error {
	if err := identity.CheckPublic(pubkey); err != nil {
		f := wire.BadField(field, "must be an ed25519 public key, 64 hex digits")
		f.Cause = err
		return f
	}
	return nil
}

var errRootKey = wire.BadField("RootKey", "must be base64url of 32 bytes")

// SetRootKey gives a mesh the root key that invites of version 2 hand out, base64url of 32 bytes. It is the same for the life of the mesh: one that it has
// already is kept, and another is store.ErrConflict. store.ErrNotFound: no such mesh.
func (b *Broker) SetRootKey(ctx context.Context, meshID, rootKey string) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	if identity.CheckRootKey(rootKey) != nil {
		return errRootKey
	}
	if err := b.store.SetRootKey(ctx, meshID, rootKey); err != nil {
		return fmt.Errorf("root key: %w", err)
	}
	return nil
}

// Mesh returns a mesh, archived or not; store.ErrNotFound.
func (b *Broker) Mesh(ctx context.Context, meshID string) (store.Mesh, error) {
	return b.store.Mesh(ctx, meshID)
}

// MeshBySlug returns the mesh of that slug; store.ErrNotFound.
func (b *Broker) MeshBySlug(ctx context.Context, slug string) (store.Mesh, error) {
	return b.store.MeshBySlug(ctx, slug)
}

// SetOwner names the mesh's owner: the member that governs it whatever its role, who becomes lead of the topic "general", and the key that signs
// its invites. An empty value leaves the old one. store.ErrNotFound: no such mesh, or no such member in it.
func (b *Broker) SetOwner(ctx context.Context, meshID, memberID, pubkey string) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	pubkey = strings.ToLower(pubkey)
	if pubkey != "" {
		if err := checkKey("pubkey", pubkey); err != nil {
			return err
		}
	}
	if memberID != "" {
		if _, err := b.liveMember(ctx, meshID, memberID); err != nil {
			return fmt.Errorf("owner: %w", err)
		}
	}
	set := map[string]any{}
	if memberID != "" {
		set["target"] = memberID
	}
	if pubkey != "" {
		set["pubkey"] = pubkey
	}
	if err := b.store.SetMeshOwner(ctx, meshID, memberID, pubkey, audited(host(meshID), wire.AuditOwnerSet, set)); err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	if m := b.loaded(meshID); m != nil {
		m.mu.Lock()
		m.info.OwnerMemberID, m.info.OwnerPubkey = cmp.Or(memberID, m.info.OwnerMemberID), cmp.Or(pubkey, m.info.OwnerPubkey)
		m.mu.Unlock()
		m.release()
	}
	if memberID == "" {
		return nil
	}
	topic, err := b.store.Topic(ctx, meshID, generalTopic)
	if errors.Is(err, store.ErrNotFound) {
		return nil // archived
	}
	if err == nil {
		err = b.subscribe(ctx, meshID, topic, memberID, wire.TopicLead, true, auditSubscribed(host(meshID), topic, memberID, wire.TopicLead))
	}
	if err != nil {
		return fmt.Errorf("owner is set, but not lead of %s: %w", generalTopic, err)
	}
	return nil
}

// meta is what the store says of the mesh.
func (m *mesh) meta() store.Mesh {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.info
}

// NewMember describes a member to be enrolled without an invite.
type NewMember struct {
	// ID is the member's id, 1 to 64 characters of [0-9A-Za-z_-] other than "null". Default: a new one.
	ID string
	// Name is the display name, 1 to 128 characters. Required. Unlike a join, which numbers a name that is taken, this keeps it: two
	// members of one name can then be addressed by their keys only.
	Name string
	// Pubkey is the member's ed25519 key, 64 hex digits. Required.
	Pubkey string
	// Role is store.RoleMember (default) or RoleAdmin.
	Role string
	// RoleTag is a free word about what the member does.
	RoleTag string
	// UserID is the host's name of the user behind the member. A member with one counts as a person.
	UserID string
	// DefaultGroups are those of sessions that name none.
	DefaultGroups []wire.Group
	// MessageMode is push (default), inbox or off.
	MessageMode string
	// RequireHello2 refuses hellos that do not bind the session to the signature.
	RequireHello2 bool
}

// AddMember enrols a member and subscribes it to the topic "general". A session of somebody else that goes by its name loses that name.
// store.ErrConflict: the id is in use, or the key is or was a member's, banned or not; store.ErrKeyInUse: the key is another member's session key;
// store.ErrLimit: Options.MaxMembersPerMesh; store.ErrNotFound: no such mesh.
func (b *Broker) AddMember(ctx context.Context, meshID string, n NewMember) (store.Member, error) {
	if err := b.hosted(); err != nil {
		return store.Member{}, err
	}
	defer b.work.leaveSession()
	m := store.Member{
		ID: cmp.Or(n.ID, newID()), MeshID: meshID, UserID: n.UserID, Pubkey: strings.ToLower(n.Pubkey), Role: cmp.Or(n.Role, store.RoleMember),
		RoleTag: n.RoleTag, MessageMode: cmp.Or(n.MessageMode, "push"), RequireHello2: n.RequireHello2, JoinedAt: now(),
	}
	if !wire.IsID(m.ID) || m.ID == "null" { // which the audit log's hashes take for nobody
		return store.Member{}, wire.BadField("ID", "must be 1 to 64 characters of [0-9A-Za-z_-], and not null")
	}
	var ok bool
	if m.Name, ok = wire.DisplayName(n.Name); !ok {
		return store.Member{}, errName
	}
	if err := checkKey("Pubkey", m.Pubkey); err != nil {
		return store.Member{}, err
	}
	if err := checkRole(m.Role); err != nil {
		return store.Member{}, err
	}
	var err error
	if m.DefaultGroups, err = checkProfile(m.RoleTag, n.DefaultGroups, m.MessageMode); err != nil {
		return store.Member{}, err
	}
	joined := audited(host(meshID), wire.AuditMemberJoined, map[string]any{"member": m.ID, "pubkey": m.Pubkey, "role": m.Role})
	if err := b.store.AddMember(ctx, m, limitOr(b.opts.MaxMembersPerMesh), joined); err != nil {
		return store.Member{}, fmt.Errorf("add member: %w", err)
	}
	b.appeared(ctx, m, true)
	return m, nil
}

func checkRole(role string) error {
	if role != store.RoleAdmin && role != store.RoleMember {
		return wire.BadField("Role", "must be admin or member")
	}
	return nil
}

// checkProfile checks what a member or a preset for one says about it.
func checkProfile(roleTag string, groups []wire.Group, mode string) ([]wire.Group, error) {
	if wire.Chars(roleTag) > wire.MaxLabel || !wire.CleanText(roleTag) {
		return nil, wire.BadField("RoleTag", fmt.Sprintf("must have at most %d characters", wire.MaxLabel))
	}
	if mode != "push" && mode != "inbox" && mode != "off" {
		return nil, wire.BadField("MessageMode", "must be push, inbox or off")
	}
	return wire.CheckGroups(groups)
}

// Member returns a member, banned or not; store.ErrNotFound.
func (b *Broker) Member(ctx context.Context, meshID, memberID string) (store.Member, error) {
	return b.store.Member(ctx, meshID, memberID)
}

// MemberByKey returns the member with that public key, banned or not; store.ErrNotFound.
func (b *Broker) MemberByKey(ctx context.Context, meshID, pubkey string) (store.Member, error) {
	return b.store.MemberByKey(ctx, meshID, strings.ToLower(pubkey))
}

// Members returns the members of a mesh that are not banned, in the order in which they joined.
func (b *Broker) Members(ctx context.Context, meshID string) ([]store.Member, error) {
	return b.store.Members(ctx, meshID)
}

// liveMember is Member without the banned ones.
func (b *Broker) liveMember(ctx context.Context, meshID, memberID string) (store.Member, error) {
	m, err := b.store.Member(ctx, meshID, memberID)
	if err == nil && !m.RevokedAt.IsZero() {
		return m, fmt.Errorf("member is revoked: %w", store.ErrNotFound)
	}
	return m, err
}

// SetMemberRole makes a member store.RoleAdmin or RoleMember. It holds from the member's next request on; whoever stops being an admin loses its event
// streams, and reconnects to those that it still may read. The owner governs whatever its role. store.ErrNotFound.
func (b *Broker) SetMemberRole(ctx context.Context, meshID, memberID, role string) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	if err := checkRole(role); err != nil {
		return err
	}
	defer b.governing.lock(meshID)()
	return b.setRole(ctx, host(meshID), memberID, role)
}

// SetRequireHello2 says whether a member is refused without the signatures that bind a hello to its session. Sessions that are connected stay.
func (b *Broker) SetRequireHello2(ctx context.Context, meshID, memberID string, required bool) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	if err := b.store.SetRequireHello2(ctx, meshID, memberID, required); err != nil {
		return fmt.Errorf("require hello2: %w", err)
	}
	return nil
}

// RevokeMember bans a member: its connections are closed with 4002 and its places with them, its streams end, its API keys die, what waits
// for it expires, its copies of topic keys are deleted, and its key is never accepted again unless [Broker.RestoreMember] is called. It returns
// when all that is done but the close handshakes. Doing it twice does no harm. The owner and the last admin are not spared. store.ErrNotFound.
func (b *Broker) RevokeMember(ctx context.Context, meshID, memberID string) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	defer b.governing.lock(meshID)()
	member, err := b.store.Member(ctx, meshID, memberID)
	if err != nil {
		return fmt.Errorf("revoke member: %w", err)
	}
	return b.ban(ctx, host(meshID), member, "")
}

// RestoreMember lifts a ban: the member may sign in again and has its subscriptions. What the ban ended stays ended: sessions, API keys, copies of topic
// keys, and what waited for it. It keeps its name, even if another member has taken it meanwhile. store.ErrNotFound.
func (b *Broker) RestoreMember(ctx context.Context, meshID, memberID string) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	defer b.governing.lock(meshID)()
	member, err := b.store.Member(ctx, meshID, memberID)
	if err != nil {
		return fmt.Errorf("restore member: %w", err)
	}
	return b.unban(ctx, host(meshID), member)
}

// Bans returns the banned members of a mesh, the latest ban first; their RevokedAt says when.
func (b *Broker) Bans(ctx context.Context, meshID string) ([]store.Member, error) {
	return b.store.RevokedMembers(ctx, meshID)
}

// Disconnect closes a member's connections with 1000 "disconnected" and ends their places. Its clients reconnect by themselves. Having none is not
// an error; an unknown member is store.ErrNotFound.
func (b *Broker) Disconnect(ctx context.Context, meshID, memberID string) error {
	return b.ejectMember(ctx, meshID, memberID, disconnecting)
}

// Kick closes a member's connections with 4001 "kicked" and ends their places. Its clients do not reconnect by themselves, but nothing keeps them
// from it. Control connections without a session key stay, as with the frame: Disconnect and RevokeMember end those. Having none is not an
// error; an unknown member is store.ErrNotFound.
func (b *Broker) Kick(ctx context.Context, meshID, memberID string) error {
	return b.ejectMember(ctx, meshID, memberID, kicking)
}

// Online reports whether a member has a live connection to this broker that gets mail: one in grace does not count, nor one that asked for no
// pushes. Hidden sessions count.
func (b *Broker) Online(meshID, memberID string) bool {
	m := b.loaded(meshID)
	if m == nil {
		return false
	}
	defer m.release()
	return m.mail.online(store.Recipient{MemberID: memberID}, "", memberID)
}

// Session is one session of a member, as this broker sees it at the moment.
type Session struct {
	// Presence is the session's place. Changes to it reach the store within a second.
	store.Presence
	// Name is what others see: the session's own name, or its member's.
	Name string
	// Online is false while the connection is lost and the place is kept (grace).
	Online bool
}

// Sessions returns the sessions of a mesh that this broker holds, hidden ones too: connected ones before those in grace, then by connection time.
func (b *Broker) Sessions(meshID string) []Session {
	m := b.loaded(meshID)
	if m == nil {
		return nil
	}
	defer m.release()
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]Session, 0, len(m.presences))
	for _, p := range m.presencesLocked() {
		s := Session{Presence: p.row, Name: p.nameLocked(), Online: p.sess != nil}
		s.Groups = slices.Clone(s.Groups)
		all = append(all, s)
	}
	return all
}

// NewAPIKey describes an API key to be made.
type NewAPIKey struct {
	// Label says what the key is for, 1 to 128 characters. Required.
	Label string
	// Capabilities are some of wire.KeySend, KeyRead, KeyStateWrite and KeyAdmin, which includes the others. Required. A key never has
	// more rights than its issuer has at the time of the request.
	Capabilities []string
	// TopicScopes are the names of the topics that the key reaches. Default: all; an empty list: none.
	TopicScopes *[]string
	// IssuedBy is the member that the key acts for. Default: nobody; such a key may read but not post.
	IssuedBy string
	// ExpiresAt ends the key. Default: never.
	ExpiresAt time.Time
	// Rekey lets the key replace its issuer's public key. Only keys without TopicScopes can have it.
	Rekey bool
}

// CreateAPIKey makes an API key, outside the limits that members have. The secret is returned this once and not kept. store.ErrNotFound: no such
// mesh, or the issuer is unknown or banned.
func (b *Broker) CreateAPIKey(ctx context.Context, meshID string, n NewAPIKey) (secret string, _ store.APIKey, _ error) {
	if err := b.hosted(); err != nil {
		return "", store.APIKey{}, err
	}
	defer b.work.leaveSession()
	t := now()
	if err := (&wire.APIKeyCreate{Label: n.Label, Capabilities: n.Capabilities, TopicScopes: n.TopicScopes}).Check(); err != nil {
		return "", store.APIKey{}, err
	}
	expires := n.ExpiresAt.UTC().Truncate(time.Millisecond)
	switch {
	case !n.ExpiresAt.IsZero() && !expires.After(t):
		return "", store.APIKey{}, wire.BadField("ExpiresAt", "must be in the future")
	case n.Rekey && (n.TopicScopes != nil || n.IssuedBy == ""):
		return "", store.APIKey{}, wire.BadField("Rekey", "needs IssuedBy, and no TopicScopes")
	}
	if n.IssuedBy != "" {
		if _, err := b.liveMember(ctx, meshID, n.IssuedBy); err != nil {
			return "", store.APIKey{}, fmt.Errorf("issuer of an API key: %w", err)
		}
	}
	secret, prefix, hash, err := identity.NewAPIKey()
	if err != nil {
		return "", store.APIKey{}, err
	}
	k := store.APIKey{
		ID: newID(), MeshID: meshID, Label: n.Label, Hash: hash, Prefix: prefix, Capabilities: slices.Clone(n.Capabilities),
		TopicScopes: n.TopicScopes, IssuedBy: n.IssuedBy, Rekey: n.Rekey, CreatedAt: t, ExpiresAt: expires,
	}
	if err := b.store.CreateAPIKey(ctx, k, 0, auditKey(host(meshID), &k)); errors.Is(err, store.ErrRevoked) { // since we looked
		return "", store.APIKey{}, fmt.Errorf("issuer of an API key is revoked: %w", store.ErrNotFound)
	} else if err != nil {
		return "", store.APIKey{}, fmt.Errorf("create API key: %w", err)
	}
	return secret, k, nil
}
