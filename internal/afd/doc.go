// Package afd gives programs in any language a TLS socket: a descriptor that is
// read and written with plaintext, while this process keeps the record layer.
// There are two ways in. The hand-off daemon takes the keys and the TCP socket of
// a handshake that the program did ([Daemon], docs/handoff.md). The supervisor
// takes the socket calls of an unmodified program (docs/run.md). Both make an
// [Association]. Linux.
package afd
