package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
)

// unixOnly skips where there are no modes of files and no such signals.
func unixOnly(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes of files and no SIGTERM on windows")
	}
}

func isPrivate(t *testing.T, path string) {
	t.Helper()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatal(path, err, st.Mode())
	}
}

// pcapng returns a capture that is complete.
func pcapng(t *testing.T, path string) aftlstest.Pcapng {
	t.Helper()
	isPrivate(t, path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := aftlstest.ReadPcapng(b)
	if err != nil || !c.Complete {
		t.Fatalf("%v, complete %v, %d bytes", err, c.Complete, len(b))
	}
	return c
}

// plaintext is all payload of one port's packets, of those that it sent and of
// those that it got.
func plaintext(c aftlstest.Pcapng, addr string) (sent, got string) {
	for _, p := range c.Packets {
		if p.Src.String() == addr {
			sent += string(p.Payload)
		} else if p.Dst.String() == addr {
			got += string(p.Payload)
		}
	}
	return sent, got
}

func greetings(t *testing.T) (dir string) {
	dir = t.TempDir()
	write(t, filepath.Join(dir, "greeting"), []byte("hello, whoever reads this"))
	write(t, filepath.Join(dir, "big"), bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	return dir
}

func end(t *testing.T, p *process) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

func TestServeTapFile(t *testing.T) {
	unixOnly(t)
	file := filepath.Join(t.TempDir(), "tap.pcapng")
	p, addr := startServe(t, greetings(t), "--tap", file)
	p.await("the plaintext of all connections is captured")
	isPrivate(t, file)
	c := httpClient(t)
	get(t, c, "https://"+addr+"/greeting")
	get(t, c, "https://"+addr+"/big")
	c.CloseIdleConnections()
	p.await("tapped=true")
	end(t, p)
	p.await("the capture has ended")
	sent, got := plaintext(pcapng(t, file), addr)
	if !strings.Contains(got, "GET /greeting HTTP/1.1\r\n") || !strings.Contains(sent, "hello, whoever reads this") || strings.Count(sent, "0123456789abcdef") != 1<<16 {
		t.Errorf("it sent %d bytes and got %q", len(sent), got)
	}
	for program, args := range map[string][]string{
		"tcpdump": {"-nr", file, "-A", "src port " + addr[len("127.0.0.1:"):]},
		"tshark":  {"-r", file, "-q", "-z", "follow,tcp,ascii,0"},
	} {
		out, err := exec.Command(aftlstest.Need(t, program), args...).Output()
		if err != nil || !strings.Contains(string(out), "hello, whoever reads this") {
			t.Errorf("%s: %v, %.200s", program, err, out)
		}
	}
}

func TestServeTapFilterAndSnapLen(t *testing.T) {
	unixOnly(t)
	file := filepath.Join(t.TempDir(), "tap.pcapng")
	p, addr := startServe(t, greetings(t), "--tap", file, "--tap-snaplen", "56", "--tap-filter", "data[0:4] = 0x47455420")
	get(t, httpClient(t), "https://"+addr+"/greeting")
	end(t, p)
	c := pcapng(t, file)
	if len(c.Packets) != 1 || string(c.Packets[0].Payload) != "GET /greeting HT" || c.SnapLen != 56 {
		t.Errorf("%+v", c)
	}
}

func TestServeTapCiphertext(t *testing.T) {
	unixOnly(t)
	file := filepath.Join(t.TempDir(), "tap.pcapng")
	p, addr := startServe(t, greetings(t), "--tap", file, "--tap-ciphertext")
	p.await("with the secrets that decrypt them")
	c := httpClient(t)
	get(t, c, "https://"+addr+"/greeting")
	get(t, c, "https://"+addr+"/big")
	end(t, p)
	capture := pcapng(t, file)
	if sent, _ := plaintext(capture, addr); len(sent) < 1<<20 || strings.Contains(sent, "hello") || !bytes.Contains(capture.Secrets, []byte("CLIENT_TRAFFIC_SECRET_0 ")) {
		t.Errorf("%d bytes, %q", len(sent), capture.Secrets)
	}
	port := addr[len("127.0.0.1:"):]
	out, err := exec.Command(aftlstest.Need(t, "tshark"), "-r", file, "-d", "tcp.port=="+port+",tls", "-d", "tls.port=="+port+",http",
		"-Y", "http.response", "-T", "fields", "-e", "http.content_length").Output()
	if got := string(out); err != nil || got != "25\n1048576\n" {
		t.Errorf("tshark decrypts %q, %v", got, err)
	}
}

// A server that runs is tapped, with the connections that it has, by one at a time.
func TestTap(t *testing.T) {
	unixOnly(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "tap.sock")
	p, addr := startServe(t, greetings(t), "--tap-socket", socket)
	p.await("can be captured")
	isPrivate(t, socket)
	c, url := httpClient(t), "https://"+addr+"/greeting"
	get(t, c, url, "X-Secret", "before the tap")

	file := filepath.Join(dir, "one.pcapng")
	one := start(t, "tap", "--socket", socket, "-w", file, "src", "or", "dst", "port", addr[len("127.0.0.1:"):])
	p.await("is captured")
	get(t, c, url, "X-Secret", "during the tap") // on the same connection
	c2 := httpClient(t)
	get(t, c2, url, "X-Secret", "a new connection")

	_, stderr, code := output(t, nil, "tap", "--socket", socket)
	if code != 1 || !strings.Contains(stderr, "tapped already") || !strings.Contains(stderr, "hint: end the other") {
		t.Errorf("a second tap: %d %q", code, stderr)
	}
	end(t, one)
	p.await("the capture has ended")
	get(t, c, url, "X-Secret", "after the tap")
	capture := pcapng(t, file)
	sent, got := plaintext(capture, addr)
	for s, want := range map[string]bool{"before the tap": false, "during the tap": true, "a new connection": true, "after the tap": false} {
		if strings.Contains(got, s) != want {
			t.Errorf("%q in the capture: %v", s, !want)
		}
	}
	if strings.Count(sent, "hello, whoever reads this") != 2 {
		t.Errorf("%q", sent)
	}

	// Another one, on stdout, ends with the server.
	two := start(t, "tap", "--socket", socket, "data[0:4] = 0x47455420")
	head := make([]byte, 100)
	if n, err := two.stdout.Read(head); n < 4 || err != nil || head[0] != 0x0a {
		t.Fatal(n, err)
	}
	get(t, c, url)
	c.CloseIdleConnections()
	c2.CloseIdleConnections()
	end(t, p)
	if code := two.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

// Clients of the socket that make no sense, or go away, cost the server nothing.
func TestTapClientsThatMisbehave(t *testing.T) {
	unixOnly(t)
	socket := filepath.Join(t.TempDir(), "tap.sock")
	p, addr := startServe(t, greetings(t), "--tap-socket", socket)
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for request, want := range map[string]string{
		"\n":                                   "no request",
		"{}\n":                                 "it asks for tap or for top",
		"{\"tap\":{},\"top\":{}}\n":            "it asks for tap or for top",
		"{\"tap\":{\"filter\":\"prot 80\"}}\n": "is no primitive",
		"{\"tap\":{\"snaplen\":-1}}\n":         "a snap length of -1",
		strings.Repeat("x", 200<<10):           "no request came",
		"{\"tap\":{\"filter\":\"1\\n6 0 0\\n\"}}\n":   "line 2",
		"{\"tap\":{\"filter\":\"tcp -> PASS(3)\"}}\n": "PASS has no number",
	} {
		c := dial()
		go c.Write([]byte(request))
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		var answer watchAnswer
		if err := json.NewDecoder(c).Decode(&answer); err != nil || !strings.Contains(answer.Error, want) {
			t.Errorf("%.30q: %+v, %v", request, answer, err)
		}
		c.Close()
	}
	// One that captures and does not read does not hold up the server; when it
	// has gone there is room for the next.
	c := dial()
	c.Write([]byte("{\"tap\":{}}\n"))
	p.await("is captured")
	h := httpClient(t)
	for range 8 {
		if code, body := get(t, h, "https://"+addr+"/big"); code != 200 || len(body) != 1<<20 {
			t.Fatal(code, len(body))
		}
	}
	c.Close()
	p.await("the capture has ended")
	two := start(t, "tap", "--socket", socket)
	if _, err := two.stdout.Peek(8); err != nil {
		t.Fatal(err)
	}
	end(t, two)
	end(t, p)
}

func TestTapErrors(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	write(t, there, []byte("precious"))
	for name, args := range map[string][]string{
		"file is there":          {"serve", dir, "--tap", there},
		"filter without tap":     {"serve", dir, "--tap-filter", "port 80"},
		"wrong filter":           {"serve", dir, "--tap", filepath.Join(dir, "new"), "--tap-filter", "prot 80"},
		"cut ciphertext":         {"serve", dir, "--tap", filepath.Join(dir, "new"), "--tap-ciphertext", "--tap-snaplen", "80"},
		"file and socket":        {"serve", dir, "--tap", filepath.Join(dir, "new"), "--tap-socket", filepath.Join(dir, "s")},
		"socket is a file":       {"serve", dir, "--tap-socket", there},
		"no folder for socket":   {"serve", dir, "--tap-socket", filepath.Join(dir, "missing", "s")},
		"tap: no socket flag":    {"tap"},
		"tap: nobody listens":    {"tap", "--socket", filepath.Join(dir, "missing")},
		"tap: wrong filter":      {"tap", "--socket", there, "prot", "80"},
		"tap: wrong snap length": {"tap", "--socket", there, "--snaplen", "-1"},
	} {
		t.Run(name, func(t *testing.T) {
			if args[0] == "serve" {
				args = append(args, "--listen", "127.0.0.1:0")
			}
			_, stderr, code := output(t, nil, args...)
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			if code == 0 || len(lines) < 2 || !strings.HasPrefix(lines[len(lines)-2], "aftls: ") || !strings.HasPrefix(lines[len(lines)-1], "hint: ") {
				t.Errorf("exit code %d, stderr:\n%s", code, stderr)
			}
		})
	}
	if b, err := os.ReadFile(there); string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("a file was made for nothing")
	}
}

// The clients of a proxy are captured, in a file or through a socket.
func TestProxyTap(t *testing.T) {
	unixOnly(t)
	to := backendOf(t, "tcp", func(c halfConn) {
		defer c.Close()
		io.Copy(c, c)
	})
	t.Run("file", func(t *testing.T) {
		for _, flags := range [][]string{nil, {"--tap-ciphertext"}} {
			file := filepath.Join(t.TempDir(), "tap.pcapng")
			p, addr := startStreams(t, "proxy", append([]string{"--to", to, "--tap", file}, flags...)...)
			p.await("captured")
			isPrivate(t, file)
			exchange(t, dialTLS(t, addr), []byte("hello, backend"))
			p.await("msg=connection ")
			end(t, p)
			p.await("the capture has ended")
			capture := pcapng(t, file)
			sent, got := plaintext(capture, addr)
			if readable := flags == nil; readable != (sent == "hello, backend" && got == sent) || readable == (len(capture.Secrets) > 0) {
				t.Errorf("%v: it sent %q and got %q", flags, sent, got)
			}
		}
	})
	t.Run("socket", func(t *testing.T) {
		dir := t.TempDir()
		socket, file := filepath.Join(dir, "s"), filepath.Join(dir, "tap.pcapng")
		p, addr := startStreams(t, "proxy", "--to", to, "--tap-socket", socket)
		p.await("can be captured")
		isPrivate(t, socket)
		c := dialTLS(t, addr)
		said := func(s string) {
			t.Helper()
			io.WriteString(c, s)
			if _, err := io.ReadFull(c, make([]byte, len(s))); err != nil {
				t.Fatal(err)
			}
		}
		said("before the tap")
		tap := start(t, "tap", "--socket", socket, "-w", file)
		p.await("is captured")
		said("during the tap")
		end(t, tap)
		p.await("the capture has ended")
		said("after the tap")
		c.Close()
		p.await("tapped=false")
		if sent, got := plaintext(pcapng(t, file), addr); sent != "during the tap" || got != sent {
			t.Errorf("it sent %q and got %q", sent, got)
		}
		end(t, p)
	})
}

// Whatever a client of the socket sends is a request or an error, and no line is
// longer than it may be.
func FuzzWatchRequest(f *testing.F) {
	for _, s := range []string{"", "{}\n", "\n", `{"tap":{"filter":"port 80","snaplen":80}}` + "\n", `{"top":{}}` + "\n{", `{"tap":{"filter":"tcp -> SELECT(1); -> KILL(0)"}}` + "\n", `{"tap":{"filter":"1\n6 0 0 0\n"}}` + "\n", "null\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(b), 4096)
		for {
			request, err := readWatchRequest(r)
			if err != nil {
				return
			}
			if (request.Tap == nil) == (request.Top == nil) {
				t.Fatal("neither or both")
			}
			if request.Tap != nil {
				if opt, err := tapOptions(request.Tap.Filter, request.Tap.SnapLen); err == nil && opt.SnapLen < 0 {
					t.Fatal(opt.SnapLen)
				}
			}
		}
	})
}
