package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// The structs of linux/tls.h, written out.
func TestCryptoInfo(t *testing.T) {
	iv12, seq := []byte("ABCDEFGHIJKL"), uint64(0x0102030405060708)
	be := binary.BigEndian.AppendUint64(nil, seq)
	short, long := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 32)
	tests := []struct {
		name   string
		k      record.Keys
		cipher byte
		rest   [][]byte
	}{
		{"1.3 AES-128-GCM", record.Keys{Version: record.TLS13, Suite: 0x1301, Key: short, IV: iv12}, 51, [][]byte{iv12[4:], short, iv12[:4], be}},
		{"1.3 AES-256-GCM", record.Keys{Version: record.TLS13, Suite: 0x1302, Key: long, IV: iv12}, 52, [][]byte{iv12[4:], long, iv12[:4], be}},
		{"1.3 ChaCha20", record.Keys{Version: record.TLS13, Suite: 0x1303, Key: long, IV: iv12}, 54, [][]byte{iv12, long, be}},
		{"1.2 AES-128-GCM", record.Keys{Version: record.TLS12, Suite: 0xc02b, Key: short, IV: iv12[:4]}, 51, [][]byte{be, short, iv12[:4], be}},
		{"1.2 AES-256-GCM", record.Keys{Version: record.TLS12, Suite: 0xc030, Key: long, IV: iv12[:4]}, 52, [][]byte{be, long, iv12[:4], be}},
		{"1.2 ChaCha20", record.Keys{Version: record.TLS12, Suite: 0xcca8, Key: long, IV: iv12}, 54, [][]byte{iv12, long, be}},
	}
	for _, x := range tests {
		x.k.Seq = seq
		want := binary.NativeEndian.AppendUint16(nil, x.k.Version)
		want = binary.NativeEndian.AppendUint16(want, uint16(x.cipher))
		want = append(want, bytes.Join(x.rest, nil)...)
		var i cryptoInfo
		i.set(x.k)
		if !bytes.Equal(i.bytes(), want) || i.n != lenFor(x.k) {
			t.Errorf("%s: %x, want %x", x.name, i.bytes(), want)
		}
		if i.seq() != seq {
			t.Errorf("%s: number %d", x.name, i.seq())
		}
		if i.wipe(); i.b != [infoMax]byte{} {
			t.Errorf("%s: wiped, and there is something left", x.name)
		}
	}
}

// Every refusal says in words why, and what to do about it.
func TestAttachErrors(t *testing.T) {
	for errno, word := range map[unix.Errno]string{
		unix.ENOENT: "modprobe tls", unix.ENOTCONN: "FIN", unix.ENOPROTOOPT: "SetMultipathTCP(false)", unix.EOPNOTSUPP: "SetMultipathTCP(false)",
		unix.EPERM: "seccomp", unix.EACCES: "seccomp", unix.ENOMEM: "memory", unix.EFAULT: "cannot",
	} {
		f, _ := newFake(t)
		f.set = []answer{{0, errno}}
		_, err := attach(raw{f}, f.system())
		e, ok := errors.AsType[*Unavailable](err)
		if !ok || !errors.Is(err, errno) || !strings.Contains(e.Reason, word) {
			t.Errorf("%v: %v", errno, err)
		}
	}
	f, _ := newFake(t)
	f.set, f.ulp = []answer{{0, unix.EEXIST}}, "tls"
	if _, err := attach(raw{f}, f.system()); err != nil {
		t.Errorf("attached before: %v", err)
	}
	f.set, f.ulp = []answer{{0, unix.EEXIST}}, "smc"
	if _, err := attach(raw{f}, f.system()); !errors.Is(err, unix.EEXIST) {
		t.Errorf("another protocol: %v", err)
	}
}

// A kernel without TLS is not asked for every connection, which would look for the
// module each time.
func TestAbsentIsRemembered(t *testing.T) {
	defer absent.Store(absent.Load())
	f, _ := newFake(t)
	f.set = []answer{{0, unix.ENOENT}}
	attach(raw{f}, f.system())
	if !absent.Load() {
		t.Error("forgotten")
	}
	a, _ := loopback(t)
	if _, err := Attach(a, false); !errors.Is(err, unix.ENOENT) {
		t.Errorf("asked again: %v", err)
	}
	if _, err := attach(raw{f}, f.system()); err != nil || absent.Load() {
		t.Errorf("loaded meanwhile: %v", err)
	}
	p, q := net.Pipe()
	defer p.Close()
	defer q.Close()
	if _, err := Attach(p, true); err == nil || !strings.Contains(err.Error(), "TCP") {
		t.Errorf("a pipe: %v", err)
	}
}

func TestKeyErrors(t *testing.T) {
	for errno, word := range map[unix.Errno]string{
		unix.EINVAL: "cipher suite", unix.ENOENT: "modprobe", unix.ENOPROTOOPT: "upper layer", unix.ENOTCONN: "established",
		unix.EBUSY: "somebody else", unix.ENOMEM: "memory", unix.EFAULT: "did not take",
	} {
		f, s := newFake(t)
		f.set = []answer{{0, errno}}
		snd, err := NewSender(s, testKeys(t), 0, nil)
		e, ok := errors.AsType[*Unavailable](err)
		if snd != nil || !ok || !errors.Is(err, errno) || !strings.Contains(e.Reason, word) {
			t.Errorf("%v: %v", errno, err)
		}
	}
	f, s := newTestSender(t, 0)
	f.set = []answer{{0, unix.EBUSY}}
	next, _ := testKeys(t).Next()
	if err := s.SetKeys(next); err != ErrNoRekey {
		t.Errorf("a second key: %v", err)
	}
	if err := s.SetKeys(testKeys(t)); err != nil || len(f.keys) != 1 {
		t.Errorf("the key that it has: %v", err)
	}
}

// Counters go on from those of the provider before, through new keys.
func TestCountersGoOn(t *testing.T) {
	f, sock := newFake(t)
	var from Stats
	from.Records.Store(100)
	from.Bytes.Store(1000)
	k := testKeys(t)
	k.Seq = 40
	s, err := NewSender(sock, k, 0, &from)
	if err != nil {
		t.Fatal(err)
	}
	s.Seal(record.ApplicationData, []byte("x"))
	next, _ := k.Next()
	if err := s.SetKeys(next); err != nil {
		t.Fatal(err)
	}
	s.Seal(record.ApplicationData, []byte("yz"))
	s.Refresh()
	if st := s.Stats(); st.Records.Load() != 102 || st.Bytes.Load() != 1003 || st.Seq.Load() != 1 || st.Epoch.Load() != 1 {
		t.Errorf("%d records, %d bytes, number %d, epoch %d", st.Records.Load(), st.Bytes.Load(), st.Seq.Load(), st.Epoch.Load())
	}
	delete(f.info, optTX) // the socket is closed: what was known stays
	s.Refresh()
	if _, err := s.Keys(); err == nil || s.Stats().Records.Load() != 102 {
		t.Error("numbers without a socket")
	}
	if send, receive := sock.Has(); send || receive {
		t.Error("keys without keys")
	}
}

func TestClosedHalvesHaveNoKeys(t *testing.T) {
	_, s := newTestSender(t, 0)
	s.Close()
	if _, err := s.Keys(); err != ErrNoKeys {
		t.Error(err)
	}
	s.Refresh()
	_, r := newTestReceiver(t)
	r.Close(net.ErrClosed)
	if _, err := r.Keys(); err != ErrNoKeys {
		t.Error(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != net.ErrClosed {
		t.Error(err)
	}
}

// loopback returns both ends of a connection of this process to itself.
func loopback(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
