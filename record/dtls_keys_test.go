package record_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/aftls/aftls/record"
)

func TestDatagramTrafficKeysAreThoseOfHKDF(t *testing.T) {
	each(t, datagram13, func(t *testing.T, p profile) {
		want := p.datagramKeys("traffic", 3, 0) // derived by hand
		secret := bytes.Clone(want.Secret)
		got, err := record.DatagramTrafficKeys(p.id, secret, 3)
		clear(secret) // it was copied
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v\n got %+v\nwant %+v", err, got, want)
		}
		next, err := got.Next()
		if err != nil || !reflect.DeepEqual(next, p.updated(want)) {
			t.Errorf("%v\n got %+v\nwant %+v", err, next, p.updated(want))
		}
		for n := range 80 {
			if _, err := record.DatagramTrafficKeys(p.id, make([]byte, n), 3); (err == nil) != (n == p.hash().Size()) || err != nil && !errors.Is(err, record.ErrKeyLength) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		if _, err := record.DatagramTrafficKeys(p.id, want.Secret, 0); !errors.Is(err, record.ErrEpoch) {
			t.Errorf("epoch 0: %v", err)
		}
	})
	if _, err := record.DatagramTrafficKeys(0xc02b, make([]byte, 32), 3); !errors.Is(err, record.ErrSuite) {
		t.Errorf("suite of DTLS 1.2: %v", err)
	}
}

func TestDatagramKeyBlockIsThatOfThePRF(t *testing.T) {
	master, client, server := noise("master", 48), noise("client random", 32), noise("server random", 32)
	each(t, datagramProfiles[3:], func(t *testing.T, p profile) {
		b := prfByHand(p.hash, master, "key expansion", append(bytes.Clone(server), client...), 2*(p.keyLen+p.ivLen))
		take := func(n int) (out []byte) { out, b = b[:n], b[n:]; return out }
		want := [2]record.Keys{}
		for i := range want {
			want[i] = record.Keys{Version: record.DTLS12, Suite: p.id, Epoch: 1, Seq: 1, Key: take(p.keyLen)}
		}
		want[0].IV, want[1].IV = take(p.ivLen), take(p.ivLen)
		c, s, err := record.DatagramKeyBlock(p.id, master, client, server)
		if got := [2]record.Keys{c, s}; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v\n got %+v\nwant %+v", err, got, want)
		}
	})
	for _, id := range []uint16{0, 0x1301, tls.TLS_RSA_WITH_AES_128_CBC_SHA} {
		if _, _, err := record.DatagramKeyBlock(id, master, client, server); !errors.Is(err, record.ErrSuite) {
			t.Errorf("%#04x: %v", id, err)
		}
	}
}

func TestDatagramSuites(t *testing.T) {
	known := map[[2]uint16]bool{}
	for _, p := range datagramProfiles {
		known[[2]uint16{p.version, p.id}] = true
		want := uint64(math.MaxUint64)
		if p.isDatagram13() && !p.chacha {
			want = uint64(math.Exp2(24.5)) // RFC 9147, 4.5.3
		}
		if got := record.Limit(p.version, p.id); got != want {
			t.Errorf("%v: limit %d, want %d", p, got, want)
		}
		if err := record.Usable(p.version, p.id); err != nil {
			t.Errorf("%v: %v", p, err)
		}
	}
	for _, version := range []uint16{record.DTLS12, record.DTLS13} {
		for id := range 1 << 16 {
			if got, want := record.Supported(version, uint16(id)), known[[2]uint16{version, uint16(id)}]; got != want {
				t.Errorf("Supported(%#04x, %#04x) = %v", version, id, got)
			}
		}
	}
	if record.DTLS12 != 0xfefd || record.DTLS13 != 0xfefc { // RFC 6347, 4.1; RFC 9147, 5.3
		t.Error("version numbers")
	}
}

// Keys of a stream must not come to protect datagrams, nor the other way round.
func TestDatagramAndStreamKeysDoNotMix(t *testing.T) {
	for _, p := range datagramProfiles {
		k := p.datagramKeys("mix", 3, 0)
		if _, err := record.NewSealer(k); !errors.Is(err, record.ErrSuite) {
			t.Errorf("%v: NewSealer: %v", p, err)
		}
		if _, err := record.NewOpener(k); !errors.Is(err, record.ErrSuite) {
			t.Errorf("%v: NewOpener: %v", p, err)
		}
	}
	for _, p := range profiles {
		k := p.keys("mix", 0)
		k.Epoch = 3
		refuseDatagramKeys(t, p.String(), k, record.ErrSuite)
	}
}

func refuseDatagramKeys(t *testing.T, name string, k record.Keys, want error) {
	t.Helper()
	before := k.Clone()
	if s, err := record.NewDatagramSealer(k, nil); s != nil || !errors.Is(err, want) {
		t.Errorf("NewDatagramSealer, %s: %v, want %v", name, err, want)
	}
	if o, err := record.NewDatagramOpener(k, nil); o != nil || !errors.Is(err, want) {
		t.Errorf("NewDatagramOpener, %s: %v, want %v", name, err, want)
	}
	if !reflect.DeepEqual(k, before) {
		t.Errorf("%s: a refusal changed the caller's keys", name)
	}
}

func TestDatagramConstructorsRefuseKeysThatAreNone(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		for name, c := range map[string]struct {
			change func(*record.Keys)
			want   error
		}{
			"no suite":   {func(k *record.Keys) { k.Suite = 0 }, record.ErrSuite},
			"DTLS 1.0":   {func(k *record.Keys) { k.Version = 0xfeff }, record.ErrSuite},
			"epoch 0":    {func(k *record.Keys) { k.Epoch = 0 }, record.ErrEpoch},
			"short key":  {func(k *record.Keys) { k.Key = k.Key[1:] }, record.ErrKeyLength},
			"short iv":   {func(k *record.Keys) { k.IV = k.IV[1:] }, record.ErrKeyLength},
			"odd secret": {func(k *record.Keys) { k.Secret = noise("", 33) }, record.ErrKeyLength},
		} {
			k := p.datagramKeys("refuse", 3, 0)
			c.change(&k)
			refuseDatagramKeys(t, name, k, c.want)
		}
		k := p.datagramKeys("refuse", 3, 0)
		if _, err := record.NewDatagramSealer(k, make([]byte, 256)); !errors.Is(err, record.ErrCID) {
			t.Errorf("sealer with a long CID: %v", err)
		}
		if _, err := record.NewDatagramOpener(k, make([]byte, 256)); !errors.Is(err, record.ErrCID) {
			t.Errorf("opener with a long CID: %v", err)
		}
		if p.isDatagram13() {
			k.Secret = nil // there would be no key for numbers
			refuseDatagramKeys(t, "key and iv alone", k, record.ErrNoSecret)
			k = p.datagramKeys("refuse", 3, 0)
			k.Key = noise("other", p.keyLen)
			refuseDatagramKeys(t, "key of another secret", k, record.ErrKeyMismatch)
			return
		}
		k.Epoch = 65536
		refuseDatagramKeys(t, "epoch of 17 bits", k, record.ErrEpoch)
		k.Epoch, k.Seq = 1, 1<<48+1
		refuseDatagramKeys(t, "number of 49 bits", k, record.ErrEpoch)
		k.Seq = 1 << 48 // all are used: no error, and nothing can be sent
		refusedDatagramSeal(t, datagramSealer(t, k, shape{}), record.ApplicationData, nil, record.ErrKeyLimit)
	})
}

func TestDatagramKeysAreCopiedBothWays(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		k, cid := p.datagramKeys("copied", 3, 6), []byte{1, 2, 3}
		s, err := record.NewDatagramSealer(k, cid)
		if err != nil {
			t.Fatal(err)
		}
		o, err := record.NewDatagramOpener(k, cid)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(k, p.datagramKeys("copied", 3, 6)) || !bytes.Equal(cid, []byte{1, 2, 3}) {
			t.Fatal("the caller's keys were changed")
		}
		k.Wipe()
		clear(cid)
		want := p.datagramKeys("copied", 3, 6)
		w := spec{epoch: 3, seq: 6, typ: record.ApplicationData, payload: []byte("payload"), cid: []byte{1, 2, 3}}
		rec, err := s.Seal(nil, w.typ, w.payload)
		if err != nil || !bytes.Equal(rec, p.ours(want, w)) {
			t.Fatalf("sealed %x, %v", rec, err)
		}
		opensDatagram(t, o, rec, w)
		out := s.Keys()
		out.Wipe()
		for _, out := range o.Keys() {
			out.Wipe()
		}
		want.Seq = 7
		if got := s.Keys(); !reflect.DeepEqual(got, want) {
			t.Errorf("sealer's keys\n got %+v\nwant %+v", got, want)
		}
		if got := o.Keys(); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("opener's keys\n got %+v\nwant %+v", got, want)
		}
	})
}

// A wiped key is all zeros, which anybody can guess.
func TestDatagramWipedEndsRefuseToWork(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		s, o := p.datagramPair(t, shape{}, 3, 0)
		rec, err := s.Seal(nil, record.ApplicationData, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		opensDatagram(t, o, rec, spec{epoch: 3, typ: record.ApplicationData, payload: []byte("x")})
		s.Wipe()
		o.Wipe()
		if out, err := s.Seal([]byte("dst"), record.ApplicationData, []byte("x")); err == nil || string(out) != "dst" || s.Seq() != 1 {
			t.Errorf("wiped sealer made %x, %v, and is at %d", out, err, s.Seq())
		}
		zero := record.Keys{Version: p.version, Suite: p.id, Epoch: 3, Key: make([]byte, p.keyLen), IV: make([]byte, p.ivLen)}
		if p.isDatagram13() {
			zero = p.fromSecret(zero, make([]byte, p.hash().Size()))
		}
		forged := p.ours(zero, spec{seq: 5, typ: record.ApplicationData, payload: []byte("x")})
		got, _, err := o.Open(forged)
		var e *record.Error
		var d record.Drop
		if err == nil || errors.As(err, &e) || errors.As(err, &d) || got.Payload != nil {
			t.Errorf("wiped opener: %+v, %v, want an error that blames nobody outside", got, err)
		}
		if err := s.Next(); !errors.Is(err, record.ErrNoSecret) {
			t.Errorf("wiped sealer: Next: %v", err)
		}
		if err := o.Next(); !errors.Is(err, record.ErrNoSecret) {
			t.Errorf("wiped opener: Next: %v", err)
		}
		if k := s.Keys(); k.Key != nil || k.IV != nil || k.Secret != nil {
			t.Errorf("wiped sealer gives out %+v", k)
		}
	})
}
