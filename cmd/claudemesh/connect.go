package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
)

// options are those to sign in with. Sessions of the command line present no session key: they come and go, and an answer that was
// sealed for a key that is gone could never be opened. What they send is sealed with the member key, which recipients can verify.
func (p *program) options() (client.Options, membership, error) {
	m, err := p.home.choose(p.opts.Mesh)
	if err != nil {
		return client.Options{}, m, err
	}
	key, err := m.key()
	if err != nil {
		return client.Options{}, m, err
	}
	pins, err := p.home.pins()
	if err != nil {
		return client.Options{}, m, err
	}
	return p.optionsOf(m, key, pins, false), m, nil
}

func (p *program) optionsOf(m membership, key identity.KeyPair, pins client.Pins, noPush bool) client.Options {
	o := client.Options{
		URL: m.BrokerURL, MeshID: m.MeshID, MemberID: m.MemberID, Key: key, NoSessionKey: true, NoPush: noPush, Pins: pins,
		HTTPClient: p.http, PID: -1,
	}
	if p.opts.Debug {
		o.Logger = slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return o
}

// dial signs in.
func (p *program) dial(ctx context.Context, o client.Options) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Timeout)
	defer cancel()
	o.DialTimeout = p.opts.Timeout
	c, err := client.Dial(ctx, o)
	if err == nil {
		return c, nil
	}
	if _, refused := errors.AsType[*client.RefusedError](err); !refused && p.ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
		f := unreachable(err)
		f.cause = err
		return nil, f
	}
	return nil, err
}

// ask connects for one request, without being seen: no message arrives, and the member does not count as online.
func (p *program) ask(do func(ctx context.Context, c *client.Client) error) error {
	o, _, err := p.options()
	if err != nil {
		return err
	}
	o.NoPush = true
	ctx, cancel := p.quick()
	defer cancel()
	c, err := p.dial(ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // always nil
	return do(ctx, c)
}
