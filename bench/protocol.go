package bench

import (
	"fmt"
	"strconv"
	"strings"
)

// The lines between the client and a server's process, over its standard input
// and output. The server speaks first:
//
//	ok addr=127.0.0.1:40001 procs=1
//
// and then answers each command with one line, "ok" and values, or "error" and
// a text:
//
//	report            ok user=NS sys=NS bytes=N messages=N handshakes=N reading=N closed=N, and more in some rows
//	wait COUNTER N    ok, as soon as a counter of connections has come to N
//	gc                ok, after a collection that gave back all free memory
//	profile PATH      ok, and CPU is profiled until "profile" without a path
//	heap PATH         ok, after writing a heap profile
//
// At the end of its input the server ends. A connection that failed turns
// every later answer into an error.

// answer are the values of one answer.
type answer map[string]string

// line is the answer as it is sent. Values have no spaces.
func (a answer) line(order ...string) string {
	var b strings.Builder
	b.WriteString("ok")
	for _, k := range order {
		fmt.Fprintf(&b, " %s=%s", k, a[k])
	}
	return b.String()
}

// errorLine is an answer that says what went wrong.
func errorLine(err error) string {
	return "error " + strings.Join(strings.Fields(err.Error()), " ")
}

// parseAnswer reads a line of the server. The error is the server's, or that
// the line is none.
func parseAnswer(line string) (answer, error) {
	kind, rest, _ := strings.Cut(line, " ")
	switch kind {
	case "ok":
		a := answer{}
		for f := range strings.FieldsSeq(rest) {
			k, v, ok := strings.Cut(f, "=")
			if !ok || k == "" {
				return nil, fmt.Errorf("answer %q of the server: no value in %q", line, f)
			}
			a[k] = v
		}
		return a, nil
	case "error":
		return nil, fmt.Errorf("server: %s", rest)
	}
	return nil, fmt.Errorf("answer %q of the server is neither ok nor error", line)
}

// number is a value that has to be there.
func (a answer) number(key string) (int64, error) {
	n, err := strconv.ParseInt(a[key], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("answer of the server: %s=%q is no number", key, a[key])
	}
	return n, nil
}
