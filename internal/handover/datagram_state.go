package handover

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash"
	"reflect"
	"sync"

	"github.com/aftls/aftls/record"
	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/prf"
)

// pionState has the fields of pion/dtls's encoded State that are needed here. The
// encoding is gob, which goes by names: see checkPionState.
type pionState struct {
	RemoteSequenceNumber  uint64
	HandshakeComplete     bool
	LocalEpoch            uint16
	RemoteEpoch           uint16
	LocalRandom           [32]byte
	RemoteRandom          [32]byte
	CipherSuiteID         uint16
	MasterSecret          []byte
	SequenceNumber        uint64
	SRTPProtectionProfile uint16
	PeerCertificates      [][]byte
	IdentityHint          []byte
	LocalConnectionID     []byte
	RemoteConnectionID    []byte
	IsClient              bool
	NegotiatedProtocol    string
}

func (st *pionState) wipe() { clear(st.MasterSecret) }

// exportPionState takes the state of a finished handshake. pion must not be able
// to send any more: it would use numbers that are then ours.
func exportPionState(c *dtls.Conn) (st pionState, err error) {
	s, ok := c.ConnectionState()
	if !ok {
		return st, errors.New("pion/dtls has no state after its handshake")
	}
	blob, err := s.MarshalBinary()
	if err != nil {
		return st, err
	}
	defer clear(blob)
	if err := gob.NewDecoder(bytes.NewReader(blob)).Decode(&st); err != nil {
		return st, fmt.Errorf("pion/dtls's state: %w", err)
	}
	if st.LocalEpoch != 1 || st.RemoteEpoch != 1 || len(st.MasterSecret) != 48 {
		return st, fmt.Errorf("pion/dtls's state is of epochs %d and %d, with a master secret of %d bytes", st.LocalEpoch, st.RemoteEpoch, len(st.MasterSecret))
	}
	return st, nil
}

// checkPionState sends a state through pion's own decoder and encoder, once in
// a process: should a version of pion name or mean a field otherwise, no
// handshake begins, instead of one that ends with wrong keys or numbers.
var checkPionState = sync.OnceValue(func() error {
	want := pionState{
		RemoteSequenceNumber: 7, HandshakeComplete: true, LocalEpoch: 1, RemoteEpoch: 1,
		LocalRandom: [32]byte{0: 1, 31: 2}, RemoteRandom: [32]byte{0: 3, 31: 4},
		CipherSuiteID: uint16(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), MasterSecret: bytes.Repeat([]byte{5}, 48),
		SequenceNumber: 8, SRTPProtectionProfile: 9, PeerCertificates: [][]byte{{10}}, IdentityHint: []byte{11},
		LocalConnectionID: []byte{12}, RemoteConnectionID: []byte{13}, IsClient: true, NegotiatedProtocol: "14",
	}
	var got pionState
	err := throughPion(&want, &got)
	if err == nil && !reflect.DeepEqual(got, want) {
		err = errors.New("fields are missing, or mean something else")
	}
	if err != nil {
		return fmt.Errorf("this version of pion/dtls has another State than aftls knows (build with the version in its go.mod): %w", err)
	}
	return nil
})

func throughPion(in, out *pionState) error {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(in); err != nil {
		return err
	}
	var s dtls.State
	if err := s.UnmarshalBinary(b.Bytes()); err != nil {
		return err
	}
	blob, err := s.MarshalBinary()
	if err != nil {
		return err
	}
	return gob.NewDecoder(bytes.NewReader(blob)).Decode(out)
}

// DatagramExporter exports keying material (RFC 5705), as DTLS-SRTP wants it
// (RFC 5764, 4.2). The handshake had the extended master secret, so what it
// exports belongs to this handshake alone.
type DatagramExporter struct {
	master         []byte
	client, server [32]byte
	suite          uint16
}

// reservedLabels are those of the protocol itself (RFC 5705, 4).
var reservedLabels = []string{"client finished", "server finished", "master secret", "extended master secret", "key expansion"}

// Export returns n bytes for a label. A nil context is none, which is not the
// same as one without bytes.
func (e *DatagramExporter) Export(label string, context []byte, n int) ([]byte, error) {
	for _, l := range reservedLabels {
		if l == label {
			return nil, fmt.Errorf("the label %q is reserved (RFC 5705, 4)", label)
		}
	}
	if len(context) > 1<<16-1 {
		return nil, errors.New("the context is longer than 65535 bytes (RFC 5705, 4)")
	}
	seed := append([]byte(label), e.client[:]...)
	seed = append(seed, e.server[:]...)
	if context != nil {
		seed = binary.BigEndian.AppendUint16(seed, uint16(len(context)))
		seed = append(seed, context...)
	}
	var h func() hash.Hash = sha256.New
	if k, _, err := record.DatagramKeyBlock(e.suite, nil, nil, nil); err == nil && len(k.Key) == 32 && len(k.IV) == 4 {
		h = sha512.New384 // the suites of AES-256-GCM have the PRF with SHA-384 (RFC 5289, 3)
	}
	return prf.PHash(e.master, seed, n, h)
}

// Wipe overwrites the master secret.
func (e *DatagramExporter) Wipe() { clear(e.master) }
