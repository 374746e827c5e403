package kernel

import (
	"bytes"
	"encoding/binary"
	"os"
	"syscall"
	"testing"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// answer is what the kernel says to one call: it takes or gives up to n bytes, or
// fails.
type answer struct {
	n   int
	err error
}

// message is what a send was: its type, and the bytes that were taken of it.
type message struct {
	typ byte
	b   string
}

// fake answers in the kernel's place. Without an answer in a list a call succeeds.
type fake struct {
	t        *testing.T
	set      []answer  // to setsockopt, in order
	sends    []answer  // to sendmsg and sendfile
	sent     []message // what those took
	keys     [][]byte  // what setsockopt gave, in order
	info     map[int][]byte
	ulp      string
	receives []func(p, control []byte, flags int) (n, controlLen, got int, err error)
	calls    []string // names of the reading calls
	left     int      // SIOCINQ
	acked    uint64   // TCP_INFO
	queued   int      // SIOCOUTQ
	file     []byte   // what sendfile sends
	asked    []int    // and how much it was asked for
	waits    int      // how often somebody waited for the socket
	expired  bool     // the deadline is over: nobody waits
}

func (f *fake) system() *calls {
	return &calls{
		setsockopt: func(fd, level, opt int, b []byte) error {
			if err := f.next(&f.set).err; err != nil {
				return err
			}
			if level == unix.SOL_TLS {
				f.keys = append(f.keys, bytes.Clone(b))
				f.info[opt] = bytes.Clone(b)
			} else {
				f.ulp = string(b)
			}
			return nil
		},
		getsockopt: func(fd, level, opt int, b []byte) (int, error) {
			if level != unix.SOL_TLS {
				return copy(b, f.ulp+"\x00"), nil
			}
			i, ok := f.info[opt]
			if !ok {
				return 0, unix.EBUSY
			}
			return copy(b, i), nil
		},
		recv: func(fd int, p []byte, flags int) (int, error) {
			n, _, _, err := f.receive("recv", p, nil, flags)
			return n, err
		},
		recvmsg: func(fd int, p, control []byte, flags int) (int, int, int, error) {
			return f.receive("recvmsg", p, control, flags)
		},
		sendmsg: func(fd int, v []unix.Iovec, oob []byte, flags int) (int, error) {
			if flags&unix.MSG_DONTWAIT == 0 || flags&unix.MSG_NOSIGNAL == 0 {
				f.t.Errorf("sendmsg with flags %x: it may block, or kill the process", flags)
			}
			var b []byte
			for _, x := range v {
				for i := range int(x.Len) {
					b = append(b, *offset(x.Base, i))
				}
			}
			typ := byte(record.ApplicationData)
			if len(oob) > 0 {
				typ = oob[unix.CmsgLen(0)]
			}
			return f.take(typ, b)
		},
		sendfile: func(fd, file, count int) (int, error) {
			f.asked = append(f.asked, count)
			n, err := f.take(byte(record.ApplicationData), f.file[:min(count, len(f.file))])
			f.file = f.file[max(n, 0):]
			return n, err
		},
		splice: func(from, to, count, flags int) (int, error) {
			p := make([]byte, count)
			n, _, _, err := f.receive("splice", p, nil, flags)
			if n > 0 {
				if _, err := unix.Write(to, p[:n]); err != nil {
					f.t.Error(err)
				}
			}
			return n, err
		},
		acked:     func(int) (uint64, error) { return f.acked, nil },
		queued:    func(int) (int, error) { return f.queued, nil },
		unread:    func(int) (int, error) { return f.left, nil },
		remaining: func(int) (int64, error) { return int64(len(f.file)), nil },
	}
}

func (f *fake) next(list *[]answer) (a answer) {
	if a.n = -1; len(*list) > 0 {
		a, *list = (*list)[0], (*list)[1:]
	}
	return a
}

func (f *fake) take(typ byte, b []byte) (int, error) {
	a := f.next(&f.sends)
	if a.err != nil {
		return -1, a.err
	}
	if a.n < 0 || a.n > len(b) {
		a.n = len(b)
	}
	f.sent = append(f.sent, message{typ, string(b[:a.n])})
	if i := f.info[optTX]; i != nil && a.n > 0 { // each call makes records of its own
		seq := i[len(i)-seqLen:]
		binary.BigEndian.PutUint64(seq, binary.BigEndian.Uint64(seq)+uint64((a.n+record.MaxPlaintext-1)/record.MaxPlaintext))
	}
	return a.n, nil
}

func (f *fake) receive(call string, p, control []byte, flags int) (int, int, int, error) {
	f.calls = append(f.calls, call)
	if len(f.receives) == 0 {
		return -1, 0, 0, unix.EAGAIN
	}
	next := f.receives[0]
	f.receives = f.receives[1:]
	return next(p, control, flags)
}

// gives is a read that brings data of no type, as recv and splice do.
func gives(s string) func(p, control []byte, flags int) (int, int, int, error) {
	return func(p, control []byte, flags int) (int, int, int, error) { return copy(p, s), 0, 0, nil }
}

// fails is a read that fails.
func fails(err error) func(p, control []byte, flags int) (int, int, int, error) {
	return func(p, control []byte, flags int) (int, int, int, error) { return -1, 0, 0, err }
}

// typedAs is a recvmsg that brings a record with its type.
func typedAs(typ byte, s string) func(p, control []byte, flags int) (int, int, int, error) {
	return func(p, oob []byte, flags int) (int, int, int, error) {
		return copy(p, s), putType(oob, unix.SOL_TLS, getRecordType, typ), 0, nil
	}
}

func putType(oob []byte, level, kind int32, typ byte) int {
	var c control
	c.setType(typ)
	if unix.CmsgSpace(0) == 16 {
		binary.NativeEndian.PutUint32(c.b[8:], uint32(level))
		binary.NativeEndian.PutUint32(c.b[12:], uint32(kind))
	} else {
		binary.NativeEndian.PutUint32(c.b[4:], uint32(level))
		binary.NativeEndian.PutUint32(c.b[8:], uint32(kind))
	}
	return copy(oob, c.b[:controlLen])
}

// raw is the descriptor of the fake: waiting ends at once, or in a timeout.
type raw struct{ f *fake }

func (r raw) Control(call func(uintptr)) error    { call(3); return nil }
func (r raw) Read(call func(uintptr) bool) error  { return r.f.until(call) }
func (r raw) Write(call func(uintptr) bool) error { return r.f.until(call) }

var _ syscall.RawConn = raw{}

func (f *fake) until(call func(uintptr) bool) error {
	for !call(3) {
		if f.expired {
			return os.ErrDeadlineExceeded
		}
		if f.waits++; f.waits > 100 {
			f.t.Fatal("waits for ever")
		}
	}
	return nil
}

func newFake(t *testing.T) (*fake, *Socket) {
	f := &fake{t: t, info: make(map[int][]byte)}
	return f, &Socket{raw: raw{f}, sys: f.system()}
}

func testKeys(t *testing.T) record.Keys {
	t.Helper()
	k, err := record.TrafficKeys(0x1301, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newTestSender(t *testing.T, max uint64) (*fake, *Sender) {
	t.Helper()
	f, s := newFake(t)
	snd, err := NewSender(s, testKeys(t), max, nil)
	if err != nil {
		t.Fatal(err)
	}
	snd.ramp = 0 // but where it is tested
	snd.last = 1 << 62
	return f, snd
}

func newTestReceiver(t *testing.T) (*fake, *Receiver) {
	t.Helper()
	f, s := newFake(t)
	r, err := NewReceiver(s, testKeys(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close(os.ErrClosed)
		if n := Borrowed(); n != 0 {
			t.Errorf("%d buffers left", n)
		}
	})
	return f, r
}
