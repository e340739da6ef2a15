package client

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/claudemesh/broker/wire"
)

// directoryAge is for how long the list of names is believed. The pins guard what a stale list could say.
const directoryAge = 15 * time.Second

// Member is one member of the mesh.
type Member struct {
	MemberID    string
	Pubkey      string // the member key that the broker gives
	DisplayName string
	Role        string // admin or member
	IsHuman     bool   // linked to a user's account
	JoinedAt    time.Time
	Online      bool
	Status      string // idle, working, dnd or offline
	Summary     string
	// KeyChanged says that another key is pinned for this member. Nothing is sealed for it until TrustMember.
	KeyChanged bool
}

// Members lists the members of the mesh, the oldest first. Their keys are pinned at first sight.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	var answer struct {
		Members []struct {
			MemberID    string  `json:"memberId"`
			Pubkey      string  `json:"pubkey"`
			DisplayName string  `json:"displayName"`
			Role        string  `json:"role"`
			IsHuman     bool    `json:"isHuman"`
			JoinedAt    string  `json:"joinedAt"`
			Online      bool    `json:"online"`
			Status      string  `json:"status"`
			Summary     *string `json:"summary"`
		} `json:"members"`
	}
	if err := c.rest.do(ctx, restCall{method: "GET", path: "/v1/members", into: &answer}); err != nil {
		return nil, err
	}
	pins := make([]Pin, len(answer.Members))
	for i, m := range answer.Members {
		pins[i] = Pin{Kind: PinMember, ID: m.MemberID, Value: m.Pubkey}
	}
	pinned, err := c.pinMembers(pins)
	if err != nil {
		return nil, err
	}
	out := make([]Member, len(answer.Members))
	for i, m := range answer.Members {
		out[i] = Member{
			MemberID: m.MemberID, Pubkey: lower(m.Pubkey), DisplayName: m.DisplayName, Role: m.Role, IsHuman: m.IsHuman,
			JoinedAt: parseTime(m.JoinedAt), Online: m.Online, Status: m.Status, KeyChanged: pinned[i] != lower(m.Pubkey),
		}
		if m.Summary != nil {
			out[i].Summary = *m.Summary
		}
	}
	return out, nil
}

// directory is the latest list of who goes by which name.
type directory struct {
	mu    sync.Mutex
	names map[string][]Candidate // guarded by mu; by folded name, each member once
	at    time.Time              // guarded by mu
}

func (d *directory) get(name string) ([]Candidate, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names == nil || time.Since(d.at) > directoryAge {
		return nil, false
	}
	found := d.names[name]
	return found, len(found) > 0
}

// Resolve finds the member that a display name means and returns the key that is pinned for it. Names are compared without
// regard to case, width and invisible characters; those of members and of their sessions count alike. Several members of one
// name are an *AmbiguousError, nobody an *UnknownNameError, another key or another member than before a *KeyChangedError.
func (c *Client) Resolve(ctx context.Context, name string) (Candidate, error) {
	folded := foldName(name)
	found, ok := c.dir.get(folded)
	if !ok {
		names, err := c.readNames(ctx)
		if err != nil {
			return Candidate{}, err
		}
		found = names[folded]
	}
	switch len(found) {
	case 0:
		return Candidate{}, &UnknownNameError{Name: name}
	case 1:
	default:
		return Candidate{}, &AmbiguousError{Name: name, Candidates: slices.Clone(found)}
	}
	who := found[0]
	pinned, err := c.pinMember(who.MemberID, who.Pubkey)
	if err != nil {
		return Candidate{}, err
	}
	if pinned != who.Pubkey {
		return Candidate{}, &KeyChangedError{
			Name: name, MemberID: who.MemberID, PinnedMemberID: who.MemberID, PinnedKey: pinned, OfferedPubkey: who.Pubkey,
		}
	}
	now, err := c.o.Pins.Pin(c.o.MeshID, Pin{Kind: PinName, ID: folded, Value: who.MemberID})
	if err != nil {
		return Candidate{}, err
	}
	if now[0].Value != who.MemberID {
		return Candidate{}, &KeyChangedError{Name: name, MemberID: who.MemberID, PinnedMemberID: now[0].Value, OfferedPubkey: who.Pubkey}
	}
	return who, nil
}

// readNames lists the members, who may be away, and the sessions, which may have names of their own.
func (c *Client) readNames(ctx context.Context) (map[string][]Candidate, error) {
	peers, err := c.Peers(ctx)
	if err != nil {
		return nil, err
	}
	members, err := c.Members(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		// A host may mount the socket alone: then the sessions have to do.
		c.o.Logger.Debug("members", "cause", err)
	}
	names := map[string][]Candidate{}
	add := func(name string, who Candidate) {
		folded := foldName(name)
		for _, have := range names[folded] {
			if have.MemberID == who.MemberID {
				return
			}
		}
		names[folded] = append(names[folded], who)
	}
	for _, m := range members {
		add(m.DisplayName, Candidate{MemberID: m.MemberID, DisplayName: m.DisplayName, Pubkey: m.Pubkey})
	}
	for _, p := range peers {
		if p.MemberID != "" && wire.IsKey(p.MemberPubkey) {
			add(p.DisplayName, Candidate{MemberID: p.MemberID, DisplayName: p.DisplayName, Pubkey: lower(p.MemberPubkey)})
		}
	}
	c.dir.mu.Lock()
	c.dir.names, c.dir.at = names, time.Now()
	c.dir.mu.Unlock()
	return names, nil
}

// foldName is a name as names are compared: NFKC, lower case, without control and formatting characters.
func foldName(name string) string {
	name = strings.ToLower(norm.NFKC.String(name))
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, name)
	return strings.TrimSpace(norm.NFKC.String(name))
}
