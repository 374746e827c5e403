package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/aftls/aftls"
	"github.com/spf13/cobra"
)

// datagramFlags are those of 'connect' and 'listen' that are about DTLS.
type datagramFlags struct {
	dtls        bool
	psk         string
	pskIdentity string
	cid         int
	wait        time.Duration
}

func (f *datagramFlags) add(c *cobra.Command, client bool) {
	c.Flags().BoolVar(&f.dtls, "dtls", false, "datagrams over UDP (DTLS 1.2) instead of a stream")
	c.Flags().StringVar(&f.psk, "psk", "", "with --dtls: pre-shared key in hex, instead of certificates")
	c.Flags().StringVar(&f.pskIdentity, "psk-identity", "", "with --dtls: the client's identity, which a server with this flag insists on")
	c.Flags().IntVar(&f.cid, "cid", 0, "with --dtls: length of the Connection ID to ask the peer for; 0 is none")
	c.MarkFlagsRequiredTogether("psk", "psk-identity")
	if client {
		c.Flags().DurationVar(&f.wait, "wait", time.Second, "with --dtls: how long to read on after the end of stdin and the last message")
	}
}

// check reports flags that mean nothing without --dtls.
func (f *datagramFlags) check(c *cobra.Command) error {
	for _, name := range []string{"psk", "psk-identity", "cid", "wait"} {
		if !f.dtls && c.Flags().Changed(name) {
			return hint(fmt.Errorf("--%s without --dtls", name), "add --dtls")
		}
	}
	return nil
}

// config is the part of it that the flags are about.
func (f *datagramFlags) config(config *tls.Config, client bool) (*aftls.DatagramConfig, error) {
	d := &aftls.DatagramConfig{TLS: config, CIDLen: f.cid}
	if f.psk == "" {
		return d, nil
	}
	key, err := hex.DecodeString(f.psk)
	if err != nil || len(key) == 0 {
		return nil, hint(errors.New("--psk is not hex"), "write the bytes of the key as hex digits, two for each")
	}
	d.TLS, d.PSKIdentity = nil, []byte(f.pskIdentity)
	d.PSK = func(identity []byte) ([]byte, error) {
		if !client && string(identity) != f.pskIdentity {
			return nil, fmt.Errorf("the client says that it is %q", identity)
		}
		return key, nil
	}
	return d, nil
}

// inputMessage is the largest message that stdin is cut into: one that fits into
// a datagram on nearly any path, the record and IPv6 around it.
const inputMessage = 1200

// connectDatagram is connect with --dtls: every read of stdin is a message.
func connectDatagram(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, addr string, config *tls.Config, f datagramFlags) error {
	dc, err := f.config(config, true)
	if err != nil {
		return err
	}
	d := &aftls.DatagramDialer{Config: dc}
	nc, err := d.DialContext(ctx, "udp", addr)
	if err != nil {
		return hint(err, "check host and port, whether the server speaks DTLS 1.2 there, and its authority (--ca) or key (--psk)")
	}
	c := nc.(*aftls.DatagramConn)
	defer c.Close()
	i := c.Info()
	fmt.Fprintf(stderr, "connected %s %s %s resumed=%v\n", c.RemoteAddr(), i.Send.VersionName(), i.Send.SuiteName(), i.Resumed)

	sent := make(chan error, 1)
	go func() {
		b := make([]byte, inputMessage)
		for {
			n, err := stdin.Read(b)
			if n > 0 {
				if _, werr := c.Write(b[:n]); werr != nil {
					sent <- werr
					return
				}
			}
			if err != nil {
				// What comes now has to come soon after what came before.
				c.SetReadDeadline(time.Now().Add(f.wait))
				if err == io.EOF {
					err = nil
				}
				sent <- err
				return
			}
		}
	}()
	b := make([]byte, 1<<16)
	over := false
	for {
		n, err := c.Read(b)
		if err == nil {
			if _, err := stdout.Write(b[:n]); err != nil {
				return err
			}
		}
		select {
		case serr := <-sent:
			if serr != nil {
				return hint(serr, "the association failed while it was in use")
			}
			over = true
		default:
		}
		var ne net.Error
		switch {
		case err == nil && over:
			c.SetReadDeadline(time.Now().Add(f.wait))
		case err == io.EOF, errors.As(err, &ne) && ne.Timeout() && errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return hint(err, "the association failed while it was in use")
		}
	}
}
