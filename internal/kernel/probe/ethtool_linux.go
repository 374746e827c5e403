package probe

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// An Offload is what an interface says about one of its features.
type Offload int

const (
	Unnamed Offload = iota // the kernel has no such feature, or did not say
	Lacking                // the hardware, or its driver, cannot
	Off                    // it can, and does not
	On                     // it does
)

// An Interface is a network interface, and what it takes over of TLS.
type Interface struct {
	Name   string
	TX, RX Offload // sealing, opening of records
}

const genlHead = 4 // of struct genlmsghdr

// Interfaces asks for the features tls-hw-tx-offload and tls-hw-rx-offload of all
// interfaces of this network namespace (ethtool netlink, Linux 5.10 or later).
func Interfaces() ([]Interface, error) {
	family, err := genericFamily(unix.ETHTOOL_GENL_NAME)
	if err != nil {
		return nil, err
	}
	body := []byte{unix.ETHTOOL_MSG_FEATURES_GET, unix.ETHTOOL_GENL_VERSION, 0, 0}
	body = appendAttribute(body, unix.ETHTOOL_A_FEATURES_HEADER|unix.NLA_F_NESTED, nil)
	messages, err := ask(unix.NETLINK_GENERIC, family, unix.NLM_F_DUMP, body)
	if err != nil {
		return nil, err
	}
	all := make([]Interface, len(messages))
	for i, m := range messages {
		if all[i], err = parseFeatures(m.Data); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// genericFamily asks for the number of a family of generic netlink.
func genericFamily(name string) (uint16, error) {
	body := []byte{unix.CTRL_CMD_GETFAMILY, 1, 0, 0}
	body = appendAttribute(body, unix.CTRL_ATTR_FAMILY_NAME, append([]byte(name), 0))
	messages, err := ask(unix.NETLINK_GENERIC, unix.GENL_ID_CTRL, 0, body)
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		var id uint16
		if len(m.Data) < genlHead {
			continue
		}
		err := attributes(m.Data[genlHead:], func(typ uint16, v []byte) error {
			if typ == unix.CTRL_ATTR_FAMILY_ID && len(v) >= 2 {
				id = binary.NativeEndian.Uint16(v)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		if id != 0 {
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: no number of the family %s", ErrNetlink, name)
}

// The names under which ethtool has them.
const (
	featureTX = "tls-hw-tx-offload"
	featureRX = "tls-hw-rx-offload"
)

// parseFeatures reads a message ETHTOOL_MSG_FEATURES_GET_REPLY. Each feature is a bit
// in several sets: those that the hardware can change, and those that are on. One that
// is on and cannot be changed is on all the same.
func parseFeatures(b []byte) (Interface, error) {
	var in Interface
	if len(b) < genlHead {
		return in, fmt.Errorf("%w: a message of %d bytes", ErrNetlink, len(b))
	}
	can, on, named := map[string]bool{}, map[string]bool{}, map[string]bool{}
	err := attributes(b[genlHead:], func(typ uint16, v []byte) error {
		switch typ {
		case unix.ETHTOOL_A_FEATURES_HEADER:
			return attributes(v, func(typ uint16, v []byte) error {
				if typ == unix.ETHTOOL_A_HEADER_DEV_NAME {
					in.Name = text(v)
				}
				return nil
			})
		case unix.ETHTOOL_A_FEATURES_HW:
			return parseBits(v, can, named)
		case unix.ETHTOOL_A_FEATURES_ACTIVE:
			return parseBits(v, on, named)
		}
		return nil
	})
	state := func(name string) Offload {
		switch {
		case on[name]:
			return On
		case can[name]:
			return Off
		case named[name]:
			return Lacking
		}
		return Unnamed
	}
	in.TX, in.RX = state(featureTX), state(featureRX)
	return in, err
}

// parseBits reads a set of bits with names. A set without a mask lists those that are
// set; one with a mask lists those of the mask, and says of each whether it is set.
func parseBits(b []byte, set, named map[string]bool) error {
	list, bits := false, []byte(nil)
	err := attributes(b, func(typ uint16, v []byte) error {
		switch typ {
		case unix.ETHTOOL_A_BITSET_NOMASK:
			list = true
		case unix.ETHTOOL_A_BITSET_BITS:
			bits = v
		}
		return nil
	})
	if err != nil {
		return err
	}
	return attributes(bits, func(typ uint16, v []byte) error {
		name, value := "", list
		err := attributes(v, func(typ uint16, v []byte) error {
			switch typ {
			case unix.ETHTOOL_A_BITSET_BIT_NAME:
				name = text(v)
			case unix.ETHTOOL_A_BITSET_BIT_VALUE:
				value = true
			}
			return nil
		})
		named[name] = true
		set[name] = set[name] || value
		return err
	})
}
