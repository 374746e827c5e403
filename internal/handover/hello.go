package handover

import "encoding/binary"

// sessionTicket returns the session_ticket extension (RFC 5077, 3.2) of a
// ClientHello message, or nil. crypto/tls has parsed the message already; a
// malformed one only means that no ticket is found.
func sessionTicket(hello []byte) []byte {
	const fixed = 4 + 2 + 32 // handshake header, version, random
	if len(hello) < fixed {
		return nil
	}
	b := hello[fixed:]
	ok := true
	vector := func(lenBytes int) []byte {
		n := 0
		if ok = ok && len(b) >= lenBytes; !ok {
			return nil
		}
		for _, x := range b[:lenBytes] {
			n = n<<8 | int(x)
		}
		b = b[lenBytes:]
		if ok = len(b) >= n; !ok {
			return nil
		}
		v := b[:n]
		b = b[n:]
		return v
	}
	vector(1) // session id
	vector(2) // cipher suites
	vector(1) // compression methods
	b = vector(2)
	for ok && len(b) >= 4 {
		typ := binary.BigEndian.Uint16(b)
		b = b[2:]
		if body := vector(2); typ == 35 && ok {
			return body
		}
	}
	return nil
}
