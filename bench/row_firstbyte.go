package bench

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// rowFirstByte is the row whose servers have both CPUs: it is about waiting, and
// nobody waits for a server that has one CPU for all of its goroutines.
const rowFirstByte = "firstbyte"

// firstByteFile is the size of the file that the first byte row asks for.
const firstByteFile = 256 << 10

// firstByte: how long a client waits from its SYN to the first byte of an
// answer, with a full handshake between, its request right behind its Finished,
// and nothing else going on. This row is wall-clock time, as no CPU time tells
// how long somebody waited: the figure of a repetition is the median over its
// connections.
func (r *runner) firstByte() error {
	if err := os.MkdirAll(r.www(), 0o700); err != nil {
		return err
	}
	const name = "first.bin"
	if _, err := writeFile(filepath.Join(r.www(), name), firstByteFile); err != nil {
		return err
	}
	samples, foreign, err := r.lives(r.reps(r.scale.firstByteReps), func(reps int) (series, *float64, error) {
		servers, err := r.startAll(rowFirstByte)
		if err != nil {
			return nil, nil, err
		}
		defer endAll(servers)
		p := pace{name: "first byte", reps: reps, warm: true, servers: servers}
		figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
			waits := make([]float64, r.scale.firstBytes)
			for i := range waits {
				wait, err := r.waitFirst(servers[peer], "/"+name)
				if err != nil {
					return nil, err
				}
				waits[i] = float64(wait) / float64(time.Microsecond)
			}
			return []float64{median(waits)}, nil
		})
		if err != nil {
			return nil, nil, err
		}
		return figures[0], foreign, nil
	})
	if err != nil {
		return err
	}
	r.add("first byte", "us", samples, &Goal{Of: ofRatio, Max: 1}, foreign)
	return nil
}

// waitFirst gets a file on a connection of its own.
func (r *runner) waitFirst(s *process, path string) (time.Duration, error) {
	begin := time.Now()
	carrier, err := r.dial(s)
	if err != nil {
		return 0, err
	}
	defer carrier.Close()
	c := tls.Client(carrier, r.clientConfig())
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, serverName); err != nil {
		return 0, err
	}
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		return 0, err
	}
	wait := time.Since(begin)
	if n, err := io.Copy(io.Discard, c); err != nil || n < firstByteFile {
		return 0, errors.Join(fmt.Errorf("the answer to GET %s had %d bytes", path, n), err)
	}
	return wait, nil
}
