package soft

import (
	"sync/atomic"

	"github.com/aftls/aftls/record"
)

// Arrivals takes datagrams from a port, many with one call. While it waits, and
// while there is nothing left of what came, it holds no buffer. It is not safe
// for use by two goroutines at once.
type Arrivals struct {
	port *Port
	in   *incoming
}

// NewArrivals returns the arrivals of a port.
func NewArrivals(port *Port) *Arrivals { return &Arrivals{port: port} }

// Next returns the next datagram, and its path where the port has many peers.
// It waits for one where wait is set; otherwise ok says whether there was one
// among those that came before. The datagram is the caller's until the next call.
func (a *Arrivals) Next(wait bool) (d []byte, from Path, ok bool, err error) {
	for {
		if a.in != nil {
			if d, from, ok = a.in.next(); ok {
				return d, from, true, nil
			}
			a.Drop()
		}
		if !wait {
			return nil, from, false, nil
		}
		if a.in, err = a.port.receive(); err != nil {
			return nil, from, false, err
		}
	}
}

// Drop gives back what was not taken.
func (a *Arrivals) Drop() {
	if a.in != nil {
		a.in.release()
		a.in = nil
	}
}

// DatagramReceiver is the receiving half of an association over datagrams: it
// opens records wherever they come from. It is not safe for use by two
// goroutines at once, but for Stats and Drops.
type DatagramReceiver struct {
	opener *record.DatagramOpener
	stats  Stats
	drops  [record.Drops]atomic.Uint64
}

// NewDatagramReceiver returns a receiver with keys, for records with the given
// Connection ID. The errors are those of record.NewDatagramOpener.
func NewDatagramReceiver(k record.Keys, cid []byte) (*DatagramReceiver, error) {
	opener, err := record.NewDatagramOpener(k, cid)
	if err != nil {
		return nil, err
	}
	r := &DatagramReceiver{opener: opener}
	r.stats.keyed(k)
	r.stats.Seq.Store(k.Seq)
	return r, nil
}

// Open opens the first record of a datagram in place and returns what follows
// it, empty at the end. A record.Drop is counted. Any other error is fatal.
func (r *DatagramReceiver) Open(d []byte) (rec record.DatagramRecord, rest []byte, err error) {
	rec, rest, err = r.opener.Open(d)
	if err != nil {
		if why, ok := err.(record.Drop); ok {
			r.drops[why].Add(1)
		}
		return rec, rest, err
	}
	r.stats.Seq.Store(r.opener.Seq())
	r.stats.Records.Add(1)
	if rec.Type == record.ApplicationData {
		r.stats.Bytes.Add(uint64(len(rec.Payload)))
	}
	return rec, rest, nil
}

// Drops is how many records were dropped for a reason.
func (r *DatagramReceiver) Drops(why record.Drop) uint64 { return r.drops[why].Load() }

// Keys returns a copy of the keys, at the number above the highest received.
func (r *DatagramReceiver) Keys() record.Keys {
	all := r.opener.Keys()
	for i := range all[:len(all)-1] {
		all[i].Wipe()
	}
	return all[len(all)-1]
}

// Stats counts what was received.
func (r *DatagramReceiver) Stats() *Stats { return &r.stats }

// Rest gives up what can be made again from the keys.
func (r *DatagramReceiver) Rest() { r.opener.Rest() }

// Wipe overwrites the keys. The receiver is of no use afterwards.
func (r *DatagramReceiver) Wipe() { r.opener.Wipe() }
