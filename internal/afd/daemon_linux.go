package afd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/aftls/aftls/internal/pump"
	"golang.org/x/sys/unix"
)

// Daemon is the hand-off daemon: on a Unix SEQPACKET socket it takes keys and a
// carrier, and answers with the descriptor of a TLS socket (docs/handoff.md).
// Possession of a descriptor is the only authority: an association has no name.
type Daemon struct {
	// PerUser is how many associations, and as many connections that ask for
	// one, each user may have. More are refused with EDQUOT.
	PerUser int

	// Log is told in one line of everything that was refused, and of what
	// associations ended of. It may be called by many goroutines at once.
	Log func(format string, args ...any)

	// Began, if not nil, is told of every association of a stream before its first
	// byte, and Ended when it is over.
	Began, Ended func(*Association)

	mu     sync.Mutex
	closed bool
	ending bool
	users  map[uint32]*user
	open   map[interface{ CloseNow() }]struct{}
	freed  chan struct{} // somebody gave descriptors back
	wg     sync.WaitGroup
}

// user is what one user of the daemon has.
type user struct{ connections, associations int }

// DefaultPerUser is PerUser where it is 0.
const DefaultPerUser = 4096

// Serve answers requests on ln until Close. Who may connect is decided by the
// permissions of the socket's file; the peer's user is only counted.
func (d *Daemon) Serve(ln *net.UnixListener) error {
	defer d.wg.Wait()
	if !d.add(listener{ln}) {
		return net.ErrClosed
	}
	defer d.remove(listener{ln})
	for {
		c, err := ln.AcceptUnix()
		if err != nil {
			if d.isClosed() {
				return net.ErrClosed
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
				d.log("accept: %v", err)
				if !d.waitForDescriptors() {
					return net.ErrClosed
				}
				continue
			}
			return err
		}
		d.wg.Go(func() { d.serve(c) })
	}
}

type listener struct{ *net.UnixListener }

func (l listener) CloseNow() { l.Close() }

type connection struct{ *net.UnixConn }

func (c connection) CloseNow() { c.Close() }

// Close ends the daemon and all its associations: their programs see errors.
func (d *Daemon) Close() {
	d.mu.Lock()
	d.closed = true
	var all []interface{ CloseNow() }
	for x := range d.open {
		all = append(all, x)
	}
	d.mu.Unlock()
	for _, x := range all {
		x.CloseNow()
	}
}

// Shutdown takes no more requests and waits until the associations there are have
// ended, or ctx has, whose error it returns then. Close ends the rest.
func (d *Daemon) Shutdown(ctx context.Context) error {
	d.mu.Lock()
	var ending []interface{ CloseNow() }
	for x := range d.open {
		if _, ok := x.(association); !ok {
			ending = append(ending, x)
		}
	}
	d.ending = true
	d.mu.Unlock()
	for _, x := range ending {
		x.CloseNow()
	}
	over := make(chan struct{})
	go func() { d.wg.Wait(); close(over) }()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Daemon) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed || d.ending
}

// add registers what Close is to end. It is false after Close and Shutdown.
func (d *Daemon) add(x interface{ CloseNow() }) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.ending {
		return false
	}
	if d.open == nil {
		d.open = make(map[interface{ CloseNow() }]struct{})
		d.freed = make(chan struct{}, 1)
	}
	d.open[x] = struct{}{}
	return true
}

func (d *Daemon) remove(x interface{ CloseNow() }) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, x)
	select {
	case d.freed <- struct{}{}:
	default:
	}
}

func (d *Daemon) log(format string, args ...any) {
	if d.Log != nil {
		d.Log(format, args...)
	}
}

// reserve takes one of a user's connections or associations, or refuses.
func (d *Daemon) reserve(uid uint32, count func(*user) *int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.users[uid]
	if u == nil {
		if d.users == nil {
			d.users = make(map[uint32]*user)
		}
		u = new(user)
		d.users[uid] = u
	}
	limit := d.PerUser
	if limit == 0 {
		limit = DefaultPerUser
	}
	n := count(u)
	if *n >= limit {
		return refuse(unix.EDQUOT, "user %d has %d already, and may have no more", uid, limit)
	}
	*n++
	return nil
}

func (d *Daemon) release(uid uint32, count func(*user) *int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.users[uid]
	*count(u)--
	if *u == (user{}) {
		delete(d.users, uid)
	}
}

func connections(u *user) *int  { return &u.connections }
func associations(u *user) *int { return &u.associations }

// serve answers the requests of one connection.
func (d *Daemon) serve(c *net.UnixConn) {
	defer c.Close()
	if !d.add(connection{c}) {
		return
	}
	defer d.remove(connection{c})
	uid, err := peerUser(c)
	if err == nil {
		err = d.reserve(uid, connections)
	}
	if err != nil {
		d.log("refused a connection: %v", err)
		c.Write(appendReply(nil, err))
		return
	}
	defer d.release(uid, connections)
	for {
		ok, err := d.request(c, uid)
		if err != nil {
			d.log("refused a hand-off of user %d: %v", uid, err)
			if _, err := c.Write(appendReply(nil, err)); err != nil {
				return
			}
		}
		if !ok {
			return
		}
	}
}

func peerUser(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(cerr, os.NewSyscallError("getsockopt", err)); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// requestBuffers hold one request each; they are large, and short in use.
var requestBuffers = sync.Pool{New: func() any { return new([MaxRequest + 1]byte) }}

// request reads one request and answers it if it can be granted. ok is false when
// the connection is over.
func (d *Daemon) request(c *net.UnixConn, uid uint32) (ok bool, err error) {
	// Waiting takes no buffer.
	raw, err := c.SyscallConn()
	if err != nil {
		return false, nil
	}
	if raw.Read(readable) != nil {
		return false, nil
	}
	b := requestBuffers.Get().(*[MaxRequest + 1]byte)
	defer requestBuffers.Put(b)
	var oob [256]byte
	n, oobn, flags, _, err := c.ReadMsgUnix(b[:], oob[:])
	defer clear(b[:max(n, 0)])
	fds := descriptors(oob[:max(oobn, 0)])
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if err != nil || n == 0 {
		return false, nil
	}
	switch {
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || n > MaxRequest:
		return true, refuse(unix.EMSGSIZE, "the request is too long, or carries too many descriptors")
	case len(fds) != 1:
		return true, refuse(unix.EINVAL, "the request carries %d descriptors: it takes the carrier, and nothing else", len(fds))
	}
	r, err := ParseRequest(b[:n])
	if err != nil {
		return true, err
	}
	defer r.wipe()
	if r.Flags&Kernel != 0 && r.Flags&WantControl == 0 {
		return true, refuse(unix.EINVAL, "kernel semantics need the control descriptor: nobody else could take control records")
	}
	if r.Flags&Records != 0 && r.Flags&(WantControl|Kernel) != WantControl {
		return true, refuse(unix.EINVAL, "record boundaries need the control descriptor, and are not for kernel semantics")
	}
	newCarrier := pump.NewCarrier
	if isDatagram(r.Send.Version) {
		newCarrier = pump.NewDatagramCarrier
	}
	carrier, err := newCarrier(fds[0])
	if err != nil {
		return true, err
	}
	fds = nil
	if err := d.grant(c, uid, r, carrier); err != nil {
		carrier.Release()
		return true, err
	}
	return true, nil
}

func readable(fd uintptr) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, _ := unix.Poll(p[:], 0)
	return n > 0
}

// descriptors returns what a message brought along.
func descriptors(oob []byte) (fds []int) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// grant makes the association and sends the program its descriptors. The carrier
// stays the caller's on an error.
func (d *Daemon) grant(c *net.UnixConn, uid uint32, r *Request, carrier *pump.Carrier) (err error) {
	if err := d.reserve(uid, associations); err != nil {
		return err
	}
	granted := false
	defer func() {
		if !granted {
			d.release(uid, associations)
		}
	}()
	newPair := pump.NewPair
	switch {
	case isDatagram(r.Send.Version):
		newPair = pump.NewDatagramPair
	case r.Flags&Records != 0:
		newPair = pump.NewRecordPair
	}
	end, theirs, err := newPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	give := []*os.File{theirs}
	var ctl *control
	policy, taker := Ours, Taker(nil)
	if r.Flags&WantControl != 0 {
		var file *os.File
		if ctl, file, err = newControl(); err != nil {
			end.Close()
			return err
		}
		defer file.Close()
		give, taker = append(give, file), ctl
		if !r.secrets() {
			policy = Theirs
		}
	}
	if r.Flags&Kernel != 0 {
		policy = AsLinux
	}
	var a association
	if isDatagram(r.Send.Version) {
		m := NewDatagrams(carrier, end, false)
		m.setControl(ctl)
		a, err = m, m.Start(r.Send, r.Receive)
	} else {
		s := NewAssociation(carrier, end, policy, r.Flags&IsClient != 0, taker)
		a, err = s, s.Start(r.Send, r.Receive, r.Unread)
	}
	if err == nil && !d.add(a) {
		err = refuse(unix.ESHUTDOWN, "the daemon is ending")
	}
	if err == nil {
		var rights []int
		for _, f := range give {
			rights = append(rights, int(f.Fd()))
		}
		_, _, err = c.WriteMsgUnix(appendReply(nil, nil), unix.UnixRights(rights...), nil)
		if err != nil {
			d.remove(a)
		}
	}
	if err != nil {
		a.Close() // its keys are wiped, and nobody may use them again
		end.Close()
		if ctl != nil {
			ctl.Close()
		}
		return err
	}
	granted = true
	stream, _ := a.(*Association)
	if d.Began != nil && stream != nil {
		d.Began(stream)
	}
	if ctl != nil {
		d.wg.Go(func() { ctl.serve(a) })
	}
	d.wg.Go(func() {
		defer d.release(uid, associations)
		defer d.remove(a)
		if d.Ended != nil && stream != nil {
			defer d.Ended(stream)
		}
		err := a.Run()
		if err != nil && err != pump.ErrStopped {
			d.log("an association of user %d with %v ended: %v", uid, carrier.RemoteAddr(), err)
		}
		if ctl != nil {
			ctl.finish(err)
		}
	})
	return nil
}

// waitForDescriptors waits until some may have been given back. It is false when
// the daemon is closed.
func (d *Daemon) waitForDescriptors() bool {
	select {
	case <-d.freed:
	case <-time.After(time.Second): // others in this process have some too
	}
	return !d.isClosed()
}

// Listen makes the daemon's socket at path, which only its owner can open (0600).
// A socket that nobody listens on any more is replaced.
func Listen(path string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unixpacket"}
	if c, err := net.DialUnix("unixpacket", nil, addr); err == nil {
		c.Close()
		return nil, fmt.Errorf("afd: a daemon is listening on %s already", path)
	} else if st, serr := os.Lstat(path); errors.Is(err, syscall.ECONNREFUSED) && serr == nil && st.Mode().Type() == os.ModeSocket {
		os.Remove(path)
	}
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	return net.ListenUnix("unixpacket", addr)
}

// Undumpable keeps other processes of the same user out of this one, whose memory
// holds keys: no core dumps, no ptrace, no /proc/PID/mem (prctl(2)).
func Undumpable() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}
