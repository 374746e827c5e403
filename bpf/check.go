package bpf

import (
	"fmt"

	"golang.org/x/net/bpf"
)

// scratchWords is how many words M[] has (BPF_MEMWORDS of Linux).
const scratchWords = 16

// Places that Linux gives to negative offsets, as they stand in K: from
// ancillary on there is what Linux knows about a packet besides its bytes, from
// network and link on there are the headers in front of them.
const (
	ancillary uint32 = 0xfffff000 // SKF_AD_OFF, -0x1000
	network   uint32 = 0xfff00000 // SKF_NET_OFF, -0x100000
	link      uint32 = 0xffe00000 // SKF_LL_OFF, -0x200000
)

// check holds a program to the rules of bpf_check_classic in net/core/filter.c,
// and refuses the loads that a message cannot serve.
func check(raw []bpf.RawInstruction) error {
	if len(raw) == 0 {
		return &Error{At: -1, Reason: "it is empty; the shortest one is a ret"}
	}
	if len(raw) > MaxInstructions {
		return tooLong(len(raw))
	}
	for i, in := range raw {
		if reason := checkOne(in, len(raw)-i-1); reason != "" {
			return &Error{At: i, Reason: reason}
		}
	}
	switch formOf(raw[len(raw)-1].Op).op {
	case opReturnK, opReturnA:
		return checkScratch(raw)
	}
	return &Error{At: len(raw) - 1, Reason: "the last instruction has to be a ret"}
}

// checkOne returns what is wrong with an instruction that has behind others
// after it.
func checkOne(in bpf.RawInstruction, behind int) string {
	f := formOf(in.Op)
	if f.name == "" {
		return fmt.Sprintf("there is no instruction with code %#x", in.Op)
	}
	switch f.op {
	case opDivK, opModK:
		if in.K == 0 {
			return "division by zero"
		}
	case opLeftK, opRightK:
		if in.K >= 32 {
			return fmt.Sprintf("shift by %d; a register has 32 bits", in.K)
		}
	case opJump:
		if uint64(in.K) >= uint64(behind) {
			return fmt.Sprintf("jump over %d of the %d instructions behind it", in.K, behind)
		}
	}
	if skip := max(in.Jt, in.Jf); f.jump && int(skip) >= behind {
		return fmt.Sprintf("jump over %d of the %d instructions behind it", skip, behind)
	}
	switch f.operand {
	case word:
		if in.K >= scratchWords {
			return fmt.Sprintf("M[%d]; the last word is M[%d]", in.K, scratchWords-1)
		}
	case absolute, indirect, shift:
		switch {
		case in.K >= ancillary:
			if f.operand == absolute { // elsewhere Linux gives it no meaning, and neither do we
				return fmt.Sprintf("loads %s (SKF_AD_OFF): a message has no such thing", ancillaryName(in.K-ancillary))
			}
		case in.K >= network:
			return "loads from the network header (SKF_NET_OFF): a message has none"
		case in.K >= link:
			return "loads from the link layer header (SKF_LL_OFF): a message has none"
		}
	}
	return ""
}

// checkScratch makes sure that no word of M[] is read before it is written, on
// whatever path. Like Linux it does not see that the instruction behind a ret
// is not reached from there.
func checkScratch(raw []bpf.RawInstruction) error {
	// Bit n of missing[i]: some jump to i comes from where M[n] is not written.
	// Jumps go forward, so it is known when i is looked at.
	var missing [MaxInstructions]uint16
	written := uint16(0)
	for i, in := range raw {
		written &^= missing[i]
		f := formOf(in.Op)
		switch f.op {
		case opStore, opStoreX:
			written |= 1 << in.K
		case opLoadM, opLoadXM:
			if written&(1<<in.K) == 0 {
				return &Error{At: i, Reason: fmt.Sprintf("M[%d] is read, and was not written on every way to here", in.K)}
			}
		case opJump:
			missing[i+1+int(in.K)] |= ^written
			written = 0xffff
		default:
			if f.jump {
				missing[i+1+int(in.Jt)] |= ^written
				missing[i+1+int(in.Jf)] |= ^written
				written = 0xffff
			}
		}
	}
	return nil
}

// ancillaryName names what Linux has at an offset from SKF_AD_OFF
// (linux/filter.h).
func ancillaryName(offset uint32) string {
	names := [...]string{"the protocol", "the packet type", "the interface number", "a netlink attribute",
		"a nested netlink attribute", "the mark", "the queue number", "the link layer type", "the hash",
		"the number of the CPU", "A xor X", "the VLAN tag", "whether there is a VLAN tag", "the payload offset",
		"a random number", "the VLAN protocol"}
	if offset%4 == 0 && int(offset/4) < len(names) {
		return names[offset/4]
	}
	return fmt.Sprintf("ancillary data %d", offset)
}
