package soft

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/aftls/aftls/record"
)

// maxEmpty is how many data records without data may follow each other. Some
// servers send one in front of every record; an endless row is an attack.
const maxEmpty = 64

// Receiver is the receiving half of an association: it reads records from the
// carrier and opens them. It is not safe for use by two goroutines at once,
// but for Stats.
type Receiver struct {
	conn   net.Conn
	raw    syscall.RawConn
	opener *record.Opener

	buf  []byte // borrowed; nil while nothing is unread
	r, w int    // buf[r:w] is sealed and unread

	// One record at most is open and unread. Its payload lies in buf in front
	// of r; typ is 0 when there is none.
	payload []byte
	typ     record.ContentType

	// An idle connection keeps this struct and no buffer, so it is narrow.
	size  int32 // of the next buffer to borrow: grows under load
	limit int32 // for size: a caller with a small slice gets no large buffer
	exact bool  // nothing is read behind the record that has begun
	empty int32 // data records without data, in a row
	err   error // sticky

	gate atomic.Pointer[Gate]

	tryRead func(fd uintptr) bool
	got     int
	gotErr  syscall.Errno

	stats Stats
}

// Stats counts one direction. It may be read at any time.
type Stats struct {
	Records, Bytes, Rekeys, Seq, Epoch atomic.Uint64
	Version, Suite                     atomic.Uint32
}

func (s *Stats) keyed(k record.Keys) {
	s.Version.Store(uint32(k.Version))
	s.Suite.Store(uint32(k.Suite))
	s.Epoch.Store(k.Epoch)
}

// NewReceiver returns a receiver without keys. conn stays the caller's to
// close. ciphertext and plaintext are what an earlier receiver of the same
// association had read and not delivered; they are copied.
func NewReceiver(conn net.Conn, ciphertext, plaintext []byte) *Receiver {
	r := &Receiver{conn: conn, raw: rawConn(conn), size: smallSize}
	if n := len(ciphertext) + len(plaintext); n > 0 {
		if n <= batchSize {
			r.buf = get(n)
		} else {
			r.buf = make([]byte, n)
		}
		r.r = copy(r.buf, plaintext)
		if r.r > 0 {
			r.payload, r.typ = r.buf[:r.r], record.ApplicationData
		}
		r.w = r.r + copy(r.buf[r.r:], ciphertext)
	}
	return r
}

// PutCiphertext gives back sealed bytes that were read from the carrier before anything
// that it holds itself; a record that is open already stays in front of them.
func (r *Receiver) PutCiphertext(b []byte) {
	buf := append(append(append([]byte(nil), r.payload...), b...), r.buf[r.r:r.w]...)
	n := len(r.payload)
	r.drop()
	if len(buf) <= batchSize {
		r.buf = get(len(buf))
		copy(r.buf, buf)
	} else {
		r.buf = buf
	}
	r.payload, r.r, r.w = nil, n, len(buf)
	if r.typ != 0 {
		r.payload = r.buf[:n]
	}
}

// SetKeys keys the direction: it holds for every record behind those that were
// read so far.
func (r *Receiver) SetKeys(k record.Keys) error {
	o, err := record.NewOpener(k)
	if err != nil {
		return err
	}
	if r.opener != nil {
		r.opener.Wipe()
	}
	r.opener = o
	r.stats.keyed(k)
	r.note()
	return nil
}

// Rekey goes on to the keys after a KeyUpdate.
func (r *Receiver) Rekey() error {
	if r.opener == nil {
		return ErrNoKeys
	}
	if err := r.opener.Next(); err != nil {
		return err
	}
	r.stats.Rekeys.Add(1)
	r.stats.Epoch.Store(r.opener.Epoch())
	r.note()
	return nil
}

// Keys returns a copy of the keys at the next record.
func (r *Receiver) Keys() (record.Keys, error) {
	if r.opener == nil {
		return record.Keys{}, ErrNoKeys
	}
	return r.opener.Keys(), nil
}

// Stats returns the counters; the pointer stays valid.
func (r *Receiver) Stats() *Stats { return &r.stats }

func (r *Receiver) note() { r.stats.Seq.Store(r.opener.Seq()) }

// Read fills p with application data from as many records as are there, and
// waits only for the first. In front of a control record it returns
// [ErrControl] with n = 0, at the end of the carrier io.EOF or
// io.ErrUnexpectedEOF (inside a record). An [*record.Error] is for good.
// p is scratch beyond n.
func (r *Receiver) Read(p []byte) (n int, err error) { return r.readInto(p, true) }

// TryRead is Read without waiting: n is 0 with a nil error when no data is whole.
func (r *Receiver) TryRead(p []byte) (n int, err error) { return r.readInto(p, false) }

func (r *Receiver) readInto(p []byte, wait bool) (n int, err error) {
	if r.opener == nil {
		return 0, ErrNoKeys
	}
	r.limit = recordSize
	if len(p) >= record.MaxPlaintext {
		r.limit = batchSize
	}
	for n < len(p) {
		if r.typ == record.ApplicationData {
			m := copy(p[n:], r.payload)
			r.took(m)
			n += m
			continue
		}
		if r.typ != 0 {
			err = ErrControl
			break
		}
		var ok bool
		if ok, err = r.open(p[n:], &n); ok {
			continue
		}
		if err != nil || n > 0 || !wait {
			break
		}
		if err = r.fill(); err != nil {
			break
		}
	}
	r.release()
	if n > 0 {
		r.note()
		return n, nil
	}
	return 0, err
}

// took takes m bytes of the open payload.
func (r *Receiver) took(m int) {
	if r.payload = r.payload[m:]; len(r.payload) == 0 {
		r.payload, r.typ = nil, 0
	}
}

// open opens the next record, into p where it is data that fits, and adds to n;
// otherwise the payload stays in buf. ok is false when there is no whole
// record to open.
func (r *Receiver) open(p []byte, n *int) (ok bool, err error) {
	rec, err := r.whole()
	if err != nil || rec == nil {
		return false, err
	}
	var dst []byte
	if room := r.opener.Room(rec); room > 0 && room <= len(p) {
		dst = p[:room]
	} else if *n > 0 {
		return false, nil // it is opened without a copy into the next slice
	}
	typ, payload, err := r.opener.Open(dst, rec)
	if err != nil {
		return false, r.fail(err)
	}
	r.r += len(rec)
	r.stats.Records.Add(1)
	switch {
	case typ == 0: // a record of TLS 1.2 can say so; for typ it means none
		return false, r.fail(&record.Error{Alert: record.UnexpectedMessage, Reason: "record has no content type"})
	case typ != record.ApplicationData:
		// Not the caller's to see as data: move it out of p.
		if dst != nil {
			payload = rec[:copy(rec, payload)]
			clear(dst)
		}
		r.typ, r.payload = typ, payload
	case len(payload) == 0:
		if r.empty++; r.empty > maxEmpty {
			return false, r.fail(&record.Error{Alert: record.UnexpectedMessage, Reason: "too many records without data"})
		}
	default:
		r.empty = 0
		r.stats.Bytes.Add(uint64(len(payload)))
		if gate := r.gate.Load(); gate != nil {
			if payload, err = gate.pass(payload); err != nil {
				return false, r.fail(err)
			}
		}
		if dst != nil {
			*n += len(payload)
		} else if len(payload) > 0 {
			r.typ, r.payload = typ, payload
		}
	}
	return true, nil
}

// whole returns the next record if all of it is in buf.
func (r *Receiver) whole() ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	n, err := r.opener.Frame(r.buf[r.r:r.w])
	if err != nil {
		return nil, r.fail(err)
	}
	if n == 0 || n > r.w-r.r {
		return nil, nil
	}
	return r.buf[r.r : r.r+n], nil
}

func (r *Receiver) fail(err error) error {
	if r.err == nil {
		r.err = err
	}
	return r.err
}

// fill reads once from the carrier. The caller has seen that buf holds no
// whole record, and that none is open.
func (r *Receiver) fill() error {
	for range 100 { // a net.Conn may read nothing without an error, now and then
		n, err := r.read()
		if n > 0 {
			r.w += n
			r.adapt(n)
			return nil
		}
		if err == io.EOF && r.w > r.r {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// adapt chooses the size of the next buffer: up when this one was filled, down
// when the next smaller would have done.
func (r *Receiver) adapt(n int) {
	switch {
	case r.w == len(r.buf) && r.size < recordSize:
		r.size = recordSize
	case r.w == len(r.buf):
		r.size = batchSize
	case n < smallSize:
		r.size = smallSize
	case n < recordSize:
		r.size = recordSize
	}
}

// room returns the free part of buf, large enough to bring the record that has
// begun to its end.
func (r *Receiver) room() []byte {
	need := min(int(r.size), int(r.limit), records()*record.MaxRecord)
	if n, _ := r.opener.Frame(r.buf[r.r:r.w]); n > need {
		need = n
	}
	switch {
	case r.buf == nil:
		r.buf, r.r, r.w = get(need), 0, 0
	case len(r.buf) < need:
		r.move(get(need))
	case r.r > 0:
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if r.exact {
		return r.buf[r.w:][:r.missing()]
	}
	return r.buf[r.w:]
}

// SetExact makes the receiver read no further than to the end of a record, so that
// somebody else can go on there.
func (r *Receiver) SetExact(exact bool) { r.exact = exact }

// Boundary reports whether everything that was read is delivered, and ended with a
// record.
func (r *Receiver) Boundary() bool { return r.r == r.w && r.typ == 0 }

// missing is how many bytes the header has to come, or else the record.
func (r *Receiver) missing() int {
	have := r.w - r.r
	if have < record.HeaderLen {
		return record.HeaderLen - have
	}
	n, _ := r.opener.Frame(r.buf[r.r:r.w]) // whole has looked at it already
	return n - have
}

// retreat gives back all but the start of a record, since now nobody knows for
// how long nothing will come.
func (r *Receiver) retreat() {
	if r.w == r.r {
		r.release()
		return
	}
	n, _ := r.opener.Frame(r.buf[r.r:r.w])
	if need := max(n, r.w-r.r); need <= smallSize && len(r.buf) > smallSize || need <= recordSize && len(r.buf) > recordSize {
		r.move(get(need))
	}
}

// move takes what is unread to a buffer of another size.
func (r *Receiver) move(b []byte) {
	r.w = copy(b, r.buf[r.r:r.w])
	r.r = 0
	r.drop()
	r.buf = b
}

func (r *Receiver) drop() {
	if c := cap(r.buf); 0 < c && c <= batchSize { // a longer one is of nobody else
		put(r.buf)
	}
	r.buf = nil
}

// release gives the buffer back when nothing in it is unread.
func (r *Receiver) release() {
	if r.buf != nil && r.r == r.w && r.typ == 0 {
		r.drop()
		r.r, r.w = 0, 0
	}
}

// Control returns the control record that Read stopped at: its type and
// payload. The payload is valid until Consume. ok is false when there is none.
func (r *Receiver) Control() (typ record.ContentType, payload []byte, ok bool) {
	if r.typ == 0 || r.typ == record.ApplicationData {
		return 0, nil, false
	}
	return r.typ, r.payload, true
}

// Consume takes n bytes of the control record's payload; the record is gone
// when none are left.
func (r *Receiver) Consume(n int) {
	if r.took(n); r.typ == 0 {
		r.note()
		r.release()
	}
}

// PutBack makes a control record wait in front of everything that is unread,
// as it did in an earlier receiver. It comes right after NewReceiver.
func (r *Receiver) PutBack(typ record.ContentType, payload []byte) {
	r.typ, r.payload = typ, append([]byte(nil), payload...)
}

// Next waits until application data or a control record is there to be had
// without blocking, holding no buffer while nothing is.
func (r *Receiver) Next() error {
	if r.opener == nil {
		return ErrNoKeys
	}
	r.limit = recordSize
	for r.typ == 0 {
		var n int
		ok, err := r.open(nil, &n)
		if !ok && err == nil {
			err = r.fill()
		}
		if err != nil {
			r.release()
			return err
		}
	}
	r.note()
	return nil
}

// Await waits until a whole record is there, or a part of one that is open already,
// holding no buffer while nothing is. It is for a caller who then calls TryRead
// with a large slice.
func (r *Receiver) Await() error {
	if r.opener == nil {
		return ErrNoKeys
	}
	r.limit = batchSize
	for r.typ == 0 {
		rec, err := r.whole()
		if rec != nil {
			break
		}
		if err == nil {
			err = r.fill()
		}
		if err != nil {
			r.release()
			return err
		}
	}
	return nil
}

// Plain returns the application data that is open and unread, at most one
// record of it. It is valid until Take, Read or Next.
func (r *Receiver) Plain() []byte {
	if r.typ != record.ApplicationData {
		return nil
	}
	return r.payload
}

// Take takes n bytes of Plain.
func (r *Receiver) Take(n int) {
	r.took(n)
	r.release()
}

// Unread returns copies of what was read from the carrier and not delivered:
// sealed records, and opened data. A control record that is waiting is not
// part of either.
func (r *Receiver) Unread() (ciphertext, plaintext []byte) {
	if r.w > r.r {
		ciphertext = append(ciphertext, r.buf[r.r:r.w]...)
	}
	return ciphertext, append(plaintext, r.Plain()...)
}

// Close wipes the keys and gives the buffer back. Every later Read fails.
func (r *Receiver) Close(err error) {
	r.fail(err)
	if r.opener != nil {
		r.opener.Wipe()
	}
	if r.buf != nil {
		clear(r.payload)
		r.drop()
	}
	r.r, r.w, r.payload, r.typ = 0, 0, nil, 0
}
