//go:build !go1.27

package aftlshttp

// native says whether net/http serves HTTP/2, and uses it, on any net.Conn with
// a ConnectionState.
const native = false
