package record_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/pion/dtls/v3/pkg/crypto/ciphersuite"
	"github.com/pion/dtls/v3/pkg/protocol"
	"github.com/pion/dtls/v3/pkg/protocol/recordlayer"

	"github.com/aftls/aftls/record"
)

// pionCipher is the record layer of pion/dtls, which has DTLS 1.2 only.
type pionCipher interface {
	Encrypt(pkt *recordlayer.RecordLayer, raw []byte) ([]byte, error)
	Decrypt(header recordlayer.Header, in []byte) ([]byte, error)
}

func (p profile) pion(t *testing.T, k record.Keys) (c pionCipher) {
	t.Helper()
	var err error
	if p.chacha {
		c, err = ciphersuite.NewChaCha20Poly1305(k.Key, k.IV, k.Key, k.IV)
	} else {
		c, err = ciphersuite.NewGCM(k.Key, k.IV, k.Key, k.IV)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sealedByPion is what pion's connection sends for the record.
func sealedByPion(t *testing.T, c pionCipher, s spec) []byte {
	t.Helper()
	h := recordlayer.Header{
		ContentType: protocol.ContentType(s.typ), Version: protocol.Version1_2,
		Epoch: uint16(s.epoch), SequenceNumber: s.seq, ContentLen: uint16(len(s.payload)),
	}
	body := s.payload
	if len(s.cid) > 0 {
		inner := recordlayer.InnerPlaintext{Content: s.payload, RealType: h.ContentType, Zeros: uint(s.zeros)}
		var err error
		if body, err = inner.Marshal(); err != nil {
			t.Fatal(err)
		}
		h.ContentType, h.ConnectionID, h.ContentLen = protocol.ContentTypeConnectionID, s.cid, uint16(len(body))
	}
	head, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := c.Encrypt(&recordlayer.RecordLayer{Header: h}, append(head, body...))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// openedByPion is what pion's connection makes of the record.
func openedByPion(t *testing.T, c pionCipher, rec []byte, cidLen int) (record.ContentType, []byte) {
	t.Helper()
	h := recordlayer.Header{}
	if cidLen > 0 {
		h.ConnectionID = make([]byte, cidLen)
	}
	out, err := c.Decrypt(h, bytes.Clone(rec))
	if err != nil {
		t.Fatal(err)
	}
	if cidLen == 0 {
		return record.ContentType(out[0]), out[h.Size():]
	}
	var inner recordlayer.InnerPlaintext
	if err := inner.Unmarshal(out[h.Size():]); err != nil {
		t.Fatal(err)
	}
	return record.ContentType(inner.RealType), inner.Content
}

func TestDatagramAgainstPion(t *testing.T) {
	each(t, datagram12, func(t *testing.T, p profile) {
		r := rand.New(rand.NewPCG(5, uint64(p.id)))
		for _, sh := range p.shapes() {
			for range 60 {
				w := spec{
					epoch: 1 + r.Uint64N(3), seq: r.Uint64N(1 << 48), typ: types[r.IntN(len(types))],
					payload: noise("pion", r.IntN(1500)), cid: sh.cid,
				}
				k := p.datagramKeys("pion", w.epoch, w.seq)
				s, o, c := datagramSealer(t, k, sh), datagramOpener(t, k, sh), p.pion(t, k)
				if pad := 1 + r.IntN(100); len(sh.cid) > 0 {
					s.SetPadding(pad)
					w.zeros = (pad - len(w.payload)%pad) % pad
				}
				rec, err := s.Seal(nil, w.typ, w.payload)
				if err != nil {
					t.Fatal(err)
				}
				if theirs := sealedByPion(t, c, w); !bytes.Equal(rec, theirs) {
					t.Fatalf("%v: sealed\n got %x\npion %x", sh, rec, theirs)
				}
				if typ, payload := openedByPion(t, c, rec, len(sh.cid)); typ != w.typ || !bytes.Equal(payload, w.payload) {
					t.Fatalf("%v: pion opened %v %x, want %v %x", sh, typ, payload, w.typ, w.payload)
				}
				opensDatagram(t, o, sealedByPion(t, c, w), w)
			}
		}
	})
}
