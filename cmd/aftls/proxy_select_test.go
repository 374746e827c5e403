package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

// named is a backend that answers its name and what it got.
func named(t *testing.T, network, name string) (addr string) {
	return backendOf(t, network, func(c halfConn) {
		defer c.Close()
		io.WriteString(c, name+":")
		io.Copy(c, c)
	})
}

// The first record picks the backend, and nothing of the stream is lost or changed by
// that.
func TestProxySelect(t *testing.T) {
	to := []string{"--to", named(t, "tcp", "zero"), "--to", named(t, "unix", "one"), "--to", named(t, "tcp", "two")}
	big := random(1 << 20)
	for program, want := range map[string]map[string]string{
		"data[0] = 0x61 -> SELECT(1); data[0:2] = 0x6262 -> select(2)\n data[0] = 0x63 -> PASS; data[0] = 0x64 -> KILL(1)": {
			"a": "one", "abc": "one", "bb": "two", "bx": "", "bb" + string(big): "two", "cc": "zero", "dd": "", "ee": "", "c": "",
		},
		// ld [0] of the data: a packet of 40 bytes of headers, as tcpdump has it.
		"4\n48 0 0 40\n21 0 1 97\n6 0 0 4060086273\n6 0 0 0\n": {"a": "one", "b": ""},
		// The verdict is computed: SELECT(the first byte - 'a').
		"4\n48 0 0 40\n20 0 0 97\n4 0 0 4060086272\n22 0 0 0\n": {"a": "zero", "b": "one", "c": "two", "d": ""},
	} {
		t.Run("", func(t *testing.T) {
			p, addr := startStreams(t, "proxy", append(to, "--select", program, "--log", "json")...)
			for first, backend := range want {
				c := dialOurs(t, addr)
				sent := make(chan error, 1)
				go func() {
					_, err := io.WriteString(c, first)
					sent <- errors.Join(err, c.CloseWrite())
				}()
				got, err := io.ReadAll(c)
				if backend != "" {
					if err = errors.Join(err, <-sent); err != nil || string(got) != backend+":"+first {
						t.Errorf("%.10q: %.20q, %v", first, got, err)
					}
					continue
				}
				if e, ok := errors.AsType[*aftls.AlertError](err); !ok || e.Alert != record.InternalError || len(got) > 0 {
					t.Errorf("%.10q is not refused: %.20q, %v", first, got, err)
				}
				p.await(`"err":"the program `)
			}
			end(t, p)
		})
	}
}

func dialOurs(t *testing.T, addr string) *aftls.Conn {
	t.Helper()
	nc, err := (&aftls.Dialer{Config: trust(t)}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return nc.(*aftls.Conn)
}

// HTTP and something else on one port, with a client that others wrote.
func TestProxySelectCurl(t *testing.T) {
	curl := aftlstest.Need(t, "curl")
	answer := func(name string) string {
		return backendOf(t, "tcp", func(c halfConn) {
			defer c.Close()
			head := make([]byte, 0, 4096)
			for !bytes.Contains(head, []byte("\r\n\r\n")) {
				n, err := c.Read(head[len(head):cap(head)])
				if err != nil {
					return
				}
				head = head[:len(head)+n]
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(name), name)
		})
	}
	p, addr := startStreams(t, "proxy", "--to", answer("reads"), "--to", answer("writes"), "--to", named(t, "tcp", "other"),
		"--select", "data[0:4] = 0x47455420 or data[0:4] = 0x48454144 -> SELECT(0); data[0:4] = 0x504f5354 -> SELECT(1); -> SELECT(2)")
	ca := filepath.Join(stateHome(t), "aftls", "cert.pem")
	_, port, _ := strings.Cut(addr, ":")
	for want, args := range map[string][]string{"reads": nil, "writes": {"--data", "x=1"}} {
		out, err := exec.Command(curl, append([]string{"-sS", "--max-time", "30", "--cacert", ca, "https://localhost:" + port + "/"}, args...)...).CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%q, %v", out, err)
		}
	}
	if got := exchange(t, dialTLS(t, addr), []byte("SSH-2.0")); string(got) != "other:SSH-2.0" {
		t.Errorf("%q", got)
	}
	end(t, p)
}

// A client that ends before it said anything, and one that is cut off, get no
// backend, and a PROXY protocol header comes in front of the first record.
func TestProxySelectWithoutARecord(t *testing.T) {
	p, addr := startStreams(t, "proxy", "--to", named(t, "tcp", "zero"), "--select", "-> SELECT(0)", "--proxy-protocol")
	c := dialTLS(t, addr)
	c.CloseWrite()
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	p.await("the client ended before its first byte")
	if got := exchange(t, dialTLS(t, addr), []byte("x")); !bytes.HasPrefix(got, []byte("zero:\r\n\r\n\x00\r\nQUIT\n")) || got[len(got)-1] != 'x' {
		t.Errorf("%q", got)
	}
	cut := dialTLS(t, addr)
	cut.NetConn().Close()
	p.await("without close_notify")
	end(t, p)
}

// A client that says nothing is waited for so long and no longer.
func TestProxySelectSilentClient(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	carrier, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := keyed(t, carrier)
	defer c.Close()
	s, err := newSelector("-> SELECT(0)", 1)
	if err != nil {
		t.Fatal(err)
	}
	if s.patience != 10*time.Second {
		t.Errorf("%v", s.patience) // docs/proxy.md
	}
	s.patience = time.Millisecond
	if _, first, err := s.choose(c); err == nil || err.Error() != "the client sent nothing for 1ms, so no backend was picked" || first.buf != nil {
		t.Error(err)
	}
}

func TestProxySelectErrors(t *testing.T) {
	two := []string{"proxy", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--to", "127.0.0.1:2"}
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"nothing to choose by": {two, "2 backends, and nothing that picks one"},
		"no program":           {append(two, "--select", "data[0 = 1"), "expression"},
		"no verdict":           {append(two, "--select", "tcp -> GO"), "a verdict is expected"},
		"no such backend":      {append(two, "--select", "tcp -> SELECT(2)"), "SELECT(2), and the last backend is 1"},
		"nothing is selected":  {append(two, "--select", "data[0] = 1"), "the program has no SELECT"},
		"no port":              {append(two, "--to", "localhost", "--select", "-> SELECT(0)"), "missing port"},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, code := output(t, nil, tt.args...)
			if lines := strings.Split(strings.TrimSpace(stderr), "\n"); code != 1 || !strings.Contains(stderr, tt.want) || !strings.HasPrefix(lines[len(lines)-1], "hint: ") {
				t.Errorf("%d %s", code, stderr)
			}
		})
	}
}

// A client of a suite that stays with crypto/tls is as good as any.
func TestProxySelectPassthrough(t *testing.T) {
	openssl := aftlstest.Need(t, "openssl")
	p, addr := startStreams(t, "proxy", "--to", named(t, "tcp", "zero"), "--to", named(t, "tcp", "one"), "--select", "data[0] = 0x61 -> SELECT(1); -> SELECT(0)")
	c := exec.Command(openssl, "s_client", "-connect", addr, "-quiet", "-no_ign_eof", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA", "-CAfile", filepath.Join(stateHome(t), "aftls", "cert.pem"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Stdin = r
	w.WriteString("abc")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	got := make([]byte, len("one:abc"))
	if _, err := io.ReadFull(out, got); err != nil || string(got) != "one:abc" {
		t.Errorf("%q, %v", got, err)
	}
	w.Close()
	p.await("AES_128_CBC_SHA")
}
