package main

import (
	"fmt"
	"strings"
)

// text collects the lines of one assembly file.
type text struct{ lines []string }

// op adds one instruction.
func (t *text) op(format string, args ...any) {
	t.lines = append(t.lines, "\t"+fmt.Sprintf(format, args...))
}

// raw adds a line as it is: a directive, a comment, nothing.
func (t *text) raw(format string, args ...any) {
	t.lines = append(t.lines, fmt.Sprintf(format, args...))
}

// note adds a comment inside a function.
func (t *text) note(format string, args ...any) { t.op("// "+format, args...) }

// label adds a jump target. Labels are local to their function.
func (t *text) label(name string) { t.raw("%s:", name) }

// apart runs emit and returns what it emitted in place of adding it.
func (t *text) apart(emit func()) []string {
	start := len(t.lines)
	emit()
	taken := append([]string(nil), t.lines[start:]...)
	t.lines = t.lines[:start]
	return taken
}

// weave adds the instructions of two independent lists, each in its own order,
// spread evenly over one another: the execution units for AES and those for
// carry-less multiplication then both find work within the window in which a
// processor looks ahead.
func (t *text) weave(a, b []string) {
	for ; len(a) > 0; a = a[1:] {
		t.lines = append(t.lines, a[0])
		share := len(b) / len(a)
		if share > 0 {
			t.lines = append(t.lines, b[:share]...)
			b = b[share:]
		}
	}
	t.lines = append(t.lines, b...)
}

// table adds a read-only constant of 64-bit words.
func (t *text) table(name string, words ...uint64) {
	for i, w := range words {
		t.raw("DATA ·%s<>+%d(SB)/8, $0x%016x", name, 8*i, w)
	}
	t.raw("GLOBL ·%s<>(SB), RODATA|NOPTR, $%d", name, 8*len(words))
	t.raw("")
}

func (t *text) String() string { return strings.Join(t.lines, "\n") + "\n" }

// lanes repeats a 128-bit constant, low word first, n times.
func lanes(n int, low, high uint64) []uint64 {
	var w []uint64
	for range n {
		w = append(w, low, high)
	}
	return w
}
