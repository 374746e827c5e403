package record_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/aftls/aftls/record"
)

func TestTrafficKeysAreThoseOfHKDF(t *testing.T) {
	each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
		want := p.keys("traffic", 0) // derived by hand
		got, err := record.TrafficKeys(p.id, want.Secret)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("\n got %+v\nwant %+v", got, want)
		}
	})
}

func TestTrafficKeysCopiesTheSecret(t *testing.T) {
	secret := noise("copied", 32)
	k, err := record.TrafficKeys(tls.TLS_AES_128_GCM_SHA256, secret)
	if err != nil {
		t.Fatal(err)
	}
	clear(secret)
	if !bytes.Equal(k.Secret, noise("copied", 32)) {
		t.Error("wiping the caller's secret changed that of the keys")
	}
	k.Wipe()
	secret = noise("copied", 32)
	if k, err = record.TrafficKeys(tls.TLS_AES_128_GCM_SHA256, secret); err != nil {
		t.Fatal(err)
	}
	k.Wipe()
	if !bytes.Equal(secret, noise("copied", 32)) {
		t.Error("wiping the keys changed the caller's secret")
	}
}

func TestTrafficKeysRefusesSecretsOfAnotherLength(t *testing.T) {
	each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
		for n := range 80 {
			_, err := record.TrafficKeys(p.id, make([]byte, n))
			if n == p.hash().Size() {
				if err != nil {
					t.Errorf("%d bytes: %v", n, err)
				}
			} else if !errors.Is(err, record.ErrKeyLength) {
				t.Errorf("%d bytes: %v, want ErrKeyLength", n, err)
			}
		}
	})
}

func TestTrafficKeysRefusesSuitesNotOfTLS13(t *testing.T) {
	for _, p := range profilesOf(record.TLS12) {
		if _, err := record.TrafficKeys(p.id, make([]byte, p.hash().Size())); !errors.Is(err, record.ErrSuite) {
			t.Errorf("%v: %v, want ErrSuite", p, err)
		}
	}
	for _, id := range []uint16{0, 0x1300, 0x1305, 0xffff} {
		if _, err := record.TrafficKeys(id, make([]byte, 32)); !errors.Is(err, record.ErrSuite) {
			t.Errorf("%#04x: %v, want ErrSuite", id, err)
		}
	}
}

func TestDeriveFillsInWhatIsMissingAndNothingElse(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		full := p.keys("derive", 8)
		full.Epoch = 3
		k := full.Clone()
		if err := k.Derive(); err != nil || !reflect.DeepEqual(k, full) {
			t.Errorf("complete keys: %v\n got %+v\nwant %+v", err, k, full)
		}
		k = full.Clone()
		k.Secret = nil
		if err := k.Derive(); err != nil || k.Secret != nil || !bytes.Equal(k.Key, full.Key) || !bytes.Equal(k.IV, full.IV) {
			t.Errorf("key and iv: %v\n got %+v", err, k)
		}
		k = full.Clone()
		k.Key, k.IV = nil, nil
		if err := k.Derive(); p.is13() && (err != nil || !reflect.DeepEqual(k, full)) {
			t.Errorf("secret: %v\n got %+v\nwant %+v", err, k, full)
		} else if !p.is13() && !errors.Is(err, record.ErrKeyLength) {
			t.Errorf("nothing in TLS 1.2: %v, want ErrKeyLength", err)
		}
	})
}

func TestNextKeysFollowFromTheSecretAlone(t *testing.T) {
	each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
		k := p.keys("next", 77)
		k.Epoch = 5
		before := k.Clone()
		got, err := k.Next()
		if err != nil {
			t.Fatal(err)
		}
		secret := expandByHand(p.hash, before.Secret, "traffic upd", p.hash().Size())
		want := record.Keys{
			Version: p.version, Suite: p.id, Epoch: 6, Seq: 0,
			Secret: secret,
			Key:    expandByHand(p.hash, secret, "key", p.keyLen),
			IV:     expandByHand(p.hash, secret, "iv", p.ivLen),
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("\n got %+v\nwant %+v", got, want)
		}
		if !reflect.DeepEqual(k, before) {
			t.Error("Next changed the keys it started from")
		}
	})
}

func TestNextNeedsATrafficSecret(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		k := p.keys("", 3)
		k.Secret = nil
		if n, err := k.Next(); !errors.Is(err, record.ErrNoSecret) || !reflect.DeepEqual(n, record.Keys{}) {
			t.Errorf("%+v, %v, want no keys and ErrNoSecret", n, err)
		}
	})
	if _, err := (record.Keys{}).Next(); !errors.Is(err, record.ErrSuite) {
		t.Errorf("zero Keys: %v, want ErrSuite", err)
	}
}

func TestKeyBlockIsThatOfThePRF(t *testing.T) {
	master := noise("master", 48)
	client, server := noise("client random", 32), noise("server random", 32)
	each(t, profilesOf(record.TLS12), func(t *testing.T, p profile) {
		b := prfByHand(p.hash, master, "key expansion", append(bytes.Clone(server), client...), 2*(p.keyLen+p.ivLen))
		take := func(n int) (out []byte) { out, b = b[:n], b[n:]; return out }
		want := [2]record.Keys{
			{Version: record.TLS12, Suite: p.id, Seq: 1},
			{Version: record.TLS12, Suite: p.id, Seq: 1},
		}
		want[0].Key, want[1].Key = take(p.keyLen), take(p.keyLen)
		want[0].IV, want[1].IV = take(p.ivLen), take(p.ivLen)

		c, s, err := record.KeyBlock(p.id, master, client, server)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]record.Keys{c, s}; !reflect.DeepEqual(got, want) {
			t.Errorf("\n got %+v\nwant %+v", got, want)
		}
	})
}

func TestKeyBlockDirectionsDoNotShareMemory(t *testing.T) {
	each(t, profilesOf(record.TLS12), func(t *testing.T, p profile) {
		block := func() (record.Keys, record.Keys) {
			c, s, err := record.KeyBlock(p.id, noise("m", 48), noise("c", 32), noise("s", 32))
			if err != nil {
				t.Fatal(err)
			}
			return c, s
		}
		wantC, wantS := block()
		c, s := block()
		c.Wipe()
		if !reflect.DeepEqual(s, wantS) {
			t.Error("wiping the client's keys changed the server's")
		}
		c, s = block()
		// Growing one part in place must not run over its neighbour.
		for _, b := range [][]byte{c.Key, s.Key, c.IV, s.IV} {
			_ = append(b, bytes.Repeat([]byte{0xff}, 8)...)
		}
		if !reflect.DeepEqual(c, wantC) || !reflect.DeepEqual(s, wantS) {
			t.Error("appending to one part changed another")
		}
	})
}

func TestKeyBlockRefusesSuitesNotOfTLS12(t *testing.T) {
	for _, id := range []uint16{0, 0x1301, 0x1302, 0x1303, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 0xffff} {
		_, _, err := record.KeyBlock(id, make([]byte, 48), make([]byte, 32), make([]byte, 32))
		if !errors.Is(err, record.ErrSuite) {
			t.Errorf("%#04x: %v, want ErrSuite", id, err)
		}
	}
}

// Keys of AES-CCM are known, for those who have the cipher: nothing here seals with it.
func TestKeysOfCCM(t *testing.T) {
	k, err := record.TrafficKeys(0x1304, make([]byte, 32))
	if err != nil || len(k.Key) != 16 || len(k.IV) != 12 {
		t.Errorf("%d bytes of key, %d of iv, %v", len(k.Key), len(k.IV), err)
	}
	next, err := k.Next()
	if err != nil || bytes.Equal(next.Key, k.Key) || record.Limit(record.TLS13, 0x1304) != 1<<23 {
		t.Error(err)
	}
	old := []record.Keys{k}
	for _, id := range []uint16{0xc09c, 0xc09e, 0xc0ac} {
		c, s, err := record.KeyBlock(id, make([]byte, 48), make([]byte, 32), make([]byte, 32))
		if err != nil || len(c.Key) != 16 || len(c.IV) != 4 || len(s.Key) != 16 || len(s.IV) != 4 {
			t.Errorf("%#04x: %v", id, err)
		}
		old = append(old, c, s)
	}
	for _, k := range old {
		if _, err := record.NewSealer(k); !errors.Is(err, record.ErrSuite) {
			t.Error(k, err)
		}
		if _, err := record.NewOpener(k); !errors.Is(err, record.ErrSuite) {
			t.Error(k, err)
		}
		if err := record.Usable(k.Version, k.Suite); !errors.Is(err, record.ErrSuite) {
			t.Error(k, err)
		}
	}
}

// Every AEAD suite that crypto/tls can negotiate must be served, and in its
// own version only; nothing else may be.
func TestSupportedSuitesAreTheAEADSuitesOfCryptoTLS(t *testing.T) {
	known := map[[2]uint16]bool{}
	for _, p := range profiles {
		known[[2]uint16{p.version, p.id}] = true
	}
	for _, version := range []uint16{0, 0x0300, 0x0301, 0x0302, 0x0303, 0x0304, 0x0305, 0xfeff} {
		for id := range 1 << 16 {
			if got, want := record.Supported(version, uint16(id)), known[[2]uint16{version, uint16(id)}]; got != want {
				t.Errorf("Supported(%#04x, %#04x) = %v", version, id, got)
			}
		}
	}
	cbc := map[uint16]bool{
		tls.TLS_RSA_WITH_AES_128_CBC_SHA: true, tls.TLS_RSA_WITH_AES_256_CBC_SHA: true,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA: true, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA: true,
		tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA: true, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA: true,
	}
	for _, s := range tls.CipherSuites() {
		for _, v := range s.SupportedVersions {
			if v >= tls.VersionTLS12 && !cbc[s.ID] && !known[[2]uint16{v, s.ID}] {
				t.Errorf("%s of %s is missing", s.Name, tls.VersionName(v))
			}
		}
	}
}

func TestLimitHoldsForGCMInTLS13Only(t *testing.T) {
	for _, p := range profiles {
		want := uint64(math.MaxUint64)
		if p.is13() && !p.chacha {
			want = uint64(math.Exp2(24.5)) // RFC 8446, 5.5
		}
		if got := record.Limit(p.version, p.id); got != want {
			t.Errorf("%v: %d, want %d", p, got, want)
		}
	}
}

func TestConstructorsRefuseVersionAndSuiteThatDoNotMatch(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		for name, change := range map[string]func(*record.Keys){
			"other version": func(k *record.Keys) { k.Version ^= record.TLS12 ^ record.TLS13 },
			"TLS 1.1":       func(k *record.Keys) { k.Version = 0x0302 },
			"no version":    func(k *record.Keys) { k.Version = 0 },
			"no suite":      func(k *record.Keys) { k.Suite = 0 },
			"CBC suite":     func(k *record.Keys) { k.Suite = tls.TLS_RSA_WITH_AES_128_CBC_SHA },
		} {
			refuseKeys(t, name, p.keys("", 0), change, record.ErrSuite)
		}
	})
}

func TestConstructorsRefuseKeysOfAnotherLength(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		for name, change := range map[string]func(*record.Keys){
			"key a byte short": func(k *record.Keys) { k.Key = k.Key[1:] },
			"key a byte long":  func(k *record.Keys) { k.Key = append(k.Key, 1) },
			"no key":           func(k *record.Keys) { k.Key = nil },
			"other AES key":    func(k *record.Keys) { k.Key = noise("", 48-p.keyLen) },
			"iv a byte short":  func(k *record.Keys) { k.IV = k.IV[1:] },
			"iv a byte long":   func(k *record.Keys) { k.IV = append(k.IV, 1) },
			"no iv":            func(k *record.Keys) { k.IV = nil },
			"other iv":         func(k *record.Keys) { k.IV = noise("", 16-p.ivLen) },
			"nothing":          func(k *record.Keys) { k.Secret, k.Key, k.IV = nil, nil, nil },
			"odd secret":       func(k *record.Keys) { k.Secret = noise("", 33) },
			"odd secret alone": func(k *record.Keys) { k.Secret, k.Key, k.IV = noise("", 33), nil, nil },
			"short secret":     func(k *record.Keys) { k.Secret = []byte{1} },
		} {
			refuseKeys(t, name, p.keys("", 0), change, record.ErrKeyLength)
		}
		if !p.is13() {
			refuseKeys(t, "secret in TLS 1.2", p.keys("", 0), func(k *record.Keys) {
				k.Secret = noise("", p.hash().Size())
			}, record.ErrKeyLength)
		}
	})
}

// refuseKeys checks that neither constructor takes the changed keys, and that
// a refusal leaves the caller's slices alone: they are not the package's.
func refuseKeys(t *testing.T, name string, k record.Keys, change func(*record.Keys), want error) {
	t.Helper()
	change(&k)
	before := k.Clone()
	if s, err := record.NewSealer(k); s != nil || !errors.Is(err, want) {
		t.Errorf("NewSealer, %s: %v, %v, want %v", name, s, err, want)
	}
	if o, err := record.NewOpener(k); o != nil || !errors.Is(err, want) {
		t.Errorf("NewOpener, %s: %v, %v, want %v", name, o, err, want)
	}
	if err := k.Derive(); !errors.Is(err, want) {
		t.Errorf("Derive, %s: %v, want %v", name, err, want)
	}
	if !reflect.DeepEqual(k, before) {
		t.Errorf("%s: a refusal changed the caller's keys", name)
	}
}

func TestSecretAloneIsEnough(t *testing.T) {
	each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
		full := p.keys("alone", 9)
		only := record.Keys{Version: p.version, Suite: p.id, Secret: full.Secret, Seq: 9}
		if got := sealer(t, only).Keys(); !reflect.DeepEqual(got, full) {
			t.Errorf("\n got %+v\nwant %+v", got, full)
		}
		if got := opener(t, only).Keys(); !reflect.DeepEqual(got, full) {
			t.Errorf("\n got %+v\nwant %+v", got, full)
		}
		if !bytes.Equal(only.Secret, noise("secret alone", p.hash().Size())) {
			t.Error("the caller's secret was changed")
		}
	})
}

func TestCloneSharesNoMemory(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		k, want := p.keys("clone", 4), p.keys("clone", 4)
		k.Epoch, want.Epoch = 2, 2
		c := k.Clone()
		k.Wipe()
		if !reflect.DeepEqual(c, want) {
			t.Error("wiping the original changed the clone")
		}
	})
}

func TestWipeClearsTheSlicesTheCallerSees(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		k := p.keys("wipe", 4)
		seen := k
		k.Wipe()
		for name, b := range map[string][]byte{"secret": seen.Secret, "key": seen.Key, "iv": seen.IV} {
			if !bytes.Equal(b, make([]byte, len(b))) {
				t.Errorf("%s is still %x", name, b)
			}
		}
		if k.Secret != nil || k.Key != nil || k.IV != nil {
			t.Error("wiped keys still refer to the slices")
		}
	})
}

func TestSealerAndOpenerKeepNoReferenceToTheKeys(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		k := p.keys("reference", 6)
		s, o := sealer(t, k), opener(t, k)
		k.Wipe() // before the first record, when the cipher is not yet made

		want := p.keys("reference", 6)
		rec, err := s.Seal(nil, record.ApplicationData, []byte("payload"))
		if err != nil || !bytes.Equal(rec, p.byHand(want, 6, record.ApplicationData, []byte("payload"), 0)) {
			t.Fatalf("sealed %x, %v", rec, err)
		}
		if _, payload, err := o.Open(nil, rec); err != nil || string(payload) != "payload" {
			t.Fatalf("opened %q, %v", payload, err)
		}

		// Nor may what Keys returns lead back inside.
		got := s.Keys()
		got.Wipe()
		got = o.Keys()
		got.Wipe()
		want.Seq = 7
		if got := s.Keys(); !reflect.DeepEqual(got, want) {
			t.Errorf("sealer's keys\n got %+v\nwant %+v", got, want)
		}
		if got := o.Keys(); !reflect.DeepEqual(got, want) {
			t.Errorf("opener's keys\n got %+v\nwant %+v", got, want)
		}
	})
}

func TestConstructorsDoNotWriteIntoTheCallersKeys(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		k, want := p.keys("untouched", 6), p.keys("untouched", 6)
		s, o := sealer(t, k), opener(t, k)
		rec, err := s.Seal(nil, record.Handshake, []byte("payload"))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := o.Open(nil, rec); err != nil {
			t.Fatal(err)
		}
		s.Wipe()
		o.Wipe()
		if !reflect.DeepEqual(k, want) {
			t.Error("the caller's keys were changed")
		}
	})
}

// A process that takes an association over has nothing but its Keys.
func TestKeysCarryAnAssociationToAnotherSealerAndOpener(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		s, o := p.pair(t, 11)
		for i := range 6 {
			if i == 3 && p.is13() {
				if err := errors.Join(s.Next(), o.Next()); err != nil {
					t.Fatal(err)
				}
			}
			rec, err := s.Seal(nil, record.ApplicationData, []byte{byte(i)})
			if err != nil {
				t.Fatal(err)
			}
			typ, payload, err := o.Open(nil, rec)
			if err != nil || typ != record.ApplicationData || !bytes.Equal(payload, []byte{byte(i)}) {
				t.Fatalf("record %d: %v %x %v", i, typ, payload, err)
			}
			if !reflect.DeepEqual(s.Keys(), o.Keys()) {
				t.Fatalf("record %d: the ends disagree", i)
			}
			s, o = sealer(t, s.Keys()), opener(t, o.Keys())
		}
	})
}

// A key that was wiped is all zeros, which anybody can guess: sealing under it
// would send the payload in the clear.
func TestWipedSealerAndOpenerRefuseToWork(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		s, o := p.pair(t, 5)
		rec, err := s.Seal(nil, record.ApplicationData, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		s.Wipe()
		o.Wipe()
		dst := []byte("dst")
		if out, err := s.Seal(dst, record.ApplicationData, []byte("x")); err == nil || string(out) != "dst" {
			t.Errorf("wiped sealer made %x, %v", out, err)
		}
		if s.Seq() != 6 {
			t.Errorf("wiped sealer spent a number: Seq = %d", s.Seq())
		}
		var e *record.Error
		if _, _, err := o.Open(nil, bytes.Clone(rec)); err == nil || errors.As(err, &e) {
			t.Errorf("wiped opener: %v, want an error that does not blame the peer", err)
		}
		zero := record.Keys{Version: p.version, Suite: p.id, Key: make([]byte, p.keyLen), IV: make([]byte, p.ivLen)}
		forged := p.byHand(zero, 5, record.ApplicationData, []byte("x"), 0)
		if typ, payload, err := o.Open(nil, forged); err == nil {
			t.Errorf("wiped opener took %v %q from whoever knows that zero is zero", typ, payload)
		}
		for _, k := range []record.Keys{s.Keys(), o.Keys()} {
			if _, err := record.NewSealer(k); !errors.Is(err, record.ErrKeyLength) {
				t.Errorf("the keys of what was wiped make a sealer: %v", err)
			}
		}
		if s.CanNext() {
			t.Error("wiped sealer has a secret left")
		}
		if err := s.Next(); !errors.Is(err, record.ErrNoSecret) {
			t.Errorf("wiped sealer: Next = %v", err)
		}
		if err := o.Next(); !errors.Is(err, record.ErrNoSecret) {
			t.Errorf("wiped opener: Next = %v", err)
		}
		s.Wipe() // twice is as good as once
		o.Wipe()
	})
}

func TestUsableSaysWhetherTheProcessMayUseASuite(t *testing.T) {
	for _, p := range profiles {
		if err := record.Usable(p.version, p.id); err != nil {
			t.Errorf("%v: %v", p, err)
		}
		if err := record.Usable(0x0302, p.id); !errors.Is(err, record.ErrSuite) {
			t.Errorf("%v in TLS 1.1: %v, want ErrSuite", p, err)
		}
	}
	if err := record.Usable(record.TLS13, 0x1304); !errors.Is(err, record.ErrSuite) {
		t.Errorf("CCM: %v, want ErrSuite", err)
	}
}

// The mode is chosen when a process starts, so the test runs itself in one.
func TestFIPSOnlyModeIsAnErrorNotAPanic(t *testing.T) {
	const child = "RECORD_TEST_FIPS_ONLY"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1", "GODEBUG=fips140=only")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	for _, p := range profiles {
		if err := record.Usable(p.version, p.id); err == nil {
			t.Errorf("%v: Usable sees no obstacle", p)
		}
		k := record.Keys{Version: p.version, Suite: p.id, Key: noise("", p.keyLen), IV: noise("", p.ivLen), Seq: 2}
		s, o := sealer(t, k), opener(t, k)
		if out, err := s.Seal([]byte("dst"), record.ApplicationData, []byte("x")); err == nil || string(out) != "dst" || s.Seq() != 2 {
			t.Errorf("%v: Seal = %x, %v, Seq %d", p, out, err, s.Seq())
		}
		rec := append([]byte{23, 3, 3, 0, 40}, make([]byte, 40)...)
		var e *record.Error
		if _, _, err := o.Open(nil, rec); err == nil || errors.As(err, &e) {
			t.Errorf("%v: Open = %v, want an error that does not blame the peer", p, err)
		}
	}
}

func TestKeysThatDoNotFollowFromTheSecretAreRefused(t *testing.T) {
	good, err := record.TrafficKeys(0x1301, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*record.Keys){
		"key": func(k *record.Keys) { k.Key[0] ^= 1 },
		"iv":  func(k *record.Keys) { k.IV[11] ^= 1 },
	} {
		k := good.Clone()
		change(&k)
		if _, err := record.NewSealer(k); err != record.ErrKeyMismatch {
			t.Errorf("NewSealer, other %s: %v", name, err)
		}
		if _, err := record.NewOpener(k); err != record.ErrKeyMismatch {
			t.Errorf("NewOpener, other %s: %v", name, err)
		}
	}
}

func TestContentTypeZeroIsNotSealed(t *testing.T) {
	k, err := record.TrafficKeys(0x1301, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	s, err := record.NewSealer(k)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := s.Seal(nil, 0, []byte("x")); err != record.ErrType || out != nil || s.Seq() != 0 {
		t.Error(out, err, s.Seq())
	}
}

func TestPrintedKeysShowNoSecret(t *testing.T) {
	k, err := record.TrafficKeys(0x1301, bytes.Repeat([]byte{0xa7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, s := range []string{fmt.Sprintf(format, k), fmt.Sprintf(format, &k)} {
			if strings.Contains(s, "167") || strings.Contains(s, "a7") || !strings.Contains(s, "0x1301") {
				t.Errorf("%s: %s", format, s)
			}
		}
	}
}
