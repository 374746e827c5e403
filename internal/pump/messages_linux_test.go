package pump

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
)

func recordPair(t testing.TB) (*End, *os.File) {
	t.Helper()
	e, f, err := NewRecordPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close(); f.Close() })
	return e, f
}

func TestMessagesKeepTheirBoundaries(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		e, f := recordPair(t)
		var wrote [][]byte
		total := uint64(0)
		p := make([]byte, 16384)
		for range 40 {
			if r.IntN(2) == 0 {
				b := make([]byte, r.IntN(1<<r.IntN(15)))
				for i := range b {
					b[i] = byte(r.Uint32())
				}
				if _, err := f.Write(b); err != nil {
					t.Fatal(err)
				}
				if len(b) > 0 {
					wrote, total = append(wrote, b), total+uint64(len(b))
				}
				if n, err := e.Written(); n != total || err != nil {
					t.Fatal(n, total, err)
				}
			}
			n, err := e.ReadMessage(p)
			if len(wrote) == 0 {
				if n != 0 || err != io.EOF || e.Ended() {
					t.Fatal(n, err)
				}
				continue
			}
			if err != nil || !bytes.Equal(p[:n], wrote[0]) {
				t.Fatalf("seed %d: %d bytes of %d, %v", seed, n, len(wrote[0]), err)
			}
			wrote = wrote[1:]
		}
		f.Close()
		for range wrote {
			if _, err := e.ReadMessage(p); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := e.ReadMessage(p); err != io.EOF || !e.Ended() {
			t.Fatal(err, e.Ended())
		}
	}
}

func TestMessagesAreFailClosed(t *testing.T) {
	for name, prepare := range map[string]func(e *End, f *os.File){
		"at once":         func(*End, *os.File) {},
		"everything read": func(e *End, f *os.File) { f.Write([]byte("abc")); e.ReadMessage(make([]byte, 10)) },
		"too long": func(e *End, f *os.File) {
			f.Write([]byte("abc"))
			if _, err := e.ReadMessage(make([]byte, 2)); !errors.Is(err, syscall.EMSGSIZE) {
				panic(err)
			}
		},
	} {
		e, f := recordPair(t)
		prepare(e, f)
		e.Close()
		if _, err := f.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
	}
	e, f := recordPair(t)
	e.Write([]byte("data"))
	e.Finish()
	e.CloseClean()
	b := make([]byte, 10)
	if n, err := f.Read(b); string(b[:n]) != "data" || err != nil {
		t.Errorf("%q, %v", b[:n], err)
	}
	if n, err := f.Read(b); n != 0 || err != io.EOF {
		t.Error(n, err)
	}
}
