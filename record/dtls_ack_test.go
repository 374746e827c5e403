package record_test

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/aftls/aftls/record"
)

func TestACKIsAListOfRecordNumbers(t *testing.T) {
	numbers := []record.Number{{4, 0}, {3, 0x0102030405060708}, {3, 2}}
	got, err := record.AppendACK([]byte("before"), numbers)
	want := append([]byte("before"), unhex(`0030
		0000000000000003 0000000000000002
		0000000000000003 0102030405060708
		0000000000000004 0000000000000000`)...)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x, %v", got, err)
	}
	if want := []record.Number{{3, 2}, {3, 0x0102030405060708}, {4, 0}}; !slices.Equal(numbers, want) {
		t.Errorf("sorted as %v", numbers)
	}
	if n := record.ACKLen(3); n != len(want)-6 {
		t.Errorf("ACKLen(3) = %d", n)
	}
	back, err := record.ParseACK([]record.Number{{1, 1}}, got[6:])
	if err != nil || !slices.Equal(back, append([]record.Number{{1, 1}}, numbers...)) {
		t.Errorf("%v, %v", back, err)
	}
	if empty, err := record.AppendACK(nil, nil); err != nil || !bytes.Equal(empty, []byte{0, 0}) { // RFC 9147, 7.1
		t.Errorf("%x, %v", empty, err)
	}
}

func TestACKIsNoLongerThanARecord(t *testing.T) {
	most := make([]record.Number, record.MaxACK)
	got, err := record.AppendACK(nil, most)
	if err != nil || len(got) > 16384 || len(got)+16 <= 16384 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := record.AppendACK([]byte("x"), append(most, record.Number{})); !errors.Is(err, record.ErrTooLarge) || string(got) != "x" {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestACKsOfAnotherLengthAreRefused(t *testing.T) {
	whole, err := record.AppendACK(nil, []record.Number{{3, 1}, {3, 2}})
	if err != nil {
		t.Fatal(err)
	}
	bad := [][]byte{append(slices.Clone(whole), 0), append([]byte{0, 15}, make([]byte, 15)...), {0, 1, 0}}
	for n := range whole {
		bad = append(bad, whole[:n])
	}
	for _, b := range bad {
		got, err := record.ParseACK([]record.Number{{9, 9}}, b)
		refused(t, err, record.DecodeError)
		if !slices.Equal(got, []record.Number{{9, 9}}) {
			t.Errorf("%v beside %v", got, err)
		}
	}
}

func FuzzParseACK(f *testing.F) {
	f.Add([]byte{0, 0})
	f.Add([]byte{})
	f.Add(append([]byte{0, 16}, make([]byte, 16)...))
	f.Add(append([]byte{0, 32}, make([]byte, 32)...))
	f.Fuzz(func(t *testing.T, message []byte) {
		numbers, err := record.ParseACK(nil, message)
		if err != nil {
			refused(t, err, record.DecodeError)
			return
		}
		if len(message) != record.ACKLen(len(numbers)) {
			t.Fatalf("%d numbers in %d bytes", len(numbers), len(message))
		}
		if len(numbers) > record.MaxACK || !slices.IsSortedFunc(numbers, record.Number.Compare) {
			return
		}
		again, err := record.AppendACK(nil, numbers)
		if err != nil || !reflect.DeepEqual(again, message) {
			t.Fatalf("%x came back as %x, %v", message, again, err)
		}
	})
}
