package handover

import "crypto/tls"

// clientConfig derives the Config of one client connection. The session cache
// and the user's callbacks are shared with user.
func clientConfig(user *tls.Config, w *wire) *tls.Config {
	c := user.Clone()
	if c == nil {
		c = new(tls.Config)
	}
	c.KeyLogWriter = &keyLog{w, c.KeyLogWriter}
	if c.ClientSessionCache != nil {
		c.ClientSessionCache = &sessionCache{c.ClientSessionCache, w}
	}
	return c
}

// serverConfig derives the Config of one server connection. Asking user to
// decrypt a ticket makes automatic ticket keys, and their rotation, happen on
// user itself under its lock; Clone then copies automatic and explicit keys.
// So every connection resumes as if it ran on user, and a later
// SetSessionTicketKeys on user is seen. That Clone copies automatic keys is
// not promised by its documentation: TestTicketKeys pins it.
func serverConfig(user *tls.Config, w *wire) *tls.Config {
	if user == nil {
		user = new(tls.Config) // has no certificate: crypto/tls says so
	}
	user.DecryptTicket(nil, tls.ConnectionState{})
	c := user.Clone()
	w.observe(c)
	w.configs = append(w.configs, c)
	if f := c.GetConfigForClient; f != nil {
		c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			p, err := f(w.hello(h))
			if err != nil || p == nil {
				return p, err
			}
			// The key log follows the Config that is returned here, so it
			// has to be ours too. Its ticket keys stay its own: a tenant
			// never opens the tickets of another.
			p = p.Clone()
			w.observe(p)
			w.configs = append([]*tls.Config{p}, w.configs...)
			return p, nil
		}
	}
	return c
}

// hello is h as the user's callback would see it without us: with the user's
// own connection in it. ClientHelloInfo carries a context that only a copy of
// the struct keeps.
func (w *wire) hello(h *tls.ClientHelloInfo) *tls.ClientHelloInfo {
	x := *h
	x.Conn = w.Conn
	return &x
}

// observe takes the key log of c, shows its callbacks the user's connection, and
// notes the sessions that a user's own UnwrapSession returns. It never installs
// an UnwrapSession where there is none: crypto/tls alone chooses ticket keys.
func (w *wire) observe(c *tls.Config) {
	c.KeyLogWriter = &keyLog{w, c.KeyLogWriter}
	if f := c.GetCertificate; f != nil {
		c.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return f(w.hello(h)) }
	}
	// Of a Config that GetConfigForClient returns it is asked, too: for the
	// keys that a client is told to try again with.
	if f := c.GetEncryptedClientHelloKeys; f != nil {
		c.GetEncryptedClientHelloKeys = func(h *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) { return f(w.hello(h)) }
	}
	if f := c.UnwrapSession; f != nil {
		c.UnwrapSession = func(id []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
			st, err := f(id, cs)
			if st != nil {
				w.sessions = append(w.sessions, st)
			}
			return st, err
		}
	}
}

// sessionCache notes which session the client offers; TLS 1.2 logs no key when
// it resumes, so the session is where the master secret is then to be found.
type sessionCache struct {
	tls.ClientSessionCache
	w *wire
}

func (s *sessionCache) Get(key string) (*tls.ClientSessionState, bool) {
	cs, ok := s.ClientSessionCache.Get(key)
	if ok && cs != nil {
		if _, st, err := cs.ResumptionState(); err == nil && st != nil {
			s.w.sessions = append(s.w.sessions, st)
		}
	}
	return cs, ok
}
