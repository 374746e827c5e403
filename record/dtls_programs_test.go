package record_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aftls/aftls/aftlstest"
)

var update = flag.Bool("update", false, "write what programs send each other to testdata/dtls13")

// scenario is a connection of two programs.
type scenario struct {
	name           string
	client, server library
	suite          uint16
	cid            map[string]string // in hexadecimal, that each end asks for; wolfSSL only
	rekey          bool              // each end sends a KeyUpdate; wolfSSL only
	wants          []string          // what must have passed
}

type library string

const (
	nss  library = "NSS"
	wolf library = "wolfSSL"
)

var always = []string{"server EncryptedExtensions in epoch 2", "server Finished in epoch 2", "client Finished in epoch 2", "client data in epoch 3", "server data in epoch 3", "client alert"}

var rekeyed = append(always[:len(always):len(always)], "client KeyUpdate in epoch 3", "server KeyUpdate in epoch 3", "client ACK", "server ACK", "client data in epoch 4", "server data in epoch 4")

var bothCIDs = map[string]string{"client": "c11e", "server": "5e57e2c1d0"}

var scenarios = []scenario{
	{"nss-aes128", nss, nss, 0x1301, nil, false, append(always, "server NewSessionTicket", "client ACK")},
	{"nss-aes256", nss, nss, 0x1302, nil, false, append(always, "server NewSessionTicket", "client ACK")},
	{"nss-chacha20", nss, nss, 0x1303, nil, false, append(always, "server NewSessionTicket", "client ACK")},
	{"wolfssl-aes128", wolf, wolf, 0x1301, nil, true, rekeyed},
	{"wolfssl-aes256-cid", wolf, wolf, 0x1302, bothCIDs, true, rekeyed},
	{"wolfssl-chacha20-cid", wolf, wolf, 0x1303, bothCIDs, true, rekeyed},
	{"wolfssl-nss", wolf, nss, 0x1301, nil, false, always},
}

var wolfSuites = map[uint16]string{0x1301: "TLS13-AES128-GCM-SHA256", 0x1302: "TLS13-AES256-GCM-SHA384", 0x1303: "TLS13-CHACHA20-POLY1305-SHA256"}

// TestDatagram13AgainstPrograms has programs that others wrote speak DTLS 1.3 with
// each other through a relay, and opens and seals again what passed. With -update
// it writes that to the captures of TestDatagramsOfOthers.
func TestDatagram13AgainstPrograms(t *testing.T) {
	ca := aftlstest.NewCA(t)
	cert, key, authority := ca.WriteFiles(t, ca.Leaf(t, "test.example"))
	for _, x := range scenarios {
		t.Run(x.name, func(t *testing.T) {
			keyLog := filepath.Join(t.TempDir(), "keys")
			start := map[string]func(server bool, port string) *aftlstest.Program{}
			for end, lib := range map[string]library{"client": x.client, "server": x.server} {
				if lib == nss {
					start[end] = startNSS(t, x, keyLog, cert, key)
				} else {
					start[end] = startWolf(t, x, x.cid[end], cert, key, authority)
				}
			}
			port := freePort(t)
			server := start["server"](true, port)
			relay := aftlstest.NewRelay(t, "127.0.0.1:"+port, 1, aftlstest.Weather{})
			c := newCapture()
			c.suite, c.title = x.suite, "client: "+string(x.client)+", server: "+string(x.server)
			var mu sync.Mutex
			relay.Tap(func(toServer bool, d []byte) {
				mu.Lock()
				defer mu.Unlock()
				from := "server"
				if toServer {
					from = "client"
				}
				c.datagrams = append(c.datagrams, capturedDatagram{from, bytes.Clone(d)})
			})
			epochBits := func(from string) byte { // of the last datagram
				mu.Lock()
				defer mu.Unlock()
				for _, d := range slices.Backward(c.datagrams) {
					if d.from == from {
						return d.d[0] & 3
					}
				}
				return 0
			}
			_, port, _ = net.SplitHostPort(relay.Addr())
			client := start["client"](false, port)

			client.Say("from the client\n")
			server.Expect("from the client\n")
			server.Say("from the server\n")
			client.Expect("from the server\n")
			if x.rekey {
				rekey(t, client, server, func() byte { return epochBits("client") })
				rekey(t, server, client, func() byte { return epochBits("server") })
			}
			client.CloseInput()
			if x.client == wolf {
				if err := client.Wait(); err != nil {
					t.Fatal(err)
				}
			}

			log, _ := os.ReadFile(keyLog)
			c.takeSecrets(t, string(log)+client.Output())
			for end, cid := range x.cid {
				c.cid[end] = unhex(cid)
			}
			mu.Lock()
			defer mu.Unlock()
			got := c.check(t)
			for _, what := range x.wants {
				if got[what] == 0 {
					t.Errorf("no %s: %v", what, got)
				}
			}
			if *update && !t.Failed() {
				if err := os.WriteFile(filepath.Join("testdata/dtls13", x.name+".txt"), []byte(c.String()), 0o644); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// rekey has an end send a KeyUpdate, and messages until they come with the new keys.
func rekey(t *testing.T, from, to *aftlstest.Program, epochBits func() byte) {
	t.Helper()
	before := epochBits()
	from.Say("rekey\n")
	from.Expect("rekeyed\n")
	for range 20 {
		from.Say("again\n")
		to.Expect("again\n")
		if epochBits() != before {
			return
		}
	}
	t.Fatal("the new keys are not used")
}

// takeSecrets finds the secrets in a key log.
func (c *capture) takeSecrets(t *testing.T, log string) {
	t.Helper()
	for line := range strings.Lines(log) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		secret, err := hex.DecodeString(f[2])
		if err != nil {
			continue
		}
		switch f[0] {
		case "CLIENT_HANDSHAKE_TRAFFIC_SECRET":
			c.secrets["client"][2] = secret
		case "SERVER_HANDSHAKE_TRAFFIC_SECRET":
			c.secrets["server"][2] = secret
		case "CLIENT_TRAFFIC_SECRET_0":
			c.secrets["client"][3] = secret
		case "SERVER_TRAFFIC_SECRET_0":
			c.secrets["server"][3] = secret
		}
	}
	if len(c.secrets["client"])+len(c.secrets["server"]) != 4 {
		t.Fatalf("the key log lacks secrets:\n%s", log)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	return port
}

// startNSS starts tstclnt, which can be a server of DTLS too.
func startNSS(t *testing.T, x scenario, keyLog, cert, key string) func(server bool, port string) *aftlstest.Program {
	t.Helper()
	u := aftlstest.NeedUnpacked(t, "nss", "trixie", "usr/bin/tstclnt")
	db := t.TempDir()
	p12 := filepath.Join(db, "server.p12")
	out, err := exec.Command(aftlstest.Need(t, "openssl"), "pkcs12", "-export", "-in", cert, "-inkey", key, "-name", "server", "-passout", "pass:x", "-out", p12).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, args := range [][]string{{"usr/bin/certutil", "-d", db, "-N", "--empty-password"}, {"usr/bin/pk12util", "-d", db, "-i", p12, "-W", "x", "-K", ""}} {
		c := u.Command(args[0], args[1:]...)
		if out, err := exec.Command(c.Name, c.Args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return func(server bool, port string) *aftlstest.Program {
		args := []string{"-V", "tls1.3:tls1.3", "-4", "-h", "127.0.0.1", "-p", port, "-d", db, "-u", "-c", ":" + hex.EncodeToString([]byte{byte(x.suite >> 8), byte(x.suite)})}
		if server {
			args = append(args, "-P", "server", "-n", "server", "-w", "")
		} else {
			args = append(args, "-P", "client", "-o")
		}
		c := u.Command("usr/bin/tstclnt", args...)
		return aftlstest.Command{Name: "env", Args: append([]string{"SSLKEYLOGFILE=" + keyLog, c.Name}, c.Args...)}.Start(t)
	}
}

// startWolf starts the program of testdata/wolfssl.c.
func startWolf(t *testing.T, x scenario, cid, cert, key, authority string) func(server bool, port string) *aftlstest.Program {
	t.Helper()
	const source = "testdata/wolfssl.c"
	if _, err := os.Stat(source); err != nil { // and have go test look whether it changes
		t.Fatal(err)
	}
	u := aftlstest.NeedUnpacked(t, "wolfssl", "sid", "usr/include/wolfssl/ssl.h")
	program := u.Compile(t, source, "wolfssl")
	if cid == "" {
		cid = "-"
	}
	return func(server bool, port string) *aftlstest.Program {
		args := []string{"server", port, wolfSuites[x.suite], cid, cert, key}
		if !server {
			args = []string{"client", port, wolfSuites[x.suite], cid, authority, "test.example"}
		}
		return u.Command(program, args...).Start(t)
	}
}
