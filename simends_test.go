package aftls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// What the two goroutines of an end of the simulation do.

// read reads until the stream ends, in every way there is.
func (e *simEnd) read() {
	c := e.current(nil)
	for e.readErr == nil {
		if !e.ending.Load() && e.rrng.IntN(8) == 0 {
			time.Sleep(time.Duration(e.rrng.Int64N(int64(200 * time.Millisecond))))
		}
		size := 1 + e.rrng.IntN([]int{10, 1000, 20000, 300000}[e.rrng.IntN(4)])
		if e.ending.Load() {
			size = 300000
		}
		op, err := e.readOnce(c, size)
		e.dressed(op, err)
		switch {
		case err == nil:
		case errors.Is(err, aftls.ErrDetached):
			c = e.current(c)
		case errors.Is(err, os.ErrDeadlineExceeded):
			time.Sleep(time.Duration(1 + e.rrng.Int64N(int64(20*time.Millisecond))))
		default:
			e.readErr = err
		}
	}
	// The end is for good.
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || (err == io.EOF) != (e.readErr == io.EOF) && !errors.Is(err, net.ErrClosed) {
		e.t.Errorf("%s: Read after %v: %d %v", e.name, e.readErr, n, err)
	}
}

var errEnough = errors.New("enough")

func (e *simEnd) readOnce(c *aftls.Conn, size int) (op string, err error) {
	switch e.rrng.IntN(6) {
	default:
		b := make([]byte, size)
		n, err := c.Read(b)
		e.check(b[:n])
		if n > 0 && err == io.EOF {
			return "Read", io.EOF
		}
		if n > 0 && err != nil || n == 0 && err == nil {
			e.t.Errorf("%s: Read: %d %v", e.name, n, err)
		}
		return "Read", err
	case 3:
		return "WaitRead", c.WaitRead()
	case 4:
		b := make([]byte, size)
		typ, n, err := c.ReadRecord(b)
		if err == nil && typ == record.ApplicationData {
			e.check(b[:n])
		}
		return "ReadRecord", err
	case 5:
		w := &enough{e: e, left: size}
		n, err := c.WriteTo(w)
		if n != w.n {
			e.t.Errorf("%s: WriteTo counts %d of %d", e.name, n, w.n)
		}
		if err == errEnough {
			return "WriteTo", nil
		}
		if err == nil {
			err = io.EOF
		}
		return "WriteTo", err
	}
}

// enough takes what it is given and then says that this was enough.
type enough struct {
	e    *simEnd
	left int
	n    int64
}

func (w *enough) Write(p []byte) (int, error) {
	w.e.check(p)
	w.n += int64(len(p))
	if w.left -= len(p); w.left <= 0 {
		return len(p), errEnough
	}
	return len(p), nil
}

// write writes the budget in every way there is, and then ends the direction.
func (e *simEnd) write() {
	c := e.current(nil)
	for {
		left := e.budget - e.sent
		var err error
		op := "CloseWrite"
		shut := left <= 0 || e.ending.Load()
		if shut {
			if !e.clean {
				<-e.done
				c = e.current(nil)
			}
			// Deadlines and Detach may stop it; it can be repeated.
			e.begin(op)
			err = c.CloseWrite()
			e.finished(0, err)
		} else {
			if e.rng.IntN(6) == 0 {
				time.Sleep(time.Duration(e.rng.Int64N(int64(300 * time.Millisecond))))
			}
			if e.rng.IntN(100) == 0 {
				time.Sleep(1500 * time.Millisecond) // the records become small again
			}
			size := int(min(left, int64(e.rng.IntN([]int{2, 100, 20000, 400000}[e.rng.IntN(4)]))))
			op, err = e.writeOnce(c, size)
		}
		e.dressed(op, err)
		switch {
		case err == nil:
			if shut {
				return
			}
		case errors.Is(err, aftls.ErrDetached):
			c = e.current(c)
		case errors.Is(err, os.ErrDeadlineExceeded):
			time.Sleep(time.Duration(1 + e.rng.Int64N(int64(20*time.Millisecond))))
		case e.ending.Load():
			_, carrier := errors.AsType[*aftls.CarrierError](err)
			if !carrier && !errors.Is(err, net.ErrClosed) {
				e.t.Errorf("%s: %s: %v", e.name, op, err)
			}
			return
		default:
			e.t.Errorf("%s: %s: %v", e.name, op, err)
			return
		}
	}
}

func (e *simEnd) begin(op string) {
	e.mu.Lock()
	e.op = op
	e.mu.Unlock()
}

func (e *simEnd) finished(n int64, err error) {
	e.mu.Lock()
	e.op, e.lastErr = "", err
	e.sent += n
	e.mu.Unlock()
}

func (e *simEnd) writeOnce(c *aftls.Conn, size int) (op string, err error) {
	data := patternAt(e.sent, size)
	var n int64
	defer func() {
		if n < 0 || n > int64(size) || err == nil && n < int64(size) && op != "Rekey" {
			e.t.Errorf("%s: %s of %d: %d %v", e.name, op, size, n, err)
		}
		e.finished(n, err)
	}()
	switch e.rng.IntN(10) {
	default:
		op = "Write"
		e.begin(op)
		var m int
		m, err = c.Write(data)
		n = int64(m)
	case 4:
		op = "WriteBuffers"
		e.begin(op)
		var v net.Buffers
		for rest := data; len(rest) > 0; {
			m := e.rng.IntN(len(rest) + 1)
			v, rest = append(v, rest[:m]), rest[m:]
		}
		n, err = c.WriteBuffers(&v)
		if left := bytes.Join(v, nil); !bytes.Equal(left, data[min(int(n), size):]) {
			e.t.Errorf("%s: WriteBuffers of %d: %d, and %d are left", e.name, size, n, len(left))
		}
	case 5:
		op = "ReadFrom a reader"
		e.begin(op)
		n, err = c.ReadFrom(bytes.NewReader(data))
	case 6:
		op = "ReadFrom a slow reader"
		e.begin(op)
		n, err = c.ReadFrom(&slowReader{e, data})
	case 7:
		op = "ReadFrom a file"
		e.begin(op)
		n, err = e.readFromFile(c, int64(size))
	case 8:
		op = "Rekey"
		e.begin(op)
		err = c.Rekey(e.rng.IntN(2) == 0)
		if e.v == tls.VersionTLS12 {
			if !errors.Is(err, aftls.ErrNoRekey) && !errors.Is(err, aftls.ErrDetached) && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
				e.t.Errorf("%s: Rekey in TLS 1.2: %v", e.name, err)
			}
			if errors.Is(err, aftls.ErrNoRekey) {
				err = nil
			}
		}
	case 9:
		// The record is committed or not; only Info tells after a deadline.
		op = "WriteRecord"
		e.begin(op)
		size = min(size, record.MaxPlaintext)
		before := c.Info().Send.Bytes
		err = c.WriteRecord(record.ApplicationData, data[:size])
		n = int64(c.Info().Send.Bytes - before)
	}
	return op, err
}

// readFromFile sends a part of a file whose place fits the stream. The offset
// of the file afterwards is the one thing that says what was sent.
func (e *simEnd) readFromFile(c *aftls.Conn, size int64) (int64, error) {
	f, err := os.Open(e.file)
	if err != nil {
		e.t.Error(err)
		return 0, nil
	}
	defer f.Close()
	start := e.sent % int64(len(pattern))
	if _, err := f.Seek(start, io.SeekStart); err != nil {
		e.t.Error(err)
	}
	lr := &io.LimitedReader{R: f, N: size}
	n, err := c.ReadFrom(lr)
	at, _ := f.Seek(0, io.SeekCurrent)
	if at != start+n || lr.N != size-n {
		e.t.Errorf("%s: ReadFrom sent %d, the file went on by %d, the limit by %d", e.name, n, at-start, size-lr.N)
	}
	return n, err
}

// slowReader lets its reader wait now and then.
type slowReader struct {
	e    *simEnd
	data []byte
}

func (r *slowReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	if r.e.rng.IntN(3) == 0 {
		time.Sleep(time.Duration(r.e.rng.Int64N(int64(100 * time.Millisecond))))
	}
	n := copy(p, r.data[:1+r.e.rng.IntN(len(r.data))])
	r.data = r.data[n:]
	return n, nil
}
