package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// topOf returns what 'aftls top --json' says.
func topOf(t *testing.T, socket string) topSnapshot {
	t.Helper()
	stdout, stderr, code := output(t, nil, "top", "--socket", socket, "--json")
	var s topSnapshot
	if err := json.Unmarshal([]byte(stdout), &s); err != nil || code != 0 || strings.Count(stdout, "\n") != 1 {
		t.Fatalf("%v, exit code %d: %s%s", err, code, stdout, stderr)
	}
	return s
}

func TestTopOfServe(t *testing.T) {
	unixOnly(t)
	socket := filepath.Join(t.TempDir(), "s")
	p, addr := startServe(t, greetings(t), "--top-socket", socket)
	p.await("can be looked at")
	isPrivate(t, socket)
	if s := topOf(t, socket); s.Command != "serve" || s.PID != p.Process.Pid || s.Total != 0 || len(s.Connections) != 0 {
		t.Errorf("%+v", s)
	}
	c := httpClient(t)
	get(t, c, "https://"+addr+"/big")
	s := topOf(t, socket)
	if len(s.Connections) != 1 || s.Total != 1 {
		t.Fatalf("%+v", s)
	}
	row := s.Connections[0]
	if row.ID != 1 || !strings.HasPrefix(row.Peer, "127.0.0.1:") || row.Age < 0 || row.Version != "TLS 1.3" || !strings.HasPrefix(row.Suite, "TLS_") || row.Tapped || row.Resumed || row.Failed != "" {
		t.Errorf("%+v", row)
	}
	if row.Send.Bytes < 1<<20 || row.Send.Records < 64 || row.Receive.Bytes == 0 || row.Receive.Records == 0 || row.Send.Provider != "soft" || row.Send.Why == "" || row.Receive.Why == "" {
		t.Errorf("%+v", row)
	}
	// As a table, for which there is no terminal here.
	stdout, _, code := output(t, nil, "top", "--socket", socket)
	if code != 0 || !strings.Contains(stdout, "aftls serve, process ") || !strings.Contains(stdout, row.Peer) || strings.Contains(stdout, "\x1b") {
		t.Errorf("%d %q", code, stdout)
	}
	// Who may look may not tap.
	_, stderr, code := output(t, nil, "tap", "--socket", socket)
	if code != 1 || !strings.Contains(stderr, "not their plaintext") || !strings.Contains(stderr, "hint: start the server with --tap-socket") {
		t.Errorf("%d %q", code, stderr)
	}
	c.CloseIdleConnections()
	p.await("msg=connection ")
	if s := topOf(t, socket); s.Total != 1 || len(s.Connections) != 0 {
		t.Errorf("%+v", s)
	}
	end(t, p)
}

// One socket is for both, and top says who is tapped.
func TestTopOfProxyBesideATap(t *testing.T) {
	unixOnly(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	p, addr := startStreams(t, "proxy", "--to", backendOf(t, "tcp", func(c halfConn) { io.Copy(c, c); c.Close() }), "--tap-socket", socket)
	c := dialOurs(t, addr)
	echoed := func() {
		t.Helper()
		io.WriteString(c, "abc")
		if _, err := io.ReadFull(c, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
	}
	echoed()
	tap := start(t, "tap", "--socket", socket, "-w", filepath.Join(dir, "f"))
	p.await("is captured")
	if err := c.Rekey(true); err != nil {
		t.Fatal(err)
	}
	echoed()
	echoed() // behind the answer to the request
	s := topOf(t, socket)
	if len(s.Connections) != 1 || s.Command != "proxy" || !s.Connections[0].Tapped || s.Connections[0].Send.Rekeys != 1 || s.Connections[0].Receive.Rekeys != 1 || s.Connections[0].Send.Bytes != 9 {
		t.Errorf("%+v", s)
	}
	end(t, tap)
	p.await("has ended")
	if s := topOf(t, socket); s.Connections[0].Tapped {
		t.Errorf("%+v", s)
	}
	c.Close()
	end(t, p)
}

func TestTopErrors(t *testing.T) {
	for name, args := range map[string][]string{
		"no socket flag":   {"top"},
		"nobody listens":   {"top", "--socket", filepath.Join(t.TempDir(), "missing")},
		"too many words":   {"top", "--socket", "s", "word"},
		"a socket of none": {"serve", "--listen", "127.0.0.1:0", "--top-socket", filepath.Join(t.TempDir(), "missing", "s")},
	} {
		_, stderr, code := output(t, nil, args...)
		if lines := strings.Split(strings.TrimSpace(stderr), "\n"); code != 1 || !strings.HasPrefix(lines[len(lines)-1], "hint: ") {
			t.Errorf("%s: %d %q", name, code, stderr)
		}
	}
}

// keyed returns a connection with keys and without a handshake: thousands of them
// cost nothing.
func keyed(t testing.TB, carrier net.Conn) *aftls.Conn {
	t.Helper()
	k, err := record.TrafficKeys(0x1301, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := aftls.NewSocket(carrier, aftls.Options{})
	err = errors.Join(s.SetKeys(aftls.Send, k), s.SetKeys(aftls.Receive, k))
	c, err2 := aftls.NewConn(s, false, nil)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return c
}

// Thousands of connections, some of which begin and end while several clients look
// and one captures: all that stay are shown, each once.
func TestTopOfThousands(t *testing.T) {
	unixOnly(t)
	const stay, lookers, snapshots = 3000, 3, 3
	r := newRoster("proxy", slog.New(slog.DiscardHandler))
	s, err := serveWatch(filepath.Join(t.TempDir(), "s"), true, r)
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	b.Close() // nobody has to read a farewell
	conns := make([]*aftls.Conn, stay)
	for i := range conns {
		conns[i] = keyed(t, a)
		r.begin(conns[i])
	}
	var over atomic.Bool
	var churn, look sync.WaitGroup
	churn.Go(func() {
		for !over.Load() {
			p, q := net.Pipe()
			c := keyed(t, p)
			r.begin(c)
			q.Close()
			c.Close()
			r.end(c)
		}
	})
	for range lookers {
		look.Go(func() {
			for range snapshots {
				snapshot, err := takeSnapshot(s.path)
				if err != nil {
					t.Error(err)
					return
				}
				stayed := make(map[uint64]bool)
				for _, row := range snapshot.Connections {
					if row.ID <= stay {
						stayed[row.ID] = true
					}
				}
				if len(stayed) != stay || len(snapshot.Connections) > stay+1 {
					t.Errorf("%d of %d rows are of those that stay", len(stayed), len(snapshot.Connections))
				}
			}
		})
	}
	look.Wait()
	over.Store(true)
	churn.Wait()
	for _, c := range conns {
		c.Close()
		r.end(c)
	}
	if open, total := r.all(); len(open) != 0 || total < stay {
		t.Errorf("%d are left of %d", len(open), total)
	}
	s.close()
}

// There are so many clients at a time, and one too many is told so.
func TestTopClientsAreLimited(t *testing.T) {
	unixOnly(t)
	r := newRoster("proxy", slog.New(slog.DiscardHandler))
	s, err := serveWatch(filepath.Join(t.TempDir(), "s"), false, r)
	if err != nil {
		t.Fatal(err)
	}
	var silent []net.Conn
	for range maxWatchers {
		c, err := net.Dial("unix", s.path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	served := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.clients)
	}
	for served() < maxWatchers {
		runtime.Gosched()
	}
	if _, err := takeSnapshot(s.path); err == nil || !strings.Contains(err.Error(), "32 clients look at this server already") {
		t.Error(err)
	}
	silent[0].Close()
	for served() == maxWatchers {
		runtime.Gosched()
	}
	if _, err := takeSnapshot(s.path); err != nil {
		t.Error(err)
	}
	s.close() // it waits for none of them
}

func TestTable(t *testing.T) {
	row := func(id, sent uint64) topRow {
		return topRow{ID: id, Peer: "192.0.2.1:" + strings.Repeat("9", int(id)), Age: 3723.4, Version: "TLS 1.3", Suite: "TLS_AES_128_GCM_SHA256",
			Send: topDirection{Provider: "kernel", Bytes: sent, Records: 7, Rekeys: 2}, Receive: topDirection{Provider: "soft", Why: "no\x1b[2Jkernel"}}
	}
	var tab table
	first := string(tab.draw(topSnapshot{Command: "proxy", PID: 17, Total: 9, Connections: []topRow{row(1, 100), row(2, 5000)}}, 0, 0))
	for _, want := range []string{"aftls proxy, process 17: 2 connections, 9 so far", "1h2m3s", "AES_128_GCM_SHA256", "5.0 kB", "7/0", "2/0", "receive: no?[2Jkernel"} {
		if !strings.Contains(first, want) {
			t.Errorf("no %q in\n%s", want, first)
		}
	}
	if strings.Contains(first, "\x1b") || strings.Index(first, "192.0.2.1:99 ") > strings.Index(first, "192.0.2.1:9 ") {
		t.Errorf("the busiest is not first, or it is no text:\n%q", first)
	}
	// The first one has become the busier one. Lines and columns fit.
	second := string(tab.draw(topSnapshot{Connections: []topRow{row(1, 1<<20), row(2, 5000), row(3, 0)}}, 30, 4))
	lines := strings.Split(second, "\r\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[2], "192.0.2.1:9 ") || !strings.HasPrefix(lines[3], "192.0.2.1:99 ") {
		t.Errorf("%q", lines)
	}
	for _, l := range lines {
		if n := len([]rune(strings.TrimSuffix(l, "\x1b[K"))); n > 30 {
			t.Errorf("%d columns: %q", n, l)
		}
	}
	for n, want := range map[float64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 123456: "123 kB", 2.5e9: "2.5 GB", 7e13: "70.0 TB"} {
		if got := size(n); got != want {
			t.Errorf("%v is %q", n, got)
		}
	}
	failed := row(1, 1)
	if failed.Failed = "it was cut"; failed.why() != "it failed: it was cut" {
		t.Error(failed.why())
	}
}
