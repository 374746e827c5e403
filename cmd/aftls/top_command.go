package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// topInterval is how often the table is drawn.
const topInterval = time.Second

// kernelProvider is the name of the provider that needs no excuse.
const kernelProvider = "kernel"

type topFlags struct {
	socket string
	json   bool
}

func topCommand() *cobra.Command {
	var f topFlags
	c := &cobra.Command{
		Use:   "top",
		Short: "show the connections of a server that runs",
		Long: `Shows the connections of a server that was started with --top-socket or
--tap-socket, the busiest first, every second until SIGINT: peer, age, version and
suite, who does the record work of each direction, bytes, records and rekeys, and why
it is not in the kernel. Where stdout is no terminal it shows them once.

--json writes them once and as a line of JSON, all of them.`,
		Example: "  aftls proxy --to 127.0.0.1:8080 --top-socket /run/user/1000/top.sock\n" +
			"  aftls top --socket /run/user/1000/top.sock",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return top(c.Context(), c.OutOrStdout(), f)
		},
	}
	c.Flags().StringVar(&f.socket, "socket", "", "socket of the server (its --top-socket or --tap-socket)")
	c.MarkFlagRequired("socket")
	c.Flags().BoolVar(&f.json, "json", false, "one line of JSON, once")
	return c
}

func top(ctx context.Context, stdout io.Writer, f topFlags) error {
	if f.json {
		return askTop(f.socket, func(r *bufio.Reader) error { return copyLine(stdout, r) })
	}
	var t table
	file, ok := stdout.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		s, err := takeSnapshot(f.socket)
		if err != nil {
			return err
		}
		_, err = stdout.Write(t.draw(s, 0, 0))
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := takeSnapshot(f.socket) // an error is better seen on the screen that stays
	if err != nil {
		return err
	}
	const other, back = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l" // screen, and the cursor
	io.WriteString(file, other)
	defer io.WriteString(file, back)
	tick := time.NewTicker(topInterval)
	defer tick.Stop()
	for {
		width, height, err := term.GetSize(int(file.Fd()))
		if err != nil || width <= 0 || height <= 0 {
			width, height = 80, 24
		}
		const home, rest = "\x1b[H", "\x1b[J"
		if _, err := file.WriteString(home + string(t.draw(s, width, height)) + rest); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if s, err = takeSnapshot(f.socket); err != nil {
			return err
		}
	}
}

// askTop asks the server at socket for a snapshot, which read reads.
func askTop(socket string, read func(*bufio.Reader) error) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return hint(err, "start the server with --top-socket %s, as the same user", socket)
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	if err := askServer(conn, r, watchRequest{Top: new(topRequest)}); err != nil {
		return err
	}
	return hint(read(r), "the server has ended; see its log")
}

func takeSnapshot(socket string) (s topSnapshot, err error) {
	err = askTop(socket, func(r *bufio.Reader) error {
		line, err := r.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &s)
		}
		return err
	})
	return s, err
}

// copyLine copies up to the end of a line.
func copyLine(w io.Writer, r *bufio.Reader) error {
	for {
		part, err := r.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			return err
		}
		if _, werr := w.Write(part); werr != nil || err == nil {
			return werr
		}
	}
}

// table draws one snapshot after the other.
type table struct {
	at    time.Time
	bytes map[uint64][2]uint64 // of each connection, at that time
}

// draw returns the table, with rows and columns that fit; 0 is no limit.
func (t *table) draw(s topSnapshot, width, height int) []byte {
	now := time.Now()
	seconds := now.Sub(t.at).Seconds()
	type line struct {
		topRow
		sent, received float64 // bytes a second
	}
	lines := make([]line, 0, len(s.Connections))
	last := t.bytes
	t.at, t.bytes = now, make(map[uint64][2]uint64, len(s.Connections))
	var sent, received float64
	for _, row := range s.Connections {
		t.bytes[row.ID] = [2]uint64{row.Send.Bytes, row.Receive.Bytes}
		l := line{topRow: row}
		if was, ok := last[row.ID]; ok && seconds > 0 {
			l.sent = float64(row.Send.Bytes-was[0]) / seconds
			l.received = float64(row.Receive.Bytes-was[1]) / seconds
		}
		sent, received = sent+l.sent, received+l.received
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(cmp.Compare(b.sent+b.received, a.sent+a.received),
			cmp.Compare(b.Send.Bytes+b.Receive.Bytes, a.Send.Bytes+a.Receive.Bytes), cmp.Compare(a.ID, b.ID))
	})
	var out strings.Builder
	fmt.Fprintf(&out, "aftls %s, process %d: %d connections, %d so far; sends %s/s, receives %s/s\n",
		s.Command, s.PID, len(lines), s.Total, size(sent), size(received))
	const around = 2 // lines that are no connections
	if height > 0 {
		lines = lines[:min(len(lines), max(height-around, 0))]
	}
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PEER\tAGE\tVERSION\tSUITE\tSEND\tRECEIVE\tSENT\tRECEIVED\tRECORDS\tREKEYS\tNOT IN THE KERNEL BECAUSE")
	for _, l := range lines {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d/%d\t%d/%d\t%s\n",
			printable(l.Peer), (time.Duration(l.Age) * time.Second).String(), l.Version, strings.TrimPrefix(l.Suite, "TLS_"),
			l.Send.Provider, l.Receive.Provider, size(float64(l.Send.Bytes)), size(float64(l.Receive.Bytes)),
			l.Send.Records, l.Receive.Records, l.Send.Rekeys, l.Receive.Rekeys, printable(l.why()))
	}
	w.Flush()
	if width == 0 {
		return []byte(out.String())
	}
	// On a screen no line may wrap, and none is left of what was there.
	const rest = "\x1b[K"
	var cut strings.Builder
	for i, l := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
		if i > 0 {
			cut.WriteString("\r\n")
		}
		if r := []rune(l); len(r) > width {
			l = string(r[:width])
		}
		cut.WriteString(l + rest)
	}
	return []byte(cut.String())
}

// why says why the connection is not in the kernel.
func (r topRow) why() string {
	switch send, receive := r.Send.Why, r.Receive.Why; {
	case r.Failed != "":
		return "it failed: " + r.Failed
	case send == receive || receive == "":
		return send
	case send == "":
		return "receive: " + receive
	default:
		return "send: " + send + "; receive: " + receive
	}
}

// printable replaces what would do something to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// size is a number of bytes to read.
func size(n float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if n < 1000 {
			if unit == "B" || n >= 100 {
				return fmt.Sprintf("%.0f %s", n, unit)
			}
			return fmt.Sprintf("%.1f %s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.1f TB", n)
}
