package clients_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/aftls/aftls/record"
)

// ends are all ways but the clean one: a program must not take any for that.
func TestEveryOtherEndIsAnError(t *testing.T) {
	ends := []struct {
		name string
		end  func(a *association)
		said string // of the reason
	}{
		{"forged", func(a *association) {
			a.send(a.wire, append([]byte{23, 3, 3, 0, 40}, make([]byte, 40)...))
		}, "end " + fmt.Sprint(int(syscall.EBADMSG))},
		{"too long", func(a *association) {
			a.send(a.wire, []byte{23, 3, 3, 0xff, 0xff})
		}, "end " + fmt.Sprint(int(syscall.EMSGSIZE))},
		{"truncated", func(a *association) {
			if err := a.wire.CloseWrite(); err != nil {
				a.t.Fatal(err)
			}
		}, "end " + fmt.Sprint(int(syscall.ECONNRESET))},
		{"truncated in a record", func(a *association) {
			a.send(a.wire, []byte{23, 3, 3, 0, 40, 1, 2, 3})
			if err := a.wire.CloseWrite(); err != nil {
				a.t.Fatal(err)
			}
		}, "end " + fmt.Sprint(int(syscall.ECONNRESET))},
		{"reset", func(a *association) {
			a.wire.SetLinger(0)
			a.wire.Close()
		}, "end " + fmt.Sprint(int(syscall.ECONNRESET))},
	}
	eachLanguage(t, func(t *testing.T, start starter) {
		daemon := newDaemon(t)
		for _, form := range []string{"secret", "keys"} {
			for _, e := range ends {
				t.Run(form+"/"+e.name, func(t *testing.T) {
					a := handOver(t, start, daemon, aes128, form, "control")
					a.send(a.socket(), []byte("before"))
					// A reset may overtake what was sent before it.
					a.program.do("read 6", saidRead([]byte("before"), ""))
					e.end(a)
					a.program.do("read 100", saidRead(nil, saidErrno(syscall.ECONNRESET)))
					a.program.reason("receive", e.said)
					a.program.do("receive", "closed")
				})
			}
		}
		t.Run("secret/fatal alert", func(t *testing.T) {
			a := handOver(t, start, daemon, aes128, "secret", "control")
			s := a.socket()
			a.send(s, []byte("before"))
			a.record(s, record.AlertRecord, []byte{2, byte(record.InternalError)})
			a.program.do("read 100", saidRead([]byte("before"), saidErrno(syscall.ECONNRESET)))
			a.program.do("receive", "record 21 offset 6 0250")
			a.program.reason("receive", fmt.Sprintf("end %d", int(syscall.ECONNRESET)))
		})
	})
}

// daemonProcess is a daemon that can be killed.
func daemonProcess(t *testing.T) (path string, kill func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "handd")
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), daemonEnv+"="+path)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill = func() {
		if !killed {
			killed = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	t.Cleanup(kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != "listening" {
		t.Fatalf("the daemon said %q, %v", line, err)
	}
	return path, kill
}

// SIGKILL gives the daemon no time for anything. The program must see an error
// whatever its queues hold.
func TestDaemonKilled(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		for _, c := range []struct {
			name   string
			before func(a *association)
			left   string // what the program still reads
		}{
			{"idle", func(*association) {}, ""},
			{"after data", func(a *association) {
				s := a.socket()
				a.send(s, []byte("before"))
				a.program.do("read 6", saidRead([]byte("before"), ""))
				a.program.do("write answer", "ok")
				a.expect(s, []byte("answer"))
			}, ""},
			{"data unread", func(a *association) {
				s := a.socket()
				a.send(s, []byte("before"))
				a.program.do("read 1", saidRead([]byte("b"), ""))
			}, "efore"},
		} {
			t.Run(c.name, func(t *testing.T) {
				path, kill := daemonProcess(t)
				a := handOver(t, start, path, aes128, "secret", "control")
				c.before(a)
				kill()
				a.program.do("read 100", saidRead([]byte(c.left), saidErrno(syscall.ECONNRESET)))
				a.program.do("receive", "closed")
				a.program.do("info", saidErrno(syscall.EPIPE))
			})
		}
	})
}

// A daemon that is killed with something of the program's unread.
func TestDaemonKilledWithQuestions(t *testing.T) {
	eachLanguage(t, func(t *testing.T, start starter) {
		path, kill := daemonProcess(t)
		a := handOver(t, start, path, aes128, "keys", "control")
		// It answers until its queue is full, and nobody receives: the rest waits.
		for range 200 {
			a.program.do("info", "ok")
		}
		kill()
		said := ""
		for range 202 {
			a.program.say("receive")
			if said = a.program.next(); said == "closed" {
				break
			}
			if !strings.HasPrefix(said, "info ") {
				t.Fatalf("the program said %q", said)
			}
		}
		if said != "closed" {
			t.Fatalf("the program said %q, and the daemon is dead", said)
		}
	})
}
