package record_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aftls/aftls/record"
)

// capture is a connection of DTLS 1.3 between ends that others wrote: what passed
// between them, and their secrets. The files in testdata/dtls13 have some, made by
// TestDatagram13AgainstPrograms -update. A line is
//
//	# what it is
//	suite 1301
//	cid server HEX         that the server asked for, and that is in records to it
//	secret client 2 HEX    of the client's records, in epoch 2
//	> HEX                  a datagram to the server
//	< HEX                  a datagram to the client
type capture struct {
	title     string
	suite     uint16
	cid       map[string][]byte
	secrets   map[string]map[uint64][]byte
	datagrams []capturedDatagram
}

type capturedDatagram struct {
	from string // "client" or "server"
	d    []byte
}

func newCapture() *capture {
	return &capture{cid: map[string][]byte{}, secrets: map[string]map[uint64][]byte{"client": {}, "server": {}}}
}

func (c *capture) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\nsuite %04x\n", c.title, c.suite)
	for _, end := range []string{"client", "server"} {
		if cid := c.cid[end]; len(cid) > 0 {
			fmt.Fprintf(&b, "cid %s %x\n", end, cid)
		}
		for epoch := range uint64(4) {
			if s := c.secrets[end][epoch]; s != nil {
				fmt.Fprintf(&b, "secret %s %d %x\n", end, epoch, s)
			}
		}
	}
	for _, d := range c.datagrams {
		arrow := ">"
		if d.from == "server" {
			arrow = "<"
		}
		fmt.Fprintf(&b, "%s %x\n", arrow, d.d)
	}
	return b.String()
}

func readCapture(t *testing.T, file string) *capture {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c := newCapture()
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		f := strings.Fields(line)
		last, err := hex.DecodeString(f[len(f)-1])
		switch {
		case f[0] == "#":
			c.title = strings.TrimPrefix(line, "# ")
			continue
		case err != nil:
		case f[0] == "suite" && len(last) == 2:
			c.suite = uint16(last[0])<<8 | uint16(last[1])
			continue
		case f[0] == "cid" && len(f) == 3:
			c.cid[f[1]] = last
			continue
		case f[0] == "secret" && len(f) == 4:
			var epoch uint64
			if epoch, err = strconv.ParseUint(f[2], 10, 64); err == nil && c.secrets[f[1]] != nil {
				c.secrets[f[1]][epoch] = last
				continue
			}
		case f[0] == ">" && len(f) == 2:
			c.datagrams = append(c.datagrams, capturedDatagram{"client", last})
			continue
		case f[0] == "<" && len(f) == 2:
			c.datagrams = append(c.datagrams, capturedDatagram{"server", last})
			continue
		}
		t.Fatalf("%s:%d: %q, %v", file, i+1, line, err)
	}
	return c
}

// opened counts what was in a capture, by what it was: "client ACK", "server
// KeyUpdate", "client data in epoch 4".
type opened map[string]int

var handshakeNames = map[byte]string{
	4: "NewSessionTicket", 8: "EncryptedExtensions", 9: "NewConnectionId", 10: "RequestConnectionId",
	11: "Certificate", 13: "CertificateRequest", 15: "CertificateVerify", 20: "Finished", 24: "KeyUpdate",
}

func (o opened) count(from string, rec record.DatagramRecord) {
	add := func(what string) {
		o[from+" "+what]++
		o[fmt.Sprintf("%s %s in epoch %d", from, what, rec.Epoch)]++
	}
	switch rec.Type {
	case record.ACKRecord:
		add("ACK")
	case record.AlertRecord:
		add("alert")
	case record.ApplicationData:
		add("data")
		if rec.Epoch > 3 {
			add("data after a KeyUpdate")
		}
	case record.Handshake:
		for m := rec.Payload; len(m) >= 12; { // messages, or pieces of them (RFC 9147, 5.2)
			add(handshakeNames[m[0]])
			m = m[min(len(m), 12+int(m[9])<<16+int(m[10])<<8+int(m[11])):]
		}
	default:
		add(fmt.Sprintf("type %d", rec.Type))
	}
}

// check opens every protected record of the capture, and seals what was in it to
// the same bytes.
func (c *capture) check(t *testing.T) opened {
	t.Helper()
	count := opened{}
	openers := map[string]*record.DatagramOpener{}
	peer := map[string]string{"client": "server", "server": "client"}
	for from := range peer {
		k, err := record.DatagramTrafficKeys(c.suite, c.secrets[from][2], 2)
		if err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		if openers[from], err = record.NewDatagramOpener(k, c.cid[peer[from]]); err != nil {
			t.Fatal(err)
		}
		if k, err = record.DatagramTrafficKeys(c.suite, c.secrets[from][3], 3); err == nil {
			err = openers[from].Install(k)
		}
		if err != nil {
			t.Fatalf("%s: %v", from, err)
		}
	}
	for i, d := range c.datagrams {
		o := openers[d.from]
		for left := bytes.Clone(d.d); len(left) > 0; {
			at := len(d.d) - len(left)
			clear := left[0]&0b1110_0000 != 0b0010_0000
			rec, rest, err := o.Open(left)
			switch {
			case clear && err == error(record.DropEpoch): // of the handshake's beginning
			case err != nil:
				t.Fatalf("datagram %d, from the %s, byte %d: %v\n%x", i, d.from, at, err, d.d)
			default:
				count.count(d.from, rec)
				sealed := d.d[at : len(d.d)-len(rest)]
				if sealed[0]&0b0001_0000 != 0 {
					count[d.from+" record with a CID"]++
				}
				if again := c.sealAgain(t, o, rec, sealed, c.cid[peer[d.from]]); !bytes.Equal(again, sealed) {
					t.Fatalf("datagram %d, from the %s, byte %d: sealed again\n got %x\nwant %x", i, d.from, at, again, sealed)
				}
				if rec.Type == record.ACKRecord {
					c.checkACK(t, rec.Payload)
				}
				if rec.Type == record.Handshake && len(rec.Payload) > 0 && rec.Payload[0] == 24 && o.Epoch() == rec.Epoch {
					if err := o.Next(); err != nil {
						t.Fatal(err)
					}
				}
			}
			left = rest
		}
	}
	return count
}

// sealAgain makes the record of what was in it, with a sealer that is set as the
// sender's was.
func (c *capture) sealAgain(t *testing.T, o *record.DatagramOpener, rec record.DatagramRecord, sealed, cid []byte) []byte {
	t.Helper()
	var k record.Keys
	for _, k = range o.Keys() {
		if k.Epoch == rec.Epoch {
			break
		}
	}
	k.Seq = rec.Seq
	if sealed[0]&0b0001_0000 == 0 {
		cid = nil
	}
	s, err := record.NewDatagramSealer(k, cid)
	if err != nil {
		t.Fatal(err)
	}
	var form record.HeaderForm
	if sealed[0]&0b0000_1000 == 0 {
		form |= record.ShortNumber
	}
	if sealed[0]&0b0000_0100 == 0 {
		form |= record.NoLength
	}
	s.SetHeader(form)
	if zeros := len(sealed) - s.SealedLen(len(rec.Payload)); zeros > 0 {
		s.SetPadding(len(rec.Payload) + zeros)
	}
	again, err := s.Seal(nil, rec.Type, rec.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// checkACK parses an ACK, and makes the same of what it says.
func (c *capture) checkACK(t *testing.T, message []byte) {
	t.Helper()
	numbers, err := record.ParseACK(nil, message)
	if err != nil {
		t.Fatalf("ACK %x: %v", message, err)
	}
	if again, err := record.AppendACK(nil, numbers); err != nil || !bytes.Equal(again, message) {
		t.Errorf("ACK %x made again: %x, %v", message, again, err)
	}
}

// TestDatagramsOfOthers opens what programs that others wrote have sent to each
// other, and seals it again.
func TestDatagramsOfOthers(t *testing.T) {
	for _, x := range scenarios {
		t.Run(x.name, func(t *testing.T) {
			c := readCapture(t, filepath.Join("testdata/dtls13", x.name+".txt"))
			if c.suite != x.suite || len(c.cid["client"]) != len(x.cid["client"])/2 || len(c.cid["server"]) != len(x.cid["server"])/2 {
				t.Errorf("it is of suite %04x, with CIDs %x", c.suite, c.cid)
			}
			x.check(t, c)
		})
	}
}

// check checks a capture, and that all the scenario wants is in it.
func (x scenario) check(t *testing.T, c *capture) {
	t.Helper()
	got := c.check(t)
	for _, what := range slices.Concat(always, x.wants) {
		if got[what] == 0 {
			t.Errorf("no %s: %v", what, got)
		}
	}
}
