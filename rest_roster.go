package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// here is the presence of each member that this process shows to others, the one that connected last: never a hidden one. Present are all that are here.
func (b *Broker) here(meshID string) (shown map[string]hereNow, present map[string]bool) {
	shown, present = map[string]hereNow{}, map[string]bool{}
	m := b.loaded(meshID)
	if m == nil {
		return shown, present
	}
	defer m.release()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.presencesLocked() { // online before grace, so of two of the same moment the first
		present[p.member.ID] = true
		if old, twice := shown[p.member.ID]; !p.shownToLocked(nobody) || twice && !p.row.ConnectedAt.After(old.at) {
			continue
		}
		shown[p.member.ID] = hereNow{
			pubkey: p.member.Pubkey, name: p.nameLocked(), status: p.row.Status, summary: p.row.Summary, groups: slices.Clone(p.row.Groups),
			at: p.row.ConnectedAt,
		}
	}
	return shown, present
}

// nobody is no member: what it may see, everybody may.
const nobody = ""

// hereNow is what rosters tell of a presence.
type hereNow struct {
	pubkey  string
	name    string
	status  wire.Status
	summary *string
	groups  []wire.Group
	at      time.Time
}

// getPeers is GET /peers.
type getPeers struct{ noInput }

type peerAnswer struct {
	Pubkey      string       `json:"pubkey"`
	DisplayName string       `json:"displayName"`
	Status      wire.Status  `json:"status"`
	Summary     *string      `json:"summary"`
	Groups      []wire.Group `json:"groups"`
	Via         string       `json:"via"` // ws, or rest for whoever only used an API key of late
}

// keyInUse is how long after its last use an API key shows its issuer among the peers.
const keyInUse = 5 * time.Minute

func (*getPeers) run(ctx context.Context, c *apiCall) (any, error) {
	shown, present := c.b.here(c.by.MeshID)
	list := make([]peerAnswer, 0, len(shown))
	order := make([]string, 0, len(shown))
	for id := range shown {
		order = append(order, id)
	}
	slices.SortFunc(order, func(x, y string) int { return cmp.Or(shown[y].at.Compare(shown[x].at), cmp.Compare(x, y)) })
	for _, id := range order {
		p := shown[id]
		groups := p.groups
		if groups == nil {
			groups = []wire.Group{}
		}
		list = append(list, peerAnswer{Pubkey: p.pubkey, DisplayName: p.name, Status: p.status, Summary: p.summary, Groups: groups, Via: "ws"})
	}
	issuers, err := c.b.store.ActiveIssuers(ctx, c.by.MeshID, now().Add(-keyInUse))
	if err != nil {
		return nil, fmt.Errorf("active issuers: %w", err)
	}
	for _, id := range issuers {
		if present[id] { // also a hidden one: its keys would tell that it is here
			continue
		}
		m, err := c.b.store.Member(ctx, c.by.MeshID, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("member: %w", err)
		}
		list = append(list, peerAnswer{Pubkey: m.Pubkey, DisplayName: m.Name, Status: wire.StatusIdle, Groups: []wire.Group{}, Via: "rest"})
	}
	return map[string]any{"peers": list}, nil
}

// getMembers is GET /members.
type getMembers struct{ noInput }

type memberAnswer struct {
	MemberID    string      `json:"memberId"`
	Pubkey      string      `json:"pubkey"`
	DisplayName string      `json:"displayName"`
	Role        string      `json:"role"`
	IsHuman     bool        `json:"isHuman"` // linked to a user account of the host
	JoinedAt    string      `json:"joinedAt"`
	Online      bool        `json:"online"`
	Status      wire.Status `json:"status"`
	Summary     *string     `json:"summary"`
}

// statusOffline is what rosters say of a member without a presence.
const statusOffline wire.Status = "offline"

func (*getMembers) run(ctx context.Context, c *apiCall) (any, error) {
	members, err := c.b.store.Members(ctx, c.by.MeshID)
	if err != nil {
		return nil, fmt.Errorf("members: %w", err)
	}
	shown, _ := c.b.here(c.by.MeshID)
	list := make([]memberAnswer, 0, len(members))
	for i := range members {
		m := &members[i]
		a := memberAnswer{
			MemberID: m.ID, Pubkey: m.Pubkey, DisplayName: m.Name, Role: m.Role, IsHuman: m.UserID != "", JoinedAt: wire.FormatTime(m.JoinedAt),
			Status: statusOffline,
		}
		if p, ok := shown[m.ID]; ok {
			a.Online, a.Status, a.Summary = true, p.status, p.summary
		}
		list = append(list, a)
	}
	return map[string]any{"members": list}, nil
}

// Codes of a refused change of key.
const (
	codeNotWebMember   wire.Code = "not_web_member"
	codeMemberNotFound wire.Code = "member_not_found"
	codePubkeyInUse    wire.Code = "pubkey_in_use"
	codeBadProof       wire.Code = "bad_proof"
)

// postPeerPubkey is POST /me/peer-pubkey: the member goes on with another key pair.
type postPeerPubkey struct {
	Pubkey    string       `json:"pubkey"` // 64 hex digits
	Proof     string       `json:"proof"`  // signature by the new key; docs/formats.md, rekey
	Timestamp *wire.Number `json:"timestamp"`
}

func (f *postPeerPubkey) read(c *apiCall) error { return c.readJSON(f) }

func (f *postPeerPubkey) check() error {
	switch {
	case !wire.IsKey(f.Pubkey):
		return invalid("pubkey", "must be 64 hex digits")
	case f.Proof == "":
		return invalid("proof", "must be a signature by the new key")
	case f.Timestamp == nil || math.IsInf(float64(*f.Timestamp), 0):
		return invalid("timestamp", "must be the time that was signed, in ms since the epoch")
	}
	return nil
}

func (f *postPeerPubkey) run(ctx context.Context, c *apiCall) (any, error) {
	// A leaked key must not become an identity: only a host mints keys with this right, and none for some topics only.
	if !c.by.key.Rekey || c.by.key.TopicScopes != nil {
		return nil, &wire.Fault{Code: codeNotWebMember, Text: "this credential may not change the member's key"}
	}
	if err := (identity.Rekey{
		MeshID: c.by.MeshID, MemberID: c.by.Member.ID, NewPubkey: f.Pubkey, Timestamp: float64(*f.Timestamp), Signature: f.Proof,
	}).Verify(time.Now()); err != nil {
		return nil, &wire.Fault{Code: codeBadProof, Text: string(cmp.Or(identity.ClassOf(err), identity.ClassBadSignature)), Cause: err}
	}
	pubkey := strings.ToLower(f.Pubkey)
	changed, err := c.b.rekey(ctx, c.by, pubkey)
	if err != nil {
		return nil, err
	}
	return map[string]any{"memberId": c.by.Member.ID, "pubkey": pubkey, "changed": changed}, nil
}

// rekey gives the caller's member a new key. What the old one opened ends: its sessions, its copies of topic keys, the API keys that it
// made over them. Keys of the host with the right to do this again stay.
func (b *Broker) rekey(ctx context.Context, by Caller, pubkey string) (changed bool, err error) {
	if by.Member.Pubkey == pubkey {
		return false, nil
	}
	ctx = context.WithoutCancel(ctx) // once the store has it, the rest must follow, whether or not the client waits
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	event := audited(by, wire.AuditMemberRekeyed, map[string]any{"former": by.Member.Pubkey, "pubkey": pubkey})
	switch err := b.store.RekeyMember(ctx, by.MeshID, by.Member.ID, pubkey, now(), event); {
	case errors.Is(err, store.ErrKeyInUse):
		return false, refuseCode(codePubkeyInUse)
	case errors.Is(err, store.ErrNotFound):
		return false, refuseCode(codeMemberNotFound)
	case err != nil:
		return false, fmt.Errorf("rekey: %w", err)
	}
	if m := b.loaded(by.MeshID); m != nil {
		m.expel(ctx, by.Member.ID, wire.ClosePolicy, wire.ReasonKeyChange)
		m.release()
	}
	b.endStreams(by.MeshID, func(s *stream) bool { return s.memberID == by.Member.ID })
	return true, nil
}
