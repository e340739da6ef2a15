package main

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"net/http"
	"sync"
)

// app is somebody's existing web application, as small as one can be: users with passwords, and sessions in cookies.
type app struct {
	passwords map[string]string // by user; a real application keeps salted hashes

	mu       sync.Mutex
	sessions map[string]string // cookie to user; guarded by mu
}

func newApp(passwords map[string]string) *app {
	return &app{passwords: passwords, sessions: map[string]string{}}
}

const cookieName = "app_session"

func (a *app) login(w http.ResponseWriter, r *http.Request) {
	user, password := r.PostFormValue("user"), r.PostFormValue("password")
	want, known := a.passwords[user]
	if !known || subtle.ConstantTimeCompare([]byte(want), []byte(password)) != 1 {
		http.Error(w, "wrong user or password", http.StatusUnauthorized)
		return
	}
	session := rand.Text()
	a.mu.Lock()
	a.sessions[session] = user
	a.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: session, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	w.WriteHeader(http.StatusNoContent)
}

// user is who is logged in, empty for nobody.
func (a *app) user(r *http.Request) string {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sessions[c.Value]
}

func (a *app) home(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "hello, %q\n", a.user(r))
}
