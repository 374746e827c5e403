package aftls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// FuzzState decodes any bytes as a State and resumes what decodes: it ends in
// ErrState or in a Conn, never in a panic, and no key or buffer is left behind.
func FuzzState(f *testing.F) {
	for _, v := range stateSuites {
		st := fullState(f, v.version, v.suite)
		st.ended = false
		f.Add(marshal(f, st))
		st = fullState(f, v.version, v.suite)
		st.conn = nil
		f.Add(marshal(f, st))
	}
	c, _ := knownPair(f, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, Options{})
	st, err := c.Detach()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(marshal(f, st))
	f.Add([]byte(stateMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) { resumable(t, b) })
}

// A fuzzScript is what the peer of FuzzConnRead sends. It is a row of records,
// each one byte that says how it is made, two of length, and the content:
// typical types by name, any other type, raw bytes that nobody sealed.
const (
	opData = iota
	opAlert
	opHandshake
	opType // the first byte of the content is the type
	opRaw
	opKeys // the content is a KeyUpdate, and the peer follows it
	opCount
)

// play seals the script under k as the peer would.
func play(k record.Keys, script []byte) (wire []byte, err error) {
	s, err := record.NewSealer(k)
	if err != nil {
		return nil, err
	}
	for len(script) >= 3 && len(wire) < 1<<20 {
		op, n := script[0]%opCount, int(script[1])<<8|int(script[2])
		p := script[3:]
		p = p[:min(n, len(p), record.MaxPlaintext)]
		script = script[3+len(p):]
		typ := record.ApplicationData
		switch op {
		case opAlert:
			typ = record.AlertRecord
		case opHandshake, opKeys:
			typ = record.Handshake
		case opType:
			if len(p) > 0 && p[0] != 0 { // a sealer refuses 0: a receiver could not see it
				typ, p = record.ContentType(p[0]), p[1:]
			}
		case opRaw:
			wire = append(wire, p...)
			continue
		}
		if wire, err = s.Seal(wire, typ, p); err != nil {
			return wire, err
		}
		if op == opKeys && s.CanNext() {
			if err = s.Next(); err != nil {
				return wire, err
			}
		}
	}
	return wire, nil
}

// script puts a script together from pairs of an op and a content.
func script(parts ...any) (b []byte) {
	for i := 0; i < len(parts); i += 2 {
		var p []byte
		switch v := parts[i+1].(type) {
		case string:
			p = []byte(v)
		case []byte:
			p = v
		}
		b = append(append(b, byte(parts[i].(int)), byte(len(p)>>8), byte(len(p))), p...)
	}
	return b
}

// feed is a carrier that has been sent wire and nothing more, in pieces, and
// that takes whatever it is given.
type feed struct {
	net.Conn // nil: the rest of the methods is not for use
	mu       sync.Mutex
	wire     []byte
	piece    int
	closed   bool
	written  int
}

func (f *feed) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, net.ErrClosed
	}
	if len(f.wire) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), f.piece)], f.wire)
	f.wire = f.wire[n:]
	return n, nil
}

func (f *feed) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, net.ErrClosed
	}
	f.written += len(p)
	return len(p), nil
}

func (f *feed) Close() error                     { f.mu.Lock(); f.closed = true; f.mu.Unlock(); return nil }
func (f *feed) LocalAddr() net.Addr              { return nil }
func (f *feed) RemoteAddr() net.Addr             { return nil }
func (f *feed) SetDeadline(time.Time) error      { return nil }
func (f *feed) SetReadDeadline(time.Time) error  { return nil }
func (f *feed) SetWriteDeadline(time.Time) error { return nil }

// FuzzConnRead gives a Conn records of a peer that has the keys and says
// whatever it likes. Reading ends, with an honest error, and holds nothing.
func FuzzConnRead(f *testing.F) {
	update, request := []byte{keyUpdate, 0, 0, 1, 0}, []byte{keyUpdate, 0, 0, 1, 1}
	ticket := append([]byte{newSessionTicket, 0, 0, 40}, make([]byte, 40)...)
	notify := []byte{1, 0}
	var flood, empty []byte
	for range maxUseless + 2 {
		flood = append(flood, script(opKeys, request)...)
		empty = append(empty, script(opData, "")...)
	}
	for _, s := range [][]byte{
		script(opData, "hello", opData, "", opData, make([]byte, 16384), opAlert, notify),
		script(opData, "hello"),
		script(opKeys, request, opData, "x", opKeys, update, opData, "y", opAlert, notify, opData, "z"),
		script(opHandshake, request[:2], opKeys, request[2:], opData, "x", opAlert, notify),
		script(opHandshake, request[:2], opData, "x"),
		script(opHandshake, request[:2], opAlert, notify),
		script(opKeys, append(bytes.Clone(update), 0)),
		script(opHandshake, ticket, opHandshake, append(bytes.Clone(ticket), ticket...), opData, "x"),
		script(opHandshake, []byte{0, 0, 0, 0}, opHandshake, []byte{1, 0, 0, 0}, opData, "x"),
		script(opHandshake, ""), script(opHandshake, []byte{9, 255, 255, 255}), script(opHandshake, []byte{keyUpdate, 0, 0, 1, 2}),
		script(opAlert, []byte{1, 90}, opAlert, []byte{2, 40}), script(opAlert, []byte{1}), script(opAlert, []byte{2, 0}),
		script(opType, "\x18heartbeat"), script(opType, "\x14\x01"), script(opType, "\xff"),
		script(opRaw, "GET / HTTP/1.1\r\n"), script(opRaw, []byte{23, 3, 3, 255, 255}), script(opRaw, []byte{23, 3, 3, 0, 20, 1, 2}),
		script(opRaw, []byte{20, 3, 3, 0, 1, 1}), script(opRaw, make([]byte, 100)),
		flood, empty,
	} {
		for v := range stateSuites {
			f.Add(byte(v), byte(0), uint16(60000), s)
		}
		f.Add(byte(0), byte(2), uint16(1), s)
		f.Add(byte(3), byte(5), uint16(7), s)
	}
	f.Fuzz(func(t *testing.T, suite, how byte, piece uint16, s []byte) {
		v := stateSuites[int(suite)%len(stateSuites)]
		send, recv := knownKeys(t, v.version, v.suite, 1), knownKeys(t, v.version, v.suite, 2)
		wire, err := play(recv, s)
		if err != nil {
			t.Fatal(err)
		}
		lent := soft.Borrowed()
		carrier := &feed{wire: wire, piece: int(piece) + 1}
		c := knownConn(t, carrier, how&1 == 0, send, recv, Options{})
		err = readToEnd(t, c, int(how>>1), len(wire))
		honest(t, err)
		if again := readToEnd(t, c, 0, 0); (again == io.EOF) != (err == io.EOF) {
			t.Errorf("reading ended with %v, and then with %v", err, again)
		}
		c.Close()
		if n := soft.Borrowed() - lent; n != 0 {
			t.Errorf("%d buffers are still lent", n)
		}
	})
}

// readToEnd reads in one of the ways there are until an error comes. Each step
// takes at least a byte of the wire, so that their number is bounded.
func readToEnd(t *testing.T, c *Conn, how, wire int) error {
	b := make([]byte, []int{1, 100, 70000}[how/3%3])
	for range wire + 100 {
		var n int
		var err error
		switch how % 3 {
		case 0:
			n, err = c.Read(b)
		case 1:
			_, n, err = c.ReadRecord(b)
		case 2:
			if _, err = c.WriteTo(io.Discard); err == nil {
				err = io.EOF
			}
		}
		if n < 0 || n > len(b) {
			t.Fatalf("read %d bytes into %d", n, len(b))
		}
		if err != nil {
			return err
		}
	}
	t.Fatalf("%d reads did not come to the end of %d bytes", wire+100, wire)
	return nil
}

// honest checks that an error of a Read says who is to blame.
func honest(t *testing.T, err error) {
	t.Helper()
	if err == io.EOF {
		return
	}
	op, ok := err.(*net.OpError)
	if !ok {
		t.Fatalf("%T %v", err, err)
	}
	switch e := op.Err.(type) {
	case *PeerError, *AlertError, *TruncatedError:
	default:
		if !errors.Is(err, ErrNoRekey) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%T %v", e, e)
		}
	}
}
