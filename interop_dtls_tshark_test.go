package aftls_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// TestDatagramsForTshark has tshark look at all that passes between our two ends,
// with the key log: it decrypts every record and complains of none.
func TestDatagramsForTshark(t *testing.T) {
	tshark := aftlstest.Need(t, "tshark")
	for _, cidLen := range []int{0, 8} {
		_, ccfg, scfg := datagramConfigs(t)
		ccfg.CIDLen, scfg.CIDLen = -1, -1
		if cidLen > 0 {
			ccfg.CIDLen, scfg.CIDLen = cidLen, cidLen
		}
		dir := t.TempDir()
		keys, err := os.OpenFile(filepath.Join(dir, "keys"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer keys.Close()
		ccfg.TLS.KeyLogWriter = keys
		l, err := aftls.ListenDatagram("udp4", "127.0.0.1:0", scfg, aftls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		r := aftlstest.NewRelay(t, l.Addr().String(), 1, aftlstest.Weather{})
		var mu sync.Mutex
		capture := new(bytes.Buffer)
		// The head of a pcap file of IP packets (LINKTYPE_RAW).
		for _, x := range []any{uint32(0xa1b2c3d4), uint16(2), uint16(4), uint32(0), uint32(0), uint32(1 << 16), uint32(101)} {
			binary.Write(capture, binary.LittleEndian, x)
		}
		r.Tap(func(toServer bool, d []byte) {
			mu.Lock()
			defer mu.Unlock()
			from, to := uint16(40000), uint16(4433)
			if !toServer {
				from, to = to, from
			}
			n := uint16(28 + len(d))
			ip := []byte{0x45, 0, byte(n >> 8), byte(n), 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1}
			for _, x := range []uint16{from, to, n - 20, 0} {
				ip = binary.BigEndian.AppendUint16(ip, x)
			}
			for _, x := range []uint32{0, 0, uint32(n), uint32(n)} {
				binary.Write(capture, binary.LittleEndian, x)
			}
			capture.Write(ip)
			capture.Write(d)
		})
		c, err := (&aftls.DatagramDialer{Config: ccfg}).Dial("udp4", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			bothSay(t, c, s)
		}
		c.Close()
		if _, err := s.Read(make([]byte, 10)); err != io.EOF {
			t.Fatal(err)
		}
		s.Close()
		file := filepath.Join(dir, "capture.pcap")
		mu.Lock()
		err = os.WriteFile(file, capture.Bytes(), 0o600)
		mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(tshark, "-r", file, "-d", "udp.port==4433,dtls", "-o", "tls.keylog_file:"+keys.Name(), "-V").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		text := string(out)
		// Five messages there and five back, as data; the end, as an alert.
		if n := strings.Count(text, "Data: 68656c6c6f"); n != 10 && cidLen == 0 {
			t.Errorf("CID %d: tshark decrypted %d messages", cidLen, n)
		}
		for _, bad := range []string{"Malformed", "[Expert Info (Error", "[Expert Info (Warning"} {
			if i := strings.Index(text, bad); i >= 0 {
				t.Errorf("CID %d: tshark complains: %s", cidLen, text[max(0, i-300):min(len(text), i+300)])
			}
		}
	}
}
