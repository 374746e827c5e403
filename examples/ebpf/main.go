// Command ebpf has the kernel decide about plaintext: a TLS connection ends in a
// descriptor (Conn.PlaintextFile), and an eBPF program on it drops, redirects or
// passes what comes, before the program that holds the descriptor reads it. Run it
// as root on Linux 5.15 or later:
//
//	go run ./examples/ebpf
//
// Linux refuses sockmap programs on its own TLS sockets from 7.2 on. A plaintext
// end is a Unix socket, and there they work.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := demonstrate(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "ebpf:", err)
		os.Exit(1)
	}
}
