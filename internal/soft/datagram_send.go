package soft

import (
	"sync"

	"github.com/aftls/aftls/record"
)

// DatagramSender is the sending half of an association over datagrams. It is
// not safe for use by two goroutines at once, but for Stats.
type DatagramSender struct {
	port   *Port
	sealer *record.DatagramSealer
	stats  Stats
}

// NewDatagramSender returns a sender with keys, that puts cid into its records.
// Both are copied. The errors are those of record.NewDatagramSealer.
func NewDatagramSender(port *Port, k record.Keys, cid []byte, maxRecords uint64, padding int) (*DatagramSender, error) {
	sealer, err := record.NewDatagramSealer(k, cid)
	if err != nil {
		return nil, err
	}
	sealer.SetMaxRecords(maxRecords)
	sealer.SetPadding(padding)
	s := &DatagramSender{port: port, sealer: sealer}
	s.stats.keyed(k)
	s.stats.Seq.Store(k.Seq)
	return s, nil
}

// Send seals p as one record and sends it to the peer in a datagram of its own. When the carrier does not take
// it, it is lost. The errors are those of record's Seal, [*MTUError], and the
// carrier's.
func (s *DatagramSender) Send(typ record.ContentType, p []byte, to Path) error {
	buf := get(s.sealer.SealedLen(len(p)))
	defer put(buf)
	b, err := s.sealer.Seal(buf[:0], typ, p)
	if err != nil {
		return err
	}
	s.stats.Seq.Store(s.sealer.Seq())
	sizes := [1]int{len(b)}
	if _, err := s.port.Send(b, sizes[:], to); err != nil {
		return err
	}
	s.count(typ, p)
	return nil
}

func (s *DatagramSender) count(typ record.ContentType, p []byte) {
	if typ == record.ApplicationData {
		s.stats.Bytes.Add(uint64(len(p)))
	}
	s.stats.Records.Add(1)
}

// batch is where sizes lie while a batch is sent.
type batch struct{ sizes [MaxBatch]int }

var datagramBatches = sync.Pool{New: func() any { return new(batch) }}

// SendBatch is Send of data for many payloads, as few calls as possible. It
// returns how many were sent: those behind them were not, even where they were
// sealed.
func (s *DatagramSender) SendBatch(payloads [][]byte, to Path) (n int, err error) {
	if len(payloads) == 1 {
		if err := s.Send(record.ApplicationData, payloads[0], to); err != nil {
			return 0, err
		}
		return 1, nil
	}
	c := datagramBatches.Get().(*batch)
	defer datagramBatches.Put(c)
	buf := get(batchSize)
	defer put(buf)
	for n < len(payloads) && err == nil {
		b, k := buf[:0], 0
		for k < MaxBatch && n+k < len(payloads) {
			p := payloads[n+k]
			size := s.sealer.SealedLen(len(p))
			if len(b)+size > batchSize {
				break
			}
			if b, err = s.sealer.Seal(b, record.ApplicationData, p); err != nil {
				break
			}
			c.sizes[k] = size
			k++
		}
		s.stats.Seq.Store(s.sealer.Seq())
		if k == 0 {
			break
		}
		sent, serr := s.port.Send(b, c.sizes[:k], to)
		for _, p := range payloads[n : n+sent] {
			s.count(record.ApplicationData, p)
		}
		n += sent
		if serr != nil {
			return n, serr
		}
	}
	return n, err
}

// SealedLen is how many bytes of a datagram a payload of n bytes becomes.
func (s *DatagramSender) SealedLen(n int) int { return s.sealer.SealedLen(n) }

// Overhead is how many bytes of a datagram are not its payload.
func (s *DatagramSender) Overhead() int { return s.sealer.SealedLen(0) }

// Keys returns a copy of the keys, at the number of the next record.
func (s *DatagramSender) Keys() record.Keys { return s.sealer.Keys() }

// Left is how many records the key may still seal.
func (s *DatagramSender) Left() uint64 { return s.sealer.Left() }

// Stats counts what was sent.
func (s *DatagramSender) Stats() *Stats { return &s.stats }

// Rest gives up what can be made again from the keys.
func (s *DatagramSender) Rest() { s.sealer.Rest() }

// Wipe overwrites the keys. The sender is of no use afterwards.
func (s *DatagramSender) Wipe() { s.sealer.Wipe() }
