package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/afd"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

func TestHanddStartsAndEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	p := start(t, "handd", "--socket", path)
	line, err := p.stdout.ReadString('\n')
	if err != nil || line != "listening "+path+"\n" {
		t.Fatal(line, err)
	}
	// Nobody else may look into its memory.
	if _, err := os.ReadFile("/proc/" + strconv.Itoa(p.Process.Pid) + "/environ"); err == nil && os.Getuid() != 0 {
		t.Error("the daemon can be looked into")
	}
	c, err := net.Dial("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	second := start(t, "handd", "--socket", path)
	if code := second.exit(); code != 1 || !strings.Contains(second.errors(), "hint: choose another socket") {
		t.Error(code, second.errors())
	}
	p.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error(code, p.errors())
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is left behind")
	}
}

// As systemd starts it: the process that execs it has the number in LISTEN_PID.
func TestHanddActivated(t *testing.T) {
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inner := command(t, "handd")
	p := &process{Cmd: command(t), t: t}
	p.Cmd.Path, p.Cmd.Args = "/bin/sh", []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" handd`, inner.Path}
	p.Cmd.ExtraFiles = []*os.File{f}
	p.begin()
	line, err := p.stdout.ReadString('\n')
	if err != nil || line != "listening "+ln.Addr().String()+"\n" {
		t.Fatal(line, err, p.errors())
	}
	c, err := net.Dial("unixpacket", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("rubbish"))
	var b [512]byte
	if n, err := c.Read(b[:]); err != nil || !strings.Contains(string(b[:n]), "not a request") && !strings.Contains(string(b[:n]), "0 descriptors") {
		t.Error(n, err)
	}
	p.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error(code, p.errors())
	}
}

// handOver gives the daemon one end of a TCP connection, with keys in one form
// (docs/handoff.md), and returns what the program gets and the peer.
func handOver(t *testing.T, path string, control bool) (program net.Conn, peer *aftls.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	carrier, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer carrier.Close()
	other, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	const suite, cipher, trafficSecret, cryptoInfo = 0x1301, 51, 2, 1
	secret := func(x byte) []byte { return bytes.Repeat([]byte{x}, 32) }
	keys := func(x byte) record.Keys {
		k, err := record.TrafficKeys(suite, secret(x))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	le := binary.NativeEndian
	flags, form := uint16(4), uint16(trafficSecret) // the program is the client
	ours := func(x byte) []byte {
		b := le.AppendUint16(le.AppendUint16(le.AppendUint16(nil, 0x0304), cipher), 32)
		return append(append(append(b, make([]byte, 2+8)...), secret(x)...), make([]byte, 16)...)
	}
	if control { // the program deals with control records: keys alone
		flags, form = 4|1, cryptoInfo
		ours = func(x byte) []byte {
			b, err := afd.AppendCryptoInfo(nil, keys(x))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	send, receive := ours(1), ours(2)
	b := le.AppendUint16(le.AppendUint16(le.AppendUint32(nil, 0x534c5461), 1), flags)
	for _, k := range [][]byte{send, receive} {
		b = le.AppendUint16(le.AppendUint16(b, form), uint16(len(k)))
	}
	b = append(append(append(b, make([]byte, 8)...), send...), receive...)
	file, err := carrier.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c, err := net.Dial("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	uc := c.(*net.UnixConn)
	if _, _, err := uc.WriteMsgUnix(b, unix.UnixRights(int(file.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	var reply, oob [512]byte
	n, m, _, _, err := uc.ReadMsgUnix(reply[:], oob[:])
	if err != nil || n < 12 || le.Uint32(reply[8:]) != 0 {
		t.Fatalf("%v, %q", err, reply[:n])
	}
	messages, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "handed")
		end, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { end.Close() })
		if i == 0 {
			program = end
		}
	}
	program.SetDeadline(time.Now().Add(30 * time.Second))
	s := aftls.NewSocket(other, aftls.Options{})
	if err := errors.Join(s.SetKeys(aftls.Send, keys(2)), s.SetKeys(aftls.Receive, keys(1))); err != nil {
		t.Fatal(err)
	}
	if peer, err = aftls.NewConn(s, false, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	peer.SetDeadline(time.Now().Add(30 * time.Second))
	return program, peer
}

// What the daemon pumps for its programs is shown and captured, whoever deals with
// the control records, and stays their own before and after.
func TestTapAndTopOfHandd(t *testing.T) {
	dir := t.TempDir()
	path, socket, file := filepath.Join(dir, "handd"), filepath.Join(dir, "tap"), filepath.Join(dir, "tap.pcapng")
	p := start(t, "handd", "--socket", path, "--tap-socket", socket)
	if _, err := p.stdout.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	p.await("can be captured")
	isPrivate(t, socket)
	type pair struct {
		program net.Conn
		peer    *aftls.Conn
	}
	var pairs []pair
	for _, control := range []bool{false, true} {
		program, peer := handOver(t, path, control)
		pairs = append(pairs, pair{program, peer})
	}
	talk := func(when string) {
		t.Helper()
		for _, p := range pairs {
			for _, ends := range [][2]io.ReadWriter{{p.program, p.peer}, {p.peer, p.program}} {
				io.WriteString(ends[0], when)
				got := make([]byte, len(when))
				if _, err := io.ReadFull(ends[1], got); err != nil || string(got) != when {
					t.Fatalf("%q, %v", got, err)
				}
			}
		}
	}
	talk("before the tap")
	tap := start(t, "tap", "--socket", socket, "-w", file)
	p.await("is captured")
	talk("during the tap")
	s := topOf(t, socket)
	if len(s.Connections) != 2 || s.Command != "handd" {
		t.Fatalf("%+v", s)
	}
	for _, row := range s.Connections {
		known := slices.ContainsFunc(pairs, func(p pair) bool { return p.peer.LocalAddr().String() == row.Peer })
		if !known || !row.Tapped || row.Send.Bytes != 28 || row.Receive.Bytes != 28 {
			t.Errorf("%+v", row)
		}
	}
	end(t, tap)
	p.await("the capture has ended")
	talk("after the tap")
	capture := pcapng(t, file)
	for _, pair := range pairs {
		addr := pair.peer.LocalAddr().String()
		if sent, got := plaintext(capture, addr); sent != "during the tap" || got != sent {
			t.Errorf("the peer sent %q and got %q", sent, got)
		}
	}
	for i, pair := range pairs {
		pair.peer.CloseWrite()
		if b, err := io.ReadAll(pair.program); len(b) > 0 || err != nil {
			t.Errorf("%d: %q, %v", i, b, err)
		}
		pair.program.Close()
		if b, err := io.ReadAll(pair.peer); len(b) > 0 || err != nil {
			t.Errorf("%d: %q, %v", i, b, err)
		}
	}
	end(t, p)
	if s, err := os.ReadDir(dir); err != nil || len(s) != 1 {
		t.Errorf("sockets are left: %v, %v", s, err)
	}
}
