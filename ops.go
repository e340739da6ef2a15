package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// Caller is who a request speaks for: a member by one of its sessions, or by an API key, or as the host's [Auth] says.
type Caller struct {
	// MeshID is the mesh that everything of the request happens in.
	MeshID string
	// Member is the member as it was when the session signed in or the request arrived. It is empty for a key without an issuer.
	Member store.Member
	// PresenceID, SessionPubkey and Name are the calling session's; SessionPubkey may be empty, and all but Name are for a REST request.
	PresenceID    string
	SessionPubkey string
	Name          string

	key     *Grant   // REST only
	session *session // WebSocket only
}

// handler runs one request of one type.
type handler struct {
	run func(b *Broker, ctx context.Context, by Caller, frame []byte) (wire.Message, error)
	// replies says that the type has a reply of its own; the others answer only a request that carried a _reqId.
	replies bool
	// slow says that it may take longer than a peer may be silent; see slowOp.
	slow bool
}

// builtin are the broker's own operations. It is filled while the package is initialised and never changed after; New copies it.
var builtin = map[string]handler{}

// op registers the operation for frames of one type beside its code.
func op[F any](typ string, fn func(*Broker, context.Context, Caller, F) (wire.Message, error)) struct{} {
	return register(typ, handler{replies: true}, fn)
}

// slowOp is op for what reads a lot and changes nothing: it runs beside the requests that follow it, one at a time for each connection, and its reply keeps
// its place. Its context ends when the connection is to end.
func slowOp[F any](typ string, fn func(*Broker, context.Context, Caller, F) (wire.Message, error)) struct{} {
	return register(typ, handler{replies: true, slow: true}, fn)
}

// silentOp is op for a type that has no reply: it is acknowledged only if the request carried a _reqId, and so are its errors.
func silentOp[F any](typ string, fn func(*Broker, context.Context, Caller, F) (wire.Message, error)) struct{} {
	return register(typ, handler{}, fn)
}

func register[F any](typ string, h handler, fn func(*Broker, context.Context, Caller, F) (wire.Message, error)) struct{} {
	if _, twice := builtin[typ]; twice {
		panic("broker: two operations for " + typ) // at start-up, by our own mistake
	}
	h.run = func(b *Broker, ctx context.Context, by Caller, frame []byte) (wire.Message, error) {
		f, err := decodeFrame[F](frame)
		if err != nil {
			return nil, err
		}
		return fn(b, ctx, by, f)
	}
	builtin[typ] = h
	return struct{}{}
}

// decodeFrame fills a frame and runs its own checks.
func decodeFrame[F any](raw []byte) (F, error) {
	var f F
	if err := wire.Decode(raw, &f); err != nil {
		return f, err
	}
	if c, ok := any(&f).(interface{ Check() error }); ok {
		if err := c.Check(); err != nil {
			return f, err
		}
	}
	return f, nil
}

// Handle adds an operation of the host's own, for frames of type typ, which must contain a slash ("x-acme/poke") so that it can never
// meet one of the protocol's. F is a struct with json tags; if *F has a method Check() error it runs first. fn may answer with a pointer to a
// struct that embeds wire.Header, or with nil, which is answered as done; a *wire.Fault becomes an error frame with its code and text, and any
// other error an "internal" one. Requests of one connection run one after another. Handle must come before the first request.
func Handle[F any](b *Broker, typ string, fn func(ctx context.Context, by Caller, frame F) (wire.Message, error)) error {
	if !strings.Contains(typ, "/") {
		return fmt.Errorf("broker: Handle: type %q must contain a slash", typ)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.serving {
		return fmt.Errorf("broker: Handle: %q comes after the first request", typ)
	}
	if _, twice := b.ops[typ]; twice {
		return fmt.Errorf("broker: Handle: %q is registered already", typ)
	}
	b.ops[typ] = handler{replies: true, run: func(_ *Broker, ctx context.Context, by Caller, frame []byte) (wire.Message, error) {
		f, err := decodeFrame[F](frame)
		if err != nil {
			return nil, err
		}
		return fn(ctx, by, f)
	}}
	return nil
}

// Types lists the message types that a session may send after its hello, in no order. A test holds docs/protocol.md against it.
func (b *Broker) Types() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	types := []string{wire.TypeSend, wire.TypeClientAck}
	for t := range maps.Keys(b.ops) {
		types = append(types, t)
	}
	return types
}

// fault turns any error into one that a peer may see. What has no code leaves as internal, with a fixed text; the cause stays for
// the log.
func fault(err error) *wire.Fault {
	if f, ok := errors.AsType[*wire.Fault](err); ok {
		return f
	}
	return &wire.Fault{Code: wire.Internal, Text: "the broker failed to do this; its log has the cause", Cause: err}
}

// isAdmin reports whether the caller may govern its mesh now: the role admin, or the mesh's owner. It asks the store, because a role
// may have changed since the session signed in.
func (b *Broker) isAdmin(ctx context.Context, by Caller) (bool, error) {
	if by.Member.ID == "" {
		return false, nil
	}
	m, err := b.store.Member(ctx, by.MeshID, by.Member.ID)
	if errors.Is(err, store.ErrNotFound) || err == nil && !m.RevokedAt.IsZero() {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("member: %w", err)
	}
	if m.Role == store.RoleAdmin {
		return true, nil
	}
	mesh, err := b.store.Mesh(ctx, by.MeshID)
	if err != nil {
		return false, fmt.Errorf("mesh: %w", err)
	}
	return owner(&mesh, &m), nil
}
