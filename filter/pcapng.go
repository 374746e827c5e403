package filter

import "encoding/binary"

// Blocks of pcapng (draft-ietf-opsawg-pcapng), in the byte order of the machine.
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockStatistics = 5
	blockPacket     = 6
	blockSecrets    = 10

	byteOrderMagic = 0x1a2b3c4d
	linkTypeRaw    = 101 // IPv4 and IPv6 headers come first
	secretsTLS     = 0x544c534b

	// Options.
	optEnd                 = 0
	optUserApplication     = 4 // of a section
	optName, optResolution = 2, 9
	optFilter              = 11 // of an interface
	optFlags               = 2  // of a packet
	optReceived, optDrop   = 4, 5
	optAccepted            = 6 // of statistics

	inbound, outbound = 1, 2 // of optFlags
	nanoseconds       = 9    // of optResolution
)

var native = binary.NativeEndian

// beginBlock appends the start of a block; endBlock puts in its length.
func beginBlock(b []byte, typ uint32) (_ []byte, start int) {
	start = len(b)
	b = native.AppendUint32(b, typ)
	return native.AppendUint32(b, 0), start
}

func endBlock(b []byte, start int) []byte {
	n := uint32(len(b) - start + 4)
	native.PutUint32(b[start+4:], n)
	return native.AppendUint32(b, n)
}

// appendPadded appends p and zeros up to a whole number of 4 bytes.
func appendPadded(b, p []byte) []byte {
	b = append(b, p...)
	return append(b, make([]byte, -len(p)&3)...)
}

func appendOption[T string | []byte](b []byte, code uint16, value T) []byte {
	b = native.AppendUint16(b, code)
	b = native.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

// appendSection appends the head of a file: a section with one interface.
// filter says in words what is captured.
func appendSection(b []byte, snapLen uint32, filter string) []byte {
	b, start := beginBlock(b, blockSection)
	b = native.AppendUint32(b, byteOrderMagic)
	b = native.AppendUint16(b, 1) // version 1.0
	b = native.AppendUint16(b, 0)
	b = native.AppendUint64(b, ^uint64(0)) // the section's length is not said
	b = appendOption(b, optUserApplication, "aftls")
	b = native.AppendUint32(b, optEnd)
	b = endBlock(b, start)

	b, start = beginBlock(b, blockInterface)
	b = native.AppendUint16(b, linkTypeRaw)
	b = native.AppendUint16(b, 0)
	b = native.AppendUint32(b, snapLen)
	b = appendOption(b, optName, "aftls")
	b = appendOption(b, optResolution, []byte{nanoseconds})
	if filter != "" {
		const text = "\x00" // and not BPF
		b = appendOption(b, optFilter, text+filter[:min(len(filter), 4096)])
	}
	b = native.AppendUint32(b, optEnd)
	return endBlock(b, start)
}

// packetBlockLen is how long the block of a packet is of which n bytes are kept.
func packetBlockLen(n int) int { return 28 + (n+3)&^3 + 12 + 4 }

// appendPacket appends a packet: keep bytes of head and payload.
func appendPacket(b []byte, nanos int64, head, payload []byte, keep int, direction uint32) []byte {
	b, start := beginBlock(b, blockPacket)
	b = native.AppendUint32(b, 0) // of the first interface
	b = native.AppendUint32(b, uint32(uint64(nanos)>>32))
	b = native.AppendUint32(b, uint32(nanos))
	b = native.AppendUint32(b, uint32(keep))
	b = native.AppendUint32(b, uint32(len(head)+len(payload)))
	n := min(keep, len(head))
	b = append(b, head[:n]...)
	b = append(b, payload[:keep-n]...)
	var zeros [4]byte
	b = append(b, zeros[:-keep&3]...)
	b = native.AppendUint16(b, optFlags)
	b = native.AppendUint16(b, 4)
	b = native.AppendUint32(b, direction)
	b = native.AppendUint32(b, optEnd)
	return endBlock(b, start)
}

// appendSecrets appends lines of a TLS key log (draft-ietf-tls-keylogfile).
func appendSecrets(b, lines []byte) []byte {
	b, start := beginBlock(b, blockSecrets)
	b = native.AppendUint32(b, secretsTLS)
	b = native.AppendUint32(b, uint32(len(lines)))
	b = appendPadded(b, lines)
	return endBlock(b, start)
}

// appendStatistics appends what a capture missed.
func appendStatistics(b []byte, nanos int64, s TapStats) []byte {
	b, start := beginBlock(b, blockStatistics)
	b = native.AppendUint32(b, 0)
	b = native.AppendUint32(b, uint32(uint64(nanos)>>32))
	b = native.AppendUint32(b, uint32(nanos))
	for _, o := range []struct {
		code uint16
		n    uint64
	}{{optReceived, s.Packets + s.Filtered + s.Dropped}, {optDrop, s.Dropped}, {optAccepted, s.Packets + s.Dropped}} {
		b = appendOption(b, o.code, native.AppendUint64(nil, o.n))
	}
	b = native.AppendUint32(b, optEnd)
	return endBlock(b, start)
}
