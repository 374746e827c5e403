package soft

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/aftls/aftls/record"
)

// carriers sends wire and then ends, over every kind of connection.
var carriers = map[string]func(t *testing.T, wire []byte) net.Conn{
	"all at once":    func(t *testing.T, wire []byte) net.Conn { return fed(wire) },
	"byte by byte":   func(t *testing.T, wire []byte) net.Conn { c := fed(wire); c.piece = 1; return c },
	"odd pieces":     func(t *testing.T, wire []byte) net.Conn { c := fed(wire); c.piece = 1009; return c },
	"just one short": func(t *testing.T, wire []byte) net.Conn { c := fed(wire); c.piece = 16384 + 21; return c },
	"pipe": func(t *testing.T, wire []byte) net.Conn {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		go func() { b.Write(wire); b.Close() }()
		return a
	},
	"TCP": func(t *testing.T, wire []byte) net.Conn {
		a, b := tcpPair(t)
		go func() { b.Write(wire); b.Close() }()
		return a
	},
}

func TestReceive(t *testing.T) {
	for name, carrier := range carriers {
		for _, suite := range []uint16{suite13, chacha13, suite12} {
			for _, size := range []int{7, 16384, 100000} {
				t.Run(name, func(t *testing.T) {
					lent(t)
					var wire, want []byte
					sealer := newSealer(t, suite)
					sealer.SetPadding(50)
					for i, n := range []int{1, 16384, 0, 3, 16383, 16384, 5000, 5000, 0, 0, 2} {
						p := noise(byte(i), n)
						wire, want = seal(t, sealer, wire, record.ApplicationData, p), append(want, p...)
						if i%3 == 1 {
							wire = seal(t, sealer, wire, record.Handshake, []byte{byte(i)})
						}
					}
					r := newReceiver(t, carrier(t, wire), suite)
					got, controls, err := drain(r, size)
					if err != io.EOF || !bytes.Equal(got, want) || string(controls) != "\x01\x04\x07\x0a" {
						t.Fatalf("%d of %d bytes, controls %v, %v", len(got), len(want), controls, err)
					}
					if st := r.Stats(); st.Records.Load() != 15 || st.Bytes.Load() != uint64(len(want)) || st.Seq.Load() != sealer.Seq() {
						t.Errorf("%d records, %d bytes, next number %d", st.Records.Load(), st.Bytes.Load(), st.Seq.Load())
					}
				})
			}
		}
	}
}

// drain reads to the end in slices of size; controls are the contents of the
// control records, of one byte each.
func drain(r *Receiver, size int) (got, controls []byte, err error) {
	p := make([]byte, size)
	for {
		n, err := r.Read(p)
		got = append(got, p[:n]...)
		switch {
		case err == ErrControl && n == 0:
			_, b, ok := r.Control()
			if !ok {
				return got, controls, errors.New("no control record")
			}
			controls = append(controls, b...)
			r.Consume(len(b))
		case err != nil:
			return got, controls, err
		case n == 0:
			return got, controls, io.ErrNoProgress
		}
	}
}

// One Read brings what is there from many records, and nothing behind a
// control record.
func TestReadMany(t *testing.T) {
	lent(t)
	sealer := newSealer(t, suite13)
	var wire []byte
	for range 10 {
		wire = seal(t, sealer, wire, record.ApplicationData, make([]byte, 300))
	}
	wire = seal(t, sealer, wire, record.AlertRecord, []byte{1, 0})
	wire = seal(t, sealer, wire, record.ApplicationData, []byte("behind"))
	c := fed(wire)
	r := newReceiver(t, c, suite13)
	p := make([]byte, 20000)
	if n, err := r.Read(p); n != 3000 || err != nil {
		t.Fatal(n, err)
	}
	if len(c.reads) != 1 {
		t.Errorf("%d reads of the carrier", len(c.reads))
	}
	for range 2 {
		if n, err := r.Read(p); n != 0 || err != ErrControl {
			t.Fatal(n, err)
		}
	}
	typ, b, ok := r.Control()
	if typ != record.AlertRecord || string(b) != "\x01\x00" || !ok {
		t.Fatal(typ, b, ok)
	}
	r.Consume(1) // a part of it
	if _, b, ok := r.Control(); !ok || string(b) != "\x00" {
		t.Fatal(b, ok)
	}
	r.Consume(1)
	if n, err := r.Read(p); string(p[:n]) != "behind" || err != nil {
		t.Fatal(n, err)
	}
}

// The caller's slice takes a record without a copy from exactly Room bytes on.
func TestReadRoom(t *testing.T) {
	for _, suite := range []uint16{suite13, suite12} {
		for _, pad := range []int{0, 1000} {
			sealer := newSealer(t, suite)
			sealer.SetPadding(pad)
			want := noise(1, 2500)
			wire := seal(t, sealer, nil, record.ApplicationData, want)
			opener, err := record.NewOpener(testKeys(t, suite))
			if err != nil {
				t.Fatal(err)
			}
			room := opener.Room(wire)
			for size := len(want) - 1; size <= room+1; size++ {
				r := newReceiver(t, fed(bytes.Clone(wire)), suite)
				p := make([]byte, size+10)
				for i := range p {
					p[i] = 0xaa
				}
				n, err := r.Read(p[:size])
				if err != nil || !bytes.Equal(p[:n], want[:min(size, len(want))]) {
					t.Fatal(n, err)
				}
				if !bytes.Equal(p[size:], bytes.Repeat([]byte{0xaa}, 10)) {
					t.Fatal("bytes behind the caller's slice were written")
				}
				if direct := r.payload == nil; direct != (size >= len(want)) {
					t.Errorf("size %d, room %d: left behind: %v", size, room, r.payload)
				}
				rest, _, err := drain(r, 100)
				if err != io.EOF || !bytes.Equal(append(p[:n:n], rest...), want) {
					t.Fatal("the rest differs", err)
				}
			}
		}
	}
}

// A control record that was opened into the caller's slice leaves nothing there.
func TestControlLeavesNoTrace(t *testing.T) {
	sealer := newSealer(t, suite13)
	secret := bytes.Repeat([]byte{0xcc}, 100)
	r := newReceiver(t, fed(seal(t, sealer, nil, record.Handshake, secret)), suite13)
	p := make([]byte, 5000)
	if n, err := r.Read(p); n != 0 || err != ErrControl {
		t.Fatal(n, err)
	}
	if bytes.Contains(p, secret[:4]) {
		t.Error("the caller's slice holds a control record")
	}
	if _, b, _ := r.Control(); !bytes.Equal(b, secret) {
		t.Errorf("% x", b)
	}
}

func TestReceiveErrors(t *testing.T) {
	lent(t)
	sealer := newSealer(t, suite13)
	good := seal(t, sealer, nil, record.ApplicationData, []byte("good"))
	bad := seal(t, sealer, nil, record.ApplicationData, []byte("bad"))
	third := seal(t, sealer, nil, record.ApplicationData, []byte("third"))
	bad[len(bad)-1] ^= 1
	t.Run("sticky", func(t *testing.T) {
		r := newReceiver(t, fed(bytes.Join([][]byte{good, bad, third}, nil)), suite13)
		p := make([]byte, 100)
		if n, err := r.Read(p); string(p[:n]) != "good" || err != nil {
			t.Fatal(n, err)
		}
		var first error
		for i := range 3 {
			n, err := r.Read(p)
			e, ok := errors.AsType[*record.Error](err)
			if n != 0 || !ok || e.Alert != record.BadRecordMAC || i > 0 && err != first {
				t.Fatal(n, err)
			}
			first = err
			if err := r.Next(); err != first {
				t.Fatal(err)
			}
		}
	})
	for cut, want := range map[int]error{0: io.EOF, 1: io.ErrUnexpectedEOF, 4: io.ErrUnexpectedEOF, 5: io.ErrUnexpectedEOF, len(good) - 1: io.ErrUnexpectedEOF} {
		r := newReceiver(t, fed(good[:cut:cut]), suite13)
		if n, err := r.Read(make([]byte, 10)); n != 0 || err != want {
			t.Errorf("cut at %d: %d %v", cut, n, err)
		}
		r = newReceiver(t, fed(good[:cut:cut]), suite13)
		if err := r.Next(); err != want {
			t.Errorf("cut at %d: Next: %v", cut, err)
		}
	}
	t.Run("no progress", func(t *testing.T) {
		r := newReceiver(t, &script{}, suite13)
		if n, err := r.Read(make([]byte, 10)); n != 0 || err != io.ErrNoProgress {
			t.Error(n, err)
		}
	})
	t.Run("no keys", func(t *testing.T) {
		r := NewReceiver(fed(good), nil, nil)
		_, err1 := r.Read(make([]byte, 10))
		_, err2 := r.Keys()
		if err := errors.Join(err1, err2, r.Next(), r.Rekey()); err1 != ErrNoKeys || err2 != ErrNoKeys || r.Next() != ErrNoKeys || r.Rekey() != ErrNoKeys {
			t.Error(err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		r := newReceiver(t, fed(bytes.Clone(third)), suite13)
		r.Close(net.ErrClosed)
		if n, err := r.Read(make([]byte, 10)); n != 0 || err == nil {
			t.Error(n, err)
		}
		if k, err := r.Keys(); err == nil && len(k.Key) > 0 {
			t.Error("the keys are still there")
		}
	})
}

func TestEmptyRecords(t *testing.T) {
	for _, n := range []int{maxEmpty, maxEmpty + 1} {
		lent(t)
		sealer := newSealer(t, suite13)
		var wire []byte
		for range 2 { // data starts the count anew
			for range n {
				wire = seal(t, sealer, wire, record.ApplicationData, nil)
			}
			wire = seal(t, sealer, wire, record.ApplicationData, []byte("x"))
		}
		got, _, err := drain(newReceiver(t, fed(wire), suite13), 10)
		if n == maxEmpty {
			if string(got) != "xx" || err != io.EOF {
				t.Errorf("%d: %q %v", n, got, err)
			}
		} else if e, ok := errors.AsType[*record.Error](err); len(got) > 0 || !ok || e.Alert != record.UnexpectedMessage {
			t.Errorf("%d: %q %v", n, got, err)
		}
	}
}

// Content type 0 is no type: a record of it is an error and not nothing. Only
// TLS 1.2 can say it, and no sealer of ours does.
func TestContentTypeZero(t *testing.T) {
	lent(t)
	k := testKeys(t, suite12)
	b, err := aes.NewCipher(k.Key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(b)
	if err != nil {
		t.Fatal(err)
	}
	explicit := binary.BigEndian.AppendUint64(nil, k.Seq)
	aad := append(bytes.Clone(explicit), 0, 3, 3, 0, 4)
	rec := append([]byte{0, 3, 3, 0, 8 + 4 + 16}, explicit...)
	rec = gcm.Seal(rec, append(bytes.Clone(k.IV), explicit...), []byte("type"), aad)
	for _, size := range []int{1, 100} {
		r := newReceiver(t, fed(bytes.Clone(rec)), suite12)
		n, err := r.Read(make([]byte, size))
		if e, ok := errors.AsType[*record.Error](err); n != 0 || !ok || e.Alert != record.UnexpectedMessage {
			t.Errorf("slice of %d: %d %v", size, n, err)
		}
	}
}

func TestReceiveRekey(t *testing.T) {
	sealer := newSealer(t, suite13)
	var wire []byte
	for range 3 {
		wire = seal(t, sealer, wire, record.ApplicationData, []byte("x"))
		wire = seal(t, sealer, wire, record.Handshake, []byte("k"))
		if err := sealer.Next(); err != nil {
			t.Fatal(err)
		}
	}
	r := newReceiver(t, fed(wire), suite13)
	p := make([]byte, 10)
	for i := range uint64(3) {
		if n, err := r.Read(p); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if _, err := r.Read(p); err != ErrControl {
			t.Fatal(err)
		}
		r.Consume(1)
		if err := r.Rekey(); err != nil {
			t.Fatal(err)
		}
		if st := r.Stats(); st.Rekeys.Load() != i+1 || st.Epoch.Load() != i+1 || st.Seq.Load() != 0 {
			t.Error(st.Rekeys.Load(), st.Epoch.Load(), st.Seq.Load())
		}
	}
}

// TestUnread moves what was read and not delivered to another receiver, at
// every point of a stream.
func TestUnread(t *testing.T) {
	lent(t)
	for _, first := range []int{0, 1, 7, 8, 9, 30} {
		for _, waiting := range []bool{false, true} {
			sealer := newSealer(t, suite13)
			wire := seal(t, sealer, nil, record.ApplicationData, []byte("12345678"))
			wire = seal(t, sealer, wire, record.Handshake, []byte("ctl"))
			wire = seal(t, sealer, wire, record.ApplicationData, []byte("abc"))
			c := fed(wire)
			c.piece = len(wire) - 3 // the end stays in the carrier
			r := newReceiver(t, c, suite13)
			var got, controls []byte
			if first > 0 {
				p := make([]byte, first)
				n, err := r.Read(p)
				if err != nil {
					t.Fatal(err)
				}
				got = p[:n]
			}
			if waiting && first >= 8 {
				if _, err := r.Read(make([]byte, 1)); err != ErrControl {
					t.Fatal(err)
				}
			}
			k, err := r.Keys()
			if err != nil {
				t.Fatal(err)
			}
			ciphertext, plaintext := r.Unread()
			typ, b, ok := r.Control()
			b = bytes.Clone(b)
			next := NewReceiver(c, ciphertext, plaintext)
			if ok {
				next.PutBack(typ, b)
			}
			r.Close(net.ErrClosed)
			if err := next.SetKeys(k); err != nil {
				t.Fatal(err)
			}
			rest, controls, err := drain(next, 5)
			if err != io.EOF || string(append(got, rest...)) != "12345678abc" || len(controls) != 3 {
				t.Errorf("%d: %q, control %q, %v", first, got, controls, err)
			}
			next.Close(net.ErrClosed)
		}
	}
}

// An empty control record that was put back is still one.
func TestPutBackEmpty(t *testing.T) {
	r := newReceiver(t, fed(nil), suite13)
	r.PutBack(record.Handshake, nil)
	if _, err := r.Read(make([]byte, 1)); err != ErrControl {
		t.Fatal(err)
	}
	if err := r.Next(); err != nil {
		t.Fatal(err)
	}
	r.Consume(0)
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
}

// More than a batch can come out of a state; no pool ever sees that buffer.
func TestUnreadLarge(t *testing.T) {
	lent(t)
	sealer := newSealer(t, suite13)
	var wire, want []byte
	for i := range 40 {
		p := noise(byte(i), 16384)
		wire, want = seal(t, sealer, wire, record.ApplicationData, p), append(want, p...)
	}
	head := len(wire) - 1000
	r := NewReceiver(fed(wire[head:]), wire[:head], []byte("first"))
	if err := r.SetKeys(testKeys(t, suite13)); err != nil {
		t.Fatal(err)
	}
	got, _, err := drain(r, 30000)
	if err != io.EOF || !bytes.Equal(got, append([]byte("first"), want...)) {
		t.Errorf("%d of %d bytes, %v", len(got), len(want)+5, err)
	}
}

// Under load the buffer becomes a batch; for a small slice it never does, since
// most of what it would hold would have to wait there.
func TestBufferClasses(t *testing.T) {
	sealer := newSealer(t, suite13)
	var wire []byte
	for range 64 {
		wire = seal(t, sealer, wire, record.ApplicationData, make([]byte, 16384))
	}
	quiet := seal(t, sealer, nil, record.ApplicationData, []byte("x"))
	for _, test := range []struct{ slice, most int }{{100, recordSize}, {16383, recordSize}, {16384, batchSize}, {300000, batchSize}} {
		lent(t)
		c := fed(bytes.Clone(wire))
		r := newReceiver(t, c, suite13)
		if _, _, err := drain(r, test.slice); err != io.EOF {
			t.Fatal(err)
		}
		if c.reads[0] != smallSize {
			t.Errorf("slice %d: a fresh receiver borrows %d bytes", test.slice, c.reads[0])
		}
		most := 0
		for _, n := range c.reads {
			most = max(most, n)
		}
		if most > test.most || most < test.most-record.MaxRecord {
			t.Errorf("slice %d: the carrier was read into %d bytes, want %d", test.slice, most, test.most)
		}
		// Then it becomes quiet.
		c.in, c.reads = bytes.Clone(quiet), nil
		for range 2 {
			if _, err := r.Read(make([]byte, 300000)); err != nil && err != io.EOF {
				t.Fatal(err)
			}
		}
		if n := c.reads[len(c.reads)-1]; n != smallSize {
			t.Errorf("slice %d: quiet again, and the carrier is read into %d bytes", test.slice, n)
		}
	}
}

func TestNextAndTake(t *testing.T) {
	lent(t)
	sealer := newSealer(t, suite13)
	wire := seal(t, sealer, nil, record.ApplicationData, []byte("abc"))
	wire = seal(t, sealer, wire, record.ApplicationData, nil)
	wire = seal(t, sealer, wire, record.ApplicationData, []byte("de"))
	r := newReceiver(t, fed(wire), suite13)
	for _, want := range []string{"abc", "de"} {
		if err := r.Next(); err != nil || string(r.Plain()) != want {
			t.Fatalf("%q %v", r.Plain(), err)
		}
		r.Take(1)
		if string(r.Plain()) != want[1:] {
			t.Fatalf("%q", r.Plain())
		}
		r.Take(len(want) - 1)
	}
	if err := r.Next(); err != io.EOF {
		t.Fatal(err)
	}
}
