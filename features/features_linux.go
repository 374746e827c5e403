package features

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/aftls/aftls/internal/kernel/probe"
	"github.com/aftls/aftls/internal/seccomp"
)

// A trial is how a feature is tried, and what the answers of the kernel mean.
type trial struct {
	try func() error
	// needs is what has to be there for this to make sense.
	needs Feature
	// no are the errnos that are a no, with its reason; every other error leaves it
	// unknown, but for probe.ErrWrong.
	no     map[syscall.Errno]string
	remedy string
	// changes: a no may be mended while we run.
	changes bool
	remark  string // with yes
}

const (
	tls12 = 0x0303
	tls13 = 0x0304

	newerKernel = "run a newer kernel: Linux %s or later, or one of a distribution that has it"
)

var trials = map[Feature]trial{
	ULP: {
		try:     probe.ULP,
		no:      map[syscall.Errno]string{syscall.ENOENT: "", syscall.ENOPROTOOPT: "this kernel is older than upper layer protocols of TCP"},
		remedy:  fmt.Sprintf(newerKernel, "5.1"),
		changes: true,
	},
	TLS12AES128GCM:        suite(tls12, probe.AES128GCM, "gcm"),
	TLS12AES256GCM:        suite(tls12, probe.AES256GCM, "gcm"),
	TLS12ChaCha20Poly1305: suite(tls12, probe.ChaCha20Poly1305, "chacha20poly1305"),
	TLS12AES128CCM:        suite(tls12, probe.AES128CCM, "ccm"),
	TLS13AES128GCM:        suite(tls13, probe.AES128GCM, "gcm"),
	TLS13AES256GCM:        suite(tls13, probe.AES256GCM, "gcm"),
	TLS13ChaCha20Poly1305: suite(tls13, probe.ChaCha20Poly1305, "chacha20poly1305"),
	TLS13AES128CCM:        suite(tls13, probe.AES128CCM, "ccm"),
	Rekey: {
		try:    probe.Rekey,
		needs:  TLS13AES128GCM,
		no:     map[syscall.Errno]string{syscall.EBUSY: "this kernel takes one key for each direction, so a KeyUpdate ends a connection whose receiving side is in the kernel"},
		remedy: fmt.Sprintf(newerKernel, "6.14") + "; with another one leave receiving in user space",
	},
	PayloadLimit: {
		try:    probe.PayloadLimit,
		needs:  TLS13AES128GCM,
		no:     map[syscall.Errno]string{syscall.ENOPROTOOPT: "this kernel makes records of 16384 bytes, whatever limit a peer asks for (RFC 8449)"},
		remedy: fmt.Sprintf(newerKernel, "6.19"),
	},
	Sendfile: {try: probe.Sendfile, needs: TLS13AES128GCM, no: map[syscall.Errno]string{syscall.EINVAL: "this kernel has no sendfile to TLS sockets"}},
	Splice:   {try: probe.Splice, needs: TLS13AES128GCM, no: map[syscall.Errno]string{syscall.EINVAL: "this kernel has no splice to and from TLS sockets"}},
	KCM: {
		try:     probe.KCM,
		no:      map[syscall.Errno]string{syscall.EAFNOSUPPORT: "this kernel has no AF_KCM, or has not loaded it", syscall.EPROTONOSUPPORT: "this kernel has no AF_KCM, or has not loaded it"},
		remedy:  "nothing here needs it: package kcm works in user space",
		changes: true,
		remark:  "not used: over TLS sockets it does not work in any kernel tried",
	},
	MPTCP: {
		try: probe.MPTCP,
		no: map[syscall.Errno]string{
			syscall.EPROTONOSUPPORT: "this kernel was built without CONFIG_MPTCP",
			syscall.EINVAL:          "this kernel is older than Multipath TCP",
			syscall.ENOPROTOOPT:     "it is switched off: net.mptcp.enabled is 0",
		},
		remedy:  "nothing here needs it: TLS sockets exist on plain TCP only",
		changes: true,
		remark:  "a connection over it has no TLS socket",
	},
	GSO: {
		try:    probe.GSO,
		no:     map[syscall.Errno]string{syscall.EINVAL: "this kernel sends one datagram at a time", syscall.EIO: "the interface does not take several datagrams at once"},
		remedy: fmt.Sprintf(newerKernel, "4.18"),
	},
	GRO: {
		try:    probe.GRO,
		needs:  GSO,
		no:     map[syscall.Errno]string{syscall.ENOPROTOOPT: "this kernel gives one datagram at a time"},
		remedy: fmt.Sprintf(newerKernel, "5.0"),
	},
}

func suite(version uint16, c probe.Cipher, module string) trial {
	return trial{
		try:   func() error { return probe.Suite(version, c) },
		needs: ULP,
		no: map[syscall.Errno]string{
			syscall.EINVAL:      "this kernel does not have the cipher in this version of TLS",
			syscall.ENOPROTOOPT: "this kernel does not have the cipher in this version of TLS",
			syscall.ENOENT:      "the module of the cipher is not loaded",
		},
		remedy:  fmt.Sprintf("run 'modprobe %s' as root", module),
		changes: true,
	}
}

// ask tries f, without the memory.
func ask(f Feature) Result {
	switch f {
	case Module:
		return module()
	case Seccomp:
		return seccompNotify()
	}
	t, ok := trials[f]
	if !ok {
		return Result{Answer: Unknown, Reason: fmt.Sprintf("there is no feature %q", string(f))}
	}
	if t.needs != "" {
		if r := try(t.needs); r.Answer != Yes {
			return Result{Answer: r.Answer, Reason: "it needs " + string(t.needs), changes: true}
		}
	}
	r := t.explain(t.try())
	if f == ULP && r.Answer == No && r.Reason == "" {
		r = noTLS()
	}
	return r
}

// explain turns what a probe returned into a result.
func (t trial) explain(err error) Result {
	if err == nil {
		return Result{Answer: Yes, Reason: t.remark}
	}
	if errors.Is(err, probe.ErrWrong) {
		return Result{Answer: No, Reason: err.Error(), Remedy: "report this kernel, with its release"}
	}
	errno, ok := probe.Errno(err)
	if reason, is := t.no[errno]; ok && is {
		return Result{Answer: No, Reason: reason, Remedy: t.remedy, changes: t.changes}
	}
	switch errno {
	case syscall.EPERM, syscall.EACCES:
		return Result{Answer: Unknown, Reason: fmt.Sprintf("this process may not try it: %v", err), Remedy: "ask outside of the container or sandbox"}
	}
	return Result{Answer: Unknown, Reason: fmt.Sprintf("it could not be tried: %v", err)}
}

func seccompNotify() Result {
	err := seccomp.Supported()
	switch {
	case err == nil:
		return Result{Answer: Yes}
	case errors.Is(err, seccomp.ErrForbidden):
		return Result{Answer: Unknown, Reason: err.Error(), Remedy: "allow the seccomp call, or run outside of the container"}
	case errors.Is(err, seccomp.ErrUnsupported):
		return Result{Answer: No, Reason: err.Error(), Remedy: fmt.Sprintf(newerKernel, "5.9")}
	}
	return Result{Answer: Unknown, Reason: err.Error()}
}

// Interfaces returns the network interfaces of this network namespace. The error is
// that of a kernel that cannot be asked (before 5.10).
func Interfaces() ([]Interface, error) {
	found, err := probe.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("features: asking for the features of interfaces: %w", err)
	}
	all := make([]Interface, len(found))
	for i, in := range found {
		all[i] = Interface{in.Name, offload(in.Name, "tls-hw-tx-offload", in.TX), offload(in.Name, "tls-hw-rx-offload", in.RX)}
	}
	return all, nil
}

func offload(name, feature string, o probe.Offload) Result {
	switch o {
	case probe.On:
		return Result{Answer: Yes}
	case probe.Off:
		return Result{Answer: No, Reason: "it is switched off", Remedy: fmt.Sprintf("run 'ethtool -K %s %s on' as root", name, feature), changes: true}
	case probe.Lacking:
		return Result{Answer: No, Reason: "the hardware or its driver cannot"}
	}
	return Result{Answer: Unknown, Reason: "the kernel does not name " + feature}
}

// Sockets counts the TLS sockets of this network namespace by where the kernel makes
// the records of each direction, as INET_DIAG reports it: "software", "device",
// "none" for a direction without keys, "unknown" where it does not tell this user.
func Sockets() (tx, rx map[string]int, err error) {
	found, err := probe.Sockets()
	if err != nil {
		return nil, nil, fmt.Errorf("features: asking for TLS sockets: %w", err)
	}
	tx, rx = map[string]int{}, map[string]int{}
	for _, s := range found {
		tx[s.TX.String()]++
		rx[s.RX.String()]++
	}
	return tx, rx, nil
}

// Counters returns /proc/net/tls_stat, in its order. The error Is [fs.ErrNotExist]
// where the kernel has no TLS sockets, or has not loaded their module.
func Counters() ([]Counter, error) {
	b, err := os.ReadFile("/proc/net/tls_stat")
	if err != nil {
		return nil, err
	}
	return parseCounters(b)
}

func parseCounters(b []byte) ([]Counter, error) {
	var all []Counter
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) != 2 {
			return nil, fmt.Errorf("features: a line of tls_stat is %q", lines.Text())
		}
		n, err := strconv.ParseUint(string(fields[1]), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("features: a counter of tls_stat: %w", err)
		}
		all = append(all, Counter{string(fields[0]), n})
	}
	return all, nil
}
