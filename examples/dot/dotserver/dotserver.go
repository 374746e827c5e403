// Package dotserver serves DNS messages on streams (RFC 7766; over TLS RFC 7858)
// with the handlers of github.com/miekg/dns: a handler that answers slowly
// holds up no other query of the same connection.
package dotserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/aftls/aftls/kcm"
	"github.com/miekg/dns"
)

// The path of a query: kcm finds the message and wakes a worker, the worker
// calls answer, which unpacks the query, calls the handler, and packs what the
// handler writes straight into the memory that kcm sends from.

const (
	prefix = 2  // bytes of length in front of a message (RFC 1035, 4.2.2)
	header = 12 // bytes (RFC 1035, 4.1.1)
)

// block is what answers to padded queries are padded to, in bytes (RFC 8467, 4.1).
const block = 468

// New returns a server whose workers call h, so many of them at once; 0 is
// kcm's own number. Answers go out as they are written. A message that is no
// query is answered as miekg's own server does, or ends the connection. h has
// written its answer when it returns. Config may be changed before Serve is
// called.
func New(h dns.Handler, workers int) *kcm.Server {
	return &kcm.Server{
		Framer:  kcm.DNS,
		Workers: workers,
		Handler: func(answer []byte, m kcm.Message) ([]byte, error) { return serve(h, answer, m) },
	}
}

func serve(h dns.Handler, answer []byte, m kcm.Message) ([]byte, error) {
	raw := m.Data[prefix:]
	if len(raw) < header {
		return nil, fmt.Errorf("a DNS message of %d bytes has no header", len(raw))
	}
	w := &writer{conn: m.Conn.NetConn(), answer: answer}
	query := new(dns.Msg)
	switch accept(raw) {
	case dns.MsgAccept:
		if query.Unpack(raw) == nil {
			w.query = query
			h.ServeDNS(w, query)
			break
		}
		fallthrough
	case dns.MsgReject:
		w.refuse(raw, dns.RcodeFormatError)
	case dns.MsgRejectNotImplemented:
		w.refuse(raw, dns.RcodeNotImplemented)
	case dns.MsgIgnore:
	}
	if w.closed {
		return nil, net.ErrClosed
	}
	return w.answer, w.err
}

// accept looks at the header only: a message that claims to hold much is not
// unpacked.
func accept(raw []byte) dns.MsgAcceptAction {
	field := func(i int) uint16 { return binary.BigEndian.Uint16(raw[2*i:]) }
	return dns.DefaultMsgAcceptFunc(dns.Header{
		Id: field(0), Bits: field(1), Qdcount: field(2), Ancount: field(3), Nscount: field(4), Arcount: field(5),
	})
}

// writer collects what a handler answers. It is a dns.ResponseWriter.
type writer struct {
	conn   net.Conn
	query  *dns.Msg
	answer []byte
	err    error
	closed bool
}

var errTSIG = errors.New("dotserver: there are no TSIG keys")

// refuse answers a message of which only the header is known.
func (w *writer) refuse(raw []byte, rcode int) {
	m := new(dns.Msg)
	m.Id = binary.BigEndian.Uint16(raw)
	m.Response = true
	m.Opcode = int(raw[2]>>3) & 0xf
	m.Rcode = rcode
	w.err = w.WriteMsg(m)
}

// WriteMsg packs m behind what was written before.
func (w *writer) WriteMsg(m *dns.Msg) error {
	w.pad(m)
	at := len(w.answer)
	w.answer = append(w.answer, 0, 0)
	free := w.answer[at+prefix : cap(w.answer)]
	packed, err := m.PackBuffer(free)
	if err != nil || len(packed) > dns.MaxMsgSize {
		w.answer = w.answer[:at]
		return errors.Join(err, fmt.Errorf("dotserver: an answer of %d bytes", len(packed)))
	}
	binary.BigEndian.PutUint16(w.answer[at:], uint16(len(packed)))
	if len(packed) > 0 && len(free) > 0 && &packed[0] == &free[0] {
		w.answer = w.answer[:at+prefix+len(packed)]
	} else {
		w.answer = append(w.answer, packed...)
	}
	return nil
}

// pad pads the answer to a padded query, which hides its length.
func (w *writer) pad(m *dns.Msg) {
	if w.query == nil || padding(w.query) == nil {
		return
	}
	opt := m.IsEdns0()
	if opt == nil || padding(m) != nil {
		return
	}
	p := new(dns.EDNS0_PADDING)
	opt.Option = append(opt.Option, p)
	p.Padding = make([]byte, (block-m.Len()%block)%block)
}

func padding(m *dns.Msg) *dns.EDNS0_PADDING {
	opt := m.IsEdns0()
	if opt == nil {
		return nil
	}
	for _, o := range opt.Option {
		if p, ok := o.(*dns.EDNS0_PADDING); ok {
			return p
		}
	}
	return nil
}

// Write writes a packed message.
func (w *writer) Write(b []byte) (int, error) {
	if len(b) > dns.MaxMsgSize {
		return 0, fmt.Errorf("dotserver: an answer of %d bytes", len(b))
	}
	w.answer = append(binary.BigEndian.AppendUint16(w.answer, uint16(len(b))), b...)
	return len(b), nil
}

func (w *writer) LocalAddr() net.Addr  { return w.conn.LocalAddr() }
func (w *writer) RemoteAddr() net.Addr { return w.conn.RemoteAddr() }

// Close ends the connection; nothing more is answered on it.
func (w *writer) Close() error {
	w.closed = true
	return nil
}

// TsigStatus says that no signature was checked: there are no keys.
func (w *writer) TsigStatus() error { return errTSIG }

func (w *writer) TsigTimersOnly(bool) {}

// Hijack is not for a connection that is shared: it does nothing.
func (w *writer) Hijack() {}
