package vm

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// What the guest sends is frames: one byte that says what it is, four bytes of
// length in network order, the content.
type frameType byte

const (
	frameUp   frameType = 'u' // the guest runs; what the kernel calls itself
	frameOut  frameType = 'o' // from standard output of the program that runs
	frameErr  frameType = 'e' // from its standard error
	frameFile frameType = 'f' // the next part of a file: name, zero, bytes
	frameLog  frameType = 'l' // what the guest itself has to say
	frameExit frameType = 'x' // a program has ended: an Exit as JSON
	frameEnd  frameType = 'q' // all have ended
)

const (
	frameHead = 5
	// maxFrame is the largest content. A guest out of its mind must not make the
	// host allocate what it likes.
	maxFrame = 1 << 20
)

// readFrame reads one frame. Its content is in buf, if that is large enough.
func readFrame(r io.Reader, buf []byte) (frameType, []byte, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("vm: a frame of %d bytes from the guest, more than %d", n, maxFrame)
	}
	switch t := frameType(head[0]); t {
	case frameUp, frameOut, frameErr, frameFile, frameLog, frameExit, frameEnd:
		if int(n) > cap(buf) {
			buf = make([]byte, n)
		}
		buf = buf[:n]
		if _, err := io.ReadFull(r, buf); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
		return t, buf, nil
	default:
		return 0, nil, fmt.Errorf("vm: a frame of unknown type %#02x from the guest", byte(t))
	}
}

// A frameWriter sends frames. Several goroutines may send at once.
type frameWriter struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
	err error // the first one; nothing is sent after it
}

// send sends b in as many frames of type t as it takes.
func (f *frameWriter) send(t frameType, b []byte) error {
	for {
		part := b[:min(len(b), maxFrame)]
		if err := f.one(t, nil, part); err != nil {
			return err
		}
		if b = b[len(part):]; len(b) == 0 {
			return nil
		}
	}
}

// file sends what r has as the file name.
func (f *frameWriter) file(name string, r io.Reader) error {
	buf, head := make([]byte, 64<<10), append([]byte(name), 0)
	for first := true; ; first = false {
		n, err := io.ReadFull(r, buf)
		if n > 0 || first {
			if err := f.one(frameFile, head, buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (f *frameWriter) one(t frameType, head, b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.buf = append(f.buf[:0], byte(t))
	f.buf = binary.BigEndian.AppendUint32(f.buf, uint32(len(head)+len(b)))
	f.buf = append(append(f.buf, head...), b...)
	_, f.err = f.w.Write(f.buf)
	return f.err
}

// A frameStream is an io.Writer whose bytes become frames of one type.
type frameStream struct {
	*frameWriter
	t frameType
}

func (s frameStream) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := s.send(s.t, b); err != nil {
		return 0, err
	}
	return len(b), nil
}
