//nolint:staticcheck // x/net/http2 is deprecated in favour of Go 1.27, whose net/http does this by itself
package aftlshttp

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"

	"github.com/aftls/aftls"
	"golang.org/x/net/http2"
)

// pool holds the connections of HTTP/2. It makes none itself.
type pool struct {
	http2 *http2.Transport

	mu       sync.Mutex
	conns    map[string][]*http2.ClientConn // of a host and port
	dialling map[string]*finding            // what first requests are about to find
	http1    map[string]struct{}            // servers that chose it
}

// maxHTTP1 is how many servers are remembered. Who is forgotten has one first
// request again.
const maxHTTP1 = 1000

func newPool() *pool {
	p := &pool{
		conns:    make(map[string][]*http2.ClientConn),
		dialling: make(map[string]*finding),
		http1:    make(map[string]struct{}),
	}
	p.http2 = &http2.Transport{ConnPool: p, IdleConnTimeout: idleTimeout}
	return p
}

// finding is what a request finds out for those that come behind it.
type finding struct {
	done  chan struct{}
	http2 bool // when done: there is a new connection
}

// lead makes the request that asks first the one that finds out how a server
// speaks: others wait for it, as a connection of HTTP/2 would do for all of them.
// wait is nil for the first, and where the server chose HTTP/1.1 before. release
// is called when there is no more to wait for, as often as one likes.
func (p *pool) lead(addr string) (release func(), wait *finding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.http1[addr]; ok {
		return func() {}, nil
	}
	if wait, ok := p.dialling[addr]; ok {
		return func() {}, wait
	}
	f := &finding{done: make(chan struct{})}
	p.dialling[addr] = f
	return sync.OnceFunc(func() {
		p.mu.Lock()
		delete(p.dialling, addr)
		p.mu.Unlock()
		close(f.done)
	}), nil
}

// found tells those that wait that there is a connection. p.mu is held.
func (p *pool) found(addr string) {
	if f := p.dialling[addr]; f != nil {
		f.http2 = true
	}
}

func (p *pool) speaksHTTP1(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.http1) >= maxHTTP1 {
		clear(p.http1)
	}
	p.http1[addr] = struct{}{}
}

// reservation is a connection that keeps room for one request.
type reservation struct{ conn *http2.ClientConn }

// roundTrip sends req on c, which was reserved for it, or on another connection
// if c turns out to be of no use. The error is http2.ErrNoCachedConn where there
// is no other one with room.
func (p *pool) roundTrip(req *http.Request, c *http2.ClientConn) (*http.Response, error) {
	return p.http2.RoundTrip(req.WithContext(context.WithValue(req.Context(), reserved{}, &reservation{c})))
}

// GetClientConn is called by the http2.Transport.
func (p *pool) GetClientConn(req *http.Request, addr string) (*http2.ClientConn, error) {
	r := req.Context().Value(reserved{}).(*reservation)
	c := r.conn
	if r.conn = nil; c == nil {
		if c = p.reserve(addr); c == nil {
			return nil, http2.ErrNoCachedConn
		}
	}
	trace := httptrace.ContextClientTrace(req.Context())
	if trace != nil && trace.GetConn != nil && req.Context().Value(traced{}) == nil {
		trace.GetConn(addr)
	}
	return c, nil
}

// reserve returns a connection with room for a request, which it keeps, or nil.
func (p *pool) reserve(addr string) *http2.ClientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns[addr] {
		if c.ReserveNewRequest() {
			return c
		}
	}
	return nil
}

// MarkDead is called by the http2.Transport for a connection that ended.
func (p *pool) MarkDead(dead *http2.ClientConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for addr, conns := range p.conns {
		conns = slices.DeleteFunc(conns, func(c *http2.ClientConn) bool { return c == dead })
		if p.conns[addr] = conns; len(conns) == 0 {
			delete(p.conns, addr)
		}
	}
}

// add takes a new connection. When several requests dialled at once one connection
// does for all, and the others are closed.
func (p *pool) add(addr string, conn *aftls.Conn) error {
	p.mu.Lock()
	for _, c := range p.conns[addr] {
		if c.CanTakeNewRequest() {
			p.found(addr)
			p.mu.Unlock()
			go conn.Close()
			return nil
		}
	}
	p.mu.Unlock()
	c, err := p.http2.NewClientConn(conn)
	if err != nil {
		conn.Close()
		return err
	}
	p.mu.Lock()
	delete(p.http1, addr)
	p.found(addr)
	p.conns[addr] = append(p.conns[addr], c)
	p.mu.Unlock()
	if c.State().Closed { // and MarkDead came too early
		p.MarkDead(c)
	}
	return nil
}

// closeIdle closes the connections without requests. Under the lock no request
// gets one.
func (p *pool) closeIdle() {
	p.mu.Lock()
	var idle []*http2.ClientConn
	for addr, conns := range p.conns {
		p.conns[addr] = slices.DeleteFunc(conns, func(c *http2.ClientConn) bool {
			s := c.State()
			if s.StreamsActive+s.StreamsReserved+s.StreamsPending > 0 {
				return false
			}
			idle = append(idle, c)
			return true
		})
		if len(p.conns[addr]) == 0 {
			delete(p.conns, addr)
		}
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}
