package kernel

import (
	"io"

	"golang.org/x/sys/unix"
)

// pipeSize is room for a record in as many pieces as a socket may have it: a piece
// takes a page, whatever its size.
const pipeSize = 256 << 10

// pipe is what splice(2) needs between two other descriptors. It holds nothing
// between two calls.
type pipe struct{ r, w int }

func newPipe() (*pipe, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, pipeSize) // or it stays at 64 KiB, which mostly does
	return &pipe{p[0], p[1]}, nil
}

// read takes len(b) bytes, which are there.
func (p *pipe) read(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(p.r, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			b = b[n:]
		}
	}
	return nil
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}
