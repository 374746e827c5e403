package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls"
)

// trust returns a Config that trusts the development certificate of the test.
func trust(t *testing.T) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(stateHome(t), "aftls", "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in the state folder")
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

func httpClient(t *testing.T) *http.Client {
	tr := &http.Transport{TLSClientConfig: trust(t)}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func get(t *testing.T, c *http.Client, url string, header ...string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestServeFiles(t *testing.T) {
	dir := t.TempDir()
	big := make([]byte, 3<<20+77)
	rand.Read(big)
	write(t, filepath.Join(dir, "big"), big)
	write(t, filepath.Join(dir, "empty"), nil)
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, []byte("not below the folder"))
	if err := os.Symlink(secret, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	_, addr := startServe(t, dir)
	c, url := httpClient(t), "https://"+addr

	if code, body := get(t, c, url+"/big"); code != 200 || !bytes.Equal(body, big) {
		t.Error("big file:", code, len(body))
	}
	if code, body := get(t, c, url+"/big", "Range", "bytes=1000000-1999999"); code != 206 || !bytes.Equal(body, big[1000000:2000000]) {
		t.Error("range:", code, len(body))
	}
	if code, body := get(t, c, url+"/empty"); code != 200 || len(body) != 0 {
		t.Error("empty file:", code, len(body))
	}
	if code, body := get(t, c, url+"/"); code != 200 || !strings.Contains(string(body), `href="big"`) {
		t.Errorf("directory: %d %q", code, body)
	}
	if code, _ := get(t, c, url+"/missing"); code != 404 {
		t.Error("missing file:", code)
	}
	if code, body := get(t, c, url+"/out"); code != 403 || bytes.Contains(body, []byte("not below")) {
		t.Errorf("link out of the folder: %d %q", code, body)
	}
}

// The same files over HTTP/2, for which ALPN asks, and a drain that waits for them.
func TestServeHTTP2(t *testing.T) {
	dir := t.TempDir()
	big := make([]byte, 8<<20+5)
	rand.Read(big)
	write(t, filepath.Join(dir, "big"), big)
	p, addr := startServe(t, dir)
	tr := &http.Transport{TLSClientConfig: trust(t), ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	resp, err := c.Get("https://" + addr + "/big")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("answered by %s", resp.Proto)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await("draining")
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
}

func TestServeKeepsItsCertificate(t *testing.T) {
	dir := t.TempDir()
	startServe(t, dir)
	state := filepath.Join(stateHome(t), "aftls")
	first, err := os.ReadFile(filepath.Join(state, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		for _, name := range []string{"cert.pem", "key.pem"} {
			if st, err := os.Stat(filepath.Join(state, name)); err != nil || st.Mode().Perm() != 0o600 {
				t.Error(name, err, st.Mode())
			}
		}
		if st, err := os.Stat(state); err != nil || st.Mode().Perm() != 0o700 {
			t.Error(err, st.Mode())
		}
	}
	p, _ := startServe(t, dir)
	p.await("try: curl --cacert " + filepath.Join(state, "cert.pem"))
	if second, err := os.ReadFile(filepath.Join(state, "cert.pem")); err != nil || !bytes.Equal(first, second) {
		t.Error("the certificate was made anew", err)
	}
}

func TestDevelopmentCertificateIsRenewed(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	cert, _, err := developmentCertificate(time.Now().AddDate(-2, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	old, _ := os.ReadFile(cert)
	if cert, _, err = developmentCertificate(time.Now()); err != nil {
		t.Fatal(err)
	}
	if now, _ := os.ReadFile(cert); bytes.Equal(old, now) {
		t.Error("an expired certificate was kept")
	}
	write(t, cert, []byte("damaged"))
	if _, _, err := developmentCertificate(time.Now()); err == nil {
		t.Error("a damaged certificate was replaced without a word")
	}
}

func TestServeMinVersion(t *testing.T) {
	_, addr := startServe(t, t.TempDir(), "--min-version", "1.3")
	config := trust(t)
	config.MaxVersion = tls.VersionTLS12
	if c, err := tls.Dial("tcp", addr, config); err == nil {
		c.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

func TestServeLogsConnections(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), make([]byte, 100000))
	p, addr := startServe(t, dir, "--log", "json")
	config := trust(t)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for range 2 {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		get(t, c, "https://"+addr+"/f")
	}
	p.await(`"resumed":false`) // they may end in any order
	p.await(`"resumed":true`)
	type line struct {
		Msg, Version, Suite, Send, Receive string
		Resumed                            bool
		Sent                               int `json:"bytes_sent"`
		Received                           int `json:"bytes_received"`
	}
	var seen []line
	for l := range strings.Lines(p.errors()) {
		var x line
		if json.Unmarshal([]byte(l), &x) == nil && x.Msg == "connection" {
			seen = append(seen, x)
		}
	}
	if len(seen) != 2 || seen[0].Resumed == seen[1].Resumed {
		t.Fatalf("%+v", seen)
	}
	for _, x := range seen {
		if x.Version != "TLS 1.3" || x.Send != "soft" || x.Sent < 100000 || x.Received == 0 || x.Suite == "" {
			t.Errorf("%+v", x)
		}
	}
}

func TestServeDrains(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), make([]byte, 32<<20)) // more than socket buffers hold
	p, addr := startServe(t, dir)
	d := &aftls.Dialer{Config: trust(t)}
	dial := func() *aftls.Conn {
		c, err := d.DialContext(context.Background(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(30 * time.Second))
		return c.(*aftls.Conn)
	}
	idle, busy := dial(), dial()
	for _, c := range []*aftls.Conn{idle, busy} {
		path := "/missing"
		if c == busy {
			path = "/f"
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await("draining")
	for _, c := range []*aftls.Conn{idle, busy} {
		n, err := io.Copy(io.Discard, c)
		if err != nil || c == busy && n < 32<<20 { // nil: it ended with close_notify
			t.Error("idle", c == idle, n, err)
		}
	}
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
}

func TestServeSecondSignalEndsAtOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), make([]byte, 32<<20))
	p, addr := startServe(t, dir)
	c, err := (&aftls.Dialer{Config: trust(t)}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /f HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.Process.Signal(syscall.SIGINT)
	p.await("draining")
	p.Process.Signal(syscall.SIGINT)
	if code := p.exit(); code != 1 {
		t.Error("exit code", code)
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Error("the cut off answer looked whole:", err)
	}
}

func TestServeReloadsCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	renew := func() {
		c, k, err := selfSigned(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		write(t, cert, c)
		write(t, key, k)
	}
	renew()
	p, addr := startServe(t, t.TempDir(), "--cert", cert, "--key", key)
	serial := func() string {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	renew()
	p.Process.Signal(syscall.SIGHUP)
	p.await("certificate reloaded")
	if serial() == first {
		t.Error("the old certificate is still served")
	}
	second := serial()
	write(t, cert, []byte("damaged"))
	p.Process.Signal(syscall.SIGHUP)
	p.await("the old one stays")
	if serial() != second {
		t.Error("a damaged file changed the certificate")
	}
}
