//go:build !linux

package aftls

import (
	"errors"
	"os"
)

// PlaintextFile needs Linux: the error is errors.ErrUnsupported, and the Conn
// goes on.
func (c *Conn) PlaintextFile() (*os.File, error) {
	return nil, opError("plaintext", c.NetConn(), errors.ErrUnsupported)
}
