// Command claudemesh is the command line of a mesh: it joins, shows who is there, sends, reads the inbox, and works with topics and
// API keys. It is a thin layer over package client; what it prints, its exit codes, its files and its JSON are described in
// docs/cli.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without its process: it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return system{stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv, now: time.Now, zone: time.Local}.run(ctx, args)
}

// system is what the program uses of its surroundings.
type system struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	zone           *time.Location
	http           *http.Client                                 // nil: the client's own
	terminal       func(io.Writer) (columns int, terminal bool) // nil: terminalColumns
}

// cli is the command line.
type cli struct {
	JSON    bool          `name:"json" help:"Write one JSON object per line instead of text; errors too, on stderr."`
	Mesh    string        `placeholder:"MESH" help:"Mesh to work in, by slug or id. Default: the one chosen with use, or the only one."`
	Config  string        `placeholder:"DIR" type:"path" help:"Directory of keys and memberships. Default: $$CLAUDEMESH_HOME, else claudemesh in the user's configuration directory."`
	Profile string        `placeholder:"NAME" help:"Be another person on this machine: a directory of its own in the configuration directory. Default: $$CLAUDEMESH_PROFILE."`
	Timeout time.Duration `default:"20s" help:"How long a command may take; for those that run on, how long connecting may take."`
	Debug   bool          `help:"Log to stderr what the client does. No text, key or secret is logged."`
	NoColor bool          `help:"No colours. Also when NO_COLOR is set, and when the output is no terminal."`

	Keygen keygenCmd `cmd:"" group:"me" help:"Make a member key and keep it in a file."`
	Join   joinCmd   `cmd:"" group:"me" help:"Join a mesh by an invite."`
	Meshes meshesCmd `cmd:"" group:"me" help:"List, add and forget memberships."`
	Use    useCmd    `cmd:"" group:"me" help:"Choose the mesh that commands work in."`
	Whoami whoamiCmd `cmd:"" group:"me" help:"Show who you are in the mesh."`

	Peers   peersCmd   `cmd:"" group:"others" help:"List the sessions that are connected."`
	Members membersCmd `cmd:"" group:"others" help:"List the members, connected or not."`
	Trust   trustCmd   `cmd:"" group:"others" help:"Accept a member's new key."`

	Send          sendCmd          `cmd:"" group:"messages" help:"Send a message."`
	Message       messageCmd       `cmd:"" group:"messages" help:"Ask what became of a message."`
	Inbox         inboxCmd         `cmd:"" group:"messages" help:"Read your messages."`
	Notifications notificationsCmd `cmd:"" group:"messages" help:"List where you were mentioned."`
	Topic         topicCmd         `cmd:"" group:"messages" help:"Work with topics."`

	Status  statusCmd  `cmd:"" group:"sessions" help:"Set the status of your running session."`
	Summary summaryCmd `cmd:"" group:"sessions" help:"Say what your running session is doing."`
	Groups  groupsCmd  `cmd:"" group:"sessions" help:"Join and leave groups with your running session."`

	State   stateCmd   `cmd:"" group:"other" help:"Read, set and watch the mesh's shared state."`
	Invite  inviteCmd  `cmd:"" group:"other" help:"Make, list and revoke invites."`
	Admin   adminCmd   `cmd:"" group:"other" help:"Govern the mesh: kick, ban, and change roles."`
	APIKey  apikeyCmd  `cmd:"" name:"apikey" group:"other" help:"Make, list and revoke API keys."`
	Audit   auditCmd   `cmd:"" group:"other" help:"Read, export and verify the mesh's audit log."`
	Version versionCmd `cmd:"" group:"other" help:"Show the version."`
}

const description = `The command line of a mesh of AI coding sessions, people and services.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 refused by the broker, or not known there; 4 no answer or outcome not known;
5 not delivered to everybody yet, or the topic's key is still to come; 6 held back for safety (a key changed, a name is ambiguous,
a topic key is not to be trusted, or encryption was required); 7 delivered to everybody, and not everybody signed for it (send --wait);
8 an audit log is sound but leaves something open; 9 it is broken.

Messages to a member are encrypted from end to end, and so are those of topics that have a key. Those to "*" and to groups are not:
the broker can read them.`

// errHelp ends the run after --help was printed.
var errHelp = errors.New("help was printed")

// program is one run of a command.
type program struct {
	*printer
	ctx    context.Context
	stdin  io.Reader
	stderr io.Writer
	getenv func(string) string
	http   *http.Client
	opts   *cli
	home   home

	timeoutGiven bool // --timeout stands on the command line
	terminal     func(io.Writer) (columns int, terminal bool)
}

func (s system) run(ctx context.Context, args []string) (code int) {
	p := &program{
		printer: &printer{out: s.stdout, err: s.stderr, now: s.now, zone: s.zone, json: wantsJSON(args)},
		ctx:     ctx, stdin: s.stdin, stderr: s.stderr, getenv: s.getenv, http: s.http, opts: &cli{}, terminal: s.terminal,
	}
	if p.terminal == nil {
		p.terminal = terminalColumns
	}
	err := p.parseAndRun(args, s)
	if err == nil || errors.Is(err, errHelp) {
		return exitOK
	}
	f := explain(err)
	p.complain(f)
	return f.exit
}

// wantsJSON is for errors of the command line itself, when the flags are not known yet.
func wantsJSON(args []string) bool {
	for _, a := range args {
		switch a {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}

func (p *program) parseAndRun(args []string, s system) (err error) {
	defer func() {
		if r := recover(); r == errHelp { //nolint:errorlint // the very value that Exit panics with
			err = errHelp
		} else if r != nil {
			panic(r)
		}
	}()
	parser, err := kong.New(p.opts,
		kong.Name("claudemesh"), kong.Description(description), kong.Writers(s.stdout, s.stderr),
		kong.Exit(func(int) { panic(errHelp) }), // kong goes on after Exit
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 120}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "me", Title: "You and your meshes:"}, {Key: "others", Title: "The others:"}, {Key: "messages", Title: "Messages:"},
			{Key: "sessions", Title: "Your running session:"}, {Key: "other", Title: "Other:"},
		}),
	)
	if err != nil {
		return fmt.Errorf("set up the command line: %w", err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if err != nil {
		return failf(exitUsage, "usage", "%s; claudemesh --help shows what there is.", strings.TrimSuffix(line(err.Error()), "."))
	}
	p.json, p.timeoutGiven = p.opts.JSON, gave(command, "timeout")
	p.color = !p.json && !p.opts.NoColor && isTerminal(s.stdout, s.getenv)
	if p.home, err = findHome(p.opts.Config, p.opts.Profile, s.getenv); err != nil {
		return err
	}
	if p.opts.Timeout <= 0 {
		return failf(exitUsage, "usage", "--timeout must be positive, such as 20s.")
	}
	return command.Run(p)
}

// complain writes an error to stderr.
func (p *program) complain(f *failure) {
	if p.json {
		raw, err := encodeLine(errorLine{Type: "error", Code: f.code, Message: f.text, Exit: f.exit})
		if err == nil {
			_ = p.write(p.err, raw) // there is nobody left to tell
			return
		}
	}
	p.note("claudemesh: %s", f.text)
}

type errorLine struct {
	Type    string `json:"type"` // error
	Code    string `json:"code"`
	Message string `json:"message"`
	Exit    int    `json:"exit"`
}

// quick is the context of a command that asks and ends.
func (p *program) quick() (context.Context, context.CancelFunc) {
	return context.WithTimeout(p.ctx, p.opts.Timeout)
}

// text is the message on the command line: the words, or with "-" what stands on stdin.
func (p *program) text(words []string) (string, error) {
	if len(words) != 1 || words[0] != "-" {
		if len(words) == 0 {
			return "", failf(exitUsage, "usage", `There is no text; write it behind the target, or "-" to read it from stdin.`)
		}
		return strings.Join(words, " "), nil
	}
	s, err := p.readAll("text")
	return strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r"), err
}

// maxStdin is the largest text that is read; brokers take far less.
const maxStdin = 1 << 20

func (p *program) readAll(what string) (string, error) {
	raw, err := io.ReadAll(io.LimitReader(p.stdin, maxStdin+1))
	if err != nil {
		return "", fmt.Errorf("read the %s from stdin: %w", what, err)
	}
	if len(raw) > maxStdin {
		return "", failf(exitUsage, "too_large", "The %s on stdin is longer than 1 MiB.", what)
	}
	return string(raw), nil
}

type versionCmd struct{}

func (versionCmd) Help() string { return "JSON: type version, version, go." }

func (versionCmd) Run(p *program) error {
	v := struct {
		Type    string `json:"type"` // version
		Version string `json:"version"`
		Go      string `json:"go"`
	}{Type: "version", Version: "(devel)"}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Go = info.GoVersion
		if info.Main.Version != "" {
			v.Version = info.Main.Version
		}
	}
	return p.result(v, "claudemesh %s (%s)", v.Version, v.Go)
}
