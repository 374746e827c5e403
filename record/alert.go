package record

import (
	"errors"
	"fmt"
)

// Alert is an alert description (RFC 8446, 6).
type Alert uint8

// Alert descriptions that a record layer sends or acts on.
const (
	CloseNotify       Alert = 0
	UnexpectedMessage Alert = 10
	BadRecordMAC      Alert = 20
	RecordOverflow    Alert = 22
	IllegalParameter  Alert = 47
	DecodeError       Alert = 50
	ProtocolVersion   Alert = 70
	InternalError     Alert = 80
	UserCanceled      Alert = 90
	NoRenegotiation   Alert = 100
)

// Alert levels. TLS 1.3 ignores them but for close_notify and user_canceled.
const (
	LevelWarning = 1
	LevelFatal   = 2
)

var alertNames = map[Alert]string{
	0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 21: "decryption_failed",
	22: "record_overflow", 30: "decompression_failure", 40: "handshake_failure", 41: "no_certificate",
	42: "bad_certificate", 43: "unsupported_certificate", 44: "certificate_revoked",
	45: "certificate_expired", 46: "certificate_unknown", 47: "illegal_parameter", 48: "unknown_ca",
	49: "access_denied", 50: "decode_error", 51: "decrypt_error", 60: "export_restriction",
	70: "protocol_version", 71: "insufficient_security", 80: "internal_error",
	86: "inappropriate_fallback", 90: "user_canceled", 100: "no_renegotiation",
	109: "missing_extension", 110: "unsupported_extension", 111: "certificate_unobtainable",
	112: "unrecognized_name", 113: "bad_certificate_status_response", 114: "bad_certificate_hash_value",
	115: "unknown_psk_identity", 116: "certificate_required", 120: "no_application_protocol",
	121: "ech_required",
}

func (a Alert) String() string {
	if s, ok := alertNames[a]; ok {
		return s
	}
	return fmt.Sprintf("alert %d", uint8(a))
}

// Error is what is wrong with a record or with the messages inside records:
// the peer (or somebody between) is to blame, and is owed Alert.
type Error struct {
	Alert  Alert
	Reason string
}

func (e *Error) Error() string { return "record: " + e.Reason }

var (
	// ErrKeyLimit is returned by [Sealer.Seal] and [DatagramSealer.Seal] when
	// the key has sealed as many records as it may (RFC 8446, 5.5; RFC 9147,
	// 4.5.3), or the sequence number would wrap. Nothing was sealed; the
	// association needs new keys.
	ErrKeyLimit = errors.New("record: key has reached its limit of records")

	// ErrSuite is returned when version and suite do not go together or
	// are not of this package.
	ErrSuite = errors.New("record: version and suite are not served by this record layer")

	// ErrKeyLength is returned for a key, iv or secret of the wrong length.
	ErrKeyLength = errors.New("record: key, iv or secret has the wrong length for the suite")

	// ErrKeyMismatch is returned for a key and iv that do not follow from the
	// secret beside them.
	ErrKeyMismatch = errors.New("record: key and iv do not follow from the secret")

	// ErrTooLarge is returned by [Sealer.Seal] and [DatagramSealer.Seal] for a
	// payload over [Sealer.MaxPayload], and by [AppendACK] for what makes one.
	ErrTooLarge = errors.New("record: payload is larger than 16384 bytes")

	// ErrType is returned by [Sealer.Seal] for content type 0, and by
	// [DatagramSealer.Seal] for that and for [TLS12CID].
	ErrType = errors.New("record: not a type of content")

	// ErrNoSecret is returned by [Keys.Next] when there is no traffic secret
	// of version 1.3 to go on from, and for keys of DTLS 1.3 without one: the
	// key that hides sequence numbers follows from it.
	ErrNoSecret = errors.New("record: no traffic secret to derive the next keys from")

	// errWiped is the caller's mistake, not the peer's.
	errWiped = errors.New("record: the keys were wiped")
)
