package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/aftls/aftls/record"
)

// segmentLen is how many bytes of a stream come at once: the payload of a TCP
// segment on Ethernet.
const segmentLen = 1448

// traffic is what a client sends in one repetition.
type traffic struct {
	size     int // of a message, bytes
	kind     byte
	count    int
	rate     float64       // messages per second, with exponential pauses; 0: as fast as they are answered
	inflight int           // then so many at once
	gap      time.Duration // between two segments of a connection
}

// outcome is what came of it. Times are in microseconds, from the moment at which
// the last segment of a message was due: a client that is late, or a server that
// is, does not make it shorter. The slow messages are not in fast.
type outcome struct {
	all, fast []float64
	wall      time.Duration
}

// messageClient has connections to one server. It waits for nothing: it asks the
// clock and the connections in turns, on the CPU that it has.
type messageClient struct {
	flows []*flow
	runs  uint64 // and so the servers of a row get the same messages
}

// flow is a connection of the client.
type flow struct {
	*rawConn
	waiting []int  // numbers of messages, in order
	bytes   []byte // of the message under way, as they are sent
	at      int
	due     int64 // when the next segment is, ns
	free    int64 // when the next message may begin
}

func (r *runner) messageClient(s *process, cfg messageConfig) (*messageClient, error) {
	c := new(messageClient)
	for range cfg.conns {
		conn, err := r.dial(s)
		if err != nil {
			c.close()
			return nil, err
		}
		config := r.clientConfig()
		if !cfg.tls {
			config = nil
		}
		raw, err := newRawConn(r.ctx, conn, config, true)
		if err != nil {
			c.close()
			return nil, err
		}
		if raw.sealer != nil {
			r.suite(raw.sealer.Keys().Suite)
		}
		c.flows = append(c.flows, &flow{rawConn: raw})
	}
	return c, s.wait("handshakes", int64(cfg.conns))
}

func (c *messageClient) close() {
	if c == nil {
		return
	}
	for _, f := range c.flows {
		f.file.Close()
	}
}

// run sends and waits for every answer.
func (c *messageClient) run(t traffic) (*outcome, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.runs++
	rng := rand.New(rand.NewPCG(c.runs, 0))
	begin := time.Now()
	clock := func() int64 { return int64(time.Since(begin)) }
	for _, f := range c.flows {
		f.free = 0
	}
	var (
		start   = make([]int64, t.count) // when each is to begin
		due     = make([]int64, t.count) // and its last segment
		slow    = make([]bool, t.count)
		out     = &outcome{all: make([]float64, 0, t.count), fast: make([]float64, 0, t.count)}
		message = make([]byte, t.size)
		sent    int
		moved   = int64(0) // when anything last was
		arrival = 0.0
	)
	for i := range message {
		message[i] = byte(rng.Uint32())
	}
	for i := range slow {
		slow[i] = t.kind == kindFast && rng.IntN(slowOne) == 0
		arrival += rng.ExpFloat64()
		if t.rate > 0 {
			start[i] = int64(arrival / t.rate * 1e9)
		}
	}
	for len(out.all) < t.count {
		now := clock()
		for sent < t.count && (t.rate > 0 && start[sent] <= now || t.rate == 0 && sent-len(out.all) < t.inflight) {
			if t.rate == 0 {
				start[sent] = now
			}
			f := c.flows[sent%len(c.flows)]
			f.waiting = append(f.waiting, sent)
			sent++
		}
		for _, f := range c.flows {
			for {
				if f.at == len(f.bytes) {
					if len(f.waiting) == 0 {
						break
					}
					id := f.waiting[0]
					f.waiting = f.waiting[:copy(f.waiting, f.waiting[1:])]
					kind := t.kind
					if slow[id] {
						kind = kindSlow
					}
					if err := f.load(message, id, kind); err != nil {
						return nil, err
					}
					f.due = max(start[id], f.free)
					due[id] = f.due + int64((len(f.bytes)-1)/segmentLen)*int64(t.gap)
					f.free = f.due + int64(len(f.bytes))*int64(t.gap)/segmentLen
				}
				if f.due > now {
					break
				}
				n, err := syscall.Write(f.fd, f.bytes[f.at:min(f.at+segmentLen, len(f.bytes))])
				if err == syscall.EAGAIN || err == syscall.EINTR {
					break
				}
				if err != nil {
					return nil, os.NewSyscallError("write", err)
				}
				f.at += n
				f.due += int64(t.gap)
				moved = now
			}
		}
		for _, f := range c.flows {
			n, err := f.fill()
			if err != nil {
				return nil, fmt.Errorf("the server ended the connection: %w", err)
			}
			if n == 0 {
				continue
			}
			now := clock()
			moved = now
			n = whole(f.plain)
			for m := f.plain[:n]; len(m) > 0; m = m[answerLen:] {
				id := int(binary.BigEndian.Uint64(m[4:]))
				if len(m) < answerLen || binary.BigEndian.Uint32(m) != answerLen-4 || id < 0 || id >= t.count || due[id] < 0 {
					return nil, errors.New("an answer is not one to what was sent")
				}
				took := float64(now-due[id]) / 1e3
				out.all = append(out.all, took)
				if !slow[id] {
					out.fast = append(out.fast, took)
				}
				due[id] = -1
			}
			f.plain = f.plain[:copy(f.plain, f.plain[n:])]
		}
		if time.Duration(now-moved) > time.Minute {
			return nil, fmt.Errorf("%d of %d messages were answered, and nothing more comes", len(out.all), t.count)
		}
	}
	out.wall = time.Since(begin)
	slices.Sort(out.all)
	slices.Sort(out.fast)
	return out, nil
}

// load makes message the next that is sent.
func (f *flow) load(message []byte, id int, kind byte) (err error) {
	binary.BigEndian.PutUint32(message, uint32(len(message)-4))
	binary.BigEndian.PutUint64(message[4:], uint64(id))
	message[kindAt] = kind
	binary.BigEndian.PutUint64(message[bodyAt:], uint64(id)) // no two sums are alike
	body, sum := message[bodyAt:len(message)-sumLen], message[len(message)-sumLen:]
	binary.BigEndian.PutUint32(sum, crc32.ChecksumIEEE(body))
	f.bytes, f.at = f.bytes[:0], 0
	if f.sealer == nil {
		f.bytes = append(f.bytes, message...)
		return nil
	}
	for len(message) > 0 {
		n := min(len(message), record.MaxPlaintext)
		if f.bytes, err = f.sealer.Seal(f.bytes, record.ApplicationData, message[:n]); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

// percentile is the smallest of xs, which are sorted, that a part q of them does
// not exceed.
func percentile(xs []float64, q float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	return xs[min(int(q*float64(len(xs))), len(xs)-1)]
}
