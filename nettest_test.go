package aftls_test

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"golang.org/x/net/nettest"
)

// carriers are what the connections of these tests run on.
var carriers = map[string]func(t *testing.T) (a, b net.Conn){
	"TCP":           func(t *testing.T) (a, b net.Conn) { return tcpPair(t) },
	"link":          func(t *testing.T) (a, b net.Conn) { return aftlstest.NewLink(0) },
	"link in parts": func(t *testing.T) (a, b net.Conn) { return aftlstest.NewLink(20) },
}

// Both ends are ours, and the client is the first and the second in turn.
func TestNettest(t *testing.T) {
	kinds := []struct {
		name     string
		provider aftls.Provider
		set      func(ccfg, scfg *tls.Config)
	}{
		{"TLS 1.2", aftls.Soft, func(ccfg, _ *tls.Config) { ccfg.MaxVersion = tls.VersionTLS12 }},
		{"TLS 1.3", aftls.Soft, func(ccfg, _ *tls.Config) { ccfg.MinVersion = tls.VersionTLS13 }},
		{"passthrough", aftls.Passthrough, cbcOnly},
	}
	for _, k := range kinds {
		for name, carrier := range carriers {
			t.Run(k.name+" on "+name, func(t *testing.T) {
				ccfg, scfg := configs(t)
				k.set(ccfg, scfg)
				clientFirst := false
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					a, b := carrier(t)
					opt := aftls.Options{Provider: k.provider}
					if k.provider == aftls.Passthrough {
						opt.Provider = aftls.Auto
					}
					client, server := handshakePair(t, a, b, ccfg, scfg, opt)
					if got := client.Info().Send.Provider; got != k.provider {
						t.Fatalf("provider %v, want %v", got, k.provider)
					}
					stop = func() { client.Close(); server.Close() }
					if clientFirst = !clientFirst; clientFirst {
						return client, server, stop, nil
					}
					return server, client, stop, nil
				})
			})
		}
	}
}

// The link of the test kit is a net.Conn itself.
func TestLinkIsANetConn(t *testing.T) {
	for _, seed := range []uint64{0, 1, 2} {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			a, b := aftlstest.NewLink(seed)
			return a, b, func() { a.Close(); b.Close() }, nil
		})
	}
}
