package pump

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Datagrams is an endpoint of datagrams: what an association of DTLS is. One goroutine
// calls WaitRead and ReadBatch, one WriteBatch and CloseWrite, and Close may come at
// any time. An error ends the direction: what an association goes on after is not
// returned.
type Datagrams interface {
	// WaitRead waits until ReadBatch would not. It is io.EOF at the peer's clean end.
	WaitRead() error

	// ReadBatch reads messages, one into each of bufs, and their sizes.
	ReadBatch(bufs [][]byte, sizes []int) (n int, err error)

	// WriteBatch sends messages. What the path does not take is lost.
	WriteBatch(messages [][]byte) error

	// CloseWrite sends the clean end.
	CloseWrite() error

	// Close ends the endpoint for every other call, which it interrupts.
	Close() error
}

// DatagramPump moves messages between an endpoint and a plaintext end, in both
// directions. What the peer sends and the program has no room for is lost, as in
// every datagram socket, and the pump never waits for the program.
type DatagramPump struct {
	d   Datagrams
	end *End

	lost     atomic.Uint64
	failure  atomic.Pointer[error]
	closing  sync.Once
	stopping atomic.Bool
	sent     chan struct{} // the sending side is over
	over     chan struct{} // Run is over
}

// NewDatagrams returns a pump that owns both; the end is of [NewDatagramPair].
func NewDatagrams(d Datagrams, end *End) *DatagramPump {
	return &DatagramPump{d: d, end: end, sent: make(chan struct{}), over: make(chan struct{})}
}

// Lost is how many messages of the peer the program had no room for.
func (p *DatagramPump) Lost() uint64 { return p.lost.Load() }

// Failure is what the pump ended of, nil while it lives and at a clean end. It is known
// before the program can see the error.
func (p *DatagramPump) Failure() error {
	if err := p.failure.Load(); err != nil {
		return *err
	}
	return nil
}

func (p *DatagramPump) failed(err error) { p.failure.CompareAndSwap(nil, &err) }

// Run is that of [Pump].
func (p *DatagramPump) Run() (send, receive error) {
	defer close(p.over)
	p.rewait()
	go func() {
		defer close(p.sent)
		send = p.send()
	}()
	receive = p.receive()
	<-p.sent
	if p.stopping.Load() {
		return send, receive
	}
	if send == nil && (receive == nil || p.end.Gone() && isEnded(receive)) {
		p.closing.Do(func() {
			p.d.Close()
			p.end.closeDatagrams()
		})
	} else {
		p.Close()
	}
	return send, receive
}

// Close ends the pump at once. The program sees an error.
func (p *DatagramPump) Close() {
	p.closing.Do(func() {
		p.d.Close() // first: it ends the calls that hold the end
		p.end.Close()
	})
}

// Stop ends Run without closing anything. What the program wrote is sent; then
// detach has the endpoint return from WaitRead for good.
func (p *DatagramPump) Stop(detach func()) {
	p.stopping.Store(true)
	p.end.Wake()
	<-p.sent
	detach()
	<-p.over
}

// rewait lets the end be waited for again behind a Wake, but for that of Stop.
func (p *DatagramPump) rewait() {
	p.end.f.SetReadDeadline(time.Time{})
	if p.stopping.Load() {
		p.end.Wake()
	}
}

// lastTurns is how many batches of a program that never stops writing are sent after
// Stop: more than its queue holds.
const lastTurns = 64

// send moves what the program writes.
func (p *DatagramPump) send() error {
	var err error
	turns := 0
	try := func() bool {
		for {
			n, e := p.sendBatch()
			if err = e; err != nil || p.end.Ended() {
				return true
			}
			if n == 0 {
				return false
			}
			if p.stopping.Load() {
				if turns++; turns > lastTurns {
					return true
				}
			}
		}
	}
	for {
		waitErr := p.end.wait(try)
		if p.stopping.Load() {
			if errors.Is(waitErr, os.ErrDeadlineExceeded) {
				try() // the last look
			}
			return ErrStopped
		}
		if err == nil && errors.Is(waitErr, os.ErrDeadlineExceeded) {
			p.rewait()
			continue
		}
		if err == nil {
			err = waitErr
		}
		break
	}
	if err == nil {
		err = p.d.CloseWrite()
	}
	if err != nil {
		p.failed(err)
	}
	if err != nil && (errors.Is(err, ErrTooLong) || p.end.Gone()) {
		p.Close()
		return err
	}
	if err != nil {
		p.end.Refuse() // what the peer sends is still worth reading
		return err
	}
	for {
		p.rewait()
		if p.stopping.Load() {
			return ErrStopped
		}
		if err := p.end.gone(); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	p.d.Close()
	return nil
}

// sendBatch sends what one call brings of what the program wrote.
func (p *DatagramPump) sendBatch() (n int, err error) {
	m := batches.Get().(*messages)
	defer m.release()
	if err := p.end.takeMessages(m); err != nil {
		return 0, err
	}
	if m.n > 0 {
		if err := p.d.WriteBatch(m.list[:m.n]); err != nil {
			return 0, err
		}
	}
	if m.long {
		return 0, ErrTooLong
	}
	return m.n, nil
}

// receive moves what the peer sends.
func (p *DatagramPump) receive() error {
	for {
		err := p.d.WaitRead()
		if err == nil {
			err = p.receiveBatch()
		}
		switch {
		case err == nil:
		case p.stopping.Load():
			return ErrStopped
		case err == io.EOF:
			return p.end.Finish()
		default:
			if !isEnded(err) {
				p.failed(err)
				p.Close()
			}
			return err
		}
	}
}

// receiveBatch gives the program the messages that are there. An empty one would be
// the end to it, and is left out.
func (p *DatagramPump) receiveBatch() error {
	m := batches.Get().(*messages)
	defer m.release()
	n, err := p.d.ReadBatch(m.slots[:], m.sizes[:])
	if err != nil {
		return err
	}
	m.touched = n
	for i, size := range m.sizes[:n] {
		if size > 0 {
			m.list[m.n] = m.slots[i][:size]
			m.n++
		}
	}
	given, err := p.end.giveMessages(m)
	p.lost.Add(uint64(m.n - given))
	return err
}
