//go:build linux && amd64

package seccomp

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Listener receives the calls that a filter traps.
type Listener struct {
	fd       int
	sizes    sizes
	killable bool
	tasks    tasks

	done    chan struct{} // closed when no more calls are received
	ending  atomic.Bool   // so that a thread sees it without a channel
	wake    int           // eventfd: there is something for Serve to see
	failure atomic.Pointer[error]

	places chan struct{} // one for each call that Later took over
	later  sync.WaitGroup

	mu      sync.Mutex
	serving bool
	closed  bool
}

// newListener makes a Listener of fd, which is its own from then on if there is
// no error.
func newListener(fd int, killable bool) (*Listener, error) {
	l := &Listener{fd: fd, killable: killable, done: make(chan struct{})}
	if errno := l.sizes.get(); errno != 0 {
		return nil, refusal(errno)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	l.wake = wake
	wakeOnSameCPU(fd) // without it all is as right, and slower
	return l, nil
}

// Killable reports whether a trapped call, once received, is interrupted by
// nothing but what kills the program (Linux 5.19). Where it is not, a signal that
// the program handles interrupts the call: it is restarted and comes once more,
// under another ID, and the one before is no longer Valid. A handler must
// then not do twice what it did.
func (l *Listener) Killable() bool { return l.killable }

// A Handler answers a trapped call: with Continue, Respond or AddFDSend, before it
// returns, or it calls Later. A call that it left without an answer gets
// ENOSYS, as if there were no supervisor. Handlers run at once on all threads of
// Serve. The Notification is valid until the handler returns.
type Handler func(n *Notification)

// Serve receives trapped calls on so many threads (1 if 0) and has h answer them
// there: a call that waits for a goroutine takes several times as long. One thread
// is quickest as long as handlers are quick, since the kernel wakes all that wait;
// more are for handlers that take their time inline. pending is how many calls
// may be with Later.
//
// It returns when no process is left under the filter, or when Close was called,
// and what Later started has returned. It may be called once.
func (l *Listener) Serve(threads, pending int, h Handler) error {
	if err := l.begin(); err != nil {
		return err
	}
	if threads <= 0 {
		threads = 1
	}
	l.places = make(chan struct{}, pending)
	var running sync.WaitGroup
	tids := make(chan int, threads)
	for range threads {
		running.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tids <- unix.Gettid()
			if err := l.receive(h); err != nil {
				l.failure.CompareAndSwap(nil, &err)
				l.alert()
			}
		})
	}
	err := l.watch()
	l.ending.Store(true)
	close(l.done)
	stopped := make(chan struct{})
	go func() { running.Wait(); close(stopped) }()
	// A thread in the kernel sees nothing of this before Linux 6.11, and of Close
	// never. A signal gets it out. It may be sent too early, so it is sent again.
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for alive := true; alive; {
		for range threads {
			tid := <-tids
			tids <- tid
			unix.Tgkill(unix.Getpid(), tid, unix.SIGURG) // ESRCH: it ended
		}
		select {
		case <-stopped:
			alive = false
		case <-again.C:
		}
	}
	l.later.Wait()
	l.end()
	if f := l.failure.Load(); f != nil && err == nil {
		err = *f
	}
	return err
}

// begin and end bracket what Serve does with the descriptors. Whoever is last, it
// or Close, closes them.
func (l *Listener) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.serving {
		return os.ErrClosed
	}
	l.serving = true
	return nil
}

func (l *Listener) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.release()
}

func (l *Listener) release() {
	unix.Close(l.fd)
	unix.Close(l.wake)
	l.tasks.drop()
}

// Close ends Serve, which then closes the listener: calls that are trapped from
// then on end with ENOSYS, as do those that nobody has answered. Close does not
// wait for that. It may be called at any time, and more than once.
func (l *Listener) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
	case l.serving:
		l.closed = true
		l.alert()
	default:
		l.closed = true
		l.ending.Store(true)
		close(l.done)
		l.release()
	}
}

// Done is closed when no more calls are received. What Later started and does not
// end by itself has to look at it.
func (l *Listener) Done() <-chan struct{} { return l.done }

func (l *Listener) alert() {
	one := [8]byte{1}
	if _, err := unix.Write(l.wake, one[:]); err != nil && err != unix.EAGAIN {
		panic(err) // it is open as long as Serve runs
	}
}

// watch waits until it is over. It asks for nothing but the end of the listener,
// so that trapped calls do not wake it.
func (l *Listener) watch() error {
	fds := []unix.PollFd{{Fd: int32(l.fd)}, {Fd: int32(l.wake), Events: unix.POLLIN}}
	if _, err := retry(func() (int, error) { return unix.Poll(fds, -1) }); err != nil {
		return os.NewSyscallError("poll", err)
	}
	return nil
}

// receive is what a thread of Serve does.
func (l *Listener) receive(h Handler) error {
	n := newNotification(l)
	for !l.ending.Load() {
		clear(n.buf)
		switch errno := receive(l.fd, n.buf); errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.ENOENT: // the one who called was killed, or nobody is left
			fds := [1]unix.PollFd{{Fd: int32(l.fd)}}
			if _, err := unix.Poll(fds[:], 0); err == nil && fds[0].Revents&unix.POLLHUP != 0 {
				return nil
			}
			continue
		default:
			return os.NewSyscallError("ioctl SECCOMP_IOCTL_NOTIF_RECV", errno)
		}
		n.take()
		h(n)
		if !n.settled {
			n.Respond(0, unix.ENOSYS) // gone is as good
		}
	}
	return nil
}
