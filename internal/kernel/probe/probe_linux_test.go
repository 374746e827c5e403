package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// needTLS skips where the kernel has no TLS sockets. In the guests of internal/vm it
// has them.
func needTLS(t *testing.T) {
	t.Helper()
	if err := ULP(); err != nil {
		for word := range strings.SplitSeq(os.Getenv("AFTLS_EXPECT"), ",") { // aftlstest stands above this package
			if word == "kernel" {
				t.Fatalf("TLS sockets are missing, and AFTLS_EXPECT says that the kernel has them: %v", err)
			}
		}
		t.Skipf("TLS sockets are missing: %v", err)
	}
}

// laterThan612 says of the kernels of internal/vm whether it is late enough: 6.1 and 6.12 were seen
// without rekey and payload limits, 7.3 with both. Another kernel may answer as it likes.
func laterThan612(t *testing.T) (yes, known bool) {
	release := os.Getenv("AFTLS_VM")
	switch {
	case strings.HasPrefix(release, "6.1.") || strings.HasPrefix(release, "6.12."):
		return false, true
	case strings.HasPrefix(release, "7."):
		return true, true
	}
	t.Logf("kernel %q is none of those whose answers are known", release)
	return false, false
}

func TestTLS(t *testing.T) {
	needTLS(t)
	for _, version := range []uint16{tls12, tls13} {
		for _, c := range []Cipher{AES128GCM, AES256GCM, AES128CCM, ChaCha20Poly1305} {
			if err := Suite(version, c); err != nil {
				t.Errorf("cipher %d in version %#04x: %v", c.number, version, err)
			}
		}
	}
	for name, probe := range map[string]func() error{"sendfile": Sendfile, "splice": Splice} {
		if err := probe(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	later, known := laterThan612(t)
	for _, p := range []struct {
		name  string
		probe func() error
		no    error
	}{{"rekey", Rekey, unix.EBUSY}, {"payload limit", PayloadLimit, unix.ENOPROTOOPT}} {
		err := p.probe()
		if err != nil && !errors.Is(err, p.no) || known && (err == nil) != later {
			t.Errorf("%s: %v", p.name, err)
		} else if err != nil {
			t.Logf("not there: %s (%v)", p.name, err)
		}
	}
}

// A cipher that no kernel knows is refused, and so is one in a version that is none.
func TestSuiteThatIsNone(t *testing.T) {
	needTLS(t)
	if err := Suite(tls13, Cipher{99, 40}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("cipher 99: %v", err)
	}
	if err := Suite(0x0301, AES128GCM); !errors.Is(err, unix.EINVAL) {
		t.Errorf("TLS 1.0: %v", err)
	}
}

// Without the module the kernel knows no protocol of this name, and with it again.
func TestWithoutTheModule(t *testing.T) {
	if os.Getenv("AFTLS_VM") == "" {
		t.Skip("a kernel whose modules a test may unload is missing: run 'make test-kernel'")
	}
	// The sockets of earlier tests are gone when the kernel has got round to it.
	for range 1 << 20 {
		if err := unix.DeleteModule("tls", 0); err == nil {
			break
		} else if err != unix.EWOULDBLOCK && err != unix.EAGAIN {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
	err := ULP()
	f, ferr := os.Open("/modules/tls.ko")
	if ferr != nil {
		t.Fatal(ferr)
	}
	defer f.Close()
	if lerr := unix.FinitModule(int(f.Fd()), "", 0); lerr != nil {
		t.Fatal(lerr)
	}
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("without the module: %v", err)
	}
	if err := ULP(); err != nil {
		t.Errorf("with the module again: %v", err)
	}
}

func TestLivingSocketIsFound(t *testing.T) {
	needTLS(t)
	p, err := newTLS(tls13, AES256GCM)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	name, err := unix.Getsockname(p.a)
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		peer, err := unix.Getpeername(p.a)
		if err != nil {
			t.Fatal(err)
		}
		address := func(a unix.Sockaddr) netip.AddrPort {
			v4 := a.(*unix.SockaddrInet4)
			return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), uint16(v4.Port))
		}
		s, err := SocketOf(address(name), address(peer))
		if err != nil || s.Local != address(name) || s.Remote != address(peer) || s.TX != Software || s.RX != Base {
			t.Errorf("asked for alone: %+v, %v", s, err)
		}
		if s, err := SocketOf(address(name), address(name)); !errors.Is(err, unix.ENOENT) {
			t.Errorf("no connection: %+v, %v", s, err)
		}
	}
	all, err := Sockets()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if int(s.Local.Port()) == name.(*unix.SockaddrInet4).Port {
			if s.Version != tls13 || s.Cipher != AES256GCM.number || s.TX != Software || s.RX != Base {
				t.Errorf("%+v", s)
			}
			return
		}
	}
	if os.Geteuid() == 0 {
		t.Errorf("not among %+v", all)
	}
}

func TestInterfaces(t *testing.T) {
	all, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range all {
		if in.Name == "lo" {
			if in.TX == On || in.RX == On {
				t.Errorf("the loopback makes records: %+v", in)
			}
			return
		}
	}
	t.Errorf("no loopback in %+v", all)
}

// These kernels have been everywhere for years; an errno is one that is documented.
func TestOtherSockets(t *testing.T) {
	for _, p := range []struct {
		name  string
		probe func() error
		no    []error
	}{
		{"KCM", KCM, []error{unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT}},
		{"MPTCP", MPTCP, []error{unix.EPROTONOSUPPORT, unix.ENOPROTOOPT}},
		{"GSO", GSO, nil},
		{"GRO", GRO, nil},
	} {
		err := p.probe()
		if err == nil {
			continue
		}
		documented := false
		for _, no := range p.no {
			documented = documented || errors.Is(err, no)
		}
		if !documented {
			t.Errorf("%s: %v", p.name, err)
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	open := func() string {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, n := range names {
			to, _ := os.Readlink("/proc/self/fd/" + n.Name())
			if strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "pipe:") || strings.HasPrefix(to, "/memfd:") {
				all = append(all, n.Name())
			}
		}
		return fmt.Sprint(all)
	}
	before := open()
	for range 3 {
		for _, probe := range []func() error{
			ULP, Rekey, PayloadLimit, Sendfile, Splice, KCM, MPTCP, GSO, GRO,
			func() error { return Suite(tls13, AES128GCM) }, func() error { return Suite(tls13, Cipher{99, 40}) },
			func() error { _, err := Interfaces(); return err }, func() error { _, err := Sockets(); return err },
		} {
			probe()
		}
	}
	if after := open(); after != before {
		t.Errorf("descriptors %s, and before the probes %s", after, before)
	}
}
