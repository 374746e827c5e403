package aftls_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// site is an http.Server on a Listener of ours.
type site struct {
	id    identity
	base  string            // its URL
	files map[string][]byte // what is under /files/
	ended chan error        // what became of /endless and /take

	mu    sync.Mutex
	conns []*aftls.Conn
}

// site20M is the file that does not fit into any buffer on the way.
const site20M = 20<<20 + 1

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{id: ecdsaIdentity(t), ended: make(chan error, 8), files: map[string][]byte{
		"0": nil, "1": payload(t, 1), "100k": payload(t, 100_000), "20M": payload(t, site20M),
	}}
	dir := t.TempDir()
	for name, data := range s.files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/files/", http.StripPrefix("/files/", http.FileServer(http.Dir(dir))))
	mux.HandleFunc("/once/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, "once")
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		if _, err := io.Copy(h, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%s %x", r.Method, h.Sum(nil))
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 64<<10)
		for {
			if _, err := w.Write(b); err != nil {
				s.ended <- err
				return
			}
		}
	})
	mux.HandleFunc("/take", func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadFull(r.Body, make([]byte, 1000))
		s.ended <- err
		_, err = io.Copy(io.Discard, r.Body)
		s.ended <- err
	})
	config := s.id.server()
	config.NextProtos = []string{"http/1.1"}
	l, err := aftls.Listen("tcp", "127.0.0.1:0", config, aftls.Options{})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: interopLimit,
		ErrorLog:          log.New(io.Discard, "", 0),
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.conns = append(s.conns, c.(*aftls.Conn))
			}
		},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.base = "https://" + interopName + ":" + port
	return s
}

// accepted returns the connections since the last call.
func (s *site) accepted() []*aftls.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns
	s.conns = nil
	return c
}

// outcome is what a handler reports.
func (s *site) outcome(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(interopLimit):
		t.Fatal("the handler does not end")
		return nil
	}
}

func (s *site) curlArgs(args []string) []string {
	host := strings.TrimPrefix(s.base, "https://")
	return append([]string{"--disable", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "20",
		"--cacert", s.id.caFile, "--resolve", host + ":127.0.0.1"}, args...)
}

// curl runs curl to its end and returns what it wrote.
func (s *site) curl(t *testing.T, args ...string) []byte {
	t.Helper()
	var got bytes.Buffer
	p := aftlstest.Command{Name: "curl", Args: s.curlArgs(args), Stdin: strings.NewReader(""), Stdout: &got}.Start(t)
	if err := p.Wait(); err != nil {
		t.Fatalf("curl ended with: %v\n%s", err, p.Output())
	}
	return got.Bytes()
}

func wantBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: other bytes came than were sent, %d instead of %d", what, len(got), len(want))
	}
}

func TestCurl(t *testing.T) {
	aftlstest.Need(t, "curl")
	s := newSite(t)
	for _, v := range versions {
		only := map[uint16][]string{
			tls.VersionTLS12: {"--tls-max", "1.2"}, tls.VersionTLS13: {"--tls-max", "1.3", "--tlsv1.3"},
		}[v.id]
		curl := func(t *testing.T, args ...string) []byte {
			t.Helper()
			return s.curl(t, append(only[:len(only):len(only)], args...)...)
		}
		t.Run(v.name+"/files", func(t *testing.T) {
			s.accepted()
			for name, data := range s.files {
				wantBytes(t, name, curl(t, s.base+"/files/"+name), data)
			}
			for _, c := range s.accepted() {
				wantSocket(t, c, v.id, 0)
			}
		})
		t.Run(v.name+"/HTTP 1.1 only", func(t *testing.T) {
			wantBytes(t, "100k", curl(t, "--http1.1", s.base+"/files/100k"), s.files["100k"])
		})
		t.Run(v.name+"/ranges", func(t *testing.T) {
			data := s.files["20M"]
			for r, want := range map[string][]byte{
				"0-0": data[:1], "16384-32768": data[16384:32769], "5000000-15000000": data[5_000_000:15_000_001],
				"-7": data[len(data)-7:], "20971520-": data[20971520:],
			} {
				wantBytes(t, r, curl(t, "--range", r, s.base+"/files/20M"), want)
			}
		})
		t.Run(v.name+"/HEAD", func(t *testing.T) {
			got := string(curl(t, "--head", s.base+"/files/20M"))
			if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.Contains(got, fmt.Sprintf("Content-Length: %d\r\n", site20M)) {
				t.Fatalf("got %q", got)
			}
		})
		t.Run(v.name+"/upload", func(t *testing.T) {
			for name, data := range s.files {
				path := filepath.Join(t.TempDir(), name)
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				sum := fmt.Sprintf(" %x", sha256.Sum256(data))
				if got := string(curl(t, "--data-binary", "@"+path, s.base+"/sum")); got != "POST"+sum {
					t.Errorf("%s: posted, got %q", name, got)
				}
				if got := string(curl(t, "--upload-file", path, s.base+"/sum")); got != "PUT"+sum {
					t.Errorf("%s: put, got %q", name, got)
				}
			}
		})
		t.Run(v.name+"/several in one connection", func(t *testing.T) {
			s.accepted()
			var want []byte
			var args []string
			for _, name := range []string{"100k", "0", "1", "20M", "1", "100k"} {
				args, want = append(args, s.base+"/files/"+name), append(want, s.files[name]...)
			}
			wantBytes(t, "all", curl(t, args...), want)
			conns := s.accepted()
			if len(conns) != 1 {
				t.Fatalf("curl needed %d connections", len(conns))
			}
			wantSocket(t, conns[0], v.id, 0)
		})
		t.Run(v.name+"/resumption", func(t *testing.T) {
			s.accepted()
			wantBytes(t, "all", curl(t, s.base+"/once/1", s.base+"/once/2", s.base+"/once/3"), []byte("onceonceonce"))
			conns := s.accepted()
			if len(conns) != 3 {
				t.Fatalf("curl needed %d connections", len(conns))
			}
			// In TLS 1.2 curl turns tickets off and crypto/tls knows nothing
			// else, so that all handshakes are full.
			for i, c := range conns {
				if want := i > 0 && v.id == tls.VersionTLS13; c.Info().Resumed != want {
					t.Errorf("connection %d: resumed is %v", i, c.Info().Resumed)
				}
			}
		})
		t.Run(v.name+"/slow reader", func(t *testing.T) {
			t.Parallel() // it mostly sleeps
			wantBytes(t, "20M", curl(t, "--limit-rate", "14M", s.base+"/files/20M"), s.files["20M"])
		})
	}
}

// first tells when the first byte is written.
type first struct {
	once sync.Once
	seen chan struct{}
}

func (f *first) Write(b []byte) (int, error) {
	f.once.Do(func() { close(f.seen) })
	return len(b), nil
}

func TestCurlKilled(t *testing.T) {
	aftlstest.Need(t, "curl")
	s := newSite(t)
	for _, v := range versions {
		only := []string{"--tls-max", strings.TrimPrefix(v.name, "TLS")}
		t.Run(v.name+"/download", func(t *testing.T) {
			f := &first{seen: make(chan struct{})}
			p := aftlstest.Command{Name: "curl", Args: s.curlArgs(append(only, s.base+"/endless")), Stdin: strings.NewReader(""), Stdout: f}.Start(t)
			select {
			case <-f.seen:
			case <-time.After(interopLimit):
				t.Fatal("nothing comes")
			}
			p.Kill()
			err := s.outcome(t)
			if _, ok := errors.AsType[*aftls.CarrierError](err); !ok {
				t.Fatalf("the handler ended with %v, want an error of the carrier", err)
			}
			if _, ok := errors.AsType[*net.OpError](err); !ok {
				t.Fatalf("the handler ended with %v, want a net.OpError", err)
			}
		})
		t.Run(v.name+"/upload", func(t *testing.T) {
			p := aftlstest.Command{Name: "curl", Args: s.curlArgs(append(only, "--no-buffer", "--upload-file", "-", s.base+"/take"))}.Start(t)
			p.Say(strings.Repeat("x", 2000))
			if err := s.outcome(t); err != nil {
				t.Fatal(err)
			}
			p.Kill()
			if err := s.outcome(t); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("the handler read %v, want a truncated body", err)
			}
		})
	}
}
