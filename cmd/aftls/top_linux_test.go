package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"golang.org/x/sys/unix"
)

// On a terminal the table is drawn again and again, until SIGINT, and the screen is as
// it was then.
func TestTopOnATerminal(t *testing.T) {
	missing := func(err error) {
		t.Helper()
		if aftlstest.Expected("terminal") {
			t.Fatalf("/dev/ptmx or /dev/pts is missing, and AFTLS_EXPECT says that it is here: %v", err)
		}
		t.Skipf("/dev/ptmx or /dev/pts is missing: %v", err)
	}
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		missing(err)
	}
	defer ptmx.Close()
	raw, err := ptmx.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number uint32
	raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetUint32(int(fd), unix.TIOCGPTN)
		}
		if err == nil {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 10, Col: 60})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		missing(err)
	}
	defer tty.Close()
	socket := filepath.Join(t.TempDir(), "s")
	server, addr := startServe(t, greetings(t), "--top-socket", socket)
	get(t, httpClient(t), "https://"+addr+"/greeting")
	c := command(t, "top", "--socket", socket)
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Process.Kill()
	const other, back, home = "\x1b[?1049h", "\x1b[?1049l", "\x1b[H"
	in := bufio.NewReader(ptmx)
	var screen strings.Builder
	until := func(s string, times int) {
		t.Helper()
		for strings.Count(screen.String(), s) < times {
			b, err := in.ReadByte()
			if err != nil {
				t.Fatalf("%v, behind %q", err, screen.String())
			}
			screen.WriteByte(b)
		}
	}
	until(other, 1)
	until("aftls serve, process ", 2)
	if drawn := screen.String(); strings.Count(drawn, home) != 2 || !strings.Contains(drawn, "\r\n127.0.0.1:") {
		t.Errorf("%q", drawn)
	}
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	until(back, 1)
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	end(t, server)
}
