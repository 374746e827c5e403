package bench

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/aftls/aftls/record"
)

// rawConn is a connection as a descriptor that does not block, and the two
// directions of its record layer, nil over TCP.
type rawConn struct {
	file   *os.File // what keeps fd open
	fd     int
	opener *record.Opener
	sealer *record.Sealer

	mu     sync.Mutex // of a server, for what is below
	cipher []byte     // not yet a whole record
	plain  []byte     // not yet a whole message

	writing sync.Mutex
	out     []byte
}

const cipherSize = 64 << 10

// newRawConn does the handshake and takes the descriptor. client says which side
// this is.
func newRawConn(ctx context.Context, c net.Conn, config *tls.Config, client bool) (*rawConn, error) {
	defer c.Close()
	r := new(rawConn)
	if config != nil {
		keys := new(keyLog)
		config = config.Clone()
		config.KeyLogWriter = keys
		var t *tls.Conn
		if client {
			t = tls.Client(c, config)
		} else {
			t = tls.Server(c, config)
		}
		// Nobody sends before both are done, so nothing is read ahead.
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		suite := t.ConnectionState().CipherSuite
		in, out := "SERVER", "CLIENT"
		if !client {
			in, out = out, in
		}
		k, err := keys.secret(in, suite)
		if err == nil {
			r.opener, err = record.NewOpener(k)
		}
		if err == nil {
			k, err = keys.secret(out, suite)
		}
		if err == nil {
			r.sealer, err = record.NewSealer(k)
		}
		if err != nil {
			return nil, err
		}
		r.cipher = make([]byte, 0, cipherSize)
	}
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	r.file, r.fd = f, int(f.Fd())
	r.plain = make([]byte, 0, 2*cipherSize)
	return r, errors.Join(syscall.SetNonblock(r.fd, true), syscall.SetsockoptInt(r.fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1))
}

// fill reads once and opens what it can. It returns io.EOF at the end, and 0
// when there is nothing to read.
func (r *rawConn) fill() (n int, err error) {
	into := &r.plain
	if r.opener != nil {
		into = &r.cipher
	}
	n, err = syscall.Read(r.fd, (*into)[len(*into):cap(*into)])
	switch {
	case err == syscall.EAGAIN || err == syscall.EINTR:
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	*into = (*into)[:len(*into)+n]
	if r.opener == nil {
		return n, nil
	}
	rest := r.cipher
	for len(rest) > 0 {
		size, err := r.opener.Frame(rest)
		if err != nil {
			return n, err
		}
		if size <= 0 || size > len(rest) {
			break
		}
		typ, payload, err := r.opener.Open(r.plain[len(r.plain):cap(r.plain)], rest[:size])
		if err != nil {
			return n, err
		}
		if typ != record.ApplicationData {
			return n, io.EOF // a client that goes says so first
		}
		r.plain = append(r.plain, payload...)
		rest = rest[size:]
	}
	r.cipher = r.cipher[:copy(r.cipher, rest)]
	return n, nil
}

// whole is how many bytes of whole messages plain begins with.
func whole(plain []byte) (n int) {
	for len(plain)-n >= 4 {
		size := int(binary.BigEndian.Uint32(plain[n:])) + 4
		if len(plain)-n < size {
			break
		}
		n += size
	}
	return n
}

// take reads once and takes the whole messages, in memory that it exchanges for
// own.
func (r *rawConn) take(own []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, err := r.fill(); n == 0 || err != nil {
		return own[:0], err
	}
	n := whole(r.plain)
	if n == 0 {
		return own[:0], nil
	}
	messages := r.plain
	r.plain = append(own[:0], messages[n:]...)
	return messages[:n], nil
}

// send writes a message, as a record over TLS. An answer is short and its reader
// quick, so it fits into the socket.
func (r *rawConn) send(b []byte) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	if r.sealer != nil {
		var err error
		if r.out, err = r.sealer.Seal(r.out[:0], record.ApplicationData, b); err != nil {
			return err
		}
		b = r.out
	}
	n, err := syscall.Write(r.fd, b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return os.NewSyscallError("write", err)
}

// epoll serves with threads that wait for connections: each of them with an
// epoll of its own, so that all that wait are woken, or with one for all, in
// which a connection wakes one thread and is silent until that has read.
func (s *messageServer) epoll(l net.Listener) error {
	runtime.GOMAXPROCS(threads + 2) // they block in system calls
	var conns []*rawConn
	for range s.cfg.conns {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		config := s.config
		if !s.cfg.tls {
			config = nil
		}
		r, err := newRawConn(context.Background(), c, config, false)
		if err != nil {
			return err
		}
		conns = append(conns, r)
	}
	one := s.cfg.design == byEpollOne
	shared, err := epollOf(conns, one)
	if err != nil {
		return err
	}
	for range threads {
		ep := shared
		if !one {
			if ep, err = epollOf(conns, one); err != nil {
				return err
			}
		}
		go func() {
			runtime.LockOSThread()
			s.fail(s.thread(ep, conns, one))
		}()
	}
	for range conns {
		s.count("handshakes")
	}
	select {}
}

// epollOf makes an epoll of connections, whose place is their name in it.
func epollOf(conns []*rawConn, one bool) (int, error) {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("epoll_create1", err)
	}
	for i, r := range conns {
		if err := syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, r.fd, event(i, one)); err != nil {
			return -1, os.NewSyscallError("epoll_ctl", err)
		}
	}
	return ep, nil
}

func event(i int, one bool) *syscall.EpollEvent {
	e := &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)}
	if one {
		e.Events |= syscall.EPOLLONESHOT
	}
	return e
}

// thread is one worker.
func (s *messageServer) thread(ep int, conns []*rawConn, one bool) error {
	messages, answer := make([]byte, 0, 2*cipherSize), []byte(nil)
	events := make([]syscall.EpollEvent, 1)
	for {
		n, err := syscall.EpollWait(ep, events, -1)
		if err == syscall.EINTR || err == nil && n == 0 {
			continue
		}
		if err != nil {
			return os.NewSyscallError("epoll_wait", err)
		}
		s.wakeups.Add(1)
		i := int(events[0].Fd)
		r := conns[i]
		if messages, err = r.take(messages); err != nil {
			if gone(err) {
				return nil // with the client, which closes all
			}
			return err
		}
		if one {
			if err := syscall.EpollCtl(ep, syscall.EPOLL_CTL_MOD, r.fd, event(i, one)); err != nil {
				return os.NewSyscallError("epoll_ctl", err)
			}
		}
		for rest := messages; len(rest) > 0; {
			size := int(binary.BigEndian.Uint32(rest)) + 4
			if answer, err = s.work(answer[:0], rest[:size]); err != nil {
				return err
			}
			if err := r.send(answer); err != nil {
				return err
			}
			rest = rest[size:]
		}
	}
}
