package handover

import (
	"bytes"
	"crypto/fips140"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/aftls/aftls/record"
)

// logged is what the key log of this one connection said. The key log is per
// connection, not shared and sorted by client random: with Encrypted Client
// Hello the logged random is the inner hello's, which never shows on the wire.
type logged struct {
	clientTraffic, serverTraffic []byte // TLS 1.3, epoch 0
	master                       []byte // TLS 1.2, full handshakes only
	room                         [2 * maxSecret]byte
	used                         int // of room
}

// maxSecret is the longest secret that is kept: of SHA-384, or a master secret.
const maxSecret = 48

// keep decodes the secret of a line.
func (l *logged) keep(secret []byte) ([]byte, error) {
	n := hex.DecodedLen(len(secret))
	if n > len(l.room)-l.used {
		return nil, hex.ErrLength
	}
	b := l.room[l.used:][:n:n]
	l.used += n
	_, err := hex.Decode(b, secret)
	return b, err
}

func (l *logged) wipe() { *l = logged{} }

// keyLog receives the key log of one connection and passes it on to the
// writer that the user had set, if any. crypto/tls holds a lock of the whole
// process meanwhile: there is nothing slow here.
type keyLog struct {
	w    *wire
	next io.Writer
}

func (k *keyLog) Write(line []byte) (int, error) {
	label, rest, _ := bytes.Cut(line, []byte(" "))
	_, secret, _ := bytes.Cut(bytes.TrimSuffix(rest, []byte("\n")), []byte(" "))
	var to *[]byte
	switch string(label) {
	case "CLIENT_TRAFFIC_SECRET_0":
		to = &k.w.logged.clientTraffic
	case "SERVER_TRAFFIC_SECRET_0":
		to = &k.w.logged.serverTraffic
	case "CLIENT_RANDOM":
		to = &k.w.logged.master
	}
	if to != nil {
		b, err := k.w.logged.keep(secret)
		if err != nil {
			return 0, fmt.Errorf("handover: key log line of crypto/tls: %w", err)
		}
		*to = b
	}
	if k.next != nil {
		return k.next.Write(line)
	}
	return len(line), nil
}

// usable says why this process may not seal records itself.
func usable(version, suite uint16) error {
	if !fips140.Enforced() {
		return nil // and no need to make a cipher to find out
	}
	if err := record.Usable(version, suite); err != nil {
		return fmt.Errorf("GODEBUG=fips140=only leaves the records to crypto/tls: %w", err)
	}
	return nil
}

// keys13 derives the TLS 1.3 keys. All numbers are 0 but one: a server has
// sent its session tickets under the application key already, over as many
// records as they needed. They are found by trial: of the records sent since
// the secret was logged, the first that opens with number 0 starts the epoch,
// and every one behind it must open too.
func (w *wire) keys13(suite uint16) (client, server record.Keys, err error) {
	if w.logged.clientTraffic == nil || w.logged.serverTraffic == nil {
		return client, server, fmt.Errorf("%w: no traffic secrets were logged", errSecrets)
	}
	// Key and iv are left to the first record: many a connection closes or
	// moves on without one in a direction.
	n := len(w.logged.clientTraffic)
	secrets := make([]byte, 0, 2*n)
	secrets = append(append(secrets, w.logged.clientTraffic...), w.logged.serverTraffic...)
	client = record.Keys{Version: record.TLS13, Suite: suite, Secret: secrets[:n:n]}
	server = record.Keys{Version: record.TLS13, Suite: suite, Secret: secrets[n:]}
	if w.client || len(w.appSent) == 0 {
		return client, server, nil
	}
	o, err := record.NewOpener(server)
	if err != nil {
		return client, server, fmt.Errorf("%w: %w", errSecrets, err)
	}
	defer o.Wipe()
	recs := make([][]byte, 0, 8) // stays on the stack
	for p := w.appSent; len(p) > 0; {
		n := record.HeaderLen + int(p[3])<<8 + int(p[4])
		recs, p = append(recs, p[:n]), p[n:]
	}
	buffer := aheadPool.Get().(*[aheadSize]byte)
	defer aheadPool.Put(buffer)
	scratch := buffer[:]
	// Mostly the last record alone is a ticket, so the search goes backwards.
	for first := len(recs) - 1; first >= 0 && o.Seq() == 0; first-- {
		for _, rec := range recs[first:] {
			if n := o.Room(rec); n > len(scratch) {
				scratch = make([]byte, n)
			}
			_, ticket, err := o.Open(scratch, rec)
			if err != nil && o.Seq() > 0 {
				return client, server, fmt.Errorf("%w: own record %d does not open", errSecrets, o.Seq())
			} else if err != nil {
				break
			}
			clear(ticket)
		}
	}
	server.Seq = o.Seq()
	return client, server, nil
}

// masterLen is the length of a TLS 1.2 master secret (RFC 5246, 8.1), and
// masterAt where it stands in the encoding of a tls.SessionState in Go 1.26.
const (
	masterLen = 48
	masterAt  = 14
)

// keys12 derives the TLS 1.2 keys. A full handshake logs its master secret. A
// resumed one logs nothing: the secret is then inside the encoding of the
// session, which is opaque, so every place is a candidate, the known one first.
// Our own Finished, the last handshake record sent, tells which is right.
func (w *wire) keys12(suite uint16, cs tls.ConnectionState) (client, server record.Keys, err error) {
	const random, randomEnd = 6, 38 // handshake header, version, 32 bytes
	if len(w.clientHello) < randomEnd || len(w.serverHello) < randomEnd {
		return client, server, fmt.Errorf("%w: no hello messages were seen", errSecrets)
	}
	cr, sr := w.clientHello[random:randomEnd], w.serverHello[random:randomEnd]
	scratch := make([]byte, len(w.lastSent))
	fits := func(master []byte) bool {
		if client, server, err = record.KeyBlock(suite, master, cr, sr); err != nil {
			return false
		}
		own := server
		if w.client {
			own = client
		}
		own.Seq = 0
		o, err := record.NewOpener(own)
		if err != nil {
			return false
		}
		defer o.Wipe()
		typ, _, err := o.Open(scratch, w.lastSent)
		return err == nil && typ == record.Handshake
	}
	if m := w.logged.master; m != nil {
		if fits(m) {
			return client, server, nil
		}
		return client, server, fmt.Errorf("%w: the logged master secret does not fit our Finished", errSecrets)
	}
	for _, st := range w.resumable(cs) {
		b, err := st.Bytes()
		if err != nil {
			continue
		}
		found := false
		if len(b) >= masterAt+masterLen {
			found = fits(b[masterAt:][:masterLen])
		}
		for at := 0; !found && at+masterLen <= len(b); at++ {
			found = fits(b[at:][:masterLen])
		}
		clear(b)
		if found {
			return client, server, nil
		}
	}
	return client, server, fmt.Errorf("%w: the master secret of the resumed session was not found", errSecrets)
}

// resumable lists the sessions that this TLS 1.2 connection may have resumed.
func (w *wire) resumable(cs tls.ConnectionState) []*tls.SessionState {
	s := w.sessions
	if w.client {
		return s
	}
	ticket := sessionTicket(w.clientHello)
	if len(ticket) == 0 {
		return s
	}
	for _, c := range w.configs {
		if st, err := c.DecryptTicket(ticket, cs); err == nil && st != nil {
			s = append(s, st)
		}
	}
	return s
}
