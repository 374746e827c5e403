package aftls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls/record"
)

// Moments that chance does not bring about often enough in the simulation.

// fillBatch makes c, whose peer does not read, keep as much as it ever does: no
// room is left for even a small record. It returns how many bytes of data that
// is. The write deadline is over then.
func fillBatch(t *testing.T, c *Conn) (committed int) {
	t.Helper()
	const most = 16 * record.MaxRecord // see batchSize in internal/soft
	if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Write(make([]byte, 1<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(n, err)
	}
	committed = n
	overhead := c.s.send.Pending() // of one record, measured
	if err := c.s.send.Seal(record.ApplicationData, nil); err != nil {
		t.Fatal(err)
	}
	overhead = c.s.send.Pending() - overhead
	for left := most - c.s.send.Pending(); left > overhead; left = most - c.s.send.Pending() {
		n := min(left-overhead, record.MaxPlaintext)
		if err := c.s.send.Seal(record.ApplicationData, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		committed += n
	}
	return committed
}

// A Close that finds the batch full has to send before it can seal its
// close_notify. That takes 5 seconds at most, whatever the deadline was.
func TestCloseFullBatch(t *testing.T) {
	for _, deadline := range []time.Time{{}, time.Unix(1, 0)} {
		synctest.Test(t, func(t *testing.T) {
			c, s := knownPair(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, Options{})
			fillBatch(t, c)
			if err := c.SetWriteDeadline(deadline); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d != closeTimeout {
				t.Errorf("Close took %v against a peer that does not read", d)
			}
			if n, err := io.Copy(io.Discard, s); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(n, err)
			}
		})
		synctest.Test(t, func(t *testing.T) {
			c, s := knownPair(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, Options{})
			want := fillBatch(t, c)
			if err := c.SetWriteDeadline(deadline); err != nil {
				t.Fatal(err)
			}
			closing := make(chan error, 1)
			go func() {
				time.Sleep(time.Second)
				closing <- c.Close()
			}()
			synctest.Wait()
			time.Sleep(2 * time.Second) // Close waits for the reader
			if n, err := io.Copy(io.Discard, s); n != int64(want) || err != nil {
				t.Errorf("%d of %d bytes, %v", n, want, err)
			}
			if err := <-closing; err != nil {
				t.Error(err)
			}
		})
	}
}

// A reader that answers the peer holds the lock of the writing side for a
// moment. For Close that is no Write: the end must be a clean one.
func TestCloseWaitsForReader(t *testing.T) {
	c, s := knownPair(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, Options{})
	if !c.s.wmu.TryLock() { // as payNow does
		t.Fatal("locked")
	}
	closing := make(chan error, 1)
	go func() { closing <- c.Close() }()
	for c.s.life.Load() != closed {
		runtime.Gosched()
	}
	unlocked := make(chan struct{})
	go func() {
		c.s.unlockWrite()
		close(unlocked)
	}()
	if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the peer reads %d, %v", n, err)
	}
	if err := <-closing; err != nil {
		t.Error(err)
	}
	<-unlocked
}

// While Close waits for the carrier, at most 5 seconds, every other call is
// refused at once.
func TestCloseRefusesAtOnce(t *testing.T) {
	for name, call := range map[string]func(c *Conn) error{
		"Write":      func(c *Conn) error { _, err := c.Write([]byte("x")); return err },
		"ReadFrom":   func(c *Conn) error { _, err := c.ReadFrom(bytes.NewReader([]byte("x"))); return err },
		"CloseWrite": (*Conn).CloseWrite,
		"Rekey":      func(c *Conn) error { return c.Rekey(false) },
		"Read":       func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err },
		"WaitRead":   (*Conn).WaitRead,
		"Close":      (*Conn).Close,
		"Detach":     func(c *Conn) error { _, err := c.Detach(); return err },
	} {
		c, s := knownPair(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, Options{})
		closing := make(chan error, 1)
		go func() { closing <- c.Close() }()
		if _, err := s.NetConn().Read(make([]byte, 1)); err != nil { // it is sending now
			t.Fatal(err)
		}
		refused := make(chan error, 1)
		go func() { refused <- call(c) }()
		select {
		case err := <-refused:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		case <-closing:
			t.Errorf("%s waited for Close", name)
		}
		s.NetConn().Close()
	}
}

// TestExpiredSealsNothing: every way to write looks at the deadline first.
func TestExpiredSealsNothing(t *testing.T) {
	c, s := knownPair(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, Options{})
	if err := c.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	p := []byte("data")
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Write(p)
	for name, write := range map[string]func() (int64, error){
		"Write":       func() (int64, error) { n, err := c.Write(p); return int64(n), err },
		"WriteRecord": func() (int64, error) { return 0, c.WriteRecord(record.ApplicationData, p) },
		"Rekey":       func() (int64, error) { return 0, c.Rekey(true) },
		"ReadFrom a file": func() (int64, error) {
			f.Seek(0, io.SeekStart)
			n, err := c.ReadFrom(f)
			if at, _ := f.Seek(0, io.SeekCurrent); at != 0 {
				t.Error("the file was read")
			}
			return n, err
		},
		"WriteBuffers": func() (int64, error) {
			v := net.Buffers{p, p}
			n, err := c.WriteBuffers(&v)
			if len(v) != 2 || len(v[0]) != 4 {
				t.Error("WriteBuffers took something")
			}
			return n, err
		},
	} {
		if n, err := write(); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d %v", name, n, err)
		}
		if i := c.Info().Send; i.Seq != 0 || i.Epoch != 0 || c.s.send.Pending() != 0 {
			t.Fatalf("%s: sealed something: %+v", name, i)
		}
	}
	if err := c.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go c.Write(p)
	if n, err := s.Read(make([]byte, 10)); n != 4 || err != nil {
		t.Error(n, err)
	}
}

// Nothing that is sealed waits for a silent source: not what an earlier
// deadline left, and not the answer to a KeyUpdate.
func TestSilentSourceKeepsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := knownPair(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, Options{})
		if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Write(make([]byte, 50000))
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(n, err)
		}
		if err := c.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		silent, w := io.Pipe()
		over := make(chan error, 1)
		go func() { _, err := c.ReadFrom(silent); over <- err }()
		if m, err := io.ReadFull(s, make([]byte, n)); err != nil { // else a deadlock
			t.Fatal(m, err)
		}
		// The request comes while ReadFrom is waiting. Nobody can be asked to
		// send without blocking here, so the answer goes with the next turn.
		go func() { c.Read(make([]byte, 1)) }()
		if err := s.Rekey(true); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !c.flag(answer) {
			t.Error("no answer is owed")
		}
		go w.Write([]byte("x"))
		if m, err := s.Read(make([]byte, 10)); m != 1 || err != nil {
			t.Fatal(m, err)
		}
		if i := s.Info().Receive; i.Epoch != 1 {
			t.Errorf("the answer did not come: %+v", i)
		}
		w.Close()
		if err := <-over; err != nil {
			t.Error(err)
		}
		c.NetConn().Close()
	})
}

// What a source gave is sent although the key was used up while it was silent.
func TestReadFromKeyLimit(t *testing.T) {
	for others := 1; others <= 40; others++ {
		synctest.Test(t, func(t *testing.T) {
			c, s := knownPair(t, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, Options{MaxRecords: 20})
			silent, w := io.Pipe()
			over := make(chan error, 1)
			go func() {
				_, err := c.ReadFrom(silent)
				over <- errors.Join(err, c.CloseWrite())
			}()
			synctest.Wait()
			got := make(chan int64, 1)
			go func() {
				n, _ := io.Copy(io.Discard, s)
				got <- n
			}()
			for range others {
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			const batch = 15000 // more than 10 of the first records
			if n, err := w.Write(make([]byte, batch)); n != batch || err != nil {
				t.Fatal(n, err)
			}
			w.Close()
			if err := <-over; err != nil {
				t.Errorf("behind %d other records: %v", others, err)
				c.NetConn().Close()
			}
			if n := <-got; n != int64(batch+others) {
				t.Errorf("behind %d other records: %d of %d bytes", others, n, batch+others)
			}
		})
	}
}
