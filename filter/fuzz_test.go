package filter_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/bpf"
	"github.com/aftls/aftls/filter"
)

// Whatever the text is: it is refused with a typed error, or becomes a program
// that tcpdump's own agrees with, where tcpdump takes it too.
func FuzzCompile(f *testing.F) {
	for _, s := range primitives {
		f.Add(s)
	}
	for _, s := range []string{"not (port 80 or data[0:4] = 0x47455420) and len*2>(3+len)", "((((", "!!!!tcp", "a\x00b", "len=1||2=len&&tcp", "1<2", "net 1 mask"} {
		f.Add(s)
	}
	all := packets(rand.New(rand.NewPCG(9, 10)), 200)
	_, err := exec.LookPath("tcpdump")
	compare := err == nil
	f.Fuzz(func(t *testing.T, text string) {
		p, err := filter.Compile(text)
		var syntax *filter.SyntaxError
		var invalid *bpf.Error
		if err != nil {
			if p != nil || !errors.As(err, &syntax) && !errors.As(err, &invalid) || syntax != nil && (syntax.Offset < 0 || syntax.Offset > len(text)) {
				t.Fatalf("%v, %v", p, err)
			}
			_ = err.Error()
			return
		}
		for _, b := range all {
			p.Code().Run(b)
		}
		// tcpdump resolves names, and takes options: only what has neither.
		if !compare || strings.Contains(text, "data") || strings.HasPrefix(strings.TrimSpace(text), "-") || strings.TrimSpace(text) == "" || strings.ContainsAny(text, "\x00^%") {
			return
		}
		want, err := tcpdump(t, text)
		if err != nil {
			return // it may know a reason, such as that nothing would match
		}
		for _, b := range all {
			if g, w := p.Code().Run(b) != 0, want.Run(b) != 0; g != w {
				t.Fatalf("%q: %v, and tcpdump has %v, for % x by\n%vtcpdump:\n%v", text, g, w, b, p, want)
			}
		}
	})
}

// Whatever passes and whatever is kept of it: the file is a right one, and what is
// in it is what passed.
func FuzzTap(f *testing.F) {
	f.Add([]byte("\x03request\x84answer\xff"), uint16(0), false, "")
	f.Add([]byte("\x03request\x84answer"), uint16(43), true, "port 443")
	f.Add(bytes.Repeat([]byte("\x7fabc"), 100), uint16(1), true, "data[0] = 0x61")
	f.Fuzz(func(t *testing.T, script []byte, snapLen uint16, ipv6 bool, expression string) {
		if len(script) > 1<<16 {
			return
		}
		opt := filter.TapOptions{SnapLen: int(snapLen), Comment: expression}
		if p, err := filter.Compile(expression); err == nil {
			opt.Filter = p
		}
		var file bytes.Buffer
		tap := filter.NewTap(&file, opt)
		local, remote := addr("10.0.0.1:443"), addr("10.0.0.2:50000")
		if ipv6 {
			local, remote = addr("[2001:db8::1]:443"), addr("[2001:db8::2]:50000")
		}
		// Two flows at once; a byte of the script says how long a piece is, and
		// the way it goes.
		flows := []*filter.Flow{tap.Flow(local, remote, false), tap.Flow(remote, local, true)}
		var want [2][2][]byte // of each flow: what was sent, what came
		for i := 0; len(script) > 0; i++ {
			n := min(int(script[0]&0x7f)*(1+i%3*100), len(script)-1)
			piece, f := script[1:][:n], i%2
			if script[0] >= 0x80 {
				flows[f].Sent(piece)
				want[f][0] = append(want[f][0], piece...)
			} else {
				flows[f].Received(piece)
				want[f][1] = append(want[f][1], piece...)
			}
			script = script[1+n:]
		}
		flows[0].Close()
		if err := tap.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := aftlstest.ReadPcapng(file.Bytes())
		if err != nil || !c.Complete {
			t.Fatal(c.Complete, err)
		}
		s := tap.Stats()
		if uint64(len(c.Packets)) != s.Packets || c.Received != s.Packets+s.Filtered || s.Dropped != 0 {
			t.Fatalf("%d packets, %+v, %d received", len(c.Packets), s, c.Received)
		}
		if opt.Filter == nil && s.Filtered != 0 {
			t.Fatalf("%+v", s)
		}
		for _, p := range c.Packets {
			if len(p.Payload) == 0 {
				continue
			}
			// Both flows have one source each for what is outbound.
			f, way := 0, 0
			if p.Inbound {
				way = 1
			}
			if (p.Src.Port() == 443) == p.Inbound {
				f = 1
			}
			at := int(p.Seq - 1)
			if at+len(p.Payload) > len(want[f][way]) || !bytes.Equal(want[f][way][at:][:len(p.Payload)], p.Payload) {
				t.Fatalf("flow %d, inbound %v: at %d lies %q", f, p.Inbound, at, p.Payload)
			}
		}
	})
}

type failing struct{ after int }

func (w *failing) Write(p []byte) (int, error) {
	if w.after--; w.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}
