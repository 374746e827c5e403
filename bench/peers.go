package bench

import (
	"crypto/tls"
	"fmt"
	"net"

	"github.com/aftls/aftls"
)

// peer is one implementation that is measured.
type peer struct {
	name string

	// listen returns the server's listener. What it accepts is served with
	// the same code for every peer. failed is told of handshakes that ended
	// before Accept.
	listen func(inner net.Listener, config *tls.Config, failed func(error)) net.Listener
}

// peers are all of them; ratios are those of the first over each of the others.
var peers = []peer{
	{
		name: "aftls",
		listen: func(inner net.Listener, config *tls.Config, failed func(error)) net.Listener {
			return aftls.NewListener(inner, config, aftls.Options{
				RequireSocket:  true,
				HandshakeError: func(_ net.Addr, err error) { failed(err) },
			})
		},
	},
	{
		name: "crypto/tls",
		listen: func(inner net.Listener, config *tls.Config, _ func(error)) net.Listener {
			return tls.NewListener(inner, config)
		},
	},
}

func peerNames() (names []string) {
	for _, p := range peers {
		names = append(names, p.name)
	}
	return names
}

func findPeer(name string) (peer, error) {
	for _, p := range peers {
		if p.name == name {
			return p, nil
		}
	}
	return peer{}, fmt.Errorf("no peer %q", name)
}
