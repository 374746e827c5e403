package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What every nginx of a test needs.

// freeAddr is one that nothing listens at, for programs that cannot say which they took.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// openToWorkers lets others into a folder of the test: the workers of a master that root
// started are somebody else.
func openToWorkers(dir string) {
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
}

// nginxPaths are the folders of an nginx that is not installed for this user.
func nginxPaths(prefix string) string {
	return fmt.Sprintf("client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;", prefix)
}

// awaitListener waits until somebody listens. said is for the error.
func awaitListener(t *testing.T, addr string, said func() string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens: %v\n%s", err, said())
		}
	}
}
