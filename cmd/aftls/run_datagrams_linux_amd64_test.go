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

// The example of datagrams: OpenSSL does the handshake of DTLS 1.2, an AF_TLS socket has
// the records, and programs that others wrote are at the other end, behind a link that
// is a bad one once the handshake is done.
func TestRunExampleDatagrams(t *testing.T) {
	cc := aftlstest.Need(t, "cc")
	needSupervisor(t)
	ca := aftlstest.NewCA(t)
	cert, key, authority := ca.WriteFiles(t, ca.Leaf(t, "test.example"))
	exe := filepath.Join(t.TempDir(), "dtls_echo")
	out, err := exec.Command(cc, "-Wall", "-Wextra", "-Werror", "-I", "../../clients/c", "-o", exe,
		"../../examples/af_tls/dtls_echo.c", "-lssl", "-lcrypto").CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "openssl/") && !aftlstest.Expected("cc") {
			t.Skip("the headers of OpenSSL are missing")
		}
		t.Fatalf("%v\n%s", err, out)
	}
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
			echoed := func(line string) {
				t.Helper()
				again := time.NewTicker(200 * time.Millisecond)
				defer again.Stop()
				for range 100 {
					c.Say(line)
					<-again.C
					if strings.Contains(c.Output(), strings.TrimSpace(line)) {
						return
					}
				}
				t.Fatalf("%q never came back: %s\n%s", line, c.Output(), p.errors())
			}
			echoed("marker over a calm sea\n")
			relay.SetWeather(aftlstest.Weather{Drop: 0.2, Duplicate: 0.3, Reorder: 0.2})
			echoed("marker over a rough sea\n")
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

// listening waits until somebody has the UDP port, and does not take it meanwhile.
func listening(t *testing.T, port string) {
	t.Helper()
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	for by := time.Now().Add(20 * time.Second); time.Now().Before(by); {
		b, err := os.ReadFile("/proc/net/udp")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), fmt.Sprintf("0100007F:%04X ", n)) {
			return
		}
	}
	t.Fatal("the program does not listen")
}
