// Standalone runs a broker as one process. See --help, and docs/operations.md for what its settings mean.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		<-signals
		fmt.Fprintln(os.Stderr, "standalone: ended by a second signal")
		os.Exit(1)
	}()
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	_, misused := errors.AsType[usageError](err)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case misused:
		fmt.Fprintln(os.Stderr, "standalone:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "standalone:", err)
		os.Exit(1)
	}
}

// shutdownTime is how long connections and requests may take to end.
const shutdownTime = 10 * time.Second

// run is the program. Stdout gets one line of JSON, for programs; stderr the log, and what people need to know.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	c, err := parse(args, getenv, stdout)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.level}))
	st := store.Store(memory.New())
	if c.database == "" {
		say(stderr, "DATABASE_URL is not set: everything is kept in memory, and ends with this process.\n")
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(c.host, c.port))
	if err != nil {
		return fmt.Errorf("BROKER_HOST, BROKER_PORT: %w", err)
	}
	defer func() { _ = listener.Close() }() // closed by the server in most cases

	c.options.Store, c.options.Logger = st, log
	c.options.HookLoopback = ownsLoopback(listener)
	if !c.options.HookLoopback && c.options.HookToken == "" && !c.options.InsecureOpenHook {
		log.Warn("not listening on loopback alone, so hooks are refused; set HOOK_TOKEN")
	}
	b, err := broker.New(c.options)
	if err != nil {
		return usageError{err}
	}
	if err := prepare(ctx, b, st, c, listener.Addr(), getenv, stderr); err != nil {
		return errors.Join(err, shutdown(b, nil))
	}
	line, err := json.Marshal(struct {
		Event string `json:"event"`
		Addr  string `json:"addr"`
	}{"listening", listener.Addr().String()})
	if err == nil {
		_, err = fmt.Fprintf(stdout, "%s\n", line)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("announce the address: %w", err), shutdown(b, nil))
	}
	server := newServer(b, log)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err = <-failed:
		return errors.Join(fmt.Errorf("serve: %w", err), shutdown(b, nil))
	case <-ctx.Done():
		return shutdown(b, server)
	}
}

// newServer serves a broker with the limits that belong to connections, before the broker sees a request: time for the header, size of it, and how
// long a connection may wait for its next request. The broker sets the other deadlines.
func newServer(b http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: b, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// shutdown ends the broker, and then the server, which waits for what the broker holds open.
func shutdown(b *broker.Broker, server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	err := b.Shutdown(ctx)
	if server != nil {
		err = errors.Join(err, server.Shutdown(ctx))
	}
	if err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	return nil
}

// prepare fills the store: with the seed file, and, if nothing is in it then, with a mesh to try the broker with.
func prepare(ctx context.Context, b *broker.Broker, st store.Store, c *config, addr net.Addr, getenv func(string) string, stderr io.Writer) error {
	if c.seed != "" {
		f, err := os.Open(c.seed)
		if err != nil {
			return fmt.Errorf("-seed: %w", err)
		}
		err = b.Seed(ctx, f)
		_ = f.Close() // it was only read
		if err != nil {
			return fmt.Errorf("-seed %s: %w", c.seed, err)
		}
	}
	meshes, err := st.Meshes(ctx, "", 1)
	if err != nil || len(meshes) > 0 {
		return err
	}
	return makeDevMesh(ctx, b, c, addr, getenv, stderr)
}

// ownsLoopback reports whether nothing but this machine reaches the listener.
func ownsLoopback(l net.Listener) bool {
	addr, ok := l.Addr().(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// say tells people something; when they are not there, nothing is lost.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
