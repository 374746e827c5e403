package aftls

import (
	"bytes"
	"crypto/tls"
	"net"
	"testing"

	"github.com/aftls/aftls/record"
)

// The answer to a KeyUpdate must not be a request (RFC 8446, 4.6.3). Where a
// request is due as well, it is a KeyUpdate of its own: GnuTLS ends connections
// that make one of the two.
func TestAnswerIsNoRequest(t *testing.T) {
	for _, test := range []struct {
		name        string
		answer, ask bool
		want        []byte // request_update of each KeyUpdate
	}{
		{"neither", false, false, nil},
		{"answer", true, false, []byte{0}},
		{"request", false, true, []byte{1}},
		{"both", true, true, []byte{0, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			const suite = tls.TLS_AES_128_GCM_SHA256
			k, err := record.TrafficKeys(suite, bytes.Repeat([]byte{7}, 32))
			if err != nil {
				t.Fatal(err)
			}
			c := &Conn{s: NewSocket(a, Options{}), state: tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: suite}}
			c.s.duties = c.duties
			peer := NewSocket(b, Options{})
			if err := c.s.SetKeys(Send, k); err != nil {
				t.Fatal(err)
			}
			if err := peer.SetKeys(Receive, k); err != nil {
				t.Fatal(err)
			}
			if test.answer {
				c.setFlag(answer)
			}
			if test.ask {
				c.setFlag(ask)
			}
			wrote := make(chan error, 1)
			go func() {
				_, err := c.Write([]byte("data"))
				wrote <- err
			}()
			var got []byte
			for {
				p := make([]byte, 16)
				typ, n, err := peer.ReadRecord(p)
				if err != nil {
					t.Fatal(err)
				}
				if typ == record.ApplicationData {
					if string(p[:n]) != "data" {
						t.Fatalf("read %q", p[:n])
					}
					break
				}
				if typ != record.Handshake || n != 5 || p[0] != keyUpdate {
					t.Fatalf("%v record: %x", typ, p[:n])
				}
				got = append(got, p[4])
				if k, err = k.Next(); err != nil {
					t.Fatal(err)
				}
				if err := peer.SetKeys(Receive, k); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, test.want) {
				t.Fatalf("KeyUpdates with request_update %v, want %v", got, test.want)
			}
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
			if c.flag(answer|ask) || c.flag(asked) != test.ask {
				t.Fatal("what is owed is wrong")
			}
		})
	}
}
