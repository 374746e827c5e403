package kernel

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/aftls/aftls/internal/kernel/probe"
)

// offloads is whether any interface of this network namespace seals or opens by
// itself, as far as the kernel says; it is asked again when the answer is old.
var offloads struct {
	sync.Mutex
	asked time.Time
	any   bool
}

// offloadsAge is how long an answer about the interfaces is good for. It is changed
// by an administrator, with ethtool.
const offloadsAge = time.Minute

func anyOffload(interfaces func() ([]probe.Interface, error)) bool {
	offloads.Lock()
	defer offloads.Unlock()
	if now := time.Now(); offloads.asked.IsZero() || now.Sub(offloads.asked) > offloadsAge {
		all, err := interfaces()
		offloads.asked = now
		offloads.any = err == nil && slices.ContainsFunc(all, func(i probe.Interface) bool { return i.TX == probe.On || i.RX == probe.On })
	}
	return offloads.any
}

// Devices reports for which directions of a connection a network device seals and
// opens the records, and not the kernel's own code. Where no interface does that the
// connection is not looked at. A kernel that does not say it, as older ones to those
// who may not administrate the network, is taken for one that has no device.
func Devices(local, remote net.Addr) (send, receive bool) {
	return devices(local, remote, probe.Interfaces, probe.SocketOf)
}

func devices(local, remote net.Addr, interfaces func() ([]probe.Interface, error), socketOf func(local, remote netip.AddrPort) (probe.Socket, error)) (send, receive bool) {
	a, ok := local.(*net.TCPAddr)
	b, ok2 := remote.(*net.TCPAddr)
	if !ok || !ok2 || !anyOffload(interfaces) {
		return false, false
	}
	s, err := socketOf(a.AddrPort(), b.AddrPort())
	return err == nil && s.TX == probe.Device, err == nil && s.RX == probe.Device
}
