package bench

import (
	"encoding/binary"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
)

// The row runs, and gives a sample of every peer.
func TestMessagesQuick(t *testing.T) {
	cfg := smokeConfig(t)
	cfg.Rows = []string{rowMessages}
	rep, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]int{"messages 64 B x 8, ": 18, "segments 64 B x 4, T": 24, "segments 8 kB x 4, T": 24, "segments 64 kB x 4, T": 24}
	if _, err := exec.LookPath("dnsperf"); err == nil {
		parts["dns 1 x 8000/s"] = 5
	} else if len(rep.Notes) != 1 || !strings.Contains(rep.Notes[0], "dnsperf was not found") {
		t.Errorf("notes: %q", rep.Notes)
	}
	for _, res := range rep.Results {
		known := false
		for name := range parts {
			if strings.HasPrefix(res.Name, name) {
				parts[name]--
				known = true
			}
		}
		if !known || res.Reps != 1 || res.Goal != nil {
			t.Errorf("%s: %d repetitions, goal %v", res.Name, res.Reps, res.Goal)
		}
		for _, p := range res.Peers {
			if !(p.Min > 0) && len(res.Peers) > 1 && res.Unit != unitSwitches && res.Unit != unitWakeups {
				t.Errorf("%s, %s: %v %s", res.Name, p.Peer, p.Samples, res.Unit)
			}
		}
		// However the messages come: a mux wakes one worker for each, at most.
		if res.Unit == unitWakeups && (res.Peers[0].Max > 1 || res.Peers[0].Min <= 0) {
			t.Errorf("%s, %s: %v wake-ups", res.Name, res.Peers[0].Peer, res.Peers[0].Samples)
		}
	}
	for name, n := range parts {
		if n != 0 {
			t.Errorf("%s: %d results are missing", name, n)
		}
	}
	aftlstest.Need(t, "dnsperf")
}

func TestParseDnsperf(t *testing.T) {
	const good = "[Status] Sending\n> NOERROR slow.example. A 0.002143\n> NOERROR fast.example. A 0.000061\n  Queries sent:  2\n  Queries lost:         0 (0.00%)\n"
	waits, err := parseDnsperf(good)
	if err != nil || len(waits) != 2 || int(waits[0]+.5) != 2143 || int(waits[1]+.5) != 61 {
		t.Errorf("%v, %v", waits, err)
	}
	for what, bad := range map[string]string{
		"nothing":    "",
		"lost":       strings.Replace(good, "0 (0", "1 (5", 1),
		"refused":    strings.Replace(good, "> NOERROR f", "> REFUSED f", 1),
		"timed out":  good + "> T fast.example. A\n",
		"no latency": strings.Replace(good, "0.000061", "soon", 1),
	} {
		if _, err := parseDnsperf(bad); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestPercentile(t *testing.T) {
	xs := make([]float64, 1000)
	for i := range xs {
		xs[i] = float64(i)
	}
	for q, want := range map[float64]float64{0: 0, 0.5: 500, 0.99: 990, 0.999: 999, 1: 999} {
		if got := percentile(xs, q); got != want {
			t.Errorf("%v: %v, want %v", q, got, want)
		}
	}
	if got := percentile(nil, 0.5); got != 0 {
		t.Error(got)
	}
}

func TestMessageConfig(t *testing.T) {
	for _, d := range []string{byMux, byConn, byPool, byLock, byMuxThread, byEpollOne, byEpollAll, byMiekgDNS, byMuxDNS} {
		for _, tls := range []bool{false, true} {
			want := messageConfig{d, tls, 8}
			if got, err := parseMessageConfig(want.String()); got != want || err != nil {
				t.Errorf("%q: %+v, %v", want.String(), got, err)
			}
		}
	}
	for _, s := range []string{"", "kcm", "kcm|TLS", "kcm|TLS|x"} {
		if _, err := parseMessageConfig(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

// fakeServer answers with what it is told to, whatever comes.
func fakeServer(t *testing.T, answer []byte) *messageClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer s.Close()
		s.Read(make([]byte, 1))
		s.Write(answer)
	}()
	raw, err := newRawConn(t.Context(), c, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	client := &messageClient{flows: []*flow{{rawConn: raw}}}
	t.Cleanup(client.close)
	return client
}

// The client counts nothing that is not an answer to what it sent.
func TestAnswersAreCompared(t *testing.T) {
	answer := func(length int, id uint64) []byte {
		b := make([]byte, answerLen)
		binary.BigEndian.PutUint32(b, uint32(length))
		binary.BigEndian.PutUint64(b[4:], id)
		return b
	}
	right := answer(answerLen-4, 0)
	for what, x := range map[string]struct {
		sent []byte
		want string
	}{
		"an answer":         {right, ""},
		"to another one":    {answer(answerLen-4, 1), "not one to what was sent"},
		"twice":             {append(right[:answerLen:answerLen], right...), "not one to what was sent"},
		"a shorter message": {answer(answerLen-8, 0), "not one to what was sent"},
		"a part":            {right[:20], "the server ended"},
		"nothing":           {nil, "the server ended"},
	} {
		out, err := fakeServer(t, x.sent).run(traffic{size: 64, kind: kindSum, count: 1, inflight: 1})
		if x.want == "" {
			if err != nil || len(out.all) != 1 || out.all[0] <= 0 {
				t.Errorf("%s: %v", what, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", what, err, x.want)
		}
	}
}

// A server does not answer a message that was damaged.
func TestSumsAreCompared(t *testing.T) {
	s := &messageServer{server: newServer()}
	m := make([]byte, 100)
	f := &flow{rawConn: new(rawConn)}
	if err := f.load(m, 7, kindSum); err != nil {
		t.Fatal(err)
	}
	a, err := s.work(nil, m)
	if err != nil || len(a) != answerLen || binary.BigEndian.Uint64(a[4:]) != 7 || whole(a) != answerLen {
		t.Errorf("%x, %v", a, err)
	}
	m[50]++
	if _, err := s.work(nil, m); err == nil {
		t.Error("a damaged message was answered")
	}
	m[kindAt] = 99
	if _, err := s.work(nil, m); err == nil {
		t.Error("nobody knows what to do, and it was done")
	}
}

// An open loop sends as many as it should, and times from when a message was due.
func TestOpenLoop(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &messageServer{server: newServer(), cfg: messageConfig{byMux, false, 1}}
	s.server.counts = func() map[string]int64 { return map[string]int64{} }
	if err := s.begin(inner); err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	conn, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := newRawConn(t.Context(), conn, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	c := &messageClient{flows: []*flow{{rawConn: raw}}}
	defer c.close()
	out, err := c.run(traffic{size: 10_000, kind: kindSum, count: 200, rate: 20_000, gap: time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.all) != 200 || len(out.fast) != 200 || s.messages.Load() != 200 || out.all[0] <= 0 {
		t.Errorf("%d answers, %d messages", len(out.all), s.messages.Load())
	}
	// 200 messages of 7 segments, 1 us for each, on one link: the last is due
	// then at the earliest.
	if least := 200 * 7 * time.Microsecond / 2; out.wall < least {
		t.Errorf("it took %v, and the link alone %v", out.wall, least)
	}
}
