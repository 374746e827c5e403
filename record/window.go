package record

import "math"

// window is the sliding replay window of RFC 6347, 4.1.2.6 and RFC 9147, 4.5.1:
// it knows of each of the last windowSize numbers whether it was received.
// Older ones count as received. The zero value has received nothing.
//
// The bits lie in a ring of words, number n at bit n%64 of word n/64. The
// numbers that are known never lie in more than all the words of the ring, and
// every word above the highest number is cleared when it is come to.
type window struct {
	next  uint64 // one above the highest number received
	words [windowWords]uint64
}

const (
	windowWords = 16
	windowSize  = (windowWords - 1) * 64
)

// startAt makes all the numbers below n received: those of records that were
// met before, by somebody who kept no window.
func (w *window) startAt(n uint64) {
	*w = window{next: n}
	for i := range w.words {
		w.words[i] = math.MaxUint64
	}
	// The word that n is in is half old, half to come.
	w.words[n/64%windowWords] = 1<<(n%64) - 1
}

// fresh reports whether n was not received yet and is not too old to tell. The
// last number of all is never fresh: there is none behind it.
func (w *window) fresh(n uint64) bool {
	if n >= w.next {
		return n != math.MaxUint64
	}
	if w.next-n > windowSize {
		return false
	}
	return w.words[n/64%windowWords]&(1<<(n%64)) == 0
}

// receive notes a fresh number. Only a record that is authentic may get here.
func (w *window) receive(n uint64) {
	if n >= w.next {
		// Words between the highest so far and n's come into use anew. Where
		// next begins a word, that word is still an old one.
		word := w.next / 64
		if w.next%64 != 0 {
			word++
		}
		if last := n / 64; last >= word && last-word >= windowWords {
			w.words = [windowWords]uint64{}
		} else {
			for ; word <= last; word++ {
				w.words[word%windowWords] = 0
			}
		}
		w.next = n + 1
	}
	w.words[n/64%windowWords] |= 1 << (n % 64)
}
