package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// Sizing of records on a fresh or idle connection, as the peer can use a small one
// before the rest of a large one has come: the first is one TCP segment, and each
// one larger than the one before by another segment.
const (
	segment  = 1186
	rampIdle = time.Second
)

// reserve is how many records of a key's limit are kept for control: one for
// KeyUpdate, one for the last alert.
const reserve = 2

// near is how close to the limit of a key the kernel is asked for its number each
// time. Before that an estimate is enough, which is never below it.
const near = 256

// vectorMax is how many slices go out with one call (UIO_MAXIOV).
const vectorMax = 1024

const sendFlags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL

var vectorPool = sync.Pool{New: func() any { return new([vectorMax]unix.Iovec) }}

// Sender is the sending half of an association whose records the kernel seals. It
// is not safe for use by two goroutines at once, but for SetDeadline, Stats and
// Refresh.
//
// What the kernel has taken it sends by itself, whatever happens to us. What is
// committed and was not taken (a control record while the socket's buffer is full,
// data that has left its source) waits in queue, and goes first.
type Sender struct {
	side
	max    uint64
	gate   atomic.Pointer[Gate]
	queue  []committed
	queued int // payload bytes in queue
	shared bool

	// For Settled: payload bytes that the kernel took, and where TCP stood and how
	// many records there were when it got the key.
	given   uint64
	before  uint64
	records uint64

	payload  int    // of a record, at most
	estimate uint64 // never less than the number of the next record
	ramp     int    // payload of the next record, 0 when records are full
	last     int64  // time of the last data, unix nanoseconds
	deadline atomic.Pointer[time.Time]

	// Of the call under way, kept so that it does not allocate.
	vector  []unix.Iovec
	control control
	oob     []byte
	wait    bool
	took    int
	err     error
	try     func(fd uintptr) bool
	one     [1]unix.Iovec
	file    fileTurn
}

// NewSender gives the kernel the keys of the sending direction. Nothing may be
// sealed and unsent. maxRecords is that of package record; from are the counters of
// the provider before, or nil.
func NewSender(s *Socket, k record.Keys, maxRecords uint64, from *Stats) (*Sender, error) {
	snd := newSender(s, maxRecords, from)
	if err := snd.install(k); err != nil {
		return nil, err
	}
	snd.estimate = k.Seq
	snd.before, snd.records = snd.handed(), snd.stats.Records.Load()
	return snd, nil
}

// TakeSender is NewSender for a socket that has these keys already; payload and queue
// are what MaxPayload and Unsent returned in the process before.
func TakeSender(s *Socket, k record.Keys, maxRecords uint64, payload int, queue []byte) (*Sender, error) {
	snd := newSender(s, maxRecords, nil)
	if err := snd.take(k); err != nil {
		return nil, err
	}
	snd.estimate, snd.ramp, snd.payload = k.Seq, 0, payload
	return snd, snd.putQueue(queue)
}

func newSender(s *Socket, maxRecords uint64, from *Stats) *Sender {
	if maxRecords != 0 {
		maxRecords = max(maxRecords, reserve+1) // with less there is no room for data
	}
	snd := &Sender{max: maxRecords, ramp: segment, payload: record.MaxPlaintext}
	snd.init(s, optTX, from)
	snd.try = snd.trySend
	return snd
}

// SetKeys replaces the keys, from the next record on. The error is [ErrNoRekey]
// where the kernel takes no second key.
func (s *Sender) SetKeys(k record.Keys) error {
	if err := s.flushed(); err != nil {
		return err
	}
	if cur, err := s.Keys(); err == nil {
		same := string(cur.Key) == string(k.Key) && string(cur.IV) == string(k.IV) && cur.Seq == k.Seq
		cur.Wipe()
		if same {
			return nil
		}
	}
	if err := s.install(k); err != nil {
		return err
	}
	s.estimate = k.Seq
	return nil
}

// flushed says that nothing is committed and unsent: it would be sealed under the
// wrong key.
func (s *Sender) flushed() error {
	s.TryFlush()
	if len(s.queue) > 0 {
		return &Unavailable{Reason: "a record is committed and the kernel has not taken it yet: write it before the keys are changed"}
	}
	return nil
}

// Rekey goes on to the keys after a KeyUpdate, which was sealed just before.
func (s *Sender) Rekey() error {
	if n := len(s.queue); n > 0 {
		s.queue[n-1].next = true
		return nil
	}
	return s.rekey()
}

func (s *Sender) rekey() error {
	k, err := s.keys.Next()
	if err != nil {
		return err
	}
	defer k.Wipe()
	if err := s.install(k); err != nil {
		return err
	}
	s.stats.Rekeys.Add(1)
	s.estimate = 0
	return nil
}

// CanRekey reports whether Rekey works: with a secret, on a kernel that can, and
// while nobody else sends under the same key.
func (s *Sender) CanRekey() bool { return !s.shared && len(s.keys.Secret) > 0 && CanRekey() }

// Limited says why the kernel cannot cut records of at most n bytes of data, or nil.
// The error is an [*Unavailable].
func Limited(version uint16, n int) error {
	if n == record.MaxPlaintext {
		return nil
	}
	if err := limit(version, n); err != nil {
		return err
	}
	if !canLimit() {
		return optionError(unix.ENOPROTOOPT)
	}
	return nil
}

// limit says why a limit of n bytes is none, or nil.
func limit(version uint16, n int) error {
	least := maxMinTLS12
	if version == record.TLS13 {
		least = maxMinTLS13
	}
	if n < 1 || n > record.MaxPlaintext {
		return record.ErrTooLarge
	}
	if n < least {
		return &Unavailable{Reason: fmt.Sprintf("the kernel makes records of %d to %d bytes at most, not %d", least, record.MaxPlaintext, n)}
	}
	return nil
}

// MaxPayload is how many bytes of data a record holds at most.
func (s *Sender) MaxPayload() int { return s.payload }

// SetMaxPayload makes the kernel cut records of at most n bytes of data
// (TLS_TX_MAX_PAYLOAD_LEN). What no record can hold is [record.ErrTooLarge]; other
// errors are an [*Unavailable].
func (s *Sender) SetMaxPayload(n int) error {
	if err := limit(s.keys.Version, n); err != nil {
		return err
	}
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], uint16(n))
	if err := s.setsockopt(unix.SOL_TLS, optMaxPayload, b[:]); err != nil {
		return optionError(err)
	}
	s.payload = n
	return nil
}

// ZeroCopy asks a device that seals not to copy files (TLS_TX_ZEROCOPY_RO).
func (s *Sender) ZeroCopy() { s.setsockopt(unix.SOL_TLS, optZeroCopy, one) }

// one is the value of an option that is on.
var one = binary.NativeEndian.AppendUint32(nil, 1)

// recordsOf is how many records n bytes of data become, at most.
func (s *Sender) recordsOf(n int) uint64 { return uint64((n + s.payload - 1) / s.payload) }

// Limits returns the maxRecords that the sender was made with; the kernel does not
// pad.
func (s *Sender) Limits() (maxRecords uint64, padding int) { return s.max, 0 }

// SetGate makes g the gate from the next record on; nil is none. It may be called
// at any time, by anybody.
func (s *Sender) SetGate(g *Gate) { s.gate.Store(g) }

// SetDeadline is the time after which nothing more is given to the kernel.
func (s *Sender) SetDeadline(t time.Time) {
	if t.IsZero() {
		s.deadline.Store(nil)
	} else {
		s.deadline.Store(&t)
	}
}

// Expired reports whether that time has come.
func (s *Sender) Expired() bool {
	d := s.deadline.Load()
	return d != nil && !time.Now().Before(*d)
}

// Left is how many more data records the key may seal, with enough kept back for a
// KeyUpdate and a last alert.
func (s *Sender) Left() uint64 {
	limit := record.Limit(s.keys.Version, s.keys.Suite)
	if s.max != 0 && s.max < limit {
		limit = s.max
	}
	for i := len(s.queue); i > 0; i-- {
		if s.queue[i-1].next { // what comes now is under the next key
			return limit - reserve - uint64(len(s.queue)-i)
		}
	}
	if s.shared || limit <= near || s.estimate >= limit-near {
		s.Refresh()
		s.estimate = s.stats.Seq.Load() + uint64(len(s.queue))
	}
	if s.estimate >= limit-reserve {
		return 0
	}
	return limit - reserve - s.estimate
}

// Write sends up to limit bytes from the slices of v, in order and packed into
// records across their borders, and takes from v what the kernel took. After
// os.ErrDeadlineExceeded n is exact, and the kernel sends what it took by itself.
// [record.ErrKeyLimit] means that the key may seal no more.
func (s *Sender) Write(v *[][]byte, limit int) (n int, err error) {
	limit = length(v, limit)
	for n < limit {
		size, err := s.plan(limit - n)
		if err != nil {
			return n, err
		}
		if gate := s.gate.Load(); gate != nil {
			m, err := s.writeGated(gate, v, min(size, record.MaxPlaintext))
			n += m
			if err != nil {
				return n, err
			}
			continue
		}
		m, err := s.writeVector(*v, size)
		advance(v, m)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// WriteOne is Write for one slice.
func (s *Sender) WriteOne(p []byte, limit int) (n int, err error) {
	one := [1][]byte{p}
	v := one[:]
	return s.Write(&v, limit)
}

// plan sends what is committed, and answers how many bytes of data may go out with
// the next call.
func (s *Sender) plan(want int) (size int, err error) {
	if s.deadline.Load() != nil && s.Expired() {
		return 0, os.ErrDeadlineExceeded
	}
	if err := s.Flush(); err != nil {
		return 0, err
	}
	left := s.Left()
	if left == 0 {
		return 0, record.ErrKeyLimit
	}
	if left < s.recordsOf(want) {
		want = int(left) * s.payload
	}
	if want <= segment {
		return want, nil // one record whatever the layout
	}
	now := time.Now().UnixNano()
	if now-s.last > int64(rampIdle) {
		s.ramp = segment
	}
	s.last = now
	if s.ramp != 0 {
		want = min(want, s.ramp)
		if s.ramp += segment; s.ramp >= record.MaxPlaintext {
			s.ramp = 0
		}
	}
	return want, nil
}

// writeVector sends up to size bytes of v.
func (s *Sender) writeVector(v [][]byte, size int) (n int, err error) {
	if len(v) == 1 {
		s.one[0] = iovec(v[0][:min(len(v[0]), size)])
		n, err = s.send(s.one[:], nil, true)
		s.one[0] = unix.Iovec{}
	} else {
		a := vectorPool.Get().(*[vectorMax]unix.Iovec)
		k, left := 0, size
		for _, b := range v {
			if b = b[:min(len(b), left)]; len(b) > 0 {
				a[k] = iovec(b)
				left -= len(b)
				k++
			}
			if left == 0 || k == vectorMax {
				break
			}
		}
		n, err = s.send(a[:k], nil, true)
		clear(a[:k])
		vectorPool.Put(a)
	}
	s.sent(n)
	return n, err
}

// writeGated sends one record of what is next in v, as far as the gate lets it.
func (s *Sender) writeGated(gate *Gate, v *[][]byte, size int) (n int, err error) {
	p := (*v)[0]
	for len(p) == 0 {
		*v = (*v)[1:]
		p = (*v)[0]
	}
	p = p[:min(len(p), size)]
	keep, err := gate.lets(p)
	if err != nil {
		return 0, err
	}
	err = s.commit(record.ApplicationData, p[:keep], true)
	advance(v, len(p))
	return len(p), err
}

func iovec(b []byte) (v unix.Iovec) {
	if len(b) > 0 {
		v.Base = &b[0]
	}
	v.SetLen(len(b))
	return v
}

// sent notes n bytes of data that the kernel took, as so many records at most.
func (s *Sender) sent(n int) {
	if n > 0 {
		s.stats.Bytes.Add(uint64(n))
		s.estimate += s.recordsOf(n)
	}
}

// send gives the kernel what v holds, and takes from v what it took. With wait it
// waits for room in the socket's buffer, until the deadline of the carrier.
func (s *Sender) send(v []unix.Iovec, oob []byte, wait bool) (n int, err error) {
	s.vector, s.oob, s.wait, s.took, s.err = v, oob, wait, 0, nil
	err = s.raw.Write(s.try)
	if err != nil && !timeout(err) && !errors.Is(err, net.ErrClosed) {
		// An error of the socket alone is nothing that package net waits on: the
		// kernel says what it is.
		s.wait, s.err = false, nil
		if s.raw.Control(func(fd uintptr) { s.trySend(fd) }) == nil && s.err != nil && s.err != unix.EAGAIN {
			err = s.err
		}
	}
	s.vector, s.oob = nil, nil
	s.given += uint64(s.took)
	if err != nil {
		return s.took, unwrapped(err)
	}
	return s.took, s.err
}

func (s *Sender) trySend(fd uintptr) bool {
	for len(s.vector) > 0 {
		n, err := s.sys.sendmsg(int(fd), s.vector, s.oob, sendFlags)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if s.wait {
				return false
			}
			s.err = err
			return true
		case err != nil:
			s.err = writeError("sendmsg", err)
			return true
		case n == 0 && s.vector[0].Len > 0:
			s.err = io.ErrNoProgress
			return true
		default:
			s.took += n
			for len(s.vector) > 0 && (n > 0 || s.vector[0].Len == 0) {
				first := &s.vector[0]
				m := min(n, int(first.Len))
				n -= m
				if m < int(first.Len) {
					first.Base = offset(first.Base, m)
					first.SetLen(int(first.Len) - m)
					break
				}
				s.vector = s.vector[1:]
			}
		}
	}
	return true
}

// Plan sends what is committed, and answers how many bytes a source may bring for
// the next Commit.
func (s *Sender) Plan(want int) (size int, err error) { return s.plan(want) }

// Immediate reports that TryFlush works.
func (s *Sender) Immediate() bool { return true }

// Share says that others send on the socket too: from now on the key is not
// changed, and its number is asked for each time.
func (s *Sender) Share() { s.shared = true }

// Close forgets the keys and what is committed.
func (s *Sender) Close() {
	s.Refresh() // the last numbers stay in Stats
	for _, q := range s.queue {
		clear(q.b)
	}
	s.queue, s.queued = nil, 0
	s.wipe()
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

// advance takes n bytes from v, and empty slices behind them.
func advance(v *[][]byte, n int) {
	for len(*v) > 0 {
		m := min(n, len((*v)[0]))
		(*v)[0] = (*v)[0][m:]
		n -= m
		if len((*v)[0]) > 0 {
			return
		}
		(*v)[0], *v = nil, (*v)[1:]
	}
}
