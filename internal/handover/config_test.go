package handover

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// countingLog is a user's key log.
type countingLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *countingLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *countingLog) lines() int { return len(l.labels()) }

// labels are the first words of the lines, sorted.
func (l *countingLog) labels() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for line := range strings.Lines(l.buf.String()) {
		label, _, _ := strings.Cut(line, " ")
		out = append(out, label)
	}
	slices.Sort(out)
	return out
}

// serverRoles are ours and the one that ours has to behave like.
var serverRoles = []struct {
	name   string
	server role
}{{"crypto-tls", theirServer}, {"ours", ourServer}}

var versions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

var aLongTimeAgo = time.Unix(1, 0)

// TestTicketKeys pins that session tickets live and die with the keys of the
// user's Config, as in crypto/tls. For automatic keys this needs Config.Clone to
// copy them, which its documentation does not promise.
func TestTicketKeys(t *testing.T) {
	for _, version := range versions {
		for _, r := range serverRoles {
			t.Run(tls.VersionName(version)+"/"+r.name, func(t *testing.T) {
				ccfg, scfg := configs(t)
				ccfg.MaxVersion = version
				step := func(what string, want ...bool) {
					t.Helper()
					for i, want := range want {
						if got := resumes(t, ourClient, r.server, ccfg, scfg); got != want {
							t.Fatalf("%s, connection %d: resumed %v, want %v", what, i, got, want)
						}
					}
				}
				step("automatic keys", false, true, true)
				scfg.SetSessionTicketKeys([][32]byte{{1}})
				step("keys set later", false, true)
				scfg.SetSessionTicketKeys([][32]byte{{2}, {1}})
				step("rotated, the old key kept", true, true)
				scfg.SetSessionTicketKeys([][32]byte{{2}})
				step("the old key dropped", true)
				scfg.SetSessionTicketKeys([][32]byte{{3}})
				step("all keys replaced", false, true)
			})
		}
	}
	// Why serverConfig touches the user's Config first: without it every clone
	// makes automatic keys of its own. If this starts to resume, that is no
	// longer needed; if the cases above stop to, Clone has changed.
	t.Run("clone", func(t *testing.T) {
		ccfg, scfg := configs(t)
		clone := func(conn net.Conn, cfg *tls.Config) (*end, error) { return theirServer(conn, cfg.Clone()) }
		for range 3 {
			if resumes(t, ourClient, clone, ccfg, scfg) {
				t.Fatal("a clone for every connection resumes")
			}
		}
	})
	t.Run("clone copies automatic keys", func(t *testing.T) {
		ccfg, scfg := configs(t)
		scfg.DecryptTicket(nil, tls.ConnectionState{})
		clone := func(conn net.Conn, cfg *tls.Config) (*end, error) { return theirServer(conn, cfg.Clone()) }
		resumes(t, ourClient, clone, ccfg, scfg)
		if !resumes(t, ourClient, clone, ccfg, scfg) {
			t.Fatal("Config.Clone does not copy automatic ticket keys any more: serverConfig relies on it")
		}
	})
}

// TestGetConfigForClient compares each form of the callback with crypto/tls.
func TestGetConfigForClient(t *testing.T) {
	for _, version := range versions {
		for _, r := range serverRoles {
			ccfg, base := configs(t)
			ccfg.MaxVersion = version
			fresh := func() *tls.Config {
				c := base.Clone()
				c.GetConfigForClient = nil
				return c
			}
			same := fresh()
			for _, tt := range []struct {
				name    string
				get     func() *tls.Config
				resumes bool
			}{
				{"nil", func() *tls.Config { return nil }, true},
				{"same pointer", func() *tls.Config { return same }, true},
				{"fresh", fresh, true},
				{"fresh with keys of its own", func() *tls.Config {
					c := fresh()
					c.SetSessionTicketKeys([][32]byte{{7}})
					return c
				}, true},
				{"fresh with a SessionTicketKey", func() *tls.Config {
					c := fresh()
					c.SessionTicketKey = [32]byte{8}
					return c
				}, true},
				{"fresh without tickets", func() *tls.Config {
					c := fresh()
					c.SessionTicketsDisabled = true
					return c
				}, false},
			} {
				t.Run(fmt.Sprintf("%s/%s/%s", tls.VersionName(version), r.name, tt.name), func(t *testing.T) {
					ccfg := ccfg.Clone()
					ccfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
					scfg := fresh()
					calls := 0
					scfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { calls++; return tt.get(), nil }
					for i := range 3 {
						want := tt.resumes && i > 0
						if got := resumes(t, ourClient, r.server, ccfg, scfg); got != want {
							t.Errorf("connection %d resumed: %v, want %v", i, got, want)
						}
					}
					if calls != 3 {
						t.Errorf("the callback ran %d times for 3 connections", calls)
					}
				})
			}
		}
	}
}

// What the Config says that GetConfigForClient returns is what counts, in both
// ways of running the server.
func TestReturnedConfig(t *testing.T) {
	a := newAuthority(t)
	leaf, other, client := a.leaf(t, testName), a.leaf(t, testName), a.leaf(t, "client")
	for _, tt := range []struct {
		name  string
		set   func(t *testing.T, p *tls.Config)
		check func(c, s tls.ConnectionState) bool
		pass  bool // the records stay with crypto/tls
	}{
		{name: "certificate", set: func(_ *testing.T, p *tls.Config) { p.Certificates = []tls.Certificate{other} },
			check: func(c, _ tls.ConnectionState) bool {
				return bytes.Equal(c.PeerCertificates[0].Raw, other.Certificate[0])
			}},
		{name: "client certificate", set: func(_ *testing.T, p *tls.Config) {
			p.ClientAuth, p.ClientCAs = tls.RequireAndVerifyClientCert, a.pool
		}, check: func(_, s tls.ConnectionState) bool {
			return len(s.VerifiedChains) == 1 && s.PeerCertificates[0].Subject.CommonName == "client"
		}},
		{name: "protocol", set: func(_ *testing.T, p *tls.Config) { p.NextProtos = []string{"b"} },
			check: func(c, s tls.ConnectionState) bool { return c.NegotiatedProtocol == "b" && s.NegotiatedProtocol == "b" }},
		{name: "version", set: func(_ *testing.T, p *tls.Config) { p.MaxVersion = tls.VersionTLS12 },
			check: func(c, _ tls.ConnectionState) bool { return c.Version == tls.VersionTLS12 }},
		{name: "curve", set: func(_ *testing.T, p *tls.Config) { p.CurvePreferences = []tls.CurveID{tls.CurveP521} },
			check: func(c, s tls.ConnectionState) bool { return c.HelloRetryRequest && s.CurveID == tls.CurveP521 }},
		{name: "CBC", set: func(_ *testing.T, p *tls.Config) {
			p.MaxVersion, p.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}, check: func(c, _ tls.ConnectionState) bool { return c.Version == tls.VersionTLS12 }, pass: true},
		{name: "GetConfigForClient", set: func(t *testing.T, p *tls.Config) {
			p.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
				t.Error("the callback of a returned Config was called")
				return nil, nil
			}
		}, check: func(c, _ tls.ConnectionState) bool { return true }},
	} {
		for _, r := range serverRoles {
			t.Run(tt.name+"/"+r.name, func(t *testing.T) {
				ccfg := &tls.Config{RootCAs: a.pool, ServerName: testName, NextProtos: []string{"a", "b"}, Certificates: []tls.Certificate{client}}
				scfg := &tls.Config{Certificates: []tls.Certificate{leaf}, NextProtos: []string{"a"}}
				scfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
					p := scfg.Clone()
					p.GetConfigForClient = nil
					tt.set(t, p)
					return p, nil
				}
				c, s := connect(t, ourClient, r.server, ccfg, scfg)
				if !tt.check(c.state, s.state) {
					t.Errorf("client %+v, server %+v", c.state, s.state)
				}
				for _, e := range []*end{c, s} {
					if e.result != nil && (e.result.Passthrough != nil) != tt.pass {
						t.Errorf("passthrough: %v", !tt.pass)
					}
				}
				exchange(t, c, s)
			})
		}
	}
	errRefused := errors.New("no Config for such a client")
	for _, r := range serverRoles {
		t.Run("error/"+r.name, func(t *testing.T) {
			ccfg, scfg := configs(t)
			scfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errRefused }
			cerr, serr := failing(t, ourClient, r.server, ccfg, scfg)
			remote(t, cerr)
			if !errors.Is(serr, errRefused) {
				t.Errorf("server: %v", serr)
			}
		})
	}
}

// A ticket of one tenant must be worthless to another, whose clients may differ
// in what they had to prove.
func TestTenants(t *testing.T) {
	for _, version := range versions {
		for _, r := range serverRoles {
			t.Run(tls.VersionName(version)+"/"+r.name, func(t *testing.T) {
				a := newAuthority(t)
				tenants := make(map[string]*tls.Config)
				for i, name := range []string{"a.example", "b.example"} {
					// One certificate for both: else the client itself would
					// refuse to resume across the names.
					tenants[name] = &tls.Config{Certificates: []tls.Certificate{a.leaf(t, "a.example", "b.example")}}
					tenants[name].SetSessionTicketKeys([][32]byte{{byte(i + 1)}})
				}
				scfg := &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
					return tenants[h.ServerName], nil
				}}
				cache := tls.NewLRUClientSessionCache(1)
				ccfg := func(name string) *tls.Config {
					return &tls.Config{RootCAs: a.pool, ServerName: name, MaxVersion: version, ClientSessionCache: &oneKeyCache{cache}}
				}
				if resumes(t, ourClient, r.server, ccfg("a.example"), scfg) {
					t.Fatal("the first connection resumed")
				}
				if !resumes(t, ourClient, r.server, ccfg("a.example"), scfg) {
					t.Fatal("tenant a does not open its own ticket")
				}
				if resumes(t, ourClient, r.server, ccfg("b.example"), scfg) {
					t.Fatal("tenant b opened a ticket of tenant a")
				}
			})
		}
	}
}

// oneKeyCache offers the same session to every server.
type oneKeyCache struct{ tls.ClientSessionCache }

func (c *oneKeyCache) Get(string) (*tls.ClientSessionState, bool) {
	return c.ClientSessionCache.Get("one")
}

func (c *oneKeyCache) Put(_ string, s *tls.ClientSessionState) { c.ClientSessionCache.Put("one", s) }

// Callbacks see the connection that the user knows, not what is put around it,
// and the context of the handshake.
func TestHelloInfo(t *testing.T) {
	ccfg, scfg := configs(t)
	cert := scfg.Certificates[0]
	a, b := tcpPair(t)
	seen := make(map[string]int)
	note := func(what string, h *tls.ClientHelloInfo) {
		seen[what]++
		if h.Conn != b {
			t.Errorf("%s: Conn is %T, not the user's", what, h.Conn)
		}
		if h.ServerName != testName || len(h.CipherSuites) == 0 || h.Context() == nil {
			t.Errorf("%s: the rest of the ClientHelloInfo is missing", what)
		}
	}
	get := func(what string) func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { note(what, h); return &cert, nil }
	}
	keys := func(what string) func(h *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
		return func(h *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) { note(what, h); return nil, nil }
	}
	scfg = &tls.Config{
		GetCertificate:              get("outer GetCertificate"),
		GetEncryptedClientHelloKeys: keys("outer GetEncryptedClientHelloKeys"),
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			note("GetConfigForClient", h)
			return &tls.Config{GetCertificate: get("inner GetCertificate"),
				GetEncryptedClientHelloKeys: keys("inner GetEncryptedClientHelloKeys")}, nil
		},
	}
	if _, _, cerr, serr := handshakes(a, b, ourClient, ourServer, ccfg, scfg); cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	scfg.GetConfigForClient = nil
	a, b = tcpPair(t)
	if _, _, cerr, serr := handshakes(a, b, ourClient, ourServer, ccfg, scfg); cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	for _, what := range []string{"outer GetCertificate", "inner GetCertificate", "GetConfigForClient",
		"outer GetEncryptedClientHelloKeys", "inner GetEncryptedClientHelloKeys"} {
		if seen[what] != 1 {
			t.Errorf("%s was called %d times", what, seen[what])
		}
	}
}

// The user's own key log gets the lines that it gets from crypto/tls alone.
func TestUserKeyLog(t *testing.T) {
	for _, version := range versions {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			logs := make(map[string]*countingLog)
			for _, p := range pairings {
				ccfg, scfg := configs(t)
				ccfg.MaxVersion = version
				c, s := new(countingLog), new(countingLog)
				ccfg.KeyLogWriter, scfg.KeyLogWriter = c, s
				resumes(t, p.client, p.server, ccfg, scfg)
				resumes(t, p.client, p.server, ccfg, scfg)
				if c.buf.String() == "" || !slices.Equal(c.labels(), s.labels()) {
					t.Errorf("%s: client %q, server %q", p.name, c.labels(), s.labels())
				}
				if c.buf.String() != s.buf.String() && version == tls.VersionTLS12 {
					t.Errorf("%s: the key logs differ", p.name)
				}
				logs[p.name] = c
			}
			for name, l := range logs {
				if !slices.Equal(l.labels(), logs["theirs-ours"].labels()) {
					t.Errorf("%s: %q, plain crypto/tls: %q", name, l.labels(), logs["theirs-ours"].labels())
				}
			}
		})
	}
	t.Run("Config of GetConfigForClient", func(t *testing.T) {
		ccfg, scfg := configs(t)
		outer, inner := new(countingLog), new(countingLog)
		returned := scfg.Clone()
		returned.KeyLogWriter = inner
		scfg.KeyLogWriter = outer
		scfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return returned, nil }
		resumes(t, ourClient, ourServer, ccfg, scfg)
		if inner.lines() == 0 || outer.lines() != 0 {
			t.Errorf("%d lines in the log of the returned Config, %d in the other", inner.lines(), outer.lines())
		}
	})
}

// Users may store sessions themselves: the tickets are then theirs alone.
func TestUserSessions(t *testing.T) {
	for _, version := range versions {
		for _, inner := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/GetConfigForClient=%v", tls.VersionName(version), inner), func(t *testing.T) {
				ccfg, scfg := configs(t)
				ccfg.MaxVersion = version
				stored := make(map[string][]byte)
				var unwrapped int
				scfg.WrapSession = func(_ tls.ConnectionState, st *tls.SessionState) ([]byte, error) {
					st.Extra = append(st.Extra, []byte("of the user"))
					b, err := st.Bytes()
					id := fmt.Sprintf("session number %06d", len(stored))
					stored[id] = b
					return []byte(id), err
				}
				scfg.UnwrapSession = func(id []byte, _ tls.ConnectionState) (*tls.SessionState, error) {
					b, ok := stored[string(id)]
					if !ok {
						return nil, nil
					}
					unwrapped++
					st, err := tls.ParseSessionState(b)
					if err == nil && len(st.Extra) == 0 {
						t.Error("the session has lost what the user put into it")
					}
					return st, err
				}
				if inner {
					returned := scfg
					scfg = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return returned, nil }}
				}
				for i, want := range []bool{false, true, true} {
					if got := resumes(t, ourClient, ourServer, ccfg, scfg); got != want {
						t.Errorf("connection %d resumed: %v, want %v", i, got, want)
					}
				}
				if unwrapped == 0 || len(stored) == 0 {
					t.Errorf("%d sessions stored, %d unwrapped", len(stored), unwrapped)
				}
			})
		}
	}
}

// The Config that is handed in stays as it was, so that one may serve all.
func TestUserConfigUnchanged(t *testing.T) {
	ccfg, scfg := configs(t)
	cache := ccfg.ClientSessionCache
	resumes(t, ourClient, ourServer, ccfg, scfg)
	if ccfg.KeyLogWriter != nil || scfg.KeyLogWriter != nil || ccfg.ClientSessionCache != cache || scfg.UnwrapSession != nil || scfg.GetCertificate != nil {
		t.Error("a Config of the user was changed")
	}
}
