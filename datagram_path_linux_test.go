package aftls_test

import (
	"errors"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// On a path with a smaller MTU a message that does not fit is refused with the
// limit, which does, from a carrier of one's own and from a listener's.
func TestDatagramsKeepToThePath(t *testing.T) {
	_, ccfg, scfg := datagramConfigs(t)
	done := make(chan struct{})
	var missing error
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its network
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			if missing = err; !errors.Is(err, syscall.EPERM) {
				t.Error(err)
			}
			return
		}
		if err := loopback(1400); err != nil {
			t.Error(err)
			return
		}
		for _, cidLen := range []int{-1, 8} {
			ccfg.CIDLen, scfg.CIDLen = cidLen, cidLen
			l, err := aftls.ListenDatagram("udp4", "127.0.0.1:0", scfg, aftls.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			c, err := (&aftls.DatagramDialer{Config: ccfg}).Dial("udp4", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			s, err := l.AcceptConn()
			if err != nil {
				t.Error(err)
				return
			}
			for i, x := range [][2]*aftls.DatagramConn{{c.(*aftls.DatagramConn), s}, {s, c.(*aftls.DatagramConn)}} {
				_, err := x[0].Write(make([]byte, 1400))
				var e *aftls.DatagramTooLargeError
				if !errors.As(err, &e) || e.Limit < 1372-60 || e.Limit > 1372-37 {
					t.Errorf("%d: %v", i, err)
					return
				}
				if n, err := x[0].WriteBatch([][]byte{make([]byte, e.Limit), make([]byte, e.Limit), make([]byte, e.Limit+1)}); n != 2 || !errors.As(err, &e) {
					t.Errorf("%d: %d, %v", i, n, err)
				}
				for range 2 {
					if n, err := x[1].Read(make([]byte, 2000)); n != e.Limit || err != nil {
						t.Errorf("%d: %d bytes, %v", i, n, err)
					}
				}
				if !x[0].Info().SegmentedSend {
					t.Errorf("%d: UDP_SEGMENT was given up for it", i)
				}
			}
		}
	}()
	<-done
	if missing != nil {
		if aftlstest.Expected("netns") {
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
