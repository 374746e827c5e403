// Dot is a DNS-over-TLS server (RFC 7858): it answers out of a zone file, or
// asks another server. Queries of one connection are handled at once, and
// answered as the answers are ready (RFC 7766, 6.2.1.1).
//
//	dot -cert cert.pem -key key.pem -zone example.org.zone
//	dot -cert cert.pem -key key.pem -upstream 192.0.2.1:53
//	kdig @127.0.0.1 -p 853 +tls example.org
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
	"github.com/aftls/aftls/examples/dot/dotserver"
	"github.com/aftls/aftls/kcm"
	"github.com/miekg/dns"
)

const (
	// patience is how long the queries that have come may take at the end.
	patience = 10 * time.Second

	// asking is how many queries wait for another server at once.
	asking = 256

	// idle is how long a client may keep a connection without a query (RFC 7766,
	// 6.2.3).
	idle = 30 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "dot:", err)
		os.Exit(1)
	}
}

// run is the whole program. It ends in good order when ctx is done.
func run(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("dot", flag.ContinueOnError)
	addr := f.String("listen", ":853", "`address` to listen on")
	cert := f.String("cert", "cert.pem", "`file` with the certificate chain, PEM")
	key := f.String("key", "key.pem", "`file` with its key, PEM")
	zoneFile := f.String("zone", "", "zone `file` to answer from")
	other := f.String("upstream", "", "`address` of a server to ask")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 || (*zoneFile == "") == (*other == "") {
		return errors.New("one of -zone and -upstream has to be given, and nothing else")
	}
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	workers := 0
	var h dns.Handler
	if *other != "" {
		workers, h = asking, newUpstream(*other)
	} else if h, err = loadZone(*zoneFile); err != nil {
		return err
	}
	l, err := aftls.Listen("tcp", *addr, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"dot"}}, aftls.Options{})
	if err != nil {
		return err
	}
	s := dotserver.New(h, workers)
	s.Config = kcm.Config{MaxMessage: 2 + dns.MaxMsgSize, IdleTimeout: idle, Ended: ended}
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

// ended logs connections that did not end as they should. Many clients leave
// without close_notify, between two messages or inside one.
func ended(c *kcm.Conn, err error) {
	if err != io.EOF && err != net.ErrClosed && err != kcm.ErrIdle && !errors.Is(err, io.ErrUnexpectedEOF) {
		log.Printf("%v: %v", c.NetConn().RemoteAddr(), err)
	}
}
