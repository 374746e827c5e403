package clients_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

// keyUpdate is the record that asks the peer for one, too (RFC 8446, 4.6.3).
var keyUpdate = []byte{24, 0, 0, 1, 1}

// saidInfo is what a program says of both directions.
func saidInfo(tx, rx string) string { return "info tx " + tx + " rx " + rx }

func saidDirection(c cipher, seq, records, bytes, epoch uint64) string {
	return fmt.Sprintf("%04x %04x seq %d records %d bytes %d epoch %d", c.version, c.suite, seq, records, bytes, epoch)
}

// A whole life of a connection with keys, where the program deals with every
// record: what both languages say of it is written down.
func TestTranscript(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		a := handOver(t, start, newDaemon(t), aes128, "keys", "control")
		s, p := a.socket(), a.program
		ticket := append([]byte{4, 0, 0, 6}, "ticket"...)

		// Records come with their place in the stream.
		a.send(s, []byte("hello"))
		a.record(s, record.Handshake, ticket)
		a.send(s, []byte("world"))
		a.record(s, record.AlertRecord, []byte{1, 90})
		p.do("receive", "record 22 offset 5 04000006"+hex.EncodeToString([]byte("ticket")))
		p.do("receive", "record 21 offset 10 015a")
		p.do("read 10", saidRead([]byte("helloworld"), ""))

		// And go out at theirs: what is written behind the answer is behind them.
		p.do("write before", "ok")
		p.do("record 22 "+hex.EncodeToString(ticket), "ok")
		p.do("receive", "answer 0")
		p.do("write behind", "ok")
		p.do("record 99 -", "ok")
		p.do("receive", "answer 0")
		a.expectRecord(s, record.ApplicationData, []byte("before"))
		a.expectRecord(s, record.Handshake, ticket)
		a.expectRecord(s, record.ApplicationData, []byte("behind"))
		a.expectRecord(s, 99, nil)

		// The peer's KeyUpdate: what is behind it waits for the keys.
		a.record(s, record.Handshake, keyUpdate)
		next := nextKeys(t, a.rx)
		if err := s.SetKeys(aftls.Send, next); err != nil {
			t.Fatal(err)
		}
		a.send(s, []byte("under the next key"))
		p.do("receive", "record 22 offset 10 1800000101")
		p.do("rx "+a.c.asKeys(next), "ok")
		p.do("keys-rx", "ok")
		p.do("receive", "answer 0")
		p.do("read 18", saidRead([]byte("under the next key"), ""))

		// The program's own.
		p.do("record 22 1800000100", "ok")
		p.do("receive", "answer 0")
		next = nextKeys(t, a.tx)
		p.do("tx "+a.c.asKeys(next), "ok")
		p.do("keys-tx", "ok")
		p.do("receive", "answer 0")
		p.do("write new", "ok")
		a.expectRecord(s, record.Handshake, []byte{24, 0, 0, 1, 0})
		if err := s.SetKeys(aftls.Receive, next); err != nil {
			t.Fatal(err)
		}
		a.expect(s, []byte("new"))

		p.do("info", "ok")
		p.do("receive", saidInfo(saidDirection(a.c, 1, 6, 15, 1), saidDirection(a.c, 1, 6, 28, 1)))

		// The end of each side.
		p.do("shut", "ok")
		a.expectRecord(s, record.AlertRecord, []byte{1, 0})
		a.record(s, record.AlertRecord, []byte{1, 0})
		p.do("receive", "record 21 offset 28 0100")
		p.do("read 1", saidRead(nil, "end"))
		p.do("receive", "end 0")
		p.do("receive", "closed")
	})
}

func nextKeys(t *testing.T, k record.Keys) record.Keys {
	t.Helper()
	n, err := k.Next()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// With traffic secrets the daemon acts, and shows what it acted on.
func TestControlWithSecrets(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		a := handOver(t, start, newDaemon(t), aes128, "secret", "control client")
		c, p := a.conn(false), a.program
		a.send(c, []byte("abc"))
		if err := c.Rekey(true); err != nil {
			t.Fatal(err)
		}
		a.send(c, []byte("def"))
		p.do("receive", "record 22 offset 3 1800000101")
		p.do("read 6", saidRead([]byte("abcdef"), ""))

		// The answer to the request goes out in front of the next data.
		p.do("write ghi", "ok")
		a.expect(c, []byte("ghi"))
		if i := c.Info(); i.Receive.Epoch != 1 || i.Send.Epoch != 1 {
			t.Fatalf("epochs %d and %d, want 1", i.Receive.Epoch, i.Send.Epoch)
		}

		p.do("rekey", "ok")
		p.do("receive", "answer 0")
		p.do("write jkl", "ok")
		a.expect(c, []byte("jkl"))
		a.send(c, []byte("mno")) // with its own KeyUpdate in front
		p.do("receive", "record 22 offset 6 1800000100")
		p.do("read 3", saidRead([]byte("mno"), ""))
		p.do("info", "ok")
		p.do("receive", saidInfo(saidDirection(a.c, 1, 4, 6, 2), saidDirection(a.c, 1, 5, 9, 2)))

		// Only alerts can be sent.
		p.do("record 22 00", "ok")
		p.reason("receive", fmt.Sprintf("answer %d", int(syscall.EINVAL)))
		p.do("record 21 015a", "ok")
		p.do("receive", "answer 0")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		p.do("receive", "record 21 offset 9 0100")
		p.do("read 1", saidRead(nil, "end"))
		p.do("shut", "ok")
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Fatal(err)
		}
		p.do("receive", "end 0")
		p.do("receive", "closed")
	})
}

// As Linux: no close_notify by itself, and a carrier's end is the end of the data.
func TestKernelSemantics(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		a := handOver(t, start, newDaemon(t), aes128, "secret", "control kernel")
		s, p := a.socket(), a.program
		a.send(s, []byte("abc"))
		a.record(s, record.AlertRecord, []byte{1, 0})
		p.do("receive", "record 21 offset 3 0100")
		if err := a.wire.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		p.do("read 10", saidRead([]byte("abc"), "end"))
		p.do("write def", "ok")
		p.do("shut", "ok")
		a.expect(s, []byte("def"))
		if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Fatalf("the program's end was %v, want truncation", err)
		}
		p.do("receive", "end 0")
	})
}

// What the daemon answers to what cannot be done.
func TestAnswers(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		daemon := newDaemon(t)
		ask := func(t *testing.T, p *program, line string, errno syscall.Errno) {
			t.Helper()
			p.do(line, "ok")
			p.reason("receive", fmt.Sprintf("answer %d", int(errno)))
		}
		t.Run("keys", func(t *testing.T) {
			a := handOver(t, start, daemon, aes128, "keys", "control")
			p := a.program
			ask(t, p, "rekey", syscall.EOPNOTSUPP)
			p.do("tx "+ciphers[1].asKeys(ciphers[1].keys(t, 3, 0)), "ok")
			ask(t, p, "keys-tx", syscall.EINVAL)
			p.do("tx "+a.c.asKeys(a.tx), "ok") // a number that was used, if it were taken
			p.do("write x", "ok")
			a.expect(a.socket(), []byte("x"))
			ask(t, p, "keys-tx", syscall.EINVAL)
		})
		t.Run("secrets", func(t *testing.T) {
			a := handOver(t, start, daemon, aes128, "secret", "control")
			p := a.program
			p.do("tx "+a.c.asKeys(nextKeys(t, a.tx)), "ok")
			ask(t, p, "keys-tx", syscall.EBUSY)
		})
		t.Run("1.2", func(t *testing.T) {
			a := handOver(t, start, daemon, ciphers[3], "keys", "control")
			p := a.program
			ask(t, p, "keys-tx", syscall.EBUSY)
			ask(t, p, "keys-rx", syscall.EBUSY)
		})
	})
}

// A record is as long as TLS has it, and no longer.
func TestLongRecords(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		a := handOver(t, start, newDaemon(t), aes128, "keys", "control")
		s, p := a.socket(), a.program
		b := pattern(record.MaxPlaintext)
		a.record(s, record.Handshake, b)
		p.do("receive", fmt.Sprintf("record 22 offset 0 %x", b))
		p.do(fmt.Sprintf("record 22 %x", b), "ok")
		p.do("receive", "answer 0")
		a.expectRecord(s, record.Handshake, b)
		p.do(fmt.Sprintf("record 22 %x00", b), saidErrno(syscall.EMSGSIZE))
	})
}

// Signals do not end a wait.
func TestInterrupted(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		a := handOver(t, start, newDaemon(t), aes128, "keys", "control")
		a.program.say("receive-under-signals")
		for range 3 {
			a.program.hear("signal")
		}
		a.record(a.socket(), record.Handshake, []byte("now"))
		said := "signal"
		for said == "signal" {
			said = a.program.next()
		}
		if want := "record 22 offset 0 6e6f77"; said != want {
			t.Fatalf("the program said %q, not %q", said, want)
		}
	})
}

// The association comes back as a state, and goes on in Go with not a byte lost:
// what the program wrote, what lies in its descriptor, what does not fit in there.
func TestOff(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		for _, form := range []string{"secret", "keys"} {
			t.Run(form, func(t *testing.T) {
				const n = 8 << 20 // more than all queues hold
				a := handOver(t, start, newDaemon(t), aes128, form, "control")
				s, p := a.socket(), a.program
				sent := make(chan error, 1)
				go func() {
					_, err := s.Write(pattern(n))
					sent <- err
				}()
				p.do("read 1000", saidRead(pattern(1000), ""))
				p.do("write last", "ok")
				p.do("off", "ok")
				p.say("receive")
				words := strings.Fields(p.next())
				if len(words) != 3 || words[0] != "off" {
					t.Fatalf("the program said %.100q", words)
				}
				state, undelivered := unhex(t, words[1]), unhex(t, words[2])
				p.do("receive", "closed")
				p.say("read %d", n)
				var queued int
				var crc uint32
				said := p.next()
				if _, err := fmt.Sscanf(said, "read %d crc %08x end", &queued, &crc); err != nil {
					t.Fatalf("the program said %q: %v", said, err)
				}
				got := 1000 + queued
				if want := saidRead(pattern(n)[1000:got], "end"); said != want {
					t.Fatalf("the program said %q, not %q", said, want)
				}
				if whole := pattern(n)[got:]; len(undelivered) > len(whole) || !bytes.Equal(undelivered, whole[:len(undelivered)]) {
					t.Fatalf("%d bytes undelivered are not those behind the first %d", len(undelivered), got)
				}
				got += len(undelivered)
				a.expect(s, []byte("last"))

				mine := a.resume(form, state)
				rest, err := io.ReadAll(io.LimitReader(mine, int64(n-got)))
				if err != nil || !bytes.Equal(rest, pattern(n)[got:]) {
					t.Fatalf("%d bytes behind the first %d are not those that were sent: %v", len(rest), got, err)
				}
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				a.send(mine, []byte("from Go"))
				a.expect(s, []byte("from Go"))
			})
		}
	})
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	if s == "-" {
		return nil
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// resume goes on with an association on the carrier.
func (a *association) resume(form string, state []byte) net.Conn {
	a.t.Helper()
	var st aftls.State
	if err := st.UnmarshalBinary(state); err != nil {
		a.t.Fatal(err)
	}
	carrier, err := net.FileConn(a.carrier)
	if err != nil {
		a.t.Fatal(err)
	}
	if form == "keys" {
		s, err := aftls.ResumeSocket(carrier, &st, aftls.Options{})
		if err != nil {
			a.t.Fatal(err)
		}
		a.t.Cleanup(func() { s.Close() })
		return s
	}
	c, err := aftls.Resume(carrier, &st, aftls.Options{})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { c.Close() })
	return c
}

// crypto/tls is the peer: its handshake, its KeyUpdates, its close_notify.
func TestRekeyWithCryptoTLS(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		a := &association{t: t, c: aes128}
		var peer *tls.Conn
		a.carrier, peer, a.tx, a.rx = handshake(t)
		a.program = start(t, a.carrier)
		p := a.program
		for _, c := range ciphers {
			if c.version == record.TLS13 && c.suite == a.tx.Suite {
				a.c = c
			}
		}
		a.tell("secret")
		p.do("daemon "+newDaemon(t), "ok")
		p.do("handoff 3 control", "ok")
		a.send(peer, []byte("request"))
		p.do("read 7", saidRead([]byte("request"), ""))
		p.do("rekey", "ok")
		p.do("receive", "answer 0")
		p.do("fill 100000", "ok")
		a.expect(peer, pattern(100_000))
		a.send(peer, []byte("under the next key"))
		p.do("receive", "record 22 offset 7 1800000100")
		p.do("read 18", saidRead([]byte("under the next key"), ""))
		p.do("info", "ok")
		p.say("receive")
		if said := p.next(); strings.Count(said, "epoch 1") != 2 {
			t.Fatalf("the program said %q, and both directions should be rekeyed", said)
		}
		if err := peer.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		p.do("read 1", saidRead(nil, "end"))
		p.do("shut", "ok")
		a.expectEnd(peer)
	})
}

// A handshake in TLS 1.3 between two of crypto/tls, without tickets: the server's
// keys are what a program is to hand over, and both next numbers are 0.
func handshake(t *testing.T) (carrier *os.File, peer *tls.Conn, tx, rx record.Keys) {
	t.Helper()
	carrier, wire := connect(t)
	server, err := net.FileConn(carrier)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var log bytes.Buffer
	ca := aftlstest.NewCA(t)
	peer = tls.Client(wire, &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"})
	s := tls.Server(server, &tls.Config{
		Certificates: []tls.Certificate{ca.Leaf(t, "localhost")}, MinVersion: tls.VersionTLS13,
		SessionTicketsDisabled: true, KeyLogWriter: &log,
	})
	done := make(chan error, 1)
	go func() { done <- peer.Handshake() }()
	if err := s.HandshakeContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	suite := s.ConnectionState().CipherSuite
	for line := range strings.Lines(log.String()) {
		words := strings.Fields(line)
		into := map[string]*record.Keys{"SERVER_TRAFFIC_SECRET_0": &tx, "CLIENT_TRAFFIC_SECRET_0": &rx}[words[0]]
		if into == nil {
			continue
		}
		if *into, err = record.TrafficKeys(suite, unhex(t, words[2])); err != nil {
			t.Fatal(err)
		}
	}
	return carrier, peer, tx, rx
}
