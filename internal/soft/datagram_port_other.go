//go:build !linux

package soft

import (
	"errors"
	"syscall"
)

func (p *Port) setUp() {}

// Send sends the datagrams that lie in buf one behind the other and returns how
// many the carrier took.
func (p *Port) Send(buf []byte, sizes []int, to Path) (int, error) {
	return p.sendEach(buf, sizes, to)
}

// isTooLong knows EMSGSIZE and its like.
func isTooLong(err error) bool {
	var e syscall.Errno
	return errors.As(err, &e) && e == syscall.EMSGSIZE
}

func (p *Port) pathLimit(Path) int { return 0 }

// incoming is what one receive call brought.
type incoming struct {
	buf  []byte
	from Path
	left []byte
}

func (in *incoming) next() (d []byte, from Path, ok bool) {
	if in.left == nil {
		return nil, from, false
	}
	d, in.left = in.left, nil
	return d, in.from, true
}

// receive waits for datagrams. The caller gives them back with release.
func (p *Port) receive() (*incoming, error) {
	in := &incoming{buf: get(batchSize)}
	n, from, err := p.receiveOne(in.buf[:segmentRoom])
	if err != nil {
		in.release()
		return nil, err
	}
	in.left, in.from = in.buf[:n:n], from
	return in, nil
}

func (in *incoming) release() {
	put(in.buf)
	in.buf, in.left = nil, nil
}
