//go:build !linux

package main

import "github.com/spf13/cobra"

// descriptorCommands are the commands for programs that hold descriptors: they
// need Linux.
func descriptorCommands() []*cobra.Command { return nil }
