package soft

import "encoding/binary"

// Messages holds payloads that wait for their reader, in a borrowed buffer that
// grows with them up to the size of a batch. Empty, it holds none. The zero
// value is ready. It is not safe for use by two goroutines at once.
type Messages struct {
	buf  []byte
	r, w int
}

// lengthLen is the room for the length in front of every message.
const lengthLen = 2

// Put copies p behind the others, and reports false, having done nothing, where
// there is no room. p has at most record.MaxPlaintext bytes.
func (m *Messages) Put(p []byte) bool {
	need := lengthLen + len(p)
	if m.w+need > len(m.buf) && !m.makeRoom(need) {
		return false
	}
	binary.BigEndian.PutUint16(m.buf[m.w:], uint16(len(p)))
	copy(m.buf[m.w+lengthLen:], p)
	m.w += need
	return true
}

// makeRoom moves what there is to the front, of a larger buffer if it must.
func (m *Messages) makeRoom(need int) bool {
	held := m.w - m.r
	to := m.buf
	// Nothing is moved in a buffer that is almost full: it would be done again
	// for every message.
	if len(m.buf) < batchSize && held+need > len(m.buf)/2 {
		to = get(min(max(held+need, 4*len(m.buf)), batchSize))
	} else if held+need > len(m.buf)/4*3 {
		return false
	}
	copy(to, m.buf[m.r:m.w])
	if len(to) != len(m.buf) {
		if m.buf != nil {
			put(m.buf)
		}
		m.buf = to
	}
	m.r, m.w = 0, held
	return true
}

// Crowded reports whether there is more than half of what has room.
func (m *Messages) Crowded() bool { return m.w-m.r > batchSize/2 }

// Next returns the length of the first message, and false where there is none.
func (m *Messages) Next() (n int, ok bool) {
	if m.r == m.w {
		return 0, false
	}
	return int(binary.BigEndian.Uint16(m.buf[m.r:])), true
}

// Take copies the first message into p, as far as it fits, removes it and
// returns its length. There must be one.
func (m *Messages) Take(p []byte) int {
	n := int(binary.BigEndian.Uint16(m.buf[m.r:]))
	copy(p, m.buf[m.r+lengthLen:m.r+lengthLen+n])
	if m.r += lengthLen + n; m.r == m.w {
		m.Drop()
	}
	return n
}

// Drop forgets all messages and gives back the buffer.
func (m *Messages) Drop() {
	if m.buf != nil {
		put(m.buf)
	}
	*m = Messages{}
}
