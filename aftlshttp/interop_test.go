package aftlshttp_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
)

// interopSite serves the files of a folder, and tells the hash of what is sent
// to it.
func interopSite(t *testing.T) (s *site, authority string, big []byte) {
	t.Helper()
	dir := t.TempDir()
	big = make([]byte, 5<<20+3)
	rand.Read(big)
	for name, b := range map[string][]byte{"big": big, "small": []byte("a small file")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(dir)))
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		io.Copy(h, r.Body)
		fmt.Fprintf(w, "%x", h.Sum(nil))
	})
	s = newSite(t, mux)
	s.srv.ReadHeaderTimeout, s.srv.IdleTimeout = 20*time.Second, 2*time.Minute
	s.start()
	_, _, authority = s.ca.WriteFiles(t, s.config.Certificates[0])
	return s, authority, big
}

// program runs one that somebody else wrote and returns its stdout.
func program(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	c := exec.Command(aftlstest.Need(t, name), args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes()
}

func TestCurl(t *testing.T) {
	s, ca, big := interopSite(t)
	for flag, version := range map[string]string{"--http1.1": "1.1", "--http2": "2"} {
		t.Run(version, func(t *testing.T) {
			curl := func(args ...string) []byte {
				t.Helper()
				return program(t, "curl", append([]string{"--silent", "--show-error", "--fail", "--max-time", "60", "--cacert", ca, flag}, args...)...)
			}
			if got := curl("--write-out", "%{http_version}", s.url("/small")); string(got) != "a small file"+version {
				t.Errorf("%q", got)
			}
			if got := curl(s.url("/big")); !bytes.Equal(got, big) {
				t.Errorf("%d bytes", len(got))
			}
			if got := curl("--range", "1000000-1999999", s.url("/big")); !bytes.Equal(got, big[1000000:2000000]) {
				t.Errorf("range: %d bytes", len(got))
			}
			file := filepath.Join(t.TempDir(), "part")
			if err := os.WriteFile(file, big[:777_777], 0o600); err != nil {
				t.Fatal(err)
			}
			curl("--continue-at", "-", "--output", file, s.url("/big"))
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, big) {
				t.Errorf("resumed: %d bytes, %v", len(got), err)
			}
			want := fmt.Sprintf("%x", sha256.Sum256(big))
			if got := curl("--upload-file", file, s.url("/sum")); string(got) != want {
				t.Errorf("upload: %q", got)
			}
			if got := curl("--header", "Expect: 100-continue", "--data-binary", "@"+file, s.url("/sum")); string(got) != want {
				t.Errorf("post: %q", got)
			}
			// Several transfers at once: streams of one connection, or several.
			args := []string{"--parallel", "--parallel-max", "20"}
			for range 40 {
				args = append(args, s.url("/small"))
			}
			if got := curl(args...); string(got) != strings.Repeat("a small file", 40) {
				t.Errorf("parallel: %d bytes", len(got))
			}
		})
	}
}

func TestH2load(t *testing.T) {
	s, _, _ := interopSite(t)
	for _, proto := range []string{"h2", "http/1.1"} {
		out := program(t, "h2load", "--npn-list="+proto, "--requests=4000", "--clients=20", "--max-concurrent-streams=10", "--threads=1", s.url("/small"))
		if !regexp.MustCompile(`4000 succeeded, 0 failed, 0 errored, 0 timeout`).Match(out) || !bytes.Contains(out, []byte("4000 2xx")) {
			t.Errorf("%s:\n%s", proto, out)
		}
	}
	out := program(t, "h2load", "--requests=20", "--clients=4", "--max-concurrent-streams=5", "--threads=1", s.url("/big"))
	if !bytes.Contains(out, []byte("20 succeeded, 0 failed, 0 errored, 0 timeout")) {
		t.Errorf("big file:\n%s", out)
	}
}

// h2specResult is what h2spec writes for machines to read.
type h2specResult struct {
	Suites []struct {
		Cases []struct {
			Package string    `xml:"package,attr"`
			Class   string    `xml:"classname,attr"`
			Failure *struct{} `xml:"failure"`
			Error   *struct{} `xml:"error"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// The cases of h2spec (github.com/summerwind/h2spec) that fail are those that
// fail with net/http over crypto/tls too.
func TestH2spec(t *testing.T) {
	aftlstest.Need(t, "h2spec")
	failures := func(s *site, timeout string) (failed map[string]bool, cases int, err error) {
		report := filepath.Join(t.TempDir(), "report.xml")
		host, port, _ := net.SplitHostPort(s.addr)
		c := exec.Command("h2spec", "--host", host, "--port", port, "--tls", "--insecure", "--timeout", timeout, "--junit-report", report)
		out, err := c.CombinedOutput() // fails when a case does
		b, rerr := os.ReadFile(report)
		if rerr != nil {
			return nil, 0, fmt.Errorf("h2spec: %w\n%s", err, out)
		}
		var r h2specResult
		if err := xml.Unmarshal(b, &r); err != nil {
			return nil, 0, err
		}
		failed = make(map[string]bool)
		for _, suite := range r.Suites {
			for _, c := range suite.Cases {
				if cases++; c.Failure != nil || c.Error != nil {
					failed[c.Package+" "+c.Class] = true
				}
			}
		}
		return failed, cases, nil
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, strings.Repeat("page ", 1000))
	})
	theirs, ours := newSite(t, page).startStandard(), newSite(t, page).start()
	var want map[string]bool
	var wantCases int
	var theirErr error
	var wg sync.WaitGroup
	wg.Go(func() { want, wantCases, theirErr = failures(theirs, "2") })
	got, cases, err := failures(ours, "2")
	wg.Wait()
	if err := errors.Join(err, theirErr); err != nil {
		t.Fatal(err)
	}
	for name := range got {
		if want[name] {
			continue
		}
		// It may have been the machine: once more, with patience.
		if got, cases, err = failures(ours, "10"); err != nil {
			t.Fatal(err)
		}
		break
	}
	if cases != wantCases || cases < 100 {
		t.Errorf("%d cases, and %d over crypto/tls", cases, wantCases)
	}
	t.Logf("%d cases, %d failed, over crypto/tls %d", cases, len(got), len(want))
	for name := range got {
		if !want[name] {
			t.Errorf("failed: %s", name)
		}
	}
}
