package handover

import (
	"bytes"
	"crypto/fips140"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/aftls/aftls/record"
)

// pairings are who runs the handshake on each end. Plain crypto/tls is there to
// see that we agree with somebody else, too.
var pairings = []struct {
	name           string
	client, server role
}{
	{"ours-theirs", ourClient, theirServer},
	{"theirs-ours", theirClient, ourServer},
	{"ours-ours", ourClient, ourServer},
}

// suites12 is every TLS 1.2 suite that the record layer serves.
var suites12 = []uint16{
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
}

func TestHandover(t *testing.T) {
	a := newAuthority(t)
	scfg := &tls.Config{Certificates: []tls.Certificate{a.leaf(t, testName), a.leafRSA(t, testName)}}
	scfg.CipherSuites = suites12
	versions := map[uint16][]uint16{tls.VersionTLS12: suites12, tls.VersionTLS13: {0}}
	for _, p := range pairings {
		for version, suites := range versions {
			for _, suite := range suites {
				name := tls.VersionName(version)
				ccfg := &tls.Config{RootCAs: a.pool, ServerName: testName, MinVersion: version, MaxVersion: version,
					ClientSessionCache: tls.NewLRUClientSessionCache(1)}
				if suite != 0 {
					name = tls.CipherSuiteName(suite)
					ccfg.CipherSuites = []uint16{suite}
				}
				t.Run(p.name+"/"+name, func(t *testing.T) {
					for _, resumed := range []bool{false, true, true} {
						c, s := connect(t, p.client, p.server, ccfg, scfg)
						if c.state.DidResume != resumed || s.state.DidResume != resumed {
							t.Fatalf("resumed: client %v, server %v, want %v", c.state.DidResume, s.state.DidResume, resumed)
						}
						checkKeys(t, c, version, suite)
						checkKeys(t, s, version, suite)
						checkSame(t, c, s)
						checkExporters(t, c, s)
						exchange(t, c, s)
					}
				})
			}
		}
	}
}

// checkKeys checks a Result against the table of sequence numbers.
func checkKeys(t *testing.T, e *end, version, suite uint16) {
	t.Helper()
	r := e.result
	if r == nil {
		return
	}
	handedOver(t, e)
	for _, k := range []record.Keys{r.In, r.Out} {
		if k.Version != version || k.Suite != e.state.CipherSuite || suite != 0 && k.Suite != suite || k.Epoch != 0 {
			t.Errorf("keys of %s, %s, epoch %d", tls.VersionName(k.Version), tls.CipherSuiteName(k.Suite), k.Epoch)
		}
		if has := len(k.Secret) > 0; has != (version == tls.VersionTLS13) {
			t.Errorf("%s: keys have a traffic secret: %v", tls.VersionName(version), has)
		}
	}
	in, out := uint64(1), uint64(1)
	if version == tls.VersionTLS13 {
		in, out = 0, 0
		if e.server {
			out = 1 // one session ticket in one record
		}
	}
	if r.In.Seq != in || r.Out.Seq != out {
		t.Errorf("sequence numbers: in %d, out %d, want %d, %d", r.In.Seq, r.Out.Seq, in, out)
	}
}

// checkSame checks that two ends of ours agree on everything but the number of
// the server's tickets, which the client has yet to read.
func checkSame(t *testing.T, c, s *end) {
	t.Helper()
	if c.result == nil || s.result == nil {
		return
	}
	same := func(a, b record.Keys) bool {
		return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.IV, b.IV) && bytes.Equal(a.Secret, b.Secret)
	}
	if !same(c.result.In, s.result.Out) || !same(c.result.Out, s.result.In) {
		t.Error("the ends have different keys")
	}
	if same(c.result.In, c.result.Out) {
		t.Error("both directions have the same keys")
	}
}

func checkExporters(t *testing.T, c, s *end) {
	t.Helper()
	a, err := c.state.ExportKeyingMaterial("EXPORTER-test", []byte("context"), 48)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.state.ExportKeyingMaterial("EXPORTER-test", []byte("context"), 48)
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != 48 || !bytes.Equal(a, b) {
		t.Errorf("exporters differ: %x, %x", a, b)
	}
}

// TestFeatures runs what a handshake can have beyond the plain case, with both
// versions, full and resumed.
func TestFeatures(t *testing.T) {
	a := newAuthority(t)
	leaf, long := a.leaf(t, testName), a.longLeaf(t, testName)
	client, longClient := a.leaf(t, "client"), a.longLeaf(t, "client")
	mutual := func(ccfg, scfg *tls.Config, cert tls.Certificate) {
		ccfg.Certificates = []tls.Certificate{cert}
		scfg.ClientAuth, scfg.ClientCAs = tls.RequireAndVerifyClientCert, a.pool
	}
	const any = -1
	for _, tt := range []struct {
		name    string
		version uint16 // 0 is both
		set     func(ccfg, scfg *tls.Config)
		check   func(t *testing.T, c, s tls.ConnectionState)
		seq     int // of a TLS 1.3 server; any is more than one record of tickets
		full    bool
	}{
		{name: "plain", seq: 1},
		{name: "ALPN", seq: 1, set: func(ccfg, scfg *tls.Config) {
			ccfg.NextProtos, scfg.NextProtos = []string{"h2", "http/1.1"}, []string{"http/1.1"}
		}, check: func(t *testing.T, c, s tls.ConnectionState) {
			if c.NegotiatedProtocol != "http/1.1" || s.NegotiatedProtocol != "http/1.1" {
				t.Errorf("ALPN: client %q, server %q", c.NegotiatedProtocol, s.NegotiatedProtocol)
			}
		}},
		{name: "SNI", seq: 1, check: func(t *testing.T, c, s tls.ConnectionState) {
			if s.ServerName != testName {
				t.Errorf("server name %q", s.ServerName)
			}
		}},
		{name: "HelloRetryRequest", version: tls.VersionTLS13, seq: 1, set: func(ccfg, scfg *tls.Config) {
			scfg.CurvePreferences = []tls.CurveID{tls.CurveP521}
		}, check: func(t *testing.T, c, s tls.ConnectionState) {
			if !c.HelloRetryRequest || !s.HelloRetryRequest || s.CurveID != tls.CurveP521 {
				t.Errorf("HelloRetryRequest: client %v, server %v, curve %v", c.HelloRetryRequest, s.HelloRetryRequest, s.CurveID)
			}
		}},
		{name: "X25519MLKEM768", version: tls.VersionTLS13, seq: 1, check: func(t *testing.T, c, s tls.ConnectionState) {
			if c.CurveID != tls.X25519MLKEM768 || s.CurveID != tls.X25519MLKEM768 {
				t.Errorf("curve %v, %v", c.CurveID, s.CurveID)
			}
		}},
		{name: "SecP384r1MLKEM1024 after HelloRetryRequest", version: tls.VersionTLS13, seq: 1, set: func(ccfg, scfg *tls.Config) {
			// The second ClientHello is larger than the buffer that hellos are noted in.
			scfg.CurvePreferences = []tls.CurveID{tls.SecP384r1MLKEM1024}
		}, check: func(t *testing.T, c, s tls.ConnectionState) {
			if !c.HelloRetryRequest || !s.HelloRetryRequest || c.CurveID != tls.SecP384r1MLKEM1024 {
				t.Errorf("HelloRetryRequest: client %v, server %v, curve %v", c.HelloRetryRequest, s.HelloRetryRequest, c.CurveID)
			}
		}},
		{name: "tickets of 40 kB", seq: any, set: func(ccfg, scfg *tls.Config) { longTickets(scfg, 40_000) }},
		{name: "long server chain", seq: 1, set: func(ccfg, scfg *tls.Config) { scfg.Certificates = []tls.Certificate{long} }},
		{name: "client certificate", seq: 1, set: func(ccfg, scfg *tls.Config) { mutual(ccfg, scfg, client) },
			check: func(t *testing.T, c, s tls.ConnectionState) {
				if len(s.PeerCertificates) == 0 || s.PeerCertificates[0].Subject.CommonName != "client" {
					t.Error("the server does not know the client")
				}
			}},
		{name: "long chains of both", seq: any, set: func(ccfg, scfg *tls.Config) {
			mutual(ccfg, scfg, longClient)
			scfg.Certificates = []tls.Certificate{long}
		}},
		{name: "tickets disabled", seq: 0, full: true, set: func(ccfg, scfg *tls.Config) { scfg.SessionTicketsDisabled = true }},
		{name: "client without cache", seq: 0, full: true, set: func(ccfg, scfg *tls.Config) { ccfg.ClientSessionCache = nil }},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			if tt.version != 0 && version != tt.version {
				continue
			}
			for _, p := range pairings {
				t.Run(fmt.Sprintf("%s/%s/%s", tt.name, tls.VersionName(version), p.name), func(t *testing.T) {
					ccfg := &tls.Config{RootCAs: a.pool, ServerName: testName, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
					scfg := &tls.Config{Certificates: []tls.Certificate{leaf}}
					if tt.set != nil {
						tt.set(ccfg, scfg)
					}
					for i := range 2 {
						c, s := connect(t, p.client, p.server, ccfg, scfg)
						if want := i > 0 && !tt.full; c.state.DidResume != want {
							t.Errorf("connection %d resumed: %v, want %v", i, c.state.DidResume, want)
						}
						handedOver(t, c, s)
						if tt.check != nil {
							tt.check(t, c.state, s.state)
						}
						if r := s.result; r != nil && version == tls.VersionTLS13 {
							if seq := r.Out.Seq; tt.seq != any && seq != uint64(tt.seq) || tt.seq == any && seq < 2 {
								t.Errorf("the server stands at number %d, want %d", seq, tt.seq)
							}
						}
						checkExporters(t, c, s)
						exchange(t, c, s)
						// An opener counts what it opened: the records that
						// the server had sent before are all there.
						if c.result != nil && s.result != nil && version == tls.VersionTLS13 {
							if got, want := c.stream(t).control, int(s.result.Out.Seq); got != want {
								t.Errorf("the client read %d records of tickets, the server's number was %d", got, want)
							}
						}
					}
				})
			}
		}
	}
}

// longTickets makes the tickets of a server n bytes long.
func longTickets(scfg *tls.Config, n int) {
	var mu sync.Mutex
	stored := make(map[string][]byte)
	scfg.WrapSession = func(_ tls.ConnectionState, st *tls.SessionState) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		b, err := st.Bytes()
		id := append(fmt.Appendf(nil, "session number %06d", len(stored)), make([]byte, n)...)[:n]
		stored[string(id)] = b
		return id, err
	}
	scfg.UnwrapSession = func(id []byte, _ tls.ConnectionState) (*tls.SessionState, error) {
		mu.Lock()
		defer mu.Unlock()
		if b, ok := stored[string(id)]; ok {
			return tls.ParseSessionState(b)
		}
		return nil, nil
	}
}

// TestManyConnections is for the race detector: everything that connections
// share, 200 of them share here at once.
func TestManyConnections(t *testing.T) {
	ccfg, scfg := configs(t)
	var log countingLog
	scfg.KeyLogWriter = &log
	scfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return scfg, nil }
	const atOnce = 200
	var wg, together sync.WaitGroup
	together.Add(atOnce)
	for i := range atOnce {
		a, b := tcpPair(t)
		wg.Go(func() {
			ccfg := ccfg.Clone()
			if i%2 == 0 {
				ccfg.MaxVersion = tls.VersionTLS12
			}
			c, s, cerr, serr := handshakes(a, b, ourClient, ourServer, ccfg, scfg)
			together.Done()
			together.Wait() // no connection ends before the last has begun
			if cerr != nil || serr != nil {
				t.Errorf("client: %v; server: %v", cerr, serr)
				return
			}
			if c.result.Passthrough != nil || s.result.Passthrough != nil {
				t.Error("passthrough")
			}
			msg, got := []byte("hello over there"), make([]byte, 16)
			if _, err := c.Write(msg); err != nil {
				t.Error(err)
			}
			if _, err := s.Read(got); err != nil || !bytes.Equal(got, msg) {
				t.Errorf("%q, %v", got, err)
			}
			if _, err := s.Write(msg); err != nil {
				t.Error(err)
			}
			clear(got)
			if _, err := c.Read(got); err != nil || !bytes.Equal(got, msg) { // past the ticket
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if log.lines() == 0 {
		t.Error("the user's key log stayed empty")
	}
}

// TestFIPS140On starts the process anew with GODEBUG=fips140=on: there is no
// ChaCha20-Poly1305 then, and all else is handed over as ever.
func TestFIPS140On(t *testing.T) {
	const ran = "handed over with GODEBUG=fips140=on"
	if !isChild(t) {
		inChild(t, "TestFIPS140On", "fips140=on", ran)
		return
	}
	if !fips140.Enabled() || fips140.Enforced() {
		t.Fatal("GODEBUG=fips140=on has no effect")
	}
	for _, p := range pairings {
		for _, version := range versions {
			ccfg, scfg := configs(t)
			ccfg.MaxVersion = version
			for _, resumed := range []bool{false, true} {
				c, s := connect(t, p.client, p.server, ccfg, scfg)
				if c.state.Version != version || c.state.DidResume != resumed || s.state.DidResume != resumed {
					t.Fatalf("%s, resumed %v and %v", tls.VersionName(c.state.Version), c.state.DidResume, s.state.DidResume)
				}
				checkKeys(t, c, version, 0)
				checkKeys(t, s, version, 0)
				checkSame(t, c, s)
				checkExporters(t, c, s)
				exchange(t, c, s)
			}
		}
	}
	t.Log(ran)
}

// inChild runs one test of this binary again with a GODEBUG that has to be set
// before the process starts. The test must log want to count as run.
func inChild(t *testing.T, test, godebug, want string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run", "^"+test+"$", "-test.v", "-test.timeout", "60s")
	cmd.Env = append(os.Environ(), "GODEBUG="+godebug, childEnv+"="+test)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("GODEBUG=%s: %v\n%s", godebug, err, out)
	}
	if !strings.Contains(string(out), want) {
		t.Fatalf("GODEBUG=%s: %q is not in the output:\n%s", godebug, want, out)
	}
}

const childEnv = "AFTLS_HANDOVER_TEST"

// isChild reports whether this process is the one that inChild started.
func isChild(t *testing.T) bool { return os.Getenv(childEnv) == t.Name() }
