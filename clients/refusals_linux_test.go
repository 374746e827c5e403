package clients_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/internal/afd"
	"golang.org/x/sys/unix"
)

// What the daemon refuses to a program that uses its client.
func TestRefusals(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		daemon := newDaemon(t)
		carrier, peer := connect(t)
		pipe, w := pipes(t)
		defer w.Close()
		udp := udpSocket(t)
		idle := idleSocket(t)
		p := start(t, carrier, pipe, udp, idle)
		a := &association{t: t, c: aes128, tx: aes128.keys(t, 1, 0), rx: aes128.keys(t, 2, 0), wire: peer, program: p}
		p.do("daemon "+daemon, "ok")
		refused := func(line string, errno syscall.Errno) {
			t.Helper()
			p.reason(line, fmt.Sprintf("refused %d", int(errno)))
		}
		a.tell("secret")
		refused("handoff 4", syscall.ENOTSOCK)
		refused("handoff 5", syscall.EOPNOTSUPP)
		refused("handoff 6", syscall.ENOTCONN)
		refused("handoff 3 kernel", syscall.EINVAL)
		p.do("rx "+ciphers[1].asSecret(ciphers[1].keys(t, 2, 0)), "ok")
		refused("handoff 3", syscall.EINVAL) // the ciphers differ
		p.do("tx "+ciphers[3].asKeys(ciphers[3].keys(t, 1, 0)), "ok")
		p.do("rx "+aes128.asKeys(aes128.keys(t, 2, 0)), "ok")
		refused("handoff 3", syscall.EINVAL) // the versions differ
		for _, wrong := range []string{"51 0 0102", fmt.Sprintf("51 0 %x", make([]byte, 48)),
			fmt.Sprintf("52 0 %x", make([]byte, 32)), fmt.Sprintf("53 0 %x", make([]byte, 32))} {
			p.do("tx secret "+wrong, saidErrno(syscall.EINVAL))
		}
		a.tell("keys")
		p.do(fmt.Sprintf("unread %x", make([]byte, 128<<10+1)), "ok")
		refused("handoff 3", syscall.EINVAL)
		a.tell("secret")
		refused("handoff 3", syscall.EMSGSIZE)
		p.do("unread -", "ok")

		// Nothing of it was the end of anything, and nothing stays behind.
		p.do("handoff 3", "ok")
		p.do("write fine", "ok")
		a.expect(a.socket(), []byte("fine"))
	})
}

func pipes(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, w
}

func udpSocket(t *testing.T) *os.File {
	t.Helper()
	to, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	c, err := net.Dial("udp", to.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// idleSocket is of TCP, and not connected.
func idleSocket(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { f.Close() })
	return f
}

// A user may have so many associations, and so many connections to the daemon.
func TestQuota(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		daemon := startDaemon(t, &afd.Daemon{PerUser: 1})
		a := handOver(t, start, daemon, aes128, "secret", "")
		second, _ := connect(t)
		p := start(t, second)
		a.program = p
		a.tell("secret")
		// In C the first program is still connected: the daemon answers before it
		// is asked, and closes.
		p.do("daemon "+daemon, "ok")
		p.reason("handoff 3", fmt.Sprintf("refused %d", int(syscall.EDQUOT)))
	})
}

// fakeDaemon answers every request as told, and returns the requests.
func fakeDaemon(t *testing.T, answer func(c *net.UnixConn)) (path string, requests <-chan request) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fake")
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan request, 8)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(limit))
			b, oob := make([]byte, 1<<18), make([]byte, 256)
			n, m, _, _, err := c.ReadMsgUnix(b, oob)
			if err == nil {
				got <- request{b[:n], closeAll(oob[:m])}
				answer(c)
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-over })
	return path, got
}

type request struct {
	b   []byte
	fds int
}

func closeAll(oob []byte) (n int) {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for i := range msgs {
		fds, _ := unix.ParseUnixRights(&msgs[i])
		for _, fd := range fds {
			unix.Close(fd)
			n++
		}
	}
	return n
}

// reply is struct aftls_reply and what follows.
func reply(magic uint32, version uint16, errno syscall.Errno, text string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, magic)
	b = binary.NativeEndian.AppendUint16(b, version)
	b = binary.NativeEndian.AppendUint16(b, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(errno))
	return append(b, text...)
}

const magic = 0x534c5461

// What programs say of every reply that there can be, of a daemon and of others.
func TestReplies(t *testing.T) {
	long := strings.Repeat("x", 255)
	replies := []struct {
		name string
		b    []byte // none: the daemon goes away
		fds  int
		said string
	}{
		{"gone", nil, 0, fmt.Sprintf("lost %d the daemon went away without an answer", syscall.ECONNRESET)},
		{"nothing like it", []byte("HTTP/1.1 400"), 0, fmt.Sprintf("lost %d what answered speaks another protocol", syscall.EBADMSG)},
		{"short", reply(magic, 1, 0, "")[:11], 0, fmt.Sprintf("lost %d what answered speaks another protocol", syscall.EBADMSG)},
		{"another version", reply(magic, 2, syscall.EINVAL, ""), 0, fmt.Sprintf("lost %d what answered speaks another protocol", syscall.EBADMSG)},
		{"no descriptor", reply(magic, 1, 0, ""), 0, fmt.Sprintf("lost %d what answered speaks another protocol", syscall.EBADMSG)},
		{"two too many", reply(magic, 1, 0, ""), 3, fmt.Sprintf("lost %d what answered speaks another protocol", syscall.EBADMSG)},
		{"many too many", reply(magic, 1, 0, ""), 12, fmt.Sprintf("lost %d this process could not take the descriptors", syscall.EMFILE)},
		{"refused with one", reply(magic, 1, syscall.EINVAL, "no"), 1, fmt.Sprintf("lost %d what answered speaks another protocol", syscall.EBADMSG)},
		{"without a reason", reply(magic, 1, syscall.EINVAL, ""), 0, fmt.Sprintf("refused %d", syscall.EINVAL)},
		{"with a long reason", reply(magic, 1, syscall.EINVAL, long), 0, fmt.Sprintf("refused %d %s", syscall.EINVAL, long)},
	}
	for _, errno := range []syscall.Errno{syscall.EPROTO, syscall.EPROTONOSUPPORT, syscall.EINVAL, syscall.EMSGSIZE,
		syscall.ENOTSOCK, syscall.EOPNOTSUPP, syscall.ENOTCONN, syscall.EDQUOT, syscall.ESHUTDOWN} {
		said := fmt.Sprintf("refused %d why it is %v", errno, int(errno))
		replies = append(replies, struct {
			name string
			b    []byte
			fds  int
			said string
		}{errno.Error(), reply(magic, 1, errno, fmt.Sprintf("why it is %v", int(errno))), 0, said})
	}
	eachLanguage(t, func(t *testing.T, start starter) {
		for _, r := range replies {
			t.Run(r.name, func(t *testing.T) {
				path, _ := fakeDaemon(t, func(c *net.UnixConn) {
					if r.b == nil {
						return
					}
					var fds []int
					for range r.fds {
						fds = append(fds, 0)
					}
					if _, _, err := c.WriteMsgUnix(r.b, unix.UnixRights(fds...), nil); err != nil {
						t.Error(err)
					}
				})
				carrier, _ := connect(t)
				p := start(t, carrier)
				a := &association{t: t, c: aes128, tx: aes128.keys(t, 1, 0), rx: aes128.keys(t, 2, 0), program: p}
				a.tell("secret")
				p.do("daemon "+path, "ok")
				before := p.descriptors()
				p.do("handoff 3", strings.TrimSpace(r.said))
				if after := p.descriptors(); after != before {
					t.Errorf("%s before the hand-off, %s behind it", before, after)
				}
			})
		}
	})
}

// message is struct aftls_message and what follows, which it says to be so long.
func message(kind, typ byte, length int, offset uint64, body string) []byte {
	b := binary.NativeEndian.AppendUint16([]byte{kind, typ}, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(length))
	return append(binary.NativeEndian.AppendUint64(b, offset), body...)
}

// What comes over a control descriptor and is no message is said to be none, and
// does no harm to the next.
func TestMessages(t *testing.T) {
	bad := saidErrno(syscall.EBADMSG)
	long := strings.Repeat("x", 16384)
	messages := []struct {
		b    []byte
		said string
	}{
		{[]byte("short"), bad},
		{message(1, 22, 3, 9, "abc"), "record 22 offset 9 616263"},
		{message(1, 22, 3, 0, "ab"), bad},
		{message(1, 22, 2, 0, "abc"), bad},
		{message(1, 22, 16384, 1<<40, long), fmt.Sprintf("record 22 offset %d %x", 1<<40, long)},
		{message(1, 22, 16385, 0, long+"x"), bad},
		{message(0, 0, 0, 0, ""), bad},
		{message(2, 1, 0, 0, ""), bad},
		{message(8, 0, 0, 0, ""), bad},
		{message(3, 0, 79, 0, strings.Repeat("\x00", 79)), bad},
		{message(3, 0, 80, 0, strings.Repeat("\x00", 80)), saidInfo(
			saidDirection(cipher{}, 0, 0, 0, 0), saidDirection(cipher{}, 0, 0, 0, 0))},
		{message(6, 0, 3, 0, "abc"), bad},
		{message(6, 0, 4, 0, "\x00\x00\x00\x00"), "answer 0"},
		{message(6, 0, 4+255, 0, "\x00\x00\x00\x00"+long[:255]), "answer 0 " + long[:255]},
		{message(7, 0, 4+4, 0, "\x00\x00\x00\x00done"), "end 0 done"},
		{nil, "closed"},
	}
	eachLanguage(t, func(t *testing.T, start starter) {
		path, _ := fakeDaemon(t, func(c *net.UnixConn) {
			data, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			control, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			if _, _, err := c.WriteMsgUnix(reply(magic, 1, 0, ""), unix.UnixRights(data[1], control[1]), nil); err != nil {
				t.Error(err)
			}
			for _, m := range messages {
				if m.b == nil {
					break
				}
				if _, err := unix.Write(control[0], m.b); err != nil {
					t.Error(err)
				}
			}
			for _, fd := range append(data[:], control[:]...) {
				unix.Close(fd)
			}
		})
		carrier, _ := connect(t)
		p := start(t, carrier)
		a := &association{t: t, c: aes128, tx: aes128.keys(t, 1, 0), rx: aes128.keys(t, 2, 0), program: p}
		a.tell("secret")
		p.do("daemon "+path, "ok")
		p.do("handoff 3 control", "ok")
		for i, m := range messages {
			p.say("receive")
			if said := p.next(); said != m.said {
				t.Errorf("message %d: the program said %.300q, not %.300q", i, said, m.said)
			}
		}
	})
}

// A program that cannot take its descriptors learns that the connection is gone:
// the daemon has given it away, and nobody has it.
func TestNoDescriptorsLeft(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		daemon := newDaemon(t)
		carrier, peer := connect(t)
		p := start(t, carrier)
		a := &association{t: t, c: aes128, tx: aes128.keys(t, 1, 0), rx: aes128.keys(t, 2, 0), wire: peer, program: p}
		a.tell("secret")
		p.do("daemon "+daemon, "ok")
		p.reason("handoff-without-descriptors 3", fmt.Sprintf("lost %d", int(syscall.EMFILE)))
		a.expectEnd(a.conn(true))
	})
}

func (p *program) descriptors() string {
	p.t.Helper()
	p.say("descriptors")
	return p.next()
}

// A daemon that refuses a connection says why before anybody asks.
func TestRefusedBeforeTheRequest(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		path := filepath.Join(t.TempDir(), "fake")
		ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		carrier, _ := connect(t)
		p := start(t, carrier)
		a := &association{t: t, c: aes128, tx: aes128.keys(t, 1, 0), rx: aes128.keys(t, 2, 0), program: p}
		a.tell("secret")
		refuse := func(read bool) {
			t.Helper()
			c, err := ln.AcceptUnix()
			if err != nil {
				t.Fatal(err)
			}
			if read { // it is there, and stays unread: the close is a reset
				raw, err := c.SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				raw.Read(func(fd uintptr) bool {
					n, _, _ := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
					return n > 0
				})
			}
			if _, err := c.Write(reply(magic, 1, syscall.EDQUOT, "too many")); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		want := fmt.Sprintf("refused %d too many", syscall.EDQUOT)
		if strings.HasSuffix(t.Name(), "/c") { // Python connects and asks at once
			p.do("daemon "+path, "ok")
			refuse(false)
			p.do("handoff 3", want)
		}
		p.do("daemon "+path, "ok")
		p.say("handoff 3")
		refuse(true)
		p.hear(want)
	})
}

// The request, byte by byte, in both forms and with all that can be in it.
func TestRequests(t *testing.T) {
	ne := binary.NativeEndian
	u16 := func(v ...uint16) (b []byte) {
		for _, v := range v {
			b = ne.AppendUint16(b, v)
		}
		return b
	}
	head := func(flags, form, n uint16, unread uint32) []byte {
		b := ne.AppendUint32(nil, magic)
		b = append(b, u16(1, flags, form, n, form, n)...)
		return append(ne.AppendUint32(b, unread), 0, 0, 0, 0)
	}
	bytesOf := func(from, n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(from + i)
		}
		return b
	}
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	seq := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	const number = "0x0102030405060708"
	for _, c := range []struct {
		name   string
		keys   string // of both directions
		flags  string
		unread string
		want   []byte
	}{
		{"secret", fmt.Sprintf("secret 51 %s %x", number, bytesOf(1, 32)), "", "-",
			join(head(0, 2, 64, 0), twice(join(u16(0x304, 51, 32, 0), seq, bytesOf(1, 32), make([]byte, 16))))},
		{"secret of 48 bytes", fmt.Sprintf("secret 52 %s %x", number, bytesOf(1, 48)), " control", "aabb",
			join(head(1, 2, 64, 2), twice(join(u16(0x304, 52, 48, 0), seq, bytesOf(1, 48))), []byte{0xaa, 0xbb})},
		{"aes-128", fmt.Sprintf("keys 0x304 51 %s %x %x", number, bytesOf(1, 16), bytesOf(100, 12)), " control kernel", "-",
			join(head(3, 1, 40, 0), twice(join(u16(0x304, 51), bytesOf(104, 8), bytesOf(1, 16), bytesOf(100, 4), seq)))},
		{"aes-256 of 1.2", fmt.Sprintf("keys 0x303 52 %s %x %x", number, bytesOf(1, 32), bytesOf(100, 4)), " client", "-",
			join(head(4, 1, 56, 0), twice(join(u16(0x303, 52), seq, bytesOf(1, 32), bytesOf(100, 4), seq)))},
		{"chacha20", fmt.Sprintf("keys 0x304 54 %s %x %x", number, bytesOf(1, 32), bytesOf(100, 12)), " control client", "-",
			join(head(5, 1, 56, 0), twice(join(u16(0x304, 54), bytesOf(100, 12), bytesOf(1, 32), seq)))},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachLanguage(t, func(t *testing.T, start starter) {
				path, requests := fakeDaemon(t, func(*net.UnixConn) {})
				carrier, _ := connect(t)
				p := start(t, carrier)
				p.do("tx "+c.keys, "ok")
				p.do("rx "+c.keys, "ok")
				p.do("unread "+c.unread, "ok")
				p.do("daemon "+path, "ok")
				p.reason("handoff 3"+c.flags, fmt.Sprintf("lost %d", int(syscall.ECONNRESET)))
				r := <-requests
				if !bytes.Equal(r.b, c.want) || r.fds != 1 {
					t.Fatalf("the request is\n%x and %d descriptors, not\n%x and 1", r.b, r.fds, c.want)
				}
			})
		})
	}
}

func twice(b []byte) []byte { return append(b[:len(b):len(b)], b...) }

// Where the daemon is if nobody says it.
func TestDefaultSocket(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	ln, err := afd.Listen(filepath.Join(dir, "aftls.sock"))
	if err != nil {
		t.Fatal(err)
	}
	d := new(afd.Daemon)
	over := make(chan error, 1)
	go func() { over <- d.Serve(ln) }()
	t.Cleanup(func() { d.Close(); <-over })
	eachLanguage(t, func(t *testing.T, start starter) {
		a := handOver(t, start, "default", aes128, "secret", "")
		a.echo(a.conn(true), 1000)
	})
}

// A sanitizer that finds nothing proves something only where it can find it.
func TestSanitizers(t *testing.T) {
	exe := buildC(t, "overflow", "testdata/overflow.c")
	if missing := sanitizers.missing; missing != "" {
		t.Skipf("the C compiler has no address and undefined sanitizers: %s", missing)
	}
	for _, what := range []string{"address", "undefined"} {
		if out, err := exec.Command(exe, what).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("runtime error")) && !bytes.Contains(out, []byte("AddressSanitizer")) {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
}

// The header and the client compile without a warning wherever they may be used.
func TestCompilers(t *testing.T) {
	strict := []string{"-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion", "-Wshadow", "-Ic"}
	for _, c := range []struct {
		compiler string
		std      []string
		source   string
		language string
	}{
		{"gcc", []string{"c99", "c11", "gnu17"}, "c/aftls.c", "c"},
		{"clang", []string{"c99", "c11", "gnu17"}, "c/aftls.c", "c"},
		{"g++", []string{"c++11", "c++20"}, "testdata/header.cc", "c++"},
		{"clang++", []string{"c++11", "c++20"}, "testdata/header.cc", "c++"},
	} {
		t.Run(c.compiler, func(t *testing.T) {
			exe := aftlstest.Need(t, c.compiler)
			for _, std := range c.std {
				args := append([]string{"-std=" + std, "-c", "-x", c.language, c.source, "-o", os.DevNull}, strict...)
				if out, err := exec.Command(exe, args...).CombinedOutput(); err != nil {
					t.Errorf("%s %s: %v\n%s", c.compiler, strings.Join(args, " "), err, out)
				}
			}
		})
	}
}
