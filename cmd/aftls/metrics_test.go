package main

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/aftls/aftls/aftlstest"
)

// scrape returns what the address in a server's log counts, by name and labels.
func scrape(t *testing.T, p *process) map[string]float64 {
	t.Helper()
	p.await("/metrics")
	url := regexp.MustCompile(`url=(http://\S+/metrics)\n`).FindStringSubmatch(p.errors())
	if url == nil {
		t.Fatal(p.errors())
	}
	resp, err := http.Get(url[1])
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp.Status)
	}
	counted := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			if counted[name], err = strconv.ParseFloat(value, 64); err != nil {
				t.Fatal(line)
			}
		}
	}
	return counted
}

func wantCounts(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for name, n := range want {
		if g, ok := got[name]; !ok || g != n {
			t.Errorf("%s is %v, not %v", name, g, n)
		}
	}
}

func TestServeMetrics(t *testing.T) {
	unixOnly(t)
	p, addr := startServe(t, greetings(t), "--metrics", "127.0.0.1:0")
	c := httpClient(t)
	get(t, c, "https://"+addr+"/big")
	got := scrape(t, p)
	wantCounts(t, got, map[string]float64{
		"aftls_connections": 1,
		`aftls_connection_directions{direction="send",provider="soft"}`: 1,
		`aftls_handshakes_total{kind="full"}`:                           1,
		`aftls_handshakes_total{kind="resumed"}`:                        0,
		`aftls_handshake_failures_total{reason="not_tls"}`:              0,
	})
	if n := got[`aftls_bytes_total{direction="send",provider="soft"}`]; n < 1<<20 || got["process_open_fds"] == 0 || got["go_goroutines"] == 0 {
		t.Errorf("%v bytes sent, %v", n, got)
	}
	// Failures, by reason.
	if resp, err := http.Get("http://" + addr); err != nil || resp.StatusCode != 400 {
		t.Error(resp, err)
	} else {
		resp.Body.Close()
	}
	p.await("first record does not look like a TLS handshake")
	ca := filepath.Join(stateHome(t), "aftls", "cert.pem")
	for _, s := range []string{"-tls1_1 -cipher DEFAULT@SECLEVEL=0", "-CAfile " + ca + " -cipher AES128-GCM-SHA256 -tls1_2"} {
		aftlstest.Command{Name: "openssl", Args: append([]string{"s_client", "-connect", addr}, strings.Fields(s)...), Stdin: strings.NewReader("")}.Start(t).Wait()
	}
	gone, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	c.CloseIdleConnections()
	p.await("msg=connection ")
	// And a client that does not say its end.
	cut := dialTLS(t, addr, "http/1.1")
	io.WriteString(cut, "GET /greeting HTTP/1.1\r\nHost: localhost\r\n\r\n")
	cut.Read(make([]byte, 1))
	cut.NetConn().Close()
	p.awaitTimes("msg=connection ", 2)
	p.awaitTimes("handshake failed", 4)
	wantCounts(t, scrape(t, p), map[string]float64{
		"aftls_connections": 0,
		`aftls_connection_directions{direction="send",provider="soft"}`: 0,
		`aftls_handshakes_total{kind="full"}`:                           2,
		`aftls_handshake_failures_total{reason="not_tls"}`:              1,
		`aftls_handshake_failures_total{reason="refused"}`:              2,
		`aftls_handshake_failures_total{reason="gone"}`:                 1,
		`aftls_connection_errors_total{blame="network"}`:                1,
		`aftls_connection_errors_total{blame="peer"}`:                   0,
		`aftls_connection_errors_total{blame="local"}`:                  0,
	})
	end(t, p)
}

func TestProxyMetrics(t *testing.T) {
	unixOnly(t)
	p, addr := startStreams(t, "proxy", "--metrics", "127.0.0.1:0", "--to", backendOf(t, "tcp", func(c halfConn) { io.Copy(c, c); c.Close() }))
	for range 3 {
		exchange(t, dialTLS(t, addr), []byte("12345"))
	}
	c := dialOurs(t, addr)
	io.WriteString(c, "1")
	io.ReadFull(c, make([]byte, 1))
	c.Rekey(false)
	io.WriteString(c, "1")
	io.ReadFull(c, make([]byte, 1))
	p.awaitTimes("msg=connection ", 3)
	wantCounts(t, scrape(t, p), map[string]float64{
		"aftls_connections":                                       1,
		`aftls_handshakes_total{kind="full"}`:                     4,
		`aftls_bytes_total{direction="send",provider="soft"}`:     17,
		`aftls_bytes_total{direction="receive",provider="soft"}`:  17,
		`aftls_rekeys_total{direction="receive",provider="soft"}`: 1,
	})
	c.Close()
	end(t, p)
	_, stderr, code := output(t, nil, "proxy", "--to", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--metrics", "256.0.0.1:1")
	if code != 1 || !strings.Contains(stderr, "hint: choose another address with --metrics") {
		t.Errorf("%d %q", code, stderr)
	}
}
