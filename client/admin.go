package client

import (
	"context"
	"time"

	"github.com/claudemesh/broker/wire"
)

// Selection says whose sessions an admin ends: all, else the silent ones, else those of Target.
type Selection struct {
	// All selects every session of the mesh but this one.
	All bool
	// Stale selects the sessions, but this one, of which nothing was heard for longer; they may have lost their connection. Milliseconds count.
	// Zero: not used.
	Stale time.Duration
	// Target is the exact name of a member or of a session, a member's key or its first 8 or more digits, or a session's key. It may be this
	// session, which ends when it has its answer.
	Target string
}

func (s Selection) frame() wire.Selection {
	out := wire.Selection{Target: s.Target, All: s.All}
	if s.Stale > 0 {
		ms := wire.Number(float64(s.Stale) / float64(time.Millisecond))
		out.Stale = &ms
	}
	return out
}

// Ended says what became of the sessions that were selected.
type Ended struct {
	// Names are those of the sessions that were ended, one for each.
	Names []string
	// Spared are the names of control connections without a session key, such as daemons and the command line's, which Kick leaves alone.
	Spared []string
}

// Kick ends sessions. Their clients do not come back by themselves. It takes an admin, as all of this but Bans does; others get a *RequestError
// with wire.Forbidden. A target that several members go by is wire.Invalid; one that nobody goes by is no error. If the connection is lost before the
// answer, the error is ErrOutcomeUnknown.
func (c *Client) Kick(ctx context.Context, who Selection) (Ended, error) {
	return c.eject(ctx, &wire.Kick{Header: header(wire.TypeKick), Selection: who.frame()})
}

// Disconnect ends sessions, and spares nobody. Their clients come back by themselves, as other sessions.
func (c *Client) Disconnect(ctx context.Context, who Selection) (Ended, error) {
	return c.eject(ctx, &wire.Disconnect{Header: header(wire.TypeDisconnect), Selection: who.frame()})
}

func (c *Client) eject(ctx context.Context, request wire.Message) (Ended, error) {
	var answer wire.KickAck
	err := c.call(ctx, request, &answer, false) // those who came back meanwhile must not be ended again
	return Ended{Names: answer.Kicked, Spared: answer.SkippedControlPlane}, err
}

// Ban removes a member from the mesh and returns its name: its sessions and API keys end, what waits for it expires, and its key cannot sign in
// again. target is as in Selection; a session's name or key means its member. reason, at most 500 characters, may be empty; it goes into the
// audit log. Nobody of that name or key is wire.NotFound, this member itself wire.Invalid, the owner wire.Forbidden.
func (c *Client) Ban(ctx context.Context, target, reason string) (string, error) {
	var answer wire.BanAck
	err := c.call(ctx, &wire.Ban{Header: header(wire.TypeBan), Target: target, Reason: reason}, &answer, false)
	return answer.Banned, err
}

// Unban lets a banned member, named by its name, its key or the start of it, sign in again and returns its name. It has its subscriptions, and
// nothing else of what the ban ended. Nobody banned of that name or key is wire.NotFound.
func (c *Client) Unban(ctx context.Context, target string) (string, error) {
	var answer wire.UnbanAck
	err := c.call(ctx, &wire.Unban{Header: header(wire.TypeUnban), Target: target}, &answer, false)
	return answer.Unbanned, err
}

// Bans lists the banned members, the latest ban first. Every member may ask.
func (c *Client) Bans(ctx context.Context) ([]wire.BanInfo, error) {
	var list wire.ListBansResult
	err := c.call(ctx, &wire.ListBans{Header: header(wire.TypeListBans)}, &list, true)
	return list.Bans, err
}

// SetMemberRole makes a member, named by its id or its key, admin or member. The owner's role and that of the last who governs the mesh cannot be
// changed: wire.Forbidden.
func (c *Client) SetMemberRole(ctx context.Context, member, role string) error {
	return c.call(ctx, &wire.MemberRole{Header: header(wire.TypeMemberRole), Member: member, Role: role}, nil, true)
}
