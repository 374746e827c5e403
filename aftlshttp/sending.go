package aftlshttp

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// sending is a request on its way, perhaps in several attempts.
type sending struct {
	req  *http.Request
	ctx  context.Context // of the next attempt
	body *body           // of the last one; nil if GetBody makes them, or without
}

func (s *sending) hasBody() bool { return s.req.Body != nil && s.req.Body != http.NoBody }

// first returns the request for the first attempt. A body that can be had again
// stays as it is: net/http sends one that it knows in one piece with the header.
func (s *sending) first() *http.Request {
	try := s.req.WithContext(s.ctx)
	if s.hasBody() && s.req.GetBody == nil {
		s.body = &body{real: s.req.Body}
		try.Body = s.body
	}
	return try
}

// again returns the request for another attempt. begun says that the last one may
// have read the body.
func (s *sending) again(begun bool) (*http.Request, error) {
	try := s.req.WithContext(s.ctx)
	switch {
	case !s.hasBody():
	case s.body == nil:
		b, err := s.req.GetBody()
		if err != nil {
			return nil, err
		}
		try.Body = b
	case begun || s.body.wasRead():
		s.body.settle()
		return nil, errors.New("aftlshttp: the request cannot be sent again, as its body was read: set Request.GetBody")
	default:
		s.body = &body{real: s.body.real}
		try.Body = s.body
	}
	return try, nil
}

// abandon gives up before the first attempt.
func (s *sending) abandon() {
	if s.hasBody() {
		s.req.Body.Close()
	}
}

// last says that there is no attempt any more, and gives the answer its request.
func (s *sending) last(resp *http.Response) *http.Response {
	if s.body != nil {
		s.body.settle()
	}
	if resp != nil {
		resp.Request = s.req
	}
	return resp
}

// body is the body of a request in one attempt to send it. Whoever gives up an
// attempt closes its body, also when the request then goes another way: so closing
// waits until the attempt is known to be the last.
type body struct {
	real io.ReadCloser

	mu                    sync.Mutex
	read, closed, settled bool
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.read = true
	b.mu.Unlock()
	return b.real.Read(p)
}

func (b *body) wasRead() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

func (b *body) Close() error {
	b.mu.Lock()
	closing := b.settled && !b.closed
	b.closed = true
	b.mu.Unlock()
	if closing {
		return b.real.Close()
	}
	return nil
}

// settle says that the attempt is the last with this body.
func (b *body) settle() {
	b.mu.Lock()
	closing := b.closed && !b.settled
	b.settled = true
	b.mu.Unlock()
	if closing {
		b.real.Close()
	}
}
