package soft

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func udpPair(t *testing.T) (a *net.UDPConn, b *net.UDPConn) {
	t.Helper()
	b, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	c, err := net.DialUDP("udp4", nil, b.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, b
}

// batchOf makes datagrams of the sizes, that lie one behind the other.
func batchOf(sizes []int) (buf []byte) {
	for i, n := range sizes {
		buf = append(buf, bytes.Repeat([]byte{byte(i + 1)}, n)...)
	}
	return buf
}

func arriveAll(t *testing.T, conn *net.UDPConn, p *Port, sizes []int) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	a := NewArrivals(p)
	defer a.Drop()
	for i, n := range sizes {
		d, _, ok, err := a.Next(true)
		if err != nil || !ok || len(d) != n || n > 0 && (d[0] != byte(i+1) || d[n-1] != byte(i+1)) {
			t.Fatalf("datagram %d of %d: %d bytes, want %d, %v", i, len(sizes), len(d), n, err)
		}
	}
	if _, _, ok, err := a.Next(false); ok || err != nil {
		t.Fatalf("more came, %v", err)
	}
}

var sizesOfBatches = [][]int{
	{1}, {1200}, {1200, 1200}, {1200, 1200, 7}, {7, 1200}, {1, 2, 3}, {3, 2, 1}, {9000, 9000, 9000, 9000, 9000, 9000, 9000, 9000, 9000},
	{16400, 16400, 16400, 16400, 16400}, {65507}, {40000, 40000},
}

// Batches arrive as they were sent, connected or not, with UDP_SEGMENT or without.
func TestPortSendsBatches(t *testing.T) {
	many := make([]int, MaxBatch)
	for i := range many {
		many[i] = 1000
	}
	for _, connected := range []bool{true, false} {
		for _, refuse := range []bool{false, true} {
			t.Run(fmt.Sprintf("connected=%v refused=%v", connected, refuse), func(t *testing.T) {
				lent(t)
				a, b := udpPair(t)
				from, to := NewPort(a), Path{}
				if !connected {
					c, err := net.ListenUDP("udp", nil)
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					a = c
					from, to = NewPacketPort(c), Path{Peer: b.LocalAddr().(*net.UDPAddr).AddrPort()}
				}
				if refuse {
					// A socket without checksums gets no UDP_SEGMENT (udp_send_skb).
					from.raw.Control(func(fd uintptr) {
						if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
							t.Fatal(err)
						}
					})
				}
				into := NewPacketPort(b)
				for _, sizes := range append(sizesOfBatches, many) {
					if n, err := from.Send(batchOf(sizes), sizes, to); n != len(sizes) || err != nil {
						t.Fatalf("%v: %d, %v", sizes, n, err)
					}
					arriveAll(t, b, into, sizes)
				}
				if whole, _ := from.Segments(); whole == refuse {
					t.Errorf("UDP_SEGMENT in use: %v", whole)
				}
			})
		}
	}
}

// A datagram that the path does not take ends the batch with the limit.
func TestPortTellsTheLimit(t *testing.T) {
	a, b := udpPair(t)
	into := NewPacketPort(b)
	to := Path{Peer: b.LocalAddr().(*net.UDPAddr).AddrPort()}
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, p := range []struct {
		port *Port
		to   Path
	}{{NewPort(a), Path{}}, {NewPacketPort(c), to}} {
		for _, sizes := range [][]int{{65508}, {10, 65508, 10}} {
			n, err := p.port.Send(batchOf(sizes), sizes, p.to)
			var e *MTUError
			if !errors.As(err, &e) || e.Limit != 65507 || n != len(sizes)/2 {
				t.Fatalf("%v: %d, %v", sizes, n, err)
			}
		}
		arriveAll(t, b, into, []int{10})
	}
}

// On a path with a smaller MTU nothing is cut up on the way: the limit is told,
// and UDP_SEGMENT is not given up for it.
func TestPortKeepsToThePath(t *testing.T) {
	done := make(chan struct{})
	var missing error
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its network
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			if errors.Is(err, syscall.EPERM) {
				missing = err
				return
			}
			t.Error(err)
			return
		}
		if err := loopback(1400); err != nil {
			t.Error(err)
			return
		}
		a, b := udpPair(t)
		from, into := NewPort(a), NewPacketPort(b)
		many := []int{1372, 1372, 1372, 5}
		if n, err := from.Send(batchOf(many), many, Path{}); n != len(many) || err != nil {
			t.Errorf("%d, %v", n, err)
			return
		}
		for _, sizes := range [][]int{{1373}, {1373, 1373}, {1372, 1373}} {
			n, err := from.Send(batchOf(sizes), sizes, Path{})
			var e *MTUError
			if !errors.As(err, &e) || e.Limit != 1372 || n != 0 && sizes[0] != 1372 {
				t.Errorf("%v: %d, %v", sizes, n, err)
			}
		}
		if whole, _ := from.Segments(); !whole {
			t.Error("UDP_SEGMENT was given up for datagrams that were too large")
		}
		_ = into
	}()
	<-done
	if missing != nil {
		if strings.Contains(","+os.Getenv("AFTLS_EXPECT")+",", ",netns,") { // aftlstest needs this package
			t.Fatalf("a network namespace is missing, and AFTLS_EXPECT says that it can be had: %v", missing)
		}
		t.Skipf("a network namespace is missing, which needs privilege: %v", missing)
	}
}

// loopback starts the loopback interface of this thread's network.
func loopback(mtu uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint32(mtu)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, r); err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// A port that waits holds no buffer.
func TestArrivalsHoldNothingWhileTheyWait(t *testing.T) {
	lent(t)
	a, b := udpPair(t)
	p := NewPacketPort(b)
	began := Borrowed()
	waiting := make(chan int64, 10)
	in := incomingPool.Get().(*incoming)
	try := in.recvmmsg
	in.try = func(fd uintptr) bool {
		over := try(fd)
		if !over {
			waiting <- Borrowed()
		}
		return over
	}
	done := make(chan error, 1)
	go func() {
		err := p.raw.Read(in.try)
		in.try = try
		in.release()
		done <- err
	}()
	if n := <-waiting; n != began {
		t.Errorf("%d buffers are lent while nothing comes", n-began)
	}
	a.Write([]byte("x"))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
