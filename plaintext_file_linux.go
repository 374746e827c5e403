package aftls

import (
	"os"

	"github.com/aftls/aftls/internal/pump"
)

// PlaintextFile gives the connection to a program that reads and writes a
// descriptor: it returns one half of a pair of Unix stream sockets, which blocks
// and is close-on-exec, while this process moves bytes between the other half
// and the connection. It consumes the Conn, whose calls are [ErrDetached] from
// then on (of a connection in passthrough it must not be used any more). The
// file is the caller's; close it once the program has it: whoever holds a
// duplicate hides the program's close.
//
// The file is fail-closed. Reading ends with 0 only after the peer's
// close_notify; a truncated stream, a bad record, a fatal alert and the death of
// this process are ECONNRESET, behind what came before. Shutting down or closing
// the file sends what was written, and then close_notify. Records are cut as they
// come: neither side's boundaries are kept. Linux; elsewhere the error is
// errors.ErrUnsupported.
func (c *Conn) PlaintextFile() (*os.File, error) {
	end, file, err := pump.NewPair()
	if err != nil {
		return nil, opError("plaintext", c.NetConn(), err)
	}
	if c.pass == nil {
		carrier, opt := c.s.carrier, Options{}
		send, _ := c.s.halves()
		opt.MaxRecords, opt.Padding = send.Limits()
		var st *State
		h := c.s.hooks.Swap(nil)
		if st, err = c.Detach(); err == nil {
			if c, err = Resume(carrier, st, opt); err == nil {
				c.s.moveHooks(h)
			}
		}
		if err != nil {
			end.Close()
			file.Close()
			return nil, err
		}
	}
	go pump.New(c, end).Run()
	return file, nil
}
