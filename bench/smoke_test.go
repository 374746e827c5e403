//go:build linux

package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
)

// commands are what else this binary is where Run starts it so.
var commands = map[string]func(args []string) error{}

// TestMain makes this binary a server where Run starts it as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && commands[os.Args[1]] != nil {
		if err := commands[os.Args[1]](os.Args[2:]); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == "bench-server" {
		var cfg ServerConfig
		f := flag.NewFlagSet("bench-server", flag.ExitOnError)
		f.StringVar(&cfg.Peer, "peer", "", "")
		f.StringVar(&cfg.Row, "row", "", "")
		f.StringVar(&cfg.Cert, "cert", "", "")
		f.StringVar(&cfg.Key, "key", "", "")
		f.StringVar(&cfg.Dir, "dir", "", "")
		f.Parse(os.Args[2:])
		if err := Serve(cfg, os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func smokeConfig(t *testing.T) Config {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{Quick: true, Dir: t.TempDir(), Server: []string{exe, "bench-server"}}
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

// Every row runs and gives samples of every peer. Those about programs, messages
// and datagrams have tests of their own.
func TestRunQuick(t *testing.T) {
	cfg := smokeConfig(t)
	cfg.Rows = Rows()[:len(Rows())-len(descriptorRows())-len(messageRows())-len(datagramRows())]
	cfg.Profile = filepath.Join(t.TempDir(), "profiles")
	rep, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	figures := map[string]int{
		"files 1 MB": quick.reps, "files 8 MB": quick.reps, "send": quick.reps, "receive": quick.receiveReps,
		"echo 1000 B x 16": quick.reps, "idle x 64": quick.idleReps, "idle x 64, after GC": quick.idleReps,
		"handshakes full": quick.pairs, "handshakes resumed": quick.pairs,
		"first byte": quick.firstByteReps,
		"proxy down": quick.reps, "proxy upload": quick.receiveReps, "proxy 1000 B x 16": quick.reps,
		"h2 down": quick.reps, "h2 upload": quick.reps, "h2 1000 B x 16": quick.reps,
		"grpc down": quick.reps, "grpc upload": quick.reps, "grpc 1000 B x 16": quick.reps,
	}
	// Of the other programs some are here.
	others := 0
	for _, note := range rep.Notes {
		name, isProxy := strings.CutPrefix(note, "proxy: ")
		switch missing := strings.Index(name, " was not measured"); {
		case !isProxy:
			t.Errorf("note: %q", note)
		case missing < 0:
			others++
		case aftlstest.Expected(strings.ReplaceAll(name[:missing], " ", "-")):
			t.Errorf("AFTLS_EXPECT says that it is here: %s", note)
		}
	}
	for _, res := range rep.Results {
		reps, ok := figures[res.Name]
		if !ok {
			t.Errorf("unexpected result %q", res.Name)
		}
		delete(figures, res.Name)
		of := len(peers)
		if strings.HasPrefix(res.Name, "proxy") {
			of += others
		}
		if len(res.Peers) != of || res.Reps != reps || res.Goal != nil {
			t.Errorf("%s: %d peers, %d repetitions, goal %v", res.Name, len(res.Peers), res.Reps, res.Goal)
		}
		for _, p := range res.Peers {
			if len(p.Samples) != reps {
				t.Errorf("%s, %s: %d samples of %d", res.Name, p.Peer, len(p.Samples), reps)
			}
			// A few connections may fit into memory that was there before, and the
			// time of other programs is counted in steps of 10 ms.
			if !(p.Min > 0) && !strings.HasPrefix(res.Name, "idle") && slices.Contains(peerNames(), p.Peer) {
				t.Errorf("%s, %s: %v", res.Name, p.Peer, p.Samples)
			}
		}
	}
	if len(figures) > 0 {
		t.Errorf("missing: %v", figures)
	}
	if m := rep.Machine; m.Suite == "" || m.ServerGOMAXPROCS < 1 || m.CPUs < 1 {
		t.Errorf("machine: %+v", m)
	}
	profiles := strings.Join(entries(t, cfg.Profile), " ")
	for _, want := range []string{"files-1-MB.aftls.cpu.pprof", "echo.crypto-tls.cpu.pprof", "handshakes-resumed.aftls.cpu.pprof", "idle.aftls.heap.pprof"} {
		if !strings.Contains(profiles, want) {
			t.Errorf("no %s in %s", want, profiles)
		}
	}
	if left := entries(t, cfg.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRunChoosesRows(t *testing.T) {
	cfg := smokeConfig(t)
	cfg.Rows = []string{"echo"}
	cfg.Reps = 1
	rep, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Results) != 1 || rep.Results[0].Name != "echo 1000 B x 16" || rep.Results[0].Reps != 1 {
		t.Errorf("%+v", rep.Results)
	}
	cfg.Rows = []string{"echo", "eggs"}
	if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), `no row "eggs"`) {
		t.Errorf("row eggs: %v", err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	cfg := smokeConfig(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cfg.Progress = func(row string, rep, reps int) {
		if strings.HasPrefix(row, "echo") && rep == 1 {
			cancel(why)
		}
	}
	cfg.Rows = []string{"echo", "send"}
	rep, err := Run(ctx, cfg)
	if !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if rep == nil || len(rep.Results) != 1 || rep.Results[0].Name != "send" || len(rep.Notes) != 1 || !strings.Contains(rep.Notes[0], "during echo") {
		t.Errorf("what was measured before was not kept: %+v", rep)
	}
	if left := entries(t, cfg.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRunServerDoesNotStart(t *testing.T) {
	cfg := smokeConfig(t)
	cfg.Server = []string{"/bin/sh", "-c", "echo error out of order"}
	cfg.Rows = []string{"send"}
	if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "server: out of order") {
		t.Errorf("got %v", err)
	}
}

// What the server sends first is compared with the file, byte by byte.
func TestFilesAreCompared(t *testing.T) {
	cfg := smokeConfig(t)
	dir := t.TempDir()
	r := newRunner(t.Context(), cfg, dir)
	defer r.watch.Stop()
	var err error
	if r.cert, err = makeCertificate(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.www(), 0o700); err != nil {
		t.Fatal(err)
	}
	const size = 100_000
	sum, err := writeFile(filepath.Join(r.www(), "f"), size)
	if err != nil {
		t.Fatal(err)
	}
	servers, err := r.startAll("files")
	if err != nil {
		t.Fatal(err)
	}
	defer endAll(servers)
	for i, s := range servers {
		// A connection on which ciphertext was skipped can be read no more:
		// each try has its own.
		get := func(path string, size int64, sum [sha256.Size]byte, short int64) error {
			ls, err := r.links(s, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer closeLinks(ls)
			g := &getter{link: ls[0], path: path, b: make([]byte, clientBuffer)}
			if err := g.first(size, sum); err != nil {
				return err
			}
			g.total -= short
			return g.again(2)
		}
		for what, c := range map[string]struct {
			err  error
			want string
		}{
			"the file":     {get("/f", size, sum, 0), ""},
			"another file": {get("/f", size, [sha256.Size]byte{}, 0), "is not the file"},
			"another size": {get("/f", size+1, sum, 0), "100000 bytes"},
			"no file":      {get("/g", size, sum, 0), "404"},
			"a longer one": {get("/f", size, sum, 1), "the server sent"},
		} {
			if c.want == "" && c.err != nil || c.want != "" && (c.err == nil || !strings.Contains(c.err.Error(), c.want)) {
				t.Errorf("%s, %s: %v, want %q", peers[i].name, what, c.err, c.want)
			}
		}
	}
}
