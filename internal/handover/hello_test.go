package handover

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"testing"
)

// clientHelloOf returns the ClientHello that crypto/tls sends in a resumed TLS
// 1.2 handshake, and the ticket in it.
func clientHelloOf(t testing.TB) (hello, ticket []byte) {
	ccfg, scfg := configs(t)
	ccfg.MaxVersion = tls.VersionTLS12
	cache := new(countingCache)
	ccfg.ClientSessionCache = cache
	connect(t, theirClient, theirServer, ccfg, scfg)
	ticket, _, err := cache.last.ResumptionState()
	if err != nil {
		t.Fatal(err)
	}
	a, b := tcpPair(t)
	w := &wire{Conn: a, via: a}
	go theirClient(b, ccfg)
	if err := tls.Server(w, scfg).Handshake(); err != nil {
		t.Fatal(err)
	}
	return w.clientHello, ticket
}

func TestSessionTicket(t *testing.T) {
	hello, ticket := clientHelloOf(t)
	if got := sessionTicket(hello); len(ticket) == 0 || !bytes.Equal(got, ticket) {
		t.Fatalf("ticket of %d bytes, want %d", len(got), len(ticket))
	}
	// Every message that is cut short has no ticket, or one that was whole.
	for n := range hello {
		if got := sessionTicket(hello[:n]); got != nil && !bytes.Equal(got, ticket) {
			t.Fatalf("a hello cut after %d bytes has a ticket of %d bytes", n, len(got))
		}
	}
}

// buildHello makes a ClientHello of extensions with these types and bodies.
func buildHello(extensions ...any) []byte {
	b := append([]byte{1, 0, 0, 0, 3, 3}, make([]byte, 32)...)
	b = append(b, 2, 0xaa, 0xbb)    // session id
	b = append(b, 0, 4, 1, 2, 3, 4) // cipher suites
	b = append(b, 1, 0)             // compression methods
	var ext []byte
	for i := 0; i+1 < len(extensions); i += 2 {
		body := []byte(extensions[i+1].(string))
		ext = binary.BigEndian.AppendUint16(ext, uint16(extensions[i].(int)))
		ext = binary.BigEndian.AppendUint16(ext, uint16(len(body)))
		ext = append(ext, body...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(ext)))
	return append(b, ext...)
}

func TestSessionTicketExtensions(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"only one", buildHello(35, "ticket"), "ticket"},
		{"last of some", buildHello(0, "name", 10, "", 35, "ticket"), "ticket"},
		{"first of some", buildHello(35, "ticket", 0, "name"), "ticket"},
		{"empty", buildHello(35, ""), ""},
		{"none", buildHello(0, "name"), ""},
		{"no extensions", buildHello(), ""},
		{"nothing", nil, ""},
		{"bytes behind the extensions", append(buildHello(0, "name"), 0, 35, 0, 1, 'x'), ""},
	} {
		if got := sessionTicket(tt.in); string(got) != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func FuzzSessionTicket(f *testing.F) {
	f.Add(buildHello(35, "ticket"))
	f.Add(buildHello(0, "name", 35, "", 16, "h2"))
	f.Add(buildHello())
	f.Add(bytes.Repeat([]byte{0xff}, 100))
	hello, _ := clientHelloOf(f)
	f.Add(hello)
	f.Fuzz(func(t *testing.T, hello []byte) {
		in := bytes.Clone(hello)
		got := sessionTicket(hello)
		if !bytes.Equal(in, hello) {
			t.Fatal("the message was changed")
		}
		if len(got) == 0 {
			return
		}
		// Whatever it found stands in the message behind its own header.
		header := []byte{0, 35, byte(len(got) >> 8), byte(len(got))}
		if !bytes.Contains(hello, append(header, got...)) {
			t.Fatalf("%x is no extension of %x", got, hello)
		}
	})
}
