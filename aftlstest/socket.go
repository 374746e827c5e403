package aftlstest

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// TestSocket tests that the provider keeps the contract of a socket: one
// subtest for each promise, under the point of the contract that it belongs to,
// for TLS 1.2 and 1.3 with each AEAD, on bare Sockets and on Conns. The
// connections are real ones over loopback TCP. Every subtest also fails when it
// leaves a goroutine or a borrowed buffer behind.
//
// A Conn of TLS 1.3 is tested with the one suite that crypto/tls chooses on
// this machine; bare Sockets are tested with all of them.
func TestSocket(t *testing.T, provider aftls.Provider) {
	ca := NewCA(t)
	base := subject{provider: provider, opt: aftls.Options{Provider: provider, RequireSocket: true}, ca: ca, leaf: ca.Leaf(t, "test.example")}
	for _, point := range contract {
		t.Run(point.name, func(t *testing.T) {
			for _, p := range point.promises {
				t.Run(p.name, func(t *testing.T) {
					for _, x := range base.subjects(p.on) {
						t.Run(x.String(), func(t *testing.T) {
							checkLeaks(t)
							x.keeps(p)(t, x)
						})
					}
				})
			}
		})
	}
}

// contract is the table of contents, in the order of the contract.
var contract = []struct {
	name     string
	promises []promise
}{
	{"KeysIn", keysIn},
	{"KeysOut", keysOut},
	{"Data", data},
	{"Control", control},
	{"Errors", honestErrors},
	{"PeerErrors", peerErrors},
	{"Deadlines", deadlines},
	{"NobodyWaits", nobodyWaits},
	{"Close", closing},
	{"Rekey", rekeying},
	{"Bounded", bounded},
	{"Info", info},
	{"Idle", idle},
}

// promise is one sentence of the contract and the test that it is kept.
type promise struct {
	name string
	on   on
	test func(t *testing.T, x subject)
}

// on says what a promise is tested on.
type on uint8

const (
	sockets on = 1 << iota // bare Sockets
	conns                  // Conns
	only13                 // TLS 1.3 only
	only12                 // TLS 1.2 only
	oneOnly                // one suite of each version: the cipher does not matter, and the test is slow
	rekeys                 // needs a second key for a direction
	both    = sockets | conns
)

// subject is what one run of a test is about.
type subject struct {
	provider aftls.Provider
	opt      aftls.Options // a test may change its copy
	ca       *CA
	leaf     tls.Certificate
	cache    tls.ClientSessionCache // of clients

	conn    bool // a Conn, not a bare Socket
	version uint16
	suite   uint16
}

func (x subject) String() string {
	kind, cipher := "Socket", ""
	if x.conn {
		kind = "Conn"
	}
	switch x.suite {
	case tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:
		cipher = "AES-128-GCM"
	case tls.TLS_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:
		cipher = "AES-256-GCM"
	case tls.TLS_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		cipher = "ChaCha20"
	default: // the suite of a Conn of TLS 1.3 is the choice of crypto/tls
		cipher = "default"
	}
	return fmt.Sprintf("%s-%s-%s", kind, tls.VersionName(x.version), cipher)
}

func (x subject) is13() bool { return x.version == record.TLS13 }

// subjects lists what a promise is to be tested on.
func (x subject) subjects(on on) (out []subject) {
	suites := map[uint16][]uint16{
		record.TLS12: {tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
		record.TLS13: {tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256},
	}
	for _, x.conn = range []bool{false, true} {
		if x.conn && on&conns == 0 || !x.conn && on&sockets == 0 {
			continue
		}
		for _, x.version = range []uint16{record.TLS12, record.TLS13} {
			if on&only13 != 0 && !x.is13() || on&only12 != 0 && x.is13() {
				continue
			}
			list := suites[x.version]
			if x.conn && x.is13() {
				list = []uint16{0}
			} else if on&oneOnly != 0 {
				list = list[:1]
			}
			for _, x.suite = range list {
				out = append(out, x)
			}
		}
	}
	return out
}

// end is what a Socket and a Conn have in common.
type end interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
	WriteBuffers(*net.Buffers) (int64, error)
	ReadRecord([]byte) (record.ContentType, int, error)
	WriteRecord(record.ContentType, []byte) error
	WaitRead() error
	Detach() (*aftls.State, error)
	Info() aftls.Info
	NetConn() net.Conn
}

var (
	_ end = (*aftls.Socket)(nil)
	_ end = (*aftls.Conn)(nil)
)

// resume is the other half of end.Detach.
func (x subject) resume(carrier net.Conn, st *aftls.State) (end, error) {
	// A nil *Conn in an interface would not be nil.
	if x.conn {
		c, err := aftls.Resume(carrier, st, x.opt)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	s, err := aftls.ResumeSocket(carrier, st, x.opt)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// patience is how long a test may hang before its carriers are closed. Nothing
// is asserted about it: it turns a hang into a failure.
const patience = 30 * time.Second
