package bench

// ProgramConfig says what a process of Program does.
type ProgramConfig struct {
	Row    string // trap, connections, stream, or none: it only answers
	Kind   string // of its TLS sockets: af_tls, tcp_ulp, handd; or of what is compared: tcp, pair
	Socket string // of the daemon
}
