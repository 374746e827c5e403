package record

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"testing"
)

// The vectors were posted to the IETF TLS list (msg03416) for RFC 5246, 5.
func TestPRFMatchesVectorsOfTheTLSList(t *testing.T) {
	for _, v := range []struct {
		name         string
		hash         func() hash.Hash
		secret, seed string
		want         string
	}{
		{
			"SHA-256", sha256.New, "9bbe436ba940f017b17652849a71db35", "a0ba9f936cda311827a6f796ffd5198c",
			"e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a" +
				"6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab" +
				"4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701" +
				"87347b66",
		},
		{
			"SHA-384", sha512.New384, "b80b733d6ceefcdc71566ea48e5567df", "cd665cf6a8447dd6ff8b27555edb7465",
			"7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cd" +
				"e9ca0faa60be9fe34f82b1233c9146a0e534cb400fed2700884f9dc236f80edd" +
				"8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d918425" +
				"9b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee6" +
				"91c8f3a26854308d5eaa3be85e0990703d73e56f",
		},
	} {
		t.Run(v.name, func(t *testing.T) {
			secret, seed, want := fromHex(t, v.secret), fromHex(t, v.seed), fromHex(t, v.want)
			seed = append([]byte("test label"), seed...)
			// A shorter output is the beginning of a longer one, also where it
			// ends inside a block.
			for n := range len(want) + 1 {
				if got := prf12(v.hash, secret, seed, n); !bytes.Equal(got, want[:n]) {
					t.Fatalf("%d bytes:\n got %x\nwant %x", n, got, want[:n])
				}
			}
		})
	}
}

func TestWipeLeavesNoKeyBytesInSealerOrOpener(t *testing.T) {
	k, err := TrafficKeys(0x1302, bytes.Repeat([]byte{0xa5}, 48))
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSealer(k)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(k)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := s.Seal(nil, ApplicationData, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := o.Open(nil, rec); err != nil {
		t.Fatal(err)
	}
	used := []*using{s.using, o.using}
	s.Wipe()
	o.Wipe()
	for _, u := range used {
		if *u != (using{}) {
			t.Error("the iv or a nonce was not wiped")
		}
	}
	for name, h := range map[string]*half{"sealer": &s.half, "opener": &o.half} {
		if h.secret != [len(h.secret)]byte{} {
			t.Errorf("%s still holds key material", name)
		}
		if h.using != nil || h.hold != wiped {
			t.Errorf("%s still holds the cipher or says it has a secret", name)
		}
	}
}

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
