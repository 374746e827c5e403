package bench

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// unitPerGB is CPU time for 1e9 bytes of application data.
const unitPerGB = "CPU s/GB"

// clientBuffer is what the clients read at once, in bytes.
const clientBuffer = 256 << 10

// fileConns is over how many connections the files and send rows run.
const fileConns = 4

// perGB is a measurement in unitPerGB.
func perGB(cpu time.Duration, bytes int64) []float64 {
	return []float64{cpu.Seconds() / float64(bytes) * 1e9}
}

// files: net/http serves static files over HTTP/1.1 connections that stay open.
func (r *runner) files() error {
	if err := os.MkdirAll(r.www(), 0o700); err != nil {
		return err
	}
	servers, err := r.startAll("files")
	if err != nil {
		return err
	}
	defer endAll(servers)
	for _, size := range r.scale.fileSizes {
		if err := r.filesOf(size, servers); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) filesOf(size int64, servers []*process) error {
	name := fmt.Sprintf("%dm.bin", size>>20)
	want, err := writeFile(filepath.Join(r.www(), name), size)
	if err != nil {
		return err
	}
	gets := make([][]*getter, len(servers))
	for i, s := range servers {
		ls, err := r.links(s, fileConns)
		if err != nil {
			return err
		}
		defer closeLinks(ls)
		for _, l := range ls {
			g := &getter{link: l, path: "/" + name, b: make([]byte, clientBuffer)}
			if err := g.first(size, want); err != nil {
				return fmt.Errorf("%s: %w", peers[i].name, err)
			}
			gets[i] = append(gets[i], g)
		}
	}
	rounds := max(r.scale.fileBytes/size/fileConns, 1)
	p := pace{name: fmt.Sprintf("files %d MB", size>>20), reps: r.reps(r.scale.reps), warm: true, servers: servers}
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		used, err := servers[peer].during(func() error {
			return each(gets[peer], func(g *getter) error { return g.again(rounds) })
		})
		return perGB(used.cpu, rounds*fileConns*size), err
	})
	if err != nil {
		return err
	}
	r.add(p.name, unitPerGB, figures[0], &Goal{Of: ofRatio, Max: 0.75}, foreign)
	return nil
}

// writeFile makes a file of random bytes and returns their hash.
func writeFile(path string, size int64) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	random := rand.NewChaCha8([32]byte{1})
	_, err = io.Copy(io.MultiWriter(f, h), io.LimitReader(random, size))
	return [sha256.Size]byte(h.Sum(nil)), errors.Join(err, f.Close())
}

// getter gets one file over and over on one connection.
type getter struct {
	*link
	path  string
	total int64 // plaintext bytes of one response, head and body
	b     []byte
}

func (g *getter) request() error {
	_, err := io.WriteString(g.link, "GET "+g.path+" HTTP/1.1\r\nHost: "+serverName+"\r\n\r\n")
	return err
}

// first gets the file as every client does, checks it, and learns how long a
// response is: all of them are alike but for their Date, which has one length.
func (g *getter) first(size int64, want [sha256.Size]byte) error {
	if err := g.request(); err != nil {
		return err
	}
	var head []byte
	end := -1
	for end < 0 {
		n, err := g.Read(g.b)
		if err != nil {
			return err
		}
		head = append(head, g.b[:n]...)
		end = bytes.Index(head, []byte("\r\n\r\n"))
	}
	end += 4
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head[:end])), nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength != size {
		return fmt.Errorf("GET %s: %s, %d bytes", g.path, resp.Status, resp.ContentLength)
	}
	g.total = int64(end) + size
	return g.body(head[end:], g.total-int64(len(head)), want)
}

// body reads the rest of the first body and compares it with the file.
func (g *getter) body(begun []byte, left int64, want [sha256.Size]byte) error {
	var h hash.Hash = sha256.New()
	h.Write(begun)
	for left > 0 {
		n, err := g.Read(g.b)
		h.Write(g.b[:n])
		if left -= int64(n); err != nil {
			return err
		}
	}
	if left < 0 || [sha256.Size]byte(h.Sum(nil)) != want {
		return fmt.Errorf("GET %s: the body is not the file", g.path)
	}
	return nil
}

// again gets it some more times, without opening what comes.
func (g *getter) again(times int64) error {
	for range times {
		if err := g.request(); err != nil {
			return err
		}
		if err := g.skip(g.total, g.b); err != nil {
			return err
		}
	}
	return nil
}
