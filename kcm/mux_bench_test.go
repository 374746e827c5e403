package kcm_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/aftls/aftls/kcm"
)

// What a message costs from read to write, over TCP, 100 at a time.
func BenchmarkMux(b *testing.B) {
	l := listen(b)
	s := &kcm.Server{Framer: kcm.DNS, Handler: func(answer []byte, m kcm.Message) ([]byte, error) {
		return append(answer, m.Data...), nil
	}}
	defer s.Close()
	go s.Serve(l)
	c := dial(b, l)
	const batch = 100
	questions := bytes.Repeat(msg(string(make([]byte, 62))), batch)
	answers := make([]byte, len(questions))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n++; n%batch != 0 { // an iteration is a message
			continue
		}
		if _, err := c.Write(questions); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, answers); err != nil {
			b.Fatal(err)
		}
	}
	st := s.Stats()
	b.ReportMetric(float64(st.Wakeups)/float64(st.Messages), "wakeups/msg")
	b.ReportMetric(float64(st.Writes)/float64(st.Messages), "writes/msg")
}
