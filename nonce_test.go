package aftls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

// nonceVersions are those of which the nonces differ in kind.
var nonceVersions = []struct {
	name           string
	version, suite uint16
}{
	{"TLS 1.3", tls.VersionTLS13, 0},
	{"TLS 1.2 GCM", tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
	{"TLS 1.2 ChaCha20", tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
}

// watched is a connection through a relay.
func watched(t *testing.T, version, suite uint16, opt aftls.Options) (r *relay, secrets *secretLog, client, server *aftls.Conn) {
	t.Helper()
	ccfg, scfg := configs(t)
	secrets = new(secretLog)
	ccfg.KeyLogWriter = secrets
	ccfg.MinVersion, ccfg.MaxVersion = version, version
	if suite != 0 {
		ccfg.CipherSuites = []uint16{suite}
	}
	r = newRelay(t)
	client, server = handshakePair(t, r.client, r.server, ccfg, scfg, opt)
	return r, secrets, client, server
}

// nomad is one end of a connection: a Conn that is replaced under way.
type nomad struct {
	t    *testing.T
	name string
	opt  aftls.Options
	rng  *rand.Rand

	mu        sync.Mutex
	cond      *sync.Cond
	conn      *aftls.Conn
	sent, got int64
}

func newNomad(t *testing.T, name string, seed uint64, c *aftls.Conn, opt aftls.Options) *nomad {
	n := &nomad{t: t, name: name, opt: opt, rng: rand.New(rand.NewPCG(seed, 30)), conn: c}
	n.cond = sync.NewCond(&n.mu)
	return n
}

func (n *nomad) current(old *aftls.Conn) *aftls.Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.conn == old {
		n.cond.Wait()
	}
	return n.conn
}

func (n *nomad) settle(c *aftls.Conn) {
	n.mu.Lock()
	n.conn = c
	n.mu.Unlock()
	n.cond.Broadcast()
}

// detach takes the association out of the present Conn.
func (n *nomad) detach() (*aftls.State, net.Conn) {
	st, err := n.conn.Detach()
	if err != nil {
		n.t.Errorf("%s: Detach: %v", n.name, err)
	}
	return st, n.conn.NetConn()
}

// move detaches and resumes, perhaps through bytes.
func (n *nomad) move(encode bool) {
	st, carrier := n.detach()
	if encode {
		b, err := st.MarshalBinary()
		st = new(aftls.State)
		if err = errors.Join(err, st.UnmarshalBinary(b)); err != nil {
			n.t.Errorf("%s: %v", n.name, err)
		}
	}
	c, err := aftls.Resume(carrier, st, n.opt)
	if err != nil {
		n.t.Errorf("%s: Resume: %v", n.name, err)
	}
	n.settle(c)
}

// write sends until it is told to stop, with deadlines that interrupt it and new
// keys in between, and ends the direction.
func (n *nomad) write(stop <-chan struct{}) {
	c := n.current(nil)
	for over := false; ; {
		select {
		case <-stop:
			over = true
		default:
		}
		var m int
		var err error
		if over {
			if err = c.CloseWrite(); err == nil {
				return
			}
		} else if n.rng.IntN(8) == 0 {
			if err = c.Rekey(n.rng.IntN(2) == 0); errors.Is(err, aftls.ErrNoRekey) {
				err = nil
			}
		} else {
			if n.rng.IntN(3) == 0 {
				c.SetWriteDeadline(time.Now().Add(time.Duration(n.rng.IntN(int(500 * time.Microsecond)))))
			}
			m, err = c.Write(patternAt(n.sent, 1+n.rng.IntN([]int{100, 20000, 200000}[n.rng.IntN(3)])))
			n.sent += int64(m)
			c.SetWriteDeadline(time.Time{}) // fails on a Conn that was detached
		}
		switch {
		case errors.Is(err, aftls.ErrDetached):
			c = n.current(c)
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			n.t.Errorf("%s: after %d bytes: %v", n.name, n.sent, err)
			return
		}
	}
}

// read reads to the end and returns the error that came there.
func (n *nomad) read() error {
	c := n.current(nil)
	b := make([]byte, 100000)
	for {
		m, err := c.Read(b)
		if !bytes.Equal(b[:m], patternAt(n.got, m)) {
			n.t.Errorf("%s: other data at %d", n.name, n.got)
		}
		n.got += int64(m)
		if errors.Is(err, aftls.ErrDetached) {
			c = n.current(c)
		} else if err != nil {
			return err
		}
	}
}

// TestNonces moves both ends of connections that send as fast as they can, with
// rekeys and deadlines, and proves from the wire that no nonce was used twice.
func TestNonces(t *testing.T) {
	for i, v := range nonceVersions {
		rounds := uint64(1)
		if v.version == tls.VersionTLS13 {
			rounds = 3 // with limits of their own
		}
		for round := range rounds {
			t.Run(fmt.Sprintf("%s/%d", v.name, round), func(t *testing.T) {
				opt := aftls.Options{}
				if v.version == tls.VersionTLS13 {
					opt.MaxRecords = []uint64{0, 20, 300}[round]
				}
				r, secrets, client, server := watched(t, v.version, v.suite, opt)
				state := client.ConnectionState()
				ends := []*nomad{newNomad(t, "client", uint64(i), client, opt), newNomad(t, "server", 100+round, server, opt)}
				var wg, movers sync.WaitGroup
				settled := make(chan struct{}) // nobody moves any more
				for d, n := range ends {
					movers.Go(func() {
						rng := rand.New(rand.NewPCG(round, uint64(d)))
						for range 10 {
							r.grow(rng.IntN(2), rng.IntN(50000))
							n.move(rng.IntN(2) == 0)
						}
					})
					wg.Go(func() { n.write(settled) })
					wg.Go(func() {
						if err := n.read(); err != io.EOF {
							t.Errorf("%s: reading ended with %v", n.name, err)
						}
					})
				}
				movers.Wait()
				close(settled)
				wg.Wait()
				for i, n := range ends {
					if n.got != ends[1-i].sent {
						t.Errorf("%s read %d of %d bytes", n.name, n.got, ends[1-i].sent)
					}
					if err := n.conn.Close(); err != nil {
						t.Error(err)
					}
				}
				c, s, err := r.inspect(t, secrets, state)
				if err != nil {
					t.Fatal(err)
				}
				if int64(c.data) != ends[0].sent || int64(s.data) != ends[1].sent || !c.notified || !s.notified || c.partial+s.partial > 0 {
					t.Errorf("the wire shows %+v and %+v for %d and %d bytes", c, s, ends[0].sent, ends[1].sent)
				}
				if c.requests > s.keyUpdates+1 || s.requests > c.keyUpdates+1 {
					t.Errorf("more than one request was unanswered: %+v %+v", c, s)
				}
			})
		}
	}
}

// TestNonceReplay is the negative control: a state that is resumed twice,
// against the rules, uses nonces twice, and the wire must show it.
func TestNonceReplay(t *testing.T) {
	for _, v := range nonceVersions {
		t.Run(v.name, func(t *testing.T) {
			r, secrets, client, server := watched(t, v.version, v.suite, aftls.Options{})
			state := client.ConnectionState()
			if _, err := client.Write([]byte("before")); err != nil {
				t.Fatal(err)
			}
			st, err := client.Detach()
			if err != nil {
				t.Fatal(err)
			}
			b, err := st.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{"once", "twice"} {
				st := new(aftls.State)
				if err := st.UnmarshalBinary(b); err != nil {
					t.Fatal(err)
				}
				c, err := aftls.Resume(r.client, st, aftls.Options{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Write([]byte(p)); err != nil {
					t.Fatal(err)
				}
			}
			r.client.Close()
			if _, err := io.ReadAll(server); err == nil {
				t.Error("the server took both")
			}
			server.Close()
			_, _, err = r.inspect(t, secrets, state)
			if _, ok := errors.AsType[*reusedError](err); !ok {
				t.Errorf("the wire shows no nonce used twice: %v", err)
			}
		})
	}
}

// TestInspect: what inspect proves it can also disprove.
func TestInspect(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		k, err := record.TrafficKeys(tls.TLS_AES_128_GCM_SHA256, make([]byte, 32))
		var head []byte
		if version == tls.VersionTLS12 {
			k, _, err = record.KeyBlock(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, make([]byte, 48), make([]byte, 32), make([]byte, 32))
			k.Seq = 0
			head = []byte{20, 3, 3, 0, 1, 1}
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := record.NewSealer(k)
		if err != nil {
			t.Fatal(err)
		}
		var recs [][]byte
		for range 4 {
			rec, err := s.Seal(nil, record.ApplicationData, []byte("data"))
			if err != nil {
				t.Fatal(err)
			}
			recs = append(recs, rec)
		}
		wire := func(order ...int) []byte {
			b := bytes.Clone(head)
			for _, i := range order {
				b = append(b, recs[i]...)
			}
			return b
		}
		if saw, err := inspect(wire(0, 1, 2, 3), k); err != nil || saw.records != 4 || saw.data != 16 {
			t.Errorf("%+v %v", saw, err)
		}
		for _, order := range [][]int{{0, 1, 1}, {0, 1, 2, 0}, {0, 2, 1}, {0, 3}} {
			_, err := inspect(wire(order...), k)
			if _, reused := errors.AsType[*reusedError](err); err == nil || reused != (order[len(order)-1] < 2 && order[1] != 2) {
				t.Errorf("%v: %v", order, err)
			}
		}
	}
}

// The rest runs one end in another process, which gets the state by a pipe and
// the carrier as a descriptor.

const childVar = "AFTLS_TEST_NONCE_CHILD"

func init() {
	if os.Getenv(childVar) == "" {
		return
	}
	if err := child(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// errand is what a child is told, and what it reports.
type errand struct {
	Sent, Got int64
	Moves     int64 // writes to do; below zero: until it dies
	Seed      uint64
}

func child(in io.Reader, out io.Writer) error {
	var e errand
	if err := binary.Read(in, binary.BigEndian, &e); err != nil {
		return err
	}
	b, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	f := os.NewFile(3, "carrier")
	carrier, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return err
	}
	st := new(aftls.State)
	if err := st.UnmarshalBinary(b); err != nil {
		return err
	}
	c, err := aftls.Resume(carrier, st, aftls.Options{})
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(e.Seed, 40))
	reading := make(chan error, 1)
	go func() {
		b := make([]byte, 50000)
		for {
			n, err := c.Read(b)
			if !bytes.Equal(b[:n], patternAt(e.Got, n)) {
				reading <- fmt.Errorf("other data at %d", e.Got)
				return
			}
			e.Got += int64(n)
			if err != nil {
				reading <- err
				return
			}
		}
	}()
	for i := int64(0); i != e.Moves; i++ {
		n, err := c.Write(patternAt(e.Sent, 1+rng.IntN(100000)))
		e.Sent += int64(n)
		if err == nil && rng.IntN(5) == 0 {
			if err = c.Rekey(true); errors.Is(err, aftls.ErrNoRekey) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	if st, err = c.Detach(); err != nil {
		return err
	}
	if err := <-reading; !errors.Is(err, aftls.ErrDetached) {
		return err
	}
	if b, err = st.MarshalBinary(); err != nil {
		return err
	}
	return errors.Join(binary.Write(out, binary.BigEndian, e), write(out, b))
}

func write(w io.Writer, b []byte) error { _, err := w.Write(b); return err }

// send starts a child with the state of n.
func (n *nomad) send(t *testing.T, moves int64, seed uint64) (cmd *exec.Cmd, out *bytes.Buffer) {
	t.Helper()
	st, carrier := n.detach()
	b, err := st.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	f, err := carrier.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var in bytes.Buffer
	binary.Write(&in, binary.BigEndian, errand{n.sent, n.got, moves, seed})
	in.Write(b)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), childVar+"=1")
	cmd.ExtraFiles = []*os.File{f}
	out = new(bytes.Buffer)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// TestNonceProcesses sends a connection through other processes and back. The
// last one is killed while it writes.
func TestNonceProcesses(t *testing.T) {
	if runtime.GOOS == "windows" {
		if aftlstest.Expected("fork") {
			t.Fatal("descriptors cannot be given to a child here")
		}
		t.Skip("no way to give a descriptor to a child on Windows")
	}
	for i, v := range nonceVersions {
		t.Run(v.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano())))
			r, secrets, client, server := watched(t, v.version, v.suite, aftls.Options{})
			state := client.ConnectionState()
			carrier := client.NetConn()
			c := newNomad(t, "client", 1, client, aftls.Options{})
			s := newNomad(t, "server", 2, server, aftls.Options{})
			var wg sync.WaitGroup
			var ended error
			stop := make(chan struct{})
			wg.Go(func() { s.flood(stop) })
			wg.Go(func() { ended = s.read(); close(stop) })
			for round := range uint64(2) {
				cmd, out := c.send(t, 20, round)
				if err := cmd.Wait(); err != nil {
					t.Fatal(err)
				}
				var e errand
				if err := binary.Read(out, binary.BigEndian, &e); err != nil {
					t.Fatal(err)
				}
				st := new(aftls.State)
				if err := st.UnmarshalBinary(out.Bytes()); err != nil {
					t.Fatal(err)
				}
				conn, err := aftls.Resume(carrier, st, aftls.Options{})
				if err != nil {
					t.Fatal(err)
				}
				c.sent, c.got = e.Sent, e.Got
				c.settle(conn)
				// A little at home again.
				m, err := conn.Write(patternAt(c.sent, 30000))
				c.sent += int64(m)
				if err != nil {
					t.Fatal(err)
				}
				c.some()
			}
			cmd, _ := c.send(t, -1, 3)
			r.grow(0, 1+rng.IntN(3<<20))
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("the child ended well")
			}
			carrier.Close()
			wg.Wait()
			if _, ok := errors.AsType[*aftls.TruncatedError](ended); !ok {
				t.Errorf("the server sees the end of a killed peer as %v", ended)
			}
			server.Close()
			fromClient, _, err := r.inspect(t, secrets, state)
			if err != nil {
				t.Fatal(err)
			}
			if int64(fromClient.data) < s.got || fromClient.notified {
				t.Errorf("the wire shows %+v, the server read %d bytes", fromClient, s.got)
			}
		})
	}
}

// flood writes until it is told to stop.
func (n *nomad) flood(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		m, err := n.conn.Write(patternAt(n.sent, 1+n.rng.IntN(50000)))
		n.sent += int64(m)
		if err == nil && n.rng.IntN(10) == 0 {
			if err = n.conn.Rekey(n.rng.IntN(2) == 0); errors.Is(err, aftls.ErrNoRekey) {
				err = nil
			}
		}
		if err != nil {
			n.t.Errorf("%s: after %d bytes: %v", n.name, n.sent, err)
			return
		}
	}
}

// some reads and checks a little.
func (n *nomad) some() {
	b := make([]byte, 10000)
	for range 5 {
		m, err := n.conn.Read(b)
		if err != nil || !bytes.Equal(b[:m], patternAt(n.got, m)) {
			n.t.Errorf("%s: other data at %d, %v", n.name, n.got, err)
		}
		n.got += int64(m)
	}
}
