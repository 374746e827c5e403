package kernel

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

const handshakeType = byte(record.Handshake)

func (f *fake) data() (all string) {
	for _, m := range f.sent {
		if m.typ == byte(record.ApplicationData) {
			all += m.b
		}
	}
	return all
}

func TestShortWritesGoOn(t *testing.T) {
	f, s := newTestSender(t, 0)
	f.sends = []answer{{1, nil}, {0, unix.EINTR}, {5, nil}, {0, unix.EAGAIN}, {0, unix.EAGAIN}, {3, nil}}
	want := "hello, this is one write"
	if n, err := s.WriteOne([]byte(want), 1<<20); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	if got := f.data(); got != want {
		t.Errorf("the kernel got %q", got)
	}
	if f.waits != 2 {
		t.Errorf("%d waits for 2 EAGAIN", f.waits)
	}
}

func TestShortVectors(t *testing.T) {
	for cut := 1; cut < 12; cut++ {
		f, s := newTestSender(t, 0)
		for range 20 {
			f.sends = append(f.sends, answer{cut, nil})
		}
		v := [][]byte{nil, []byte("ab"), {}, []byte("cdefg"), nil, nil, []byte("hij"), {}}
		if n, err := s.Write(&v, 1<<20); n != 10 || err != nil || len(v) != 0 {
			t.Fatalf("cut at %d: %d, %v, %d slices left", cut, n, err, len(v))
		}
		if got := f.data(); got != "abcdefghij" {
			t.Errorf("cut at %d: the kernel got %q", cut, got)
		}
	}
}

func TestWriteOfManySlicesIsOneCall(t *testing.T) {
	f, s := newTestSender(t, 0)
	var v [][]byte
	for range 1500 {
		v = append(v, []byte("x"))
	}
	if n, err := s.Write(&v, 1<<20); n != 1500 || err != nil {
		t.Fatal(n, err)
	}
	if len(f.sent) != 2 || len(f.sent[0].b) != vectorMax {
		t.Errorf("%d calls, the first with %d bytes", len(f.sent), len(f.sent[0].b))
	}
}

// After a deadline n is exact: the kernel has so many bytes, and no more.
func TestDeadlineInsideWrite(t *testing.T) {
	f, s := newTestSender(t, 0)
	f.sends, f.expired = []answer{{4, nil}, {0, unix.EAGAIN}}, true
	v := [][]byte{[]byte("abc"), []byte("defgh")}
	n, err := s.Write(&v, 1<<20)
	if n != 4 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(n, err)
	}
	if len(v) != 1 || string(v[0]) != "efgh" || f.data() != "abcd" || s.Pending() != 0 {
		t.Errorf("%q left, %q sent, %d pending", v, f.data(), s.Pending())
	}
}

func TestWriteErrors(t *testing.T) {
	for _, errno := range []error{unix.EPIPE, unix.ECONNRESET, unix.ETIMEDOUT, unix.ENOMEM, unix.EHOSTUNREACH} {
		f, s := newTestSender(t, 0)
		f.sends = []answer{{2, nil}, {0, errno}}
		if n, err := s.WriteOne([]byte("data"), 1<<20); n != 2 || !errors.Is(err, errno) {
			t.Errorf("%v: %d, %v", errno, n, err)
		}
	}
	f, s := newTestSender(t, 0)
	f.sends = []answer{{0, unix.EBADMSG}}
	_, err := s.WriteOne([]byte("data"), 1<<20)
	if e, ok := errors.AsType[*record.Error](err); !ok || e.Alert != record.BadRecordMAC {
		t.Errorf("a write behind a bad record: %v", err)
	}
	f.sends = []answer{{0, nil}}
	if n, err := s.WriteOne([]byte("data"), 1<<20); n != 0 || err != io.ErrNoProgress {
		t.Errorf("a write that does nothing: %d, %v", n, err)
	}
}

func TestControlRecordHasItsType(t *testing.T) {
	f, s := newTestSender(t, 0)
	if err := s.Seal(record.AlertRecord, []byte{1, 90}); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(record.ApplicationData, []byte("data")); err != nil {
		t.Fatal(err)
	}
	want := []message{{byte(record.AlertRecord), "\x01\x5a"}, {byte(record.ApplicationData), "data"}}
	if len(f.sent) != 2 || f.sent[0] != want[0] || f.sent[1] != want[1] {
		t.Errorf("%q", f.sent)
	}
	if err := s.Seal(record.Handshake, nil); err != ErrEmpty {
		t.Errorf("a control record without content: %v", err)
	}
	if err := s.Seal(record.Handshake, make([]byte, record.MaxPlaintext+1)); err != record.ErrTooLarge {
		t.Errorf("one that is too large: %v", err)
	}
	if len(f.sent) != 2 {
		t.Errorf("refused records went out: %q", f.sent[2:])
	}
}

// What the kernel does not take at once is kept, and goes out first, with new keys
// in their place.
func TestCommittedRecordsGoFirst(t *testing.T) {
	f, s := newTestSender(t, 0)
	rekeys.known, rekeys.yes = true, true
	defer func() { rekeys.known = false }()
	f.sends = []answer{{0, unix.EAGAIN}}
	update := []byte{24, 0, 0, 1, 0}
	if err := errors.Join(s.Seal(record.Handshake, update), s.Rekey(), s.Seal(record.AlertRecord, []byte{1, 90})); err != nil {
		t.Fatal(err)
	}
	if len(f.sent) != 0 || s.Pending() != 7 || len(f.keys) != 1 {
		t.Fatalf("%q sent, %d bytes pending, %d keys", f.sent, s.Pending(), len(f.keys))
	}
	f.sends, f.expired = []answer{{0, unix.EAGAIN}}, true
	if n, err := s.WriteOne([]byte("data"), 1<<20); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(n, err)
	}
	f.expired = false
	if n, err := s.WriteOne([]byte("data"), 1<<20); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	want := []message{{handshakeType, string(update)}, {byte(record.AlertRecord), "\x01\x5a"}, {byte(record.ApplicationData), "data"}}
	for i, m := range want {
		if len(f.sent) != len(want) || f.sent[i] != m {
			t.Fatalf("%q, want %q", f.sent, want)
		}
	}
	if len(f.keys) != 2 || s.Stats().Epoch.Load() != 1 || s.Stats().Rekeys.Load() != 1 {
		t.Errorf("%d keys, epoch %d", len(f.keys), s.Stats().Epoch.Load())
	}
	s.Refresh()
	if st := s.Stats(); st.Seq.Load() != 2 || st.Records.Load() != 3 {
		t.Errorf("number %d after two records under the new key, %d records in all", st.Seq.Load(), st.Records.Load())
	}
}

func TestQueueMovesAlong(t *testing.T) {
	f, s := newTestSender(t, 0)
	f.sends = []answer{{0, unix.EAGAIN}}
	if err := errors.Join(s.Seal(record.Handshake, []byte{24, 0, 0, 1, 0}), s.Rekey()); err != nil {
		t.Fatal(err)
	}
	f.expired, f.sends = true, []answer{{0, unix.EAGAIN}}
	if n, err := s.Commit([]byte("left its source")); n != 15 || err != nil {
		t.Fatalf("Commit: %d, %v", n, err)
	}
	k, err := s.Keys()
	if err != nil {
		t.Fatal(err)
	}
	f.expired = false
	moved, err := TakeSender(s.Socket, k, 0, s.MaxPayload(), s.Unsent())
	if err != nil {
		t.Fatal(err)
	}
	if err := moved.Flush(); err != nil || moved.Pending() != 0 {
		t.Fatal(err, moved.Pending())
	}
	if len(f.sent) != 2 || f.sent[1].b != "left its source" || moved.Stats().Epoch.Load() != 1 {
		t.Errorf("%q, epoch %d", f.sent, moved.Stats().Epoch.Load())
	}
	k.Seq += 7
	if _, err := TakeSender(s.Socket, k, 0, record.MaxPlaintext, nil); err != errForeign {
		t.Errorf("keys that the kernel does not have: %v", err)
	}
}

func FuzzQueue(f *testing.F) {
	f.Add([]byte{22, 1, 0, 0, 0, 5, 24, 0, 0, 1, 0, 23, 0, 0, 0, 0, 1, 'x'})
	f.Add([]byte{22, 2, 0, 0, 0, 0})
	f.Add([]byte{22, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Sender
		if err := s.putQueue(b); err != nil {
			return
		}
		if !bytes.Equal(s.Unsent(), b) {
			t.Errorf("%x became %x", b, s.Unsent())
		}
	})
}

func TestCommitKeepsWhatTheKernelDoesNotTake(t *testing.T) {
	f, s := newTestSender(t, 0)
	f.sends, f.expired = []answer{{4, nil}, {0, unix.EAGAIN}}, true
	n, err := s.Commit([]byte("0123456789"))
	if n != 10 || !errors.Is(err, os.ErrDeadlineExceeded) || s.Pending() != 6 {
		t.Fatalf("%d, %v, %d pending", n, err, s.Pending())
	}
	f.expired = false
	if n, err := s.WriteOne([]byte("ab"), 100); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if got := f.data(); got != "0123456789ab" {
		t.Errorf("the kernel got %q", got)
	}
	if got := s.Stats().Bytes.Load(); got != 12 {
		t.Errorf("%d bytes counted", got)
	}
}

func TestLimitOfAKey(t *testing.T) {
	f, s := newTestSender(t, 10)
	want := strings.Repeat("x", record.MaxPlaintext*20)
	n, err := s.WriteOne([]byte(want), 1<<30)
	if err != record.ErrKeyLimit || n != 8*record.MaxPlaintext {
		t.Errorf("%d bytes, %v", n, err)
	}
	if s.Seal(record.AlertRecord, []byte{2, 80}) != nil {
		t.Error("no number was kept for the last alert")
	}
	if s.Left() != 0 || len(f.data()) != n {
		t.Errorf("%d left, %d of %d bytes sent", s.Left(), len(f.data()), n)
	}
	// Others may send too: then the kernel is asked each time.
	_, s = newTestSender(t, 0)
	limit := record.Limit(record.TLS13, 0x1301)
	s.Share()
	k := testKeys(t)
	k.Seq = limit
	var i cryptoInfo
	i.set(k)
	s.sys.setsockopt(3, unix.SOL_TLS, optTX, i.bytes())
	if s.Left() != 0 || s.CanRekey() {
		t.Errorf("%d left on a shared socket at its limit", s.Left())
	}
}

func TestRampOfAFreshConnection(t *testing.T) {
	f, s := newFake(t)
	snd, err := NewSender(s, testKeys(t), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := snd.WriteOne(make([]byte, 1<<20), 1<<20); n != 1<<20 || err != nil {
		t.Fatal(n, err)
	}
	if len(f.sent[0].b) != segment || len(f.sent[1].b) != 2*segment || len(f.sent) > 20 {
		t.Errorf("%d calls, the first with %d bytes", len(f.sent), len(f.sent[0].b))
	}
}

// Before a FIN the kernel must have given TCP all that it has sealed.
func TestSettled(t *testing.T) {
	f, sock := newFake(t)
	f.acked, f.queued = 1000, 50
	s, err := NewSender(sock, testKeys(t), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Settled() {
		t.Error("before anything was sent")
	}
	s.WriteOne(make([]byte, 100), 1<<20)
	s.Seal(record.AlertRecord, []byte{1, 0})
	const wire = 100 + 2 + 2*(record.HeaderLen+1+record.TagLen)
	for _, have := range []int{0, 1, 100, wire - 1} {
		if f.acked, f.queued = 1020, 30+have; s.Settled() {
			t.Errorf("TCP was given %d of %d bytes", have, wire)
		}
	}
	if f.queued = 30 + wire; !s.Settled() {
		t.Error("TCP has it all")
	}
	if s.Share(); !s.Settled() {
		t.Error("it waits for what others send")
	}
}

func TestGateOnSending(t *testing.T) {
	f, s := newTestSender(t, 0)
	var seen []int
	gate := Gate(func(p []byte) (int, error) {
		seen = append(seen, len(p))
		if p[0] == 'k' {
			return 0, io.ErrClosedPipe
		}
		return len(p) / 2, nil
	})
	s.SetGate(&gate)
	v := [][]byte{[]byte("abcd"), make([]byte, record.MaxPlaintext+10)}
	if n, err := s.Write(&v, 1<<20); n != 4+record.MaxPlaintext+10 || err != nil {
		t.Fatal(n, err)
	}
	if len(seen) != 3 || seen[1] != record.MaxPlaintext || len(f.data()) != 2+record.MaxPlaintext/2+5 {
		t.Errorf("gate saw %d, the kernel got %d bytes", seen, len(f.data()))
	}
	sent := len(f.sent)
	if n, err := s.WriteOne([]byte("kill"), 100); n != 0 || err != io.ErrClosedPipe || len(f.sent) != sent {
		t.Errorf("%d, %v", n, err)
	}
	if _, ok, _ := s.SendFile(nil, 1); ok {
		t.Error("a file passed the gate unseen")
	}
}

func TestSendFile(t *testing.T) {
	file, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f, s := newTestSender(t, 0)
	f.file = []byte("0123456789")
	f.sends = []answer{{3, nil}, {0, unix.EINTR}, {0, unix.EAGAIN}, {2, nil}}
	n, ok, err := s.SendFile(file, 1<<40)
	if n != 10 || !ok || err != nil || f.data() != "0123456789" {
		t.Fatalf("%d, %v, %v, %q", n, ok, err, f.data())
	}
	for _, asked := range f.asked {
		if asked > 10 {
			t.Errorf("asked for %d bytes of a file of 10: some kernels wait for the rest", asked)
		}
	}
	// The end: it is for read(2) to say so.
	if n, ok, err := s.SendFile(file, 5); n != 0 || ok || err != nil {
		t.Errorf("at the end: %d, %v, %v", n, ok, err)
	}
	// What cannot be sent so is read.
	for _, errno := range []error{unix.EINVAL, unix.ESPIPE, unix.ENOSYS} {
		f.file, f.sends = []byte("abc"), []answer{{0, errno}}
		if n, ok, err := s.SendFile(file, 5); n != 0 || ok || err != nil {
			t.Errorf("%v: %d, %v, %v", errno, n, ok, err)
		}
	}
	// A deadline: n is exact, and the open record is closed.
	sent := len(f.sent)
	f.file, f.sends, f.expired = []byte("abcdef"), []answer{{4, nil}, {0, unix.EAGAIN}}, true
	if n, ok, err := s.SendFile(file, 100); n != 4 || !ok || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d, %v, %v", n, ok, err)
	}
	f.expired = false
	if last := f.sent[len(f.sent)-1]; len(f.sent) != sent+2 || last.typ != alertType || last.b != "" {
		t.Errorf("behind a sendfile that was cut short came %q", f.sent[sent:])
	}
	f.file, f.sends = []byte("abcdef"), []answer{{0, unix.ECONNRESET}}
	if n, ok, err := s.SendFile(file, 100); n != 0 || !ok || !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%d, %v, %v", n, ok, err)
	}
	// A file that became shorter.
	f.file, f.sends = []byte("abcdef"), []answer{{2, nil}, {0, nil}}
	if n, ok, err := s.SendFile(file, 6); n < 2 || !ok || err != nil {
		t.Errorf("%d, %v, %v", n, ok, err)
	}
}
