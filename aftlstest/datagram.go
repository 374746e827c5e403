package aftlstest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/aftls/aftls"
)

// TestDatagram tests that the provider keeps the contract of a DatagramConn: one
// subtest for each promise, on an association with a carrier of its own and on
// one of a listener, for each AEAD, with and without Connection IDs. What needs
// the system runs over loopback UDP, and what needs time in a bubble of
// testing/synctest. Every subtest over UDP also fails when it leaves a goroutine
// or a borrowed buffer behind.
func TestDatagram(t *testing.T, provider aftls.Provider) {
	ca := NewCA(t)
	base := datagramSubject{opt: aftls.Options{Provider: provider}, ca: ca, leaf: ca.Leaf(t, "test.example")}
	for _, point := range datagramContract {
		t.Run(point.name, func(t *testing.T) {
			for _, p := range point.promises {
				t.Run(p.name, func(t *testing.T) {
					for _, x := range base.subjects(p.once) {
						if point.name == datagramListeners && !x.shared {
							continue
						}
						t.Run(x.String(), func(t *testing.T) {
							if p.bubble {
								synctest.Test(t, func(t *testing.T) {
									x.ca = NewCA(t) // valid in the time of the bubble
									x.leaf = x.ca.Leaf(t, "test.example")
									p.test(t, x)
								})
								return
							}
							checkLeaks(t)
							p.test(t, x)
						})
					}
				})
			}
		})
	}
}

var datagramContract = []struct {
	name     string
	promises []datagramPromise
}{
	{"Data", datagramData},
	{"BadInput", datagramBadInput},
	{"Weather", datagramWeather},
	{"Deadlines", datagramDeadlines},
	{"Close", datagramClosing},
	{"Move", datagramMoves},
	{"Listener", datagramListening},
}

// datagramListeners are the promises that are about a listener whichever end
// is under test.
const datagramListeners = "Listener"

type datagramPromise struct {
	name   string
	once   bool // with one suite is enough
	bubble bool // in memory, in a bubble of synctest
	test   func(t *testing.T, x datagramSubject)
}

// datagramSubject is what one run of a test is about.
type datagramSubject struct {
	opt    aftls.Options
	ca     *CA
	leaf   tls.Certificate
	suite  uint16
	cidLen int
	shared bool // the end under test is that of the listener
}

func (x datagramSubject) String() string {
	end, cid := "own", "no-CID"
	if x.shared {
		end = "shared"
	}
	if x.cidLen > 0 {
		cid = "CID"
	}
	cipher := map[uint16]string{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       "AES-128-GCM",
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       "AES-256-GCM",
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ChaCha20",
	}[x.suite]
	return fmt.Sprintf("%s-%s-%s", end, cipher, cid)
}

func (x datagramSubject) subjects(once bool) (out []datagramSubject) {
	suites := []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}
	if once {
		suites = suites[:1]
	}
	for _, x.shared = range []bool{false, true} {
		for _, x.suite = range suites {
			for _, x.cidLen = range []int{0, 8} {
				out = append(out, x)
			}
		}
	}
	return out
}

func (x datagramSubject) configs() (client, server *aftls.DatagramConfig) {
	return &aftls.DatagramConfig{TLS: &tls.Config{RootCAs: x.ca.Pool, ServerName: "test.example", CipherSuites: []uint16{x.suite}}, CIDLen: x.cidLen},
		&aftls.DatagramConfig{TLS: &tls.Config{Certificates: []tls.Certificate{x.leaf}, CipherSuites: []uint16{x.suite}}, CIDLen: x.cidLen}
}

// The addresses of the ends in memory.
const (
	serverAddr = "10.0.0.1:1"
	clientAddr = "10.0.0.2:2"
	otherAddr  = "10.0.0.3:3"
)

// datagramPair is an association: the end under test and the other one.
type datagramPair struct {
	end, peer      *aftls.DatagramConn
	client, server *aftls.DatagramConn // the same
	l              *aftls.DatagramListener

	net            *Lossy // nil over UDP
	clientConn     *LossyConn
	endAt, peerAt  string
	sent, peerSent *sentDatagrams // by the end under test, and by the other
}

// sentDatagrams are those that an end has sent, in memory.
type sentDatagrams struct {
	mu   sync.Mutex
	list [][]byte
}

func (s *sentDatagrams) add(d []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, append([]byte(nil), d...))
}

func (s *sentDatagrams) all() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]byte(nil), s.list...)
}

func (s *sentDatagrams) last() []byte {
	all := s.all()
	return all[len(all)-1]
}

func (x datagramSubject) ends(t testing.TB, p *datagramPair) *datagramPair {
	t.Cleanup(func() {
		p.client.Close()
		p.server.Close()
		p.l.Close()
	})
	p.end, p.peer = p.client, p.server
	if x.shared {
		p.end, p.peer = p.server, p.client
	}
	return p
}

// udpPair makes an association over loopback.
func (x datagramSubject) udpPair(t testing.TB) *datagramPair {
	t.Helper()
	ccfg, scfg := x.configs()
	p := new(datagramPair)
	var err error
	if p.l, err = aftls.ListenDatagram("udp4", "127.0.0.1:0", scfg, x.opt); err != nil {
		t.Fatal(err)
	}
	d := &aftls.DatagramDialer{Config: ccfg, Options: x.opt}
	c, err := d.Dial("udp4", p.l.Addr().String())
	if err != nil {
		p.l.Close()
		t.Fatal(err)
	}
	p.client = c.(*aftls.DatagramConn)
	if p.server, err = p.l.AcceptConn(); err != nil {
		t.Fatal(err)
	}
	return x.ends(t, p)
}

// memoryPair makes an association in memory, with a handshake in the given
// weather; then the weather is calm.
func (x datagramSubject) memoryPair(t testing.TB, seed uint64, w Weather) *datagramPair {
	t.Helper()
	ccfg, scfg := x.configs()
	p := &datagramPair{net: NewLossy(seed, w), sent: new(sentDatagrams), peerSent: new(sentDatagrams), endAt: clientAddr, peerAt: serverAddr}
	fromClient, fromServer := p.sent, p.peerSent
	if x.shared {
		fromClient, fromServer = fromServer, fromClient
		p.endAt, p.peerAt = serverAddr, clientAddr
	}
	carrier := p.net.Listen(serverAddr)
	carrier.Tap = fromServer.add
	p.clientConn = p.net.Dial(clientAddr, serverAddr)
	p.clientConn.Tap = fromClient.add
	var err error
	if p.l, err = aftls.NewDatagramListener(carrier, scfg, x.opt); err != nil {
		t.Fatal(err)
	}
	if p.client, err = aftls.DatagramClient(context.Background(), p.clientConn, ccfg, x.opt); err != nil {
		p.l.Close()
		t.Fatal(err)
	}
	if p.server, err = p.l.AcceptConn(); err != nil {
		t.Fatal(err)
	}
	p.net.SetWeather(Weather{})
	return x.ends(t, p)
}

// inject delivers a datagram to the end under test as if its peer had sent it.
func (p *datagramPair) inject(d []byte) { p.net.Inject(p.peerAt, p.endAt, d) }

// say sends a message and reads it at the other end.
func say(t testing.TB, from, to net.Conn, message string) {
	t.Helper()
	if _, err := from.Write([]byte(message)); err != nil {
		t.Fatal(err)
	}
	hearOne(t, to, message)
}

func hearOne(t testing.TB, to net.Conn, message string) {
	t.Helper()
	b := make([]byte, 20000)
	n, err := to.Read(b)
	if err != nil || string(b[:n]) != message {
		t.Fatalf("read %.40q, %v; want %.40q", b[:n], err, message)
	}
}
