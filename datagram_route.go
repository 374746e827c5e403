package aftls

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/handover"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// datagramSlot is a handshake under way in a DatagramListener.
type datagramSlot struct {
	h      *handover.DatagramHandshake
	at     soft.Path
	from   netip.Prefix
	cid    []byte
	random [32]byte  // of the ClientHello that it began with
	since  time.Time // when its peer was last heard, or began
	cancel context.CancelFunc
	given  atomic.Pointer[error]
}

// giveUp makes the handshake fail with err.
func (s *datagramSlot) giveUp(err error) {
	if s.given.CompareAndSwap(nil, &err) {
		s.cancel()
	}
}

// lastRoute is where the datagram before went. Data in a run from one peer goes
// there again without a look into the tables, until they change.
type lastRoute struct {
	c       *DatagramConn
	from    soft.Path
	changes uint64
}

func (l *DatagramListener) again(r *lastRoute, d []byte, from soft.Path) bool {
	if r.c == nil || r.changes != l.changes.Load() {
		return false
	}
	if len(r.c.cid) > 0 {
		return bytes.Equal(record.DatagramCID(d, l.config.CIDLen), r.c.cid)
	}
	return from == r.from && record.ContentType(d[0]) == record.ApplicationData
}

// route brings a datagram to the association or the handshake that it is for.
// Nothing in it is authentic yet: whoever gets it has to find out.
func (l *DatagramListener) route(d []byte, from soft.Path, last *lastRoute) {
	var c *DatagramConn
	var shaking bool
	if l.again(last, d, from) {
		c = last.c
	} else {
		c, shaking = l.whose(d, from, last)
	}
	switch {
	case c != nil:
		if c.receive(d, from) {
			// More may be there than the queue has room for, and its reader may
			// wait for nothing but the processor.
			runtime.Gosched()
		}
	case shaking:
	case isClientHello(d):
		l.begin(d, from)
	default:
		l.unknown.Add(1)
	}
}

// whose finds the association that a datagram is for. What is for a handshake it
// hands on itself, under mu: there is no moment between a handshake and its
// association in which a datagram is lost.
func (l *DatagramListener) whose(d []byte, from soft.Path, last *lastRoute) (c *DatagramConn, shaking bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s *datagramSlot
	if cid := record.DatagramCID(d, l.config.CIDLen); cid != nil {
		o := l.byCID[string(cid)]
		c, s = o.conn, o.slot
	} else if s = l.slots[from]; s == nil {
		if c = l.byAddr[from]; c != nil && isClientHello(d) {
			c = nil // to be kept until a new handshake is done
		}
	} else if protected(d) {
		// The peer of an association may be shaking hands anew: the record is
		// under the old keys or the new ones, and who gets it first is to copy it.
		c = l.byAddr[from]
	}
	if s != nil && isClientHello(d) && helloRandom(d) != s.random {
		// Another handshake: the peer began anew, or one of the two is forged.
		// Before there is proof the last one counts, since an honest peer sends
		// its own again.
		if s.h.Proven() {
			return nil, true
		}
		s.giveUp(ErrEvicted)
		l.drop(s)
		return nil, false
	}
	if *last = (lastRoute{}); s != nil {
		if s.h.Proven() { // else a ClientHello said again would keep its slot
			s.since = time.Now()
		}
		s.h.Push(d)
	} else if c != nil {
		*last = lastRoute{c, from, l.changes.Load()}
	}
	return c, s != nil
}

// protected reports whether the first record of a datagram is of an epoch with
// keys. Without a Connection ID, that is: those with one are known by it.
func protected(d []byte) bool {
	return len(d) >= record.DatagramHeaderLen && d[3]|d[4] != 0
}

// helloAt is where a ClientHello begins in its datagram: behind the headers of
// the record and of the message. Its random follows on a version of two bytes.
const helloAt = record.DatagramHeaderLen + 12

// isClientHello reports whether a datagram begins with the start of a first
// ClientHello (RFC 6347, 4.2.2): of epoch 0, message number 0, offset 0, with
// all of its random.
func isClientHello(d []byte) bool {
	const hello = 1
	if len(d) < helloAt+2+32 || record.ContentType(d[0]) != record.Handshake || d[1] != 0xfe || protected(d) {
		return false
	}
	n := int(d[11])<<8 | int(d[12])
	m := d[record.DatagramHeaderLen:]
	return n >= 12+2+32 && n <= len(m) && m[0] == hello && m[4]|m[5] == 0 && m[6]|m[7]|m[8] == 0
}

func helloRandom(d []byte) [32]byte { return [32]byte(d[helloAt+2:]) }

// begin takes a slot for the sender of a ClientHello, if there is one to have.
func (l *DatagramListener) begin(d []byte, from soft.Path) {
	s := &datagramSlot{at: from, from: network(net.TCPAddrFromAddrPort(from.Peer)), random: helloRandom(d), since: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut || len(l.slots)+l.waiting >= l.limit && !l.evict() {
		l.refused.Add(1)
		return
	}
	for tries := 0; ; tries++ {
		var err error
		if s.cid, err = newCID(l.config.CIDLen); err != nil || tries == 100 {
			l.refused.Add(1)
			return
		}
		if _, taken := l.byCID[string(s.cid)]; !taken || len(s.cid) == 0 {
			break
		}
	}
	var err error
	s.h, err = handover.NewDatagramHandshake(l.config, false, l.Addr(), net.UDPAddrFromAddrPort(from.Peer), s.cid, func(b []byte) error {
		size := [1]int{len(b)}
		l.port.Send(b, size[:], from) // or it is lost, as it may be anywhere
		return nil
	})
	if err != nil { // the config was checked: this is out of the peer's hands
		l.refused.Add(1)
		return
	}
	var ctx context.Context
	ctx, s.cancel = context.WithTimeout(context.Background(), datagramHandshakeTimeout)
	l.changes.Add(1)
	l.slots[from] = s
	l.share[s.from]++
	if len(s.cid) > 0 {
		l.byCID[string(s.cid)] = cidOwner{slot: s}
	}
	s.h.Push(d)
	l.wg.Add(1)
	go l.handshake(ctx, s)
}

// evict makes a slot free, if any waits for its peer for long enough. It runs
// under mu.
func (l *DatagramListener) evict() bool {
	var worst *datagramSlot
	var over, bare bool
	latest := time.Now().Add(-patience)
	most := max(l.limit/shareDivisor, 1)
	for _, s := range l.slots {
		if s.since.After(latest) || s.given.Load() != nil {
			continue
		}
		o, b := l.share[s.from] > most, !s.h.Proven()
		if worst == nil || o && !over || o == over && (b && !bare || b == bare && s.since.Before(worst.since)) {
			worst, over, bare = s, o, b
		}
	}
	if worst == nil {
		return false
	}
	worst.giveUp(ErrEvicted)
	l.drop(worst)
	return true
}

// drop takes a handshake out of the tables. It runs under mu.
func (l *DatagramListener) drop(s *datagramSlot) {
	if l.slots[s.at] != s {
		return
	}
	delete(l.slots, s.at)
	if l.share[s.from]--; l.share[s.from] == 0 {
		delete(l.share, s.from)
	}
	if o := l.byCID[string(s.cid)]; o.slot == s {
		delete(l.byCID, string(s.cid))
	}
}

func (l *DatagramListener) handshake(ctx context.Context, s *datagramSlot) {
	defer l.wg.Done()
	defer s.cancel()
	r, err := s.h.Run(ctx)
	var c *DatagramConn
	if err == nil {
		c, err = newDatagramConn(l.port, l.Addr(), provenPeer(s.at), &r, l.opt)
	}
	if err == nil {
		err = l.establish(s, c)
	}
	if err != nil {
		if given := s.given.Load(); given != nil {
			err = *given
		} else if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("aftls: the handshake was not done within %v", datagramHandshakeTimeout)
		}
		l.mu.Lock()
		l.drop(s)
		l.mu.Unlock()
		if l.opt.HandshakeError != nil && !errors.Is(err, net.ErrClosed) {
			l.opt.HandshakeError(net.UDPAddrFromAddrPort(s.at.Peer), err)
		}
		return
	}
	select {
	case l.ready <- c:
	case <-l.done: // Close closes it, as all others
	}
	l.mu.Lock()
	l.waiting--
	l.mu.Unlock()
}

// establish puts an association in the place of its handshake. From then on what
// comes is its own; the slot is kept until somebody takes the association.
func (l *DatagramListener) establish(s *datagramSlot, c *DatagramConn) error {
	c.shareCarrier(l)
	var old *DatagramConn
	l.mu.Lock()
	if given := s.given.Load(); given != nil || l.shut {
		l.mu.Unlock()
		return net.ErrClosed
	}
	if o := l.byAddr[s.at]; o != nil && len(o.cid) == 0 {
		old = o // the peer that proved to be there now cannot be another one
	}
	l.changes.Add(1)
	l.drop(s)
	l.waiting++
	l.byAddr[s.at] = c
	if len(c.cid) > 0 {
		l.byCID[string(c.cid)] = cidOwner{conn: c}
	}
	l.all[c] = struct{}{}
	early := s.h.Early()
	l.mu.Unlock()
	if old != nil {
		var err error = ErrReplaced
		old.dead.CompareAndSwap(nil, &err)
		l.forget(old)
		old.wake()
	}
	c.receiveEarly(early, s.at)
	return nil
}

// forget takes an association out of the tables.
func (l *DatagramListener) forget(c *DatagramConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes.Add(1)
	delete(l.all, c)
	if at := c.peer.Load().at; l.byAddr[at] == c {
		delete(l.byAddr, at)
	}
	if o := l.byCID[string(c.cid)]; o.conn == c {
		delete(l.byCID, string(c.cid))
	}
}

// moved notes that the newest record of an association came from another
// address, protected and with its Connection ID (RFC 9146, 6). An address that
// another association is known by stays that one's.
func (l *DatagramListener) moved(c *DatagramConn, to soft.Path) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, lives := l.all[c]; !lives {
		return
	}
	l.changes.Add(1)
	if at := c.peer.Load().at; l.byAddr[at] == c {
		delete(l.byAddr, at)
	}
	if l.byAddr[to] == nil {
		l.byAddr[to] = c
	}
	c.peer.Store(c.peer.Load().moved(to))
}

// lookForIdle gives up associations that were idle for the IdleTimeout, and the
// memory that others only need while they are used.
func (l *DatagramListener) lookForIdle() {
	l.mu.Lock()
	if l.shut {
		l.mu.Unlock()
		return
	}
	var rest, over []*DatagramConn
	for c := range l.all {
		switch {
		case c.active.Swap(false):
			c.idle = 0
		case c.idle == 0:
			rest = append(rest, c)
			fallthrough
		default:
			if c.idle++; l.idle > 0 && time.Duration(c.idle)*l.every >= l.idle {
				over = append(over, c)
			}
		}
	}
	l.sweep.Reset(l.every)
	l.mu.Unlock()
	for _, c := range over {
		var err error = ErrIdle
		if c.dead.CompareAndSwap(nil, &err) {
			c.goodbye()
			l.forget(c)
			c.wake()
		}
	}
	for _, c := range rest {
		c.rest()
	}
}

// goodbye sends close_notify, unless somebody is writing.
func (c *DatagramConn) goodbye() {
	if c.wmu.TryLock() {
		c.send.Send(record.AlertRecord, []byte{record.LevelWarning, byte(record.CloseNotify)}, c.peer.Load().at)
		c.wmu.Unlock()
	}
}

// rest gives up what the next record makes again.
func (c *DatagramConn) rest() {
	if c.wmu.TryLock() {
		c.send.Rest()
		c.wmu.Unlock()
	}
	if c.rmu.TryLock() {
		c.recv.Rest()
		c.rmu.Unlock()
	}
}

// newCID makes a Connection ID of n bytes that nobody can guess.
func newCID(n int) ([]byte, error) {
	if n > record.MaxCID {
		return nil, record.ErrCID
	}
	cid := make([]byte, max(n, 0))
	_, err := rand.Read(cid)
	return cid, err
}
