package bench

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/internal/afd"
	"github.com/aftls/aftls/internal/seccomp"
)

// What this binary has to be in place of the command: its 'run' and 'handd', as far
// as the rows use them, and a program.
func init() {
	const child = "bench-child"
	commands[child] = func(args []string) error { afd.BecomeProgram(args); return nil }
	commands["bench-program"] = func(args []string) error {
		var cfg ProgramConfig
		f := flag.NewFlagSet("bench-program", flag.ContinueOnError)
		f.StringVar(&cfg.Row, "row", "", "")
		f.StringVar(&cfg.Kind, "kind", "", "")
		f.StringVar(&cfg.Socket, "socket", "", "")
		if err := f.Parse(args); err != nil {
			return err
		}
		return Program(cfg, os.Stdin, os.Stdout)
	}
	commands["run"] = func(args []string) error {
		s := &afd.Supervisor{Family: afd.Family, Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
		f := flag.NewFlagSet("run", flag.ContinueOnError)
		f.IntVar(&s.Family, "family", s.Family, "")
		f.Bool("stats", false, "")
		if err := f.Parse(args); err != nil {
			return err
		}
		_, err := s.Run([]string{child}, f.Args())
		st := s.Stats()
		fmt.Fprintf(os.Stderr, "aftls: %d TLS sockets, %d failed, %d keys refused; sealed %d records with %d bytes, opened %d with %d\n",
			st.Sockets, st.ConnectionsFailed, st.Refused, st.Sent, st.SentBytes, st.Received, st.ReceivedBytes)
		return err
	}
	commands["handd"] = func(args []string) error {
		f := flag.NewFlagSet("handd", flag.ContinueOnError)
		socket, limit := f.String("socket", "", ""), f.Int("per-user", 0, "")
		if err := f.Parse(args); err != nil {
			return err
		}
		ln, err := afd.Listen(*socket)
		if err != nil {
			return err
		}
		fmt.Println("listening", *socket)
		return (&afd.Daemon{PerUser: *limit}).Serve(ln)
	}
}

func programConfig(t *testing.T) Config {
	t.Helper()
	if err := seccomp.Supported(); err != nil {
		if aftlstest.Expected("seccomp") {
			t.Fatalf("seccomp user notification is missing, and AFTLS_EXPECT says that it is here: %v", err)
		}
		t.Skipf("seccomp user notification is missing: %v", err)
	}
	cfg := smokeConfig(t)
	exe := cfg.Server[0]
	cfg.Command, cfg.Program = []string{exe}, []string{exe, "bench-program"}
	for _, r := range descriptorRows() {
		cfg.Rows = append(cfg.Rows, r.name)
	}
	return cfg
}

// Every row about programs runs and gives samples of all that it compares.
func TestProgramRowsQuick(t *testing.T) {
	cfg := programConfig(t)
	_, err := exec.LookPath("nginx")
	nginx := err == nil
	if !nginx {
		if aftlstest.Expected("nginx") {
			t.Fatal("nginx is missing, and AFTLS_EXPECT says that it is here")
		}
		cfg.Rows = slices.DeleteFunc(cfg.Rows, func(name string) bool { return name == "nginx" })
	}
	rep, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	type figure struct{ name, unit, peers string }
	run, daemon := []string{peerRun}, []string{peerDaemon}
	three := []string{"AF_TLS", "TCP", "Unix pair"}
	want := map[figure]int{}
	expect := func(name, unit string, peers []string, reps int) {
		want[figure{name, unit, strings.Join(peers, ", ")}] = reps
	}
	for _, call := range []string{" sendmsg", " recvmsg", ", call without rule"} {
		expect("trap"+call, unitMicro, []string{peerRun, "native"}, 2)
	}
	expect("handoff", unitMicro, daemon, 2)
	for _, kind := range []string{"AF_TLS, 10", "AF_TLS, 20", "TCP_ULP, 10", "TCP_ULP, 20"} {
		expect("setup "+kind+" open", unitMicro, run, 2)
	}
	expect("tlsfd bulk", unitSpeed, three, 2)
	expect("tlsfd bulk", unitPerGB, three, 2)
	expect("tlsfd 1 B there and back", unitMicro, three, 2)
	for _, peer := range [][]string{run, daemon} {
		expect("pumpmem idle x 40", unitKB, peer, 1)
		expect("pumpmem busy x 4", unitKB, peer, 1)
	}
	notes := 0
	if nginx {
		notes++ // which nginx it was
		for _, unit := range []string{unitSpeed, unitPerGB} {
			expect("nginx 8 MB x 1", unit, []string{peerRun, peerNginx}, 2)
			expect("nginx 8 MB x 4", unit, []string{peerRun, peerNginx}, 2)
		}
	}
	for _, res := range rep.Results {
		var peers []string
		for _, p := range res.Peers {
			peers = append(peers, p.Peer)
			if len(p.Samples) != res.Reps {
				t.Errorf("%s, %s: %d samples of %d", res.Name, p.Peer, len(p.Samples), res.Reps)
			}
			// Little CPU time is none, and little memory was there before.
			if !(p.Min > 0) && res.Unit != unitPerGB && res.Unit != unitKB {
				t.Errorf("%s, %s: %v", res.Name, p.Peer, p.Samples)
			}
		}
		f := figure{res.Name, res.Unit, strings.Join(peers, ", ")}
		if reps, ok := want[f]; !ok || reps != res.Reps || res.Goal != nil {
			t.Errorf("unexpected result: %+v", res)
		}
		delete(want, f)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
	if len(rep.Notes) != notes {
		t.Errorf("notes: %q", rep.Notes)
	}
	if left := entries(t, cfg.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What a machine lacks is a note and no failure, and never a figure.
func TestProgramRowsWithoutCommand(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"is not there":       func(cfg *Config) { cfg.Command = nil },
		"does not work here": func(cfg *Config) { cfg.Command = []string{"/bin/sh", "-c", "echo no supervisor >&2; exit 1"} },
	} {
		cfg := programConfig(t)
		change(&cfg)
		rep, err := Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Results) > 0 || len(rep.Notes) != len(cfg.Rows) {
			t.Errorf("%s: %+v", what, rep)
		}
		for i, note := range rep.Notes {
			if !strings.HasPrefix(note, cfg.Rows[i]+" was not measured: ") || !strings.Contains(note, what) && !strings.Contains(note, "nginx was not found") {
				t.Errorf("note %q, want %q", note, what)
			}
		}
	}
}

// The supervisor is killed: nothing of what it started is left.
func TestProgramIsEnded(t *testing.T) {
	cfg := programConfig(t)
	r := newRunner(t.Context(), cfg, t.TempDir())
	defer r.watch.Stop()
	c, err := r.program(ProgramConfig{Row: "stream", Kind: kindFamily}, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ask("pingpong 3"); err != nil {
		t.Error(err)
	}
	pid := c.cmd.Process.Pid
	if err := syscall.Kill(-pid, 0); err != nil {
		t.Fatalf("it has no group: %v", err)
	}
	r.killAll()
	if _, err := c.ask("pingpong 3"); err == nil {
		t.Error("a killed program answers")
	}
	c.end()
	for deadline := time.Now().Add(patience); ; { // somebody has to bury them
		if err := syscall.Kill(-pid, 0); err == syscall.ESRCH {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("its group: %v", err)
		}
	}
	if len(r.live) > 0 {
		t.Error("it counts as alive")
	}
}

func TestProgramRefuses(t *testing.T) {
	for want, cfg := range map[string]ProgramConfig{
		"no program":    {Row: "nothing"},
		"no connection": {Row: "stream", Kind: "string"},
		"connect":       {Row: "connections", Kind: kindDaemon, Socket: filepath.Join(t.TempDir(), "none")},
	} {
		if err := Program(cfg, strings.NewReader(""), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
	var out bytes.Buffer
	if err := Program(ProgramConfig{Row: "none"}, strings.NewReader("dance\nbulk much\nclose\n"), &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "ok ") {
		t.Fatalf("%q", lines)
	}
	for _, line := range lines[1:] {
		if _, err := parseAnswer(line); err == nil {
			t.Errorf("answer %q", line)
		}
	}
}

// What arrives is looked at.
func TestStreamIsCompared(t *testing.T) {
	for what, c := range map[string]struct {
		write, read func(fd, n int) error
		n           int
		want        string
	}{
		"the bytes":    {bulkWrite, bulkRead, 3*blockSize + 7, ""},
		"other bytes":  {func(fd, n int) error { return writeAll(fd, make([]byte, n)) }, bulkRead, 100, "is wrong"},
		"fewer bytes":  {func(fd, n int) error { bulkWrite(fd, n-1); return syscall.EPIPE }, bulkRead, 100, "ended at byte"},
		"a byte":       {ping, pong, 300, ""},
		"another byte": {ping, func(fd, n int) error { readByte(fd, make([]byte, 1)); return writeAll(fd, []byte{9}) }, 1, "another byte"},
		"no other end": {ping, func(fd, n int) error { pong(fd, n-1); return syscall.EXDEV }, 2, syscall.EXDEV.Error()},
	} {
		a, b, err := endsOf(kindPair)
		if err != nil {
			t.Fatal(err)
		}
		took, err := bothEnds(a, b, c.n, c.write, c.read)
		if took <= 0 || c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, %v, want %q", what, took, err, c.want)
		}
		syscall.Close(a)
		syscall.Close(b)
	}
}

func TestParseStat(t *testing.T) {
	const line = "4711 (a) b (c)) S 42 4711 4711 0 -1 4194560 5 6 7 8 100 20 3 4 20 0 1 0 99 1000 10"
	p, err := parseStat(line)
	if err != nil || p.pid != 4711 || p.parent != 42 || p.cpu != 1270*time.Millisecond {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"", "4711", "4711 (x", "4711 (x) S 42", "x (y) S 42 1 1 0 -1 1 5 6 7 8 1 1 1 1", "1 (y) S 42 1 1 0 -1 1 5 6 7 8 1 1 x 1"} {
		if p, err := parseStat(bad); err == nil {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

// The CPU time of a process is that of its descendants as well.
func TestTreeTime(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; read x)")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("done\n"))); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	alone, err := parseStat(string(b))
	if err != nil {
		t.Fatal(err)
	}
	if all, err := treeTime(cmd.Process.Pid); err != nil || all <= alone.cpu {
		t.Errorf("%v of all, %v of the first, %v", all, alone.cpu, err)
	}
	in.Close()
	cmd.Wait()
	if all, err := treeTime(cmd.Process.Pid); err == nil {
		t.Errorf("a process that has ended: %v", all)
	}
}

func TestParseRSS(t *testing.T) {
	if kB, err := parseRSS("Name:\tx\nVmRSS:\t    1234 kB\nRssAnon:\t 1 kB\n"); kB != 1234 || err != nil {
		t.Error(kB, err)
	}
	for _, bad := range []string{"", "VmRSS:\tmany kB\n", "VmSize:\t 1 kB\n"} {
		if kB, err := parseRSS(bad); err == nil {
			t.Errorf("%q: %d", bad, kB)
		}
	}
}

func TestNginxSays(t *testing.T) {
	for says, want := range map[string][3]string{
		"nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.22 25 Aug 2026\nTLS SNI support enabled\n":                                        {"nginx/1.22.1", "3.0.22", ""},
		"nginx version: nginx/1.26.3 (x)\nbuilt by gcc 14\nbuilt with OpenSSL 3.5.0 8 Apr 2025 (running with OpenSSL 3.5.7 1 Jan 2026)\nTLS\n": {"nginx/1.26.3", "3.5.0", "3.5.7"},
	} {
		m := nginxSays.FindStringSubmatch(says)
		if m == nil || [3]string(m[1:]) != want {
			t.Errorf("%q: %q", says, m)
		}
	}
	if m := nginxSays.FindStringSubmatch("nginx version: nginx/1.22.1\nbuilt with LibreSSL 3.7\n"); m != nil {
		t.Errorf("%q", m)
	}
}

// Both structures are those of the headers: their sizes, and what is where.
func TestKeyStructures(t *testing.T) {
	secret, info := trafficSecret(ofServer), cryptoInfo(ofServer)
	sent, err := afd.ParseTrafficSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := afd.ParseCryptoInfo(info)
	if err != nil {
		t.Fatal(err)
	}
	if err := sent.Derive(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent.Key, keys.Key) || !bytes.Equal(sent.IV, keys.IV) || sent.Suite != suiteTLS || keys.Suite != suiteTLS || sent.Seq+keys.Seq != 0 {
		t.Error("they are different keys")
	}
	if other := keysOf(ofClient); bytes.Equal(other.Key, keys.Key) {
		t.Error("both directions have one key")
	}
}

// A connection of a crowd is over on both sides when shut returns.
func TestCrowd(t *testing.T) {
	cfg := programConfig(t)
	r := newRunner(t.Context(), cfg, t.TempDir())
	defer r.watch.Stop()
	c, err := r.crowd(ProgramConfig{Kind: kindULP}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.end()
	if err := c.grow(3); err != nil {
		t.Fatal(err)
	}
	first := c.conns[0]
	if err := c.shut(); err != nil || len(c.conns) != 2 {
		t.Errorf("%d connections, %v", len(c.conns), err)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil || first.(*net.TCPConn).Close() == nil {
		t.Error("the connection is open still:", err)
	}
	if us, err := c.open(); err != nil || us <= 0 {
		t.Error(us, err)
	}
	st, err := c.statistics(0)
	if err != nil || st.sockets != 4 || st.refused != 0 {
		t.Error(strconv.Itoa(st.sockets), st, err)
	}
}
