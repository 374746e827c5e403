package features

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A standing is how a kernel has a part that can be a module.
type standing int

const (
	unclear  standing = iota
	present           // loaded, or built in
	loadable          // there is a file
	unbuilt           // the kernel was built without it
)

// module says whether net/tls is there. It does not load it: trying ULP may.
func module() Result {
	switch s, where := netTLS("/", release()); s {
	case present:
		return Result{Answer: Yes}
	case loadable:
		return Result{Answer: No, Reason: "it is not loaded, and there as " + where, Remedy: loadTLS, changes: true}
	case unbuilt:
		return Result{Answer: No, Reason: "this kernel was built without CONFIG_TLS, says " + where, Remedy: otherKernel}
	}
	return Result{Answer: Unknown, Reason: "nothing here says how this kernel was built"}
}

// noTLS is the No of ULP in a kernel that has no protocol of this name.
func noTLS() Result {
	switch s, where := netTLS("/", release()); s {
	case unbuilt:
		return Result{Answer: No, Reason: "this kernel was built without CONFIG_TLS, says " + where, Remedy: otherKernel, changes: true}
	case loadable:
		return Result{Answer: No, Reason: "the module tls is not loaded, and the kernel loads it only for who may administrate the network (CAP_NET_ADMIN)", Remedy: loadTLS, changes: true}
	}
	return Result{Answer: No, Reason: "the kernel knows no upper layer protocol tls: the module is not loaded, or there is none", Remedy: loadTLS + "; if there is no such module: " + otherKernel, changes: true}
}

const (
	loadTLS     = "run 'modprobe tls' as root, and for the next boot 'echo tls > /etc/modules-load.d/tls.conf'"
	otherKernel = "run a kernel that has CONFIG_TLS, as those of Debian do; without it records are made in user space"
)

// release is what uname -r says.
func release() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

// netTLS finds out from the files under root; where is the one that says so.
func netTLS(root, release string) (s standing, where string) {
	for _, sign := range []string{"proc/net/tls_stat", "sys/module/tls"} {
		if _, err := os.Stat(filepath.Join(root, sign)); err == nil {
			return present, "/" + sign
		}
	}
	files, _ := filepath.Glob(filepath.Join(root, "lib/modules", release, "kernel/net/tls/tls.ko*"))
	if len(files) > 0 {
		return loadable, files[0]
	}
	for _, config := range []string{"proc/config.gz", "boot/config-" + release} {
		switch v, ok := configured(filepath.Join(root, config), "CONFIG_TLS"); {
		case !ok:
		case v == "y": // and yet not a sign of it
			return unclear, ""
		case v == "":
			return unbuilt, "/" + config
		}
	}
	return unclear, ""
}

// configured looks an option up in a kernel's configuration: y, m, or "" for not set.
// ok says that the file could be read.
func configured(file, option string) (value string, ok bool) {
	f, err := os.Open(file)
	if err != nil {
		return "", false
	}
	defer f.Close()
	var r io.Reader = f
	if filepath.Ext(file) == ".gz" {
		z, err := gzip.NewReader(f)
		if err != nil {
			return "", false
		}
		defer z.Close()
		r = z
	}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if v, is := bytes.CutPrefix(lines.Bytes(), []byte(option+"=")); is {
			return string(v), true
		}
	}
	return "", lines.Err() == nil
}
