//go:build !(linux && amd64)

package bench

// startTerminators starts none.
func (r *runner) startTerminators(string) (names []string, servers []*process, err error) {
	r.note("proxy: other programs are measured on Linux on amd64 only")
	return nil, nil, nil
}
