// Package filter decides about plaintext with programs of classic BPF, message
// by message, and writes what passes to pcapng files. A message is what the
// caller says it is: a record of a connection, a whole message of a protocol.
// The package knows nothing of TLS.
//
// A [Program] comes from an expression in the language of tcpdump ([Compile]),
// from tcpdump itself ([Parse]), from a list of [Rule]s, or from package bpf
// ([New]). A [Filter] is the place where a Program runs: it counts, and its
// Program can be changed while connections use it. A [Tap] is a capture file.
//
// # What a program sees
//
// A message has no address, so a program that asks for hosts and ports is run on
// a packet made for it: an IP header, a TCP header, and the message as payload
// (link type RAW of pcap: tcpdump -y RAW). Source is who sent the message,
// destination who gets it. IPv4 headers have 20 bytes, IPv6 headers 40 without
// extensions, TCP headers 20; a connection without IP addresses has 0.0.0.0 and
// port 0. In what a filter sees the fields that say nothing about a message are
// constant: identification, sequence numbers and checksums 0, TTL 64, flags PSH
// and ACK, window 65535. Nothing is copied for it.
package filter

import (
	"sync/atomic"

	"github.com/aftls/aftls/bpf"
)

// View is what a program is run on.
type View uint8

// The views.
const (
	// Packet has an IP and a TCP header in front of the message. It is the
	// view of expressions and of tcpdump -y RAW.
	Packet View = iota

	// Payload is the message alone, as a program sees it that is attached to a
	// Unix socket with SO_ATTACH_FILTER.
	Payload
)

// Program decides about messages. It never changes, and any number of
// goroutines may use it at once.
type Program struct {
	code *bpf.Program
	view View
	v4   *bpf.Behind
	v6   *bpf.Behind
}

// New returns a program for package filter of one for package bpf. What its
// result means is said at [Verdict].
func New(code *bpf.Program, view View) *Program {
	return &Program{code: code, view: view, v4: code.Behind(headerLen4), v6: code.Behind(headerLen6)}
}

// View returns what the program is run on.
func (p *Program) View() View { return p.view }

// Code returns the program as package bpf has it.
func (p *Program) Code() *bpf.Program { return p.code }

// String is the program to read, in the manner of tcpdump -d.
func (p *Program) String() string { return p.code.String() }

// run returns what the program returns for a packet, and how many bytes of it are
// for what lies in front of the payload. Of the header everything may be new.
func (p *Program) run(h *Header, payload []byte) (result, head uint32) {
	switch {
	case p.view == Payload:
		return p.code.Run(payload), 0
	case h.ip == ipv4Len:
		return p.v4.Run(h.b[:h.n], payload), headerLen4
	}
	return p.v6.Run(h.b[:h.n], payload), headerLen6
}

// Filter is a program in use, by any number of connections at once. The zero
// value is ready: without a program everything passes. All methods may be called
// by any number of goroutines at once.
type Filter struct {
	program atomic.Pointer[Program]
	counts  [shards]struct {
		of [Kill + 1]atomic.Uint64
		_  [64 - 8*(Kill+1)]byte // a cache line each
	}
}

// shards is how many connections may count at once without waiting for each
// other's cache line.
const shards = 8

// Swap makes p the program, and returns the one before. nil is no program. Every
// message is decided by one of both, and by one only; when Swap returns the next
// message is p's.
func (f *Filter) Swap(p *Program) (old *Program) { return f.program.Swap(p) }

// Program returns the present program, or nil.
func (f *Filter) Program() *Program { return f.program.Load() }

// Decide runs the program on msg, which it does not change, and counts the
// verdict. h says from where and to where the message goes; it is for one
// goroutine at a time. With nil there are no addresses.
func (f *Filter) Decide(h *Header, msg []byte) Verdict {
	p := f.program.Load()
	if h == nil {
		h = NewHeader(nil, nil)
	}
	v := Verdict{Action: Pass}
	switch {
	case p == nil:
	case p == h.last || p.view == Packet:
		v = decode(h.run(p, msg), uint32(h.n), len(msg))
	default:
		v = decode(p.code.Run(msg), 0, len(msg))
	}
	f.counts[h.shard].of[v.Action].Add(1)
	return v
}

// Messages returns Decide in plain numbers, for a caller that knows nothing of
// this package, such as package kcm: how many bytes of the message to keep, the
// endpoint that a REDIRECT names or -1, and for KILL a [*KillError]. The function
// is for one goroutine at a time.
func (f *Filter) Messages(h *Header) func(msg []byte) (keep, endpoint int, end error) {
	if h == nil {
		h = NewHeader(nil, nil)
	}
	return func(msg []byte) (keep, endpoint int, end error) {
		v := f.Decide(h, msg)
		switch v.Action {
		case Kill:
			return 0, -1, &KillError{v}
		case Redirect:
			return len(msg), int(v.N), nil
		}
		return v.Keep(len(msg)), -1, nil
	}
}

// Stats counts verdicts since the Filter was made, whatever the program was.
type Stats struct {
	Pass, Drop, Truncate, Redirect, Select, Kill uint64
}

// Stats returns the counters.
func (f *Filter) Stats() Stats {
	n := func(a Action) (sum uint64) {
		for i := range f.counts {
			sum += f.counts[i].of[a].Load()
		}
		return sum
	}
	return Stats{n(Pass), n(Drop), n(Truncate), n(Redirect), n(Select), n(Kill)}
}
