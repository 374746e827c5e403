package kcm_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"

	"github.com/aftls/aftls/bpf"
	"github.com/aftls/aftls/kcm"
	xbpf "golang.org/x/net/bpf"
)

// A service in ten lines. With aftls.Listen instead of net.Listen it is one over
// TLS.
func ExampleServer() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	s := &kcm.Server{
		Framer: kcm.DNS, // 2 bytes of length, and so many bytes
		Handler: func(answer []byte, m kcm.Message) ([]byte, error) {
			answer = append(answer, m.Data[:2]...)
			return append(answer, bytes.ToUpper(m.Data[2:])...), nil
		},
	}
	go s.Serve(l)

	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(c, "\x00\x05hello")
	answer := make([]byte, 7)
	if _, err := io.ReadFull(c, answer); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer[2:])
	c.Close()
	fmt.Println(s.Shutdown(context.Background()))
	// Output:
	// HELLO
	// <nil>
}

// A relay: what comes from one connection goes out on the other, message by
// message.
func ExampleMux() {
	relay := func(left, right net.Conn) {
		mux := kcm.New(kcm.Config{Ended: func(c *kcm.Conn, err error) {
			log.Print(c.NetConn().RemoteAddr(), ": ", err)
		}})
		defer mux.Close()
		a, err := mux.Attach(left, kcm.PostgreSQL())
		if err != nil {
			log.Fatal(err)
		}
		b, err := mux.Attach(right, kcm.PostgreSQL())
		if err != nil {
			log.Fatal(err)
		}
		e, err := mux.Endpoint() // one, so that the order stays
		if err != nil {
			log.Fatal(err)
		}
		for {
			m, err := e.RecvMsg()
			if err != nil {
				return
			}
			to := a
			if m.Conn == a {
				to = b
			}
			if err := e.SendMsg(to, m.Data); err != nil {
				return
			}
		}
	}
	_ = relay
}

// A BPF program as AF_KCM has it: 4 bytes of length that count themselves. A
// load behind what has come returns 0, which asks for more.
func ExampleProgram() {
	p, err := bpf.Assemble([]xbpf.Instruction{
		xbpf.LoadAbsolute{Off: 0, Size: 4},
		xbpf.RetA{},
	})
	if err != nil {
		log.Fatal(err)
	}
	f := kcm.Program(p)
	fmt.Println(f.Frame([]byte{0, 0, 1}))
	fmt.Println(f.Frame([]byte{0, 0, 1, 44}))
	// Output:
	// 0 <nil>
	// 300 <nil>
}

// What is missing is as good as known: an array of two strings, of which one
// and the length of the other have come.
func ExampleRESP() {
	f := kcm.RESP()
	fmt.Println(f.Frame([]byte("*2\r\n$3\r\nGET\r\n$5\r\n")))
	fmt.Println(f.Frame([]byte("*2\r\n$3\r\nGET\r\n$5\r\nhello\r\n*1\r\n")))
	// Output:
	// -7 <nil>
	// 24 <nil>
}

// A program with the meaning of SO_ATTACH_FILTER decides about each message.
func ExampleConn_SetFilter() {
	filter := func(c *kcm.Conn, p *bpf.Program) {
		c.SetFilter(func(msg []byte) kcm.Verdict {
			return kcm.Verdict{Keep: int(min(p.Run(msg), 1<<31-1))}
		})
	}
	_ = filter
}
