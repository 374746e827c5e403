package record_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/aftls/aftls/record"
)

// receive has crypto/tls send the payload, and expects it in one record.
func (l *line) receive(payload []byte) error {
	deadline(l.raw, l.conn)
	done := make(chan error, 1)
	go func() { _, err := l.conn.Write(payload); done <- err }()
	rec, err := readRecord(l.raw)
	if err != nil {
		return err
	}
	// The same payload under the same keys has one form only, ours or theirs.
	mirror, err := record.NewSealer(l.open.Keys())
	if err != nil {
		return err
	}
	ours, err := mirror.Seal(nil, record.ApplicationData, payload)
	if err != nil {
		return err
	}
	if !bytes.Equal(ours, rec) {
		return fmt.Errorf("number %d: crypto/tls and the sealer differ\ntheirs %x\nours   %x", l.open.Seq(), rec, ours)
	}
	typ, got, err := l.open.Open(nil, rec)
	if err != nil {
		return err
	}
	if typ != record.ApplicationData || !bytes.Equal(got, payload) {
		return fmt.Errorf("opened as %v of %d bytes, sent %d", typ, len(got), len(payload))
	}
	return <-done
}

// send has crypto/tls read the payload out of records of ours, the last of
// which must not be empty.
func (l *line) send(payloads ...[]byte) error {
	var stream, want []byte
	for _, b := range payloads {
		var err error
		if stream, err = l.seal.Seal(stream, record.ApplicationData, b); err != nil {
			return err
		}
		want = append(want, b...)
	}
	return l.deliver(stream, func() error {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(l.conn, got); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return errors.New("crypto/tls read another payload than was sealed")
		}
		return nil
	})
}

// deliver writes the stream while crypto/tls does read.
func (l *line) deliver(stream []byte, read func() error) error {
	deadline(l.raw, l.conn)
	stop := listen(l.raw)
	done := make(chan error, 1)
	go func() { _, err := l.raw.Write(stream); done <- err }()
	err := read()
	heard := stop()
	if err != nil {
		typ, payload, _ := l.open.Open(nil, heard)
		return fmt.Errorf("%w; it sent %v %x", err, typ, payload)
	}
	return <-done
}

// connection is one way to get a line: every suite with this package as the
// client, and every suite that crypto/tls will choose with it as the server.
type connection struct {
	p  profile
	as role
}

func (c connection) String() string { return fmt.Sprintf("%v %s", c.p, c.as) }

func (c connection) dial() (*line, error) {
	if c.p.is13() && c.as == asClient {
		return shakeHands13(c.p)
	}
	return takeOver(c.p, c.as)
}

var connections = func() (out []connection) {
	for _, p := range profiles {
		out = append(out, connection{p, asClient})
		if !p.is13() || p.id == tls.TLS_AES_128_GCM_SHA256 {
			out = append(out, connection{p, asServer})
		}
	}
	return out
}()

func eachConnection(t *testing.T, f func(t *testing.T, l *line)) {
	t.Helper()
	for _, c := range connections {
		t.Run(c.String(), func(t *testing.T) {
			l, err := c.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			f(t, l)
		})
	}
}

func TestCryptoTLSAndThisPackageReadEachOther(t *testing.T) {
	eachConnection(t, func(t *testing.T, l *line) {
		for i, n := range []int{1, 2, 100, 1400, 16383, 16384} {
			payload := noise(fmt.Sprint("payload ", i), n)
			if err := l.receive(payload); err != nil {
				t.Fatalf("%d bytes from crypto/tls: %v", n, err)
			}
			if err := l.send(payload); err != nil {
				t.Fatalf("%d bytes to crypto/tls: %v", n, err)
			}
			l.seal.SetPadding(100 * i)
			if err := l.send(nil, payload, payload[:1]); err != nil {
				t.Fatalf("three records to crypto/tls: %v", err)
			}
		}
	})
}

func TestCryptoTLSAndThisPackageCloseEachOther(t *testing.T) {
	eachConnection(t, func(t *testing.T, l *line) {
		done := make(chan error, 1)
		go func() { done <- l.conn.CloseWrite() }()
		rec, err := readRecord(l.raw)
		if err != nil {
			t.Fatal(err)
		}
		typ, payload, err := l.open.Open(nil, rec)
		closeNotify := []byte{record.LevelWarning, byte(record.CloseNotify)}
		if err != nil || typ != record.AlertRecord || !bytes.Equal(payload, closeNotify) {
			t.Fatalf("opened as %v %x, %v", typ, payload, err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}

		if rec, err = l.seal.Seal(nil, record.AlertRecord, closeNotify); err != nil {
			t.Fatal(err)
		}
		err = l.deliver(rec, func() error {
			if n, err := l.conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				return fmt.Errorf("crypto/tls read %d, %w, want EOF", n, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// crypto/tls must take a record that was tampered with for what it is, which
// shows that the tests above could fail.
func TestCryptoTLSRefusesARecordWithABitFlipped(t *testing.T) {
	eachConnection(t, func(t *testing.T, l *line) {
		rec, err := l.seal.Seal(nil, record.ApplicationData, []byte("payload"))
		if err != nil {
			t.Fatal(err)
		}
		rec[len(rec)-1] ^= 1
		go l.raw.Write(rec)
		alert := make(chan []byte, 1)
		go func() { rec, _ := readRecord(l.raw); alert <- rec }()
		if n, err := l.conn.Read(make([]byte, 10)); n != 0 || err == nil {
			t.Errorf("crypto/tls read %d bytes, %v", n, err)
		}
		typ, payload, err := l.open.Open(nil, <-alert)
		want := []byte{record.LevelFatal, byte(record.BadRecordMAC)}
		if err != nil || typ != record.AlertRecord || !bytes.Equal(payload, want) {
			t.Errorf("crypto/tls answered %v %x, %v", typ, payload, err)
		}
	})
}

func TestCryptoTLSAndThisPackageRekeyInStep(t *testing.T) {
	const keyUpdate = 24
	for _, c := range connections {
		if !c.p.is13() {
			continue
		}
		t.Run(c.String(), func(t *testing.T) {
			l, err := c.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			for epoch := range uint64(3) {
				if err := errors.Join(l.receive([]byte("before")), l.send([]byte("before"))); err != nil {
					t.Fatalf("epoch %d: %v", epoch, err)
				}
				// Ask for an update in return, so that both directions move on.
				stream, err := l.seal.Seal(nil, record.Handshake, []byte{keyUpdate, 0, 0, 1, 1})
				if err != nil {
					t.Fatal(err)
				}
				if err := l.seal.Next(); err != nil {
					t.Fatal(err)
				}
				if stream, err = l.seal.Seal(stream, record.ApplicationData, []byte("after")); err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 2)
				go func() { _, err := l.raw.Write(stream); done <- err }()
				got := make([]byte, 5)
				go func() { _, err := io.ReadFull(l.conn, got); done <- err }()

				rec, err := readRecord(l.raw)
				if err != nil {
					t.Fatal(err)
				}
				typ, payload, err := l.open.Open(nil, rec)
				if err != nil || typ != record.Handshake || !bytes.Equal(payload, []byte{keyUpdate, 0, 0, 1, 0}) {
					t.Fatalf("epoch %d: answer %v %x, %v", epoch, typ, payload, err)
				}
				if err := l.open.Next(); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(<-done, <-done); err != nil || string(got) != "after" {
					t.Fatalf("epoch %d: crypto/tls read %q, %v", epoch, got, err)
				}
				if l.seal.Epoch() != epoch+1 || l.open.Epoch() != epoch+1 {
					t.Fatalf("epochs %d and %d, want %d", l.seal.Epoch(), l.open.Epoch(), epoch+1)
				}
			}
			if err := errors.Join(l.receive([]byte("at last")), l.send([]byte("at last"))); err != nil {
				t.Fatal(err)
			}
		})
	}
}
