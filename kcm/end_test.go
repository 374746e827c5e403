package kcm_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls/kcm"
)

func TestDetachGivesBackWhatWasNotDelivered(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		e, other := s.endpoint(), s.endpoint()
		c.SetFilter(func(m []byte) kcm.Verdict {
			if m[2] == '3' {
				return kcm.Verdict{Keep: 3, To: other} // cut, but comes back whole
			}
			return kcm.Verdict{Keep: len(m)}
		})
		write(t, p, msg("1"), msg("2"), msg("3x"), msg("4"), []byte("\x00\x09half"))
		m, err := e.RecvMsg()
		if err != nil || string(m.Data) != string(msg("1")) {
			t.Fatal(m, err)
		}
		if err := e.SendMsg(c, msg("answer")); err != nil {
			t.Fatal(err)
		}
		type result struct {
			net  net.Conn
			rest []byte
			err  error
		}
		got := make(chan result)
		go func() {
			n, rest, err := c.Detach()
			got <- result{n, rest, err}
		}()
		answer := make([]byte, 8)
		if _, err := io.ReadFull(p, answer); err != nil || string(answer[2:]) != "answer" {
			t.Fatalf("%q, %v: it was sent before", answer, err)
		}
		r := <-got
		want := slices.Concat(msg("2"), msg("3x"), msg("4"), []byte("\x00\x09half"))
		if r.err != nil || !bytes.Equal(r.rest, want) {
			t.Fatalf("%q, %v, want %q", r.rest, r.err, want)
		}
		go write(t, p, []byte(" more"))
		more := make([]byte, 5)
		if _, err := io.ReadFull(r.net, more); err != nil || string(more) != " more" {
			t.Errorf("%q, %v", more, err)
		}
		if string(m.Data) != string(msg("1")) {
			t.Errorf("%q", m.Data)
		}
		if err := e.SendMsg(c, msg("late")); err != kcm.ErrDetached {
			t.Errorf("%v", err)
		}
		if _, _, err := c.Detach(); err != kcm.ErrDetached {
			t.Errorf("Detach again: %v", err)
		}
		if err, ok := s.end(c); ok || c.Err() != kcm.ErrDetached {
			t.Errorf("Ended was called: %v; Err is %v", err, c.Err())
		}
		c.Close()
		r.net.Close()
	})
}

func TestDetachOfAnIdleConnection(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		synctest.Wait()
		n, rest, err := c.Detach()
		if err != nil || len(rest) != 0 {
			t.Fatalf("%q, %v", rest, err)
		}
		if s2, err := s.mux.Attach(n, kcm.DNS()); err != nil {
			t.Fatal(err)
		} else {
			write(t, p, msg("x"))
			if got, c := text(t, s.endpoint()); got != "x" || c != s2 {
				t.Errorf("%q", got)
			}
		}
		dead, p2 := s.attach(kcm.DNS())
		p2.Close()
		synctest.Wait()
		if _, _, err := dead.Detach(); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestEndOfStream(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		e := s.endpoint()
		c, p := s.attach(kcm.DNS())
		write(t, p, msg("1"), msg("2"))
		p.Close()
		text(t, e)
		text(t, e)
		if err, ok := s.end(c); ok {
			t.Errorf("ended with %v while a message is not done with", err)
		}
		e.Close()
		if err, _ := s.end(c); err != io.EOF {
			t.Errorf("%v, want io.EOF", err)
		}
		c, p = s.attach(kcm.DNS())
		write(t, p, []byte{0, 5, 'x'})
		p.Close()
		var te *kcm.TruncatedError
		if err, _ := s.end(c); !errors.As(err, &te) || te.Have != 3 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v, want a *TruncatedError", err)
		}
	})
}

func TestAnswerAfterTheEndOfTheStream(t *testing.T) {
	client, server := tcpPair(t)
	ended := make(chan error, 1)
	mux := kcm.New(kcm.Config{Ended: func(_ *kcm.Conn, err error) { ended <- err }})
	defer mux.Close()
	if _, err := mux.Attach(server, kcm.DNS()); err != nil {
		t.Fatal(err)
	}
	e, err := mux.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	write(t, client, msg("question"))
	client.(*net.TCPConn).CloseWrite()
	m, err := e.RecvMsg()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SendMsg(m.Conn, msg(strings.Repeat("answer", 10000))); err != nil {
		t.Fatal(err)
	}
	e.Close()
	if got, err := io.ReadAll(client); len(got) != 60002 || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := <-ended; err != io.EOF {
		t.Errorf("ended with %v", err)
	}
}

func TestShutdown(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		idle, _ := s.attach(kcm.DNS())
		write(t, p, msg("1"), msg("2"), []byte("\x00\x09half"))
		synctest.Wait()
		down := make(chan error)
		go func() { down <- s.mux.Shutdown(context.Background()) }()
		synctest.Wait()
		if _, err := s.mux.Attach(nil, nil); err != net.ErrClosed {
			t.Errorf("Attach: %v", err)
		}
		if err, _ := s.end(idle); err != net.ErrClosed {
			t.Errorf("the idle connection: %v", err)
		}
		if _, err := s.mux.Endpoint(); err != net.ErrClosed {
			t.Errorf("Endpoint: %v", err)
		}
		if err, ok := s.end(c); ok {
			t.Errorf("ended with %v, and messages wait", err)
		}
		select {
		case err := <-down:
			t.Fatalf("Shutdown returned %v, and messages wait", err)
		default:
		}
		s.mux.Close()
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		e := s.endpoint()
		write(t, p, msg("1"), msg("2"))
		synctest.Wait()
		go func() {
			for {
				m, err := e.RecvMsg()
				if err != nil {
					return
				}
				time.Sleep(time.Second)
				if err := e.SendMsg(m.Conn, m.Data); err != nil {
					t.Error(err)
				}
			}
		}()
		go io.Copy(io.Discard, p)
		if err := s.mux.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err, _ := s.end(c); err != net.ErrClosed || c.Stats().SentBytes != 6 {
			t.Errorf("%v, %+v", err, c.Stats())
		}
	})
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		_, p := s.attach(kcm.DNS())
		write(t, p, msg("nobody takes it"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.mux.Shutdown(ctx); err != context.DeadlineExceeded {
			t.Errorf("%v", err)
		}
	})
}

func TestTwoReceiversPanic(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		e := s.endpoint()
		go e.RecvMsg()
		synctest.Wait()
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		e.RecvMsg()
	})
}

func TestCloseDropsWhatWaits(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		c, p := s.attach(kcm.DNS())
		other, p2 := s.attach(kcm.DNS())
		e, to := s.endpoint(), s.endpoint()
		c.SetFilter(func(m []byte) kcm.Verdict {
			if m[2] == 'r' {
				return kcm.Verdict{Keep: len(m), To: to}
			}
			return kcm.Verdict{Keep: len(m)}
		})
		write(t, p, msg("1"), msg("r"), msg("2"))
		m, err := e.RecvMsg()
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.Close()
		if err, _ := s.end(c); err != net.ErrClosed {
			t.Errorf("ended with %v", err)
		}
		if n, bytes := c.Waiting(); n != 0 || bytes != 0 {
			t.Errorf("%d messages of %d bytes wait", n, bytes)
		}
		write(t, p2, msg("x"))
		if got, from := text(t, to); got != "x" || from != other {
			t.Errorf("%q", got)
		}
		if string(m.Data[2:]) != "1" {
			t.Errorf("%q", m.Data)
		}
	})
}

func TestErrorsSayWhatHappened(t *testing.T) {
	for text, err := range map[string]error{
		"kcm: the framer refused the stream: garbage":                                                           &kcm.FrameError{Err: errGarbage},
		"kcm: the framer refused the stream: no":                                                                &kcm.FrameError{Reason: "no"},
		"kcm: the peer sends a message of 9 bytes or more, and the limit is 8: raise MaxMessage if it is right": &kcm.TooLongError{Size: 9, Max: 8},
		"kcm: the peer sent 3 bytes of a message and not the rest within 1m0s":                                  &kcm.StallError{Have: 3, Timeout: time.Minute},
		"kcm: the stream ended inside a message, after 3 bytes of it":                                           &kcm.TruncatedError{Have: 3},
		"kcm: the peer does not read: 7 bytes could not be written to it within 1s":                             &kcm.SlowPeerError{Waiting: 7, Timeout: time.Second},
		"kcm: write: garbage":                            &kcm.TransportError{Op: "write", Err: errGarbage},
		"kcm: the filter panicked: 5":                    &kcm.PanicError{In: "filter", Value: 5},
		"kcm: not a length field: Size has to be 2 or 4": func() error { _, err := kcm.Length{}.Framer(); return err }(),
	} {
		if err.Error() != text {
			t.Errorf("%q, want %q", err, text)
		}
	}
}
