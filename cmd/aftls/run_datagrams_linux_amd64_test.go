package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

func freeUDPPort(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, port, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// datagramExample builds examples/af_tls/dtls_echo.c, and certificates for it.
func datagramExample(t *testing.T) (exe, cert, key, authority string) {
	t.Helper()
	cc := aftlstest.Need(t, "cc")
	needSupervisor(t)
	ca := aftlstest.NewCA(t)
	cert, key, authority = ca.WriteFiles(t, ca.Leaf(t, "test.example"))
	exe = filepath.Join(t.TempDir(), "dtls_echo")
	out, err := exec.Command(cc, "-Wall", "-Wextra", "-Werror", "-I", "../../clients/c", "-o", exe,
		"../../examples/af_tls/dtls_echo.c", "-lssl", "-lcrypto").CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "openssl/") && !aftlstest.Expected("cc") {
			t.Skip("the headers of OpenSSL are missing")
		}
		t.Fatalf("%v\n%s", err, out)
	}
	return exe, cert, key, authority
}

// echoes writes a line until it comes back: the link may lose it.
func echoes(t *testing.T, c *aftlstest.Program, line string) {
	t.Helper()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for range 100 {
		c.Say(line + "\n")
		<-again.C
		if strings.Contains(c.Output(), line) {
			return
		}
	}
	t.Fatalf("%q never came back: %s", line, c.Output())
}

// The example of datagrams: OpenSSL does the handshake of DTLS 1.2, an AF_TLS socket has
// the records, and programs that others wrote are at the other end, behind a link that
// is a bad one once the handshake is done.
func TestRunExampleDatagrams(t *testing.T) {
	exe, cert, key, authority := datagramExample(t)
	for name, command := range map[string]func(host, port string) aftlstest.Command{
		"openssl": func(host, port string) aftlstest.Command {
			return aftlstest.Command{Name: "openssl", Args: []string{"s_client", "-dtls1_2", "-connect", net.JoinHostPort(host, port), "-CAfile", authority, "-verify_return_error", "-quiet", "-mtu", "1400"}}
		},
		"gnutls": func(host, port string) aftlstest.Command {
			return aftlstest.Command{Name: "gnutls-cli", Args: []string{"--udp", "--mtu", "1400", "-p", port, "--x509cafile", authority, "--priority", "NORMAL:-VERS-ALL:+VERS-DTLS1.2", "--verify-hostname", "test.example", host}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			port := freeUDPPort(t)
			p := start(t, "run", "--stats", "--", exe, port, cert, key)
			listening(t, port)
			relay := aftlstest.NewRelay(t, "127.0.0.1:"+port, 3, aftlstest.Weather{})
			host, at, err := net.SplitHostPort(relay.Addr())
			if err != nil {
				t.Fatal(err)
			}
			wire := make(chan []byte, 10000)
			relay.Tap(func(toTarget bool, d []byte) {
				if toTarget {
					return
				}
				select {
				case wire <- bytes.Clone(d):
				default:
				}
			})
			c := command(host, at).Start(t)
			echoes(t, c, "marker over a calm sea")
			relay.SetWeather(aftlstest.Weather{Drop: 0.2, Duplicate: 0.3, Reorder: 0.2})
			echoes(t, c, "marker over a rough sea")
			c.CloseInput()
			p.Process.Signal(syscall.SIGTERM) // it runs for ever
			st := p.stats(128 + int(syscall.SIGTERM))
			if st.sockets != 1 || st.sealed < 2 || st.opened < 2 || st.sealedBytes < 2*len("marker over a calm sea") {
				t.Errorf("%+v", st)
			}
			// Our record layer makes the epoch and the number of a record its explicit
			// nonce. OpenSSL's begins with a random one.
			data := 0
			for done := false; !done; {
				select {
				case d := <-wire:
					if strings.Contains(string(d), "marker") {
						t.Error("plaintext on the wire")
					}
					if head := record.DatagramHeaderLen; len(d) > head+8 && d[0] == 23 {
						if data++; !bytes.Equal(d[head:head+8], d[3:11]) {
							t.Errorf("a record of somebody else: %x", d)
						}
					}
				default:
					done = true
				}
			}
			if data < 2 {
				t.Errorf("%d records of data on the wire", data)
			}
		})
	}
}

// kill -9 of the supervisor: the program goes with it, and what its peer still sends is
// answered by nobody, in plaintext least of all.
func TestRunDatagramsSupervisorKilled(t *testing.T) {
	exe, cert, key, authority := datagramExample(t)
	port := freeUDPPort(t)
	p := start(t, "run", "--", exe, port, cert, key)
	listening(t, port)
	relay := aftlstest.NewRelay(t, "127.0.0.1:"+port, 3, aftlstest.Weather{})
	_, at, err := net.SplitHostPort(relay.Addr())
	if err != nil {
		t.Fatal(err)
	}
	var plain, afterwards, killed atomic.Bool
	asked := make(chan struct{}, 10)
	relay.Tap(func(toTarget bool, d []byte) {
		if bytes.Contains(d, []byte("marker")) {
			plain.Store(true)
		}
		switch {
		case !killed.Load():
		case toTarget:
			select {
			case asked <- struct{}{}:
			default:
			}
		default:
			afterwards.Store(true)
		}
	})
	c := aftlstest.Command{Name: "openssl", Args: []string{"s_client", "-dtls1_2", "-connect", net.JoinHostPort("127.0.0.1", at), "-CAfile", authority, "-quiet", "-mtu", "1400"}}.Start(t)
	echoes(t, c, "marker before")
	p.Process.Kill()
	for by := time.Now().Add(20 * time.Second); bound(t, port); { // until the program has gone, too
		if time.Now().After(by) {
			t.Fatal("the program lives on")
		}
	}
	killed.Store(true)
	for range 3 {
		c.Say("marker behind\n")
		select {
		case <-asked:
		case <-time.After(20 * time.Second):
			t.Fatal("the client says nothing more")
		}
	}
	c.Kill()
	if plain.Load() || afterwards.Load() {
		t.Errorf("plaintext on the wire: %v; answers from the dead: %v", plain.Load(), afterwards.Load())
	}
}

// listening waits until somebody has the UDP port, and does not take it meanwhile.
func listening(t *testing.T, port string) {
	t.Helper()
	for by := time.Now().Add(20 * time.Second); !bound(t, port); {
		if time.Now().After(by) {
			t.Fatal("the program does not listen")
		}
	}
}

// bound reports whether somebody has the UDP port.
func bound(t *testing.T, port string) bool {
	t.Helper()
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == fmt.Sprintf("0100007F:%04X", n) {
			return true
		}
	}
	return false
}
