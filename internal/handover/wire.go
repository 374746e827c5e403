package handover

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/aftls/aftls/record"
)

// ErrTruncated is the end of the carrier without close_notify. It is not
// io.EOF or io.ErrUnexpectedEOF, both of which crypto/tls turns into a clean
// end.
var ErrTruncated = errors.New("connection ended without close_notify")

// mode is who the records belong to.
type mode uint8

const (
	handshaking mode = iota
	detached         // to a socket: crypto/tls reads what is injected, its writes are kept
	through          // to crypto/tls, for good
)

// wire stands between crypto/tls and the carrier. While handshaking it reads
// one record at a time, so that no byte behind the handshake leaves the
// carrier's receive queue, and notes what the key schedule needs to be told.
type wire struct {
	net.Conn          // the carrier
	via      net.Conn // the same while handshaking, perhaps watched
	client   bool

	mu     sync.Mutex // mode, inject, kept: a parked tls.Conn lives on after the handshake
	mode   mode
	inject bytes.Buffer
	kept   bytes.Buffer

	// Reading: the header is read first, then no more than its body.
	head             [record.HeaderLen]byte
	headRead, headTo int // bytes read from the carrier, bytes given to crypto/tls
	body             int // body bytes still in the carrier

	// What the handshake showed.
	clientHello, serverHello []byte // first message of each side, without record headers
	lastSent                 []byte // last handshake record sent
	partial                  []byte // start of an outgoing record whose end is still to come
	appRecords               [][]byte
	logged                   logged
	configs                  []*tls.Config // that may hold the ticket keys, best first
	sessions                 []*tls.SessionState

	wmu  sync.Mutex // through: left
	left []byte     // through: sealed by crypto/tls, not yet taken by the carrier
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
		if err == io.EOF {
			err = ErrTruncated
		}
		return n, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if w.boundary() {
		w.headRead, w.headTo = 0, 0
	}
	if w.headTo == w.headRead && w.body == 0 {
		n, err := w.via.Read(w.head[w.headRead:])
		w.headRead += n
		if w.headRead == record.HeaderLen {
			w.body = int(w.head[3])<<8 | int(w.head[4])
		}
		if n == 0 {
			return 0, err
		}
	}
	if w.headTo < w.headRead {
		n := copy(p, w.head[w.headTo:w.headRead])
		w.headTo += n
		return n, nil
	}
	n, err := w.via.Read(p[:min(len(p), w.body)])
	w.body -= n
	if record.ContentType(w.head[0]) == record.Handshake {
		w.note(w.client, p[:n])
	}
	return n, err
}

// boundary reports whether the receiving side stands between two records.
func (w *wire) boundary() bool {
	return w.body == 0 && w.headTo == w.headRead && w.headRead%record.HeaderLen == 0
}

// note keeps the first handshake message of a side.
func (w *wire) note(fromServer bool, p []byte) {
	hello := &w.clientHello
	if fromServer {
		hello = &w.serverHello
	}
	const header = 4
	have := len(*hello)
	if have >= header {
		m := *hello
		if have >= header+int(m[1])<<16+int(m[2])<<8+int(m[3]) {
			return
		}
	}
	*hello = append(*hello, p...)
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
				w.appRecords = append(w.appRecords, bytes.Clone(rec))
			}
		}
	}
	if len(p) > 0 {
		w.partial = append([]byte(nil), p...)
	}
}

// writeThrough gives crypto/tls no timeout to see: for it a timeout is the end
// of the connection. What the carrier did not take is kept; flush sends it.
func (w *wire) writeThrough(p []byte) (int, error) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.left = append(w.left, p...)
	if err := w.flushLocked(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	return len(p), nil
}

func (w *wire) flush() error {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	return w.flushLocked()
}

func (w *wire) flushLocked() error {
	if len(w.left) == 0 {
		return nil
	}
	n, err := w.Conn.Write(w.left)
	w.left = w.left[n:]
	if len(w.left) == 0 {
		w.left = nil
	}
	return err
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

func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.getMode() == detached {
		return nil
	}
	return w.Conn.SetWriteDeadline(t)
}
