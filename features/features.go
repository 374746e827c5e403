// Package features says what this machine can do for TLS sockets, and why not. Each
// answer is found by trying the thing: version numbers say little, since
// distributions carry features back to older kernels.
//
// There are three answers. Yes: it was done, and came out right. No: the machine
// refused, for the reason and with the remedy that the result names. Unknown: it
// could not be tried, as where a sandbox forbids the call; the next one may know.
//
// A Yes is remembered until the process ends, and so is a No that nobody can change
// meanwhile. A module that is loaded later is seen.
package features

import (
	"fmt"
	"sync"

	"github.com/aftls/aftls/gcm"
)

// An Answer is what trying came to.
type Answer int

const (
	Unknown Answer = iota
	Yes
	No
)

func (a Answer) String() string {
	switch a {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "unknown"
}

// MarshalText writes the answer as String does.
func (a Answer) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (a *Answer) UnmarshalText(b []byte) error {
	for _, is := range []Answer{Unknown, Yes, No} {
		if string(b) == is.String() {
			*a = is
			return nil
		}
	}
	return fmt.Errorf("features: no answer %q", b)
}

// A Result is an answer and what belongs to it.
type Result struct {
	Answer Answer `json:"answer"`
	// Reason is a sentence without a period: why not, or why it is unknown. With Yes
	// it may be a remark.
	Reason string `json:"reason,omitempty"`
	// Remedy says what to do, where something can be done.
	Remedy string `json:"remedy,omitempty"`

	// changes: somebody may mend it while this process runs.
	changes bool
}

// A Feature is one thing that a machine can do or not. Its text is its name.
type Feature string

// What is needed by TLS sockets of the kernel.
const (
	Module Feature = "module" // the kernel has net/tls: loaded, or built in
	ULP    Feature = "ulp"    // a TCP socket becomes a TLS socket

	// A suite in a version: a record goes from one socket to another.
	TLS12AES128GCM        Feature = "tls1.2-aes-128-gcm"
	TLS12AES256GCM        Feature = "tls1.2-aes-256-gcm"
	TLS12ChaCha20Poly1305 Feature = "tls1.2-chacha20-poly1305"
	TLS12AES128CCM        Feature = "tls1.2-aes-128-ccm"
	TLS13AES128GCM        Feature = "tls1.3-aes-128-gcm"
	TLS13AES256GCM        Feature = "tls1.3-aes-256-gcm"
	TLS13ChaCha20Poly1305 Feature = "tls1.3-chacha20-poly1305"
	TLS13AES128CCM        Feature = "tls1.3-aes-128-ccm"

	Rekey        Feature = "rekey"         // a KeyUpdate of TLS 1.3 is followed, both ways
	PayloadLimit Feature = "payload-limit" // records can be made shorter (RFC 8449)
	Sendfile     Feature = "sendfile"      // a file becomes records without a copy
	Splice       Feature = "splice"        // a pipe becomes records, and records a pipe
)

// What else a machine can do for this module.
const (
	KCM     Feature = "kcm"            // the kernel's connection multiplexor; not used, see docs/kcm.md
	MPTCP   Feature = "mptcp"          // Multipath TCP, which has no TLS sockets
	Seccomp Feature = "seccomp-notify" // programs can be supervised: aftls run
	GSO     Feature = "udp-gso"        // several datagrams go out by one call
	GRO     Feature = "udp-gro"        // several datagrams come in by one call
	VAES    Feature = "vaes"           // AES-GCM by the processor's vector units
)

var all = []Feature{
	Module, ULP,
	TLS12AES128GCM, TLS12AES256GCM, TLS12ChaCha20Poly1305, TLS12AES128CCM,
	TLS13AES128GCM, TLS13AES256GCM, TLS13ChaCha20Poly1305, TLS13AES128CCM,
	Rekey, PayloadLimit, Sendfile, Splice,
	KCM, MPTCP, Seccomp, GSO, GRO, VAES,
}

// All returns every feature, what others need first.
func All() []Feature { return append([]Feature(nil), all...) }

// An Interface is a network interface, and whether its hardware makes the records of
// TLS sockets: with Yes the kernel has it do that by itself, for the suites it can.
type Interface struct {
	Name string `json:"name"`
	TX   Result `json:"tx"`
	RX   Result `json:"rx"`
}

// A Counter is one of the kernel's for the TLS sockets of this network namespace:
// /proc/net/tls_stat.
type Counter struct {
	Name  string
	Value uint64
}

// Kernel is the release of the running kernel, as uname -r says it; "" where that is
// not to be had.
func Kernel() string { return release() }

var known = struct {
	sync.Mutex
	results map[Feature]Result
}{results: map[Feature]Result{}}

// Try finds out about f. The first time it takes as long as some system calls on the
// loopback, and up to some seconds on a machine that is out of its mind. It may be
// called by several goroutines; one tries at a time.
func Try(f Feature) Result {
	known.Lock()
	defer known.Unlock()
	return try(f)
}

// try is Try with the lock held.
func try(f Feature) Result {
	if r, ok := known.results[f]; ok {
		return r
	}
	var r Result
	if f == VAES {
		r = vaes()
	} else {
		r = ask(f)
	}
	if r.Answer == Yes || r.Answer == No && !r.changes {
		known.results[f] = r
	}
	return r
}

func vaes() Result {
	name, reason := gcm.Implementation()
	if name == "generic" {
		return Result{Answer: No, Reason: reason, Remedy: "nothing is wrong: crypto/cipher does AES-GCM"}
	}
	return Result{Answer: Yes, Reason: name}
}
