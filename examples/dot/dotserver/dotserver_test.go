package dotserver_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/aftls/aftls/examples/dot/dotserver"
	"github.com/aftls/aftls/kcm"
	"github.com/miekg/dns"
)

// serve runs a server with a handler and returns a connection to it, and how it
// ended.
func serve(t *testing.T, h dns.HandlerFunc) (net.Conn, <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	s := dotserver.New(h, 2)
	s.Config.Ended = func(_ *kcm.Conn, err error) { ended <- err }
	over := make(chan error, 1)
	go func() { over <- s.Serve(l) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.Close()
		if err := <-over; err != net.ErrClosed {
			t.Error(err)
		}
	})
	return c, ended
}

func write(t *testing.T, c net.Conn, raw []byte) {
	t.Helper()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw...)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, c net.Conn) ([]byte, *dns.Msg) {
	t.Helper()
	head := make([]byte, 2)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, binary.BigEndian.Uint16(head))
	if _, err := io.ReadFull(c, raw); err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		t.Fatal(err)
	}
	return raw, m
}

func pack(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func reply(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg).SetReply(q)
	if q.IsEdns0() != nil {
		a.SetEdns0(1232, false)
	}
	w.WriteMsg(a)
}

func TestWhatIsNoQuery(t *testing.T) {
	c, _ := serve(t, reply)
	good := pack(t, new(dns.Msg).SetQuestion("example.org.", dns.TypeA))
	with := func(change func(b []byte)) []byte {
		b := append([]byte(nil), good...)
		change(b)
		return b
	}
	for what, x := range map[string]struct {
		raw   []byte
		rcode int
	}{
		"a query":            {good, dns.RcodeSuccess},
		"cut off":            {good[:len(good)-1], dns.RcodeFormatError},
		"a name in a circle": {with(func(b []byte) { b[12], b[13] = 0xc0, 12 }), dns.RcodeFormatError},
		"two questions":      {with(func(b []byte) { b[5] = 2 }), dns.RcodeFormatError},
		"many answers":       {with(func(b []byte) { b[6] = 0xff }), dns.RcodeFormatError},
		"an unknown opcode":  {with(func(b []byte) { b[2] = 9 << 3 }), dns.RcodeNotImplemented},
		"a header by itself": {with(func(b []byte) { b[5] = 0 })[:12], dns.RcodeFormatError},
	} {
		write(t, c, with(func(b []byte) { b[2] |= 0x80 })) // an answer is not answered
		write(t, c, x.raw)
		_, m := read(t, c)
		if m.Id != binary.BigEndian.Uint16(good) || m.Rcode != x.rcode || !m.Response {
			t.Errorf("%s: %v", what, m)
		}
	}
}

func TestTooShortForAHeader(t *testing.T) {
	c, ended := serve(t, reply)
	write(t, c, make([]byte, 11))
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "no header") {
		t.Errorf("ended with %v", err)
	}
}

func TestPadding(t *testing.T) {
	c, _ := serve(t, reply)
	q := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	write(t, c, pack(t, q))
	plain, _ := read(t, c)
	q.SetEdns0(1232, false)
	write(t, c, pack(t, q))
	edns, _ := read(t, c)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 7)}}
	write(t, c, pack(t, q))
	padded, _ := read(t, c)
	if len(padded) != 468 || len(edns) >= 468 || len(plain) >= len(edns) {
		t.Errorf("%d, %d and %d bytes", len(plain), len(edns), len(padded))
	}
}

// A handler may write nothing, several messages, packed ones, long ones, and
// what cannot be sent.
func TestWriter(t *testing.T) {
	local := make(chan string, 1)
	c, ended := serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		txt := func(n int) {
			for range n {
				a.Answer = append(a.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{strings.Repeat("x", 255)}})
			}
		}
		switch q.Question[0].Name {
		case "nothing.":
		case "two.":
			w.WriteMsg(a)
			raw, _ := a.Pack()
			w.Write(raw)
		case "long.":
			txt(200)
			w.WriteMsg(a)
		case "longer.":
			txt(300)
			if w.WriteMsg(a) == nil {
				panic("more than 65535 bytes were packed")
			}
			if _, err := w.Write(make([]byte, 1<<16)); err == nil {
				panic("more than 65535 bytes were written")
			}
			a.Answer, a.Rcode = nil, dns.RcodeServerFailure
			w.WriteMsg(a)
		case "addresses.":
			local <- w.LocalAddr().String() + " " + w.RemoteAddr().String()
			w.TsigTimersOnly(true)
			if w.TsigStatus() == nil {
				a.Rcode = dns.RcodeBadSig
			}
			w.Hijack()
			w.WriteMsg(a)
		case "close.":
			w.WriteMsg(a)
			w.Close()
		}
	})
	ask := func(name string) { write(t, c, pack(t, new(dns.Msg).SetQuestion(name, dns.TypeTXT))) }
	ask("nothing.")
	ask("two.")
	for range 2 {
		if _, m := read(t, c); m.Question[0].Name != "two." {
			t.Errorf("%v", m)
		}
	}
	for range 3 {
		ask("long.")
		if _, m := read(t, c); len(m.Answer) != 200 {
			t.Errorf("%d records", len(m.Answer))
		}
	}
	ask("longer.")
	if _, m := read(t, c); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", m)
	}
	ask("addresses.")
	if _, m := read(t, c); m.Rcode != dns.RcodeSuccess {
		t.Errorf("%v", m)
	}
	if got, want := <-local, c.RemoteAddr().String()+" "+c.LocalAddr().String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	ask("close.")
	if err := <-ended; err != net.ErrClosed {
		t.Errorf("ended with %v", err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF && !errors.Is(err, net.ErrClosed) {
		t.Errorf("%d, %v", n, err)
	}
}

func FuzzQuery(f *testing.F) {
	q := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	for _, change := range []func(){
		func() {},
		func() { q.SetEdns0(1232, true) },
		func() { q.IsEdns0().Option = []dns.EDNS0{new(dns.EDNS0_PADDING)} },
		func() { q.Opcode = dns.OpcodeNotify },
	} {
		change()
		raw, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(raw[:len(raw)-2])
	}
	s := dotserver.New(dns.HandlerFunc(reply), 1)
	mux := kcm.New(kcm.Config{})
	f.Cleanup(func() { mux.Close() })
	near, far := net.Pipe()
	f.Cleanup(func() { far.Close() })
	conn, err := mux.Attach(near, kcm.DNS())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > dns.MaxMsgSize {
			return
		}
		data := append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw...)
		answer, err := s.Handler(nil, kcm.Message{Conn: conn, Data: data})
		if (err != nil) != (len(raw) < 12) {
			t.Fatalf("%d bytes: %v", len(raw), err)
		}
		if len(answer) == 0 {
			return
		}
		m := new(dns.Msg)
		if int(binary.BigEndian.Uint16(answer)) != len(answer)-2 || m.Unpack(answer[2:]) != nil || m.Id != binary.BigEndian.Uint16(raw) {
			t.Fatalf("%x for %x", answer, raw)
		}
	})
}
