package bench

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// rowProxy is the row whose servers pass plaintext on to a backend, which is in
// the client's process. They find its address in a file.
const (
	rowProxy    = "proxy"
	backendFile = "backend"
)

// What the backend does on a connection: its first byte says it.
const (
	backendTakes  = 0 // takes everything
	backendEchoes = 1
	backendSends  = 2 // sends as many bytes as each command says
)

// backendCommand is the length of a command: backendSends and a number.
const backendCommand = 8

// proxy: TLS from the client, plain TCP to the backend, a large answer, a large
// upload, and small requests with small answers.
func (r *runner) proxy() error {
	ln, err := r.backend()
	if err != nil {
		return err
	}
	defer ln.Close()
	names, servers, err := r.startProxies(ln)
	if err != nil {
		return err
	}
	defer endAll(servers)
	for _, part := range []func([]string, []*process) error{r.proxyDown, r.proxyUp} {
		if err := part(names, servers); err != nil {
			return err
		}
	}
	return r.proxyRequests(ln)
}

// startProxies starts the servers of the row, and what else ends TLS and is here.
func (r *runner) startProxies(backend net.Listener) (names []string, servers []*process, err error) {
	names, servers, err = r.startTerminators(backend.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	ours, err := r.startAll(rowProxy)
	if err != nil {
		endAll(servers)
		return nil, nil, err
	}
	return append(peerNames(), names...), append(ours, servers...), nil
}

func (r *runner) proxyDown(names []string, servers []*process) error {
	ls := make([][]*link, len(servers))
	for i, s := range servers {
		var err error
		if ls[i], err = r.links(s, fileConns); err != nil {
			return err
		}
		defer closeLinks(ls[i])
		// The first byte is really read, and the tickets in front of it with it:
		// from there on there are records of data only.
		for _, l := range ls[i] {
			if err := backendAnswers(l, 1); err != nil {
				return fmt.Errorf("%s: %w", names[i], err)
			}
			if _, err := io.ReadFull(l, make([]byte, 1)); err != nil {
				return fmt.Errorf("%s: %w", names[i], err)
			}
		}
	}
	part := r.scale.proxyBytes / fileConns
	p := pace{name: "proxy down", reps: r.reps(r.scale.reps), warm: true, servers: servers, peers: names}
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		used, err := servers[peer].during(func() error {
			return each(ls[peer], func(l *link) error {
				if err := backendAnswers(l, part); err != nil {
					return err
				}
				return l.skip(part, make([]byte, clientBuffer))
			})
		})
		return perGB(used.cpu, part*fileConns), err
	})
	if err != nil {
		return err
	}
	r.addOf(names, p.name, unitPerGB, figures[0], &Goal{Of: ofRatio, Max: 0.75}, foreign)
	return nil
}

// backendAnswers has the backend send n bytes.
func backendAnswers(w io.Writer, n int64) error {
	_, err := w.Write(binary.BigEndian.AppendUint64(nil, backendSends<<56|uint64(n)))
	return err
}

// proxyUp sends records that were sealed before the clock started, like receive.
func (r *runner) proxyUp(names []string, servers []*process) error {
	var sealed [receiveConns][]byte
	p := pace{name: "proxy upload", reps: r.reps(r.scale.receiveReps), warm: true, servers: servers, peers: names}
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		ls, err := r.links(servers[peer], receiveConns)
		if err != nil {
			return nil, err
		}
		defer closeLinks(ls)
		jobs := make([]upload, len(ls))
		total := int64(0)
		for i, l := range ls {
			n, err := l.seal(&sealed[i], r.scale.proxyBytes/receiveConns)
			if err != nil {
				return nil, err
			}
			total += n
			jobs[i] = upload{l, sealed[i]}
		}
		used, err := servers[peer].during(func() error { return each(jobs, upload.run) })
		return perGB(used.cpu, total), err
	})
	if err != nil {
		return err
	}
	r.addOf(names, p.name, unitPerGB, figures[0], &Goal{Of: ofRatio, Max: 0.75}, foreign)
	return nil
}

// proxyRequests spreads its repetitions over lives of the servers, as h2 does.
func (r *runner) proxyRequests(backend net.Listener) error {
	turns := max(r.scale.echoMessages/echoConns, 1)
	var names []string
	samples, foreign, err := r.lives(r.reps(r.scale.reps), func(reps int) (samples series, foreign *float64, err error) {
		names, samples, foreign, err = r.proxyPingPong(backend, turns, reps)
		return samples, foreign, err
	})
	if err != nil {
		return err
	}
	// Requests for each second of CPU are this the other way round.
	r.addOf(names, fmt.Sprintf("proxy %d B x %d", messageSize, echoConns), "CPU us/request", samples, &Goal{Of: ofRatio, Max: 1}, foreign)
	return nil
}

func (r *runner) proxyPingPong(backend net.Listener, turns, reps int) ([]string, series, *float64, error) {
	names, servers, err := r.startProxies(backend)
	if err != nil {
		return nil, nil, nil, err
	}
	defer endAll(servers)
	conns := make([][]*tls.Conn, len(servers))
	for i, s := range servers {
		for range echoConns {
			carrier, err := r.dial(s)
			if err != nil {
				return nil, nil, nil, err
			}
			defer carrier.Close()
			c := tls.Client(carrier, r.clientConfig())
			if err := c.HandshakeContext(r.ctx); err != nil {
				return nil, nil, nil, fmt.Errorf("%s: %w", names[i], err)
			}
			conns[i] = append(conns[i], c)
		}
	}
	p := pace{name: "proxy requests", reps: reps, warm: true, servers: servers, peers: names}
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		used, err := servers[peer].during(func() error {
			return each(conns[peer], func(c *tls.Conn) error { return pingPong(c, turns) })
		})
		return []float64{float64(used.cpu) / float64(time.Microsecond) / float64(turns*echoConns)}, err
	})
	if err != nil {
		return nil, nil, nil, err
	}
	return names, figures[0], foreign, nil
}

// backend starts one, and leaves its address for the servers.
func (r *runner) backend() (net.Listener, error) {
	if err := os.MkdirAll(r.www(), 0o700); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(r.www(), backendFile), []byte(ln.Addr().String()), 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serveBackend(c) // what fails here, the client misses
			}()
		}
	}()
	return ln, nil
}

func serveBackend(c net.Conn) error {
	b := make([]byte, clientBuffer)
	var first [backendCommand]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		return err
	}
	switch first[0] {
	case backendTakes:
		for {
			if _, err := c.Read(b); err != nil {
				return noEOF(err)
			}
		}
	case backendEchoes:
		// A message is the request of the client and the answer to it.
		for n := copy(b, first[:]); ; n = 0 {
			if _, err := io.ReadFull(c, b[n:messageSize]); err != nil {
				return noEOF(err)
			}
			if _, err := c.Write(b[:messageSize]); err != nil {
				return err
			}
		}
	}
	clear(b)
	for {
		left := int64(binary.BigEndian.Uint64(first[:]) &^ (0xff << 56))
		for left > 0 {
			n, err := c.Write(b[:min(left, int64(len(b)))])
			if left -= int64(n); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(c, first[:]); err != nil {
			return noEOF(err)
		}
	}
}

// relay is the server of the row: what one would write in Go, and what 'aftls
// proxy' does.
func relay(to string) func(net.Conn) error {
	return func(c net.Conn) error {
		b, err := net.Dial("tcp", to)
		if err != nil {
			return err
		}
		defer b.Close()
		up := make(chan error, 1)
		go func() {
			_, err := io.Copy(b, c)
			up <- errors.Join(err, b.(*net.TCPConn).CloseWrite())
		}()
		_, err = io.Copy(c, b)
		c.(interface{ CloseWrite() error }).CloseWrite()
		// A client of this row goes away as it likes, and counts its bytes itself.
		return errors.Join(err, ignoreCut(<-up))
	}
}

// ignoreCut is nil for the end of a client that only closed its carrier.
func ignoreCut(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
