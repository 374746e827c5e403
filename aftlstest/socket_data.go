package aftlstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

var data = []promise{
	{"Write gives the same bytes in records of at most 16384", both, writeSizes},
	{"every way to send gives the same bytes", both, everySource},
	{"every way to receive gives the same bytes", both, everySink},
	{"the offset of a file agrees with n", both, fileOffset},
	{"ReadFrom returns the error of its source and what came before", both, sourceError},
	{"WriteBuffers packs small slices into few records", both, packing},
	{"WriteBuffers takes what it wrote, and nothing is no trouble", both, emptyBuffers},
	{"the first records are small and later ones are full", both, ramp},
	{"Read returns many records at once", both, manyAtOnce},
	{"a short Read keeps the rest", both, shortReads},
	{"ReadRecord returns data of one record at a time", both, dataRecords},
	{"writes of two goroutines do not mix", both, noMixing},
	{"padding shows in the length of records", both, padding},
}

func writeSizes(t *testing.T, x subject) {
	for _, n := range []int{0, 1, 100, 16383, 16384, 16385, 200000, 1<<20 + 7} {
		e, p := x.withPeer(t)
		want := random(n)
		w := startWrite(t, e, want)
		if err := p.readData(want); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if m := w.wait(); m != int64(n) {
			t.Errorf("Write of %d bytes: n = %d", n, m)
		}
		if got := e.Info().Send.Bytes; got != uint64(n) {
			t.Errorf("Info counts %d bytes of %d", got, n)
		}
	}
}

// content is what the sources below hold.
func content() []byte { return random(500<<10 + 12345) }

func writeFile(t testing.TB, b []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "content")
	must(t, os.WriteFile(path, b, 0o600))
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func everySource(t *testing.T, x subject) {
	want := content()
	sources := []struct {
		name string
		send func(t *testing.T, e end) (int64, error)
	}{
		{"Write", func(t *testing.T, e end) (int64, error) { n, err := e.Write(want); return int64(n), err }},
		{"WriteBuffers", func(t *testing.T, e end) (int64, error) {
			var v net.Buffers
			for b, n := want, 1; len(b) > 0; n = n*3 + 1 {
				n = min(n%70000, len(b))
				v, b = append(v, b[:n], nil), b[n:]
			}
			return e.WriteBuffers(&v)
		}},
		{"ReadFrom a file", func(t *testing.T, e end) (int64, error) { return e.ReadFrom(writeFile(t, want)) }},
		{"io.Copy from a file", func(t *testing.T, e end) (int64, error) { return io.Copy(e, writeFile(t, want)) }},
		{"io.Copy without ReadFrom", func(t *testing.T, e end) (int64, error) {
			return io.Copy(struct{ io.Writer }{e}, writeFile(t, want))
		}},
		{"ReadFrom a part of a file", func(t *testing.T, e end) (int64, error) {
			f := writeFile(t, append(bytes.Clone(want), "and more"...))
			lr := &io.LimitedReader{R: f, N: int64(len(want))}
			n, err := e.ReadFrom(lr)
			if at, _ := f.Seek(0, io.SeekCurrent); lr.N != 0 || at != n {
				err = errors.Join(err, fmt.Errorf("left %d, offset %d after %d bytes", lr.N, at, n))
			}
			return n, err
		}},
		{"io.CopyN from a file", func(t *testing.T, e end) (int64, error) {
			return io.CopyN(e, writeFile(t, append(bytes.Clone(want), "and more"...)), int64(len(want)))
		}},
		{"ReadFrom a pipe", func(t *testing.T, e end) (int64, error) {
			r, w, err := os.Pipe()
			must(t, err)
			defer r.Close()
			go func() { w.Write(want); w.Close() }()
			return e.ReadFrom(r)
		}},
		{"ReadFrom a TCP connection", func(t *testing.T, e end) (int64, error) {
			r, w := tcpPair(t)
			go func() { w.Write(want); w.Close() }()
			return e.ReadFrom(r)
		}},
		{"io.Copy from a TCP connection", func(t *testing.T, e end) (int64, error) {
			r, w := tcpPair(t)
			go func() { w.Write(want); w.Close() }()
			return io.Copy(e, r)
		}},
		{"ReadFrom any reader", func(t *testing.T, e end) (int64, error) {
			return e.ReadFrom(struct{ io.Reader }{bytes.NewReader(want)})
		}},
		{"ReadFrom a reader of one byte", func(t *testing.T, e end) (int64, error) {
			n, err := e.ReadFrom(oneByteReader{bytes.NewReader(want[:2000])})
			m, err2 := e.Write(want[2000:])
			return n + int64(m), errors.Join(err, err2)
		}},
		{"ReadFrom a limited reader", func(t *testing.T, e end) (int64, error) {
			return e.ReadFrom(io.LimitReader(io.MultiReader(bytes.NewReader(want), strings.NewReader("and more")), int64(len(want))))
		}},
		{"ReadFrom one connection of ours to another", func(t *testing.T, e end) (int64, error) {
			r, w := x.pair(t)
			go func() { w.Write(want); finish(w); w.Close() }()
			n, err := io.Copy(e, r)
			if !x.conn && errors.Is(err, aftls.ErrControl) { // close_notify
				err = nil
			}
			return n, err
		}},
	}
	for _, src := range sources {
		t.Run(src.name, func(t *testing.T) {
			e, p := x.withPeer(t)
			w := start(t, func() (int64, error) { return src.send(t, e) })
			if err := p.readData(want); err != nil {
				t.Fatal(err)
			}
			if n := w.wait(); n != int64(len(want)) {
				t.Errorf("n = %d, want %d", n, len(want))
			}
		})
	}
}

type oneByteReader struct{ r io.Reader }

func (r oneByteReader) Read(p []byte) (int, error) { return r.r.Read(p[:1]) }

// finish ends the sending direction with close_notify.
func finish(e end) error {
	if c, ok := e.(*aftls.Conn); ok {
		return c.CloseWrite()
	}
	return e.WriteRecord(record.AlertRecord, closeNotifyAlert)
}

func everySink(t *testing.T, x subject) {
	want := content()
	sinks := []struct {
		name    string
		receive func(e end) ([]byte, error)
	}{
		{"Read", func(e end) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{e}) }},
		{"small Reads", func(e end) ([]byte, error) {
			var out []byte
			for b := make([]byte, 777); ; {
				n, err := e.Read(b)
				if out = append(out, b[:n]...); err != nil {
					return out, err
				}
			}
		}},
		{"large Reads", func(e end) ([]byte, error) {
			var out []byte
			for b := make([]byte, 1<<20); ; {
				n, err := e.Read(b)
				if out = append(out, b[:n]...); err != nil {
					return out, err
				}
			}
		}},
		{"ReadRecord", func(e end) ([]byte, error) {
			var out []byte
			for b := make([]byte, record.MaxPlaintext); ; {
				typ, n, err := e.ReadRecord(b)
				switch {
				case err != nil:
					return out, err
				case typ == record.ApplicationData:
					out = append(out, b[:n]...)
				default:
					return out, nil
				}
			}
		}},
		{"WriteTo", func(e end) ([]byte, error) {
			var b bytes.Buffer
			n, err := e.WriteTo(&b)
			if int(n) != b.Len() {
				err = errors.Join(err, fmt.Errorf("n = %d of %d", n, b.Len()))
			}
			return b.Bytes(), err
		}},
		{"io.Copy to a file", func(e end) ([]byte, error) {
			f := writeFile(t, nil)
			path := f.Name()
			w, err := os.Create(path)
			if err != nil {
				return nil, err
			}
			_, err = io.Copy(w, e)
			b, err2 := os.ReadFile(path)
			return b, errors.Join(err, err2, w.Close())
		}},
	}
	for _, sink := range sinks {
		t.Run(sink.name, func(t *testing.T) {
			a, b := x.pair(t)
			w := startErr(t, func() error {
				_, err := a.Write(want)
				return errors.Join(err, finish(a))
			})
			got, err := sink.receive(b)
			if !x.conn && errors.Is(err, aftls.ErrControl) { // close_notify
				err = nil
			}
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bytes came of %d, or others", len(got), len(want))
			}
			w.wait()
		})
	}
}

func fileOffset(t *testing.T, x subject) {
	want := content()
	f := writeFile(t, want)
	const at = 1000
	_, err := f.Seek(at, io.SeekStart)
	must(t, err)
	e, p := x.withPeer(t)
	for _, n := range []int64{0, 1, 16384, 100000, int64(len(want))} {
		from, err := f.Seek(0, io.SeekCurrent)
		must(t, err)
		expect := min(n, int64(len(want))-from)
		w := start(t, func() (int64, error) { return e.ReadFrom(&io.LimitedReader{R: f, N: n}) })
		p.wantData(want[from : from+expect])
		if got := w.wait(); got != expect {
			t.Errorf("n = %d, want %d", got, expect)
		}
		if to, _ := f.Seek(0, io.SeekCurrent); to != from+expect {
			t.Errorf("the offset is %d after %d bytes from %d", to, expect, from)
		}
	}
}

func sourceError(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	broken := errors.New("broken source")
	n, err := e.ReadFrom(io.MultiReader(strings.NewReader("before"), errReader{broken}))
	if n != 6 || err != broken {
		t.Errorf("%d, %v, want 6 and the error as it is", n, err)
	}
	p.want(record.ApplicationData, []byte("before"))
	mustWrite(t, e, []byte("after"))
	p.want(record.ApplicationData, []byte("after"))

	n, err = e.ReadFrom(strings.NewReader(""))
	if n != 0 || err != nil {
		t.Errorf("an empty source: %d, %v", n, err)
	}
	dir, err := os.Open(t.TempDir())
	must(t, err)
	defer dir.Close()
	if n, err := e.ReadFrom(dir); n != 0 || err == nil {
		t.Errorf("a directory: %d, %v", n, err)
	}
	mustWrite(t, e, []byte("still good"))
	p.want(record.ApplicationData, []byte("still good"))
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func packing(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := random(10000)
	var v net.Buffers
	for b := want; len(b) > 0; b = b[10:] {
		v = append(v, b[:10])
	}
	w := start(t, func() (int64, error) { return e.WriteBuffers(&v) })
	records := 0
	for got := 0; got < len(want); records++ {
		typ, b, err := p.read()
		if err != nil || typ != record.ApplicationData || !bytes.Equal(b, want[got:got+len(b)]) {
			t.Fatalf("record %d: %v, %v, or other data", records, typ, err)
		}
		got += len(b)
	}
	w.wait()
	if records > 10 {
		t.Errorf("1000 slices of 10 bytes became %d records", records)
	}
	if i := e.Info().Send; i.Records != uint64(records) || i.Bytes != uint64(len(want)) {
		t.Errorf("Info counts %d records of %d, %d bytes", i.Records, records, i.Bytes)
	}
}

func emptyBuffers(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	for _, v := range []net.Buffers{nil, {}, {nil}, {{}, nil, {}}} {
		if n, err := e.WriteBuffers(&v); n != 0 || err != nil || len(v) != 0 {
			t.Errorf("nothing to write: %d, %v, %d slices left", n, err, len(v))
		}
	}
	v := net.Buffers{nil, []byte("a"), {}, []byte("b"), nil}
	if n, err := e.WriteBuffers(&v); n != 2 || err != nil || len(v) != 0 {
		t.Errorf("%d, %v, %d slices left", n, err, len(v))
	}
	p.wantData([]byte("ab"))

	must(t, e.SetWriteDeadline(past))
	v = net.Buffers{[]byte("kept"), []byte("whole")}
	n, err := e.WriteBuffers(&v)
	wantErr(t, "WriteBuffers after its deadline", err, os.ErrDeadlineExceeded)
	if n != 0 || len(v) != 2 || string(v[0]) != "kept" || string(v[1]) != "whole" {
		t.Errorf("n = %d, %q left", n, v)
	}
}

func ramp(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := random(1 << 20)
	w := startWrite(t, e, want)
	var lengths []int
	for got := 0; got < len(want); {
		typ, b, err := p.read()
		if err != nil || typ != record.ApplicationData {
			t.Fatal(typ, err)
		}
		got += len(b)
		lengths = append(lengths, len(b))
	}
	w.wait()
	if lengths[0] > 1460 {
		t.Errorf("the first record holds %d bytes, more than a segment", lengths[0])
	}
	if n := len(lengths); lengths[n-2] != record.MaxPlaintext {
		t.Errorf("a late record holds %d bytes", lengths[n-2])
	}
}

func manyAtOnce(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	var stream []byte
	want := random(1000)
	for i := 0; i < len(want); i += 100 {
		stream = append(stream, p.sealed(record.ApplicationData, want[i:i+100])...)
	}
	p.raw(stream) // one segment: it arrives as a whole
	b := make([]byte, 4096)
	n, err := e.Read(b)
	if n != len(want) || err != nil || !bytes.Equal(b[:n], want) {
		t.Errorf("one Read of ten records: %d bytes of %d, %v", n, len(want), err)
	}
	// What does not fit stays, and Read does not wait to fill its slice.
	stream = nil
	for i := 0; i < len(want); i += 100 {
		stream = append(stream, p.sealed(record.ApplicationData, want[i:i+100])...)
	}
	p.raw(stream)
	for i := 0; i < len(want); {
		n, err := e.Read(b[:250])
		if n == 0 || err != nil || !bytes.Equal(b[:n], want[i:i+n]) {
			t.Fatalf("at %d: %d, %v", i, n, err)
		}
		i += n
	}
}

func shortReads(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := random(20000)
	p.send(record.ApplicationData, want[:16384])
	p.send(record.ApplicationData, want[16384:])
	var got []byte
	for i := 1; len(got) < len(want); i++ {
		b := make([]byte, i%97+1)
		n, err := e.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Error("read other data than were sent")
	}
	if n, err := e.Read(nil); n != 0 || err != nil {
		t.Errorf("Read of nothing: %d, %v", n, err)
	}
}

func dataRecords(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	p.raw(append(p.sealed(record.ApplicationData, []byte("first")), p.sealed(record.ApplicationData, []byte("second"))...))
	b := make([]byte, 100)
	for _, want := range []string{"first", "sec", "ond"} {
		room := b
		if want == "sec" {
			room = b[:3]
		}
		if typ, n, err := e.ReadRecord(room); typ != record.ApplicationData || string(b[:n]) != want || err != nil {
			t.Errorf("ReadRecord: %v, %q, %v, want %q", typ, b[:n], err, want)
		}
	}
	p.raw(append(p.sealed(record.ApplicationData, []byte("third")), p.sealed(record.ApplicationData, []byte("fourth"))...))
	if n, err := io.ReadFull(e, b[:2]); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if typ, n, err := e.ReadRecord(b); typ != record.ApplicationData || string(b[:n]) != "ird" || err != nil {
		t.Errorf("ReadRecord after a short Read: %v, %q, %v", typ, b[:n], err)
	}
	wantRead(t, e, []byte("fourth"))
}

func noMixing(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	const size, each = 40000, 5
	for id := byte('a'); id <= 'c'; id++ {
		b := bytes.Repeat([]byte{id}, size)
		start(t, func() (int64, error) {
			for range each {
				if n, err := e.Write(b); err != nil {
					return int64(n), err
				}
			}
			return 0, nil
		})
	}
	var got []byte
	for len(got) < 3*each*size {
		typ, b, err := p.read()
		if err != nil || typ != record.ApplicationData {
			t.Fatal(typ, err)
		}
		got = append(got, b...)
	}
	for i := 0; i < len(got); i += size {
		if want := bytes.Repeat(got[i:i+1], size); !bytes.Equal(got[i:i+size], want) {
			t.Fatalf("the write at %d has bytes of another in it", i)
		}
	}
}

func padding(t *testing.T, x subject) {
	x.opt.Padding = 1000
	e, p := x.withPeer(t)
	for _, n := range []int{1, 500, 1000, 1001} {
		want := random(n)
		mustWrite(t, e, want)
		for len(want) > 0 {
			rec := mustRecord(p)
			wire := len(rec)
			_, b, err := p.open.Open(nil, rec)
			if err != nil || !bytes.HasPrefix(want, b) {
				t.Fatalf("%d bytes: %v, or other data", n, err)
			}
			want = want[len(b):]
			content := wire - record.HeaderLen - record.TagLen - 1
			if x.is13() && content%1000 != 0 {
				t.Errorf("%d bytes travel as %d", len(b), content)
			}
			if !x.is13() && content > len(b)+8 {
				t.Errorf("TLS 1.2 cannot pad, and %d bytes travel as %d", len(b), content)
			}
		}
	}
}
