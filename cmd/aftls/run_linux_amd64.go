package main

import (
	"fmt"
	"io"

	"github.com/aftls/aftls/internal/afd"
	"github.com/spf13/cobra"
)

type runFlags struct {
	family int
	stats  bool
	strict bool
}

// asProgram is the hidden command by which this binary becomes the program.
const asProgram = "run-as-program"

func runCommands() []*cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run [flags] -- PROG [ARGS...]",
		Short: "run a program whose TLS sockets are made here",
		Long: `Runs PROG and performs the socket calls by which it makes TLS sockets: those of
AF_TLS (clients/c/aftls.h), and those of programs written for the TLS sockets of
Linux: TCP_ULP "tls", TLS_TX, TLS_RX, record types in control messages. The
kernel needs no TLS, the program no change, and nobody needs to be root.

Reading, writing, sendfile and polling are not trapped: they run at full speed on
a descriptor that this command serves. See docs/run.md for what is exact, what
differs and what is refused. Linux 5.14 or later, amd64.

The exit code is the program's; 126 and 127 as a shell's.`,
		Example: `  aftls run -- nginx -g 'daemon off;'
  aftls run -- ./responder 8443`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runProgram(c.ErrOrStderr(), args, f) },
	}
	c.Flags().IntVar(&f.family, "family", afd.Family, "number of AF_TLS")
	c.Flags().BoolVar(&f.stats, "stats", false, "say at the end what was sealed and opened")
	c.Flags().BoolVar(&f.strict, "strict", false, "answer reading and writing calls on TLS sockets of TCP_ULP errno for errno as Linux does, for the price of a trap each")
	c.Flags().SetInterspersed(false)
	child := &cobra.Command{
		Use:                asProgram,
		Hidden:             true,
		DisableFlagParsing: true,
		Run:                func(_ *cobra.Command, args []string) { afd.BecomeProgram(args) },
	}
	return []*cobra.Command{c, child}
}

func runProgram(stderr io.Writer, args []string, f runFlags) error {
	if f.family <= 0 || f.family > 0xffff {
		return hint(fmt.Errorf("no address family %d", f.family), "choose one from 1 to 65535 that Linux does not use")
	}
	tightHeap()
	s := &afd.Supervisor{Family: f.family, Strict: f.strict, Log: func(format string, args ...any) {
		fmt.Fprintf(stderr, "aftls: "+format+"\n", args...)
	}}
	code, err := s.Run([]string{asProgram}, args)
	if err != nil {
		if c, ok := afd.ProgramError(err); ok {
			fmt.Fprintln(stderr, "aftls:", err)
			return exitCode(c)
		}
		return hint(err, "docs/run.md says what it needs: Linux 5.14 or later, and seccomp user notification that nobody else uses")
	}
	st := s.Stats()
	switch {
	case f.stats:
		fmt.Fprintf(stderr, "aftls: %d TLS sockets, %d failed, %d keys refused; sealed %d records with %d bytes, opened %d with %d\n",
			st.Sockets, st.ConnectionsFailed, st.Refused, st.Sent, st.SentBytes, st.Received, st.ReceivedBytes)
	case st.Sockets == 0:
		fmt.Fprintln(stderr, "aftls: the program made no TLS socket: nothing was encrypted by this command")
		fmt.Fprintln(stderr, "hint: it has to use AF_TLS or kernel TLS itself (nginx: ssl_conf_command Options KTLS); for others see 'aftls handd --help'")
	}
	if code != 0 {
		return exitCode(code)
	}
	return nil
}
