package handover

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/aftls/aftls/record"
)

// recorded is what a wire knew when a TLS 1.2 handshake ended, with the master
// secret that a plain key log said it has.
type recorded struct {
	w      *wire
	state  tls.ConnectionState
	master []byte
}

// record12 runs a full TLS 1.2 handshake on a wire that forgets nothing.
func record12(t *testing.T) *recorded {
	t.Helper()
	ccfg, scfg := configs(t)
	ccfg.MaxVersion, ccfg.ClientSessionCache = tls.VersionTLS12, nil
	var log countingLog
	scfg.KeyLogWriter = &log
	a, b := tcpPair(t)
	errc := make(chan error, 1)
	go func() { _, err := theirServer(b, scfg); errc <- err }()
	w := &wire{Conn: a, via: a, client: true}
	tc := tls.Client(w, clientConfig(ccfg, w))
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(log.buf.String())
	master, err := hex.DecodeString(fields[len(fields)-1])
	if err != nil || len(master) != masterLen {
		t.Fatalf("%d bytes, %v", len(master), err)
	}
	return &recorded{w, tc.ConnectionState(), master}
}

func (r *recorded) session(t *testing.T, encoded []byte) {
	t.Helper()
	st, err := tls.ParseSessionState(encoded)
	if err != nil {
		t.Fatal(err)
	}
	r.w.sessions = []*tls.SessionState{st}
}

// encodedSession is a session of Go 1.26 with secret in its place, and extra in
// the field that users may set.
func encodedSession(t *testing.T, secret, extra []byte) []byte {
	t.Helper()
	ccfg, scfg := configs(t)
	ccfg.MaxVersion = tls.VersionTLS12
	cache := new(countingCache)
	ccfg.ClientSessionCache = cache
	connect(t, theirClient, theirServer, ccfg, scfg)
	_, st, err := cache.last.ResumptionState()
	if err != nil {
		t.Fatal(err)
	}
	if extra != nil {
		st.Extra = [][]byte{extra}
	}
	b, err := st.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	copy(b[masterAt:masterAt+masterLen], secret)
	return b
}

// TestMasterSecretMoves pretends that the encoding of a session is laid out
// another way, as another release of Go may have it: the secret is then in
// another field, and something else where it used to be.
func TestMasterSecretMoves(t *testing.T) {
	noise := bytes.Repeat([]byte{0xa5}, masterLen)
	for _, tt := range []struct {
		name  string
		extra func(master []byte) []byte
		found bool
	}{
		{"where Go 1.26 has it", nil, true},
		{"in another field", func(m []byte) []byte { return m }, true},
		{"behind other bytes", func(m []byte) []byte { return append(bytes.Repeat([]byte{1}, 333), m...) }, true},
		{"in front of others", func(m []byte) []byte { return append(bytes.Clone(m), 1, 2, 3) }, true},
		{"cut short", func(m []byte) []byte { return m[:masterLen-1] }, false},
		{"nowhere", func(m []byte) []byte { return noise }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := record12(t)
			secret, extra := r.master, []byte(nil)
			if tt.extra != nil {
				secret, extra = noise, tt.extra(r.master)
			}
			r.session(t, encodedSession(t, secret, extra))
			want, _, err := record.KeyBlock(r.state.CipherSuite, r.master, r.w.clientHello[6:38], r.w.serverHello[6:38])
			if err != nil {
				t.Fatal(err)
			}
			r.w.logged.wipe() // as in a resumed handshake
			client, server, err := r.w.keys12(r.state.CipherSuite, r.state)
			if !tt.found {
				if !errors.Is(err, errSecrets) {
					t.Fatalf("error %v, want one that is errSecrets", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(client.Key, want.Key) || !bytes.Equal(client.IV, want.IV) || client.Seq != 1 || server.Seq != 1 {
				t.Error("other keys than those of the master secret")
			}
		})
	}
}

// Two sessions are offered, and only the second is the one that was resumed.
func TestSecondSession(t *testing.T) {
	r := record12(t)
	r.session(t, encodedSession(t, bytes.Repeat([]byte{1}, masterLen), nil))
	wrong := r.w.sessions[0]
	r.session(t, encodedSession(t, r.master, nil))
	r.w.sessions = append([]*tls.SessionState{wrong}, r.w.sessions...)
	r.w.logged.wipe()
	if _, _, err := r.w.keys12(r.state.CipherSuite, r.state); err != nil {
		t.Fatal(err)
	}
}

func TestKeys12Refuses(t *testing.T) {
	for name, spoil := range map[string]func(w *wire){
		"other master secret": func(w *wire) { w.logged.master = make([]byte, masterLen) },
		"no ServerHello":      func(w *wire) { w.serverHello = nil },
		"short ClientHello":   func(w *wire) { w.clientHello = w.clientHello[:37] },
		"no Finished":         func(w *wire) { w.lastSent = nil },
		"other Finished":      func(w *wire) { w.lastSent[len(w.lastSent)-1] ^= 1 },
		"nothing to try":      func(w *wire) { w.logged.master = nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := record12(t)
			spoil(r.w)
			if _, _, err := r.w.keys12(r.state.CipherSuite, r.state); !errors.Is(err, errSecrets) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestServerNumber makes the flights that a TLS 1.3 server may have sent and
// looks for its number in them.
func TestServerNumber(t *testing.T) {
	const suite = tls.TLS_AES_128_GCM_SHA256
	secret := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	seal := func(secret []byte, n int) (recs [][]byte) {
		k, err := record.TrafficKeys(suite, secret)
		if err != nil {
			t.Fatal(err)
		}
		s, err := record.NewSealer(k)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			rec, err := s.Seal(nil, record.Handshake, bytes.Repeat([]byte{4}, 100*i+1))
			if err != nil {
				t.Fatal(err)
			}
			recs = append(recs, rec)
		}
		return recs
	}
	handshake, application := seal(secret(9), 5), seal(secret(2), 4)
	for _, tt := range []struct {
		name string
		sent [][]byte
		seq  uint64
		ok   bool
	}{
		{"nothing", nil, 0, true},
		{"handshake only", handshake, 0, true},
		{"one ticket", append(handshake[:5:5], application[0]), 1, true},
		{"ticket over four records", append(handshake[:5:5], application...), 4, true},
		{"tickets only", application[:3], 3, true},
		{"one that does not open between", [][]byte{application[0], handshake[0], application[1]}, 0, false},
		{"one missing", [][]byte{application[0], application[2]}, 0, false},
	} {
		w := &wire{appSent: bytes.Join(tt.sent, nil), logged: logged{clientTraffic: secret(1), serverTraffic: secret(2)}}
		client, server, err := w.keys13(suite)
		if ok := err == nil; ok != tt.ok || !ok && !errors.Is(err, errSecrets) {
			t.Errorf("%s: error %v", tt.name, err)
		} else if ok && (server.Seq != tt.seq || client.Seq != 0) {
			t.Errorf("%s: numbers %d and %d, want 0 and %d", tt.name, client.Seq, server.Seq, tt.seq)
		}
	}
	for name, l := range map[string]logged{
		"no secrets":    {},
		"only a client": {clientTraffic: secret(1)},
		"short secret":  {clientTraffic: secret(1), serverTraffic: secret(2)[1:]},
	} {
		if _, _, err := (&wire{logged: l, appSent: bytes.Join(application, nil)}).keys13(suite); !errors.Is(err, errSecrets) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestKeyLogLines(t *testing.T) {
	random, secret := strings.Repeat("ab", 32), strings.Repeat("cd", 48)
	want, _ := hex.DecodeString(secret)
	for label, field := range map[string]func(l *logged) []byte{
		"CLIENT_TRAFFIC_SECRET_0": func(l *logged) []byte { return l.clientTraffic },
		"SERVER_TRAFFIC_SECRET_0": func(l *logged) []byte { return l.serverTraffic },
		"CLIENT_RANDOM":           func(l *logged) []byte { return l.master },
	} {
		w := new(wire)
		var next bytes.Buffer
		line := []byte(label + " " + random + " " + secret + "\n")
		if n, err := (&keyLog{w, &next}).Write(line); n != len(line) || err != nil {
			t.Errorf("%s: %d, %v", label, n, err)
		}
		if !bytes.Equal(field(&w.logged), want) {
			t.Errorf("%s: secret %x", label, field(&w.logged))
		}
		if next.String() != string(line) {
			t.Errorf("%s: the user's writer got %q", label, next.String())
		}
	}
	w := new(wire)
	for _, label := range []string{"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "EXPORTER_SECRET", "CLIENT_EARLY_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_1"} {
		if _, err := fmt.Fprintf(&keyLog{w, nil}, "%s %s %s\n", label, random, secret); err != nil {
			t.Errorf("%s: %v", label, err)
		}
	}
	if l := w.logged; l.clientTraffic != nil || l.serverTraffic != nil || l.master != nil {
		t.Errorf("a line that is none of ours was taken: %+v", l)
	}
	if _, err := (&keyLog{w, nil}).Write([]byte("CLIENT_RANDOM 00 zz\n")); err == nil {
		t.Error("a secret that is not hexadecimal was taken")
	}
}

// The handshake fails with the error of the user's key log, as in crypto/tls.
func TestKeyLogFails(t *testing.T) {
	for _, p := range pairings[1:] {
		ccfg, scfg := configs(t)
		scfg.KeyLogWriter = failingWriter{}
		a, b := tcpPair(t)
		_, _, _, serr := handshakes(a, b, p.client, p.server, ccfg, scfg)
		if !errors.Is(serr, errFull) {
			t.Errorf("%s: server: %v", p.name, serr)
		}
	}
}

type failingWriter struct{}

var errFull = errors.New("disk full")

func (failingWriter) Write([]byte) (int, error) { return 0, errFull }

func FuzzKeyLog(f *testing.F) {
	f.Add([]byte("CLIENT_RANDOM 0102 0304\n"))
	f.Add([]byte("SERVER_TRAFFIC_SECRET_0  \n"))
	f.Add([]byte("CLIENT_TRAFFIC_SECRET_0 00 0"))
	f.Add([]byte("CLIENT_RANDOM"))
	f.Add([]byte(" \n \n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		w := new(wire)
		in := bytes.Clone(line)
		n, err := (&keyLog{w, io.Discard}).Write(line)
		if !bytes.Equal(in, line) {
			t.Fatal("the line was changed")
		}
		if err == nil && n != len(line) || err != nil && n != 0 {
			t.Fatalf("%d of %d, %v", n, len(line), err)
		}
		l := w.logged
		if got := max(len(l.clientTraffic), len(l.serverTraffic), len(l.master)); got > len(line)/2 {
			t.Fatalf("a secret of %d bytes out of a line of %d", got, len(line))
		}
		if err != nil && (l.clientTraffic != nil || l.serverTraffic != nil || l.master != nil) {
			t.Fatal("a bad line left a secret")
		}
	})
}
