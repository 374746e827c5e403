package aftls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

// keysOf12 are keys of DTLS 1.2, other ones for each x.
func keysOf12(x byte) record.Keys {
	return record.Keys{Version: record.DTLS12, Suite: 0xc02f, Key: bytes.Repeat([]byte{x}, 16), IV: bytes.Repeat([]byte{x}, 4), Epoch: 1, Seq: 1}
}

// keyedDatagrams are two associations of keys on one pair of UDP sockets; seen is told
// the control records that the first receives.
func keyedDatagrams(t *testing.T, seen func(record.ContentType, []byte)) (a, b *aftls.DatagramConn) {
	t.Helper()
	wait, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := wait.LocalAddr().(*net.UDPAddr)
	ca, err := net.DialUDP("udp4", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	wait.Close()
	cb, err := net.DialUDP("udp4", at, ca.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	if a, err = aftls.NewDatagramConn(ca, keysOf12(1), keysOf12(2), seen, aftls.Options{}); err != nil {
		t.Fatal(err)
	}
	if b, err = aftls.NewDatagramConn(cb, keysOf12(2), keysOf12(1), nil, aftls.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*aftls.DatagramConn{a, b} {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		t.Cleanup(func() { c.Close() })
	}
	return a, b
}

func TestNewDatagramConn(t *testing.T) {
	var seen []record.ContentType
	a, b := keyedDatagrams(t, func(typ record.ContentType, p []byte) { seen = append(seen, typ) })
	if n := a.MaxMessage(); n != 16384 {
		t.Errorf("at most %d", n)
	}
	// WaitRead takes nothing, whatever comes in front of the message.
	room, sizes := [][]byte{make([]byte, 100), make([]byte, 100), make([]byte, 100)}, make([]int, 3)
	if err := b.WriteRecord(record.Handshake, []byte("\x14not a Finished")); err != nil {
		t.Fatal(err)
	}
	if n, err := b.WriteBatch([][]byte{[]byte("one"), []byte("two"), []byte("3")}); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	var got []string
	for len(got) < 3 {
		for range 2 {
			if err := a.WaitRead(); err != nil {
				t.Fatal(err)
			}
		}
		n, err := a.ReadBatch(room, sizes)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		for i := range n {
			got = append(got, string(room[i][:sizes[i]]))
		}
	}
	if len(got) != 3 || got[0] != "one" || got[1] != "two" || got[2] != "3" {
		t.Errorf("%q", got)
	}
	if len(seen) != 1 || seen[0] != record.Handshake {
		t.Errorf("%v", seen)
	}
	for _, typ := range []record.ContentType{0, record.ApplicationData, record.TLS12CID} {
		if err := b.WriteRecord(typ, []byte("x")); !errors.Is(err, aftls.ErrRecordType) {
			t.Errorf("%v: %v", typ, err)
		}
	}
	a.SetReadDeadline(time.Unix(1, 0))
	if err := a.WaitRead(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	a.SetReadDeadline(time.Now().Add(30 * time.Second))

	// close_notify goes once, and is the end of one direction.
	for range 2 {
		if err := b.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, aftls.ErrShutdown) {
		t.Error(err)
	}
	if err := a.WaitRead(); err != io.EOF {
		t.Error(err)
	}
	if _, err := a.Write([]byte("back")); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Read(room[0]); string(room[0][:n]) != "back" || err != nil {
		t.Errorf("%q, %v", room[0][:n], err)
	}
	// It moves with the association.
	st, err := b.Detach()
	if err != nil {
		t.Fatal(err)
	}
	bytesOf, err := st.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	moved := new(aftls.DatagramState)
	if err := moved.UnmarshalBinary(bytesOf); err != nil {
		t.Fatal(err)
	}
	if b, err = aftls.ResumeDatagram(b.NetConn(), moved, aftls.Options{}); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Write([]byte("x")); !errors.Is(err, aftls.ErrShutdown) {
		t.Error(err)
	}
	before := b.Info().Send.Records
	b.Close()
	if n := b.Info().Send.Records; n != before {
		t.Error("a second close_notify")
	}
}

// datagramUDPPair is an association over loopback: with a carrier of its own,
// and of a listener on the given address.
func datagramUDPPair(t testing.TB, listen string, cidLen int) (client, server *aftls.DatagramConn) {
	t.Helper()
	ca := aftlstest.NewCA(t)
	l, err := aftls.ListenDatagram("udp", listen+":0", &aftls.DatagramConfig{TLS: &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, "test.example")}}, CIDLen: cidLen}, aftls.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := (&aftls.DatagramDialer{Config: &aftls.DatagramConfig{TLS: &tls.Config{RootCAs: ca.Pool, ServerName: "test.example"}, CIDLen: cidLen}}).Dial("udp", fmt.Sprintf("127.0.0.1:%d", l.Addr().(*net.UDPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*aftls.DatagramConn), s
}

// A listener's association waits likewise.
func TestDatagramListenerWaitRead(t *testing.T) {
	client, server := datagramUDPPair(t, "127.0.0.1", 0)
	waited := make(chan error, 1)
	go func() { waited <- server.WaitRead() }()
	client.Write([]byte("hello"))
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, err := server.Read(b); string(b[:n]) != "hello" || err != nil {
		t.Fatalf("%q, %v", b[:n], err)
	}
	server.SetReadDeadline(time.Unix(1, 0))
	if err := server.WaitRead(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	server.SetReadDeadline(time.Time{})
	client.Close()
	if err := server.WaitRead(); err != io.EOF {
		t.Error(err)
	}
}

// Keys that make no association leave the carrier as it was.
func TestNewDatagramConnRefuses(t *testing.T) {
	c, err := net.Dial("udp4", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	good := keysOf12(1)
	clear0, tls12, short := good, good, good
	clear0.Epoch, tls12.Version, short.Key = 0, record.TLS12, good.Key[:15]
	thirteen := record.Keys{Version: record.DTLS13, Suite: 0x1301, Key: good.Key, IV: make([]byte, 12), Epoch: 3}
	for name, k := range map[string][2]record.Keys{
		"epoch 0": {good, clear0}, "TLS": {tls12, tls12}, "length": {short, good}, "no secret": {thirteen, thirteen}, "mixed": {good, thirteen},
	} {
		if d, err := aftls.NewDatagramConn(c, k[0], k[1], nil, aftls.Options{}); err == nil {
			t.Errorf("%s: %v", name, d)
		}
	}
	if err := c.SetDeadline(time.Now()); err != nil {
		t.Error("the carrier was closed:", err)
	}
}
