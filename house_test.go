package aftls_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/aftls/aftls"

// room says what the code of a folder may import of this module, and of others.
// Do not widen a rule to make a build pass: the direction of the imports is the
// design (docs/architecture.md).
type room struct {
	own   []string
	other []string
}

var house = map[string]room{
	"gcm":                    {other: []string{"golang.org/x/sys/cpu"}},
	"gcm/internal/asm":       {},
	"bpf":                    {other: []string{"golang.org/x/net/bpf"}},
	"record":                 {own: []string{"gcm"}, other: []string{"golang.org/x/crypto/chacha20poly1305"}},
	"internal/handover":      {own: []string{"record"}, other: []string{"github.com/pion/dtls/v3", "github.com/pion/dtls/v3/pkg/crypto/elliptic", "github.com/pion/dtls/v3/pkg/crypto/prf", "github.com/pion/logging", "golang.org/x/crypto/cryptobyte"}},
	"internal/kernel":        {own: []string{"record", "internal/kernel/probe"}, other: []string{"golang.org/x/sys/unix"}},
	"internal/soft":          {own: []string{"record"}, other: []string{"golang.org/x/sys/unix"}},
	".":                      {own: []string{"filter", "record", "internal/handover", "internal/kernel", "internal/soft", "internal/pump"}, other: []string{"golang.org/x/crypto/cryptobyte"}},
	"filter":                 {own: []string{"bpf"}, other: []string{"golang.org/x/net/bpf"}},
	"kcm":                    {own: []string{"bpf"}},
	"internal/pump":          {own: []string{"record"}, other: []string{"golang.org/x/sys/unix"}},
	"internal/seccomp":       {other: []string{"golang.org/x/sys/unix"}},
	"internal/afd":           {own: []string{".", "bpf", "filter", "record", "internal/pump", "internal/seccomp"}, other: []string{"golang.org/x/sys/unix"}},
	"internal/kernel/probe":  {other: []string{"golang.org/x/sys/unix"}},
	"features":               {own: []string{"gcm", "internal/kernel/probe", "internal/seccomp"}},
	"internal/vm":            {other: []string{"golang.org/x/sys/unix"}},
	"internal/vm/vmexec":     {own: []string{"internal/vm"}},
	"internal/vm/vmtest":     {own: []string{"internal/vm"}},
	"aftlshttp":              {own: []string{"."}, other: []string{"golang.org/x/net/http2", "golang.org/x/net/idna"}},
	"aftlsprom":              {own: []string{"."}, other: []string{"github.com/prometheus/client_golang/prometheus"}},
	"aftlsgrpc":              {own: []string{"."}, other: []string{"google.golang.org/grpc/credentials"}},
	"aftlstest":              {own: []string{".", "record", "internal/kernel", "internal/soft"}},
	"aftlstest/hostile":      {own: []string{"record"}},
	"bench":                  {own: []string{".", "aftlsgrpc", "aftlshttp", "record", "kcm", "examples/dot/dotserver"}, other: []string{"github.com/miekg/dns", "github.com/pion/dtls/v3", "google.golang.org/grpc", "google.golang.org/grpc/credentials", "google.golang.org/grpc/interop/grpc_testing"}},
	"examples/dot":           {own: []string{".", "kcm", "examples/dot/dotserver"}, other: []string{"github.com/miekg/dns"}},
	"examples/dot/dotserver": {own: []string{"kcm"}, other: []string{"github.com/miekg/dns"}},
	"examples/ebpf":          {own: []string{"."}, other: []string{"github.com/cilium/ebpf", "github.com/cilium/ebpf/asm", "github.com/cilium/ebpf/link", "golang.org/x/sys/unix"}},
	"examples/thrift-echo":   {own: []string{".", "kcm"}, other: []string{"github.com/apache/thrift/lib/go/thrift"}},
	"cmd/aftls":              {own: []string{".", "aftlshttp", "aftlsprom", "bench", "features", "filter", "record", "internal/afd"}, other: []string{"github.com/pires/go-proxyproto", "github.com/pires/go-proxyproto/tlvparse", "github.com/prometheus/client_golang/prometheus", "github.com/prometheus/client_golang/prometheus/collectors", "github.com/prometheus/client_golang/prometheus/promhttp", "github.com/spf13/cobra", "golang.org/x/term"}},
}

// unsafeFiles are the files that may import unsafe.
var unsafeFiles = []string{"internal/kernel/syscall_linux.go", "internal/soft/source_linux.go", "internal/pump/end_linux.go", "internal/pump/datagrams_linux.go", "internal/afd/sockopt_linux_amd64.go", "internal/seccomp/syscall.go", "internal/seccomp/move.go", "internal/soft/syscall_linux.go", "internal/soft/datagram_port_linux.go", "gcm/overlap.go", "bench/raw_linux_amd64.go"}

// maxLines is how long a file of code may grow before it is two rooms.
const maxLines = 620

func TestImportsRunOneWay(t *testing.T) {
	eachFile(t, func(name string, src []byte) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		dir := path.Dir(name)
		r, ok := house[dir]
		if !ok {
			t.Errorf("%s: the house has no room %q: add it here and to docs/architecture.md", name, dir)
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if p == "C" || p == "unsafe" && !slices.Contains(unsafeFiles, name) {
				t.Errorf("%s imports %q", name, p)
			}
			if own, ok := strings.CutPrefix(p, module); ok {
				if own = strings.TrimPrefix(own, "/"); own == "" {
					own = "."
				}
				if !slices.Contains(r.own, own) {
					t.Errorf("%s: %s may not import %s of this module", name, dir, own)
				}
			} else if first, _, _ := strings.Cut(p, "/"); strings.Contains(first, ".") && !slices.Contains(r.other, p) {
				t.Errorf("%s: %s may not import %s", name, dir, p)
			}
		}
	})
}

func TestFilesStayReadable(t *testing.T) {
	eachFile(t, func(name string, src []byte) {
		for _, word := range []string{"util", "common", "helper", "manager", "misc"} {
			if strings.Contains(strings.ToLower(name), word) {
				t.Errorf("%s: %q says nothing about what is in it", name, word)
			}
		}
		if n := bytes.Count(src, []byte("\n")); n > maxLines && !strings.HasSuffix(name, "_test.go") {
			t.Errorf("%s has %d lines, more than %d", name, n, maxLines)
		}
	})
}

func eachFile(t *testing.T, check func(name string, src []byte)) {
	t.Helper()
	seen := 0
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		seen++
		check(name, src)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 20 {
		t.Fatalf("only %d files were looked at", seen)
	}
}
