//go:build !(linux && amd64)

package bench

import (
	"errors"
	"io"
)

// descriptorRows are there by name everywhere.
func descriptorRows() []row {
	var rows []row
	for _, name := range []string{"trap", "handoff", "setup", "tlsfd", "nginx", "pumpmem"} {
		rows = append(rows, row{name, func(*runner) error { return &errMissing{"'aftls run' needs Linux on amd64"} }})
	}
	return rows
}

// Program is the other side of the rows about programs: see [ProgramConfig].
func Program(ProgramConfig, io.Reader, io.Writer) error {
	return errors.New("there is no such program but for Linux on amd64")
}
