package kcm

import (
	"context"
	"errors"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Server answers messages: every connection of its listeners is attached to one
// [Mux], and Workers endpoints call Handler. Answers go out as they are ready,
// so a slow one holds up no other, of the same connection or of another one.
// The fields are set before Serve is called, and not changed after that.
type Server struct {
	// Framer returns the framer of a new connection.
	Framer func() Framer

	// Handler answers a message: it appends the whole answer, with its header,
	// to answer, which is empty, and returns the result. Nothing is sent when
	// that is empty. An error ends the connection with this error, and so does
	// a panic ([*PanicError]). m.Data is valid until the handler returns, and
	// may be returned. Workers handlers run at once.
	Handler func(answer []byte, m Message) ([]byte, error)

	// Workers is how many messages are handled at once. 0 means 16, or 4 for
	// each of GOMAXPROCS if that is more.
	Workers int

	// Config is that of the Mux.
	Config Config

	once    sync.Once
	mux     *Mux
	workers sync.WaitGroup

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	closed    bool
	done      chan struct{} // closed with it
}

// start starts the workers when it is called first.
func (s *Server) start() {
	s.once.Do(func() {
		s.mux = New(s.Config)
		s.listeners = make(map[net.Listener]struct{})
		s.done = make(chan struct{})
		for range orDefault(s.Workers, max(16, 4*runtime.GOMAXPROCS(0))) {
			if e, err := s.mux.Endpoint(); err == nil {
				s.workers.Go(func() { s.work(e) })
			}
		}
	})
}

// Serve serves the connections of l until Accept fails for good, and returns its
// error, or net.ErrClosed after Shutdown and Close. When descriptors run out it
// tries again, at most a second later. It closes l. It may be called for
// any number of listeners at once. Connections live on when it returns.
func (s *Server) Serve(l net.Listener) error {
	s.start()
	defer l.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	pause := acceptPause
	for {
		c, err := l.Accept()
		if passing(err) {
			select {
			case <-time.After(pause):
			case <-s.done:
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = acceptPause
		if err == nil {
			if _, err = s.mux.Attach(c, s.Framer()); err != nil {
				c.Close()
			}
		}
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.listeners, l)
			if s.closed {
				return net.ErrClosed
			}
			return err
		}
	}
}

// acceptPause is how long Serve waits when Accept fails for the first time.
const acceptPause = 5 * time.Millisecond

// passing reports whether Accept may work again later: out of descriptors, or a
// client that was gone before it was accepted. Temporary is the only word that
// listeners of all systems have for it.
func passing(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary() && !errors.Is(err, net.ErrClosed)
}

// Stats returns the counters of the Mux.
func (s *Server) Stats() Stats {
	s.start()
	return s.mux.Stats()
}

// Shutdown ends the server in good order: listeners are closed, nothing more is
// read, every message that came whole is handled, and the answers are written.
// Then it returns nil. When ctx is done before that, everything is closed at
// once, and the error is that of ctx. Handlers that run then are not waited for.
// A handler must not call it: it would wait for itself.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopListening()
	err := s.mux.Shutdown(ctx)
	if err == nil {
		s.workers.Wait()
	}
	return err
}

// Close closes listeners and connections at once. Handlers that run are not
// waited for.
func (s *Server) Close() error {
	s.stopListening()
	return s.mux.Close()
}

func (s *Server) stopListening() {
	s.start()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	for l := range s.listeners {
		l.Close()
	}
}

// work is one worker. A handler that ends its goroutine, with runtime.Goexit, ends
// the connection; the next worker takes the endpoint.
func (s *Server) work(e *Endpoint) {
	var scratch []byte
	var at *Conn // whose message is handled
	defer func() {
		if at != nil {
			at.fail(&PanicError{"handler", errGoexit, debug.Stack()})
			s.workers.Go(func() { s.work(e) })
		}
	}()
	for {
		m, err := e.RecvMsg()
		if err != nil {
			return
		}
		at = m.Conn
		answer, err := s.handle(scratch[:0], m)
		at = nil
		switch {
		case err != nil:
			m.Conn.fail(err)
		case len(answer) > 0:
			// If the connection takes it no more, Config.Ended says why.
			_ = e.SendMsg(m.Conn, answer)
		}
		// The handler may have returned any memory, so that is not kept; what
		// is kept grows as answers do.
		if n := min(len(answer), usual); n > cap(scratch) {
			scratch = make([]byte, 0, max(n, 2*cap(scratch)))
		}
	}
}

var errGoexit = errors.New("runtime.Goexit was called")

// handle calls the handler.
func (s *Server) handle(answer []byte, m Message) (_ []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{"handler", v, debug.Stack()}
		}
	}()
	return s.Handler(answer, m)
}
