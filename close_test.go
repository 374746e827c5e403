package aftls_test

import (
	"io"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// TestCloseWithUnreadData: closing a socket in which something is unread resets
// it. close_notify is on its way before that.
func TestCloseWithUnreadData(t *testing.T) {
	for range 20 {
		ccfg, scfg := configs(t)
		a, b := connPair(t, ccfg, scfg, aftls.Options{RequireSocket: true})
		if _, err := b.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if err := a.WaitRead(); err != nil { // it has come, and one record of it is read
			t.Fatal(err)
		}
		if _, err := b.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		var one [1]byte
		typ, n, err := b.ReadRecord(make([]byte, 10))
		if err != nil || typ != record.AlertRecord || n != 2 {
			t.Fatalf("%v of %d bytes, %v", typ, n, err)
		}
		if _, err := b.Read(one[:]); err != io.EOF {
			t.Fatal(err)
		}
	}
}
