package hostile_test

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/aftlstest/hostile"
)

// inUse is what this process holds, client and server.
func inUse() uint64 {
	runtime.GC()
	runtime.GC() // pools give back at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// echo serves every connection of ln until it is closed.
func echo(t *testing.T, ln net.Listener, serve func(net.Conn) error) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if serve(c) == nil {
					c.(interface{ CloseWrite() error }).CloseWrite()
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
}

func configs(t *testing.T) (server, client *tls.Config) {
	ca := aftlstest.NewCA(t)
	return &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, "localhost")}}, &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"}
}

func TestListener(t *testing.T) {
	server, client := configs(t)
	ln, err := aftls.Listen("tcp", "127.0.0.1:0", server, aftls.Options{})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ln, func(c net.Conn) error { _, err := io.Copy(c, c); return err })
	hostile.Test(t, hostile.Server{Addr: ln.Addr().String(), Config: client, Memory: inUse})
}

// The suite asks for nothing that crypto/tls does not do, given fewer clients.
func TestCryptoTLS(t *testing.T) {
	server, client := configs(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ln, func(c net.Conn) error { _, err := io.Copy(c, c); return err })
	hostile.Test(t, hostile.Server{Addr: ln.Addr().String(), Config: client, Silent: 200, Seed: 2})
}
