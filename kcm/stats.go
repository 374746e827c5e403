package kcm

// Stats counts since the Mux was made, or the connection attached.
type Stats struct {
	Messages uint64 // that were whole and not dropped
	Bytes    uint64 // in them
	Dropped  uint64 // messages, by filters of both directions
	Reads    uint64 // from transports
	Pauses   uint64 // of a reader, since too much waited for endpoints
	Wakeups  uint64 // of an endpoint that waited, each with one message; of a Mux only

	Sent      uint64 // messages
	SentBytes uint64 // in them
	Writes    uint64 // to transports
}

func (s *Stats) add(t Stats) {
	s.Messages += t.Messages
	s.Bytes += t.Bytes
	s.Dropped += t.Dropped
	s.Reads += t.Reads
	s.Pauses += t.Pauses
	s.Wakeups += t.Wakeups
	s.Sent += t.Sent
	s.SentBytes += t.SentBytes
	s.Writes += t.Writes
}

// Stats returns the counters of all connections, also those that are gone.
func (m *Mux) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	for _, c := range m.conns {
		s.add(c.counters())
	}
	return s
}

// Stats returns the counters of the connection.
func (c *Conn) Stats() Stats {
	c.mux.mu.Lock()
	defer c.mux.mu.Unlock()
	return c.counters()
}

// counters are those of the connection. mux.mu is held.
func (c *Conn) counters() Stats {
	n := c.backlog.received
	return Stats{
		Messages: n.messages, Bytes: n.bytes, Dropped: n.dropped + c.screen.dropped.Load(), Reads: n.reads, Pauses: n.pauses,
		Sent: c.out.count.messages.Load(), SentBytes: c.out.count.bytes.Load(), Writes: c.out.count.writes.Load(),
	}
}
