package aftlstest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls"
)

var datagramListening = []datagramPromise{
	{"ManyPeers", true, false, datagramManyPeers},
	{"AddressMoves", true, true, datagramAddressMoves},
	{"AddressOfAnother", true, true, datagramAddressOfAnother},
	{"PeerStartsAnew", true, true, datagramAnew},
	{"IdleExpiry", true, true, datagramIdleExpiry},
	{"Flood", true, true, datagramFlood},
	{"Close", true, false, datagramListenerClose},
}

func datagramManyPeers(t *testing.T, x datagramSubject) {
	const peers = 50
	ccfg, scfg := x.configs()
	l, err := aftls.ListenDatagram("udp4", "127.0.0.1:0", scfg, x.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.AcceptConn()
			if err != nil {
				return
			}
			go func() {
				b := make([]byte, 2000)
				for {
					n, err := c.Read(b)
					if err != nil {
						c.Close()
						return
					}
					c.Write(append([]byte("you said "), b[:n]...))
				}
			}()
		}
	}()
	done := make(chan error, peers)
	for i := range peers {
		go func() {
			done <- func() error {
				c, err := (&aftls.DatagramDialer{Config: ccfg}).Dial("udp4", l.Addr().String())
				if err != nil {
					return err
				}
				defer c.Close()
				b := make([]byte, 2000)
				for j := range 20 {
					m := fmt.Sprintf("%d of %d", j, i)
					if _, err := c.Write([]byte(m)); err != nil {
						return err
					}
					c.SetReadDeadline(time.Now().Add(patience))
					n, err := c.Read(b)
					if err != nil {
						return err
					}
					if string(b[:n]) != "you said "+m {
						return fmt.Errorf("%q for %q", b[:n], m)
					}
				}
				return nil
			}()
		}()
	}
	for range peers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// datagramAddressMoves gives the client another address, as a NAT does.
func datagramAddressMoves(t *testing.T, x datagramSubject) {
	p := x.memoryPair(t, 1, Weather{})
	say(t, p.client, p.server, "from here")
	old := p.peerSent.last()
	p.net.Rebind(p.clientConn, otherAddr)
	if _, err := p.client.Write([]byte("from there")); err != nil {
		t.Fatal(err)
	}
	if x.cidLen == 0 {
		// Nobody can know whose it is.
		p.server.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := p.server.Read(make([]byte, 100)); err == nil {
			t.Fatalf("%d bytes from an unknown address", n)
		}
		return
	}
	hearOne(t, p.server, "from there")
	if a := p.server.RemoteAddr().String(); a != otherAddr {
		t.Errorf("the peer is at %s", a)
	}
	say(t, p.server, p.client, "back there")

	// A record that is not the newest moves nothing, nor does one that is forged.
	p.net.Inject(clientAddr, serverAddr, old)
	forged := bytes.Clone(old)
	binary.BigEndian.PutUint32(forged[7:], 1000)
	p.net.Inject(clientAddr, serverAddr, forged)
	say(t, p.server, p.client, "still there")
	if a := p.server.RemoteAddr().String(); a != otherAddr {
		t.Errorf("the peer is at %s", a)
	}
}

// datagramAddressOfAnother lets one client send from the address of another,
// which does not lose its association over it.
func datagramAddressOfAnother(t *testing.T, x datagramSubject) {
	p := x.memoryPair(t, 1, Weather{})
	ccfg, _ := x.configs()
	ccfg.CIDLen = -1 // known by its address only
	victim, err := aftls.DatagramClient(context.Background(), p.net.Dial(otherAddr, serverAddr), ccfg, x.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	atServer, err := p.l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	defer atServer.Close()
	say(t, victim, atServer, "mine")
	p.net.SetWeather(Weather{Drop: 1})
	p.client.Write([]byte("from your address"))
	p.net.SetWeather(Weather{})
	p.net.Inject(otherAddr, serverAddr, p.peerSent.last())
	say(t, victim, atServer, "still mine")
	say(t, atServer, victim, "indeed")
	p.client.Write([]byte("from mine"))
	if x.cidLen > 0 {
		hearOne(t, p.server, "from your address")
	}
	hearOne(t, p.server, "from mine")
}

// datagramAnew restarts the client on the same address: the association of
// before lives until the new handshake is done.
func datagramAnew(t *testing.T, x datagramSubject) {
	p := x.memoryPair(t, 1, Weather{})
	say(t, p.client, p.server, "before")
	ccfg, _ := x.configs()
	hello := p.peerSent.all()[0]
	p.net.Inject(clientAddr, serverAddr, hello) // its ClientHello, forged
	synctest.Wait()                             // until it was answered
	say(t, p.client, p.server, "not impressed")
	say(t, p.server, p.client, "nor me")
	again, err := aftls.DatagramClient(context.Background(), p.net.Dial(clientAddr, serverAddr), ccfg, x.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	s, err := p.l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	say(t, again, s, "after")
	say(t, s, again, "and back")
	if x.cidLen == 0 {
		if _, err := p.server.Read(make([]byte, 10)); !errors.Is(err, aftls.ErrReplaced) {
			t.Errorf("the old association: %v", err)
		}
		if _, err := p.server.Write([]byte("x")); !errors.Is(err, aftls.ErrReplaced) {
			t.Errorf("the old association: %v", err)
		}
	}
}

func datagramIdleExpiry(t *testing.T, x datagramSubject) {
	ccfg, scfg := x.configs()
	scfg.IdleTimeout = time.Minute
	network := NewLossy(1, Weather{})
	l, err := aftls.NewDatagramListener(network.Listen(serverAddr), scfg, x.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := aftls.DatagramClient(context.Background(), network.Dial(clientAddr, serverAddr), ccfg, x.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	for range 10 { // in use, though seldom
		time.Sleep(50 * time.Second)
		say(t, c, s, "here")
		say(t, s, c, "there") // with keys that had been at rest
	}
	began := time.Now()
	if _, err := s.Read(make([]byte, 10)); !errors.Is(err, aftls.ErrIdle) {
		t.Fatal(err)
	}
	if d := time.Since(began); d < time.Minute-time.Second || d > 75*time.Second+time.Second {
		t.Errorf("given up after %v", d)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, aftls.ErrIdle) {
		t.Error(err)
	}
	if n := l.Info().Associations; n != 0 {
		t.Errorf("%d associations", n)
	}
	if _, err := c.Read(make([]byte, 10)); err == nil || err.Error() != "EOF" {
		t.Errorf("the client was not told: %v", err)
	}
	s.Close()
}

// datagramFlood sends ClientHellos from everywhere: they never take more than
// the slots, never touch what is established, and an honest client gets in.
func datagramFlood(t *testing.T, x datagramSubject) {
	p := x.memoryPair(t, 1, Weather{})
	hello := p.peerSent.all()[0]
	most := 0
	for i := range 2000 { // at once: no handshake is old enough to be given up
		p.net.Inject(fmt.Sprintf("12.%d.%d.1:1", i/200, i%200), serverAddr, hello)
	}
	say(t, p.client, p.server, "undisturbed")
	if i := p.l.Info(); i.Refused != 2000-1024 || i.Handshakes != 1024 {
		t.Errorf("%+v", i)
	}
	for i := range 2000 {
		from := fmt.Sprintf("10.%d.%d.%d:%d", 1+i%200, i/200%200, i%7, 1000+i)
		p.net.Inject(from, serverAddr, hello)
		if i%100 == 0 {
			time.Sleep(10 * time.Millisecond)
			say(t, p.client, p.server, "undisturbed")
			most = max(most, p.l.Info().Handshakes)
		}
	}
	if most > 1024 || most < 1000 {
		t.Errorf("%d slots were taken", most)
	}
	ccfg, _ := x.configs()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				p.net.Inject(fmt.Sprintf("11.%d.%d.%d:%d", 1+i%200, i/200%200, i%7, 1000+i%60000), serverAddr, hello)
			}
		}
	}()
	c, err := aftls.DatagramClient(context.Background(), p.net.Dial(otherAddr, serverAddr), ccfg, x.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := p.l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	say(t, c, s, "got in")
	say(t, p.client, p.server, "undisturbed")
	if i := p.l.Info(); i.Associations != 2 || i.Handshakes > 1024 {
		t.Errorf("%+v", i)
	}
}

func datagramListenerClose(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	read := start(t, func() (int64, error) { n, err := p.server.Read(make([]byte, 10)); return int64(n), err })
	accept := start(t, func() (int64, error) { _, err := p.l.Accept(); return 0, err })
	if err := p.l.Close(); err != nil {
		t.Fatal(err)
	}
	<-read.done
	<-accept.done
	_, again := p.l.Accept()
	for i, err := range []error{read.err, accept.err, again, p.l.Close()} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if _, err := p.client.Read(make([]byte, 10)); err == nil || err.Error() != "EOF" {
		t.Errorf("the client was not told: %v", err)
	}
}
