package broker

import (
	"net/http"
	"time"
)

// healthAnswer is the body of GET /health and /health/ready. What a state does not tell is empty.
type healthAnswer struct {
	Status  string `json:"status"`
	DB      string `json:"db,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Version string `json:"version,omitempty"`
	GitSHA  string `json:"gitSha,omitempty"`
	Uptime  *int64 `json:"uptime,omitempty"` // whole seconds
}

// serveHealth answers GET /health: 200 as long as the process answers, whatever else is wrong.
func (b *Broker) serveHealth(w http.ResponseWriter, _ *http.Request) {
	down, _ := b.health()
	a := b.alive("ok")
	a.DB = "up"
	if down {
		a.DB = "down"
	}
	writeJSON(w, http.StatusOK, a)
}

// serveReady answers GET /health/ready: 200 while it makes sense to send sessions here.
func (b *Broker) serveReady(w http.ResponseWriter, _ *http.Request) {
	switch down, closed := b.health(); {
	case closed:
		writeJSON(w, http.StatusServiceUnavailable, healthAnswer{Status: "not_ready", Reason: "shutting_down"})
	case down:
		writeJSON(w, http.StatusServiceUnavailable, healthAnswer{Status: "not_ready", Reason: "db_down"})
	case !b.isReady(): // hellos wait until the presences of earlier processes are taken over
		writeJSON(w, http.StatusServiceUnavailable, healthAnswer{Status: "not_ready", Reason: "starting"})
	default:
		writeJSON(w, http.StatusOK, b.alive("ready"))
	}
}

func (b *Broker) alive(status string) healthAnswer {
	up := int64(time.Since(b.started) / time.Second)
	return healthAnswer{Status: status, Version: b.opts.Version, GitSHA: b.opts.GitSHA, Uptime: &up}
}

func (b *Broker) health() (storeDown, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.storeDown.IsZero(), b.closed
}
