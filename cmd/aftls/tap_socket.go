package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/aftls/aftls/filter"
)

// The protocol of the tap socket: the client sends a tapRequest, as JSON in one
// line, the server answers a tapAnswer, as JSON in one line, and unless it has an
// error a pcapng file follows, until the client ends its direction or the server
// ends.

const (
	maxTapRequest = 128 << 10        // bytes
	tapPatience   = 10 * time.Second // for a request, and for the last bytes of a capture
)

type tapRequest struct {
	Filter  string `json:"filter"`  // as --tap-filter has it
	SnapLen int    `json:"snaplen"` // as --tap-snaplen has it
}

type tapAnswer struct {
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// tapSocket is the socket of a server that can be tapped.
type tapSocket struct {
	taps *taps
	ln   net.Listener
	path string

	mu      sync.Mutex
	clients map[net.Conn]struct{} // nil when it is closed
	wg      sync.WaitGroup
}

// serve makes the socket at path and serves it. Only its owner and root can open
// it (0600). A socket that nobody listens on any more is replaced.
func (t *taps) serve(path string) (*tapSocket, error) {
	ln, err := listenPrivate(path)
	if err != nil {
		return nil, hint(err, "name a path with --tap-socket in a folder of your own, where there is nothing yet")
	}
	s := &tapSocket{taps: t, ln: ln, path: path, clients: make(map[net.Conn]struct{})}
	t.logger.Warn("tap: the plaintext of all connections can be captured", "socket", path)
	s.wg.Go(s.accept)
	return s, nil
}

// listenPrivate listens on a Unix socket that is made with mode 0600: in a folder
// that is its owner's alone, and moved to its place when it has its mode.
func listenPrivate(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("somebody is listening on %s already", path)
	} else if st, serr := os.Lstat(path); serr == nil {
		if !errors.Is(err, syscall.ECONNREFUSED) || st.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("%s is there already", path)
		}
		os.Remove(path)
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".aftls-tap-") // 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // it would unlink the wrong name
	if err = os.Chmod(made, 0o600); err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

func (s *tapSocket) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // no descriptors, and it would not get better by asking
			continue
		}
		s.mu.Lock()
		if s.clients == nil {
			c.Close()
		} else {
			s.clients[c] = struct{}{}
			s.wg.Go(func() { s.client(c) })
		}
		s.mu.Unlock()
	}
}

// close ends captures that run, with all that they have, and the socket.
func (s *tapSocket) close() {
	s.ln.Close()
	os.Remove(s.path)
	s.mu.Lock()
	for c := range s.clients {
		c.SetReadDeadline(time.Now()) // as if the client had ended its direction
	}
	s.clients = nil
	s.mu.Unlock()
	s.wg.Wait()
}

// client serves one client.
func (s *tapSocket) client(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.clients, c)
		s.mu.Unlock()
	}()
	s.mu.Lock()
	if s.clients != nil {
		c.SetReadDeadline(time.Now().Add(tapPatience))
	}
	s.mu.Unlock()
	opt, err := readTapRequest(c)
	begun := make(chan struct{})
	var tap *filter.Tap
	if err == nil {
		// Nothing of the capture goes out in front of the answer.
		tap = filter.NewTap(afterwards{begun, c}, opt)
		err = s.taps.begin(tap)
	}
	if err != nil {
		var answer tapAnswer
		answer.Error = err.Error()
		if h, ok := errors.AsType[*hinted](err); ok {
			answer.Hint = h.hint
		}
		c.SetWriteDeadline(time.Now().Add(tapPatience))
		json.NewEncoder(c).Encode(answer)
		if tap != nil {
			c.Close() // so that the capture which was not to be goes nowhere
			close(begun)
			tap.Close()
		}
		return
	}
	s.taps.logger.Warn("tap: the plaintext of all connections is captured", "socket", s.path, "filter", opt.Comment)
	json.NewEncoder(c).Encode(tapAnswer{})
	close(begun)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.mu.Lock()
		if s.clients != nil {
			c.SetReadDeadline(time.Time{})
		}
		s.mu.Unlock()
		io.Copy(io.Discard, c) // until the client ends its direction
	}()
	select {
	case <-gone:
	case <-tap.Done(): // it takes no more
	}
	s.taps.end()
	c.SetWriteDeadline(time.Now().Add(tapPatience))
	err = tap.Close()
	stats := tap.Stats()
	s.taps.logger.Warn("tap: the capture has ended", "socket", s.path, "packets", stats.Packets, "dropped", stats.Dropped)
	if err != nil {
		s.taps.logger.Error("tap: the capture is not complete", "socket", s.path, "err", err.Error())
	}
	c.Close()
	<-gone
}

// afterwards writes to w once begun is closed.
type afterwards struct {
	begun <-chan struct{}
	w     io.Writer
}

func (a afterwards) Write(p []byte) (int, error) {
	<-a.begun
	return a.w.Write(p)
}

// readTapRequest reads the line that a client begins with.
func readTapRequest(r io.Reader) (opt filter.TapOptions, err error) {
	line, err := bufio.NewReaderSize(io.LimitReader(r, maxTapRequest), 4096).ReadBytes('\n')
	if err != nil {
		return opt, fmt.Errorf("no request came: %w", err)
	}
	var request tapRequest
	if err := json.Unmarshal(line, &request); err != nil {
		return opt, fmt.Errorf("no request: %w", err)
	}
	return tapOptions(request.Filter, request.SnapLen)
}
