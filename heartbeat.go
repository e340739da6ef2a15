package broker

import "time"

func (s *session) startHeartbeat() {
	if s.b.opts.PingInterval <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beat = s.b.wheel.After(s.b.opts.PingInterval, s.heartbeat)
}

// heartbeat runs on the wheel: it pings the peer, or gives it up.
func (s *session) heartbeat() {
	quiet := time.Since(time.UnixMilli(s.alive.Load()))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil || s.writeErr != nil {
		return
	}
	if limit := s.b.opts.StaleAfter; limit > 0 && quiet > limit {
		s.b.log.Debug("peer shows no sign of life", "took", quiet)
		s.dropLocked("stale")
		return
	}
	if !s.pinging {
		s.pingLocked(nil)
	}
	next := s.b.opts.PingInterval
	if limit := s.b.opts.StaleAfter; limit > 0 && quiet < limit && limit-quiet < next {
		next = limit - quiet + time.Millisecond
	}
	s.beat = s.b.wheel.After(next, s.heartbeat)
}

// pingLocked sends a ping; ponged runs when its pong is back. There is at most one at a time.
func (s *session) pingLocked(ponged func()) {
	if !s.b.work.fork() {
		return
	}
	s.pinging = true
	go func() {
		defer s.b.work.leaveSession()
		err := s.conn.Ping(s.b.life)
		s.mu.Lock()
		s.pinging = false
		s.mu.Unlock()
		if err != nil {
			// The write failed or took more than 5 s, or the connection is gone already.
			s.drop()
			return
		}
		s.seen()
		if ponged != nil {
			ponged()
		}
	}()
}
