package aftlshttp_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlshttp"
	"github.com/coder/websocket"
	"golang.org/x/crypto/acme/autocert"
)

func TestReverseProxy(t *testing.T) {
	back := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body) // HTTP/1.1 has no answer while the request comes
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Trailer", "Sum")
		fmt.Fprintf(w, "%s %s %s", r.Proto, r.Header.Get("X-Forwarded-Proto"), b)
		w.Header().Set("Sum", "42")
	})).start()
	target, err := url.Parse(back.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Transport: aftlshttp.NewTransport(&aftls.Dialer{Config: back.clientConfig()}),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
		},
	}
	t.Cleanup(proxy.Transport.(interface{ CloseIdleConnections() }).CloseIdleConnections)
	front := newSite(t, proxy).start()
	each(t, func(t *testing.T, proto string) {
		text := strings.Repeat("through the proxy ", 10_000)
		resp, body := ask(t, front.client(proto), request(t, "POST", front.url("/"), io.MultiReader(strings.NewReader(text))))
		if body != "HTTP/2.0 https "+text || resp.Trailer.Get("Sum") != "42" {
			t.Errorf("%d bytes, %.30q, trailer %v", len(body), body, resp.Trailer)
		}
	})
}

func TestHijack(t *testing.T) {
	s := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, ok := c.(*aftls.Conn); !ok {
			t.Errorf("a %T", c)
		}
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		io.Copy(c, rw)
	})).start()
	c := s.dial("http/1.1")
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	io.WriteString(c, "after the switch")
	c.CloseWrite()
	if b, err := io.ReadAll(r); err != nil || string(b) != "after the switch" {
		t.Errorf("%q, %v", b, err)
	}
}

// The client offers h2, and still gets HTTP/1.1 for its WebSocket.
func TestWebSocket(t *testing.T) {
	s := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/socket" {
			describe(w, r)
			return
		}
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		for {
			typ, b, err := c.Read(r.Context())
			if err != nil {
				if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
					t.Error(err)
				}
				return
			}
			if err := c.Write(r.Context(), typ, b); err != nil {
				t.Error(err)
				return
			}
		}
	})).start()
	client := s.client()
	if resp, _ := get(t, client, s.url("/")); resp.ProtoMajor != 2 {
		t.Fatalf("the pool has a connection of %s", resp.Proto)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, "wss://"+s.addr+"/socket", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: client.Transport},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if resp.TLS == nil {
		t.Error("Response.TLS is not filled")
	}
	for _, n := range []int{0, 1, 125, 126, 20_000} {
		want := strings.Repeat("w", n)
		if err := c.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != want {
			t.Fatalf("message of %d bytes: %d, %v", n, len(got), err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}

// GetCertificate is asked for every handshake, so certificates can change.
func TestGetCertificate(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe))
	var asked atomic.Int64
	certs := s.config.Certificates
	s.config.Certificates = nil
	s.config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		asked.Add(1)
		if hello.ServerName != "localhost" || hello.Conn == nil {
			t.Errorf("asked for %q, conn %v", hello.ServerName, hello.Conn)
		}
		return &certs[0], nil
	}
	s.start()
	each(t, func(t *testing.T, proto string) { get(t, s.client(proto), s.url("/")) })
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times for two handshakes", n)
	}
}

// memory is a cache of autocert that is filled before.
type memory map[string][]byte

func (m memory) Get(_ context.Context, key string) ([]byte, error) {
	if b, ok := m[key]; ok {
		return b, nil
	}
	return nil, autocert.ErrCacheMiss
}
func (m memory) Put(context.Context, string, []byte) error { return nil }
func (m memory) Delete(context.Context, string) error      { return nil }

func TestAutocert(t *testing.T) {
	s := newSite(t, http.HandlerFunc(describe))
	m := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		HostPolicy: autocert.HostWhitelist("example.test"),
		Cache:      memory{"example.test": cached(t, s.ca.Leaf(t, "example.test"))},
	}
	s.config = m.TLSConfig()
	s.start()
	config := s.clientConfig("h2")
	config.ServerName = "example.test"
	c := &http.Client{Transport: aftlshttp.NewTransport(&aftls.Dialer{Config: config}), Timeout: patience}
	t.Cleanup(c.CloseIdleConnections)
	if _, body := get(t, c, s.url("/")); body != "HTTP/2 h2 example.test true" {
		t.Errorf("%q", body)
	}
	// How a certificate authority looks: a handshake, and nothing after it.
	config = s.clientConfig("acme-tls/1")
	config.ServerName = "other.test"
	if c, err := tls.Dial("tcp", s.addr, config); err == nil {
		c.Close()
		t.Error("a name that nobody allowed got a certificate")
	}
}

// The lines that change: Listen, and Serve.
func ExampleServe() {
	m := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		HostPolicy: autocert.HostWhitelist("example.com"),
		Cache:      autocert.DirCache("/var/lib/example/certs"),
	}
	ln, err := aftls.Listen("tcp", ":443", m.TLSConfig(), aftls.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &http.Server{Handler: http.FileServer(http.Dir("public")), ReadHeaderTimeout: 10 * time.Second}
	fmt.Println(aftlshttp.Serve(srv, ln))
}

func ExampleNewTransport() {
	client := &http.Client{Transport: aftlshttp.NewTransport(&aftls.Dialer{
		Config: &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(0)},
	})}
	resp, err := client.Get("https://example.com/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Proto, resp.TLS.CipherSuite)
}

// A proxy that speaks to its clients and to its backend over TLS sockets.
func ExampleServe_reverseProxy() {
	backend, err := url.Parse("https://backend.internal:8443")
	if err != nil {
		fmt.Println(err)
		return
	}
	proxy := &httputil.ReverseProxy{
		Transport: aftlshttp.NewTransport(new(aftls.Dialer)),
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(backend) },
	}
	cert, err := tls.LoadX509KeyPair("cert.pem", "key.pem")
	if err != nil {
		fmt.Println(err)
		return
	}
	ln, err := aftls.Listen("tcp", ":443", &tls.Config{
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"h2", "http/1.1"},
	}, aftls.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(aftlshttp.Serve(&http.Server{Handler: proxy}, ln))
}
