package record_test

import (
	"bytes"
	"crypto/tls"
	"testing"

	"github.com/aftls/aftls/record"
)

// direction is one direction of a published connection: its traffic secret,
// the keys that follow from it and records sealed under them.
type direction struct {
	name    string
	suite   uint16
	secret  string
	key, iv string
	first   uint64 // sequence number of records[0]
	records []tracedRecord
}

type tracedRecord struct {
	typ     record.ContentType
	payload string
	sealed  string
}

const count50 = `000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f
	202122232425262728292a2b2c2d2e2f 3031`

// traces are the simple 1-RTT handshake of RFC 8448, 3 and, because the RFC
// has no AES-256, the connection annotated at tls13.xargs.org.
var traces = []direction{
	{
		name:   "RFC8448/client_handshake",
		suite:  tls.TLS_AES_128_GCM_SHA256,
		secret: "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21",
		key:    "dbfaa693d1762c5b666af5d950258d01",
		iv:     "5bd3c71b836e0b76bb73265f",
		records: []tracedRecord{{ // Finished
			typ:     record.Handshake,
			payload: "14000020a8ec436d677634ae525ac1fcebe11a039ec17694fac6e98527b642f2edd5ce61",
			sealed: `170303003575ec4dc238cce60b298044 a71e219c56cc77b0517fe9b93c7a4bfc
				44d87f38f80338ac98fc46deb384bd1c aeacab6867d726c40546`,
		}},
	},
	{
		name:   "RFC8448/server_handshake",
		suite:  tls.TLS_AES_128_GCM_SHA256,
		secret: "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38",
		key:    "3fce516009c21727d0f2e4e86ee403bc",
		iv:     "5d313eb2671276ee13000b30",
	},
	{
		name:   "RFC8448/client_application",
		suite:  tls.TLS_AES_128_GCM_SHA256,
		secret: "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
		key:    "17422dda596ed5d9acd890e3c63f5051",
		iv:     "5b78923dee08579033e523d9",
		records: []tracedRecord{
			{
				typ:     record.ApplicationData,
				payload: count50,
				sealed: `1703030043a23f7054b62c94d0affafe 8228ba55cbefacea42f914aa66bcab3f
					2b9819a8a5b46b395bd54a9a20441e2b 62974e1f5a6292a2977014bd1e3deae6
					3aeebb21694915e4`,
			},
			{ // close_notify
				typ:     record.AlertRecord,
				payload: "0100",
				sealed:  "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3",
			},
		},
	},
	{
		name:   "RFC8448/server_application",
		suite:  tls.TLS_AES_128_GCM_SHA256,
		secret: "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
		key:    "9f02283b6c9c07efc26bb9f2ac92e356",
		iv:     "cf782b88dd83549aadf1e984",
		records: []tracedRecord{
			{ // NewSessionTicket
				typ: record.Handshake,
				payload: `040000c90000001efad6aac502000000 b22c035d829359ee5ff7af4ec9000000
					00262a6494dc486d2c8a34cb33fa90bf 1b0070ad3c498883c9367c09a2be785a
					bc55cd226097a3a982117283f82a03a1 43efd3ff5dd36d64e861be7fd61d2827
					db279cce145077d454a3664d4e6da4d2 9ee03725a6a4dafcd0fc67d2aea70529
					513e3da2677fa5906c5b3f7d8f92f228 bda40dda721470f9fbf297b5aea61764
					6fac5c03272e970727c621a79141ef5f 7de6505e5bfbc388e93343694093934a
					e4d357000800 2a000400000400`,
				sealed: `17030300de3a6b8f90414a97d6959c34 87680de5134a2b240e6cffac116e95d4
					1d6af8f6b580dcf3d11d63c758db289a 015940252f55713e061dc13e078891a3
					8efbcf5753ad8ef170ad3c7353d16d9d a773b9ca7f2b9fa1b6c0d4a3d03f75e0
					9c30ba1e62972ac46f75f7b981be6343 9b2999ce13064615139891d5e4c5b406
					f16e3fc181a77ca475840025db2f0a77 f81b5ab05b94c01346755f69232c8651
					9d86cbeeac87aac347d143f9605d64f6 50db4d023e70e952ca49fe5137121c74
					bc2697687e248746d6df353005f3bce1 8696129c8153556b3b6c6779b37bf159
					85684f`,
			},
			{
				typ:     record.ApplicationData,
				payload: count50,
				sealed: `17030300432e937e11ef4ac740e538ad 36005fc4a46932fc3225d05f82aa1b36
					e30efaf97d90e6dffc602dcb501a59a8 fcc49c4bf2e5f0a21c0047c2abf33254
					0dd032e167c2955d`,
			},
			{ // close_notify
				typ:     record.AlertRecord,
				payload: "0100",
				sealed:  "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9",
			},
		},
	},
	{
		name:   "AES256/client_application",
		suite:  tls.TLS_AES_256_GCM_SHA384,
		secret: "9e47af27cb60d818a9ea7d233cb5ed4cc525fcd74614fb24b0ee59acb8e5aa7ff8d88b89792114208fec291a6fa96bad",
		key:    "de2f4c7672723a692319873e5c227606691a32d1c59d8b9f51dbb9352e9ca9cc",
		iv:     "bb007956f474b25de902432f",
		records: []tracedRecord{{
			typ:     record.ApplicationData,
			payload: "70696e67", // ping
			sealed:  "1703030015828139cb7b73aaabf5b82fbf9a2961bcde10038a32",
		}},
	},
	{
		name:   "AES256/server_application",
		suite:  tls.TLS_AES_256_GCM_SHA384,
		secret: "86c967fd7747a36a0685b4ed8d0e6b4c02b4ddaf3cd294aa44e9f6b0183bf911e89a189ba5dfd71fccffb5cc164901f8",
		key:    "01f78623f17e3edcc09e944027ba3218d57c8e0db93cd3ac419309274700ac27",
		iv:     "196a750b0c5049c0cc51a541",
		first:  2, // two session tickets went before
		records: []tracedRecord{{
			typ:     record.ApplicationData,
			payload: "706f6e67", // pong
			sealed:  "17030300150cda85f1447ae23fa66d56f4c5408482b1b1d4c998",
		}},
	},
}

// recorded are the directions of which records are known, not keys alone.
func recorded() (out []direction) {
	for _, d := range traces {
		if len(d.records) > 0 {
			out = append(out, d)
		}
	}
	return out
}

func (d direction) keys(t *testing.T) record.Keys {
	t.Helper()
	k, err := record.TrafficKeys(d.suite, unhex(d.secret))
	if err != nil {
		t.Fatal(err)
	}
	k.Seq = d.first
	return k
}

func TestPublishedSecretsGivePublishedKeys(t *testing.T) {
	for _, d := range traces {
		t.Run(d.name, func(t *testing.T) {
			k := d.keys(t)
			if want := unhex(d.key); !bytes.Equal(k.Key, want) {
				t.Errorf("key %x, want %x", k.Key, want)
			}
			if want := unhex(d.iv); !bytes.Equal(k.IV, want) {
				t.Errorf("iv %x, want %x", k.IV, want)
			}
		})
	}
}

func TestSealMakesPublishedRecords(t *testing.T) {
	for _, d := range recorded() {
		t.Run(d.name, func(t *testing.T) {
			s := sealer(t, d.keys(t))
			for i, r := range d.records {
				rec, err := s.Seal(nil, r.typ, unhex(r.payload))
				if err != nil {
					t.Fatalf("record %d: %v", i, err)
				}
				if want := unhex(r.sealed); !bytes.Equal(rec, want) {
					t.Errorf("record %d:\n got %x\nwant %x", i, rec, want)
				}
			}
		})
	}
}

func TestOpenReadsPublishedRecords(t *testing.T) {
	for _, d := range recorded() {
		t.Run(d.name, func(t *testing.T) {
			o := opener(t, d.keys(t))
			for i, r := range d.records {
				typ, payload, err := o.Open(nil, unhex(r.sealed))
				if err != nil {
					t.Fatalf("record %d: %v", i, err)
				}
				if typ != r.typ || !bytes.Equal(payload, unhex(r.payload)) {
					t.Errorf("record %d: %v %x, want %v %s", i, typ, payload, r.typ, r.payload)
				}
			}
		})
	}
}

// A whole direction may arrive as one piece: the lengths alone must cut it.
func TestFrameCutsPublishedStreamIntoRecords(t *testing.T) {
	for _, d := range recorded() {
		t.Run(d.name, func(t *testing.T) {
			var stream []byte
			for _, r := range d.records {
				stream = append(stream, unhex(r.sealed)...)
			}
			o := opener(t, d.keys(t))
			for i, r := range d.records {
				n, err := o.Frame(stream)
				if err != nil || n != len(unhex(r.sealed)) {
					t.Fatalf("record %d: Frame = %d, %v, want %d", i, n, err, len(unhex(r.sealed)))
				}
				typ, payload, err := o.Open(nil, stream[:n:n])
				if err != nil || typ != r.typ || !bytes.Equal(payload, unhex(r.payload)) {
					t.Fatalf("record %d: %v %x %v", i, typ, payload, err)
				}
				stream = stream[n:]
			}
			if len(stream) != 0 {
				t.Fatalf("%d bytes left over", len(stream))
			}
		})
	}
}
