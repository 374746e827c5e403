package clients_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/afd"
	"github.com/aftls/aftls/record"
)

// cipher is one that a program can hand over.
type cipher struct {
	name           string
	number         int // of linux/tls.h
	version, suite uint16
	key, iv        int // lengths
	secret         int // 0 in TLS 1.2
}

var ciphers = []cipher{
	{"AES-128-GCM-1.3", 51, record.TLS13, 0x1301, 16, 12, 32},
	{"AES-256-GCM-1.3", 52, record.TLS13, 0x1302, 32, 12, 48},
	{"ChaCha20-Poly1305-1.3", 54, record.TLS13, 0x1303, 32, 12, 32},
	{"AES-128-GCM-1.2", 51, record.TLS12, 0xc02f, 16, 4, 0},
	{"AES-256-GCM-1.2", 52, record.TLS12, 0xc030, 32, 4, 0},
	{"ChaCha20-Poly1305-1.2", 54, record.TLS12, 0xcca8, 32, 12, 0},
}

var aes128 = ciphers[0]

// keys are those of one direction; x tells them from others.
func (c cipher) keys(t *testing.T, x byte, seq uint64) record.Keys {
	t.Helper()
	k := record.Keys{Version: c.version, Suite: c.suite, Seq: seq}
	if c.secret > 0 {
		k.Secret = bytes.Repeat([]byte{x}, c.secret)
	} else {
		k.Key, k.IV = bytes.Repeat([]byte{x}, c.key), bytes.Repeat([]byte{x + 1}, c.iv)
	}
	if err := k.Derive(); err != nil {
		t.Fatal(err)
	}
	return k
}

// asSecret and asKeys are how a program is told them.
func (c cipher) asSecret(k record.Keys) string {
	return fmt.Sprintf("secret %d %d %x", c.number, k.Seq, k.Secret)
}

func (c cipher) asKeys(k record.Keys) string {
	return fmt.Sprintf("keys 0x%04x %d %d %x %x", c.version, c.number, k.Seq, k.Key, k.IV)
}

// association is a connection that a program has handed over, and its peer.
type association struct {
	t       *testing.T
	c       cipher
	carrier *os.File
	wire    *net.TCPConn // the peer's
	program *program

	tx, rx record.Keys // of the program
}

// handOver starts a program and lets it hand over a connection, in the form
// "secret" or "keys" and with flags.
func handOver(t *testing.T, start starter, daemon string, c cipher, form, flags string) *association {
	t.Helper()
	// Numbers have 8 bytes, of which TLS 1.3 allows 4 to be used at most.
	a := &association{t: t, c: c, tx: c.keys(t, 1, 7), rx: c.keys(t, 2, 0x010203)}
	if c.secret == 0 {
		a.tx.Seq = 0x0102030405060708
	}
	a.carrier, a.wire = connect(t)
	a.program = start(t, a.carrier)
	a.tell(form)
	a.program.do("daemon "+daemon, "ok")
	a.program.do(strings.TrimSpace("handoff 3 "+flags), "ok")
	return a
}

// tell tells the program its keys.
func (a *association) tell(form string) {
	a.t.Helper()
	as := a.c.asKeys
	if form == "secret" {
		as = a.c.asSecret
	}
	a.program.do("tx "+as(a.tx), "ok")
	a.program.do("rx "+as(a.rx), "ok")
}

// socket is the peer as a socket of aftls.
func (a *association) socket() *aftls.Socket {
	a.t.Helper()
	s := aftls.NewSocket(a.wire, aftls.Options{})
	if err := s.SetKeys(aftls.Send, a.rx); err != nil {
		a.t.Fatal(err)
	}
	if err := s.SetKeys(aftls.Receive, a.tx); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { s.Close() })
	return s
}

// conn is the peer as a connection of aftls, whose side is the other one than the
// program's.
func (a *association) conn(client bool) *aftls.Conn {
	a.t.Helper()
	c, err := aftls.NewConn(a.socket(), client, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

func newDaemon(t *testing.T) string { return startDaemon(t, new(afd.Daemon)) }

// pattern is what transcript.* write with fill.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

// saidRead is what a program says of reading b, and of how that ended.
func saidRead(b []byte, end string) string {
	return strings.TrimSpace(fmt.Sprintf("read %d crc %08x %s", len(b), crc32.ChecksumIEEE(b), end))
}

func (a *association) send(w io.Writer, b []byte) {
	a.t.Helper()
	if _, err := w.Write(b); err != nil {
		a.t.Fatal(err)
	}
}

// expect reads b from the program.
func (a *association) expect(r io.Reader, b []byte) {
	a.t.Helper()
	got := make([]byte, len(b))
	if _, err := io.ReadFull(r, got); err != nil {
		a.t.Fatal(err)
	}
	if !bytes.Equal(got, b) {
		a.t.Fatalf("%d other bytes than were written", len(b))
	}
}

// expectEnd reads the program's close_notify.
func (a *association) expectEnd(r io.Reader) {
	a.t.Helper()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		a.t.Fatalf("read %d, %v; want EOF", n, err)
	}
}

func (a *association) record(s *aftls.Socket, typ record.ContentType, b []byte) {
	a.t.Helper()
	if err := s.WriteRecord(typ, b); err != nil {
		a.t.Fatal(err)
	}
}

func (a *association) expectRecord(s *aftls.Socket, typ record.ContentType, b []byte) {
	a.t.Helper()
	p := make([]byte, record.MaxPlaintext)
	got, n, err := s.ReadRecord(p)
	if err != nil || got != typ || !bytes.Equal(p[:n], b) {
		a.t.Fatalf("received %v %x, %v; want %v %x", got, p[:n], err, typ, b)
	}
}

// echo sends a pattern of n bytes, which the program sends back, and ends the
// connection in order, first the peer's side.
func (a *association) echo(c *aftls.Conn, n int) {
	a.t.Helper()
	b := pattern(n)
	a.program.say("echo")
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	a.expect(c, b)
	if err := <-sent; err != nil {
		a.t.Fatal(err)
	}
	a.program.hear(fmt.Sprintf("echoed %d", n))
	a.program.do("shut", "ok")
	a.expectEnd(c)
}

func TestEchoOfEveryCipher(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		daemon := newDaemon(t)
		for _, c := range ciphers {
			for _, form := range []string{"secret", "keys"} {
				if form == "secret" && c.secret == 0 {
					continue
				}
				t.Run(c.name+"/"+form, func(t *testing.T) {
					a := handOver(t, start, daemon, c, form, "")
					a.echo(a.conn(true), 300_000)
				})
			}
		}
	})
}

func TestManyBytesBothWays(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		const n = 6<<20 + 12345
		a := handOver(t, start, newDaemon(t), aes128, "secret", "client")
		c := a.conn(false)
		a.program.say("fill %d", n)
		a.expect(c, pattern(n))
		a.program.hear("ok")
		a.program.say("read %d", n)
		a.send(c, pattern(n))
		a.program.hear(saidRead(pattern(n), ""))
		a.echo(c, n) // at once
	})
}

// The program ends its writing first, and goes on reading.
func TestHalfCloseOfProgram(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		a := handOver(t, start, newDaemon(t), aes128, "secret", "")
		c := a.conn(true)
		a.program.do("write request", "ok")
		a.program.do("shut", "ok")
		a.expect(c, []byte("request"))
		a.expectEnd(c)
		b := pattern(100_000)
		a.send(c, b)
		a.program.do(fmt.Sprintf("read %d", len(b)), saidRead(b, ""))
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		a.program.do("read 1", saidRead(nil, "end"))
		a.program.do("close", "ok")
	})
}

// The peer ends its writing first, and the program goes on writing.
func TestHalfCloseOfPeer(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		a := handOver(t, start, newDaemon(t), aes128, "secret", "")
		c := a.conn(true)
		a.send(c, []byte("request"))
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		a.program.do("read 100", saidRead([]byte("request"), "end"))
		a.program.do("fill 100000", "ok")
		a.expect(c, pattern(100_000))
		a.program.do("write more", "ok")
		a.program.do("close", "ok")
		a.expect(c, []byte("more"))
		a.expectEnd(c)
		// The program is still there and holds the carrier: the daemon ended it.
		if n, err := a.wire.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("the carrier: %d, %v; want EOF", n, err)
		}
	})
}

// What the program's library has read already is opened first.
func TestUnread(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		a := &association{t: t, c: aes128, tx: aes128.keys(t, 1, 0), rx: aes128.keys(t, 2, 0)}
		a.carrier, a.wire = connect(t)
		c := a.conn(true)
		before := pattern(70_000)
		sealed := sealed(t, a.rx, before)
		cut := len(sealed) - 1000 // in the middle of a record
		a.program = start(t, a.carrier)
		a.tell("secret")
		a.program.do(fmt.Sprintf("unread %x", sealed[:cut]), "ok")
		a.program.do("daemon "+newDaemon(t), "ok")
		a.program.do("handoff 3", "ok")
		if _, err := a.wire.Write(sealed[cut:]); err != nil {
			t.Fatal(err)
		}
		a.program.do("read 70000", saidRead(before, ""))
		a.program.do("write answer", "ok")
		a.expect(c, []byte("answer"))
		a.program.do("close", "ok")
		a.expectEnd(c)
	})
}

// sealed is what a peer with the keys sends for b.
func sealed(t *testing.T, k record.Keys, b []byte) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(far)
		got <- b
	}()
	s := aftls.NewSocket(near, aftls.Options{})
	if err := s.SetKeys(aftls.Send, k); err != nil {
		t.Fatal(err)
	}
	near.SetDeadline(time.Now().Add(limit))
	if _, err := s.Write(b); err != nil {
		t.Fatal(err)
	}
	near.Close()
	return <-got
}
