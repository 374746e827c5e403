package kernel

import (
	"errors"
	"sync"

	"github.com/aftls/aftls/internal/kernel/probe"
	"golang.org/x/sys/unix"
)

// can is what this kernel can, tried on a connection of this process to itself, until
// the kernel has answered.
type can struct {
	sync.Mutex
	known, yes bool
}

func (c *can) ask(try func() error, refused error) bool {
	c.Lock()
	defer c.Unlock()
	if !c.known {
		err := try()
		c.yes = err == nil
		c.known = c.yes || errors.Is(err, refused)
	}
	return c.yes
}

var rekeys, limits can

// CanRekey reports whether this kernel takes a second key in TLS 1.3, as kernels
// since 6.14 do, and older ones that a distribution has mended.
func CanRekey() bool { return rekeys.ask(probe.Rekey, unix.EBUSY) }

// canLimit reports whether this kernel makes records shorter than 16384 bytes, as
// kernels since 6.19 do.
func canLimit() bool { return limits.ask(probe.PayloadLimit, unix.ENOPROTOOPT) }
