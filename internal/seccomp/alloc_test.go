// What only holds without the race detector, which allocates where the program
// does not.

//go:build linux && amd64 && !race

package seccomp

import (
	"runtime"
	"testing"
)

func TestNothingIsAllocatedForACall(t *testing.T) {
	const calls = 4000
	for name, h := range map[string]Handler{
		"continue": goOn,
		"respond":  func(n *Notification) { n.Respond(1, 0) },
		"memory and inode": func(n *Notification) {
			var b [56]byte
			if err := n.Read(b[:], n.Args[1]); err != nil {
				t.Errorf("Read: %v", err)
			}
			if _, err := n.ReadMsghdr(n.Args[1]); err != nil {
				t.Errorf("ReadMsghdr: %v", err)
			}
			if _, err := n.Inode(int(n.Args[2])); err != nil {
				t.Errorf("Inode: %v", err)
			}
			n.Continue()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			k := 0
			r := start(t, trapAll, func(n *Notification) {
				h(n)
				switch k++; k { // the first ones open and grow things
				case calls / 2:
					runtime.ReadMemStats(&before)
				case calls:
					runtime.ReadMemStats(&after)
				}
			}, "pointers", "4000")
			r.good()
			// Others of this process allocate a little.
			if n := after.Mallocs - before.Mallocs; k != calls || n > calls/20 {
				t.Errorf("%d allocations for %d calls, of %d", n, calls/2, k)
			}
		})
	}
}
