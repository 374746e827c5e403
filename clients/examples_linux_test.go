package clients_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
)

// eachExample runs the test with the example in each language. run starts it with
// a certificate for the loopback addresses and the authority's file, and returns
// its address.
func eachExample(t *testing.T, test func(t *testing.T, run func(t *testing.T) (p *program, url string, ca *aftlstest.CA, caFile string))) {
	t.Helper()
	with := func(command func(args ...string) *exec.Cmd) func(t *testing.T) (*program, string, *aftlstest.CA, string) {
		return func(t *testing.T) (*program, string, *aftlstest.CA, string) {
			t.Helper()
			ca := aftlstest.NewCA(t)
			cert, key, caFile := ca.WriteFiles(t, ca.Leaf(t, "localhost"))
			p := start(t, command(cert, key, newDaemon(t)), nil)
			url, ok := strings.CutPrefix(p.next(), "listening ")
			if !ok {
				t.Fatalf("the example said %q", url)
			}
			return p, url, ca, caFile
		}
	}
	t.Run("c", func(t *testing.T) {
		needOpenSSL(t)
		exe := buildC(t, "https_responder", "c/examples/https_responder.c", "-lssl", "-lcrypto")
		test(t, with(func(args ...string) *exec.Cmd { return exec.Command(exe, args...) }))
	})
	t.Run("python", func(t *testing.T) {
		python := needPython(t)
		test(t, with(func(args ...string) *exec.Cmd { return python("python/examples/https_responder.py", args...) }))
	})
}

// needOpenSSL skips where OpenSSL's library cannot be built with.
func needOpenSSL(t *testing.T) {
	t.Helper()
	cmd := exec.Command(aftlstest.Need(t, "cc"), "-x", "c", "-", "-o", filepath.Join(built, "libssl"), "-lssl", "-lcrypto")
	cmd.Stdin = strings.NewReader("#include <openssl/ssl.h>\nint main(void) { return !SSL_CTX_new(TLS_server_method()); }\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		if aftlstest.Expected("libssl-dev") {
			t.Fatalf("openssl/ssl.h or -lssl is missing, and AFTLS_EXPECT says that it is here: %v\n%s", err, out)
		}
		t.Skipf("openssl/ssl.h or -lssl is missing (Debian: libssl-dev): %v", err)
	}
}

// curl takes a response without a length only behind close_notify.
func TestExamplesWithCurl(t *testing.T) {
	aftlstest.Need(t, "curl")
	eachExample(t, func(t *testing.T, run func(t *testing.T) (*program, string, *aftlstest.CA, string)) {
		for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
			t.Run(suite, func(t *testing.T) {
				_, url, _, caFile := run(t)
				p := aftlstest.Command{Name: "curl", Args: []string{"--silent", "--show-error", "--max-time", "20", "--noproxy", "*",
					"--cacert", caFile, "--tls13-ciphers", suite, url + "some/path"}}.Start(t)
				if err := p.Wait(); err != nil {
					t.Fatal(err)
				}
				if got, want := p.Output(), "GET /some/path HTTP/1.1\n"; got != want {
					t.Fatalf("curl got %q, not %q", got, want)
				}
			})
		}
	})
}

// A client may send its request along with the end of its handshake: then it is
// there before the hand-off.
func TestExamplesWithRequestAtOnce(t *testing.T) {
	eachExample(t, func(t *testing.T, run func(t *testing.T) (*program, string, *aftlstest.CA, string)) {
		p, url, ca, _ := run(t)
		c, err := net.Dial("tcp", strings.Trim(strings.TrimPrefix(url, "https://"), "/"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit))
		h := &holding{Conn: c}
		client := tls.Client(h, &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"})
		h.hold = 1 // after the ClientHello
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		request := "GET /at-once HTTP/1.1\r\nHost: localhost\r\n\r\n"
		if _, err := io.WriteString(client, request); err != nil {
			t.Fatal(err)
		}
		if err := h.release(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(client)
		if err != nil || !bytes.HasSuffix(got, []byte("\r\n\r\nGET /at-once HTTP/1.1\n")) {
			t.Fatalf("the response is %q, %v", got, err)
		}
		if strings.HasSuffix(t.Name(), "/python") {
			// A record has 5 bytes of header, the content type and a tag of 16.
			p.hear(fmt.Sprintf("handed off with %d bytes unread", len(request)+22))
		}
	})
}

// holding keeps what is written, but for the first writes, until release.
type holding struct {
	net.Conn
	hold int
	held []byte
}

func (h *holding) Write(b []byte) (int, error) {
	if h.hold > 0 {
		h.hold--
		return h.Conn.Write(b)
	}
	h.held = append(h.held, b...)
	return len(b), nil
}

func (h *holding) release() error {
	_, err := h.Conn.Write(h.held)
	h.hold, h.held = 1<<30, nil
	return err
}

// What the READMEs show is a part of what the tests run.
func TestReadmesShowTheExamples(t *testing.T) {
	for _, c := range []struct{ readme, language, example string }{
		{"c/README.md", "c", "c/examples/https_responder.c"},
		{"python/README.md", "python", "python/examples/https_responder.py"},
	} {
		readme, err := os.ReadFile(c.readme)
		if err != nil {
			t.Fatal(err)
		}
		source, err := os.ReadFile(c.example)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile("(?s)```" + c.language + "\n(.*?)```").FindSubmatch(readme)
		if m == nil {
			t.Fatalf("%s shows nothing", c.readme)
		}
		if !strings.Contains(flat(source), flat(m[1])) {
			t.Errorf("%s shows what is not in %s:\n%s", c.readme, c.example, m[1])
		}
	}
}

// flat is the text without indentation.
func flat(b []byte) string {
	var lines []string
	for line := range strings.Lines(string(b)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, "\n")
}
