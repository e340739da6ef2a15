package broker

import "net/http"

// serveInviteClaim answers POST /invites/{code}/claim: invites of version 2 are not offered.
func (b *Broker) serveInviteClaim(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusNotImplemented, struct {
		Error  string `json:"error"`
		Detail string `json:"detail"`
	}{"invite_v2_disabled", "this broker issues invites of version 1 only; ask for a link that begins with ic://join/"})
}
