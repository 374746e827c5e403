package kcm

import (
	"fmt"

	"github.com/aftls/aftls/bpf"
)

// Framer finds where messages end in a stream of bytes.
//
// Frame gets what has come of the stream and is not part of an earlier message;
// there is at least one byte. It returns what it knows of the first message:
//
//   - n > 0: it is n bytes long. If that is more than len(head), the rest is
//     still to come.
//   - n <= 0: its length cannot be told before -n more bytes have come, or
//     before any more where n is 0. It is not asked again until then. A number
//     that is too large delays the message; one that is too small costs time.
//   - an error: this is no stream of such messages. It ends the connection.
//
// Frame must not change head, nor keep it. The calls for a connection come one
// after the other, and each head begins with the one before as long as no
// message was found in it. A framer may thus remember how far it came: one of
// those serves one connection, such as that of [RESP]. All others in this
// package may serve any number at once.
//
// [github.com/aftls/aftls/record.Frame] has this shape: FramerFunc(record.Frame)
// takes TLS records for messages.
type Framer interface {
	Frame(head []byte) (n int, err error)
}

// FramerFunc is a function that is a Framer.
type FramerFunc func(head []byte) (n int, err error)

// Frame calls the function.
func (f FramerFunc) Frame(head []byte) (int, error) { return f(head) }

// FrameError says that a stream does not consist of the messages that the
// framer looks for. The peer is to blame, or the choice of the framer. Err is
// set when the framer came from elsewhere.
type FrameError struct {
	Reason string
	Err    error
}

func (e *FrameError) Error() string {
	if e.Err != nil {
		return "kcm: the framer refused the stream: " + e.Err.Error()
	}
	return "kcm: the framer refused the stream: " + e.Reason
}

func (e *FrameError) Unwrap() error { return e.Err }

func refuse(format string, a ...any) error {
	return &FrameError{Reason: fmt.Sprintf(format, a...)}
}

// Program is a framer that asks a BPF program, by the meaning that AF_KCM
// gives the result, which is a signed number: above 0 it is the length of the
// message, 0 asks for more bytes, and below 0 the stream is refused. A load
// behind the bytes so far ends the program with 0. Its length is that of the
// bytes so far.
func Program(p *bpf.Program) Framer { return program{p} }

type program struct{ p *bpf.Program }

func (f program) Frame(head []byte) (int, error) {
	n := int32(f.p.Run(head))
	if n < 0 {
		return 0, refuse("the BPF program returned %d", n)
	}
	return int(n), nil
}
