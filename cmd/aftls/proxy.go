package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
	"github.com/spf13/cobra"
)

// backendTimeout is how long the backend may take to accept a connection.
const backendTimeout = 10 * time.Second

type proxyFlags struct {
	listen  string
	to      []string
	program string
	alpn    []string
	header  bool
	observe observeFlags
	serverFlags
}

func proxyCommand() *cobra.Command {
	var f proxyFlags
	c := &cobra.Command{
		Use:   "proxy --to ADDR [--to ADDR... --select PROGRAM]",
		Short: "take TLS from clients and pass on plaintext to a backend",
		Long: `Accepts TLS connections and connects each to a backend in plaintext, over TCP or
a Unix socket. Both directions end on their own: the client's close_notify
becomes the end of the stream to the backend, and the other way round. A stream
that was cut off is cut off on the other side too, never ended cleanly: the
backend sees a reset, and the client a fatal alert.

With --proxy-protocol the backend is first told who the client is, and what it
agreed on: version 2 of the PROXY protocol, with the TLS version, the suite, the
name that the client asked for, and ALPN. When ready, one line goes to stdout:
"listening ADDR". The log, one line for each connection, goes to stderr.

With --select a program looks at the first record of each client and names one of
several backends, of which the first is 0: SELECT(1) is the second --to. A client
that sends nothing for 10 seconds is closed, so this is for protocols in which the
client speaks first. Rules are 'EXPRESSION -> VERDICT', with ; between them; the first
that matches decides, and docs/filter.md has the language. PASS is backend 0; DROP,
KILL, and no match refuse the client.

--tap and --tap-socket make the plaintext of all connections readable for whoever
can read the file or open the socket, which are made with mode 0600. They are off
by default, and the log says when they are on. --top-socket and --metrics show
counters, and the socket addresses.

Without --cert a development certificate is made, as by 'aftls serve'. SIGINT or
SIGTERM ends it after the connections under way, in 30 seconds at most, a second
one at once. SIGHUP reads the certificate again.`,
		Example: "  aftls proxy --listen :443 --cert c.pem --key k.pem --to 127.0.0.1:8080\n  aftls proxy --listen :443 --cert c.pem --key k.pem --to unix:/run/app.sock --proxy-protocol" +
			"\n  aftls proxy --to 127.0.0.1:8080 --to 127.0.0.1:2222 --select 'data[0:4] = 0x5353482d -> SELECT(1); -> SELECT(0)'",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return runProxy(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), f)
		},
	}
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:8443", "address to listen on, or unix:PATH; port 0 takes a free one")
	c.Flags().StringArrayVar(&f.to, "to", nil, "address of a backend, or unix:PATH; several of them with --select")
	c.MarkFlagRequired("to")
	c.Flags().StringVar(&f.program, "select", "", "what picks the backend by the first record: rules, an expression, or the output of tcpdump -y RAW -ddd")
	c.Flags().StringSliceVar(&f.alpn, "alpn", nil, "application protocols that the backend speaks, best first")
	c.Flags().BoolVar(&f.header, "proxy-protocol", false, "tell the backend of the client by the PROXY protocol, version 2")
	f.observe.add(c)
	f.serverFlags.add(c)
	return c
}

func runProxy(ctx context.Context, stdout, stderr io.Writer, f proxyFlags) error {
	handler, err := logHandler(f.logFormat, stderr)
	if err != nil {
		return err
	}
	logger := slog.New(handler)
	p := &proxy{header: f.header, to: f.to}
	for _, to := range f.to {
		if network, addr := networkOf(to); network == "tcp" {
			if _, _, err := net.SplitHostPort(addr); err != nil {
				return hint(fmt.Errorf("--to: %w", err), "name the port too, as in localhost:8080, or a socket as in unix:/run/app.sock")
			}
		}
	}
	if p.selector, err = newSelector(f.program, len(f.to)); err != nil {
		return err
	}
	certs, err := newCertificates(f.cert, f.key, stderr)
	if err != nil {
		return err
	}
	config := &tls.Config{GetCertificate: certs.get, MinVersion: uint16(f.minVersion), NextProtos: f.alpn}
	roster := newRoster("proxy", logger)
	s, err := listenStreams(f.listen, config, f.provider, f.observe, roster)
	if err != nil {
		return err
	}
	s.handle = func(c *aftls.Conn) {
		since := time.Now()
		roster.begin(c)
		r := p.relay(c)
		tapped := c.Info().Tapped
		roster.end(c)
		ended(logger, c, since, r.err, "backend", r.to, "bytes_sent", r.sent, "bytes_received", r.received, "tapped", tapped)
	}
	return s.serve(ctx, stdout, certs, logger)
}

// proxy connects TLS clients to a backend.
type proxy struct {
	to       []string  // backends
	selector *selector // nil: there is one
	header   bool
}

// backend is a TCP or Unix connection to the backend.
type backend interface {
	net.Conn
	CloseWrite() error
}

// relayed is what came of a connection.
type relayed struct {
	to             string // the backend
	sent, received int64  // bytes, to and from the client
	err            error
}

// relay moves bytes between c and a new connection to a backend, until both
// directions have ended, and closes c.
func (p *proxy) relay(c *aftls.Conn) (r relayed) {
	defer c.Close()
	first := noRecord
	if p.selector != nil {
		var n int
		if n, first, r.err = p.selector.choose(c); r.err != nil {
			return r
		}
		r.to = p.to[n]
	} else {
		r.to = p.to[0]
	}
	b, err := p.dial(c, r.to)
	if err != nil {
		first.drop()
		refuse(c)
		r.err = fmt.Errorf("backend: %w", err)
		return r
	}
	defer b.Close()
	up := make(chan error, 1)
	go func() {
		var err error
		if len(first.data) > 0 {
			var n int
			n, err = b.Write(first.data)
			r.received = int64(n)
			first.drop()
		}
		if err == nil {
			var n int64
			n, err = c.WriteTo(b)
			r.received += n
		}
		switch {
		case err == nil:
			b.CloseWrite() // if that fails, reading from it fails too
		case !ofClient(err, "read"): // the backend takes no more, and may still answer
			err = fmt.Errorf("backend: %w", err)
		default:
			reset(b)
		}
		up <- err
	}()
	var down error
	r.sent, down = c.ReadFrom(b)
	if down == nil {
		down = c.CloseWrite()
	}
	if down != nil {
		if !ofClient(down, "write", "close") {
			refuse(c)
			down = fmt.Errorf("backend: %w", down)
		}
		reset(b)
		c.Close() // which wakes the other direction
	}
	// What failed first made the other direction fail.
	if r.err = <-up; r.err == nil || errors.Is(r.err, net.ErrClosed) {
		r.err = down
	}
	return r
}

// ofClient reports whether the error of a copy is the client's connection's, which did
// one of these, and not the backend's.
func ofClient(err error, ops ...string) bool {
	e, ok := errors.AsType[*net.OpError](err)
	return ok && slices.Contains(ops, e.Op)
}

// refuse ends a connection whose backend failed: nobody must take what came so
// far for all.
func refuse(c *aftls.Conn) {
	c.SetWriteDeadline(time.Now().Add(time.Second))
	if c.WriteRecord(record.AlertRecord, []byte{record.LevelFatal, byte(record.InternalError)}) != nil {
		c.NetConn().Close()
	}
}

// reset closes a connection in a way that is no clean end.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

func (p *proxy) dial(c *aftls.Conn, to string) (backend, error) {
	network, addr := networkOf(to)
	nc, err := net.DialTimeout(network, addr, backendTimeout)
	if err != nil {
		return nil, err
	}
	if p.header {
		h, err := proxyHeader(c)
		if err == nil {
			_, err = nc.Write(h)
		}
		if err != nil {
			nc.Close()
			return nil, err
		}
	}
	return nc.(backend), nil
}

// proxyHeader is what the backend is told of c first (PROXY protocol, 2.2).
func proxyHeader(c *aftls.Conn) ([]byte, error) {
	cs := c.ConnectionState()
	ssl := tlvparse.PP2SSL{
		Client: tlvparse.PP2_BITFIELD_CLIENT_SSL,
		Verify: 1, // no certificate is asked for
		TLV: []proxyproto.TLV{
			{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte(tls.VersionName(cs.Version))},
			{Type: proxyproto.PP2_SUBTYPE_SSL_CIPHER, Value: []byte(tls.CipherSuiteName(cs.CipherSuite))},
		},
	}
	tlv, err := ssl.Marshal()
	if err != nil {
		return nil, err
	}
	tlvs := []proxyproto.TLV{tlv}
	if cs.NegotiatedProtocol != "" {
		tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_ALPN, Value: []byte(cs.NegotiatedProtocol)})
	}
	if cs.ServerName != "" {
		tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte(cs.ServerName)})
	}
	h := proxyproto.HeaderProxyFromAddrs(2, c.RemoteAddr(), c.LocalAddr())
	if err := h.SetTLVs(tlvs); err != nil {
		return nil, err
	}
	return h.Format()
}
