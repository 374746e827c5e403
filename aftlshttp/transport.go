package aftlshttp

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/aftls/aftls"
	"golang.org/x/net/http2"
	"golang.org/x/net/idna"
)

// As in http.DefaultTransport.
const (
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second
	continueTimeout  = time.Second
	idleConns        = 100
)

// errHTTP2 says that a connection was made, and is in the pool of HTTP/2.
var errHTTP2 = errors.New("aftlshttp: the server speaks HTTP/2")

// NewTransport returns a RoundTripper whose connections d makes, with the limits
// of http.DefaultTransport, for any number of goroutines. ALPN chooses between
// HTTP/1.1 and HTTP/2; where d.Config names no protocols it offers both. It fills
// Response.TLS, reports the handshake to httptrace, and repeats requests where a
// http.Transport over crypto/tls does. It knows no proxies. Requests to http://
// addresses go over connections of d.NetDialer.
//
// What it returns has CloseIdleConnections, which http.Client calls.
func NewTransport(d *aftls.Dialer) http.RoundTripper {
	t := &transport{dialer: d}
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetHTTP2(native)
	t.http1 = &http.Transport{
		DialContext:           t.dialCarrier,
		DialTLSContext:        t.dial,
		Protocols:             both,
		MaxIdleConns:          idleConns,
		IdleConnTimeout:       idleTimeout,
		ExpectContinueTimeout: continueTimeout,
	}
	if !native {
		t.pool = newPool()
	}
	return t
}

// transport sends a request over HTTP/2 where the pool has a connection for it,
// and else by an http.Transport, whose dialling may find that the server speaks
// HTTP/2: then the connection is in the pool, and the request goes there.
type transport struct {
	dialer *aftls.Dialer
	http1  *http.Transport // both protocols, if native
	pool   *pool           // nil if native
}

// Keys of what a request's context tells about it.
type (
	onlyHTTP1 struct{} // to dial: the request needs it
	leads     struct{} // to dial: a func to call when it is known how the server speaks
	traced    struct{} // to the pool: GetConn was reported before
	reserved  struct{} // to the pool: a *reservation
)

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil || req.URL.Scheme != "https" {
		return t.http1.RoundTrip(req)
	}
	ctx := req.Context()
	upgrade := upgrades(req)
	if upgrade {
		ctx = context.WithValue(ctx, onlyHTTP1{}, true)
	}
	s := sending{req: req, ctx: ctx}
	try := s.first()
	alone := false // it waits for nobody
	for {
		release := func() {}
		if !upgrade && t.pool != nil {
			addr := address(req.URL)
			if c := t.pool.reserve(addr); c != nil {
				resp, err := t.pool.roundTrip(try, c)
				if err != http2.ErrNoCachedConn {
					return s.last(resp), err
				}
				if try, err = s.again(true); err != nil { // it was sent, and came back
					return nil, err
				}
			}
			if !alone {
				var wait *finding
				if release, wait = t.pool.lead(addr); wait != nil {
					select {
					case <-wait.done:
						alone = !wait.http2
						continue
					case <-ctx.Done():
						s.abandon()
						return nil, context.Cause(ctx)
					}
				}
			}
		}
		resp, err, left := t.overHTTP1(try, release)
		if err == errHTTP2 {
			s.ctx = context.WithValue(ctx, traced{}, true)
		} else if !left || !replayable(req) {
			return s.last(resp), err
		}
		if try, err = s.again(left); err != nil {
			return nil, err
		}
	}
}

// overHTTP1 is http1.RoundTrip. left says that the server had left a connection
// of before without close_notify, and net/http takes this for a failure. From
// crypto/tls it would have got io.EOF, and sent the request again.
// release is called when it has a connection, or there will be none.
func (t *transport) overHTTP1(req *http.Request, release func()) (resp *http.Response, err error, left bool) {
	defer release()
	var got httptrace.GotConnInfo
	var begun atomic.Bool
	ctx := context.WithValue(req.Context(), leads{}, release)
	resp, err = t.http1.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(i httptrace.GotConnInfo) { got = i; release() },
		GotFirstResponseByte: func() { begun.Store(true) },
	})))
	if c, ok := got.Conn.(*aftls.Conn); ok && err == nil && resp.TLS == nil {
		state := c.ConnectionState()
		resp.TLS = &state
	}
	_, truncated := errors.AsType[*aftls.TruncatedError](err)
	return resp, err, truncated && got.Reused && !begun.Load()
}

// CloseIdleConnections closes the connections on which nothing is going on.
func (t *transport) CloseIdleConnections() {
	t.http1.CloseIdleConnections()
	if t.pool != nil {
		t.pool.closeIdle()
	}
}

// address is the host and port under which the connections for u are kept.
func address(u *url.URL) string {
	host, port := u.Hostname(), u.Port()
	if ascii, err := idna.Lookup.ToASCII(host); err == nil && ascii != "" && strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) {
		host = ascii
	}
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(host, port)
}

func (t *transport) dialCarrier(ctx context.Context, network, addr string) (net.Conn, error) {
	d := t.dialer.NetDialer
	if d == nil {
		d = new(net.Dialer)
	}
	return d.DialContext(ctx, network, addr)
}

// dial makes a connection for net/http, or errHTTP2.
func (t *transport) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if release, ok := ctx.Value(leads{}).(func()); ok {
		defer release()
	}
	carrier, err := t.dialCarrier(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	trace := httptrace.ContextClientTrace(ctx)
	if native {
		trace = nil // net/http reports it
	}
	if trace != nil && trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	c, err := aftls.Client(ctx, carrier, t.config(ctx, addr), t.dialer.Options)
	var state tls.ConnectionState
	if err == nil {
		state = c.ConnectionState()
	}
	if trace != nil && trace.TLSHandshakeDone != nil {
		trace.TLSHandshakeDone(state, err)
	}
	if err != nil {
		// http.Client knows this one when it is not wrapped.
		if e, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			return nil, e
		}
		return nil, err
	}
	if state.NegotiatedProtocol == protoHTTP2 && !native {
		if err := t.pool.add(addr, c); err != nil {
			return nil, err
		}
		return nil, errHTTP2
	}
	if !native {
		t.pool.speaksHTTP1(addr)
	}
	return c, nil
}

// config is the Config for one connection.
func (t *transport) config(ctx context.Context, addr string) *tls.Config {
	config := t.dialer.Config.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		config.ServerName = host
	}
	if ctx.Value(onlyHTTP1{}) != nil {
		config.NextProtos = nil
	} else if config.NextProtos == nil {
		config.NextProtos = []string{protoHTTP2, protoHTTP11}
	}
	return config
}

// upgrades reports whether req asks for WebSocket, which this client's HTTP/2
// has no way for. net/http decides likewise.
func upgrades(req *http.Request) bool {
	return strings.EqualFold(req.Header.Get("Upgrade"), "websocket") &&
		strings.Contains(strings.ToLower(req.Header.Get("Connection")), "upgrade")
}

// replayable reports whether sending req twice does what sending it once does,
// as net/http sees it.
func replayable(req *http.Request) bool {
	if req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		return false
	}
	switch req.Method {
	case "", "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}
