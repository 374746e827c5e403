package bench

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"
)

// Echo: how many connections, and bytes of a message.
const (
	echoConns   = 16
	messageSize = 1000
)

// echo: messages go to the server and back, one at a time on each connection.
func (r *runner) echo() error {
	servers, err := r.startAll("echo")
	if err != nil {
		return err
	}
	defer endAll(servers)
	conns := make([][]*tls.Conn, len(servers))
	for i, s := range servers {
		for range echoConns {
			c, err := r.dial(s)
			if err != nil {
				return err
			}
			defer c.Close()
			tc := tls.Client(c, r.clientConfig())
			if err := tc.HandshakeContext(r.ctx); err != nil {
				return fmt.Errorf("%s: %w", peers[i].name, err)
			}
			r.suite(tc.ConnectionState().CipherSuite)
			conns[i] = append(conns[i], tc)
		}
	}
	turns := max(r.scale.echoMessages/echoConns, 1)
	p := pace{name: "echo", reps: r.reps(r.scale.reps), warm: true, servers: servers}
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		used, err := servers[peer].during(func() error {
			return each(conns[peer], func(c *tls.Conn) error { return pingPong(c, turns) })
		})
		if err == nil && used.messages == 0 {
			err = errors.New("the server answered nothing")
		}
		return []float64{float64(used.cpu) / float64(time.Microsecond) / float64(turns*echoConns)}, err
	})
	if err != nil {
		return err
	}
	r.add(fmt.Sprintf("echo %d B x %d", messageSize, echoConns), "CPU us/message", figures[0], &Goal{Of: ofRatio, Max: 1}, foreign)
	return nil
}

func pingPong(c *tls.Conn, turns int) error {
	var out, in [messageSize]byte
	for i := range turns {
		out[i%messageSize]++
		if _, err := c.Write(out[:]); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, in[:]); err != nil {
			return err
		}
		if !bytes.Equal(out[:], in[:]) {
			return errors.New("the echo is not what was sent")
		}
	}
	return nil
}
