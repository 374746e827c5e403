package record_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/aftls/aftls/record"
)

// aeadVector is a published answer of an AEAD. Its additional data is never
// that of a TLS record, so its tag can check the yardstick only; but the
// ciphertext depends on key and nonce alone, and a record that is made under
// that nonce must carry it.
type aeadVector struct {
	name   string
	chacha bool
	key    string
	nonce  string
	plain  string
	aad    string
	cipher string
	tag    string
}

var aeadVectors = []aeadVector{
	{
		name:   "gcmEncryptExtIV128/PTlen=104,AADlen=0",
		key:    "fe9bb47deb3a61e423c2231841cfd1fb",
		nonce:  "4d328eb776f500a2f7fb47aa",
		plain:  "f1cc3818e421876bb6b8bbd6c9",
		cipher: "b88c5c1977b35b517b0aeae967",
		tag:    "43fd4727fe5cdb4b5b42818dea7ef8c9",
	},
	{
		name:   "gcmEncryptExtIV128/PTlen=128,AADlen=0",
		key:    "7fddb57453c241d03efbed3ac44e371c",
		nonce:  "ee283a3fc75575e33efd4887",
		plain:  "d5de42b461646c255c87bd2962d3b9a2",
		cipher: "2ccda4a5415cb91e135c2a0f78c9b2fd",
		tag:    "b36d1df9b9d5e596f83e8b7f52971cb3",
	},
	{
		name:   "gcmEncryptExtIV128/PTlen=128,AADlen=128",
		key:    "c939cc13397c1d37de6ae0e1cb7c423c",
		nonce:  "b3d8cc017cbb89b39e0f67e2",
		plain:  "c3b3c41f113a31b73d9a5cd432103069",
		aad:    "24825602bd12a984e0092d3e448eda5f",
		cipher: "93fe7d9e9bfd10348a5606e5cafa7354",
		tag:    "0032a1dc85f1c9786925a2e71d8272dd",
	},
	{
		name:  "gcmEncryptExtIV128/PTlen=256,AADlen=384",
		key:   "48b7f337cdf9252687ecc760bd8ec184",
		nonce: "3e894ebb16ce82a53c3e05b2",
		plain: "bb2bac67a4709430c39c2eb9acfabc0d456c80d30aa1734e57997d548a8f0603",
		aad: `7d924cfd37b3d046a96eb5e132042405 c8731e06509787bbeb41f25827574649
			5e884d69871f77634c584bb007312234`,
		cipher: "d263228b8ce051f67e9baf1ce7df97d10cd5f3bc972362055130c7d13c3ab2e7",
		tag:    "71446737ca1fa92e6d026d7d2ed1aa9c",
	},
	{
		name:   "gcmEncryptExtIV256/PTlen=128,AADlen=0",
		key:    "31bdadd96698c204aa9ce1448ea94ae1fb4a9a0b3c9d773b51bb1822666b8f22",
		nonce:  "0d18e06c7c725ac9e362e1ce",
		plain:  "2db5168e932556f8089a0622981d017d",
		cipher: "fa4362189661d163fcd6a56d8bf0405a",
		tag:    "d636ac1bbedd5cc3ee727dc2ab4a9489",
	},
	{
		name:   "gcmEncryptExtIV256/PTlen=128,AADlen=128",
		key:    "92e11dcdaa866f5ce790fd24501f92509aacf4cb8b1339d50c9c1240935dd08b",
		nonce:  "ac93a1a6145299bde902f21a",
		plain:  "2d71bcfa914e4ac045b2aa60955fad24",
		aad:    "1e0889016f67601c8ebea4943bc23ad6",
		cipher: "8995ae2e6df3dbf96fac7b7137bae67f",
		tag:    "eca5aa77d51d4a0a14d9c51e1da474ab",
	},
	{
		name:  "gcmEncryptExtIV256/PTlen=408,AADlen=160",
		key:   "24501ad384e473963d476edcfe08205237acfd49b5b8f33857f8114e863fec7f",
		nonce: "9ff18563b978ec281b3f2794",
		plain: `27f348f9cdc0c5bd5e66b1ccb63ad920 ff2219d14e8d631b3872265cf117ee86
			757accb158bd9abb3868fdc0d0b074b5 f01b2c`,
		aad: "adb5ec720ccf9898500028bf34afccbcaca126ef",
		cipher: `eb7cb754c824e8d96f7c6d9b76c7d26f b874ffbf1d65c6f64a698d839b0b0614
			5dae82057ad55994cf59ad7f67c0fa5e 85fab8`,
		tag: "bc95c532fecc594c36d1550286a7a3f0",
	},
	{
		name:   "RFC8439/2.8.2",
		chacha: true,
		key:    "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
		nonce:  "070000004041424344454647",
		plain: `4c616469657320616e642047656e746c 656d656e206f662074686520636c6173
			73206f66202739393a20496620492063 6f756c64206f6666657220796f75206f
			6e6c79206f6e652074697020666f7220 746865206675747572652c2073756e73
			637265656e20776f756c642062652069 742e`,
		aad: "50515253c0c1c2c3c4c5c6c7",
		cipher: `d31a8d34648e60db7b86afbc53ef7ec2 a4aded51296e08fea9e2b5a736ee62d6
			3dbea45e8ca9671282fafb69da92728b 1a71de0a9e060b2905d6a5b67ecd3b36
			92ddbd7f2d778b8c9803aee328091b58 fab324e4fad675945585808b4831d7bc
			3ff4def08e4b7a9de576d26586cec64b 6116`,
		tag: "1ae10b594f09e26a7e902ecbd0600691",
	},
}

// each profile whose AEAD the vector is of.
func (v aeadVector) each(t *testing.T, f func(t *testing.T, p profile)) {
	ran := false
	for _, p := range constructions {
		if p.chacha == v.chacha && p.keyLen == len(unhex(v.key)) {
			ran = true
			t.Run(p.String(), func(t *testing.T) { f(t, p) })
		}
	}
	if !ran {
		t.Error("no suite uses this vector")
	}
}

func TestYardstickMatchesPublishedAEADVectors(t *testing.T) {
	for _, v := range aeadVectors {
		t.Run(v.name, func(t *testing.T) {
			v.each(t, func(t *testing.T, p profile) {
				got := p.aead(unhex(v.key)).Seal(nil, unhex(v.nonce), unhex(v.plain), unhex(v.aad))
				if want := unhex(v.cipher + v.tag); !bytes.Equal(got, want) {
					t.Errorf("\n got %x\nwant %x", got, want)
				}
			})
		})
	}
}

func TestRecordUnderVectorsNonceCarriesVectorsCiphertext(t *testing.T) {
	for _, v := range aeadVectors {
		t.Run(v.name, func(t *testing.T) {
			v.each(t, func(t *testing.T, p profile) {
				nonce := unhex(v.nonce)
				if p.explicit > 0 {
					// The number itself is the explicit half of the nonce.
					k := record.Keys{Version: p.version, Suite: p.id, Key: unhex(v.key), IV: nonce[:4],
						Seq: binary.BigEndian.Uint64(nonce[4:])}
					checkVector(t, p, v, k)
					return
				}
				// Xoring the number into the iv beforehand makes the nonce the
				// vector's again, for numbers of every length below the key's limit.
				for _, seq := range []uint64{0, 1, 0xff, 0x100, 0x01020304} {
					k := record.Keys{Version: p.version, Suite: p.id, Key: unhex(v.key), IV: xorNonce(nonce, seq), Seq: seq}
					t.Run(fmt.Sprint(seq), func(t *testing.T) { checkVector(t, p, v, k) })
				}
			})
		})
	}
}

func checkVector(t *testing.T, p profile, v aeadVector, k record.Keys) {
	plain := unhex(v.plain)
	rec, err := sealer(t, k).Seal(nil, record.ApplicationData, plain)
	if err != nil {
		t.Fatal(err)
	}
	at := record.HeaderLen + p.explicit
	if got, want := rec[at:at+len(plain)], unhex(v.cipher); !bytes.Equal(got, want) {
		t.Errorf("ciphertext\n got %x\nwant %x", got, want)
	}
	if want := p.byHand(k, k.Seq, record.ApplicationData, plain, 0); !bytes.Equal(rec, want) {
		t.Errorf("record\n got %x\nwant %x", rec, want)
	}
	typ, payload, err := opener(t, k).Open(nil, rec)
	if err != nil || typ != record.ApplicationData || !bytes.Equal(payload, plain) {
		t.Errorf("opened as %v %x %v", typ, payload, err)
	}
}
