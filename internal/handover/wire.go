package handover

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/record"
)

// ErrTruncated is the end of the carrier between two records, without
// close_notify.
var ErrTruncated = errors.New("connection ended without close_notify")

// mode is who the records belong to.
type mode uint32

const (
	handshaking mode = iota
	detached         // to a socket: crypto/tls reads what is injected, its writes are kept
	through          // to crypto/tls, for good
)

// aheadSize holds a first flight, with a post-quantum key share, in one read.
const aheadSize = 2 << 10

var aheadPool = sync.Pool{New: func() any { return new([aheadSize]byte) }}

// wire stands between crypto/tls and the carrier. While handshaking it reads
// what is there but gives crypto/tls no byte behind the handshake, and notes what
// the key schedule needs to be told.
type wire struct {
	net.Conn          // the carrier
	via      net.Conn // the same while handshaking, perhaps watched
	client   bool

	state  atomic.Uint32 // the mode
	mu     sync.Mutex    // inject, kept: a parked tls.Conn lives on after the handshake
	inject bytes.Buffer
	kept   bytes.Buffer

	// ahead is what was read and not given to crypto/tls, which gets one
	// record at a time: after the last it is what came behind the handshake.
	ahead  []byte // in buffer
	buffer *[aheadSize]byte

	// Where crypto/tls stands in the records.
	head     [record.HeaderLen]byte
	headRead int // bytes of the header that it got
	body     int // bytes of the body that it did not

	// What the handshake showed.
	clientHello, serverHello []byte // first message of each side, without record headers, borrowed
	lastSent                 []byte // last handshake record sent
	partial                  []byte // start of an outgoing record whose end is still to come
	appSent                  []byte // records of application data that a server sent since its secret was logged, borrowed
	logged                   logged
	configs                  []*tls.Config // that may hold the ticket keys, best first
	sessions                 []*tls.SessionState

	// Passing through.
	ended   bool       // for the reader: the carrier has ended
	wmu     sync.Mutex // of who writes to the carrier
	lmu     sync.Mutex // left, late, senders
	left    []byte     // sealed by crypto/tls, not yet taken by the carrier
	late    bool       // some of it was sealed after the last flush began
	senders int        // calls that flush before they end
}

// forget drops what only the handover needed and wipes our copies of secrets.
func (w *wire) forget() {
	w.logged.wipe()
	for _, b := range [][]byte{w.clientHello, w.serverHello, w.appSent} {
		if cap(b) == aheadSize { // or it outgrew what was borrowed
			aheadPool.Put((*[aheadSize]byte)(b[:aheadSize]))
		}
	}
	w.clientHello, w.serverHello, w.appSent, w.lastSent, w.partial = nil, nil, nil, nil, nil
	w.configs, w.sessions = nil, nil
	w.via = nil
}

func (w *wire) setMode(m mode) { w.state.Store(uint32(m)) }

func (w *wire) getMode() mode { return mode(w.state.Load()) }

func (w *wire) Read(p []byte) (int, error) {
	switch w.getMode() {
	case detached:
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.inject.Read(p)
	case through:
		if len(w.ahead) > 0 {
			n := copy(p, w.ahead)
			if w.ahead = w.ahead[n:]; len(w.ahead) == 0 {
				w.unread()
			}
			return n, nil
		}
		n, err := w.Conn.Read(p)
		if err == io.EOF && n > 0 {
			err = nil // comes again, if crypto/tls wants to know
		}
		w.ended = err == io.EOF
		return n, carrierError(err)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if len(w.ahead) == 0 {
		if w.buffer == nil {
			w.buffer = aheadPool.Get().(*[aheadSize]byte)
		}
		n, err := w.via.Read(w.buffer[:])
		if n == 0 {
			return 0, err
		}
		w.ahead = w.buffer[:n]
	}
	given := 0
	for given < len(p) && len(w.ahead) > 0 {
		n := record.HeaderLen - w.headRead
		if n == 0 {
			n = w.body
		}
		n = copy(p[given:], w.ahead[:min(n, len(w.ahead))])
		w.track(w.ahead[:n])
		w.ahead = w.ahead[n:]
		if given += n; w.boundary() {
			break
		}
	}
	return given, nil
}

// track follows the header or the body of which p is the next part.
func (w *wire) track(p []byte) {
	if w.headRead < record.HeaderLen {
		w.headRead += copy(w.head[w.headRead:], p)
		if w.headRead < record.HeaderLen {
			return
		}
		w.body = int(w.head[3])<<8 | int(w.head[4])
	} else {
		if record.ContentType(w.head[0]) == record.Handshake {
			w.note(w.client, p)
		}
		w.body -= len(p)
	}
	if w.body == 0 {
		w.headRead = 0
	}
}

// unread takes what came behind the handshake, and gives the buffer back.
func (w *wire) unread() []byte {
	rest := append([]byte(nil), w.ahead...)
	w.ahead = nil
	if w.buffer != nil {
		clear(w.buffer[:])
		aheadPool.Put(w.buffer)
		w.buffer = nil
	}
	return rest
}

// boundary reports whether the receiving side stands between two records.
func (w *wire) boundary() bool { return w.headRead == 0 }

// borrow returns b, or an empty buffer where there is none.
func borrow(b []byte) []byte {
	if b == nil {
		return aheadPool.Get().(*[aheadSize]byte)[:0]
	}
	return b
}

// note keeps the first handshake message of a side.
func (w *wire) note(fromServer bool, p []byte) {
	hello := &w.clientHello
	if fromServer {
		hello = &w.serverHello
	}
	*hello = borrow(*hello)
	const header = 4
	if n := min(header-len(*hello), len(p)); n > 0 {
		*hello, p = append(*hello, p[:n]...), p[n:]
	}
	h := *hello
	if len(h) < header {
		return
	}
	if missing := header + int(h[1])<<16 + int(h[2])<<8 + int(h[3]) - len(h); missing > 0 {
		*hello = append(h, p[:min(len(p), missing)]...)
	}
}

func (w *wire) Write(p []byte) (int, error) {
	switch w.getMode() {
	case detached:
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.kept.Write(p)
	case through:
		return w.writeThrough(p)
	}
	w.noteSent(p)
	return w.via.Write(p)
}

// noteSent looks at the records that crypto/tls sends. It may hand them over
// in any pieces.
func (w *wire) noteSent(p []byte) {
	if len(w.partial) > 0 {
		p = append(w.partial, p...)
		w.partial = nil
	}
	for len(p) >= record.HeaderLen {
		n := record.HeaderLen + int(p[3])<<8 + int(p[4])
		if len(p) < n {
			break
		}
		rec := p[:n]
		p = p[n:]
		switch record.ContentType(rec[0]) {
		case record.Handshake:
			w.note(!w.client, rec[record.HeaderLen:])
			w.lastSent = append(w.lastSent[:0], rec...)
		case record.ApplicationData:
			// Only the server's numbers are in doubt: see keys13.
			if !w.client && w.logged.serverTraffic != nil {
				w.appSent = append(borrow(w.appSent), rec...)
			}
		}
	}
	if len(p) > 0 {
		w.partial = append([]byte(nil), p...)
	}
}

// writeThrough only keeps what crypto/tls seals, and never blocks: crypto/tls
// holds its write lock meanwhile, which a reader with an alert to send would
// wait for, and takes a timeout for the end of the connection. Whoever writes
// sends it with flush; what comes from a reader is sent aside.
func (w *wire) writeThrough(p []byte) (int, error) {
	w.lmu.Lock()
	defer w.lmu.Unlock()
	if len(w.left)+len(p) > maxLeft {
		return 0, errLeft
	}
	w.left, w.late = append(w.left, p...), true
	if w.senders == 0 {
		w.senders++
		go w.sendAside()
	}
	return len(p), nil
}

// maxLeft bounds what a peer that asks for answers and does not read them can
// make us hold. A writer has one turn of its own there.
const maxLeft = 64 << 10

var errLeft = errors.New("the peer asks for answers and does not read them")

// hold promises to flush before release.
func (w *wire) hold() {
	w.lmu.Lock()
	w.senders++
	w.lmu.Unlock()
}

// release ends hold. What was sealed after the last flush is still sent.
func (w *wire) release() {
	w.lmu.Lock()
	defer w.lmu.Unlock()
	if w.senders == 1 && w.late {
		go w.sendAside()
		return
	}
	w.senders--
}

func (w *wire) sendAside() {
	w.flush()
	w.release()
}

// flush sends what is sealed. What the carrier did not take is left for the
// next time.
func (w *wire) flush() error {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	for {
		w.lmu.Lock()
		b := w.left
		w.late = false
		w.lmu.Unlock()
		if len(b) == 0 {
			return nil
		}
		n, err := w.Conn.Write(b)
		w.lmu.Lock()
		if w.left = w.left[n:]; len(w.left) == 0 {
			w.left = nil
		}
		w.lmu.Unlock()
		if err != nil {
			return carrierError(err)
		}
	}
}

// CarrierError is an error of the carrier in passthrough, as crypto/tls hands
// it on.
type CarrierError struct{ Err error }

func (e *CarrierError) Error() string { return e.Err.Error() }
func (e *CarrierError) Unwrap() error { return e.Err }

// carrierError leaves alone what crypto/tls looks at: the end and timeouts.
func carrierError(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return &CarrierError{err}
}

// After the handover the carrier belongs to a socket: what a parked tls.Conn
// does to its connection must not reach it.

func (w *wire) Close() error {
	if w.getMode() == detached {
		return nil
	}
	return w.Conn.Close()
}

func (w *wire) SetDeadline(t time.Time) error {
	if w.getMode() == detached {
		return nil
	}
	return w.Conn.SetDeadline(t)
}

func (w *wire) SetReadDeadline(t time.Time) error {
	if w.getMode() == detached {
		return nil
	}
	return w.Conn.SetReadDeadline(t)
}

// SetWriteDeadline is called by crypto/tls around close_notify, too: passing
// through, the deadline is the user's.
func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.getMode() != handshaking {
		return nil
	}
	return w.Conn.SetWriteDeadline(t)
}
