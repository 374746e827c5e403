package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/aftls/aftls/internal/afd"
	"github.com/spf13/cobra"
)

// descriptorCommands are the commands for programs that hold descriptors.
func descriptorCommands() []*cobra.Command {
	return append(runCommands(), handdCommand())
}

type handdFlags struct {
	socket  string
	perUser int
	watch   watchFlags
}

func handdCommand() *cobra.Command {
	var f handdFlags
	c := &cobra.Command{
		Use:   "handd",
		Short: "give programs TLS sockets for the keys of their handshakes",
		Long: `A program in any language that did a TLS handshake gives its keys and its TCP
socket (of DTLS its UDP socket) to this daemon, and gets a descriptor on which it reads and writes
plaintext. The protocol is one message each way: see docs/handoff.md.

The socket is made with mode 0600: its owner and root may use it. Started by
systemd (LISTEN_FDS) it takes the SOCK_SEQPACKET socket that it is given. When
ready, one line goes to stdout: "listening PATH".

SIGINT or SIGTERM takes no more requests and waits until the connections that
were handed over have ended; a second signal ends them: their programs see
errors.

--tap-socket makes the plaintext of all connections readable for whoever can open
that socket, which is made with mode 0600. It is off by default, and the log says
when it is on.`,
		Example: "  aftls handd --socket /run/user/1000/aftls.sock",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return handd(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), f)
		},
	}
	c.Flags().StringVar(&f.socket, "socket", handdSocket(), "Unix socket to listen on")
	c.Flags().IntVar(&f.perUser, "per-user", afd.DefaultPerUser, "how many connections each user may hand over at a time")
	f.watch.add(c)
	return c
}

// handdSocket is where clients look first.
func handdSocket() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = "/run"
	}
	return filepath.Join(dir, "aftls.sock")
}

func handd(ctx context.Context, stdout, stderr io.Writer, f handdFlags) error {
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	tightHeap()
	if err := afd.Undumpable(); err != nil {
		return hint(err, "the daemon does not run where others can read its memory")
	}
	ln, err := activated()
	if ln == nil && err == nil {
		ln, err = afd.Listen(f.socket)
	}
	if err != nil {
		return hint(err, "choose another socket with --socket")
	}
	roster := newRoster("handd", logger)
	unwatch, err := f.watch.open(roster)
	if err != nil {
		ln.Close()
		return err
	}
	defer unwatch()
	d := &afd.Daemon{
		PerUser: f.perUser, Log: func(format string, args ...any) { logger.Info(fmt.Sprintf(format, args...)) },
		Began: func(a *afd.Association) { roster.begin(a) }, Ended: func(a *afd.Association) { roster.end(a) },
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	served := make(chan error, 1)
	go func() { served <- d.Serve(ln) }()
	fmt.Fprintf(stdout, "listening %s\n", ln.Addr())
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		d.Close()
		<-served
		return nil
	case sig := <-signals:
		logger.Info("draining", "signal", sig.String())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { <-signals; cancel() }()
	err = d.Shutdown(ctx)
	d.Close()
	<-served
	if err != nil {
		return hint(errors.New("ended at once by a second signal"), "connections under way were cut off")
	}
	return nil
}

// activated returns the socket of systemd (sd_listen_fds(3)), or nil.
func activated() (*net.UnixListener, error) {
	pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID"))
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if pid != os.Getpid() || n == 0 {
		return nil, nil
	}
	if n != 1 {
		return nil, hint(fmt.Errorf("systemd gave %d sockets", n), "the unit's socket file names one ListenSequentialPacket")
	}
	const first = 3
	file := os.NewFile(first, "LISTEN_FDS")
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	ln, ok := l.(*net.UnixListener)
	if !ok || ln.Addr().Network() != "unixpacket" {
		l.Close()
		return nil, errors.New("systemd's socket is not a Unix SOCK_SEQPACKET one")
	}
	return ln, nil
}
