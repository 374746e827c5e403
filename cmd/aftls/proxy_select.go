package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/filter"
	"github.com/aftls/aftls/record"
)

// firstRecordTimeout is how long a client may take for the record that picks its
// backend.
const firstRecordTimeout = 10 * time.Second

// selector picks a backend by the first record of a client.
type selector struct {
	program  filter.Filter
	backends int
	patience time.Duration // for the first record
}

// newSelector returns the selector for a program as --select has it; it is nil where
// there is nothing to select. What can be known to be wrong is refused now, and not
// when a client comes.
func newSelector(text string, backends int) (*selector, error) {
	if text == "" {
		if backends > 1 {
			return nil, hint(fmt.Errorf("%d backends, and nothing that picks one", backends), "name a program with --select, such as 'data[0] = 22 -> SELECT(1); -> SELECT(0)'")
		}
		return nil, nil
	}
	p, err := filter.Parse(text)
	if err != nil {
		return nil, hint(err, "rules are 'EXPRESSION -> VERDICT', with ; between them, as in 'data[0] = 22 -> SELECT(1); -> SELECT(0)'; see docs/filter.md")
	}
	selects := false
	for _, in := range p.Code().Instructions() {
		const returnK, returnA = 0x06, 0x16 // linux/bpf_common.h
		switch in.Op {
		case returnA: // it computes the verdict
			selects = true
		case returnK:
			if in.K&^filter.MaxN != (filter.Verdict{Action: filter.Select}).Result() {
				continue
			}
			selects = true
			if n := in.K & filter.MaxN; int(n) >= backends {
				return nil, hint(fmt.Errorf("--select: SELECT(%d), and the last backend is %d", n, backends-1), "the first --to is backend 0")
			}
		}
	}
	if !selects && backends > 1 {
		return nil, hint(errors.New("--select: the program has no SELECT, so every client would get backend 0"), "write rules, such as 'data[0] = 22 -> SELECT(1); -> SELECT(0)'")
	}
	s := &selector{backends: backends, patience: firstRecordTimeout}
	s.program.Swap(p)
	return s, nil
}

// choose waits for the client's first record and returns the backend that it is for,
// and the record. After an error the client knows, and c only has to be closed.
func (s *selector) choose(c *aftls.Conn) (backend int, first firstRecord, err error) {
	c.SetReadDeadline(time.Now().Add(s.patience))
	if first, err = readFirst(c); err != nil {
		switch {
		case err == io.EOF:
			err = errors.New("the client ended before its first byte, so no backend was picked")
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = fmt.Errorf("the client sent nothing for %v, so no backend was picked", s.patience)
		}
		return 0, noRecord, err
	}
	c.SetReadDeadline(time.Time{})
	head := filter.NewHeader(c.RemoteAddr(), c.LocalAddr())
	v := s.program.Decide(head, first.data)
	switch {
	case v.Action == filter.Select && int(v.N) < s.backends:
		return int(v.N), first, nil
	case v.Action == filter.Pass, v.Action == filter.Truncate:
		first.data = first.data[:v.Keep(len(first.data))]
		return 0, first, nil
	case v.Action == filter.Select:
		err = fmt.Errorf("the program picked backend %d, and the last one is %d", v.N, s.backends-1)
	default:
		err = fmt.Errorf("the program refused the client's first record: %v", v)
	}
	first.drop()
	refuse(c)
	return 0, noRecord, err
}

// firstRecord is a record in a buffer that goes back by drop.
type firstRecord struct {
	data []byte
	buf  *[record.MaxPlaintext]byte
}

var noRecord firstRecord

var firstRecords = sync.Pool{New: func() any { return new([record.MaxPlaintext]byte) }}

// drop gives the buffer back. Of what a client sent nothing stays in it.
func (f firstRecord) drop() {
	if f.buf != nil {
		clear(f.buf[:])
		firstRecords.Put(f.buf)
	}
}

// readFirst reads the first record with data. No buffer is held while nothing comes.
func readFirst(c *aftls.Conn) (firstRecord, error) {
	for {
		if err := c.WaitRead(); err != nil {
			return noRecord, err
		}
		f := firstRecord{buf: firstRecords.Get().(*[record.MaxPlaintext]byte)}
		typ, n, err := c.ReadRecord(f.buf[:])
		if errors.Is(err, aftls.ErrPassthrough) { // crypto/tls gives one record, too
			typ = record.ApplicationData
			n, err = c.Read(f.buf[:])
		}
		if typ == record.ApplicationData && n > 0 {
			f.data = f.buf[:n]
			return f, nil
		}
		f.drop()
		if err != nil {
			return noRecord, err
		}
	}
}
