package aftls_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// Info says what a connection failed of, also after it was closed, and of good ends
// and of what the caller did it says nothing.
func TestInfoFailed(t *testing.T) {
	failed := func(t *testing.T, c *aftls.Conn, is func(error) bool) {
		t.Helper()
		for range 2 {
			if err := c.Info().Failed; err == nil || !is(err) {
				t.Errorf("failed of %v", err)
			}
			c.Close()
		}
	}
	well := func(t *testing.T, c *aftls.Conn) {
		t.Helper()
		if err := c.Info().Failed; err != nil {
			t.Errorf("failed of %v", err)
		}
	}
	truncated := func(err error) bool { _, ok := errors.AsType[*aftls.TruncatedError](err); return ok }
	b := make([]byte, 100)
	inBothVersions(t, func(t *testing.T, c, s *aftls.Conn) {
		c.NetConn().Close()
		s.Read(b)
		failed(t, s, truncated)
	})
	inBothVersions(t, func(t *testing.T, c, s *aftls.Conn) {
		c.WriteRecord(record.AlertRecord, []byte{record.LevelFatal, byte(record.InternalError)})
		s.Read(b)
		failed(t, s, func(err error) bool { _, ok := errors.AsType[*aftls.AlertError](err); return ok })
		well(t, c) // it was its own doing
	})
	inBothVersions(t, func(t *testing.T, c, s *aftls.Conn) {
		io.WriteString(c.NetConn(), "\x17\x03\x03\x00\x20"+strings.Repeat("x", 32))
		s.Read(b)
		failed(t, s, func(err error) bool { _, ok := errors.AsType[*aftls.PeerError](err); return ok })
	})
	inBothVersions(t, func(t *testing.T, c, s *aftls.Conn) {
		s.NetConn().Close() // under its hands: closed, as the caller did it
		s.Read(b)
		well(t, s)
	})
	inBothVersions(t, func(t *testing.T, c, s *aftls.Conn) {
		s.SetDeadline(time.Unix(1, 0))
		if _, err := s.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		well(t, s)
		s.SetDeadline(time.Time{})
		c.Close()
		if _, err := s.Read(b); err != io.EOF {
			t.Error(err)
		}
		well(t, s)
		s.Close()
		well(t, s)
		well(t, c)
	})
	t.Run("passthrough", func(t *testing.T) {
		c, s := cbcPair(t)
		well(t, s)
		c.Rekey(false)
		well(t, c)
		c.NetConn().Close()
		s.Read(b)
		failed(t, s, truncated)
	})
}
