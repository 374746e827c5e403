package kcm_test

import (
	"testing"

	"github.com/aftls/aftls/kcm"
	xbpf "golang.org/x/net/bpf"
)

var sink int

func BenchmarkFrame(b *testing.B) {
	for _, c := range []struct {
		name   string
		framer kcm.Framer
		head   string
	}{
		{"length2", length(b, kcm.Length{Size: 2, Offset: 4, Add: 6})(), "....\x00\x05payload"},
		{"length4", length(b, kcm.Length{Size: 4, LittleEndian: true})(), "\x06\x00\x00\x00payload"},
		{"dns", kcm.DNS(), "\x00\x07payload"},
		{"thrift", kcm.Thrift(), "\x00\x00\x00\x07payload"},
		{"http2", kcm.HTTP2(), "\x00\x00\x07......payload"},
		{"memcached", kcm.Memcached(), "\x80.......\x00\x00\x00\x07............payload"},
		{"postgresql", kcm.PostgreSQL(), "Q\x00\x00\x00\x0dSELECT 1;"},
		{"mqtt", kcm.MQTT(), "\x30\x87\x01payload"},
		{"resp", kcm.RESP(), "*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000001\r\n$8\r\nxxxxxxxx\r\n"},
		{"resp answer", kcm.RESP(), "$8\r\nxxxxxxxx\r\n"},
		{"program", programOf(b, xbpf.LoadAbsolute{Off: 0, Size: 4}, xbpf.ALUOpConstant{Op: xbpf.ALUOpAdd, Val: 4}, xbpf.RetA{})(), "\x00\x00\x00\x07payload"},
	} {
		b.Run(c.name, func(b *testing.B) {
			head := []byte(c.head)
			for b.Loop() {
				n, err := c.framer.Frame(head)
				if err != nil || n <= 0 {
					b.Fatal(n, err)
				}
				sink += n
			}
		})
	}
}
