package aftls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/filter"
	"github.com/aftls/aftls/record"
)

const (
	tapRequest = "GET /greeting HTTP/1.1\r\nHost: test.example\r\n\r\n"
	tapAnswer  = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
)

// tshark reads a capture. What it lists is what the display filter matches.
func tshark(t testing.TB, capture []byte, args ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tap.pcapng")
	if err := os.WriteFile(name, capture, 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(aftlstest.Need(t, "tshark"), append([]string{"-r", name}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v: %s", err, stderr.Bytes())
	}
	return string(out)
}

// talk has a client ask and a server answer, record by record.
func talk(t testing.TB, client, server *aftls.Conn) {
	t.Helper()
	b := make([]byte, 1000)
	mustWrite(t, client, tapRequest)
	if n, err := io.ReadFull(server, b[:len(tapRequest)]); err != nil {
		t.Fatal(n, err)
	}
	mustWrite(t, server, tapAnswer)
	if n, err := io.ReadFull(client, b[:len(tapAnswer)]); err != nil {
		t.Fatal(n, err)
	}
}

// closeBoth ends a conversation in good order.
func closeBoth(t testing.TB, a, b *aftls.Conn) {
	t.Helper()
	if err := errors.Join(a.CloseWrite(), b.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	mustReadAll(t, a, "")
	mustReadAll(t, b, "")
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
}

// The plaintext of a connection, in packets that others read.
func TestTapOfConn(t *testing.T) {
	inBothVersions(t, func(t *testing.T, a, b *aftls.Conn) {
		var client, server bytes.Buffer
		ct, st := filter.NewTap(&client, filter.TapOptions{}), filter.NewTap(&server, filter.TapOptions{})
		if err := errors.Join(a.SetTap(ct), b.SetTap(st)); err != nil {
			t.Fatal(err)
		}
		if i := b.Info(); !i.Tapped || i.Send.Filtered || !strings.Contains(i.Send.Reason, "copied") {
			t.Errorf("%+v", i)
		}
		talk(t, a, b)
		closeBoth(t, a, b)
		if err := errors.Join(ct.Close(), st.Close()); err != nil {
			t.Fatal(err)
		}
		for side, file := range map[string][]byte{"client": client.Bytes(), "server": server.Bytes()} {
			c, err := aftlstest.ReadPcapng(file)
			if err != nil {
				t.Fatal(err)
			}
			// Of both sides: who opened it, what went where, the end.
			from := a.LocalAddr().String()
			if len(c.Packets) != 8 || c.Packets[0].Src.String() != from || c.Packets[0].Flags != 2 ||
				string(c.Packets[3].Payload) != tapRequest || c.Packets[3].Src.String() != from ||
				string(c.Packets[4].Payload) != tapAnswer || c.Packets[4].Dst.String() != from || c.Packets[5].Flags&1 == 0 {
				t.Errorf("%s: %+v", side, c.Packets)
			}
			if c.Packets[3].Inbound != (side == "server") {
				t.Errorf("%s: %+v", side, c.Packets[3])
			}
			// tshark takes the port for no web server's.
			port := b.LocalAddr().String()[len("127.0.0.1:"):]
			if got := tshark(t, file, "-d", "tcp.port=="+port+",http", "-Y", "http", "-T", "fields", "-e", "http.request.uri", "-e", "http.response.code"); got != "/greeting\t\n/greeting\t200\n" && got != "/greeting\t\n\t200\n" {
				t.Errorf("%s: tshark has %q", side, got)
			}
		}
	})
}

// A tap sees what a filter does: what came in front of it, what goes behind it.
func TestTapAndFilter(t *testing.T) {
	inBothVersions(t, func(t *testing.T, a, b *aftls.Conn) {
		var file bytes.Buffer
		tap := filter.NewTap(&file, filter.TapOptions{})
		if err := errors.Join(b.SetFilter(aftls.Receive, rules(t)), b.SetFilter(aftls.Send, rules(t)), b.SetTap(tap)); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, a, "Drop", "Trunc")
		mustWrite(t, b, "Drop", "Trunc")
		if err := errors.Join(a.CloseWrite(), b.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		mustReadAll(t, b, "Tru")
		mustReadAll(t, a, "Tru")
		if err := errors.Join(b.Close(), tap.Close()); err != nil {
			t.Fatal(err)
		}
		c, err := aftlstest.ReadPcapng(file.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		var in, out []string
		for _, p := range c.Packets {
			switch {
			case len(p.Payload) == 0:
			case p.Inbound:
				in = append(in, string(p.Payload))
			default:
				out = append(out, string(p.Payload))
			}
		}
		if strings.Join(in, " ") != "Drop Trunc" || strings.Join(out, " ") != "Tru" {
			t.Errorf("%q came, %q went", in, out)
		}
	})
}

// Taps come and go while a connection lives, and one goes on in PlaintextFile.
func TestTapTakenAway(t *testing.T) {
	ccfg, scfg := configs(t)
	a, b := connPair(t, ccfg, scfg, aftls.Options{RequireSocket: true})
	buf := make([]byte, 10)
	step := func(s string) {
		mustWrite(t, a, s)
		if n, err := io.ReadFull(b, buf[:len(s)]); err != nil {
			t.Fatal(n, err)
		}
	}
	var one, two bytes.Buffer
	t1, t2 := filter.NewTap(&one, filter.TapOptions{}), filter.NewTap(&two, filter.TapOptions{})
	step("a")
	for _, s := range []struct {
		tap  *filter.Tap
		text string
	}{{t1, "b"}, {nil, "c"}, {t2, "d"}} {
		if err := b.SetTap(s.tap); err != nil {
			t.Fatal(err)
		}
		step(s.text)
	}
	want := "d"
	if f, err := b.PlaintextFile(); err == nil {
		mustWrite(t, a, "e")
		if n, err := io.ReadFull(f, buf[:1]); err != nil {
			t.Fatal(n, err)
		}
		f.Close()
		mustReadAll(t, a, "") // the end of it: its pump is through
		want = "d e"
	} else if !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
	if err := errors.Join(t1.Close(), t2.Close()); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[*bytes.Buffer]string{&one: "b", &two: want} {
		if got := string(bytes.Join(received(t, file.Bytes()), []byte(" "))); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TLS as it is on the wire, with the secrets that open it in the same file.
func TestTapOfCiphertext(t *testing.T) {
	for _, version := range []uint16{tls12, tls13} {
		var file bytes.Buffer
		tap := filter.NewTap(&file, filter.TapOptions{})
		ccfg, scfg := configs(t)
		ccfg.MaxVersion = version
		scfg.KeyLogWriter = tap.KeyLog()
		x, y := tcpPair(t)
		a, b := handshakePair(t, x, tap.Conn(y, false), ccfg, scfg, aftls.Options{RequireSocket: true})
		talk(t, a, b)
		if version == tls13 {
			if err := errors.Join(a.Rekey(false), b.Rekey(false)); err != nil {
				t.Fatal(err)
			}
			talk(t, a, b)
		}
		closeBoth(t, a, b)
		if err := tap.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := aftlstest.ReadPcapng(file.Bytes())
		if err != nil || len(c.Secrets) == 0 {
			t.Fatal(len(c.Secrets), err)
		}
		for _, p := range c.Packets {
			if bytes.Contains(p.Payload, []byte("hello")) {
				t.Fatal("plaintext in the ciphertext")
			}
		}
		_, port, _ := strings.Cut(b.LocalAddr().String(), ":")
		got := tshark(t, file.Bytes(), "-d", "tcp.port=="+port+",tls", "-d", "tls.port=="+port+",http", "-Y", "http", "-T", "fields", "-e", "http.request.method", "-e", "http.response.code")
		if want := strings.Repeat("GET\t\n\t200\n", 1+int(version-tls12)); got != want {
			t.Errorf("%x: tshark decrypts %q, want %q", version, got, want)
		}
	}
}

const tls12, tls13 = 0x0303, 0x0304

// A bare socket is tapped as a Conn is, whichever side of the handshake it was.
func TestTapOfSocket(t *testing.T) {
	ccfg, scfg := configs(t)
	a, b := connPair(t, ccfg, scfg, aftls.Options{})
	for client, c := range map[bool]*aftls.Conn{true: a, false: b} {
		carrier := c.NetConn()
		if _, err := c.Detach(); err != nil {
			t.Fatal(err)
		}
		k, err := record.TrafficKeys(tls.TLS_AES_128_GCM_SHA256, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		s := aftls.NewSocket(carrier, aftls.Options{})
		t.Cleanup(func() { s.Close() })
		if err := errors.Join(s.SetKeys(aftls.Send, k), s.SetKeys(aftls.Receive, k)); err != nil {
			t.Fatal(err)
		}
		var file bytes.Buffer
		tap := filter.NewTap(&file, filter.TapOptions{})
		if err := s.SetTap(tap, client); err != nil {
			t.Fatal(err)
		}
		if !s.Info().Tapped {
			t.Error("Info does not say so")
		}
		mustWrite(t, s, "said")
		s.Close()
		if err := s.SetTap(tap, client); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := tap.Close(); err != nil {
			t.Fatal(err)
		}
		capture, err := aftlstest.ReadPcapng(file.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		// The client's packet opens the connection.
		if first := capture.Packets[0]; first.Inbound == client || !strings.Contains(file.String(), "said") {
			t.Errorf("client %v: %+v", client, first)
		}
	}
}
