package aftlstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/aftls/aftls"
)

var datagramData = []datagramPromise{
	{"Boundaries", false, false, datagramBoundaries},
	{"ShortBuffer", true, false, datagramShortBuffer},
	{"Batches", false, false, datagramBatches},
	{"BatchOfOneLength", true, false, datagramEqualBatches},
	{"TooLarge", true, false, datagramTooLarge},
	{"Info", false, false, datagramInfo},
	{"ManyRecordsInADatagram", false, true, datagramManyRecords},
}

func datagramBoundaries(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	for _, n := range []int{0, 1, 2, 100, 1200, 8000, 16000} {
		m := string(random(n))
		say(t, p.end, p.peer, m)
		say(t, p.peer, p.end, m)
	}
	// What is written before anybody reads is not put together.
	for i := range 5 {
		if _, err := fmt.Fprintf(p.peer, "%d", i); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		hearOne(t, p.end, fmt.Sprint(i))
	}
}

func datagramShortBuffer(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	for _, m := range []string{"first message", "second"} {
		if _, err := p.peer.Write([]byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 5)
	if n, err := p.end.Read(b); n != 5 || string(b) != "first" || !errors.Is(err, io.ErrShortBuffer) {
		t.Fatalf("%q, %d, %v", b, n, err)
	}
	hearOne(t, p.end, "second")
	if _, err := p.peer.Write([]byte("third message")); err != nil {
		t.Fatal(err)
	}
	sizes := make([]int, 1)
	if n, err := p.end.ReadBatch([][]byte{b}, sizes); n != 1 || err != nil || sizes[0] != len("third message") || string(b) != "third" {
		t.Fatalf("%q, %d, %v, %v", b, n, sizes, err)
	}
}

// readAll reads messages in batches until there are n.
func readAll(t *testing.T, c *aftls.DatagramConn, n int) (out [][]byte) {
	t.Helper()
	bufs, sizes := make([][]byte, 16), make([]int, 16)
	for i := range bufs {
		bufs[i] = make([]byte, 17000)
	}
	for len(out) < n {
		c.SetReadDeadline(time.Now().Add(patience))
		k, err := c.ReadBatch(bufs, sizes)
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(out), n, err)
		}
		for i := range k {
			out = append(out, bytes.Clone(bufs[i][:sizes[i]]))
		}
	}
	return out
}

func datagramBatches(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	for _, lens := range [][]int{{1200}, {1200, 1200, 700}, {1, 2, 3, 4, 5}, {5, 4, 3, 2, 1}, {0, 0, 10}, {16000, 16000, 16000, 16000, 1}, {100, 9000, 100, 9000}} {
		var batch [][]byte
		for _, n := range lens {
			batch = append(batch, random(n))
		}
		if n, err := p.end.WriteBatch(batch); n != len(batch) || err != nil {
			t.Fatalf("%v: %d, %v", lens, n, err)
		}
		got := readAll(t, p.peer, len(batch))
		for i := range batch {
			if !bytes.Equal(got[i], batch[i]) {
				t.Fatalf("%v: message %d has %d bytes", lens, i, len(got[i]))
			}
		}
	}
}

// datagramEqualBatches is what goes out as one super-datagram where the system
// can: many equal ones, more than one call takes.
func datagramEqualBatches(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	for round := range 20 {
		var batch [][]byte
		for i := range 130 {
			m := random(1200)
			binary.BigEndian.PutUint32(m, uint32(round<<16|i))
			batch = append(batch, m)
		}
		done := make(chan error, 1)
		go func() {
			n, err := p.peer.WriteBatch(batch)
			if err == nil && n != len(batch) {
				err = fmt.Errorf("%d of %d", n, len(batch))
			}
			done <- err
		}()
		got := readAll(t, p.end, len(batch))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for i := range batch {
			if !bytes.Equal(got[i], batch[i]) {
				t.Fatalf("round %d: message %d is another", round, i)
			}
		}
	}
	if i := p.end.Info(); i.Bad+i.Replayed+i.Lost != 0 {
		t.Errorf("%+v", i)
	}
}

func datagramTooLarge(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	_, err := p.end.Write(make([]byte, 16385))
	var e *aftls.DatagramTooLargeError
	want := 16384
	if x.cidLen > 0 {
		want--
	}
	if !errors.As(err, &e) || e.Size != 16385 || e.Limit != want {
		t.Fatalf("%v", err)
	}
	big := make([]byte, e.Limit)
	n, err := p.end.WriteBatch([][]byte{[]byte("a"), big, make([]byte, 16385), []byte("b")})
	if n != 2 || !errors.As(err, &e) || e.Size != 16385 {
		t.Fatalf("%d, %v", n, err)
	}
	hearOne(t, p.peer, "a")
	hearOne(t, p.peer, string(big))
	say(t, p.end, p.peer, "goes on")
}

func datagramInfo(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	say(t, p.end, p.peer, "four")
	say(t, p.peer, p.end, "seven77")
	i := p.end.Info()
	if i.Send.Provider != aftls.Soft || i.Send.VersionName() != "DTLS 1.2" || i.Send.Suite != x.suite || i.Send.Bytes != 4 || i.Receive.Bytes != 7 || i.Send.Records != 1 || i.Receive.Records != 1+i.Ignored || i.Bad+i.Replayed+i.Lost != 0 || i.Send.Epoch != 1 || i.Resumed {
		t.Errorf("%+v", i)
	}
	if len(i.CID) != x.cidLen || len(i.PeerCID) != x.cidLen || !bytes.Equal(i.CID, p.peer.Info().PeerCID) {
		t.Errorf("CID %x, of the peer %x", i.CID, i.PeerCID)
	}
	cs := p.end.ConnectionState()
	if cs.CipherSuite != x.suite || !cs.HandshakeComplete || (len(cs.VerifiedChains) > 0) == x.shared {
		t.Errorf("%+v", cs)
	}
	a, err := p.end.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
	b, errb := p.peer.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
	if err != nil || errb != nil || !bytes.Equal(a, b) || len(a) != 60 {
		t.Errorf("exported %x and %x, %v, %v", a, b, err, errb)
	}
	if _, err := p.end.ExportKeyingMaterial("key expansion", nil, 60); err == nil {
		t.Error("exported the keys of the association")
	}
}

// datagramManyRecords puts several records into one datagram, as other senders do.
func datagramManyRecords(t *testing.T, x datagramSubject) {
	p := x.memoryPair(t, 1, Weather{})
	before := len(p.peerSent.all())
	p.net.SetWeather(Weather{Drop: 1})
	for i := range 4 {
		fmt.Fprintf(p.peer, "message %d", i)
	}
	p.net.SetWeather(Weather{})
	var d []byte
	for _, one := range p.peerSent.all()[before:] {
		d = append(d, one...)
	}
	p.inject(d)
	for i := range 4 {
		hearOne(t, p.end, fmt.Sprintf("message %d", i))
	}
}

var datagramBadInput = []datagramPromise{
	{"ForgedAndReplayed", false, true, datagramForged},
	{"Garbage", true, true, datagramGarbage},
	{"OutOfTheClear", true, true, datagramClear},
}

// datagramForged sends every datagram again, and with every byte changed: what
// comes out is what was sent, once.
func datagramForged(t *testing.T, x datagramSubject) {
	p := x.memoryPair(t, 1, Weather{})
	bad, replayed := 0, 0
	for i := range 3 {
		m := fmt.Sprintf("message %d", i)
		p.net.SetWeather(Weather{Drop: 1})
		if _, err := io.WriteString(p.peer, m); err != nil {
			t.Fatal(err)
		}
		p.net.SetWeather(Weather{})
		d := p.peerSent.last()
		for at := range d {
			forged := bytes.Clone(d)
			forged[at] ^= 1 << (at % 8)
			p.inject(forged)
			bad++
		}
		for range 3 {
			p.inject(d)
			replayed++
		}
		replayed--
		hearOne(t, p.end, m)
	}
	say(t, p.peer, p.end, "the last")
	p.end.SetReadDeadline(time.Now().Add(time.Second))
	if n, err := p.end.Read(make([]byte, 100)); err == nil {
		t.Fatalf("%d bytes more", n)
	}
	// A number that was changed back to an old one is a replay, and what is
	// cut off may not come to be a record; what belongs to nobody is counted by
	// the listener.
	i := p.end.Info()
	sum := i.Bad + i.Replayed
	if x.shared {
		sum += p.l.Info().Unknown
	}
	if i.Replayed < uint64(replayed) || sum < uint64(bad+replayed) {
		t.Errorf("%d bad and %d replayed were sent: %+v, %+v", bad, replayed, i, p.l.Info())
	}
	say(t, p.end, p.peer, "and back")
}

func datagramGarbage(t *testing.T, x datagramSubject) {
	p := x.memoryPair(t, 1, Weather{})
	for n := range 200 {
		p.inject(random(n))
		for _, first := range []byte{20, 21, 22, 23, 24, 25, 26, 0x2c} {
			p.inject(append([]byte{first, 0xfe, 0xfd, 0, 1}, random(n)...))
		}
	}
	say(t, p.peer, p.end, "here")
	say(t, p.end, p.peer, "and there")
}

// datagramClear sends what anybody can make: nothing in the clear ends or
// changes an association.
func datagramClear(t *testing.T, x datagramSubject) {
	p := x.memoryPair(t, 1, Weather{})
	for _, d := range [][]byte{
		{21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40}, // fatal handshake_failure
		{21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 1, 0},  // close_notify
		{20, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 1},
		{23, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 4, 'e', 'v', 'i', 'l'},
	} {
		p.inject(d)
	}
	say(t, p.peer, p.end, "here")
	say(t, p.end, p.peer, "and there")
}
