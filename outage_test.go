package broker_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
)

// down is a store that is out of reach while a test says so.
type down struct {
	store.Store
	out  atomic.Bool
	hang atomic.Bool // calls do not return before their context ends
}

func (d *down) check(ctx context.Context) error {
	if d.hang.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if d.out.Load() {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, errStore)
	}
	return nil
}

func (d *down) Ping(ctx context.Context) error {
	if err := d.check(ctx); err != nil {
		return err
	}
	return d.Store.Ping(ctx)
}

func (d *down) Beat(ctx context.Context, id string, at time.Time) error {
	if err := d.check(ctx); err != nil {
		return err
	}
	return d.Store.Beat(ctx, id, at)
}

func (d *down) Ack(ctx context.Context, acks []store.Ack) (store.Acked, error) {
	if err := d.check(ctx); err != nil {
		return store.Acked{}, err
	}
	return d.Store.Ack(ctx, acks)
}

func (d *down) Enqueue(ctx context.Context, mesh string, v int64, drafts []store.Draft, q store.Quota, at time.Time) ([]store.Enqueued, error) {
	if err := d.check(ctx); err != nil {
		return nil, err
	}
	return d.Store.Enqueue(ctx, mesh, v, drafts, q, at)
}

func (d *down) Expire(ctx context.Context, at time.Time, gone time.Duration, limit int) ([]store.Delivery, error) {
	if err := d.check(ctx); err != nil {
		return nil, err
	}
	return d.Store.Expire(ctx, at, gone, limit)
}

func downMesh(t *testing.T) (*down, *brokertest.Mesh) {
	t.Helper()
	d := &down{}
	return d, brokertest.New(t, func(o *broker.Options) { d.Store = o.Store; o.Store = d })
}

func ready(t *testing.T, mesh *brokertest.Mesh) int {
	t.Helper()
	resp, err := mesh.HTTP.Get("http://" + brokertest.Host + "/health/ready")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

// A broker without its store says so, and after half a lease sends its sessions elsewhere; it recovers by itself.
func TestOutageIsToldAndEndsByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, mesh := downMesh(t)
		ana := mesh.Dial("ana")
		require.Equal(t, http.StatusOK, ready(t, mesh))
		d.out.Store(true)
		time.Sleep(10 * time.Second)
		for range 30 {
			require.Equal(t, http.StatusServiceUnavailable, ready(t, mesh), "down is not forgotten between two looks")
			time.Sleep(time.Second)
		}
		require.Contains(t, ana.Say("*", "now", "x")["error"], "internal_error")
		time.Sleep(15 * time.Second)
		code, reason := ana.Closed()
		require.Equal(t, []any{1013, "store_unavailable"}, []any{code, reason})
		d.out.Store(false)
		time.Sleep(35 * time.Second)
		require.Equal(t, http.StatusOK, ready(t, mesh))
		require.Equal(t, true, mesh.Dial("ana").Say("*", "now", "x")["queued"])
	})
}

// P10: shutting down while the store fails, or does not answer at all, ends in time.
func TestShutdownWithoutAStore(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(*down){
		"failing": func(d *down) { d.out.Store(true) },
		"hanging": func(d *down) { d.hang.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, mesh := downMesh(t)
				ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
				for i := range 5 {
					ana.Say(bo.Member.Pubkey, "now", fmt.Sprint(i))
				}
				synctest.Wait()
				pushes := bo.Pushes()
				breakIt(d)
				for _, p := range pushes { // some wait in the queue, one batch is being tried again
					bo.Send(frame{"type": "client_ack", "brokerMessageId": p.Str("messageId")})
					time.Sleep(100 * time.Millisecond)
				}
				ana.Send(frame{"type": "send", "targetSpec": "*", "nonce": "", "ciphertext": "eA=="})
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				began := time.Now()
				_ = mesh.Broker.Shutdown(ctx) // may tell that it could not wait
				require.LessOrEqual(t, time.Since(began), 3500*time.Millisecond)
				d.hang.Store(false)
				d.out.Store(false)
			})
		})
	}
}

// P6: acknowledgements that the store does not take pause their connection, instead of piling up.
func TestAcksOfAFailingStoreArePaused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, mesh := downMesh(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		ana.Say(bo.Member.Pubkey, "now", "x")
		id := bo.ExpectPush().Str("messageId")
		bo.Send(frame{"type": "client_ack", "brokerMessageId": id})
		mesh.Restart() // so that unknown ids may be of an earlier connection
		again := mesh.Dial("bo", explicit)
		d.out.Store(true)
		var sent atomic.Int64
		go func() {
			for range 3000 {
				if again.TrySend(frame{"type": "client_ack", "brokerMessageId": identity.NewID(), "pad": strings.Repeat("x", 500)}) != nil {
					return
				}
				sent.Add(1)
			}
		}()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Less(t, sent.Load(), int64(1000), "what the network holds, and 64")
		d.out.Store(false)
		time.Sleep(6 * time.Second)
		require.Equal(t, int64(3000), sent.Load(), "and goes on when the store does")
	})
}
