package aftls

import (
	"crypto/sha256"
	"net"
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
