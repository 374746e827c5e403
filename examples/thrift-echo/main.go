// Thrift-echo is a Thrift service over TLS, on one connection for many callers:
//
//	service Echo {
//	  string echo(1: string text)  // returns text
//	  string wait(1: string text)  // returns when somebody calls echo with this text
//	}
//
// in the binary protocol with framed transport. A server that handles one call of
// a connection after the other would never answer a wait whose echo comes over the
// same connection; this one answers calls as they are done. client.py is many
// callers on one connection, with Debian's python3-thrift:
//
//	thrift-echo -listen 127.0.0.1:9090 -cert cert.pem -key key.pem
//	python3 client.py localhost 9090 cert.pem
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/kcm"
)

const (
	// patience is how long the calls that have come may take at the end.
	patience = 15 * time.Second

	// calls is how many are handled at once. Those that wait count too.
	calls = 64

	// longest is how long a message may be, in bytes.
	longest = 1 << 20
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "thrift-echo:", err)
		os.Exit(1)
	}
}

// run is the whole program. It ends in good order when ctx is done.
func run(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("thrift-echo", flag.ContinueOnError)
	addr := f.String("listen", ":9090", "`address` to listen on")
	cert := f.String("cert", "cert.pem", "`file` with the certificate chain, PEM")
	key := f.String("key", "key.pem", "`file` with its key, PEM")
	if err := f.Parse(args); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	l, err := aftls.Listen("tcp", *addr, &tls.Config{Certificates: []tls.Certificate{pair}}, aftls.Options{})
	if err != nil {
		return err
	}
	e := newEcho()
	s := &kcm.Server{Framer: kcm.Thrift, Handler: e.handle, Workers: calls, Config: kcm.Config{MaxMessage: longest, Ended: ended}}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	fmt.Fprintln(out, "listening", l.Addr())
	select {
	case err := <-served:
		s.Close()
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err = s.Shutdown(end)
	if err := <-served; err != net.ErrClosed {
		return err
	}
	return err
}

// ended logs connections that did not end as they should. Python's ssl leaves
// without close_notify.
func ended(c *kcm.Conn, err error) {
	if err != io.EOF && err != net.ErrClosed && !errors.Is(err, io.ErrUnexpectedEOF) {
		log.Printf("%v: %v", c.NetConn().RemoteAddr(), err)
	}
}
