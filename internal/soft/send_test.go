package soft

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls/record"
)

// ramp sends what a connection needs to get past its small records.
func ramp(t testing.TB, s *Sender, c *script) {
	t.Helper()
	if n, err := s.WriteOne(make([]byte, rampEnd), rampEnd); n != rampEnd || err != nil {
		t.Fatal(n, err)
	}
	c.out, c.writes = nil, nil
}

// keysNow are the keys of the sender, for what it will seal next.
func keysNow(t testing.TB, s *Sender) record.Keys {
	t.Helper()
	k, err := s.Keys()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestRamp: the first 16 KiB go in records that fit a TCP segment, up to 128
// KiB in records of four, then in full ones; after more than a second it all
// starts again.
func TestRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, suite := range []uint16{suite13, suite12} {
			lent(t)
			c := new(script)
			s := newSender(t, c, suite)
			p := noise(1, 400000)
			for i, pause := range []time.Duration{0, time.Second, time.Second + 1} {
				time.Sleep(pause)
				k := keysNow(t, s)
				c.out = nil
				if n, err := s.WriteOne(p, len(p)); n != len(p) || err != nil {
					t.Fatal(n, err)
				}
				recs := openAll(t, k, c.out)
				sent, largest := 0, 0
				for j, r := range recs {
					// A batch is cut in one way, so the steps come a little late.
					ok := true
					switch {
					case i == 1 || sent >= rampEnd+rampFirst:
						ok = len(r.p) == record.MaxPlaintext || j == len(recs)-1
					case sent < rampFirst:
						ok = r.len == segment
					case sent < 2*rampFirst:
						ok = r.len == segment || r.len > (rampRecords-1)*segment && r.len <= rampRecords*segment
					case sent < rampEnd:
						ok = r.len > (rampRecords-1)*segment && r.len <= rampRecords*segment
					}
					if !ok {
						t.Errorf("round %d: record %d is %d bytes long at %d", i, j, r.len, sent)
					}
					sent += len(r.p)
					largest = max(largest, len(r.p))
				}
				if largest != record.MaxPlaintext || i == 1 && len(recs) != (len(p)+16383)/16384 {
					t.Errorf("round %d: %d records, the largest holds %d bytes", i, len(recs), largest)
				}
				if !bytes.Equal(data(t, k, c.out), p) {
					t.Error("data differ")
				}
			}
		}
	})
}

// TestBatch: 16 records leave in one Write of the carrier.
func TestBatch(t *testing.T) {
	for _, suite := range []uint16{suite13, chacha13, suite12} {
		lent(t)
		c := new(script)
		s := newSender(t, c, suite)
		ramp(t, s, c)
		k := keysNow(t, s)
		p := noise(1, 3*batchRecords*record.MaxPlaintext+1)
		if n, err := s.WriteOne(p, len(p)); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
		if len(c.writes) != 4 {
			t.Errorf("%d Writes for 49 records: %v", len(c.writes), c.writes)
		}
		if recs := openAll(t, k, c.out); len(recs) != 49 {
			t.Errorf("%d records", len(recs))
		}
		if !bytes.Equal(data(t, k, c.out), p) {
			t.Error("data differ")
		}
	}
}

// TestMaxPayload: no record is longer, whatever it is sent with, and under the keys
// that follow, too; a batch holds more of them.
func TestMaxPayload(t *testing.T) {
	p := noise(1, 100000)
	for _, suite := range []uint16{suite13, suite12} {
		for _, most := range []int{1, 64, 1185, 1186, 5000} {
			p := p[:min(len(p), 1000*most)]
			lent(t)
			c := new(script)
			s := newSender(t, c, suite)
			s.SetMaxPayload(most)
			k := keysNow(t, s)
			for i, send := range []func() (int, error){
				func() (int, error) { return s.WriteOne(p, len(p)) },
				func() (int, error) { return copyAll(s, NewSource(tempFile(t, p))) },
				func() (int, error) { return copyAll(s, NewSource(bytes.NewReader(p))) },
				func() (int, error) { return s.WriteOne(p, len(p)) },
			} {
				if i == 3 {
					if k = testKeys(t, suite); s.SetKeys(k) != nil {
						t.Fatal("no keys")
					}
				}
				c.out, c.writes = nil, nil
				if n, err := send(); n != len(p) || err != nil {
					t.Fatal(n, err)
				}
				longest := 0
				for _, r := range openAll(t, k, c.out) {
					longest = max(longest, len(r.p))
				}
				// The first bytes go in short records anyway.
				if longest > most || longest < min(most, 1185) {
					t.Errorf("at most %d: a record holds %d bytes", most, longest)
				}
				if !bytes.Equal(data(t, k, c.out), p) {
					t.Errorf("at most %d: data differ", most)
				}
				if i == 0 && len(c.writes) > len(p)/rampFirst+2 {
					t.Errorf("at most %d: %d Writes for %d bytes", most, len(c.writes), len(p))
				}
				k = keysNow(t, s)
			}
			if err := s.Seal(record.Handshake, make([]byte, most+1)); err != record.ErrTooLarge {
				t.Errorf("a record of %d bytes: %v", most+1, err)
			}
		}
	}
}

// TestWriteVector: slices are packed into common records, and taken from v as
// far as they were sealed.
func TestWriteVector(t *testing.T) {
	lent(t)
	c := new(script)
	s := newSender(t, c, suite13)
	ramp(t, s, c)
	k := keysNow(t, s)
	p := noise(1, 40000)
	v := [][]byte{nil, p[:1], p[1:10000], {}, p[10000:10001], p[10001:], nil}
	n, err := s.Write(&v, 20000)
	if n != 20000 || err != nil || !bytes.Equal(bytes.Join(v, nil), p[20000:]) {
		t.Fatal(n, err)
	}
	if n, err = s.Write(&v, 1<<20); n != 20000 || err != nil || len(v) != 0 {
		t.Fatal(n, err, len(v))
	}
	if recs := openAll(t, k, c.out); len(recs) != 4 || len(c.writes) != 2 {
		t.Errorf("%d records in %d Writes", len(recs), len(c.writes))
	}
	if !bytes.Equal(data(t, k, c.out), p) {
		t.Error("data differ")
	}
}

// TestCork: a small control record leaves with the data behind it.
func TestCork(t *testing.T) {
	lent(t)
	c := new(script)
	s := newSender(t, c, suite13)
	k := keysNow(t, s)
	if err := s.Seal(record.Handshake, []byte("control")); err != nil {
		t.Fatal(err)
	}
	if s.Pending() == 0 || len(c.writes) != 0 {
		t.Fatal("Seal has sent something")
	}
	if n, err := s.WriteOne([]byte("data"), 4); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	recs := openAll(t, k, c.out)
	if len(c.writes) != 1 || len(recs) != 2 || recs[0].typ != record.Handshake || string(recs[1].p) != "data" {
		t.Errorf("%d Writes, %v", len(c.writes), recs)
	}
	if n := s.Stats().Bytes.Load(); n != 4 {
		t.Errorf("Stats count %d bytes", n)
	}
	if err := s.Seal(record.ApplicationData, make([]byte, record.MaxPlaintext+1)); err != record.ErrTooLarge {
		t.Error(err)
	}
}

// TestWriteDeadline lets the carrier take a few bytes at a time: whatever was
// counted goes out once and in order, and at most one batch is ever kept.
func TestWriteDeadline(t *testing.T) {
	lent(t)
	for _, take := range []int{0, 1, 100, 5000, 16500, 100000, 262000} {
		c := new(script)
		s := newSender(t, c, suite13)
		k := keysNow(t, s)
		p := noise(byte(take), 1<<20)
		sent := 0
		for round := 0; sent < len(p); round++ {
			c.take = []int{take, take}
			if round > 200 {
				c.take = nil
			}
			n, err := s.WriteOne(p[sent:], len(p))
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			sent += n
			if s.Pending() > batchSize || err == nil && s.Pending() > 0 {
				t.Fatalf("%d bytes are kept after %v", s.Pending(), err)
			}
			if whole := append(bytes.Clone(c.out), s.Unsent()...); round%50 == 0 && !bytes.Equal(data(t, k, whole), p[:sent]) {
				t.Fatal("what was counted is not what was committed")
			}
		}
		c.take = nil
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data(t, k, c.out), p) {
			t.Errorf("take %d: data differ", take)
		}
	}
}

// An expired deadline is seen before anything is sealed.
func TestWriteExpired(t *testing.T) {
	lent(t)
	c := new(script)
	s := newSender(t, c, suite13)
	s.SetDeadline(past)
	if n, err := s.WriteOne([]byte("x"), 1); n != 0 || err != os.ErrDeadlineExceeded {
		t.Error(n, err)
	}
	if err := s.Plan(NewSource(bytes.NewReader(nil)), 1); err != os.ErrDeadlineExceeded {
		t.Error(err)
	}
	if s.Pending() != 0 || s.Stats().Seq.Load() != 0 {
		t.Error("something was sealed")
	}
	s.SetDeadline(time.Time{})
	if n, err := s.WriteOne([]byte("x"), 1); n != 1 || err != nil {
		t.Error(n, err)
	}
}

func TestSendCarrierError(t *testing.T) {
	lent(t)
	c := &script{err: &net.OpError{Op: "write", Err: io.ErrClosedPipe}}
	s := newSender(t, c, suite13)
	if n, err := s.WriteOne(make([]byte, 100), 100); n != 100 || err != io.ErrClosedPipe {
		t.Error(n, err)
	}
	if err := s.Seal(record.Handshake, make([]byte, 10)); err != nil {
		t.Error(err)
	}
}

// TestMaxRecords: data stops early enough for a KeyUpdate and a last alert.
func TestMaxRecords(t *testing.T) {
	lent(t)
	c := new(script)
	s := NewSender(c, nil, 20, 0)
	defer s.Close()
	if s.Left() != 0 || s.CanRekey() {
		t.Error("a sender without keys says that it can send")
	}
	if err := s.SetKeys(testKeys(t, suite13)); err != nil {
		t.Fatal(err)
	}
	k := keysNow(t, s)
	var want []byte
	for epoch := range uint64(3) {
		p := noise(byte(epoch), 1<<20)
		n, err := s.WriteOne(p, len(p))
		if err != record.ErrKeyLimit || n == 0 || s.Stats().Seq.Load() != 20-reserve || s.Left() != 0 {
			t.Fatal(n, err, s.Stats().Seq.Load(), s.Left())
		}
		want = append(want, p[:n]...)
		if err := s.Plan(NewSource(bytes.NewReader(p)), 10); err != record.ErrKeyLimit {
			t.Error(err)
		}
		if err := s.Seal(record.Handshake, []byte("update")); err != nil {
			t.Fatal(err)
		}
		if epoch == 2 {
			break
		}
		if err := s.Rekey(); err != nil {
			t.Fatal(err)
		}
		if st := s.Stats(); st.Epoch.Load() != epoch+1 || st.Seq.Load() != 0 || s.Left() != 20-reserve {
			t.Error(st.Epoch.Load(), st.Seq.Load(), s.Left())
		}
	}
	if err := s.Seal(record.AlertRecord, []byte{1, 0}); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(record.AlertRecord, []byte{1, 0}); err != record.ErrKeyLimit {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	r := NewReceiver(fed(c.out), nil, nil)
	if err := r.SetKeys(k); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for range 3 {
		b, _, err := drainTo(r)
		got = append(got, b...)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Rekey(); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes", len(got), len(want))
	}
	r.Close(nil)
}

// drainTo reads to the next control record, which it takes.
func drainTo(r *Receiver) (got, control []byte, err error) {
	p := make([]byte, 50000)
	for {
		n, err := r.Read(p)
		got = append(got, p[:n]...)
		if err == ErrControl {
			_, b, _ := r.Control()
			control = bytes.Clone(b)
			r.Consume(len(b))
			return got, control, nil
		}
		if err != nil {
			return got, nil, err
		}
	}
}

// TestUnsent continues the work of an earlier sender, whose rest may be of any
// length.
func TestUnsent(t *testing.T) {
	for _, n := range []int{1, 3000, 16384, 200000, batchSize - 5000, batchSize + 1, 2 * batchSize} {
		for _, how := range []string{"write", "seal", "plan"} {
			lent(t)
			sealer := newSealer(t, suite13)
			var unsent, want []byte
			for len(unsent) < n {
				p := noise(byte(len(unsent)), min(16000, n-len(unsent)))
				unsent, want = seal(t, sealer, unsent, record.ApplicationData, p), append(want, p...)
			}
			c := new(script)
			s := NewSender(c, unsent, 0, 0)
			k := testKeys(t, suite13)
			k.Seq = sealer.Seq()
			if err := s.SetKeys(k); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(s.Unsent(), unsent) || s.Pending() != len(unsent) {
				t.Fatal("the rest is not there")
			}
			switch how {
			case "write":
				if n, err := s.WriteOne([]byte("last"), 4); n != 4 || err != nil {
					t.Fatal(n, err)
				}
			case "seal":
				if err := s.Seal(record.ApplicationData, []byte("last")); err != nil {
					t.Fatal(err)
				}
			case "plan":
				src := NewSource(bytes.NewReader([]byte("last")))
				if err := s.Plan(src, 1000); err != nil {
					t.Fatal(err)
				}
				if s.Pending() != 0 {
					t.Error("the rest would wait for the source")
				}
				m, err := src.Read()
				if err != nil {
					t.Fatal(err)
				}
				if n, err := s.Commit(src, m); n != 4 || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(data(t, testKeys(t, suite13), c.out), append(want, "last"...)) {
				t.Errorf("%d, %s: data differ", n, how)
			}
			s.Close()
		}
	}
}

func TestSendNoKeys(t *testing.T) {
	s := NewSender(new(script), []byte("rest"), 0, 0)
	_, err1 := s.WriteOne([]byte("x"), 1)
	_, err2 := s.Keys()
	src := NewSource(bytes.NewReader([]byte("x")))
	for i, err := range []error{err1, err2, s.Rekey(), s.Seal(23, nil), s.Plan(src, 1)} {
		if err != ErrNoKeys {
			t.Error(i, err)
		}
	}
	s.Close()
	if s.Pending() != 0 {
		t.Error("Close kept the rest")
	}
}

// After Close nothing can be sealed, and what was not sent is gone.
func TestSenderClose(t *testing.T) {
	lent(t)
	c := &script{take: []int{10}}
	s := newSender(t, c, suite13)
	if n, err := s.WriteOne(make([]byte, 1000), 1000); n != 1000 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(n, err)
	}
	s.Close()
	if _, err := s.WriteOne([]byte("x"), 1); err != ErrNoKeys {
		t.Error(err)
	}
	if err := s.Flush(); err != nil || len(c.out) != 10 {
		t.Error(err, len(c.out))
	}
}

// Seal may be called by a reader, who must not wait for a carrier that takes
// nothing, however much is committed already.
func TestSealNeverWaits(t *testing.T) {
	a, b := net.Pipe() // nobody reads b
	defer a.Close()
	defer b.Close()
	k, err := record.TrafficKeys(0x1301, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := NewSender(a, nil, 0, 0)
	defer s.Close()
	if err := s.SetKeys(k); err != nil {
		t.Fatal(err)
	}
	for range batchRecords + 4 {
		if err := s.Seal(record.Handshake, make([]byte, record.MaxPlaintext)); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Pending(); n < (batchRecords+4)*record.MaxPlaintext {
		t.Errorf("%d bytes are committed", n)
	}
}
