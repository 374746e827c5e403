//go:build unix

package soft

import (
	"io"
	"os"
	"syscall"
)

// read waits until the carrier has something to read and only then asks for
// room. It is the one place where a Receiver blocks.
func (r *Receiver) read() (int, error) {
	if r.raw == nil {
		n, err := r.conn.Read(r.room())
		return n, cause(err)
	}
	if r.tryRead == nil {
		r.tryRead = r.tryReadFD
	}
	// A goroutine that waits here should get by with the stack that it was
	// born with, 2 KiB: the first buffer is borrowed up here, and what only
	// errors need is elsewhere.
	r.room()
	if err := r.raw.Read(r.tryRead); err != nil {
		return 0, cause(err)
	}
	if r.got > 0 {
		return r.got, nil
	}
	return 0, r.readError()
}

func (r *Receiver) readError() error {
	if r.gotErr != 0 {
		return os.NewSyscallError("read", r.gotErr)
	}
	return io.EOF
}

// tryReadFD answers whether the read is over; if not, package net waits and
// calls again. Nothing is held meanwhile but the start of a record, if any.
func (r *Receiver) tryReadFD(fd uintptr) bool {
	b := r.room()
	for {
		if r.got, r.gotErr = readFD(fd, b); r.gotErr != syscall.EINTR {
			break
		}
	}
	switch {
	case r.gotErr != syscall.EAGAIN:
		return true
	case r.w == r.r && len(r.buf) <= batchSize: // as mostly, and with little stack
		put(r.buf)
		r.buf, r.r, r.w = nil, 0, 0
	default:
		r.retreat()
	}
	return false
}

// immediate says that tryWrite works here.
const immediate = true

// tryWrite sends what the carrier takes without blocking. ok is false where
// that cannot be asked for; then nothing was sent.
func (s *Sender) tryWrite(b []byte) (n int, ok bool) {
	if s.raw == nil {
		return 0, false
	}
	return s.short.write(s.raw, b), true
}

// shortWriter writes what a carrier takes without blocking. It keeps what would
// have to be allocated for each call.
type shortWriter struct {
	try  func(fd uintptr) bool // writeFD, made once
	p    []byte                // what it is to write
	took int                   // and how much was taken
}

// write returns how much of p was taken: nothing where there is an error, which
// a write that may block then returns.
func (w *shortWriter) write(raw syscall.RawConn, p []byte) int {
	if w.try == nil {
		w.try = w.writeFD
	}
	w.p, w.took = p, 0
	raw.Write(w.try)
	w.p = nil
	return w.took
}

func (w *shortWriter) writeFD(fd uintptr) bool {
	w.took = max(writeFD(fd, w.p), 0)
	return true
}
