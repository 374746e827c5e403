package soft

import (
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"syscall"
	"time"

	"github.com/aftls/aftls/record"
)

// Source reads what a Sender is to send, straight into the places of a batch
// where the payloads of its records belong. One goroutine at a time.
type Source struct {
	r       io.Reader
	raw     syscall.RawConn // of a file or socket that can be read into many places at once
	regular bool
	ready   Ready
	places  [batchRecords][]byte // for ready
	vector  vector

	b      []byte // borrowed while it holds payloads
	prefix int    // layout of b
	stride int
	size   int // payload bytes of one record
	count  int // records
	limit  int // payload bytes at most
}

// Ready is a source that never waits: ReadBuffers fills the slices in order with
// what is there, and answers io.EOF when that is nothing.
type Ready interface {
	io.Reader
	ReadBuffers(p [][]byte) (n int, err error)
}

// NewSource looks at what r is. Files and sockets of packages os and net are
// read without a copy, in one system call where the system can; everything
// else by its Read.
func NewSource(r io.Reader) *Source {
	s := &Source{r: r}
	var sc syscall.Conn
	switch f := inner(r).(type) {
	case *os.File:
		if st, err := f.Stat(); err == nil {
			s.regular = st.Mode().IsRegular()
		}
		s.r, sc = f, f
	case *net.TCPConn:
		s.r, sc = f, f
	case *net.UnixConn:
		s.r, sc = f, f
	case Ready:
		s.ready = f
	}
	if sc != nil && vectored {
		if raw, err := sc.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	return s
}

// inner sees through the structs by which os.File.WriteTo and
// TCPConn.WriteTo hide their own method from io.Copy: they embed the file or
// connection and change nothing else. No type of another package is opened:
// its Read may do more than the embedded one.
func inner(r io.Reader) any {
	v := reflect.ValueOf(r)
	if v.Kind() != reflect.Struct || v.Type().PkgPath() != "os" && v.Type().PkgPath() != "net" {
		return r
	}
	for _, name := range []string{"File", "TCPConn", "UnixConn"} {
		if f := v.FieldByName(name); f.IsValid() && f.CanInterface() {
			return f.Interface()
		}
	}
	return r
}

// Waits reports whether reading r may wait for somebody else: a regular file
// and what is [Ready] do not.
func (s *Source) Waits() bool { return !s.regular && s.ready == nil }

// Plan fixes how the next batch is cut, before Read fills it. limit is how many
// bytes of plaintext may still be sent. What is committed goes out first: it
// must not wait while Read waits, and if that fails nothing has been read yet.
func (s *Sender) Plan(src *Source, limit int64) error {
	if s.sealer == nil {
		return ErrNoKeys
	}
	now := time.Now()
	if s.expired(now) {
		return os.ErrDeadlineExceeded
	}
	if err := s.Flush(); err != nil {
		return err
	}
	src.size, src.count = s.layout(now)
	if src.count == 0 {
		return record.ErrKeyLimit
	}
	src.prefix, src.stride = s.sealer.Prefix(), s.sealer.SealedLen(src.size)
	src.limit = src.size * src.count
	if int64(src.limit) > limit {
		src.limit = int(limit)
	}
	return nil
}

// PlanPlain fixes that the next batch is size bytes at most that nobody seals here:
// they lie side by side, for Plain.
func (s *Source) PlanPlain(size int) {
	s.size, s.count = record.MaxPlaintext, batchRecords
	s.prefix, s.stride, s.limit = 0, record.MaxPlaintext, min(size, s.size*s.count)
}

// Plain is the first n bytes of what Read brought. It is valid until Drop.
func (s *Source) Plain(n int) []byte { return s.b[:n] }

// Stream is the pipe or socket that is read, or nil.
func (s *Source) Stream() syscall.RawConn {
	if s.regular {
		return nil
	}
	return s.raw
}

// File is the regular file that is read, or nil.
func (s *Source) File() *os.File {
	if !s.regular {
		return nil
	}
	f, _ := s.r.(*os.File)
	return f
}

// Read fills the places of the planned batch with what one read brings. It may
// wait, and holds no buffer then where the source can say that it has nothing.
// n > 0 comes with a nil error; the payloads stay in src until Commit or Drop.
func (s *Source) Read() (n int, err error) {
	switch {
	case s.raw != nil:
		n, err = s.readVector()
	case s.ready != nil:
		n, err = s.readReady()
	case s.regular:
		n, err = s.readPlaces()
	default:
		// One Read only: nobody knows whether a second would wait. The
		// payloads lie side by side and are copied when they are sealed.
		s.lend()
		s.prefix, s.stride = 0, s.size
		n, err = s.r.Read(s.b[:min(s.limit, len(s.b))])
	}
	if n > 0 {
		return n, nil
	}
	s.Drop()
	if err == nil {
		err = io.ErrNoProgress
	}
	return 0, err
}

func (s *Source) lend() {
	if s.b == nil {
		whole := (s.limit + s.size - 1) / s.size
		s.b = get(min(whole*s.stride, batchSize))
	}
}

// place is where the payload of record i belongs.
func (s *Source) place(i int) []byte {
	at := i*s.stride + s.prefix
	return s.b[at : at+min(s.size, s.limit-i*s.size)]
}

// readPlaces fills one place after the other from a regular file.
func (s *Source) readPlaces() (n int, err error) {
	s.lend()
	for i := 0; n < s.limit; i++ {
		p := s.place(i)
		m, err := io.ReadFull(s.r, p)
		n += m
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readReady reads once, into as many places as there is data for.
func (s *Source) readReady() (int, error) {
	s.lend()
	k := 0
	for ; k < batchRecords && k*s.size < s.limit; k++ {
		s.places[k] = s.place(k)
	}
	n, err := s.ready.ReadBuffers(s.places[:k])
	clear(s.places[:k])
	return n, err
}

// Records is how many records n bytes of the planned batch become.
func (s *Source) Records(n int) uint64 { return uint64((n + s.size - 1) / s.size) }

// Drop gives the buffer back.
func (s *Source) Drop() {
	if s.b != nil {
		put(s.b)
		s.b = nil
	}
}

// Commit seals the n bytes that src read and sends them. sealed counts
// plaintext. These bytes have left their source for good: whatever the
// deadline says they are sealed, and what cannot be sent now is kept. The
// errors are those of Write.
//
// Payloads that lie where this sender's records want them are sealed in place.
// After a plain Read, a change of suite or of the longest payload since Plan,
// with a gate, or behind something that is still unsent they are copied.
func (s *Sender) Commit(src *Source, n int) (sealed int, err error) {
	defer src.Drop()
	if s.sealer == nil {
		return 0, ErrNoKeys
	}
	flushErr := s.Flush()
	if flushErr != nil && !errors.Is(flushErr, os.ErrDeadlineExceeded) {
		return 0, flushErr
	}
	gate := s.gate.Load() // what it drops would leave a hole
	most := s.sealer.MaxPayload()
	inPlace := flushErr == nil && gate == nil && src.size <= most && src.prefix == s.sealer.Prefix() && src.stride == s.sealer.SealedLen(src.size)
	if inPlace {
		s.batch, s.out = src.b, src.b[:0]
	} else {
		most = min(most, src.size)
		count := (n + src.size - 1) / src.size * ((src.size + most - 1) / most)
		s.growAny(count * s.sealer.SealedLen(most))
	}
	for i := 0; sealed < n && err == nil; i++ {
		p := src.place(i)
		for p = p[:min(len(p), n-sealed)]; len(p) > 0 && err == nil; {
			q := p[:min(len(p), most)]
			if err = s.sealData(gate, q); err == nil {
				sealed, p = sealed+len(q), p[len(q):]
			}
		}
	}
	if inPlace {
		src.b = nil
	}
	s.release()
	s.note()
	if err != nil {
		return sealed, err
	}
	if flushErr != nil {
		return sealed, flushErr
	}
	return sealed, s.Flush()
}

// growAny is grow without a bound of its own: it is for bytes that have to be
// kept although a batch is waiting already.
func (s *Sender) growAny(n int) {
	if s.grow(n); cap(s.out)-len(s.out) < n {
		out := append(make([]byte, 0, len(s.out)+n), s.out...)
		s.drop()
		s.out = out
	}
}
