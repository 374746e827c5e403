package aftls_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

// plaintextPair returns a Conn and the plaintext file of its peer, as the
// net.Conn that it is in this process.
func plaintextPair(t testing.TB, ccfg, scfg *tls.Config) (*aftls.Conn, *net.UnixConn) {
	t.Helper()
	c, s := connPair(t, ccfg, scfg, aftls.Options{})
	return c, plaintext(t, s)
}

func plaintext(t testing.TB, s *aftls.Conn) *net.UnixConn {
	t.Helper()
	f, err := s.PlaintextFile()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	p.SetDeadline(time.Now().Add(20 * time.Second))
	return p.(*net.UnixConn)
}

// suitesOfPumps are the versions, and a suite whose records stay with crypto/tls.
func suitesOfPumps(t *testing.T, run func(t *testing.T, ccfg, scfg *tls.Config)) {
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.3":     func(*tls.Config) {},
		"TLS 1.2":     func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
		"passthrough": func(c *tls.Config) { c.MaxVersion, c.MinVersion = tls.VersionTLS11, tls.VersionTLS10 },
	} {
		t.Run(name, func(t *testing.T) {
			ccfg, scfg := configs(t)
			scfg.MinVersion = tls.VersionTLS10
			change(ccfg)
			run(t, ccfg, scfg)
		})
	}
}

func TestPlaintextFileBothWays(t *testing.T) {
	suitesOfPumps(t, func(t *testing.T, ccfg, scfg *tls.Config) {
		c, p := plaintextPair(t, ccfg, scfg)
		for _, n := range []int{1, 2, 3, 1000, 16384, 16385, 100000, 1 << 20, 5 << 20} {
			transfer(t, c, p, n)
			transfer(t, p, c, n)
		}
		// Both at once.
		var wg sync.WaitGroup
		wg.Go(func() { transfer(t, c, p, 3<<20) })
		wg.Go(func() { transfer(t, p, c, 3<<20) })
		wg.Wait()

		// The program ends its writing; the other direction goes on.
		if _, err := p.Write([]byte("last")); err != nil {
			t.Fatal(err)
		}
		p.CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "last" {
			t.Fatalf("%q, %v", b, err)
		}
		transfer(t, c, p, 100000)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(p); err != nil || len(b) != 0 {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	})
}

// The peer ends first, and the program goes on writing.
func TestPlaintextFilePeerEndsFirst(t *testing.T) {
	suitesOfPumps(t, func(t *testing.T, ccfg, scfg *tls.Config) {
		c, p := plaintextPair(t, ccfg, scfg)
		c.Write([]byte("bye"))
		c.CloseWrite()
		if b, err := io.ReadAll(p); err != nil || string(b) != "bye" {
			t.Fatalf("%q, %v", b, err)
		}
		transfer(t, p, c, 100000)
		p.Write([]byte("bye"))
		p.Close()
		if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
			t.Fatalf("%q, %v", b, err)
		}
	})
}

// A program that reads the file to its end gets every byte of a clean stream and
// no error; what was cut off, forged or forbidden is ECONNRESET, behind the data.
func TestPlaintextFileIsFailClosed(t *testing.T) {
	for name, end := range map[string]func(c *aftls.Conn){
		"truncated": func(c *aftls.Conn) { c.NetConn().Close() },
		"forged": func(c *aftls.Conn) {
			c.NetConn().Write(append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...))
		},
		"fatal alert": func(c *aftls.Conn) {
			c.WriteRecord(record.AlertRecord, []byte{record.LevelFatal, byte(record.InternalError)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, spoke := range []bool{false, true} {
				ccfg, scfg := configs(t)
				a, b := tcpPair(t)
				// Soft: what is written around a Conn to a TLS socket of the kernel
				// would be sealed as data.
				c, s := unlikePair(t, a, b, ccfg, scfg, aftls.Options{Provider: aftls.Soft}, aftls.Options{})
				p := plaintext(t, s)
				if spoke {
					transfer(t, p, c, 10)
				}
				if _, err := c.Write([]byte("data")); err != nil {
					t.Fatal(err)
				}
				end(c)
				got, err := io.ReadAll(p)
				if string(got) != "data" || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
}

func init() { processes["pump"] = killedPump }

// killedPump runs in a process of its own: it takes a carrier as its descriptor
// 3 and a listening Unix socket as 4, and gives whoever comes the plaintext.
func killedPump() error {
	carrier, ln := os.NewFile(3, "carrier"), os.NewFile(4, "listener")
	nc, err := net.FileConn(carrier)
	if err != nil {
		return err
	}
	scfg := &tls.Config{Certificates: []tls.Certificate{aftlstest.NewCA(fatal{}).Leaf(fatal{}, "test.example")}}
	s, err := aftls.Server(context.Background(), nc, scfg, aftls.Options{})
	if err != nil {
		return err
	}
	f, err := s.PlaintextFile()
	if err != nil {
		return err
	}
	l, err := net.FileListener(ln)
	if err != nil {
		return err
	}
	u, err := l.Accept()
	if err != nil {
		return err
	}
	if _, _, err := u.(*net.UnixConn).WriteMsgUnix([]byte{0}, syscall.UnixRights(int(f.Fd())), nil); err != nil {
		return err
	}
	f.Close()
	_, err = u.Read(make([]byte, 1)) // until the test ends us
	return err
}

type fatal struct{ testing.TB }

func (fatal) Helper()           {}
func (fatal) Fatal(args ...any) { panic(args) }

// The pump's process is killed: not even then does a program that never wrote
// take the end of its data for the end of the stream.
func TestPlaintextFileOfAKilledProcess(t *testing.T) {
	for _, spoke := range []bool{false, true} {
		a, b := tcpPair(t)
		carrier, err := b.(*net.TCPConn).File()
		if err != nil {
			t.Fatal(err)
		}
		defer carrier.Close()
		b.Close()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/s", Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		lf, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer lf.Close()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "AFTLS_TEST_PROCESS=pump")
		cmd.ExtraFiles, cmd.Stderr = []*os.File{carrier, lf}, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		carrier.Close()
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		c, err := aftls.Client(context.Background(), a, &tls.Config{InsecureSkipVerify: true}, aftls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		u, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		var oob [64]byte
		_, n, _, _, err := u.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob[:])
		if err != nil {
			t.Fatal(err)
		}
		msgs, err := syscall.ParseSocketControlMessage(oob[:n])
		if err != nil || len(msgs) != 1 {
			t.Fatal(msgs, err)
		}
		fds, err := syscall.ParseUnixRights(&msgs[0])
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fds[0]), "plaintext")
		defer f.Close()
		if spoke {
			transfer(t, f, c, 10)
		}
		transfer(t, c, f, 10)
		cmd.Process.Kill()
		cmd.Wait()
		if n, err := f.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("spoke %v: %d, %v", spoke, n, err)
		}
	}
}

func TestPlaintextFileConsumesTheConn(t *testing.T) {
	ccfg, scfg := configs(t)
	c, s := connPair(t, ccfg, scfg, aftls.Options{})
	p := plaintext(t, s)
	if _, err := s.Write([]byte("x")); !errors.Is(err, aftls.ErrDetached) {
		t.Error(err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, aftls.ErrDetached) {
		t.Error(err)
	}
	if _, err := s.PlaintextFile(); !errors.Is(err, aftls.ErrDetached) {
		t.Error(err)
	}
	s.Close()
	transfer(t, c, p, 1000)
}

// What any program does with a descriptor: be started on it.
func TestPlaintextFileForAProgram(t *testing.T) {
	ccfg, scfg := configs(t)
	c, s := connPair(t, ccfg, scfg, aftls.Options{})
	f, err := s.PlaintextFile()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, os.Stderr
	err = cmd.Start()
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 5<<20)
	rand.Read(data)
	go func() { c.Write(data); c.CloseWrite() }()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// A program that is gone, with the peer silent, leaves nothing behind here.
func TestPlaintextFileOfAProgramThatIsGone(t *testing.T) {
	ccfg, scfg := configs(t)
	for _, unread := range []bool{false, true} {
		c, p := plaintextPair(t, ccfg, scfg)
		if unread {
			c.Write(make([]byte, 100000))
		}
		p.Write([]byte("bye"))
		p.Close()
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if b, err := io.ReadAll(c); string(b) != "bye" || err != nil && !unread {
			t.Errorf("unread %v: %q, %v", unread, b, err)
		}
	}
}

// Keys and policy from elsewhere: a Socket becomes a Conn, with what was read
// too far put back in front.
func TestNewConnOfASocket(t *testing.T) {
	a, b := tcpPair(t)
	secret := func(x byte) record.Keys {
		k, err := record.TrafficKeys(tls.TLS_AES_128_GCM_SHA256, bytes.Repeat([]byte{x}, 32))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	conn := func(carrier net.Conn, send, recv record.Keys, ciphertext []byte, client bool) *aftls.Conn {
		s := aftls.NewSocket(carrier, aftls.Options{})
		if _, err := aftls.NewConn(s, client, nil); !errors.Is(err, aftls.ErrNoKeys) {
			t.Error(err)
		}
		if err := errors.Join(s.SetKeys(aftls.Send, send), s.SetKeys(aftls.Receive, recv), s.Unread(ciphertext)); err != nil {
			t.Fatal(err)
		}
		c, err := aftls.NewConn(s, client, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := conn(a, secret(1), secret(2), nil, true)
	if _, err := c.Write([]byte("hello, world")); err != nil {
		t.Fatal(err)
	}
	early := make([]byte, 7)
	if _, err := io.ReadFull(b, early); err != nil {
		t.Fatal(err)
	}
	s := conn(b, secret(2), secret(1), early, false)
	got := make([]byte, 12)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "hello, world" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := c.Rekey(true); err != nil {
		t.Fatal(err)
	}
	transfer(t, c, s, 1000)
	transfer(t, s, c, 1000)
	if e := s.Info().Send.Epoch; e != 1 {
		t.Errorf("epoch %d", e)
	}
	c.Close()
	if _, err := s.Read(got); err != io.EOF {
		t.Error(err)
	}
}
