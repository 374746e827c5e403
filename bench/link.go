package bench

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// clientConfig is that of every client: TLS 1.3, X25519.
func (r *runner) clientConfig() *tls.Config {
	return &tls.Config{
		RootCAs: r.cert.pool, ServerName: serverName,
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
	}
}

// dial connects to a server.
func (r *runner) dial(s *process) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, "tcp", s.addr)
}

// link is a connection whose client does not do the record work: it would be
// slower than the server. It has done a real handshake, can write and read as
// any Conn, and reads ciphertext from its carrier when only the amount counts.
type link struct {
	*aftls.Conn
	keys *keyLog
}

// links opens n of them.
func (r *runner) links(s *process, n int) (ls []*link, err error) {
	for range n {
		carrier, err := r.dial(s)
		if err != nil {
			closeLinks(ls)
			return nil, err
		}
		l := &link{keys: new(keyLog)}
		config := r.clientConfig()
		config.KeyLogWriter = l.keys
		if l.Conn, err = aftls.Client(r.ctx, carrier, config, aftls.Options{RequireSocket: true}); err != nil {
			closeLinks(ls)
			return nil, err
		}
		r.suite(l.ConnectionState().CipherSuite)
		ls = append(ls, l)
	}
	return ls, nil
}

// closeLinks closes the carriers. Servers that mind were ended before.
func closeLinks(ls []*link) {
	for _, l := range ls {
		l.NetConn().Close()
	}
}

// each runs do for every connection at once and returns the first error.
func each[T any](all []T, do func(T) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, x := range all {
		wg.Go(func() { errs[i] = do(x) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// discard reads n bytes of ciphertext.
func (l *link) discard(n int64, b []byte) error {
	for n > 0 {
		m, err := l.NetConn().Read(b)
		if n -= int64(m); err != nil && n > 0 {
			return fmt.Errorf("the server ended the connection: %w", err)
		}
	}
	return nil
}

// walker counts the plaintext of TLS 1.3 records without opening them.
type walker struct {
	head  [record.HeaderLen]byte
	have  int // bytes of head
	left  int // bytes of the present record still to come
	plain int64
}

// walk goes over the next bytes of the stream.
func (w *walker) walk(b []byte) error {
	const overhead = 1 + record.TagLen // the content type, and no padding
	for len(b) > 0 {
		if w.left > 0 {
			n := min(w.left, len(b))
			w.left -= n
			b = b[n:]
			continue
		}
		n := copy(w.head[w.have:], b)
		w.have += n
		b = b[n:]
		if w.have < len(w.head) {
			continue
		}
		total, err := record.Frame(w.head[:])
		if err != nil {
			return err
		}
		w.have, w.left = 0, total-record.HeaderLen
		if record.ContentType(w.head[0]) != record.ApplicationData || w.left < overhead {
			return fmt.Errorf("a record of type %d and %d bytes is no application data", w.head[0], total)
		}
		w.plain += int64(w.left - overhead)
	}
	return nil
}

// skip reads records without opening them until they hold n bytes of
// plaintext. The last one has to end there.
func (l *link) skip(n int64, b []byte) error {
	var w walker
	for w.plain < n || w.left > 0 || w.have > 0 {
		m, err := l.NetConn().Read(b)
		if err := w.walk(b[:m]); err != nil {
			return err
		}
		if err != nil {
			return fmt.Errorf("the server ended the connection: %w", err)
		}
	}
	if w.plain != n {
		return fmt.Errorf("the server sent %d bytes, not %d", w.plain, n)
	}
	return nil
}

// keyLog keeps what crypto/tls logs of one connection.
type keyLog struct{ text strings.Builder }

func (k *keyLog) Write(p []byte) (int, error) { return k.text.Write(p) }

// secret finds the keys of the first application data of a side, CLIENT or
// SERVER.
func (k *keyLog) secret(side string, suite uint16) (record.Keys, error) {
	for line := range strings.Lines(k.text.String()) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != side+"_TRAFFIC_SECRET_0" {
			continue
		}
		secret, err := hex.DecodeString(f[2])
		if err != nil {
			return record.Keys{}, err
		}
		return record.TrafficKeys(suite, secret)
	}
	return record.Keys{}, fmt.Errorf("crypto/tls logged no traffic secret of the %s", strings.ToLower(side))
}

// sealer seals what the client of l would send next. l must not have written.
func (l *link) sealer() (*record.Sealer, error) {
	keys, err := l.keys.secret("CLIENT", l.ConnectionState().CipherSuite)
	if err != nil {
		return nil, err
	}
	return record.NewSealer(keys)
}

// drain reads ciphertext until the server closes the carrier.
func (l *link) drain() error {
	_, err := io.Copy(io.Discard, l.NetConn())
	return err
}
