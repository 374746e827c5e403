// Package hostile is a suite of clients that keep to no rules. Anyone can run it
// against a TLS server: what the clients need of it is that it echoes.
package hostile

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// patience is how long something may take that has to happen. The suite measures
// nothing by it.
const patience = 30 * time.Second

// Server is what the suite runs against: a TLS server on loopback that sends back
// what comes, and answers close_notify with close_notify.
type Server struct {
	Addr   string      // TCP
	Config *tls.Config // for clients that keep to the rules; TLS 1.2 and 1.3 are tried

	// Silent is how many clients connect at once and never finish a handshake.
	// 0 is 10,000, if the process may have so many descriptors.
	Silent int

	// Memory, if set, returns how many bytes the server holds. The suite logs it.
	Memory func() uint64

	// Seed is that of random cuts and flips; 0 is 1. The same seed makes the same.
	Seed uint64
}

// Test runs the suite. After every group of attacks an honest client has to be
// served as if nothing had happened.
func Test(t *testing.T, s Server) {
	if s.Seed == 0 {
		s.Seed = 1
	}
	s.honest(t, "before anything else")
	for _, group := range []struct {
		name string
		run  func(*testing.T, Server)
	}{
		{"records", records}, {"mutations", mutations}, {"one byte at a time", bytewise},
		{"slow readers", slowReaders}, {"silent clients", silentClients}, {"one address", oneAddress},
	} {
		t.Run(group.name, func(t *testing.T) {
			group.run(t, s)
			s.honest(t, "afterwards")
		})
	}
}

// honest fails unless a client that keeps to the rules is served, in each version.
func (s Server) honest(t *testing.T, when string) {
	t.Helper()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		begin := time.Now()
		c, err := s.dial(version, net.IP{})
		if err != nil {
			t.Errorf("an honest client of %s, %s: %v", tls.VersionName(version), when, err)
			continue
		}
		if err := echo(c, bytes.Repeat([]byte("honest "), 10_000)); err != nil {
			t.Errorf("an honest client of %s, %s: %v", tls.VersionName(version), when, err)
		}
		c.Close()
		t.Logf("an honest client of %s, %s: %v", tls.VersionName(version), when, time.Since(begin).Round(time.Millisecond))
	}
}

// config is Config for one version.
func (s Server) config(version uint16) *tls.Config {
	c := s.Config.Clone()
	c.MinVersion, c.MaxVersion = version, version
	return c
}

// dial connects, from a given address if it is one.
func (s Server) dial(version uint16, from net.IP) (*tls.Conn, error) {
	carrier, err := s.carrier(from)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := tls.Client(carrier, s.config(version))
	if err := c.HandshakeContext(ctx); err != nil {
		carrier.Close()
		return nil, err
	}
	c.SetDeadline(time.Now().Add(patience))
	return c, nil
}

func (s Server) carrier(from net.IP) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: patience}
	if len(from) > 0 {
		d.LocalAddr = &net.TCPAddr{IP: from}
	}
	c, err := d.Dial("tcp", s.Addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// echo sends data and close_notify, and wants both back.
func echo(c *tls.Conn, data []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, data) {
		err = fmt.Errorf("%d bytes came back, and not the %d that were sent", len(got), len(data))
	}
	return errors.Join(err, <-sent)
}

// bytewise writes every byte of handshake and data by itself.
func bytewise(t *testing.T, s Server) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		carrier, err := s.carrier(nil)
		if err != nil {
			t.Fatal(err)
		}
		carrier.SetNoDelay(true)
		carrier.SetDeadline(time.Now().Add(patience))
		c := tls.Client(single{carrier}, s.config(version))
		if err := echo(c, []byte("byte by byte, record by record")); err != nil {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		c.Close()
	}
}

type single struct{ net.Conn }

func (c single) Write(p []byte) (n int, err error) {
	for ; n < len(p) && err == nil; n++ {
		_, err = c.Conn.Write(p[n : n+1])
	}
	return n, err
}

// slowReaders send without end and never read: the server's writes block. Others
// are served meanwhile.
func slowReaders(t *testing.T, s Server) {
	const readers = 32
	before := s.memory()
	var wg sync.WaitGroup
	conns := make([]*tls.Conn, readers)
	for i := range conns {
		c, err := s.dial(tls.VersionTLS13, nil)
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c
		// By then nothing more fits on the way, or enough is: the reader stays.
		c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		wg.Go(func() {
			b := make([]byte, 256<<10)
			for {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		})
	}
	s.honest(t, "while others do not read")
	wg.Wait()
	s.honest(t, "while others are stuck")
	if s.Memory != nil {
		t.Logf("%d clients that do not read: %d kB each", readers, grown(before, s.memory())/readers>>10)
	}
	for _, c := range conns {
		c.NetConn().Close()
	}
}

func (s Server) memory() uint64 {
	if s.Memory == nil {
		return 0
	}
	return s.Memory()
}

func grown(before, after uint64) uint64 {
	if after < before {
		return 0
	}
	return after - before
}
