package soft

import (
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aftls/aftls/record"
)

// Sizing of records on a fresh or idle connection: a receiver can use a small
// record before the rest of a large one has come. Bytes and time.
const (
	segment     = 1208      // payload of a TCP segment on nearly any path
	rampFirst   = 16 << 10  // so much goes in records of one segment,
	rampEnd     = 128 << 10 // the rest up to here in records of four,
	rampRecords = 4
	rampIdle    = time.Second // and after such a pause it starts again
)

// reserve is how many records of a key's limit are kept for control: one for
// KeyUpdate, one for the last alert.
const reserve = 2

// Sender is the sending half of an association: it seals records and writes
// them to the carrier. It is not safe for use by two goroutines at once, but
// for SetDeadline and Stats.
type Sender struct {
	conn   net.Conn
	raw    syscall.RawConn
	sealer *record.Sealer
	max    uint64
	pad    int
	most   int // bytes of payload in a record; 0: record.MaxPlaintext

	batch []byte // borrowed; nil while out is empty
	out   []byte // in batch: sealed, not yet taken by the carrier

	short shortWriter // of tryWrite

	gate atomic.Pointer[Gate]

	ramped   int   // bytes of the ramp already sent
	last     int64 // time of the last batch, unix nanoseconds
	deadline atomic.Pointer[time.Time]

	stats Stats
}

// NewSender returns a sender without keys. conn stays the caller's to close.
// unsent, if any, was sealed by an earlier sender of the same association; it
// goes out first. maxRecords and padding are those of package record.
func NewSender(conn net.Conn, unsent []byte, maxRecords uint64, padding int) *Sender {
	if maxRecords != 0 {
		maxRecords = max(maxRecords, reserve+1) // with less there is no room for data
	}
	s := &Sender{conn: conn, raw: rawConn(conn), max: maxRecords, pad: padding}
	if n := len(unsent); n > 0 && n <= batchSize {
		s.batch = get(n)
		s.out = s.batch[:copy(s.batch, unsent)]
	} else {
		s.out = append(s.out, unsent...)
	}
	return s
}

// SetKeys keys the direction, from the next record on.
func (s *Sender) SetKeys(k record.Keys) error {
	n, err := record.NewSealer(k)
	if err != nil {
		return err
	}
	n.SetMaxRecords(s.max)
	n.SetPadding(s.pad)
	if s.most > 0 {
		n.SetMaxPayload(s.most)
	}
	if s.sealer != nil {
		s.sealer.Wipe()
	}
	s.sealer = n
	s.stats.keyed(k)
	s.note()
	return nil
}

// SetMaxPayload lowers how many bytes the records to come may hold, under these
// keys and those that follow. What no record can hold is [record.ErrTooLarge].
func (s *Sender) SetMaxPayload(n int) error {
	if n < 1 || n > record.MaxPlaintext {
		return record.ErrTooLarge
	}
	s.most = n
	if s.sealer != nil {
		s.sealer.SetMaxPayload(n)
	}
	return nil
}

// MaxPayload is how many bytes of data a record holds at most.
func (s *Sender) MaxPayload() int {
	if s.most == 0 {
		return record.MaxPlaintext
	}
	return s.most
}

// Limits returns the maxRecords and padding that the sender was made with.
func (s *Sender) Limits() (maxRecords uint64, padding int) { return s.max, s.pad }

// Rekey goes on to the keys after a KeyUpdate.
func (s *Sender) Rekey() error {
	if s.sealer == nil {
		return ErrNoKeys
	}
	if err := s.sealer.Next(); err != nil {
		return err
	}
	s.stats.Rekeys.Add(1)
	s.stats.Epoch.Store(s.sealer.Epoch())
	s.note()
	return nil
}

// Keys returns a copy of the keys at the next record.
func (s *Sender) Keys() (record.Keys, error) {
	if s.sealer == nil {
		return record.Keys{}, ErrNoKeys
	}
	return s.sealer.Keys(), nil
}

// Stats returns the counters; the pointer stays valid.
func (s *Sender) Stats() *Stats { return &s.stats }

func (s *Sender) note() { s.stats.Seq.Store(s.sealer.Seq()) }

// SetDeadline is the time after which nothing more is sealed. The caller sets
// the carrier's own deadline, which ends a blocked write.
func (s *Sender) SetDeadline(t time.Time) {
	if t.IsZero() {
		s.deadline.Store(nil)
	} else {
		s.deadline.Store(&t)
	}
}

// Expired reports whether that time has come.
func (s *Sender) Expired() bool { return s.expired(time.Now()) }

func (s *Sender) expired(now time.Time) bool {
	d := s.deadline.Load()
	return d != nil && !now.Before(*d)
}

// Left is how many more data records the key may seal, with enough kept back
// for a KeyUpdate and a last alert.
func (s *Sender) Left() uint64 {
	if s.sealer == nil {
		return 0
	}
	if n := s.sealer.Left(); n > reserve {
		return n - reserve
	}
	return 0
}

// segmentPayload is the payload of a record that fills one segment, or of the
// longest if that is shorter.
func (s *Sender) segmentPayload() int {
	return min(segment-s.sealer.SealedLen(0), s.sealer.MaxPayload())
}

// layout is how the next batch of data is cut: payload bytes of a record, and
// how many records at most.
func (s *Sender) layout(now time.Time) (payload, count int) {
	payload = s.sealer.MaxPayload()
	count = records() * record.MaxRecord / s.sealer.SealedLen(payload)
	t := now.UnixNano() // a step of the clock costs or saves a ramp, no more
	if s.ramped >= rampEnd && t-s.last > int64(rampIdle) {
		s.ramped = 0
	}
	s.last = t
	if s.ramped < rampEnd {
		if payload = s.segmentPayload(); s.ramped >= rampFirst {
			payload = min(payload*rampRecords, s.sealer.MaxPayload())
		}
		count = rampFirst / payload
	}
	if left := s.Left(); left < uint64(count) {
		count = int(left)
	}
	return payload, count
}

// Write seals and sends up to limit bytes from the slices of v, in order and
// packed into records across their borders, and takes from v what it sealed.
// n counts sealed plaintext. os.ErrDeadlineExceeded leaves at most one batch
// unsent, which goes out first in the next call; [record.ErrKeyLimit] means
// that the key may seal no more; any other error is the carrier's.
func (s *Sender) Write(v *[][]byte, limit int) (n int, err error) {
	if s.sealer == nil {
		return 0, ErrNoKeys
	}
	limit = length(v, limit)
	for n < limit {
		// What fits a segment is one record whatever the layout, and a short
		// message need not pay for a clock that nobody asks.
		short := limit-n <= s.segmentPayload()
		var now time.Time
		if !short || s.deadline.Load() != nil {
			now = time.Now()
		}
		if s.expired(now) {
			return n, os.ErrDeadlineExceeded
		}
		// A control record that waits to be sent leaves with the data; a
		// batch that did not go out in time goes first.
		if len(s.out) > smallSize {
			if err := s.Flush(); err != nil {
				return n, err
			}
		}
		payload, count := limit-n, int(min(s.Left(), 1))
		if !short {
			payload, count = s.layout(now)
		}
		if count == 0 {
			return n, record.ErrKeyLimit
		}
		whole := min(limit-n, payload*count)
		s.grow(s.sealer.SealedLen(whole) + whole/payload*(s.sealer.SealedLen(0)+1))
		gate := s.gate.Load()
		for ; count > 0 && n < limit; count-- {
			room := min(payload, limit-n)
			if len(s.out)+s.sealer.SealedLen(room) > cap(s.out) {
				break
			}
			data := s.next(room, v)
			if err = s.sealData(gate, data); err != nil {
				s.release()
				return n, err
			}
			n += len(data)
		}
		s.release()
		s.note()
		if err := s.Flush(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// WriteOne is Write for one slice.
func (s *Sender) WriteOne(p []byte, limit int) (n int, err error) {
	one := [1][]byte{p} // stays on the stack
	v := one[:]
	return s.Write(&v, limit)
}

func (s *Sender) sealed(n int) {
	s.stats.Records.Add(1)
	s.stats.Bytes.Add(uint64(n))
	if s.ramped < rampEnd {
		s.ramped += n
	}
}

// next takes the next n bytes from v: as they lie there, or put together in
// their place in the batch where they are of several slices.
func (s *Sender) next(n int, v *[][]byte) []byte {
	gather(nil, v) // empty slices in front
	if first := (*v)[0]; len(first) >= n {
		(*v)[0] = first[n:]
		gather(nil, v)
		return first[:n]
	}
	place := s.out[len(s.out)+s.sealer.Prefix() : cap(s.out)]
	return place[:gather(place[:n], v)]
}

// gather copies from v to dst and takes from v what it copied, empty slices
// behind it too.
func gather(dst []byte, v *[][]byte) (n int) {
	for len(*v) > 0 {
		m := copy(dst[n:], (*v)[0])
		(*v)[0] = (*v)[0][m:]
		n += m
		if len((*v)[0]) > 0 {
			break
		}
		(*v)[0], *v = nil, (*v)[1:]
	}
	return n
}

// length is how many bytes v holds, or limit if those are fewer.
func length(v *[][]byte, limit int) (n int) {
	for _, b := range *v {
		if n += len(b); n >= limit {
			return limit
		}
	}
	return n
}

// grow makes room for n bytes behind s.out, as far as a batch allows.
func (s *Sender) grow(n int) {
	if n = min(len(s.out)+n, batchSize); cap(s.out) >= n || len(s.out) > n {
		return
	}
	b := get(n)
	out := b[:copy(b, s.out)]
	s.drop()
	s.batch, s.out = b, out
}

// release gives the buffer back when nothing is committed.
func (s *Sender) release() {
	if len(s.out) == 0 {
		s.drop()
	}
}

func (s *Sender) drop() {
	if s.batch != nil {
		put(s.batch)
	}
	s.batch, s.out = nil, nil
}

// Seal commits one record of any type, payload of at most as many bytes as a
// record may hold, behind everything that is committed. It sends nothing.
func (s *Sender) Seal(typ record.ContentType, payload []byte) (err error) {
	if s.sealer == nil {
		return ErrNoKeys
	}
	if len(payload) > s.sealer.MaxPayload() {
		return record.ErrTooLarge
	}
	if typ == record.ApplicationData {
		n, err := s.gate.Load().lets(payload)
		if err != nil || n == 0 && len(payload) > 0 {
			return err
		}
		payload = payload[:n]
	}
	n := s.sealer.SealedLen(len(payload))
	s.growAny(n) // a reader may be the caller: it must not wait for the carrier
	s.out, err = s.sealer.Seal(s.out, typ, payload)
	if err == nil {
		s.stats.Records.Add(1)
		if typ == record.ApplicationData {
			s.stats.Bytes.Add(uint64(len(payload)))
		}
		s.note()
	}
	s.release()
	return err
}

// Pending is how many committed bytes the carrier has not taken.
func (s *Sender) Pending() int { return len(s.out) }

// Flush sends what is committed. After os.ErrDeadlineExceeded the rest stays.
func (s *Sender) Flush() error {
	if len(s.out) <= smallSize && s.Immediate() {
		s.TryFlush() // mostly this is all
	}
	if len(s.out) == 0 {
		return nil
	}
	n, err := s.conn.Write(s.out)
	s.sent(n)
	return cause(err)
}

// TryFlush sends what the carrier takes without blocking. It answers false
// where the carrier cannot be asked for that.
func (s *Sender) TryFlush() bool {
	if len(s.out) == 0 {
		return true
	}
	n, ok := s.tryWrite(s.out)
	s.sent(n)
	return ok
}

// TryFlushLast is TryFlush for a caller who closes the carrier's writing side
// next: the end travels with the last bytes.
func (s *Sender) TryFlushLast() {
	if len(s.out) > 0 {
		n, _ := s.tryWriteLast(s.out)
		s.sent(n)
	}
}

func (s *Sender) sent(n int) {
	if s.out = s.out[n:]; len(s.out) == 0 {
		s.drop()
	}
}

// Unsent returns a copy of the committed bytes that the carrier has not taken.
func (s *Sender) Unsent() []byte { return append([]byte(nil), s.out...) }

// Close wipes the keys and drops what is committed.
func (s *Sender) Close() {
	if s.sealer != nil {
		s.sealer.Wipe()
		s.sealer = nil
	}
	s.drop()
}

// Immediate reports whether TryFlush works on this carrier.
func (s *Sender) Immediate() bool { return s.raw != nil && immediate }

// CanRekey reports whether Rekey works with the present keys.
func (s *Sender) CanRekey() bool { return s.sealer != nil && s.sealer.CanNext() }
