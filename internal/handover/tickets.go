package handover

import (
	"crypto/tls"
	"fmt"

	"github.com/aftls/aftls/record"
)

// Tickets is the tls.Conn of a TLS 1.3 client, parked for the session tickets
// that come after the handshake: only crypto/tls can put them into the user's
// Config.ClientSessionCache. It is not safe for use by two goroutines at once.
type Tickets struct {
	w      *wire
	tc     *tls.Conn
	sealer *record.Sealer // the server's epoch 0, at the number where crypto/tls stands
	out    record.Keys    // our epoch 0, to read the alert that crypto/tls answers with
}

func park(w *wire, tc *tls.Conn, in, out record.Keys) (*Tickets, error) {
	s, err := record.NewSealer(in)
	if err != nil {
		return nil, err
	}
	return &Tickets{w: w, tc: tc, sealer: s, out: out.Clone()}, nil
}

// Put hands one whole NewSessionTicket message, header included, to crypto/tls.
// The message is sealed again as crypto/tls expects it, in its own numbering,
// which real KeyUpdates do not touch. One byte of application data follows: with
// it Read returns without an error, and crypto/tls starts to count useless
// records anew; by itself it gives up at the 17th.
//
// The error is a [*record.Error] with the alert that crypto/tls chose.
func (t *Tickets) Put(msg []byte) error {
	var sealed []byte
	var err error
	for len(msg) > 0 && err == nil {
		n := min(len(msg), record.MaxPlaintext)
		sealed, err = t.sealer.Seal(sealed, record.Handshake, msg[:n])
		msg = msg[n:]
	}
	if err == nil {
		sealed, err = t.sealer.Seal(sealed, record.ApplicationData, []byte{0})
	}
	if err != nil {
		return err
	}
	t.w.mu.Lock()
	t.w.inject.Write(sealed)
	t.w.mu.Unlock()
	var one [1]byte
	if n, err := t.tc.Read(one[:]); n != 1 || err != nil {
		return &record.Error{Alert: t.alert(), Reason: fmt.Sprintf("session ticket refused: %v", err)}
	}
	return nil
}

// alert is what crypto/tls wanted to tell the server.
func (t *Tickets) alert() record.Alert {
	o, err := record.NewOpener(t.out)
	if err != nil {
		return record.DecodeError
	}
	defer o.Wipe()
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	typ, b, err := o.Open(nil, t.w.kept.Bytes())
	if err != nil || typ != record.AlertRecord || len(b) != 2 {
		return record.DecodeError
	}
	return record.Alert(b[1])
}

// Close wipes the keys that were kept.
func (t *Tickets) Close() {
	t.sealer.Wipe()
	t.out.Wipe()
}
