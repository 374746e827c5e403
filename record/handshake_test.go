package record_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/aftls/aftls/record"
)

// line is a connection with crypto/tls on one end and, once the handshake is
// over, this package on the other.
type line struct {
	p    profile
	conn *tls.Conn
	raw  net.Conn       // the other end, without its crypto/tls
	seal *record.Sealer // what conn reads
	open *record.Opener // what conn writes
}

func (l *line) close() {
	l.raw.Close()
	l.conn.NetConn().Close()
}

// role is which end of a connection this package takes over.
type role string

const (
	asClient role = "as client"
	asServer role = "as server"
)

// keyLog collects what Config.KeyLogWriter is told. Both ends of a handshake
// may write and read it at the same time.
type keyLog struct {
	mu    sync.Mutex
	lines []string
}

func (k *keyLog) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lines = append(k.lines, string(b))
	return len(b), nil
}

// find returns the client random and the secret of the label's line.
func (k *keyLog) find(label string) (random, secret []byte, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.lines {
		if f := strings.Fields(l); len(f) == 3 && f[0] == label {
			random, err = hex.DecodeString(f[1])
			secret, err2 := hex.DecodeString(f[2])
			return random, secret, errors.Join(err, err2)
		}
	}
	return nil, nil, fmt.Errorf("key log has no %s", label)
}

// tap keeps what was read from a connection.
type tap struct {
	net.Conn
	seen bytes.Buffer
}

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.seen.Write(b[:n])
	return n, err
}

// certificates are self-signed: one for suites with ECDSA, one with RSA.
var certificates = sync.OnceValues(func() (out [2]tls.Certificate, err error) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return out, err
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return out, err
	}
	for i, key := range []crypto.Signer{ec, rs} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return out, err
		}
		out[i] = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	return out, nil
})

// configs has no session tickets, as they would spend sequence numbers of the
// application key, and one record for each Write of 16384 bytes or less.
func configs(p profile, log *keyLog) (client, server *tls.Config, err error) {
	certs, err := certificates()
	if err != nil {
		return nil, nil, err
	}
	cfg := &tls.Config{
		MinVersion: p.version, MaxVersion: p.version,
		CipherSuites:                []uint16{p.id},
		Certificates:                certs[:],
		InsecureSkipVerify:          true,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
	client, server = cfg.Clone(), cfg.Clone()
	client.KeyLogWriter = log
	return client, server, nil
}

// deadline makes a hanging test a failing one.
func deadline(conns ...net.Conn) {
	for _, c := range conns {
		c.SetDeadline(time.Now().Add(20 * time.Second))
	}
}

// takeOver shakes hands with crypto/tls on both ends, then takes one of them
// over. In TLS 1.3 crypto/tls chooses the suite, so the line may be of another
// profile than p.
func takeOver(p profile, as role) (*line, error) {
	log := new(keyLog)
	clientConfig, serverConfig, err := configs(p, log)
	if err != nil {
		return nil, err
	}
	clientRaw, serverRaw := net.Pipe()
	deadline(clientRaw, serverRaw)
	wire := &tap{Conn: clientRaw}
	client, server := tls.Client(wire, clientConfig), tls.Server(serverRaw, serverConfig)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		return nil, err
	}
	state := client.ConnectionState()
	if state.Version != p.version || !p.is13() && state.CipherSuite != p.id {
		return nil, fmt.Errorf("negotiated %#04x, want %v", state.CipherSuite, p)
	}
	for _, q := range profilesOf(p.version) {
		if q.id == state.CipherSuite {
			p = q
		}
	}
	var fromClient, fromServer record.Keys
	if p.is13() {
		fromClient, fromServer, err = trafficKeys(p, log)
	} else {
		// ServerHello comes first: record header, handshake header, version.
		serverRandom := wire.seen.Bytes()[5+4+2:][:32]
		var clientRandom, master []byte
		if clientRandom, master, err = log.find("CLIENT_RANDOM"); err == nil {
			fromClient, fromServer, err = record.KeyBlock(p.id, master, clientRandom, serverRandom)
		}
	}
	if err != nil {
		return nil, err
	}
	if as == asClient {
		return newLine(p, server, clientRaw, fromClient, fromServer)
	}
	return newLine(p, client, serverRaw, fromServer, fromClient)
}

func trafficKeys(p profile, log *keyLog) (client, server record.Keys, err error) {
	_, c, err1 := log.find("CLIENT_TRAFFIC_SECRET_0")
	_, s, err2 := log.find("SERVER_TRAFFIC_SECRET_0")
	if err := errors.Join(err1, err2); err != nil {
		return client, server, err
	}
	client, err1 = record.TrafficKeys(p.id, c)
	server, err2 = record.TrafficKeys(p.id, s)
	return client, server, errors.Join(err1, err2)
}

func newLine(p profile, conn *tls.Conn, raw net.Conn, sealKeys, openKeys record.Keys) (*line, error) {
	s, err := record.NewSealer(sealKeys)
	if err != nil {
		return nil, err
	}
	o, err := record.NewOpener(openKeys)
	if err != nil {
		return nil, err
	}
	deadline(raw, conn)
	return &line{p, conn, raw, s, o}, nil
}

// listen hears one record while crypto/tls reads: a pipe has no buffer, so an
// alert that nobody hears would hang it. stop returns what was heard, if
// anything.
func listen(raw net.Conn) (stop func() []byte) {
	heard := make(chan []byte, 1)
	go func() {
		rec, err := readRecord(raw)
		if err != nil {
			rec = nil
		}
		heard <- rec
	}()
	return func() []byte {
		raw.SetReadDeadline(time.Now())
		defer deadline(raw)
		return <-heard
	}
}

// shakeHands13 is a TLS 1.3 client that offers a single suite, which
// crypto/tls does not let its own clients do, and has this package protect the
// handshake too. The server's key log spares it the key exchange.
func shakeHands13(p profile) (*line, error) {
	log := new(keyLog)
	_, config, err := configs(p, log)
	if err != nil {
		return nil, err
	}
	config.KeyLogWriter = log
	raw, serverRaw := net.Pipe()
	deadline(raw, serverRaw)
	server := tls.Server(serverRaw, config)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	failed := func(err error) (*line, error) {
		raw.Close()
		return nil, errors.Join(err, <-done)
	}

	hello, err := clientHello(p)
	if err != nil {
		return failed(err)
	}
	head := []byte{22, 3, 1, byte(len(hello) >> 8), byte(len(hello))}
	if _, err := raw.Write(append(head, hello...)); err != nil {
		return failed(err)
	}
	transcript := bytes.Clone(hello)
	rec, err := readRecord(raw)
	if err != nil {
		return failed(err)
	}
	transcript = append(transcript, rec[5:]...) // ServerHello
	flight := len(transcript)

	var o *record.Opener
	for !flightEnds(transcript[flight:]) {
		if rec, err = readRecord(raw); err != nil {
			return failed(err)
		}
		if record.ContentType(rec[0]) == record.ChangeCipherSpec {
			continue
		}
		if o == nil { // the secret is in the log before a record is under it
			_, secret, err := log.find("SERVER_HANDSHAKE_TRAFFIC_SECRET")
			if err != nil {
				return failed(err)
			}
			if o, err = record.NewOpener(record.Keys{Version: p.version, Suite: p.id, Secret: secret}); err != nil {
				return failed(err)
			}
		}
		typ, payload, err := o.Open(nil, rec)
		if err != nil || typ != record.Handshake {
			return failed(fmt.Errorf("server's flight: %v, %w", typ, err))
		}
		transcript = append(transcript, payload...)
	}

	_, secret, err := log.find("CLIENT_HANDSHAKE_TRAFFIC_SECRET")
	if err != nil {
		return failed(err)
	}
	s, err := record.NewSealer(record.Keys{Version: p.version, Suite: p.id, Secret: secret})
	if err != nil {
		return failed(err)
	}
	sum := p.hash()
	sum.Write(transcript)
	mac := hmac.New(p.hash, expandByHand(p.hash, secret, "finished", p.hash().Size()))
	mac.Write(sum.Sum(nil))
	finished := append([]byte{20, 0, 0, byte(mac.Size())}, mac.Sum(nil)...)
	if rec, err = s.Seal(nil, record.Handshake, finished); err != nil {
		return failed(err)
	}
	stop := listen(raw)
	_, err = raw.Write(rec)
	err = errors.Join(err, <-done)
	stop()
	if err != nil {
		return nil, err
	}
	if got := server.ConnectionState().CipherSuite; got != p.id {
		return nil, fmt.Errorf("negotiated %#04x, want %v", got, p)
	}
	fromClient, fromServer, err := trafficKeys(p, log)
	if err != nil {
		return nil, err
	}
	return newLine(p, server, raw, fromClient, fromServer)
}

// clientHello is the message of RFC 8446, 4.1.2 with the least a server wants.
func clientHello(p profile) ([]byte, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	vector := func(size int, body []byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body)))[4-size:], body...)
	}
	var extensions []byte
	extend := func(id uint16, body []byte) {
		extensions = append(binary.BigEndian.AppendUint16(extensions, id), vector(2, body)...)
	}
	extend(43, vector(1, []byte{3, 4}))                                                   // supported_versions: TLS 1.3
	extend(10, vector(2, []byte{0, 0x1d}))                                                // supported_groups: X25519
	extend(13, vector(2, []byte{4, 3}))                                                   // signature_algorithms: ECDSA with P-256
	extend(51, vector(2, append([]byte{0, 0x1d}, vector(2, key.PublicKey().Bytes())...))) // key_share

	random := make([]byte, 32)
	rand.Read(random)
	hello := append([]byte{3, 3}, random...)
	hello = append(hello, 0) // no session id
	hello = append(hello, vector(2, binary.BigEndian.AppendUint16(nil, p.id))...)
	hello = append(hello, 1, 0) // no compression
	hello = append(hello, vector(2, extensions)...)
	return append([]byte{1}, vector(3, hello)...), nil
}

// flightEnds reports whether the handshake messages end in a whole Finished.
func flightEnds(b []byte) bool {
	for len(b) >= 4 {
		n := 4 + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
		if len(b) < n {
			return false
		}
		if b[0] == 20 {
			return true
		}
		b = b[n:]
	}
	return false
}

// readRecord reads one record off the wire, whoever may open it.
func readRecord(r io.Reader) ([]byte, error) {
	rec := make([]byte, record.HeaderLen)
	if _, err := io.ReadFull(r, rec); err != nil {
		return nil, err
	}
	n, err := record.Frame(rec)
	if err != nil {
		return nil, err
	}
	rec = append(rec, make([]byte, n-len(rec))...)
	_, err = io.ReadFull(r, rec[record.HeaderLen:])
	return rec, err
}
