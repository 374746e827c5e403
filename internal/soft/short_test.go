package soft

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// TestShort: a Short moves the bytes of its connection and has its errors, on a
// socket and on what only looks like one.
func TestShort(t *testing.T) {
	for name, pair := range map[string]func(t *testing.T) (net.Conn, net.Conn){"tcp": tcpEnds, "pipe": pipeEnds} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			s := NewShort(a)
			for _, n := range []int{1, 100, smallSize, smallSize + 1, 300 << 10} {
				sent := noise(byte(n), n)
				done := make(chan error, 2)
				go func() {
					m, err := s.Write(sent)
					if m != n && err == nil {
						err = io.ErrShortWrite
					}
					done <- err
				}()
				go func() {
					_, err := io.CopyN(b, b, int64(n)) // back
					done <- err
				}()
				got := make([]byte, n)
				for at := 0; at < n; {
					m, err := s.Read(got[at:min(n, at+1+at)])
					if err != nil {
						t.Fatal(err)
					}
					at += m
				}
				if err := errors.Join(<-done, <-done); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, sent) {
					t.Fatalf("%d bytes differ", n)
				}
			}
			small := make([]byte, 10)
			s.SetReadDeadline(time.Unix(1, 0))
			if n, err := s.Read(small); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d, %v", n, err)
			}
			s.SetDeadline(time.Time{})
			b.Close()
			if n, err := s.Read(small); n != 0 || err != io.EOF {
				t.Errorf("%d, %v", n, err)
			}
			s.Close()
			for op, do := range map[string]func([]byte) (int, error){"read": s.Read, "write": s.Write} {
				if n, err := do(small); n != 0 || !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("%s: %d, %v", op, n, err)
				}
			}
		})
	}
}

func pipeEnds(t *testing.T) (net.Conn, net.Conn) {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func tcpEnds(t *testing.T) (net.Conn, net.Conn) { return tcpPair(t) }
