package main

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// need skips where the kernel does not run such programs, or not for this user.
func need(t *testing.T) {
	t.Helper()
	missing := ""
	switch {
	case os.Getuid() != 0:
		missing = "root"
	case features.HaveMapType(ebpf.SockMap) != nil:
		missing = "sockmap (CONFIG_BPF_STREAM_PARSER)"
	case features.HaveProgramHelper(ebpf.SkSKB, asm.FnSkRedirectMap) != nil:
		missing = "sk_skb programs that redirect"
	default:
		return
	}
	if aftlstest.Expected("ebpf") {
		t.Fatalf("%s is missing, and AFTLS_EXPECT says that eBPF works here", missing)
	}
	t.Skipf("%s is missing", missing)
}

func TestVerdicts(t *testing.T) {
	need(t)
	var out bytes.Buffer
	if err := demonstrate(&out); err != nil {
		t.Fatalf("%v, after\n%s", err, &out)
	}
	const want = `"Pass this"     the program reads "Pass this"
"Redirect this" somebody else reads "Redirect this"
"Drop this"     the program reads "", and then the end
`
	if out.String() != want {
		t.Errorf("%s", &out)
	}
}

// The end stays fail-closed: without close_notify its program gets an error, also
// when it is in a sockmap.
func TestGuardedEndIsFailClosed(t *testing.T) {
	need(t)
	v, err := NewVerdict()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	client, end, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	redirected, err := v.Guard(end)
	if err != nil {
		t.Fatal(err)
	}
	defer redirected.Close()
	if _, err := client.Write([]byte("Pass")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, err := (guardedFile{end}).Read(b); string(b[:n]) != "Pass" || err != nil {
		t.Fatal(n, err)
	}
	client.NetConn().Close() // and no close_notify
	if n, err := (guardedFile{end}).Read(b); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d, %v", n, err)
	}
	client.Close()
}
