package aftls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// accepting serves TLS on a loopback address and hands out the connections.
func accepting(t *testing.T, scfg *tls.Config) (addr string, conns <-chan *aftls.Conn) {
	t.Helper()
	ln, err := aftls.Listen("tcp", "127.0.0.1:0", scfg, aftls.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan *aftls.Conn, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.AcceptConn()
			if err != nil {
				return
			}
			ch <- c
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		close(ch)
		for c := range ch {
			c.Close()
		}
	})
	return ln.Addr().String(), ch
}

// mute listens on a loopback address and answers nothing. Every carrier that
// comes is handed out when its first byte has come.
func mute(t *testing.T) (addr string, carriers <-chan net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan net.Conn, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				c.Close()
				continue
			}
			ch <- c
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		close(ch)
		for c := range ch {
			c.Close()
		}
	})
	return ln.Addr().String(), ch
}

// nilInterface checks that an error comes with no connection at all.
func nilInterface(t *testing.T, c net.Conn, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if c != nil {
		t.Errorf("a connection (%T) along with the error %v", c, err)
	}
}

// The name to verify defaults to the host in the address.
func TestDialerServerName(t *testing.T) {
	ca := aftlstest.NewCA(t)
	// Each certificate is good for one of them only: Leaf adds the loopback
	// addresses, so the names have to tell.
	scfg := &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, "localhost")}}
	names := make(chan string, 10)
	scfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { names <- h.ServerName; return nil, nil }
	addr, conns := accepting(t, scfg)
	_, port, _ := net.SplitHostPort(addr)
	user := &tls.Config{RootCAs: ca.Pool}
	for _, tt := range []struct {
		host, serverName, want string
	}{
		{"127.0.0.1", "", ""}, // addresses are verified, not sent
		{"localhost", "", "localhost"},
		{"127.0.0.1", "localhost", "localhost"},
	} {
		if tt.host == "localhost" {
			if ips, err := net.LookupHost("localhost"); err != nil || !slices.Contains(ips, "127.0.0.1") {
				if aftlstest.Expected("localhost") {
					t.Fatalf("the name localhost: %v, %v", ips, err)
				}
				t.Logf("left out: the name localhost does not resolve to 127.0.0.1: %v, %v", ips, err)
				continue
			}
		}
		cfg := user.Clone()
		cfg.ServerName = tt.serverName
		d := aftls.Dialer{Config: cfg}
		c, err := d.Dial("tcp", net.JoinHostPort(tt.host, port))
		if err != nil {
			t.Fatalf("%+v: %v", tt, err)
		}
		if got := <-names; got != tt.want {
			t.Errorf("%+v: the server was asked for %q", tt, got)
		}
		if len(c.(*aftls.Conn).ConnectionState().VerifiedChains) == 0 {
			t.Errorf("%+v: nothing was verified", tt)
		}
		if cfg.ServerName != tt.serverName {
			t.Error("the user's Config was changed")
		}
		transfer(t, c, <-conns, 1000)
		c.Close()
	}
}

// The zero Dialer verifies: it fails on a certificate that nobody knows.
func TestDialerZero(t *testing.T) {
	_, scfg := configs(t)
	addr, _ := accepting(t, scfg)
	var d aftls.Dialer
	c, err := d.Dial("tcp", addr)
	nilInterface(t, c, err)
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("%v (%T)", err, err)
	}
}

func TestDialerWrongName(t *testing.T) {
	ccfg, scfg := configs(t)
	ccfg.ServerName = "other.example"
	addr, _ := accepting(t, scfg)
	d := aftls.Dialer{Config: ccfg}
	c, err := d.Dial("tcp", addr)
	nilInterface(t, c, err)
	if e, ok := errors.AsType[x509.HostnameError](err); !ok || e.Host != "other.example" {
		t.Errorf("%v (%T)", err, err)
	}
	if e, ok := errors.AsType[*net.OpError](err); !ok || e.Op != "handshake" || e.Addr == nil || e.Addr.String() != addr {
		t.Errorf("%#v is not a *net.OpError with the address", err)
	}
}

func TestDialerNobodyThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	var d aftls.Dialer
	c, err := d.Dial("tcp", addr)
	nilInterface(t, c, err)
	c, err = d.Dial("tcp", "no address")
	nilInterface(t, c, err)
}

// A server that never answers costs no more than the Timeout, the Deadline or
// the context allow; the carrier is closed.
func TestDialerTimeouts(t *testing.T) {
	addr, carriers := mute(t)
	for _, tt := range []struct {
		name string
		dial func() (net.Conn, error)
		is   error
	}{
		{"Timeout", func() (net.Conn, error) {
			d := aftls.Dialer{NetDialer: &net.Dialer{Timeout: 200 * time.Millisecond}}
			return d.Dial("tcp", addr)
		}, context.DeadlineExceeded},
		{"Deadline", func() (net.Conn, error) {
			d := aftls.Dialer{NetDialer: &net.Dialer{Deadline: time.Now().Add(200 * time.Millisecond)}}
			return d.Dial("tcp", addr)
		}, context.DeadlineExceeded},
		{"context", func() (net.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			var d aftls.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}, context.DeadlineExceeded},
		{"the shorter of context and Timeout", func() (net.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			d := aftls.Dialer{NetDialer: &net.Dialer{Timeout: 200 * time.Millisecond, Deadline: time.Now().Add(time.Hour)}}
			return d.DialContext(ctx, "tcp", addr)
		}, context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := tt.dial()
			nilInterface(t, c, err)
			if !errors.Is(err, tt.is) {
				t.Errorf("%v, want one that is %v", err, tt.is)
			}
			if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
				t.Errorf("%v (%T) does not say that it is a timeout", err, err)
			}
			wantClosed(t, <-carriers)
		})
	}
}

func TestDialerCancel(t *testing.T) {
	addr, carriers := mute(t)
	ctx, cancel := context.WithCancel(context.Background())
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		carrier := <-carriers // the ClientHello has come
		cancel()
		wantClosed(t, carrier)
	}()
	var d aftls.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	nilInterface(t, c, err)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-closed
	c, err = d.DialContext(ctx, "tcp", addr)
	nilInterface(t, c, err)
}

// A context that ends after Dial has returned is not the connection's.
func TestDialerContextAfterwards(t *testing.T) {
	ccfg, scfg := configs(t)
	addr, conns := accepting(t, scfg)
	ctx, cancel := context.WithCancel(context.Background())
	d := aftls.Dialer{Config: ccfg}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	s := <-conns
	transfer(t, c, s, 100_000)
	transfer(t, s, c, 100_000)
}

// wantClosed reads a carrier to its end.
func wantClosed(t *testing.T, carrier net.Conn) {
	t.Helper()
	defer carrier.Close()
	carrier.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, carrier); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the carrier was left open")
	}
}

func TestDialerOptions(t *testing.T) {
	ccfg, scfg := configs(t)
	cbcOnly(ccfg, scfg)
	addr, conns := accepting(t, scfg)
	d := aftls.Dialer{Config: ccfg, Options: aftls.Options{RequireSocket: true}}
	c, err := d.Dial("tcp", addr)
	nilInterface(t, c, err)
	if !errors.Is(err, aftls.ErrPassthrough) {
		t.Error(err)
	}
	(<-conns).Close()
	d.Options = aftls.Options{}
	if c, err = d.Dial("tcp", addr); err != nil {
		t.Fatal(err)
	}
	c.Close()
	(<-conns).Close()
}

// TestDialerInTransport uses the method where net/http asks for one.
func TestDialerInTransport(t *testing.T) {
	site := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	site.Config.ErrorLog = log.New(io.Discard, "", 0)
	site.StartTLS()
	defer site.Close()
	pool := x509.NewCertPool()
	pool.AddCert(site.Certificate())
	d := aftls.Dialer{Config: &tls.Config{RootCAs: pool}}
	transport := &http.Transport{DialTLSContext: d.DialContext}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	for range 3 {
		resp, err := client.Get(site.URL)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Error(resp.Status)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	d.Config = nil // now nobody vouches for the server
	transport.CloseIdleConnections()
	resp, err := client.Get(site.URL)
	if err == nil {
		resp.Body.Close()
		t.Fatal("an unknown certificate was taken")
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("%v (%T)", err, err)
	}
}
