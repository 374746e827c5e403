package bench

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls/record"
)

func TestParseAnswer(t *testing.T) {
	a, err := parseAnswer("ok addr=127.0.0.1:99 procs=2")
	if err != nil || a["addr"] != "127.0.0.1:99" {
		t.Fatal(a, err)
	}
	if n, err := a.number("procs"); n != 2 || err != nil {
		t.Error(n, err)
	}
	for _, key := range []string{"addr", "nothing"} {
		if n, err := a.number(key); err == nil {
			t.Errorf("%s is the number %d", key, n)
		}
	}
	for line, want := range map[string]string{
		"":               "neither ok nor error",
		"okay":           "neither ok nor error",
		"ok x":           "no value",
		"ok =1":          "no value",
		"error it broke": "server: it broke",
	} {
		if _, err := parseAnswer(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
	if got := errorLine(errors.New("two\nlines")); got != "error two lines" {
		t.Errorf("%q", got)
	}
	if got := (answer{"a": "1", "b": "2"}).line("b", "a"); got != "ok b=2 a=1" {
		t.Errorf("%q", got)
	}
}

func TestWalker(t *testing.T) {
	var stream []byte
	total := int64(0)
	for _, n := range []int{0, 1, 1000, record.MaxPlaintext, 17} {
		body := n + 1 + record.TagLen
		stream = append(stream, 23, 3, 3, byte(body>>8), byte(body))
		stream = append(stream, make([]byte, body)...)
		total += int64(n)
	}
	for _, step := range []int{1, 2, 5, 7, 1000, len(stream)} {
		var w walker
		for part := range slices.Chunk(stream, step) {
			if err := w.walk(part); err != nil {
				t.Fatal(err)
			}
		}
		if w.plain != total || w.left != 0 || w.have != 0 {
			t.Errorf("in steps of %d: %d bytes of %d, %d and %d left", step, w.plain, total, w.left, w.have)
		}
	}
	for _, bad := range [][]byte{
		{21, 3, 3, 0, 19}, // an alert in the clear
		{23, 3, 3, 0, 16}, // shorter than its tag
		[]byte("HTTP/1.1 400 Bad Request"),
	} {
		var w walker
		if err := w.walk(bad); err == nil {
			t.Errorf("%q passes for application data", bad)
		}
	}
}

func TestPlacement(t *testing.T) {
	p := Placement{Taskset: "/usr/bin/task,set", Server: 4, Client: 11}
	if got, err := ParsePlacement(p.String()); got != p || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, s := range []string{"", "1,2", "1,2,", "a,2,/x", "1,-2,/x"} {
		if p, err := ParsePlacement(s); err == nil {
			t.Errorf("%q is %+v", s, p)
		}
	}
	for list, want := range map[string][]int{
		"0-1": {0, 1}, "0": {0}, "2,4-6,9": {2, 4, 5, 6, 9}, "": nil, "x": nil, "3-1": nil,
	} {
		status := fmt.Sprintf("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t%s\nMems_allowed:\t1\n", list)
		if got := allowed(status); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", list, got, want)
		}
	}
}

func TestParseSystemFiles(t *testing.T) {
	if d, ok := busyTime("cpu  100 20 30 4000 500 6 7 8 90 0\ncpu0 1 2 3\n"); !ok || d != 1710*time.Millisecond {
		t.Errorf("busy %v, %t", d, ok)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 x 3 4 5 6 7 8"} {
		if d, ok := busyTime(bad); ok {
			t.Errorf("%q: %v", bad, d)
		}
	}
	if n, err := parseResident("5570-7ffd ---p 0 0:0 0 [rollup]\nRss:                1234 kB\nPss:   99 kB\n"); n != 1234 || err != nil {
		t.Error(n, err)
	}
	if n, err := parseResident("Pss: 1 kB\n"); err == nil {
		t.Error(n)
	}
}
