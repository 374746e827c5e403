package afd

// Numbers of linux/tls.h and linux/tcp.h that golang.org/x/sys lacks, and ours of
// clients/c/aftls.h.
const (
	tlsTX           = 1
	tlsRX           = 2
	tlsTXZerocopyRO = 3
	tlsRXNoPad      = 4
	tlsTXMaxPayload = 5

	tlsSetRecordType = 1
	tlsGetRecordType = 2

	aftlsTXSecret   = 0x4001
	aftlsRXSecret   = 0x4002
	aftlsPolicy     = 0x4003
	aftlsNextRecord = 0x4004
	aftlsControlFD  = 0x4005
	aftlsError      = 0x4006
	aftlsIsClient   = 0x4007
	aftlsMaxMessage = 0x4008
)

// Family is AF_TLS: a number far above those of Linux, which it can never become.
const Family = 0x544c
