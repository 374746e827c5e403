package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

type tapClientFlags struct {
	socket, write string
	snapLen       int
}

func tapCommand() *cobra.Command {
	var f tapClientFlags
	c := &cobra.Command{
		Use:   "tap [EXPRESSION]",
		Short: "capture the plaintext of a server that runs",
		Long: `Captures the plaintext of all connections of a server that was started with
--tap-socket, as a pcapng file on stdout or in a file of mode 0600, until SIGINT or
SIGTERM, or until the server ends. Packets are synthetic: IP and TCP headers with the
addresses of the connection, and one record as payload.

EXPRESSION says what to capture, in the language of tcpdump as far as it is about
TCP connections, with data[OFFSET:SIZE] for the plaintext; or it is the output of
tcpdump -y RAW -ddd. A server has one tap at a time, and says so in its log.`,
		Example: "  aftls serve --tap-socket /run/user/1000/tap.sock ./public\n" +
			"  aftls tap --socket /run/user/1000/tap.sock 'host 192.0.2.1 and len > 100' | tcpdump -nr -",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			return tap(c.Context(), c.OutOrStdout(), f, strings.Join(args, " "))
		},
	}
	c.Flags().StringVar(&f.socket, "socket", "", "socket of the server (its --tap-socket)")
	c.MarkFlagRequired("socket")
	c.Flags().StringVarP(&f.write, "write", "w", "-", "file to write, which must not exist; - is stdout")
	c.Flags().IntVar(&f.snapLen, "snaplen", 0, "bytes to keep of each packet (default: all)")
	return c
}

func tap(ctx context.Context, stdout io.Writer, f tapClientFlags, expression string) (err error) {
	if _, err := tapOptions(expression, f.snapLen); err != nil { // before a file is made
		return err
	}
	// Once the server says that it captures, a signal ends the file as it should.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	conn, err := net.Dial("unix", f.socket)
	if err != nil {
		return hint(err, "start the server with --tap-socket %s, as the same user", f.socket)
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	if err := askServer(conn, r, watchRequest{Tap: &tapRequest{expression, f.snapLen}}); err != nil {
		return err
	}
	out := stdout
	if f.write != "-" {
		file, ferr := os.OpenFile(f.write, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if ferr != nil {
			return hint(ferr, "name a file that does not exist, in a folder that you may write to")
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out = file
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-signals:
		case <-ctx.Done():
		case <-done:
			return
		}
		// What is captured still comes, and then the end.
		if conn.(*net.UnixConn).CloseWrite() != nil {
			conn.Close()
		}
		select {
		case <-signals:
			conn.Close()
		case <-done:
		}
	}()
	_, err = io.Copy(out, r)
	return err
}

// askServer sends a request to the socket of a server and reads the answer. What
// follows the answer is next in r.
func askServer(conn net.Conn, r *bufio.Reader, request watchRequest) error {
	sent := json.NewEncoder(conn).Encode(request) // if that fails there may be an answer why
	line, err := r.ReadBytes('\n')
	var answer watchAnswer
	if err == nil {
		err = json.Unmarshal(line, &answer)
	}
	if err = cmp.Or(err, sent); err != nil && answer.Error == "" {
		return hint(fmt.Errorf("the server did not answer: %w", err), "see its log")
	}
	if answer.Error == "" {
		return nil
	}
	if answer.Hint == "" {
		return errors.New(answer.Error)
	}
	return hint(errors.New(answer.Error), "%s", answer.Hint)
}
