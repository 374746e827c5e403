package kcm

// Borrowed is how many buffers are lent out.
func Borrowed() int64 { return borrowed.Load() }

// Waiting is how many messages of the connection, and bytes in them, wait for
// an endpoint.
func (c *Conn) Waiting() (messages, bytes int) {
	c.mux.mu.Lock()
	defer c.mux.mu.Unlock()
	return c.backlog.waiting, c.backlog.bytes
}

// Idle is how many endpoints wait for a message, and Ready how many
// connections have messages for them.
func (m *Mux) Idle() (parked, ready int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := m.parked; e != nil; e = e.below {
		parked++
	}
	for c := m.ready.head; c != nil; c = c.link {
		if c.backlog.row.head != nil {
			ready++
		}
	}
	return parked, ready
}

// Limits that tests reckon with.
const (
	Turn      = turn
	SendLimit = sendLimit
	Smallest  = smallest
)

// BufferSize is that of the reader's buffer. It is to be asked while the reader
// waits.
func (c *Conn) BufferSize() int {
	if c.in.buf == nil {
		return 0
	}
	return len(c.in.buf.b)
}
