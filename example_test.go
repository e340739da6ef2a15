package broker_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store/memory"
)

// A broker mounted below /mesh of a server, a mesh with an invite, and two people who join it and talk.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	b, err := broker.New(broker.Options{Store: memory.New(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/mesh/", http.StripPrefix("/mesh", b))
	server := httptest.NewServer(mux)
	defer server.Close()
	defer b.Shutdown(ctx) // before the server's own

	owner, err := identity.GenerateKey() // signs invites; keep it away from the broker
	if err != nil {
		panic(err)
	}
	mesh, err := b.CreateMesh(ctx, broker.NewMesh{Slug: "team", OwnerPubkey: owner.Public()})
	if err != nil {
		panic(err)
	}
	invite, _, err := b.CreateInvite(ctx, mesh.ID, owner, broker.InviteOptions{
		BrokerURL: "ws" + strings.TrimPrefix(server.URL, "http") + "/mesh/ws", MaxUses: 2,
	})
	if err != nil {
		panic(err)
	}

	join := func(name string) *client.Client {
		key, err := identity.GenerateKey()
		if err != nil {
			panic(err)
		}
		membership, err := client.Join(ctx, client.JoinOptions{Invite: invite, Key: key, DisplayName: name})
		if err != nil {
			panic(err)
		}
		c, err := client.Dial(ctx, membership.Options())
		if err != nil {
			panic(err)
		}
		return c
	}
	ana, bo := join("ana"), join("bo")
	defer ana.Close()
	defer bo.Close()
	if _, err := ana.Send(ctx, "bo", "are you there?"); err != nil {
		panic(err)
	}
	msg, err := bo.Receive(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s: %s (encrypted: %v)\n", msg.From, msg.Text, msg.Encrypted)
	// Output: ana: are you there? (encrypted: true)
}
