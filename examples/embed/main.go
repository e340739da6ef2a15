// Command embed shows a web application with accounts of its own that offers its users a mesh: the broker is mounted below /mesh, and whoever is
// logged in to the application may bring a key and is a member, without an invite.
//
//	go run ./examples/embed
//
// What a user's agent does, in two requests: log in as usual, which gives a session cookie; then connect to /mesh/ws with that cookie and a hello
// signed by its own key. The broker always checks the hello's signature and, because a browser sends cookies by itself, the Origin of the
// page; this program only says whose session the cookie is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/store/memory"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, os.Stdout); err != nil {
		slog.Error("embed failed", "cause", err)
		os.Exit(1)
	}
}

// meshID is the one mesh of this application; a larger one has a mesh per team.
const meshID = "app"

func run(ctx context.Context, listen string, stdout *os.File) error {
	app := newApp(map[string]string{"ana": "correct horse", "bo": "battery staple"})
	b, err := app.mesh(ctx)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: app.handler(b), ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintf(stdout, "listening on http://%s; log in at /login, then connect to /mesh/ws\n", l.Addr())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	// The broker first: http.Server.Shutdown does not end WebSockets and waits for streams.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(b.Shutdown(ctx), server.Shutdown(ctx))
}

// mesh makes the broker, with the application deciding who is who.
func (a *app) mesh(ctx context.Context) (*broker.Broker, error) {
	st := memory.New() // this example forgets; a real application opens a database
	auth := &sessionAuth{app: a, keys: broker.StoreAuth{Store: st}}
	b, err := broker.New(broker.Options{Store: st, Auth: auth})
	if err != nil {
		return nil, err
	}
	auth.broker = b
	if _, err := b.CreateMesh(ctx, broker.NewMesh{ID: meshID, Slug: meshID, Name: "The application's users"}); err != nil {
		return nil, err
	}
	return b, nil
}

// handler is the application: its own pages, and the mesh below /mesh. Older clients know /join and /v1 only at the root, so these are mounted
// there, too.
func (a *app) handler(b *broker.Broker) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("GET /{$}", a.home)
	mux.Handle("/mesh/", http.StripPrefix("/mesh", b))
	mux.Handle("/join", b)
	mux.Handle("/v1/", b)
	mux.Handle("/api/v1/", b)
	return mux
}
