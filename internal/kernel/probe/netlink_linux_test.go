package probe

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// fixture reads a message as a kernel sent it, behind its struct nlmsghdr. The number
// in its name is that of the kernel.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFeaturesOfInterfaces(t *testing.T) {
	for name, want := range map[string]Interface{
		"features-6.1-dummy0": {"dummy0", Lacking, Lacking},
		"features-6.12-lo":    {"lo", Lacking, Lacking},
		"features-6.18-eth0":  {"eth0", Lacking, Lacking},
		"features-7.3-dummy0": {"dummy0", Lacking, Lacking},
	} {
		got, err := parseFeatures(fixture(t, name))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
	}
}

// card changes a real message into that of a card which can do TLS: its sets of bits
// are written anew, with those of the two features as they are asked for.
func card(t testing.TB, can, on []string) []byte {
	t.Helper()
	real := fixture(t, "features-7.3-dummy0")
	out := real[:genlHead:genlHead]
	err := attributes(real[genlHead:], func(typ uint16, v []byte) error {
		switch typ {
		case unix.ETHTOOL_A_FEATURES_HW:
			bits := []byte(nil)
			for _, name := range []string{"tx-checksum-ipv4", featureTX, featureRX} {
				bit := appendAttribute(nil, unix.ETHTOOL_A_BITSET_BIT_NAME, append([]byte(name), 0))
				for _, c := range can {
					if c == name {
						bit = appendAttribute(bit, unix.ETHTOOL_A_BITSET_BIT_VALUE, nil)
					}
				}
				bits = appendAttribute(bits, unix.ETHTOOL_A_BITSET_BITS_BIT|unix.NLA_F_NESTED, bit)
			}
			v = appendAttribute(nil, unix.ETHTOOL_A_BITSET_BITS|unix.NLA_F_NESTED, bits)
		case unix.ETHTOOL_A_FEATURES_ACTIVE:
			bits := []byte(nil)
			for _, name := range on {
				bits = appendAttribute(bits, unix.ETHTOOL_A_BITSET_BITS_BIT|unix.NLA_F_NESTED,
					appendAttribute(nil, unix.ETHTOOL_A_BITSET_BIT_NAME, append([]byte(name), 0)))
			}
			v = appendAttribute(appendAttribute(nil, unix.ETHTOOL_A_BITSET_NOMASK, nil), unix.ETHTOOL_A_BITSET_BITS|unix.NLA_F_NESTED, bits)
		}
		out = appendAttribute(out, typ|unix.NLA_F_NESTED, v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFeaturesOfACardForTLS(t *testing.T) {
	for _, c := range []struct {
		can, on []string
		tx, rx  Offload
	}{
		{nil, nil, Lacking, Lacking},
		{[]string{featureTX, featureRX}, []string{featureTX}, On, Off},
		{[]string{featureRX}, []string{featureRX}, Lacking, On},
		{nil, []string{featureTX}, On, Lacking}, // fixed to on
	} {
		got, err := parseFeatures(card(t, c.can, c.on))
		if want := (Interface{"dummy0", c.tx, c.rx}); err != nil || got != want {
			t.Errorf("can %v, on %v: %+v, %v, want %+v", c.can, c.on, got, err, want)
		}
	}
	// A kernel that does not name them leaves it open.
	body := appendAttribute([]byte{0, 0, 0, 0}, unix.ETHTOOL_A_FEATURES_HEADER, appendAttribute(nil, unix.ETHTOOL_A_HEADER_DEV_NAME, []byte("x\x00")))
	if got, err := parseFeatures(body); err != nil || got != (Interface{"x", Unnamed, Unnamed}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSocketsOfKernels(t *testing.T) {
	for _, name := range []string{"socket-6.1", "socket-6.12", "socket-7.3"} {
		s, ok, err := parseSocket(fixture(t, name))
		if err != nil || !ok {
			t.Errorf("%s: %v, %v", name, ok, err)
			continue
		}
		if s.Version != tls13 || s.Cipher != AES128GCM.number || s.Local.Addr() != netip.MustParseAddr("127.0.0.1") || s.Remote.Port() == 0 {
			t.Errorf("%s: %+v", name, s)
		}
		if !(s.TX == Software && s.RX == Base || s.TX == Base && s.RX == Software) {
			t.Errorf("%s: sent in %v, received in %v", name, s.TX, s.RX)
		}
	}
}

// offloaded is a message of a socket of IPv6 whose records a card seals.
func offloaded() []byte {
	b := make([]byte, diagMsgLen)
	b[0] = unix.AF_INET6
	binary.BigEndian.PutUint16(b[diagSockID:], 443)
	b[diagSockID+4+15], b[diagSockID+20+15] = 1, 1
	number := func(typ uint16, n uint16) []byte {
		return appendAttribute(nil, typ, binary.NativeEndian.AppendUint16(nil, n))
	}
	var tls []byte
	for _, a := range [][]byte{number(tlsInfoVer, tls12), number(tlsInfoCiph, 51), number(tlsInfoTX, uint16(Device)), number(tlsInfoRX, uint16(Software)), appendAttribute(nil, 5, nil)} {
		tls = append(tls, a...)
	}
	info := appendAttribute(appendAttribute(nil, ulpInfoName, []byte("tls\x00")), ulpInfoTLS|unix.NLA_F_NESTED, tls)
	return appendAttribute(b, diagULPInfo|unix.NLA_F_NESTED, info)
}

func TestSocketOfACard(t *testing.T) {
	s, ok, err := parseSocket(offloaded())
	want := Socket{netip.MustParseAddrPort("[::1]:443"), netip.MustParseAddrPort("[::1]:0"), tls12, 51, Device, Software}
	if err != nil || !ok || s != want {
		t.Fatalf("%+v, %v, %v, want %+v", s, ok, err, want)
	}
	if s.TX.String() != "device" || s.RX.String() != "software" {
		t.Errorf("in words: %v, %v", s.TX, s.RX)
	}
	// Another protocol on TCP is no TLS socket.
	b := appendAttribute(make([]byte, diagMsgLen), diagULPInfo, appendAttribute(nil, ulpInfoName, []byte("mptcp\x00")))
	if _, ok, err := parseSocket(b); ok || err != nil {
		t.Errorf("mptcp: %v, %v", ok, err)
	}
}

func TestRepliesThatMakeNoSense(t *testing.T) {
	whole := card(t, nil, nil)
	for name, err := range map[string]error{
		"short message": second(parseFeatures(nil)),
		"cut":           second(parseFeatures(whole[:len(whole)-2])),
		"short socket":  third(parseSocket(make([]byte, diagMsgLen-1))),
		"attribute of length 0": attributes([]byte{0, 0, 1, 0}, func(uint16, []byte) error {
			return nil
		}),
		"attribute past the end": attributes([]byte{9, 0, 1, 0, 1, 2}, func(uint16, []byte) error { return nil }),
	} {
		if !errors.Is(err, ErrNetlink) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ Interface, err error) error     { return err }
func third(_ Socket, _ bool, err error) error { return err }

// message is a netlink message of a type.
func message(typ uint16, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, make([]byte, unix.SizeofNlMsghdr-6)...)
	return append(append(b, body...), make([]byte, -len(body)&3)...)
}

func TestReplies(t *testing.T) {
	errno := func(e syscall.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(-int32(e))) }
	for _, c := range []struct {
		name string
		b    []byte
		n    int
		done bool
		err  error
	}{
		{"one, more follow", message(30, []byte{1, 2, 3, 4}), 1, false, nil},
		{"two and the end", append(append(message(30, []byte("abcd")), message(30, []byte("efgh"))...), message(unix.NLMSG_DONE, errno(0))...), 2, true, nil},
		{"acknowledged", append(message(30, []byte("abcd")), message(unix.NLMSG_ERROR, errno(0))...), 1, true, nil},
		{"refused", message(unix.NLMSG_ERROR, errno(unix.EOPNOTSUPP)), 0, false, unix.EOPNOTSUPP},
		{"refused without a number", message(unix.NLMSG_ERROR, []byte{1}), 0, false, ErrNetlink},
		{"garbage", []byte("garbage that is longer than a head"), 0, false, ErrNetlink},
	} {
		got, done, err := replies(c.b)
		if len(got) != c.n || done != c.done || !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%s: %d messages, %v, %v", c.name, len(got), done, err)
		}
	}
}

func FuzzNetlink(f *testing.F) {
	for _, name := range []string{"features-6.18-eth0", "socket-6.1", "socket-7.3"} {
		b := fixture(f, name)
		f.Add(b)
		f.Add(message(30, b))
	}
	f.Add(offloaded())
	f.Add(card(f, []string{featureTX}, []string{featureTX}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if in, err := parseFeatures(b); err == nil && (in.TX < Unnamed || in.TX > On) {
			t.Errorf("%+v", in)
		}
		if _, ok, err := parseSocket(b); ok && err != nil {
			t.Error("a socket and an error at once")
		}
		if messages, _, err := replies(b); err == nil {
			for _, m := range messages {
				parseFeatures(m.Data)
				parseSocket(m.Data)
			}
		}
	})
}
