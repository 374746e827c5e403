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

// The protocol of the watch socket, in lines of JSON: the client sends a
// watchRequest, and the server answers a watchAnswer. Unless that has an error there
// follows, to a request for a tap, a pcapng file, until the client ends its direction
// or the server ends; to one for top a topSnapshot. That is all of a connection.

const (
	maxWatchRequest = 128 << 10        // bytes
	watchPatience   = 10 * time.Second // for a request, and for the client to take what it asked for
	maxWatchers     = 32               // clients of a socket
)

type watchRequest struct {
	Tap *tapRequest `json:"tap,omitempty"`
	Top *topRequest `json:"top,omitempty"`
}

type tapRequest struct {
	Filter  string `json:"filter"`  // as --tap-filter has it
	SnapLen int    `json:"snaplen"` // as --tap-snaplen has it
}

type topRequest struct{}

type watchAnswer struct {
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// watchSocket is the socket of a server that can be looked at.
type watchSocket struct {
	roster   *roster
	ln       net.Listener
	path     string
	tappable bool

	mu      sync.Mutex
	clients map[net.Conn]struct{} // nil when it is closed
	wg      sync.WaitGroup
}

// serveWatch makes the socket at path and serves it. Only its owner and root can
// open it (0600). A socket that nobody listens on any more is replaced.
func serveWatch(path string, tappable bool, r *roster) (*watchSocket, error) {
	ln, err := listenPrivate(path)
	if err != nil {
		return nil, err
	}
	s := &watchSocket{roster: r, ln: ln, path: path, tappable: tappable, clients: make(map[net.Conn]struct{})}
	if tappable {
		r.logger.Warn("tap: the plaintext of all connections can be captured", "socket", path)
	} else {
		r.logger.Info("top: the connections can be looked at", "socket", path)
	}
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
	dir, err := os.MkdirTemp(filepath.Dir(path), ".aftls-watch-") // 0700
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

func (s *watchSocket) accept() {
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
		switch {
		case s.clients == nil:
			c.Close()
		case len(s.clients) == maxWatchers:
			answer(c, hint(fmt.Errorf("%d clients look at this server already", maxWatchers), "end one of them"))
			c.Close()
		default:
			s.clients[c] = struct{}{}
			s.wg.Go(func() { s.client(c) })
		}
		s.mu.Unlock()
	}
}

// close ends captures that run, with all that they have, and the socket.
func (s *watchSocket) close() {
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
func (s *watchSocket) client(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.clients, c)
		s.mu.Unlock()
	}()
	s.expect(c, time.Now().Add(watchPatience))
	r := bufio.NewReaderSize(c, 4096)
	request, err := readWatchRequest(r)
	switch {
	case err != nil:
		answer(c, err)
	case request.Tap != nil:
		s.tap(c, r, request.Tap)
	default:
		answer(c, nil)
		writeTop(patient{c}, s.roster)
	}
}

// patient gives a client that takes some of what it asked for the time to take more.
type patient struct{ c net.Conn }

func (p patient) Write(b []byte) (int, error) {
	p.c.SetWriteDeadline(time.Now().Add(watchPatience))
	return p.c.Write(b)
}

// expect gives the client until then to send something, unless the socket is
// closed.
func (s *watchSocket) expect(c net.Conn, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients != nil {
		c.SetReadDeadline(until)
	}
}

// answer sends what came of a request. Whether the client takes it shows in what
// follows.
func answer(c net.Conn, err error) {
	var a watchAnswer
	if err != nil {
		a.Error = err.Error()
		if h, ok := errors.AsType[*hinted](err); ok {
			a.Hint = h.hint
		}
	}
	json.NewEncoder(patient{c}).Encode(a)
}

// tap captures for a client until it ends its direction.
func (s *watchSocket) tap(c net.Conn, r io.Reader, request *tapRequest) {
	if !s.tappable {
		answer(c, hint(errors.New("this socket shows connections, not their plaintext"), "start the server with --tap-socket"))
		return
	}
	logger := s.roster.logger
	opt, err := tapOptions(request.Filter, request.SnapLen)
	begun := make(chan struct{})
	var tap *filter.Tap
	if err == nil {
		// Nothing of the capture goes out in front of the answer.
		tap = filter.NewTap(afterwards{begun, c}, opt)
		err = s.roster.beginTap(tap)
	}
	if err != nil {
		answer(c, err)
		if tap != nil {
			c.Close() // so that the capture which was not to be goes nowhere
			close(begun)
			tap.Close()
		}
		return
	}
	logger.Warn("tap: the plaintext of all connections is captured", "socket", s.path, "filter", opt.Comment)
	answer(c, nil)
	c.SetWriteDeadline(time.Time{})
	close(begun)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.expect(c, time.Time{})
		io.Copy(io.Discard, r) // until the client ends its direction
	}()
	select {
	case <-gone:
	case <-tap.Done(): // it takes no more
	}
	s.roster.endTap()
	c.SetWriteDeadline(time.Now().Add(watchPatience))
	err = tap.Close()
	stats := tap.Stats()
	logger.Warn("tap: the capture has ended", "socket", s.path, "packets", stats.Packets, "dropped", stats.Dropped)
	if err != nil {
		logger.Error("tap: the capture is not complete", "socket", s.path, "err", err.Error())
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

// readWatchRequest reads the line that a client begins with.
func readWatchRequest(r *bufio.Reader) (request watchRequest, err error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
		case err != bufio.ErrBufferFull:
			return request, fmt.Errorf("no request came: %w", err)
		case len(line) > maxWatchRequest:
			return request, fmt.Errorf("no request came: a line of more than %d bytes", maxWatchRequest)
		default:
			continue
		}
		break
	}
	if err := json.Unmarshal(line, &request); err != nil {
		return request, fmt.Errorf("no request: %w", err)
	}
	if (request.Tap == nil) == (request.Top == nil) {
		return request, errors.New("no request: it asks for tap or for top")
	}
	return request, nil
}
