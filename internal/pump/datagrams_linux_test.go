package pump

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func datagramPair(t testing.TB) (*End, *os.File) {
	t.Helper()
	e, f, err := NewDatagramPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close(); f.Close() })
	return e, f
}

// takeAll is one call of takeMessages: copies of what it brought.
func takeAll(t testing.TB, e *End) (got [][]byte, long bool) {
	t.Helper()
	m := batches.Get().(*messages)
	defer m.release()
	if err := e.takeMessages(m); err != nil {
		t.Fatal(err)
	}
	for _, b := range m.list[:m.n] {
		got = append(got, bytes.Clone(b))
	}
	return got, m.long
}

// Messages come as they were written, empty ones left out, whatever the pace; and at
// no moment is the queue without one: the program sees an error if we die.
func TestDatagramEndReadsWhatWasWritten(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 3))
		e, f := datagramPair(t)
		var wrote [][]byte
		check := func() {
			got, long := takeAll(t, e)
			if long || len(got) > maxMessages {
				t.Fatal(len(got), long)
			}
			for _, b := range got {
				if len(wrote) == 0 || !bytes.Equal(b, wrote[0]) {
					t.Fatalf("seed %d: a message of %d bytes that was not written", seed, len(b))
				}
				wrote = wrote[1:]
			}
			if n := queueLength(t, e); n == 0 {
				t.Fatalf("seed %d: the queue is empty", seed)
			}
		}
		for range 60 {
			for range r.IntN(40) {
				b := make([]byte, r.IntN(1<<r.IntN(11)))
				for i := range b {
					b[i] = byte(r.Uint32())
				}
				if _, err := unix.Write(int(f.Fd()), b); err != nil {
					t.Fatal(err)
				}
				if len(b) > 0 {
					wrote = append(wrote, b)
				}
			}
			for range r.IntN(4) {
				check()
			}
			for len(wrote) > 200 {
				check()
			}
		}
		f.Close()
		for len(wrote) > 0 {
			check()
		}
		for range 3 {
			check()
		}
		if !e.Ended() {
			t.Fatalf("seed %d: the end was not seen", seed)
		}
	}
}

// queueLength is how many messages lie in our queue, 1 where there are more.
func queueLength(t testing.TB, e *End) (n int) {
	e.raw.Control(func(fd uintptr) {
		off, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF)
		if err != nil {
			t.Fatal(err)
		}
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1)
		var b [1]byte
		if _, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err == nil {
			n = 1
		}
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF, off)
	})
	return n
}

// A message that is no record is an error behind those before it.
func TestDatagramEndRefusesLongMessages(t *testing.T) {
	e, f := datagramPair(t)
	f.Write([]byte("first"))
	f.Write(make([]byte, 16384))
	f.Write(make([]byte, 16385))
	f.Write([]byte("last"))
	got, long := takeAll(t, e)
	if len(got) != 2 || !long || string(got[0]) != "first" || len(got[1]) != 16384 {
		t.Fatal(len(got), long)
	}
}

// echo is an endpoint that sends back what it is sent.
type echo struct {
	mu     sync.Mutex
	come   *sync.Cond
	queue  [][]byte
	closed bool
	ended  bool
	failed error
	spare  [][]byte
}

func newEcho() *echo {
	e := new(echo)
	e.come = sync.NewCond(&e.mu)
	return e
}

func (e *echo) WaitRead() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		switch {
		case len(e.queue) > 0:
			return nil
		case e.failed != nil:
			return e.failed
		case e.ended:
			return io.EOF
		case e.closed:
			return net.ErrClosed
		}
		e.come.Wait()
	}
}

func (e *echo) ReadBatch(bufs [][]byte, sizes []int) (n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for n < len(bufs) && n < len(e.queue) {
		sizes[n] = copy(bufs[n], e.queue[n])
		e.spare = append(e.spare, e.queue[n])
		n++
	}
	e.queue = slices.Delete(e.queue, 0, n)
	return n, nil
}

func (e *echo) WriteBatch(messages [][]byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range messages {
		var b []byte
		if n := len(e.spare); n > 0 {
			b, e.spare = e.spare[n-1], e.spare[:n-1]
		}
		e.queue = append(e.queue, append(b[:0], m...))
	}
	e.come.Broadcast()
	return nil
}

func (e *echo) end(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended, e.failed = err == nil, err
	e.come.Broadcast()
}

func (e *echo) CloseWrite() error { return nil }
func (e *echo) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.come.Broadcast()
	return nil
}

type outcome struct{ send, receive error }

// echoing runs a pump on an echo.
func echoing(t testing.TB) (p *DatagramPump, e *echo, f *os.File, over chan outcome) {
	t.Helper()
	end, f, err := NewDatagramPair()
	if err != nil {
		t.Fatal(err)
	}
	e = newEcho()
	p = NewDatagrams(e, end)
	over = make(chan outcome, 1)
	go func() {
		var o outcome
		o.send, o.receive = p.Run()
		over <- o
	}()
	t.Cleanup(func() { p.Close(); f.Close() })
	return p, e, f, over
}

func TestDatagramPumpEnds(t *testing.T) {
	b := make([]byte, 20000)
	t.Run("the program closes", func(t *testing.T) {
		_, e, f, over := echoing(t)
		for i := range 100 {
			want := bytes.Repeat([]byte{byte(i + 1)}, i*100+1)
			f.Write(want)
			if n, err := f.Read(b); err != nil || !bytes.Equal(b[:n], want) {
				t.Fatal(n, err)
			}
		}
		f.Close()
		if o := <-over; o.send != nil || !isEnded(o.receive) || !e.closed {
			t.Error(o)
		}
	})
	t.Run("the peer's clean end", func(t *testing.T) {
		_, e, f, over := echoing(t)
		f.Write([]byte("a"))
		f.Read(b)
		e.end(nil)
		if n, err := f.Read(b); n != 0 || err != io.EOF {
			t.Error(n, err)
		}
		f.Close()
		if o := <-over; o != (outcome{}) {
			t.Error(o)
		}
	})
	t.Run("both ends, half by half", func(t *testing.T) {
		_, e, f, over := echoing(t)
		for range 3 {
			unix.Write(int(f.Fd()), nil) // empty ones at the end
		}
		if err := unix.Shutdown(int(f.Fd()), unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		e.end(nil)
		if n, err := f.Read(b); n != 0 || err != io.EOF {
			t.Error(n, err)
		}
		f.Close()
		if o := <-over; o != (outcome{}) {
			t.Error(o)
		}
	})
	t.Run("a failure", func(t *testing.T) {
		p, e, f, over := echoing(t)
		why := errors.New("why")
		e.end(why)
		if _, err := f.Read(b); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		if o := <-over; o.receive != why || p.Failure() != why {
			t.Error(o)
		}
	})
	t.Run("a message that is too long", func(t *testing.T) {
		p, _, f, over := echoing(t)
		f.Write(make([]byte, 16385))
		if o := <-over; o.send != ErrTooLong || p.Failure() != ErrTooLong {
			t.Error(o)
		}
		if _, err := f.Read(b); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		p, _, f, over := echoing(t)
		f.Write([]byte("x"))
		f.Read(b)
		p.Close()
		if _, err := f.Read(b); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		<-over
	})
	t.Run("stopped", func(t *testing.T) {
		p, e, f, over := echoing(t)
		for range 50 {
			f.Write([]byte("x"))
		}
		p.Stop(func() { e.end(net.ErrClosed) })
		if o := <-over; o.send != ErrStopped || o.receive != ErrStopped {
			t.Error(o)
		}
		// All that was written was sent.
		got := 0
		f.SetReadDeadline(time.Now().Add(10 * time.Second))
		p.end.Finish()
		for {
			if _, err := f.Read(b); err != nil {
				break
			}
			got++
		}
		if got += len(e.queue); got != 50 {
			t.Errorf("%d of 50", got)
		}
	})
}

// What the program has no room for is lost, and counted; it is not waited for.
func TestDatagramPumpDropsWhatHasNoRoom(t *testing.T) {
	p, e, f, _ := echoing(t)
	const count = 2000
	big := bytes.Repeat([]byte{1}, 4000)
	for range count {
		e.WriteBatch([][]byte{big})
	}
	for { // until all were read by the pump
		e.mu.Lock()
		left := len(e.queue)
		e.mu.Unlock()
		if left == 0 && p.Lost() > 0 {
			break
		}
	}
	e.WriteBatch([][]byte{big})
	e.end(nil)
	b := make([]byte, 20000)
	got := 0
	for {
		if _, err := f.Read(b); err != nil {
			break
		}
		got++
	}
	if got == 0 || uint64(got)+p.Lost() != count+1 {
		t.Errorf("%d of %d came, %d were lost", got, count+1, p.Lost())
	}
}

func TestDatagramCarrierRefuses(t *testing.T) {
	socket := func(family, typ, proto int) int {
		fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	unixPair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(unixPair[1])
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		fd   int
		want syscall.Errno
	}{
		"a file":           {null, unix.ENOTSOCK},
		"no descriptor":    {-1, unix.EBADF},
		"TCP":              {socket(unix.AF_INET, unix.SOCK_STREAM, 0), unix.EOPNOTSUPP},
		"a Unix socket":    {unixPair[0], unix.EOPNOTSUPP},
		"UDP-Lite":         {socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE), unix.EOPNOTSUPP},
		"unconnected":      {socket(unix.AF_INET, unix.SOCK_DGRAM, 0), unix.ENOTCONN},
		"IPv6 unconnected": {socket(unix.AF_INET6, unix.SOCK_DGRAM, 0), unix.ENOTCONN},
	} {
		if k, err := NewDatagramCarrier(c.fd); !errors.Is(err, c.want) || k != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.fd >= 0 {
			if err := unix.Close(c.fd); err != nil {
				t.Errorf("%s: the descriptor was taken: %v", name, err)
			}
		}
	}
}

// A datagram is one call, an empty one is none of the ends, and the flags and options
// are the program's again behind Release.
func TestDatagramCarrier(t *testing.T) {
	for _, blocking := range []bool{true, false} {
		peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: peer.LocalAddr().(*net.UDPAddr).Port}
		if err := errors.Join(unix.Connect(fd, to), unix.SetNonblock(fd, !blocking)); err != nil {
			t.Fatal(err)
		}
		kept, err := unix.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(kept)
		c, err := NewDatagramCarrier(fd)
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr().String() != peer.LocalAddr().String() || c.LocalAddr().Network() != "udp" {
			t.Error(c.LocalAddr(), c.RemoteAddr())
		}
		b := make([]byte, 100)
		for _, m := range []string{"hello", "", "there"} {
			if n, err := c.Write([]byte(m)); n != len(m) || err != nil {
				t.Fatal(n, err)
			}
			n, from, err := peer.ReadFromUDP(b)
			if err != nil || string(b[:n]) != m {
				t.Fatalf("%q, %v", b[:n], err)
			}
			peer.WriteToUDP(b[:n], from)
			if n, err := c.Read(b); string(b[:n]) != m || err != nil {
				t.Fatalf("%q, %v", b[:n], err)
			}
		}
		unix.SetsockoptInt(kept, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		unix.SetsockoptInt(kept, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		if err := c.Release(); err != nil {
			t.Fatal(err)
		}
		gro, err := unix.GetsockoptInt(kept, unix.IPPROTO_UDP, unix.UDP_GRO)
		if err != nil || gro != 0 {
			t.Errorf("UDP_GRO %d, %v", gro, err)
		}
		if v, err := unix.GetsockoptInt(kept, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER); err != nil || v == unix.IP_PMTUDISC_DO {
			t.Errorf("IP_MTU_DISCOVER %d, %v", v, err)
		}
		flags, err := unix.FcntlInt(uintptr(kept), unix.F_GETFL, 0)
		if err != nil || (flags&unix.O_NONBLOCK == 0) != blocking {
			t.Errorf("flags %#x, %v", flags, err)
		}
		if _, err := unix.Write(kept, []byte("still connected")); err != nil {
			t.Error(err)
		}
	}
}
