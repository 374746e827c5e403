package soft

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/aftls/aftls/record"
)

// counted counts what is read from it.
type counted struct {
	net.Conn
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n += n
	return n, err
}

// An exact receiver never has a byte of the next record, so that somebody else can
// take the carrier over behind each.
func TestExactReading(t *testing.T) {
	for name, carrier := range carriers {
		if name == "TCP" { // which is not read through counted
			continue
		}
		for _, suite := range []uint16{suite13, suite12} {
			t.Run(name, func(t *testing.T) {
				lent(t)
				sealer := newSealer(t, suite)
				var wire []byte
				var ends []int
				var want [][]byte
				for i, n := range []int{1, 5000, 16384, 2, 16384} {
					p := noise(byte(i), n)
					wire = seal(t, sealer, wire, record.ApplicationData, p)
					ends, want = append(ends, len(wire)), append(want, p)
				}
				c := &counted{Conn: carrier(t, wire)}
				r := newReceiver(t, c, suite)
				r.SetExact(true)
				p := make([]byte, 100000)
				for i, b := range want {
					n, err := r.Read(p)
					if err != nil || !bytes.Equal(p[:n], b) {
						t.Fatalf("record %d: %d bytes, %v", i, n, err)
					}
					if c.n != ends[i] || !r.Boundary() {
						t.Errorf("record %d: %d bytes were read, it ends at %d; boundary %v", i, c.n, ends[i], r.Boundary())
					}
				}
				if _, err := r.Read(p); err != io.EOF {
					t.Error(err)
				}
			})
		}
	}
}

// A receiver that has read ahead is exact from the end of that on.
func TestExactBehindReadAhead(t *testing.T) {
	lent(t)
	sealer := newSealer(t, suite13)
	var wire []byte
	for i := range 10 {
		wire = seal(t, sealer, wire, record.ApplicationData, noise(byte(i), 1000))
	}
	c := &counted{Conn: fed(wire)}
	r := newReceiver(t, c, suite13)
	p := make([]byte, 1000)
	if n, err := io.ReadFull(readerOf{r}, p); n != 1000 || err != nil {
		t.Fatal(n, err)
	}
	r.SetExact(true)
	boundary := false
	for i := 1; i < 10; i++ {
		if n, err := r.Read(p); n != 1000 || err != nil || !bytes.Equal(p, noise(byte(i), 1000)) {
			t.Fatal(i, n, err)
		}
		if boundary && !r.Boundary() {
			t.Error("it has read ahead again")
		}
		boundary = r.Boundary()
	}
	if !boundary || c.n != len(wire) {
		t.Error("no boundary at the end")
	}
}

type readerOf struct{ r *Receiver }

func (r readerOf) Read(p []byte) (int, error) { return r.r.Read(p) }
