package bench

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/examples/dot/dotserver"
	"github.com/aftls/aftls/kcm"
	"github.com/miekg/dns"
)

// Ways in which the workers of a server come to the messages of its
// connections.
const (
	byMux       = "kcm"                   // kcm.Server
	byConn      = "worker per connection" // which reads, works and answers
	byPool      = "reader, channel, pool" // a reader for each connection
	byLock      = "lock"                  // goroutines read a connection in turns
	byMuxThread = "kcm, threads"          // kcm.Mux, and a thread for each worker
	byEpollOne  = "epoll one, threads"    // threads in one epoll, a connection wakes one (EPOLLONESHOT)
	byEpollAll  = "epoll all, threads"    // threads with an epoll each, a connection wakes all that wait
	byMiekgDNS  = "miekg/dns"             // its own server
	byMuxDNS    = "aftls + kcm"           // examples/dot/dotserver on aftls.Listener
)

// What a message asks for, and what is measured with it.
const (
	fastWork = 20 * time.Microsecond // of CPU
	slowWork = 2 * time.Millisecond  // of waiting
	slowOne  = 100                   // in so many is slow
)

// A message of the rows: 4 bytes of length of all that follows, 8 that are the
// client's own, one that says what to do, anything, 4 of CRC-32 over what is
// between. The answer begins like it and has a fixed size.
const (
	kindAt    = 12
	bodyAt    = kindAt + 1
	sumLen    = 4
	answerLen = 64
	kindFast  = 1
	kindSlow  = 2
	kindSum   = 3 // check the sum
)

var lengthFramer, _ = kcm.Length{Size: 4, Add: 4}.Framer()

// messageConfig says what a server of messages is, in ServerConfig.Peer.
type messageConfig struct {
	design string
	tls    bool
	conns  int
}

func (c messageConfig) String() string {
	return strings.Join([]string{c.design, c.transport(), strconv.Itoa(c.conns)}, "|")
}

func (c messageConfig) transport() string {
	if c.tls {
		return "TLS"
	}
	return "TCP"
}

func parseMessageConfig(s string) (c messageConfig, err error) {
	f := strings.Split(s, "|")
	if len(f) != 3 {
		return c, fmt.Errorf("no server of messages %q", s)
	}
	c.design, c.tls = f[0], f[1] == "TLS"
	c.conns, err = strconv.Atoi(f[2])
	return c, err
}

// messageServer is the process of one.
type messageServer struct {
	*server
	cfg     messageConfig
	config  *tls.Config
	wakeups atomic.Int64
}

// workers is how many there are in every design that has a number of them.
const workers = 16

// threads is how many there are where each worker is a thread.
const threads = 8

func serveMessages(cfg ServerConfig, in io.Reader, out io.Writer) error {
	mc, err := parseMessageConfig(cfg.Peer)
	if err != nil {
		return err
	}
	inner, pair, err := listenOnLoopback(cfg)
	if err != nil {
		return err
	}
	s := &messageServer{server: newServer(), cfg: mc, config: &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13,
		SessionTicketsDisabled: true, // the first record that a client opens is an answer
	}}
	s.server.counts = func() map[string]int64 {
		var ru syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
			s.fail(err)
		}
		return map[string]int64{"wakeups": s.wakeups.Load(), "switches": int64(ru.Nvcsw)}
	}
	procs := runtime.GOMAXPROCS(0)
	if err := s.begin(inner); err != nil {
		inner.Close()
		return err
	}
	return s.talk(inner.Addr(), procs, in, out)
}

// begin serves in the background.
func (s *messageServer) begin(inner net.Listener) error {
	l := inner
	switch d := s.cfg.design; {
	case d == byEpollOne || d == byEpollAll || d == byMiekgDNS: // they make their records themselves
	case s.cfg.tls:
		l = aftls.NewListener(inner, s.config, aftls.Options{
			RequireSocket: true, HandshakeError: func(_ net.Addr, err error) { s.fail(err) },
		})
	}
	switch s.cfg.design {
	case byMux:
		k := &kcm.Server{Framer: func() kcm.Framer { return lengthFramer }, Workers: workers, Config: s.muxConfig(),
			Handler: func(answer []byte, m kcm.Message) ([]byte, error) { return s.work(answer, m.Data) }}
		s.countMux(k.Stats)
		go func() { s.fail(k.Serve(countListener{l, s})) }()
	case byMuxThread:
		return s.muxThreads(l)
	case byConn:
		s.eachConn(l, func(c net.Conn) {
			r := s.reader(c)
			go func() { s.fail(s.serial(r, c, nil)) }()
		})
	case byLock:
		go s.locked(l)
	case byPool:
		s.pool(l)
	case byEpollOne, byEpollAll:
		go func() { s.fail(s.epoll(inner)) }()
	case byMuxDNS:
		k := dotserver.New(dns.HandlerFunc(s.dns), workers)
		k.Config = s.muxConfig()
		go func() { s.fail(k.Serve(l)) }()
	case byMiekgDNS:
		m := &dns.Server{Listener: tls.NewListener(inner, s.config), Handler: dns.HandlerFunc(s.dns), MaxTCPQueries: -1}
		go func() { s.fail(m.ActivateAndServe()) }()
	default:
		return fmt.Errorf("no design %q", s.cfg.design)
	}
	return nil
}

func (s *messageServer) muxConfig() kcm.Config {
	return kcm.Config{Ended: func(_ *kcm.Conn, err error) {
		if !gone(err) {
			s.fail(err)
		}
	}}
}

// gone says that the client went away, which is how it ends.
func gone(err error) bool {
	return err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// countMux takes the wake-ups from the statistics of a Mux.
func (s *messageServer) countMux(stats func() kcm.Stats) {
	process := s.counts
	s.counts = func() map[string]int64 {
		n := process()
		n["wakeups"] = int64(stats().Wakeups)
		return n
	}
}

// countListener counts connections whose handshake is done.
type countListener struct {
	net.Listener
	s *messageServer
}

func (l countListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.s.count("handshakes")
	}
	return c, err
}

func (s *messageServer) eachConn(l net.Listener, serve func(net.Conn)) {
	go func() {
		for {
			c, err := countListener{l, s}.Accept()
			if err != nil {
				s.fail(err)
				return
			}
			serve(c)
		}
	}()
}

// work does what a message asks for, and appends the answer.
func (s *messageServer) work(answer, m []byte) ([]byte, error) {
	switch m[kindAt] {
	case kindFast:
		spin(fastWork)
	case kindSlow:
		time.Sleep(slowWork)
	case kindSum:
		body, sum := m[bodyAt:len(m)-sumLen], m[len(m)-sumLen:]
		if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(sum) {
			return nil, errors.New("a message is not what was sent")
		}
	default:
		return nil, fmt.Errorf("a message asks for %d", m[kindAt])
	}
	s.messages.Add(1)
	at := len(answer)
	answer = append(answer, m[:bodyAt]...)
	answer = append(answer, make([]byte, answerLen-bodyAt)...)
	binary.BigEndian.PutUint32(answer[at:], answerLen-4)
	return answer, nil
}

func spin(d time.Duration) {
	for t := time.Now(); time.Since(t) < d; {
	}
}

// muxThreads is kcm with threads for workers.
func (s *messageServer) muxThreads(l net.Listener) error {
	runtime.GOMAXPROCS(threads + 2)
	mux := kcm.New(s.muxConfig())
	s.countMux(mux.Stats)
	for range threads {
		e, err := mux.Endpoint()
		if err != nil {
			return err
		}
		go func() {
			runtime.LockOSThread()
			var answer []byte
			for {
				m, err := e.RecvMsg()
				if err == nil {
					answer, err = s.work(answer[:0], m.Data)
				}
				if err == nil {
					_ = e.SendMsg(m.Conn, answer) // Ended says why not
				} else {
					s.fail(err)
					return
				}
			}
		}()
	}
	s.eachConn(l, func(c net.Conn) {
		if _, err := mux.Attach(c, lengthFramer); err != nil {
			s.fail(err)
		}
	})
	return nil
}

// counted counts how often somebody who waited in Read was woken.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(1)
	return n, err
}

func (s *messageServer) reader(c net.Conn) *bufio.Reader {
	return bufio.NewReaderSize(counted{c, &s.wakeups}, 64<<10)
}

// next reads a message into b.
func next(r *bufio.Reader, b []byte) ([]byte, error) {
	head, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head)) + 4
	if cap(b) < n {
		b = make([]byte, n)
	}
	b = b[:n]
	_, err = io.ReadFull(r, b)
	return b, err
}

// serial reads, works and answers. turn, if there is one, is held while it reads.
func (s *messageServer) serial(r *bufio.Reader, c net.Conn, turn *sync.Mutex) error {
	var m, answer []byte
	for {
		if turn != nil {
			turn.Lock()
		}
		var err error
		m, err = next(r, m)
		if turn != nil {
			turn.Unlock()
		}
		if err != nil {
			if gone(err) {
				return nil
			}
			return err
		}
		if answer, err = s.work(answer[:0], m); err != nil {
			return err
		}
		if _, err := c.Write(answer); err != nil {
			return err
		}
	}
}

// locked has as many workers for each connection as the others have in all,
// divided.
func (s *messageServer) locked(l net.Listener) {
	for range s.cfg.conns {
		c, err := l.Accept()
		if err != nil {
			s.fail(err)
			return
		}
		r, turn := s.reader(c), new(sync.Mutex)
		for range max(workers/s.cfg.conns, 1) {
			go func() { s.fail(s.serial(r, c, turn)) }()
		}
		s.count("handshakes")
	}
}

// job is a message on its way through the channel of a pool.
type job struct {
	c net.Conn
	b []byte
}

// pool has readers, and workers behind a channel.
func (s *messageServer) pool(l net.Listener) {
	jobs := make(chan *job, 1024)
	free := sync.Pool{New: func() any { return new(job) }}
	for range workers {
		go func() {
			var answer []byte
			for j := range jobs {
				var err error
				if answer, err = s.work(answer[:0], j.b); err == nil {
					_, err = j.c.Write(answer)
				}
				if err != nil {
					s.fail(err)
				}
				free.Put(j)
			}
		}()
	}
	s.eachConn(l, func(c net.Conn) {
		r := s.reader(c)
		go func() {
			for {
				j := free.Get().(*job)
				var err error
				if j.b, err = next(r, j.b); err != nil {
					if !gone(err) {
						s.fail(err)
					}
					return
				}
				j.c = c
				jobs <- j
			}
		}()
	})
}

// slowName is the name whose queries are the slow ones.
const slowName = "slow.example."

// dns answers queries, for both servers of DNS.
func (s *messageServer) dns(w dns.ResponseWriter, q *dns.Msg) {
	name := q.Question[0].Name
	if name == slowName {
		time.Sleep(slowWork)
	} else {
		spin(fastWork)
	}
	m := new(dns.Msg).SetReply(q)
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(127, 0, 0, 1)}}
	if err := w.WriteMsg(m); err != nil {
		s.fail(err)
	}
	s.messages.Add(1)
}
