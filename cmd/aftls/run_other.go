//go:build linux && !amd64

package main

import "github.com/spf13/cobra"

// runCommands need the system calls of amd64.
func runCommands() []*cobra.Command { return nil }
