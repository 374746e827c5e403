//go:build !unix

package soft

import "net"

// Short is a connection as it is: what it does elsewhere cannot be done here.
type Short struct{ net.Conn }

// NewShort returns c as a Short. c stays the caller's to close.
func NewShort(c net.Conn) *Short { return &Short{c} }
