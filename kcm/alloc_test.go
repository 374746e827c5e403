// What only holds without the race detector, which allocates where the program
// does not and makes pools forget.

//go:build !race

package kcm_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/aftls/aftls/kcm"
)

func TestFrameAllocs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, p := range protocols(t) {
		f, m := p.framer(), p.one(r)
		if n := testing.AllocsPerRun(100, func() {
			if n, err := f.Frame(m); n != len(m) || err != nil {
				t.Fatal(n, err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", p.name, n)
		}
	}
}

// A question and its answer, over TCP, through reader, mux, endpoint and writer.
func TestMuxAllocs(t *testing.T) {
	for name, c := range map[string]struct {
		messages, size int
		copied         bool
	}{
		"one":      {messages: 1, size: 60},
		"ten":      {messages: 10, size: 60},
		"copied":   {messages: 10, size: 60, copied: true},
		"long":     {messages: 1, size: 60000},
		"ten long": {messages: 10, size: 10000},
	} {
		t.Run(name, func(t *testing.T) {
			mux := kcm.New(kcm.Config{})
			defer mux.Close()
			client, server := tcpPair(t)
			if _, err := mux.Attach(server, kcm.DNS()); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				e, err := mux.Endpoint()
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					var own []byte
					for {
						m, err := kcm.Message{}, error(nil)
						if c.copied {
							own, m.Conn, err = e.ReadMsgInto(own)
							m.Data = own
						} else {
							m, err = e.RecvMsg()
						}
						if err != nil {
							return
						}
						if err := e.SendMsg(m.Conn, m.Data); err != nil {
							t.Error(err)
						}
					}
				}()
			}
			questions := bytes.Repeat(msg(string(make([]byte, c.size))), c.messages)
			answers := make([]byte, len(questions))
			round := func() {
				if _, err := client.Write(questions); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(client, answers); err != nil {
					t.Fatal(err)
				}
			}
			for range 100 { // buffers and queues come to their size
				round()
			}
			if n := testing.AllocsPerRun(500, round); n != 0 {
				t.Errorf("%v allocations per round", n)
			}
			if n := mux.Stats(); n.Messages != uint64(c.messages)*601 {
				t.Errorf("%+v", n)
			}
		})
	}
}

func TestServerAllocs(t *testing.T) {
	l := listen(t)
	s := &kcm.Server{Framer: kcm.RESP, Handler: func(answer []byte, m kcm.Message) ([]byte, error) {
		return append(answer, "+PONG\r\n"...), nil
	}}
	defer s.Close()
	go s.Serve(l)
	client := dial(t, l)
	question, answer := []byte("*1\r\n$4\r\nPING\r\n"), make([]byte, 7)
	round := func() {
		if _, err := client.Write(question); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, answer); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		round()
	}
	if n := testing.AllocsPerRun(500, round); n != 0 {
		t.Errorf("%v allocations per round", n)
	}
}
