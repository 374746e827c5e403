// Package record protects and opens the records of TLS 1.2 and TLS 1.3
// (RFC 5246, 6.2 and RFC 8446, 5), and of DTLS 1.2 and DTLS 1.3 (RFC 6347, 4.1,
// RFC 9146 and RFC 9147, 4) for the AEAD suites: AES-128-GCM, AES-256-GCM and
// ChaCha20-Poly1305.
//
// It does no I/O, reads no clock, writes no log and starts no goroutine. One
// [Sealer] or [Opener], in DTLS one [DatagramSealer] or [DatagramOpener], serves
// one direction of one association; none may be used by two goroutines at once.
// Keys come in as [Keys], from traffic secrets ([TrafficKeys],
// [DatagramTrafficKeys]) or from a version 1.2 master secret ([KeyBlock],
// [DatagramKeyBlock]).
//
// Every complaint about a record of TLS is an [*Error]: it carries the alert that
// the peer is owed. In DTLS most of them are a [Drop]: the record is to be
// forgotten, and the association goes on.
package record

import "fmt"

// ContentType is the type of a record (RFC 8446, 5.1).
type ContentType uint8

// The content types that a living association can meet. Only ApplicationData
// is a data record; every other type is a control record.
const (
	ChangeCipherSpec ContentType = 20
	AlertRecord      ContentType = 21
	Handshake        ContentType = 22
	ApplicationData  ContentType = 23
	Heartbeat        ContentType = 24
)

func (t ContentType) String() string {
	switch t {
	case ChangeCipherSpec:
		return "change_cipher_spec"
	case AlertRecord:
		return "alert"
	case Handshake:
		return "handshake"
	case ApplicationData:
		return "application_data"
	case Heartbeat:
		return "heartbeat"
	case TLS12CID:
		return "tls12_cid"
	case ACKRecord:
		return "ack"
	}
	return fmt.Sprintf("content type %d", uint8(t))
}

// Protocol versions as they stand on the wire.
const (
	TLS12 uint16 = 0x0303
	TLS13 uint16 = 0x0304
)

// Sizes in bytes.
const (
	HeaderLen    = 5       // type, legacy version, length
	MaxPlaintext = 1 << 14 // application bytes of one record
	TagLen       = 16      // every suite here has a 128-bit tag

	// MaxRecord is the longest record that any opener of this package
	// accepts, header included: a full TLS 1.3 record may carry 256 bytes
	// of content type, padding and tag (RFC 8446, 5.2).
	MaxRecord = HeaderLen + MaxPlaintext + 256

	// maxFragment12 is what RFC 5246, 6.2.3 allows before the suite is
	// known: Frame uses it, openers are stricter.
	maxFragment12 = MaxPlaintext + 2048
)

// Frame returns the length of the first record of a stream that begins with
// head, header included. It returns 0 when head is too short to tell: call
// again with at least [HeaderLen] bytes. It knows neither keys nor the
// negotiated version, so it refuses only what no TLS peer sends: the error is
// an [*Error].
func Frame(head []byte) (n int, err error) {
	if len(head) < HeaderLen {
		return 0, nil
	}
	if head[1] != 3 || head[2] > 4 {
		return 0, &Error{Alert: ProtocolVersion, Reason: fmt.Sprintf("record version 0x%02x%02x is not TLS", head[1], head[2])}
	}
	n = int(head[3])<<8 | int(head[4])
	if n > maxFragment12 {
		return 0, &Error{Alert: RecordOverflow, Reason: fmt.Sprintf("record of %d bytes is larger than %d", n, maxFragment12)}
	}
	return HeaderLen + n, nil
}
