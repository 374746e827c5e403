//go:build !linux

package soft

// vectored says that readVector works here.
const vectored = false

type vector struct{}

func (s *Source) readVector() (int, error) { panic("soft: readv is not used here") }
