package handover

import (
	"container/list"
	"sync"

	"github.com/pion/dtls/v3"
)

// DatagramSessions keeps the sessions of DTLS 1.2 that can be resumed (RFC 5246,
// 7.3): a bounded number, the one that was used longest ago is given up first. A
// server finds them by their id, a client by the address and the server's name.
type DatagramSessions struct {
	mu   sync.Mutex
	most int
	byID map[string]*list.Element
	used list.List // of *sessionEntry, the latest first
}

type sessionEntry struct {
	key     string
	session dtls.Session
}

// NewDatagramSessions returns a store for at most n sessions.
func NewDatagramSessions(n int) *DatagramSessions {
	return &DatagramSessions{most: max(n, 1), byID: make(map[string]*list.Element)}
}

// Set is for pion/dtls.
func (d *DatagramSessions) Set(key []byte, s dtls.Session) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(string(key))
	d.byID[string(key)] = d.used.PushFront(&sessionEntry{string(key), s})
	for d.used.Len() > d.most {
		d.remove(d.used.Back().Value.(*sessionEntry).key)
	}
	return nil
}

// Get is for pion/dtls.
func (d *DatagramSessions) Get(key []byte) (dtls.Session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.byID[string(key)]
	if !ok {
		return dtls.Session{}, nil
	}
	d.used.MoveToFront(e)
	s := e.Value.(*sessionEntry).session
	s.Secret = append([]byte(nil), s.Secret...) // which pion keeps, and remove wipes
	return s, nil
}

// Del is for pion/dtls.
func (d *DatagramSessions) Del(key []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(string(key))
	return nil
}

// Len is how many sessions there are.
func (d *DatagramSessions) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used.Len()
}

func (d *DatagramSessions) remove(key string) {
	if e, ok := d.byID[key]; ok {
		clear(e.Value.(*sessionEntry).session.Secret)
		d.used.Remove(e)
		delete(d.byID, key)
	}
}
