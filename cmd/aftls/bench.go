package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/aftls/aftls/bench"
	"github.com/spf13/cobra"
)

type benchFlags struct {
	reps         int
	quick, json  bool
	profile, dir string
	html         string
	placement    string
}

func benchCommand() *cobra.Command {
	var f benchFlags
	c := &cobra.Command{
		Use:   "bench [ROW...]",
		Short: "measure aftls and crypto/tls side by side",
		Long: `Measures what aftls costs the server, and what crypto/tls costs in its place:
CPU time (user and system) for data, messages and handshakes, resident memory
for idle connections, and how long a client waits for a first byte. Lower is
better, but for GB/s. The rows trap, handoff, setup, tlsfd, nginx and pumpmem are
about 'aftls run' and 'aftls handd', and what programs would do without; messages
is about package kcm, and other ways to share work; datagrams is about DTLS, beside
pion/dtls; proxy also beside nginx (stream), haproxy and hitch, where they are.

Rows: ` + strings.Join(bench.Rows(), ", ") + ` (default: all).

Servers are processes of their own, on one CPU (in firstbyte and the rows just
named on both); the client is on another. Every repetition measures both, in changing order. The
ratio is the median of those within each repetition, with a 95 % bootstrap
interval. The table goes to stdout, progress to stderr.`,
		Example:   "  aftls bench\n  aftls bench --reps 31 send receive\n  aftls bench --json > bench.json\n  aftls bench --html bench.html proxy",
		ValidArgs: bench.Rows(),
		Args: func(c *cobra.Command, args []string) error {
			return hint(cobra.OnlyValidArgs(c, args), "rows are: %s", strings.Join(bench.Rows(), ", "))
		},
		RunE: func(c *cobra.Command, args []string) error {
			if f.reps < 0 {
				return hint(fmt.Errorf("%d repetitions", f.reps), "choose at least one with --reps, or leave it out")
			}
			return runBench(c, args, f)
		},
	}
	c.Flags().IntVar(&f.reps, "reps", 0, "repetitions of every row (default: the row's own number)")
	c.Flags().BoolVar(&f.quick, "quick", false, "tiny amounts, to see that it works")
	c.Flags().BoolVar(&f.json, "json", false, "print the report as JSON, with all samples")
	c.Flags().StringVar(&f.html, "html", "", "write a page with pictures to this file, too")
	c.MarkFlagFilename("html", "html")
	c.Flags().StringVar(&f.profile, "profile", "", "folder for CPU profiles of the servers, by row and peer")
	c.MarkFlagDirname("profile")
	c.Flags().StringVar(&f.dir, "dir", "", "folder for temporary files (default: the system's)")
	c.MarkFlagDirname("dir")
	c.Flags().StringVar(&f.placement, "placement", "", "")
	c.Flags().MarkHidden("placement")
	c.AddCommand(benchServerCommand(), benchProgramCommand())
	return c
}

func runBench(c *cobra.Command, args []string, f benchFlags) error {
	place := bench.Place()
	switch f.placement {
	case "none":
		place = bench.Placement{}
	case "":
		if place.Taskset == "" {
			break
		}
		// From here on this is the client, on its CPU.
		argv := []string{
			"bench", "--placement=" + place.String(), fmt.Sprintf("--reps=%d", f.reps), fmt.Sprintf("--quick=%t", f.quick),
			fmt.Sprintf("--json=%t", f.json), "--profile=" + f.profile, "--dir=" + f.dir, "--html=" + f.html,
		}
		place = bench.Placement{Why: place.Become(append(argv, args...)...).Error()}
	default:
		var err error
		if place, err = bench.ParsePlacement(f.placement); err != nil {
			return err
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	tell, done := progress(c.ErrOrStderr())
	rep, err := bench.Run(ctx, bench.Config{
		Rows: args, Reps: f.reps, Quick: f.quick, Dir: f.dir, Profile: f.profile,
		Server: []string{exe, "bench", "server"}, Command: []string{exe}, Program: []string{exe, "bench", "program"},
		Placement: place,
		Progress:  tell,
	})
	done()
	if rep != nil { // of a run that was interrupted, too
		if werr := writeReport(rep, c.OutOrStdout(), f); werr != nil {
			return werr
		}
	}
	if ctx.Err() != nil && c.Context().Err() == nil {
		return hint(context.Cause(ctx), "what was measured before is kept; the rest needs another run")
	}
	return hint(err, "the lines above, if any, are those of the servers; try one row alone")
}

func writeReport(rep *bench.Report, w io.Writer, f benchFlags) error {
	if f.html != "" {
		var page bytes.Buffer
		if err := rep.WriteHTML(&page); err != nil {
			return err
		}
		if err := os.WriteFile(f.html, page.Bytes(), 0o644); err != nil {
			return hint(err, "--html is a file that can be written")
		}
	}
	if f.json {
		return rep.WriteJSON(w)
	}
	return rep.WriteTable(w)
}

// progress writes one line over and over on a terminal, and a line for each
// row elsewhere. done ends it.
func progress(w io.Writer) (tell func(row string, rep, reps int), done func()) {
	terminal := false
	if f, ok := w.(*os.File); ok {
		st, err := f.Stat()
		terminal = err == nil && st.Mode()&os.ModeCharDevice != 0
	}
	if terminal {
		return func(row string, rep, reps int) { fmt.Fprintf(w, "\r\x1b[K%s: %d of %d", row, rep, reps) },
			func() { fmt.Fprint(w, "\r\x1b[K") }
	}
	last := ""
	return func(row string, _, reps int) {
		if row != last {
			fmt.Fprintf(w, "%s: %d repetitions\n", row, reps)
		}
		last = row
	}, func() {}
}

// benchServerCommand is the process of a server. It is not for people.
func benchServerCommand() *cobra.Command {
	var cfg bench.ServerConfig
	c := &cobra.Command{
		Use:    "server",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return bench.Serve(cfg, c.InOrStdin(), c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&cfg.Peer, "peer", "", "")
	c.Flags().StringVar(&cfg.Row, "row", "", "")
	c.Flags().StringVar(&cfg.Cert, "cert", "", "")
	c.Flags().StringVar(&cfg.Key, "key", "", "")
	c.Flags().StringVar(&cfg.Dir, "dir", "", "")
	return c
}

// benchProgramCommand is a program of the rows about programs. It is not for
// people.
func benchProgramCommand() *cobra.Command {
	var cfg bench.ProgramConfig
	c := &cobra.Command{
		Use:    "program",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return bench.Program(cfg, c.InOrStdin(), c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&cfg.Row, "row", "", "")
	c.Flags().StringVar(&cfg.Kind, "kind", "", "")
	c.Flags().StringVar(&cfg.Socket, "socket", "", "")
	return c
}
