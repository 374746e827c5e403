package handover

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls/record"
)

// A scene is the handshake that somebody on the way changes: a byte of flags.
type scene byte

const (
	weServe scene = 1 << iota // ours is the server, and crypto/tls the client
	oldTLS                    // 1.2, else 1.3
	retried                   // HelloRetryRequest, in 1.3
	resumed                   // an earlier session
	mutual                    // client certificates
	special                   // Encrypted Client Hello in 1.3, in 1.2 a suite that stays with crypto/tls
	insider                   // has the peer's handshake keys, in 1.3: what is done is done to its messages
	scenes                    // how many there are
)

func (s scene) has(f scene) bool { return s&f != 0 }

// A script is what is done to the records on the way: four bytes an operation,
// which are what, with the direction in the highest bit; which record of that
// direction; and a number of 16 bits.
type script []byte

// The operations.
const (
	opFlip     = iota // a bit
	opCut             // the direction ends inside the record
	opShorten         // the body loses its end, and the header says so
	opSplit           // one record becomes two
	opJoin            // the next record is put into this one, if both are plain handshake records
	opDrop            //
	opTwice           // the same record again
	opSwap            // the next record comes first
	opType            // another content type
	opInsert          // a record in front, of the type and length that the number says
	opLength          // of the header only
	opLengthen        // the body gains bytes, and the header says so
	opCount
	fromServer = 0x80
)

// op makes an operation of a seed.
func op(what, index byte, n uint16) script { return script{what, index, byte(n >> 8), byte(n)} }

func scriptOf(ops ...script) script { return slices.Concat(ops...) }

// road is a connection in memory with somebody on it who follows a script. There
// is no clock: where both ends wait and nothing is on the way, what was held back
// is let go, and when nothing was, the road ends for both.
type road struct {
	mu     sync.Mutex
	cond   sync.Cond
	script script
	lanes  [2]lane // from the client, from the server
	ends   [2]roadEnd

	spoiled bool // something was done that a peer may take for an attack
	fill    byte // of bytes that are made up

	log *countingLog // of the peer, for an insider
}

// lane is one direction.
type lane struct {
	partial  []byte         // of a record that is written
	sealed   bool           // behind ChangeCipherSpec
	opener   *record.Opener // of an insider: handshake keys
	sealer   *record.Sealer
	count    int    // of records
	hello    []byte // the first record as it was sent
	held     []byte // a record that waits for the next one
	join     bool   // and is to be one with it
	heldSeal bool
	queue    []byte
	ended    bool
	swallow  bool // whatever is still sent is lost
}

// roadEnd is the net.Conn of one end.
type roadEnd struct {
	*road
	lane, other *lane
	waiting     bool
	closed      bool
	reads       int
}

// mostReads is how often an end may ask for bytes: a handshake needs a few
// hundred. More is a loop.
const mostReads = 20_000

var errLoop = errors.New("the road was asked for bytes without end")

func newRoad(s script) *road {
	r := &road{script: s}
	r.cond.L = &r.mu
	r.ends[0] = roadEnd{road: r, lane: &r.lanes[0], other: &r.lanes[1]}
	r.ends[1] = roadEnd{road: r, lane: &r.lanes[1], other: &r.lanes[0]}
	return r
}

func (e *roadEnd) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.reads++; e.reads > mostReads {
		return 0, errLoop
	}
	for !e.closed {
		if len(e.other.queue) > 0 {
			n := copy(p, e.other.queue)
			e.other.queue = e.other.queue[n:]
			return n, nil
		}
		if e.other.ended {
			return 0, io.EOF
		}
		e.waiting = true
		if !e.settle() {
			e.cond.Wait()
		}
		e.waiting = false
	}
	return 0, net.ErrClosed
}

// settle reports whether something changed because nobody can go on.
func (r *road) settle() bool {
	for i := range r.ends {
		e := &r.ends[i]
		if !e.closed && (!e.waiting || len(e.other.queue) > 0 || e.other.ended) {
			return false
		}
	}
	held := false
	for i := range r.lanes {
		held = r.lanes[i].release() || held
	}
	if !held {
		r.lanes[0].ended, r.lanes[1].ended = true, true
	}
	r.cond.Broadcast()
	return true
}

func (l *lane) release() bool {
	held := len(l.held) > 0
	l.send(l.held, l.heldSeal)
	l.held, l.join = nil, false
	return held
}

func (e *roadEnd) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return 0, net.ErrClosed
	}
	if e.lane.ended && !e.lane.swallow {
		return 0, io.ErrClosedPipe
	}
	l := e.lane
	l.partial = append(l.partial, p...)
	for len(l.partial) >= record.HeaderLen {
		n := record.HeaderLen + int(l.partial[3])<<8 + int(l.partial[4])
		if len(l.partial) < n {
			break
		}
		rec := bytes.Clone(l.partial[:n])
		l.partial = l.partial[n:]
		if l.count == 0 {
			l.hello = bytes.Clone(rec)
		}
		seals := rec[0] == byte(record.ChangeCipherSpec) // what comes behind it
		e.pass(l, rec, e.open(l, rec))
		l.sealed = l.sealed || seals
		l.count++
	}
	e.cond.Broadcast()
	return len(p), nil
}

// secrets are what a key log says, by label.
func (l *countingLog) secrets() map[string][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	logged := make(map[string][]byte)
	for line := range strings.Lines(l.buf.String()) {
		f := strings.Fields(line)
		secret, err := hex.DecodeString(f[2])
		if err != nil {
			panic(err) // of crypto/tls
		}
		logged[f[0]] = secret
	}
	return logged
}

// open makes a sealed handshake record of an insider's lane a plain one, which is
// sealed again when it is sent.
func (r *road) open(l *lane, rec []byte) (opened []byte) {
	if rec[0] != byte(record.ApplicationData) || l.opener == nil && !r.enter(l) {
		return nil
	}
	typ, b, err := l.opener.Open(nil, bytes.Clone(rec)) // it opens in place
	if err != nil {
		return nil // it has another key by now
	}
	return append([]byte{byte(typ), 3, 3, byte(len(b) >> 8), byte(len(b))}, b...)
}

// enter gives an insider the keys, when the lane is that of the peer.
func (r *road) enter(l *lane) bool {
	if r.log == nil {
		return false
	}
	label := "CLIENT_HANDSHAKE_TRAFFIC_SECRET"
	if l == &r.lanes[1] {
		label = "SERVER_HANDSHAKE_TRAFFIC_SECRET"
	}
	secret := r.log.secrets()[label]
	if secret == nil {
		return false // ours comes first
	}
	// The suite stands behind 5+4 bytes of headers, the version, the random and a
	// session id of 32 bytes.
	keys, err := record.TrafficKeys(binary.BigEndian.Uint16(r.lanes[1].hello[5+4+2+32+1+32:]), secret)
	if err == nil {
		l.opener, err = record.NewOpener(keys)
	}
	if err == nil {
		l.sealer, err = record.NewSealer(keys)
	}
	return err == nil
}

// send puts records on the way.
func (l *lane) send(recs []byte, seal bool) {
	for seal && len(recs) >= record.HeaderLen {
		n := min(record.HeaderLen+int(recs[3])<<8+int(recs[4]), len(recs), record.HeaderLen+record.MaxPlaintext)
		if queue, err := l.sealer.Seal(l.queue, record.ContentType(recs[0]), recs[record.HeaderLen:n]); err == nil {
			l.queue = queue
		}
		recs = recs[n:]
	}
	l.queue = append(l.queue, recs...)
}

// pass does to a record, or to what it was opened to, what the script says and
// sends what comes of it.
func (r *road) pass(l *lane, rec, opened []byte) {
	seal := opened != nil
	if seal {
		rec = opened
	}
	var behind []byte
	side := byte(0)
	if l == &r.lanes[1] {
		side = fromServer
	}
	plain := (seal || !l.sealed) && rec[0] == byte(record.Handshake)
	hold, join := false, false
	for s := r.script; len(s) >= 4; s = s[4:] {
		if s[0]&fromServer != side || int(s[1]) != l.count || len(rec) <= record.HeaderLen {
			continue
		}
		n := int(s[2])<<8 | int(s[3])
		body := len(rec) - record.HeaderLen
		what := s[0] &^ fromServer % opCount
		switch what {
		case opSplit, opJoin:
			if !plain {
				continue
			}
		default:
			r.spoiled = true
		}
		switch what {
		case opFlip:
			rec[n>>3%len(rec)] ^= 1 << (n & 7)
		case opCut:
			l.release()
			l.send(rec[:n%len(rec)], seal)
			l.ended, l.swallow = true, true
			return
		case opShorten:
			rec = resize(rec, body-1-n%body)
		case opSplit:
			if at := n % body; at > 0 {
				behind = append(append(bytes.Clone(rec[:3]), byte((body-at)>>8), byte(body-at)), append(rec[record.HeaderLen+at:], behind...)...)
				rec = resize(rec, at)
			}
		case opJoin:
			hold, join = true, true
		case opDrop:
			rec = nil
		case opTwice:
			behind = append(bytes.Clone(rec), behind...)
		case opSwap:
			hold = true
		case opType:
			rec[0] = byte(n)
		case opInsert:
			made := []byte{byte(n >> 8), 3, 3, 0, byte(n)}
			for range made[4] {
				r.fill++
				made = append(made, r.fill)
			}
			l.send(made, seal)
		case opLength:
			rec[3], rec[4] = byte((body+int(int8(n)))>>8), byte(body+int(int8(n)))
		case opLengthen:
			rec = resize(rec, min(body+1+n%512, 1<<16-1))
		}
	}
	rec = append(rec, behind...)
	if held := l.held; l.join && plain && seal == l.heldSeal && min(len(held), len(rec)) > record.HeaderLen && len(behind) == 0 && len(held)+len(rec) < record.MaxPlaintext {
		rec = resize(append(held, rec[record.HeaderLen:]...), len(held)+len(rec)-2*record.HeaderLen)
		l.held = nil
	} else if l.join {
		l.release()
	}
	if hold && len(l.held) == 0 && len(behind) == 0 {
		l.held, l.join, l.heldSeal = rec, join, seal
		return
	}
	l.send(rec, seal)
	l.release()
}

// resize gives a record a body of n bytes, with zeros where it has none.
func resize(rec []byte, n int) []byte {
	rec = append(rec, make([]byte, max(0, record.HeaderLen+n-len(rec)))...)[:record.HeaderLen+n]
	rec[3], rec[4] = byte(n>>8), byte(n)
	return rec
}

func (e *roadEnd) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.closed, e.lane.ended = true, true
		e.lane.release()
		e.cond.Broadcast()
	}
	return nil
}

func (e *roadEnd) LocalAddr() net.Addr              { return roadAddr{} }
func (e *roadEnd) RemoteAddr() net.Addr             { return roadAddr{} }
func (e *roadEnd) SetDeadline(time.Time) error      { return nil }
func (e *roadEnd) SetReadDeadline(time.Time) error  { return nil }
func (e *roadEnd) SetWriteDeadline(time.Time) error { return nil }

type roadAddr struct{}

func (roadAddr) Network() string { return "road" }
func (roadAddr) String() string  { return "road" }

// stage makes the Configs of scenes. Sessions are made once and serve all, so that
// a resumed handshake costs no other one.
type stage struct {
	ccfg, scfg *tls.Config
	cert       tls.Certificate
	key        tls.EncryptedClientHelloKey
	list       []byte
	sessions   [3]*tls.ClientSessionState // of TLS 1.3, of 1.2, of 1.2 with cbcSuite
}

var cbcSuite = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}

// fixedCache has one session, whatever becomes of it.
type fixedCache struct{ session *tls.ClientSessionState }

func (c *fixedCache) Get(string) (*tls.ClientSessionState, bool) {
	return c.session, c.session != nil
}
func (c *fixedCache) Put(string, *tls.ClientSessionState) {}

func newStage(t testing.TB) *stage {
	a := newAuthority(t)
	now := time.Now()
	st := &stage{cert: a.leaf(t, testName)}
	st.key, st.list = echKey(t, "public.example")
	st.ccfg = &tls.Config{RootCAs: a.pool, ServerName: testName, Time: func() time.Time { return now },
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}}
	st.scfg = &tls.Config{Certificates: []tls.Certificate{a.leaf(t, testName)}, ClientCAs: a.pool, Time: st.ccfg.Time,
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}, EncryptedClientHelloKeys: []tls.EncryptedClientHelloKey{st.key}}
	st.scfg.SetSessionTicketKeys([][32]byte{{1}})
	for i := range st.sessions {
		cache := new(countingCache)
		ccfg := st.ccfg.Clone()
		ccfg.ClientSessionCache = cache
		if i > 0 {
			ccfg.MaxVersion = tls.VersionTLS12
		}
		scfg := st.scfg.Clone() // with its ticket keys
		if i == 2 {
			ccfg.CipherSuites, scfg.CipherSuites = cbcSuite, cbcSuite
		}
		c, s := connect(t, theirClient, theirServer, ccfg, scfg)
		exchange(t, c, s)
		st.sessions[i] = cache.last
	}
	return st
}

// configs are those of a scene.
func (st *stage) configs(s scene) (ccfg, scfg *tls.Config) {
	ccfg, scfg = st.ccfg.Clone(), st.scfg.Clone()
	cache := &fixedCache{}
	ccfg.ClientSessionCache = cache
	session := st.sessions[0]
	if s.has(oldTLS) {
		ccfg.MaxVersion, session = tls.VersionTLS12, st.sessions[1]
		if s.has(special) {
			session = st.sessions[2]
			ccfg.CipherSuites, scfg.CipherSuites = cbcSuite, cbcSuite
		}
	} else {
		if s.has(retried) {
			scfg.CurvePreferences = []tls.CurveID{tls.CurveP256}
		}
		if s.has(special) {
			ccfg.EncryptedClientHelloConfigList = st.list
		}
	}
	if s.has(resumed) {
		cache.session = session
	}
	if s.has(mutual) {
		ccfg.Certificates = []tls.Certificate{st.cert}
		scfg.ClientAuth = tls.RequestClientCert
	}
	return ccfg, scfg
}

// FuzzMutatedHandshake runs a handshake between crypto/tls and ours, with somebody
// on the way who does to its records what the script says. Ours comes to an end
// with a typed error, or with the very keys of the peer; nobody reads data that
// was not sent; and what a peer may do to plain handshake records harms nothing.
// A goroutine that is left, or two that wait for each other, fail the bubble.
func FuzzMutatedHandshake(f *testing.F) {
	st := newStage(f)
	for s := range scenes {
		f.Add(byte(s), []byte{})
		f.Add(byte(s), []byte(scriptOf(op(opSplit, 0, 1), op(opSplit|fromServer, 0, 50), op(opSplit, 1, 7))))
		f.Add(byte(s), []byte(scriptOf(op(opJoin|fromServer, 0, 0), op(opJoin|fromServer, 1, 0), op(opJoin|fromServer, 2, 0), op(opJoin, 1, 0))))
		f.Add(byte(s), []byte(op(opInsert|fromServer, 1, 20<<8|1)))
		if s.has(insider) {
			var every script
			for i := range byte(7) {
				every = append(every, op([]byte{opSplit, opJoin}[i&1], i, 3)...)
				every = append(every, op([]byte{opJoin, opSplit}[i&1]|fromServer, i, 3)...)
			}
			f.Add(byte(s), []byte(every))
		}
	}
	at := byte(0)
	for what := range byte(opCount) {
		for _, side := range []byte{0, fromServer} {
			for index := range byte(6) {
				at += 11 // another scene for each
				f.Add(at, []byte(op(what|side, index, uint16(index)*77+9)))
				f.Add(at^byte(weServe), []byte(op(what|side, index, 0x1702)))
			}
		}
	}
	f.Fuzz(func(t *testing.T, s byte, script []byte) {
		if len(script) > 64 {
			return // no more than 16 operations
		}
		cryptotest.SetGlobalRandom(t, uint64(s)+1)
		synctest.Test(t, func(t *testing.T) { st.play(t, scene(s)%scenes, script) })
	})
}

// played is what one of the ends has seen.
type played struct {
	end  *end
	err  error // of the handshake
	data []byte
	rerr error // io.EOF, or why it stopped to read
}

func (st *stage) play(t *testing.T, s scene, script script) {
	ccfg, scfg := st.configs(s)
	var log countingLog // of the peer
	client, server := ourClient, theirServer
	if s.has(weServe) {
		client, server = theirClient, ourServer
		ccfg.KeyLogWriter = &log
	} else {
		scfg.KeyLogWriter = &log
	}
	road := newRoad(script)
	if s.has(insider) && !s.has(oldTLS) {
		road.log = &log
	}
	sent := [2][]byte{bytes.Repeat([]byte("what the client sends; "), 100), bytes.Repeat([]byte("what the server sends; "), 100)}
	var ends [2]played
	var wg sync.WaitGroup
	for i := range ends {
		wg.Go(func() {
			conn, p := &road.ends[i], &ends[i]
			defer conn.Close()
			if i == 0 {
				p.end, p.err = client(conn, ccfg)
			} else {
				p.end, p.err = server(conn, scfg)
			}
			if p.err != nil {
				return
			}
			p.end.server = i == 1
			if _, p.rerr = p.end.Write(sent[i]); p.rerr == nil {
				if half, ok := p.end.ReadWriter.(interface{ CloseWrite() error }); ok {
					p.rerr = half.CloseWrite()
				} else {
					p.rerr = p.end.close()
				}
			}
			if p.rerr == nil {
				p.data, p.rerr = io.ReadAll(p.end)
			}
		})
	}
	wg.Wait()
	ours, theirs := &ends[0], &ends[1]
	if s.has(weServe) {
		ours, theirs = theirs, ours
	}
	for i := range ends {
		if !bytes.HasPrefix(sent[1-i], ends[i].data) {
			t.Errorf("end %d read data that nobody sent: %q", i, ends[i].data)
		}
		if errors.Is(ends[i].err, errLoop) || errors.Is(ends[i].rerr, errLoop) {
			t.Errorf("end %d: %v, %v", i, ends[i].err, ends[i].rerr)
		}
	}
	if !road.spoiled {
		for i, p := range ends {
			if p.err != nil || p.rerr != nil || len(p.data) != len(sent[1-i]) {
				t.Errorf("end %d: %v, %d bytes, %v, though nothing was done to it that peers may not do", i, p.err, len(p.data), p.rerr)
			}
		}
		if ours.err == nil && ours.end.state.DidResume != s.has(resumed) {
			t.Errorf("resumed: %v", ours.end.state.DidResume)
		}
	}
	if ours.err != nil {
		typed(t, ours.err)
		return
	}
	if pass := ours.end.result.Passthrough; s.has(oldTLS) && s.has(special) {
		if pass == nil || !errors.Is(pass.Reason(), ErrSuite) {
			t.Errorf("no passthrough because of the suite: %v", pass)
		}
		return
	}
	handedOver(t, ours.end)
	road.compare(t, ours.end, theirs, &log)
	if r := ours.end.result; r.Tickets != nil {
		r.Tickets.Close()
	}
}

// typed checks an error of a handshake. crypto/tls has types for the ends of the
// carrier, for alerts and for certificates, and its own words for the rest.
func typed(t *testing.T, err error) {
	t.Helper()
	for _, known := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed} {
		if errors.Is(err, known) {
			return
		}
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return
	}
	if _, ok := errors.AsType[*tls.ECHRejectionError](err); ok {
		return
	}
	if !strings.HasPrefix(err.Error(), "tls: ") {
		t.Errorf("%T: %v", err, err)
	}
}

// compare checks the keys of ours against what the peer's key log and the hellos
// say. A resumed TLS 1.2 handshake logs nothing: there the data have to speak.
func (r *road) compare(t *testing.T, ours *end, theirs *played, log *countingLog) {
	t.Helper()
	logged := log.secrets()
	in, out := ours.result.In, ours.result.Out
	if ours.server {
		in, out = out, in // of the server and of the client
	}
	if ours.state.Version == tls.VersionTLS13 {
		for label, k := range map[string]record.Keys{"SERVER_TRAFFIC_SECRET_0": in, "CLIENT_TRAFFIC_SECRET_0": out} {
			if !bytes.Equal(logged[label], k.Secret) {
				t.Errorf("%s is %x there and %x here", label, logged[label], k.Secret)
			}
		}
		return
	}
	const random, randomEnd = record.HeaderLen + 6, record.HeaderLen + 38
	master := logged["CLIENT_RANDOM"]
	if master == nil {
		if theirs.err == nil && len(theirs.data) == 0 && !r.spoiled {
			t.Error("the peer read nothing")
		}
		return
	}
	client, server, err := record.KeyBlock(ours.state.CipherSuite, master, r.lanes[0].hello[random:randomEnd], r.lanes[1].hello[random:randomEnd])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(client.Key, out.Key) || !bytes.Equal(client.IV, out.IV) || !bytes.Equal(server.Key, in.Key) || !bytes.Equal(server.IV, in.IV) {
		t.Error("other keys than the peer has")
	}
}
