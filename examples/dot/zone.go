package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/miekg/dns"
)

// zone answers out of a zone file, with authority: RFC 1034, 4.3.2, with
// delegations, aliases and wildcards. It signs nothing.
type zone struct {
	origin string
	soa    *dns.SOA
	names  map[string][]dns.RR // by lower case; a name that only has names below it is there too
}

// aliases is how many CNAMEs one answer follows.
const aliases = 8

func loadZone(path string) (*zone, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z := &zone{names: map[string][]dns.RR{}}
	p := dns.NewZoneParser(f, "", path)
	var all []dns.RR
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		all = append(all, rr)
		if soa, ok := rr.(*dns.SOA); ok {
			if z.soa != nil {
				return nil, fmt.Errorf("%s: a second SOA, of %s: one file is one zone", path, soa.Hdr.Name)
			}
			z.soa, z.origin = soa, strings.ToLower(soa.Hdr.Name)
		}
	}
	if err := p.Err(); err != nil {
		return nil, err
	}
	if z.soa == nil {
		return nil, fmt.Errorf("%s: there is no SOA, so it is no zone", path)
	}
	for _, rr := range all {
		name := strings.ToLower(rr.Header().Name)
		if !dns.IsSubDomain(z.origin, name) {
			return nil, fmt.Errorf("%s: %s is not in the zone %s", path, name, z.origin)
		}
		z.names[name] = append(z.names[name], rr)
		for up := parent(name); up != "" && dns.IsSubDomain(z.origin, up); up = parent(up) {
			if _, ok := z.names[up]; ok {
				break
			}
			z.names[up] = nil
		}
	}
	return z, nil
}

// parent is the name without its first label; that of the root is empty.
func parent(name string) string {
	next, end := dns.NextLabel(name, 0)
	if end {
		if name == "." {
			return ""
		}
		return "."
	}
	return name[next:]
}

// ServeDNS answers a query.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	w.WriteMsg(z.answer(q)) // what cannot be packed is not answered
}

func (z *zone) answer(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(dns.DefaultMsgSize, false)
		if opt.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	if q.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeNotImplemented
		return m
	}
	ask := q.Question[0]
	name := strings.ToLower(ask.Name)
	if ask.Qclass != dns.ClassINET || !dns.IsSubDomain(z.origin, name) {
		m.Rcode = dns.RcodeRefused
		return m
	}
	m.Authoritative = true
	owner := ask.Name // as it was asked, in any case
	for range aliases {
		if cut := z.cut(name); cut != nil {
			m.Authoritative = len(m.Answer) > 0
			m.Ns = cut
			z.glue(m)
			return m
		}
		rrs, exists := z.find(name)
		found, alias := pick(rrs, ask.Qtype, owner)
		m.Answer = append(m.Answer, found...)
		if alias != nil {
			owner = alias.Target
			if name = strings.ToLower(owner); dns.IsSubDomain(z.origin, name) {
				continue
			}
			return m // elsewhere
		}
		if len(found) == 0 {
			if !exists {
				m.Rcode = dns.RcodeNameError
			}
			soa := dns.Copy(z.soa)
			soa.Header().Ttl = min(z.soa.Hdr.Ttl, z.soa.Minttl) // RFC 2308, 3
			m.Ns = []dns.RR{soa}
		}
		return m
	}
	return m
}

// cut returns the NS records of the delegation that name is below, or at.
func (z *zone) cut(name string) (cut []dns.RR) {
	for up := name; up != z.origin; up = parent(up) {
		var ns []dns.RR
		for _, rr := range z.names[up] {
			if rr.Header().Rrtype == dns.TypeNS {
				ns = append(ns, rr)
			}
		}
		if ns != nil {
			cut = ns // the one nearest to the origin counts
		}
	}
	return cut
}

// glue adds the addresses of delegated servers that are in this file.
func (z *zone) glue(m *dns.Msg) {
	for _, rr := range m.Ns {
		for _, a := range z.names[strings.ToLower(rr.(*dns.NS).Ns)] {
			if t := a.Header().Rrtype; t == dns.TypeA || t == dns.TypeAAAA {
				m.Extra = append(m.Extra, a)
			}
		}
	}
}

// find returns the records of a name, or those of the wildcard that stands for
// it (RFC 4592).
func (z *zone) find(name string) (rrs []dns.RR, exists bool) {
	if rrs, exists = z.names[name]; exists {
		return rrs, true
	}
	up := parent(name)
	for {
		if _, ok := z.names[up]; ok { // the closest encloser
			rrs, exists = z.names["*."+strings.TrimPrefix(up, ".")]
			return rrs, exists
		}
		up = parent(up)
	}
}

// pick returns the records of a type, with owner for their name, or the CNAME
// that stands in their place.
func pick(rrs []dns.RR, qtype uint16, owner string) (found []dns.RR, alias *dns.CNAME) {
	for _, rr := range rrs {
		c, isAlias := rr.(*dns.CNAME)
		switch {
		case rr.Header().Rrtype == qtype || qtype == dns.TypeANY:
		case isAlias:
			alias = c
		default:
			continue
		}
		rr = dns.Copy(rr)
		rr.Header().Name = owner
		found = append(found, rr)
	}
	return found, alias
}
