package aftlstest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/record"
)

// NeedKernel skips a test where the kernel has no TLS sockets, or fails it if
// AFTLS_EXPECT names kernel.
func NeedKernel(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = kernel.Attach(c, true)
	switch {
	case err == nil:
	case Expected("kernel"):
		t.Fatalf("no TLS sockets, and AFTLS_EXPECT says that they are here: %v", err)
	default:
		t.Skipf("TLS sockets are missing: %v", err)
	}
}

// KernelRekeys reports whether this kernel takes a second key for a direction.
func KernelRekeys() bool { return kernel.CanRekey() }

// difference is a promise that the kernel cannot keep as it stands: why, and the
// test of what it does instead.
type difference struct {
	why  string
	test func(*testing.T, subject)
}

// kernelDiffers are the promises that no kernel keeps, by their names.
var kernelDiffers = map[string]difference{
	"padding shows in the length of records":                                         {"the kernel does not pad: sending is in soft", kernelPadding},
	"WriteRecord is ordered with data":                                               {"the kernel sends no record without content", kernelOrdered},
	"empty data records are cut off when there are too many":                         {"the kernel drops records without data and does not say so", kernelEmpty},
	"Close takes no more than 5 seconds":                                             {"a TLS socket has no clock of a bubble", kernelCloseFull},
	"a violation is reported while a Write is blocked, and the alert sent behind it": {"after a record that it refuses the kernel sends nothing", kernelViolationPastWriter},
}

// keeps returns the test of a promise for the provider.
func (x subject) keeps(p promise) func(*testing.T, subject) {
	if x.provider != aftls.Kernel {
		return p.test
	}
	d, differs := kernelDiffers[p.name]
	if p.on&rekeys != 0 && !x.canRekey() {
		d, differs = difference{"one key for each direction, in TLS 1.2 and before Linux 6.14", kernelOneKey}, true
	}
	if !differs {
		return p.test
	}
	return func(t *testing.T, x subject) {
		t.Log("not there: " + d.why)
		d.test(t, x)
	}
}

// canRekey reports whether the provider takes a second key for a direction.
func (x subject) canRekey() bool {
	return x.provider != aftls.Kernel || x.is13() && kernel.CanRekey()
}

// mayStaySilent reports whether the peer may see an end instead of the alert: after
// a record that it could not open the kernel lets nothing out.
func (x subject) mayStaySilent(a record.Alert) bool {
	return x.provider == aftls.Kernel && (a == record.BadRecordMAC || a == record.RecordOverflow || a == record.ProtocolVersion)
}

// judges reports whether the provider may see another violation than soft does in
// the same bytes: the kernel opens a record before it looks at its outer type.
func (x subject) judges(want, got record.Alert) bool {
	return x.provider == aftls.Kernel && want == record.UnexpectedMessage && got == record.BadRecordMAC
}

// header makes the start of a record long enough for the provider to judge it: with
// AES-GCM in TLS 1.2 the kernel waits for the nonce behind the header.
func (x subject) header(b []byte) []byte {
	if x.provider == aftls.Kernel && len(b) < kernelHeader {
		b = append(b, make([]byte, kernelHeader-len(b))...)
	}
	return b
}

const kernelHeader = record.HeaderLen + 8

// wantAlert reads the alert that a violation is answered with, if one must come.
func (x subject) wantAlert(p *peer, a record.Alert) {
	p.t.Helper()
	if !x.mayStaySilent(a) {
		p.wantAlert(record.LevelFatal, a)
	}
}

// kernelOneKey: what needs a second key is refused with ErrNoRekey, and where the
// peer changes its key the connection ends with an alert.
func kernelOneKey(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	mustWrite(t, e, []byte("before"))
	p.want(record.ApplicationData, []byte("before"))
	switch e := e.(type) {
	case *aftls.Socket:
		for _, d := range []aftls.Direction{aftls.Send, aftls.Receive} {
			k, _ := x.keys(t)
			wantErr(t, "a second key", e.SetKeys(d, k), aftls.ErrNoRekey)
		}
	case *aftls.Conn:
		wantErr(t, "Rekey", e.Rekey(false), aftls.ErrNoRekey)
		wantErr(t, "Rekey", e.Rekey(true), aftls.ErrNoRekey)
	}
	mustWrite(t, e, []byte("goes on"))
	p.want(record.ApplicationData, []byte("goes on"))
	p.data("back")
	wantRead(t, e, []byte("back"))
	if !x.conn || !x.is13() {
		return
	}
	p.keyUpdate(0)
	_, err := e.Read(make([]byte, 10))
	wantErr(t, "Read behind a KeyUpdate", err, aftls.ErrNoRekey)
	p.wantAlert(record.LevelFatal, record.InternalError)
	_, err = e.Write([]byte("x"))
	wantErr(t, "Write behind a KeyUpdate", err, aftls.ErrNoRekey)
}

func kernelPadding(t *testing.T, x subject) {
	x.opt.Padding = 1000
	if x.suite == 0 {
		x.suite = 0x1301
	}
	there, back := x.keys(t)
	ca, cb := tcpPair(t)
	s, p := aftls.NewSocket(ca, x.opt), newPeer(t, cb, back, there)
	defer s.Close()
	must(t, errors.Join(s.SetKeys(aftls.Send, there), s.SetKeys(aftls.Receive, back)))
	want := aftls.Soft
	if !x.is13() { // which has no padding
		want = aftls.Kernel
	}
	if i := s.Info(); i.Send.Provider != want || i.Receive.Provider != aftls.Kernel || (i.Send.Reason == "") != (want == aftls.Kernel) {
		t.Errorf("Info %+v", i)
	}
	mustWrite(t, s, []byte("mixed"))
	p.want(record.ApplicationData, []byte("mixed"))
	p.data("mixed")
	wantRead(t, s, []byte("mixed"))
	if !x.is13() {
		return
	}
	x.opt.RequireKernel = true
	ca, _ = tcpPair(t)
	s = aftls.NewSocket(ca, x.opt)
	defer s.Close()
	wantErr(t, "SetKeys where a fallback is an error", s.SetKeys(aftls.Send, there), aftls.ErrNoKernel)
}

func kernelOrdered(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	warning := []byte{record.LevelWarning, byte(record.UserCanceled)}
	mustWrite(t, e, []byte("1"))
	must(t, e.WriteRecord(record.AlertRecord, warning))
	must(t, e.WriteRecord(record.ApplicationData, nil)) // nothing that anybody would see
	if !x.conn {
		wantErr(t, "an empty control record", e.WriteRecord(record.Handshake, nil), aftls.ErrEmptyRecord)
	}
	whole := random(record.MaxPlaintext)
	w := startErr(t, func() error { return e.WriteRecord(record.ApplicationData, whole) })
	p.want(record.ApplicationData, []byte("1"))
	p.want(record.AlertRecord, warning)
	p.want(record.ApplicationData, whole)
	w.wait()
	data := fill(t, e)
	w = startErr(t, func() error { return e.WriteRecord(record.AlertRecord, warning) })
	p.wantData(data)
	p.want(record.AlertRecord, warning)
	w.wait()
}

func kernelEmpty(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	for range 3 * maxUseless {
		p.send(record.ApplicationData, nil)
	}
	p.data("data")
	wantRead(t, e, []byte("data"))
}

// kernelCloseFull: with a peer that does not read Close returns all the same. Its
// five seconds pass here.
func kernelCloseFull(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := fill(t, e)
	e.Close()
	data, notify, err := p.drain()
	if notify && len(data) < len(want) || !bytes.HasPrefix(want, data) || err != nil && !isEnd(err) {
		t.Errorf("%d bytes of %d, close_notify %v, %v", len(data), len(want), notify, err)
	}
}

func kernelViolationPastWriter(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	w := startWrite(t, e, random(flood))
	w.onNetwork()
	p.raw(x.header([]byte{23, 3, 1, 0, 40, 0}))
	_, err := e.Read(make([]byte, 10))
	wantPeerError(t, "Read", err, record.ProtocolVersion)
	must(t, e.Close())
	if _, err := w.result(); err == nil {
		t.Error("Write goes on after a violation")
	} else if !errors.Is(err, net.ErrClosed) {
		wantPeerError(t, "Write", err, record.ProtocolVersion)
	}
	io.Copy(io.Discard, p.conn)
}
