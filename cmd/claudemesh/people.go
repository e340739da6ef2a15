package main

import (
	"context"
	"slices"
	"strings"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

// maxCell is how many columns a free text may take in a table.
const maxCell = 48

type peersCmd struct{}

func (peersCmd) Help() string {
	return `These are sessions, and a member can have several; members lists the members. Names, directories and summaries are as their
sessions tell them.

JSON: one object per session: type peer, name, memberId, key, memberKey, status, summary, groups [{name, role}], sessionId,
connectedAt, cwd, hostname, peerType, channel, model, visible, reconnecting, you.`
}

type peerJSON struct {
	Type         string       `json:"type"` // peer
	Name         string       `json:"name"`
	MemberID     string       `json:"memberId"`
	Key          string       `json:"key"`
	MemberKey    string       `json:"memberKey"`
	Status       wire.Status  `json:"status"`
	Summary      string       `json:"summary"`
	Groups       []wire.Group `json:"groups"`
	SessionID    string       `json:"sessionId"`
	ConnectedAt  string       `json:"connectedAt"`
	Cwd          string       `json:"cwd"`
	Hostname     string       `json:"hostname"`
	PeerType     string       `json:"peerType"`
	Channel      string       `json:"channel"`
	Model        string       `json:"model"`
	Visible      bool         `json:"visible"`
	Reconnecting bool         `json:"reconnecting"`
	You          bool         `json:"you"`
}

func (peersCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, c *client.Client) error {
		peers, err := c.Peers(ctx)
		if err != nil {
			return err
		}
		// The session of this command is none that anybody would want to see.
		peers = slices.DeleteFunc(peers, func(peer wire.Peer) bool { return peer.SessionID == c.SessionID() })
		slices.SortStableFunc(peers, func(a, b wire.Peer) int { return strings.Compare(a.DisplayName, b.DisplayName) })
		rows := make([][]cell, len(peers))
		for i, peer := range peers {
			v := peerJSON{
				Type: "peer", Name: peer.DisplayName, MemberID: peer.MemberID, Key: peer.Pubkey, MemberKey: peer.MemberPubkey, Status: peer.Status,
				Groups: peer.Groups, SessionID: peer.SessionID, ConnectedAt: peer.ConnectedAt, Cwd: peer.Cwd, Hostname: peer.Hostname,
				PeerType: peer.PeerType, Channel: peer.Channel, Model: peer.Model, Visible: peer.Visible,
				Reconnecting: peer.Lease == wire.LeaseGrace, You: peer.MemberID == c.MemberID(),
			}
			if v.Groups == nil {
				v.Groups = []wire.Group{}
			}
			if peer.Summary != nil {
				v.Summary = *peer.Summary
			}
			if p.json {
				if err := p.object(v); err != nil {
					return err
				}
				continue
			}
			rows[i] = peerRow(v)
		}
		switch {
		case p.json:
			return nil
		case len(rows) == 0:
			p.note("Nobody is connected; claudemesh members lists who could be.")
			return nil
		}
		return p.table([]string{"NAME", "STATUS", "GROUPS", "KEY", "TYPE", "WHERE", "SUMMARY"}, rows)
	})
}

func peerRow(v peerJSON) []cell {
	who := name(v.Name)
	if v.You {
		who += " (you)"
	}
	status := cell{line(string(v.Status)), statusStyle(string(v.Status))}
	switch {
	case v.Reconnecting:
		status = cell{"reconnecting", dim}
	case !v.Visible:
		status.text += ", hidden"
	}
	groups := make([]string, len(v.Groups))
	for i, g := range v.Groups {
		groups[i] = "@" + name(g.Name)
		if g.Role != "" {
			groups[i] += ":" + name(g.Role)
		}
	}
	where := line(v.Cwd)
	if host := line(v.Hostname); host != "" {
		where = strings.TrimSuffix(host+":"+where, ":")
	}
	return []cell{
		{cut(who, maxCell), bold}, status, {cut(strings.Join(groups, " "), maxCell), cyan}, {shortKey(v.MemberKey), dim},
		{line(v.PeerType), ""}, {cut(where, maxCell), ""}, {cut(line(v.Summary), maxCell), ""},
	}
}

func statusStyle(status string) style {
	switch status {
	case string(wire.StatusIdle):
		return green
	case string(wire.StatusWorking):
		return yellow
	case string(wire.StatusDND):
		return red
	default:
		return dim
	}
}

type membersCmd struct{}

func (membersCmd) Help() string {
	return `The first key that is seen of a member is remembered. KEY CHANGED says that the broker gives another one now: nothing is sent to
such a member until you accept the key with trust.

JSON: one object per member: type member, name, memberId, key, role, human, joinedAt, online, status, summary, keyChanged, you.`
}

type memberJSON struct {
	Type       string `json:"type"` // member
	Name       string `json:"name"`
	MemberID   string `json:"memberId"`
	Key        string `json:"key"`
	Role       string `json:"role"`
	Human      bool   `json:"human"`
	JoinedAt   string `json:"joinedAt"`
	Online     bool   `json:"online"`
	Status     string `json:"status"`
	Summary    string `json:"summary"`
	KeyChanged bool   `json:"keyChanged"`
	You        bool   `json:"you"`
}

func (membersCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, c *client.Client) error {
		members, err := c.Members(ctx)
		if err != nil {
			return err
		}
		rows := make([][]cell, len(members))
		for i, m := range members {
			v := memberJSON{
				Type: "member", Name: m.DisplayName, MemberID: m.MemberID, Key: m.Pubkey, Role: m.Role, Human: m.IsHuman,
				JoinedAt: wire.FormatTime(m.JoinedAt), Online: m.Online, Status: m.Status, Summary: m.Summary, KeyChanged: m.KeyChanged,
				You: m.MemberID == c.MemberID(),
			}
			if p.json {
				if err := p.object(v); err != nil {
					return err
				}
				continue
			}
			who := name(m.DisplayName)
			if v.You {
				who += " (you)"
			}
			key := cell{shortKey(m.Pubkey), dim}
			if m.KeyChanged {
				key = cell{key.text + " KEY CHANGED", red}
			}
			rows[i] = []cell{
				{cut(who, maxCell), bold}, {line(m.Status), statusStyle(m.Status)}, {line(m.Role), ""}, key, {line(m.MemberID), dim},
				{p.day(m.JoinedAt), ""}, {cut(line(m.Summary), maxCell), ""},
			}
		}
		if p.json {
			return nil
		}
		return p.table([]string{"NAME", "STATUS", "ROLE", "KEY", "MEMBER", "JOINED", "SUMMARY"}, rows)
	})
}

type trustCmd struct {
	Who string `arg:"" help:"The member, by name or member id."`
	Key string `required:"" placeholder:"HEX" help:"The key that you have made sure is theirs, 64 hex digits."`
}

func (trustCmd) Help() string {
	return `The first key that is seen of a member is remembered, and whom a name meant when it was first written to. When the broker says
something else later, nothing is sent: the member may have joined again with a new key, or somebody is pretending. Ask them by
another way for the key that their claudemesh whoami shows, and give it here. It is accepted only if the broker shows it too.

JSON: type trusted, name, memberId, key.`
}

func (c trustCmd) Run(p *program) error {
	key := strings.ToLower(c.Key)
	if !wire.IsKey(key) {
		return failf(exitUsage, "usage", "--key must be a whole public key of 64 hex digits.")
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		members, err := conn.Members(ctx)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(members, func(m client.Member) bool { return m.Pubkey == key })
		if at < 0 {
			return failf(exitRefused, "no_such_key", "No member of the mesh has this key at the broker; claudemesh --json members shows the keys.")
		}
		m := members[at]
		if c.Who != m.MemberID {
			if called, err := isCalled(ctx, conn, m, c.Who); err != nil {
				return err
			} else if !called {
				return failf(exitUnsafe, "other_member", "This is the key of %s and not of %s, so nothing was changed.", name(m.DisplayName), name(c.Who))
			}
			if err := conn.TrustName(c.Who, m.MemberID); err != nil {
				return err
			}
		}
		if err := conn.TrustMember(m.MemberID, key); err != nil {
			return err
		}
		return p.result(struct {
			Type     string `json:"type"` // trusted
			Name     string `json:"name"`
			MemberID string `json:"memberId"`
			Key      string `json:"key"`
		}{"trusted", m.DisplayName, m.MemberID, key}, "%s is now known by the key %s.", name(m.DisplayName), key)
	})
}

// isCalled reports whether a member or one of its sessions goes by a name.
func isCalled(ctx context.Context, c *client.Client, m client.Member, who string) (bool, error) {
	if strings.EqualFold(line(who), line(m.DisplayName)) {
		return true, nil
	}
	peers, err := c.Peers(ctx)
	return slices.ContainsFunc(peers, func(p wire.Peer) bool {
		return p.MemberID == m.MemberID && strings.EqualFold(line(who), line(p.DisplayName))
	}), err
}
