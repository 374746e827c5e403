package soft

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/aftls/aftls/record"
)

// tempFile is an open file that holds p.
func tempFile(t testing.TB, p []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// copyAll sends all of src, as package aftls does.
func copyAll(s *Sender, src *Source) (total int, err error) {
	for {
		if err := s.Plan(src, 1<<40); err != nil {
			return total, err
		}
		n, err := src.Read()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err = s.Commit(src, n)
		total += n
		if err != nil {
			return total, err
		}
	}
}

// sources is a reader of p of every kind.
var sources = map[string]func(t *testing.T, p []byte) io.Reader{
	"bytes.Reader": func(t *testing.T, p []byte) io.Reader { return bytes.NewReader(p) },
	"one byte": func(t *testing.T, p []byte) io.Reader {
		return io.MultiReader(bytes.NewReader(p[:1]), bytes.NewReader(p[1:]))
	},
	"file": func(t *testing.T, p []byte) io.Reader { return tempFile(t, p) },
	"pipe": func(t *testing.T, p []byte) io.Reader {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		go func() { w.Write(p); w.Close() }()
		return r
	},
	"TCP": func(t *testing.T, p []byte) io.Reader {
		a, b := tcpPair(t)
		go func() { b.Write(p); b.Close() }()
		return a
	},
	"net.Pipe": func(t *testing.T, p []byte) io.Reader {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		go func() { b.Write(p); b.Close() }()
		return a
	},
}

func TestSources(t *testing.T) {
	for name, source := range sources {
		for _, suite := range []uint16{suite13, suite12} {
			for _, pad := range []int{0, 4096} {
				t.Run(name, func(t *testing.T) {
					lent(t)
					c := new(script)
					s := NewSender(c, nil, 0, pad)
					defer s.Close()
					if err := s.SetKeys(testKeys(t, suite)); err != nil {
						t.Fatal(err)
					}
					k := keysNow(t, s)
					p := noise(1, 1<<20+777)
					src := NewSource(source(t, p))
					if n, err := copyAll(s, src); n != len(p) || err != nil {
						t.Fatal(n, err)
					}
					if !bytes.Equal(data(t, k, c.out), p) {
						t.Error("data differ")
					}
				})
			}
		}
	}
}

// Where the system has no readv a file is read place by place.
func TestFileByPlaces(t *testing.T) {
	lent(t)
	for _, size := range []int{1, 1186, 16384, 500001} {
		c := new(script)
		s := newSender(t, c, suite12)
		p := noise(1, size)
		src := NewSource(tempFile(t, p))
		src.raw = nil
		if n, err := copyAll(s, src); n != size || err != nil {
			t.Fatal(n, err)
		}
		if !bytes.Equal(data(t, testKeys(t, suite12), c.out), p) {
			t.Error("data differ")
		}
	}
}

// A file is read straight into a full batch, sealed there, and sent at once.
func TestFileBatches(t *testing.T) {
	lent(t)
	c := new(script)
	s := newSender(t, c, suite13)
	ramp(t, s, c)
	src := NewSource(tempFile(t, make([]byte, 3*batchRecords*record.MaxPlaintext)))
	if src.Waits() {
		t.Error("a file is not regular")
	}
	for range 3 {
		if err := s.Plan(src, 1<<40); err != nil {
			t.Fatal(err)
		}
		n, err := src.Read()
		if n != batchRecords*record.MaxPlaintext || err != nil {
			t.Fatal(n, err)
		}
		place := &src.b[0]
		if n, err := s.Commit(src, n); n != batchRecords*record.MaxPlaintext || err != nil {
			t.Fatal(n, err)
		}
		if c.first != place {
			t.Error("the payload was copied")
		}
	}
	if len(c.writes) != 3 {
		t.Errorf("%d Writes for 48 records", len(c.writes))
	}
	if n, err := src.Read(); n != 0 || err != io.EOF {
		t.Error(n, err)
	}
}

// What was read is sent whatever changed since Plan.
func TestCommitAfterChange(t *testing.T) {
	p := noise(1, 100000)
	const evens = 1193 // pads 1186 bytes to what a TLS 1.2 record of them is long
	for name, change := range map[string]func(t *testing.T, s *Sender, c *script){
		"other prefix alone": func(t *testing.T, s *Sender, c *script) {
			if err := s.SetKeys(testKeys(t, suite12)); err != nil {
				t.Fatal(err)
			}
			if n := s.sealer.SealedLen(1186); n != 22+evens {
				t.Fatalf("a record is %d bytes long", n)
			}
		},
		"nothing":    func(t *testing.T, s *Sender, c *script) {},
		"same suite": func(t *testing.T, s *Sender, c *script) { s.Rekey() },
		"other prefix": func(t *testing.T, s *Sender, c *script) {
			if err := s.SetKeys(testKeys(t, suite12)); err != nil {
				t.Fatal(err)
			}
		},
		"shorter records": func(t *testing.T, s *Sender, c *script) { s.SetMaxPayload(333) },
		"other stride": func(t *testing.T, s *Sender, c *script) {
			s.pad = 5000
			if err := s.SetKeys(testKeys(t, suite13)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for kind, open := range map[string]func() io.Reader{
			"file":         func() io.Reader { return tempFile(t, p) },
			"bytes.Reader": func() io.Reader { return bytes.NewReader(p) },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				lent(t)
				c := new(script)
				s := newSender(t, c, suite13)
				if name == "other prefix alone" {
					s.sealer.SetPadding(evens)
				}
				src := NewSource(open())
				if err := s.Plan(src, 1<<40); err != nil {
					t.Fatal(err)
				}
				n, err := src.Read()
				if err != nil {
					t.Fatal(err)
				}
				change(t, s, c)
				k := keysNow(t, s)
				place := &src.b[0]
				m, err := s.Commit(src, n)
				if m != n || err != nil {
					t.Fatal(m, err)
				}
				if direct := c.first == place; direct != (kind == "file" && (name == "nothing" || name == "same suite")) {
					t.Errorf("sealed in place: %v", direct)
				}
				if !bytes.Equal(data(t, k, c.out), p[:n]) {
					t.Error("data differ")
				}
				for _, r := range openAll(t, k, c.out) {
					if len(r.p) > s.sealer.MaxPayload() {
						t.Errorf("a record holds %d bytes", len(r.p))
					}
				}
			})
		}
	}
}

// TestCommitKeeps: between Plan and Commit another write was stopped by its
// deadline. What the source gave is sealed behind it and kept, in order.
func TestCommitKeeps(t *testing.T) {
	for _, other := range []int{10, 5000, 100000, 250000} {
		for _, kind := range []string{"file", "bytes.Reader"} {
			lent(t)
			c := new(script)
			s := newSender(t, c, suite13)
			ramp(t, s, c)
			k := keysNow(t, s)
			first, second := noise(1, other), noise(2, 250000)
			src := NewSource(bytes.NewReader(second))
			if kind == "file" {
				src = NewSource(tempFile(t, second))
			}
			if err := s.Plan(src, 1<<40); err != nil {
				t.Fatal(err)
			}
			n, err := src.Read()
			if err != nil {
				t.Fatal(err)
			}
			s.SetDeadline(past.AddDate(1000, 0, 0))
			c.take = []int{7, 0}
			if n, err := s.WriteOne(first, len(first)); n != len(first) || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(n, err)
			}
			s.SetDeadline(past)
			m, err := s.Commit(src, n)
			if m != n || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(m, err)
			}
			s.SetDeadline(past.AddDate(1000, 0, 0))
			if n, err := s.WriteOne([]byte("third"), 5); n != 5 || err != nil {
				t.Fatal(n, err)
			}
			want := append(append(first, second[:n]...), "third"...)
			if !bytes.Equal(data(t, k, c.out), want) {
				t.Errorf("%d before %s: data differ", other, kind)
			}
		}
	}
}

func TestSourceErrors(t *testing.T) {
	lent(t)
	s := newSender(t, new(script), suite13)
	broken := errors.New("broken")
	for _, test := range []struct {
		r    io.Reader
		want error
	}{
		{bytes.NewReader(nil), io.EOF},
		{io.MultiReader(), io.EOF},
		{readerFunc(func([]byte) (int, error) { return 0, broken }), broken},
		{readerFunc(func([]byte) (int, error) { return 0, nil }), io.ErrNoProgress},
	} {
		src := NewSource(test.r)
		if err := s.Plan(src, 1<<40); err != nil {
			t.Fatal(err)
		}
		if n, err := src.Read(); n != 0 || err != test.want {
			t.Error(n, err)
		}
	}
	// An error with data is for the next Read to tell.
	src := NewSource(readerFunc(func(p []byte) (int, error) { return copy(p, "last"), broken }))
	if err := s.Plan(src, 1<<40); err != nil {
		t.Fatal(err)
	}
	if n, err := src.Read(); n != 4 || err != nil {
		t.Error(n, err)
	}
	src.Drop()
	// The limit of Plan holds for what is read.
	for _, r := range []io.Reader{bytes.NewReader(make([]byte, 100)), tempFile(t, make([]byte, 100))} {
		src := NewSource(r)
		if err := s.Plan(src, 60); err != nil {
			t.Fatal(err)
		}
		if n, err := src.Read(); n != 60 || err != nil {
			t.Error(n, err)
		}
		src.Drop()
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// seen is a writer that notes what it is to read from.
type seen struct{ src io.Reader }

func (s *seen) Write([]byte) (int, error)           { return 0, errors.New("not by Write") }
func (s *seen) ReadFrom(r io.Reader) (int64, error) { s.src = r; return 0, nil }

// shouting embeds a file and changes what is read from it.
type shouting struct{ *os.File }

func (s shouting) Read(p []byte) (int, error) {
	n, err := s.File.Read(p)
	copy(p, bytes.ToUpper(p[:n]))
	return n, err
}

// TestInner: the structs of os and net that only hide a method are opened,
// those of anybody else are not.
func TestInner(t *testing.T) {
	f := tempFile(t, []byte("abc"))
	a, _ := tcpPair(t)
	var w seen
	if _, err := f.WriteTo(&w); err != nil {
		t.Fatal(err)
	}
	if w.src == io.Reader(f) || inner(w.src) != any(f) {
		t.Errorf("%T became %T", w.src, inner(w.src))
	}
	if _, err := a.WriteTo(&w); err != nil {
		t.Fatal(err)
	}
	if w.src == io.Reader(a) || inner(w.src) != any(a) {
		t.Errorf("%T became %T", w.src, inner(w.src))
	}
	for _, r := range []io.Reader{f, a, shouting{f}, struct{ *os.File }{f}, struct{ io.Reader }{f}, bytes.NewBuffer(nil)} {
		if inner(r) != any(r) {
			t.Errorf("%T became %T", r, inner(r))
		}
	}
	c := new(script)
	s := newSender(t, c, suite13)
	if n, err := copyAll(s, NewSource(shouting{f})); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if got := data(t, testKeys(t, suite13), c.out); string(got) != "ABC" {
		t.Errorf("%q", got)
	}
}
