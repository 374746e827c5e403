package bpf_test

import (
	"testing"

	"github.com/aftls/aftls/bpf"
	xbpf "golang.org/x/net/bpf"
)

// ins is a raw instruction.
func ins(op uint16, jt, jf uint8, k uint32) xbpf.RawInstruction {
	return xbpf.RawInstruction{Op: op, Jt: jt, Jf: jf, K: k}
}

func mustNew(t testing.TB, raw ...xbpf.RawInstruction) *bpf.Program {
	t.Helper()
	p, err := bpf.New(raw)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustParse(t testing.TB, text string) *bpf.Program {
	t.Helper()
	p, err := bpf.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What tcpdump -ddd and tcpdump -d print for "tcp port 80" on Ethernet.
const (
	port80 = `24
40 0 0 12
21 0 8 34525
48 0 0 20
21 2 0 132
21 1 0 6
21 0 17 17
40 0 0 54
21 14 0 80
40 0 0 56
21 12 13 80
21 0 12 2048
48 0 0 23
21 2 0 132
21 1 0 6
21 0 8 17
40 0 0 20
69 6 0 8191
177 0 0 14
72 0 0 14
21 2 0 80
72 0 0 16
21 0 1 80
6 0 0 262144
6 0 0 0
`
	port80Dump = `(000) ldh      [12]
(001) jeq      #0x86dd          jt 2	jf 10
(002) ldb      [20]
(003) jeq      #0x84            jt 6	jf 4
(004) jeq      #0x6             jt 6	jf 5
(005) jeq      #0x11            jt 6	jf 23
(006) ldh      [54]
(007) jeq      #0x50            jt 22	jf 8
(008) ldh      [56]
(009) jeq      #0x50            jt 22	jf 23
(010) jeq      #0x800           jt 11	jf 23
(011) ldb      [23]
(012) jeq      #0x84            jt 15	jf 13
(013) jeq      #0x6             jt 15	jf 14
(014) jeq      #0x11            jt 15	jf 23
(015) ldh      [20]
(016) jset     #0x1fff          jt 23	jf 17
(017) ldxb     4*([14]&0xf)
(018) ldh      [x + 14]
(019) jeq      #0x50            jt 22	jf 20
(020) ldh      [x + 16]
(021) jeq      #0x50            jt 22	jf 23
(022) ret      #262144
(023) ret      #0
`
)

// packet is an Ethernet frame with IPv4 and TCP from port 1234 to port.
func packet(port uint16) []byte {
	b := make([]byte, 14+20+20)
	b[12], b[13] = 0x08, 0x00
	b[14] = 0x45
	b[23] = 6
	b[34], b[35] = 1234>>8, 1234&0xff
	b[36], b[37] = byte(port>>8), byte(port)
	return b
}
