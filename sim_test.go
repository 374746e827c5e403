package aftls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// The simulation runs two Conns over a seeded link on a fake clock. On each end
// one goroutine writes and one reads, whatever they feel like; a controller
// sets deadlines, detaches, resumes, closes and cuts. The model is simple: the
// bytes of a direction are known from their position in the stream, so
//
//   - what is read is always the next part of what was committed;
//   - a clean end brings all of it and then io.EOF, any other end a part of it
//     and then TruncatedError, never io.EOF;
//   - the wire shows every record under a number of its own.
//
// AFTLS_SEED=n runs one seed, AFTLS_SEEDS=n the first n.

// pattern is the content of every stream: the byte at offset i is pattern[i%len].
var pattern = func() []byte {
	b := make([]byte, 65521) // a prime: no record or buffer size divides it
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}()

// patternAt returns n bytes of the stream from offset.
func patternAt(offset int64, n int) []byte {
	b := make([]byte, 0, n)
	for at := int(offset % int64(len(pattern))); len(b) < n; at = 0 {
		b = append(b, pattern[at:min(len(pattern), at+n-len(b))]...)
	}
	return b
}

func TestSimulation(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 60
	}
	from := uint64(1)
	if v := os.Getenv("AFTLS_SEEDS"); v != "" {
		seeds = parseSeed(t, v)
	}
	if v := os.Getenv("AFTLS_SEED"); v != "" {
		from = parseSeed(t, v)
		seeds = from
	}
	path := filepath.Join(t.TempDir(), "pattern")
	if err := os.WriteFile(path, patternAt(0, 40*len(pattern)), 0o600); err != nil {
		t.Fatal(err)
	}
	ccfg, scfg := configs(t)
	began := time.Now()
	ccfg.Time = func() time.Time { return began }
	endings := make(map[string]int)
	for seed := from; seed <= seeds; seed++ {
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { endings[simulate(t, seed, ccfg, scfg, path)]++ })
		})
		if !ok {
			t.Fatalf("replay with AFTLS_SEED=%d go test -run TestSimulation", seed)
		}
	}
	t.Log(endings)
	for _, e := range []string{"clean", "closed idle", "closed in a write", "cut"} {
		if seeds-from >= 50 && endings[e] == 0 {
			t.Errorf("no seed came to the ending %q", e)
		}
	}
}

func parseSeed(t *testing.T, v string) uint64 {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// simulation is one seed.
type simulation struct {
	t    *testing.T
	link *simLink
	opt  aftls.Options
	v    uint16
	file string
	ends [2]*simEnd

	ending atomic.Bool   // readers hurry, writers expect errors
	clean  bool          // writers may end their direction when their budget is spent
	done   chan struct{} // otherwise now
}

// simEnd is one end: a Conn, perhaps the successor of others.
type simEnd struct {
	*simulation
	name    string
	carrier *simConn
	rng     *rand.Rand // the writer's
	rrng    *rand.Rand // the reader's
	budget  int64      // bytes to write

	mu      sync.Mutex
	cond    *sync.Cond
	conn    *aftls.Conn
	sealed  uint64 // Info's bytes of the Conns before this one
	opened  uint64
	op      string // of the writer, "" between two
	lastErr error  // of the writer's last operation
	sent    int64  // committed, by the sum of all n

	got     int64
	readErr error // that ended reading
	readers sync.WaitGroup
	writers sync.WaitGroup
}

func simulate(t *testing.T, seed uint64, ccfg, scfg *tls.Config, file string) string {
	rng := rand.New(rand.NewPCG(seed, 2))
	pick := func(v ...int) int { return v[rng.IntN(len(v))] }
	speed := simSpeed{
		capacity: pick(200, 3000, 20000, 100000, 1000000),
		fragment: pick(60, 1500, 20000, 1000000),
		delay:    time.Duration(pick(0, 1, 10, 50)) * time.Millisecond,
		stall:    pick(0, 0, 100, 1000),
	}
	s := &simulation{t: t, link: newSimLink(seed, speed), file: file, done: make(chan struct{}), v: tls.VersionTLS13}
	if rng.IntN(6) == 0 {
		s.v = tls.VersionTLS12
	} else {
		s.opt.MaxRecords = uint64(pick(0, 0, 1, 5, 50, 300))
		s.opt.Padding = pick(0, 0, 100, 4096)
	}
	kind := rng.IntN(4)
	s.clean = kind <= 1
	// The fake clock starts in a year in which no certificate is valid.
	var secrets secretLog
	c2, s2 := ccfg.Clone(), scfg.Clone()
	s2.Time = c2.Time
	c2.KeyLogWriter = &secrets
	c2.MaxVersion = s.v
	if rng.IntN(3) == 0 {
		c2.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	client, server := handshakePair(t, &s.link.ends[0], &s.link.ends[1], c2, s2, s.opt)
	for i, c := range []*aftls.Conn{client, server} {
		e := &simEnd{simulation: s, name: []string{"client", "server"}[i], carrier: &s.link.ends[i], conn: c,
			rng: rand.New(rand.NewPCG(seed, 10+uint64(i))), rrng: rand.New(rand.NewPCG(seed, 20+uint64(i))),
			budget: int64(pick(0, 1, 50000, 400000, 1500000))}
		if speed.capacity/int(1+speed.delay/time.Millisecond) < 1000 {
			e.budget = min(e.budget, 50000)
		}
		e.cond = sync.NewCond(&e.mu)
		s.ends[i] = e
		e.writers.Go(e.write)
		e.readers.Go(e.read)
	}
	defer func() {
		if t.Failed() {
			t.Logf("%+v %+v version %x", speed, s.opt, s.v)
			for _, e := range s.ends {
				t.Logf("%s: op %q sent %d got %d last %v read %v, %+v", e.name, e.op, e.sent, e.got, e.lastErr, e.readErr, e.conn.Info())
			}
		}
	}()
	for range 3 + rng.IntN(25) {
		time.Sleep(time.Duration(rng.Int64N(int64(300 * time.Millisecond))))
		s.step(rng, s.ends[rng.IntN(2)])
	}
	// From here on nothing is late beyond the ordinary.
	speed.stall = 0
	s.link.setSpeed(speed)
	ending := s.end(rng, kind)
	for i, e := range s.ends {
		if e.got > s.ends[1-i].sent {
			t.Errorf("%s read %d bytes of %d that were committed", e.name, e.got, s.ends[1-i].sent)
		}
		if info := e.conn.Info(); e.sealed+info.Send.Bytes != uint64(e.sent) {
			t.Errorf("%s: n counts %d bytes, Info %d", e.name, e.sent, e.sealed+info.Send.Bytes)
		}
	}
	s.inspect(&secrets, client.ConnectionState().CipherSuite, ending)
	return ending
}

// step is one deed of the controller.
func (s *simulation) step(rng *rand.Rand, e *simEnd) {
	c := e.conn // only the controller changes it
	near := time.Duration(rng.Int64N(int64(50 * time.Millisecond)))
	var err error
	switch rng.IntN(9) {
	case 0:
		err = c.SetReadDeadline(time.Now().Add(near))
	case 1:
		err = c.SetWriteDeadline(time.Now().Add(near))
	case 2:
		err = c.SetDeadline(time.Unix(1, 0))
	case 3, 4, 5:
		err = c.SetDeadline(time.Time{})
	case 6, 7:
		s.move(rng, e)
	case 8:
		c.Info()
	}
	if err != nil {
		s.t.Errorf("%s: %v", e.name, err)
	}
}

// move detaches one end and resumes it. Blocked calls are woken at once.
func (s *simulation) move(rng *rand.Rand, e *simEnd) {
	synctest.Wait()
	old, began := e.conn, time.Now()
	st, err := old.Detach()
	if err != nil {
		s.t.Fatalf("%s: %v", e.name, err)
	}
	if d := time.Since(began); d > 0 {
		s.t.Errorf("%s: Detach took %v", e.name, d)
	}
	if _, err := old.Write([]byte("x")); !errors.Is(err, aftls.ErrDetached) {
		s.t.Errorf("%s: Write after Detach: %v", e.name, err)
	}
	if err := old.Close(); err != nil || e.carrier.isClosed() {
		s.t.Errorf("%s: Close after Detach: %v, carrier closed: %v", e.name, err, e.carrier.isClosed())
	}
	if rng.IntN(2) == 0 {
		b, err := st.MarshalBinary()
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := st.MarshalBinary(); !errors.Is(err, aftls.ErrSpent) {
			s.t.Errorf("second MarshalBinary: %v", err)
		}
		st = new(aftls.State)
		if err := st.UnmarshalBinary(b); err != nil {
			s.t.Fatal(err)
		}
	}
	if rng.IntN(2) == 0 {
		time.Sleep(time.Duration(rng.Int64N(int64(100 * time.Millisecond)))) // the peer goes on meanwhile
	}
	c, err := aftls.Resume(e.carrier, st, s.opt)
	if err != nil {
		s.t.Fatalf("%s: %v", e.name, err)
	}
	info := old.Info()
	e.mu.Lock()
	e.conn = c
	e.sealed += info.Send.Bytes
	e.opened += info.Receive.Bytes
	e.mu.Unlock()
	e.cond.Broadcast()
}

// current returns the Conn that followed old.
func (e *simEnd) current(old *aftls.Conn) *aftls.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.conn == old {
		e.cond.Wait()
	}
	return e.conn
}

// end finishes the simulation and returns how.
func (s *simulation) end(rng *rand.Rand, kind int) string {
	a := s.ends[rng.IntN(2)]
	b := s.ends[0]
	if a == b {
		b = s.ends[1]
	}
	for _, e := range s.ends {
		if err := e.conn.SetDeadline(time.Time{}); err != nil {
			s.t.Error(err)
		}
	}
	s.ending.Store(true)
	switch kind {
	default:
		close(s.done)
		s.finish(a, b)
		return s.endClean(a, b)
	case 2:
		s.link.cut()
		close(s.done)
		s.finish(a, b)
		for _, e := range s.ends {
			if _, ok := errors.AsType[*aftls.TruncatedError](e.readErr); !ok {
				s.t.Errorf("%s: the carrier was cut: reading ended with %v", e.name, e.readErr)
			}
			s.close(e)
		}
		return "cut"
	case 3:
		return s.endByClose(a, b)
	}
}

// finish waits until both ends have written and read all they can.
func (s *simulation) finish(ends ...*simEnd) {
	finished := make(chan struct{})
	go func() {
		for _, e := range ends {
			e.writers.Wait()
			e.readers.Wait()
		}
		close(finished)
	}()
	select {
	case <-finished:
	case <-time.After(24 * time.Hour):
		s.t.Error("an end did not finish within a day")
		s.link.ends[0].Close()
		s.link.ends[1].Close()
		<-finished
	}
}

func (s *simulation) close(e *simEnd) {
	began := time.Now()
	if err := e.conn.Close(); err != nil {
		s.t.Errorf("%s: Close: %v", e.name, err)
	}
	if d := time.Since(began); d > 5*time.Second {
		s.t.Errorf("%s: Close took %v", e.name, d)
	}
	if err := e.conn.Close(); !errors.Is(err, net.ErrClosed) {
		s.t.Errorf("%s: second Close: %v", e.name, err)
	}
}

func (s *simulation) endClean(a, b *simEnd) string {
	for _, p := range [][2]*simEnd{{a, b}, {b, a}} {
		from, to := p[0], p[1]
		if to.readErr != io.EOF || to.got != from.sent {
			s.t.Errorf("%s read %d of %d bytes, then %v", to.name, to.got, from.sent, to.readErr)
		}
		out, in := from.conn.Info().Send, to.conn.Info().Receive
		if out.Epoch != in.Epoch || out.Seq != in.Seq {
			s.t.Errorf("%s sends at %d/%d, %s receives at %d/%d", from.name, out.Epoch, out.Seq, to.name, in.Epoch, in.Seq)
		}
		if n := to.opened + in.Bytes; n != uint64(to.got) {
			s.t.Errorf("%s read %d bytes, Info counts %d", to.name, to.got, n)
		}
	}
	s.close(a)
	s.close(b)
	return "clean"
}

// endByClose closes a at whatever moment it is in.
func (s *simulation) endByClose(a, b *simEnd) string {
	synctest.Wait()
	a.mu.Lock()
	op, lastErr := a.op, a.lastErr
	a.mu.Unlock()
	inWrite := a.carrier.writeBlocked()
	ending := "closed idle"
	if inWrite {
		ending = "closed in a write"
	}
	s.close(a)
	close(s.done)
	s.finish(a, b)
	switch _, truncated := errors.AsType[*aftls.TruncatedError](b.readErr); {
	case inWrite && !truncated:
		s.t.Errorf("%s closed in a write (%s), %s read %d of %d bytes, then %v", a.name, op, b.name, b.got, a.sent, b.readErr)
	case b.readErr == io.EOF && b.got != a.sent:
		s.t.Errorf("%s lost %d of %d bytes, and then saw the end of the stream", b.name, a.sent-b.got, a.sent)
	case !inWrite && lastErr == nil && b.readErr != io.EOF:
		s.t.Errorf("%s closed between writes (%s), %s read %d of %d bytes, then %v", a.name, op, b.name, b.got, a.sent, b.readErr)
	case b.readErr != io.EOF && !truncated:
		s.t.Errorf("%s: reading ended with %v", b.name, b.readErr)
	}
	s.close(b)
	return ending
}

// inspect looks at the wire.
func (s *simulation) inspect(secrets *secretLog, suite uint16, ending string) {
	wires := [2][]byte{s.link.ends[0].wire(), s.link.ends[1].wire()}
	ck, sk, err := secrets.first(s.v, suite, wires[0], wires[1])
	if err != nil {
		s.t.Fatal(err)
	}
	var saw [2]sightings
	for i, k := range []record.Keys{ck, sk} {
		e := s.ends[i]
		if saw[i], err = inspect(wires[i], k); err != nil {
			s.t.Errorf("%s: %v", e.name, err)
			continue
		}
		w := saw[i]
		if w.partial > 0 && ending != "closed in a write" && ending != "closed idle" && ending != "cut" {
			s.t.Errorf("%s: the wire ends inside a record", e.name)
		}
		if int64(w.data) > e.sent || int64(w.data) < s.ends[1-i].got {
			s.t.Errorf("%s: %d bytes on the wire, %d committed, %d read by the peer", e.name, w.data, e.sent, s.ends[1-i].got)
		}
		if ending == "clean" {
			info := e.conn.Info().Send
			if !w.notified || w.epoch != info.Epoch || w.seq != info.Seq {
				s.t.Errorf("%s: the wire ends %+v, Info says %+v", e.name, w, info)
			}
		}
	}
	for i := range saw {
		if saw[i].requests > saw[1-i].keyUpdates+1 {
			s.t.Errorf("%s asked %d times for a KeyUpdate and got %d", s.ends[i].name, saw[i].requests, saw[1-i].keyUpdates)
		}
	}
}

// check compares data that came with the pattern.
func (e *simEnd) check(p []byte) {
	if !bytes.Equal(p, patternAt(e.got, len(p))) {
		e.t.Errorf("%s: %d bytes at offset %d are not those of the stream", e.name, len(p), e.got)
	}
	e.got += int64(len(p))
}

// dressed checks that err is io.EOF, nil or a *net.OpError.
func (e *simEnd) dressed(op string, err error) {
	if err == nil || err == io.EOF {
		return
	}
	if _, ok := err.(*net.OpError); !ok {
		e.t.Errorf("%s: %s: %T %v", e.name, op, err, err)
	}
}
