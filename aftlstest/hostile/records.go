package hostile

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/aftls/aftls/record"
)

// attacker is a client of TLS 1.3 that has finished its handshake, has been
// served, and seals by itself what it sends from then on.
type attacker struct {
	*tls.Conn
	sealer *record.Sealer
	out    []byte
}

// records are what no client may send after a handshake. The server has to end
// each connection, and must not echo any of it.
func records(t *testing.T, s Server) {
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			t.Parallel()
			a, err := s.attack()
			if err != nil {
				t.Fatal(err)
			}
			defer a.NetConn().Close()
			attack.send(a)
			// The server may end it while it still comes.
			var wg sync.WaitGroup
			wg.Go(func() {
				a.NetConn().Write(a.out)
				if attack.fin {
					a.NetConn().(*net.TCPConn).CloseWrite()
				}
			})
			got, err := io.ReadAll(a)
			a.NetConn().Close()
			wg.Wait()
			if len(got) > 0 {
				t.Errorf("it was answered with data: %.40q", got)
			}
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Error("the server goes on with the connection")
			}
			t.Logf("the server ended it: %v", err)
		})
	}
}

// attack connects, is served once, and takes over the sending side.
func (s Server) attack() (*attacker, error) {
	var log bytes.Buffer
	with := s
	with.Config = s.Config.Clone()
	with.Config.KeyLogWriter = &log
	c, err := with.dial(tls.VersionTLS13, nil)
	if err != nil {
		return nil, err
	}
	const hello = "an honest beginning"
	b := make([]byte, len(hello))
	if _, err = io.WriteString(c, hello); err == nil {
		_, err = io.ReadFull(c, b)
	}
	if err == nil && string(b) != hello {
		err = errors.New("the server does not echo")
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	for line := range strings.Lines(log.String()) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "CLIENT_TRAFFIC_SECRET_0" {
			continue
		}
		secret, err := hex.DecodeString(f[2])
		if err != nil {
			return nil, err
		}
		keys, err := record.TrafficKeys(c.ConnectionState().CipherSuite, secret)
		if err != nil {
			return nil, err
		}
		keys.Seq = 1 // the greeting
		sealer, err := record.NewSealer(keys)
		return &attacker{Conn: c, sealer: sealer}, err
	}
	return nil, errors.New("crypto/tls logged no secret")
}

// seal adds a sealed record.
func (a *attacker) seal(typ record.ContentType, payload ...byte) {
	var err error
	if a.out, err = a.sealer.Seal(a.out, typ, payload); err != nil {
		panic(fmt.Sprint("hostile: ", err)) // of what stands below
	}
}

// raw adds bytes as they are.
func (a *attacker) raw(b ...byte) { a.out = append(a.out, b...) }

// header adds a record header.
func (a *attacker) header(typ byte, version uint16, n int) {
	a.raw(typ, byte(version>>8), byte(version), byte(n>>8), byte(n))
}

// keyUpdate adds one and takes the next key.
func (a *attacker) keyUpdate(request byte) {
	a.seal(record.Handshake, 24, 0, 0, 1, request)
	if err := a.sealer.Next(); err != nil {
		panic(fmt.Sprint("hostile: ", err))
	}
}

func (a *attacker) flip(fromEnd int) { a.out[len(a.out)-fromEnd] ^= 1 }

const plainVersion = 0x0303

// floods is how many useless records are more than any server should take.
const floods = 20_000

var attacks = []struct {
	name string
	send func(*attacker)
	fin  bool // then the end of the stream
}{
	// Records that do not open.
	{"tag with a flipped bit", func(a *attacker) { a.seal(record.ApplicationData, []byte("data")...); a.flip(1) }, false},
	{"content with a flipped bit", func(a *attacker) { a.seal(record.ApplicationData, []byte("data")...); a.flip(18) }, false},
	{"the same record twice", func(a *attacker) { a.seal(record.ApplicationData); a.raw(a.out...) }, false},
	{"a record of zeros", func(a *attacker) { a.header(23, plainVersion, 100); a.raw(make([]byte, 100)...) }, false},
	{"a record too short for a tag", func(a *attacker) { a.header(23, plainVersion, 16); a.raw(make([]byte, 16)...) }, false},
	{"an empty record without a tag", func(a *attacker) { a.header(23, plainVersion, 0) }, true},
	{"a record one byte too long", func(a *attacker) { a.header(23, plainVersion, 1<<14+257); a.raw(make([]byte, 1<<14+257)...) }, false},
	{"a record of 64 kB", func(a *attacker) { a.header(23, plainVersion, 1<<16-1); a.raw(make([]byte, 1<<16-1)...) }, false},
	{"a record of SSL 2", func(a *attacker) { a.raw(0x80, 0x2e, 1, 0, 2); a.raw(make([]byte, 60)...) }, false},

	// Types that have no place here.
	{"an unknown type outside", func(a *attacker) { a.header(99, plainVersion, 20); a.raw(make([]byte, 20)...) }, false},
	{"an unknown type inside", func(a *attacker) { a.seal(99, 1, 2, 3) }, false},
	{"heartbeat outside", func(a *attacker) { a.header(24, plainVersion, 3); a.raw(1, 0x40, 0) }, false},
	{"heartbeat inside", func(a *attacker) { a.seal(24, 1, 0x40, 0) }, false},
	{"ChangeCipherSpec inside", func(a *attacker) { a.seal(20, 1) }, true}, // crypto/tls ignores it, against RFC 8446, 5
	{"ChangeCipherSpec without end", func(a *attacker) {
		for range floods {
			a.header(20, plainVersion, 1)
			a.raw(1)
		}
	}, false},
	{"an alert in plaintext", func(a *attacker) { a.header(21, plainVersion, 2); a.raw(2, 40) }, false},
	{"data in plaintext", func(a *attacker) { a.header(23, plainVersion, 20); a.raw([]byte("in plaintext, really")...) }, false},
	{"HTTP in plaintext", func(a *attacker) { a.raw([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")...) }, false},

	// Alerts.
	{"an alert of one byte", func(a *attacker) { a.seal(record.AlertRecord, 1) }, false},
	{"an alert of three bytes", func(a *attacker) { a.seal(record.AlertRecord, 1, 0, 0) }, false},
	{"an empty alert", func(a *attacker) { a.seal(record.AlertRecord) }, false},
	{"an alert that nobody knows", func(a *attacker) { a.seal(record.AlertRecord, 7, 255) }, false},
	{"user_canceled without end", func(a *attacker) {
		for range floods {
			a.seal(record.AlertRecord, 1, 90)
		}
	}, false},
	{"data behind close_notify", func(a *attacker) {
		a.seal(record.AlertRecord, 1, 0)
		a.seal(record.ApplicationData, []byte("behind the end")...)
	}, false},

	// Handshake messages.
	{"ClientHello", func(a *attacker) { a.seal(record.Handshake, append([]byte{1, 0, 0, 40}, make([]byte, 40)...)...) }, false},
	{"Finished", func(a *attacker) { a.seal(record.Handshake, append([]byte{20, 0, 0, 32}, make([]byte, 32)...)...) }, false},
	{"NewSessionTicket of a client", func(a *attacker) { a.seal(record.Handshake, append([]byte{4, 0, 0, 20}, make([]byte, 20)...)...) }, false},
	{"a message that nobody knows", func(a *attacker) { a.seal(record.Handshake, 77, 0, 0, 0) }, false},
	{"a message of 16 MB", func(a *attacker) {
		a.seal(record.Handshake, append([]byte{24, 0xff, 0xff, 0xff}, make([]byte, 1000)...)...)
		for range 64 {
			a.seal(record.Handshake, make([]byte, 16000)...)
		}
	}, false},
	{"an empty handshake record", func(a *attacker) { a.seal(record.Handshake) }, false},
	{"data inside a message", func(a *attacker) {
		a.seal(record.Handshake, 24, 0, 0)
		a.seal(record.ApplicationData, []byte("between")...)
	}, false},
	{"KeyUpdate of no bytes", func(a *attacker) { a.seal(record.Handshake, 24, 0, 0, 0) }, false},
	{"KeyUpdate of two bytes", func(a *attacker) { a.seal(record.Handshake, 24, 0, 0, 2, 0, 0) }, false},
	{"KeyUpdate that asks for 2", func(a *attacker) { a.seal(record.Handshake, 24, 0, 0, 1, 2) }, false},
	{"KeyUpdate with bytes behind it", func(a *attacker) { a.seal(record.Handshake, 24, 0, 0, 1, 0, 24, 0) }, false},
	{"KeyUpdate and then the old key", func(a *attacker) {
		a.seal(record.Handshake, 24, 0, 0, 1, 0)
		a.seal(record.ApplicationData, []byte("old key")...)
	}, false},
	{"KeyUpdate without end", func(a *attacker) {
		for range floods {
			a.keyUpdate(0)
		}
	}, false},
	{"KeyUpdate requests without end", func(a *attacker) {
		for range floods {
			a.keyUpdate(1)
		}
	}, false},
	{"empty records without end", func(a *attacker) {
		for range floods {
			a.seal(record.ApplicationData)
		}
	}, false},

	// Ends.
	{"the end inside a header", func(a *attacker) { a.raw(23, 3) }, true},
	{"the end inside a record", func(a *attacker) { a.header(23, plainVersion, 1000); a.raw(make([]byte, 10)...) }, true},
	{"the end without close_notify", func(*attacker) {}, true},
}
