package soft

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Messages against a slow obvious model: what is put comes out whole and in
// order, and what is refused leaves no trace.
func TestMessagesAgainstAModel(t *testing.T) {
	lent(t)
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		var m Messages
		var model [][]byte
		held, refused, most := 0, 0, 0
		puts := 2 + r.IntN(8) // of ten steps
		for range 3000 {
			if r.IntN(10) < puts {
				p := noise(byte(r.Uint32()), r.IntN(r.IntN(16384)+1))
				if m.Put(p) {
					model = append(model, p)
					held += len(p) + lengthLen
					most = max(most, held)
				} else {
					refused++
					if held+len(p)+lengthLen <= batchSize/2 {
						t.Fatalf("refused %d bytes beside %d", len(p), held)
					}
				}
				continue
			}
			n, ok := m.Next()
			if ok != (len(model) > 0) || ok && n != len(model[0]) {
				t.Fatalf("next is %d, %v of %d messages", n, ok, len(model))
			}
			if !ok {
				continue
			}
			p := make([]byte, r.IntN(2*n+1))
			if got := m.Take(p); got != n || !bytes.Equal(p[:min(len(p), n)], model[0][:min(len(p), n)]) {
				t.Fatalf("took %d bytes of %d", got, n)
			}
			held -= n + lengthLen
			model = model[1:]
			if len(model) == 0 && m.buf != nil {
				t.Fatal("an empty queue holds a buffer")
			}
		}
		if most > batchSize {
			t.Errorf("%d bytes were held", most)
		}
		m.Drop()
	}
}
