package handover

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// echKey makes a key for Encrypted Client Hello (RFC 9849) and the list of
// configurations that a client needs.
func echKey(t testing.TB, public string) (key tls.EncryptedClientHelloKey, list []byte) {
	t.Helper()
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bytesOf := func(b *cryptobyte.Builder, p []byte) { b.AddBytes(p) }
	var config cryptobyte.Builder
	config.AddUint16(0xfe0d)
	config.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(1)       // config id
		b.AddUint16(0x0020) // DHKEM(X25519, HKDF-SHA256)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { bytesOf(b, private.PublicKey().Bytes()) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16(0x0001) // HKDF-SHA256
			b.AddUint16(0x0001) // AES-128-GCM
		})
		b.AddUint8(64) // longest name
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { bytesOf(b, []byte(public)) })
		b.AddUint16(0) // no extensions
	})
	c := config.BytesOrPanic()
	var all cryptobyte.Builder
	all.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { bytesOf(b, c) })
	return tls.EncryptedClientHelloKey{Config: c, PrivateKey: private.Bytes(), SendAsRetry: true}, all.BytesOrPanic()
}

// With Encrypted Client Hello the key log speaks of a client random that never
// shows on the wire.
func TestEncryptedClientHello(t *testing.T) {
	key, list := echKey(t, "public.example")
	for _, hrr := range []bool{false, true} {
		for _, callback := range []bool{false, true} {
			for _, p := range pairings {
				t.Run(fmt.Sprintf("HelloRetryRequest=%v/callback=%v/%s", hrr, callback, p.name), func(t *testing.T) {
					ccfg, scfg := configs(t)
					ccfg.EncryptedClientHelloConfigList = list
					if hrr {
						scfg.CurvePreferences = []tls.CurveID{tls.CurveP521}
					}
					calls := 0
					if callback {
						scfg.GetEncryptedClientHelloKeys = func(h *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
							calls++
							if _, ok := h.Conn.(*wire); ok {
								t.Error("the callback sees our wire")
							}
							return []tls.EncryptedClientHelloKey{key}, nil
						}
					} else {
						scfg.EncryptedClientHelloKeys = []tls.EncryptedClientHelloKey{key}
					}
					for _, resumed := range []bool{false, true} {
						c, s := connect(t, p.client, p.server, ccfg, scfg)
						if !c.state.ECHAccepted || !s.state.ECHAccepted || s.state.ServerName != testName {
							t.Fatalf("ECH: client %v, server %v, name %q", c.state.ECHAccepted, s.state.ECHAccepted, s.state.ServerName)
						}
						if c.state.HelloRetryRequest != hrr || c.state.DidResume != resumed {
							t.Errorf("HelloRetryRequest %v, resumed %v", c.state.HelloRetryRequest, c.state.DidResume)
						}
						handedOver(t, c, s)
						checkSame(t, c, s)
						exchange(t, c, s)
					}
					if callback && calls == 0 {
						t.Error("the callback was not called")
					}
				})
			}
		}
	}
}

// A client with an old key learns the new one, from wherever the server has it,
// and the callback sees the user's connection.
func TestEncryptedClientHelloRejected(t *testing.T) {
	_, stale := echKey(t, "public.example")
	key, list := echKey(t, "public.example")
	keys := []tls.EncryptedClientHelloKey{key}
	callback := func(t *testing.T) func(h *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
		return func(h *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
			if _, ok := h.Conn.(*wire); ok {
				t.Error("the callback sees our wire")
			}
			return keys, nil
		}
	}
	for _, tt := range []struct {
		name string
		set  func(t *testing.T, scfg *tls.Config)
	}{
		{"field", func(_ *testing.T, scfg *tls.Config) { scfg.EncryptedClientHelloKeys = keys }},
		{"callback", func(t *testing.T, scfg *tls.Config) { scfg.GetEncryptedClientHelloKeys = callback(t) }},
		{"callback of the returned Config", func(t *testing.T, scfg *tls.Config) {
			p := scfg.Clone()
			p.GetEncryptedClientHelloKeys = callback(t)
			scfg.EncryptedClientHelloKeys = keys
			scfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return p, nil }
		}},
	} {
		for _, p := range pairings {
			t.Run(tt.name+"/"+p.name, func(t *testing.T) {
				a := newAuthority(t)
				ccfg := &tls.Config{RootCAs: a.pool, ServerName: testName, EncryptedClientHelloConfigList: stale}
				scfg := &tls.Config{Certificates: []tls.Certificate{a.leaf(t, testName, "public.example")}}
				tt.set(t, scfg)
				x, y := tcpPair(t)
				c, s, cerr, serr := handshakes(x, y, p.client, p.server, ccfg, scfg)
				e, ok := errors.AsType[*tls.ECHRejectionError](cerr)
				if !ok || serr != nil {
					t.Fatalf("client: %v (%T); server: %v", cerr, cerr, serr)
				}
				// The client says ech_required where it would say something else.
				handedOver(t, s)
				if n, err := s.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF || isTimeout(err) {
					t.Errorf("the server read %d, %v", n, err)
				}
				ccfg.EncryptedClientHelloConfigList = e.RetryConfigList
				if !bytes.Equal(e.RetryConfigList, list) {
					t.Errorf("to be tried again with %x, and the server has %x", e.RetryConfigList, list)
				}
				c, s = connect(t, p.client, p.server, ccfg, scfg)
				if !c.state.ECHAccepted || !s.state.ECHAccepted {
					t.Error("not accepted with the new key either")
				}
				handedOver(t, c, s)
				exchange(t, c, s)
			})
		}
	}
}
