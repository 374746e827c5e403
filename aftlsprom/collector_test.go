package aftlsprom_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlsprom"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if left := aftlstest.LeftBehind(nil); left != "" && code == 0 {
		fmt.Fprintln(os.Stderr, left)
		code = 1
	}
	os.Exit(code)
}

const patience = 30 * time.Second

// site is a listener whose connections are counted.
type site struct {
	t      *testing.T
	c      *aftlsprom.Collector
	ln     *aftls.Listener
	client *tls.Config
	ended  chan struct{} // one for each connection
}

// serve echoes on every connection until its client ends it.
func serve(t *testing.T, opt aftls.Options) *site {
	t.Helper()
	ca := aftlstest.NewCA(t)
	s := &site{t: t, c: aftlsprom.New(), client: &tls.Config{RootCAs: ca.Pool, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(9)}, ended: make(chan struct{}, 100)}
	opt.HandshakeError = func(peer net.Addr, err error) {
		s.c.HandshakeError(peer, err)
		s.ended <- struct{}{}
	}
	var err error
	if s.ln, err = aftls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, "localhost")}}, opt); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := s.ln.AcceptConn()
			if err != nil {
				return
			}
			s.c.Begin(conn)
			wg.Go(func() {
				if _, err := io.Copy(conn, conn); err == nil {
					conn.CloseWrite()
				}
				conn.Close()
				s.c.End(conn)
				s.c.End(conn) // once more is nothing
				s.ended <- struct{}{}
			})
		}
	})
	t.Cleanup(func() { s.ln.Close(); wg.Wait() })
	return s
}

func (s *site) dial(config *tls.Config) *tls.Conn {
	s.t.Helper()
	c, err := tls.Dial("tcp", s.ln.Addr().String(), config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.NetConn().Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// echo sends n bytes and takes them back.
func (s *site) echo(c net.Conn, n int) {
	s.t.Helper()
	sent := make(chan error, 1)
	go func() { _, err := c.Write(make([]byte, n)); sent <- err }()
	if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
		s.t.Fatal(err)
	}
	if err := <-sent; err != nil {
		s.t.Fatal(err)
	}
}

// over waits for the end of so many connections or handshakes.
func (s *site) over(n int) {
	s.t.Helper()
	for range n {
		select {
		case <-s.ended:
		case <-time.After(patience):
			s.t.Fatal("a connection does not end")
		}
	}
}

// counts are the metrics by name and labels.
func counts(t testing.TB, c *aftlsprom.Collector) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return got
}

func (s *site) want(want map[string]float64) {
	s.t.Helper()
	got := counts(s.t, s.c)
	for name, n := range want {
		if g, ok := got[name]; !ok || g != n {
			s.t.Errorf("%s is %v, not %v", name, g, n)
		}
	}
}

func TestConnections(t *testing.T) {
	s := serve(t, aftls.Options{})
	a := s.dial(s.client)
	s.echo(a, 100_000)
	b := s.dial(s.client) // resumes
	s.echo(b, 1)
	during := counts(t, s.c)
	s.want(map[string]float64{
		"aftls_connections": 2, "aftls_connection_directions send soft": 2, "aftls_connection_directions receive soft": 2,
		"aftls_handshakes_total full": 1, "aftls_handshakes_total resumed": 1,
		"aftls_bytes_total send soft": 100_001, "aftls_bytes_total receive soft": 100_001,
		"aftls_rekeys_total send soft": 0,
	})
	for _, c := range []*tls.Conn{a, b} {
		c.CloseWrite()
		io.Copy(io.Discard, c)
	}
	s.over(2)
	s.want(map[string]float64{
		"aftls_connections": 0, "aftls_connection_directions send soft": 0, "aftls_handshakes_total full": 1,
		"aftls_bytes_total send soft": 100_001, "aftls_bytes_total receive soft": 100_001,
		"aftls_connection_errors_total peer": 0, "aftls_connection_errors_total network": 0, "aftls_connection_errors_total local": 0,
	})
	for name, n := range during {
		if after := counts(t, s.c)[name]; strings.Contains(name, "_total") && after < n {
			t.Errorf("%s went back from %v to %v", name, n, after)
		}
	}
}

// Who is to blame for the end of a connection.
func TestErrors(t *testing.T) {
	s := serve(t, aftls.Options{MaxRecords: 3})
	dial := func() *aftls.Conn {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		nc, err := (&aftls.Dialer{Config: s.client}).DialContext(ctx, "tcp", s.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c := nc.(*aftls.Conn)
		c.SetDeadline(time.Now().Add(patience))
		s.echo(c, 1)
		return c
	}
	cut := dial()
	cut.NetConn().Close()
	s.over(1)
	cut.Close()
	s.want(map[string]float64{"aftls_connection_errors_total network": 1})
	alert := dial()
	if err := alert.WriteRecord(record.AlertRecord, []byte{record.LevelFatal, byte(record.InternalError)}); err != nil {
		t.Fatal(err)
	}
	s.over(1)
	alert.Close()
	s.want(map[string]float64{"aftls_connection_errors_total peer": 1})
	garbage := dial()
	if _, err := garbage.NetConn().Write([]byte("\x17\x03\x03\x00\x20" + strings.Repeat("x", 32))); err != nil {
		t.Fatal(err)
	}
	s.over(1)
	garbage.Close()
	s.want(map[string]float64{"aftls_connection_errors_total peer": 2, "aftls_connection_errors_total network": 1, "aftls_connection_errors_total local": 0})
	if n := counts(t, s.c)["aftls_rekeys_total send soft"]; n == 0 {
		t.Error("no rekey is counted")
	}
}

// Why handshakes fail.
func TestHandshakeFailures(t *testing.T) {
	s := serve(t, aftls.Options{RequireSocket: true})
	addr := s.ln.Addr().String()
	fail := func(config *tls.Config) {
		t.Helper()
		c, err := tls.Dial("tcp", addr, config)
		if err == nil { // the server thinks about it later
			c.Close()
		}
		s.over(1)
	}
	raw := func(text string) {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, text)
		c.Close()
		s.over(1)
	}
	fail(&tls.Config{ServerName: "localhost"})                                                                                                                                          // it trusts nobody
	fail(&tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10, InsecureSkipVerify: true})                                                                             // too old
	fail(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}, InsecureSkipVerify: true}) // no socket
	raw("GET / HTTP/1.0\r\n\r\n")
	raw("")
	raw("\x16\x03\x01\x02")
	s.want(map[string]float64{
		"aftls_handshake_failures_total alert": 1, "aftls_handshake_failures_total refused": 1, "aftls_handshake_failures_total passthrough": 1,
		"aftls_handshake_failures_total not_tls": 1, "aftls_handshake_failures_total gone": 2, "aftls_handshakes_total full": 0,
	})
	// Those that take long, or much.
	for reason, err := range map[string]error{
		"timeout": &net.OpError{Op: "handshake", Err: &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}},
		"evicted": aftls.ErrEvicted,
		"accept":  &net.OpError{Op: "accept", Err: errors.New("too many open files")},
	} {
		s.c.HandshakeError(nil, err)
		s.want(map[string]float64{"aftls_handshake_failures_total " + reason: 1})
	}
}

func TestNamesAreThoseOfTheField(t *testing.T) {
	c := aftlsprom.New()
	if problems, err := testutil.GatherAndLint(func() prometheus.Gatherer {
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(c)
		return reg
	}()); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// fixed is a connection that has done something, and does no more.
type fixed struct{ n uint64 }

func (f *fixed) Info() aftls.Info {
	return aftls.Info{Send: aftls.DirectionInfo{Provider: aftls.Soft, Records: f.n, Bytes: f.n}, Receive: aftls.DirectionInfo{Provider: aftls.Passthrough}}
}

// While connections come and go no counter goes back, and nothing counts twice.
func TestCountersOnlyGrow(t *testing.T) {
	c := aftlsprom.New()
	const ends, each, workers = 2000, 3, 4
	var wg sync.WaitGroup
	var running atomic.Int32
	running.Store(workers)
	for range workers {
		wg.Go(func() {
			defer running.Add(-1)
			for range ends {
				f := &fixed{each}
				c.Begin(f)
				c.End(f)
			}
		})
	}
	var last float64
	for running.Load() > 0 {
		n := counts(t, c)["aftls_bytes_total send soft"]
		if n < last || n > ends*each*workers {
			t.Fatalf("%v behind %v", n, last)
		}
		last = n
	}
	wg.Wait()
	got := counts(t, c)
	if got["aftls_bytes_total send soft"] != ends*each*workers || got["aftls_connections"] != 0 || got["aftls_handshakes_total full"] != ends*workers || got["aftls_records_total receive passthrough"] != 0 {
		t.Error(got)
	}
}

// crowd is a collector with thousands of open sockets.
func crowd() *aftlsprom.Collector {
	c := aftlsprom.New()
	a, _ := net.Pipe()
	for range 10_000 {
		c.Begin(aftls.NewSocket(a, aftls.Options{}))
	}
	return c
}

// What a connection pays is at its ends.
func BenchmarkBeginEnd(b *testing.B) {
	c := crowd()
	a, _ := net.Pipe()
	s := aftls.NewSocket(a, aftls.Options{})
	b.ReportAllocs()
	for b.Loop() {
		c.Begin(s)
		c.End(s)
	}
}

func BenchmarkCollect(b *testing.B) {
	c := crowd()
	ch := make(chan prometheus.Metric, 100)
	b.ReportAllocs()
	for b.Loop() {
		c.Collect(ch)
		for len(ch) > 0 {
			<-ch
		}
	}
}
