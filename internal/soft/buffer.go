package soft

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/aftls/aftls/record"
)

// Buffer sizes in bytes. A batch holds 16 records whatever their overhead, or 4
// while many are lent: then more connections wait for slow peers than there are
// processors to seal and open for. A peer that stays silent inside a record holds one
// record's worth of us.
const (
	batchRecords = 16
	fewRecords   = 4
	smallSize    = 4 << 10
	recordSize   = 17 << 10 // >= record.MaxRecord
	fewSize      = fewRecords * record.MaxRecord
	batchSize    = batchRecords * record.MaxRecord
)

// manyBatches is how many whole batches are lent, about.
var manyBatches = int64(max(32, 4*runtime.GOMAXPROCS(0)))

// The pools hold pointers to arrays: putting one back does not allocate.
var (
	smallPool  = sync.Pool{New: func() any { return new([smallSize]byte) }}
	recordPool = sync.Pool{New: func() any { return new([recordSize]byte) }}
	fewPool    = sync.Pool{New: func() any { return new([fewSize]byte) }}
	batchPool  = sync.Pool{New: func() any { return new([batchSize]byte) }}

	borrowed, batches atomic.Int64
)

// records is how many of them to seal or open at once.
func records() int {
	if batches.Load() >= manyBatches {
		return fewRecords
	}
	return batchRecords
}

// Borrowed is how many buffers are lent out, for the leak checks of tests.
func Borrowed() int64 { return borrowed.Load() }

// Lend lends a buffer for what many records hold. Return takes it back; nobody
// may use it after that.
func Lend() []byte { return get(records() * record.MaxRecord) }

// Return takes back what Lend lent.
func Return(b []byte) { put(b) }

// get lends the smallest buffer that holds n bytes; n is at most batchSize.
func get(n int) []byte {
	borrowed.Add(1)
	switch {
	case n <= smallSize:
		return smallPool.Get().(*[smallSize]byte)[:]
	case n <= recordSize:
		return recordPool.Get().(*[recordSize]byte)[:]
	case n <= fewSize:
		return fewPool.Get().(*[fewSize]byte)[:]
	}
	batches.Add(1)
	return batchPool.Get().(*[batchSize]byte)[:]
}

// put takes back what get lent. The caller clears its reference: a second put
// of the same buffer would share it between two connections.
func put(b []byte) {
	borrowed.Add(-1)
	switch cap(b) {
	case smallSize:
		smallPool.Put((*[smallSize]byte)(b[:smallSize]))
	case recordSize:
		recordPool.Put((*[recordSize]byte)(b[:recordSize]))
	case fewSize:
		fewPool.Put((*[fewSize]byte)(b[:fewSize]))
	case batchSize:
		batches.Add(-1)
		batchPool.Put((*[batchSize]byte)(b[:batchSize]))
	default:
		panic("soft: put of a buffer that is not of the pool")
	}
}
