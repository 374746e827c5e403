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
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// A program on one side: what it sends to the daemon, and what it gets.
type program struct {
	t       testing.TB
	daemon  *Daemon
	path    string
	carrier *net.TCPConn // the program's; the daemon gets a duplicate
	peer    net.Conn     // the other end
	data    *net.UnixConn
	control *net.UnixConn
}

func startDaemon(t testing.TB, d *Daemon) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "handd")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- d.Serve(ln) }()
	t.Cleanup(func() {
		d.Close()
		if err := <-over; err != net.ErrClosed {
			t.Error(err)
		}
	})
	return path
}

func newProgram(t testing.TB) *program {
	t.Helper()
	p := &program{t: t, daemon: &Daemon{}}
	p.path = startDaemon(t, p.daemon)
	p.connect()
	return p
}

// connect gives the program a new carrier.
func (p *program) connect() {
	p.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.carrier = c.(*net.TCPConn)
	if p.peer, err = ln.Accept(); err != nil {
		p.t.Fatal(err)
	}
	p.peer.SetDeadline(time.Now().Add(30 * time.Second))
	carrier, peer := p.carrier, p.peer
	p.t.Cleanup(func() { carrier.Close(); peer.Close() })
}

const suite = 0x1301

func secret(x byte) []byte { return bytes.Repeat([]byte{x}, 32) }

func secretKeys(t testing.TB, x byte) record.Keys {
	t.Helper()
	k, err := record.TrafficKeys(suite, secret(x))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func trafficSecret(x byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, 0x0304)
	b = binary.NativeEndian.AppendUint16(b, cipherAESGCM128)
	b = binary.NativeEndian.AppendUint16(b, 32)
	b = append(b, make([]byte, 2+8)...)
	b = append(b, secret(x)...)
	return append(b, make([]byte, 16)...)
}

func cryptoInfo(t testing.TB, k record.Keys) []byte {
	t.Helper()
	b, err := AppendCryptoInfo(nil, k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func request(flags uint16, form uint16, tx, rx, unread []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, handoffMagic)
	b = binary.NativeEndian.AppendUint16(b, handoffVersion)
	b = binary.NativeEndian.AppendUint16(b, flags)
	for _, n := range []int{len(tx), len(rx)} {
		b = binary.NativeEndian.AppendUint16(b, form)
		b = binary.NativeEndian.AppendUint16(b, uint16(n))
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(len(unread)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	return append(append(append(b, tx...), rx...), unread...)
}

// The program sends with the secret 1 and receives with 2.
func withSecrets(flags uint16, unread []byte) []byte {
	return request(flags, formTrafficSecret, trafficSecret(1), trafficSecret(2), unread)
}

func (p *program) withKeys(flags uint16) []byte {
	return request(flags, formCryptoInfo, cryptoInfo(p.t, secretKeys(p.t, 1)), cryptoInfo(p.t, secretKeys(p.t, 2)), nil)
}

// ask sends one request with descriptors and returns the reply and what came
// along.
func (p *program) ask(b []byte, fds ...int) (errno syscall.Errno, reason string, got []*os.File) {
	p.t.Helper()
	c, err := net.Dial("unixpacket", p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	return p.askOn(c.(*net.UnixConn), b, fds...)
}

func (p *program) askOn(c *net.UnixConn, b []byte, fds ...int) (errno syscall.Errno, reason string, got []*os.File) {
	p.t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(b, oob, nil); err != nil {
		p.t.Fatal(err)
	}
	var reply [1024]byte
	var rights [64]byte
	n, m, _, _, err := c.ReadMsgUnix(reply[:], rights[:])
	if err != nil {
		p.t.Fatal(err)
	}
	if n < 12 || binary.NativeEndian.Uint32(reply[:]) != handoffMagic || binary.NativeEndian.Uint16(reply[4:]) != handoffVersion {
		p.t.Fatalf("reply %x", reply[:n])
	}
	for _, fd := range descriptors(rights[:m]) {
		got = append(got, os.NewFile(uintptr(fd), "handed"))
	}
	return syscall.Errno(binary.NativeEndian.Uint32(reply[8:])), string(reply[12:n]), got
}

// hand makes the hand-off.
func (p *program) hand(b []byte) {
	p.t.Helper()
	f, err := p.carrier.File()
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	errno, reason, got := p.ask(b, int(f.Fd()))
	if errno != 0 {
		p.t.Fatal(errno, reason)
	}
	p.take(got)
}

func (p *program) take(got []*os.File) {
	p.t.Helper()
	for i, f := range got {
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(30 * time.Second))
		if i == 0 {
			p.data = c.(*net.UnixConn)
		} else {
			p.control = c.(*net.UnixConn)
		}
	}
}

// socket and conn are the peer's.
func (p *program) socket() *aftls.Socket {
	p.t.Helper()
	s := aftls.NewSocket(p.peer, aftls.Options{})
	if err := errors.Join(s.SetKeys(aftls.Send, secretKeys(p.t, 2)), s.SetKeys(aftls.Receive, secretKeys(p.t, 1))); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { s.Close() })
	return s
}

func (p *program) conn() *aftls.Conn {
	p.t.Helper()
	c, err := aftls.NewConn(p.socket(), false, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

func transfer(t testing.TB, from io.Writer, to io.Reader, n int) {
	t.Helper()
	data := make([]byte, n)
	rand.Read(data)
	errc := make(chan error, 1)
	go func() { _, err := from.Write(data); errc <- err }()
	got := make([]byte, n)
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatal(err)
	}
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Fatal("data differ")
	}
}

func bothWays(t testing.TB, p *program, peer io.ReadWriter) {
	t.Helper()
	for _, n := range []int{1, 100, 16384, 100000, 3 << 20} {
		transfer(t, peer, p.data, n)
		transfer(t, p.data, peer, n)
	}
}

func TestHandoffWithSecrets(t *testing.T) {
	p := newProgram(t)
	c := p.conn()
	// What the program's library had read already.
	if _, err := c.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}
	unread := make([]byte, 11)
	if _, err := io.ReadFull(p.carrier, unread); err != nil {
		t.Fatal(err)
	}
	p.hand(withSecrets(IsClient, unread))
	early := make([]byte, 5)
	if _, err := io.ReadFull(p.data, early); err != nil || string(early) != "early" {
		t.Fatalf("%q, %v", early, err)
	}
	p.carrier.Close()
	bothWays(t, p, c)
	if err := c.Rekey(true); err != nil {
		t.Fatal(err)
	}
	bothWays(t, p, c)
	if i := c.Info(); i.Receive.Epoch != 1 {
		t.Errorf("the daemon did not answer the KeyUpdate: %+v", i.Receive)
	}
	p.data.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
		t.Fatal(len(b), err)
	}
	transfer(t, c, p.data, 1000)
	c.Close()
	if b, err := io.ReadAll(p.data); err != nil || len(b) != 0 {
		t.Fatal(len(b), err)
	}
}

// say sends one control message and returns the answer to it. What comes before
// the answer is kept in events.
func (p *program) say(m message) (answer message, events []message) {
	p.t.Helper()
	if _, err := p.control.Write(appendMessage(nil, m)); err != nil {
		p.t.Fatal(err)
	}
	for {
		got := p.hear()
		if got.kind == msgRecord || got.kind == msgEnd {
			events = append(events, got)
			continue
		}
		return got, events
	}
}

// hear reads one control message, all parts of it.
func (p *program) hear() (m message) {
	p.t.Helper()
	b := make([]byte, maxMessage+1)
	var body []byte
	for {
		n, err := p.control.Read(b)
		if err != nil {
			p.t.Fatal(err)
		}
		if m, err = parseMessage(b[:n]); err != nil {
			p.t.Fatal(err)
		}
		if body = append(body, m.body...); m.flags&more == 0 {
			m.body = body
			return m
		}
	}
}

func (p *program) must(m message) []message {
	p.t.Helper()
	got, events := p.say(m)
	if got.kind != msgAnswer || len(got.body) != 4 || binary.NativeEndian.Uint32(got.body) != 0 {
		p.t.Fatalf("answer %+v", got)
	}
	return events
}

// The program deals with control records itself: both ways, in their place
// among the data, with a KeyUpdate in each direction.
func TestHandoffControl(t *testing.T) {
	p := newProgram(t)
	s := p.socket()
	p.hand(p.withKeys(WantControl))
	peer := struct {
		io.Reader
		io.Writer
	}{s, s}
	bothWays(t, p, peer)
	before := s.Info().Send.Bytes

	// Received, with data around it.
	s.Write([]byte("before"))
	s.WriteRecord(record.Handshake, []byte("\x04ticket"))
	s.Write([]byte("behind"))
	if m := p.hear(); m.kind != msgRecord || m.typ != record.Handshake || string(m.body) != "\x04ticket" || m.offset != before+6 {
		t.Errorf("%+v", m)
	}
	b := make([]byte, 12)
	if _, err := io.ReadFull(p.data, b); err != nil || string(b) != "beforebehind" {
		t.Fatalf("%q, %v", b, err)
	}

	// Sent, behind what was written.
	p.data.Write([]byte("data"))
	p.must(message{kind: msgRecord, typ: record.Handshake, body: []byte("\x04other")})
	if n, err := s.Read(b); string(b[:n]) != "data" || err != nil {
		t.Fatalf("%q, %v", b[:n], err)
	}
	if typ, n, err := s.ReadRecord(b); typ != record.Handshake || string(b[:n]) != "\x04other" || err != nil {
		t.Fatalf("%v %q, %v", typ, b[:n], err)
	}

	// KeyUpdate received: data waits for the keys.
	next, err := secretKeys(t, 2).Next()
	if err != nil {
		t.Fatal(err)
	}
	s.WriteRecord(record.Handshake, []byte{24, 0, 0, 1, 0})
	if err := s.SetKeys(aftls.Send, next); err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("new keys"))
	if m := p.hear(); m.typ != record.Handshake || len(m.body) != 5 || m.body[0] != 24 {
		t.Fatalf("%+v", m)
	}
	p.must(message{kind: msgKeys, typ: keysReceive, body: cryptoInfo(t, next)})
	if _, err := io.ReadFull(p.data, b[:8]); err != nil || string(b[:8]) != "new keys" {
		t.Fatalf("%q, %v", b[:8], err)
	}

	// KeyUpdate sent.
	if next, err = secretKeys(t, 1).Next(); err != nil {
		t.Fatal(err)
	}
	p.must(message{kind: msgRecord, typ: record.Handshake, body: []byte{24, 0, 0, 1, 0}})
	p.must(message{kind: msgKeys, typ: keysSend, body: cryptoInfo(t, next)})
	p.data.Write([]byte("newer"))
	if typ, _, err := s.ReadRecord(b); typ != record.Handshake || err != nil {
		t.Fatal(typ, err)
	}
	if err := s.SetKeys(aftls.Receive, next); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(b); string(b[:n]) != "newer" || err != nil {
		t.Fatalf("%q, %v", b[:n], err)
	}
	bothWays(t, p, peer)

	// Info, and the same keys again, which would use numbers twice.
	m, _ := p.say(message{kind: msgInfo})
	if m.kind != msgInfo || len(m.body) != 80 || binary.NativeEndian.Uint64(m.body[8:]) != s.Info().Receive.Seq ||
		binary.NativeEndian.Uint64(m.body[48:]) != s.Info().Send.Seq {
		t.Errorf("%+v", m)
	}
	m, _ = p.say(message{kind: msgKeys, typ: keysSend, body: cryptoInfo(t, next)})
	if m.kind != msgAnswer || binary.NativeEndian.Uint32(m.body) == 0 {
		t.Errorf("the same keys twice: %+v", m)
	}

	// The end, both ways.
	s.WriteRecord(record.AlertRecord, []byte{1, 0})
	if m := p.hear(); m.typ != record.AlertRecord {
		t.Errorf("%+v", m)
	}
	if b, err := io.ReadAll(p.data); len(b) != 0 || err != nil {
		t.Fatal(len(b), err)
	}
	p.data.Close()
	if typ, n, err := s.ReadRecord(b); typ != record.AlertRecord || !bytes.Equal(b[:n], []byte{1, 0}) || err != nil {
		t.Fatal(typ, b[:n], err)
	}
	if m := p.hear(); m.kind != msgEnd || binary.NativeEndian.Uint32(m.body) != 0 {
		t.Errorf("%+v", m)
	}
}

// With secrets the daemon acts on control records, and shows them.
func TestHandoffControlWithSecrets(t *testing.T) {
	p := newProgram(t)
	c := p.conn()
	p.hand(withSecrets(WantControl, nil))
	transfer(t, c, p.data, 100)
	if err := c.Rekey(true); err != nil {
		t.Fatal(err)
	}
	transfer(t, c, p.data, 100)
	if m := p.hear(); m.typ != record.Handshake || m.offset != 100 {
		t.Errorf("%+v", m)
	}
	p.must(message{kind: msgRekey})
	transfer(t, p.data, c, 100)
	if e := c.Info().Receive.Epoch; e < 2 {
		t.Errorf("epoch %d", e)
	}
	m, _ := p.say(message{kind: msgRecord, typ: record.Handshake, body: []byte("x")})
	if m.kind != msgAnswer || binary.NativeEndian.Uint32(m.body) == 0 {
		t.Errorf("%+v", m)
	}
}

// A data descriptor that keeps the boundaries of records, both ways.
func TestHandoffRecords(t *testing.T) {
	p := newProgram(t)
	s := p.socket()
	p.hand(p.withKeys(WantControl | Records))
	b := make([]byte, 20000)
	for _, n := range []int{1, 5, 1000, 16384} {
		data := make([]byte, n)
		rand.Read(data)
		for range 3 {
			if err := s.WriteRecord(record.ApplicationData, data); err != nil {
				t.Fatal(err)
			}
			p.data.Write(data)
		}
		for range 3 {
			if m, err := p.data.Read(b); err != nil || !bytes.Equal(b[:m], data) {
				t.Fatalf("%d bytes, %v", m, err)
			}
			if typ, m, err := s.ReadRecord(b); typ != record.ApplicationData || err != nil || !bytes.Equal(b[:m], data) {
				t.Fatalf("%v, %d bytes, %v", typ, m, err)
			}
		}
	}
	p.must(message{kind: msgRecord, typ: record.Handshake, body: []byte("\x04other")})
	if typ, m, err := s.ReadRecord(b); typ != record.Handshake || string(b[:m]) != "\x04other" || err != nil {
		t.Fatal(typ, b[:m], err)
	}
	s.WriteRecord(record.AlertRecord, []byte{1, 0})
	if m := p.hear(); m.typ != record.AlertRecord {
		t.Errorf("%+v", m)
	}
	if n, err := p.data.Read(b); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	p.data.Close()
	if m := p.hear(); m.kind != msgEnd || binary.NativeEndian.Uint32(m.body) != 0 {
		t.Errorf("%+v", m)
	}

	p.connect()
	p.hand(p.withKeys(WantControl | Records))
	p.data.Write(make([]byte, 16385))
	if m := p.hear(); m.kind != msgEnd || syscall.Errno(binary.NativeEndian.Uint32(m.body)) != unix.EMSGSIZE {
		t.Errorf("%+v", m)
	}
	if _, err := p.data.Read(b); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

func TestHandoffKernelSemantics(t *testing.T) {
	p := newProgram(t)
	s := p.socket()
	p.hand(p.withKeys(WantControl | Kernel))
	s.Write([]byte("data"))
	p.peer.(*net.TCPConn).CloseWrite() // no close_notify: Linux does not mind
	if b, err := io.ReadAll(p.data); string(b) != "data" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	p.data.Write([]byte("bye"))
	p.data.Close()
	var b [16]byte
	if n, err := s.Read(b[:]); string(b[:n]) != "bye" || err != nil {
		t.Fatalf("%q, %v", b[:n], err)
	}
	if _, err := s.Read(b[:]); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("close_notify where Linux sends none:", err)
	}
}

// Off gives the association back, with bytes under way in every place.
func TestHandoffOff(t *testing.T) {
	for name, secrets := range map[string]bool{"secrets": true, "keys": false} {
		t.Run(name, func(t *testing.T) {
			p := newProgram(t)
			var peer io.ReadWriter
			if secrets {
				peer = p.conn()
				p.hand(withSecrets(WantControl|IsClient, nil))
			} else {
				peer = p.socket()
				p.hand(p.withKeys(WantControl | IsClient))
			}
			bothWays(t, p, peer)
			data := make([]byte, 8<<20) // more than the queues hold
			rand.Read(data)
			wrote := make(chan error, 1)
			go func() { _, err := peer.Write(data); wrote <- err }()
			got := make([]byte, 100000)
			if _, err := io.ReadFull(p.data, got); err != nil {
				t.Fatal(err)
			}
			sent := make([]byte, 50000)
			rand.Read(sent)
			read := make(chan []byte, 1)
			go func() {
				b := make([]byte, len(sent))
				io.ReadFull(peer, b)
				read <- b
			}()
			p.data.Write(sent)
			m, _ := p.say(message{kind: msgOff})
			if m.kind != msgOff {
				t.Fatalf("%+v", m)
			}
			n := binary.NativeEndian.Uint32(m.body)
			st, undelivered := m.body[4:4+n], m.body[4+n:]
			rest, err := io.ReadAll(p.data)
			if err != nil {
				t.Fatal(err)
			}
			got = append(append(got, rest...), undelivered...)
			if !bytes.Equal(<-read, sent) {
				t.Error("what the program wrote differs")
			}
			state := new(aftls.State)
			err = state.UnmarshalBinary(st)
			if err != nil {
				t.Fatal(err)
			}
			var back io.ReadWriter
			if secrets {
				back, err = aftls.Resume(p.carrier, state, aftls.Options{})
			} else {
				back, err = aftls.ResumeSocket(p.carrier, state, aftls.Options{})
			}
			if err != nil {
				t.Fatal(err)
			}
			more := make([]byte, len(data)-len(got))
			if _, err := io.ReadFull(back, more); err != nil {
				t.Fatal(err)
			}
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(append(got, more...), data) {
				t.Error("bytes were lost or doubled on the way back")
			}
			transfer(t, back, peer, 1000)
			transfer(t, peer, back, 1000)
		})
	}
}

func TestHandoffIsFailClosed(t *testing.T) {
	for name, end := range map[string]func(p *program, s *aftls.Socket){
		"truncated": func(p *program, _ *aftls.Socket) { p.peer.Close() },
		"forged": func(p *program, _ *aftls.Socket) {
			p.peer.Write(append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...))
		},
		"fatal alert": func(_ *program, s *aftls.Socket) { s.WriteRecord(record.AlertRecord, []byte{2, 80}) },
		"KeyUpdate without a secret": func(_ *program, s *aftls.Socket) {
			s.WriteRecord(record.Handshake, []byte{24, 0, 0, 1, 0})
		},
		"daemon closed": func(p *program, _ *aftls.Socket) { p.daemon.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProgram(t)
			s := p.socket()
			p.hand(p.withKeys(0))
			s.Write([]byte("data"))
			b := make([]byte, 4)
			if _, err := io.ReadFull(p.data, b); err != nil {
				t.Fatal(err)
			}
			end(p, s)
			if n, err := p.data.Read(b); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%d, %v", n, err)
			}
			// The program's own descriptor of the carrier is dead too. The
			// shutdown comes just behind the error.
			for {
				if _, err := p.carrier.Write([]byte("plaintext")); err != nil {
					break
				}
			}
		})
	}
}

func TestHandoffRefuses(t *testing.T) {
	p := newProgram(t)
	f, err := p.carrier.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	carrier := int(f.Fd())
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	uf, err := udp.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer uf.Close()
	good := withSecrets(0, nil)
	change := func(at int, b ...byte) []byte {
		c := append([]byte(nil), good...)
		copy(c[at:], b)
		return c
	}
	other := secretKeys(t, 1)
	other.Suite, other.Key, other.Secret = 0x1302, make([]byte, 32), nil
	for name, c := range map[string]struct {
		b     []byte
		fds   []int
		errno syscall.Errno
	}{
		"no descriptor":     {good, nil, unix.EINVAL},
		"two descriptors":   {good, []int{carrier, carrier}, unix.EINVAL},
		"many descriptors":  {good, slicesRepeat(carrier, 100), unix.EMSGSIZE},
		"a file":            {good, []int{int(null.Fd())}, unix.ENOTSOCK},
		"UDP":               {good, []int{int(uf.Fd())}, unix.EOPNOTSUPP},
		"too short":         {good[:10], []int{carrier}, unix.EPROTO},
		"magic":             {change(0, 1), []int{carrier}, unix.EPROTO},
		"version":           {change(4, 2), []int{carrier}, unix.EPROTONOSUPPORT},
		"flags":             {change(7, 0x80), []int{carrier}, unix.EINVAL},
		"reserved":          {change(20, 1), []int{carrier}, unix.EINVAL},
		"lengths":           {good[:len(good)-1], []int{carrier}, unix.EINVAL},
		"too much unread":   {withSecrets(0, make([]byte, maxUnread+1)), []int{carrier}, unix.EMSGSIZE},
		"form":              {change(8, 9), []int{carrier}, unix.EINVAL},
		"TLS version":       {change(requestHead, 2), []int{carrier}, unix.EINVAL},
		"cipher":            {change(requestHead+2, 53), []int{carrier}, unix.EINVAL},
		"secret length":     {change(requestHead+4, 48), []int{carrier}, unix.EINVAL},
		"different ciphers": {request(0, formCryptoInfo, cryptoInfo(t, secretKeys(t, 1)), cryptoInfo(t, other), nil), []int{carrier}, unix.EINVAL},
		"kernel alone":      {withSecrets(Kernel, nil), []int{carrier}, unix.EINVAL},
		"records alone":     {withSecrets(Records, nil), []int{carrier}, unix.EINVAL},
	} {
		errno, reason, got := p.ask(c.b, c.fds...)
		if errno != c.errno || len(got) != 0 || reason == "" {
			t.Errorf("%s: %v (%q), want %v", name, errno, reason, c.errno)
		}
	}
	// The carrier is as it was.
	p.peer.Write([]byte("x"))
	if _, err := p.carrier.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func slicesRepeat(x, n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = x
	}
	return s
}

// Each user has so many, and what is over is free again.
func TestHandoffLimits(t *testing.T) {
	p := &program{t: t, daemon: &Daemon{PerUser: 3}}
	p.path = startDaemon(t, p.daemon)
	var held []*net.UnixConn
	for range 3 {
		p.connect()
		p.hand(withSecrets(0, nil))
		held = append(held, p.data)
	}
	p.connect()
	f, err := p.carrier.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if errno, reason, _ := p.ask(withSecrets(0, nil), int(f.Fd())); errno != unix.EDQUOT {
		t.Fatal(errno, reason)
	}
	held[0].Close()
	for {
		errno, reason, got := p.ask(withSecrets(0, nil), int(f.Fd()))
		if errno == 0 {
			p.take(got)
			break
		}
		if errno != unix.EDQUOT {
			t.Fatal(errno, reason)
		}
	}
	transfer(t, p.conn(), p.data, 1000)
	// Connections are counted by themselves: of more than three some are told.
	refused := make(chan syscall.Errno, 5)
	for range 5 {
		c, err := net.Dial("unixpacket", p.path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			var b [512]byte
			if n, err := c.Read(b[:]); err == nil && n >= 12 {
				refused <- syscall.Errno(binary.NativeEndian.Uint32(b[8:]))
			}
		}()
	}
	if errno := <-refused; errno != unix.EDQUOT {
		t.Error(errno)
	}
}

// Many at once, over one connection to the daemon, and nothing is left.
func TestManyHandoffs(t *testing.T) {
	p := newProgram(t)
	c, err := net.Dial("unixpacket", p.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var wg sync.WaitGroup
	for i := range 100 {
		p.connect()
		q := *p
		f, err := q.carrier.File()
		if err != nil {
			t.Fatal(err)
		}
		errno, reason, got := p.askOn(c.(*net.UnixConn), withSecrets(0, nil), int(f.Fd()))
		f.Close()
		if errno != 0 {
			t.Fatal(errno, reason)
		}
		q.take(got)
		peer := q.conn()
		wg.Go(func() {
			transfer(t, peer, q.data, 1000*i+1)
			transfer(t, q.data, peer, 1000*i+1)
			q.data.Close()
			if _, err := io.ReadAll(peer); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for {
		p.daemon.mu.Lock()
		n := 0
		for x := range p.daemon.open {
			if _, ok := x.(*Association); ok {
				n++
			}
		}
		p.daemon.mu.Unlock()
		if n == 0 {
			break
		}
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st.Mode(), err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("two daemons on one socket")
	}
	ln.SetUnlinkOnClose(false) // as if killed
	ln.Close()
	if ln, err = Listen(path); err != nil {
		t.Fatal(err)
	}
	ln.Close()
	os.WriteFile(path, nil, 0o600)
	if _, err := Listen(path); err == nil {
		t.Error("a file was taken for a dead socket")
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(withSecrets(0, []byte("unread")))
	f.Add(request(WantControl, formCryptoInfo, make([]byte, 40), make([]byte, 40), nil))
	for _, s := range datagramSuites {
		form, keys := s.form(f, s.keys(f, 1))
		f.Add(request(WantControl, form, keys, keys, nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			if errnoOf(err) == unix.EIO {
				t.Fatalf("%v has no errno", err)
			}
			return
		}
		if !record.Supported(r.Send.Version, r.Send.Suite) || len(r.Unread) > maxUnread {
			t.Fatalf("%+v", r)
		}
		if r.secrets() {
			return
		}
		again, err := AppendCryptoInfo(nil, r.Send)
		if err != nil {
			t.Fatal(err)
		}
		k, err := ParseCryptoInfo(again)
		if err != nil || fmt.Sprintf("%x", k) != fmt.Sprintf("%x", r.Send) {
			t.Fatalf("%x became %x, %v", r.Send, k, err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(appendMessage(nil, message{kind: msgRecord, typ: 22, body: []byte("x")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err == nil && !bytes.Equal(appendMessage(nil, m), b) {
			t.Fatalf("%x", b)
		}
	})
}
