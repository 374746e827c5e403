package handover

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"time"

	"github.com/aftls/aftls/record"
)

// ErrTruncated is the end of the carrier between two records, without
// close_notify.
var ErrTruncated = errors.New("connection ended without close_notify")

// mode is who the records belong to.
type mode uint8

const (
	handshaking mode = iota
	detached         // to a socket: crypto/tls reads what is injected, its writes are kept
	through          // to crypto/tls, for good
)

// wire stands between crypto/tls and the carrier. While handshaking it reads
// no further than the handshake goes, so that no byte behind it leaves the
// carrier's receive queue, and notes what the key schedule needs to be told.
type wire struct {
	net.Conn          // the carrier
	via      net.Conn // the same while handshaking, perhaps watched
	client   bool

	mu     sync.Mutex // mode, inject, kept: a parked tls.Conn lives on after the handshake
	mode   mode
	inject bytes.Buffer
	kept   bytes.Buffer

	// Where the receiving side stands.
	head     [record.HeaderLen]byte
	headRead int  // bytes of the header that were read
	body     int  // bytes of the body that were not
	changed  bool // the peer's change_cipher_spec was read
	sent     bool // something of ours was sent

	// What the handshake showed.
	clientHello, serverHello []byte // first message of each side, without record headers
	lastSent                 []byte // last handshake record sent
	partial                  []byte // start of an outgoing record whose end is still to come
	appRecords               [][]byte
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
	w.clientHello, w.serverHello, w.lastSent, w.partial = nil, nil, nil, nil
	w.appRecords, w.configs, w.sessions = nil, nil, nil
	w.via = nil
}

func (w *wire) setMode(m mode) {
	w.mu.Lock()
	w.mode = m
	w.mu.Unlock()
}

func (w *wire) getMode() mode {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mode
}

func (w *wire) Read(p []byte) (int, error) {
	switch w.getMode() {
	case detached:
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.inject.Read(p)
	case through:
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
	n, err := w.via.Read(p[:min(len(p), w.readable())])
	w.track(p[:n])
	return n, err
}

// readable is how many bytes are crypto/tls's for sure. Before a server has said
// anything that is all there is: no client can send application data yet. Then
// it is the rest of a header, and the rest of a body, along with the next header
// where another record has to come: behind change_cipher_spec, and behind a
// handshake message in the clear. The last record is never overrun.
func (w *wire) readable() int {
	if !w.client && !w.sent {
		return math.MaxInt
	}
	if w.headRead < record.HeaderLen {
		return record.HeaderLen - w.headRead
	}
	typ := record.ContentType(w.head[0])
	if typ == record.ChangeCipherSpec || typ == record.Handshake && !w.changed {
		return w.body + record.HeaderLen
	}
	return w.body
}

// track follows the records through what was read.
func (w *wire) track(p []byte) {
	for len(p) > 0 {
		if w.headRead < record.HeaderLen {
			n := copy(w.head[w.headRead:], p)
			w.headRead += n
			p = p[n:]
			if w.headRead < record.HeaderLen {
				return
			}
			w.body = int(w.head[3])<<8 | int(w.head[4])
		}
		n := min(len(p), w.body)
		if record.ContentType(w.head[0]) == record.Handshake {
			w.note(w.client, p[:n])
		}
		w.body -= n
		p = p[n:]
		if w.body == 0 {
			w.changed = w.changed || record.ContentType(w.head[0]) == record.ChangeCipherSpec
			w.headRead = 0
		}
	}
}

// boundary reports whether the receiving side stands between two records.
func (w *wire) boundary() bool { return w.headRead == 0 }

// note keeps the first handshake message of a side.
func (w *wire) note(fromServer bool, p []byte) {
	hello := &w.clientHello
	if fromServer {
		hello = &w.serverHello
	}
	const header = 4
	if len(*hello)+len(p) < header {
		*hello = append(*hello, p...)
		return
	}
	var head [header]byte
	copy(head[copy(head[:], *hello):], p)
	whole := header + int(head[1])<<16 + int(head[2])<<8 + int(head[3])
	if cap(*hello) < whole && len(*hello) <= header && whole <= maxHello {
		*hello = append(make([]byte, 0, whole), *hello...)
	}
	if missing := whole - len(*hello); missing > 0 {
		*hello = append(*hello, p[:min(len(p), missing)]...)
	}
}

// maxHello is how much memory a length in a header is believed at once.
const maxHello = 16 << 10

func (w *wire) Write(p []byte) (int, error) {
	switch w.getMode() {
	case detached:
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.kept.Write(p)
	case through:
		return w.writeThrough(p)
	}
	w.sent = true
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
				w.appRecords = append(w.appRecords, bytes.Clone(rec))
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
