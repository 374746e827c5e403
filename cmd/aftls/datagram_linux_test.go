package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// listeningDatagrams starts 'aftls listen' and returns its address.
func listeningDatagrams(t *testing.T, args ...string) (addr string, log func() string) {
	t.Helper()
	c := command(t, append([]string{"listen", "--dtls", "--listen", "127.0.0.1:0"}, args...)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() string {
		if !ended {
			ended = true
			c.Process.Signal(os.Interrupt)
			c.Wait()
		}
		return stderr.String()
	}
	t.Cleanup(func() {
		if log := end(); t.Failed() {
			t.Log(log)
		}
	})
	line := make([]byte, 100)
	n, err := out.Read(line)
	addr, ok := strings.CutPrefix(strings.TrimSpace(string(line[:n])), "listening ")
	if err != nil || !ok {
		t.Fatalf("%q, %v", line[:n], err)
	}
	return addr, end
}

func TestDatagramsThroughTheCommands(t *testing.T) {
	psk := []string{"--psk", "000102030405060708090a0b0c0d0e0f", "--psk-identity", "someone"}
	for name, how := range map[string][]string{"echo": {"--echo"}, "exec": {"--exec", "/bin/cat"}} {
		t.Run(name, func(t *testing.T) {
			addr, log := listeningDatagrams(t, append(psk, how...)...)
			stdout, stderr, code := output(t, strings.NewReader("a message\n"), append([]string{"connect", "--dtls", addr}, psk...)...)
			if code != 0 || stdout != "a message\n" || !strings.Contains(stderr, "connected "+addr+" DTLS 1.2 TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256") {
				t.Errorf("exit code %d, %q, %s", code, stdout, stderr)
			}
			if said := log(); !strings.Contains(said, "association") || strings.Contains(said, "WARN") {
				t.Errorf("log: %s", said)
			}
		})
	}
}

// A program that is given messages reads each with one call.
func TestListenExecKeepsMessagesApart(t *testing.T) {
	addr, _ := listeningDatagrams(t, "--cid", "8", "--psk", "00", "--psk-identity", "x", "--exec", "/bin/dd", "bs=1000", "count=1", "status=none")
	stdout, stderr, code := output(t, strings.NewReader("first"), "connect", "--dtls", "--psk", "00", "--psk-identity", "x", addr)
	if code != 0 || stdout != "first" {
		t.Errorf("exit code %d, %q, %s", code, stdout, stderr)
	}
}

func TestDatagramFlagsThatMeanNothing(t *testing.T) {
	for _, args := range [][]string{
		{"connect", "--psk", "00", "--psk-identity", "x", "localhost:1"},
		{"listen", "--echo", "--cid", "8"},
		{"connect", "--dtls", "--psk", "xyz", "--psk-identity", "x", "127.0.0.1:1"},
		{"connect", "--dtls", "--psk", "00", "127.0.0.1:1"},
	} {
		_, stderr, code := output(t, strings.NewReader(""), args...)
		if code != 1 || !strings.Contains(stderr, "hint:") {
			t.Errorf("%v: exit code %d, %s", args, code, stderr)
		}
	}
}
