//go:build !unix

package soft

// read waits until the carrier has something to read and only then asks for
// room. It is the one place where a Receiver blocks.
func (r *Receiver) read() (int, error) {
	if r.raw != nil {
		// On Windows package net answers a first "not yet" with a read of
		// no bytes, which completes when there is something to read.
		if r.tryRead == nil {
			r.tryRead = func(uintptr) bool { r.got++; return r.got > 1 }
		}
		r.got = 0
		if err := r.raw.Read(r.tryRead); err != nil {
			return 0, cause(err)
		}
	}
	n, err := r.conn.Read(r.room())
	if err != nil {
		r.retreat()
	}
	return n, cause(err)
}

// immediate says that tryWrite works here.
const immediate = false

// tryWrite sends what the carrier takes without blocking. ok is false where
// that cannot be asked for; then nothing was sent.
func (s *Sender) tryWrite([]byte) (n int, ok bool) { return 0, false }

// shortWriter has nothing to keep where tryWrite does nothing.
type shortWriter struct{}
