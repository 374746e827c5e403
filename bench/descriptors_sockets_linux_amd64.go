package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/aftls/aftls/record"
)

// TLS sockets as a program makes them that knows nothing but the constants: of
// linux/tls.h, and of clients/c/aftls.h.

// Kinds of sockets.
const (
	kindFamily = "af_tls"  // socket(AF_TLS), bind, two secrets
	kindULP    = "tcp_ulp" // TCP_ULP, two keys
	kindDaemon = "handd"   // a request to the daemon
	kindTCP    = "tcp"     // to compare with
	kindPair   = "pair"
)

// familyTLS is the number of AF_TLS in the programs of the bench. 'aftls run'
// takes any: with this one package syscall has an address of the same 8 bytes as
// struct sockaddr_tls, and nothing here needs a pointer.
const familyTLS = syscall.AF_UNIX

const (
	tcpULP        = 31
	solTLS        = 282
	tlsTX         = 1
	tlsRX         = 2
	aftlsTXSecret = 0x4001
	aftlsRXSecret = 0x4002
	aftlsIsClient = 0x4007

	suiteTLS  = 0x1301 // TLS_AES_128_GCM_SHA256
	cipherTLS = 51     // TLS_CIPHER_AES_GCM_128
)

// Whose traffic secret it is. They are fixed, as nothing secret is sent.
const (
	ofClient byte = 1
	ofServer byte = 2
)

func secretOf(side byte) []byte { return bytes.Repeat([]byte{side}, 32) }

func keysOf(side byte) record.Keys {
	k, err := record.TrafficKeys(suiteTLS, secretOf(side))
	if err != nil {
		panic(err) // the suite is there
	}
	return k
}

// infoHead is version and cipher_type.
func infoHead() []byte {
	b := binary.NativeEndian.AppendUint16(nil, record.TLS13)
	return binary.NativeEndian.AppendUint16(b, cipherTLS)
}

// trafficSecret is a struct aftls_traffic_secret.
func trafficSecret(side byte) []byte {
	const size = 64
	b := binary.NativeEndian.AppendUint16(infoHead(), 32)
	b = append(b, make([]byte, 2+8)...)
	b = append(b, secretOf(side)...)
	return append(b, make([]byte, size-len(b))...)
}

// cryptoInfo is a struct tls12_crypto_info_aes_gcm_128.
func cryptoInfo(side byte) []byte {
	const salt = 4
	k := keysOf(side)
	b := append(infoHead(), k.IV[salt:]...)
	b = append(b, k.Key...)
	b = append(b, k.IV[:salt]...)
	return append(b, make([]byte, 8)...)
}

// tlsFamily makes a TLS socket of a carrier, which stays the caller's.
func tlsFamily(carrier int, client bool) (fd int, err error) {
	if fd, err = syscall.Socket(familyTLS, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket AF_TLS", err)
	}
	tx, rx := ofServer, ofClient
	if client {
		tx, rx = rx, tx
		err = os.NewSyscallError("setsockopt AFTLS_IS_CLIENT", syscall.SetsockoptInt(fd, solTLS, aftlsIsClient, 1))
	}
	if err == nil {
		err = os.NewSyscallError("bind AF_TLS", syscall.Bind(fd, sockaddrTLS(carrier)))
	}
	if err == nil {
		err = setKeys(fd, aftlsTXSecret, trafficSecret(tx), aftlsRXSecret, trafficSecret(rx))
	}
	if err != nil {
		syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

// sockaddrTLS is a struct sockaddr_tls: family, a 0, descriptor.
func sockaddrTLS(fd int) syscall.Sockaddr {
	return &syscall.SockaddrUnix{Name: string(binary.NativeEndian.AppendUint32([]byte{0, 0}, uint32(fd)))}
}

// tlsULP makes a TLS socket of a TCP socket, under its number.
func tlsULP(fd int) error {
	if err := rawSetsockopt(fd, syscall.IPPROTO_TCP, tcpULP, "tls"); err != nil {
		return os.NewSyscallError("setsockopt TCP_ULP", err)
	}
	return setKeys(fd, tlsTX, cryptoInfo(ofServer), tlsRX, cryptoInfo(ofClient))
}

func setKeys(fd, txName int, tx []byte, rxName int, rx []byte) error {
	err := rawSetsockopt(fd, solTLS, txName, string(tx))
	if err == nil {
		err = rawSetsockopt(fd, solTLS, rxName, string(rx))
	}
	return os.NewSyscallError("setsockopt SOL_TLS", err)
}

// daemonConnection connects to the hand-off daemon.
func daemonConnection(path string) (int, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		syscall.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// handOff gives the daemon a carrier with traffic secrets (docs/handoff.md), and
// returns the data descriptor. The carrier stays the caller's.
func handOff(daemon, carrier int) (int, error) {
	const magic, version, formSecret = 0x534c5461, 1, 2
	ne := binary.NativeEndian
	tx, rx := trafficSecret(ofServer), trafficSecret(ofClient)
	b := ne.AppendUint32(nil, magic)
	b = ne.AppendUint16(b, version)
	for _, v := range []uint16{0, formSecret, uint16(len(tx)), formSecret, uint16(len(rx))} {
		b = ne.AppendUint16(b, v)
	}
	b = append(b, make([]byte, 4+4)...)
	b = append(append(b, tx...), rx...)
	if _, err := syscall.SendmsgN(daemon, b, syscall.UnixRights(carrier), nil, syscall.MSG_NOSIGNAL); err != nil {
		return -1, os.NewSyscallError("sendmsg", err)
	}
	var reply [512]byte
	var oob [64]byte
	n, oobn, _, _, err := syscall.Recvmsg(daemon, reply[:], oob[:], syscall.MSG_CMSG_CLOEXEC)
	const replySize = 12
	switch {
	case err != nil:
		return -1, os.NewSyscallError("recvmsg", err)
	case n < replySize:
		return -1, errors.New("the daemon ended")
	case ne.Uint32(reply[8:]) != 0:
		return -1, fmt.Errorf("the daemon refused: %s", reply[replySize:n])
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return -1, errors.Join(err, errors.New("the daemon's answer has no descriptor"))
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.Join(err, errors.New("the daemon's answer has no descriptor"))
	}
	return fds[0], nil
}

// listenTCP listens on a free port of 127.0.0.1.
func listenTCP() (fd int, addr *syscall.SockaddrInet4, err error) {
	if fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
		return -1, nil, os.NewSyscallError("socket", err)
	}
	const backlog = 128
	err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if err == nil {
		err = syscall.Listen(fd, backlog)
	}
	var sa syscall.Sockaddr
	if err == nil {
		sa, err = syscall.Getsockname(fd)
	}
	if err != nil {
		syscall.Close(fd)
		return -1, nil, os.NewSyscallError("listen", err)
	}
	return fd, sa.(*syscall.SockaddrInet4), nil
}

// acceptTCP accepts a connection, which sends at once what it is given.
func acceptTCP(listener int) (int, error) {
	fd, _, err := syscall.Accept4(listener, syscall.SOCK_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("accept", err)
	}
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
		syscall.Close(fd)
		return -1, os.NewSyscallError("setsockopt", err)
	}
	return fd, nil
}

// tcpPair makes a connection with itself. Both ends block.
func tcpPair() (client, server int, err error) {
	listener, addr, err := listenTCP()
	if err != nil {
		return -1, -1, err
	}
	defer syscall.Close(listener)
	if client, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
		return -1, -1, os.NewSyscallError("socket", err)
	}
	err = syscall.Connect(client, addr)
	if err == nil {
		err = syscall.SetsockoptInt(client, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	}
	if err == nil {
		server, err = acceptTCP(listener)
	}
	if err != nil {
		syscall.Close(client)
		return -1, -1, os.NewSyscallError("connect", err)
	}
	return client, server, nil
}

// unixPair is a pair with as much room as the supervisor gives to its own.
func unixPair() (a, b int, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	const room = 1 << 20
	for _, fd := range fds {
		if syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUFFORCE, room) != nil {
			syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, room)
		}
	}
	return fds[0], fds[1], nil
}

// endsOf makes both ends of one connection of a kind.
func endsOf(kind string) (a, b int, err error) {
	switch kind {
	case kindTCP:
		return tcpPair()
	case kindPair:
		return unixPair()
	case kindFamily:
	default:
		return -1, -1, fmt.Errorf("no connection of kind %q with itself", kind)
	}
	client, server, err := tcpPair()
	if err != nil {
		return -1, -1, err
	}
	defer syscall.Close(client)
	defer syscall.Close(server)
	if a, err = tlsFamily(client, true); err != nil {
		return -1, -1, err
	}
	if b, err = tlsFamily(server, false); err != nil {
		syscall.Close(a)
		return -1, -1, err
	}
	return a, b, nil
}

// makeTLS makes a TLS socket of a kind out of a TCP socket, which it takes, and
// tells how long that took.
func makeTLS(kind string, daemon, carrier int) (fd int, took time.Duration, err error) {
	begin := time.Now()
	switch kind {
	case kindFamily:
		fd, err = tlsFamily(carrier, false)
	case kindULP:
		fd, err = carrier, tlsULP(carrier)
	case kindDaemon:
		fd, err = handOff(daemon, carrier)
	default:
		err = fmt.Errorf("no TLS socket of kind %q", kind)
	}
	took = time.Since(begin)
	if err != nil || fd != carrier {
		syscall.Close(carrier)
	}
	return fd, took, err
}
