package filter

import (
	"io"
	"net"
	"sync"
	"time"
)

// backlog is how many bytes of a Tap may wait for its writer. A capture never
// holds up a connection: what has no place is dropped and counted.
const backlog = 4 << 20

// maxSegment is how many bytes of payload a packet has at most: with its headers
// a length has to fit 16 bits.
const maxSegment = 32 << 10

// TapOptions say what a Tap captures. The zero value captures all.
type TapOptions struct {
	// Filter says which packets are written, and with results above 0 how many
	// bytes of each, as with tcpdump. REDIRECT and SELECT count as PASS, KILL
	// as DROP: a Tap changes nothing. A program with the view Payload is run on
	// the payload. nil is all.
	Filter *Program

	// SnapLen is how many bytes of a packet are kept, headers included. 0 is all.
	SnapLen int

	// Comment says in words what the Filter is; it goes into the file.
	Comment string
}

// Tap is a capture in the format pcapng: what passes on connections, as packets
// of TCP that never were on a wire. Addresses, ports and the order of bytes are
// those of the connection, packets are what was sent and received at once.
// tcpdump -r, tshark and Wireshark read it. All methods may be called by any
// number of goroutines at once.
type Tap struct {
	opt  TapOptions
	snap int

	mu     sync.Mutex
	buf    []byte // waits for the writer
	stats  TapStats
	err    error
	closed bool

	wake chan struct{}
	done chan struct{}
}

// TapStats counts packets.
type TapStats struct {
	Packets  uint64 // written, or about to be
	Filtered uint64 // that the filter did not want
	Dropped  uint64 // that had no place, since w was too slow
}

// NewTap starts a capture that is written to w, by a goroutine that ends with
// Close or with the first error of w. w stays the caller's to close. It holds
// the plaintext of whatever is tapped: see to it that nobody else reads it.
func NewTap(w io.Writer, opt TapOptions) *Tap {
	t := &Tap{opt: opt, snap: opt.SnapLen, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if t.snap <= 0 || t.snap > headerLen6+maxSegment {
		t.snap = headerLen6 + maxSegment
	}
	t.buf = appendSection(nil, uint32(t.snap), opt.Comment)
	go t.write(w)
	t.kick()
	return t
}

func (t *Tap) kick() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// write is the writer.
func (t *Tap) write(w io.Writer) {
	defer close(t.done)
	var spare []byte
	for range t.wake {
		t.mu.Lock()
		if t.closed && t.err == nil {
			t.buf = appendStatistics(t.buf, time.Now().UnixNano(), t.stats)
		}
		b, last := t.buf, t.closed
		t.buf = spare[:0]
		t.mu.Unlock()
		if len(b) > 0 {
			n, err := w.Write(b)
			if err == nil && n < len(b) {
				err = io.ErrShortWrite
			}
			if err != nil {
				t.mu.Lock()
				t.err, t.buf = err, nil
				t.mu.Unlock()
				return
			}
		}
		if last {
			return
		}
		spare = b
	}
}

// Close ends the capture: it waits until everything is written, and returns the
// first error of the writer. Flows of the Tap go on without being captured.
func (t *Tap) Close() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.kick()
	<-t.done
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Done is closed when the capture has ended: by Close, or by an error of its
// writer, which Close returns.
func (t *Tap) Done() <-chan struct{} { return t.done }

// Stats returns the counters.
func (t *Tap) Stats() TapStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stats
}

// KeyLog returns a writer for the lines of a TLS key log, as the KeyLogWriter of
// crypto/tls writes them: with it a reader of the file decrypts TLS that is
// captured as it is. Lines have to come before the bytes that they are for.
func (t *Tap) KeyLog() io.Writer { return keyLog{t} }

type keyLog struct{ t *Tap }

func (k keyLog) Write(p []byte) (int, error) {
	t := k.t
	t.mu.Lock()
	defer t.mu.Unlock()
	// An error would end the handshake.
	if t.err == nil && !t.closed && len(t.buf)+len(p) <= backlog {
		t.buf = appendSecrets(t.buf, p)
		t.kick()
	}
	return len(p), nil
}

// Flow is a connection in a Tap. All methods may be called by any number of
// goroutines at once; the order of the calls is the order in the file.
type Flow struct {
	tap     *Tap
	out, in half
	closed  bool
}

// half is a direction. It is under Tap.mu.
type half struct {
	head      Header
	seq       uint32
	direction uint32
}

// Flow begins the capture of a connection, with the packets that open one in
// TCP. client says that local has opened it.
func (t *Tap) Flow(local, remote net.Addr, client bool) *Flow {
	f := &Flow{tap: t}
	f.out.direction, f.in.direction = outbound, inbound
	l, r := addrPort(local), addrPort(remote)
	f.out.head.init(l, r)
	f.in.head.init(r, l)
	opens, answers := &f.in, &f.out
	if client {
		opens, answers = answers, opens
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.packet(opens, answers, flagSYN, nil)
	f.packet(answers, opens, flagSYN|flagACK, nil)
	f.packet(opens, answers, flagACK, nil)
	return f
}

// Sent captures what local sent. b is not kept.
func (f *Flow) Sent(b []byte) { f.data(&f.out, &f.in, b) }

// Received captures what came from remote. b is not kept.
func (f *Flow) Received(b []byte) { f.data(&f.in, &f.out, b) }

func (f *Flow) data(from, to *half, b []byte) {
	f.tap.mu.Lock()
	defer f.tap.mu.Unlock()
	for len(b) > 0 && !f.closed {
		n := min(len(b), maxSegment)
		f.packet(from, to, flagPSH|flagACK, b[:n])
		b = b[n:]
	}
}

// Close ends the capture of the connection, with the packets that close one.
func (f *Flow) Close() {
	f.tap.mu.Lock()
	defer f.tap.mu.Unlock()
	if f.closed {
		return
	}
	f.packet(&f.out, &f.in, flagFIN|flagACK, nil)
	f.packet(&f.in, &f.out, flagFIN|flagACK, nil)
	f.packet(&f.out, &f.in, flagACK, nil)
	f.closed = true
}

// packet captures a packet. tap.mu is held.
func (f *Flow) packet(from, to *half, flags byte, payload []byte) {
	t := f.tap
	seq, ack := from.seq, to.seq
	if from.seq += uint32(len(payload)); flags&(flagSYN|flagFIN) != 0 {
		from.seq++
	}
	if flags&flagACK == 0 {
		ack = 0
	}
	if t.closed || t.err != nil {
		return
	}
	head := from.head.sized(len(payload))
	total := len(head) + len(payload)
	keep := min(total, t.snap)
	if need := len(t.buf) + packetBlockLen(keep); need > backlog {
		t.stats.Dropped++
		return
	}
	from.head.segment(seq, ack, flags, payload)
	if p := t.opt.Filter; p != nil {
		result, n := p.run(&from.head, payload)
		v := decode(result, n, len(payload))
		switch v.Action {
		case Drop, Kill:
			t.stats.Filtered++
			return
		case Truncate: // the result counts what the program saw
			keep = min(keep, int(min(result, uint32(total)))+len(head)-int(n))
		}
	}
	t.stats.Packets++
	t.buf = appendPacket(t.buf, time.Now().UnixNano(), head, payload, keep, from.direction)
	t.kick()
}

// Conn returns c as it is, with its bytes captured both ways: for TLS this is
// ciphertext, which KeyLog makes readable. client says that c was opened from
// here. Closing it closes c.
func (t *Tap) Conn(c net.Conn, client bool) net.Conn {
	return &tapped{Conn: c, flow: t.Flow(c.LocalAddr(), c.RemoteAddr(), client)}
}

// tapped hides what else c can do: no byte passes by the capture.
type tapped struct {
	net.Conn
	flow *Flow

	// What was read last is captured when something is done next: secrets that
	// come of it have to stand in front of it, for Wireshark looks for them when
	// it meets a ChangeCipherSpec.
	mu   sync.Mutex
	last []byte
}

func (c *tapped) captureLast() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flow.Received(c.last)
	c.last = c.last[:0]
}

func (c *tapped) Read(p []byte) (int, error) {
	c.captureLast()
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	c.last = append(c.last, p[:n]...)
	c.mu.Unlock()
	return n, err
}

func (c *tapped) Write(p []byte) (int, error) {
	c.captureLast()
	n, err := c.Conn.Write(p)
	c.flow.Sent(p[:n])
	return n, err
}

func (c *tapped) Close() error {
	c.captureLast()
	c.flow.Close()
	return c.Conn.Close()
}

// CloseWrite is that of the connection; where it has none nothing happens.
func (c *tapped) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
