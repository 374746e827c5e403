package aftls

import (
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// closeTimeout is the longest that Close takes, and the longest that a last
// alert may wait for a carrier that cannot be asked whether it would block.
const closeTimeout = 5 * time.Second

// turn is how many bytes are written before control records, alerts and rekeys
// get their chance again.
const turn = 1 << 20

// Socket is the record layer of one association: keys in, records through. It
// knows no handshake and sends nothing by itself but the alert for a record
// that it had to refuse. [Conn] is a Socket with the policy that most programs
// want.
//
// One reader and one writer may run at once. The methods that read wait for
// each other, and so do those that write; reading never waits for writing.
type Socket struct {
	carrier net.Conn
	opt     Options
	ulp     *kernel.Socket // nil where the kernel cannot have the records,
	noULP   error          // and why

	rmu    sync.Mutex
	recv   receiver    // changes under rmu and dmu
	rerr   error       // sticky, of the receiving side
	moving atomic.Bool // the receiving side goes to the kernel as soon as it can

	wmu  sync.Mutex
	send sender     // changes under wmu and dmu
	werr error      // sticky, of the sending side
	shut bool       // close_notify is sealed
	used *[]usedKey // nil until SetKeys replaced a key

	// duties is what a Conn has to send before the next data record, and what
	// makes room under the key for so many of them where a rekey can. It runs
	// under wmu and does not block.
	duties func(records uint64) error

	life   atomic.Int32
	dead   atomic.Pointer[error] // ends both directions
	failed atomic.Pointer[error] // what one direction failed of first
	owed   atomic.Int32          // the alert to send as soon as wmu is free, plus 1

	// writing says that wmu is held by somebody who may block: Close then
	// interrupts, else it waits.
	writing atomic.Bool

	ended  atomic.Bool // the peer's close_notify was read
	shared atomic.Bool // another process sends too

	dmu      sync.Mutex // deadlines, against Close and Detach, and:
	deadline time.Time  // for writing
	why      [2]error   // why a direction is not in the kernel

	hooks atomic.Pointer[hooks] // nil until there is a filter or a tap
}

const (
	alive int32 = iota
	closed
	detached
)

// usedKey is a sending key that a caller had set, and its next number.
type usedKey struct {
	key  [sha256.Size]byte
	next uint64
}

// NewSocket returns a socket on carrier, a stream, without keys. The carrier
// then belongs to the socket: nobody else may read, write or close it.
//
// The provider of a direction is chosen with its first keys: see [Options].
func NewSocket(carrier net.Conn, opt Options) *Socket {
	s := newSocket(carrier, opt, nil, nil, nil)
	s.ulp, s.noULP = attachKernel(carrier, opt)
	return s
}

func newSocket(carrier net.Conn, opt Options, unsent, ciphertext, plaintext []byte) *Socket {
	return &Socket{
		carrier: carrier,
		opt:     opt,
		recv:    soft.NewReceiver(carrier, ciphertext, plaintext),
		send:    soft.NewSender(carrier, unsent, opt.MaxRecords, opt.Padding),
	}
}

// SetKeys keys one direction, from its next record on. k is copied. For Send
// the error is [ErrKeyReuse] if the key was used on this socket before and
// k.Seq is below the next number of it, or if k.Epoch is not above the present
// one after a Rekey. Where the kernel has a direction it takes other keys for it only
// if they are of the same suite of TLS 1.3, and only since 6.14: else the error is
// [ErrNoRekey]. With Options.RequireKernel it may be [ErrNoKernel].
func (s *Socket) SetKeys(d Direction, k record.Keys) error {
	if d == Receive {
		s.rmu.Lock()
		defer s.unlockRead()
		if err := s.check(); err != nil {
			return opError("set keys", s.carrier, err)
		}
		return opError("set keys", s.carrier, s.keyReceive(k))
	}
	s.wmu.Lock()
	defer s.unlockWrite()
	if err := s.check(); err != nil {
		return opError("set keys", s.carrier, err)
	}
	return opError("set keys", s.carrier, s.setSendKeys(k))
}

// SetMaxPayload lowers how many bytes of data a record holds that is sealed from
// now on, from the 16384 that it is at first. 1 to 16384; anything else is
// [ErrTooLarge]. A peer that asks for less does so by record_size_limit (RFC 8449),
// which counts the content type of TLS 1.3: n is that less 1 there. For a direction in
// the kernel 64 is the least, 63 in TLS 1.3, and a kernel that cannot do it (before
// Linux 6.19) is [ErrNoKernel]. A limit goes along with Detach and MoveToKernel; where
// it was set before the first key, or in soft, a kernel that cannot keep it does not get
// the direction.
func (s *Socket) SetMaxPayload(n int) error {
	return opError("set record size", s.carrier, s.setMaxPayload(n))
}

func (s *Socket) setMaxPayload(n int) error {
	if err := s.lockWrite(); err != nil {
		return err
	}
	defer s.unlockWrite()
	switch err := s.send.SetMaxPayload(n); err {
	case nil:
		return nil
	case record.ErrTooLarge:
		return ErrTooLarge
	default:
		return noKernel(err)
	}
}

func (s *Socket) setSendKeys(k record.Keys) error {
	k = k.Clone()
	defer k.Wipe()
	if err := k.Derive(); err != nil {
		return err
	}
	id := fingerprint(k)
	if cur, err := s.send.Keys(); err == nil {
		// The key in use goes on the list with what it has come to; keys that
		// Rekey derived are not there, and their epochs never come back.
		if curID := fingerprint(cur); curID != id && s.send.Stats().Rekeys.Load() > 0 && k.Epoch <= cur.Epoch {
			cur.Wipe()
			return ErrKeyReuse
		} else if !s.remember(curID, cur.Seq) {
			if s.used == nil {
				s.used = new([]usedKey)
			}
			*s.used = append(*s.used, usedKey{curID, cur.Seq})
		}
		cur.Wipe()
	}
	if s.used != nil {
		for _, u := range *s.used {
			if u.key == id && k.Seq < u.next {
				return ErrKeyReuse
			}
		}
	}
	return s.keySend(k)
}

func (s *Socket) remember(id [sha256.Size]byte, next uint64) bool {
	if s.used == nil {
		return false
	}
	for i := range *s.used {
		if u := &(*s.used)[i]; u.key == id {
			u.next = max(u.next, next)
			return true
		}
	}
	return false
}

// Unread gives back ciphertext that was read from the carrier before the socket
// could: it comes in front of everything that the carrier still has. b is
// copied. Not for use beside a read. Once the kernel has the receiving side the error
// is [ErrInKernel].
func (s *Socket) Unread(b []byte) error {
	s.rmu.Lock()
	defer s.unlockRead()
	if err := s.readable(); err != nil {
		return opError("unread", s.carrier, err)
	}
	own, ok := s.recv.(*soft.Receiver)
	if !ok {
		return opError("unread", s.carrier, ErrInKernel)
	}
	if len(b) > 0 {
		own.PutCiphertext(b)
	}
	return nil
}

func fingerprint(k record.Keys) [sha256.Size]byte {
	h := sha256.New()
	h.Write(k.Key)
	h.Write(k.IV)
	return [sha256.Size]byte(h.Sum(nil))
}

// check says why the socket can be used no more, or nil.
func (s *Socket) check() error {
	switch s.life.Load() {
	case closed:
		return net.ErrClosed
	case detached:
		return ErrDetached
	}
	if err := s.dead.Load(); err != nil {
		return *err
	}
	return nil
}

// Read reads application data into p: from as many records as are there and
// fit, waiting for the first only. p is scratch beyond n. In front of a control
// record it returns n = 0 and [ErrControl], until ReadRecord has taken it.
func (s *Socket) Read(p []byte) (n int, err error) {
	s.rmu.Lock()
	defer s.unlockRead()
	n, err = s.read(p)
	return n, opError("read", s.carrier, err)
}

func (s *Socket) read(p []byte) (int, error) {
	if err := s.readable(); err != nil {
		return 0, err
	}
	n, err := s.recv.Read(p)
	if err != nil {
		err = s.readFailed(err)
	}
	return n, err
}

// readable says whether the receiving side works, in front of every read.
func (s *Socket) readable() error {
	if err := s.check(); err != nil {
		return err
	}
	if s.rerr == nil && s.moving.Load() {
		return s.move()
	}
	return s.rerr
}

// readFailed gives an error of the receiver its meaning.
func (s *Socket) readFailed(err error) error {
	if life := s.life.Load(); life != alive {
		return s.check()
	}
	switch err {
	case soft.ErrControl, kernel.ErrControl:
		return ErrControl
	case soft.ErrNoKeys, kernel.ErrNoKeys:
		return ErrNoKeys
	case io.EOF:
		if s.ended.Load() {
			s.rerr = io.EOF
		} else {
			s.rerr = s.fails(&TruncatedError{})
		}
		return s.rerr
	case io.ErrUnexpectedEOF:
		s.rerr = s.fails(&TruncatedError{InRecord: true})
		return s.rerr
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if dead := s.dead.Load(); dead != nil { // and the reader was woken for it
			return *dead
		}
		return os.ErrDeadlineExceeded
	}
	if errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	if err, ok := s.killed(err); ok {
		return err
	}
	if e, ok := errors.AsType[*record.Error](err); ok {
		return s.refuse(e)
	}
	failed := s.fails(&CarrierError{err})
	if send, _ := s.halves(); isKernel(send) {
		// The kernel told it once: the next write may look as if it went well.
		s.dead.CompareAndSwap(nil, &failed)
	}
	s.rerr = failed
	return s.rerr
}

// fails notes for Info what one direction failed of.
func (s *Socket) fails(err error) error {
	s.failed.CompareAndSwap(nil, &err)
	return err
}

// refuse ends the association because of what the peer sent.
func (s *Socket) refuse(e *record.Error) error {
	return s.abort(&PeerError{Alert: e.Alert, Reason: e.Reason}, e.Alert)
}

// abort ends the association with err and sends the peer a fatal alert, without
// waiting for a writer. It returns the error that the association died of,
// which is another one if it was dead already.
func (s *Socket) abort(err error, alert record.Alert) error {
	if s.dead.CompareAndSwap(nil, &err) {
		s.owed.Store(int32(alert) + 1)
		if s.wmu.TryLock() {
			s.unlockWrite()
		}
	}
	return *s.dead.Load()
}

// ReadRecord reads one record, or the rest of one that a short p left: its type
// and payload. Control records are never merged; data of one record at a time
// is returned as ApplicationData.
func (s *Socket) ReadRecord(p []byte) (typ record.ContentType, n int, err error) {
	s.rmu.Lock()
	defer s.unlockRead()
	if err = s.readable(); err == nil {
		typ, n, err = s.readRecord(p)
	}
	return typ, n, opError("read", s.carrier, err)
}

func (s *Socket) readRecord(p []byte) (typ record.ContentType, n int, err error) {
	if err := s.recv.Next(); err != nil {
		return 0, 0, s.readFailed(err)
	}
	if typ, b, ok := s.recv.Control(); ok {
		if typ == record.AlertRecord && len(b) == 2 && record.Alert(b[1]) == record.CloseNotify {
			s.ended.Store(true)
		}
		n = copy(p, b)
		s.recv.Consume(n)
		return typ, n, nil
	}
	n = copy(p, s.recv.Plain())
	s.recv.Take(n)
	return record.ApplicationData, n, nil
}

// WaitRead waits until Read or ReadRecord would not block. Meanwhile it holds
// no buffer.
func (s *Socket) WaitRead() error {
	s.rmu.Lock()
	defer s.unlockRead()
	return opError("read", s.carrier, s.waitRead())
}

func (s *Socket) waitRead() error {
	if err := s.readable(); err != nil {
		return err
	}
	wait := s.recv.Next
	if isKernel(s.recv) { // it need not take anything for that
		wait = s.recv.Await
	}
	if err := wait(); err != nil {
		return s.readFailed(err)
	}
	return nil
}

// WriteTo writes application data to w until the stream ends or a control
// record is next, for which the error is [ErrControl]. Data that was read when w
// fails is lost. Where the kernel has the receiving side and w is a *net.TCPConn, a
// *net.UnixConn that is a stream, or an *os.File that is a pipe, data goes there by
// splice(2) and does not come into this process; two more descriptors are open
// meanwhile.
func (s *Socket) WriteTo(w io.Writer) (n int64, err error) {
	n, err = s.writeTo(w, func() error { return ErrControl }, func() error { return nil })
	return n, opErrorOf("read", s, err)
}

// writeTo is WriteTo; control is called at a control record, and data behind
// every read that brought some, both under rmu. No lock is kept while w is
// written to: w may be slow for ever. No buffer is kept while nothing comes.
func (s *Socket) writeTo(w io.Writer, control, data func() error) (n int64, err error) {
	to := splicer{w: w}
	defer to.close()
	for {
		if err := s.await(); err != nil {
			return n, err
		}
		if m, ok, err := s.spliceTo(&to, control, data); ok {
			if n += int64(m); err != nil {
				return n, err
			}
			continue
		}
		b := soft.Lend()
		m, rerr := s.tryRead(b, control, data)
		var wrote int
		if m > 0 {
			wrote, err = w.Write(b[:m])
			n += int64(wrote)
		}
		soft.Return(b)
		switch {
		case err != nil:
			return n, &writerError{err}
		case wrote < m:
			return n, &writerError{io.ErrShortWrite}
		case rerr != nil:
			return n, rerr
		}
	}
}

// writerError is one of the writer that a WriteTo has, which gets it as it is.
type writerError struct{ err error }

func (e *writerError) Error() string { return e.err.Error() }

// opErrorOf gives what writeTo returns the form of its callers.
func opErrorOf(op string, s *Socket, err error) error {
	if e, ok := err.(*writerError); ok {
		return e.err
	}
	return opError(op, s.carrier, noEOF(err))
}

func (s *Socket) await() error {
	s.rmu.Lock()
	defer s.unlockRead()
	if err := s.readable(); err != nil {
		return err
	}
	if err := s.recv.Await(); err != nil {
		return s.readFailed(err)
	}
	return nil
}

func (s *Socket) tryRead(b []byte, control, data func() error) (n int, err error) {
	s.rmu.Lock()
	defer s.unlockRead()
	if err := s.readable(); err != nil {
		return 0, err
	}
	if n, err = s.recv.TryRead(b); err != nil {
		err = s.readFailed(err)
	}
	return came(n, err, control, data)
}

// came does what follows a read for writeTo.
func came(n int, err error, control, data func() error) (int, error) {
	switch {
	case n > 0:
		err = data()
	case err == ErrControl:
		err = control()
	}
	if err != nil && err != io.EOF {
		n = 0
	}
	return n, err
}

func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// unlockRead gives up rmu. Whoever holds it while Close runs closes the
// receiver on the way out.
func (s *Socket) unlockRead() {
	for {
		if s.life.Load() == closed {
			s.recv.Close(net.ErrClosed)
		}
		over := s.life.Load()
		s.rmu.Unlock()
		if s.life.Load() == over || !s.rmu.TryLock() {
			return
		}
	}
}

// NetConn returns the carrier. Reading or writing it breaks the association.
func (s *Socket) NetConn() net.Conn { return s.carrier }

// LocalAddr is that of the carrier.
func (s *Socket) LocalAddr() net.Addr { return s.carrier.LocalAddr() }

// RemoteAddr is that of the carrier.
func (s *Socket) RemoteAddr() net.Addr { return s.carrier.RemoteAddr() }

// SetDeadline sets both deadlines.
func (s *Socket) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline ends reads with os.ErrDeadlineExceeded at t. They can go on
// after a later deadline is set; nothing is lost.
func (s *Socket) SetReadDeadline(t time.Time) error {
	s.dmu.Lock()
	defer s.dmu.Unlock()
	if s.life.Load() != alive {
		return opError("set", s.carrier, s.check())
	}
	return s.carrier.SetReadDeadline(t)
}

// SetWriteDeadline ends writes with os.ErrDeadlineExceeded at t: nothing is
// sealed after it. What is sealed by then counts, and what of that is unsent,
// at most one batch of 16 records, goes out first in the next call.
func (s *Socket) SetWriteDeadline(t time.Time) error {
	s.dmu.Lock()
	defer s.dmu.Unlock()
	if s.life.Load() != alive {
		return opError("set", s.carrier, s.check())
	}
	s.deadline = t
	s.send.SetDeadline(t)
	return s.carrier.SetWriteDeadline(t)
}

// Info returns the state of both directions. It does not wait for readers or
// writers.
func (s *Socket) Info() Info {
	s.dmu.Lock()
	send, recv, why := s.send, s.recv, s.why
	s.dmu.Unlock()
	i := Info{Send: s.directionInfo(send, send.Stats(), why[Send]), Receive: s.directionInfo(recv, recv.Stats(), why[Receive])}
	if err := s.failed.Load(); err != nil {
		i.Failed = *err
	}
	if err := s.dead.Load(); err != nil && *err != net.ErrClosed { // which is our own doing
		i.Failed = *err
	}
	if h := s.hooks.Load(); h != nil {
		h.info(&i)
	}
	s.devices(&i, isKernel(send), isKernel(recv))
	return i
}

// devices notes which of the directions that are in the kernel a device has.
func (s *Socket) devices(i *Info, send, receive bool) {
	if !send && !receive || s.life.Load() != alive {
		return
	}
	tx, rx := kernel.Devices(s.carrier.LocalAddr(), s.carrier.RemoteAddr())
	i.Send.Device, i.Receive.Device = send && tx, receive && rx
}

func (s *Socket) directionInfo(half any, st *soft.Stats, why error) DirectionInfo {
	if k, ok := half.(refresher); ok {
		k.Refresh()
		i := directionInfo(st, "")
		i.Provider = Kernel
		return i
	}
	if why == nil {
		why = s.noULP
	}
	reason := "it has no keys yet"
	if why != nil {
		reason = why.Error()
	}
	return directionInfo(st, reason)
}

func directionInfo(st *soft.Stats, reason string) DirectionInfo {
	return DirectionInfo{
		Provider: Soft,
		Reason:   reason,
		Version:  uint16(st.Version.Load()),
		Suite:    uint16(st.Suite.Load()),
		Epoch:    st.Epoch.Load(),
		Seq:      st.Seq.Load(),
		Records:  st.Records.Load(),
		Bytes:    st.Bytes.Load(),
		Rekeys:   st.Rekeys.Load(),
	}
}
