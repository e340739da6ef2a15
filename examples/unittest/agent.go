// Package unittest shows how a program that talks over a mesh tests itself: agent.go is the program's own code, agent_test.go its test against a
// whole mesh in memory.
package unittest

import (
	"context"
	"fmt"
	"strings"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

// Deployer is an agent that deploys what it is asked to, one thing at a time, and tells the team.
type Deployer struct {
	Mesh   *client.Client
	Topic  string // where the team reads about deployments
	Deploy func(ctx context.Context, service string) error
}

// Run serves requests of the form "deploy <service>" until ctx ends. While it deploys, the others see it working, and what is not
// urgent waits.
func (d *Deployer) Run(ctx context.Context) error {
	for {
		msg, err := d.Mesh.Receive(ctx)
		if err != nil {
			return err
		}
		service, ok := strings.CutPrefix(msg.Text, "deploy ")
		if !ok || msg.To != client.ToMember {
			continue
		}
		if err := d.serve(ctx, msg, service); err != nil {
			return err
		}
	}
}

func (d *Deployer) serve(ctx context.Context, msg client.Message, service string) error {
	if err := d.Mesh.SetStatus(ctx, wire.StatusWorking); err != nil {
		return err
	}
	answer := service + " is deployed"
	if err := d.Deploy(ctx, service); err != nil {
		answer = fmt.Sprintf("%s is not deployed: %v", service, err)
	} else if _, err := d.Mesh.Post(ctx, d.Topic, fmt.Sprintf("%s, for %s", answer, msg.From)); err != nil {
		return err
	}
	if _, err := d.Mesh.Send(ctx, msg.FromMemberPubkey, answer); err != nil {
		return err
	}
	return d.Mesh.SetStatus(ctx, wire.StatusIdle)
}
