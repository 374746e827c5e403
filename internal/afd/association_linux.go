package afd

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/filter"
	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/record"
)

// Policy is who deals with control records.
type Policy uint8

const (
	// Ours: this process follows alerts, tickets, KeyUpdates and close_notify
	// as an aftls.Conn does. Needs keys in both directions.
	Ours Policy = iota

	// Theirs: the program is given every control record and sends its own.
	// Only close_notify is understood: it is the clean end, both ways.
	Theirs

	// AsLinux is Theirs without that: no alert is sent by itself, the end of
	// the carrier is the end of the stream, and a direction without keys
	// passes bytes as they are.
	AsLinux
)

// Taker is given the control records of an association. It may wait until the
// program has room for them: reading waits for it. The payload is not to be kept.
// Interrupt ends a Take that waits, and those to come.
type Taker interface {
	Take(Control) error
	Interrupt()
}

// Association is one TLS connection of another program: its carrier, its keys
// and the pump behind its descriptor.
type Association struct {
	carrier *pump.Carrier
	policy  Policy
	client  bool
	taker   Taker

	sock *aftls.Socket // of the policies Theirs and AsLinux
	conn *aftls.Conn   // of the policy Ours; nil until both directions have keys
	end  *pump.End
	pump *pump.Pump

	setting sync.Mutex // one at a time changes keys or takes the association out

	mu       sync.Mutex
	changed  sync.Cond // of what follows
	keyed    [2]bool
	expired  bool // a KeyUpdate was received, and the keys behind it are not there
	pause    bool // reading is to stop at the next opportunity
	standing bool // reading stands still, as it does before Run
	passing  bool // while it waits for bytes without keys
	adopting bool // reading waits for adopt
	closed   bool

	interrupted bool // reading waits for nothing

	received bool     // nothing more is received
	held     *Control // what the program has to take first
	failure  error    // what the receiving side ended of

	rest   []byte // under the pause: opened or passed, and not taken by the program
	filter Filter // under the pause

	sending sending
	sent    uint64 // bytes of the program that are committed

	strict   bool // records are cut as the program sends them; before Run
	arrivals arrivals
}

// Control is a control record that the program has not taken yet.
type Control struct {
	Type    record.ContentType
	Payload []byte // what of it was not taken
	Offset  uint64 // bytes of data before it
}

// NewAssociation takes the carrier and the end, and runs when Run is called.
// Without a taker control records wait for TakeControl, but in the policy Ours.
func NewAssociation(carrier *pump.Carrier, end *pump.End, policy Policy, client bool, taker Taker) *Association {
	a := &Association{carrier: carrier, policy: policy, client: client, taker: taker, end: end, standing: true}
	a.changed.L = &a.mu
	a.sock = aftls.NewSocket(carrier, aftls.Options{Provider: aftls.Soft}) // others have the carrier too
	a.pump = pump.New(a, end)
	return a
}

// Start keys both directions at once, before Run. unread is ciphertext that was
// read from the carrier before.
func (a *Association) Start(send, receive record.Keys, unread []byte) error {
	err := a.sock.SetKeys(aftls.Send, send)
	if err == nil {
		err = a.sock.SetKeys(aftls.Receive, receive)
	}
	if err == nil {
		err = a.sock.Unread(unread)
	}
	if err != nil {
		return err
	}
	a.keyed = [2]bool{true, true}
	return a.adopt()
}

// StartDirection keys one direction before Run. The other one passes bytes as they
// are until it has keys (policy AsLinux).
func (a *Association) StartDirection(d aftls.Direction, k record.Keys) error {
	if err := a.sock.SetKeys(d, k); err != nil {
		return err
	}
	a.keyed[d] = true
	if d == aftls.Send {
		a.sending.seq = k.Seq
	} else {
		a.arrivals.seq = k.Seq
	}
	return nil
}

// adoptable reports whether the socket is to become a conn: control records are
// ours, and both directions have keys now. It is called under mu.
func (a *Association) adoptable() bool {
	return a.policy == Ours && a.conn == nil && a.keyed[aftls.Send] && a.keyed[aftls.Receive]
}

// adopt makes the socket a conn. Nobody sends or receives meanwhile.
func (a *Association) adopt() error {
	defer a.adopted()
	a.mu.Lock()
	adoptable := a.adoptable()
	a.mu.Unlock()
	if !adoptable {
		return nil
	}
	var seen func(record.ContentType, []byte)
	if a.taker != nil {
		seen = func(typ record.ContentType, b []byte) {
			a.taker.Take(Control{typ, b, a.sock.Info().Receive.Bytes})
		}
	}
	c, err := aftls.NewConn(a.sock, a.client, seen)
	a.mu.Lock()
	a.conn = c
	a.mu.Unlock()
	return err
}

// adopted ends the wait for adopt.
func (a *Association) adopted() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.adopting = false
	a.changed.Broadcast()
}

// policyConn is the conn that deals with control records, or nil.
func (a *Association) policyConn() *aftls.Conn {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conn
}

// Run pumps until the association is over, and closes everything but what Off
// took. The error is what the receiving side ended of, or else the sending side;
// nil is the clean end of both.
func (a *Association) Run() error {
	send, receive := a.pump.Run()
	if send == pump.ErrStopped || receive == pump.ErrStopped {
		return pump.ErrStopped
	}
	if receive != nil && !isClosed(receive) {
		return receive
	}
	return send // behind which the receiving side was closed, if it was
}

func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.EPIPE)
}

// CloseNow ends the association. The program sees an error, and the socket that
// it gave us carries nothing more.
func (a *Association) CloseNow() { a.pump.Close() }

// Info returns the state of both directions.
func (a *Association) Info() aftls.Info { return a.sock.Info() }

// RemoteAddr is that of the carrier.
func (a *Association) RemoteAddr() net.Addr { return a.carrier.RemoteAddr() }

// SetTap is that of an [aftls.Conn].
func (a *Association) SetTap(t *filter.Tap) error { return a.sock.SetTap(t, a.client) }

// Close ends the association for every call. The socket that the program gave us
// may have other holders: it carries nothing more.
func (a *Association) Close() error {
	a.endSending(errEnded)
	a.mu.Lock()
	a.closed = true
	a.changed.Broadcast()
	a.mu.Unlock()
	if a.taker != nil {
		a.taker.Interrupt()
	}
	if c := a.policyConn(); c != nil {
		return c.Close() // sends close_notify where the association is alive
	}
	return a.sock.Close()
}
