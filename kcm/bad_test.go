package kcm_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls/kcm"
	xbpf "golang.org/x/net/bpf"
)

// goesOn checks that a connection works.
func goesOn(t *testing.T, p net.Conn, e *kcm.Endpoint, want *kcm.Conn) {
	t.Helper()
	go write(t, p, msg("still there"))
	m, err := e.RecvMsg()
	if err != nil || m.Conn != want || string(m.Data[2:]) != "still there" {
		t.Fatalf("the other connection: %q, %v", m.Data, err)
	}
	if err := e.SendMsg(m.Conn, m.Data); err != nil {
		t.Error(err)
	}
	if got := readMsg(t, p); got != "still there" {
		t.Errorf("the other connection answers %q", got)
	}
}

type lie int

func (n lie) Frame([]byte) (int, error) { return int(n), nil }

// Whatever a framer says, its connection ends with an error that says so, and
// the others go on.
func TestFramersThatLie(t *testing.T) {
	program := programOf(t, xbpf.LoadAbsolute{Off: 0, Size: 1}, xbpf.ALUOpConstant{Op: xbpf.ALUOpSub, Val: 'x' + 7}, xbpf.RetA{})()
	var long *kcm.TooLongError
	var frame *kcm.FrameError
	var panicked *kcm.PanicError
	for name, c := range map[string]struct {
		framer kcm.Framer
		is     func(error) bool
	}{
		"asks for ever more":        {lie(0), func(err error) bool { return errors.As(err, &long) && long.Size == 1001 }},
		"asks for one more, always": {lie(-1), func(err error) bool { return errors.As(err, &long) && long.Size == 1001 }},
		"asks for more than may be": {lie(-1001), func(err error) bool { return errors.As(err, &long) }},
		"asks for the most":         {lie(-math.MaxInt), func(err error) bool { return errors.As(err, &long) }},
		"asks for the least":        {lie(math.MinInt), func(err error) bool { return errors.As(err, &long) && long.Size == 1001 }},
		"longer than may be":        {lie(1001), func(err error) bool { return errors.As(err, &long) && long.Size == 1001 && long.Max == 1000 }},
		"longest":                   {lie(math.MaxInt), func(err error) bool { return errors.As(err, &long) }},
		"length beside an error":    {kcm.FramerFunc(func([]byte) (int, error) { return 5, errGarbage }), func(err error) bool { return errors.As(err, &frame) && errors.Is(err, errGarbage) }},
		"panics": {kcm.FramerFunc(func(b []byte) (int, error) { return int(b[len(b)]), nil }), func(err error) bool {
			return errors.As(err, &panicked) && panicked.In == "framer" && bytes.Contains(panicked.Stack, []byte("Frame"))
		}},
		"a program says nonsense":    {program, func(err error) bool { return errors.As(err, &frame) && strings.Contains(err.Error(), "returned -7") }},
		"a framer of another stream": {kcm.HTTP2(), func(err error) bool { return errors.As(err, &long) && long.Size == 9+0x787878 }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, kcm.Config{MaxMessage: 1000}, func(t *testing.T, s *rig) {
				bad, p1 := s.attach(c.framer)
				good, p2 := s.attach(kcm.DNS())
				e := s.endpoint()
				go func() {
					for range 2000 { // until it is closed
						if _, err := p1.Write([]byte("x")); err != nil {
							return
						}
					}
				}()
				if err, _ := s.end(bad); !c.is(err) || !strings.HasPrefix(err.Error(), "kcm: ") {
					t.Errorf("ended with %v (%T)", err, err)
				}
				if err := e.SendMsg(bad, msg("x")); !c.is(err) {
					t.Errorf("SendMsg: %v", err)
				}
				goesOn(t, p2, e, good)
				synctest.Wait()
				if n := kcm.Borrowed(); n > 2 { // the reader's, and the message's
					t.Errorf("%d buffers are borrowed", n)
				}
			})
		})
	}
}

// Messages of one byte are the worst that a framer can ask for.
func TestFramerOfSingleBytes(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		_, p := s.attach(lie(1))
		go write(t, p, bytes.Repeat([]byte("x"), 10000))
		e := s.endpoint()
		for range 10000 {
			if m, err := e.RecvMsg(); err != nil || len(m.Data) != 1 {
				t.Fatal(m, err)
			}
		}
	})
}

func TestWholeMessagesInFrontOfAnErrorAreDelivered(t *testing.T) {
	bubble(t, kcm.Config{MaxMessage: 100}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		write(t, p, msg("1"), msg("2"), msg(strings.Repeat("x", 200))[:2])
		var long *kcm.TooLongError
		if err, _ := s.end(c); !errors.As(err, &long) || long.Size != 202 {
			t.Errorf("ended with %v", err)
		}
		e := s.endpoint()
		for _, want := range []string{"1", "2"} {
			if got, _ := text(t, e); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
	})
}

func TestStall(t *testing.T) {
	bubble(t, kcm.Config{AssemblyTimeout: time.Minute}, func(t *testing.T, s *rig) {
		bad, p1 := s.attach(kcm.DNS())
		good, p2 := s.attach(kcm.DNS())
		e := s.endpoint()
		// A byte now and then is no way out: the time is that of the message.
		whole := msg(strings.Repeat("x", 1000))
		sent := 0
		began := time.Now()
		for {
			if _, err := p1.Write(whole[sent : sent+1]); err != nil {
				break
			}
			sent++
			time.Sleep(7 * time.Second)
		}
		var stall *kcm.StallError
		if err, _ := s.end(bad); !errors.As(err, &stall) || stall.Have != sent || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("ended with %v after %d bytes", err, sent)
		}
		if d := time.Since(began); d < time.Minute || d > time.Minute+7*time.Second {
			t.Errorf("ended after %v", d)
		}
		goesOn(t, p2, e, good)
		// Every message has its own time, even if there is always one that has begun.
		next := msg("abc")
		write(t, p2, next[:3])
		for range 5 {
			time.Sleep(40 * time.Second)
			write(t, p2, next[3:], next[:3])
			if got, _ := text(t, e); got != "abc" {
				t.Fatalf("%q", got)
			}
		}
		write(t, p2, next[3:])
		text(t, e)
		// Between two there is no limit.
		for range 3 {
			time.Sleep(time.Hour)
			write(t, p2, msg("abc")[:3])
			time.Sleep(59 * time.Second)
			write(t, p2, msg("abc")[3:])
			if got, _ := text(t, e); got != "abc" {
				t.Errorf("%q", got)
			}
		}
	})
}

// The time that a message waits for endpoints is not the peer's.
func TestNoStallWhileWeAreLate(t *testing.T) {
	bubble(t, kcm.Config{AssemblyTimeout: time.Minute, Queue: 1}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		b := []byte("\x00\x01a\x00\x01b\x00\x01c\x00\x02d")
		write(t, p, b)
		e := s.endpoint()
		for _, want := range []string{"a", "b", "c"} {
			time.Sleep(time.Hour)
			if got, _ := text(t, e); got != want {
				t.Errorf("%q", got)
			}
		}
		time.Sleep(59 * time.Second)
		if err, ok := s.end(c); ok {
			t.Fatalf("ended with %v", err)
		}
		write(t, p, []byte("e"))
		if got, _ := text(t, e); got != "de" {
			t.Errorf("%q", got)
		}
	})
}

// A peer that sends and never reads: nobody waits for it, it gets no work done
// beyond a limit, and it ends.
func TestPeerThatNeverReads(t *testing.T) {
	bubble(t, kcm.Config{SendTimeout: time.Minute}, func(t *testing.T, s *rig) {
		bad, p1 := s.attach(kcm.DNS())
		good, p2 := s.attach(kcm.DNS())
		const size = 10000
		sent := make(chan error)
		go func() {
			for {
				if _, err := p1.Write(msg(strings.Repeat("x", size))); err != nil {
					sent <- err
					return
				}
			}
		}()
		const workers = 3
		served := make(map[*kcm.Conn]int)
		lock := make(chan bool, 1)
		for range workers {
			e := s.endpoint()
			go func() {
				for {
					m, err := e.RecvMsg()
					if err != nil {
						return
					}
					lock <- true
					served[m.Conn]++
					<-lock
					_ = e.SendMsg(m.Conn, m.Data)
				}
			}()
		}
		time.Sleep(30 * time.Second)
		for range 100 {
			go write(t, p2, msg("hello"))
			if got := readMsg(t, p2); got != "hello" {
				t.Errorf("%q", got)
			}
		}
		lock <- true
		if n, most := served[bad], kcm.SendLimit/size+1+workers; n < 10 || n > most {
			t.Errorf("%d messages of it were handled, want at most %d", n, most)
		}
		if n := served[good]; n != 100 {
			t.Errorf("%d messages of the other were handled", n)
		}
		<-lock
		if _, bytes := bad.Waiting(); bytes > 1<<20+size {
			t.Errorf("%d bytes wait", bytes)
		}
		synctest.Wait()
		if err, ok := s.end(bad); ok {
			t.Errorf("ended too early with %v", err)
		}
		time.Sleep(31 * time.Second)
		var slow *kcm.SlowPeerError
		if err, _ := s.end(bad); !errors.As(err, &slow) || slow.Waiting < kcm.SendLimit || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
		<-sent
		synctest.Wait()
		if n, _ := bad.Waiting(); n != 0 {
			t.Errorf("%d of its messages still wait: whole ones are delivered", n)
		}
	})
}

// A peer that reads late gets everything, and only then all its work is done.
// That holds for messages of one endpoint too.
func TestPeerThatReadsLate(t *testing.T) {
	for _, redirected := range []bool{false, true} {
		bubble(t, kcm.Config{SendTimeout: time.Minute}, func(t *testing.T, s *rig) {
			c, p := s.attach(kcm.DNS())
			const total, size, workers = 60, 10000, 2
			var last *kcm.Endpoint
			for range workers {
				e := s.endpoint()
				last = e
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
			if redirected {
				c.SetFilter(func(m []byte) kcm.Verdict { return kcm.Verdict{Keep: len(m), To: last} })
			}
			for range total {
				write(t, p, msg(strings.Repeat("x", size)))
			}
			synctest.Wait()
			handled := int(c.Stats().Sent)
			if n, _ := c.Waiting(); n != total-handled || handled < 10 || handled > kcm.SendLimit/size+1+workers {
				t.Errorf("%d messages wait, and %d were answered", n, handled)
			}
			for range total {
				if got := readMsg(t, p); len(got) != size {
					t.Fatalf("%d bytes", len(got))
				}
			}
		})
	}
}

// A length alone gets no memory.
func TestAnnouncedMessagesTakeNoMemory(t *testing.T) {
	bubble(t, kcm.Config{MaxMessage: 16 << 20}, func(t *testing.T, s *rig) {
		c, p := s.attach(length(t, kcm.Length{Size: 4, Add: 4})())
		const total = 10 << 20
		b := append([]byte{0, 0xa0, 0, 0}, make([]byte, total)...)
		for sent := 0; sent < len(b)-1; {
			n := min(1+sent/2, len(b)-1-sent)
			write(t, p, b[sent:sent+n])
			sent += n
			synctest.Wait()
			if have := c.BufferSize(); have > max(kcm.Smallest, 16*sent) || have < sent {
				t.Fatalf("%d bytes came, and the buffer has %d", sent, have)
			}
		}
		write(t, p, b[len(b)-1:])
		if m, err := s.endpoint().RecvMsg(); err != nil || len(m.Data) != len(b) {
			t.Error(len(m.Data), err)
		}
	})
}

// What is no answer waits for a peer that does not read, and hears of its end.
func TestSendWaitsForRoom(t *testing.T) {
	bubble(t, kcm.Config{SendTimeout: time.Minute}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		e := s.endpoint()
		b := msg(strings.Repeat("x", 60000))
		sent := make(chan error, 100)
		go func() {
			for range 20 {
				err := e.SendMsg(c, b)
				if sent <- err; err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		if n := len(sent); n != kcm.SendLimit/len(b)+1 {
			t.Errorf("%d messages were taken", n)
		}
		got := make([]byte, 20*len(b))
		if n, err := io.ReadFull(p, got[:10*len(b)]); err != nil {
			t.Fatal(n, err)
		}
		synctest.Wait()
		if n := len(sent); n < 10 || n > 10+kcm.SendLimit/len(b)+1 {
			t.Errorf("%d messages were taken after 10 were read", n)
		}
		time.Sleep(2 * time.Minute)
		var slow *kcm.SlowPeerError
		if err, _ := s.end(c); !errors.As(err, &slow) {
			t.Errorf("ended with %v", err)
		}
		var last error
		for len(sent) > 0 {
			last = <-sent
		}
		if !errors.As(last, &slow) {
			t.Errorf("the call that waited got %v", last)
		}
	})
}

func TestFilterPanics(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		bad, p1 := s.attach(kcm.DNS())
		good, p2 := s.attach(kcm.DNS())
		bad.SetFilter(func(m []byte) kcm.Verdict { return kcm.Verdict{Keep: int(m[len(m)])} })
		write(t, p1, msg("x"))
		var panicked *kcm.PanicError
		if err, _ := s.end(bad); !errors.As(err, &panicked) || panicked.In != "filter" {
			t.Errorf("ended with %v", err)
		}
		goesOn(t, p2, s.endpoint(), good)
	})
}

// broken is a transport whose methods fail.
type broken struct {
	net.Conn
	read, write, deadline error
}

func (b broken) Read(p []byte) (int, error) {
	if b.read != nil {
		return 0, b.read
	}
	return b.Conn.Read(p)
}

func (b broken) Write(p []byte) (int, error) {
	if b.write != nil {
		return 0, b.write
	}
	return b.Conn.Write(p)
}

func (b broken) SetReadDeadline(t time.Time) error {
	if b.deadline != nil {
		return b.deadline
	}
	return b.Conn.SetReadDeadline(t)
}

func TestTransportFails(t *testing.T) {
	failure := errors.New("failure")
	for name, c := range map[string]struct {
		transport broken
		op        string
		err       error
	}{
		"read":          {broken{read: failure}, "read", failure},
		"reads nothing": {broken{read: nil}, "read", io.ErrNoProgress},
		"write":         {broken{write: failure}, "write", failure},
		"no deadlines":  {broken{deadline: failure}, "set deadline", failure},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
				a, b := net.Pipe()
				defer b.Close()
				c.transport.Conn = a
				nc := net.Conn(c.transport)
				if name == "reads nothing" {
					nc = empty{a}
				}
				k, err := s.mux.Attach(nc, kcm.DNS())
				if err != nil {
					t.Fatal(err)
				}
				switch name {
				case "write":
					if err := s.endpoint().SendMsg(k, msg("x")); err != nil {
						t.Error(err)
					}
				case "no deadlines":
					write(t, b, []byte("\x00\x05half"))
				}
				var te *kcm.TransportError
				if err, _ := s.end(k); !errors.As(err, &te) || te.Op != c.op || !errors.Is(err, c.err) {
					t.Errorf("ended with %v", err)
				}
				if _, err := b.Write([]byte("x")); err != io.ErrClosedPipe {
					t.Errorf("the transport is not closed: %v", err)
				}
			})
		})
	}
}

// empty reads nothing, and no error.
type empty struct{ net.Conn }

func (empty) Read([]byte) (int, error) { return 0, nil }

func TestClosedMux(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		e, waits := s.endpoint(), s.endpoint()
		write(t, p, msg("1"), msg("2"), msg("3"))
		m, err := e.RecvMsg()
		if err != nil {
			t.Fatal(err)
		}
		other, _ := net.Pipe()
		k2, err := kcm.New(kcm.Config{}).Attach(other, kcm.DNS())
		if err != nil {
			t.Fatal(err)
		}
		if err := e.SendMsg(k2, msg("x")); err != kcm.ErrNotAttached {
			t.Errorf("a connection of another mux: %v", err)
		}
		k2.Close()
		text(t, waits)
		text(t, waits)
		got := make(chan error)
		go func() {
			_, err := waits.RecvMsg()
			got <- err
		}()
		synctest.Wait()
		s.mux.Close()
		if err := <-got; err != net.ErrClosed {
			t.Errorf("RecvMsg that waits: %v", err)
		}
		if string(m.Data) != string(msg("1")) {
			t.Errorf("the message that an endpoint had is %q", m.Data)
		}
		for name, err := range map[string]error{
			"RecvMsg": func() error { _, err := e.RecvMsg(); return err }(),
			"SendMsg": e.SendMsg(c, msg("x")),
			"SendAny": func() error { _, err := e.SendAny(msg("x")); return err }(),
			"Clone":   func() error { _, err := e.Clone(); return err }(),
			"Attach":  func() error { _, err := s.mux.Attach(p, nil); return err }(),
			"Detach":  func() error { _, _, err := c.Detach(); return err }(),
			"Err":     c.Err(),
		} {
			if err != net.ErrClosed {
				t.Errorf("%s: %v, want net.ErrClosed", name, err)
			}
		}
		if err := s.mux.Close(); err != nil {
			t.Error(err)
		}
		if err := s.mux.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// An endpoint that is closed right when it was given a message passes it on.
func TestCloseOfAnEndpointLosesNothing(t *testing.T) {
	for seed := range 30 {
		bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
			_, p := s.attach(kcm.DNS())
			got := make(chan string, 100)
			receive := func(e *kcm.Endpoint) {
				for {
					m, err := e.RecvMsg()
					if err != nil {
						return
					}
					got <- string(m.Data[2:])
				}
			}
			first := s.endpoint()
			go receive(first)
			synctest.Wait()
			go func() {
				for i := range 20 {
					write(t, p, msg(fmt.Sprint(i)))
				}
			}()
			for range seed { // at another moment each time
				runtime.Gosched()
			}
			first.Close()
			go receive(s.endpoint())
			synctest.Wait()
			seen := make(map[string]int)
			for len(got) > 0 {
				seen[<-got]++
			}
			for i := range 20 {
				if n := seen[fmt.Sprint(i)]; n != 1 {
					t.Errorf("message %d came %d times", i, n)
				}
			}
		})
	}
}
