package record_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aftls/aftls/record"
)

// refused checks that err is an *Error that owes the peer the alert.
func refused(t *testing.T, err error, want record.Alert) {
	t.Helper()
	var e *record.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T), want a *record.Error with %v", err, err, want)
	}
	if e.Alert != want {
		t.Fatalf("alert %v (%v), want %v", e.Alert, err, want)
	}
}

func TestFrameAsksForMoreUntilTheHeaderIsWhole(t *testing.T) {
	head := []byte{23, 3, 3, 0x01, 0x02}
	for n := range record.HeaderLen {
		if got, err := record.Frame(head[:n]); got != 0 || err != nil {
			t.Errorf("%d bytes: %d, %v, want 0 and no error", n, got, err)
		}
		each(t, constructions, func(t *testing.T, p profile) {
			if got, err := opener(t, p.keys("", 0)).Frame(head[:n]); got != 0 || err != nil {
				t.Errorf("%d bytes: %d, %v, want 0 and no error", n, got, err)
			}
		})
	}
	if got, err := record.Frame(nil); got != 0 || err != nil {
		t.Errorf("nil: %d, %v", got, err)
	}
}

func TestFrameCountsTheHeaderAndIgnoresWhatFollows(t *testing.T) {
	for _, n := range []int{0, 1, 255, 256, 258, 16384 + 2048} {
		head := []byte{23, 3, 3, byte(n >> 8), byte(n)}
		for _, stream := range [][]byte{head, append(head, 0xff, 0xff, 0xff)} {
			if got, err := record.Frame(stream); err != nil || got != 5+n {
				t.Errorf("length %d, %d bytes: %d, %v, want %d", n, len(stream), got, err, 5+n)
			}
		}
	}
}

func TestFrameRefusesWhatNoTLSPeerSends(t *testing.T) {
	for _, c := range []struct {
		name  string
		head  []byte
		alert record.Alert // CloseNotify stands for accepted
	}{
		{"SSL 3.0", []byte{22, 3, 0, 0, 1}, record.CloseNotify},
		{"ClientHello's 3.1", []byte{22, 3, 1, 0, 1}, record.CloseNotify},
		{"3.4", []byte{22, 3, 4, 0, 1}, record.CloseNotify},
		{"any type", []byte{255, 3, 3, 0, 1}, record.CloseNotify},
		{"3.5", []byte{22, 3, 5, 0, 1}, record.ProtocolVersion},
		{"3.255", []byte{22, 3, 255, 0, 1}, record.ProtocolVersion},
		{"2.3", []byte{22, 2, 3, 0, 1}, record.ProtocolVersion},
		{"4.3", []byte{22, 4, 3, 0, 1}, record.ProtocolVersion},
		{"DTLS 1.2", []byte{22, 254, 253, 0, 1}, record.ProtocolVersion},
		{"HTTP", []byte("GET /"), record.ProtocolVersion},
		{"longest", []byte{23, 3, 3, 0x48, 0x00}, record.CloseNotify},
		{"one byte more", []byte{23, 3, 3, 0x48, 0x01}, record.RecordOverflow},
		{"far longer", []byte{23, 3, 3, 0xff, 0xff}, record.RecordOverflow},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := record.Frame(c.head)
			if c.alert == record.CloseNotify {
				if want := 5 + int(c.head[3])<<8 + int(c.head[4]); err != nil || n != want {
					t.Fatalf("%d, %v, want %d", n, err, want)
				}
				return
			}
			refused(t, err, c.alert)
			if n != 0 {
				t.Errorf("n = %d beside an error", n)
			}
		})
	}
}

// longest is the length field of the longest record that an opener accepts.
func (p profile) longest() int {
	if p.is13() {
		return 16384 + 256
	}
	return 16384 + p.explicit + 16
}

func TestOpenersFrameKnowsItsVersion(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		o := opener(t, p.keys("", 0))
		for typ := range 256 {
			n, err := o.Frame([]byte{byte(typ), 3, 3, 1, 0})
			if p.is13() && typ != 23 {
				refused(t, err, record.UnexpectedMessage)
			} else if err != nil || n != 5+256 {
				t.Fatalf("type %d: %d, %v", typ, n, err)
			}
		}
		for i := range 512 { // every first byte, then every second
			v := i<<8 | 3
			if i >= 256 {
				v = 3<<8 | i&0xff
			}
			n, err := o.Frame([]byte{23, byte(v >> 8), byte(v), 1, 0})
			if v != 0x0303 {
				refused(t, err, record.ProtocolVersion)
			} else if err != nil || n != 5+256 {
				t.Fatalf("version %#04x: %d, %v", v, n, err)
			}
		}
		for length := 0; length < 1<<16; length++ {
			if length == p.longest()+10 {
				length = 65000 // the refusals between are all alike
			}
			n, err := o.Frame([]byte{23, 3, 3, byte(length >> 8), byte(length)})
			if length > p.longest() {
				refused(t, err, record.RecordOverflow)
			} else if err != nil || n != 5+length {
				t.Fatalf("length %d: %d, %v", length, n, err)
			}
			if err == nil && n > record.MaxRecord {
				t.Fatalf("length %d is accepted, and longer than MaxRecord", length)
			}
		}
	})
}

func TestNamesOfAlertsAndContentTypes(t *testing.T) {
	for got, want := range map[fmt.Stringer]string{
		record.CloseNotify:       "close_notify",
		record.UnexpectedMessage: "unexpected_message",
		record.BadRecordMAC:      "bad_record_mac",
		record.RecordOverflow:    "record_overflow",
		record.DecodeError:       "decode_error",
		record.ProtocolVersion:   "protocol_version",
		record.InternalError:     "internal_error",
		record.UserCanceled:      "user_canceled",
		record.NoRenegotiation:   "no_renegotiation",
		record.Alert(109):        "missing_extension",
		record.Alert(116):        "certificate_required",
		record.Alert(255):        "alert 255",
		record.ChangeCipherSpec:  "change_cipher_spec",
		record.AlertRecord:       "alert",
		record.Handshake:         "handshake",
		record.ApplicationData:   "application_data",
		record.Heartbeat:         "heartbeat",
		record.ContentType(0):    "content type 0",
		record.ContentType(99):   "content type 99",
	} {
		if got.String() != want {
			t.Errorf("%T %d is %q, want %q", got, got, got.String(), want)
		}
	}
}

func TestErrorSaysItsReason(t *testing.T) {
	err := error(&record.Error{Alert: record.DecodeError, Reason: "not one whole record"})
	if !strings.Contains(err.Error(), "not one whole record") {
		t.Errorf("%q", err)
	}
}
