package handover

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/record"
	"golang.org/x/crypto/cryptobyte"
)

// What may wait in a datagramWire: for pion, and for the association. A flight
// of the handshake is a handful of datagrams; all beyond is lost, as on any link.
const (
	maxPushed = 32
	maxEarly  = 64
	maxFlight = 8
)

// Message types of the handshake (RFC 5246, 7.4; RFC 6347, 4.3.2), and the length
// of their header.
const (
	helloClient       = 1
	helloServer       = 2
	helloDone         = 14
	helloVerify       = 3
	clientKeyExchange = 16
	messageHeaderLen  = 12
)

// datagramWire is the net.PacketConn under pion/dtls. pion never has the socket:
// it is shown the records of the handshake, and what it writes goes out until
// detach. Records of the association are kept from it. The exception are those
// with a Connection ID, whose type nobody can see: pion and the association both
// get them, since one may be the peer's Finished. Each takes of them what is its own.
type datagramWire struct {
	client      bool
	local, peer net.Addr
	cidLen      int
	send        func([]byte) error

	mu      sync.Mutex // of what comes
	come    sync.Cond
	inbox   [][]byte
	early   [][]byte
	expired bool // a read deadline in the past
	over    bool

	wmu     sync.Mutex // of what goes
	flight  [][]byte   // from our last ChangeCipherSpec on
	next    uint64     // above the highest number of ours in epoch 1
	wrote   [32]bool   // types of handshake messages in the clear
	err     error      // of send
	stopped bool
	proven  atomic.Bool            // pion has answered a cookie of its own
	cookie  atomic.Pointer[[]byte] // of a server's HelloVerifyRequest
}

func newDatagramWire(client bool, local, peer net.Addr, cidLen int, send func([]byte) error) *datagramWire {
	w := &datagramWire{client: client, local: local, peer: peer, cidLen: cidLen, send: send}
	w.come.L = &w.mu
	return w
}

// cidUnknown is the length of a Connection ID that nobody has told.
const cidUnknown = -1

// records calls f for each record of a datagram of DTLS 1.2, or of a version
// before, with its type, its epoch and all of its bytes. Where the Connection ID
// of a record may have any length, the rest of the datagram counts as its bytes.
func records(d []byte, cidLen int, f func(typ record.ContentType, epoch uint16, rec []byte)) {
	for len(d) >= record.DatagramHeaderLen {
		typ, n := record.ContentType(d[0]), record.DatagramHeaderLen
		if typ == record.TLS12CID && cidLen == cidUnknown {
			f(typ, binary.BigEndian.Uint16(d[3:]), d)
			return
		}
		if typ == record.TLS12CID {
			if n += cidLen; len(d) < n {
				return
			}
		}
		if n += int(binary.BigEndian.Uint16(d[n-2:])); n > len(d) {
			return
		}
		f(typ, binary.BigEndian.Uint16(d[3:]), d[:n])
		d = d[n:]
	}
}

func (w *datagramWire) push(d []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over && w.early == nil {
		return
	}
	var forPion []byte
	records(d, w.cidLen, func(typ record.ContentType, epoch uint16, rec []byte) {
		ours, theirs := false, true
		switch {
		case typ == record.TLS12CID:
			ours = true
		case typ == record.ApplicationData, typ == record.AlertRecord && epoch > 0:
			// Data in the clear is a forgery, that pion would end the handshake for.
			ours, theirs = epoch > 0, false
		case typ == record.Handshake && epoch == 0:
			theirs = !w.strangeCookie(rec[record.DatagramHeaderLen:])
		}
		if ours && len(w.early) < maxEarly {
			w.early = append(w.early, bytes.Clone(rec))
		}
		if theirs {
			forPion = append(forPion, rec...)
		}
	})
	if len(forPion) > 0 && !w.over && len(w.inbox) < maxPushed {
		w.inbox = append(w.inbox, forPion)
		w.come.Broadcast()
	}
}

// strangeCookie reports whether a message is a ClientHello with another cookie
// than that of our HelloVerifyRequest: one that answers an earlier handshake on
// the same address, or a forged one. pion would end the handshake for it; RFC
// 6347, 4.2.1 wants it to count as if it had none.
func (w *datagramWire) strangeCookie(m []byte) bool {
	if w.client {
		return false
	}
	got, ours := helloCookie(m), w.cookie.Load()
	return len(got) > 0 && (ours == nil || !bytes.Equal(got, *ours))
}

// helloCookie returns the cookie of a ClientHello (RFC 6347, 4.2.1), and nil
// where the message is another one, or a fragment that it does not lie in.
func helloCookie(m []byte) []byte {
	if len(m) < messageHeaderLen || m[0] != helloClient || m[6]|m[7]|m[8] != 0 {
		return nil
	}
	s := cryptobyte.String(m[messageHeaderLen:])
	var session, cookie cryptobyte.String
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&session) || !s.ReadUint8LengthPrefixed(&cookie) {
		return nil
	}
	return cookie
}

// verifyCookie returns the cookie of a HelloVerifyRequest, and nil where the
// message is another one.
func verifyCookie(m []byte) []byte {
	if len(m) < messageHeaderLen || m[0] != helloVerify {
		return nil
	}
	s := cryptobyte.String(m[messageHeaderLen:])
	var cookie cryptobyte.String
	if !s.Skip(2) || !s.ReadUint8LengthPrefixed(&cookie) {
		return nil
	}
	return cookie
}

func (w *datagramWire) takeEarly() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.early
	w.early = nil
	return e
}

// ReadFrom is for pion.
func (w *datagramWire) ReadFrom(p []byte) (int, net.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case w.over:
			return 0, nil, net.ErrClosed
		case w.expired:
			return 0, nil, os.ErrDeadlineExceeded
		case len(w.inbox) > 0:
			n := copy(p, w.inbox[0])
			w.inbox = slices.Delete(w.inbox, 0, 1)
			return n, w.peer, nil
		}
		w.come.Wait()
	}
}

// WriteTo is for pion.
func (w *datagramWire) WriteTo(p []byte, _ net.Addr) (int, error) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if w.stopped {
		return len(p), nil
	}
	w.note(p)
	if err := w.send(p); err != nil {
		w.err = err
		return 0, err
	}
	return len(p), nil
}

// note looks at what pion sends: its numbers under the new keys, its last
// flight, and which messages it made.
func (w *datagramWire) note(d []byte) {
	begins := false
	records(d, cidUnknown, func(typ record.ContentType, epoch uint16, rec []byte) {
		switch {
		case epoch > 0:
			n := binary.BigEndian.Uint64(rec[3:]) & (1<<48 - 1)
			w.next = max(w.next, n+1)
		case typ == record.ChangeCipherSpec:
			begins = true
		case typ == record.Handshake && len(rec) > record.DatagramHeaderLen && rec[record.DatagramHeaderLen] < 32:
			w.wrote[rec[record.DatagramHeaderLen]] = true
			if rec[record.DatagramHeaderLen] == helloServer {
				w.proven.Store(true)
			}
			if c := verifyCookie(rec[record.DatagramHeaderLen:]); c != nil {
				c = bytes.Clone(c)
				w.cookie.Store(&c)
			}
		}
	})
	if begins {
		w.flight = nil
	}
	if begins || w.flight != nil && len(w.flight) < maxFlight {
		w.flight = append(w.flight, bytes.Clone(d))
	}
}

// detach ends pion's reading and writing.
func (w *datagramWire) detach() {
	w.wmu.Lock()
	w.stopped = true
	w.wmu.Unlock()
	w.mu.Lock()
	w.over, w.inbox = true, nil
	if w.early == nil {
		w.early = [][]byte{} // until takeEarly
	}
	w.come.Broadcast()
	w.mu.Unlock()
}

func (w *datagramWire) failure() error {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	return w.err
}

func (w *datagramWire) nextNumber() uint64 { return w.next }

// isProven: pion answers with a ServerHello only to a cookie of its own.
func (w *datagramWire) isProven() bool { return w.client || w.proven.Load() }

// resumed goes by what we sent ourselves, which nobody can forge: a full
// handshake has our ClientKeyExchange, or our ServerHelloDone.
func (w *datagramWire) resumed() bool {
	if w.client {
		return !w.wrote[clientKeyExchange]
	}
	return !w.wrote[helloDone]
}

// lastFlight is ours where we spoke last: a server in a full handshake, a client
// in a resumed one (RFC 6347, 4.2.4).
func (w *datagramWire) lastFlight() [][]byte {
	if w.client != w.resumed() {
		return nil
	}
	return w.flight
}

// Close is for pion, whose socket this is not.
func (w *datagramWire) Close() error        { return nil }
func (w *datagramWire) LocalAddr() net.Addr { return w.local }

// SetReadDeadline is for pion, which only knows the long past and never.
func (w *datagramWire) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expired = !t.IsZero()
	w.come.Broadcast()
	return nil
}

func (w *datagramWire) SetDeadline(t time.Time) error    { return w.SetReadDeadline(t) }
func (w *datagramWire) SetWriteDeadline(time.Time) error { return nil }
