package aftls_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/aftls/aftls/record"
)

// secretLog is a tls.Config.KeyLogWriter that keeps what it is told.
type secretLog struct {
	mu      sync.Mutex
	secrets map[string][]byte
}

func (l *secretLog) Write(line []byte) (int, error) {
	f := bytes.Fields(line)
	if len(f) != 3 {
		return 0, fmt.Errorf("key log line %q", line)
	}
	secret, err := hex.DecodeString(string(f[2]))
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.secrets == nil {
		l.secrets = make(map[string][]byte)
	}
	l.secrets[string(f[0])] = secret
	return len(line), nil
}

// first returns the keys of both directions at the first record under them,
// from the secrets that the handshake logged and, in TLS 1.2, the hellos.
func (l *secretLog) first(version, suite uint16, fromClient, fromServer []byte) (client, server record.Keys, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if version == tls.VersionTLS13 {
		client, err = record.TrafficKeys(suite, l.secrets["CLIENT_TRAFFIC_SECRET_0"])
		if err == nil {
			server, err = record.TrafficKeys(suite, l.secrets["SERVER_TRAFFIC_SECRET_0"])
		}
		return client, server, err
	}
	const at, end = record.HeaderLen + 4 + 2, record.HeaderLen + 4 + 2 + 32 // the random of a hello
	if len(fromClient) < end || len(fromServer) < end {
		return client, server, errors.New("no hellos were captured")
	}
	client, server, err = record.KeyBlock(suite, l.secrets["CLIENT_RANDOM"], fromClient[at:end], fromServer[at:end])
	client.Seq, server.Seq = 0, 0 // the Finished messages are on the wire as well
	return client, server, err
}

// sightings is what one direction of a wire turned out to hold.
type sightings struct {
	records    int // under the application keys
	data       int // bytes of application data
	keyUpdates int
	requests   int    // of those, how many asked for one in return
	notified   bool   // the last whole record is close_notify
	partial    int    // bytes of a record that did not come to its end
	epoch, seq uint64 // of the next record
}

// reusedError says that a nonce was used twice under one key.
type reusedError struct{ epoch, seq uint64 }

func (e *reusedError) Error() string {
	return fmt.Sprintf("nonce of record %d, epoch %d, was used twice", e.seq, e.epoch)
}

// inspect opens every record of one direction of a wire and so proves that each
// was sealed with a key epoch and a sequence number of its own, one above the
// last: a record opens under no other pair. first are the keys of epoch 0.
func inspect(wire []byte, first record.Keys) (sightings, error) {
	var s sightings
	wire, err := afterHandshake(wire, first)
	if err != nil {
		return s, err
	}
	epochs := []record.Keys{first.Clone()}
	used := []uint64{0} // by epoch, the numbers that were seen
	explicit := make(map[uint64]bool)
	o, err := record.NewOpener(first)
	if err != nil {
		return s, err
	}
	for len(wire) > 0 {
		n, err := record.Frame(wire)
		if err != nil {
			return s, fmt.Errorf("behind %d records: %w", s.records, err)
		}
		if n == 0 || n > len(wire) {
			s.partial = len(wire)
			break
		}
		rec := wire[:n]
		wire = wire[n:]
		if first.Version == tls.VersionTLS12 && len(first.IV) == 4 {
			nonce := binary.BigEndian.Uint64(rec[record.HeaderLen:])
			if explicit[nonce] {
				return s, &reusedError{0, nonce}
			}
			explicit[nonce] = true
		}
		typ, p, err := o.Open(nil, bytes.Clone(rec))
		if err != nil {
			for epoch, k := range epochs {
				for seq := range used[epoch] {
					if opens(k, seq, rec) {
						return s, &reusedError{uint64(epoch), seq}
					}
				}
			}
			return s, fmt.Errorf("record %d of epoch %d, the %dth of all: %w", o.Seq(), o.Epoch(), s.records, err)
		}
		s.records++
		used[len(used)-1] = o.Seq()
		s.notified = typ == record.AlertRecord && len(p) == 2 && record.Alert(p[1]) == record.CloseNotify
		switch {
		case typ == record.ApplicationData:
			s.data += len(p)
		case typ == record.Handshake && len(p) == 5 && p[0] == 24:
			s.keyUpdates++
			s.requests += int(p[4])
			if err := o.Next(); err != nil {
				return s, err
			}
			epochs, used = append(epochs, o.Keys()), append(used, 0)
		}
	}
	s.epoch, s.seq = o.Epoch(), o.Seq()
	return s, nil
}

// afterHandshake cuts off what was not sent under the application keys: in TLS
// 1.2 all up to ChangeCipherSpec, in TLS 1.3 all that does not open.
func afterHandshake(wire []byte, first record.Keys) ([]byte, error) {
	const flights = 16 // records of one side in a handshake, at most
	for range flights {
		n, err := record.Frame(wire)
		if err != nil {
			return nil, err
		}
		if n == 0 || n > len(wire) {
			break
		}
		rec := wire[:n]
		if first.Version == tls.VersionTLS13 && opens(first, 0, rec) {
			return wire, nil
		}
		wire = wire[n:]
		if first.Version == tls.VersionTLS12 && record.ContentType(rec[0]) == record.ChangeCipherSpec {
			return wire, nil
		}
	}
	if first.Version == tls.VersionTLS13 {
		return nil, nil // nothing was ever sent under these keys
	}
	return nil, errors.New("no end of the handshake was found")
}

func opens(k record.Keys, seq uint64, rec []byte) bool {
	k = k.Clone()
	k.Seq = seq
	o, err := record.NewOpener(k)
	if err != nil {
		return false
	}
	_, _, err = o.Open(nil, bytes.Clone(rec))
	return err == nil
}

// A relay stands between a client and a server on TCP and keeps what they sent.
type relay struct {
	client, server *net.TCPConn // for the two ends to use
	wg             sync.WaitGroup

	mu    sync.Mutex
	cond  *sync.Cond
	wires [2][]byte // from the client, from the server
	ended [2]bool
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	c, cInner := tcpPair(t)
	s, sInner := tcpPair(t)
	r := &relay{client: c.(*net.TCPConn), server: s.(*net.TCPConn)}
	r.cond = sync.NewCond(&r.mu)
	r.wg.Go(func() { r.copy(0, cInner.(*net.TCPConn), sInner.(*net.TCPConn)) })
	r.wg.Go(func() { r.copy(1, sInner.(*net.TCPConn), cInner.(*net.TCPConn)) })
	return r
}

func (r *relay) copy(direction int, from, to *net.TCPConn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		r.mu.Lock()
		r.wires[direction] = append(r.wires[direction], b[:n]...)
		r.ended[direction] = err != nil
		r.mu.Unlock()
		r.cond.Broadcast()
		if n > 0 {
			to.Write(b[:n]) // what the other end does not take is of no interest
		}
		if err != nil {
			to.CloseWrite()
			return
		}
	}
}

// grow waits until one direction is n bytes longer than now, or over.
func (r *relay) grow(direction, n int) (more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n += len(r.wires[direction])
	for len(r.wires[direction]) < n && !r.ended[direction] {
		r.cond.Wait()
	}
	return !r.ended[direction]
}

// inspect looks at both directions; the connection is over.
func (r *relay) inspect(t *testing.T, secrets *secretLog, state tls.ConnectionState) (fromClient, fromServer sightings, err error) {
	t.Helper()
	r.wg.Wait()
	ck, sk, err := secrets.first(state.Version, state.CipherSuite, r.wires[0], r.wires[1])
	if err != nil {
		t.Fatal(err)
	}
	fromClient, err1 := inspect(r.wires[0], ck)
	fromServer, err2 := inspect(r.wires[1], sk)
	return fromClient, fromServer, errors.Join(err1, err2)
}
