// Package soft is the software provider: it seals and opens the records of an
// association in our process, over any net.Conn.
//
// The data path of a Receiver (receive.go):
//
//	carrier ──recv──▶ buf, many records ──open──▶ the caller's slice
//	                                     └─open in place─▶ payload, data or control
//
// A buffer is borrowed (buffer.go: whole batches, or quarters while many are) when
// the carrier has something to read, not before, and given back as soon as
// everything in it was delivered.
//
// The data path of a Sender (send.go):
//
//	the caller's slice  ──seal──▶ batch, up to 16 records ──▶ one write
//	several slices      ──copy──▶ their places there ──seal in place─┘
//	a file or a socket  ──readv─▶ (source.go)
//
// What is sealed is committed: it counts, and if the carrier did not take it
// in time it stays in the batch and goes out first in the next call.
//
// Neither half locks: package aftls does, one lock for each direction.
package soft

import "errors"

// ErrControl stops Read in front of a control record.
var ErrControl = errors.New("soft: a control record is next")

// ErrNoKeys is the answer of a half that was never keyed.
var ErrNoKeys = errors.New("soft: this direction has no keys")
