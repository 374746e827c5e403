// What only holds without the race detector, as in alloc_test.go.

//go:build !race

package record_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/aftls/aftls/record"
)

func TestDatagramSealAndOpenDoNotAllocate(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		for _, sh := range p.shapes() {
			for _, n := range []int{0, 1, 1200, 16383} {
				payload := noise("payload", n)
				s, o := p.datagramPair(t, sh, 3, 0)
				room := make([]byte, 0, s.SealedLen(n))
				noAllocs(t, fmt.Sprintf("%v: Seal of %d bytes", sh, n), func() {
					if _, err := s.Seal(room, record.ApplicationData, payload); err != nil {
						t.Fatal(err)
					}
				})
				at := s.Prefix()
				noAllocs(t, fmt.Sprintf("%v: Seal of %d bytes in place", sh, n), func() {
					if _, err := s.Seal(room, record.ApplicationData, room[at:at+n]); err != nil {
						t.Fatal(err)
					}
				})

				s, _ = p.datagramPair(t, sh, 3, 0)
				var recs [][]byte
				for range allocRuns + 1 {
					rec, err := s.Seal(nil, record.ApplicationData, payload)
					if err != nil {
						t.Fatal(err)
					}
					recs = append(recs, rec)
				}
				next := 0
				noAllocs(t, fmt.Sprintf("%v: Open of %d bytes", sh, n), func() {
					got, _, err := o.Open(recs[next])
					if err != nil || !bytes.Equal(got.Payload, payload) {
						t.Fatalf("%d bytes, %v", len(got.Payload), err)
					}
					next++
				})
			}
		}
	})
}

// A flood of bad records must not make garbage.
func TestDatagramDropsDoNotAllocate(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		sh := shape{cid: []byte("12345678")}
		k := p.datagramKeys("drop", 3, 0)
		make := func(seq, epoch uint64, cid string) []byte {
			return p.datagram(k, spec{epoch: epoch, explicit: epoch<<48 | seq, seq: seq, typ: record.ApplicationData, payload: []byte("payload"), cid: []byte(cid)})
		}
		forged := make(2, 3, "12345678")
		forged[len(forged)-1] ^= 1
		o := datagramOpener(t, k, sh)
		if _, _, err := o.Open(make(1, 3, "12345678")); err != nil {
			t.Fatal(err)
		}
		var counts [record.Drops]int
		for why, rec := range map[record.Drop][]byte{
			record.DropHeader:         {0x80, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13},
			record.DropTruncated:      {},
			record.DropEpoch:          make(2, 5, "12345678"),
			record.DropCID:            make(2, 3, "12345679"),
			record.DropAuthentication: forged,
			record.DropReplay:         make(1, 3, "12345678"),
		} {
			buf := bytes.Clone(rec)
			noAllocs(t, why.String(), func() {
				copy(buf, rec)
				_, _, err := o.Open(buf)
				d, ok := err.(record.Drop)
				if !ok || d != why {
					t.Fatalf("%v, want %v", err, why)
				}
				counts[d]++
			})
			if counts[why] == 0 {
				t.Errorf("%v was not counted", why)
			}
		}
	})
}

func TestDatagramCIDAndACKDoNotAllocate(t *testing.T) {
	numbers := []record.Number{{4, 1}, {3, 7}, {3, 6}}
	room, back := make([]byte, 0, record.ACKLen(3)), make([]record.Number, 0, 3)
	d := append([]byte{0x3f}, make([]byte, 30)...)
	noAllocs(t, "AppendACK, ParseACK, DatagramCID", func() {
		b, err := record.AppendACK(room, numbers)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := record.ParseACK(back, b); err != nil || len(got) != 3 {
			t.Fatal(got, err)
		}
		if record.DatagramCID(d, 8) == nil {
			t.Fatal("no CID")
		}
	})
}
