package aftls_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// A server of files: net/http hands each to Conn.ReadFrom, which reads it
// straight into records.
func ExampleListen() {
	cert, err := tls.LoadX509KeyPair("cert.pem", "key.pem")
	if err != nil {
		log.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	ln, err := aftls.Listen("tcp", ":8443", config, aftls.Options{})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(ln, http.FileServer(http.Dir("public"))))
}

// The dialer fits into http.Transport.
func ExampleDialer() {
	d := &aftls.Dialer{Config: &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(0)}}
	client := &http.Client{Transport: &http.Transport{DialTLSContext: d.DialContext}}
	resp, err := client.Get("https://localhost:8443/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
}

// A living connection moves: nothing is lost, whatever was under way.
func ExampleConn_Detach() {
	move := func(c *aftls.Conn) (*aftls.Conn, error) {
		state, err := c.Detach()
		if err != nil {
			return nil, err
		}
		// For another process: state.MarshalBinary, and the carrier's
		// descriptor over a Unix socket.
		return aftls.Resume(c.NetConn(), state, aftls.Options{})
	}
	_ = move
}

// The record layer alone, with keys from elsewhere.
func ExampleSocket() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	secret := make([]byte, 32) // agreed upon by other means
	keys, err := record.TrafficKeys(tls.TLS_AES_128_GCM_SHA256, secret)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		carrier, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		s := aftls.NewSocket(carrier, aftls.Options{})
		defer s.Close()
		s.SetKeys(aftls.Send, keys)
		s.Write([]byte("hello"))
		s.WriteRecord(record.AlertRecord, []byte{record.LevelWarning, byte(record.CloseNotify)})
	}()
	carrier, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	s := aftls.NewSocket(carrier, aftls.Options{})
	defer s.Close()
	s.SetKeys(aftls.Receive, keys)
	for {
		b := make([]byte, 100)
		typ, n, err := s.ReadRecord(b)
		if err != nil {
			break // io.EOF: the alert came before
		}
		fmt.Printf("%v: %q\n", typ, b[:n])
	}
	// Output:
	// application_data: "hello"
	// alert: "\x01\x00"
}

// Every error says who is to blame.
func ExampleClient() {
	carrier, err := net.Dial("tcp", "localhost:8443")
	if err != nil {
		log.Fatal(err)
	}
	c, err := aftls.Client(context.Background(), carrier, &tls.Config{ServerName: "localhost"}, aftls.Options{RequireSocket: true})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.Info().Send.SuiteName())
}
