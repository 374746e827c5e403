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
	"time"

	"github.com/aftls/aftls/aftlstest"
)

var update = flag.Bool("update", false, "write what programs send each other to testdata/dtls13")

// scenario is a connection of two programs.
type scenario struct {
	name           string
	client, server library
	suite          uint16
	cid            map[string]string // in hexadecimal, that each end asks for; wolfSSL only
	rekey          []string          // who sends a KeyUpdate; wolfSSL only
	wants          []string          // what must have passed, beside always
}

type library string

const (
	nss  library = "NSS"
	wolf library = "wolfSSL"
)

var always = []string{
	"server EncryptedExtensions in epoch 2", "server Certificate in epoch 2", "server Finished in epoch 2", "client Finished in epoch 2",
	"client data in epoch 3", "server data in epoch 3", "server ACK", "server NewSessionTicket in epoch 3", "client ACK",
}

var (
	clientRekeys = []string{"client KeyUpdate", "client data after a KeyUpdate"}
	serverRekeys = []string{"server KeyUpdate", "server data after a KeyUpdate"}
	bothRekey    = slices.Clip(slices.Concat(clientRekeys, serverRekeys, []string{"client alert"}))
	bothCIDs     = map[string]string{"client": "c11e", "server": "5e57e2c1d0"}
	bothEnds     = []string{"client", "server"}
)

// NSS as Debian builds it has no key log, and so one end is always wolfSSL.
var scenarios = []scenario{
	{"wolfssl-nss-aes128", wolf, nss, 0x1301, nil, bothEnds[:1], clientRekeys},
	{"wolfssl-nss-aes256", wolf, nss, 0x1302, nil, bothEnds[:1], clientRekeys},
	{"wolfssl-nss-chacha20", wolf, nss, 0x1303, nil, bothEnds[:1], clientRekeys},
	{"nss-wolfssl-aes128", nss, wolf, 0x1301, nil, bothEnds[1:], serverRekeys},
	{"nss-wolfssl-chacha20", nss, wolf, 0x1303, nil, bothEnds[1:], serverRekeys},
	{"wolfssl-aes128-cid", wolf, wolf, 0x1301, bothCIDs, bothEnds, append(bothRekey, "client record with a CID", "server record with a CID")},
	{"wolfssl-aes256-cid", wolf, wolf, 0x1302, bothCIDs, bothEnds, append(bothRekey, "client record with a CID", "server record with a CID")},
	{"wolfssl-chacha20-cid", wolf, wolf, 0x1303, map[string]string{"client": "", "server": "01"}, bothEnds, append(bothRekey, "client record with a CID")},
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
			start := map[string]func(server bool, port string) *aftlstest.Program{}
			for end, lib := range map[string]library{"client": x.client, "server": x.server} {
				if lib == nss {
					start[end] = startNSS(t, x, cert, key)
				} else {
					start[end] = startWolf(t, x, x.cid[end], cert, key, authority)
				}
			}
			port := freePort(t)
			server := start["server"](true, port)
			relay := aftlstest.NewRelay(t, "127.0.0.1:"+port, 1, aftlstest.Weather{})
			c := newCapture()
			c.suite, c.title = x.suite, "client: "+string(x.client)+", server: "+string(x.server)+", of Debian trixie"
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
			for _, end := range x.rekey {
				from, to := client, server
				if end == "server" {
					from, to = to, from
				}
				rekey(t, from, to, func() byte { return epochBits(end) })
			}
			client.CloseInput()
			if x.client == wolf && x.server == wolf { // NSS goes on without its input
				server.Expect("closed by the peer\n")
			}

			c.takeSecrets(t, client.Output()+server.Output())
			for end, cid := range x.cid {
				c.cid[end] = unhex(cid)
			}
			mu.Lock()
			defer mu.Unlock()
			x.check(t, c)
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
	// They come when the other end has acknowledged it, which may take its time.
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for range 100 {
		changed := epochBits() != before
		from.Say("again\n")
		to.Expect("again\n")
		if changed {
			return
		}
		<-pause.C
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
func startNSS(t *testing.T, x scenario, cert, key string) func(server bool, port string) *aftlstest.Program {
	t.Helper()
	u := aftlstest.NeedRelease(t, "nss", "trixie", "usr/bin/tstclnt")
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
		args := []string{"-V", "tls1.3:tls1.3", "-4", "-h", "127.0.0.1", "-p", port, "-d", db, "-u", "-I", "P256", "-c", ":" + hex.EncodeToString([]byte{byte(x.suite >> 8), byte(x.suite)})}
		if server {
			args = append(args, "-P", "server", "-n", "server", "-w", "")
		} else {
			args = append(args, "-P", "client", "-o")
		}
		return u.Command("usr/bin/tstclnt", args...).Start(t)
	}
}

// startWolf starts the program of testdata/wolfssl.
func startWolf(t *testing.T, x scenario, cid, cert, key, authority string) func(server bool, port string) *aftlstest.Program {
	t.Helper()
	const source = "testdata/wolfssl/wolfssl.c"
	if _, err := os.Stat(source); err != nil { // and have go test look whether it changes
		t.Fatal(err)
	}
	dir := aftlstest.NeedUnpacked(t, "wolfssl", "wolfssl", "libwolfssl.a")
	program, err := aftlstest.CompileC(t, source, []string{"-DWOLFSSL_USER_SETTINGS", "-Itestdata/wolfssl", "-I", dir, "-L", dir}, "wolfssl", "m")
	if err != nil {
		t.Fatal(err)
	}
	if x.cid == nil {
		cid = "-"
	}
	return func(server bool, port string) *aftlstest.Program {
		args := []string{"server", port, wolfSuites[x.suite], cid, cert, key}
		if !server {
			args = []string{"client", port, wolfSuites[x.suite], cid, authority, "test.example"}
		}
		return aftlstest.Command{Name: program, Args: args}.Start(t)
	}
}
