// Package probe tries what a kernel can do: each probe makes sockets of its own on
// the loopback, does the thing, and looks whether it came out right. A nil error is
// a yes, an errno is the kernel's answer, and ErrWrong says that the kernel took it
// and did something else. Nothing is remembered, and nothing outlives a probe.
//
//	pair_linux.go      two ends of a connection
//	tls_linux.go       TLS sockets and what they can
//	socket_linux.go    other kinds of sockets
//	netlink_linux.go   asking by netlink, and attributes
//	ethtool_linux.go   what network interfaces can take over
//	diag_linux.go      where the records of a living socket are made
//
// What an answer means to a user is said in package features.
package probe
