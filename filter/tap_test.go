package filter_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/filter"
)

// capture taps what f does, and returns the file, which a second reader of the
// format has found in order.
func capture(t testing.TB, opt filter.TapOptions, f func(*filter.Tap)) ([]byte, aftlstest.Pcapng) {
	t.Helper()
	var file bytes.Buffer
	tap := filter.NewTap(&file, opt)
	f(tap)
	if err := tap.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := aftlstest.ReadPcapng(file.Bytes())
	if err != nil || !c.Complete {
		t.Fatal(c.Complete, err)
	}
	return file.Bytes(), c
}

// run runs a program that reads a capture, and returns what it prints.
func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(aftlstest.Need(t, program), args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", program, err, stderr.Bytes())
	}
	return string(out)
}

func fileOf(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tap.pcapng")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func exchange(f *filter.Flow) {
	f.Received([]byte("GET /greeting HTTP/1.1\r\nHost: test.example\r\n\r\n"))
	f.Sent([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello"))
	f.Close()
}

// A capture is what Wireshark and tcpdump take for connections without a fault.
func TestTapReadByOthers(t *testing.T) {
	b, c := capture(t, filter.TapOptions{Comment: "everything"}, func(tap *filter.Tap) {
		exchange(tap.Flow(addr("10.0.0.1:80"), addr("10.0.0.2:50000"), false))
		exchange(tap.Flow(addr("[2001:db8::1]:80"), addr("[2001:db8::2]:50000"), false))
	})
	if len(c.Packets) != 2*8 {
		t.Errorf("%d packets", len(c.Packets))
	}
	name := fileOf(t, b)
	t.Run("tshark", func(t *testing.T) {
		got := run(t, "tshark", "-r", name, "-Y", "http", "-o", "tcp.check_checksum:TRUE", "-T", "fields",
			"-e", "ip.src", "-e", "ipv6.src", "-e", "tcp.dstport", "-e", "http.request.uri", "-e", "http.response.code", "-e", "http.file_data", "-e", "tcp.checksum.status")
		lines := strings.Split(strings.TrimRight(got, "\n"), "\n")
		if len(lines) != 4 || !strings.HasPrefix(lines[0], "10.0.0.2\t\t80\t/greeting\t") || !strings.HasPrefix(lines[3], "\t2001:db8::1\t50000\t") {
			t.Errorf("tshark has %q", got)
		}
		for _, l := range lines {
			if !strings.HasSuffix(l, "\t1") { // good
				t.Errorf("checksum: %q", l)
			}
		}
		if got := run(t, "tshark", "-r", name, "-Y", "tcp.analysis.flags || _ws.malformed || ip.checksum.status == 0"); got != "" {
			t.Errorf("tshark sees faults:\n%s", got)
		}
		if got := run(t, "tshark", "-r", name, "-q", "-z", "follow,tcp,ascii,0"); !strings.Contains(got, "hello") {
			t.Errorf("%s", got)
		}
	})
	t.Run("tcpdump", func(t *testing.T) {
		got := run(t, "tcpdump", "-nvr", name, "-A", "tcp port 80")
		if strings.Contains(got, "incorrect") || strings.Count(got, "(correct)") != 16 || strings.Count(got, "GET /greeting") < 2 {
			t.Errorf("tcpdump has %s", got)
		}
	})
}

// A filter and a snap length keep what those of tcpdump keep of the same packets.
func TestTapFilterAgainstTcpdump(t *testing.T) {
	fill := func(tap *filter.Tap) {
		for i, ports := range []string{"10.0.0.1:80 10.0.0.2:5000", "10.0.0.1:443 10.1.0.2:5001", "[2001:db8::1]:80 [2001:db8::2]:5002"} {
			local, remote, _ := strings.Cut(ports, " ")
			f := tap.Flow(addr(local), addr(remote), i == 1)
			for n := range 20 {
				f.Received(bytes.Repeat([]byte{byte(n)}, n*n))
				f.Sent(bytes.Repeat([]byte("x"), 10*n))
			}
			f.Close()
		}
	}
	all, _ := capture(t, filter.TapOptions{}, fill)
	name := fileOf(t, all)
	for _, expression := range []string{"port 80", "src net 10 and len > 100", "not port 80 or dst host 2001:db8::1", "less 60", "tcp src port 5001"} {
		p, err := filter.Parse(run(t, "tcpdump", "-y", "RAW", "-s", "77", "-ddd", expression))
		if err != nil {
			t.Fatal(err)
		}
		for _, opt := range []filter.TapOptions{{Filter: p}, {Filter: compile(t, expression), SnapLen: 77}} {
			b, c := capture(t, opt, fill)
			for _, p := range c.Packets {
				if size := 40 + 20*strings.Count(p.Src.Addr().String(), "::") + len(p.Payload); p.Cut > 0 && size != 77 {
					t.Fatalf("%s: a packet has %d bytes, %d are cut", expression, size, p.Cut)
				}
			}
			got := run(t, "tcpdump", "-tnr", fileOf(t, b))
			want := run(t, "tcpdump", "-tnr", name, expression)
			if got != want || got == "" {
				t.Errorf("%s: %d lines, tcpdump has %d", expression, strings.Count(got, "\n"), strings.Count(want, "\n"))
			}
		}
	}
}

// A program that looks at the payload alone, and verdicts that a capture cannot
// follow.
func TestTapVerdicts(t *testing.T) {
	for _, c := range []struct {
		v    filter.Verdict
		want []string
	}{
		{filter.Verdict{Action: filter.Pass}, []string{"message"}},
		{filter.Verdict{Action: filter.Redirect, N: 1}, []string{"message"}},
		{filter.Verdict{Action: filter.Select, N: 1}, []string{"message"}},
		{filter.Verdict{Action: filter.Truncate, N: 3}, []string{"mes"}},
		{filter.Verdict{Action: filter.Drop}, nil},
		{filter.Verdict{Action: filter.Kill}, nil},
	} {
		_, file := capture(t, filter.TapOptions{Filter: returns(t, c.v.Result(), filter.Payload)}, func(tap *filter.Tap) {
			f := tap.Flow(nil, nil, false)
			f.Sent([]byte("message"))
			f.Close()
		})
		var got []string
		for _, p := range file.Packets {
			if len(p.Payload) > 0 {
				got = append(got, string(p.Payload))
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) || file.Received != 7 {
			t.Errorf("%v: %q of %d packets", c.v, got, file.Received)
		}
	}
}

// blocked is a writer that waits.
type blocked struct {
	started chan struct{}
	goOn    chan struct{}
	bytes.Buffer
	once sync.Once
}

func (w *blocked) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.started) })
	<-w.goOn
	return w.Buffer.Write(p)
}

// A writer that is slow costs packets, no time and no memory; the file says how
// many.
func TestTapDropsWhatHasNoPlace(t *testing.T) {
	w := &blocked{started: make(chan struct{}), goOn: make(chan struct{})}
	tap := filter.NewTap(w, filter.TapOptions{})
	<-w.started
	f := tap.Flow(addr("10.0.0.1:80"), addr("10.0.0.2:50000"), false)
	piece := make([]byte, 16384)
	for range 1000 { // 16 MB
		f.Sent(piece)
	}
	s := tap.Stats()
	if s.Dropped == 0 || s.Packets+s.Dropped != 1003 || (s.Packets-3)*16384 > 4<<20 {
		t.Errorf("%+v", s)
	}
	close(w.goOn)
	if err := tap.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := aftlstest.ReadPcapng(w.Bytes())
	if err != nil || c.Dropped != s.Dropped || uint64(len(c.Packets)) != s.Packets {
		t.Errorf("%d dropped, %d packets, %v, want %+v", c.Dropped, len(c.Packets), err, s)
	}
	f.Sent(piece) // which goes nowhere
	f.Close()
	if n := tap.Stats(); n != s {
		t.Errorf("%+v, and %+v after Close", s, n)
	}
}

// A writer that fails ends the capture, and nothing else.
func TestTapWriterFails(t *testing.T) {
	for after := range 2 {
		tap := filter.NewTap(&failing{after}, filter.TapOptions{})
		f := tap.Flow(nil, nil, true)
		for ended := false; !ended; {
			f.Sent([]byte("x"))
			select {
			case <-tap.Done():
				ended = true
			default:
			}
		}
		if n, err := tap.KeyLog().Write([]byte("line")); n != 4 || err != nil {
			t.Error(n, err) // crypto/tls would end its handshake
		}
		f.Close()
		for range 2 {
			if err := tap.Close(); !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
		}
	}
}

func TestTapAllocs(t *testing.T) {
	tap := filter.NewTap(io.Discard, filter.TapOptions{Filter: compile(t, "port 80")})
	defer tap.Close()
	f := tap.Flow(addr("10.0.0.1:80"), addr("10.0.0.2:50000"), false)
	piece := make([]byte, 16384)
	for range 2000 { // until both buffers have their size
		f.Sent(piece)
	}
	if n := testing.AllocsPerRun(200, func() { f.Sent(piece) }); n > 0.1 {
		t.Errorf("%v allocations for a packet", n)
	}
}
