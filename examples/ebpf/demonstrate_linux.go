package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/aftls/aftls"
)

// demonstrate has a client write three messages over TLS to a program whose
// plaintext end is guarded.
func demonstrate(w io.Writer) error {
	v, err := NewVerdict()
	if err != nil {
		return err
	}
	defer v.Close()
	client, end, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	defer end.Close()
	redirected, err := v.Guard(end)
	if err != nil {
		return err
	}
	defer redirected.Close()
	for _, step := range []struct {
		message string
		from    *os.File
		who     string
	}{{"Pass this", end, "the program"}, {"Redirect this", redirected, "somebody else"}} {
		if _, err := client.Write([]byte(step.message)); err != nil {
			return err
		}
		b := make([]byte, 100)
		n, err := guardedFile{step.from}.Read(b)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%-15q %s reads %q\n", step.message, step.who, b[:n])
	}
	// Of what is dropped nobody sees anything: next comes the end.
	const message = "Drop this"
	if _, err := client.Write([]byte(message)); err != nil {
		return err
	}
	if err := client.CloseWrite(); err != nil {
		return err
	}
	b, err := io.ReadAll(guardedFile{end})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%-15q the program reads %q, and then the end\n", message, b)
	return nil
}

// guardedFile reads from a descriptor that is in a sockmap. There Linux answers
// EAGAIN to a read that waits, too, when it is woken for something that the
// program dropped.
type guardedFile struct{ f *os.File }

func (g guardedFile) Read(p []byte) (n int, err error) {
	for {
		if n, err = g.f.Read(p); !errors.Is(err, syscall.EAGAIN) {
			return n, err
		}
	}
}

// connect returns a client's TLS connection, and the plaintext end of the server's.
func connect() (*aftls.Conn, *os.File, error) {
	cert, pool, err := certificate()
	if err != nil {
		return nil, nil, err
	}
	ln, err := aftls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}}, aftls.Options{RequireSocket: true})
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	carrier, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	client, err := aftls.Client(context.Background(), carrier, &tls.Config{RootCAs: pool, ServerName: "ebpf.example"}, aftls.Options{RequireSocket: true})
	if err != nil {
		return nil, nil, err
	}
	server, err := ln.AcceptConn()
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	end, err := server.PlaintextFile()
	if err != nil {
		client.Close()
		server.Close()
		return nil, nil, err
	}
	return client, end, nil
}

// certificate makes one that lives as long as the program.
func certificate() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"ebpf.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool, nil
}
