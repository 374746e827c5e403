package record_test

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/aftls/aftls/record"
)

// chain is the keys of epochs from the first on, each after a KeyUpdate.
func (p profile) chain(label string, first uint64, n int) []record.Keys {
	out := []record.Keys{p.datagramKeys(label, first, 0)}
	for len(out) < n {
		out = append(out, p.updated(out[len(out)-1]))
	}
	return out
}

func data(k record.Keys, seq uint64) spec {
	return spec{epoch: k.Epoch, seq: seq, typ: record.ApplicationData, payload: []byte{byte(k.Epoch), byte(seq)}}
}

func TestDatagramKeyUpdates(t *testing.T) {
	each(t, datagram13, func(t *testing.T, p profile) {
		chain := p.chain("update", 3, 12)
		s, o := datagramSealer(t, chain[0], shape{}), datagramOpener(t, chain[0], shape{})
		for i, k := range chain {
			for seq := range uint64(3) {
				w := data(k, seq)
				rec, err := s.Seal(nil, w.typ, w.payload)
				if err != nil || !slices.Equal(rec, p.ours(k, w)) {
					t.Fatalf("epoch %d, number %d: sealed %x, %v", k.Epoch, seq, rec, err)
				}
				if got := opensDatagram(t, o, rec, w); !got.Newest {
					t.Errorf("epoch %d, number %d is not the newest", k.Epoch, seq)
				}
			}
			// Late records of this epoch and of three before it, each the highest
			// of its epoch so far.
			for back := range min(i, 3) + 1 {
				w := data(chain[i-back], uint64(100+10*back+i))
				if got := opensDatagram(t, o, p.ours(chain[i-back], w), w); got.Newest != (back == 0) {
					t.Errorf("epoch %d of %d: Newest = %v", w.epoch, k.Epoch, got.Newest)
				}
				dropped(t, o, p.ours(chain[i-back], w), record.DropReplay, 0)
			}
			if i >= 4 { // now taken for one of the newest epoch
				dropped(t, o, p.ours(chain[i-4], data(chain[i-4], 200)), record.DropAuthentication, 0)
			}
			if i < len(chain)-1 {
				ahead := p.ours(chain[i+1], data(chain[i+1], 0))
				if _, _, err := o.Open(slices.Clone(ahead)); err != error(record.DropEpoch) && err != error(record.DropAuthentication) {
					t.Errorf("epoch %d, not come to: %v", k.Epoch+1, err)
				}
			}
			if err := errors.Join(s.Next(), o.Next()); err != nil {
				t.Fatal(err)
			}
			if s.Epoch() != k.Epoch+1 || o.Epoch() != k.Epoch+1 || s.Seq() != 0 || o.Seq() != 0 || o.Failed() != 0 {
				t.Fatalf("sealer at %d/%d, opener at %d/%d", s.Epoch(), s.Seq(), o.Epoch(), o.Seq())
			}
		}
	})
}

// A client whose Finished was lost sends in epoch 2 what comes after records of epoch 3.
func TestDatagramEpochsOfTheHandshake(t *testing.T) {
	each(t, datagram13, func(t *testing.T, p profile) {
		hs, app := p.datagramKeys("handshake", 2, 0), p.datagramKeys("application", 3, 0)
		o := datagramOpener(t, hs, shape{})
		if err := o.Next(); !errors.Is(err, record.ErrEpoch) {
			t.Errorf("Next in epoch 2: %v: no KeyUpdate follows on a handshake secret", err)
		}
		if err := datagramSealer(t, hs, shape{}).Next(); !errors.Is(err, record.ErrEpoch) {
			t.Errorf("sealer's Next in epoch 2: %v", err)
		}
		dropped(t, o, p.ours(app, data(app, 0)), record.DropEpoch, 0)
		if err := o.Install(app); err != nil {
			t.Fatal(err)
		}
		opensDatagram(t, o, p.ours(app, data(app, 0)), data(app, 0))
		opensDatagram(t, o, p.ours(hs, data(hs, 7)), data(hs, 7))
		o.Forget(3)
		dropped(t, o, p.ours(hs, data(hs, 8)), record.DropEpoch, 0)
		opensDatagram(t, o, p.ours(app, data(app, 1)), data(app, 1))
		o.Forget(math.MaxUint64) // never the newest
		opensDatagram(t, o, p.ours(app, data(app, 2)), data(app, 2))
	})
}

func TestDatagramInstallNeverGoesBack(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		k := p.datagramKeys("back", 3, 0)
		o := datagramOpener(t, k, shape{})
		w := data(k, 0)
		opensDatagram(t, o, p.ours(k, w), w)
		before := o.Keys()
		for _, epoch := range []uint64{0, 1, 2, 3} { // 3 again would be a new window for old records
			if err := o.Install(p.datagramKeys("back", epoch, 0)); !errors.Is(err, record.ErrEpoch) {
				t.Errorf("epoch %d: %v", epoch, err)
			}
		}
		other := p.datagramKeys("back", 4, 0)
		other.Version ^= record.DTLS12 ^ record.DTLS13
		if err := o.Install(other); !errors.Is(err, record.ErrSuite) {
			t.Errorf("other version: %v", err)
		}
		bad := p.datagramKeys("back", 4, 0)
		bad.IV = bad.IV[1:]
		if err := o.Install(bad); !errors.Is(err, record.ErrKeyLength) {
			t.Errorf("bad keys: %v", err)
		}
		if !reflect.DeepEqual(o.Keys(), before) {
			t.Error("a refusal changed the opener")
		}
		dropped(t, o, p.ours(k, w), record.DropReplay, 0)

		far := p.datagramKeys("far", 10, 0)
		if err := o.Install(far); err != nil {
			t.Fatal(err)
		}
		if got := o.Keys(); len(got) != 1 || got[0].Epoch != 10 { // 3 could be taken for 7 or 11
			t.Errorf("kept %v", got)
		}
		opensDatagram(t, o, p.ours(far, data(far, 0)), data(far, 0))
	})
}

func TestDatagramEpochNeverWraps(t *testing.T) {
	each(t, datagram13, func(t *testing.T, p profile) {
		k := p.datagramKeys("last", 1<<48-2, 0)
		s := datagramSealer(t, k, shape{})
		if err := s.Next(); err != nil || s.Epoch() != 1<<48-1 {
			t.Fatalf("at %d, %v", s.Epoch(), err)
		}
		for range 2 {
			if err := s.Next(); !errors.Is(err, record.ErrEpochLimit) || s.Epoch() != 1<<48-1 {
				t.Fatalf("at %d, %v", s.Epoch(), err)
			}
		}
		if _, err := s.Seal(nil, record.ApplicationData, nil); err != nil {
			t.Errorf("the last epoch cannot be used: %v", err)
		}
		if _, err := record.NewDatagramSealer(p.datagramKeys("last", 1<<48, 0), nil); !errors.Is(err, record.ErrEpochLimit) {
			t.Errorf("sealer beyond the limit: %v", err)
		}

		// A receiver must not hold the peer to that (RFC 9147, 8).
		k = p.datagramKeys("last", 1<<48-1, 0)
		o := datagramOpener(t, k, shape{})
		if err := o.Next(); err != nil {
			t.Fatal(err)
		}
		next := p.updated(k)
		opensDatagram(t, o, p.ours(next, data(next, 0)), data(next, 0))

		k = p.datagramKeys("last", math.MaxUint64-1, 0)
		o = datagramOpener(t, k, shape{})
		if err := o.Next(); err != nil {
			t.Fatal(err)
		}
		if err := o.Next(); !errors.Is(err, record.ErrEpochLimit) || o.Epoch() != math.MaxUint64 {
			t.Fatalf("at %d, %v", o.Epoch(), err)
		}
		last := p.updated(k)
		opensDatagram(t, o, p.ours(last, data(last, 0)), data(last, 0))
		opensDatagram(t, o, p.ours(k, data(k, 0)), data(k, 0))
	})
}

func TestDatagram12HasNoKeyUpdate(t *testing.T) {
	each(t, datagram12, func(t *testing.T, p profile) {
		s, o := p.datagramPair(t, shape{}, 3, 0)
		if err := s.Next(); !errors.Is(err, record.ErrNoSecret) || s.Epoch() != 3 {
			t.Errorf("sealer: %v, at %d", err, s.Epoch())
		}
		if err := o.Next(); !errors.Is(err, record.ErrNoSecret) || o.Epoch() != 3 {
			t.Errorf("opener: %v, at %d", err, o.Epoch())
		}
	})
}

// A process that takes an association over has nothing but its keys.
func TestDatagramKeysCarryAnAssociationToAnotherOpener(t *testing.T) {
	each(t, datagram13, func(t *testing.T, p profile) {
		chain := p.chain("carry", 3, 3)
		o := datagramOpener(t, chain[0], shape{})
		opensDatagram(t, o, p.ours(chain[0], data(chain[0], 20)), data(chain[0], 20))
		if err := o.Next(); err != nil {
			t.Fatal(err)
		}
		opensDatagram(t, o, p.ours(chain[1], data(chain[1], 4)), data(chain[1], 4))
		if err := o.Next(); err != nil {
			t.Fatal(err)
		}
		keys := o.Keys()
		for i, want := range slices.Clone(chain) {
			want.Seq = []uint64{21, 5, 0}[i]
			if len(keys) != 3 || !reflect.DeepEqual(keys[i], want) {
				t.Fatalf("keys %v", keys)
			}
		}
		taken := datagramOpener(t, keys[0], shape{})
		for _, k := range keys[1:] {
			if err := taken.Install(k); err != nil {
				t.Fatal(err)
			}
		}
		for i, k := range chain {
			for seq := range keys[i].Seq { // received, or lost
				dropped(t, taken, p.ours(k, data(k, seq)), record.DropReplay, 0)
			}
			for seq := keys[i].Seq + 5; seq >= keys[i].Seq && seq < 100; seq-- {
				got := opensDatagram(t, taken, p.ours(k, data(k, seq)), data(k, seq))
				if want := i > 0 && seq == keys[i].Seq+5; got.Newest != want {
					t.Errorf("epoch %d, number %d: Newest = %v; epoch 4 had sent before", k.Epoch, seq, got.Newest)
				}
			}
		}
	})
}
