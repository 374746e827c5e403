package afd

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// datagramSide is a program with a UDP socket, and its peer.
type datagramSide struct {
	program
	udp    *net.UDPConn // the program's
	wire   *net.UDPConn // the peer's
	suite  datagramSuite
	tx, rx record.Keys // of the program
}

type datagramSuite struct {
	version, suite, cipher uint16
	key, iv, secret        int
}

var datagramSuites = map[string]datagramSuite{
	"AES-128-GCM":             {record.DTLS12, 0xc02f, cipherAESGCM128, 16, 4, 0},
	"AES-256-GCM":             {record.DTLS12, 0xc030, cipherAESGCM256, 32, 4, 0},
	"ChaCha20-Poly1305":       {record.DTLS12, 0xcca8, cipherChaCha, 32, 12, 0},
	"1.3, AES-128-GCM":        {record.DTLS13, 0x1301, cipherAESGCM128, 16, 12, 32},
	"1.3, AES-256-GCM":        {record.DTLS13, 0x1302, cipherAESGCM256, 32, 12, 48},
	"1.3, ChaCha20-Poly1305 ": {record.DTLS13, 0x1303, cipherChaCha, 32, 12, 32},
}

func (s datagramSuite) keys(t testing.TB, x byte) record.Keys {
	t.Helper()
	k := record.Keys{Version: s.version, Suite: s.suite, Epoch: 1, Seq: 1}
	if s.secret > 0 {
		k.Secret, k.Epoch, k.Seq = bytes.Repeat([]byte{x}, s.secret), 3, 0
	} else {
		k.Key, k.IV = bytes.Repeat([]byte{x}, s.key), bytes.Repeat([]byte{x + 1}, s.iv)
	}
	if err := k.Derive(); err != nil {
		t.Fatal(err)
	}
	return k
}

// form is how a program says its keys.
func (s datagramSuite) form(t testing.TB, k record.Keys) (form uint16, b []byte) {
	t.Helper()
	if s.secret == 0 {
		return formCryptoInfo, cryptoInfo(t, k)
	}
	for _, n := range []int{int(s.version), int(s.cipher), s.secret, 0} {
		b = binary.NativeEndian.AppendUint16(b, uint16(n))
	}
	b = binary.BigEndian.AppendUint64(b, k.Epoch<<48|k.Seq)
	b = append(b, k.Secret...)
	return formTrafficSecret, append(b, make([]byte, secretMax-s.secret)...)
}

// connectedUDP makes two UDP sockets that are each other's peers.
func connectedUDP(t testing.TB) (a, b *net.UDPConn) {
	t.Helper()
	var fds [2]int
	var at [2]unix.Sockaddr
	for i := range fds {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds[i] = fd
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		if at[i], err = unix.Getsockname(fd); err != nil {
			t.Fatal(err)
		}
	}
	var out [2]*net.UDPConn
	for i, fd := range fds {
		if err := unix.Connect(fd, at[1-i]); err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "udp")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		out[i] = c.(*net.UDPConn)
		t.Cleanup(func() { c.Close() })
	}
	return out[0], out[1]
}

func newDatagramSide(t testing.TB, s datagramSuite) *datagramSide {
	t.Helper()
	p := &datagramSide{program: program{t: t, daemon: &Daemon{}}, suite: s, tx: s.keys(t, 1), rx: s.keys(t, 3)}
	p.path = startDaemon(t, p.daemon)
	p.udp, p.wire = connectedUDP(t)
	return p
}

func (p *datagramSide) request(flags uint16) []byte {
	form, tx := p.suite.form(p.t, p.tx)
	_, rx := p.suite.form(p.t, p.rx)
	return request(flags, form, tx, rx, nil)
}

// handUDP makes the hand-off.
func (p *datagramSide) handUDP(flags uint16) {
	p.t.Helper()
	f, err := p.udp.File()
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	errno, reason, got := p.ask(p.request(flags), int(f.Fd()))
	if errno != 0 {
		p.t.Fatal(errno, reason)
	}
	p.take(got)
}

// peer is the association at the other end.
func (p *datagramSide) association() *aftls.DatagramConn {
	p.t.Helper()
	c, err := aftls.NewDatagramConn(p.wire, p.rx, p.tx, nil, aftls.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// exchange sends a message each way.
func exchange(t testing.TB, a, b net.Conn, m []byte) {
	t.Helper()
	room := make([]byte, 20000)
	for _, c := range []struct{ from, to net.Conn }{{a, b}, {b, a}} {
		if _, err := c.from.Write(m); err != nil {
			t.Fatal(err)
		}
		if n, err := c.to.Read(room); err != nil || !bytes.Equal(room[:n], m) {
			t.Fatalf("%d bytes of %d, %v", n, len(m), err)
		}
	}
}

func TestHandoffDatagrams(t *testing.T) {
	for name, s := range datagramSuites {
		t.Run(name, func(t *testing.T) {
			p := newDatagramSide(t, s)
			c := p.association()
			p.handUDP(WantControl)
			for _, n := range []int{1, 2, 100, 1200, 9000, 16384} {
				m := make([]byte, n)
				rand.Read(m)
				exchange(t, p.data, c, m)
			}
			// Many at once, each for itself; empty ones are passed over.
			var batch [][]byte
			for i := range 60 {
				m := bytes.Repeat([]byte{byte(i + 1)}, i*20)
				if batch = append(batch, m); i == 0 {
					unix.Write(descriptorOf(t, p.data), nil)
				} else if _, err := p.data.Write(m); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := c.WriteBatch(batch); n != len(batch) || err != nil {
				t.Fatal(n, err)
			}
			room := make([]byte, 20000)
			for _, m := range batch[1:] {
				for _, from := range []net.Conn{p.data, c} {
					if n, err := from.Read(room); err != nil || !bytes.Equal(room[:n], m) {
						t.Fatalf("%d bytes of %d, %v", n, len(m), err)
					}
				}
			}
			m, _ := p.say(message{kind: msgInfo})
			if i := c.Info(); m.kind != msgInfo || len(m.body) != 80+32 ||
				binary.NativeEndian.Uint16(m.body) != s.version || binary.NativeEndian.Uint64(m.body[8:]) != i.Receive.Seq ||
				binary.NativeEndian.Uint64(m.body[48:]) != i.Send.Seq || binary.NativeEndian.Uint64(m.body[32:]) != i.Receive.Epoch {
				t.Errorf("%x, %+v", m.body, i)
			}

			// An alert of the program, and the end in both directions.
			p.must(message{kind: msgRecord, typ: record.AlertRecord, body: []byte{1, 100}})
			exchange(t, p.data, c, []byte("goes on"))
			if c.Info().Ignored != 1 {
				t.Errorf("%+v", c.Info())
			}
			p.data.CloseWrite()
			if n, err := c.Read(room); n != 0 || err != io.EOF {
				t.Fatal(n, err)
			}
			c.Write([]byte("late"))
			if n, err := p.data.Read(room); string(room[:n]) != "late" || err != nil {
				t.Fatalf("%q, %v", room[:n], err)
			}
			c.Close()
			if m := p.hear(); m.kind != msgRecord || m.typ != record.AlertRecord || !bytes.Equal(m.body, []byte{1, 0}) {
				t.Errorf("%+v", m)
			}
			if n, err := p.data.Read(room); n != 0 || err != io.EOF {
				t.Fatal(n, err)
			}
			p.data.Close()
			if m := p.hear(); m.kind != msgEnd || binary.NativeEndian.Uint32(m.body) != 0 {
				t.Errorf("%+v", m)
			}
			p.udpIsDead()
		})
	}
}

func descriptorOf(t testing.TB, c syscall.Conn) (fd int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(d uintptr) { fd = int(d) })
	return fd
}

// udpIsDead waits until the program's own descriptor of the carrier sends nothing more.
func (p *datagramSide) udpIsDead() {
	for {
		if _, err := p.udp.Write([]byte("plaintext")); errors.Is(err, syscall.EPIPE) {
			return
		}
	}
}

// Without a control descriptor the end is that of the data descriptor.
func TestHandoffDatagramsAlone(t *testing.T) {
	p := newDatagramSide(t, datagramSuites["AES-128-GCM"])
	c := p.association()
	p.handUDP(0)
	p.udp.Close()
	exchange(t, p.data, c, []byte("hello"))
	p.data.Close()
	if n, err := c.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Error(n, err)
	}
}

// What is forged, cut, of nobody or came before is dropped and counted, in any mixture,
// and nothing is delivered twice or altered.
func TestHandoffDatagramsFromAnybody(t *testing.T) {
	for _, name := range []string{"AES-128-GCM", "1.3, AES-128-GCM"} {
		t.Run(name, func(t *testing.T) {
			p := newDatagramSide(t, datagramSuites[name])
			p.handUDP(WantControl)
			sealer, err := record.NewDatagramSealer(p.rx, nil)
			if err != nil {
				t.Fatal(err)
			}
			room := make([]byte, 20000)
			for i := range 40 {
				want := fmt.Sprintf("message %d", i)
				d, err := sealer.Seal(nil, record.ApplicationData, []byte(want))
				if err != nil {
					t.Fatal(err)
				}
				forged := bytes.Clone(d)
				forged[len(forged)-1] ^= 1
				junk := make([]byte, 60000)
				rand.Read(junk)
				junk[0] = 23
				for _, x := range [][]byte{forged, d[:len(d)-1], d[:5], {}, junk, d, d, d} {
					if _, err := p.wire.Write(x); err != nil {
						t.Fatal(err)
					}
				}
				if n, err := p.data.Read(room); err != nil || string(room[:n]) != want {
					t.Fatalf("%q, %v", room[:n], err)
				}
			}
			for {
				m, _ := p.say(message{kind: msgInfo})
				drops := m.body[80:]
				bad, replayed := binary.NativeEndian.Uint64(drops), binary.NativeEndian.Uint64(drops[8:])
				if replayed == 80 && bad >= 40*4 && binary.NativeEndian.Uint64(drops[16:]) == 0 {
					break
				}
				if replayed > 80 {
					t.Fatalf("%d bad, %d replayed", bad, replayed)
				}
			}
		})
	}
}

// A lossy link between: what arrives is whole, and nothing comes twice.
func TestHandoffDatagramsThroughAStorm(t *testing.T) {
	p := newDatagramSide(t, datagramSuites["AES-128-GCM"])
	relay := aftlstest.NewRelay(t, p.wire.LocalAddr().String(), 5, aftlstest.Weather{Drop: 0.2, Duplicate: 0.2, Reorder: 0.2, Corrupt: 0.1})
	p.udp.Close()
	udp, err := net.Dial("udp", relay.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	p.udp = udp.(*net.UDPConn)
	// The peer listens, and learns the relay's address from what comes.
	p.wire.Close()
	l, err := net.ListenUDP("udp", relayTarget(t, p.wire))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p.handUDP(0)
	opener, err := record.NewDatagramOpener(p.tx, nil)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := record.NewDatagramSealer(p.rx, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.SetReadDeadline(time.Now().Add(30 * time.Second))
	const count = 300
	go func() {
		for i := range count {
			fmt.Fprintf(p.data, "number %d", i)
		}
	}()
	seen, back := map[string]bool{}, map[string]bool{}
	d, room := make([]byte, 20000), make([]byte, 20000)
	for len(seen) < count/3 {
		n, from, err := l.ReadFromUDP(d)
		if err != nil {
			t.Fatal(err)
		}
		rec, _, err := opener.Open(d[:n])
		if err != nil {
			continue
		}
		if m := string(rec.Payload); seen[m] || !bytes.HasPrefix(rec.Payload, []byte("number ")) {
			t.Fatalf("%q came twice", m)
		} else {
			seen[m] = true
			out, err := sealer.Seal(nil, record.ApplicationData, []byte("back "+m))
			if err != nil {
				t.Fatal(err)
			}
			l.WriteToUDP(out, from)
		}
	}
	for len(back) < count/10 {
		n, err := p.data.Read(room)
		if err != nil {
			t.Fatal(err)
		}
		m := string(room[:n])
		if back[m] || !bytes.HasPrefix(room[:n], []byte("back number ")) {
			t.Fatalf("%q came twice", m)
		}
		back[m] = true
	}
}

func relayTarget(t *testing.T, c net.Conn) *net.UDPAddr {
	t.Helper()
	a, err := net.ResolveUDPAddr("udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A message that is no record ends the association; so does nothing that the network
// says.
func TestHandoffDatagramsTooLong(t *testing.T) {
	p := newDatagramSide(t, datagramSuites["AES-128-GCM"])
	c := p.association()
	p.handUDP(WantControl)
	exchange(t, p.data, c, make([]byte, 16384))
	p.data.Write(make([]byte, 16385))
	if m := p.hear(); m.kind != msgEnd || syscall.Errno(binary.NativeEndian.Uint32(m.body)) != unix.EMSGSIZE {
		t.Errorf("%+v", m)
	}
	if _, err := p.data.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	p.udpIsDead()
}

// On a path with a small MTU what is too long is not cut up: it is lost, the program is
// told the limit, and the association goes on.
func TestHandoffDatagramsKeepToThePath(t *testing.T) {
	done := make(chan struct{})
	var missing error
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its network
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			missing = err
			return
		}
		if err := loopback(1400); err != nil {
			t.Error(err)
			return
		}
		p := newDatagramSide(t, datagramSuites["AES-128-GCM"])
		c := p.association()
		p.handUDP(WantControl)
		const limit = 1400 - 28 - 13 - 8 - 16
		exchange(t, p.data, c, make([]byte, limit))
		p.data.Write(make([]byte, limit+1))
		if m := p.hear(); m.kind != msgWarning || syscall.Errno(binary.NativeEndian.Uint32(m.body)) != unix.EMSGSIZE || m.offset != limit {
			t.Errorf("%+v", m)
		}
		exchange(t, p.data, c, []byte("goes on"))
		m, _ := p.say(message{kind: msgInfo})
		if unsent := binary.NativeEndian.Uint64(m.body[80+24:]); unsent != 1 {
			t.Errorf("%d were not sent", unsent)
		}
		warned(t, limit)
	}()
	<-done
	if missing != nil {
		if aftlstest.Expected("netns") {
			t.Fatalf("a network namespace is missing, and AFTLS_EXPECT says that it can be had: %v", missing)
		}
		t.Skipf("a network namespace is missing, which needs privilege: %v", missing)
	}
}

// warned has a program without a control descriptor write what is too long for the path:
// the next of its calls that can be answered says so, once.
func warned(t *testing.T, limit int) {
	udp, _ := connectedUDP(t)
	f, err := udp.File()
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Error(err)
		return
	}
	carrier, err := pump.NewDatagramCarrier(fd)
	if err != nil {
		t.Error(err)
		return
	}
	end, theirs, err := pump.NewDatagramPair()
	if err != nil {
		t.Error(err)
		return
	}
	d := NewDatagrams(carrier, end, true)
	over := make(chan error, 1)
	go func() { over <- d.Run() }()
	s := datagramSuites["AES-128-GCM"]
	if err := d.Start(s.keys(t, 1), s.keys(t, 2)); err != nil || d.MaxMessage() != limit {
		t.Error(err, d.MaxMessage())
	}
	theirs.Write(make([]byte, limit+1))
	for err = nil; err == nil; err = d.TakeWarning() {
		runtime.Gosched()
	}
	if errnoOf(err) != unix.EMSGSIZE || d.TakeWarning() != nil {
		t.Error(err)
	}
	theirs.Close()
	if err := <-over; err != nil {
		t.Error(err)
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

// That nobody listens at the peer's address is told, and ends nothing: who listens
// there next is heard.
func TestHandoffDatagramsOutliveICMP(t *testing.T) {
	p := newDatagramSide(t, datagramSuites["AES-128-GCM"])
	p.handUDP(WantControl)
	at := relayTarget(t, p.wire)
	p.wire.Close()
	if _, err := p.data.Write([]byte("to nobody")); err != nil {
		t.Fatal(err)
	}
	if m := p.hear(); m.kind != msgWarning || syscall.Errno(binary.NativeEndian.Uint32(m.body)) != unix.ECONNREFUSED {
		t.Fatalf("%+v", m)
	}
	wire, err := net.DialUDP("udp", at, p.udp.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	p.wire = wire
	exchange(t, p.data, p.association(), []byte("hello"))
}

// Off gives the association back, and nothing is sent or received twice.
func TestHandoffDatagramsOff(t *testing.T) {
	for _, name := range []string{"AES-128-GCM", "1.3, ChaCha20-Poly1305 "} {
		t.Run(name, func(t *testing.T) {
			p := newDatagramSide(t, datagramSuites[name])
			c := p.association()
			p.handUDP(WantControl)
			exchange(t, p.data, c, []byte("before"))
			for i := range 40 {
				fmt.Fprintf(p.data, "last %d", i)
			}
			m, _ := p.say(message{kind: msgOff})
			if m.kind != msgOff {
				t.Fatalf("%+v", m)
			}
			room := make([]byte, 1000)
			for i := range 40 {
				if n, err := c.Read(room); err != nil || string(room[:n]) != fmt.Sprintf("last %d", i) {
					t.Fatalf("%q, %v", room[:n], err)
				}
			}
			if n, err := p.data.Read(room); n != 0 || err != io.EOF {
				t.Fatal(n, err)
			}
			n := binary.NativeEndian.Uint32(m.body)
			st := new(aftls.DatagramState)
			if err := st.UnmarshalBinary(m.body[4 : 4+n]); err != nil || len(m.body) != int(4+n) {
				t.Fatal(err)
			}
			if gro, err := unix.GetsockoptInt(descriptorOf(t, p.udp), unix.IPPROTO_UDP, unix.UDP_GRO); err != nil || gro != 0 {
				t.Errorf("UDP_GRO is %d, %v", gro, err)
			}
			back, err := aftls.ResumeDatagram(p.udp, st, aftls.Options{})
			if err != nil {
				t.Fatal(err)
			}
			back.SetDeadline(time.Now().Add(30 * time.Second))
			exchange(t, back, c, []byte("after"))
			if i := back.Info(); i.Replayed != 0 || c.Info().Replayed != 0 {
				t.Errorf("%+v, %+v", i, c.Info())
			}
			back.Close()
		})
	}
}

func TestHandoffDatagramsAreFailClosed(t *testing.T) {
	for name, end := range map[string]func(p *datagramSide, c *aftls.DatagramConn){
		"fatal alert":   func(_ *datagramSide, c *aftls.DatagramConn) { c.WriteRecord(record.AlertRecord, []byte{2, 80}) },
		"daemon closed": func(p *datagramSide, _ *aftls.DatagramConn) { p.daemon.Close() },
		"no record": func(p *datagramSide, _ *aftls.DatagramConn) {
			// Made by the peer itself: an alert of three bytes.
			s, err := record.NewDatagramSealer(p.rx, nil)
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				s.Seal(nil, record.AlertRecord, nil)
			}
			d, err := s.Seal(nil, record.AlertRecord, []byte{2, 80, 1})
			if err != nil {
				t.Fatal(err)
			}
			p.wire.Write(d)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newDatagramSide(t, datagramSuites["ChaCha20-Poly1305"])
			c := p.association()
			p.handUDP(0)
			exchange(t, p.data, c, []byte("hello"))
			end(p, c)
			if n, err := p.data.Read(make([]byte, 10)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%d, %v", n, err)
			}
			p.udpIsDead()
		})
	}
}

func TestHandoffDatagramsRefuses(t *testing.T) {
	p := newDatagramSide(t, datagramSuites["AES-128-GCM"])
	tcp := newProgram(t)
	tf, err := tcp.carrier.File()
	if err != nil {
		t.Fatal(err)
	}
	defer tf.Close()
	uf, err := p.udp.File()
	if err != nil {
		t.Fatal(err)
	}
	defer uf.Close()
	alone, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	af, err := alone.File()
	if err != nil {
		t.Fatal(err)
	}
	defer af.Close()
	udp := int(uf.Fd())
	good := p.request(0)
	noEpoch := bytes.Clone(good)
	copy(noEpoch[requestHead+40-8:], make([]byte, 2)) // of rec_seq
	thirteen := datagramSuites["1.3, AES-128-GCM"]
	_, secret := thirteen.form(t, thirteen.keys(t, 1))
	secretNoEpoch := bytes.Clone(secret)
	copy(secretNoEpoch[8:], make([]byte, 8))
	info13 := bytes.Clone(good[requestHead : requestHead+40])
	binary.NativeEndian.PutUint16(info13, record.DTLS13)
	form, tx := p.suite.form(t, p.tx)
	for name, c := range map[string]struct {
		b     []byte
		fd    int
		errno syscall.Errno
	}{
		"TCP":                 {good, int(tf.Fd()), unix.EOPNOTSUPP},
		"not connected":       {good, int(af.Fd()), unix.ENOTCONN},
		"keys of TLS":         {withSecrets(0, nil), udp, unix.EOPNOTSUPP},
		"kernel":              {p.request(WantControl | Kernel), udp, unix.EINVAL},
		"records":             {p.request(WantControl | Records), udp, unix.EINVAL},
		"unread":              {request(0, form, tx, tx, []byte("x")), udp, unix.EINVAL},
		"no epoch":            {noEpoch, udp, unix.EINVAL},
		"1.3 without secrets": {request(0, formCryptoInfo, info13, info13, nil), udp, unix.EINVAL},
		"1.3 without epoch":   {request(0, formTrafficSecret, secretNoEpoch, secret, nil), udp, unix.EINVAL},
		"1.2 and 1.3":         {request(0, formTrafficSecret, trafficSecret(1), secret, nil), udp, unix.EINVAL},
	} {
		errno, reason, got := p.ask(c.b, c.fd)
		if errno != c.errno || len(got) != 0 || reason == "" {
			t.Errorf("%s: %v (%q), want %v", name, errno, reason, c.errno)
		}
	}
	// The carrier is as it was.
	if gro, err := unix.GetsockoptInt(udp, unix.IPPROTO_UDP, unix.UDP_GRO); err != nil || gro != 0 {
		t.Errorf("UDP_GRO is %d, %v", gro, err)
	}
	p.wire.Write([]byte("x"))
	if _, err := p.udp.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	// Keys stay what they are.
	p.handUDP(WantControl)
	for _, m := range []message{{kind: msgKeys, typ: keysSend, body: tx}, {kind: msgRekey}} {
		if got, _ := p.say(m); got.kind != msgAnswer || binary.NativeEndian.Uint32(got.body) == 0 {
			t.Errorf("%d: %+v", m.kind, got)
		}
	}
}

// Many at once; and when their programs have gone nothing is left of them.
func TestManyDatagramHandoffs(t *testing.T) {
	p := newDatagramSide(t, datagramSuites["AES-128-GCM"])
	before := len(openDescriptors(t))
	for range 50 {
		q := *p
		q.udp, q.wire = connectedUDP(t)
		q.handUDP(WantControl)
		c := q.association()
		exchange(t, q.data, c, []byte("hello"))
		q.data.Close()
		if n, err := c.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Fatal(n, err)
		}
		if m := q.hear(); m.kind != msgRecord && m.kind != msgEnd {
			t.Fatalf("%+v", m)
		}
		q.control.Close()
		c.Close()
		q.udp.Close()
	}
	for by := time.Now().Add(30 * time.Second); ; {
		p.daemon.mu.Lock()
		associations := 0
		for x := range p.daemon.open {
			if _, ok := x.(association); ok {
				associations++
			}
		}
		p.daemon.mu.Unlock()
		now := len(openDescriptors(t))
		if associations == 0 && now <= before {
			return
		}
		if time.Now().After(by) {
			t.Fatalf("%d associations, and %d descriptors that were %d", associations, now, before)
		}
		runtime.Gosched()
	}
}

func openDescriptors(t *testing.T) []os.DirEntry {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// handedPair are two programs that are each other's peers.
func handedPair(t *testing.T) (a, b *datagramSide) {
	t.Helper()
	a = newDatagramSide(t, datagramSuites["AES-128-GCM"])
	b = newDatagramSide(t, a.suite)
	b.udp, b.tx, b.rx = a.wire, a.rx, a.tx
	a.handUDP(0)
	b.handUDP(0)
	return a, b
}

// An association that waits has no buffer.
func TestIdleDatagramsHoldNothing(t *testing.T) {
	before := soft.Borrowed()
	a, b := handedPair(t)
	for range 10 {
		exchange(t, a.data, b.data, make([]byte, 1200))
	}
	for by := time.Now().Add(30 * time.Second); soft.Borrowed() > before; runtime.Gosched() {
		if time.Now().After(by) {
			t.Fatalf("%d buffers are lent, and nothing comes", soft.Borrowed()-before)
		}
	}
}

// FuzzDatagramKeys reads keys of datagrams: those that are taken make a sealer and an
// opener, and are written as they were read.
func FuzzDatagramKeys(f *testing.F) {
	for _, s := range datagramSuites {
		form, b := s.form(f, s.keys(f, 1))
		f.Add(form == formTrafficSecret, b)
	}
	f.Fuzz(func(t *testing.T, secret bool, b []byte) {
		parse := ParseCryptoInfo
		if secret {
			parse = ParseTrafficSecret
		}
		k, err := parse(b)
		if err != nil || !isDatagram(k.Version) {
			return
		}
		if _, err := record.NewDatagramSealer(k, nil); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if _, err := record.NewDatagramOpener(k, nil); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if secret {
			return
		}
		again, err := AppendCryptoInfo(nil, k)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseCryptoInfo(again); err != nil || back.String() != k.String() || !bytes.Equal(back.Key, k.Key) || !bytes.Equal(back.IV, k.IV) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
	})
}

// The number behind the last is no number: nobody can be told to go on with it.
func TestDatagramNumbersEnd(t *testing.T) {
	k := datagramSuites["AES-128-GCM"].keys(t, 1)
	k.Seq = 1 << 48
	if b, err := AppendCryptoInfo(nil, k); err == nil {
		t.Errorf("%x", b)
	}
}
