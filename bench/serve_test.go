//go:build linux || darwin || freebsd

package bench

import (
	"bufio"
	"crypto/tls"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// talk is a server in this process, as its client sees it.
type talk struct {
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Scanner
	done chan error
	cert certificate
}

func startTalk(t *testing.T, peer, row string) *talk {
	t.Helper()
	dir := t.TempDir()
	cert, err := makeCertificate(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cmdR, cmdW := io.Pipe()
	outR, outW := io.Pipe()
	k := &talk{t: t, in: cmdW, out: bufio.NewScanner(outR), done: make(chan error, 1), cert: cert}
	go func() {
		err := Serve(ServerConfig{Peer: peer, Row: row, Cert: cert.file, Key: cert.keyFile, Dir: dir}, cmdR, outW)
		outW.CloseWithError(io.EOF)
		k.done <- err
	}()
	t.Cleanup(func() { cmdW.Close() })
	return k
}

func (k *talk) ask(command string) (answer, error) {
	k.t.Helper()
	if command != "" {
		if _, err := io.WriteString(k.in, command+"\n"); err != nil {
			k.t.Fatal(err)
		}
	}
	if !k.out.Scan() {
		k.t.Fatalf("no answer to %q", command)
	}
	return parseAnswer(k.out.Text())
}

func TestServeProtocol(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			k := startTalk(t, p.name, "echo")
			hello, err := k.ask("")
			if err != nil {
				t.Fatal(err)
			}
			c, err := tls.Dial("tcp", hello["addr"], &tls.Config{RootCAs: k.cert.pool, ServerName: serverName})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := pingPong(c, 3); err != nil {
				t.Fatal(err)
			}
			if _, err := k.ask("wait handshakes 1"); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if _, err := k.ask("wait closed 1"); err != nil {
				t.Error(err)
			}
			a, err := k.ask("report")
			if err != nil {
				t.Fatal(err)
			}
			for key, want := range map[string]int64{"messages": 3, "handshakes": 1, "closed": 1, "reading": 0} {
				if n, err := a.number(key); n != want || err != nil {
					t.Errorf("%s: %d, %v, want %d", key, n, err, want)
				}
			}
			// The system splits a short run by ticks: either part can be 0.
			user, uerr := a.number("user")
			sys, serr := a.number("sys")
			if uerr != nil || serr != nil || user+sys <= 0 {
				t.Errorf("user time %d, %v; system time %d, %v", user, uerr, sys, serr)
			}
			if _, err := k.ask("gc"); err != nil {
				t.Error(err)
			}
			for _, command := range []string{"dance", "wait elephants 1", "wait closed many", "profile /nowhere/at/all"} {
				if _, err := k.ask(command); err == nil {
					t.Errorf("%q was answered with ok", command)
				}
			}
			dir := t.TempDir()
			for _, command := range []string{"profile " + dir + "/a cpu", "profile", "heap " + dir + "/a heap"} {
				if _, err := k.ask(command); err != nil {
					t.Errorf("%s: %v", command, err)
				}
			}
			for _, name := range []string{"a cpu", "a heap"} {
				if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() == 0 {
					t.Errorf("profile %q: %v", name, err)
				}
			}
			k.in.Close()
			if err := <-k.done; err != nil {
				t.Error(err)
			}
		})
	}
}

// A connection that fails must not pass for a measurement.
func TestServeTellsFailure(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			k := startTalk(t, p.name, "receive")
			hello, err := k.ask("")
			if err != nil {
				t.Fatal(err)
			}
			c, err := tls.Dial("tcp", hello["addr"], &tls.Config{RootCAs: k.cert.pool, ServerName: serverName})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := k.ask("wait handshakes 1"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c.NetConn(), "this is no record at all"); err != nil {
				t.Fatal(err)
			}
			if _, err := k.ask("wait closed 99"); err == nil {
				t.Error("wait: ok")
			}
			if _, err := k.ask("report"); err == nil {
				t.Error("report: ok")
			}
		})
	}
}

func TestServeRefuses(t *testing.T) {
	cert, err := makeCertificate(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	good := ServerConfig{Peer: "aftls", Row: "send", Cert: cert.file, Key: cert.keyFile}
	for want, change := range map[string]func(*ServerConfig){
		"no peer": func(c *ServerConfig) { c.Peer = "nobody" },
		"no row":  func(c *ServerConfig) { c.Row = "nothing" },
		"open ":   func(c *ServerConfig) { c.Key += "x" },
	} {
		cfg := good
		change(&cfg)
		if err := Serve(cfg, strings.NewReader(""), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
	if err := Serve(good, strings.NewReader(""), io.Discard); err != nil {
		t.Error(err)
	}
}

func TestCertificateFiles(t *testing.T) {
	cert, err := makeCertificate(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{cert.file, cert.keyFile} {
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, st.Mode(), err)
		}
	}
}
