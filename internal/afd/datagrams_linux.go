package afd

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/record"
)

// Datagrams is one DTLS association of another program: its carrier, its keys and the
// pump behind its descriptor. Alerts and close_notify are followed here whoever is
// shown them: a datagram that nobody answers is nobody's.
type Datagrams struct {
	carrier *pump.Carrier
	end     *pump.End
	show    bool // control records and warnings wait for TakeControl and TakeWarning

	unsent atomic.Uint64 // messages that the path or the carrier did not take

	mu      sync.Mutex
	ctl     *control // instead: the program has a control descriptor
	keys    [2]record.Keys
	conn    *aftls.DatagramConn // nil until both directions have keys
	pump    *pump.DatagramPump  // of conn
	closed  bool
	held    []Control
	warning error // the newest that nobody was told
}

// NewDatagrams takes the carrier and the end, and runs when Run is called. With show
// it keeps what TakeControl and TakeWarning give.
func NewDatagrams(carrier *pump.Carrier, end *pump.End, show bool) *Datagrams {
	return &Datagrams{carrier: carrier, end: end, show: show}
}

// setControl has control records and warnings go to a control descriptor. It is false
// where there is one, or keys.
func (d *Datagrams) setControl(ctl *control) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctl != nil || d.conn != nil || d.closed {
		return false
	}
	d.ctl = ctl
	return true
}

// dropControl takes it back, before there is anything to be told.
func (d *Datagrams) dropControl() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctl = nil
}

// Start keys both directions, before Run. Only an error leaves the carrier as it was.
func (d *Datagrams) Start(send, receive record.Keys) error {
	if err := d.SetKeys(aftls.Send, send); err != nil {
		return err
	}
	return d.SetKeys(aftls.Receive, receive)
}

// SetKeys keys one direction. Nothing is sent or received before both have keys, which
// are of one version and cipher. There are no keys behind them.
func (d *Datagrams) SetKeys(dir aftls.Direction, k record.Keys) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	other := d.keys[1-dir]
	switch {
	case d.closed:
		return refuse(syscall.EPIPE, "the association is over")
	case !isDatagram(k.Version):
		return refuse(syscall.EINVAL, "a UDP socket takes keys of DTLS only")
	case other.Version != 0 && (other.Version != k.Version || other.Suite != k.Suite):
		return refuse(syscall.EINVAL, "the two directions differ in version or cipher")
	case d.keys[dir].Version != 0:
		return refuse(syscall.EBUSY, "an association over datagrams keeps its keys")
	}
	d.keys[dir] = k.Clone()
	if other.Version == 0 {
		return nil
	}
	conn, err := aftls.NewDatagramConn(d.carrier, d.keys[aftls.Send], d.keys[aftls.Receive], d.seen, aftls.Options{})
	if err != nil {
		d.keys[dir].Wipe()
		d.keys[dir] = record.Keys{}
		return refuse(syscall.EINVAL, "%v", err)
	}
	for i := range d.keys {
		d.keys[i].Wipe() // version and suite stay
	}
	d.conn, d.pump = conn, pump.NewDatagrams(d, d.end)
	d.end.Wake() // Run waits for this
	return nil
}

// started is the association, or nil before there are keys.
func (d *Datagrams) started() *aftls.DatagramConn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn
}

// Run pumps until the association is over, and closes everything but what Off took.
// The error is that of [Association.Run].
func (d *Datagrams) Run() error {
	for d.started() == nil {
		err := d.end.AwaitGone()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue // there are keys now
		}
		if err == nil {
			err = errUnkeyed
		}
		d.mu.Lock()
		if d.conn == nil {
			d.closed = true
		}
		d.mu.Unlock()
		if d.started() == nil {
			d.Close()
			d.carrier.Close()
			d.end.Close()
			return err
		}
	}
	send, receive := d.pump.Run()
	if send == pump.ErrStopped || receive == pump.ErrStopped {
		return pump.ErrStopped
	}
	if receive != nil && !isClosed(receive) {
		return receive
	}
	return send
}

// Failure is what the association ended of, nil while it lives and at a clean end.
func (d *Datagrams) Failure() error {
	if d.started() == nil {
		return nil
	}
	return d.pump.Failure()
}

// CloseNow ends the association. The program sees an error.
func (d *Datagrams) CloseNow() {
	if d.started() != nil {
		d.pump.Close()
		return
	}
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.end.Close() // Run waits for this
}

// Close ends the association for every call, with close_notify where it is alive. The
// socket that the program gave us carries nothing more; one that got no keys is as it
// was.
func (d *Datagrams) Close() error {
	d.mu.Lock()
	d.closed = true
	conn := d.conn
	for i := range d.keys {
		d.keys[i].Wipe()
	}
	d.mu.Unlock()
	if conn == nil {
		return nil
	}
	return conn.Close()
}

// The endpoint of the pump.

// WaitRead waits for a message.
func (d *Datagrams) WaitRead() error {
	for {
		if err := d.conn.WaitRead(); !d.goesOn(err) {
			return ended(err)
		}
	}
}

// ReadBatch reads messages.
func (d *Datagrams) ReadBatch(bufs [][]byte, sizes []int) (int, error) {
	for {
		n, err := d.conn.ReadBatch(bufs, sizes)
		if !d.goesOn(err) {
			return n, ended(err)
		}
	}
}

// ended lets io.EOF be compared.
func ended(err error) error {
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

// goesOn reports whether an error of receiving is one that anybody can cause by an
// ICMP message (icmp(7)), and that the association therefore outlives.
func (d *Datagrams) goesOn(err error) bool {
	c, ok := errors.AsType[*aftls.CarrierError](err)
	if !ok {
		return false
	}
	errno, _ := errors.AsType[syscall.Errno](c)
	switch errno {
	case syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENONET,
		syscall.ENOPROTOOPT, syscall.EOPNOTSUPP, syscall.EPROTO, syscall.EACCES, syscall.EMSGSIZE:
		d.warn(err)
		return true
	}
	return false
}

// WriteBatch sends messages. One that the path or the carrier does not take is lost, and
// the program is told if it can be.
func (d *Datagrams) WriteBatch(messages [][]byte) error {
	for len(messages) > 0 {
		n, err := d.conn.WriteBatch(messages)
		if messages = messages[n:]; err == nil {
			continue
		}
		if !loses(err) {
			return err
		}
		d.unsent.Add(1)
		d.warn(err)
		messages = messages[1:]
	}
	return nil
}

// loses reports whether an error of sending is about one message only.
func loses(err error) bool {
	if _, ok := errors.AsType[*aftls.DatagramTooLargeError](err); ok {
		return true
	}
	c, ok := errors.AsType[*aftls.CarrierError](err)
	if !ok {
		return false
	}
	errno, _ := errors.AsType[syscall.Errno](c)
	switch errno {
	case 0, syscall.EPIPE, syscall.ENOTCONN, syscall.EDESTADDRREQ, syscall.EBADF:
		return false // somebody shut the socket, or took its peer away
	}
	return true
}

// CloseWrite sends close_notify.
func (d *Datagrams) CloseWrite() error {
	err := d.conn.CloseWrite()
	if loses(err) {
		return nil // as it may be on the way
	}
	return err
}

// What the program is told.

// maxHeld is how many control records wait for the program. More are lost.
const maxHeld = 16

// seen is shown every control record.
func (d *Datagrams) seen(typ record.ContentType, b []byte) {
	c := Control{Type: typ, Payload: bytes.Clone(b)}
	d.mu.Lock()
	ctl := d.ctl
	if d.conn != nil {
		c.Offset = d.conn.Info().Receive.Bytes
	}
	if ctl == nil && d.show && len(d.held) < maxHeld {
		d.held = append(d.held, c)
	}
	d.mu.Unlock()
	if ctl != nil {
		ctl.offer(message{kind: msgRecord, typ: typ, offset: c.Offset, body: c.Payload})
	}
}

// TakeControl returns the oldest control record that the program has not taken, and
// with peek leaves it.
func (d *Datagrams) TakeControl(peek bool) (c Control, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.held) == 0 {
		return c, false
	}
	c = d.held[0]
	if !peek {
		d.held = append(d.held[:0], d.held[1:]...)
	}
	return c, true
}

// warn tells the program of what the association goes on after.
func (d *Datagrams) warn(err error) {
	d.mu.Lock()
	ctl := d.ctl
	if ctl == nil {
		d.warning = err
	}
	d.mu.Unlock()
	if ctl == nil {
		return
	}
	var limit uint64
	if e, ok := errors.AsType[*aftls.DatagramTooLargeError](err); ok {
		limit = uint64(e.Limit)
	}
	ctl.offer(message{kind: msgWarning, offset: limit, body: appendError(nil, err)})
}

// TakeWarning returns what happened to the association since the last call and did not
// end it, once, or nil.
func (d *Datagrams) TakeWarning() (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err, d.warning = d.warning, nil
	return err
}

// MaxMessage is the longest message that the path takes now.
func (d *Datagrams) MaxMessage() int {
	if conn := d.started(); conn != nil {
		return conn.MaxMessage()
	}
	return record.MaxPlaintext
}

// What the program asks.

// Info returns the state of both directions.
func (d *Datagrams) Info() aftls.Info {
	if conn := d.started(); conn != nil {
		return conn.Info().Info
	}
	return aftls.Info{}
}

// appendInfo appends struct aftls_info, and what is struct aftls_drops behind it.
func (d *Datagrams) appendInfo(b []byte) []byte {
	conn := d.started()
	if conn == nil {
		return append(appendInfo(b, aftls.Info{}), make([]byte, 4*8)...)
	}
	i := conn.Info()
	b = appendInfo(b, i.Info)
	for _, n := range []uint64{i.Bad, i.Replayed, i.Lost + d.pump.Lost(), d.unsent.Load()} {
		b = binary.NativeEndian.AppendUint64(b, n)
	}
	return b
}

// SendControl sends a control record at once: datagrams have no order.
func (d *Datagrams) SendControl(typ record.ContentType, b []byte) (<-chan error, error) {
	conn := d.started()
	if conn == nil {
		return nil, refuse(syscall.ENOTCONN, "the association has no keys yet")
	}
	done := make(chan error, 1)
	done <- conn.WriteRecord(typ, b)
	return done, nil
}

// Replace refuses: there are no keys behind the first ones.
func (d *Datagrams) Replace(aftls.Direction, record.Keys) error {
	return refuse(syscall.EBUSY, "an association over datagrams keeps its keys")
}

// Rekey refuses likewise.
func (d *Datagrams) Rekey() (<-chan error, error) {
	return nil, refuse(syscall.EOPNOTSUPP, "an association over datagrams keeps its keys")
}

// Off takes the association out: what the program wrote is sent, what comes behind
// what is in its descriptor is in the state, and the carrier is the program's again.
func (d *Datagrams) Off() (encoding.BinaryMarshaler, []byte, error) {
	conn := d.started()
	if conn == nil {
		return nil, nil, refuse(syscall.ENOTCONN, "the association has no keys yet")
	}
	var st *aftls.DatagramState
	var err error
	d.pump.Stop(func() { st, err = conn.Detach() })
	d.end.Finish()
	d.end.CloseClean()
	d.carrier.Release()
	if err != nil {
		return nil, nil, err
	}
	return st, nil, nil
}
