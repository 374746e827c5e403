package kcm_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls/kcm"
)

// The simulation runs a mux between seeded connections and endpoints on a fake
// clock. Each client sends numbered messages in pieces; endpoints answer them
// after a time, in any way that there is; a controller disables, closes and
// clones endpoints, moves connections out of the mux and in again, and changes
// filters. What has to hold:
//
//   - a client that keeps to the protocol gets each of its messages answered
//     once, and then the end of the stream; its connection ends with io.EOF;
//   - a client that does not makes its connection end with the error that says
//     so, and nothing else;
//   - while everybody waits, no endpoint is parked as long as a message could
//     be taken, and no more messages and bytes wait than may;
//   - an endpoint that asks sees the messages of a connection in order, unless
//     a filter or a closed endpoint moved some;
//   - afterwards no buffer is borrowed and no goroutine is left.
//
// KCM_SEED=n runs one seed, KCM_SEEDS=n the first n.

func TestSimulation(t *testing.T) {
	seeds, from := uint64(100), uint64(1)
	if testing.Short() {
		seeds = 60
	}
	for name, v := range map[string]*uint64{"KCM_SEEDS": &seeds, "KCM_SEED": &from} {
		if s := os.Getenv(name); s != "" {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if *v = n; name == "KCM_SEED" {
				seeds = n
			}
		}
	}
	endings := make(map[string]int)
	for seed := from; seed <= seeds; seed++ {
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newSim(t, seed).run(endings) })
			if n := kcm.Borrowed(); n != 0 {
				t.Errorf("%d buffers are still borrowed", n)
			}
		})
		if !ok {
			t.Fatalf("replay with KCM_SEED=%d go test -run TestSimulation", seed)
		}
	}
	t.Log(endings)
	for _, e := range []string{"clean", "garbage", "too long", "stall", "truncated", "deaf", "moved", "paused"} {
		if seeds-from >= 50 && endings[e] == 0 {
			t.Errorf("no seed came to %q", e)
		}
	}
}

type sim struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	cfg     kcm.Config
	mux     *kcm.Mux
	moves   bool // messages may come out of order
	slow    time.Duration
	clients []*simClient
	serving sync.WaitGroup

	mu        sync.Mutex
	endpoints []*kcm.Endpoint
	stopped   bool
	byConn    map[*kcm.Conn]*simClient
	moved     int
}

// simClient is the peer of one connection.
type simClient struct {
	*sim
	n     int
	kind  string
	rng   *rand.Rand
	conn  simConn
	total int // messages that it sends
	piece int // what one read of the mux brings at most
	kcm   *kcm.Conn
	end   error // of the mux's side
	ended bool

	got   map[uint32]int // answers, by number
	lost  int            // answers that came after Detach
	rdErr error
	wg    sync.WaitGroup
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), byConn: make(map[*kcm.Conn]*simClient)}
	pick := func(v ...int) int { return v[s.rng.IntN(len(v))] }
	s.cfg = kcm.Config{MaxMessage: pick(3000, 70000, 1<<20), Queue: pick(1, 2, 10, 256), AssemblyTimeout: time.Minute, SendTimeout: time.Minute}
	s.cfg.Ended = func(c *kcm.Conn, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if k := s.byConn[c]; k.ended {
			t.Errorf("client %d ended twice: %v, %v", k.n, k.end, err)
		} else {
			k.end, k.ended = err, true
		}
	}
	s.mux = kcm.New(s.cfg)
	s.moves = s.rng.IntN(2) == 0
	s.slow = time.Duration(pick(0, 1, 20)) * time.Millisecond
	return s
}

func (s *sim) run(endings map[string]int) {
	for range 1 + s.rng.IntN(6) {
		s.addEndpoint(nil)
	}
	for n := range 1 + s.rng.IntN(5) {
		s.addClient(n)
	}
	for range 5 + s.rng.IntN(30) {
		time.Sleep(time.Duration(s.rng.Int64N(int64(30 * time.Millisecond))))
		s.step()
		synctest.Wait()
		s.inspect()
	}
	for _, c := range s.clients {
		c.wg.Wait()
	}
	time.Sleep(10 * time.Minute) // everything that has a time limit comes to it
	synctest.Wait()
	s.inspect()
	for _, c := range s.clients {
		c.check()
		endings[c.kind]++
	}
	n := s.mux.Stats()
	if n.Wakeups > n.Messages {
		s.t.Errorf("%d wake-ups for %d messages", n.Wakeups, n.Messages)
	}
	if n.Pauses > 0 {
		endings["paused"]++
	}
	endings["moved"] += s.moved
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.mux.Close()
	s.serving.Wait()
	for _, c := range s.clients {
		c.conn.Close()
	}
}

// addEndpoint starts an endpoint, or a clone of one, and a goroutine for it.
func (s *sim) addEndpoint(of *kcm.Endpoint) {
	var e *kcm.Endpoint
	var err error
	if of == nil {
		e, err = s.mux.Endpoint()
	} else {
		e, err = of.Clone()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.endpoints = append(s.endpoints, e)
	n := len(s.endpoints)
	s.mu.Unlock()
	rng := rand.New(rand.NewPCG(s.seed, 1000+uint64(n)+s.rng.Uint64()))
	s.serving.Go(func() { s.serve(e, rng) })
}

// serve answers messages until the endpoint is closed.
func (s *sim) serve(e *kcm.Endpoint, rng *rand.Rand) {
	var own []byte
	last := make(map[*kcm.Conn]uint32)
	for {
		var m kcm.Message
		var err error
		if rng.IntN(3) == 0 {
			if own, m.Conn, err = e.ReadMsgInto(own); err == nil {
				m.Data = own
			}
		} else {
			m, err = e.RecvMsg()
		}
		if err == kcm.ErrReceiveDisabled {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			if err != net.ErrClosed {
				s.t.Errorf("RecvMsg: %v", err)
			}
			return
		}
		number, ok := unpack(m.Data)
		if !ok {
			s.t.Errorf("a damaged message of %d bytes", len(m.Data))
			continue
		}
		if l, ok := last[m.Conn]; ok && number <= l && !s.moves {
			s.t.Errorf("message %d comes after %d", number, l)
		}
		last[m.Conn] = number
		if s.slow > 0 {
			time.Sleep(time.Duration(rng.Int64N(int64(s.slow))))
		}
		if _, ok := unpack(m.Data); !ok {
			s.t.Errorf("message %d changed under the eyes of its endpoint", number)
		}
		if err := e.SendMsg(m.Conn, m.Data); err == kcm.ErrDetached {
			s.mu.Lock()
			s.byConn[m.Conn].lost++ // it had left, and its answer had not
			s.mu.Unlock()
		}
	}
}

// pack makes a message of at least 12 bytes: length, number, checksum, filling.
func pack(number uint32, size int, rng *rand.Rand) []byte {
	b := make([]byte, max(12, size))
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	binary.BigEndian.PutUint32(b[4:], number)
	for i := 12; i < len(b); i += 97 {
		b[i] = byte(rng.Uint32())
	}
	binary.BigEndian.PutUint32(b[8:], crc32.ChecksumIEEE(b[12:])^number)
	return b
}

func unpack(b []byte) (number uint32, ok bool) {
	if len(b) < 12 || int(binary.BigEndian.Uint32(b)) != len(b) {
		return 0, false
	}
	number = binary.BigEndian.Uint32(b[4:])
	return number, crc32.ChecksumIEEE(b[12:])^number == binary.BigEndian.Uint32(b[8:])
}

// framer frames what pack makes.
func (s *sim) framer() kcm.Framer {
	return kcm.FramerFunc(func(head []byte) (int, error) {
		if len(head) < 4 {
			return len(head) - 4, nil
		}
		n := int(binary.BigEndian.Uint32(head))
		if n < 12 {
			return 0, errGarbage
		}
		return n, nil
	})
}

var errGarbage = errors.New("garbage")

func (s *sim) addClient(n int) {
	kinds := []string{"clean", "clean", "clean", "garbage", "too long", "stall", "truncated", "deaf", "closed"}
	rng := rand.New(rand.NewPCG(s.seed, 100+uint64(n)))
	c := &simClient{sim: s, n: n, rng: rng, kind: kinds[rng.IntN(len(kinds))], got: make(map[uint32]int)}
	c.piece = []int{1, 10, 1000, 100000}[rng.IntN(4)]
	c.total = rng.IntN(100)
	switch c.kind {
	case "deaf":
		c.total = 1000 // of 1000 bytes: more than the window and what may wait
		c.piece = max(c.piece, 1000)
	case "closed":
		c.total++
	}
	client, server := newSimPair(s.seed+uint64(n)<<32, 1+rng.IntN(100000), c.piece)
	c.conn = client
	var nc net.Conn = server
	if rng.IntN(2) == 0 {
		nc = waitConn{server}
	}
	s.attach(c, nc)
	s.clients = append(s.clients, c)
	c.wg.Go(c.write)
	if c.kind != "deaf" {
		c.wg.Go(c.read)
	}
}

// attach attaches nc for c. The lock is held over it, since messages may come
// at once.
func (s *sim) attach(c *simClient, nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.mux.Attach(nc, s.framer())
	if err != nil {
		s.t.Error(err)
		return
	}
	s.byConn[k], c.kcm = c, k
	if s.moves && s.rng.IntN(3) == 0 {
		to := s.endpoints[s.rng.IntN(len(s.endpoints))]
		k.SetFilter(func(m []byte) kcm.Verdict { return kcm.Verdict{Keep: len(m), To: to} })
	}
}

// send writes b in pieces, with pauses.
func (c *simClient) send(b []byte) bool {
	for len(b) > 0 {
		n := 1 + c.rng.IntN(min(len(b), []int{1, 20, 2000, 100000}[c.rng.IntN(4)]))
		if len(b) > 2000 {
			n = len(b)
		}
		if _, err := c.conn.Write(b[:n]); err != nil {
			return false
		}
		if b = b[n:]; c.rng.IntN(10) == 0 {
			time.Sleep(time.Duration(c.rng.Int64N(int64(5 * time.Millisecond))))
		}
	}
	return true
}

// write sends all messages and comes to the ending.
func (c *simClient) write() {
	for i := range c.total {
		size := c.rng.IntN(100)
		if c.rng.IntN(20) == 0 {
			size = c.rng.IntN(c.cfg.MaxMessage + 1)
			size = min(size, 200000, 1000*c.piece)
		}
		if c.kind == "deaf" {
			size = 1000
		}
		if !c.send(pack(uint32(i), size, c.rng)) {
			if c.kind != "deaf" {
				c.t.Errorf("client %d (%s) cannot write message %d", c.n, c.kind, i)
			}
			return
		}
	}
	switch c.kind {
	case "clean":
		c.conn.CloseWrite()
	case "garbage":
		c.send([]byte{0, 0, 0, 11})
	case "too long":
		c.send(binary.BigEndian.AppendUint32(nil, uint32(c.cfg.MaxMessage+1)))
	case "stall":
		c.send(pack(0, 100, c.rng)[:50])
	case "truncated":
		c.send(pack(0, 100, c.rng)[:50])
		c.conn.CloseWrite()
	}
}

// read takes the answers.
func (c *simClient) read() {
	rng := rand.New(rand.NewPCG(c.seed, 300+uint64(c.n)))
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(c.conn, head); err != nil {
			c.rdErr = err
			return
		}
		b := make([]byte, binary.BigEndian.Uint32(head))
		copy(b, head)
		if _, err := io.ReadFull(c.conn, b[4:]); err != nil {
			c.rdErr = err
			return
		}
		number, ok := unpack(b)
		if !ok {
			c.t.Errorf("client %d: a damaged answer", c.n)
		}
		c.got[number]++
		if rng.IntN(10) == 0 {
			time.Sleep(time.Duration(rng.Int64N(int64(3 * time.Millisecond))))
		}
		if c.kind == "closed" && len(c.got) == c.total {
			c.rdErr = io.EOF
			c.kcm.Close()
			return
		}
	}
}

// step is one deed of the controller.
func (s *sim) step() {
	s.mu.Lock()
	e := s.endpoints[s.rng.IntN(len(s.endpoints))]
	s.mu.Unlock()
	c := s.clients[s.rng.IntN(len(s.clients))]
	if !s.moves {
		return
	}
	switch s.rng.IntN(6) {
	case 0:
		e.ReceiveDisable(true)
		time.Sleep(time.Duration(s.rng.Int64N(int64(3 * time.Millisecond))))
		e.ReceiveDisable(false)
	case 1:
		if len(s.endpoints) < 12 {
			// Closed while it has a message, it could not answer it.
			s.addEndpoint(e)
			e.ReceiveDisable(true)
			time.Sleep(2 * s.slow)
			e.Close()
		}
	case 2:
		c.kcm.SetFilter(nil)
	case 3:
		c.kcm.SetFilter(func(m []byte) kcm.Verdict { return kcm.Verdict{Keep: len(m), To: e} })
	case 4:
		s.move(c)
	}
}

// move takes a connection out of the mux and attaches it again.
func (s *sim) move(c *simClient) {
	if c.kind == "deaf" || c.kind == "closed" { // it would wait for what is not read, or the test's Close be lost
		return
	}
	nc, rest, err := c.kcm.Detach()
	if err != nil {
		return // it has ended
	}
	s.moved++
	s.attach(c, &behind{nc, rest})
}

// inspect looks at the mux while everybody waits.
func (s *sim) inspect() {
	if parked, ready := s.mux.Idle(); parked > 0 && ready > 0 {
		s.t.Errorf("%d endpoints wait, and %d connections have messages", parked, ready)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		messages, bytes := c.kcm.Waiting()
		if messages > s.cfg.Queue+len(s.endpoints) || bytes > 2*s.cfg.MaxMessage || messages < 0 || bytes < 0 {
			s.t.Errorf("client %d: %d messages of %d bytes wait", c.n, messages, bytes)
		}
	}
}

// check is made when everything has ended.
func (c *simClient) check() {
	t := c.t
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		t.Errorf("client %d (%s) has not ended; it got %d answers of %d", c.n, c.kind, len(c.got), c.total)
		return
	}
	for number, n := range c.got {
		if n != 1 || int(number) >= c.total {
			t.Errorf("client %d (%s) got answer %d %d times", c.n, c.kind, number, n)
		}
	}
	var fe *kcm.FrameError
	var long *kcm.TooLongError
	var stall *kcm.StallError
	var cut *kcm.TruncatedError
	var deaf *kcm.SlowPeerError
	var right bool
	switch c.kind {
	case "clean":
		right = c.end == io.EOF
		if len(c.got)+c.lost != c.total || c.rdErr != io.EOF {
			t.Errorf("client %d got %d answers of %d, and then %v", c.n, len(c.got), c.total, c.rdErr)
		}
	case "garbage":
		right = errors.As(c.end, &fe) && errors.Is(c.end, errGarbage)
	case "too long":
		right = errors.As(c.end, &long) && long.Size == c.cfg.MaxMessage+1
	case "stall":
		right = errors.As(c.end, &stall) && stall.Have == 50
		if len(c.got)+c.lost != c.total {
			t.Errorf("client %d got %d answers of %d", c.n, len(c.got), c.total)
		}
	case "truncated":
		right = errors.As(c.end, &cut) && cut.Have == 50
	case "deaf":
		right = errors.As(c.end, &deaf)
	case "closed":
		right = c.end == net.ErrClosed
	}
	if !right {
		t.Errorf("client %d (%s) ended with %v", c.n, c.kind, c.end)
	}
}
