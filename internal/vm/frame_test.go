package vm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	t.Logf("in kernel %s", os.Getenv("AFTLS_VM"))
	var b bytes.Buffer
	w := &frameWriter{w: &b}
	large := bytes.Repeat([]byte("large"), maxFrame/4)
	if n, err := (frameStream{w, frameOut}).Write(large); n != len(large) || err != nil {
		t.Fatal(n, err)
	}
	if err := w.file("/a/file", bytes.NewReader(large)); err != nil {
		t.Fatal(err)
	}
	if err := w.file("/empty", strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if err := w.send(frameEnd, nil); err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	buf := make([]byte, 16)
	for {
		typ, content, err := readFrame(&b, buf)
		if err != nil {
			t.Fatal(err)
		}
		if typ == frameEnd {
			break
		}
		if typ == frameFile {
			name, data, _ := bytes.Cut(content, []byte{0})
			got[string(name)] = append(got[string(name)], data...)
		} else {
			got[string(typ)] = append(got[string(typ)], content...)
		}
	}
	if !bytes.Equal(got["o"], large) || !bytes.Equal(got["/a/file"], large) || len(got) != 3 || len(got["/empty"]) != 0 {
		t.Errorf("%d kinds, %d and %d bytes of %d", len(got), len(got["o"]), len(got["/a/file"]), len(large))
	}
}

func TestFramesOfAGuestOutOfItsMind(t *testing.T) {
	for name, c := range map[string]struct {
		b   string
		err error
	}{
		"nothing":      {"", io.EOF},
		"half a head":  {"o\x00\x00", io.ErrUnexpectedEOF},
		"no content":   {"o\x00\x00\x00\x05", io.ErrUnexpectedEOF},
		"half of it":   {"o\x00\x00\x00\x05abc", io.ErrUnexpectedEOF},
		"too large":    {"o\xff\xff\xff\xff", nil},
		"unknown type": {"\x1b\x00\x00\x00\x00", nil},
	} {
		if _, _, err := readFrame(strings.NewReader(c.b), nil); err == nil || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A port that fails once sends no more: what follows would be taken for something else.
func TestFramesAfterAnError(t *testing.T) {
	r, pipe := io.Pipe()
	w := &frameWriter{w: pipe}
	r.CloseWithError(os.ErrClosed)
	for range 2 {
		if n, err := (frameStream{w, frameErr}).Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("%d, %v", n, err)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("o\x00\x00\x00\x05hello"))
	f.Add([]byte("f\x00\x00\x00\x08/a\x00bytes"))
	f.Add([]byte("x\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			_, content, err := readFrame(r, nil)
			if err != nil {
				return
			}
			if len(content) > maxFrame || len(content) > len(b) {
				t.Fatalf("%d bytes out of %d", len(content), len(b))
			}
		}
	})
}
