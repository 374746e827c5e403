package aftls

import (
	"crypto/tls"
	"fmt"
	"io"

	"github.com/aftls/aftls/record"
)

// The policy of a Conn: what it does about records that are not data, and what
// it has to send because of them.
//
// Reading (under rmu) never sends: it notes what is owed, and duties (under
// wmu) pays before the next data record, or at once where that does not block.

const (
	// maxUseless is how many messages that bring nothing (tickets,
	// KeyUpdates, warnings) may come in a row without data between them.
	// Servers send a few dozen tickets at most.
	maxUseless = 64

	// maxHandshake is the longest handshake message after the handshake.
	maxHandshake = 64 << 10

	handshakeHeader = 4
)

// Handshake messages that can come after a handshake (RFC 8446, 4.6).
const (
	helloRequest     = 0
	clientHello      = 1
	newSessionTicket = 4
	keyUpdate        = 24
)

// The values of request_update (RFC 8446, 4.6.3).
const (
	updateNotRequested = 0
	updateRequested    = 1
)

func violation(alert record.Alert, format string, args ...any) *record.Error {
	return &record.Error{Alert: alert, Reason: fmt.Sprintf(format, args...)}
}

// data is called for every read that brought data. The error is io.EOF where
// close_notify is next: a reader that learns of the end along with the last
// data does not try to use the connection again.
func (c *Conn) data() error {
	s := c.s
	if len(c.hand) > 0 && c.state.Version == tls.VersionTLS13 {
		return s.refuse(violation(record.UnexpectedMessage, "data in the middle of a handshake message"))
	}
	c.useless = 0
	if s.recv.Stats().Seq.Load() >= c.peerLimit() && !c.flag(asked) {
		c.setFlag(ask)
		c.payNow()
	}
	if typ, b, ok := s.recv.Control(); ok && typ == record.AlertRecord && len(b) == 2 && record.Alert(b[1]) == record.CloseNotify {
		return c.control()
	}
	return nil
}

// control acts on the control record at which reading stopped.
func (c *Conn) control() error {
	s := c.s
	typ, b, _ := s.recv.Control()
	if c.seen != nil {
		c.seen(typ, b)
	}
	var err error
	unseen := s.unseen()
	if unseen {
		c.useless = 0
	}
	switch {
	case unseen && len(c.hand) > 0 && c.state.Version == tls.VersionTLS13:
		err = violation(record.UnexpectedMessage, "data in the middle of a handshake message")
	case len(c.hand) > 0 && typ != record.Handshake && c.state.Version == tls.VersionTLS13:
		err = violation(record.UnexpectedMessage, "%v record in the middle of a handshake message", typ)
	case typ == record.AlertRecord:
		err = c.alert(b)
	case typ == record.Handshake:
		err = c.handshake(b)
		b = nil // it has consumed the record
	default:
		err = violation(record.UnexpectedMessage, "%v record after the handshake", typ)
	}
	if b != nil {
		s.recv.Consume(len(b))
	}
	if e, ok := err.(*record.Error); ok {
		return s.refuse(e)
	}
	return err
}

// alert acts on an alert (RFC 8446, 6; RFC 5246, 7.2).
func (c *Conn) alert(b []byte) error {
	if len(b) != 2 {
		return violation(record.DecodeError, "alert of %d bytes", len(b))
	}
	level, a := b[0], record.Alert(b[1])
	warning := level == record.LevelWarning
	if c.state.Version == tls.VersionTLS13 {
		warning = a == record.UserCanceled
	}
	switch {
	case a == record.CloseNotify:
		c.s.ended.Store(true)
		c.s.rerr = io.EOF
		return io.EOF
	case warning:
		return c.uselessMessage("warning alert")
	}
	var err error = &AlertError{a}
	c.s.dead.CompareAndSwap(nil, &err)
	return *c.s.dead.Load()
}

func (c *Conn) uselessMessage(what string) error {
	if c.useless++; c.useless > maxUseless {
		return violation(record.UnexpectedMessage, "too many messages without data between them, the last a %s", what)
	}
	return nil
}

// handshake adds a fragment and acts on every message that is whole. It
// consumes the record: a KeyUpdate is about what comes behind it.
func (c *Conn) handshake(b []byte) error {
	if len(b) == 0 {
		c.s.recv.Consume(0)
		return violation(record.UnexpectedMessage, "handshake record without content")
	}
	c.hand = append(c.hand, b...)
	c.s.recv.Consume(len(b))
	for len(c.hand) >= handshakeHeader {
		n := int(c.hand[1])<<16 | int(c.hand[2])<<8 | int(c.hand[3])
		if n > maxHandshake {
			return violation(record.DecodeError, "handshake message of %d bytes", n)
		}
		if len(c.hand) < handshakeHeader+n {
			return nil
		}
		msg := c.hand[:handshakeHeader+n]
		rest := c.hand[len(msg):]
		if err := c.message(msg, len(rest) > 0); err != nil {
			return err
		}
		c.hand = rest
	}
	if len(c.hand) == 0 {
		c.hand = nil // an idle connection keeps nothing
	}
	return nil
}

func (c *Conn) message(msg []byte, more bool) error {
	typ, body := msg[0], msg[handshakeHeader:]
	switch {
	case c.state.Version != tls.VersionTLS13:
		// RFC 5246, 7.4.1.1 and RFC 5746: renegotiation may be refused by a
		// warning. A peer that insists ends the connection itself.
		if typ == helloRequest && c.client || typ == clientHello && !c.client {
			c.setFlag(reject)
			c.payNow()
			return c.uselessMessage("renegotiation request")
		}
	case typ == newSessionTicket && c.client:
		if c.tickets != nil {
			if err := c.tickets.Put(msg); err != nil {
				return err
			}
		}
		return c.uselessMessage("session ticket")
	case typ == keyUpdate:
		return c.keyUpdate(body, more)
	}
	return violation(record.UnexpectedMessage, "handshake message of type %d after the handshake", typ)
}

// keyUpdate follows the peer to its next key (RFC 8446, 4.6.3).
func (c *Conn) keyUpdate(body []byte, more bool) error {
	switch {
	case len(body) != 1:
		return violation(record.DecodeError, "KeyUpdate of %d bytes", len(body))
	case body[0] > updateRequested:
		return violation(record.IllegalParameter, "KeyUpdate asks for %d", body[0])
	case more:
		return violation(record.UnexpectedMessage, "bytes behind a KeyUpdate in one record")
	}
	if err := c.uselessMessage("KeyUpdate"); err != nil {
		return err
	}
	if err := c.s.recv.Rekey(); err != nil {
		return c.s.abort(ErrNoRekey, record.InternalError)
	}
	c.clearFlag(asked)
	if body[0] == updateRequested {
		c.setFlag(answer)
		c.payNow()
	}
	return nil
}

// payNow sends what is owed if that does not block; otherwise it waits for the
// next write.
func (c *Conn) payNow() {
	s := c.s
	if !s.wmu.TryLock() {
		return
	}
	defer s.unlockWrite()
	// While something waits for the peer to read, so does this: a peer that
	// asks and never reads gets one answer in the end.
	if s.writable() == nil && s.send.Immediate() && s.send.Pending() == 0 && c.duties(1) == nil {
		s.send.TryFlush()
	}
}

// duties seals what has to go out before the next data record. It runs under
// wmu, in front of every turn, and sends nothing.
func (c *Conn) duties(records uint64) error {
	s := c.s
	if c.clearFlag(reject) {
		if err := s.send.Seal(record.AlertRecord, []byte{record.LevelWarning, byte(record.NoRenegotiation)}); err != nil {
			return err
		}
	}
	if s.shared.Load() { // new keys would be the end of who sends there too
		if s.send.Left() < records {
			return ErrKeyLimit
		}
		return nil
	}
	if c.flag(answer|ask) || s.send.Left() < records {
		err := c.rekey(c.clearFlag(ask))
		if err == ErrNoRekey {
			return ErrKeyLimit
		}
		return err
	}
	return nil
}

// rekey seals a KeyUpdate and changes the key behind it. It answers a request
// of the peer, if there is one. The answer must not be a request (RFC 8446,
// 4.6.3; GnuTLS ends the connection over it), so both together are two
// KeyUpdates. Nothing was sealed if the error is ErrNoRekey.
func (c *Conn) rekey(request bool) error {
	if !c.s.send.CanRekey() {
		return ErrNoRekey
	}
	owed := c.clearFlag(answer)
	request = request && !c.flag(asked)
	if owed || !request {
		if err := c.sealKeyUpdate(updateNotRequested); err != nil {
			if owed {
				c.setFlag(answer)
			}
			return err
		}
	}
	if request {
		// The answer may come before this returns, and clears the flag.
		c.setFlag(asked)
		if err := c.sealKeyUpdate(updateRequested); err != nil {
			c.clearFlag(asked)
			return err
		}
	}
	return nil
}

func (c *Conn) sealKeyUpdate(request byte) error {
	if err := c.s.send.Seal(record.Handshake, []byte{keyUpdate, 0, 0, 1, request}); err != nil {
		return err
	}
	return c.s.send.Rekey()
}
