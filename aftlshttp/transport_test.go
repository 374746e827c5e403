package aftlshttp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlshttp"
)

func TestResponseTLS(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe)).startStandard()
	each(t, func(t *testing.T, proto string) {
		c := s.client(proto)
		for range 2 { // a new connection and one of before
			resp, _ := get(t, c, s.url("/"))
			if resp.TLS == nil || resp.TLS.NegotiatedProtocol != proto || len(resp.TLS.VerifiedChains) == 0 {
				t.Errorf("Response.TLS: %+v", resp.TLS)
			}
			if resp.Request.URL.String() != s.url("/") || resp.Request.Body != nil {
				t.Errorf("Response.Request: %+v", resp.Request)
			}
		}
	})
}

// traced notes the events that the protocol stack reports for a request.
func traceOf(events *[]string, conn *net.Conn) *httptrace.ClientTrace {
	var mu sync.Mutex
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		*events = append(*events, fmt.Sprintf(format, args...))
	}
	return &httptrace.ClientTrace{
		GetConn:           func(string) { note("GetConn") },
		ConnectStart:      func(network, _ string) { note("ConnectStart %s", network) },
		ConnectDone:       func(_, _ string, err error) { note("ConnectDone %v", err) },
		TLSHandshakeStart: func() { note("TLSHandshakeStart") },
		TLSHandshakeDone:  func(s tls.ConnectionState, err error) { note("TLSHandshakeDone %s %v", s.NegotiatedProtocol, err) },
		GotConn: func(i httptrace.GotConnInfo) {
			note("GotConn %v", i.Reused)
			*conn = i.Conn
		},
		WroteHeaders:         func() { note("WroteHeaders") },
		WroteRequest:         func(i httptrace.WroteRequestInfo) { note("WroteRequest %v", i.Err) },
		GotFirstResponseByte: func() { note("GotFirstResponseByte") },
	}
}

// The events are those that net/http reports over crypto/tls, in their order.
func TestTraceIsThatOfNetHTTP(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe)).start()
	each(t, func(t *testing.T, proto string) {
		ours, theirs := s.client(proto), s.standard(proto)
		for _, what := range []string{"new connection", "one of before"} {
			var got, want []string
			var conn net.Conn
			ask := func(c *http.Client, events *[]string) {
				req := request(t, "GET", s.url("/"), nil)
				get := httptrace.WithClientTrace(req.Context(), traceOf(events, &conn))
				ask(t, c, req.WithContext(get))
			}
			ask(theirs, &want)
			ask(ours, &got)
			if _, ok := conn.(*aftls.Conn); !ok {
				t.Errorf("GotConn: a %T", conn)
			}
			// The request is written and answered by two goroutines.
			slices.Sort(got[len(got)-3:])
			slices.Sort(want[len(want)-3:])
			if !slices.Equal(got, want) {
				t.Errorf("%s:\n%s\ninstead of\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	})
}

func TestOnePoolForBoth(t *testing.T) {
	var conns atomic.Int64
	s := newSite(t, http.HandlerFunc(describe))
	s.srv.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.start()
	each(t, func(t *testing.T, proto string) {
		conns.Store(0)
		c := s.client(proto)
		for range 10 {
			get(t, c, s.url("/"))
		}
		if n := conns.Load(); n != 1 {
			t.Errorf("%d connections for ten requests", n)
		}
		c.CloseIdleConnections()
		get(t, c, s.url("/"))
		if n := conns.Load(); n != 2 {
			t.Errorf("%d connections after CloseIdleConnections", n)
		}
	})
}

// The first of many requests finds out how the server speaks; it does not take
// as many handshakes as there are requests.
func TestManyRequestsAtOnce(t *testing.T) {
	s := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	var conns atomic.Int64
	s.srv.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.srv.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 300}
	s.start()
	c := s.client()
	text := strings.Repeat("body ", 1000)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			// Without GetBody: a body that was given away must not be lost when
			// the dialling finds that the server speaks HTTP/2.
			req := request(t, "POST", s.url("/"), io.MultiReader(strings.NewReader(text)))
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != text || resp.ProtoMajor != 2 {
				t.Errorf("%s: %d bytes, %v", resp.Proto, len(b), err)
			}
		})
	}
	wg.Wait()
	// A connection takes 100 requests before its server has told how many it takes.
	if n := conns.Load(); n > 10 && !aftlshttp.Native {
		t.Errorf("%d connections for 200 requests", n)
	}
}

// A request that waits for another one's handshake goes when its context does, and
// when that handshake fails it makes its own.
func TestWaitingForTheFirst(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	carriers := make(chan net.Conn, 3)
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				close(carriers)
				return
			}
			carriers <- c
		}
	}()
	s := newSite(t, nil)
	c := s.client()
	url := "https://" + silent.Addr().String()
	results := make(chan error, 3)
	send := func(ctx context.Context) *closeCounter {
		b := &closeCounter{Reader: strings.NewReader("body")}
		req := request(t, "POST", url, b).WithContext(ctx)
		go func() {
			resp, err := c.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			results <- err
		}()
		return b
	}
	send(t.Context())
	first := <-carriers
	ctx, cancel := context.WithCancel(t.Context())
	b := send(ctx)
	cancel()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that was cancelled: %v", err)
	}
	eventually(t, "its body is closed", func() bool { return b.closed.Load() == 1 })
	send(t.Context())
	first.Close()
	second := <-carriers // of the third request, if the first is not on its way yet
	second.Close()
	for range 2 {
		if err := <-results; err == nil {
			t.Error("a request to a server that closes had an answer")
		}
	}
	silent.Close()
	for c := range carriers {
		c.Close()
	}
}

// closeCounter is a body that counts how often it is closed.
type closeCounter struct {
	io.Reader
	closed atomic.Int64
}

func (c *closeCounter) Close() error { c.closed.Add(1); return nil }

func TestBodyIsClosedOnce(t *testing.T) {
	s := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })).start()
	each(t, func(t *testing.T, proto string) {
		c := s.client(proto)
		for range 2 {
			b := &closeCounter{Reader: strings.NewReader("body")}
			ask(t, c, request(t, "POST", s.url("/"), b))
			eventually(t, "the body is closed", func() bool { return b.closed.Load() == 1 })
		}
		for name, url := range map[string]string{"no server": "https://127.0.0.1:1/", "no scheme": "gopher://localhost/"} {
			b := &closeCounter{Reader: strings.NewReader("body")}
			if _, err := c.Do(request(t, "POST", url, b)); err == nil {
				t.Errorf("%s: no error", name)
			}
			eventually(t, "the body is closed", func() bool { return b.closed.Load() >= 1 })
		}
	})
}

// rude is a server of HTTP/1.1 that answers one request on each connection, and
// leaves when it has read a second one, with close_notify or without.
func rude(t *testing.T, s *site, notify bool) (url string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.config.NextProtos = nil
	serve := func(carrier net.Conn) {
		defer carrier.Close()
		c := tls.Server(carrier, s.config)
		b := make([]byte, 4096)
		for _, answer := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ""} {
			if n, err := c.Read(b); n == 0 || err != nil {
				return
			}
			io.WriteString(c, answer)
		}
		if notify {
			c.CloseWrite()
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			carrier, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(carrier) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return "https://" + ln.Addr().String() + "/"
}

// A request on a connection of before that the server had just left is sent
// again, whether the server said so or not. That is what net/http does over
// crypto/tls, for which both are io.EOF.
func TestRetriesAreThoseOfNetHTTP(t *testing.T) {
	for _, notify := range []bool{true, false} {
		t.Run(fmt.Sprintf("close_notify=%v", notify), func(t *testing.T) {
			s := newSite(t, nil)
			url := rude(t, s, notify)
			for name, c := range map[string]*http.Client{"aftlshttp": s.client("http/1.1"), "net/http": s.standard("http/1.1")} {
				for i := range 20 {
					if resp, err := c.Get(url); err != nil {
						t.Errorf("%s: request %d: %v", name, i, err)
					} else {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				}
			}
			for name, c := range map[string]*http.Client{"aftlshttp": s.client("http/1.1"), "net/http": s.standard("http/1.1")} {
				failed := 0
				for range 20 {
					// What may have had an effect is not done twice.
					if resp, err := c.Post(url, "text/plain", strings.NewReader("x")); err != nil {
						failed++
					} else {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				}
				if failed != 10 {
					t.Errorf("%s: %d POSTs failed, not every second", name, failed)
				}
				c.CloseIdleConnections()
			}
		})
	}
}

// When the server goes away with GOAWAY, requests go on over a new connection.
func TestHTTP2GoesOnAfterGOAWAY(t *testing.T) {
	s := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // net/http: this stream, and no more
		io.Copy(w, r.Body)
	})).start()
	c := s.client("h2")
	for i := range 50 {
		if _, body := ask(t, c, request(t, "POST", s.url("/"), strings.NewReader("again"))); body != "again" {
			t.Fatalf("request %d: %q", i, body)
		}
	}
}

func TestHandshakeErrors(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe)).start()
	stranger := &http.Client{Transport: aftlshttp.NewTransport(&aftls.Dialer{})}
	_, err := stranger.Get(s.url("/"))
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("unknown authority: %v", err)
	}
	plain := httptest.NewServer(http.HandlerFunc(describe))
	defer plain.Close()
	c := s.client()
	if _, err := c.Get("https://" + plain.Listener.Addr().String()); !errors.Is(err, http.ErrSchemeMismatch) {
		t.Errorf("a server without TLS: %v", err)
	}
	if _, body := get(t, c, plain.URL); body != "no TLS" {
		t.Errorf("http: %q", body)
	}
	ctx, cancel := context.WithCancel(context.Background())
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() {
		if a, err := silent.Accept(); err == nil {
			defer a.Close()
			a.Read(make([]byte, 1)) // the ClientHello has begun
			cancel()
			io.Copy(io.Discard, a)
		}
	}()
	req := request(t, "GET", "https://"+silent.Addr().String(), nil)
	if _, err := c.Do(req.WithContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while shaking hands: %v", err)
	}
}

// A connection that h2 has no room on is not waited for: another one is made.
func TestMoreStreamsThanOneConnectionHas(t *testing.T) {
	h := newHold()
	s := newSite(t, h)
	s.srv.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 2}
	s.start()
	c := s.client("h2")
	var wg sync.WaitGroup
	failed := make(chan struct{}, 7)
	for range 7 {
		wg.Go(func() {
			resp, err := c.Get(s.url("/"))
			if err != nil {
				t.Error(err)
				failed <- struct{}{}
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
		// One after the other, as http2 knows the limit of a connection only when the
		// server's settings have come.
		select {
		case <-h.begun:
		case <-failed:
		}
	}
	close(h.release)
	wg.Wait()
}
