package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Sizes of what the servers of all peers read and write at once, in bytes.
const (
	sendSize    = 256 << 10
	receiveSize = 64 << 10
	echoSize    = 4 << 10
	idleSize    = 512
)

// ServerConfig says what a server's process does.
type ServerConfig struct {
	Peer string // name of the implementation
	Row  string // name out of Rows
	Cert string // files, PEM
	Key  string
	Dir  string // what the file server serves
}

// listenOnLoopback is a listener on a free port, and the certificate for it.
func listenOnLoopback(cfg ServerConfig) (net.Listener, tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
	if err != nil {
		return nil, pair, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	return ln, pair, err
}

// Serve is the whole of a server's process: it listens on a free port of
// 127.0.0.1, serves one row, and answers the commands of in on out until in
// ends. Then nothing is left to be closed but the process.
func Serve(cfg ServerConfig, in io.Reader, out io.Writer) error {
	if strings.HasPrefix(cfg.Row, rowMessages) {
		return serveMessages(cfg, in, out)
	}
	if cfg.Row == rowDatagrams {
		return serveDatagrams(cfg, in, out)
	}
	p, err := findPeer(cfg.Peer)
	if err != nil {
		return err
	}
	inner, pair, err := listenOnLoopback(cfg)
	if err != nil {
		return err
	}
	s := newServer()
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
	if cfg.Row == rowGRPC {
		go func() { s.fail(serveGRPC(p.name, inner, config)) }()
		return s.talk(inner.Addr(), runtime.GOMAXPROCS(0), in, out)
	}
	if cfg.Row == rowH2 {
		config.NextProtos = []string{"h2"}
	}
	ln := p.listen(inner, config, s.fail)
	if err := s.start(cfg, ln); err != nil {
		ln.Close()
		return err
	}
	return s.talk(inner.Addr(), runtime.GOMAXPROCS(0), in, out)
}

// talk says that the server listens, and answers commands.
func (s *server) talk(addr net.Addr, procs int, in io.Reader, out io.Writer) error {
	defer s.endProfile()
	hello := answer{"addr": addr.String(), "procs": strconv.Itoa(procs)}
	if _, err := fmt.Fprintln(out, hello.line("addr", "procs")); err != nil {
		return err
	}
	commands := bufio.NewScanner(in)
	for commands.Scan() {
		reply, err := s.command(commands.Text())
		if err != nil {
			reply = errorLine(err)
		}
		if _, err := fmt.Fprintln(out, reply); err != nil {
			return err
		}
	}
	return commands.Err()
}

// server counts what it does.
type server struct {
	bytes, messages atomic.Int64

	mu     sync.Mutex
	change *sync.Cond
	conns  map[string]int64 // connections that came to: handshakes, reading, closed
	failed error            // of the first connection that failed

	profile *os.File

	counts func() map[string]int64 // more of a report
}

func newServer() *server {
	s := &server{conns: map[string]int64{"handshakes": 0, "reading": 0, "closed": 0}}
	s.change = sync.NewCond(&s.mu)
	return s
}

func (s *server) count(what string) {
	s.mu.Lock()
	s.conns[what]++
	s.mu.Unlock()
	s.change.Broadcast()
}

func (s *server) fail(err error) {
	s.mu.Lock()
	if s.failed == nil {
		s.failed = err
	}
	s.mu.Unlock()
	s.change.Broadcast()
}

// start serves the row in the background.
func (s *server) start(cfg ServerConfig, ln net.Listener) error {
	var serve func(net.Conn) error
	switch cfg.Row {
	case "files", rowFirstByte:
		srv := &http.Server{
			Handler:      http.FileServer(http.Dir(cfg.Dir)),
			ErrorLog:     log.New(io.Discard, "", 0),
			TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 for all
			// As in any server that is meant to be reached, and in aftls serve. net/http
			// sets them for the handshakes of crypto/tls too; a Listener has its own.
			ReadHeaderTimeout: 20 * time.Second,
			IdleTimeout:       2 * time.Minute,
		}
		go func() { s.fail(srv.Serve(ln)) }()
		return nil
	case rowH2:
		go func() { s.fail(serveH2(ln)) }()
		return nil
	case rowProxy:
		to, err := os.ReadFile(filepath.Join(cfg.Dir, backendFile))
		if err != nil {
			return err
		}
		serve = relay(string(to))
	case "send":
		serve = s.send
	case "receive":
		serve = s.receive
	case "echo":
		serve = s.echo
	case "idle":
		go s.idle(ln)
		return nil
	case "handshakes":
		serve = s.untilEOF
	default:
		return fmt.Errorf("no row %q", cfg.Row)
	}
	go s.accept(ln, serve)
	return nil
}

func (s *server) accept(ln net.Listener, serve func(net.Conn) error) {
	for {
		c, err := ln.Accept()
		if err != nil {
			s.fail(err)
			return
		}
		go func() {
			err := s.conn(c, serve)
			if err = errors.Join(err, c.Close()); err != nil {
				s.fail(err)
			}
			s.count("closed")
		}()
	}
}

func (s *server) conn(c net.Conn, serve func(net.Conn) error) error {
	if h, ok := c.(interface {
		HandshakeContext(context.Context) error
	}); ok { // a peer whose Accept does not wait for it
		if err := h.HandshakeContext(context.Background()); err != nil {
			return err
		}
	}
	s.count("handshakes")
	return serve(c)
}

// send writes until the client leaves. That is no error, as nothing but
// leaving ends the row; a connection lost before that fails in the client.
func (s *server) send(c net.Conn) error {
	b := make([]byte, sendSize)
	for {
		n, err := c.Write(b)
		s.bytes.Add(int64(n))
		if err != nil {
			return nil
		}
	}
}

func (s *server) receive(c net.Conn) error {
	b := make([]byte, receiveSize)
	for {
		n, err := c.Read(b)
		s.bytes.Add(int64(n))
		if err != nil {
			return noEOF(err)
		}
	}
}

func (s *server) echo(c net.Conn) error {
	b := make([]byte, echoSize)
	for {
		n, err := c.Read(b)
		if n > 0 {
			if _, err := c.Write(b[:n]); err != nil {
				return err
			}
			s.messages.Add(1)
		}
		if err != nil {
			return noEOF(err)
		}
	}
}

// idle has each connection block in one Read, in a goroutine that does nothing
// else: what is measured is the connection, not the depth of a server's calls.
// The client just goes away.
func (s *server) idle(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			s.fail(err)
			return
		}
		go func() {
			b := make([]byte, idleSize)
			if h, ok := c.(interface{ Handshake() error }); ok { // Accept did not wait for it
				if err := h.Handshake(); err != nil {
					s.fail(err)
				}
			}
			s.count("reading")
			c.Read(b)
		}()
	}
}

func (s *server) untilEOF(c net.Conn) error {
	b := make([]byte, idleSize)
	for {
		if _, err := c.Read(b); err != nil {
			return noEOF(err)
		}
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// command answers one line of the client.
func (s *server) command(line string) (string, error) {
	s.mu.Lock()
	failed := s.failed
	s.mu.Unlock()
	if failed != nil {
		return "", failed
	}
	name, arg, _ := strings.Cut(line, " ")
	switch name {
	case "report":
		return s.report()
	case "wait":
		what, n, _ := strings.Cut(arg, " ")
		return "ok", s.wait(what, n)
	case "gc":
		debug.FreeOSMemory() // begins with a collection
		return "ok", nil
	case "profile":
		if err := s.endProfile(); err != nil || arg == "" {
			return "ok", err
		}
		f, err := os.Create(arg)
		if err != nil {
			return "", err
		}
		s.profile = f
		return "ok", pprof.StartCPUProfile(f)
	case "heap":
		f, err := os.Create(arg)
		if err != nil {
			return "", err
		}
		return "ok", errors.Join(pprof.WriteHeapProfile(f), f.Close())
	}
	return "", fmt.Errorf("no command %q", name)
}

func (s *server) endProfile() error {
	if s.profile == nil {
		return nil
	}
	pprof.StopCPUProfile()
	err := s.profile.Close()
	s.profile = nil
	return err
}

func (s *server) report() (string, error) {
	user, sys, err := cpuTime()
	if err != nil {
		return "", err
	}
	a := answer{
		"user": strconv.FormatInt(int64(user), 10), "sys": strconv.FormatInt(int64(sys), 10),
		"bytes": strconv.FormatInt(s.bytes.Load(), 10), "messages": strconv.FormatInt(s.messages.Load(), 10),
	}
	order := []string{"user", "sys", "bytes", "messages", "handshakes", "reading", "closed"}
	if s.counts != nil {
		for k, v := range s.counts() {
			a[k] = strconv.FormatInt(v, 10)
			order = append(order, k)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.conns {
		a[k] = strconv.FormatInt(v, 10)
	}
	return a.line(order...), nil
}

// wait returns when a counter has come to n, or a connection failed.
func (s *server) wait(what, n string) error {
	to, err := strconv.ParseInt(n, 10, 64)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[what]; !ok {
		return fmt.Errorf("no counter %q", what)
	}
	for s.conns[what] < to && s.failed == nil {
		s.change.Wait()
	}
	return s.failed
}
