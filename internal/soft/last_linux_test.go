package soft

import (
	"io"
	"net"
	"testing"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// TestEndTravelsWithTheLastBytes: an alert and the FIN behind it are one segment.
func TestEndTravelsWithTheLastBytes(t *testing.T) {
	lent(t)
	a, b := tcpPair(t)
	s := newSender(t, a, suite13)
	k := keysNow(t, s)
	before := segmentsIn(t, b)
	if err := s.Seal(record.AlertRecord, []byte{record.LevelWarning, byte(record.CloseNotify)}); err != nil {
		t.Fatal(err)
	}
	s.TryFlushLast()
	if n := s.Pending(); n != 0 {
		t.Fatalf("%d bytes were not taken", n)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	if recs := openAll(t, k, got); len(recs) != 1 {
		t.Errorf("%d records", len(recs))
	}
	if n := segmentsIn(t, b) - before; n != 1 {
		t.Errorf("alert and FIN came in %d segments", n)
	}
}

func segmentsIn(t *testing.T, c *net.TCPConn) (n uint32) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Segs_in
		}
	})
	if cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return n
}
