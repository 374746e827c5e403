package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aftls/aftls"
)

// streams accepts TLS connections that are no requests but streams: each is a
// goroutine's until its carrier is closed, by whoever has it then.
type streams struct {
	ln       *aftls.Listener
	carriers *carriers
	handle   func(*aftls.Conn)
	limit    chan struct{} // as many are handled at a time; nil is no limit

	unobserve func() // at the end

	accepted, resumed, failed atomic.Int64
}

// listenStreams listens, on a TCP address or unix:PATH. observe says who sees the
// connections, which r will have.
func listenStreams(addr string, config *tls.Config, provider provider, observe observeFlags, r *roster) (*streams, error) {
	network, addr := networkOf(addr)
	inner, err := provider.listen(network, addr)
	if err != nil {
		return nil, hint(err, "choose another address with --listen; 127.0.0.1:0 takes a free port")
	}
	s := &streams{carriers: &carriers{Listener: inner, open: make(map[*carrier]struct{})}}
	ln, end, err := observe.open(s.carriers, config, r)
	if err != nil {
		inner.Close()
		return nil, err
	}
	s.unobserve = end
	opt := provider.options()
	opt.HandshakeError = func(peer net.Addr, err error) {
		s.failed.Add(1)
		r.failed(peer, err)
	}
	s.ln = aftls.NewListener(ln, config, opt)
	return s, nil
}

// serve runs handle for every connection, until signals end it.
func (s *streams) serve(ctx context.Context, stdout io.Writer, certs *certificates, logger *slog.Logger) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	fmt.Fprintf(stdout, "listening %s\n", s.ln.Addr())
	served := make(chan error, 1)
	go func() { served <- s.accept() }()
	err := supervise(ctx, s, served, signals, certs, logger)
	s.unobserve()
	logger.Info("ended", "connections", s.accepted.Load(), "resumed", s.resumed.Load(), "handshakes_failed", s.failed.Load())
	return err
}

func (s *streams) accept() error {
	for {
		if s.limit != nil {
			s.limit <- struct{}{}
		}
		c, err := s.ln.AcceptConn()
		if err != nil {
			return err
		}
		s.accepted.Add(1)
		if c.ConnectionState().DidResume {
			s.resumed.Add(1)
		}
		go func() {
			s.handle(c)
			if s.limit != nil {
				<-s.limit
			}
		}()
	}
}

// Shutdown accepts nothing more and waits until the last carrier is closed.
func (s *streams) Shutdown(ctx context.Context) error {
	s.ln.Close()
	select {
	case <-s.carriers.none():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close cuts every connection off: its peer sees a truncated stream.
func (s *streams) Close() error {
	err := s.ln.Close()
	s.carriers.cut()
	return err
}

// networkOf splits an address as the flags have it.
func networkOf(addr string) (network, address string) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return "unix", path
	}
	return "tcp", addr
}

// carriers are the connections of a listener, counted until they are closed.
type carriers struct {
	net.Listener
	mu   sync.Mutex
	open map[*carrier]struct{}
	idle chan struct{} // to close when there are none
}

func (l *carriers) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &carrier{Conn: nc, of: l}
	if sc, ok := nc.(syscall.Conn); ok {
		if c.raw, err = sc.SyscallConn(); err != nil {
			nc.Close()
			return nil, err
		}
	}
	l.mu.Lock()
	l.open[c] = struct{}{}
	l.mu.Unlock()
	return c, nil
}

// none returns a channel that is closed when no carrier is open. It is called
// once, when the listener is closed.
func (l *carriers) none() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = make(chan struct{})
	if len(l.open) == 0 {
		close(l.idle)
	}
	return l.idle
}

func (l *carriers) closed(c *carrier) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[c]; !open {
		return
	}
	if delete(l.open, c); len(l.open) == 0 && l.idle != nil {
		close(l.idle)
	}
}

func (l *carriers) cut() {
	l.mu.Lock()
	var open []*carrier
	for c := range l.open {
		open = append(open, c)
	}
	l.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

// carrier is a connection whose Close is noted. It stays readable and writable by
// its descriptor.
type carrier struct {
	net.Conn
	of  *carriers
	raw syscall.RawConn
}

// Descriptor is asked for by the record layer.
func (c *carrier) Descriptor() syscall.RawConn { return c.raw }

func (c *carrier) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (c *carrier) Close() error {
	err := c.Conn.Close()
	c.of.closed(c)
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// ended logs a connection that is over.
func ended(logger *slog.Logger, c *aftls.Conn, since time.Time, err error, more ...any) {
	i, cs := c.Info(), c.ConnectionState()
	args := []any{
		"peer", c.RemoteAddr().String(), "version", i.Send.VersionName(), "suite", i.Send.SuiteName(), "resumed", i.Resumed,
		"send", i.Send.Provider.String(), "receive", i.Receive.Provider.String(), "name", cs.ServerName, "alpn", cs.NegotiatedProtocol, "duration", time.Since(since).Round(time.Millisecond).String(),
	}
	args = append(args, more...)
	if err != nil {
		logger.Warn("connection", append(args, "err", err.Error())...)
		return
	}
	logger.Info("connection", args...)
}
