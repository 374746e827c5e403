package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"

	"github.com/aftls/aftls"
	"github.com/pion/dtls/v3"
)

// The row about DTLS: datagrams from the client to the server, over loopback, as
// fast as both can: the server tells what has come after every 1,024, and the
// client is never more than 3,072 ahead. Loopback hands what UDP_SEGMENT sends as one over as
// one: a network card and its wire gain less by it, so the row also measures
// without.

const (
	rowDatagrams   = "datagrams"
	datagramSize   = 1200
	datagramBatch  = 64
	datagramBuffer = 8 << 20 // of the sockets, as far as the system allows
	datagramWindow = 3072    // that the server has not told of yet, at most
	datagramTold   = 1024    // the server tells after so many
	peerPion       = "pion/dtls"
	datagramSuite  = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
)

// datagramDesign is a way to send and to receive.
type datagramDesign struct {
	name       string
	pion       bool
	batchWrite bool
	batchRead  bool
	noSegments bool
}

var datagramDesigns = []datagramDesign{
	{name: peerPion, pion: true},
	{name: "batches", batchWrite: true, batchRead: true},
	{name: "batches, no UDP_SEGMENT", batchWrite: true, batchRead: true, noSegments: true},
	{name: "single"},
	{name: "single read of batches", batchWrite: true},
}

func datagramRows() []row { return []row{{rowDatagrams, (*runner).datagrams}} }

func findDatagramDesign(name string) (datagramDesign, error) {
	for _, d := range datagramDesigns {
		if d.name == name {
			return d, nil
		}
	}
	return datagramDesign{}, fmt.Errorf("no design %q of the row %s", name, rowDatagrams)
}

func (r *runner) datagrams() error {
	if err := canRefuseSegments(); err != nil {
		return err
	}
	count, reps := 100_000, 15
	if r.cfg.Quick {
		count, reps = 2000, 1
	}
	var servers []*process
	defer func() { endAll(servers) }()
	var conns []net.Conn
	var names []string
	for _, d := range datagramDesigns {
		s, err := r.start(rowDatagrams, peer{name: d.name})
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		servers = append(servers, s)
		c, err := r.datagramClient(d, s.addr)
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		defer c.Close()
		conns, names = append(conns, c), append(names, d.name)
	}
	r.report.Notes = append(r.report.Notes, "datagrams: DTLS 1.2, "+tls.CipherSuiteName(datagramSuite))
	procs := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(procs)
	p := pace{name: rowDatagrams, reps: r.reps(reps), warm: true, servers: servers, peers: names}
	figures, foreign, err := r.interleave(p, func(i int) ([]float64, error) {
		return measureDatagrams(datagramDesigns[i], conns[i], servers[i], count)
	})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name, design string
		figure       int
		most         float64
	}{
		{"WriteBatch", "batches", 0, 1. / 14}, {"ReadBatch", "batches", 1, 1. / 14},
		{"WriteBatch, no UDP_SEGMENT", "batches, no UDP_SEGMENT", 0, 0}, {"ReadBatch, no UDP_GRO", "batches, no UDP_SEGMENT", 1, 0},
		{"Write", "single", 0, 1. / 2}, {"Read", "single", 1, 0}, {"Read of batches", "single read of batches", 1, 1. / 6},
	} {
		var goal *Goal
		if f.most > 0 {
			goal = &Goal{Of: ofRatio, Over: peerPion, Max: f.most}
		}
		var ours []float64
		for i, d := range datagramDesigns {
			if d.name == f.design {
				ours = figures[f.figure][i]
			}
		}
		r.addOf([]string{"aftls", peerPion}, "datagrams "+f.name, "CPU s/GB", series{ours, figures[f.figure][0]}, goal, foreign)
	}
	return nil
}

// measureDatagrams sends, and returns what a gigabyte cost the sender for what
// was sent, and the receiver for what came.
func measureDatagrams(d datagramDesign, c net.Conn, s *process, count int) ([]float64, error) {
	batch := make([][]byte, datagramBatch)
	for i := range batch {
		batch[i] = make([]byte, datagramSize)
	}
	before, err := s.report()
	if err != nil {
		return nil, err
	}
	user, sys, err := cpuTime()
	if err != nil {
		return nil, err
	}
	sent, told := 0, 0
	for sent < count {
		for sent-told >= datagramWindow {
			c.SetReadDeadline(time.Now().Add(time.Second))
			var b [16]byte
			if _, err := c.Read(b[:]); err != nil {
				var ne net.Error
				if !errors.As(err, &ne) || !ne.Timeout() {
					return nil, err
				}
				told = sent - datagramTold // some were lost
			}
			told += datagramTold
		}
		if w, ok := c.(*aftls.DatagramConn); ok && d.batchWrite {
			n, err := w.WriteBatch(batch)
			if err != nil {
				return nil, err
			}
			sent += n
			continue
		}
		if _, err := c.Write(batch[0]); err != nil {
			return nil, err
		}
		sent++
	}
	user2, sys2, err := cpuTime()
	if err != nil {
		return nil, err
	}
	var after usage
	for last, still := int64(-1), 0; still < 20; { // what is in the socket is still to be counted
		if after, err = s.report(); err != nil {
			return nil, err
		}
		if after.messages-before.messages >= int64(sent) {
			break
		}
		if still++; after.messages != last {
			last, still = after.messages, 0
		}
		time.Sleep(10 * time.Millisecond)
	}
	used := after.minus(before)
	if used.messages*10 < int64(count) {
		return nil, fmt.Errorf("of %d datagrams %d came", count, used.messages)
	}
	const gb = 1e9 / datagramSize
	sending := (user2 + sys2 - user - sys).Seconds() / float64(sent) * gb
	return []float64{sending, used.cpu.Seconds() / float64(used.messages) * gb}, nil
}

func (r *runner) datagramClient(d datagramDesign, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
	defer cancel()
	var dialer net.Dialer
	if d.noSegments {
		dialer.Control = refuseSegments
	}
	carrier, err := dialer.DialContext(ctx, "udp4", addr)
	if err != nil {
		return nil, err
	}
	growBuffers(carrier.(*net.UDPConn))
	if !d.pion {
		return aftls.DatagramClient(ctx, carrier, &aftls.DatagramConfig{TLS: &tls.Config{RootCAs: r.cert.pool, ServerName: serverName, CipherSuites: []uint16{datagramSuite}}}, aftls.Options{})
	}
	// pion wants to name the peer with every datagram, which a connected socket
	// does not allow: as its own Dial it gets one that is not.
	carrier.Close()
	to, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		return nil, err
	}
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	growBuffers(pc)
	c, err := dtls.ClientWithOptions(pc, to, dtls.WithRootCAs(r.cert.pool), dtls.WithServerName(serverName), dtls.WithCipherSuites(dtls.CipherSuiteID(datagramSuite)))
	if err == nil {
		err = c.HandshakeContext(ctx)
	}
	if err != nil {
		pc.Close()
		return nil, err
	}
	return c, nil
}

// serveDatagrams is a server's process of the row.
func serveDatagrams(cfg ServerConfig, in io.Reader, out io.Writer) error {
	d, err := findDatagramDesign(cfg.Peer)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
	if err != nil {
		return err
	}
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	growBuffers(pc)
	s := newServer()
	addr := pc.LocalAddr()
	if d.pion {
		go func() { s.fail(s.pionDatagrams(pc, pair)) }()
	} else {
		l, err := aftls.NewDatagramListener(pc, &aftls.DatagramConfig{TLS: &tls.Config{Certificates: []tls.Certificate{pair}}}, aftls.Options{})
		if err != nil {
			return err
		}
		go func() { s.fail(s.ourDatagrams(l, d)) }()
	}
	return s.talk(addr, runtime.GOMAXPROCS(0), in, out)
}

// pionDatagrams reads as pion/dtls does with its Listen, which has a socket for
// many peers.
func (s *server) pionDatagrams(pc *net.UDPConn, pair tls.Certificate) error {
	b := make([]byte, 1<<16)
	first, err := peek(pc, b)
	if err != nil {
		return err
	}
	c, err := dtls.ServerWithOptions(first, first.from, dtls.WithCertificates(pair))
	if err != nil {
		return err
	}
	if err := c.HandshakeContext(context.Background()); err != nil {
		return err
	}
	for {
		n, err := c.Read(b)
		if err != nil {
			return ended(err)
		}
		if err := s.cameAndTell(c, n, 1); err != nil {
			return err
		}
	}
}

// cameAndTell counts n messages, and tells the client after every so many.
func (s *server) cameAndTell(c net.Conn, bytes, n int) error {
	s.bytes.Add(int64(bytes))
	all := s.messages.Add(int64(n))
	for k := (all - int64(n)) / datagramTold; k < all/datagramTold; k++ {
		if _, err := c.Write([]byte("more")); err != nil {
			return err
		}
	}
	return nil
}

// peeked is a socket whose first datagram was read already, to learn whose it is.
type peeked struct {
	*net.UDPConn
	first []byte
	from  net.Addr
}

func peek(pc *net.UDPConn, b []byte) (*peeked, error) {
	n, from, err := pc.ReadFrom(b)
	return &peeked{UDPConn: pc, first: append([]byte(nil), b[:n]...), from: from}, err
}

func (p *peeked) ReadFrom(b []byte) (int, net.Addr, error) {
	if p.first != nil {
		n := copy(b, p.first)
		p.first = nil
		return n, p.from, nil
	}
	return p.UDPConn.ReadFrom(b)
}

func (s *server) ourDatagrams(l *aftls.DatagramListener, d datagramDesign) error {
	c, err := l.AcceptConn()
	if err != nil {
		return err
	}
	bufs, sizes := make([][]byte, datagramBatch), make([]int, datagramBatch)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	for {
		if !d.batchRead {
			n, err := c.Read(bufs[0])
			if err != nil {
				return ended(err)
			}
			if err := s.cameAndTell(c, n, 1); err != nil {
				return err
			}
			continue
		}
		n, err := c.ReadBatch(bufs, sizes)
		if err != nil {
			return ended(err)
		}
		bytes := 0
		for _, size := range sizes[:n] {
			bytes += size
		}
		if err := s.cameAndTell(c, bytes, n); err != nil {
			return err
		}
	}
}

// ended is nil for the end that the client announced.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
