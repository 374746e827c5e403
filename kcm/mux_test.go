package kcm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/aftls/aftls/kcm"
)

// rig is a mux in a bubble, and what happens to its connections.
type rig struct {
	t     *testing.T
	mux   *kcm.Mux
	ended map[*kcm.Conn]error
	ends  chan struct{}
}

// bubble runs f in a bubble of its own, where time passes only while everybody
// waits. Whatever f leaves open is closed.
func bubble(t *testing.T, cfg kcm.Config, f func(t *testing.T, s *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &rig{t: t, ended: make(map[*kcm.Conn]error), ends: make(chan struct{}, 1)}
		s.ends <- struct{}{}
		cfg.Ended = func(c *kcm.Conn, err error) {
			<-s.ends
			if old, ok := s.ended[c]; ok {
				t.Errorf("ended twice: %v, %v", old, err)
			}
			s.ended[c] = err
			if got := c.Err(); got != err {
				t.Errorf("Err is %v, and Ended had %v", got, err)
			}
			s.ends <- struct{}{}
		}
		s.mux = kcm.New(cfg)
		f(t, s)
		if err := s.mux.Close(); err != nil {
			t.Error(err)
		}
	})
}

// end returns what ended c, when everybody waits.
func (s *rig) end(c *kcm.Conn) (error, bool) {
	synctest.Wait()
	<-s.ends
	defer func() { s.ends <- struct{}{} }()
	err, ok := s.ended[c]
	return err, ok
}

// attach attaches one end of a pipe, and returns the other one too.
func (s *rig) attach(f kcm.Framer) (*kcm.Conn, net.Conn) {
	a, b := net.Pipe()
	s.t.Cleanup(func() { b.Close() })
	c, err := s.mux.Attach(a, f)
	if err != nil {
		s.t.Fatal(err)
	}
	return c, b
}

func (s *rig) endpoint() *kcm.Endpoint {
	e, err := s.mux.Endpoint()
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

// msg is a message of DNS over TCP.
func msg(text string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)
}

func write(t *testing.T, w io.Writer, b ...[]byte) {
	t.Helper()
	if _, err := w.Write(slices.Concat(b...)); err != nil {
		t.Error(err)
	}
}

// text receives a message.
func text(t *testing.T, e *kcm.Endpoint) (string, *kcm.Conn) {
	t.Helper()
	m, err := e.RecvMsg()
	if err != nil {
		t.Error(err)
		return "", nil
	}
	return string(m.Data[2:]), m.Conn
}

func TestMessagesComeWholeAndSayWhence(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c1, p1 := s.attach(kcm.DNS())
		c2, p2 := s.attach(kcm.DNS())
		e := s.endpoint()
		go func() {
			for _, b := range slices.Concat(msg("one"), msg("two")) {
				write(t, p1, []byte{b})
			}
		}()
		for _, want := range []string{"one", "two"} {
			if got, c := text(t, e); got != want || c != c1 {
				t.Errorf("%q, %p, want %q of %p", got, c, want, c1)
			}
		}
		go write(t, p2, msg("three"), msg(""), msg(strings.Repeat("x", 60000)))
		for _, want := range []int{5, 0, 60000} {
			if got, c := text(t, e); len(got) != want || c != c2 {
				t.Errorf("%d bytes of %p, want %d of %p", len(got), c, want, c2)
			}
		}
		if n := c1.Stats(); n.Messages != 2 || n.Bytes != 10 || n.Reads != 10 {
			t.Errorf("%+v", n)
		}
	})
}

func TestAnswersGoBackWhole(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		var pipes []net.Conn
		for range 3 {
			_, p := s.attach(kcm.DNS())
			pipes = append(pipes, p)
		}
		for range 2 {
			e := s.endpoint()
			go func() {
				for {
					m, err := e.RecvMsg()
					if err != nil {
						return
					}
					if err := e.SendMsg(m.Conn, m.Data); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		for i, p := range pipes {
			text := strings.Repeat(string(rune('a'+i)), 30000)
			go write(t, p, msg(text), msg(text), msg("end"))
			got := make(map[string]int) // which of the two endpoints is faster is not told
			for range 3 {
				got[readMsg(t, p)]++
			}
			if got[text] != 2 || got["end"] != 1 {
				t.Errorf("%d answers of %c, %d ends", got[text], text[0], got["end"])
			}
		}
	})
}

// readMsg reads a message of DNS over TCP.
func readMsg(t *testing.T, r io.Reader) string {
	t.Helper()
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Error(err)
		return ""
	}
	b := make([]byte, binary.BigEndian.Uint16(head))
	if _, err := io.ReadFull(r, b); err != nil {
		t.Error(err)
	}
	return string(b)
}

// Exactly one endpoint is woken for a message, the one that waits since last,
// and only when the message is whole.
func TestWhoIsWoken(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		_, p := s.attach(kcm.DNS())
		type received struct {
			who  int
			text string
		}
		got := make(chan received, 10)
		next := make([]chan bool, 3)
		for i := range next {
			e := s.endpoint()
			next[i] = make(chan bool)
			go func() {
				for range next[i] {
					if m, err := e.RecvMsg(); err == nil {
						got <- received{i, string(m.Data[2:])}
					}
				}
			}()
			next[i] <- true
			synctest.Wait() // they park in order: 2 is the last
		}
		whole := slices.Concat(msg("a"), msg("bc"))
		write(t, p, whole[:2])
		synctest.Wait()
		if n := s.mux.Stats().Wakeups; n != 0 {
			t.Fatalf("%d wake-ups for half a message", n)
		}
		write(t, p, whole[2:3])
		synctest.Wait()
		if r := <-got; r != (received{2, "a"}) {
			t.Errorf("%v, want 2 to have a", r)
		}
		next[2] <- true
		synctest.Wait()
		write(t, p, whole[3:])
		synctest.Wait()
		if r := <-got; r != (received{2, "bc"}) {
			t.Errorf("%v, want 2 to have bc: it parked last", r)
		}
		write(t, p, msg("x"), msg("y"), msg("z")) // one more than there are waiting
		synctest.Wait()
		r1, r2 := <-got, <-got
		if r1.who == 2 || r2.who == 2 || r1.who == r2.who {
			t.Errorf("%v %v, want 1 and 0", r1, r2)
		}
		if n := s.mux.Stats(); n.Wakeups != 4 || n.Messages != 5 {
			t.Errorf("%+v, want 4 wake-ups for 5 messages", n)
		}
		next[1] <- true
		synctest.Wait()
		if r := <-got; r != (received{1, "z"}) {
			t.Errorf("%v, want 1 to have z", r)
		}
		if n := s.mux.Stats().Wakeups; n != 4 {
			t.Errorf("%d wake-ups: one that asks needs none", n)
		}
		for _, c := range next {
			close(c)
		}
	})
}

// A connection with many messages does not keep one with few waiting.
func TestConnectionsTakeTurns(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		many, p1 := s.attach(kcm.DNS())
		few, p2 := s.attach(kcm.DNS())
		write(t, p1, bytes.Repeat(msg("x"), 40))
		synctest.Wait()
		write(t, p2, msg("1"), msg("2"))
		synctest.Wait()
		e := s.endpoint()
		var order []*kcm.Conn
		for range 42 {
			_, c := text(t, e)
			order = append(order, c)
		}
		want := slices.Repeat([]*kcm.Conn{many}, 42)
		want[kcm.Turn], want[kcm.Turn+1] = few, few
		if !slices.Equal(order, want) {
			t.Errorf("the few came at %d, want %d", slices.Index(order, few), kcm.Turn)
		}
	})
}

func TestQueueIsBackPressure(t *testing.T) {
	for name, c := range map[string]struct {
		cfg      kcm.Config
		size     int
		messages int // that may wait, one more than fit in between
	}{
		"messages": {kcm.Config{Queue: 10}, 1, 10},
		"bytes":    {kcm.Config{MaxMessage: 1000}, 300, 4},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, c.cfg, func(t *testing.T, s *rig) {
				k, p := s.attach(kcm.DNS())
				const total = 5000
				written := make(chan bool)
				go func() {
					for range total {
						write(t, p, msg(strings.Repeat("x", c.size)))
					}
					close(written)
				}()
				synctest.Wait()
				if n, _ := k.Waiting(); n != c.messages {
					t.Errorf("%d messages wait, want %d", n, c.messages)
				}
				e := s.endpoint()
				for range total {
					if got, _ := text(t, e); len(got) != c.size {
						t.Fatalf("%d bytes", len(got))
					}
					if n, _ := k.Waiting(); n > c.messages {
						t.Fatalf("%d messages wait, want at most %d", n, c.messages)
					}
				}
				<-written
				if n := k.Stats(); n.Pauses == 0 || n.Messages != total {
					t.Errorf("%+v", n)
				}
			})
		})
	}
}

func TestBorrowedMessages(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		_, p := s.attach(kcm.DNS())
		e1, e2 := s.endpoint(), s.endpoint()
		write(t, p, msg("first"))
		m1, err := e1.RecvMsg()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3000 { // through all of the buffer, and the next ones
			write(t, p, msg(fmt.Sprint("other", i)))
			text(t, e2)
		}
		if string(m1.Data[2:]) != "first" {
			t.Errorf("%q: it was overwritten", m1.Data)
		}
	})
}

func TestReadMsgInto(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		e := s.endpoint()
		write(t, p, msg("one"), msg("a longer one"))
		b := make([]byte, 0, 8)
		got, from, err := e.ReadMsgInto(b)
		if err != nil || string(got) != "\x00\x03one" || from != c || &got[0] != &b[:1][0] {
			t.Errorf("%q, %p, %v", got, from, err)
		}
		got, _, err = e.ReadMsgInto(got)
		if err != nil || string(got) != "\x00\x0ca longer one" {
			t.Errorf("%q, %v", got, err)
		}
		synctest.Wait()
		if n := kcm.Borrowed(); n != 1 { // the reader's, who waits without WaitRead
			t.Errorf("%d buffers are borrowed, want 1", n)
		}
		e.Close()
		if got, _, err = e.ReadMsgInto(got); len(got) != 0 || err != net.ErrClosed {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestSendAnyBalances(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		e := s.endpoint()
		if _, err := e.SendAny(msg("x")); err != kcm.ErrNoConn {
			t.Errorf("%v, want ErrNoConn", err)
		}
		c1, _ := s.attach(kcm.DNS())
		c2, p2 := s.attach(kcm.DNS())
		sent := make(map[*kcm.Conn]int)
		send := func(n int) {
			t.Helper()
			c, err := e.SendAny(make([]byte, n))
			if err != nil {
				t.Fatal(err)
			}
			sent[c] += n
		}
		for range 10 { // nobody reads, so the bytes in flight are those sent
			send(1000)
			send(10)
		}
		for range 5 {
			send(500)
		}
		if d := sent[c1] - sent[c2]; d < -1000 || d > 1000 {
			t.Errorf("%d and %d bytes", sent[c1], sent[c2])
		}
		go io.Copy(io.Discard, p2)
		synctest.Wait()
		for range 3 {
			if c, err := e.SendAny(make([]byte, 10)); err != nil || c != c2 {
				t.Errorf("%p, %v, want %p, which has written all", c, err, c2)
			}
			synctest.Wait()
		}
		c2.Close()
		if c, err := e.SendAny(make([]byte, 10)); err != nil || c != c1 {
			t.Errorf("%p, %v, want the other one", c, err)
		}
		c1.Close()
		synctest.Wait()
		turns := make(map[*kcm.Conn]int)
		for range 3 {
			_, p := s.attach(kcm.DNS())
			go io.Copy(io.Discard, p)
		}
		for range 30 {
			c, err := e.SendAny(make([]byte, 10))
			if err != nil {
				t.Fatal(err)
			}
			turns[c]++
			synctest.Wait()
		}
		for _, n := range turns {
			if n != 10 {
				t.Errorf("%d of 30 messages on one of %d", n, len(turns))
			}
		}
	})
}

// What is sent while a write is under way goes out in one.
func TestSendsAreGathered(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		e := s.endpoint()
		for i := range 20 {
			if err := e.SendMsg(c, msg(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				synctest.Wait() // the writer is in its first write
			}
		}
		go io.Copy(io.Discard, p)
		synctest.Wait()
		if n := c.Stats(); n.Writes != 2 || n.Sent != 20 {
			t.Errorf("%+v, want 2 writes for 20 messages", n)
		}
	})
}

func TestReceiveDisable(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		e1 := s.endpoint()
		e2, err := e1.Clone()
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		go func() {
			_, err := e1.RecvMsg()
			got <- err
		}()
		synctest.Wait()
		e1.ReceiveDisable(true)
		if err := <-got; err != kcm.ErrReceiveDisabled {
			t.Errorf("a RecvMsg that waits: %v", err)
		}
		if _, err := e1.RecvMsg(); err != kcm.ErrReceiveDisabled {
			t.Errorf("%v", err)
		}
		// Messages for e1 alone move to others when it is disabled.
		e1.ReceiveDisable(false)
		c.SetFilter(func(m []byte) kcm.Verdict { return kcm.Verdict{Keep: len(m), To: e1} })
		write(t, p, msg("1"), msg("2"), msg("3"))
		synctest.Wait()
		if got, _ := text(t, e1); got != "1" {
			t.Errorf("%q", got)
		}
		e1.ReceiveDisable(true)
		for _, want := range []string{"2", "3"} {
			if got, _ := text(t, e2); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		write(t, p, msg("4")) // the filter still says e1
		if got, _ := text(t, e2); got != "4" {
			t.Errorf("%q", got)
		}
	})
}

func TestFilter(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		e1, e2 := s.endpoint(), s.endpoint()
		stop := errors.New("stop")
		c.SetFilter(func(m []byte) kcm.Verdict {
			switch m[2] {
			case 'd':
				return kcm.Verdict{}
			case 't':
				return kcm.Verdict{Keep: 4}
			case '2':
				return kcm.Verdict{Keep: 1 << 30, To: e2}
			case 'k':
				return kcm.Verdict{End: stop}
			}
			return kcm.Verdict{Keep: 1 << 30}
		})
		parked := make(chan string)
		go func() {
			got, _ := text(t, e2)
			parked <- got
		}()
		synctest.Wait()
		write(t, p, msg("drop"), msg("pass"), msg("truncate"), msg("2"), msg("2 again"))
		if got := <-parked; got != "2" {
			t.Errorf("%q, want the message for this endpoint", got)
		}
		for _, want := range []string{"pass", "tr"} {
			if got, _ := text(t, e1); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		if got, _ := text(t, e2); got != "2 again" {
			t.Errorf("%q", got)
		}
		c.SetFilter(nil)
		write(t, p, msg("drop"))
		if got, _ := text(t, e1); got != "drop" {
			t.Errorf("%q: the filter was taken away", got)
		}
		c.SetFilter(func([]byte) kcm.Verdict { return kcm.Verdict{End: stop} })
		write(t, p, msg("k"))
		if err, ok := s.end(c); err != stop {
			t.Errorf("ended %v: %v", ok, err)
		}
		if n := c.Stats(); n.Dropped != 1 || n.Messages != 5 {
			t.Errorf("%+v", n)
		}
	})
}

// An answer reaches a peer that has ended its own direction.
func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l := listen(t)
	client = dial(t, l)
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// The answer never waits; what is sent besides it does.
func TestOneAnswerForAMessageDoesNotWait(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		e, other := s.endpoint(), s.endpoint()
		write(t, p, msg("question"))
		if _, err := e.RecvMsg(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, kcm.SendLimit+1)
		if err := other.SendMsg(c, b); err != nil { // nobody reads it
			t.Fatal(err)
		}
		sent := make(chan string, 3)
		for name, from := range map[string]*kcm.Endpoint{"other": other, "answer": e} {
			go func() {
				if err := from.SendMsg(c, b); err != nil && err != net.ErrClosed {
					t.Error(err)
				}
				sent <- name
			}()
		}
		synctest.Wait()
		if n := len(sent); n != 1 || <-sent != "answer" {
			t.Errorf("%d were taken, want the answer alone", n)
		}
		go e.SendMsg(c, b)
		synctest.Wait()
		if len(sent) != 0 || c.Stats().Sent != 2 {
			t.Errorf("%d messages were taken, want 2: one has one answer", c.Stats().Sent)
		}
		c.Close()
		if got := <-sent; got != "other" {
			t.Error(got)
		}
	})
}

// What Close of a connection drops is dropped wherever it waits, and what
// endpoints have stays valid.
