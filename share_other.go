//go:build !linux

package aftls

import (
	"errors"
	"os"
)

// ShareKernelFile is for Linux: elsewhere the error is errors.ErrUnsupported.
func (c *Conn) ShareKernelFile() (*os.File, error) {
	return nil, opError("share", c.NetConn(), errors.ErrUnsupported)
}
