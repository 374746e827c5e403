package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
	"github.com/miekg/dns"
)

// limit bounds a hang. Nothing is measured with it.
const limit = 30 * time.Second

const testZone = `
$ORIGIN example.org.
$TTL 3600
@        SOA   ns hostmaster 1 7200 3600 86400 60
@        NS    ns
@        A     192.0.2.1
ns       A     192.0.2.53
www      CNAME web
web      A     192.0.2.80
web      AAAA  2001:db8::80
out      CNAME elsewhere.example.net.
loop     CNAME loop
a.deep   TXT   "below a name without records"
*.wild   A     192.0.2.99
sub      NS    ns.sub
ns.sub   A     192.0.2.54
`

// running is a server of this process.
type running struct {
	addr string
	ca   string // file
	pool *x509.CertPool
	stop func() error // ends it in good order
}

// start runs the program with a certificate for localhost.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	ca := aftlstest.NewCA(t)
	cert, key, authority := ca.WriteFiles(t, ca.Leaf(t, "localhost"))
	r := &running{ca: authority, pool: ca.Pool}
	ctx, cancel := context.WithCancel(t.Context())
	out, says := io.Pipe()
	over := make(chan error, 1)
	go func() {
		err := run(ctx, append([]string{"-listen", "127.0.0.1:0", "-cert", cert, "-key", key}, args...), says)
		says.CloseWithError(err)
		over <- err
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(line, "listening %s", &r.addr); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	stopped := false
	r.stop = func() error {
		stopped = true
		cancel()
		return <-over
	}
	t.Cleanup(func() {
		if !stopped {
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

func (r *running) dial(t *testing.T) *dns.Conn {
	t.Helper()
	c, err := (&dns.Client{Net: "tcp-tls", Timeout: limit, TLSConfig: &tls.Config{RootCAs: r.pool, ServerName: "localhost", NextProtos: []string{"dot"}}}).Dial(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	return c
}

func ask(t *testing.T, c *dns.Conn, q *dns.Msg) *dns.Msg {
	t.Helper()
	if err := c.WriteMsg(q); err != nil {
		t.Fatal(err)
	}
	a, err := c.ReadMsg()
	if err != nil {
		t.Fatal(err)
	}
	if a.Id != q.Id || !a.Response {
		t.Errorf("asked %v, got %v", q, a)
	}
	return a
}

func question(name string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(name, qtype)
}

func textFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// summary is an answer in few words.
func summary(m *dns.Msg) string {
	s := dns.RcodeToString[m.Rcode]
	if m.Authoritative {
		s += " aa"
	}
	for i, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			if rr.Header().Rrtype == dns.TypeOPT {
				continue
			}
			f := strings.Fields(rr.String())
			s += fmt.Sprintf(" %d:%s %s", i, f[0], f[3])
			if rr.Header().Rrtype != dns.TypeSOA {
				s += " " + f[4]
			}
		}
	}
	return s
}

func TestZone(t *testing.T) {
	c := start(t, "-zone", textFile(t, testZone)).dial(t)
	for _, x := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"example.org.", dns.TypeA, "NOERROR aa 0:example.org. A 192.0.2.1"},
		{"eXample.ORG.", dns.TypeA, "NOERROR aa 0:eXample.ORG. A 192.0.2.1"},
		{"www.example.org.", dns.TypeA, "NOERROR aa 0:www.example.org. CNAME web.example.org. 0:web.example.org. A 192.0.2.80"},
		{"www.example.org.", dns.TypeCNAME, "NOERROR aa 0:www.example.org. CNAME web.example.org."},
		{"out.example.org.", dns.TypeA, "NOERROR aa 0:out.example.org. CNAME elsewhere.example.net."},
		{"web.example.org.", dns.TypeTXT, "NOERROR aa 1:example.org. SOA"},
		{"web.example.org.", dns.TypeANY, "NOERROR aa 0:web.example.org. A 192.0.2.80 0:web.example.org. AAAA 2001:db8::80"},
		{"deep.example.org.", dns.TypeA, "NOERROR aa 1:example.org. SOA"},
		{"no.example.org.", dns.TypeA, "NXDOMAIN aa 1:example.org. SOA"},
		{"x.y.wild.example.org.", dns.TypeA, "NOERROR aa 0:x.y.wild.example.org. A 192.0.2.99"},
		{"host.sub.example.org.", dns.TypeA, "NOERROR 1:sub.example.org. NS ns.sub.example.org. 2:ns.sub.example.org. A 192.0.2.54"},
		{"example.net.", dns.TypeA, "REFUSED"},
		{"notexample.org.", dns.TypeA, "REFUSED"},
		{".", dns.TypeNS, "REFUSED"},
	} {
		if got := summary(ask(t, c, question(x.name, x.qtype))); got != x.want {
			t.Errorf("%s %s: %s, want %s", x.name, dns.TypeToString[x.qtype], got, x.want)
		}
	}
	if n := len(ask(t, c, question("loop.example.org.", dns.TypeA)).Answer); n != aliases {
		t.Errorf("%d aliases were followed in a circle", n)
	}
	if ttl := ask(t, c, question("no.example.org.", dns.TypeA)).Ns[0].Header().Ttl; ttl != 60 {
		t.Errorf("an answer that there is no such name lives for %d s", ttl)
	}
}

func TestZoneFilesThatAreNone(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "no SOA",
		"garbage":                       "TTL",
		testZone + testZone:             "second SOA",
		testZone + "x.net. A 1.2.3.4\n": "not in the zone",
	} {
		if _, err := loadZone(textFile(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
	if z, err := loadZone(textFile(t, ". 60 SOA a. b. 1 2 3 4 5\ncom. 60 A 192.0.2.1\n")); err != nil {
		t.Error(err)
	} else if got := summary(z.answer(question("com.", dns.TypeA))); got != "NOERROR aa 0:com. A 192.0.2.1" {
		t.Error(got)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{}, {"-zone", "a", "-upstream", "b"}, {"-zone", "a", "b"}} {
		if err := run(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), "-zone and -upstream") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// serveUDP is a server to ask, over UDP and TCP.
func serveUDP(t *testing.T, h dns.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: p, Handler: h}, {Listener: l, Handler: h}} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		over := make(chan error, 1)
		go func() { over <- s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() {
			s.Shutdown()
			if err := <-over; err != nil {
				t.Error(err)
			}
		})
	}
	return l.Addr().String()
}

// A query whose answer takes long is overtaken by those behind it.
func TestAnswersOutOfOrder(t *testing.T) {
	release := make(chan struct{})
	r := start(t, "-upstream", serveUDP(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if q.Question[0].Name == "slow." {
			<-release
		}
		a := new(dns.Msg).SetReply(q)
		a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 7)}}
		w.WriteMsg(a)
	}))
	c := r.dial(t)
	slow := question("slow.", dns.TypeA)
	if err := c.WriteMsg(slow); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		ask(t, c, question("fast.", dns.TypeA))
	}
	close(release)
	a, err := c.ReadMsg()
	if err != nil {
		t.Fatal(err)
	}
	if a.Id != slow.Id || len(a.Answer) != 1 {
		t.Errorf("%v", a)
	}
}

func TestUpstream(t *testing.T) {
	long := strings.Repeat("x", 250)
	r := start(t, "-upstream", serveUDP(t, func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		switch q.Question[0].Name {
		case "long.":
			if w.LocalAddr().Network() == "udp" {
				a.Truncated = true
				break
			}
			for range 200 {
				a.Answer = append(a.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: "long.", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{long}})
			}
		case "forged.":
			a.Question[0].Name = "other."
		}
		w.WriteMsg(a)
	}))
	c := r.dial(t)
	if a := ask(t, c, question("long.", dns.TypeTXT)); len(a.Answer) != 200 || a.Truncated {
		t.Errorf("%d records, truncated %v", len(a.Answer), a.Truncated)
	}
	if a := ask(t, c, question("forged.", dns.TypeA)); a.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", a)
	}
}

// What has come is answered when the server ends.
func TestShutdownAnswers(t *testing.T) {
	came, release := make(chan struct{}), make(chan struct{})
	r := start(t, "-upstream", serveUDP(t, func(w dns.ResponseWriter, q *dns.Msg) {
		close(came)
		<-release
		w.WriteMsg(new(dns.Msg).SetReply(q))
	}))
	c := r.dial(t)
	q := question("late.", dns.TypeA)
	if err := c.WriteMsg(q); err != nil {
		t.Fatal(err)
	}
	<-came
	over := make(chan error, 1)
	go func() { over <- r.stop() }()
	for { // until it accepts nothing more
		n, err := net.Dial("tcp", r.addr)
		if err != nil {
			break
		}
		n.Close()
	}
	close(release)
	a, err := c.ReadMsg()
	if err != nil || a.Id != q.Id {
		t.Errorf("%v, %v", a, err)
	}
	if _, err := c.ReadMsg(); err != io.EOF {
		t.Errorf("%v, want the end of the connection", err)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func TestKdig(t *testing.T) {
	kdig := aftlstest.Need(t, "kdig")
	r := start(t, "-zone", textFile(t, testZone))
	_, port, _ := net.SplitHostPort(r.addr)
	out, err := exec.CommandContext(t.Context(), kdig, "@127.0.0.1", "-p", port, "+tls-ca="+r.ca, "+tls-hostname=localhost", "+keepopen",
		"www.example.org", "AAAA", "no.example.org", "TXT").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"2001:db8::80", "NXDOMAIN", "PADDING"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	out, err = exec.CommandContext(t.Context(), kdig, "@127.0.0.1", "-p", port, "+tls-ca="+r.ca, "+tls-hostname=example.org", "example.org").CombinedOutput()
	if err == nil {
		t.Errorf("kdig did not look at the certificate: %s", out)
	}
}

// Debian's load generator gets an answer to every query.
func TestDnsperf(t *testing.T) {
	dnsperf := aftlstest.Need(t, "dnsperf")
	r := start(t, "-zone", textFile(t, testZone))
	host, port, _ := net.SplitHostPort(r.addr)
	const queries, runs = 4, 500
	cmd := exec.CommandContext(t.Context(), dnsperf, "-m", "dot", "-s", host, "-p", port, "-c", "4", "-q", "100", "-n", fmt.Sprint(runs), "-t", "20",
		"-d", textFile(t, "example.org A\nweb.example.org AAAA\nno.example.org A\nx.wild.example.org A\n"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		fmt.Sprintf("Queries completed:    %d (100.00%%)", queries*runs),
		fmt.Sprintf("NOERROR %d (75.00%%), NXDOMAIN %d (25.00%%)", 3*runs, runs),
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
}
