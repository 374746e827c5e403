package aftlshttp_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlshttp"
)

// describe answers with what a handler learns of the connection.
func describe(w http.ResponseWriter, r *http.Request) {
	if r.TLS == nil {
		io.WriteString(w, "no TLS")
		return
	}
	fmt.Fprintf(w, "HTTP/%d %s %s %v", r.ProtoMajor, r.TLS.NegotiatedProtocol, r.TLS.ServerName, r.TLS.HandshakeComplete)
}

func TestProtocolIsThatOfALPN(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe)).start()
	each(t, func(t *testing.T, proto string) {
		want := fmt.Sprintf("HTTP/%d %s localhost true", major(proto), proto)
		for name, c := range map[string]*http.Client{"aftlshttp": s.client(proto), "net/http": s.standard(proto)} {
			resp, body := get(t, c, s.url("/"))
			if body != want || resp.ProtoMajor != major(proto) {
				t.Errorf("%s: %s, %q instead of %q", name, resp.Proto, body, want)
			}
		}
	})
	t.Run("no ALPN", func(t *testing.T) {
		c := s.dial()
		io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
		if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), "HTTP/1  localhost true") {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestHTTP2CanBeTurnedOff(t *testing.T) {
	only1 := new(http.Protocols)
	only1.SetHTTP1(true)
	for name, off := range map[string]func(*http.Server){
		"Protocols":    func(srv *http.Server) { srv.Protocols = only1 },
		"TLSNextProto": func(srv *http.Server) { srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, http.HandlerFunc(describe))
			off(s.srv)
			s.start()
			if b, err := io.ReadAll(s.dial("h2")); len(b) > 0 || err != nil {
				t.Errorf("h2: %q, %v", b, err)
			}
			if _, body := get(t, s.client("http/1.1"), s.url("/")); !strings.HasPrefix(body, "HTTP/1 ") {
				t.Errorf("http/1.1: %q", body)
			}
			if only1.UnencryptedHTTP2() {
				t.Error("the caller's Protocols were changed")
			}
		})
	}
}

// A client that agreed on h2 and then speaks HTTP/1.1 must not be served as if
// it had come without TLS.
func TestHTTP2BeginsWithThePreface(t *testing.T) {
	s := newSite(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was served") })).start()
	c := s.dial("h2")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	b, _ := io.ReadAll(c)
	if bytes.Contains(b, []byte("HTTP/1")) {
		t.Errorf("%q", b)
	}
}

// A server that allows HTTP/2 without TLS to nobody must not begin to.
func TestPlainListenerStaysWithHTTP1(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe)).start()
	get(t, s.client(), s.url("/"))
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.srv.Serve(plain) }()
	t.Cleanup(func() { s.srv.Close(); <-ended })
	c, err := net.Dial("tcp", plain.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	b, _ := io.ReadAll(c)
	if len(b) > 0 && !bytes.HasPrefix(b, []byte("HTTP/1.1 ")) {
		t.Errorf("%q", b)
	}
	resp, err := http.Get("http://" + plain.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "no TLS" {
		t.Errorf("%q", b)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestOtherProtocolsEndAfterTheHandshake(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe))
	s.config.NextProtos = []string{"h2", "http/1.1", "acme-tls/1", "postgresql"}
	s.start()
	for _, proto := range []string{"acme-tls/1", "postgresql"} {
		c := s.dial(proto)
		if got := c.ConnectionState().NegotiatedProtocol; got != proto {
			t.Errorf("agreed on %q", got)
		}
		io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%s: %q", proto, b)
		}
	}
}

func TestPlainHTTPIsAnsweredWith400(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe))
	var failed sync.WaitGroup
	s.opt.HandshakeError = func(peer net.Addr, err error) {
		if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			failed.Done()
		}
	}
	s.start()
	get(t, s.client(), s.url("/")) // so Serve has begun
	for _, first := range []string{
		"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HEAD / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 30000\r\n\r\n" + strings.Repeat("x", 30000),
		"PUT /x HTTP/1.0\r\n\r\n", "OPTIONS * HTTP/1.1\r\n\r\n", "DELETE / HTTP/1.1\r\n\r\n",
	} {
		failed.Add(1)
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, first)
		b, err := io.ReadAll(c)
		if !bytes.HasPrefix(b, []byte("HTTP/1.0 400 Bad Request\r\n")) || err != nil {
			t.Errorf("%q: %q, %v", first[:5], b, err)
		}
		c.Close()
	}
	failed.Add(1)
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "EHLO localhost\r\n")
	if b, _ := io.ReadAll(c); len(b) > 0 {
		t.Errorf("answer to something else: %q", b)
	}
	failed.Wait() // each was told of
}

// A browser that connects in advance and leaves, and a health check, are no
// reason for an answer or a line in the log.
func TestBareFINStaysSilent(t *testing.T) {
	each(t, func(t *testing.T, proto string) {
		s := newSite(t, http.HandlerFunc(describe))
		closed := make(chan struct{}, 1)
		s.srv.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				closed <- struct{}{}
			}
		}
		s.start()
		c := s.dial(proto)
		if err := c.NetConn().(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		if proto == "http/1.1" && len(b) > 0 {
			t.Errorf("it was told %q", b)
		}
		<-closed
		if l := s.log.String(); l != "" {
			t.Errorf("log: %s", l)
		}
	})
}

func TestHooksSeeTheConn(t *testing.T) {
	each(t, func(t *testing.T, proto string) {
		s := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Context().Value(errTest), r.Context().Value(http.ServerContextKey) != nil)
		}))
		var mu sync.Mutex
		seen := make(map[http.ConnState]bool)
		s.srv.ConnState = func(c net.Conn, state http.ConnState) {
			if _, ok := c.(*aftls.Conn); !ok {
				t.Errorf("%v: a %T", state, c)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[state] = true
		}
		s.srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, errTest, c.(*aftls.Conn).ConnectionState().NegotiatedProtocol)
		}
		s.start()
		c := s.client(proto)
		if _, body := get(t, c, s.url("/")); body != proto+"true" && body != proto+" true" {
			t.Errorf("context: %q", body)
		}
		c.CloseIdleConnections()
		eventually(t, "every state", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return seen[http.StateNew] && seen[http.StateActive] && seen[http.StateIdle] && seen[http.StateClosed]
		})
	})
}

func TestBodiesOfEverySize(t *testing.T) {
	dir := t.TempDir()
	sizes := []int{0, 1, 2047, 16384, 16385, 3<<20 + 7}
	files := make(map[string][]byte)
	for _, n := range sizes {
		b := make([]byte, n)
		rand.Read(b)
		files[fmt.Sprint(n)] = b
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServer(http.Dir(dir)))
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Write(b)
	})
	s := newSite(t, mux).start()
	each(t, func(t *testing.T, proto string) {
		for name, c := range map[string]*http.Client{"aftlshttp": s.client(proto), "net/http": s.standard(proto)} {
			for file, want := range files {
				if _, body := get(t, c, s.url("/"+file)); body != string(want) {
					t.Errorf("%s: GET of %s: %d bytes", name, file, len(body))
				}
				// A reader without a known length, as a pipe has none.
				req := request(t, "POST", s.url("/"), io.MultiReader(bytes.NewReader(want)))
				if _, body := ask(t, c, req); body != string(want) {
					t.Errorf("%s: POST of %s: %d bytes", name, file, len(body))
				}
			}
		}
	})
}

// What a handler flushes does not wait for what it has not written yet.
func TestFlushedHeadersComeAlone(t *testing.T) {
	each(t, func(t *testing.T, proto string) {
		next := make(chan struct{})
		s := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-First", "yes")
			w.(http.Flusher).Flush()
			for _, part := range []string{"one", "two", ""} {
				<-next
				io.WriteString(w, part)
				w.(http.Flusher).Flush()
			}
		})).start()
		resp, err := s.client(proto).Get(s.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for _, part := range []string{"one", "two"} {
			next <- struct{}{}
			b := make([]byte, len(part))
			if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != part {
				t.Fatalf("%q, %v", b, err)
			}
		}
		next <- struct{}{}
		if b, err := io.ReadAll(resp.Body); len(b) > 0 || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// Where crypto/tls keeps the record layer, HTTP goes on as before.
func TestPassthroughIsServed(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe))
	s.config.MaxVersion = tls.VersionTLS12
	s.config.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	s.srv.ConnState = func(c net.Conn, _ http.ConnState) {
		if p := c.(*aftls.Conn).Info().Send.Provider; p != aftls.Passthrough {
			t.Errorf("the provider is %v", p)
		}
	}
	s.start()
	config := s.clientConfig("http/1.1")
	config.CipherSuites = s.config.CipherSuites
	c := &http.Client{Transport: aftlshttp.NewTransport(&aftls.Dialer{Config: config}), Timeout: patience}
	t.Cleanup(c.CloseIdleConnections)
	for range 3 {
		if _, body := get(t, c, s.url("/")); body != "HTTP/1 http/1.1 localhost true" {
			t.Errorf("%q", body)
		}
	}
}

// hold is a handler that tells of each request and then waits.
type hold struct {
	begun   chan struct{}
	release chan struct{}
}

func newHold() *hold { return &hold{make(chan struct{}, 16), make(chan struct{})} }

func (h *hold) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.begun <- struct{}{}
	select {
	case <-h.release:
		io.WriteString(w, "done")
	case <-r.Context().Done():
	}
}

func TestShutdownWaitsForRequests(t *testing.T) {
	each(t, func(t *testing.T, proto string) {
		h := newHold()
		s := newSite(t, h).start()
		c := s.client(proto)
		type result struct {
			body string
			err  error
		}
		answered := make(chan result, 1)
		go func() {
			resp, err := c.Get(s.url("/"))
			if err != nil {
				answered <- result{"", err}
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			answered <- result{string(b), err}
		}()
		<-h.begun
		// Shutdown with an end returns that it waited.
		soon, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if err := s.srv.Shutdown(soon); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Shutdown did not wait for the request: %v", err)
		}
		down := make(chan error, 1)
		go func() { down <- s.srv.Shutdown(context.Background()) }()
		close(h.release)
		if r := <-answered; r.err != nil || r.body != "done" {
			t.Errorf("the request under way: %q, %v", r.body, r.err)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
		if _, err := net.Dial("tcp", s.addr); err == nil {
			t.Error("the port is still open")
		}
	})
}

func TestCloseEndsEveryConnection(t *testing.T) {
	each(t, func(t *testing.T, proto string) {
		h := newHold()
		s := newSite(t, h).start()
		failed := make(chan error, 1)
		go func() {
			resp, err := s.client(proto).Get(s.url("/"))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			failed <- err
		}()
		<-h.begun
		s.srv.Close()
		if err := <-failed; err == nil {
			t.Error("the request went on")
		}
	})
}

func TestShutdownCoversWhatHasNotBegun(t *testing.T) {
	for name, end := range map[string]func(*http.Server) error{
		"Shutdown": func(srv *http.Server) error { return srv.Shutdown(context.Background()) },
		"Close":    (*http.Server).Close,
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, http.HandlerFunc(describe)).start()
			idle := s.client("h2")
			get(t, idle, s.url("/"))
			// A handshake under way, and a connection that net/http has without a
			// request.
			half, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer half.Close()
			half.SetDeadline(time.Now().Add(patience))
			half.Write([]byte{22, 3, 1, 1, 0, 1})
			quiet := s.dial("http/1.1")
			if err := end(s.srv); err != nil {
				t.Error(err)
			}
			if b, _ := io.ReadAll(half); len(b) > 0 {
				t.Errorf("handshake under way: %q", b)
			}
			if b, _ := io.ReadAll(quiet); len(b) > 0 {
				t.Errorf("connection without a request: %q", b)
			}
		})
	}
}

func TestServeOnTwoListeners(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe)).start()
	ln, err := aftls.Listen("tcp", "127.0.0.1:0", s.config, aftls.Options{})
	if err != nil {
		t.Fatal(err)
	}
	get(t, s.client(), s.url("/")) // so that the first Serve has changed the server
	ended := make(chan error, 1)
	go func() { ended <- aftlshttp.Serve(s.srv, ln) }()
	each(t, func(t *testing.T, proto string) {
		resp, body := get(t, s.client(proto), "https://"+ln.Addr().String())
		if resp.ProtoMajor != major(proto) || !strings.HasSuffix(body, " localhost true") {
			t.Errorf("%s: %q", resp.Proto, body)
		}
	})
	s.srv.Close()
	if err := <-ended; err != http.ErrServerClosed {
		t.Error(err)
	}
}
