package aftls

import (
	"context"
	"crypto/tls"
	"io"
	"math"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/handover"
	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/record"
)

// Conn is a TLS connection whose record layer is a [Socket]: a net.Conn that
// answers alerts, session tickets and KeyUpdates by itself.
//
// Where the handover was impossible (CBC suites, TLS 1.0 and 1.1,
// GODEBUG=fips140=only) crypto/tls keeps the record layer: reading, writing,
// deadlines and closing are the same, and what needs a socket returns
// [ErrPassthrough] with the reason. Options.RequireSocket rules it out.
type Conn struct {
	s       *Socket
	pass    *passthrough // then s is nil
	tickets *handover.Tickets
	state   tls.ConnectionState

	hand    []byte // under rmu: the start of a handshake message
	useless uint8  // under rmu: messages that brought nothing, since the last data
	client  bool
	foreign bool // state came from another process
	seen    func(record.ContentType, []byte)

	flags atomic.Uint32 // what is owed, and what is awaited
}

// Bits of Conn.flags.
const (
	answer uint32 = 1 << iota // KeyUpdate: the peer's request is to be answered
	asked                     // KeyUpdate: our request is unanswered
	ask                       // KeyUpdate: to be requested, the peer's key is near its limit
	reject                    // TLS 1.2: renegotiation is to be refused
)

func (c *Conn) flag(f uint32) bool { return c.flags.Load()&f != 0 }

func (c *Conn) setFlag(f uint32) { c.flags.Or(f) }

// clearFlag clears f and reports whether it was set.
func (c *Conn) clearFlag(f uint32) bool { return c.flags.And(^f)&f != 0 }

var (
	_ net.Conn      = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
)

// Client runs the handshake of a client on carrier and returns the connection.
// config is read as by tls.Client and not kept. Whatever the outcome, carrier is
// no longer the caller's: after an error it is closed. ctx covers the handshake
// only.
func Client(ctx context.Context, carrier net.Conn, config *tls.Config, opt Options) (*Conn, error) {
	ulp, why := attachKernel(carrier, opt)
	r, err := handover.Client(ctx, carrier, config)
	return newConn(carrier, ulp, why, r, err, opt, true)
}

// Server is Client for the other side. Session tickets follow the keys of
// config, automatic or set, as if the connection ran on config itself.
func Server(ctx context.Context, carrier net.Conn, config *tls.Config, opt Options) (*Conn, error) {
	ulp, why := attachKernel(carrier, opt)
	r, err := handover.Server(ctx, carrier, carrier, config)
	return newConn(carrier, ulp, why, r, err, opt, false)
}

func newConn(carrier net.Conn, ulp *kernel.Socket, noULP error, r handover.Result, err error, opt Options, client bool) (*Conn, error) {
	if err == nil && r.Passthrough != nil {
		pass := &passthrough{Passthrough: r.Passthrough, carrier: carrier}
		if !opt.RequireSocket && !opt.RequireKernel {
			return &Conn{pass: pass, client: client, state: r.State}, nil
		}
		pass.Close()
		err = pass.unavailable()
	}
	var c *Conn
	if err == nil {
		c = &Conn{s: newSocket(carrier, opt, nil, r.Unread, nil), client: client, state: r.State, tickets: r.Tickets}
		c.s.duties = c.duties
		c.s.ulp, c.s.noULP = ulp, noULP
		if err = c.s.keyReceive(r.In); err == nil {
			err = c.s.keySend(r.Out)
		}
		r.In.Wipe()
		r.Out.Wipe()
	}
	if err != nil {
		carrier.Close()
		if err == io.EOF { // not an end that anybody announced
			err = &TruncatedError{}
		}
		return nil, opError("handshake", carrier, err)
	}
	return c, nil
}

// NewConn gives a socket with keys in both directions, from a handshake that
// another library did, the policy of a Conn: alerts, tickets (which it drops),
// KeyUpdates and close_notify. client says which side of the handshake it was.
// The Conn can rekey where the keys came with their traffic secrets. seen, if not
// nil, is shown every control record before the Conn acts on it; reading waits
// for it, and it must not call the Conn nor keep the payload. The socket must not
// be used any more. The error is [ErrNoKeys], or what the socket died of.
func NewConn(s *Socket, client bool, seen func(typ record.ContentType, payload []byte)) (*Conn, error) {
	if err := s.check(); err != nil {
		return nil, opError("new", s.carrier, err)
	}
	send, recv := s.halves()
	version, suite := send.Stats().Version.Load(), send.Stats().Suite.Load()
	if version == 0 || recv.Stats().Version.Load() == 0 {
		return nil, opError("new", s.carrier, ErrNoKeys)
	}
	c := &Conn{s: s, client: client, foreign: true, seen: seen}
	c.state = tls.ConnectionState{Version: uint16(version), CipherSuite: uint16(suite), HandshakeComplete: true}
	s.duties = c.duties
	return c, nil
}

// Resume makes a Conn of a state on the carrier that the state was detached
// from, or on a duplicate of its descriptor in another process. It takes both:
// on an error the carrier is closed.
func Resume(carrier net.Conn, st *State, opt Options) (*Conn, error) {
	s, err := resumeSocket(carrier, st, opt, true)
	if err != nil {
		carrier.Close()
		return nil, opError("resume", carrier, err)
	}
	c := &Conn{s: s, client: st.conn.client, state: st.conn.tls, foreign: st.conn.foreign,
		tickets: st.conn.tickets, hand: st.conn.handshake, useless: st.conn.useless}
	if st.conn.answer {
		c.setFlag(answer)
	}
	if st.conn.asked {
		c.setFlag(asked)
	}
	s.duties = c.duties
	st.wipe()
	return c, nil
}

// Detach takes the association out of the connection, as [Socket.Detach] does,
// with everything that Resume needs to go on as if nothing had happened.
func (c *Conn) Detach() (*State, error) {
	if c.pass != nil {
		return nil, c.pass.opError("detach", c.pass.unavailable())
	}
	st, err := c.s.detach(func(st *State) {
		st.conn = &connState{client: c.client, answer: c.flag(answer), asked: c.flag(asked),
			handshake: c.hand, useless: c.useless, tls: c.state, foreign: c.foreign, tickets: c.tickets}
		c.hand = nil
	})
	return st, opError("detach", c.s.carrier, err)
}

// Read reads application data into p: from as many records as are there and
// fit, waiting for the first only. p is scratch beyond n. It may return
// io.EOF together with the last data.
func (c *Conn) Read(p []byte) (n int, err error) {
	if c.pass != nil {
		return c.pass.Read(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	s := c.s
	s.rmu.Lock()
	defer s.unlockRead()
	for {
		if n, err = s.read(p); n > 0 {
			err = c.data()
			break
		}
		if err != ErrControl {
			break
		}
		if err = c.control(); err != nil {
			break
		}
	}
	if err != nil {
		if err != io.EOF {
			n = 0
		}
		err = opError("read", s.carrier, err)
	}
	return n, err
}

// ReadRecord is Read for programs that want to see control records: it returns
// the type of the record along with its payload, data of one record at a time.
// The Conn has acted on a control record when it is returned: nothing needs to
// be done about it. The end of the stream comes as the close_notify alert, and
// then as io.EOF. A control record longer than p is cut.
func (c *Conn) ReadRecord(p []byte) (typ record.ContentType, n int, err error) {
	if c.pass != nil {
		return 0, 0, c.pass.opError("read", c.pass.unavailable())
	}
	s := c.s
	s.rmu.Lock()
	defer s.unlockRead()
	if err = s.waitRead(); err == nil {
		if t, b, ok := s.recv.Control(); ok {
			typ, n = t, copy(p, b)
			if err = c.control(); err == io.EOF {
				err = nil
			}
		} else if typ, n, err = s.readRecord(p); err == nil {
			err = c.data()
			if err == io.EOF { // its alert is a record of its own
				err = nil
			}
		}
	}
	return typ, n, opError("read", s.carrier, err)
}

// WaitRead waits until Read would not block. Meanwhile it holds no buffer.
func (c *Conn) WaitRead() error {
	if c.pass != nil {
		return c.pass.opError("read", c.pass.Wait())
	}
	s := c.s
	s.rmu.Lock()
	defer s.unlockRead()
	for {
		err := s.waitRead()
		if err == nil {
			if _, _, ok := s.recv.Control(); !ok {
				return nil
			}
			err = c.control()
		}
		if err != nil {
			return opError("read", s.carrier, err)
		}
	}
}

// WriteTo writes what comes to w until the stream ends, with close_notify. It
// holds no buffer while nothing comes. Data that was read when w fails is lost.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	if c.pass != nil {
		return c.pass.writeTo(w)
	}
	n, err := c.s.writeTo(w, c.control, c.data)
	return n, opErrorOf("read", c.s, err)
}

// Write seals p in records of up to 16384 bytes, smaller ones at the start and
// after a pause, and sends them, up to 16 with one system call. n counts what
// was sealed: it is committed to be sent. p is not kept. Writes do not mix.
func (c *Conn) Write(p []byte) (int, error) {
	if c.pass != nil {
		return c.pass.Write(p)
	}
	return c.s.Write(p)
}

// WriteBuffers is Write for several slices, packed into common records. It
// takes from v what it wrote. net.Buffers.WriteTo makes a record of every slice.
func (c *Conn) WriteBuffers(v *net.Buffers) (int64, error) {
	if c.pass != nil {
		return v.WriteTo(c.pass)
	}
	return c.s.WriteBuffers(v)
}

// ReadFrom sends what src holds, as [Socket.ReadFrom] does.
func (c *Conn) ReadFrom(src io.Reader) (int64, error) {
	if c.pass != nil {
		return io.Copy(struct{ io.Writer }{c.pass}, src)
	}
	return c.s.ReadFrom(src)
}

// WriteRecord sends p, at most 16384 bytes, as one record, in order with the
// data around it. ApplicationData is the only type that a Conn lets pass, and
// alerts: a fatal one ends the connection. See [ErrRecordType].
func (c *Conn) WriteRecord(typ record.ContentType, p []byte) error {
	if c.pass != nil {
		return c.pass.opError("write", c.pass.unavailable())
	}
	if typ != record.ApplicationData && (typ != record.AlertRecord || len(p) != 2) {
		return opError("write", c.s.carrier, ErrRecordType)
	}
	err := c.s.WriteRecord(typ, p)
	if err == nil && typ == record.AlertRecord && p[0] == record.LevelFatal {
		var end error = net.ErrClosed
		c.s.dead.CompareAndSwap(nil, &end)
	}
	return err
}

// Rekey sends a KeyUpdate and goes on with new keys (RFC 8446, 4.6.3); with
// both it asks the peer to do the same. A request is not repeated while one is
// unanswered. The Conn rekeys by itself before a key reaches its limit. In
// TLS 1.2 the error is [ErrNoRekey]. If os.ErrDeadlineExceeded comes while the
// KeyUpdate is sent it is committed all the same, as Info().Send.Epoch shows.
func (c *Conn) Rekey(both bool) error {
	if c.pass != nil {
		return c.pass.opError("rekey", c.pass.unavailable())
	}
	s := c.s
	if err := s.lockWrite(); err != nil {
		return opError("rekey", s.carrier, err)
	}
	defer s.unlockWrite()
	err := s.prepare()
	if err == nil && s.send.Expired() {
		err = os.ErrDeadlineExceeded
	}
	if err == nil {
		if err = c.rekey(both); err != nil && err != ErrNoRekey {
			err = s.writeFailed(err)
		}
	}
	if err == nil {
		if err = s.send.Flush(); err != nil {
			err = s.writeFailed(err)
		}
	}
	return opError("rekey", s.carrier, err)
}

// SetMaxPayload is [Socket.SetMaxPayload].
func (c *Conn) SetMaxPayload(n int) error {
	if c.pass != nil {
		return c.pass.opError("set record size", c.pass.unavailable())
	}
	return c.s.SetMaxPayload(n)
}

// CloseWrite waits for the Write under way, sends close_notify and ends the
// sending direction of the carrier. Reading goes on.
func (c *Conn) CloseWrite() error {
	if c.pass != nil {
		return c.pass.closeWrite()
	}
	return opError("close", c.s.carrier, c.s.closeWrite())
}

// Close ends the connection at once for every other call, sends what is
// committed and close_notify, and closes the carrier. It takes at most 5
// seconds. A Write under way is interrupted; then the peer sees a truncated
// stream, as it truly is.
func (c *Conn) Close() error {
	if c.pass != nil {
		return c.pass.Close()
	}
	err := c.s.close(func() {
		if c.s.shared.Load() {
			return
		}
		c.s.send.Seal(record.AlertRecord, []byte{record.LevelWarning, byte(record.CloseNotify)})
	})
	return opError("close", c.s.carrier, err)
}

// NetConn returns the carrier. Reading or writing it breaks the connection; where the
// kernel has a direction what is written there is sealed as data.
func (c *Conn) NetConn() net.Conn {
	if c.pass != nil {
		return c.pass.carrier
	}
	return c.s.carrier
}

// LocalAddr is that of the carrier.
func (c *Conn) LocalAddr() net.Addr { return c.NetConn().LocalAddr() }

// RemoteAddr is that of the carrier.
func (c *Conn) RemoteAddr() net.Addr { return c.NetConn().RemoteAddr() }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline is [Socket.SetReadDeadline].
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.pass != nil {
		return c.pass.setDeadline(t, c.pass.Passthrough.SetReadDeadline)
	}
	return c.s.SetReadDeadline(t)
}

// SetWriteDeadline is [Socket.SetWriteDeadline].
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.pass != nil {
		return c.pass.setDeadline(t, c.pass.Passthrough.SetWriteDeadline)
	}
	return c.s.SetWriteDeadline(t)
}

// ConnectionState returns what the handshake agreed on. After Resume in another
// process it lacks exporters, and says of the peer's certificates only what it
// sent and whether they were verified.
func (c *Conn) ConnectionState() tls.ConnectionState { return c.state }

// ExportKeyingMaterial is that of tls.ConnectionState (RFC 5705). After Resume
// in another process the error is [ErrNoExporter].
func (c *Conn) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	if c.foreign {
		return nil, opError("export", c.NetConn(), ErrNoExporter)
	}
	return c.state.ExportKeyingMaterial(label, context, length)
}

// Info returns the state of both directions. It does not wait for readers or
// writers.
func (c *Conn) Info() Info {
	var i Info
	if c.pass != nil {
		d := DirectionInfo{Provider: Passthrough, Reason: c.pass.Reason().Error(), Version: c.state.Version, Suite: c.state.CipherSuite}
		i = Info{Send: d, Receive: d}
		if err := c.pass.failed.Load(); err != nil {
			i.Failed = *err
		}
	} else {
		i = c.s.Info()
	}
	i.Resumed = c.state.DidResume
	return i
}

// peerLimit is after how many records under one key of the peer we ask for
// another: as many as we may seal ourselves.
func (c *Conn) peerLimit() uint64 {
	if c.state.Version != tls.VersionTLS13 {
		return math.MaxUint64
	}
	return record.Limit(c.state.Version, c.state.CipherSuite)
}
