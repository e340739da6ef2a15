package broker_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
)

// hostFlaky is a store that does not answer while down is set.
type hostFlaky struct {
	store.Store
	down atomic.Bool
}

func (s *hostFlaky) Ping(ctx context.Context) error {
	if s.down.Load() {
		return errors.New("down")
	}
	return s.Store.Ping(ctx)
}

func (s *hostFlaky) Beat(ctx context.Context, brokerID string, now time.Time) error {
	if s.down.Load() {
		return errors.New("down")
	}
	return s.Store.Beat(ctx, brokerID, now)
}

func TestHealthTellsAboutTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := &hostFlaky{}
		mesh := brokertest.New(t, func(o *broker.Options) {
			st.Store, o.Store = o.Store, st
			o.Version, o.GitSHA = "1.2.3", "abc1234"
		})
		b := mesh.Broker
		time.Sleep(12*time.Second + time.Millisecond)
		a := hostGet(b, "/health")
		require.Equal(t, http.StatusOK, a.code)
		require.Equal(t, frame{"status": "ok", "db": "up", "version": "1.2.3", "gitSha": "abc1234", "uptime": 12.0}, a.body)
		require.Equal(t, "*", a.header.Get("Access-Control-Allow-Origin"))
		a = hostGet(b, "/health/ready")
		require.Equal(t, http.StatusOK, a.code)
		require.Equal(t, frame{"status": "ready", "version": "1.2.3", "gitSha": "abc1234", "uptime": 12.0}, a.body)

		st.down.Store(true)
		time.Sleep(6 * time.Second)
		a = hostGet(b, "/health")
		require.Equal(t, http.StatusOK, a.code, "the process answers")
		require.Equal(t, "down", a.body["db"])
		a = hostGet(b, "/health/ready")
		require.Equal(t, http.StatusServiceUnavailable, a.code)
		require.Equal(t, frame{"status": "not_ready", "reason": "db_down"}, a.body)

		st.down.Store(false)
		time.Sleep(40 * time.Second)
		require.Equal(t, http.StatusOK, hostGet(b, "/health/ready").code)

		require.NoError(t, b.Shutdown(t.Context()))
		a = hostGet(b, "/health/ready")
		require.Equal(t, http.StatusServiceUnavailable, a.code)
		require.Equal(t, frame{"status": "not_ready", "reason": "shutting_down"}, a.body)
	})
}

func TestNotReadyUntilEarlierPresencesAreTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := &hostFlaky{}
		st.down.Store(true)
		mesh := brokertest.New(t, func(o *broker.Options) { st.Store, o.Store = o.Store, st })
		synctest.Wait()
		require.Equal(t, http.StatusServiceUnavailable, hostGet(mesh.Broker, "/health/ready").code)
		st.down.Store(false)
		time.Sleep(2 * time.Second)
		require.Equal(t, http.StatusOK, hostGet(mesh.Broker, "/health/ready").code)
	})
}
