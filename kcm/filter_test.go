package kcm_test

import (
	"errors"
	"testing"

	"github.com/aftls/aftls/filter"
	"github.com/aftls/aftls/kcm"
)

// letters is a filter of package filter: messages of DNS framing go by their
// first letter.
func letters(t testing.TB) *filter.Filter {
	t.Helper()
	p, err := filter.CompileRules(
		filter.Rule{When: "data[2] = 0x64", Then: filter.Verdict{Action: filter.Drop}},            // d
		filter.Rule{When: "data[2] = 0x74", Then: filter.Verdict{Action: filter.Truncate, N: 4}},  // t
		filter.Rule{When: "data[2] = 0x31", Then: filter.Verdict{Action: filter.Redirect, N: 1}},  // 1
		filter.Rule{When: "data[2] = 0x39", Then: filter.Verdict{Action: filter.Redirect, N: 99}}, // 9
		filter.Rule{When: "data[2] = 0x6b", Then: filter.Verdict{Action: filter.Kill, N: 5}},      // k
		filter.Rule{When: "src net 0.0.0.0/0 and tcp", Then: filter.Verdict{Action: filter.Pass}},
	)
	if err != nil {
		t.Fatal(err)
	}
	f := new(filter.Filter)
	f.Swap(p)
	return f
}

func TestSteerByPackageFilter(t *testing.T) {
	f := letters(t)
	var endpoints []*kcm.Endpoint
	cfg := kcm.Config{Filter: func(c *kcm.Conn) kcm.Filter {
		n := c.NetConn()
		return kcm.Steer(f.Messages(filter.NewHeader(n.RemoteAddr(), n.LocalAddr())), endpoints...)
	}}
	bubble(t, cfg, func(t *testing.T, s *rig) {
		e0, e1 := s.endpoint(), s.endpoint()
		endpoints = []*kcm.Endpoint{e0, e1}
		c, p := s.attach(kcm.DNS())
		write(t, p, msg("drop"), msg("pass"), msg("truncate"), msg("1 is for e1"), msg("9 has no endpoint"), msg("kill"))
		if got, _ := text(t, e1); got != "1 is for e1" {
			t.Errorf("%q", got)
		}
		for _, want := range []string{"pass", "tr", "9 has no endpoint"} {
			if got, _ := text(t, e0); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		err, ok := s.end(c)
		var kill *filter.KillError
		if !ok || !errors.As(err, &kill) || kill.Verdict.N != 5 {
			t.Errorf("ended %v: %v", ok, err)
		}
		if got, want := f.Stats(), (filter.Stats{Pass: 1, Drop: 1, Truncate: 1, Redirect: 2, Kill: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

func TestSendFilter(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		e := s.endpoint()
		f := letters(t)
		c.SetSendFilter(kcm.Steer(f.Messages(nil)))
		for _, m := range []string{"drop", "pass", "drop"} {
			if err := e.SendMsg(c, msg(m)); err != nil {
				t.Fatalf("%s: %v", m, err)
			}
		}
		read := func(want string) {
			t.Helper()
			b := make([]byte, len(want)+2)
			if n, err := p.Read(b); string(b[2:n]) != want || err != nil {
				t.Errorf("%q, %v, want %q", b[:n], err, want)
			}
		}
		read("pass")
		f.Swap(nil)
		if c, err := e.SendAny(msg("drop")); c == nil || err != nil {
			t.Fatal(err)
		}
		read("drop")
		c.SetSendFilter(nil)
		if err := e.SendMsg(c, msg("kill")); err != nil {
			t.Fatal(err)
		}
		read("kill")
		if n := c.Stats(); n.Dropped != 2 || n.Sent != 3 {
			t.Errorf("%+v", n)
		}
		c.SetSendFilter(kcm.Steer(letters(t).Messages(nil)))
		var kill *filter.KillError
		if err := e.SendMsg(c, msg("kill")); !errors.As(err, &kill) {
			t.Errorf("%v", err)
		}
		if err, ok := s.end(c); !ok || !errors.As(err, &kill) {
			t.Errorf("ended %v: %v", ok, err)
		}
		if err := e.SendMsg(c, msg("pass")); !errors.As(err, &kill) {
			t.Errorf("%v", err)
		}
	})
}

func TestSendFilterPanics(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, _ := s.attach(kcm.DNS())
		c.SetSendFilter(func([]byte) kcm.Verdict { panic("no") })
		var panicked *kcm.PanicError
		if err := s.endpoint().SendMsg(c, msg("x")); !errors.As(err, &panicked) {
			t.Errorf("%v", err)
		}
		if err, ok := s.end(c); !ok || !errors.As(err, &panicked) {
			t.Errorf("ended %v: %v", ok, err)
		}
	})
}
