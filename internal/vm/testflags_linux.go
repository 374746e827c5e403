package vm

import (
	"path/filepath"
	"strings"
	"time"
)

// grace is what a test binary gets beyond its own limit, so that it can say which
// test hangs.
const grace = 30 * time.Second

// ReadTestFlags sets Back and Timeout from the flags that 'go test' gave a test
// binary: where coverage and profiles go, and its own time limit.
func (p *Program) ReadTestFlags() {
	dir := p.Dir // where a relative name is: the folder of -outputdir
	for _, a := range p.Args {
		name, value, ok := strings.Cut(a, "=")
		name, test := strings.CutPrefix(strings.TrimLeft(name, "-"), "test.")
		if !ok || !test || value == "" {
			continue
		}
		switch name {
		case "coverprofile", "gocoverdir", "cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace", "testlogfile":
			if !filepath.IsAbs(value) {
				value = filepath.Join(dir, value)
			}
			p.Back = append(p.Back, value)
		case "outputdir": // go test puts it in front of them
			dir = value
		case "timeout":
			if d, err := time.ParseDuration(value); err == nil && d > 0 {
				p.Timeout = d + grace
			}
		}
	}
}
