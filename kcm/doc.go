// Package kcm makes messages out of byte streams, and shares the work on them:
// what Linux does with AF_KCM, in user space, on any net.Conn. It knows nothing
// of TLS.
//
// A [Framer] finds where a message ends. There are framers for the protocols
// that are in use ([DNS], [HTTP2], [PostgreSQL], …), for lengths at a fixed place
// ([Length]) and for BPF programs ([Program]).
//
// A [Mux] stands between attached connections ([Conn]) and endpoints
// ([Endpoint]), any number of each. A whole message goes to one endpoint, with
// the connection that it came from; an answer goes back there, whole, in
// whatever order answers are ready. [Server] is a service made of a Mux.
//
// docs/kcm.md has a picture of who wakes whom.
package kcm
