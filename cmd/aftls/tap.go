package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/filter"
	"github.com/spf13/cobra"
)

// tapFlags are those of a server that can be tapped.
type tapFlags struct {
	file, filter, socket string
	snapLen              int
	ciphertext           bool
}

func (f *tapFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.file, "tap", "", "capture the plaintext of all connections in this pcapng file, which must not exist")
	c.Flags().StringVar(&f.filter, "tap-filter", "", "what to capture: an expression, or the output of tcpdump -y RAW -ddd")
	c.Flags().IntVar(&f.snapLen, "tap-snaplen", 0, "bytes to keep of each packet (default: all)")
	c.Flags().BoolVar(&f.ciphertext, "tap-ciphertext", false, "capture the ciphertext instead, and the secrets that decrypt it")
	c.Flags().StringVar(&f.socket, "tap-socket", "", "Unix socket where 'aftls tap' may capture the plaintext of all connections")
}

// check refuses flags that mean nothing together.
func (f *tapFlags) check() error {
	switch {
	case f.file == "" && (f.filter != "" || f.snapLen != 0 || f.ciphertext):
		return hint(errors.New("a tap is described, and there is none"), "name a file with --tap")
	case f.file != "" && f.socket != "":
		return hint(errors.New("--tap and --tap-socket exclude each other: a server has one tap at a time"), "use --tap-socket, and 'aftls tap -w FILE' when it is needed")
	case f.ciphertext && f.snapLen != 0:
		return hint(errors.New("records that are cut cannot be decrypted"), "leave out --tap-snaplen or --tap-ciphertext")
	}
	return nil
}

// tapOptions are those of a capture, from what a user wrote.
func tapOptions(expression string, snapLen int) (filter.TapOptions, error) {
	opt := filter.TapOptions{SnapLen: snapLen, Comment: expression}
	if snapLen < 0 {
		return opt, hint(fmt.Errorf("a snap length of %d bytes", snapLen), "it counts from the IP header: 0 keeps all, 100 keeps 60 bytes of plaintext")
	}
	if expression == "" {
		return opt, nil
	}
	p, err := filter.Parse(expression)
	opt.Filter = p
	return opt, hint(err, "examples: 'port 443 and len > 100', 'data[0:4] = 0x47455420'; see docs/filter.md")
}

// taps are the connections of a server, and the capture that they are in.
type taps struct {
	logger *slog.Logger

	mu    sync.Mutex
	conns map[*aftls.Conn]struct{}
	tap   *filter.Tap // nil: none
}

func newTaps(logger *slog.Logger) *taps {
	return &taps{logger: logger, conns: make(map[*aftls.Conn]struct{})}
}

// state is called for every connection: when it is new, before its first byte,
// and when it has ended.
func (t *taps) state(nc net.Conn, s http.ConnState) {
	c, ok := nc.(*aftls.Conn)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch s {
	case http.StateNew:
		t.conns[c] = struct{}{}
		t.set(c, t.tap)
	case http.StateClosed, http.StateHijacked:
		delete(t.conns, c)
	}
}

// set puts c into a capture. t.mu is held.
func (t *taps) set(c *aftls.Conn, tap *filter.Tap) {
	if err := c.SetTap(tap); err != nil && tap != nil && !errors.Is(err, net.ErrClosed) {
		t.logger.Warn("tap: a connection is not captured", "peer", c.RemoteAddr().String(), "err", err.Error())
	}
}

var errTapped = errors.New("the server is being tapped already")

// begin puts all connections, and those that come, into a capture.
func (t *taps) begin(tap *filter.Tap) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tap != nil {
		return errTapped
	}
	t.tap = tap
	for c := range t.conns {
		t.set(c, tap)
	}
	return nil
}

// end takes them out again.
func (t *taps) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tap = nil
	for c := range t.conns {
		t.set(c, nil)
	}
}

// tapFile is a capture in a file, from beginning to end of a server.
type tapFile struct {
	file   *os.File
	tap    *filter.Tap
	logger *slog.Logger
}

// newTapFile makes the file. It is its owner's alone and was nobody's before.
func newTapFile(f tapFlags, logger *slog.Logger) (*tapFile, error) {
	opt, err := tapOptions(f.filter, f.snapLen)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(f.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, hint(err, "name a file that does not exist, in a folder that you may write to")
	}
	return &tapFile{file, filter.NewTap(file, opt), logger}, nil
}

func (f *tapFile) close() {
	err := errors.Join(f.tap.Close(), f.file.Close())
	s := f.tap.Stats()
	f.logger.Warn("tap: the capture has ended", "file", f.file.Name(), "packets", s.Packets, "dropped", s.Dropped)
	if err != nil {
		f.logger.Error("tap: the capture is not complete", "file", f.file.Name(), "err", err.Error())
	}
}

// watch says when the file can take no more, long before the server ends.
func (f *tapFile) watch(stop <-chan struct{}) {
	select {
	case <-f.tap.Done():
		f.logger.Error("tap: nothing more is captured, the file takes no more", "file", f.file.Name())
	case <-stop:
	}
}

// listen is aftls.Listen with what f says about taps. end ends them.
func (f *tapFlags) listen(addr string, config *tls.Config, opt aftls.Options, t *taps) (ln *aftls.Listener, end func(), err error) {
	if err := f.check(); err != nil {
		return nil, nil, err
	}
	inner, err := provider(opt.Provider).listen("tcp", addr)
	if err != nil {
		return nil, nil, hint(err, "choose another address with --listen; 127.0.0.1:0 takes a free port")
	}
	end = func() {}
	switch {
	case f.socket != "":
		s, err := t.serve(f.socket)
		if err != nil {
			inner.Close()
			return nil, nil, err
		}
		end = s.close
	case f.file != "":
		file, err := newTapFile(*f, t.logger)
		if err != nil {
			inner.Close()
			return nil, nil, err
		}
		if f.ciphertext {
			t.logger.Warn("tap: all connections are captured, with the secrets that decrypt them", "file", f.file)
			config.KeyLogWriter = file.tap.KeyLog()
			inner = ciphertextListener{inner, file.tap}
		} else {
			t.logger.Warn("tap: the plaintext of all connections is captured", "file", f.file)
			t.begin(file.tap)
		}
		stop := make(chan struct{})
		go file.watch(stop)
		end = func() { close(stop); file.close() }
	}
	return aftls.NewListener(inner, config, opt), end, nil
}

// ciphertextListener captures what is on the carriers.
type ciphertextListener struct {
	net.Listener
	tap *filter.Tap
}

func (l ciphertextListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.tap.Conn(c, false), nil
}
