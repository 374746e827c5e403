package handover

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"

	"github.com/aftls/aftls/record"
)

// hello makes a ClientHello with a cookie, in a record.
func hello(cookie []byte) []byte {
	body := append([]byte{0xfe, 0xfd}, make([]byte, 32)...)
	body = append(body, 0, byte(len(cookie)))
	body = append(body, cookie...)
	body = append(body, 0, 2, 0xc0, 0x2b, 1, 0)
	m := append([]byte{helloClient, 0, 0, byte(len(body)), 0, 1, 0, 0, 0, 0, 0, byte(len(body))}, body...)
	head := []byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 1, 0, byte(len(m))}
	return append(head, m...)
}

func testWire(client bool, cidLen int) *datagramWire {
	a := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
	return newDatagramWire(client, a, a, cidLen, func([]byte) error { return nil })
}

func TestStrangeCookiesDoNotReachPion(t *testing.T) {
	w := testWire(false, 0)
	w.push(hello(nil))
	w.push(hello([]byte("before there is one")))
	verify := []byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12 + 3 + 4, helloVerify, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 7, 0xfe, 0xfd, 4, 'o', 'u', 'r', 's'}
	if _, err := w.WriteTo(verify, nil); err != nil {
		t.Fatal(err)
	}
	w.push(hello([]byte("theirs")))
	w.push(hello([]byte("ours")))
	if len(w.inbox) != 2 || !bytes.Equal(w.inbox[0], hello(nil)) || !bytes.Equal(w.inbox[1], hello([]byte("ours"))) {
		t.Errorf("%d datagrams for pion", len(w.inbox))
	}
}

// What pion must not see, and what the association must have, whatever comes.
func FuzzDatagramPush(f *testing.F) {
	f.Add(hello(nil), byte(0))
	f.Add(hello([]byte("cookie")), byte(0))
	f.Add([]byte{23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 0, 2, 1, 2, 22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1}, byte(0))
	f.Add([]byte{25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 9, 9, 0, 1, 7}, byte(2))
	f.Add([]byte{21, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0}, byte(0))
	f.Fuzz(func(t *testing.T, d []byte, cidLen byte) {
		w := testWire(false, int(cidLen))
		before := bytes.Clone(d)
		w.push(d)
		if !bytes.Equal(d, before) {
			t.Fatal("the datagram was changed")
		}
		total := 0
		for _, in := range w.inbox {
			total += len(in)
			for left := in; len(left) > 0; {
				if len(left) < record.DatagramHeaderLen {
					t.Fatalf("pion is shown the scrap %x", left)
				}
				n := record.DatagramHeaderLen
				if left[0] == 25 {
					n += int(cidLen)
				}
				n += int(binary.BigEndian.Uint16(left[n-2:]))
				if left[0] == 23 || left[0] == 21 && (left[3]|left[4]) != 0 {
					t.Fatalf("pion is shown %x", left[:n])
				}
				left = left[n:]
			}
		}
		for _, rec := range w.early {
			if rec[0] != 25 && (rec[3]|rec[4]) == 0 {
				t.Fatalf("early %x is in the clear", rec)
			}
		}
		if total > len(d) || len(w.early) > maxEarly || len(w.inbox) > 1 {
			t.Fatalf("%d bytes and %d records of %d bytes", total, len(w.early), len(d))
		}
	})
}

func FuzzDatagramNote(f *testing.F) {
	f.Add(hello([]byte("cookie")))
	f.Add([]byte{20, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 1, 22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 4, 0, 1, 9})
	f.Add([]byte{20, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 1, 25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 4, 7, 7, 0, 1, 9})
	f.Fuzz(func(t *testing.T, d []byte) {
		w := testWire(true, 0)
		w.note(d)
		if len(w.flight) > 1 || len(w.flight) == 1 && !bytes.Equal(w.flight[0], d) || w.next > 1<<48 {
			t.Fatalf("%d datagrams of a flight, next number %d", len(w.flight), w.next)
		}
	})
}

func TestPionStateIsTheOneWeKnow(t *testing.T) {
	if err := checkPionState(); err != nil {
		t.Fatal(err)
	}
}
