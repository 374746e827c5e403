package aftlstest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// Alerts that only tests of violations have to name.
const illegalParameter record.Alert = 47

// Handshake messages (RFC 8446, 4).
const (
	helloRequest     = 0
	clientHello      = 1
	newSessionTicket = 4
	finished         = 20
	keyUpdate        = 24
)

var peerErrors = []promise{
	{"a record that does not authenticate", both, violates(record.BadRecordMAC, func(p *peer, x subject) []byte {
		rec := p.sealed(record.ApplicationData, []byte("payload"))
		rec[len(rec)-1] ^= 1
		return rec
	})},
	{"a record whose header was changed", both, violates(record.BadRecordMAC, func(p *peer, x subject) []byte {
		rec := append(p.sealed(record.ApplicationData, []byte("payload")), 0)
		rec[4]++
		return rec
	})},
	{"a record that was sent before", both, violates(record.BadRecordMAC, func(p *peer, x subject) []byte {
		rec := p.sealed(record.ApplicationData, nil)
		return append(rec, rec...)
	})},
	{"records in the wrong order", both, violates(record.BadRecordMAC, func(p *peer, x subject) []byte {
		first := p.sealed(record.ApplicationData, []byte("1"))
		return append(p.sealed(record.ApplicationData, []byte("2")), first...)
	})},
	{"a record shorter than its tag", both, violates(record.BadRecordMAC, func(p *peer, x subject) []byte {
		return []byte{23, 3, 3, 0, 3, 1, 2, 3}
	})},
	{"a record that is too long", both, violates(record.RecordOverflow, func(p *peer, x subject) []byte {
		n := record.MaxPlaintext + 256 + 1
		if !x.is13() {
			n = p.seal.SealedLen(record.MaxPlaintext) - record.HeaderLen + 1
		}
		return []byte{23, 3, 3, byte(n >> 8), byte(n)}
	})},
	{"a record of another version", both, violates(record.ProtocolVersion, func(p *peer, x subject) []byte {
		rec := p.sealed(record.ApplicationData, []byte("payload"))
		rec[2] = 1
		return rec
	})},
	{"noise", both, violates(0, func(p *peer, x subject) []byte {
		return []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	})},
	{"an unprotected record", both | only13, violates(record.UnexpectedMessage, func(p *peer, x subject) []byte {
		return []byte{22, 3, 3, 0, 1, 0}
	})},
	{"an unprotected alert", both | only13, violates(record.UnexpectedMessage, func(p *peer, x subject) []byte {
		return []byte{21, 3, 3, 0, 2, 1, 0}
	})},
	{"an unprotected change_cipher_spec", both | only13, violates(record.UnexpectedMessage, func(p *peer, x subject) []byte {
		return []byte{20, 3, 3, 0, 1, 1}
	})},
	{"an unprotected record in TLS 1.2", both | only12, violates(record.BadRecordMAC, func(p *peer, x subject) []byte {
		return []byte{21, 3, 3, 0, 2, 1, 0}
	})},
	{"a heartbeat", conns, violates(record.UnexpectedMessage, sends(record.Heartbeat, 1, 0, 1, 'x'))},
	{"a record of unknown type", conns, violates(record.UnexpectedMessage, sends(99, 1, 2, 3))},
	{"a protected change_cipher_spec", conns, violates(record.UnexpectedMessage, sends(record.ChangeCipherSpec, 1))},
	{"an empty alert", conns, violates(record.DecodeError, sends(record.AlertRecord))},
	{"an alert of one byte", conns, violates(record.DecodeError, sends(record.AlertRecord, 1))},
	{"an alert of three bytes", conns, violates(record.DecodeError, sends(record.AlertRecord, 1, 0, 0))},
	{"an empty handshake record", conns, violates(record.UnexpectedMessage, sends(record.Handshake))},
	{"a handshake message of unknown type", conns, violates(record.UnexpectedMessage, sends(record.Handshake, 77, 0, 0, 0))},
	{"a handshake message from within a handshake", conns, violates(record.UnexpectedMessage, sends(record.Handshake, finished, 0, 0, 1, 0))},
	{"a handshake message that is too long", conns, violates(record.DecodeError, sends(record.Handshake, newSessionTicket, 255, 255, 255))},
	{"a KeyUpdate in TLS 1.2", conns | only12, violates(record.UnexpectedMessage, sends(record.Handshake, keyUpdate, 0, 0, 1, 0))},
	{"a KeyUpdate that asks for 2", conns | only13, violates(illegalParameter, sends(record.Handshake, keyUpdate, 0, 0, 1, 2))},
	{"a KeyUpdate without its byte", conns | only13, violates(record.DecodeError, sends(record.Handshake, keyUpdate, 0, 0, 0))},
	{"a KeyUpdate of two bytes", conns | only13, violates(record.DecodeError, sends(record.Handshake, keyUpdate, 0, 0, 2, 0, 0))},
	{"a KeyUpdate with another one behind it", conns | only13, violates(record.UnexpectedMessage, sends(record.Handshake, keyUpdate, 0, 0, 1, 0, keyUpdate, 0, 0, 1, 0))},
	{"a KeyUpdate with one byte behind it", conns | only13, violates(record.UnexpectedMessage, sends(record.Handshake, keyUpdate, 0, 0, 1, 0, 4))},
	{"a ClientHello in TLS 1.3", conns | only13, violates(record.UnexpectedMessage, sends(record.Handshake, clientHello, 0, 0, 1, 0))},
	{"a HelloRequest in TLS 1.3", conns | only13, violates(record.UnexpectedMessage, sends(record.Handshake, helloRequest, 0, 0, 0))},
	{"a ClientHello to a client", conns | only12, violates(record.UnexpectedMessage, sends(record.Handshake, clientHello, 0, 0, 1, 0))},
	{"data inside a handshake message", conns | only13, violates(record.UnexpectedMessage, func(p *peer, x subject) []byte {
		return append(p.sealed(record.Handshake, []byte{keyUpdate, 0}), p.sealed(record.ApplicationData, []byte("data"))...)
	})},
	{"an alert inside a handshake message", conns | only13, violates(record.UnexpectedMessage, func(p *peer, x subject) []byte {
		return append(p.sealed(record.Handshake, []byte{keyUpdate, 0}), p.sealed(record.AlertRecord, closeNotifyAlert)...)
	})},
	{"a session ticket to a server", conns | only13, serverGets(sends(record.Handshake, newSessionTicket, 0, 0, 1, 0))},
	{"a HelloRequest to a server", conns | only12, serverGets(sends(record.Handshake, helloRequest, 0, 0, 0))},
	{"a session ticket that crypto/tls refuses", conns | only13, badTicket},
	{"the failure of one direction ends both, and Detach", both, failureEndsBoth},
	{"data in front of a violation is delivered", both, dataBeforeViolation},
}

// sends is a violation that is one record.
func sends(typ record.ContentType, payload ...byte) func(*peer, subject) []byte {
	return func(p *peer, x subject) []byte { return p.sealed(typ, payload) }
}

// violates tests that what the peer does is answered with the alert, on the
// wire and in the error, and that the error stays. Alert 0 means any.
func violates(a record.Alert, does func(*peer, subject) []byte) func(*testing.T, subject) {
	return func(t *testing.T, x subject) {
		e, p := x.withPeer(t)
		p.raw(x.header(does(p, x)))
		checkViolation(t, x, e, p, a)
	}
}

func serverGets(does func(*peer, subject) []byte) func(*testing.T, subject) {
	return func(t *testing.T, x subject) {
		e, p := x.withPeerAs(t, false)
		p.raw(does(p, x))
		checkViolation(t, x, e, p, record.UnexpectedMessage)
	}
}

func checkViolation(t *testing.T, x subject, e end, p *peer, a record.Alert) {
	t.Helper()
	buf := make([]byte, 100)
	var err error
	for err == nil { // records in front of the violation
		_, err = e.Read(buf)
	}
	got := wantAs[*aftls.PeerError](t, "Read", err)
	if a == 0 || x.judges(a, got.Alert) {
		a = got.Alert
	}
	wantPeerError(t, "Read", err, a)
	x.wantAlert(p, a)

	first := errors.Unwrap(err)
	n, err := e.Read(buf)
	wantPeerError(t, "Read again", err, a)
	if n != 0 || errors.Unwrap(err) != first {
		t.Errorf("Read again: n = %d, %v, want the same error", n, err)
	}
	wantPeerError(t, "WaitRead", e.WaitRead(), a)
	n, err = e.Write([]byte("never plaintext"))
	wantPeerError(t, "Write", err, a)
	if n != 0 {
		t.Errorf("Write: n = %d", n)
	}
	_, err = e.WriteTo(failingWriter{})
	wantPeerError(t, "WriteTo", err, a)
	_, err = e.Detach()
	wantPeerError(t, "Detach", err, a)
	must(t, e.Close())
	typ, b, err := p.read()
	if x.mayStaySilent(a) && typ == record.AlertRecord && bytes.Equal(b, []byte{record.LevelFatal, byte(a)}) {
		typ, b, err = p.read()
	}
	if !isEnd(err) {
		t.Errorf("behind the alert came %v, %q, %v", typ, b, err)
	}
}

func badTicket(t *testing.T, x subject) {
	x.cache = tls.NewLRUClientSessionCache(1) // without one, crypto/tls does not see tickets
	e, p := x.withPeer(t)
	p.send(record.Handshake, []byte{newSessionTicket, 0, 0, 3, 1, 2, 3})
	checkViolation(t, x, e, p, 0)
}

func failureEndsBoth(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	r := startRead(t, e, make([]byte, 10))
	r.onNetwork()
	p.raw(x.header([]byte{23, 3, 1, 0, 40, 0}))
	_, err := r.result()
	wantPeerError(t, "Read", err, record.ProtocolVersion)
	_, err = e.Write(make([]byte, 10))
	wantPeerError(t, "Write", err, record.ProtocolVersion)
	wantPeerError(t, "WriteRecord", e.WriteRecord(record.ApplicationData, nil), record.ProtocolVersion)
	if c, ok := e.(*aftls.Conn); ok {
		wantPeerError(t, "CloseWrite", c.CloseWrite(), record.ProtocolVersion)
		wantPeerError(t, "Rekey", c.Rekey(false), record.ProtocolVersion)
	}
	if s, ok := e.(*aftls.Socket); ok {
		k, _ := x.keys(t)
		wantPeerError(t, "SetKeys", s.SetKeys(aftls.Send, k), record.ProtocolVersion)
	}
	x.wantAlert(p, record.ProtocolVersion)
}

func dataBeforeViolation(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	stream := p.sealed(record.ApplicationData, []byte("good"))
	bad := p.sealed(record.ApplicationData, []byte("bad"))
	bad[len(bad)-1] ^= 1
	p.raw(append(stream, bad...))
	b := make([]byte, 100)
	if n, err := e.Read(b); string(b[:n]) != "good" || err != nil {
		t.Fatalf("%q, %v", b[:n], err)
	}
	checkViolation(t, x, e, p, record.BadRecordMAC)
}

// maxUseless is how many records or messages that bring nothing a Conn takes in
// a row.
const maxUseless = 64

var bounded = []promise{
	{"empty data records are cut off when there are too many", both, floods(record.UnexpectedMessage, func(p *peer) []byte {
		return p.sealed(record.ApplicationData, nil)
	})},
	{"session tickets are cut off when there are too many", conns | only13, floods(record.UnexpectedMessage, func(p *peer) []byte {
		return p.sealed(record.Handshake, []byte{newSessionTicket, 0, 0, 1, 0})
	})},
	{"KeyUpdates are cut off when there are too many", conns | only13 | rekeys, floods(record.UnexpectedMessage, func(p *peer) []byte {
		return p.sealedKeyUpdate(0)
	})},
	{"warnings are cut off when there are too many in TLS 1.2", conns | only12, floods(record.UnexpectedMessage, func(p *peer) []byte {
		return p.sealed(record.AlertRecord, []byte{record.LevelWarning, 41})
	})},
	{"user_canceled is ignored until there is too much of it", conns | only13, floods(record.UnexpectedMessage, func(p *peer) []byte {
		return p.sealed(record.AlertRecord, []byte{record.LevelWarning, byte(record.UserCanceled)})
	})},
	{"all kinds of useless messages count together", conns | only13 | rekeys, floods(record.UnexpectedMessage, func(p *peer) []byte {
		switch p.seal.Seq() % 3 {
		case 0:
			return p.sealed(record.Handshake, []byte{newSessionTicket, 0, 0, 1, 0})
		case 1:
			return p.sealed(record.AlertRecord, []byte{record.LevelWarning, byte(record.UserCanceled)})
		}
		return p.sealedKeyUpdate(0)
	})},
	{"empty data does not hide a flood", conns | only13, floods(record.UnexpectedMessage, func(p *peer) []byte {
		return append(p.sealed(record.ApplicationData, nil), p.sealed(record.Handshake, []byte{newSessionTicket, 0, 0, 1, 0})...)
	})},
	{"renegotiation is refused and the connection goes on", conns | only12, renegotiation},
	{"a flood of renegotiation attempts ends", conns | only12, floods(record.UnexpectedMessage, func(p *peer) []byte {
		return p.sealed(record.Handshake, []byte{helloRequest, 0, 0, 0})
	})},
	{"a handshake message of more than 64 KiB is refused before it comes", conns, longMessage},
}

// floods tests that the limit is what it says: so many in a row are taken, as
// often as data comes between, and one more is not.
func floods(a record.Alert, one func(*peer) []byte) func(*testing.T, subject) {
	return func(t *testing.T, x subject) {
		e, p := x.withPeer(t)
		for i := range 3 {
			r := startRead(t, e, make([]byte, 10))
			for range maxUseless {
				p.raw(one(p))
			}
			p.data("data")
			if n, err := r.result(); n != 4 || err != nil {
				t.Fatalf("round %d: %d, %v, where %d useless messages are allowed", i, n, err, maxUseless)
			}
		}
		r := startErr(t, func() error { // the alert can cut the sending short
			for range maxUseless + 1 {
				if _, err := p.conn.Write(one(p)); err != nil {
					return err
				}
			}
			return nil
		})
		_, err := e.Read(make([]byte, 10))
		wantPeerError(t, "Read after too many", err, a)
		r.result()
		for { // refusals of renegotiation come before
			typ, b, err := p.read()
			if err != nil || typ != record.AlertRecord || len(b) != 2 {
				t.Fatalf("waiting for the alert: %v, %x, %v", typ, b, err)
			}
			if b[0] == record.LevelFatal {
				if record.Alert(b[1]) != a {
					t.Errorf("the peer got %v, want %v", record.Alert(b[1]), a)
				}
				break
			}
		}
	}
}

func renegotiation(t *testing.T, x subject) {
	for _, client := range []bool{true, false} {
		e, p := x.withPeerAs(t, client)
		message := []byte{helloRequest, 0, 0, 0}
		if !client {
			message = append([]byte{clientHello, 0, 0, 50}, make([]byte, 50)...)
		}
		for i := range 3 {
			p.send(record.Handshake, message)
			text := fmt.Sprint("still here ", i)
			p.data(text)
			wantRead(t, e, []byte(text))
			p.wantAlert(record.LevelWarning, record.NoRenegotiation)
			mustWrite(t, e, []byte(text))
			p.want(record.ApplicationData, []byte(text))
		}
	}
}

func longMessage(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	p.send(record.Handshake, []byte{newSessionTicket, 1, 0, 1})
	checkViolation(t, x, e, p, record.DecodeError)
}
