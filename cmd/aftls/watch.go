package main

import (
	"crypto/tls"
	"net"

	"github.com/spf13/cobra"
)

// watchFlags are those of a server that can be looked at while it runs.
type watchFlags struct{ tapSocket, topSocket string }

func (f *watchFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.tapSocket, "tap-socket", "", "Unix socket where 'aftls tap' may capture the plaintext of all connections, and 'aftls top' show them")
	c.Flags().StringVar(&f.topSocket, "top-socket", "", "Unix socket where 'aftls top' may show the connections, and nobody their plaintext")
}

// open makes the sockets. They are gone when end returns.
func (f *watchFlags) open(r *roster) (end func(), err error) {
	var open []*watchSocket
	end = func() {
		for _, s := range open {
			s.close()
		}
	}
	for _, s := range []struct {
		flag, path string
		tappable   bool
	}{{"--tap-socket", f.tapSocket, true}, {"--top-socket", f.topSocket, false}} {
		if s.path == "" {
			continue
		}
		socket, err := serveWatch(s.path, s.tappable, r)
		if err != nil {
			end()
			return nil, hint(err, "name a path with %s in a folder of your own, where there is nothing yet", s.flag)
		}
		open = append(open, socket)
	}
	return end, nil
}

// observeFlags are all that a server can be told about who sees its connections.
type observeFlags struct {
	tap     tapFlags
	watch   watchFlags
	metrics string
}

func (f *observeFlags) add(c *cobra.Command) {
	f.tap.add(c)
	f.watch.add(c)
	c.Flags().StringVar(&f.metrics, "metrics", "", "address where http://ADDR/metrics counts for Prometheus, in plaintext and for everybody who reaches it")
}

// open begins what the flags ask for, and returns the listener to take connections
// from, whose Config is config. Everything has ended when end returns.
func (f *observeFlags) open(inner net.Listener, config *tls.Config, r *roster) (ln net.Listener, end func(), err error) {
	if err := f.tap.check(f.watch.tapSocket); err != nil {
		return nil, nil, err
	}
	endMetrics := func() {}
	if f.metrics != "" {
		if endMetrics, err = serveMetrics(f.metrics, r); err != nil {
			return nil, nil, err
		}
	}
	endWatch, err := f.watch.open(r)
	if err != nil {
		endMetrics()
		return nil, nil, err
	}
	ln, endTap, err := f.tap.open(inner, config, r)
	if err != nil {
		endWatch()
		endMetrics()
		return nil, nil, err
	}
	return ln, func() { endTap(); endWatch(); endMetrics() }, nil
}
