package main

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlsprom"
	"github.com/aftls/aftls/filter"
)

// roster has the connections of a server that runs: 'aftls top' shows them, a
// capture takes them in, and metrics count them.
type roster struct {
	command string
	logger  *slog.Logger
	metrics *aftlsprom.Collector // nil: nobody counts

	mu    sync.Mutex
	open  map[watched]entry
	total uint64      // how many there were
	tap   *filter.Tap // nil: none
}

// watched is a connection: an *aftls.Conn, or an association of handd.
type watched interface {
	Info() aftls.Info
	RemoteAddr() net.Addr
	SetTap(*filter.Tap) error
}

// entry is a connection in the roster.
type entry struct {
	conn  watched
	id    uint64 // counts from 1
	since time.Time
}

func newRoster(command string, logger *slog.Logger) *roster {
	return &roster{command: command, logger: logger, open: make(map[watched]entry)}
}

// begin is called for a connection before its first byte.
func (r *roster) begin(c watched) {
	if r.metrics != nil {
		r.metrics.Begin(c)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	r.open[c] = entry{c, r.total, time.Now()}
	if r.tap != nil {
		r.capture(c, r.tap)
	}
}

// end is called for a connection that is closed.
func (r *roster) end(c watched) {
	r.mu.Lock()
	delete(r.open, c)
	r.mu.Unlock()
	if r.metrics != nil {
		r.metrics.End(c)
	}
}

// failed is called for a handshake that failed.
func (r *roster) failed(peer net.Addr, err error) {
	r.logger.Warn("handshake failed", "peer", peer.String(), "err", err.Error())
	if r.metrics != nil {
		r.metrics.HandshakeError(peer, err)
	}
}

// state is begin and end for a http.Server.
func (r *roster) state(nc net.Conn, s http.ConnState) {
	c, ok := nc.(*aftls.Conn)
	if !ok {
		return
	}
	switch s {
	case http.StateNew:
		r.begin(c)
	case http.StateClosed, http.StateHijacked:
		r.end(c)
	}
}

// all returns the connections there are, and how many there were. Only for that
// much time does a connection that begins or ends wait.
func (r *roster) all() (open []entry, total uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	open = make([]entry, 0, len(r.open))
	for _, e := range r.open {
		open = append(open, e)
	}
	return open, r.total
}

// capture puts c into a capture, or with nil out of it. r.mu is held.
func (r *roster) capture(c watched, tap *filter.Tap) {
	err := c.SetTap(tap)
	if err == nil || tap == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, aftls.ErrDetached) {
		return
	}
	r.logger.Warn("tap: a connection is not captured", "peer", peerOf(c), "err", err.Error())
}

var errTapped = errors.New("the server is being tapped already")

// beginTap puts all connections, and those that come, into a capture.
func (r *roster) beginTap(tap *filter.Tap) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tap != nil {
		return hint(errTapped, "end the other capture first")
	}
	r.tap = tap
	for c := range r.open {
		r.capture(c, tap)
	}
	return nil
}

// endTap takes them out again.
func (r *roster) endTap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tap = nil
	for c := range r.open {
		r.capture(c, nil)
	}
}

// peerOf is the address of the peer, or nothing where it is not known.
func peerOf(c watched) string {
	if a := c.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}
