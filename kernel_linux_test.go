package aftls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
	"golang.org/x/net/nettest"
)

// The tests of the kernel provider beyond the contract. Each begins with NeedKernel.

var kernelOnly = aftls.Options{Provider: aftls.Kernel, RequireKernel: true}

// kernelPair returns both ends of a connection whose records the kernel has.
func kernelPair(t *testing.T, version uint16) (client, server *aftls.Conn) {
	t.Helper()
	a, b := tcpPair(t)
	ccfg, scfg := configs(t)
	ccfg.MinVersion, ccfg.MaxVersion = version, version
	client, server = handshakePair(t, a, b, ccfg, scfg, kernelOnly)
	wantProviders(t, client, aftls.Kernel, aftls.Kernel)
	wantProviders(t, server, aftls.Kernel, aftls.Kernel)
	return client, server
}

func wantProviders(t *testing.T, c *aftls.Conn, send, receive aftls.Provider) {
	t.Helper()
	i := c.Info()
	if i.Send.Provider != send || i.Receive.Provider != receive {
		t.Fatalf("send %v (%s), receive %v (%s)", i.Send.Provider, i.Send.Reason, i.Receive.Provider, i.Receive.Reason)
	}
	for _, d := range []aftls.DirectionInfo{i.Send, i.Receive} {
		if (d.Reason == "") != (d.Provider == aftls.Kernel) {
			t.Errorf("%v for the reason %q", d.Provider, d.Reason)
		}
	}
}

// Without options both directions are where they are safe: sending in the kernel,
// receiving too where that can follow a KeyUpdate.
func TestKernelIsChosen(t *testing.T) {
	aftlstest.NeedKernel(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		a, b := tcpPair(t)
		ccfg, scfg := configs(t)
		ccfg.MinVersion, ccfg.MaxVersion = version, version
		client, server := handshakePair(t, a, b, ccfg, scfg, aftls.Options{})
		receive := aftls.Kernel
		if version == tls.VersionTLS13 && !aftlstest.KernelRekeys() {
			t.Log("not there: a second key, so that Auto receives in soft")
			receive = aftls.Soft
			if why := client.Info().Receive.Reason; !strings.Contains(why, "KeyUpdate") {
				t.Errorf("received in soft because %q", why)
			}
		}
		for _, c := range []*aftls.Conn{client, server} {
			say(t, c, "hello")
		}
		for _, c := range []*aftls.Conn{client, server} {
			wantLine(t, c, "hello")
			wantProviders(t, c, aftls.Kernel, receive)
		}
		client.Close()
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
	}
}

// A fallback says why, and RequireKernel makes it an error.
func TestKernelRequired(t *testing.T) {
	aftlstest.NeedKernel(t)
	cases := map[string]struct {
		change func(ccfg, scfg *tls.Config, opt *aftls.Options)
		pipe   bool
		word   string
	}{
		"padding":           {func(c, s *tls.Config, o *aftls.Options) { o.Padding = 512 }, false, "pad"},
		"no TCP connection": {func(c, s *tls.Config, o *aftls.Options) {}, true, "TCP"},
	}
	for name, x := range cases {
		t.Run(name, func(t *testing.T) {
			ccfg, scfg := configs(t)
			opt := aftls.Options{}
			x.change(ccfg, scfg, &opt)
			carriers := func() (net.Conn, net.Conn) {
				if x.pipe {
					return aftlstest.NewLink(0)
				}
				return tcpPair(t)
			}
			a, b := carriers()
			client, server := handshakePair(t, a, b, ccfg, scfg, opt)
			if i := client.Info().Send; i.Provider != aftls.Soft || !strings.Contains(i.Reason, x.word) {
				t.Errorf("%v because %q", i.Provider, i.Reason)
			}
			client.Close()
			server.Close()

			opt.RequireKernel = true
			a, b = carriers()
			var wg sync.WaitGroup
			wg.Go(func() {
				if s, err := aftls.Server(context.Background(), b, scfg, aftls.Options{Provider: aftls.Soft}); err == nil {
					s.Close()
				}
			})
			_, err := aftls.Client(context.Background(), a, ccfg, opt)
			if !errors.Is(err, aftls.ErrNoKernel) || !strings.Contains(err.Error(), x.word) {
				t.Errorf("with RequireKernel: %v", err)
			}
			wg.Wait()
		})
	}
	t.Run("passthrough", func(t *testing.T) {
		a, b := tcpPair(t)
		ccfg, scfg := configs(t)
		cbcOnly(ccfg, scfg)
		go tls.Server(b, scfg).Handshake()
		if _, err := aftls.Client(context.Background(), a, ccfg, aftls.Options{RequireKernel: true}); !errors.Is(err, aftls.ErrPassthrough) {
			t.Error(err)
		}
	})
}

// A Multipath TCP connection has no TLS in the kernel: Listen makes none, and one of
// another listener stays in soft and says why.
func TestKernelMultipathTCP(t *testing.T) {
	aftlstest.NeedKernel(t)
	ccfg, scfg := configs(t)
	var d net.Dialer
	d.SetMultipathTCP(true)
	for _, own := range []bool{true, false} {
		var ln *aftls.Listener
		if own {
			var err error
			if ln, err = aftls.Listen("tcp", "127.0.0.1:0", scfg, aftls.Options{}); err != nil {
				t.Fatal(err)
			}
		} else {
			var lc net.ListenConfig
			lc.SetMultipathTCP(true)
			inner, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ln = aftls.NewListener(inner, scfg, aftls.Options{})
		}
		nc, err := (&aftls.Dialer{NetDialer: &d, Config: ccfg}).Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := ln.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		multipath, err := c.NetConn().(*net.TCPConn).MultipathTCP()
		if err != nil {
			t.Fatal(err)
		}
		i := c.Info().Send
		switch {
		case !multipath:
			if !own {
				t.Log("not there: Multipath TCP")
			}
			if i.Provider != aftls.Kernel {
				t.Errorf("%v because %q", i.Provider, i.Reason)
			}
		case own:
			t.Error("Listen made a Multipath TCP connection")
		case i.Provider != aftls.Soft || !strings.Contains(i.Reason, "Multipath"):
			t.Errorf("%v because %q", i.Provider, i.Reason)
		}
		go func() { say(t, nc.(*aftls.Conn), "multi"); nc.Close() }()
		wantLine(t, c, "multi")
		c.Close()
		ln.Close()
	}
}

// The request and the FIN of a client may lie behind its Finished before the server
// has seen that: too late to attach, and never too early here.
func TestKernelEarlyEnd(t *testing.T) {
	aftlstest.NeedKernel(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, size := range []int{5, 1500, 3000, 40000} { // in the read-ahead of the handshake, and beyond
			a, b := tcpPair(t)
			ccfg, scfg := configs(t)
			ccfg.MinVersion, ccfg.MaxVersion = version, version
			want := payload(t, size)
			sent := make(chan error, 1)
			go func() {
				c := tls.Client(a, ccfg)
				_, err := c.Write(want)
				sent <- errors.Join(err, c.CloseWrite(), a.(*net.TCPConn).CloseWrite())
			}()
			c, err := aftls.Server(context.Background(), b, scfg, kernelOnly)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d of %d bytes, %v", len(got), size, err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			if i := c.Info(); i.Send.Provider != aftls.Kernel {
				t.Errorf("%v because %q", i.Send.Provider, i.Send.Reason)
			}
			c.Close()
			a.Close()
		}
	}
}

// What was read ahead of the handshake is opened in soft; then the kernel goes on.
func TestKernelTakesOver(t *testing.T) {
	aftlstest.NeedKernel(t)
	a, b := tcpPair(t)
	ccfg, scfg := configs(t)
	peer := make(chan *tls.Conn, 1)
	go func() {
		c := tls.Client(a, ccfg)
		c.Write([]byte("early")) // with the Finished
		peer <- c
	}()
	c, err := aftls.Server(context.Background(), b, scfg, kernelOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := <-peer
	defer p.Close()
	buf := make([]byte, 100)
	if n, err := io.ReadFull(c, buf[:5]); string(buf[:n]) != "early" || err != nil {
		t.Fatal(n, err)
	}
	for i := range 3 {
		fmt.Fprintf(p, "later %d", i)
		if n, err := io.ReadFull(c, buf[:7]); string(buf[:n]) != fmt.Sprintf("later %d", i) || err != nil {
			t.Fatal(n, err)
		}
	}
	wantProviders(t, c, aftls.Kernel, aftls.Kernel)
	if i := c.Info().Receive; i.Records != 4 || i.Bytes != 26 {
		t.Errorf("%d records, %d bytes", i.Records, i.Bytes)
	}
}

// The session tickets of a server count under its key: OpenSSL and crypto/tls clients
// would see a wrong number at once.
func TestKernelNumbersBehindTickets(t *testing.T) {
	aftlstest.NeedKernel(t)
	a, b := tcpPair(t)
	ccfg, scfg := configs(t)
	scfg.SessionTicketsDisabled = false
	ccfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	p := tls.Client(a, ccfg)
	shaken := make(chan error, 1)
	go func() { shaken <- p.Handshake() }()
	c, err := aftls.Server(context.Background(), b, scfg, kernelOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	if got := c.Info().Send.Seq; got != 1 {
		t.Errorf("number %d behind one ticket", got)
	}
	go c.Write([]byte("hello"))
	buf := make([]byte, 5)
	if _, err := io.ReadFull(p, buf); err != nil || string(buf) != "hello" {
		t.Error(string(buf), err)
	}
	p.Close()
}

// A living association moves to the kernel while both directions are busy.
func TestKernelMove(t *testing.T) {
	aftlstest.NeedKernel(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		a, b := tcpPair(t)
		ccfg, scfg := configs(t)
		ccfg.MinVersion, ccfg.MaxVersion = version, version
		client, server := handshakePair(t, a, b, ccfg, scfg, aftls.Options{Provider: aftls.Soft})
		const size = 4 << 20
		want := payload(t, size)
		var wg sync.WaitGroup
		for _, c := range []*aftls.Conn{client, server} {
			wg.Go(func() {
				for part := want; len(part) > 0; part = part[min(len(part), 70001):] {
					if _, err := c.Write(part[:min(len(part), 70001)]); err != nil {
						t.Error(err)
						return
					}
				}
			})
			moved := false
			wg.Go(func() {
				got := make([]byte, size)
				for n := 0; n < size; {
					m, err := c.Read(got[n:min(size, n+50000)])
					if n += m; err != nil {
						t.Error(n, err)
						return
					}
					if !moved && n > size/3 {
						moved = true
						if err := c.MoveToKernel(); err != nil {
							t.Error(err)
						}
					}
				}
				if !bytes.Equal(got, want) {
					t.Error("other data came than were sent")
				}
			})
		}
		wg.Wait()
		say(t, client, "over")
		wantLine(t, server, "over")
		say(t, server, "and out")
		wantLine(t, client, "and out")
		for _, c := range []*aftls.Conn{client, server} {
			wantProviders(t, c, aftls.Kernel, aftls.Kernel)
			if i := c.Info(); i.Send.Bytes < size || i.Receive.Bytes < size {
				t.Errorf("the counters begin anew: %d and %d bytes", i.Send.Bytes, i.Receive.Bytes)
			}
			if err := c.MoveToKernel(); err != nil {
				t.Errorf("once more: %v", err)
			}
		}
		client.Close()
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		server.Close()
	}
}

// A connection whose peer has sent its FIN is too late for the kernel, and goes on.
func TestKernelMoveTooLate(t *testing.T) {
	aftlstest.NeedKernel(t)
	a, b := tcpPair(t)
	ccfg, scfg := configs(t)
	client, server := handshakePair(t, a, b, ccfg, scfg, aftls.Options{Provider: aftls.Soft})
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	if err := server.MoveToKernel(); !errors.Is(err, aftls.ErrNoKernel) || !strings.Contains(err.Error(), "FIN") {
		t.Error(err)
	}
	say(t, server, "still here")
	wantLine(t, client, "still here")
}

func init() {
	processes["kernelwriter"] = func() error {
		for i := range 100 {
			if _, err := fmt.Fprintf(os.NewFile(3, "shared"), "line %d of the child\n", i); err != nil {
				return err
			}
		}
		return nil
	}
}

// A child goes on writing; this side neither rekeys nor ends the stream.
func TestKernelShare(t *testing.T) {
	aftlstest.NeedKernel(t)
	client, server := kernelPair(t, tls.VersionTLS13)
	say(t, server, "before")
	f, err := server.ShareKernelFile()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "AFTLS_TEST_PROCESS=kernelwriter")
	child.ExtraFiles = []*os.File{f}
	child.Stderr = os.Stderr
	before := server.Info().Send
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	say(t, server, "between")
	wantLine(t, client, "before")
	for i := range 100 {
		wantLine(t, client, fmt.Sprintf("line %d of the child\n", i))
	}
	wantLine(t, client, "between")
	if after := server.Info().Send; after.Seq != before.Seq+101 || after.Records != before.Records+101 {
		t.Errorf("number %d became %d, %d records %d", before.Seq, after.Seq, before.Records, after.Records)
	}
	if err := server.Rekey(true); !errors.Is(err, aftls.ErrNoRekey) {
		t.Errorf("Rekey: %v", err)
	}
	if _, err := server.Detach(); !errors.Is(err, aftls.ErrShared) {
		t.Errorf("Detach: %v", err)
	}
	server.Close()
	if _, err := f.Write([]byte("the last word\n")); err != nil {
		t.Error(err)
	}
	wantLine(t, client, "the last word\n")
	f.Close()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("nobody ended the stream: %v", err)
	}
	ccfg, scfg := configs(t)
	soft, _ := connPair(t, ccfg, scfg, aftls.Options{Provider: aftls.Soft})
	if _, err := soft.ShareKernelFile(); !errors.Is(err, aftls.ErrNoKernel) {
		t.Error(err)
	}
}

// tlsStat reads a counter of the kernel.
func tlsStat(t *testing.T, name string) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/tls_stat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, _ = strconv.Atoi(f[1])
			return n
		}
	}
	return -1
}

// The kernel itself says that it has the records, and how often it rekeyed.
func TestKernelCounts(t *testing.T) {
	aftlstest.NeedKernel(t)
	tx, rx := tlsStat(t, "TlsTxSw"), tlsStat(t, "TlsRxSw")
	client, server := kernelPair(t, tls.VersionTLS13)
	if d := tlsStat(t, "TlsTxSw") - tx; d != 2 {
		t.Errorf("TlsTxSw grew by %d", d)
	}
	if d := tlsStat(t, "TlsRxSw") - rx; d != 2 {
		t.Errorf("TlsRxSw grew by %d", d)
	}
	if !aftlstest.KernelRekeys() {
		t.Log("not there: a second key (EBUSY)")
		if err := client.Rekey(true); !errors.Is(err, aftls.ErrNoRekey) {
			t.Error(err)
		}
		return
	}
	before := tlsStat(t, "TlsTxRekeyOk")
	if err := client.Rekey(true); err != nil {
		t.Fatal(err)
	}
	say(t, client, "new key")
	wantLine(t, server, "new key")
	say(t, server, "new key")
	wantLine(t, client, "new key")
	if d := tlsStat(t, "TlsTxRekeyOk") - before; d != 2 {
		t.Errorf("TlsTxRekeyOk grew by %d", d)
	}
}

// A file never comes into this process: the bytes it allocates do not grow with it,
// and neither does the number of times it enters the kernel by much. The file is sent
// in turns, and other writes come between.
func TestKernelSendsFiles(t *testing.T) {
	aftlstest.NeedKernel(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client, server := kernelPair(t, version)
		want := payload(t, 3<<20+12345)
		f := markedFile(t, want)
		done := make(chan error, 1)
		go func() {
			_, err := server.ReadFrom(f)
			done <- errors.Join(err, server.CloseWrite())
		}()
		got, err := io.ReadAll(client)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d of %d bytes, or others: %v", len(got), len(want), err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if at, _ := f.Seek(0, io.SeekCurrent); at != int64(len(want)) {
			t.Errorf("the offset is %d", at)
		}
		// Records are full but for the first and the last ones.
		if i := server.Info().Send; i.Records > uint64(len(want)/record.MaxPlaintext+20) {
			t.Errorf("%d records for %d bytes", i.Records, len(want))
		}
	}
}

// The limit of a record is kept, or refused where the kernel has none.
func TestKernelMaxPayload(t *testing.T) {
	aftlstest.NeedKernel(t)
	a, b, wire := aftlstest.WirePair(t)
	ccfg, scfg := configs(t)
	opt := kernelOnly
	opt.Kernel = aftls.KernelOptions{ExpectNoPad: true, ZeroCopy: true}
	client, server := handshakePair(t, a, b, ccfg, scfg, opt)
	for _, bad := range []int{-1, 0, 16385} {
		if err := client.SetMaxPayload(bad); !errors.Is(err, aftls.ErrTooLarge) {
			t.Errorf("a limit of %d: %v", bad, err)
		}
	}
	for _, bad := range []int{1, 62} {
		if err := client.SetMaxPayload(bad); !errors.Is(err, aftls.ErrNoKernel) {
			t.Errorf("a limit of %d: %v", bad, err)
		}
	}
	err := client.SetMaxPayload(1000)
	if errors.Is(err, aftls.ErrNoKernel) && errors.Is(err, syscall.ENOPROTOOPT) {
		t.Log("not there: TLS_TX_MAX_PAYLOAD_LEN (ENOPROTOOPT)")
		say(t, client, "and goes on")
		wantLine(t, server, "and goes on")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	want := payload(t, 100000)
	go client.Write(want)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, want) {
		t.Error(err)
	}
	records, _, err := wire.ToServer().Records()
	if err != nil {
		t.Fatal(err)
	}
	full := 0
	for _, r := range records {
		if r[0] == byte(record.ApplicationData) && len(r) == record.HeaderLen+1000+1+record.TagLen {
			full++
		}
	}
	if full < 90 {
		t.Errorf("%d of %d records hold 1000 bytes", full, len(records))
	}
}

// A limit that was set in soft moves along, to another process and to a kernel that can
// keep it; no other kernel gets the connection.
func TestKernelMaxPayloadMoves(t *testing.T) {
	aftlstest.NeedKernel(t)
	a, b, wire := aftlstest.WirePair(t)
	ccfg, scfg := configs(t)
	client, server := handshakePair(t, a, b, ccfg, scfg, aftls.Options{Provider: aftls.Soft})
	if err := client.SetMaxPayload(500); err != nil {
		t.Fatal(err)
	}
	in := arriving{more: make(chan struct{}, 1), ended: make(chan error, 1)}
	want := payload(t, 150000)
	go in.read(server, want)
	for i := range 3 {
		if i > 0 {
			st, err := client.Detach()
			if err != nil {
				t.Fatal(err)
			}
			b, err := st.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			st = new(aftls.State)
			if err := st.UnmarshalBinary(b); err != nil {
				t.Fatal(err)
			}
			if client, err = aftls.Resume(a, st, aftls.Options{}); err != nil {
				t.Fatal(err)
			}
		}
		if i == 1 {
			if err := client.MoveToKernel(); errors.Is(err, aftls.ErrNoKernel) && errors.Is(err, syscall.ENOPROTOOPT) {
				t.Log("not there: TLS_TX_MAX_PAYLOAD_LEN (ENOPROTOOPT)")
				wantProviders(t, client, aftls.Soft, aftls.Soft)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.Write(want[i*50000:][:50000]); err != nil {
			t.Fatal(err)
		}
	}
	in.wait(t, len(want))
	if err := <-in.ended; err != nil {
		t.Error(err)
	}
	client.Close()
	records, _, err := wire.ToServer().Records()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records[1:] { // behind the ClientHello
		if len(r) > record.HeaderLen+500+1+record.TagLen {
			t.Errorf("a record of %d bytes", len(r))
		}
	}
}

// Keys of AES-CCM, which no handshake here gives, are for the kernel only.
func TestKernelCCM(t *testing.T) {
	aftlstest.NeedKernel(t)
	for _, x := range []struct{ version, suite uint16 }{{record.TLS13, 0x1304}, {record.TLS12, 0xc09c}, {record.TLS12, 0xc0ac}} {
		k := record.Keys{Version: x.version, Suite: x.suite, Key: payload(t, 16), IV: payload(t, 4)}
		if x.version == record.TLS13 {
			k.IV = payload(t, 12)
		}
		a, b := tcpPair(t)
		opt := aftls.Options{Provider: aftls.Kernel}
		from, to := aftls.NewSocket(a, opt), aftls.NewSocket(b, opt)
		if err := errors.Join(from.SetKeys(aftls.Send, k), to.SetKeys(aftls.Receive, k)); err != nil {
			t.Fatalf("%#x: %v", x.suite, err)
		}
		transfer(t, from, to, 100000)
		if i := from.Info().Send; i.Provider != aftls.Kernel || i.Bytes != 100000 || i.Suite != x.suite {
			t.Errorf("%+v", i)
		}
		c, _ := tcpPair(t)
		if err := aftls.NewSocket(c, aftls.Options{Provider: aftls.Soft}).SetKeys(aftls.Send, k); !errors.Is(err, record.ErrSuite) {
			t.Errorf("in soft: %v", err)
		}
	}
}

// Reading and writing allocate nothing.
func TestKernelAllocatesNothing(t *testing.T) {
	aftlstest.NeedKernel(t)
	client, server := kernelPair(t, tls.VersionTLS13)
	b := make([]byte, 1000)
	round := func() {
		if _, err := client.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, b); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		round()
	}
	runtime.GC()
	if n := testing.AllocsPerRun(100, round); n > 0 {
		t.Errorf("%v allocations for a write and a read", n)
	}
}

// The filter of a connection sees records one at a time, on the kernel too.
func TestKernelFilterSeesRecords(t *testing.T) {
	aftlstest.NeedKernel(t)
	client, server := kernelPair(t, tls.VersionTLS13)
	b := make([]byte, 100)
	for _, s := range []string{"one", "two", "three"} {
		if err := client.WriteRecord(record.ApplicationData, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"one", "two", "three"} {
		if typ, n, err := server.ReadRecord(b); typ != record.ApplicationData || string(b[:n]) != want || err != nil {
			t.Errorf("%v %q %v, want %q", typ, b[:n], err, want)
		}
	}
}

func TestKernelNettest(t *testing.T) {
	aftlstest.NeedKernel(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				client, server := kernelPair(t, version)
				return client, server, func() { client.Close(); server.Close() }, nil
			})
		})
	}
}

// arriving counts the bytes that have come to the other end.
type arriving struct {
	n     atomic.Int64
	more  chan struct{} // n has grown
	ended chan error
}

// read reads until all has come, and compares.
func (a *arriving) read(from io.Reader, want []byte) {
	defer close(a.more)
	got := make([]byte, len(want))
	for n := 0; n < len(want); {
		m, err := from.Read(got[n:])
		if n += m; err != nil {
			a.ended <- fmt.Errorf("after %d of %d bytes: %w", n, len(want), err)
			return
		}
		a.n.Store(int64(n))
		select {
		case a.more <- struct{}{}:
		default:
		}
	}
	if !bytes.Equal(got, want) {
		a.ended <- errors.New("other data came than were sent")
	}
	close(a.ended)
}

// wait waits until n bytes have come.
func (a *arriving) wait(t *testing.T, n int) {
	t.Helper()
	for a.n.Load() < int64(n) {
		if _, ok := <-a.more; !ok && a.n.Load() < int64(n) {
			t.Fatal(<-a.ended)
		}
	}
}

// No nonce goes over the wire twice, whatever is moved while data is sent. In TLS 1.2
// with AES-GCM it stands in every record.
func TestKernelNonces(t *testing.T) {
	aftlstest.NeedKernel(t)
	a, b, wire := aftlstest.WirePair(t)
	ccfg, scfg := configs(t)
	ccfg.MaxVersion = tls.VersionTLS12
	ccfg.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	client, server := handshakePair(t, a, b, ccfg, scfg, aftls.Options{Provider: aftls.Soft})
	want := payload(t, 2<<20)
	in := arriving{more: make(chan struct{}, 1), ended: make(chan error, 1)}
	go in.read(server, want)
	sent := 0
	for i := 0; sent < len(want); i++ {
		done := make(chan int)
		go func(c *aftls.Conn) { n, _ := c.Write(want[sent:min(len(want), sent+300000)]); done <- n }(client)
		// A byte of this Write has come: so it has begun, and every round sends
		// something, however slow the machine is.
		in.wait(t, sent+1)
		switch {
		case i == 2:
			if err := client.MoveToKernel(); err != nil {
				t.Error(err)
			}
			sent += <-done
		default: // while it is written
			st, err := client.Detach()
			sent += <-done
			if err == nil {
				client, err = aftls.Resume(a, st, aftls.Options{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	in.wait(t, len(want))
	if err := <-in.ended; err != nil {
		t.Fatal(err)
	}
	wantProviders(t, client, aftls.Kernel, client.Info().Receive.Provider)
	client.Close()
	records, _, err := wire.ToServer().Records()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range records {
		if r[0] != byte(record.ApplicationData) && r[0] != byte(record.AlertRecord) {
			continue
		}
		nonce := string(r[record.HeaderLen:][:8])
		if seen[nonce] {
			t.Errorf("the nonce %x was used twice", nonce)
		}
		seen[nonce] = true
	}
	if len(seen) < len(want)/record.MaxPlaintext {
		t.Errorf("%d records", len(seen))
	}
}

// A state whose keys are in the kernel is resumed on the socket that has them, or not
// at all.
func TestKernelResumeElsewhere(t *testing.T) {
	aftlstest.NeedKernel(t)
	client, server := kernelPair(t, tls.VersionTLS13)
	st, err := client.Detach()
	if err != nil {
		t.Fatal(err)
	}
	other, _ := tcpPair(t)
	if _, err := aftls.Resume(other, st, aftls.Options{}); !errors.Is(err, aftls.ErrNoKernel) {
		t.Errorf("on a socket without keys: %v", err)
	}
	if _, err := other.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the carrier of a Resume that failed: %v", err)
	}
	if st, err = server.Detach(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.NetConn().Write([]byte("a record that the state does not know")); err != nil {
		t.Fatal(err)
	}
	if _, err := aftls.Resume(server.NetConn(), st, aftls.Options{}); !errors.Is(err, aftls.ErrNoKernel) {
		t.Errorf("on a socket that has gone on: %v", err)
	}
}
