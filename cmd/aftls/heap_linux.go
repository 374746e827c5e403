package main

import (
	"os"
	"runtime/debug"
)

// tightHeap has the collector run when the heap has grown by 30 %, where GOGC does
// not say otherwise. What pumps allocate is nearly all held by connections, which
// there may be many of and which are mostly idle; moving bytes allocates nothing.
func tightHeap() {
	const percent = 30
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}
