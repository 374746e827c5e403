package kernel

import (
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

type receives = []func(p, control []byte, flags int) (int, int, int, error)

func TestDataComesByRecv(t *testing.T) {
	f, r := newTestReceiver(t)
	f.receives = receives{fails(unix.EAGAIN), fails(unix.EINTR), gives("data")}
	b := make([]byte, 10)
	if n, err := r.Read(b); string(b[:n]) != "data" || err != nil {
		t.Fatal(n, err)
	}
	if !slices.Equal(f.calls, []string{"recv", "recv", "recv"}) || f.waits != 1 {
		t.Errorf("%v, %d waits", f.calls, f.waits)
	}
	if n, err := r.TryRead(b); n != 0 || err != nil {
		t.Errorf("nothing there: %d, %v", n, err)
	}
	if n, err := r.Read(nil); n != 0 || err != nil || len(f.calls) != 4 {
		t.Errorf("nothing asked for: %d, %v", n, err)
	}
}

func TestControlRecordStopsRead(t *testing.T) {
	f, r := newTestReceiver(t)
	f.receives = receives{fails(unix.EIO), typedAs(21, "\x01\x00"), gives("behind")}
	b := make([]byte, 1) // it is not the caller's slice that it comes into
	for range 3 {
		if n, err := r.Read(b); n != 0 || err != ErrControl || b[0] != 0 {
			t.Fatal(n, err, b)
		}
	}
	typ, p, ok := r.Control()
	if typ != record.AlertRecord || string(p) != "\x01\x00" || !ok {
		t.Fatal(typ, p, ok)
	}
	r.Consume(1)
	if _, p, ok := r.Control(); string(p) != "\x00" || !ok {
		t.Error("a part was taken, and the rest is gone")
	}
	r.Consume(1)
	b = make([]byte, 10)
	if n, err := r.Read(b); string(b[:n]) != "behind" || err != nil {
		t.Error(n, err)
	}
}

// A record of which the kernel does not say that it is data is not taken for data.
func TestTypeThatDoesNotCome(t *testing.T) {
	shapes := map[string]func(p, oob []byte, flags int) (int, int, int, error){
		"no message": gives("secret"),
		"cut off": func(p, oob []byte, flags int) (int, int, int, error) {
			n := putType(oob, unix.SOL_TLS, getRecordType, 22)
			return copy(p, "secret"), n - 8, unix.MSG_CTRUNC, nil
		},
		"only cut off": func(p, oob []byte, flags int) (int, int, int, error) { return 0, 0, unix.MSG_CTRUNC, nil },
		"another level": func(p, oob []byte, flags int) (int, int, int, error) {
			return copy(p, "secret"), putType(oob, unix.SOL_SOCKET, getRecordType, 22), 0, nil
		},
		"another kind": func(p, oob []byte, flags int) (int, int, int, error) {
			return copy(p, "secret"), putType(oob, unix.SOL_TLS, 9, 22), 0, nil
		},
	}
	for name, shape := range shapes {
		f, r := newTestReceiver(t)
		f.receives = receives{fails(unix.EIO), shape}
		b := make([]byte, 100)
		for range 2 { // and it stays so
			if n, err := r.Read(b); n != 0 || err != errType {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
		if _, p, ok := r.Control(); ok || len(r.Plain()) > 0 {
			t.Errorf("%s: %q is there", name, p)
		}
	}
}

func TestReadErrorsStay(t *testing.T) {
	for errno, alert := range map[unix.Errno]record.Alert{
		unix.EBADMSG: record.BadRecordMAC, unix.EMSGSIZE: record.RecordOverflow, unix.EINVAL: record.ProtocolVersion,
	} {
		for name, first := range map[string]receives{"recv": {fails(errno)}, "recvmsg": {fails(unix.EIO), fails(errno)}} {
			f, r := newTestReceiver(t)
			f.receives = append(first, gives("never")) // the kernel tells of some only once
			for range 2 {
				n, err := r.Read(make([]byte, 10))
				if e, ok := errors.AsType[*record.Error](err); !ok || e.Alert != alert || n != 0 {
					t.Errorf("%s, %v: %d, %v", name, errno, n, err)
				}
			}
			if len(f.receives) != 1 {
				t.Errorf("%s, %v: the kernel was asked again", name, errno)
			}
			if r.Await() == nil || r.Next() == nil {
				t.Errorf("%s, %v: forgotten", name, errno)
			}
		}
	}
	for _, errno := range []error{unix.ECONNRESET, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.EIO} {
		f, r := newTestReceiver(t)
		f.receives = receives{fails(errno), fails(errno), gives("never")}
		for range 2 {
			if n, err := r.Read(make([]byte, 10)); n != 0 || !errors.Is(err, errno) {
				t.Errorf("%v: %d, %v", errno, n, err)
			}
		}
	}
}

func TestEndOfTheStream(t *testing.T) {
	for left, want := range map[int]error{0: io.EOF, 3: io.ErrUnexpectedEOF} {
		f, r := newTestReceiver(t)
		f.left = left
		f.receives = receives{gives("x"), gives(""), gives(""), gives(""), gives("")} // each time it is asked twice
		if n, err := r.Read(make([]byte, 10)); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		for range 2 {
			if n, err := r.Read(make([]byte, 10)); n != 0 || err != want {
				t.Errorf("%d bytes of a record unread: %d, %v, want %v", left, n, err, want)
			}
		}
	}
}

func TestReadDeadline(t *testing.T) {
	f, r := newTestReceiver(t)
	f.expired = true
	for name, read := range map[string]func() error{
		"Read":  func() error { _, err := r.Read(make([]byte, 10)); return err },
		"Next":  r.Next,
		"Await": r.Await,
	} {
		if err := read(); err != os.ErrDeadlineExceeded {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.expired, f.receives = false, receives{gives("later")}
	if n, err := r.Read(make([]byte, 10)); n != 5 || err != nil {
		t.Error(n, err)
	}
}

// recv answers 0 for records without data that a control record follows, too.
func TestNothingIsNotTheEnd(t *testing.T) {
	f, r := newTestReceiver(t)
	f.receives = receives{gives(""), fails(unix.EAGAIN), gives(""), typedAs(23, ""), gives(""), typedAs(23, "data"), gives(""), typedAs(22, "ticket")}
	b := make([]byte, 10)
	if n, err := r.Read(b); string(b[:n]) != "data" || err != nil {
		t.Fatalf("%q, %v", b[:n], err)
	}
	if n, err := r.Read(b); n != 0 || err != ErrControl {
		t.Fatal(n, err)
	}
	if _, p, _ := r.Control(); string(p) != "ticket" {
		t.Errorf("%q", p)
	}
}

// After a KeyUpdate the kernel gives nothing until it has a key. Whoever reads on
// without one (the message may have more parts) reads on under the old key.
func TestPausedKernel(t *testing.T) {
	f, r := newTestReceiver(t)
	f.receives = receives{fails(unix.EIO), typedAs(22, "\x18\x00"), fails(unix.EKEYEXPIRED), fails(unix.EIO), typedAs(22, "\x00\x01\x00"), fails(unix.EKEYEXPIRED), fails(unix.EKEYEXPIRED)}
	b := make([]byte, 10)
	for range 2 {
		if n, err := r.Read(b); n != 0 || err != ErrControl {
			t.Fatal(n, err)
		}
		_, p, _ := r.Control()
		r.Consume(len(p))
	}
	if len(f.keys) != 2 || string(f.keys[0]) != string(f.keys[1]) {
		t.Errorf("%d keys, or others", len(f.keys))
	}
	if _, err := r.Read(b); !errors.Is(err, unix.EKEYEXPIRED) { // not for ever
		t.Error(err)
	}
}

func TestRekeyOfTheReceiver(t *testing.T) {
	f, r := newTestReceiver(t)
	if err := r.Rekey(); err != nil {
		t.Fatal(err)
	}
	next, _ := testKeys(t).Next()
	var want cryptoInfo
	want.set(next)
	if string(f.keys[1]) != string(want.bytes()) || r.Stats().Epoch.Load() != 1 {
		t.Error("the kernel got another key")
	}
	f.set = []answer{{0, unix.EBUSY}}
	if err := r.Rekey(); err != ErrNoRekey {
		t.Errorf("a kernel that takes one key: %v", err)
	}
	if k, err := r.Keys(); err != nil || k.Epoch != 1 {
		t.Errorf("after a refusal: %v, %v", k, err)
	}
}

func TestRecordsOneAtATime(t *testing.T) {
	f, r := newTestReceiver(t)
	f.receives = receives{
		gives("first"), gives("second"),
		fails(unix.EINVAL), typedAs(22, "control"), // a control record is next
		fails(unix.EINVAL), fails(unix.EAGAIN), // or a record of another version, of which the kernel tells once
	}
	for _, want := range []string{"first", "second"} {
		if err := r.Next(); err != nil || string(r.Plain()) != want {
			t.Fatalf("%q, %v, want %q", r.Plain(), err, want)
		}
		r.Take(len(want))
	}
	if err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if typ, p, _ := r.Control(); typ != record.Handshake || string(p) != "control" {
		t.Fatal(typ, p)
	}
	r.Consume(len("control"))
	for range 2 {
		if e, ok := errors.AsType[*record.Error](r.Next()); !ok || e.Alert != record.ProtocolVersion {
			t.Error(e)
		}
	}
}

func TestRecordsWithoutDataOneAtATime(t *testing.T) {
	f, r := newTestReceiver(t)
	for range maxEmpty {
		f.receives = append(f.receives, gives(""), fails(unix.EAGAIN))
	}
	f.receives = append(f.receives, gives("data"))
	if err := r.Next(); err != nil || string(r.Plain()) != "data" {
		t.Fatalf("%q, %v", r.Plain(), err)
	}
	r.Take(4)
	for range maxEmpty + 1 {
		f.receives = append(f.receives, gives(""), fails(unix.EAGAIN))
	}
	if e, ok := errors.AsType[*record.Error](r.Next()); !ok || e.Alert != record.UnexpectedMessage {
		t.Error(e)
	}
	f, r = newTestReceiver(t)
	f.receives = receives{gives(""), gives(""), gives(""), gives("")}
	if err := r.Next(); err != io.EOF {
		t.Errorf("the end: %v", err)
	}
}

func TestGateOnReceiving(t *testing.T) {
	f, r := newTestReceiver(t)
	var seen []string
	gate := Gate(func(p []byte) (int, error) {
		seen = append(seen, string(p))
		switch p[0] {
		case 'd':
			return 0, nil
		case 'k':
			return 0, io.ErrClosedPipe
		}
		return min(len(p), 2), nil
	})
	r.SetGate(&gate)
	f.receives = receives{gives("drop"), gives("pass"), gives("kill"), gives("never")}
	b := make([]byte, 10)
	if n, err := r.Read(b); string(b[:n]) != "pa" || err != nil {
		t.Fatalf("%q, %v", b[:n], err)
	}
	for range 2 {
		if n, err := r.Read(b); n != 0 || err != io.ErrClosedPipe {
			t.Fatal(n, err)
		}
	}
	if !slices.Equal(seen, []string{"drop", "pass", "kill"}) || slices.Contains(f.calls, "recv") {
		t.Errorf("the gate saw %q, by %v", seen, f.calls)
	}
}

func TestAwaitTakesNothing(t *testing.T) {
	f, r := newTestReceiver(t)
	peek := func(p, oob []byte, flags int) (int, int, int, error) {
		if flags&unix.MSG_PEEK == 0 || len(p) > 1 {
			t.Errorf("flags %x, %d bytes", flags, len(p))
		}
		return copy(p, "d"), putType(oob, unix.SOL_TLS, getRecordType, 23), 0, nil
	}
	f.receives = receives{fails(unix.EAGAIN), peek, gives("data")}
	if err := r.Await(); err != nil || r.Plain() != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, err := r.Read(b); string(b[:n]) != "data" || err != nil {
		t.Fatal(n, err)
	}
	f.receives = receives{typedAs(21, ""), typedAs(21, "")} // a control record without content
	if err := r.Await(); err != nil {
		t.Fatal(err)
	}
	if typ, p, ok := r.Control(); typ != record.AlertRecord || len(p) != 0 || !ok {
		t.Error(typ, p, ok)
	}
	r.Consume(0)
}

// The kernel counts the records; it is asked before there can be too many.
func TestNumbersAreAskedForInTime(t *testing.T) {
	f, r := newTestReceiver(t)
	limit := record.Limit(record.TLS13, 0x1301)
	k := testKeys(t)
	k.Seq = limit - 3
	if err := r.SetKeys(k); err != nil {
		t.Fatal(err)
	}
	k.Seq = limit // the kernel has opened three more
	var i cryptoInfo
	i.set(k)
	f.info[optRX] = i.bytes()
	f.receives = receives{gives("ab"), gives("c")}
	b := make([]byte, 10)
	r.Read(b)
	if got := r.Stats().Seq.Load(); got != limit-3 {
		t.Errorf("asked after 2 bytes, which are 2 records at most: %d", got)
	}
	r.Read(b)
	if got := r.Stats().Seq.Load(); got != limit {
		t.Errorf("not asked after 3 bytes: %d", got)
	}
}
