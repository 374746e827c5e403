package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// startStreams starts 'aftls listen' or 'aftls proxy' on a free port.
func startStreams(t *testing.T, command string, args ...string) (p *process, addr string) {
	t.Helper()
	p = start(t, append([]string{command, "--listen", "127.0.0.1:0"}, args...)...)
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "listening ")
	if !ok {
		t.Fatalf("first line of stdout: %q", line)
	}
	return p, addr
}

// dialTLS connects as a client of crypto/tls.
func dialTLS(t *testing.T, addr string, protos ...string) *tls.Conn {
	t.Helper()
	config := trust(t)
	config.NextProtos = protos
	c, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.NetConn().Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// exchange sends data and the end, and returns what comes back up to the end.
func exchange(t *testing.T, c *tls.Conn, data []byte) []byte {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestListenEcho(t *testing.T) {
	p, addr := startStreams(t, "listen", "--echo", "--log", "json")
	data := random(3<<20 + 1)
	if got := exchange(t, dialTLS(t, addr), data); !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back", len(got))
	}
	p.await(fmt.Sprintf(`"bytes":%d`, len(data)))
	// What was cut off is not ended cleanly by the echo.
	c, err := (&aftls.Dialer{Config: trust(t)}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	c.(*aftls.Conn).NetConn().(*net.TCPConn).CloseWrite()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a cut: %v", err)
	}
	p.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
	if rest, _ := io.ReadAll(p.stdout); len(rest) > 0 {
		t.Errorf("more on stdout: %q", rest)
	}
	if !strings.Contains(p.errors(), `"connections":2,"resumed":0,"handshakes_failed":0`) {
		t.Error("no totals in the log")
	}
}

func TestListenExec(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the plaintext end needs Linux")
	}
	_, addr := startStreams(t, "listen", "--exec", "cat", "-u")
	data := random(1 << 20)
	if got := exchange(t, dialTLS(t, addr), data); !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back", len(got))
	}
	p, addr := startStreams(t, "listen", "--exec", "sh", "-c", "wc -c; echo talk >&2; exit 3")
	for range 3 {
		if got := exchange(t, dialTLS(t, addr), data[:70_000]); strings.TrimSpace(string(got)) != "70000" {
			t.Errorf("%q", got)
		}
	}
	p.await("talk")
	p.await("exit status 3")
	// The client's cut is an error for the program, not an end: wc prints nothing.
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tc := tls.Client(c, trust(t))
	tc.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(tc, "cut off")
	c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(tc); err == nil && len(b) > 0 && !strings.HasPrefix(string(b), "0") {
		t.Errorf("the program took a cut stream for whole: %q", b)
	}
}

// Draining waits for what a program wrote last.
func TestListenDrains(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the plaintext end needs Linux")
	}
	p, addr := startStreams(t, "listen", "--exec", "sh", "-c", "echo; read line; head -c 5000000 /dev/zero")
	c := dialTLS(t, addr)
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // the program runs
		t.Fatal(err)
	}
	p.Process.Signal(syscall.SIGTERM)
	p.await("draining")
	io.WriteString(c, "go\n")
	if n, err := io.Copy(io.Discard, c); n != 5_000_000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	c.Close()
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("the port is still open")
	}
}

func TestListenSecondSignalEndsAtOnce(t *testing.T) {
	p, addr := startStreams(t, "listen", "--echo")
	c, err := (&aftls.Dialer{Config: trust(t)}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(c, "x")
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.Process.Signal(syscall.SIGTERM)
	p.await("draining")
	p.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != 1 {
		t.Error("exit code", code)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the cut stream looked whole: %v", err)
	}
}

// backendOf accepts plaintext connections and gives each to f.
func backendOf(t *testing.T, network string, f func(c halfConn)) (addr string) {
	t.Helper()
	addr = "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(30 * time.Second))
			go f(c.(halfConn))
		}
	}()
	if network == "unix" {
		return "unix:" + addr
	}
	return ln.Addr().String()
}

type halfConn interface {
	net.Conn
	CloseWrite() error
}

// Each direction ends on its own.
func TestProxyHalfCloses(t *testing.T) {
	data := random(4<<20 + 3)
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			got := make(chan []byte, 1)
			to := backendOf(t, network, func(c halfConn) {
				defer c.Close()
				// The answer begins when the client's end has come.
				b, err := io.ReadAll(c)
				if err != nil {
					t.Error(err)
				}
				got <- b
				c.Write(b)
			})
			p, addr := startStreams(t, "proxy", "--to", to, "--log", "json")
			if back := exchange(t, dialTLS(t, addr), data); !bytes.Equal(back, data) {
				t.Errorf("%d bytes came back", len(back))
			}
			if b := <-got; !bytes.Equal(b, data) {
				t.Errorf("%d bytes arrived", len(b))
			}
			p.await(fmt.Sprintf(`"bytes_sent":%d,"bytes_received":%[1]d`, len(data)))
		})
		t.Run(network+", backend first", func(t *testing.T) {
			rest := make(chan string, 1)
			to := backendOf(t, network, func(c halfConn) {
				defer c.Close()
				io.WriteString(c, "hello")
				c.CloseWrite()
				b, _ := io.ReadAll(c)
				rest <- string(b)
			})
			_, addr := startStreams(t, "proxy", "--to", to)
			c := dialTLS(t, addr)
			if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			io.WriteString(c, "after your end")
			c.CloseWrite()
			if s := <-rest; s != "after your end" {
				t.Errorf("%q", s)
			}
		})
	}
}

// A stream that was cut off on one side is no whole one on the other.
func TestProxyPassesOnCuts(t *testing.T) {
	ends := make(chan error, 1)
	to := backendOf(t, "tcp", func(c halfConn) {
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Error(err)
		}
		if b[0] == 'r' { // reset
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
			return
		}
		_, err := io.Copy(io.Discard, c)
		ends <- err
		c.Close()
	})
	_, addr := startStreams(t, "proxy", "--to", to)
	c := dialTLS(t, addr)
	io.WriteString(c, "cut")
	c.NetConn().(*net.TCPConn).CloseWrite()
	if err := <-ends; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the backend saw %v", err)
	}
	ours, err := (&aftls.Dialer{Config: trust(t)}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	ours.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(ours, "r")
	_, err = io.Copy(io.Discard, ours)
	if e, ok := errors.AsType[*aftls.AlertError](err); !ok || e.Alert != record.InternalError {
		t.Errorf("the client saw %v", err)
	}
}

func TestProxyWithoutABackend(t *testing.T) {
	p, addr := startStreams(t, "proxy", "--to", "127.0.0.1:1")
	c, err := (&aftls.Dialer{Config: trust(t)}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = c.Read(make([]byte, 1))
	if e, ok := errors.AsType[*aftls.AlertError](err); !ok || e.Alert != record.InternalError {
		t.Errorf("the client saw %v", err)
	}
	p.await("backend: dial tcp 127.0.0.1:1")
}

// The backend learns who the client is, and resumed connections are counted.
func TestProxyProtocolAndResumption(t *testing.T) {
	headers := make(chan *proxyproto.Header, 2)
	to := backendOf(t, "tcp", func(c halfConn) {
		defer c.Close()
		r := bufio.NewReader(c)
		h, err := proxyproto.Read(r)
		if err != nil {
			t.Error(err)
		}
		headers <- h
		io.Copy(c, r)
	})
	p, addr := startStreams(t, "proxy", "--to", to, "--proxy-protocol", "--alpn", "echo", "--log", "json")
	config := trust(t)
	config.NextProtos = []string{"echo"}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for range 2 {
		c, err := tls.Dial("tcp", addr, config)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(30 * time.Second))
		if got := exchange(t, c, []byte("behind the header")); string(got) != "behind the header" {
			t.Errorf("%q", got)
		}
		local := c.LocalAddr().String()
		c.Close()
		h := <-headers
		if h.Version != 2 || h.SourceAddr.String() != local || h.DestinationAddr.String() != addr {
			t.Errorf("version %d, from %v to %v", h.Version, h.SourceAddr, h.DestinationAddr)
		}
		tlvs, err := h.TLVs()
		if err != nil {
			t.Fatal(err)
		}
		ssl, ok := tlvparse.FindSSL(tlvs)
		version, _ := ssl.SSLVersion()
		if !ok || !ssl.ClientSSL() || ssl.Verified() || version != "TLS 1.3" {
			t.Errorf("ssl %v: %+v", ok, ssl)
		}
		told := make(map[proxyproto.PP2Type]string)
		for _, v := range tlvs {
			told[v.Type] = string(v.Value)
		}
		if told[proxyproto.PP2_TYPE_ALPN] != "echo" || told[proxyproto.PP2_TYPE_AUTHORITY] != "localhost" {
			t.Errorf("%q", told)
		}
	}
	p.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
	if !strings.Contains(p.errors(), `"connections":2,"resumed":1,"handshakes_failed":0`) {
		t.Error("the resumed connection is not counted")
	}
}

func TestProxyDrains(t *testing.T) {
	to := backendOf(t, "tcp", func(c halfConn) {
		defer c.Close()
		io.Copy(c, c)
	})
	p, addr := startStreams(t, "proxy", "--to", to)
	c := dialTLS(t, addr)
	io.WriteString(c, "a")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.Process.Signal(syscall.SIGTERM)
	p.await("draining")
	if got := exchange(t, c, []byte("still here")); string(got) != "still here" {
		t.Errorf("%q", got)
	}
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
}

// Many connections at once, each with its own bytes.
func TestProxyManyAtOnce(t *testing.T) {
	to := backendOf(t, "tcp", func(c halfConn) {
		defer c.Close()
		io.Copy(c, c)
	})
	_, addr := startStreams(t, "proxy", "--to", to)
	d := &aftls.Dialer{Config: trust(t)}
	failed := make(chan error, 50)
	for range cap(failed) {
		go func() {
			failed <- func() error {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				nc, err := d.DialContext(ctx, "tcp", addr)
				if err != nil {
					return err
				}
				c := nc.(*aftls.Conn)
				defer c.Close()
				c.SetDeadline(time.Now().Add(30 * time.Second))
				data := random(200_000)
				sent := make(chan error, 1)
				go func() {
					_, err := c.Write(data)
					sent <- errors.Join(err, c.CloseWrite())
				}()
				got, err := io.ReadAll(c)
				if err == nil && !bytes.Equal(got, data) {
					err = fmt.Errorf("%d other bytes came back", len(got))
				}
				return errors.Join(err, <-sent)
			}()
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}
