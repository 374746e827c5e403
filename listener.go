package aftls

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/handover"
	"github.com/aftls/aftls/internal/soft"
)

// Limits of a Listener. They bound what clients that never finish can hold.
const (
	handshakeSlots   = 1024                  // handshakes at once
	handshakeTimeout = 10 * time.Second      // for each
	readyConns       = 128                   // finished and not yet accepted
	patience         = 50 * time.Millisecond // a wait that no handshake is given up for
	parkedWorkers    = 16                    // goroutines that wait for handshakes
	shareDivisor     = 8                     // one address may hold 1/8 of the slots when they run out
	rankDivisor      = 32                    // 1/32 of the slots is ranked at a time for giving up
	answerTimeout    = time.Second           // for the answer to plaintext, and for the client to take it
	answerDrain      = 64 << 10              // bytes that such a client may have on the way
)

// Listener accepts TLS connections: Accept returns them when their handshake is
// done. Handshakes run at once, up to 1,024 of them, each for at most 10
// seconds. When more clients come, the handshake that has waited longest for
// its peer, and 50 ms at least, is given up, first among the addresses (IPv6:
// /64 networks) that hold more than an eighth of the slots. When 128 finished
// connections wait for Accept, further ones keep their slot, nobody is given
// up, and without a slot the listener takes no new ones.
type Listener struct {
	inner  net.Listener
	config *tls.Config
	opt    Options

	ready  chan *Conn
	next   chan *attempt // to a goroutine that waits for one
	parked chan struct{} // how many do
	slots  chan struct{}
	done   chan struct{} // closed by Close
	over   chan struct{} // closed when inner fails for good
	err    error         // then, why
	once   sync.Once
	wg     sync.WaitGroup

	plaintext atomic.Pointer[func([5]byte) []byte] // AnswerPlaintext

	mu      sync.Mutex
	pending map[*attempt]struct{}
	share   map[netip.Prefix]int
	limit   int // of share
	ranked  []wait
	timeout time.Duration
}

// wait is a handshake that waits for its peer, as it stood when it was ranked.
type wait struct {
	*attempt
	since int64
	over  bool // its address held more than its share
}

// Listen listens on a TCP address or Unix socket, with config for every
// connection. config must not be changed but through its methods.
//
// Its TCP connections are no Multipath TCP ones, which have no TLS in the kernel,
// unless opt asks for soft.
func Listen(network, addr string, config *tls.Config, opt Options) (*Listener, error) {
	var lc net.ListenConfig
	if opt.Provider != Soft {
		lc.SetMultipathTCP(false)
	}
	inner, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	return NewListener(inner, config, opt), nil
}

// NewListener returns a listener that takes its carriers from inner, and closes
// it when it is closed.
func NewListener(inner net.Listener, config *tls.Config, opt Options) *Listener {
	return newListener(inner, config, opt, handshakeSlots, readyConns, handshakeTimeout)
}

func newListener(inner net.Listener, config *tls.Config, opt Options, slots, ready int, timeout time.Duration) *Listener {
	l := &Listener{
		inner: inner, config: config, opt: opt,
		ready:   make(chan *Conn, ready),
		next:    make(chan *attempt),
		parked:  make(chan struct{}, parkedWorkers),
		slots:   make(chan struct{}, slots),
		done:    make(chan struct{}),
		over:    make(chan struct{}),
		pending: make(map[*attempt]struct{}),
		share:   make(map[netip.Prefix]int),
		limit:   max(slots/shareDivisor, 1),
		timeout: timeout,
	}
	l.wg.Add(1)
	go l.run()
	return l
}

// Accept returns the next connection whose handshake is done, a [*Conn]. After
// Close the error is net.ErrClosed, and otherwise that of the inner listener.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptConn is Accept with the type that it returns.
func (l *Listener) AcceptConn() (*Conn, error) {
	select {
	case <-l.done: // a closed listener gives out nothing more
		return nil, l.closedError()
	default:
	}
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.over:
		// What was ready before the inner listener failed is still good.
		select {
		case c := <-l.ready:
			return c, nil
		default:
			return nil, l.err
		}
	case <-l.done:
		return nil, l.closedError()
	}
}

// AnswerPlaintext sets what clients are told that do not speak TLS: answer gets
// the first five bytes of such a client and returns what is sent to it, as it
// is, before the carrier is closed; nil sends nothing, as without this method.
// answer may be called by many goroutines at once. HandshakeError is told of
// these clients all the same, with a tls.RecordHeaderError.
func (l *Listener) AnswerPlaintext(answer func(first [5]byte) []byte) { l.plaintext.Store(&answer) }

func (l *Listener) closedError() error {
	return &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
}

// Addr is that of the inner listener.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close closes the inner listener, gives up the handshakes under way and closes
// the connections that nobody accepted. It returns when all of that is done.
func (l *Listener) Close() error {
	err := l.closedError()
	l.once.Do(func() {
		close(l.done)
		err = l.inner.Close()
		l.mu.Lock()
		for a := range l.pending {
			a.giveUp(net.ErrClosed)
		}
		l.mu.Unlock()
	})
	l.wg.Wait()
	for {
		select {
		case c := <-l.ready:
			c.Close()
		default:
			return err
		}
	}
}

// run takes carriers from the inner listener until it is closed.
func (l *Listener) run() {
	defer l.wg.Done()
	defer close(l.over)
	var pause time.Duration
	for {
		carrier, err := l.inner.Accept()
		if err != nil {
			if passing(err) {
				l.report(l.Addr(), err)
				pause = min(max(2*pause, 5*time.Millisecond), time.Second)
				select {
				case <-time.After(pause):
					continue
				case <-l.done:
				}
			}
			l.err = err
			return
		}
		pause = 0
		if !l.takeSlot() {
			carrier.Close()
			l.err = l.closedError()
			return
		}
		a := l.begin(carrier)
		select {
		case l.next <- a:
		default:
			l.wg.Add(1)
			go l.work(a)
		}
	}
}

// passing reports whether Accept may work again later: out of descriptors, or a
// client that was gone before it was accepted. Temporary is the only word that
// listeners of all systems have for it.
func passing(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary() && !errors.Is(err, net.ErrClosed)
}

func (l *Listener) report(peer net.Addr, err error) {
	if l.opt.HandshakeError != nil {
		l.opt.HandshakeError(peer, err)
	}
}

// takeSlot waits for a slot, and makes one free if it can. It answers false
// when the listener is closed.
func (l *Listener) takeSlot() bool {
	select {
	case l.slots <- struct{}{}:
		return true
	default:
	}
	for {
		l.evict()
		select {
		case l.slots <- struct{}{}:
			return true
		case <-l.done:
			return false
		case <-time.After(patience / 5):
			// Every handshake was computing, ready, or too young to give up.
		}
	}
}

// evict gives up the handshake that has waited longest for its peer. One that
// computes is not the peer's fault, and a burst of honest clients must not push
// each other out within a round trip.
func (l *Listener) evict() {
	if len(l.ready) == cap(l.ready) {
		return // all wait for Accept: no client is to pay for that
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.giveUpRanked() {
		l.rank()
		l.giveUpRanked()
	}
}

// giveUpRanked gives up the first in the ranking who still waits as he did, and
// reports whether there was one.
func (l *Listener) giveUpRanked() bool {
	for n := len(l.ranked) - 1; n >= 0; n-- {
		w := l.ranked[n]
		l.ranked[n], l.ranked = wait{}, l.ranked[:n]
		if w.over != (l.share[w.from] > l.limit) {
			return false // the order is another by now
		}
		if w.since == w.waiting() && w.given.Load() == nil {
			w.giveUp(ErrEvicted)
			return true
		}
	}
	return false
}

// rank finds those to give up next, the last of them first. To look at every
// handshake for each newcomer would cost more than a newcomer that says nothing.
func (l *Listener) rank() {
	clear(l.ranked)
	l.ranked = l.ranked[:0]
	latest := time.Now().Add(-patience).UnixNano()
	for a := range l.pending {
		if since := a.waiting(); since != 0 && since <= latest && a.given.Load() == nil {
			l.ranked = append(l.ranked, wait{a, since, l.share[a.from] > l.limit})
		}
	}
	slices.SortFunc(l.ranked, func(a, b wait) int {
		if a.over != b.over {
			if a.over {
				return 1
			}
			return -1
		}
		return cmp.Compare(b.since, a.since)
	})
	drop := max(len(l.ranked)-max(cap(l.slots)/rankDivisor, 1), 0)
	n := copy(l.ranked, l.ranked[drop:])
	clear(l.ranked[n:])
	l.ranked = l.ranked[:n]
}

func (l *Listener) begin(carrier net.Conn) *attempt {
	a := &attempt{Conn: carrier, short: soft.NewShort(carrier), from: network(carrier.RemoteAddr())}
	l.mu.Lock()
	l.pending[a] = struct{}{}
	l.share[a.from]++
	l.mu.Unlock()
	return a
}

func (l *Listener) end(a *attempt) {
	l.mu.Lock()
	delete(l.pending, a)
	if l.share[a.from]--; l.share[a.from] == 0 {
		delete(l.share, a.from)
	}
	l.mu.Unlock()
	<-l.slots
}

// work runs handshakes on a goroutine of its own, so that the large stack which
// they need is not that of whoever serves the connection. A few such goroutines
// wait for the next handshake, since growing the stack is a good part of its
// cost.
func (l *Listener) work(a *attempt) {
	defer l.wg.Done()
	for {
		l.handshake(a, l.await(a))
		select {
		case l.parked <- struct{}{}:
		default:
			return
		}
		select {
		case a = <-l.next:
			<-l.parked
		case <-l.done:
			return
		}
	}
}

// await waits until the client speaks. Who does not costs a small stack until
// then, and neither a Config nor a buffer.
func (l *Listener) await(a *attempt) error {
	select {
	case <-l.done: // Close did not see this attempt
		a.giveUp(net.ErrClosed)
	default:
	}
	a.Conn.SetDeadline(time.Now().Add(l.timeout))
	a.ulp, a.why = attachKernel(a.Conn, l.opt)
	return a.hello()
}

// handshake goes on from what await returned.
func (l *Listener) handshake(a *attempt, err error) {
	defer l.end(a)
	var r handover.Result
	if err == nil {
		r, err = handover.Server(context.Background(), a.Conn, a, l.config)
	}
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok && e.Conn != nil {
		l.answerPlaintext(a, e.RecordHeader)
	}
	c, err := newConn(a.Conn, a.ulp, a.why, r, err, l.opt, false)
	if err == nil {
		err = a.Conn.SetDeadline(time.Time{})
	}
	if err != nil || !a.finish() {
		if given := a.given.Load(); given != nil {
			err = *given
		}
		if c != nil {
			c.Close()
		}
		if !errors.Is(err, net.ErrClosed) {
			l.report(a.Conn.RemoteAddr(), err)
		}
		return
	}
	select {
	case l.ready <- c:
	case <-l.done:
		c.Close()
	}
}

// answerPlaintext answers a client that does not speak TLS, and reads what it
// still sends: closing with something unread would reset the connection, and
// the answer with it.
func (l *Listener) answerPlaintext(a *attempt, first [5]byte) {
	f := l.plaintext.Load()
	if f == nil {
		return
	}
	answer := (*f)(first)
	if len(answer) == 0 {
		return
	}
	a.Conn.SetDeadline(time.Now().Add(answerTimeout))
	if _, err := a.Conn.Write(answer); err != nil {
		return
	}
	if half, ok := a.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		io.CopyN(io.Discard, a, answerDrain)
	}
}
