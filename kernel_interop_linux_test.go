package aftls_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

// Every suite, in both roles, against OpenSSL: its records are made by its own code,
// and ours by the kernel.
func TestKernelOpenSSLSuites(t *testing.T) {
	aftlstest.NeedKernel(t)
	opensslSuites(t, kernelOnly, func(t *testing.T, c *aftls.Conn) { wantProviders(t, c, aftls.Kernel, aftls.Kernel) })
}

// OpenSSL changes its key and asks for ours. A kernel with one key for each direction
// ends the connection, and says so to both sides; Auto is not in danger there.
func TestKernelOpenSSLKeyUpdate(t *testing.T) {
	aftlstest.NeedKernel(t)
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	for name, opt := range map[string]aftls.Options{"auto": {}, "kernel": kernelOnly} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, id.server(), opt, echo)
			p := sClient(t, id, s.addr, "-tls1_3")
			c := s.next()
			check := func(line string, send, receive uint64) {
				t.Helper()
				p.Say(line + "\n")
				p.Expect(line + "\n")
				wantKeys(t, c.Conn, send, receive)
			}
			check("first", 0, 0)
			letter := func(l string) {
				p.Say(l + "\n")
				p.Expect("KEYUPDATE")
			}
			switch rekeys := aftlstest.KernelRekeys(); {
			case rekeys:
				wantProviders(t, c.Conn, aftls.Kernel, aftls.Kernel)
				letter("K")
				check("asked", 1, 1)
				letter("k")
				check("told", 1, 2)
				if err := c.Rekey(true); err != nil {
					t.Fatal(err)
				}
				check("ours", 2, 3)
				p.Say("Q\n")
				c.wantEOF()
			case name == "auto":
				t.Log("not there: a second key, so that Auto receives in soft")
				wantProviders(t, c.Conn, aftls.Kernel, aftls.Soft)
				letter("k")
				check("told", 0, 1)
				p.Say("Q\n")
				c.wantEOF()
			default:
				t.Log("not there: a second key (EBUSY)")
				letter("k")
				if err := c.end(); !errors.Is(err, aftls.ErrNoRekey) {
					t.Errorf("behind a KeyUpdate: %v", err)
				}
				p.Expect("internal error")
			}
		})
	}
}

// OpenSSL breaks a record: the connection ends with the error that soft has for it.
func TestKernelOpenSSLBadRecord(t *testing.T) {
	aftlstest.NeedKernel(t)
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			s := serve(t, id.server(), kernelOnly, echo)
			tap := startWiretap(t, s.addr)
			p := sClient(t, id, tap.addr, flag(v.id))
			p.Say("whole\n")
			p.Expect("whole\n")
			tap.forth.flip.Store(true)
			p.Say("broken\n")
			err := s.next().end()
			if e, ok := errors.AsType[*aftls.PeerError](err); !ok || e.Alert != record.BadRecordMAC {
				t.Errorf("the connection ended with %v", err)
			}
			p.Wait() // it sees an end
			if strings.Contains(p.Output(), "broken") {
				t.Error("a broken record came back")
			}
		})
	}
}
