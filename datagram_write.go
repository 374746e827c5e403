package aftls

import (
	"errors"
	"net"
	"os"
	"time"

	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// Write sends p as one message, in one datagram, before it returns. p is not
// kept. The error is a [*DatagramTooLargeError] for one that the path does not
// take whole: the system knows that from its interfaces, and from what routers
// have said. The connection goes on after it, as after a [*CarrierError].
func (c *DatagramConn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	peer, err := c.peer.Load(), c.writable()
	if err == nil {
		err = peer.spend(c.send.SealedLen(len(p)))
	}
	if err == nil {
		err = c.writeFailed(c.send.Send(record.ApplicationData, p, peer.at), len(p))
	}
	if err != nil {
		return 0, c.opError("write", err)
	}
	return len(p), nil
}

// WriteBatch sends messages, each as Write does, with as few system calls as
// possible: fewest where all but the last have one length. It returns how many
// were sent; the error is about the next one, and nothing behind it was sent.
func (c *DatagramConn) WriteBatch(messages [][]byte) (n int, err error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	for n < len(messages) && err == nil {
		if err = c.writable(); err != nil {
			break
		}
		peer, batch := c.peer.Load(), messages[n:min(n+soft.MaxBatch, len(messages))]
		if peer.credit != nil { // one by one, as far as it goes
			batch = batch[:1]
			if err = peer.spend(c.send.SealedLen(len(batch[0]))); err != nil {
				break
			}
		}
		var k int
		k, err = c.send.SendBatch(batch, peer.at)
		if n += k; err != nil {
			err = c.writeFailed(err, len(messages[n]))
		}
	}
	return n, c.opError("write", err)
}

// WriteRecord sends a record of another type than data in a datagram of its own, for
// a program that deals with them itself: an alert, or what is left of a handshake.
// A close_notify is CloseWrite. The errors are those of Write, and [ErrRecordType]
// for data and for types that no record has.
func (c *DatagramConn) WriteRecord(typ record.ContentType, p []byte) error {
	if typ == record.ApplicationData || typ == record.TLS12CID || typ == 0 {
		return c.opError("write", ErrRecordType)
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	err := c.writable()
	if err == nil {
		err = c.writeFailed(c.send.Send(typ, p, c.peer.Load().at), len(p))
	}
	if err == nil && typ == record.AlertRecord && len(p) == 2 && record.Alert(p[1]) == record.CloseNotify {
		c.shut = true
	}
	return c.opError("write", err)
}

var closeNotify = [2]byte{record.LevelWarning, byte(record.CloseNotify)}

// CloseWrite sends close_notify, once: it may be lost as any datagram. Writes after
// it are [ErrShutdown]. Reading goes on until the peer's.
func (c *DatagramConn) CloseWrite() error {
	err := c.WriteRecord(record.AlertRecord, closeNotify[:])
	if errors.Is(err, ErrShutdown) {
		return nil
	}
	return err
}

// MaxMessage is the longest message that Write sends whole on this path, as far as the
// system knows, in bytes: it may become less, and more.
func (c *DatagramConn) MaxMessage() int {
	limit := record.MaxPlaintext
	if len(c.peerCID) > 0 {
		limit--
	}
	if path := c.port.Limit(c.peer.Load().at); path > 0 {
		limit = min(limit, max(path-c.send.Overhead(), 0))
	}
	return limit
}

func (c *DatagramConn) writable() error {
	if err := c.check(); err != nil {
		return err
	}
	if c.shut {
		return ErrShutdown
	}
	if until := c.wuntil.Load(); until != 0 && time.Now().UnixNano() >= until {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// writeFailed gives an error of the sender its meaning, for a message of size
// bytes.
func (c *DatagramConn) writeFailed(err error, size int) error {
	if err == nil {
		return nil
	}
	if c.life.Load() != alive {
		return c.check()
	}
	if e, ok := errors.AsType[*soft.MTUError](err); ok {
		return &DatagramTooLargeError{Size: size, Limit: max(e.Limit-c.send.Overhead(), 0)}
	}
	switch {
	case errors.Is(err, record.ErrTooLarge):
		limit := record.MaxPlaintext
		if len(c.peerCID) > 0 {
			limit--
		}
		return &DatagramTooLargeError{Size: size, Limit: limit}
	case errors.Is(err, record.ErrKeyLimit):
		return ErrKeyLimit
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	}
	return &CarrierError{err}
}
