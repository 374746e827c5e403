package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"os/exec"
	"time"

	"github.com/aftls/aftls"
	"github.com/spf13/cobra"
)

// maxPrograms is how many programs, or echoes, 'aftls listen' runs at a time.
// Further clients wait.
const maxPrograms = 128

type listenFlags struct {
	listen     string
	echo, exec bool
	datagram   datagramFlags
	serverFlags
}

func listenCommand() *cobra.Command {
	var f listenFlags
	c := &cobra.Command{
		Use:   "listen {--echo | --exec CMD [ARG...]}",
		Short: "give each TLS client a program of its own, or its own bytes back",
		Long: `Accepts TLS connections. With --exec every client gets a program of its own, which
reads and writes plaintext on its standard input and output: a Unix socket, one
for both, that ends cleanly only after the client's close_notify. What is behind
--exec is the program and its arguments. With --echo every client gets back what
it sends. When ready, one line goes to stdout: "listening ADDR". The log goes to
stderr, which the programs share.

Up to 128 clients are served at a time; further ones wait. Without --cert a
development certificate is made, as by 'aftls serve'.

SIGINT or SIGTERM ends it after the connections under way, a second one at once.
SIGHUP reads the certificate again. --exec needs Linux.

With --dtls every client is a DTLS 1.2 association on one UDP socket. A program's
standard input and output are then a Unix socket of messages (SOCK_SEQPACKET): what
it reads or writes with one call is one datagram.`,
		Example: "  aftls listen --listen 127.0.0.1:7007 --echo\n  aftls listen --listen :7007 --cert c.pem --key k.pem --exec /usr/bin/wc -c",
		Args: func(c *cobra.Command, args []string) error {
			if f.exec && len(args) == 0 {
				return hint(errors.New("--exec without a program"), "put the program and its arguments behind --exec, at the end of the line")
			}
			if f.echo && len(args) > 0 {
				return hint(errors.New("--echo takes no program"), "use --exec to run one")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.datagram.check(c); err != nil {
				return err
			}
			if f.datagram.dtls {
				return runListenDatagram(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), args, f)
			}
			return runListen(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), args, f)
		},
	}
	c.Flags().SetInterspersed(false) // what is behind the program is the program's
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:8443", "address to listen on, or unix:PATH; port 0 takes a free one")
	c.Flags().BoolVar(&f.echo, "echo", false, "send back what comes")
	c.Flags().BoolVar(&f.exec, "exec", false, "run the program that follows for every connection")
	c.MarkFlagsOneRequired("echo", "exec")
	c.MarkFlagsMutuallyExclusive("echo", "exec")
	f.serverFlags.add(c)
	f.datagram.add(c, false)
	return c
}

// prepare makes the logger, and finds the program that --exec names.
func (f *listenFlags) prepare(stderr io.Writer, program []string) (*slog.Logger, error) {
	handler, err := logHandler(f.logFormat, stderr)
	if err != nil {
		return nil, err
	}
	if f.exec {
		if program[0], err = exec.LookPath(program[0]); err != nil {
			return nil, hint(err, "name a program that exists and that you may run")
		}
	}
	return slog.New(handler), nil
}

func runListen(ctx context.Context, stdout, stderr io.Writer, program []string, f listenFlags) error {
	logger, err := f.prepare(stderr, program)
	if err != nil {
		return err
	}
	certs, err := newCertificates(f.cert, f.key, stderr)
	if err != nil {
		return err
	}
	config := &tls.Config{GetCertificate: certs.get, MinVersion: uint16(f.minVersion)}
	s, err := listenStreams(f.listen, config, f.provider, observeFlags{}, newRoster("listen", logger))
	if err != nil {
		return err
	}
	s.limit = make(chan struct{}, maxPrograms)
	s.handle = func(c *aftls.Conn) {
		since := time.Now()
		if f.echo {
			n, err := echo(c)
			ended(logger, c, since, err, "bytes", n)
			return
		}
		err := runFor(c, program, stderr)
		ended(logger, c, since, err, "program", program[0])
	}
	return s.serve(ctx, stdout, certs, logger)
}

// echo sends back what comes, up to the client's end.
func echo(c *aftls.Conn) (int64, error) {
	n, err := c.WriteTo(c)
	if err == nil {
		err = c.CloseWrite()
	}
	if err != nil {
		c.NetConn().Close() // the client's stream is cut off too, truly
	}
	return n, errors.Join(err, ignoreClosed(c.Close()))
}

// runFor runs the program with c as its standard input and output, and waits
// for it. What it wrote last may still be on its way then.
func runFor(c *aftls.Conn, program []string, stderr io.Writer) error {
	end, err := c.PlaintextFile()
	if err != nil {
		c.Close()
		return hint(err, "--exec needs Linux")
	}
	defer end.Close()
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = end, end, stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	end.Close() // whoever holds it hides the program's close
	return cmd.Wait()
}
