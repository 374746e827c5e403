package kcm

import (
	"sync"
	"sync/atomic"
)

// buffer is borrowed memory that messages lie in. It goes back to its pool when
// the last message in it is done with, and the reader too.
type buffer struct {
	b     []byte
	refs  atomic.Int32
	class int         // of pools; -1: of none
	lost  atomic.Bool // somebody may look at it for ever: it goes to no pool
}

// Sizes of buffers in bytes. What is longer than the last one is allocated.
var classes = [...]int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}

const (
	smallest = 4 << 10
	usual    = 64 << 10 // no more for a read that may bring anything
	wasteful = 4        // a message that waits has at most so many times its size
	unpooled = -1
)

var (
	pools [len(classes)]sync.Pool

	borrowed atomic.Int64 // for the leak checks of tests
)

// lend lends a buffer of at least n bytes. The caller has one reference to it.
func lend(n int) *buffer {
	borrowed.Add(1)
	class := unpooled
	for i, size := range classes {
		if n <= size {
			class, n = i, size
			break
		}
	}
	var b *buffer
	if class != unpooled {
		b, _ = pools[class].Get().(*buffer)
	}
	if b == nil {
		b = &buffer{b: make([]byte, n), class: class}
	}
	b.refs.Store(1)
	return b
}

// keep adds a reference for somebody who gets one from an owner of one.
func (b *buffer) keep() { b.refs.Add(1) }

// release gives a reference back.
func (b *buffer) release() {
	switch n := b.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("kcm: a buffer was released twice")
	}
	borrowed.Add(-1)
	if b.class != unpooled && !b.lost.Load() {
		pools[b.class].Put(b)
	}
}
