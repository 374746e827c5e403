package hostile

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// mutated is how many connections are cut or flipped in each version.
const mutated = 100

// mutations are connections of honest clients with somebody on the way, who
// flips one bit, or cuts everything off, at a random place of what either side
// sends: in the handshake or in the data. Whatever comes of it, nobody gets data
// that the other did not send, and nobody hangs.
func mutations(t *testing.T, s Server) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		r := rand.New(rand.NewPCG(s.Seed, uint64(version)))
		whole := 0
		for i := range mutated {
			m := mutation{at: r.IntN(6000), bit: r.IntN(8), cut: r.IntN(2) == 0, answer: r.IntN(2) == 0}
			if s.mutate(t, version, m) {
				whole++
			}
			if t.Failed() {
				t.Fatalf("seed %d, %s, connection %d: %+v", s.Seed, tls.VersionName(version), i, m)
			}
		}
		t.Logf("%s: %d of %d connections got through whole: what was done came behind their end", tls.VersionName(version), whole, mutated)
	}
}

// mutation is what is done to one connection.
type mutation struct {
	at     int // byte of the direction
	bit    int
	cut    bool // everything from there on, and else the bit
	answer bool // of the server, not of the client
}

// mutate runs one connection and reports whether the client was served.
func (s Server) mutate(t *testing.T, version uint16, m mutation) bool {
	carrier, err := s.carrier(nil)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer carrier.Close()
	defer near.Close()
	up, down := m, m
	if m.answer {
		up.at = -1
	} else {
		down.at = -1
	}
	wg.Go(func() {
		up.relay(carrier, far)
		carrier.CloseWrite()
	})
	wg.Go(func() {
		down.relay(far, carrier)
		far.Close()
		carrier.SetReadDeadline(time.Now())
	})
	near.SetDeadline(time.Now().Add(patience))
	c := tls.Client(near, s.config(version))
	data := bytes.Repeat([]byte{'d'}, 3000)
	go func() {
		if c.Handshake() == nil {
			c.Write(data)
			c.CloseWrite()
		}
	}()
	got, err := io.ReadAll(c)
	if !bytes.HasPrefix(data, got) {
		t.Errorf("data came back that nobody sent: %d bytes", len(got))
	}
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Errorf("the connection hangs: %v", err)
	}
	return err == nil && len(got) == len(data)
}

// relay copies one direction, with what is done to it.
func (m mutation) relay(to, from net.Conn) {
	b := make([]byte, 4096)
	for passed := 0; ; {
		n, err := from.Read(b)
		p := b[:n]
		if at := m.at - passed; m.at >= 0 && at < n && at >= 0 {
			if m.cut {
				to.Write(p[:at])
				return
			}
			p[at] ^= 1 << m.bit
		}
		passed += n
		if _, werr := to.Write(p); werr != nil || err != nil {
			return
		}
	}
}
