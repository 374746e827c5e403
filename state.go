package aftls

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math"
	"net"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/handover"
	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/record"
	"golang.org/x/crypto/cryptobyte"
)

// State is an association between Detach and Resume: keys, numbers, and every
// byte that was neither delivered nor sent. It is good for one [Resume] or
// [ResumeSocket], or for one MarshalBinary, whose bytes are good for the same
// in another process.
//
// Whoever has it has the connection. It must not be written to a file, and one
// set of bytes must not be resumed twice: two processes that send under one key
// break the encryption of both.
type State struct {
	spent atomic.Bool

	send, recv record.Keys

	maxPayload int // of a record that is sent; 0 is record.MaxPlaintext

	unsent     []byte // sealed, to go out first
	ciphertext []byte // read from the carrier, not opened
	plaintext  []byte // opened, not delivered

	hasControl  bool // a control record was waiting in front of ciphertext
	controlType record.ContentType
	control     []byte

	ended bool // the peer's close_notify was read
	shut  bool // ours was sealed

	// The kernel has the direction: it is in the carrier, keys and all. Then
	// unsent is plaintext that the kernel has not taken yet.
	sendKernel, recvKernel bool

	conn *connState // nil for a bare Socket
}

// connState is what a Conn adds.
type connState struct {
	client    bool
	answer    bool   // the peer's request for a KeyUpdate is unanswered
	asked     bool   // our request is
	handshake []byte // start of a handshake message
	useless   uint8

	tls     tls.ConnectionState
	foreign bool // tls came by MarshalBinary: it cannot export
	tickets *handover.Tickets
}

// String shows nothing of what is in the state: printing it must not give the
// connection away.
func (st *State) String() string { return "aftls.State" }

// GoString is String.
func (st *State) GoString() string { return st.String() }

// take makes the state the caller's, once.
func (st *State) take() error {
	if st == nil || st.spent.Swap(true) {
		return ErrSpent
	}
	return nil
}

// wipe overwrites keys and data.
func (st *State) wipe() {
	st.send.Wipe()
	st.recv.Wipe()
	clear(st.plaintext)
	clear(st.unsent)
	st.unsent, st.ciphertext, st.plaintext, st.control, st.conn = nil, nil, nil, nil, nil
}

// Detach takes the association out of the socket. It interrupts a Read and a
// Write that are under way, which return [ErrDetached] with what they did by
// then. Afterwards the socket is dead, Close does nothing, and the carrier is
// the caller's again, without deadlines. What was sealed and not sent is in the
// State. A socket that already failed cannot be detached: the error is what it
// failed of. One without keys in both directions cannot either: [ErrNoKeys].
func (s *Socket) Detach() (*State, error) {
	st, err := s.detach(nil)
	return st, opError("detach", s.carrier, err)
}

// detach is Detach; more adds what a Conn knows, under both locks.
func (s *Socket) detach(more func(*State)) (*State, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if s.shared.Load() {
		return nil, ErrShared
	}
	if send, recv := s.halves(); send.Stats().Version.Load() == 0 || recv.Stats().Version.Load() == 0 {
		return nil, ErrNoKeys // and nothing has happened to the socket
	}
	if !s.life.CompareAndSwap(alive, detached) {
		return nil, s.check()
	}
	s.dmu.Lock()
	s.carrier.SetDeadline(time.Unix(1, 0))
	s.dmu.Unlock()
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.rmu.Lock()
	defer s.rmu.Unlock()
	st := new(State)
	err := s.fill(st)
	if err == nil {
		if more != nil {
			more(st)
		}
		err = s.carrier.SetDeadline(time.Time{})
	}
	s.send.Close()
	s.recv.Close(ErrDetached)
	s.endTap()
	if err != nil {
		// The keys are out of the socket: it must not go on without them.
		st.wipe()
		s.carrier.Close()
		return nil, err
	}
	return st, nil
}

func (s *Socket) fill(st *State) (err error) {
	if dead := s.dead.Load(); dead != nil {
		return *dead
	}
	if s.werr != nil {
		return s.werr
	}
	if s.rerr != nil && s.rerr != io.EOF {
		return s.rerr
	}
	if st.send, err = s.send.Keys(); err != nil {
		return ErrNoKeys
	}
	if st.recv, err = s.recv.Keys(); err != nil {
		return ErrNoKeys
	}
	st.maxPayload = s.send.MaxPayload()
	st.unsent = s.send.Unsent()
	st.ciphertext, st.plaintext = s.recv.Unread()
	if typ, b, ok := s.recv.Control(); ok {
		st.hasControl, st.controlType, st.control = true, typ, append([]byte(nil), b...)
	}
	st.ended, st.shut = s.ended.Load(), s.shut
	st.sendKernel, st.recvKernel = isKernel(s.send), isKernel(s.recv)
	return nil
}

// ResumeSocket makes a socket of a state on the carrier that the state was
// detached from, or on a duplicate of its descriptor. It takes both: on an
// error the carrier is closed. A state that a Conn made needs [Resume].
func ResumeSocket(carrier net.Conn, st *State, opt Options) (*Socket, error) {
	s, err := resumeSocket(carrier, st, opt, false)
	if err != nil {
		carrier.Close()
		return nil, opError("resume", carrier, err)
	}
	st.wipe()
	return s, nil
}

// resumeSocket leaves neither keys nor buffers behind when it fails. conn asks
// for the state of a Conn.
func resumeSocket(carrier net.Conn, st *State, opt Options, conn bool) (*Socket, error) {
	if err := st.take(); err != nil {
		return nil, err
	}
	s, err := resumed(carrier, st, opt)
	if st.hasControl {
		s.recv.PutBack(st.controlType, st.control)
	}
	if err == nil && !st.sendKernel {
		if err = s.send.SetMaxPayload(cmp.Or(st.maxPayload, record.MaxPlaintext)); err == nil {
			err = s.send.SetKeys(st.send)
		}
	}
	if err == nil && !st.recvKernel {
		err = s.recv.SetKeys(st.recv)
	}
	if err == nil && conn != (st.conn != nil) {
		err = ErrState
	}
	if err != nil {
		s.send.Close()
		s.recv.Close(err)
		st.wipe()
		return nil, err
	}
	s.ended.Store(st.ended)
	if st.ended {
		s.rerr = io.EOF
	}
	s.shut = st.shut
	return s, nil
}

// resumed makes the socket of a state, with keys where the kernel has them.
func resumed(carrier net.Conn, st *State, opt Options) (*Socket, error) {
	unsent, plaintext := st.unsent, st.plaintext
	if st.sendKernel {
		unsent = nil
	}
	if st.recvKernel {
		plaintext = nil
	}
	s := newSocket(carrier, opt, unsent, st.ciphertext, plaintext)
	if s.why = [2]error{errResumed, errResumed}; opt.Provider == Soft {
		s.why = [2]error{errSoft, errSoft}
	}
	if !st.sendKernel && !st.recvKernel {
		return s, nil
	}
	var err error
	if s.ulp, err = kernel.Attach(carrier, true); err == nil {
		err = s.resumeInKernel(st, opt)
	}
	if err != nil {
		return s, noKernel(err)
	}
	return s, nil
}

// stateMagic starts every encoded State; the last byte is the version.
const stateMagic = "aftls state\x03"

// MarshalBinary encodes the state for another process, and spends it. Exporters
// and session tickets stay behind: they need the tls.Conn of this process.
func (st *State) MarshalBinary() ([]byte, error) {
	if err := st.take(); err != nil {
		return nil, err
	}
	defer st.wipe()
	b := cryptobyte.NewBuilder(append(make([]byte, 0, st.size()), stateMagic...))
	addKeys(b, st.send)
	addKeys(b, st.recv)
	b.AddUint16(uint16(st.maxPayload))
	addBytes(b, st.unsent)
	addBytes(b, st.ciphertext)
	addBytes(b, st.plaintext)
	addBool(b, st.hasControl)
	b.AddUint8(uint8(st.controlType))
	addBytes(b, st.control)
	addBool(b, st.ended)
	addBool(b, st.shut)
	addBool(b, st.sendKernel)
	addBool(b, st.recvKernel)
	addBool(b, st.conn != nil)
	if c := st.conn; c != nil {
		addBool(b, c.client)
		addBool(b, c.answer)
		addBool(b, c.asked)
		addBytes(b, c.handshake)
		b.AddUint8(c.useless)
		addBool(b, c.tls.DidResume)
		addBytes(b, []byte(c.tls.NegotiatedProtocol))
		addBytes(b, []byte(c.tls.ServerName))
		b.AddUint16(uint16(c.tls.CurveID))
		b.AddUint16(uint16(len(c.tls.PeerCertificates)))
		for _, cert := range c.tls.PeerCertificates {
			addBytes(b, cert.Raw)
		}
		addBool(b, len(c.tls.VerifiedChains) > 0)
	}
	return b.Bytes()
}

// size is more than the encoding needs: a builder that grew would leave copies
// of the keys behind.
func (st *State) size() int {
	n := 1024 + len(st.unsent) + len(st.ciphertext) + len(st.plaintext) + len(st.control)
	if c := st.conn; c != nil {
		n += len(c.handshake) + len(c.tls.NegotiatedProtocol) + len(c.tls.ServerName)
		for _, cert := range c.tls.PeerCertificates {
			n += 4 + len(cert.Raw)
		}
	}
	return n
}

// UnmarshalBinary decodes what MarshalBinary made. The error is [ErrState].
// Verified chains come back as one chain, of the certificates that the peer
// sent, when the handshake had verified any.
func (st *State) UnmarshalBinary(data []byte) error {
	s := cryptobyte.String(data)
	var magic []byte
	if !s.ReadBytes(&magic, len(stateMagic)) || string(magic) != stateMagic {
		return ErrState
	}
	var isConn bool
	var typ uint8
	var most uint16
	st.conn = nil
	ok := readKeys(&s, &st.send) && readKeys(&s, &st.recv) && s.ReadUint16(&most) &&
		readBytes(&s, &st.unsent) && readBytes(&s, &st.ciphertext) && readBytes(&s, &st.plaintext) &&
		readBool(&s, &st.hasControl) && s.ReadUint8(&typ) && readBytes(&s, &st.control) &&
		readBool(&s, &st.ended) && readBool(&s, &st.shut) &&
		readBool(&s, &st.sendKernel) && readBool(&s, &st.recvKernel) && readBool(&s, &isConn)
	st.controlType, st.maxPayload = record.ContentType(typ), int(most)
	if ok && isConn {
		st.conn, ok = readConnState(&s, st.send)
	}
	if !ok || !s.Empty() || len(st.control) > record.MaxPlaintext || most > record.MaxPlaintext {
		st.wipe()
		return ErrState
	}
	return nil
}

func readConnState(s *cryptobyte.String, k record.Keys) (*connState, bool) {
	c := &connState{foreign: true}
	var alpn, name []byte
	var useless uint8
	var curve, certs uint16
	var verified bool
	ok := readBool(s, &c.client) && readBool(s, &c.answer) && readBool(s, &c.asked) &&
		readBytes(s, &c.handshake) && s.ReadUint8(&useless) &&
		readBool(s, &c.tls.DidResume) && readBytes(s, &alpn) && readBytes(s, &name) &&
		s.ReadUint16(&curve) && s.ReadUint16(&certs)
	for ; ok && certs > 0; certs-- {
		var raw []byte
		if ok = readBytes(s, &raw); ok {
			cert, err := x509.ParseCertificate(raw)
			c.tls.PeerCertificates = append(c.tls.PeerCertificates, cert)
			ok = err == nil
		}
	}
	if !ok || !readBool(s, &verified) || len(c.handshake) > maxHandshake {
		return nil, false
	}
	if verified && len(c.tls.PeerCertificates) > 0 {
		c.tls.VerifiedChains = [][]*x509.Certificate{c.tls.PeerCertificates}
	}
	c.useless = useless
	c.tls.HandshakeComplete = true
	c.tls.Version, c.tls.CipherSuite = k.Version, k.Suite
	c.tls.NegotiatedProtocol, c.tls.ServerName, c.tls.CurveID = string(alpn), string(name), tls.CurveID(curve)
	return c, true
}

func addKeys(b *cryptobyte.Builder, k record.Keys) {
	b.AddUint16(k.Version)
	b.AddUint16(k.Suite)
	addBytes(b, k.Secret)
	addBytes(b, k.Key)
	addBytes(b, k.IV)
	b.AddUint64(k.Epoch)
	b.AddUint64(k.Seq)
}

func readKeys(s *cryptobyte.String, k *record.Keys) bool {
	return s.ReadUint16(&k.Version) && s.ReadUint16(&k.Suite) &&
		readBytes(s, &k.Secret) && readBytes(s, &k.Key) && readBytes(s, &k.IV) &&
		s.ReadUint64(&k.Epoch) && s.ReadUint64(&k.Seq) && k.Derive() == nil
}

func addBytes(b *cryptobyte.Builder, p []byte) {
	if uint64(len(p)) > math.MaxUint32 {
		b.SetError(ErrState)
		return
	}
	b.AddUint32(uint32(len(p)))
	b.AddBytes(p)
}

func readBytes(s *cryptobyte.String, p *[]byte) bool {
	var n uint32
	var raw []byte
	if !s.ReadUint32(&n) || uint64(n) > uint64(len(*s)) || !s.ReadBytes(&raw, int(n)) {
		return false
	}
	*p = append([]byte(nil), raw...)
	return true
}

func addBool(b *cryptobyte.Builder, v bool) {
	if v {
		b.AddUint8(1)
	} else {
		b.AddUint8(0)
	}
}

func readBool(s *cryptobyte.String, v *bool) bool {
	var x uint8
	if !s.ReadUint8(&x) || x > 1 {
		return false
	}
	*v = x == 1
	return true
}
