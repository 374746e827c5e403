//go:build !linux

package bench

import (
	"errors"
	"io"
)

// messageRows are there by name everywhere.
func messageRows() []row {
	return []row{{rowMessages, func(*runner) error { return &errMissing{"its threads wait in epoll, so it needs Linux"} }}}
}

func serveMessages(ServerConfig, io.Reader, io.Writer) error {
	return errors.New("there is no such server but for Linux")
}
