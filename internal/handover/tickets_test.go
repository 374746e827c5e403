package handover

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/aftls/aftls/record"
)

// newSessionTicket builds the message (RFC 8446, 4.6.1), header included.
func newSessionTicket(nonce byte, ticket []byte) []byte {
	body := binary.BigEndian.AppendUint32(nil, 3600) // lifetime
	body = append(body, 1, 2, 3, 4)                  // age_add
	body = append(body, 1, nonce)
	body = binary.BigEndian.AppendUint16(body, uint16(len(ticket)))
	body = append(body, ticket...)
	body = append(body, 0, 0) // no extensions
	return append([]byte{4, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

// countingCache counts the sessions that crypto/tls stores, and keeps the last.
type countingCache struct {
	puts int
	last *tls.ClientSessionState
}

func (c *countingCache) Get(string) (*tls.ClientSessionState, bool) { return c.last, c.last != nil }
func (c *countingCache) Put(_ string, s *tls.ClientSessionState)    { c.puts, c.last = c.puts+1, s }

// More tickets in a row than crypto/tls takes useless records; one of them fills
// several records. Each has to reach the user's cache.
func TestManyTickets(t *testing.T) {
	ccfg, scfg := configs(t)
	cache := new(countingCache)
	ccfg.ClientSessionCache = cache
	scfg.SessionTicketsDisabled = true
	c, s := connect(t, ourClient, ourServer, ccfg, scfg)
	const tickets, long = 40, 20
	errc := make(chan error, 1)
	go func() {
		out := s.stream(t)
		for i := range tickets {
			size := 100
			if i == long {
				size = 40_000
			}
			msg := newSessionTicket(byte(i), bytes.Repeat([]byte{byte(i)}, size))
			for len(msg) > 0 {
				n := min(len(msg), record.MaxPlaintext)
				if err := out.send(record.Handshake, msg[:n]); err != nil {
					errc <- err
					return
				}
				msg = msg[n:]
			}
		}
		_, err := out.Write([]byte("x"))
		errc <- err
	}()
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil || b[0] != 'x' {
		t.Fatalf("%q, %v", b, err)
	}
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
	if cache.puts != tickets {
		t.Errorf("%d sessions reached the cache, want %d", cache.puts, tickets)
	}
	if got := c.stream(t).control; got != tickets+2 {
		t.Errorf("%d records of tickets, want %d", got, tickets+2)
	}
	ticket, _, err := cache.last.ResumptionState()
	if err != nil || !bytes.Equal(ticket, bytes.Repeat([]byte{tickets - 1}, 100)) {
		t.Errorf("the last session has ticket %x, %v", ticket, err)
	}
	exchange(t, c, s)
}

// The parked tls.Conn has its own count of records: tickets that come after
// KeyUpdates, when the real keys are others, are good all the same.
func TestTicketsAfterRekey(t *testing.T) {
	ccfg, scfg := configs(t)
	c, s := connect(t, ourClient, ourServer, ccfg, scfg)
	transfer(t, s, c, 100_000)
	if err := s.stream(t).out.Next(); err != nil {
		t.Fatal(err)
	}
	if err := c.stream(t).in.Next(); err != nil {
		t.Fatal(err)
	}
	cache := ccfg.ClientSessionCache
	cache.Put(testName, nil)
	if err := s.stream(t).send(record.Handshake, newSessionTicket(9, []byte("ticket"))); err != nil {
		t.Fatal(err)
	}
	transfer(t, s, c, 1000)
	if cs, ok := cache.Get(testName); !ok || cs == nil {
		t.Error("the ticket did not reach the cache")
	}
}

func TestMalformedTickets(t *testing.T) {
	good := newSessionTicket(0, []byte("ticket"))
	truncated := append([]byte{4, 0, 0, 3}, 1, 2, 3)
	trailing := append(bytes.Clone(good), 0)
	trailing[3]++
	tooLong := bytes.Clone(good) // a lifetime above seven days
	binary.BigEndian.PutUint32(tooLong[4:], 8*24*3600)
	for _, tt := range []struct {
		name  string
		msg   []byte
		alert record.Alert
	}{
		{"truncated", truncated, record.DecodeError},
		{"bytes behind", trailing, record.DecodeError},
		{"no ticket", newSessionTicket(0, nil), record.DecodeError},
		{"lifetime", tooLong, 47}, // illegal_parameter
	} {
		t.Run(tt.name, func(t *testing.T) {
			ccfg, scfg := configs(t)
			c, _ := connect(t, ourClient, ourServer, ccfg, scfg)
			tickets := c.result.Tickets
			if err := tickets.Put(good); err != nil {
				t.Fatal(err)
			}
			err := tickets.Put(tt.msg)
			e, ok := errors.AsType[*record.Error](err)
			if !ok || e.Alert != tt.alert {
				t.Fatalf("Put = %v (%T), want a *record.Error with alert %v", err, err, tt.alert)
			}
			if want := theirAlert(t, tt.msg); e.Alert != want {
				t.Errorf("alert %v, crypto/tls sends %v", e.Alert, want)
			}
		})
	}
}

// theirAlert returns the alert that crypto/tls sends for a ticket.
func theirAlert(t *testing.T, msg []byte) record.Alert {
	t.Helper()
	ccfg, scfg := configs(t)
	c, s := connect(t, theirClient, ourServer, ccfg, scfg)
	out := s.stream(t)
	if err := out.send(record.Handshake, msg); err != nil {
		t.Fatal(err)
	}
	go c.Read(make([]byte, 1))
	typ, b, err := out.next()
	if err != nil || typ != record.AlertRecord || len(b) != 2 {
		t.Fatalf("%v %x, %v", typ, b, err)
	}
	return record.Alert(b[1])
}

// What crypto/tls does with the parked connection must not reach the carrier.
func TestParkedConnIsHarmless(t *testing.T) {
	ccfg, scfg := configs(t)
	c, s := connect(t, ourClient, ourServer, ccfg, scfg)
	transfer(t, s, c, 1000)
	tickets := c.result.Tickets
	if tickets == nil {
		t.Fatal("no tickets")
	}
	if err := tickets.Put([]byte{4, 0, 0, 1, 0}); err == nil {
		t.Fatal("malformed ticket taken")
	}
	tickets.tc.SetDeadline(aLongTimeAgo)
	tickets.tc.Close()
	exchange(t, c, s)
	tickets.Close()
}

func TestNoTickets(t *testing.T) {
	ccfg, scfg := configs(t)
	c, s := connect(t, ourClient, ourServer, ccfg, scfg)
	if c.result.Tickets == nil || s.result.Tickets != nil {
		t.Error("tickets are for clients")
	}
	ccfg.MaxVersion = tls.VersionTLS12
	if c, _ := connect(t, ourClient, ourServer, ccfg, scfg); c.result.Tickets != nil {
		t.Error("TLS 1.2 has no tickets after the handshake")
	}
	ccfg.MaxVersion, ccfg.ClientSessionCache = 0, nil
	if c, _ := connect(t, ourClient, ourServer, ccfg, scfg); c.result.Tickets != nil {
		t.Error("a client without a cache keeps a tls.Conn for nothing")
	}
}
