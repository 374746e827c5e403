package handover

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// echKey makes a key for Encrypted Client Hello (RFC 9849) and the list of
// configurations that a client needs.
func echKey(t *testing.T, public string) (key tls.EncryptedClientHelloKey, list []byte) {
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
