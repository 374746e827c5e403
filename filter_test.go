package aftls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/filter"
	"github.com/aftls/aftls/record"
)

// rules returns a filter: records go by the letter that they begin with.
func rules(t testing.TB, more ...filter.Rule) *filter.Filter {
	t.Helper()
	letter := func(c byte) string { return fmt.Sprintf("data[0] = %d", c) }
	p, err := filter.CompileRules(append(more,
		filter.Rule{When: letter('P'), Then: filter.Verdict{Action: filter.Pass}},
		filter.Rule{When: letter('D'), Then: filter.Verdict{Action: filter.Drop}},
		filter.Rule{When: letter('T'), Then: filter.Verdict{Action: filter.Truncate, N: 3}},
		filter.Rule{When: letter('0'), Then: filter.Verdict{Action: filter.Truncate}},
		filter.Rule{When: letter('R'), Then: filter.Verdict{Action: filter.Redirect, N: 7}},
		filter.Rule{When: letter('S'), Then: filter.Verdict{Action: filter.Select, N: 5}},
		filter.Rule{When: letter('K'), Then: filter.Verdict{Action: filter.Kill, N: 9}},
		filter.Rule{Then: filter.Verdict{Action: filter.Pass}},
	)...)
	if err != nil {
		t.Fatal(err)
	}
	f := new(filter.Filter)
	f.Swap(p)
	return f
}

func compiled(t testing.TB, expression string) *filter.Program {
	t.Helper()
	p, err := filter.Compile(expression)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// inBothVersions runs f on a pair of each protocol version.
func inBothVersions(t *testing.T, f func(t *testing.T, a, b *aftls.Conn)) {
	t.Helper()
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(v), func(t *testing.T) {
			ccfg, scfg := configs(t)
			ccfg.MaxVersion = v
			a, b := connPair(t, ccfg, scfg, aftls.Options{RequireSocket: true})
			f(t, a, b)
		})
	}
}

func mustWrite(t testing.TB, w io.Writer, messages ...string) {
	t.Helper()
	for _, m := range messages {
		if n, err := w.Write([]byte(m)); err != nil || n != len(m) {
			t.Fatal(n, err)
		}
	}
}

func mustReadAll(t testing.TB, r io.Reader, want string) {
	t.Helper()
	if got, err := io.ReadAll(r); string(got) != want || err != nil {
		t.Fatalf("%q, %v, want %q", got, err, want)
	}
}

var verdictStats = filter.Stats{Pass: 2, Drop: 2, Truncate: 2, Select: 1}

func TestFilterOfOneDirection(t *testing.T) {
	messages := []string{"Pass", "Drop", "Trunc", "0", "Drop", "Select", "Pass again"}
	const want = "PassTruSelectPass again"
	for _, d := range []aftls.Direction{aftls.Send, aftls.Receive} {
		t.Run(d.String(), func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, a, b *aftls.Conn) {
				f := rules(t)
				filtered, other := a, b
				if d == aftls.Receive {
					filtered, other = b, a
				}
				if err := filtered.SetFilter(d, f); err != nil {
					t.Fatal(err)
				}
				mustWrite(t, a, messages...)
				if err := a.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				mustReadAll(t, b, want)
				if s := f.Stats(); s != verdictStats {
					t.Errorf("%+v, want %+v", s, verdictStats)
				}
				i := filtered.Info()
				if !i.Send.Filtered && d == aftls.Send || !i.Receive.Filtered && d == aftls.Receive || i.Send.Filtered == i.Receive.Filtered {
					t.Errorf("%+v", i)
				}
				if o := other.Info(); o.Send.Filtered || o.Receive.Filtered {
					t.Errorf("%+v", o)
				}
				if copied := strings.Contains(i.Send.Reason, "copied"); copied != (d == aftls.Send) {
					t.Errorf("Info says %q", i.Send.Reason)
				}
				sent := strings.Join(messages, "")
				if d == aftls.Send {
					sent = want
				}
				if a, b := a.Info().Send.Bytes, b.Info().Receive.Bytes; a != uint64(len(sent)) || b != a {
					t.Errorf("%d bytes sent, %d received, want %d", a, b, len(sent))
				}
			})
		})
	}
}

// Every way to send passes the filter, in records of which some are dropped.
func TestEveryWayToSendIsFiltered(t *testing.T) {
	const size = 5*record.MaxPlaintext + 100
	var content []byte
	for i := range size {
		content = append(content, byte(i*7+i>>10))
	}
	path := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	ways := map[string]func(c *aftls.Conn) (int64, error){
		"Write": func(c *aftls.Conn) (int64, error) { n, err := c.Write(content); return int64(n), err },
		"WriteBuffers": func(c *aftls.Conn) (int64, error) {
			v := net.Buffers{content[:10], nil, content[10:30000], content[30000:]}
			return c.WriteBuffers(&v)
		},
		"WriteRecord": func(c *aftls.Conn) (n int64, err error) {
			for b := content; len(b) > 0 && err == nil; {
				m := min(len(b), 1000)
				err = c.WriteRecord(record.ApplicationData, b[:m])
				n, b = n+int64(m), b[m:]
			}
			return n, err
		},
		"ReadFrom a file": func(c *aftls.Conn) (int64, error) {
			file, err := os.Open(path)
			if err != nil {
				return 0, err
			}
			defer file.Close()
			return c.ReadFrom(file)
		},
		"ReadFrom a reader": func(c *aftls.Conn) (int64, error) { return c.ReadFrom(bytes.NewReader(content)) },
		"ReadFrom a pipe": func(c *aftls.Conn) (int64, error) {
			r, w, err := os.Pipe()
			if err != nil {
				return 0, err
			}
			defer r.Close()
			go func() { w.Write(content); w.Close() }()
			return c.ReadFrom(r)
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, a, b *aftls.Conn) {
				// What the filter saw, in order, is what a tap of everything has.
				seen := new(bytes.Buffer)
				var mu sync.Mutex
				tap := filter.NewTap(lockedWriter{&mu, seen}, filter.TapOptions{})
				f := new(filter.Filter)
				f.Swap(compiled(t, "data[0] & 1 = 0"))
				if err := errors.Join(a.SetFilter(aftls.Send, f), b.SetTap(tap)); err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				go func() {
					n, err := way(a)
					if err == nil && n != size {
						err = fmt.Errorf("%d bytes of %d", n, size)
					}
					done <- errors.Join(err, a.CloseWrite())
				}()
				got, err := io.ReadAll(b)
				if err := errors.Join(err, <-done, tap.Close()); err != nil {
					t.Fatal(err)
				}
				s := f.Stats()
				if s.Pass == 0 || s.Drop == 0 || s.Pass+1 != a.Info().Send.Records || // close_notify is one too
					a.Info().Send.Bytes != uint64(len(got)) {
					t.Fatalf("%+v, %+v, %d bytes came", s, a.Info().Send, len(got))
				}
				// A subsequence of the content, made of the even records.
				at := 0
				for _, piece := range received(t, seen.Bytes()) {
					if piece[0]&1 != 0 {
						t.Fatalf("a record that begins with %d came", piece[0])
					}
					i := bytes.Index(content[at:], piece)
					if i < 0 {
						t.Fatal("a record is not of the content, or not in order")
					}
					at += i + len(piece)
				}
			})
		})
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

// A record that is dropped leaves nothing in the reader's slice, nor does the end
// of one that is cut.
func TestDroppedBytesAreNotLeft(t *testing.T) {
	inBothVersions(t, func(t *testing.T, a, b *aftls.Conn) {
		if err := b.SetFilter(aftls.Receive, rules(t)); err != nil {
			t.Fatal(err)
		}
		secret := strings.Repeat("secret", 100) // one record even at the start
		mustWrite(t, a, "Drop"+secret, "Tru"+secret, "0"+secret, "P")
		p := make([]byte, 1<<16)
		got := ""
		for len(got) < 4 {
			n, err := b.Read(p)
			if err != nil {
				t.Fatal(err)
			}
			got += string(p[:n])
			if bytes.Contains(p, []byte("secret")) {
				t.Fatal("what was dropped is in the slice of Read")
			}
		}
		if got != "TruP" {
			t.Fatalf("%q", got)
		}
	})
}

func TestKill(t *testing.T) {
	for _, letter := range []string{"K", "R"} {
		want := filter.Verdict{Action: filter.Kill, N: 9}
		if letter == "R" {
			want = filter.Verdict{Action: filter.Redirect, N: 7}
		}
		for _, d := range []aftls.Direction{aftls.Send, aftls.Receive} {
			t.Run(want.String()+" "+d.String(), func(t *testing.T) {
				inBothVersions(t, func(t *testing.T, a, b *aftls.Conn) {
					victim, peer := a, b // who has the filter
					if d == aftls.Receive {
						victim, peer = b, a
					}
					if err := victim.SetFilter(d, rules(t)); err != nil {
						t.Fatal(err)
					}
					isKill := func(err error) bool {
						var e *filter.KillError
						var op *net.OpError
						return errors.As(err, &op) && errors.As(err, &e) && e.Verdict == want
					}
					mustWrite(t, a, "Pass")
					buf := make([]byte, 100)
					if d == aftls.Receive {
						mustWrite(t, a, letter)
						// In front of it everything is delivered, with it nothing.
						got := ""
						for {
							n, err := b.Read(buf)
							if got += string(buf[:n]); err != nil {
								if !isKill(err) {
									t.Fatalf("%v", err)
								}
								break
							}
						}
						if got != "Pass" {
							t.Fatalf("%q", got)
						}
					} else {
						if n, err := a.Write([]byte(letter)); n != 0 || !isKill(err) {
							t.Fatalf("%d, %v", n, err)
						}
					}
					// For good, and in both directions.
					if _, err := victim.Write([]byte("P")); !isKill(err) {
						t.Errorf("write: %v", err)
					}
					if _, err := victim.Read(buf); !isKill(err) {
						t.Errorf("read: %v", err)
					}
					got, err := io.ReadAll(peer)
					var alert *aftls.AlertError
					if !errors.As(err, &alert) || alert.Alert != record.InternalError {
						t.Errorf("the peer has %v", err)
					}
					if d == aftls.Send && string(got) != "Pass" {
						t.Errorf("the peer has %q", got)
					}
					if err := victim.Close(); err != nil {
						t.Errorf("close: %v", err)
					}
				})
			})
		}
	}
}

// While programs are swapped all the time no record is lost and none is decided
// about twice.
func TestSwapLosesNothing(t *testing.T) {
	inBothVersions(t, func(t *testing.T, a, b *aftls.Conn) {
		var send, recv filter.Filter
		if err := errors.Join(a.SetFilter(aftls.Send, &send), b.SetFilter(aftls.Receive, &recv)); err != nil {
			t.Fatal(err)
		}
		programs := []*filter.Program{nil, compiled(t, "len > 0"), compiled(t, "tcp and (ip or ip6)")}
		stop, swapped := make(chan struct{}), make(chan int)
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					swapped <- i
					return
				default:
					send.Swap(programs[i%3])
					recv.Swap(programs[(i+1)%3])
				}
			}
		}()
		transfer(t, a, b, 8<<20)
		close(stop)
		n := <-swapped
		for name, c := range map[string]struct {
			got     filter.Stats
			records uint64
		}{"send": {send.Stats(), a.Info().Send.Records}, "receive": {recv.Stats(), b.Info().Receive.Records}} {
			if c.got.Pass < 8<<20/record.MaxPlaintext || c.got.Pass > c.records || c.got != (filter.Stats{Pass: c.got.Pass}) {
				t.Errorf("%s: %+v for %d records", name, c.got, c.records)
			}
		}
		if n < 100 {
			t.Errorf("%d swaps: too few to prove something", n)
		}
	})
}

// Hosts and ports are those of the connection: source is who sends.
func TestFilterSeesAddresses(t *testing.T) {
	ccfg, scfg := configs(t)
	a, b := connPair(t, ccfg, scfg, aftls.Options{RequireSocket: true})
	client, server := a.LocalAddr().(*net.TCPAddr).Port, b.LocalAddr().(*net.TCPAddr).Port
	expression := fmt.Sprintf("src host 127.0.0.1 and dst net 127.0.0.0/8 and src port %d and dst port %d and data[0:4] = 0x50617373", client, server)
	var out, in, back filter.Filter
	out.Swap(compiled(t, expression))
	in.Swap(compiled(t, expression))
	back.Swap(compiled(t, expression))
	if err := errors.Join(a.SetFilter(aftls.Send, &out), b.SetFilter(aftls.Receive, &in), b.SetFilter(aftls.Send, &back)); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, a, "Pass", "Miss")
	mustWrite(t, b, "Pass") // the other way
	if err := errors.Join(a.CloseWrite(), b.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	mustReadAll(t, b, "Pass")
	mustReadAll(t, a, "")
	if out.Stats() != (filter.Stats{Pass: 1, Drop: 1}) || in.Stats() != (filter.Stats{Pass: 1}) || back.Stats() != (filter.Stats{Drop: 1}) {
		t.Errorf("%+v %+v %+v", out.Stats(), in.Stats(), back.Stats())
	}
}

// A server picks a backend by the first record, and reads it all the same.
func TestSelected(t *testing.T) {
	inBothVersions(t, func(t *testing.T, a, b *aftls.Conn) {
		if n, ok := b.Selected(); ok {
			t.Fatal(n)
		}
		if err := b.SetFilter(aftls.Receive, rules(t)); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, a, "Select")
		if err := b.WaitRead(); err != nil {
			t.Fatal(err)
		}
		if n, ok := b.Selected(); n != 5 || !ok {
			t.Fatal(n, ok)
		}
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		mustReadAll(t, b, "Select")
	})
}

// Data that a filter keeps from the reader is data for the protocol all the same:
// 64 messages without data between them end a connection.
func TestDroppedDataIsDataForTheProtocol(t *testing.T) {
	ccfg, scfg := configs(t)
	a, b := connPair(t, ccfg, scfg, aftls.Options{RequireSocket: true})
	if err := b.SetFilter(aftls.Receive, rules(t)); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer a.CloseWrite()
		for range 200 {
			if a.Rekey(false) != nil {
				return
			}
			if _, err := a.Write([]byte("Drop")); err != nil {
				return
			}
		}
		a.Write([]byte("P"))
	}()
	mustReadAll(t, b, "P")
}

func TestFilterTakenAway(t *testing.T) {
	inBothVersions(t, func(t *testing.T, a, b *aftls.Conn) {
		f := rules(t)
		for _, c := range []*aftls.Conn{a, b} {
			if err := errors.Join(c.SetFilter(aftls.Send, f), c.SetFilter(aftls.Receive, f), c.SetFilter(aftls.Send, nil), c.SetFilter(aftls.Receive, nil)); err != nil {
				t.Fatal(err)
			}
		}
		mustWrite(t, a, "Drop", "Kill")
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		mustReadAll(t, b, "DropKill")
		if f.Stats() != (filter.Stats{}) || b.Info().Receive.Filtered {
			t.Errorf("%+v, %+v", f.Stats(), b.Info())
		}
		a.Close()
		if err := a.SetFilter(aftls.Send, f); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetFilter after Close: %v", err)
		}
		if err := a.SetTap(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetTap after Close: %v", err)
		}
	})
}

// The program's half of a pair is behind the filters of the connection, and their
// programs can be changed while the program has it.
func TestPlaintextFileIsFiltered(t *testing.T) {
	ccfg, scfg := configs(t)
	a, b := connPair(t, ccfg, scfg, aftls.Options{RequireSocket: true})
	in, out := rules(t), rules(t)
	if err := errors.Join(b.SetFilter(aftls.Receive, in), b.SetFilter(aftls.Send, out)); err != nil {
		t.Fatal(err)
	}
	file, err := b.PlaintextFile()
	if runtime.GOOS != "linux" && errors.Is(err, errors.ErrUnsupported) {
		t.Skip("no plaintext ends on this system")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	buf := make([]byte, 100)
	step := func(w io.Writer, r io.Reader, send, want string) {
		t.Helper()
		mustWrite(t, w, strings.Split(send, " ")...)
		if n, err := io.ReadFull(r, buf[:len(want)]); err != nil || string(buf[:n]) != want {
			t.Fatalf("%q, %v, want %q", buf[:n], err, want)
		}
	}
	step(a, file, "Drop Trunc P", "TruP")
	in.Swap(compiled(t, "data[0] = 0x44"))
	step(a, file, "P D P D", "DD")
	// What a program writes is cut into records as it is found: one for each here.
	step(file, a, "P", "P")
	out.Swap(compiled(t, "data[0] != 0x50"))
	step(file, a, "P", "")
	for out.Stats().Drop == 0 { // it is on its way to the filter
		if _, err := file.Write([]byte("P")); err != nil {
			t.Fatal(err)
		}
	}
	file.Close()
	mustReadAll(t, a, "")
}

func TestFilterInPassthrough(t *testing.T) {
	ccfg, scfg := configs(t)
	ccfg.MaxVersion = tls.VersionTLS12
	ccfg.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	scfg.CipherSuites = ccfg.CipherSuites
	a, b := connPair(t, ccfg, scfg, aftls.Options{})
	if a.Info().Send.Provider != aftls.Passthrough {
		t.Fatalf("%+v", a.Info())
	}
	if err := b.SetFilter(aftls.Receive, new(filter.Filter)); !errors.Is(err, aftls.ErrPassthrough) {
		t.Errorf("SetFilter: %v", err)
	}
	if err := b.SetTap(nil); !errors.Is(err, aftls.ErrPassthrough) {
		t.Errorf("SetTap: %v", err)
	}
	if n, ok := b.Selected(); ok {
		t.Error(n)
	}
}

// received returns what came, packet by packet, by a capture.
func received(t testing.TB, capture []byte) (pieces [][]byte) {
	t.Helper()
	c, err := aftlstest.ReadPcapng(capture)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Packets {
		if p.Inbound && len(p.Payload) > 0 {
			pieces = append(pieces, p.Payload)
		}
	}
	return pieces
}
