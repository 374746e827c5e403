package clients_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/afd"
	"github.com/aftls/aftls/record"
)

// datagramCiphers are those of DTLS that a program can hand over.
var datagramCiphers = []cipher{
	{"AES-128-GCM-DTLS-1.2", 51, record.DTLS12, 0xc02f, 16, 4, 0},
	{"AES-256-GCM-DTLS-1.2", 52, record.DTLS12, 0xc030, 32, 4, 0},
	{"ChaCha20-Poly1305-DTLS-1.2", 54, record.DTLS12, 0xcca8, 32, 12, 0},
	{"AES-128-GCM-DTLS-1.3", 51, record.DTLS13, 0x1301, 16, 12, 32},
}

// datagrams is an association that a program has handed over, and its peer.
type datagrams struct {
	*program
	peer *aftls.DatagramConn
	wire *net.UDPConn // the peer's
}

func handOverDatagrams(t *testing.T, start starter, daemon string, c cipher, flags string) *datagrams {
	t.Helper()
	wire, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	udp, err := net.DialUDP("udp4", nil, wire.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	carrier, err := udp.File()
	if err != nil {
		t.Fatal(err)
	}
	defer carrier.Close()
	p := start(t, carrier)
	tx, rx := c.keys(t, 1, 7), c.keys(t, 2, 0x010203)
	for _, k := range []*record.Keys{&tx, &rx} {
		if k.Epoch = 1; c.secret > 0 {
			k.Epoch = 3
		}
	}
	for name, k := range map[string]record.Keys{"tx": tx, "rx": rx} {
		number := k.Epoch<<48 | k.Seq
		as := fmt.Sprintf("keys 0x%04x %d %d %x %x", c.version, c.number, number, k.Key, k.IV)
		if c.secret > 0 {
			as = fmt.Sprintf("dtls-secret %d %d %x", c.number, number, k.Secret)
		}
		p.do(name+" "+as, "ok")
	}
	p.do("daemon "+daemon, "ok")
	p.do(strings.TrimSpace("handoff 3 "+flags), "ok")
	d := &datagrams{program: p}
	at := wire.LocalAddr().(*net.UDPAddr)
	wire.Close()
	if d.wire, err = net.DialUDP("udp4", at, udp.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	if d.peer, err = aftls.NewDatagramConn(d.wire, rx, tx, nil, aftls.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.peer.Close() })
	d.peer.SetDeadline(time.Now().Add(limit))
	return d
}

// hears reads one message of the program.
func (d *datagrams) hears(want []byte) {
	d.t.Helper()
	b := make([]byte, 20000)
	if n, err := d.peer.Read(b); err != nil || !bytes.Equal(b[:n], want) {
		d.t.Fatalf("%d bytes of %d, %v", n, len(want), err)
	}
}

func (d *datagrams) says(b []byte) {
	d.t.Helper()
	if _, err := d.peer.Write(b); err != nil {
		d.t.Fatal(err)
	}
}

func TestDatagrams(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		daemon := newDaemon(t)
		for _, c := range datagramCiphers {
			t.Run(c.name, func(t *testing.T) {
				d := handOverDatagrams(t, start, daemon, c, "control")
				bytesSent := 0
				for _, n := range []int{1, 1200, 16384} {
					d.do(fmt.Sprintf("message %d", n), "ok")
					d.hears(pattern(n))
					d.says(pattern(n))
					d.do(fmt.Sprintf("read %d", n), saidRead(pattern(n), ""))
					bytesSent += n
				}
				forged := append([]byte{23, 0xfe, 0xfd, 0, 1, 0, 9, 0, 0, 0, 0, 0, 100}, make([]byte, 100)...)
				if _, err := d.wire.Write(forged); err != nil {
					t.Fatal(err)
				}
				d.says([]byte("x"))
				d.do("read 1", saidRead([]byte("x"), ""))
				epoch := 1
				if c.secret > 0 {
					epoch = 3
				}
				want := fmt.Sprintf("info tx %04x %04x seq %d records 3 bytes %d epoch %d rx %04x %04x seq %d records 4 bytes %d epoch %d drops 1 0 0 0",
					c.version, c.suite, 7+3, bytesSent, epoch, c.version, c.suite, 0x010203+4, bytesSent+1, epoch)
				// A record counts as sent behind the call that sends it.
				for said, by := "", time.Now().Add(limit); said != want; {
					d.do("info", "ok")
					d.say("receive")
					if said = d.next(); said != want && (time.Now().After(by) || !strings.HasPrefix(said, "info ")) {
						t.Fatalf("the program said %q, not %q", said, want)
					}
				}
				d.do("close", "ok")
				if n, err := d.peer.Read(make([]byte, 10)); n != 0 || err != io.EOF {
					t.Error(n, err)
				}
				d.do("receive", "end 0")
			})
		}
	})
}

// What the association goes on after is told: a peer that nobody listens at.
func TestDatagramWarnings(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		d := handOverDatagrams(t, start, newDaemon(t), datagramCiphers[0], "control")
		d.wire.Close()
		d.do("message 10", "ok")
		d.reason("receive", fmt.Sprintf("warning %d limit 0", int(syscall.ECONNREFUSED)))
		d.do("message 16385", "ok")
		d.do("read 1", saidRead(nil, saidErrno(syscall.ECONNRESET)))
		for {
			d.say("receive")
			said := d.next()
			if strings.HasPrefix(said, "warning ") {
				continue
			}
			if !strings.HasPrefix(said, fmt.Sprintf("end %d ", int(syscall.EMSGSIZE))) {
				t.Errorf("the program said %q", said)
			}
			break
		}
	})
}

// kill -9 of either side.
func TestDatagramsKilled(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		t.Run("the daemon", func(t *testing.T) {
			path, kill := daemonProcess(t)
			d := handOverDatagrams(t, start, path, datagramCiphers[0], "control")
			d.do("message 10", "ok")
			d.hears(pattern(10))
			kill()
			d.do("read 100", saidRead(nil, saidErrno(syscall.ECONNRESET)))
			d.do("receive", "closed")
		})
		t.Run("the program", func(t *testing.T) {
			daemon := startDaemon(t, new(afd.Daemon))
			var killed *program
			d := handOverDatagrams(t, func(t *testing.T, files ...*os.File) *program {
				killed = start(t, files...)
				return killed
			}, daemon, datagramCiphers[0], "")
			for range 20 {
				d.do("message 1000", "ok")
			}
			killed.kill()
			// What it wrote is sent, and then the end.
			for range 20 {
				d.hears(pattern(1000))
			}
			if n, err := d.peer.Read(make([]byte, 10)); n != 0 || err != io.EOF {
				t.Error(n, err)
			}
		})
	})
}
