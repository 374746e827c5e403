package aftls_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

// Programs of package net look for a descriptor behind a connection, in order
// to send past it. These are the names by which they would find one. With
// both types in one struct a method that both have is ambiguous: this file
// compiles only as long as ours have none of them.
type descriptor struct{}

func (descriptor) SyscallConn() {}
func (descriptor) File()        {}
func (descriptor) Fd()          {}

var (
	_ = struct {
		*aftls.Conn
		descriptor
	}{}.SyscallConn
	_ = struct {
		*aftls.Conn
		descriptor
	}{}.File
	_ = struct {
		*aftls.Conn
		descriptor
	}{}.Fd
	_ = struct {
		*aftls.Socket
		descriptor
	}{}.SyscallConn
	_ = struct {
		*aftls.Socket
		descriptor
	}{}.File
	_ = struct {
		*aftls.Socket
		descriptor
	}{}.Fd
)

// What is embedded lends its methods, those that have no name outside of
// package net among them.
func TestNoWayAroundTheRecordLayer(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[*aftls.Conn](), reflect.TypeFor[*aftls.Socket]()} {
		if typ.Implements(reflect.TypeFor[syscall.Conn]()) {
			t.Errorf("%v implements syscall.Conn", typ)
		}
		for _, name := range []string{"SyscallConn", "File", "Fd", "RawConn"} {
			if _, ok := typ.MethodByName(name); ok {
				t.Errorf("%v has a method %s", typ, name)
			}
		}
		for i := range typ.Elem().NumField() {
			if f := typ.Elem().Field(i); f.Anonymous {
				t.Errorf("%v embeds %v", typ, f.Type)
			}
		}
	}
	if !reflect.TypeFor[*net.TCPConn]().Implements(reflect.TypeFor[syscall.Conn]()) {
		t.Error("this test looks for the wrong thing")
	}
}

// marked returns data that a look at the wire would recognize, and the mark.
func marked(n int) (data, mark []byte) {
	b := make([]byte, 16)
	rand.Read(b)
	mark = hex.AppendEncode(nil, b)
	return bytes.Repeat(mark, (n+len(mark)-1)/len(mark)), mark
}

func markedFile(t *testing.T, data []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "marked")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// sealedOnly checks that a capture consists of records and has no mark in it.
func sealedOnly(t *testing.T, s *aftlstest.Stream, mark []byte, atLeast int) {
	t.Helper()
	if s.Contains(mark) {
		t.Error("plaintext is on the wire")
	}
	total := 0
	for _, c := range []*aftlstest.Capture{s.ToServer(), s.ToClient()} {
		total += c.Len()
		records, rest, err := c.Records()
		if err != nil || len(rest) > 0 || len(records) == 0 {
			t.Errorf("%d records, then %d bytes that are none: %v", len(records), len(rest), err)
		}
	}
	if total < atLeast {
		t.Errorf("%d bytes passed the wire, at least %d should have", total, atLeast)
	}
}

// The ways in which the standard library moves bytes into a connection and out
// of one, some of them by descriptor where it finds one.
var waysIn = map[string]func(t *testing.T, c net.Conn, data []byte) (int64, error){
	"io.Copy from a file": func(t *testing.T, c net.Conn, data []byte) (int64, error) {
		return io.Copy(c, markedFile(t, data))
	},
	"File.WriteTo": func(t *testing.T, c net.Conn, data []byte) (int64, error) {
		return markedFile(t, data).WriteTo(c)
	},
	"ReadFrom of a file": func(t *testing.T, c net.Conn, data []byte) (int64, error) {
		return c.(io.ReaderFrom).ReadFrom(markedFile(t, data))
	},
	"io.CopyN from a file": func(t *testing.T, c net.Conn, data []byte) (int64, error) {
		return io.CopyN(c, markedFile(t, data), int64(len(data)))
	},
	"net.Buffers.WriteTo": func(t *testing.T, c net.Conn, data []byte) (int64, error) {
		v := net.Buffers{data[:100], data[100:10000], data[10000:]}
		return v.WriteTo(c)
	},
	"io.Copy from a TCP connection": func(t *testing.T, c net.Conn, data []byte) (int64, error) {
		r, w := tcpPair(t)
		go func() { w.Write(data); w.Close() }()
		return io.Copy(c, r)
	},
	"io.Copy from a pipe": func(t *testing.T, c net.Conn, data []byte) (int64, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		defer r.Close()
		go func() { w.Write(data); w.Close() }()
		return io.Copy(c, r)
	},
	"bufio.Writer": func(t *testing.T, c net.Conn, data []byte) (int64, error) {
		b := bufio.NewWriter(c)
		n, err := b.ReadFrom(markedFile(t, data))
		return n, errors.Join(err, b.Flush())
	},
}

var waysOut = map[string]func(t *testing.T, c net.Conn, n int64) ([]byte, error){
	"io.Copy to a file": func(t *testing.T, c net.Conn, n int64) ([]byte, error) {
		return throughFile(t, func(f *os.File) (int64, error) { return io.CopyN(f, c, n) })
	},
	"File.ReadFrom": func(t *testing.T, c net.Conn, n int64) ([]byte, error) {
		return throughFile(t, func(f *os.File) (int64, error) { return f.ReadFrom(io.LimitReader(c, n)) })
	},
	"io.Copy to a TCP connection": func(t *testing.T, c net.Conn, n int64) ([]byte, error) {
		r, w := tcpPair(t)
		go func() { io.CopyN(w, c, n); w.Close() }()
		return io.ReadAll(r)
	},
	"TCPConn.ReadFrom": func(t *testing.T, c net.Conn, n int64) ([]byte, error) {
		r, w := tcpPair(t)
		go func() { w.(*net.TCPConn).ReadFrom(&io.LimitedReader{R: c, N: n}); w.Close() }()
		return io.ReadAll(r)
	},
}

func throughFile(t *testing.T, fill func(*os.File) (int64, error)) ([]byte, error) {
	path := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	_, err = fill(f)
	b, err2 := os.ReadFile(path)
	return b, errors.Join(err, err2, f.Close())
}

// passes sends data each way through from, and reads it on the other side in
// every way there is.
func passes(t *testing.T, from, to net.Conn, data []byte) (total int) {
	t.Helper()
	for in, send := range waysIn {
		for out, receive := range waysOut {
			done := make(chan error, 1)
			go func() {
				n, err := send(t, from, data)
				if err == nil && n != int64(len(data)) {
					err = fmt.Errorf("n = %d of %d", n, len(data))
				}
				done <- err
			}()
			got, err := receive(t, to, int64(len(data)))
			if err := errors.Join(err, <-done); err != nil {
				t.Fatalf("%s, %s: %v", in, out, err)
			}
			if !bytes.Equal(got, data) {
				t.Fatalf("%s, %s: %d bytes of %d came, or others", in, out, len(got), len(data))
			}
			total += len(data)
		}
	}
	return total
}

func TestNoPlaintextOnTheWire(t *testing.T) {
	data, mark := marked(100000)
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run("Conn "+tls.VersionName(v), func(t *testing.T) {
			a, b, s := aftlstest.WirePair(t)
			ccfg, scfg := configs(t)
			ccfg.MinVersion, ccfg.MaxVersion = v, v
			client, server := handshakePair(t, a, b, ccfg, scfg, aftls.Options{RequireSocket: true})
			total := passes(t, client, server, data) + passes(t, server, client, data)
			sealedOnly(t, s, mark, total)
		})
		t.Run("passthrough", func(t *testing.T) {
			a, b, s := aftlstest.WirePair(t)
			ccfg, scfg := configs(t)
			cbcOnly(ccfg, scfg)
			client, server := handshakePair(t, a, b, ccfg, scfg, aftls.Options{})
			total := passes(t, client, server, data) + passes(t, server, client, data)
			sealedOnly(t, s, mark, total)
		})
	}
	t.Run("Socket", func(t *testing.T) {
		a, b, s := aftlstest.WirePair(t)
		client, server := socketPair(t, a, b)
		total := passes(t, client, server, data) + passes(t, server, client, data)
		sealedOnly(t, s, mark, total)
	})
	// Without a record layer the test must see what it looks for.
	t.Run("the test would see it", func(t *testing.T) {
		a, b, s := aftlstest.WirePair(t)
		passes(t, a, b, data)
		if !s.Contains(mark) || bytes.Contains(s.ToClient().Bytes(), mark) {
			t.Error("the capture does not show what was sent")
		}
		if _, _, err := s.ToServer().Records(); err == nil {
			t.Error("plaintext was taken for records")
		}
	})
}

func socketPair(t *testing.T, a, b net.Conn) (client, server *aftls.Socket) {
	t.Helper()
	var keys [2]record.Keys
	for i := range keys {
		secret := make([]byte, 32)
		rand.Read(secret)
		k, err := record.TrafficKeys(tls.TLS_CHACHA20_POLY1305_SHA256, secret)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = k
	}
	client, server = aftls.NewSocket(a, aftls.Options{}), aftls.NewSocket(b, aftls.Options{})
	if err := errors.Join(client.SetKeys(aftls.Send, keys[0]), client.SetKeys(aftls.Receive, keys[1]),
		server.SetKeys(aftls.Send, keys[1]), server.SetKeys(aftls.Receive, keys[0])); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// TestNoPlaintextOfHTTP has the HTTP server send a file by ServeContent, and a
// reverse proxy pass bodies and an upgraded connection, all over our listener.
func TestNoPlaintextOfHTTP(t *testing.T) {
	data, mark := marked(300000)
	file := markedFile(t, data)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			b, err := io.ReadAll(r.Body) // HTTP/1 does not answer before
			if err != nil {
				t.Error(err)
			}
			w.Write(b)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		io.Copy(c, rw)
	}))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/proxy", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(file.Name())
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		http.ServeContent(w, r, "marked.bin", time.Time{}, f)
	})

	ccfg, scfg := configs(t)
	ln, err := aftls.Listen("tcp", "127.0.0.1:0", scfg, aftls.Options{RequireSocket: true})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	defer func() { server.Close(); <-served }()

	wire := aftlstest.NewWire(t, ln.Addr().String())
	dialer := &aftls.Dialer{Config: ccfg, Options: aftls.Options{RequireSocket: true}}
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, wire.Addr().String())
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	total := 0
	check := func(what string, resp *http.Response, err error, want []byte) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: status %d, %d bytes of %d, or others: %v", what, resp.StatusCode, len(got), len(want), err)
		}
		total += len(want)
	}

	resp, err := client.Get("https://test.example/file")
	check("ServeContent", resp, err, data)
	req, err := http.NewRequest("GET", "https://test.example/file", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=1000-200000")
	resp, err = client.Do(req)
	check("ServeContent of a range", resp, err, data[1000:200001])
	// A file as the body: the transport may give the connection the file.
	resp, err = client.Post("https://test.example/proxy", "text/plain", file)
	check("ReverseProxy", resp, err, data)

	if req, err = http.NewRequest("GET", "https://test.example/proxy", nil); err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	if resp, err = client.Do(req); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	rwc := resp.Body.(io.ReadWriteCloser)
	go rwc.Write(data)
	got := make([]byte, len(data))
	if _, err := io.ReadFull(rwc, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("upgraded: %v, or other bytes", err)
	}
	total += 2 * len(data)
	rwc.Close()

	if len(wire.Streams()) == 0 || wire.Contains(mark) {
		t.Errorf("%d connections, with plaintext %v", len(wire.Streams()), wire.Contains(mark))
	}
	passed := 0
	for _, s := range wire.Streams() {
		passed += s.ToClient().Len() + s.ToServer().Len()
		for _, c := range []*aftlstest.Capture{s.ToClient(), s.ToServer()} {
			if strings.Contains(string(c.Bytes()), "HTTP/1.1") {
				t.Error("HTTP is on the wire")
			}
		}
	}
	if passed < total {
		t.Errorf("%d bytes passed the wire, at least %d should have", passed, total)
	}
}
