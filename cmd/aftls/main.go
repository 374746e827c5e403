// Command aftls serves, connects and measures TLS sockets.
//
// Manners: stdout carries data and nothing else; talk goes to stderr; an error
// is one lower-case line, followed by a "hint:" line that says what to do.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// hinted is an error with a way out.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// exitCode is an error that only carries the exit code of a program.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// hint adds what to do to err; nil stays nil.
func hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err, fmt.Sprintf(format, args...)}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "aftls",
		Short:         "TLS connections as sockets",
		Long:          "aftls makes a TLS connection a socket: the handshake stays in crypto/tls,\nthe records are read, written and fed from files by an engine of its own.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(serveCommand(), connectCommand(), listenCommand(), proxyCommand(), benchCommand(), tapCommand(), topCommand(), doctorCommand())
	root.AddCommand(descriptorCommands()...)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return hint(err, "see '%s --help'", c.CommandPath())
	})
	return root
}

func main() { os.Exit(run(context.Background(), os.Args[1:])) }

// run is main with an exit code for its result.
func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	// cobra puts its suggestions for a misspelt command behind the error.
	line, suggestion, _ := strings.Cut(err.Error(), "\n")
	fmt.Fprintln(os.Stderr, "aftls:", line)
	if suggestion != "" {
		fmt.Fprintln(os.Stderr, "hint:", strings.ToLower(strings.Join(strings.Fields(suggestion), " ")))
	} else if h, ok := errors.AsType[*hinted](err); ok {
		fmt.Fprintln(os.Stderr, "hint:", h.hint)
	} else {
		fmt.Fprintln(os.Stderr, "hint: see 'aftls --help'")
	}
	return 1
}
