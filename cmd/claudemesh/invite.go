package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"rsc.io/qr"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

type inviteCmd struct {
	Create inviteCreateCmd `cmd:"" help:"Make an invite, with the key of the mesh's owner."`
	List   inviteListCmd   `cmd:"" help:"List the invites of the mesh."`
	Revoke inviteRevokeCmd `cmd:"" help:"End an invite."`
}

type inviteJSON struct {
	Type      string  `json:"type"` // invite
	ID        string  `json:"id"`
	Link      string  `json:"link,omitempty"`
	Version   int     `json:"version"`
	Role      string  `json:"role"`
	MaxUses   int     `json:"maxUses"`
	UsedCount int     `json:"usedCount"`
	ExpiresAt string  `json:"expiresAt"`
	CreatedAt string  `json:"createdAt,omitempty"`
	RevokedAt *string `json:"revokedAt"`
}

// span is a duration that may be given in days.
type span time.Duration

// UnmarshalText reads "7d", or what time.ParseDuration reads.
func (s *span) UnmarshalText(raw []byte) error {
	text := string(raw)
	if n, found := strings.CutSuffix(text, "d"); found {
		days, err := strconv.Atoi(n)
		if err != nil || days <= 0 || days > 100*365 {
			return fmt.Errorf("%q is no time such as 7d or 12h", text)
		}
		*s = span(days) * span(24*time.Hour)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is no time such as 7d or 12h", text)
	}
	*s = span(d)
	return nil
}

type inviteCreateCmd struct {
	Role        string   `enum:"member,admin" default:"member" help:"What those who join will be: member or admin."`
	MaxUses     int      `default:"1" placeholder:"N" help:"How many may join. Default: 1."`
	Expires     span     `default:"7d" placeholder:"DURATION" help:"How long it is good for, such as 12h or 30d. Default: 7d."`
	Short       bool     `help:"Make a short link, if the broker takes those: it then keeps the mesh's root key, and hands it out sealed."`
	Name        string   `placeholder:"NAME" help:"What those who join are called, whatever they say."`
	RoleTag     string   `placeholder:"TEXT" help:"A word about what they do."`
	Group       []string `placeholder:"NAME[:ROLE]" sep:"none" help:"Group of those who join; can be repeated."`
	MessageMode string   `enum:",push,inbox,off" default:"" help:"How they want their messages: push, inbox or off."`
	OwnerKey    string   `type:"path" placeholder:"FILE" help:"The key of the mesh's owner. It signs here and is not sent. Default: your own key, if that is the owner's."`
	URL         string   `name:"url" placeholder:"URL" help:"Where those who join reach the broker: ws://host/ws or wss://host/ws. Default: where you do."`
	QR          *bool    `name:"qr" negatable:"" help:"Show the link as a QR code. Default: if the output is a terminal."`
}

func (inviteCreateCmd) Help() string {
	return `The link is a secret: whoever has it can join. It is printed this once, alone on stdout, and kept nowhere. The file of --owner-key holds
64 hex digits, or is one that keygen made, and nobody but you may read it. It takes an admin to upload what the owner signed.

JSON: type invite, id, link, version, role, maxUses, usedCount, expiresAt, revokedAt.`
}

func (c inviteCreateCmd) Run(p *program) error {
	m, err := p.home.choose(p.opts.Mesh)
	if err != nil {
		return err
	}
	owner, err := c.owner(m)
	if err != nil {
		return err
	}
	o := client.InviteOptions{
		Owner: owner, BrokerURL: c.URL, Role: c.Role, MaxUses: c.MaxUses, TTL: time.Duration(c.Expires), Short: c.Short,
		Preset: wire.InvitePreset{DisplayName: c.Name, RoleTag: c.RoleTag, MessageMode: c.MessageMode},
	}
	if o.Preset.Groups, err = parseGroups(c.Group); err != nil {
		return err
	}
	if c.MaxUses < 1 || c.MaxUses > wire.MaxInviteUses {
		return failf(exitUsage, "usage", "--max-uses must be 1 to %d.", wire.MaxInviteUses)
	}
	if _, err := identity.FormatShortLink(cmp.Or(c.URL, m.BrokerURL), "abcdef"); err != nil {
		return failf(exitUsage, "usage", "--url must be ws://host/ws or wss://host/ws.")
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		made, err := conn.CreateInvite(ctx, o)
		if errors.Is(err, client.ErrNotOwner) {
			return c.notOwner(m)
		}
		if err != nil {
			return err
		}
		return c.show(p, m, made)
	})
}

func (c inviteCreateCmd) show(p *program, m membership, made client.Invite) error {
	if p.json {
		return p.object(inviteJSON{
			Type: "invite", ID: made.ID, Link: made.Link, Version: made.Version, Role: made.Role, MaxUses: made.MaxUses,
			ExpiresAt: wire.FormatTime(made.ExpiresAt),
		})
	}
	if err := p.say("%s", made.Link); err != nil {
		return err
	}
	level, tooWide := qr.L, "; --short makes a smaller one" // a long link needs the room more than the redundancy
	if made.Version == 2 {
		level, tooWide = qr.M, ""
	}
	if err := p.showQR(made.Link, level, c.QR, tooWide); err != nil {
		return err
	}
	holds := ""
	if made.Version == 1 {
		holds = ", and it holds the mesh's root key"
	}
	who := "whoever has it can join"
	if made.Role == identity.RoleAdmin {
		who += " as an admin"
	}
	times := "once"
	if made.MaxUses > 1 {
		times = strconv.Itoa(made.MaxUses) + " times"
	}
	p.note("This link is a secret: %s %s, %s, until %s%s. It is not shown again. To end it: claudemesh invite revoke %s",
		who, m.slug(), times, p.day(made.ExpiresAt), holds, line(made.ID))
	return nil
}

// owner is the key that signs.
func (c inviteCreateCmd) owner(m membership) (identity.KeyPair, error) {
	if c.OwnerKey == "" {
		return m.key()
	}
	return readOwnerKey(c.OwnerKey)
}

func (c inviteCreateCmd) notOwner(m membership) error {
	if c.OwnerKey == "" {
		return failf(exitUsage, "not_owner", "Only the owner of %s can sign an invite, and your key is not the owner's; name the file of that key with --owner-key.", m.slug())
	}
	return failf(exitUsage, "not_owner", "The key in %s is not that of the owner of %s, who alone can sign an invite.", c.OwnerKey, m.slug())
}

// maxKeyFile is the largest file that is read as a key.
const maxKeyFile = 4 << 10

// readOwnerKey reads a key from a file that only its owner may read: the 64 hex digits of its seed, as examples/standalone keeps it, or what keygen makes.
func readOwnerKey(path string) (key identity.KeyPair, err error) {
	f, err := os.Open(path)
	if err != nil {
		return key, fmt.Errorf("open: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return key, fmt.Errorf("open: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return key, failf(exitFailed, "permissions", "Others on this machine may read the secret key in %s; make it yours alone with: chmod 600 %[1]s", path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return key, fmt.Errorf("read the key: %w", err)
	}
	if key, err = identity.KeyPairFromSeedHex(strings.TrimSpace(string(raw))); err == nil {
		return key, nil
	}
	var made keyFile
	if json.Unmarshal(raw, &made) == nil {
		if key, err = identity.KeyPairFromSeedHex(made.Seed); err == nil && key.Public() == made.Public {
			return key, nil
		}
	}
	return identity.KeyPair{}, failf(exitFailed, "damaged", "There is no key in %s: it must hold 64 hex digits, or be a file that keygen made.", path)
}

type inviteListCmd struct {
	All bool `help:"Those that have ended, too."`
}

func (inviteListCmd) Help() string {
	return `For admins. Links are not kept, so they cannot be shown.

JSON: one object per invite: type invite, id, version, role, maxUses, usedCount, expiresAt, createdAt, revokedAt.`
}

func (c inviteListCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		invites, err := conn.Invites(ctx)
		if err != nil {
			return err
		}
		var rows [][]cell
		for _, i := range invites {
			state := cell{"good", green}
			switch {
			case i.RevokedAt != nil:
				state = cell{"revoked", red}
			case p.past(i.ExpiresAt):
				state = cell{"expired", red}
			case i.UsedCount >= i.MaxUses:
				state = cell{"used up", yellow}
			}
			if state.text != "good" && !c.All {
				continue
			}
			if p.json {
				v := inviteJSON{
					Type: "invite", ID: i.ID, Version: i.Version, Role: i.Role, MaxUses: i.MaxUses, UsedCount: i.UsedCount, ExpiresAt: i.ExpiresAt,
					CreatedAt: i.CreatedAt, RevokedAt: i.RevokedAt,
				}
				if err := p.object(v); err != nil {
					return err
				}
				continue
			}
			kind := "link"
			if i.Version == 2 {
				kind = "short link"
			}
			rows = append(rows, []cell{
				{line(i.ID), bold}, state, {line(i.Role), ""}, {fmt.Sprintf("%d of %d", i.UsedCount, i.MaxUses), ""}, {kind, ""},
				{p.dayOf(i.ExpiresAt), ""}, {p.dayOf(i.CreatedAt), dim},
			})
		}
		switch {
		case p.json:
			return nil
		case len(rows) == 0:
			p.note("There are no invites that are good; make one with: claudemesh invite create")
			return nil
		}
		return p.table([]string{"ID", "STATE", "ROLE", "USED", "KIND", "ENDS", "MADE"}, rows)
	})
}

type inviteRevokeCmd struct {
	ID string `arg:"" help:"The invite's id, as invite list shows it."`
}

func (inviteRevokeCmd) Help() string {
	return "For admins. Who has joined by it stays.\n\nJSON: type invite_revoked, id."
}

func (c inviteRevokeCmd) Run(p *program) error {
	if !wire.IsID(c.ID) {
		return failf(exitUsage, "usage", "This is no invite's id; claudemesh invite list shows them. A link cannot be named, since it is not kept.")
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		if err := conn.RevokeInvite(ctx, c.ID); err != nil {
			return err
		}
		return p.result(struct {
			Type string `json:"type"` // invite_revoked
			ID   string `json:"id"`
		}{"invite_revoked", c.ID}, "Revoked %s.", line(c.ID))
	})
}
