package main

import (
	"strings"
	"time"

	"github.com/miekg/dns"
)

// upstream asks another server, over UDP, and over TCP what does not fit.
type upstream struct {
	addr     string
	udp, tcp dns.Client
}

// upstreamTimeout is for one try; there are two.
const upstreamTimeout = 2 * time.Second

func newUpstream(addr string) *upstream {
	return &upstream{addr: addr, udp: dns.Client{Net: "udp", Timeout: upstreamTimeout}, tcp: dns.Client{Net: "tcp", Timeout: upstreamTimeout}}
}

// ServeDNS asks with an id of its own, so that clients know nothing of what
// goes on over UDP.
func (u *upstream) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	ask := q.Copy()
	ask.Id = dns.Id()
	if opt := ask.IsEdns0(); opt != nil {
		opt.Option = nil // they are for the next hop only (RFC 6891, 6.2.6)
	}
	a := u.ask(ask)
	if a == nil {
		a = new(dns.Msg)
		a.SetRcode(q, dns.RcodeServerFailure)
	}
	a.Id = q.Id
	w.WriteMsg(a) // what cannot be packed is not answered
}

// ask returns nil when there was no answer.
func (u *upstream) ask(q *dns.Msg) *dns.Msg {
	for range 2 {
		a, _, err := u.udp.Exchange(q, u.addr)
		if err == nil && a.Truncated {
			a, _, err = u.tcp.Exchange(q, u.addr)
		}
		if err == nil && answers(a, q) {
			return a
		}
	}
	return nil
}

// answers compares the question: over UDP anybody can send an answer.
func answers(a, q *dns.Msg) bool {
	if len(a.Question) != 1 || len(q.Question) != 1 {
		return false
	}
	x, y := a.Question[0], q.Question[0]
	return strings.EqualFold(x.Name, y.Name) && x.Qtype == y.Qtype && x.Qclass == y.Qclass
}
