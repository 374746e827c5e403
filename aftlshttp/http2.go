//nolint:staticcheck // x/net/http2 is deprecated in favour of Go 1.27, whose net/http does this by itself
package aftlshttp

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/aftls/aftls"
	"golang.org/x/net/http2"
)

// How a connection that is not a *tls.Conn comes to HTTP/2 and still belongs to
// its http.Server, whose Shutdown and Close count it.
//
// From Go 1.27 on net/http does it by itself (native). Before, it knows HTTP/2 on
// a connection without TLS, if the server allows it: the client begins with the
// preface, and the connection is handed to TLSNextProto["unencrypted_http2"],
// which is how net/http and x/net/http2 find each other. So the connection hides
// its ConnectionState and announces itself with a preface of ours. Our function
// in TLSNextProto takes it back, and serves what is in it, where the client's
// preface is still unread, with x/net/http2, which asks it for its TLS state.

const (
	unencrypted = "unencrypted_http2"
	configured  = "aftlshttp" // a key in TLSNextProto: no name in ALPN
)

// configuring is held by who changes a server.
var configuring sync.Mutex

// configure prepares srv once, and reports whether it serves HTTP/2.
func configure(srv *http.Server) (h2 bool, err error) {
	configuring.Lock()
	defer configuring.Unlock()
	if _, done := srv.TLSNextProto[configured]; done {
		return srv.Protocols.HTTP2(), nil
	}
	if srv.Protocols != nil {
		h2 = srv.Protocols.HTTP2()
	} else {
		h2 = srv.TLSNextProto == nil || srv.TLSNextProto[protoHTTP2] != nil
	}
	if h2 && native {
		if srv.TLSNextProto[protoHTTP2] == nil {
			err = http2.ConfigureServer(srv, nil)
		}
	} else if h2 {
		err = configureHTTP2(srv)
	}
	if err != nil {
		return false, err
	}
	protocols(srv).SetHTTP2(h2)
	if srv.TLSNextProto == nil {
		srv.TLSNextProto = make(map[string]func(*http.Server, *tls.Conn, http.Handler))
	}
	srv.TLSNextProto[configured] = nil
	if hook := srv.ConnState; hook != nil {
		srv.ConnState = func(c net.Conn, s http.ConnState) { hook(accepted(c), s) }
	}
	if hook := srv.ConnContext; hook != nil {
		srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return hook(ctx, accepted(c)) }
	}
	return h2, nil
}

// protocols is srv.Protocols, set and not shared with anybody.
func protocols(srv *http.Server) *http.Protocols {
	p := new(http.Protocols)
	if srv.Protocols != nil {
		*p = *srv.Protocols
	} else {
		p.SetHTTP1(true)
	}
	srv.Protocols = p
	return p
}

func configureHTTP2(srv *http.Server) error {
	// The HTTP/2 server is configured for a http.Server that only passes on
	// Shutdown: srv may have another one, for its *tls.Conns.
	h2 := new(http2.Server)
	relay := &http.Server{IdleTimeout: srv.IdleTimeout, ReadTimeout: srv.ReadTimeout}
	if err := http2.ConfigureServer(relay, h2); err != nil {
		return err
	}
	srv.RegisterOnShutdown(func() { relay.Shutdown(context.Background()) })
	if srv.TLSNextProto == nil {
		srv.TLSNextProto = make(map[string]func(*http.Server, *tls.Conn, http.Handler))
	}
	if srv.TLSNextProto[protoHTTP2] == nil {
		srv.TLSNextProto[protoHTTP2] = relay.TLSNextProto[protoHTTP2]
	}
	others := srv.TLSNextProto[unencrypted]
	if p := protocols(srv); !p.UnencryptedHTTP2() {
		others = nil
		p.SetUnencryptedHTTP2(true)
	} else if others == nil {
		others = relay.TLSNextProto[unencrypted]
	}
	srv.TLSNextProto[unencrypted] = func(srv *http.Server, wrapped *tls.Conn, h http.Handler) {
		u, ok := wrapped.NetConn().(interface{ UnencryptedNetConn() net.Conn })
		if !ok {
			return // net/http closes it
		}
		c, ok := u.UnencryptedNetConn().(*announced)
		if !ok {
			if others != nil {
				others(srv, wrapped, h)
			}
			return
		}
		opts := &http2.ServeConnOpts{BaseConfig: srv, Handler: h}
		if b, ok := h.(interface{ BaseContext() context.Context }); ok {
			opts.Context = b.BaseContext()
		}
		h2.ServeConn(c.conn, opts)
	}
	return nil
}

// announced is a connection that begins with the preface of HTTP/2 and has no
// ConnectionState. Nothing but the preface is read through it.
type announced struct {
	net.Conn // the same
	conn     *framed
	preface  string // the rest of it
}

func (c *announced) Read(p []byte) (int, error) {
	n := copy(p, c.preface)
	if c.preface = c.preface[n:]; n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// forHTTP2 is c as net/http takes it for HTTP/2.
func forHTTP2(c *aftls.Conn) net.Conn {
	if native {
		return newFramed(c)
	}
	return &announced{c, newFramed(c), http2.ClientPreface}
}
