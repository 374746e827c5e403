package gcm

import "unsafe"

// overlaps reports whether a and b have a byte in common. Only addresses are
// compared; nothing is read or written through them.
func overlaps(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	startA, startB := uintptr(unsafe.Pointer(&a[0])), uintptr(unsafe.Pointer(&b[0]))
	return startA < startB+uintptr(len(b)) && startB < startA+uintptr(len(a))
}

// misplaced reports whether in and out overlap otherwise than by beginning at
// the same place.
func misplaced(out, in []byte) bool {
	return overlaps(out, in) && &out[0] != &in[0]
}
