package aftlstest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

var datagramWeather = []datagramPromise{
	{"Handshake", true, true, datagramHandshakes},
	{"LastFlight", false, true, datagramLastFlight},
	{"Data", false, true, datagramStorm},
}

// datagramHandshakes shakes hands while datagrams are lost, doubled and
// overtaken.
func datagramHandshakes(t *testing.T, x datagramSubject) {
	for _, loss := range []float64{0.01, 0.1, 0.2, 0.3} {
		for seed := range uint64(10) {
			p := x.memoryPair(t, seed, Weather{Drop: loss, Duplicate: loss, Reorder: loss, Delay: 5 * time.Millisecond, Jitter: 10 * time.Millisecond})
			// The other end may still lack our last flight: it asks for it.
			arrives(t, p.client, p.server, "from the client")
			arrives(t, p.server, p.client, "from the server")
			p.client.Close()
			p.l.Close()
		}
	}
}

// arrives writes until the message arrives.
func arrives(t *testing.T, from, to *aftls.DatagramConn, m string) {
	t.Helper()
	b := make([]byte, 100)
	for range 100 {
		if _, err := from.Write([]byte(m)); err != nil {
			t.Fatal(err)
		}
		to.SetReadDeadline(time.Now().Add(time.Second))
		n, err := to.Read(b)
		if err == nil && string(b[:n]) == m {
			to.SetReadDeadline(time.Time{})
			return
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	t.Fatalf("%q does not arrive", m)
}

// datagramLastFlight loses the server's last flight several times: it goes out
// again byte for byte, at the client's asking, until the client has it. The
// server's association is in use meanwhile.
func datagramLastFlight(t *testing.T, x datagramSubject) {
	const lose = 3
	ccfg, scfg := x.configs()
	network := NewLossy(1, Weather{})
	server := network.Listen(serverAddr)
	var flights [][]byte
	server.Lose = func(d []byte) bool {
		if d[0] != byte(record.ChangeCipherSpec) {
			return false
		}
		flights = append(flights, bytes.Clone(d))
		return len(flights) <= lose
	}
	l, err := aftls.NewDatagramListener(server, scfg, x.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan *aftls.DatagramConn, 1)
	go func() {
		if s, err := l.AcceptConn(); err == nil {
			s.Write([]byte("before the client is ready")) // with the next number
			accepted <- s
		}
	}()
	c, err := aftls.DatagramClient(context.Background(), network.Dial(clientAddr, serverAddr), ccfg, x.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := <-accepted
	if len(flights) != lose+1 {
		t.Errorf("the last flight went out %d times", len(flights))
	}
	for i, f := range flights[1:] {
		// pion itself may have answered the first time, with a number of its own.
		if i > 0 && !bytes.Equal(f, flights[i]) {
			t.Errorf("flight %d is not the one before:\n%x\n%x", i+1, f, flights[i])
		}
	}
	hearOne(t, c, "before the client is ready")
	say(t, c, s, "hello")
	say(t, s, c, "world")
	if i := s.Info(); i.Bad+i.Replayed != 0 {
		// The client's Key Exchange and ChangeCipherSpec came again in the clear.
		t.Logf("%+v", i)
	}
}

// datagramStorm sends numbered messages through all the weather there is: none
// arrives twice or altered, most do arrive.
func datagramStorm(t *testing.T, x datagramSubject) {
	const count = 2000
	for _, w := range []Weather{
		{Drop: 0.01, Duplicate: 0.01, Reorder: 0.01, Corrupt: 0.01},
		{Drop: 0.1, Duplicate: 0.2, Reorder: 0.3, Corrupt: 0.1, Jitter: 3 * time.Millisecond},
		{Drop: 0.3, Duplicate: 0.3, Reorder: 0.5, Corrupt: 0.3, Jitter: 20 * time.Millisecond},
	} {
		p := x.memoryPair(t, 5, Weather{})
		p.net.SetWeather(w)
		go func() {
			for i := range count {
				m := make([]byte, 20+i%50)
				binary.BigEndian.PutUint32(m, uint32(i))
				for j := 4; j < len(m); j++ {
					m[j] = byte(i + j)
				}
				if i%3 == 0 {
					p.peer.Write(m)
				} else {
					p.peer.WriteBatch([][]byte{m})
				}
				time.Sleep(time.Millisecond) // of the bubble
			}
		}()
		got := make(map[uint32]bool)
		b := make([]byte, 2000)
		for {
			p.end.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := p.end.Read(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			i := binary.BigEndian.Uint32(b)
			if got[i] {
				t.Fatalf("message %d came twice", i)
			}
			got[i] = true
			ok := n == 20+int(i)%50
			for j := 4; ok && j < n; j++ {
				ok = b[j] == byte(int(i)+j)
			}
			if !ok || i >= count {
				t.Fatalf("message %d is another: %x", i, b[:n])
			}
		}
		i := p.end.Info()
		if want := count * (1 - w.Drop) * (1 - w.Corrupt) * 0.9; float64(len(got)) < want {
			t.Errorf("%+v: %d of %d messages, %+v", w, len(got), count, i)
		}
		if i.Bad == 0 || i.Replayed == 0 || i.Receive.Records != uint64(len(got))+i.Ignored {
			t.Errorf("%+v: %d messages and %+v", w, len(got), i)
		}
		p.client.Close()
		p.l.Close()
	}
}
