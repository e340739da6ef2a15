package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// keyFile is the form of a file that keygen makes.
type keyFile struct {
	Version int    `json:"version"` // 1
	Public  string `json:"public"`
	Seed    string `json:"seed"` // the secret: 64 hex digits
}

func readKey(path string) (identity.KeyPair, error) {
	var f keyFile
	if err := readSecret(path, &f); err != nil {
		return identity.KeyPair{}, err
	}
	k, err := identity.KeyPairFromSeedHex(f.Seed)
	if err != nil || k.Public() != f.Public {
		return identity.KeyPair{}, failf(exitFailed, "damaged", "The key in %s is damaged; restore the file.", path)
	}
	return k, nil
}

type keygenCmd struct {
	File string `arg:"" optional:"" type:"path" help:"Where the key is kept. Default: key.json in the configuration directory."`
}

func (keygenCmd) Help() string {
	return `The file holds the secret and is readable by you alone; only the public key is printed. You need this only to give somebody your
public key before you are a member; join makes a key by itself.

JSON: type key, public, file.`
}

func (c keygenCmd) Run(p *program) error {
	path := cmp.Or(c.File, p.home.path("key.json"))
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return failf(exitFailed, "exists", "There is a file %s already; name another one, or move it away.", path)
	}
	k, err := identity.GenerateKey()
	if err != nil {
		return err
	}
	if err := writeJSON(path, keyFile{Version: 1, Public: k.Public(), Seed: k.SeedHex()}); err != nil {
		return err
	}
	return p.result(struct {
		Type   string `json:"type"` // key
		Public string `json:"public"`
		File   string `json:"file"`
	}{"key", k.Public(), path}, "%s\nThe secret is in %s; keep it to yourself.", k.Public(), path)
}

type joinCmd struct {
	Invite string `arg:"" help:"The invite: a link, its token or its code, or - to read it from stdin. It is a secret."`
	Name   string `help:"What the others call you. Default: the profile's name, else your user name."`
	Key    string `type:"path" placeholder:"FILE" help:"Join with this key, made by keygen. Default: the one you have in this mesh, else a new one."`
	Broker string `placeholder:"URL" help:"For a bare code, or a short link that is elsewhere: the broker's socket, ws://host/ws or wss://host/ws."`
	New    bool   `help:"Join as another member, with a new key, although you are a member already. The old key is lost."`
}

func (joinCmd) Help() string {
	return `The membership, with its secret key, is kept in the configuration directory. The mesh that you joined last is the one that
commands work in, until you choose another with use. Joining again with the same key uses nothing of the invite up. Which mesh a short link is for is known only when you have joined: if it is
one that you are in, the new member waits until you say --new, or join as another --profile.

JSON: type membership, mesh, slug, memberId, name, role (as of joining), key, broker, joinedAt, default, alreadyMember.`
}

func (c joinCmd) Run(p *program) error {
	text := c.Invite
	if text == "-" {
		var err error
		if text, err = p.readAll("invite"); err != nil {
			return err
		}
	}
	short := isShort(text)
	token, meshID := strings.TrimSpace(text), ""
	if short {
		if err := checkShort(text, c.Broker); err != nil {
			return err
		}
	} else {
		var invite identity.InviteV1
		var err error
		if token, invite, err = parseInvite(text, p.now()); err != nil {
			return err
		}
		meshID = invite.MeshID
	}
	who := cmp.Or(c.Name, p.opts.Profile, p.getenv("CLAUDEMESH_PROFILE"), userName())
	if _, ok := wire.DisplayName(who); !ok {
		return failf(exitUsage, "usage", "A name has 1 to 128 characters, none of them a control character; give one with --name.")
	}
	key, pending, err := c.key(p.home, token, meshID)
	if err != nil {
		return err
	}
	ctx, cancel := p.quick()
	defer cancel()
	got, err := client.Join(ctx, client.JoinOptions{Invite: token, BrokerURL: c.Broker, Key: key, DisplayName: who, HTTPClient: p.http})
	if err != nil {
		refused, ok := errors.AsType[*client.HTTPError](err)
		if ok && (refused.Status < http.StatusInternalServerError || refused.Status == http.StatusNotImplemented) {
			_ = os.Remove(pending) // nobody was enrolled with this key
		}
		return err
	}
	if short && !c.New {
		if err := p.home.spare(got); err != nil {
			return err
		}
	}
	m := membership{
		MeshID: got.MeshID, MeshSlug: got.MeshSlug, BrokerURL: got.BrokerURL, MemberID: got.MemberID, Name: who,
		Seed: got.Key.SeedHex(), JoinedAt: p.now().UTC().Truncate(time.Second),
	}
	before, err := p.home.settings()
	if err != nil {
		return err
	}
	if err := p.home.save(m); err != nil {
		return err
	}
	if err := p.home.use(m.MeshID); err != nil {
		return err
	}
	_ = os.Remove(pending) // it holds what the membership holds
	if err := p.introduce(ctx, &m); err != nil {
		return err
	}
	verb := "Joined"
	if got.AlreadyMember {
		verb = "You are a member already of"
	}
	if p.json {
		return p.object(membershipLine(m, key.Public(), got.AlreadyMember, true))
	}
	as := p.paint(bold, name(m.Name))
	if m.Role != "" {
		as += " (" + line(m.Role) + ")"
	}
	if err := p.say("%s %s as %s.", verb, p.paint(bold, m.slug()), as); err != nil {
		return err
	}
	if before.Default != "" && before.Default != m.MeshID {
		p.note("Commands work in this mesh now; go back to the other one with: claudemesh use %s", before.Default)
	}
	return nil
}

// introduce signs in for the first time, to learn the name and the role that the broker has given: a name that was taken gets a
// number, and an invite can make its first user an admin. The membership is good without it.
func (p *program) introduce(ctx context.Context, m *membership) error {
	key, err := m.key()
	if err != nil {
		return err
	}
	pins, err := p.home.pins()
	if err != nil {
		return err
	}
	c, err := p.dial(ctx, p.optionsOf(*m, key, pins, true))
	if err != nil {
		p.note("claudemesh: the membership is saved, but signing in has failed: %s", explain(err).text)
		return nil
	}
	defer func() { _ = c.Close() }() // always nil
	members, err := c.Members(ctx)
	if err != nil {
		return nil //nolint:nilerr // a host may offer the socket alone; then the role stays unknown
	}
	for _, other := range members {
		if other.MemberID == m.MemberID {
			m.Name, m.Role = other.DisplayName, other.Role
		}
	}
	return p.home.save(*m)
}

// isShort tells a short link, or a bare code, from other invites.
func isShort(text string) bool {
	_, err := identity.ParseShortLink(text)
	return err == nil
}

// checkShort finds the mistakes of a short link before anything is sent.
func checkShort(text, broker string) error {
	short, err := identity.ParseShortLink(text)
	if err != nil {
		return err
	}
	if broker == "" && len(short.Sites) == 0 {
		return failf(exitUsage, "usage", "A bare code does not say which broker knows it; pass the whole link, or name the broker with --broker.")
	}
	if u, err := url.Parse(broker); broker != "" && (err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "") {
		return failf(exitUsage, "usage", "--broker must be ws://host/ws or wss://host/ws.")
	}
	return nil
}

// spare keeps the membership that somebody has in a mesh, whose key is nowhere else, when a short link turns out to be for that mesh.
func (h home) spare(got client.Membership) error {
	m, err := h.membership(got.MeshID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if key, err := m.key(); err != nil || key.Public() == got.Key.Public() {
		return err
	}
	return failf(exitFailed, "exists", "You are in %s already, as %s; to be the new member instead, whose key is kept, join again with --new, or be both with --profile.",
		m.slug(), name(m.Name))
}

// parseInvite checks an invite as far as it can be checked here, so that its mistakes are named before anything is sent.
func parseInvite(text string, now time.Time) (token string, invite identity.InviteV1, err error) {
	token, err = identity.ParseInviteLink(text)
	if err == nil {
		invite, err = identity.ParseInviteToken(token)
	}
	if err == nil {
		err = invite.Verify(now)
	}
	switch {
	case err == nil && wire.IsID(invite.MeshID):
		return token, invite, nil
	case identity.ClassOf(err) == identity.ClassExpired:
		return "", invite, failf(exitRefused, "invite_expired", "The invite has expired; ask for a new one.")
	case identity.ClassOf(err) == identity.ClassBadSignature:
		return "", invite, failf(exitRefused, "invite_bad_signature", "The invite's signature does not fit, so it was altered or cut; ask for it again.")
	default:
		return "", invite, failf(exitUsage, "bad_invite", "This is no invite; pass the whole link (ic://join/…, https://…/join/… or https://…/i/…) or the token in it.")
	}
}

// key is the one to enrol. A new one is written down before it is sent: when the answer is lost, the next try uses it again and
// neither a second member is made nor a second use of the invite spent.
func (c joinCmd) key(h home, token, meshID string) (key identity.KeyPair, pending string, err error) {
	sum := sha256.Sum256([]byte(token))
	pending = h.path(joiningDir, hex.EncodeToString(sum[:8])+".json")
	if c.Key != "" {
		if key, err = readKey(c.Key); err != nil {
			return key, "", err
		}
		return key, pending, nil
	}
	if !c.New && meshID != "" {
		m, err := h.membership(meshID)
		if err == nil {
			key, err = m.key()
			return key, pending, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return key, "", err
		}
	}
	if key, err = readKey(pending); err == nil {
		return key, pending, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return key, "", err
	}
	if key, err = identity.GenerateKey(); err != nil {
		return key, "", err
	}
	return key, pending, writeJSON(pending, keyFile{Version: 1, Public: key.Public(), Seed: key.SeedHex()})
}

func userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username[strings.LastIndexByte(u.Username, '\\')+1:] // a Windows domain is no name
	}
	host, err := os.Hostname()
	if err != nil {
		return "somebody"
	}
	return host
}

// membershipJSON is a membership without its secret.
type membershipJSON struct {
	Type          string `json:"type"` // membership
	Mesh          string `json:"mesh"`
	Slug          string `json:"slug"`
	MemberID      string `json:"memberId"`
	Name          string `json:"name"`
	Role          string `json:"role,omitempty"`
	Key           string `json:"key"`
	Broker        string `json:"broker"`
	JoinedAt      string `json:"joinedAt"`
	Default       bool   `json:"default"`
	AlreadyMember bool   `json:"alreadyMember,omitempty"`
	Config        string `json:"config,omitempty"`
}

func membershipLine(m membership, key string, already, isDefault bool) membershipJSON {
	return membershipJSON{
		Type: "membership", Mesh: m.MeshID, Slug: m.MeshSlug, MemberID: m.MemberID, Name: m.Name, Role: m.Role, Key: key,
		Broker: m.BrokerURL, JoinedAt: wire.FormatTime(m.JoinedAt), AlreadyMember: already, Default: isDefault,
	}
}

type meshesCmd struct {
	List   meshesListCmd   `cmd:"" default:"1" help:"List the meshes that you joined."`
	Add    meshesAddCmd    `cmd:"" help:"Add a membership that somebody gave you without an invite."`
	Forget meshesForgetCmd `cmd:"" help:"Forget a membership, and with it the only copy of its key."`
}

type meshesListCmd struct{}

func (meshesListCmd) Help() string {
	return "JSON: one object per membership: type membership, mesh, slug, memberId, name, role, key, broker, joinedAt, default."
}

func (meshesListCmd) Run(p *program) error {
	all, err := p.home.memberships()
	if err != nil {
		return err
	}
	s, err := p.home.settings()
	if err != nil {
		return err
	}
	rows := make([][]cell, 0, len(all))
	for _, m := range all {
		key, err := m.key()
		if err != nil {
			return err
		}
		isDefault := s.Default == m.MeshID || len(all) == 1
		if p.json {
			if err := p.object(membershipLine(m, key.Public(), false, isDefault)); err != nil {
				return err
			}
			continue
		}
		mark := ""
		if isDefault {
			mark = "*"
		}
		rows = append(rows, []cell{{mark, green}, {m.slug(), bold}, {name(m.Name), ""}, {line(m.Role), ""}, {m.MeshID, dim}, {line(m.BrokerURL), ""}})
	}
	if p.json {
		return nil
	}
	if len(rows) == 0 {
		p.note("You are in no mesh yet; ask somebody for an invite and run: claudemesh join <invite>")
		return nil
	}
	return p.table([]string{"", "MESH", "NAME", "ROLE", "ID", "BROKER"}, rows)
}

type meshesAddCmd struct {
	Broker   string `required:"" placeholder:"URL" help:"The broker's socket: ws://host/ws or wss://host/ws."`
	MeshID   string `required:"" name:"mesh-id" placeholder:"ID" help:"The mesh's id."`
	MemberID string `required:"" name:"member-id" placeholder:"ID" help:"Your member id."`
	Key      string `required:"" type:"path" placeholder:"FILE" help:"Your key, made by keygen."`
	Slug     string `help:"The mesh's short name. Default: its id."`
	Name     string `help:"What the others call you, for your own lists."`
}

func (meshesAddCmd) Help() string {
	return "JSON: type membership, as with join. Nothing is asked of the broker; claudemesh peers shows whether the membership is good."
}

func (c meshesAddCmd) Run(p *program) error {
	key, err := readKey(c.Key)
	if err != nil {
		return err
	}
	u, err := url.Parse(c.Broker)
	if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" {
		return failf(exitUsage, "usage", "--broker must be ws://host/ws or wss://host/ws.")
	}
	if !wire.IsID(c.MeshID) || !wire.IsID(c.MemberID) {
		return failf(exitUsage, "usage", "--mesh-id and --member-id must be ids of 1 to 64 characters of A-Z, a-z, 0-9, _ and -.")
	}
	if _, err := os.Lstat(p.home.path(meshesDir, c.MeshID+".json")); err == nil {
		return failf(exitFailed, "exists", "You have a membership of this mesh already; forget it first: claudemesh meshes forget %s", c.MeshID)
	}
	m := membership{
		MeshID: c.MeshID, MeshSlug: cmp.Or(c.Slug, c.MeshID), BrokerURL: c.Broker, MemberID: c.MemberID, Name: cmp.Or(c.Name, c.MemberID),
		Seed: key.SeedHex(), JoinedAt: p.now().UTC().Truncate(time.Second),
	}
	if err := p.home.save(m); err != nil {
		return err
	}
	s, err := p.home.settings()
	if err != nil {
		return err
	}
	return p.result(membershipLine(m, key.Public(), false, s.Default == m.MeshID), "Added %s as %s.", m.slug(), name(m.Name))
}

type meshesForgetCmd struct {
	Mesh string `arg:"" help:"The mesh, by slug or id."`
	Yes  bool   `required:"" help:"Say that you mean it: without the key nobody can be this member again."`
}

func (meshesForgetCmd) Help() string {
	return "The broker is not told: you stay a member that nobody can be.\n\nJSON: type forgotten, mesh, slug."
}

func (c meshesForgetCmd) Run(p *program) error {
	m, err := p.home.choose(c.Mesh)
	if err != nil {
		return err
	}
	if err := p.home.forget(m.MeshID); err != nil {
		return err
	}
	return p.result(struct {
		Type string `json:"type"` // forgotten
		Mesh string `json:"mesh"`
		Slug string `json:"slug"`
	}{"forgotten", m.MeshID, m.MeshSlug}, "Forgot %s.", m.slug())
}

type useCmd struct {
	Mesh string `arg:"" help:"The mesh, by slug or id."`
}

func (useCmd) Help() string { return "JSON: type using, mesh, slug." }

func (c useCmd) Run(p *program) error {
	m, err := p.home.choose(c.Mesh)
	if err != nil {
		return err
	}
	if err := p.home.use(m.MeshID); err != nil {
		return err
	}
	return p.result(struct {
		Type string `json:"type"` // using
		Mesh string `json:"mesh"`
		Slug string `json:"slug"`
	}{"using", m.MeshID, m.MeshSlug}, "Commands now work in %s.", m.slug())
}

type whoamiCmd struct{}

func (whoamiCmd) Help() string {
	return `This is what is kept on this machine; the broker is not asked.

JSON: type membership, mesh, slug, memberId, name, role, key, broker, joinedAt, default, config.`
}

func (whoamiCmd) Run(p *program) error {
	m, err := p.home.choose(p.opts.Mesh)
	if err != nil {
		return err
	}
	key, err := m.key()
	if err != nil {
		return err
	}
	s, err := p.home.settings()
	if err != nil {
		return err
	}
	if p.json {
		v := membershipLine(m, key.Public(), false, s.Default == m.MeshID)
		v.Config = p.home.dir
		return p.object(v)
	}
	for _, row := range [][2]string{
		{"mesh", m.slug() + " (" + m.MeshID + ")"}, {"name", name(m.Name)}, {"member", m.MemberID}, {"role", cmp.Or(line(m.Role), "-")},
		{"key", key.Public()}, {"broker", line(m.BrokerURL)}, {"joined", p.day(m.JoinedAt)}, {"files", filepath.Clean(p.home.dir)},
	} {
		if err := p.say("%s %s", p.paint(dim, row[0]+strings.Repeat(" ", 6-len(row[0]))), row[1]); err != nil {
			return err
		}
	}
	return nil
}
