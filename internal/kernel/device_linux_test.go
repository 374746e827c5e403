package kernel

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/aftls/aftls/internal/kernel/probe"
)

// A device is what the kernel says it is, and it is asked about a connection only
// where an interface has one.
func TestDevices(t *testing.T) {
	local, remote := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2}
	t.Cleanup(func() { offloads.asked = time.Time{} })
	for name, x := range map[string]struct {
		card          probe.Offload
		socket        probe.Socket
		err           error
		send, receive bool
	}{
		"both":          {probe.On, probe.Socket{TX: probe.Device, RX: probe.Device}, nil, true, true},
		"sending":       {probe.On, probe.Socket{TX: probe.Device, RX: probe.Software}, nil, true, false},
		"software":      {probe.On, probe.Socket{TX: probe.Software, RX: probe.Software}, nil, false, false},
		"does not say":  {probe.On, probe.Socket{}, nil, false, false},
		"cannot":        {probe.On, probe.Socket{TX: probe.Device}, errors.New("no"), false, false},
		"no device":     {probe.Off, probe.Socket{TX: probe.Device}, nil, false, false},
		"lacks devices": {probe.Lacking, probe.Socket{TX: probe.Device}, nil, false, false},
	} {
		offloads.asked = time.Time{}
		cards := func() ([]probe.Interface, error) {
			return []probe.Interface{{Name: "lo"}, {Name: "eth0", TX: x.card}}, nil
		}
		asked := false
		send, receive := devices(local, remote, cards, func(a, b netip.AddrPort) (probe.Socket, error) {
			asked = true
			if a.Port() != 1 || b.Port() != 2 {
				t.Errorf("asked for %v to %v", a, b)
			}
			return x.socket, x.err
		})
		if send != x.send || receive != x.receive || asked != (x.card == probe.On) {
			t.Errorf("%s: sending %v, receiving %v, asked %v", name, send, receive, asked)
		}
	}
	if send, receive := devices(&net.UnixAddr{}, remote, nil, nil); send || receive {
		t.Error("a device for a Unix socket")
	}
}
