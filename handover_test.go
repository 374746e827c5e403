package aftls_test

import (
	"bytes"
	"context"
	"crypto/fips140"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls"
)

// What internal/handover pins for the keys is pinned here for connections: what
// a peer sends right behind its handshake, tickets that fill several records,
// and GODEBUG=fips140.

// holding is a carrier that sends its first writes at once, and all that follows in
// one piece with the end of the stream behind it.
type holding struct {
	*net.TCPConn
	pass int
	held []byte
}

func (h *holding) Write(p []byte) (int, error) {
	if h.pass > 0 {
		h.pass--
		return h.TCPConn.Write(p)
	}
	h.held = append(h.held, p...)
	return len(p), nil
}

// SetWriteDeadline ignores that crypto/tls lets no write pass behind close_notify.
func (h *holding) SetWriteDeadline(time.Time) error { return nil }

// let sends what was held.
func (h *holding) let() error {
	if _, err := h.TCPConn.Write(h.held); err != nil {
		return err
	}
	return h.TCPConn.CloseWrite()
}

// TestEarlyClient sends Finished, a request, close_notify and FIN at once.
func TestEarlyClient(t *testing.T) {
	for _, tt := range []struct {
		name    string
		version uint16
		resumed bool // in a full TLS 1.2 handshake the server has the last word
	}{{"TLS 1.3", tls.VersionTLS13, false}, {"TLS 1.3 resumed", tls.VersionTLS13, true}, {"TLS 1.2 resumed", tls.VersionTLS12, true}} {
		for _, n := range []int{5, 100_000} {
			t.Run(fmt.Sprintf("%s/%d bytes", tt.name, n), func(t *testing.T) {
				ccfg, scfg := configs(t)
				ccfg.MaxVersion, ccfg.ClientSessionCache = tt.version, tls.NewLRUClientSessionCache(1)
				s := serve(t, scfg, aftls.Options{}, echo)
				request := payload(t, n)
				ask := func(pass int) *tls.Conn {
					carrier, err := net.Dial("tcp", s.addr)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { carrier.Close() })
					h := &holding{TCPConn: carrier.(*net.TCPConn), pass: pass}
					c := tls.Client(h, ccfg)
					if _, err := c.Write(request); err != nil {
						t.Fatal(err)
					}
					if err := c.CloseWrite(); err != nil {
						t.Fatal(err)
					}
					if err := h.let(); err != nil {
						t.Fatal(err)
					}
					if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, request) {
						t.Fatalf("%d bytes of %d came back, %v", len(got), n, err)
					}
					s.next().wantEOF()
					return c
				}
				if tt.resumed {
					ask(100)
				}
				if c := ask(1); c.ConnectionState().DidResume != tt.resumed {
					t.Errorf("resumed: %v", c.ConnectionState().DidResume)
				}
			})
		}
	}
}

// TestEagerServer sends all that a server says behind its first flight at once:
// the last message of the handshake where there is one, a ticket, data,
// close_notify and FIN.
func TestEagerServer(t *testing.T) {
	for _, tt := range []struct {
		name    string
		version uint16
		mutual  bool // then a TLS 1.3 server keeps its ticket for later
	}{{"TLS 1.3", tls.VersionTLS13, false}, {"TLS 1.3 mutual", tls.VersionTLS13, true}, {"TLS 1.2", tls.VersionTLS12, false}} {
		t.Run(tt.name, func(t *testing.T) {
			ccfg, scfg := configs(t)
			ccfg.MaxVersion, ccfg.ClientSessionCache = tt.version, tls.NewLRUClientSessionCache(1)
			if tt.mutual {
				ccfg.Certificates, scfg.ClientAuth = scfg.Certificates, tls.RequireAnyClientCert
			}
			banner := payload(t, 100_000)
			a, b := tcpPair(t)
			h := &holding{TCPConn: b.(*net.TCPConn), pass: 1}
			done := make(chan error, 1)
			go func() {
				s := tls.Server(h, scfg)
				// A TLS 1.2 server that holds its Finished is done all the same.
				_, err := s.Write(banner)
				if err == nil {
					err = s.CloseWrite()
				}
				err = errors.Join(err, h.let())
				if err != nil {
					b.Close()
				}
				done <- err
			}()
			c, err := aftls.Client(context.Background(), a, ccfg, aftls.Options{RequireSocket: true})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, banner) {
				t.Fatalf("%d bytes of %d, %v", len(got), len(banner), err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if _, ok := ccfg.ClientSessionCache.Get(ccfg.ServerName); !ok {
				t.Error("the ticket did not reach the cache")
			}
		})
	}
}

// TestLongTickets resumes by tickets of 40 kB, from our server and from that of
// crypto/tls: in TLS 1.3 they come over three records, and go back over three.
func TestLongTickets(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, ours := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/ours=%v", tls.VersionName(version), ours), func(t *testing.T) {
				ccfg, scfg := configs(t)
				ccfg.MaxVersion, ccfg.ClientSessionCache = version, tls.NewLRUClientSessionCache(1)
				var stored [][]byte
				scfg.WrapSession = func(_ tls.ConnectionState, st *tls.SessionState) ([]byte, error) {
					b, err := st.Bytes()
					stored = append(stored, b)
					return bytes.Repeat([]byte{byte(len(stored))}, 40_000), err
				}
				scfg.UnwrapSession = func(id []byte, _ tls.ConnectionState) (*tls.SessionState, error) {
					if len(id) == 0 {
						return nil, nil // crypto/tls asks for that, too
					}
					return tls.ParseSessionState(stored[id[0]-1])
				}
				for _, resumed := range []bool{false, true, true} {
					a, b := tcpPair(t)
					var s net.Conn
					var serr error
					var wg sync.WaitGroup
					wg.Go(func() {
						if ours {
							s, serr = aftls.Server(context.Background(), b, scfg, aftls.Options{RequireSocket: true})
						} else {
							tc := tls.Server(b, scfg)
							s, serr = tc, tc.Handshake()
						}
					})
					c, cerr := aftls.Client(context.Background(), a, ccfg, aftls.Options{RequireSocket: true})
					wg.Wait()
					if err := errors.Join(cerr, serr); err != nil {
						t.Fatal(err)
					}
					transfer(t, s, c, 1000) // past the ticket
					transfer(t, c, s, 1000)
					if got := c.Info().Resumed; got != resumed {
						t.Errorf("resumed: %v, want %v", got, resumed)
					}
					c.Close()
					s.Close()
				}
			})
		}
	}
}

// TestFIPS140 starts the process anew for each mode of GODEBUG=fips140. With "on"
// the socket goes on to seal; with "only" Go lets nobody but crypto/tls choose
// nonces, and says so.
func TestFIPS140(t *testing.T) {
	const mode = "AFTLS_TEST_FIPS140"
	for _, tt := range []struct {
		mode     string
		provider aftls.Provider
	}{{"on", aftls.Soft}, {"only", aftls.Passthrough}} {
		t.Run(tt.mode, func(t *testing.T) {
			if os.Getenv(mode) != tt.mode {
				exe, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), exe, "-test.run", "^TestFIPS140$/^"+tt.mode+"$", "-test.v", "-test.timeout", "60s")
				cmd.Env = append(os.Environ(), "GODEBUG=fips140="+tt.mode, mode+"="+tt.mode)
				out, err := cmd.CombinedOutput()
				if err != nil || !strings.Contains(string(out), "--- PASS: TestFIPS140/"+tt.mode) {
					t.Fatalf("%v\n%s", err, out)
				}
				return
			}
			if !fips140.Enabled() || fips140.Enforced() != (tt.mode == "only") {
				t.Fatalf("GODEBUG=fips140=%s has no effect", tt.mode)
			}
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				ccfg, scfg := configs(t)
				ccfg.MaxVersion, ccfg.ClientSessionCache = version, tls.NewLRUClientSessionCache(1)
				for _, resumed := range []bool{false, true} {
					c, s := connPair(t, ccfg, scfg, aftls.Options{})
					for _, end := range []*aftls.Conn{c, s} {
						i := end.Info()
						if i.Send.Provider != tt.provider || i.Receive.Provider != tt.provider || i.Resumed != resumed {
							t.Fatalf("%+v", i)
						}
						if tt.mode == "only" && !strings.Contains(i.Send.Reason, "fips140=only") {
							t.Errorf("reason: %s", i.Send.Reason)
						}
					}
					transfer(t, c, s, 300_000)
					transfer(t, s, c, 300_000)
					if version == tls.VersionTLS13 && tt.mode == "on" {
						if err := c.Rekey(true); err != nil {
							t.Fatal(err)
						}
						transfer(t, c, s, 300_000)
						transfer(t, s, c, 300_000)
						if i := c.Info(); i.Send.Rekeys != 1 || i.Receive.Rekeys != 1 {
							t.Errorf("%+v", i)
						}
					}
				}
				if tt.mode == "only" {
					a, b := tcpPair(t)
					go tls.Server(b, scfg).Handshake()
					if _, err := aftls.Client(t.Context(), a, ccfg, aftls.Options{RequireSocket: true}); !errors.Is(err, aftls.ErrPassthrough) {
						t.Errorf("with RequireSocket: %v", err)
					}
				}
			}
		})
	}
}
