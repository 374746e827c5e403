package aftls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

// streams are what a WriteTo splices to, and one that it has to write to: both ends.
func streams(t *testing.T) map[string]func() (w io.Writer, r io.ReadCloser) {
	accepted := func(network, addr string) (io.Writer, io.ReadCloser) {
		ln, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		a, err := net.Dial(network, ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close(); b.Close() })
		return a, b
	}
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return r, w
	}
	return map[string]func() (io.Writer, io.ReadCloser){
		"TCP":  func() (io.Writer, io.ReadCloser) { return accepted("tcp", "127.0.0.1:0") },
		"Unix": func() (io.Writer, io.ReadCloser) { return accepted("unix", filepath.Join(t.TempDir(), "s")) },
		"pipe": func() (io.Writer, io.ReadCloser) { r, w := pipe(); return w, r },
		// One that nothing waits for: a write blocks in the kernel.
		"blocking pipe": func() (io.Writer, io.ReadCloser) {
			var p [2]int
			if err := syscall.Pipe(p[:]); err != nil {
				t.Fatal(err)
			}
			r, w := os.NewFile(uintptr(p[0]), "r"), os.NewFile(uintptr(p[1]), "w")
			t.Cleanup(func() { r.Close(); w.Close() })
			return w, r
		},
		"no descriptor": func() (io.Writer, io.ReadCloser) {
			r, w := io.Pipe()
			return w, r
		},
	}
}

// WriteTo moves what the kernel has opened, whatever lies between, and loses nothing at
// the end.
func TestKernelWriteTo(t *testing.T) {
	aftlstest.NeedKernel(t)
	for name, stream := range streams(t) {
		t.Run(name, func(t *testing.T) {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				client, server := kernelPair(t, version)
				w, r := stream()
				want := payload(t, 1<<20+777)
				sent := make(chan error, 1)
				go func() {
					var err error
					for i, part := 0, want; len(part) > 0 && err == nil; i++ {
						n := min(len(part), 1+i*7777)
						if _, err = client.Write(part[:n]); err == nil && i%5 == 2 {
							err = client.WriteRecord(record.AlertRecord, []byte{record.LevelWarning, byte(record.UserCanceled)})
						}
						if err == nil && i%5 == 4 && version == tls.VersionTLS13 && aftlstest.KernelRekeys() {
							err = client.Rekey(true)
						}
						part = part[n:]
					}
					sent <- errors.Join(err, client.CloseWrite())
				}()
				ended := make(chan error, 1)
				go func() {
					n, err := server.WriteTo(w)
					if err == nil && n != int64(len(want)) {
						err = io.ErrShortWrite
					}
					ended <- err
				}()
				got := make([]byte, len(want))
				if n, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d of %d bytes came, or others: %v", n, len(want), err)
				}
				if err := errors.Join(<-sent, <-ended); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// ReadFrom of a pipe that blocks, as standard input mostly does, waits for what comes.
func TestKernelReadFromBlockingPipe(t *testing.T) {
	aftlstest.NeedKernel(t)
	client, server := kernelPair(t, tls.VersionTLS13)
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		t.Fatal(err)
	}
	r, w := os.NewFile(uintptr(p[0]), "r"), os.NewFile(uintptr(p[1]), "w")
	defer r.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := server.ReadFrom(r)
		ended <- errors.Join(err, server.CloseWrite())
	}()
	for range 3 {
		if _, err := io.WriteString(w, "some words"); err != nil {
			t.Fatal(err)
		}
		wantLine(t, client, "some words") // and nothing is in the pipe
	}
	w.Close()
	if b, err := io.ReadAll(client); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A writer that fails ends WriteTo with its own error.
func TestKernelWriteToFails(t *testing.T) {
	aftlstest.NeedKernel(t)
	for name, stream := range streams(t) {
		if name == "no descriptor" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			client, server := kernelPair(t, tls.VersionTLS13)
			w, r := stream()
			r.Close()
			go client.Write(payload(t, 8<<20))
			_, err := server.WriteTo(w)
			if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("ended with %v", err)
			}
			client.Close() // or its Write waits
		})
	}
}
