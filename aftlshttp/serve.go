// Package aftlshttp is net/http over TLS sockets: a server that speaks HTTP/1.1
// and HTTP/2 on the connections of an aftls.Listener, and a RoundTripper on those
// of an aftls.Dialer. ALPN chooses, as over crypto/tls.
//
// HTTP/1.1 alone needs nothing of this: an aftls.Conn goes into http.Server.Serve
// and http.Transport.DialTLSContext. But up to Go 1.26 net/http begins HTTP/2,
// fills Response.TLS and reports the handshake to httptrace for a *tls.Conn only.
package aftlshttp

import (
	"io"
	"net"
	"net/http"
	"slices"

	"github.com/aftls/aftls"
)

// Values of ALPN (RFC 7301, 6).
const (
	protoHTTP10 = "http/1.0"
	protoHTTP11 = "http/1.1"
	protoHTTP2  = "h2"
)

// Serve serves HTTP with srv on the connections of ln, like srv.Serve: it takes
// ln, ends with an error that is never nil, and that is http.ErrServerClosed
// after srv.Shutdown or srv.Close. Both know every connection: those of HTTP/2,
// handshakes under way and those that were not accepted yet.
//
// The protocol is what the client and ln's tls.Config agreed on: put "h2" and
// "http/1.1" into its NextProtos. HTTP/2 is left out where srv.Protocols, or an
// empty srv.TLSNextProto, says so. A client that agreed on something else, such
// as acme-tls/1, is closed after its handshake, and one that speaks plain HTTP
// is answered with 400. A file that a handler copies to a response in HTTP/1.1
// is read straight into the records.
//
// Serve completes srv.TLSNextProto and srv.Protocols, and wraps srv.ConnState and
// srv.ConnContext, which see every connection as an *aftls.Conn. So it has to be
// called before anything else serves with srv. It may be called for several
// listeners at once.
func Serve(srv *http.Server, ln *aftls.Listener) error {
	h2, err := configure(srv)
	if err != nil {
		ln.Close()
		return err
	}
	ln.AnswerPlaintext(answerPlaintext)
	return srv.Serve(&listener{ln, h2})
}

// listener gives net/http every connection in the form in which it serves its
// protocol.
type listener struct {
	*aftls.Listener
	h2 bool
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err
	}
	switch proto := c.ConnectionState().NegotiatedProtocol; {
	case proto == "", proto == protoHTTP10, proto == protoHTTP11:
		return c, nil
	case proto == protoHTTP2 && l.h2:
		return forHTTP2(c), nil
	}
	return refused{c}, nil
}

// refused is a connection on which nothing is served: to net/http its client
// has left.
type refused struct{ net.Conn }

func (refused) Read([]byte) (int, error) { return 0, io.EOF }

// accepted is the connection that was given to net/http as c.
func accepted(c net.Conn) net.Conn {
	switch w := c.(type) {
	case refused:
		return w.Conn
	case *announced:
		return w.Conn
	case *framed:
		return w.Conn
	}
	return c
}

// methods begin the requests that are answered when they come without TLS.
var methods = []string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH", "CONNE", "TRACE", "PRI *"}

func answerPlaintext(first [5]byte) []byte {
	if !slices.Contains(methods, string(first[:])) {
		return nil
	}
	return []byte("HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" +
		"This port speaks HTTPS only: begin the address with https.\n")
}
