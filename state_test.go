package aftls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
	"golang.org/x/crypto/cryptobyte"
)

// knownKeys are keys that every call makes alike, for tests that play the peer.
func knownKeys(t testing.TB, version, suite uint16, secret byte) record.Keys {
	t.Helper()
	if version == tls.VersionTLS13 {
		n := 32
		if suite == tls.TLS_AES_256_GCM_SHA384 {
			n = 48
		}
		k, err := record.TrafficKeys(suite, bytes.Repeat([]byte{secret}, n))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	k, _, err := record.KeyBlock(suite, bytes.Repeat([]byte{secret}, 48), make([]byte, 32), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// knownConn is a Conn as if a handshake had just ended, sending under send.
func knownConn(t testing.TB, carrier net.Conn, client bool, send, recv record.Keys, opt Options) *Conn {
	t.Helper()
	c := &Conn{s: NewSocket(carrier, opt), client: client,
		state: tls.ConnectionState{Version: send.Version, CipherSuite: send.Suite, HandshakeComplete: true}}
	c.s.duties = c.duties
	if err := errors.Join(c.s.send.SetKeys(send), c.s.recv.SetKeys(recv)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { carrier.Close() })
	return c
}

// knownPair is two Conns on the ends of a net.Pipe.
func knownPair(t testing.TB, version, suite uint16, opt Options) (client, server *Conn) {
	t.Helper()
	a, b := net.Pipe()
	ck, sk := knownKeys(t, version, suite, 1), knownKeys(t, version, suite, 2)
	return knownConn(t, a, true, ck, sk, opt), knownConn(t, b, false, sk, ck, opt)
}

var stateSuites = []struct{ version, suite uint16 }{
	{tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256},
	{tls.VersionTLS13, tls.TLS_AES_256_GCM_SHA384},
	{tls.VersionTLS13, tls.TLS_CHACHA20_POLY1305_SHA256},
	{tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	{tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256},
}

// fullState is a State with something in every field.
func fullState(t testing.TB, version, suite uint16) *State {
	send, recv := knownKeys(t, version, suite, 1), knownKeys(t, version, suite, 2)
	send.Seq, recv.Seq = 7, 1<<40+9
	if version == tls.VersionTLS13 {
		send.Epoch = 3
	}
	cert := selfSigned(t)
	return &State{
		send: send, recv: recv,
		unsent: []byte("unsent"), ciphertext: []byte("ciphertext"), plaintext: []byte("plaintext"),
		hasControl: true, controlType: record.Handshake, control: []byte{0, 1},
		ended: true, shut: true,
		conn: &connState{client: true, answer: true, asked: true, handshake: []byte{4, 0}, useless: 33,
			tls: tls.ConnectionState{Version: version, CipherSuite: suite, HandshakeComplete: true, DidResume: true,
				NegotiatedProtocol: "h2", ServerName: "a.example", CurveID: tls.X25519MLKEM768,
				PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}},
	}
}

func marshal(t testing.TB, st *State) []byte {
	t.Helper()
	b, err := st.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// same compares two states, but for where the ConnectionState came from.
func same(a, b *State) bool {
	if a.conn != nil && b.conn != nil {
		p, q := *a.conn, *b.conn
		p.foreign, q.foreign = false, false
		if !reflect.DeepEqual(p, q) {
			return false
		}
	}
	return (a.conn == nil) == (b.conn == nil) && reflect.DeepEqual(a.send, b.send) && reflect.DeepEqual(a.recv, b.recv) &&
		bytes.Equal(a.unsent, b.unsent) && bytes.Equal(a.ciphertext, b.ciphertext) && bytes.Equal(a.plaintext, b.plaintext) &&
		a.hasControl == b.hasControl && a.controlType == b.controlType && bytes.Equal(a.control, b.control) &&
		a.ended == b.ended && a.shut == b.shut
}

func TestStateRoundTrip(t *testing.T) {
	for _, v := range stateSuites {
		for _, strip := range []func(*State){
			func(*State) {},
			func(st *State) { st.conn = nil },
			func(st *State) { st.hasControl, st.control, st.controlType = false, nil, 0 },
			func(st *State) { st.hasControl, st.control = true, nil },
			func(st *State) { st.unsent, st.ciphertext, st.plaintext = nil, nil, nil },
			func(st *State) { st.ended, st.shut = false, true },
			func(st *State) { st.conn.client, st.conn.answer, st.conn.asked = false, false, true },
			func(st *State) { st.conn.tls.PeerCertificates, st.conn.tls.VerifiedChains = nil, nil },
			func(st *State) { st.conn.tls.VerifiedChains = nil },
		} {
			st, want := fullState(t, v.version, v.suite), fullState(t, v.version, v.suite)
			strip(st)
			strip(want)
			if want.conn != nil { // certificates are made anew by every call
				want.conn.tls.PeerCertificates, want.conn.tls.VerifiedChains = st.conn.tls.PeerCertificates, st.conn.tls.VerifiedChains
			}
			b := marshal(t, st)
			var got State
			if err := got.UnmarshalBinary(b); err != nil {
				t.Fatal(err)
			}
			if !same(&got, want) {
				t.Fatalf("%x %x: got %+v, want %+v", v.version, v.suite, &got, want)
			}
			if got.conn != nil && !got.conn.foreign {
				t.Error("a state from elsewhere does not say so")
			}
			if again := marshal(t, &got); !bytes.Equal(again, b) {
				t.Error("a second encoding differs")
			}
		}
	}
}

func TestStateVersion(t *testing.T) {
	b := marshal(t, fullState(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256))
	if len(stateMagic) != 12 || b[11] != 3 {
		t.Fatalf("the version is not where it was: % x", b[:12])
	}
	b[11]++
	if err := new(State).UnmarshalBinary(b); !errors.Is(err, ErrState) {
		t.Error(err)
	}
}

// resumable tries everything that may be done with a state that was decoded
// from bytes of any kind, and sees that it ends well.
func resumable(t testing.TB, b []byte) {
	lent := soft.Borrowed()
	var st State
	if err := st.UnmarshalBinary(b); err != nil {
		if !errors.Is(err, ErrState) {
			t.Errorf("UnmarshalBinary: %v", err)
		}
		if st.send.Key != nil || st.recv.Secret != nil || st.plaintext != nil || st.conn != nil {
			t.Errorf("what does not decode leaves %+v", &st)
		}
		return
	}
	carrier, peer := net.Pipe()
	peer.Close()
	send, recv := st.send, st.recv
	var err error
	if st.conn == nil {
		var s *Socket
		if s, err = ResumeSocket(carrier, &st, Options{}); err == nil {
			s.Close()
		}
	} else {
		var c *Conn
		if c, err = Resume(carrier, &st, Options{}); err == nil {
			c.Read(make([]byte, 100))
			c.Close()
		}
	}
	if _, ok := err.(*net.OpError); err != nil && !ok {
		t.Errorf("Resume: %T %v", err, err)
	}
	wiped(t, send)
	wiped(t, recv)
	if n := soft.Borrowed() - lent; n != 0 {
		t.Errorf("%d buffers are still lent", n)
	}
}

func wiped(t testing.TB, k record.Keys) {
	t.Helper()
	for _, b := range [][]byte{k.Secret, k.Key, k.IV} {
		if len(bytes.Trim(b, "\x00")) > 0 {
			t.Errorf("key material is left: % x", b)
		}
	}
}

func TestStateDamage(t *testing.T) {
	full := fullState(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256)
	full.ended = false
	whole := marshal(t, full)
	for i := range whole {
		if err := new(State).UnmarshalBinary(whole[:i]); !errors.Is(err, ErrState) {
			t.Fatalf("%d of %d bytes: %v", i, len(whole), err)
		}
		resumable(t, whole[:i])
	}
	if err := new(State).UnmarshalBinary(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrState) {
		t.Fatal("a byte behind the state:", err)
	}
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			resumable(t, b)
		}
	}
	// Lengths that promise more than there is must not be believed.
	for i := 0; i+4 <= len(whole); i++ {
		b := bytes.Clone(whole)
		binary.BigEndian.PutUint32(b[i:], 0xffffffff)
		resumable(t, b)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := bytes.Clone(whole)
		for range 1 + r.IntN(6) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
		resumable(t, b)
	}
	if t.Failed() {
		return
	}
	resumable(t, whole)
}

// A Socket's state does not make a Conn, and is gone when that was tried.
func TestStateKinds(t *testing.T) {
	lent := soft.Borrowed()
	st := fullState(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256)
	st.conn = nil
	send := st.send
	carrier, peer := net.Pipe()
	if _, err := Resume(carrier, st, Options{}); !errors.Is(err, ErrState) {
		t.Error("Resume of a Socket's state:", err)
	}
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Error("the carrier was left open:", err)
	}
	wiped(t, send)
	if n := soft.Borrowed() - lent; n != 0 {
		t.Errorf("%d buffers are still lent", n)
	}
	if _, err := Resume(carrier, st, Options{}); !errors.Is(err, ErrSpent) {
		t.Error("again:", err)
	}
	// One State value decodes twice without a trace of the first.
	conn := marshal(t, fullState(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256))
	bare := fullState(t, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)
	bare.conn = nil
	var got State
	if err := errors.Join(got.UnmarshalBinary(conn), got.UnmarshalBinary(marshal(t, bare))); err != nil {
		t.Fatal(err)
	}
	if got.conn != nil {
		t.Error("a Socket's state kept the Conn of the one decoded before it")
	}
}

func TestStateSpent(t *testing.T) {
	for _, v := range stateSuites {
		c, _ := knownPair(t, v.version, v.suite, Options{})
		carrier := c.NetConn()
		st, err := c.Detach()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Detach(); !errors.Is(err, ErrDetached) {
			t.Error("second Detach:", err)
		}
		send, recv := st.send, st.recv
		c, err = Resume(carrier, st, Options{})
		if err != nil {
			t.Fatal(err)
		}
		wiped(t, send)
		wiped(t, recv)
		if st.send.Key != nil || st.recv.Key != nil {
			t.Error("a resumed state still has keys")
		}
		if _, err := st.MarshalBinary(); !errors.Is(err, ErrSpent) {
			t.Error("MarshalBinary after Resume:", err)
		}
		for _, resume := range []func(net.Conn) error{
			func(n net.Conn) error { _, err := Resume(n, st, Options{}); return err },
			func(n net.Conn) error { _, err := ResumeSocket(n, st, Options{}); return err },
			func(n net.Conn) error { _, err := Resume(n, nil, Options{}); return err },
		} {
			other, peer := net.Pipe()
			if err := resume(other); !errors.Is(err, ErrSpent) {
				t.Error("Resume of a spent state:", err)
			}
			if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
				t.Error("the carrier of a refused state was left open:", err)
			}
		}
		if st, err = c.Detach(); err != nil {
			t.Fatal(err)
		}
		send, recv = st.send, st.recv
		marshal(t, st)
		wiped(t, send)
		wiped(t, recv)
		carrier.Close()
	}
}

// TestStateCarries moves a Conn between every two records of a conversation and
// sees that nothing of what it knew is forgotten.
func TestStateCarries(t *testing.T) {
	for _, encode := range []bool{false, true} {
		for _, v := range stateSuites {
			c, s := knownPair(t, v.version, v.suite, Options{})
			move := func(c *Conn) *Conn {
				t.Helper()
				carrier := c.NetConn()
				st, err := c.Detach()
				if err != nil {
					t.Fatal(err)
				}
				if encode {
					b := marshal(t, st)
					st = new(State)
					if err := st.UnmarshalBinary(b); err != nil {
						t.Fatal(err)
					}
				}
				if c, err = Resume(carrier, st, Options{}); err != nil {
					t.Fatal(err)
				}
				return c
			}
			send := func(p []byte) {
				t.Helper()
				done := make(chan error, 1)
				go func() { _, err := c.Write(p); done <- err }()
				got := make([]byte, len(p))
				for n := 0; n < len(p); {
					m, err := s.Read(got[n:min(len(p), n+3)]) // leaves plaintext behind
					if err != nil {
						t.Fatal(err)
					}
					n += m
					if n < len(p) {
						s = move(s)
					}
				}
				if err := <-done; err != nil || !bytes.Equal(got, p) {
					t.Fatal(err, "or other data")
				}
			}
			send([]byte("one record that is read in pieces"))
			if v.version == tls.VersionTLS13 {
				// The request is read and its answer still owed when s moves.
				rekeyed := make(chan error, 1)
				go func() {
					err := c.Rekey(true)
					if err == nil {
						_, err = c.Write([]byte("x"))
					}
					rekeyed <- err
				}()
				if n, err := s.Read(make([]byte, 10)); n != 1 || err != nil {
					t.Fatal(n, err)
				}
				if err := <-rekeyed; err != nil {
					t.Fatal(err)
				}
				c = move(c)
				if !c.flag(asked) || !s.flag(answer) {
					t.Error("no request is under way")
				}
				s = move(s)
				c, s = s, c
				send([]byte("the answer goes first"))
				c, s = s, c
				if c.flag(asked) || s.flag(answer) || c.Info().Receive.Epoch != 1 || s.Info().Send.Epoch != 1 {
					t.Error("the request was not answered")
				}
			}
			// close_notify of one side is remembered.
			shut := make(chan error, 1)
			go func() { shut <- c.CloseWrite() }()
			if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Fatal(n, err)
			}
			if err := <-shut; err != nil {
				t.Fatal(err)
			}
			c, s = move(c), move(s)
			if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Error("the end was forgotten:", n, err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, ErrShutdown) {
				t.Error("Write after CloseWrite and a move:", err)
			}
			c, s = s, c
			send([]byte("the other way"))
		}
	}
}

// TestStateFragment moves a Conn that has read one half of a KeyUpdate.
func TestStateFragment(t *testing.T) {
	for cut := 1; cut < 5; cut++ {
		c, s := knownPair(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, Options{})
		carrier := s.NetConn()
		msg := []byte{keyUpdate, 0, 0, 1, 0}
		sent := make(chan error, 1)
		go func() {
			err := errors.Join(c.s.send.Seal(record.Handshake, msg[:cut]), c.s.send.Flush(),
				c.s.send.Seal(record.Handshake, msg[cut:]), c.s.send.Rekey())
			if err == nil {
				_, err = c.Write([]byte("under the next key"))
			}
			sent <- err
		}()
		if typ, n, err := s.ReadRecord(make([]byte, 10)); typ != record.Handshake || n != cut || err != nil {
			t.Fatal(typ, n, err)
		}
		st, err := s.Detach()
		if err != nil {
			t.Fatal(err)
		}
		b := marshal(t, st)
		st = new(State)
		if err := st.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		if s, err = Resume(carrier, st, Options{}); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 100)
		if n, err := s.Read(p); string(p[:n]) != "under the next key" || err != nil {
			t.Fatal(n, err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
}

// TestStateUnsent stops a Write by a deadline and moves the Conn with what it
// had sealed: the peer gets every byte once.
func TestStateUnsent(t *testing.T) { synctest.Test(t, stateUnsent) }

func stateUnsent(t *testing.T) {
	c, s := knownPair(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, Options{})
	carrier := c.NetConn()
	data := make([]byte, 300000)
	rand.NewChaCha8([32]byte{}).Read(data)
	if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Write(data)
	if !isTimeout(err) || n == 0 || n == len(data) {
		t.Fatal(n, err)
	}
	st, err := c.Detach()
	if err != nil {
		t.Fatal(err)
	}
	if len(st.unsent) < n {
		t.Fatalf("%d bytes were committed, %d are in the state", n, len(st.unsent))
	}
	b := marshal(t, st)
	st = new(State)
	if err := st.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if c, err = Resume(carrier, st, Options{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(data[n:])
		done <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(data), err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// TestStateLimits: what is too large for a field is refused, not cut.
func TestStateLimits(t *testing.T) {
	for _, spoil := range []func(*State){
		func(st *State) { st.control = make([]byte, record.MaxPlaintext+1) },
		func(st *State) { st.conn.handshake = make([]byte, maxHandshake+1) },
	} {
		st := fullState(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256)
		spoil(st)
		if err := new(State).UnmarshalBinary(marshal(t, st)); !errors.Is(err, ErrState) {
			t.Error(err)
		}
	}
	x := cryptobyte.String([]byte{2})
	var v bool
	if readBool(&x, &v) {
		t.Error("2 was taken for a bool")
	}
}

func selfSigned(t testing.TB) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(crand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestPrintedStateShowsNothing(t *testing.T) {
	st := &State{send: Keys{Secret: []byte("secret")}, plaintext: []byte("secret")}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(format, st); s != "aftls.State" {
			t.Errorf("%s: %s", format, s)
		}
	}
}
