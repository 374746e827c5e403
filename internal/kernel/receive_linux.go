package kernel

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

var recordPool = sync.Pool{New: func() any { return new([record.MaxPlaintext]byte) }}

// Receiver is the receiving half of an association whose records the kernel opens.
// It is not safe for use by two goroutines at once, but for Stats and Refresh.
//
// Data comes by recv(2), which merges records. In front of a control record that
// answers EIO: then recvmsg(2) takes it, with its type. Records of data one at a time,
// for a gate and for ReadRecord, come by splice(2) through a pipe, the only call that
// keeps them apart.
type Receiver struct {
	side

	// A control record, or data that was taken and not delivered. typ is 0 when
	// there is none.
	typ     record.ContentType
	payload []byte
	buf     *[record.MaxPlaintext]byte // borrowed; payload lies in it

	err   error // sticky
	gate  atomic.Pointer[Gate]
	pipe  *pipe  // for records one at a time, once there was need
	empty int    // records without data in a row, of those
	since uint64 // bytes since the kernel was asked for its number

	// Of the call under way, kept so that it does not allocate.
	p       []byte
	how     how
	into    int // the pipe of single
	n       int
	got     record.ContentType
	gotErr  error
	wait    bool
	one     [1]byte
	control control
	try     func(fd uintptr) bool
}

// maxEmpty is how many data records without data may follow each other, of those
// that the kernel does not drop without a word.
const maxEmpty = 64

// how a read is done.
type how uint8

const (
	plain  how = iota // recv(2): data only
	typed             // recvmsg(2): whatever is next, with its type
	peeked            // typed, and it stays
	single            // splice(2): one record of data, into the pipe
)

// NewReceiver gives the kernel the keys of the receiving direction: for all that
// lies unread in the socket. from are the counters of the provider before, or nil.
func NewReceiver(s *Socket, k record.Keys, from *Stats) (*Receiver, error) {
	r := newReceiver(s, from)
	if err := r.install(k); err != nil {
		return nil, err
	}
	return r, nil
}

// TakeReceiver is NewReceiver for a socket that has these keys already. plaintext
// was read and not delivered.
func TakeReceiver(s *Socket, k record.Keys, plaintext []byte) (*Receiver, error) {
	r := newReceiver(s, nil)
	if err := r.take(k); err != nil {
		return nil, err
	}
	if len(plaintext) > 0 {
		r.typ, r.payload = record.ApplicationData, append([]byte(nil), plaintext...)
	}
	return r, nil
}

func newReceiver(s *Socket, from *Stats) *Receiver {
	r := new(Receiver)
	r.init(s, optRX, from)
	r.try = r.tryReceive
	return r
}

// SetKeys replaces the keys, behind the records that were read so far. The error is
// [ErrNoRekey] where the kernel takes no second key.
func (r *Receiver) SetKeys(k record.Keys) error { return r.install(k) }

// Rekey goes on to the keys after a KeyUpdate. The error is [ErrNoRekey] on kernels
// that cannot: then nothing more can be read, and an alert can still be sent until
// somebody tries.
func (r *Receiver) Rekey() error {
	k, err := r.keys.Next()
	if err != nil {
		return err
	}
	defer k.Wipe()
	if err := r.install(k); err != nil {
		return err
	}
	r.stats.Rekeys.Add(1)
	r.since = 0
	return nil
}

// ExpectNoPad has the kernel open records as if they were not padded
// (TLS_RX_EXPECT_NO_PAD), where it can.
func (r *Receiver) ExpectNoPad() { r.setsockopt(unix.SOL_TLS, optNoPad, one) }

// SetGate makes g the gate from the next record on that is taken from the kernel;
// nil is none. It may be called at any time, by anybody.
func (r *Receiver) SetGate(g *Gate) { r.gate.Store(g) }

// Read fills p with application data from as many records as are there, and waits
// only for the first. In front of a control record it returns [ErrControl] with
// n = 0, at the end of the carrier io.EOF or io.ErrUnexpectedEOF (inside a record).
// An [*record.Error] is for good.
func (r *Receiver) Read(p []byte) (n int, err error) { return r.read(p, true) }

// TryRead is Read without waiting: n is 0 with a nil error when no data is whole.
func (r *Receiver) TryRead(p []byte) (n int, err error) { return r.read(p, false) }

func (r *Receiver) read(p []byte, wait bool) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.typ == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.gate.Load() != nil {
			if err := r.next(wait); err != nil {
				return 0, err
			}
			break
		}
		n, err = r.receive(plain, p, wait)
		if err == nil && n > 0 {
			r.note(n)
			r.empty = 0
			return n, nil
		}
		if err == unix.EIO {
			err = r.takeTyped(false)
		}
		if err != nil {
			if err = r.failed(err); err != nil || !wait {
				return 0, err
			}
		}
	}
	switch r.typ {
	case 0:
		return 0, nil
	case record.ApplicationData:
	default:
		return 0, ErrControl
	}
	n = copy(p, r.payload)
	r.took(n)
	return n, nil
}

// failed gives the error of a system call its meaning, and keeps what is for good.
// The kernel tells of some failures only once.
func (r *Receiver) failed(err error) error {
	switch {
	case err == nil || err == unix.EAGAIN:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return err
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	}
	if errnoOf(err) != 0 {
		err = readError(err)
	}
	return r.fail(err)
}

func (r *Receiver) fail(err error) error {
	if r.err == nil {
		r.err = err
	}
	return r.err
}

// receive does one read, until the deadline of the carrier with wait. It answers
// for the paused kernel: after a KeyUpdate the kernel gives nothing before it has
// another key, and where the caller goes on reading the old one still holds, as in
// the middle of a message that comes in two records.
func (r *Receiver) receive(h how, p []byte, wait bool) (int, error) {
	for paused := false; ; paused = true {
		r.how, r.p, r.wait, r.n, r.got, r.gotErr = h, p, wait, 0, 0, nil
		err := r.raw.Read(r.try)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
			// An error of the socket alone is nothing that package net waits on:
			// the kernel says what it is.
			r.wait = false
			if r.raw.Control(func(fd uintptr) { r.tryReceive(fd) }) == nil && r.gotErr != unix.EAGAIN {
				err = nil
			}
		}
		r.p = nil
		switch {
		case err != nil:
			return 0, unwrapped(err)
		case r.gotErr == unix.EKEYEXPIRED && !paused:
			if err := r.again(); err != nil {
				return 0, err
			}
		case r.gotErr != nil:
			return 0, r.gotErr
		case r.n == 0 && h == typed:
			return 0, r.nothing()
		case r.n == 0 && r.got == 0 || r.n == 0 && r.got == record.ApplicationData:
			// It may be the end, or records without data. Only with its type one
			// can be told from the other.
			if err := r.takeTyped(false); err != unix.EAGAIN {
				return 0, err
			}
			return 0, r.withoutData()
		default:
			return r.n, nil
		}
	}
}

// nothing is what a read without a byte means that would have brought a type: the
// end, a control record without content, or data without content.
func (r *Receiver) nothing() error {
	switch r.got {
	case 0:
		return r.end()
	case record.ApplicationData:
		return unix.EAGAIN // there may be more
	}
	return nil
}

// withoutData counts records without data: those that came in a row.
func (r *Receiver) withoutData() error {
	if r.empty++; r.empty > maxEmpty {
		return r.fail(&record.Error{Alert: record.UnexpectedMessage, Reason: "too many records without data"})
	}
	return nil
}

// again gives the kernel the present key once more, at its present number.
func (r *Receiver) again() error {
	k, err := r.Keys()
	if err != nil {
		return err
	}
	defer k.Wipe()
	return r.install(k)
}

// end tells the end between two records from one inside.
func (r *Receiver) end() error {
	var left int
	r.raw.Control(func(fd uintptr) { left, _ = r.sys.unread(int(fd)) })
	if left > 0 {
		return io.ErrUnexpectedEOF
	}
	return io.EOF
}

func (r *Receiver) tryReceive(fd uintptr) bool {
	p := r.p
	for {
		switch r.how {
		case plain:
			r.n, r.gotErr = r.sys.recv(int(fd), p, unix.MSG_DONTWAIT)
		case single:
			r.n, r.gotErr = r.sys.splice(int(fd), r.into, record.MaxPlaintext, unix.SPLICE_F_NONBLOCK)
		default:
			if p == nil {
				p = r.lend()
			}
			r.receiveTyped(int(fd), p)
		}
		if r.gotErr != unix.EINTR {
			break
		}
	}
	if r.gotErr == nil && r.n > 0 && r.got == 0 {
		r.got = record.ApplicationData
	}
	if r.gotErr == unix.EAGAIN && r.wait {
		if r.p == nil {
			r.giveBack() // nobody knows for how long nothing will come
		}
		return false
	}
	return true
}

func (r *Receiver) receiveTyped(fd int, p []byte) {
	flags := unix.MSG_DONTWAIT
	if r.how == peeked {
		flags |= unix.MSG_PEEK
	}
	var controlLen, got int
	r.n, controlLen, got, r.gotErr = r.sys.recvmsg(fd, p, r.control.room(), flags)
	if r.gotErr != nil {
		return
	}
	typ, ok := r.control.getType(controlLen)
	switch {
	case ok:
		r.got = record.ContentType(typ)
	case r.n > 0 || got&unix.MSG_CTRUNC != 0:
		// It is not known to be data, so it is not taken for data.
		r.gotErr = errType
	}
}

var errType = errors.New("kernel: the kernel did not say of what type a record is")

func (r *Receiver) lend() []byte {
	if r.buf == nil {
		borrowed.Add(1)
		r.buf = recordPool.Get().(*[record.MaxPlaintext]byte)
	}
	return r.buf[:]
}

func (r *Receiver) giveBack() {
	if r.buf != nil {
		borrowed.Add(-1)
		recordPool.Put(r.buf)
		r.buf = nil
	}
}

// next takes the next record, or with a gate the next one that it lets pass, and
// leaves it in payload. Without wait it may leave none.
func (r *Receiver) next(wait bool) error {
	for r.typ == 0 {
		if r.err != nil {
			return r.err
		}
		if err := r.takeRecord(wait); err != nil {
			r.giveBack()
			if err = r.failed(err); err != nil || !wait {
				return err
			}
		}
		if r.typ == 0 {
			continue // a record without data
		}
		if r.typ != record.ApplicationData {
			return nil
		}
		if gate := r.gate.Load(); gate != nil {
			keep, err := gate.lets(r.payload)
			if err != nil {
				keep = 0
			}
			clear(r.payload[keep:])
			if r.payload = r.payload[:keep]; keep == 0 {
				r.drop()
			}
			if err != nil {
				return r.fail(err)
			}
		}
	}
	return nil
}

// takeRecord takes one record of whatever type into the buffer.
func (r *Receiver) takeRecord(wait bool) error {
	if r.pipe == nil {
		p, err := newPipe()
		if err != nil {
			return err
		}
		r.pipe = p
	}
	n, err := r.spliceRecord(r.pipe, wait)
	if err != nil || n == 0 {
		return err
	}
	b := r.lend()[:n]
	if err := r.pipe.read(b); err != nil {
		return err
	}
	r.typ, r.payload = record.ApplicationData, b
	return nil
}

// spliceRecord moves one record of data into p. A control record it takes, and then n
// is 0.
func (r *Receiver) spliceRecord(p *pipe, wait bool) (n int, err error) {
	r.into = p.w
	n, err = r.receive(single, nil, wait)
	switch {
	case err == unix.EINVAL: // a control record is next, or one of a wrong version
		if err := r.takeTyped(false); err != unix.EAGAIN {
			return 0, err
		}
		return 0, unix.EINVAL // of which the kernel tells once
	case err == nil && n > 0:
		r.note(n)
		r.empty = 0
	}
	return n, err
}

// TrySplice is TryRead into the pipe of x: the data of one record after the other, up
// to limit bytes, none of which come into this process. The error is [ErrNoSplice]
// where they have to: for a gate, and where some have come already.
func (r *Receiver) TrySplice(x *Splice, limit int) (n int, err error) {
	for n+record.MaxPlaintext <= limit {
		switch {
		case n > 0 && r.typ != 0:
			return n, nil
		case r.gate.Load() != nil || r.typ == record.ApplicationData:
			return n, ErrNoSplice
		case r.typ != 0:
			return 0, ErrControl
		case r.err != nil:
			return n, r.err
		}
		m, err := r.spliceRecord(x.pipe, false)
		if n += m; err != nil {
			return n, r.failed(err)
		}
	}
	return n, nil
}

// takeTyped takes what is next with its type. Data that comes so may be of many
// records.
func (r *Receiver) takeTyped(wait bool) error {
	n, err := r.receive(typed, nil, wait)
	if err != nil {
		r.giveBack()
		return err
	}
	r.typ, r.payload = r.got, r.buf[:n]
	if r.typ == record.ApplicationData {
		r.note(n)
		r.empty = 0
	}
	return nil
}

// note counts n bytes of data. The kernel counts the records: it is asked when
// there may be as many as the key should open.
func (r *Receiver) note(n int) {
	r.stats.Bytes.Add(uint64(n))
	limit := record.Limit(r.keys.Version, r.keys.Suite)
	if limit == math.MaxUint64 {
		return
	}
	r.since += uint64(n)
	if seq := r.stats.Seq.Load(); seq >= limit || r.since >= limit-seq {
		r.Refresh()
		r.since = 0
	}
}

// took takes m bytes of the payload.
func (r *Receiver) took(m int) {
	if r.payload = r.payload[m:]; len(r.payload) == 0 {
		r.drop()
	}
}

func (r *Receiver) drop() {
	r.typ, r.payload = 0, nil
	r.giveBack()
}

// Control returns the control record that Read stopped at: its type and payload.
// The payload is valid until Consume. ok is false when there is none.
func (r *Receiver) Control() (typ record.ContentType, payload []byte, ok bool) {
	if r.typ == 0 || r.typ == record.ApplicationData {
		return 0, nil, false
	}
	return r.typ, r.payload, true
}

// Consume takes n bytes of the control record's payload; the record is gone when
// none are left.
func (r *Receiver) Consume(n int) { r.took(n) }

// PutBack makes a control record wait in front of everything that is unread.
func (r *Receiver) PutBack(typ record.ContentType, payload []byte) {
	r.typ, r.payload = typ, append([]byte(nil), payload...)
}

// Next waits until a record is there to be had without blocking, data of one record
// at a time, holding no buffer while nothing is.
func (r *Receiver) Next() error {
	if r.typ != 0 {
		return nil
	}
	return r.next(true)
}

// Await waits until there is something to read, and takes no data. A control record
// is then what Control returns.
func (r *Receiver) Await() error {
	switch {
	case r.typ != 0:
		return nil
	case r.err != nil:
		return r.err
	case r.gate.Load() != nil: // which may keep it all
		return r.next(true)
	}
	for r.typ == 0 {
		n, err := r.receive(peeked, r.one[:], true)
		switch {
		case err != nil || r.typ != 0:
		case n > 0 && r.got == record.ApplicationData:
			return nil
		case r.got != 0 && r.got != record.ApplicationData:
			err = r.takeTyped(false)
		}
		if err = r.failed(err); err != nil {
			return err
		}
	}
	return nil
}

// Plain returns the application data that was taken from the kernel and not
// delivered.
func (r *Receiver) Plain() []byte {
	if r.typ != record.ApplicationData {
		return nil
	}
	return r.payload
}

// Take takes n bytes of Plain.
func (r *Receiver) Take(n int) {
	if r.typ == record.ApplicationData {
		r.took(n)
	}
}

// Unread returns a copy of the data that was taken from the kernel and not
// delivered. Ciphertext there is none: the kernel has it.
func (r *Receiver) Unread() (ciphertext, plaintext []byte) {
	return nil, append([]byte(nil), r.Plain()...)
}

// Close forgets the keys and gives the buffers back. Every later Read fails.
func (r *Receiver) Close(err error) {
	r.fail(err)
	r.Refresh() // the last numbers stay in Stats
	r.wipe()
	clear(r.payload)
	r.drop()
	if r.pipe != nil {
		r.pipe.close()
		r.pipe = nil
	}
}
