package client

import (
	"context"
	"maps"
	"slices"

	"github.com/claudemesh/broker/wire"
)

// sessionState is what the session was told to be, kept for the case that it must begin anew: a session that was away for
// longer than its lease comes back as a fresh one, and a program that asked not to be disturbed would be.
type sessionState struct {
	groups  map[string]*string // by name: the role, or nil for a group that was left
	profile wire.Profile
	visible *bool
	summary *string
	stats   *wire.Stats
	status  wire.Status
}

// frames tells a fresh session all of it. Nobody waits for answers.
func (s *sessionState) frames() [][]byte {
	var out [][]byte
	add := func(m wire.Message) {
		if frame, err := wire.Encode(m); err == nil {
			out = append(out, frame)
		}
	}
	if s.status != "" { // first: it holds messages back
		add(&wire.SetStatus{Header: header(wire.TypeSetStatus), Status: s.status})
	}
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		if role := s.groups[name]; role != nil {
			add(&wire.JoinGroup{Header: header(wire.TypeJoinGroup), Name: name, Role: *role})
		} else {
			add(&wire.LeaveGroup{Header: header(wire.TypeLeaveGroup), Name: name})
		}
	}
	if s.visible != nil {
		add(&wire.SetVisible{Header: header(wire.TypeSetVisible), Visible: s.visible})
	}
	if !s.profile.Empty() {
		add(&wire.SetProfile{Header: header(wire.TypeSetProfile), Profile: s.profile})
	}
	if s.summary != nil {
		add(&wire.SetSummary{Header: header(wire.TypeSetSummary), Summary: s.summary})
	}
	if s.stats != nil {
		add(&wire.SetStats{Header: header(wire.TypeSetStats), Stats: s.stats})
	}
	return out
}

// set makes a request about the session itself and, once the broker has agreed, remembers it for a fresh session.
func (c *Client) set(ctx context.Context, request wire.Message, remember func(*sessionState)) error {
	if err := c.call(ctx, request, nil, true); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	remember(&c.state)
	return nil
}

// SetStatus says what the session is doing: idle, working or dnd. While it is working or dnd only messages of priority now
// arrive. This and the other settings are repeated when the session has to begin anew after a long outage.
func (c *Client) SetStatus(ctx context.Context, status wire.Status) error {
	return c.set(ctx, &wire.SetStatus{Header: header(wire.TypeSetStatus), Status: status},
		func(s *sessionState) { s.status = status })
}

// SetSummary says it in words, at most 2000 characters.
func (c *Client) SetSummary(ctx context.Context, summary string) error {
	return c.set(ctx, &wire.SetSummary{Header: header(wire.TypeSetSummary), Summary: &summary},
		func(s *sessionState) { s.summary = &summary })
}

// SetStats replaces the session's counters.
func (c *Client) SetStats(ctx context.Context, stats wire.Stats) error {
	return c.set(ctx, &wire.SetStats{Header: header(wire.TypeSetStats), Stats: &stats},
		func(s *sessionState) { s.stats = &stats })
}

// SetVisible shows or hides the session. A hidden one is in nobody's list and gets no message to "*" or a group.
func (c *Client) SetVisible(ctx context.Context, visible bool) error {
	return c.set(ctx, &wire.SetVisible{Header: header(wire.TypeSetVisible), Visible: &visible},
		func(s *sessionState) { s.visible = &visible })
}

// SetProfile changes what the session shows of itself; nil members stay as they are.
func (c *Client) SetProfile(ctx context.Context, profile wire.Profile) error {
	return c.set(ctx, &wire.SetProfile{Header: header(wire.TypeSetProfile), Profile: profile},
		func(s *sessionState) { s.profile = s.profile.Merge(profile) })
}

// JoinGroup puts the session into a group, with or without the "@", or changes its role there.
func (c *Client) JoinGroup(ctx context.Context, name, role string) error {
	return c.setGroup(ctx, name, &wire.JoinGroup{Header: header(wire.TypeJoinGroup), Name: name, Role: role}, &role)
}

// LeaveGroup takes the session out of one group.
func (c *Client) LeaveGroup(ctx context.Context, name string) error {
	return c.setGroup(ctx, name, &wire.LeaveGroup{Header: header(wire.TypeLeaveGroup), Name: name}, nil)
}

func (c *Client) setGroup(ctx context.Context, name string, request wire.Message, role *string) error {
	return c.set(ctx, request, func(s *sessionState) {
		if s.groups == nil {
			s.groups = map[string]*string{}
		}
		if clean, ok := wire.GroupName(name); ok {
			s.groups[clean] = role
		}
	})
}

// SetGrants changes what other members may do to this one, by their public keys: nil takes an entry away, so that the defaults
// hold again, and an empty list blocks.
func (c *Client) SetGrants(ctx context.Context, grants map[string]*[]string) error {
	return c.call(ctx, &wire.SetGrants{Header: header(wire.TypeSetGrants), Grants: grants}, nil, true)
}

// Peers lists the sessions of the mesh, this one included. Names and keys are as the broker tells them.
func (c *Client) Peers(ctx context.Context) ([]wire.Peer, error) {
	var list wire.PeersList
	err := c.call(ctx, &wire.ListPeers{Header: header(wire.TypeListPeers)}, &list, true)
	return list.Peers, err
}

// MeshInfo is an overview of the mesh.
func (c *Client) MeshInfo(ctx context.Context) (wire.MeshInfoResult, error) {
	var info wire.MeshInfoResult
	err := c.call(ctx, &wire.MeshInfo{Header: header(wire.TypeMeshInfo)}, &info, true)
	return info, err
}

// MessageStatus asks what became of a message, by its id or at least the first 8 characters of it. Only its sender sees all
// recipients. The answer is the broker's word, and its receipts are unchecked; Outcomes, Wait and Track check them.
func (c *Client) MessageStatus(ctx context.Context, id string) (wire.MessageStatusResult, error) {
	var status wire.MessageStatusResult
	err := c.call(ctx, &wire.MessageStatus{Header: header(wire.TypeMessageStatus), MessageID: id}, &status, true)
	return status, err
}
