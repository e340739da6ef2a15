package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

type adminCmd struct {
	Kick       adminKickCmd       `cmd:"" help:"End sessions; their clients stay away until somebody starts them again."`
	Disconnect adminDisconnectCmd `cmd:"" help:"End sessions; their clients come back by themselves."`
	Ban        adminBanCmd        `cmd:"" help:"Remove a member from the mesh."`
	Unban      adminUnbanCmd      `cmd:"" help:"Let a banned member in again."`
	Bans       adminBansCmd       `cmd:"" help:"List the banned members."`
	Role       adminRoleCmd       `cmd:"" help:"Make a member an admin, or an admin a member."`
	Info       adminInfoCmd       `cmd:"" help:"Show an overview of the mesh."`
}

const helpTarget = `WHO is a member's or a session's name, exactly as the lists show it, a member's key or the first 8 or more digits of it, or a session's key. A
member's name means all its sessions. If several members go by it, nothing is done: give the key.`

// selection are the flags that say which sessions are meant.
type selection struct {
	Who   string        `arg:"" optional:"" help:"A name or a key."`
	Stale time.Duration `placeholder:"DURATION" help:"Those that were silent for longer, such as 90s; never your own."`
	All   bool          `help:"All but your own."`
}

func (s selection) check() (client.Selection, error) {
	given := 0
	for _, is := range []bool{s.Who != "", s.Stale != 0, s.All} {
		if is {
			given++
		}
	}
	if given != 1 {
		return client.Selection{}, failf(exitUsage, "usage", "Say whose sessions end: WHO, --stale or --all, and one of these only.")
	}
	if s.Stale < 0 {
		return client.Selection{}, failf(exitUsage, "usage", "--stale must be positive, such as 90s.")
	}
	return client.Selection{All: s.All, Stale: s.Stale, Target: s.Who}, nil
}

// endedJSON is the answer of kick and disconnect.
type endedJSON struct {
	Type   string   `json:"type"` // kicked or disconnected
	Names  []string `json:"names"`
	Spared []string `json:"spared"`
}

// ended prints whose sessions were ended.
func (p *program) ended(typ, verb string, e client.Ended) error {
	if p.json {
		v := endedJSON{Type: typ, Names: e.Names, Spared: e.Spared}
		if v.Spared == nil {
			v.Spared = []string{}
		}
		return p.object(v)
	}
	if len(e.Names) > 0 {
		if err := p.say("%s %s: %s.", verb, quantity(len(e.Names), "session"), listed(e.Names)); err != nil {
			return err
		}
	}
	if len(e.Spared) > 0 {
		p.note("Not kicked, because they are control connections: %s; claudemesh admin disconnect ends them.", listed(e.Spared))
	} else if len(e.Names) == 0 {
		p.note("No session was ended; claudemesh peers shows those that are connected.")
	}
	return nil
}

// listed joins names for people.
func listed(names []string) string {
	safe := make([]string, len(names))
	for i, n := range names {
		safe[i] = name(n)
	}
	return strings.Join(safe, ", ")
}

type adminKickCmd struct {
	selection
	Yes bool `short:"y" help:"With --all: do not ask."`
}

func (adminKickCmd) Help() string {
	return helpTarget + `

Clients that were kicked do not come back by themselves, but nothing keeps them from it: that is ban. Control connections that have no
session key, such as daemons and those of this command line, are spared; disconnect ends them. It takes an admin.

JSON: type kicked, names (one for each session), spared.`
}

func (c adminKickCmd) Run(p *program) error {
	who, err := c.check()
	if err != nil {
		return err
	}
	if c.All {
		if err := p.confirm(c.Yes, "Kick every session but yours?"); err != nil {
			return err
		}
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		ended, err := conn.Kick(ctx, who)
		if err != nil {
			return err
		}
		return p.ended("kicked", "Kicked", ended)
	})
}

type adminDisconnectCmd struct{ selection }

func (adminDisconnectCmd) Help() string {
	return helpTarget + `

Nobody is spared, and who was disconnected comes back by itself. It takes an admin.

JSON: type disconnected, names (one for each session), spared (empty).`
}

func (c adminDisconnectCmd) Run(p *program) error {
	who, err := c.check()
	if err != nil {
		return err
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		ended, err := conn.Disconnect(ctx, who)
		if err != nil {
			return err
		}
		return p.ended("disconnected", "Disconnected", ended)
	})
}

// nameJSON is the answer of ban and unban.
type nameJSON struct {
	Type string `json:"type"` // banned or unbanned
	Name string `json:"name"`
}

type adminBanCmd struct {
	Who    string `arg:"" help:"A name or a key."`
	Reason string `short:"r" placeholder:"TEXT" help:"Why, for the audit log, at most 500 characters."`
	Yes    bool   `short:"y" help:"Do not ask."`
}

func (adminBanCmd) Help() string {
	return helpTarget + ` A session's name or key means its member.

The member's sessions and API keys end at once, what waits for it expires, and its key cannot sign in or join again. Whoever knows an
invite can join with another key. It takes an admin; the owner cannot be banned. On a terminal you are asked first; elsewhere --yes is
needed.

JSON: type banned, name.`
}

func (c adminBanCmd) Run(p *program) error {
	if err := p.confirm(c.Yes, "Ban "+name(c.Who)+" from the mesh, with its sessions, API keys and waiting messages?"); err != nil {
		return err
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		banned, err := conn.Ban(ctx, c.Who, c.Reason)
		if err != nil {
			return err
		}
		return p.result(nameJSON{"banned", banned}, "Banned %s.", name(banned))
	})
}

type adminUnbanCmd struct {
	Who string `arg:"" help:"A banned member's name, its key, or the first 8 or more digits of it."`
}

func (adminUnbanCmd) Help() string {
	return `The member may sign in again and has its topics, but none of its former sessions, API keys and messages. It takes an admin.

JSON: type unbanned, name.`
}

func (c adminUnbanCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		unbanned, err := conn.Unban(ctx, c.Who)
		if err != nil {
			return err
		}
		return p.result(nameJSON{"unbanned", unbanned}, "%s may come back.", name(unbanned))
	})
}

type adminBansCmd struct{}

func (adminBansCmd) Help() string {
	return `Every member may ask.

JSON: one object per banned member: type ban, name, key, bannedAt; the latest first.`
}

func (adminBansCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		bans, err := conn.Bans(ctx)
		if err != nil {
			return err
		}
		rows := make([][]cell, len(bans))
		for i, b := range bans {
			if p.json {
				if err := p.object(struct {
					Type     string `json:"type"` // ban
					Name     string `json:"name"`
					Key      string `json:"key"`
					BannedAt string `json:"bannedAt"`
				}{"ban", b.Name, b.Pubkey, b.RevokedAt}); err != nil {
					return err
				}
				continue
			}
			rows[i] = []cell{{cut(name(b.Name), maxCell), bold}, {shortKey(b.Pubkey), dim}, {p.dayOf(b.RevokedAt), ""}}
		}
		switch {
		case p.json:
			return nil
		case len(rows) == 0:
			p.note("Nobody is banned.")
			return nil
		}
		return p.table([]string{"NAME", "KEY", "BANNED"}, rows)
	})
}

type adminRoleCmd struct {
	Member string `arg:"" help:"The member, by name, id or key."`
	Role   string `arg:"" enum:"admin,member" help:"admin or member."`
}

func (adminRoleCmd) Help() string {
	return `A name stands for the key that was first seen of that member. Admins govern the mesh: they kick and ban, see all topics, and make admins.
The owner's role cannot be changed, and the last one who governs cannot give it up. It takes an admin.

JSON: type role, member (id or key), role.`
}

func (c adminRoleCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		member := c.Member
		if !wire.IsKey(member) {
			who, err := conn.Resolve(ctx, member)
			if _, unknown := errors.AsType[*client.UnknownNameError](err); !unknown || !wire.IsID(member) {
				if err != nil {
					return err
				}
				member = who.MemberID
			}
		}
		if err := conn.SetMemberRole(ctx, member, c.Role); err != nil {
			return err
		}
		what := "an admin"
		if c.Role != "admin" {
			what = "a member"
		}
		return p.result(struct {
			Type   string `json:"type"` // role
			Member string `json:"member"`
			Role   string `json:"role"`
		}{"role", member, c.Role}, "%s is %s now.", name(c.Member), what)
	})
}

type adminInfoCmd struct{}

func (adminInfoCmd) Help() string {
	return `Every member may ask. Hidden sessions of others do not count.

JSON: type mesh_info, mesh, sessions, groups, stateKeys, name, yourGroups [{name, role}].`
}

func (adminInfoCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		info, err := conn.MeshInfo(ctx)
		if err != nil {
			return err
		}
		sessions := max(info.Peers-1, 0) // that of this command is none that anybody would want to see
		if p.json {
			return p.object(struct {
				Type       string       `json:"type"` // mesh_info
				Mesh       string       `json:"mesh"`
				Sessions   int          `json:"sessions"`
				Groups     []string     `json:"groups"`
				StateKeys  []string     `json:"stateKeys"`
				Name       string       `json:"name"`
				YourGroups []wire.Group `json:"yourGroups"`
			}{"mesh_info", info.Mesh, sessions, info.Groups, info.StateKeys, info.YourName, info.YourGroups})
		}
		groups := make([]string, len(info.Groups))
		for i, g := range info.Groups {
			groups[i] = "@" + name(strings.TrimPrefix(g, "@"))
		}
		for _, row := range [][2]string{
			{"mesh", line(info.Mesh)}, {"sessions", fmt.Sprint(sessions)}, {"groups", cut(strings.Join(groups, " "), 4*maxCell)},
			{"state", quantity(len(info.StateKeys), "key")}, {"you", name(info.YourName)},
		} {
			if err := p.say("%s %s", p.paint(dim, fmt.Sprintf("%-8s", row[0])), row[1]); err != nil {
				return err
			}
		}
		return nil
	})
}

// confirm asks a person before something that is hard to undo. Where there is no terminal to ask on, yes must have said it.
func (p *program) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if f, ok := p.stdin.(*os.File); !ok || !isCharDevice(f) {
		return failf(exitUsage, "confirm", "There is no terminal to ask on; say --yes if you mean it.")
	}
	if err := p.write(p.err, []byte(question+" [y/N] ")); err != nil {
		return err
	}
	answer := make(chan string, 1)
	go func() {
		said, _ := bufio.NewReader(io.LimitReader(p.stdin, 64)).ReadString('\n') // what cannot be read is no yes
		answer <- strings.ToLower(strings.TrimSpace(said))
	}()
	select {
	case said := <-answer:
		if said == "y" || said == "yes" {
			return nil
		}
		return failf(exitFailed, "declined", "Nothing was done.")
	case <-p.ctx.Done(): // the read stays behind; the program ends
		p.note("")
		return context.Cause(p.ctx)
	}
}
