// Package kernel is the provider on Linux TLS sockets (net/tls, the upper layer
// protocol "tls" of a TCP connection): the kernel seals and opens the records, and
// this package tells it with which keys, takes the control records apart from the
// data, and says in words what the kernel answers with an errno.
//
//	kernel.go               what callers compare with
//	errno_linux.go          every errno that the kernel answers with, once
//	cryptoinfo_linux.go     keys as the kernel has them
//	syscall_linux.go        the system calls, and nothing else
//	socket_linux.go         a connection with the upper layer protocol, its keys and numbers
//	send_linux.go           a Sender: sendmsg(2)
//	queue_linux.go          what is committed and was not taken yet, and what TCP was not given
//	sendfile_linux.go       files into records, without a copy in our process
//	splice_linux.go         pipes and sockets into records, the same
//	receive_linux.go        a Receiver: recv(2), recvmsg(2) for control records
//	probe_linux.go          what this kernel can, found by trying (probe/)
//	device_linux.go         whether a network device has the records
//
// Neither half locks: package aftls does, one lock for each direction. Only Refresh
// may be called beside everything else.
package kernel

import (
	"errors"
	"sync/atomic"

	"github.com/aftls/aftls/record"
)

// ErrControl stops Read in front of a control record.
var ErrControl = errors.New("kernel: a control record is next")

// ErrNoKeys is the answer of a half that was never keyed.
var ErrNoKeys = errors.New("kernel: this direction has no keys")

// ErrNoRekey is the answer of a kernel that takes one key for each direction, as
// all before 6.14 do, and every kernel in TLS 1.2.
var ErrNoRekey = errors.New("kernel: this kernel takes no second key for a direction")

// ErrEmpty is returned for a control record without content, which the kernel
// cannot send.
var ErrEmpty = errors.New("kernel: the kernel sends no record without content")

// Unavailable says why the kernel cannot have the records of a connection, and
// what to do about it.
type Unavailable struct {
	Reason string
	Err    error // what the kernel answered, or nil where it was not asked
}

func (e *Unavailable) Error() string {
	if e.Err == nil {
		return e.Reason
	}
	return e.Reason + " (" + e.Err.Error() + ")"
}

func (e *Unavailable) Unwrap() error { return e.Err }

// Stats counts one direction. It may be read at any time. Records and Seq are the
// kernel's own numbers, as they were at the last Refresh.
type Stats struct {
	Records, Bytes, Rekeys, Seq, Epoch atomic.Uint64
	Version, Suite                     atomic.Uint32
}

func (s *Stats) keyed(k record.Keys) {
	s.Version.Store(uint32(k.Version))
	s.Suite.Store(uint32(k.Suite))
	s.Epoch.Store(k.Epoch)
	s.Seq.Store(k.Seq)
}

// goOn makes the counters begin where those of an earlier provider of the same
// association stood.
func (s *Stats) goOn(from *Stats) {
	s.Records.Store(from.Records.Load())
	s.Bytes.Store(from.Bytes.Load())
	s.Rekeys.Store(from.Rekeys.Load())
}

// Gate is what data passes, record by record: see internal/soft. It says how many
// bytes of the payload go on, and does not change or keep them. An error ends the
// direction.
type Gate func(payload []byte) (keep int, err error)

func (g *Gate) lets(payload []byte) (int, error) {
	if g == nil || len(payload) == 0 {
		return len(payload), nil
	}
	return (*g)(payload)
}

// borrowed counts the buffers that are lent.
var borrowed atomic.Int64

// Borrowed is how many buffers are lent out, for the leak checks of tests.
func Borrowed() int64 { return borrowed.Load() }
