package aftls

import (
	"context"
	"crypto/tls"
	"net"
)

// Dialer connects to TLS servers. The zero value is ready for use.
type Dialer struct {
	NetDialer *net.Dialer // for the carrier; nil is the zero net.Dialer
	Config    *tls.Config // nil is the zero Config; ServerName defaults to the host dialled
	Options   Options
}

// DialContext connects to the address and runs the handshake. The net.Conn is a
// [*Conn]; its type is net.Conn so that the method fits where functions of this
// form are asked for. ctx, and the NetDialer's Timeout and Deadline, cover both
// the connection and the handshake.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	nd := d.NetDialer
	if nd == nil {
		nd = new(net.Dialer)
	}
	if nd.Timeout != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, nd.Timeout)
		defer cancel()
	}
	if !nd.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, nd.Deadline)
		defer cancel()
	}
	carrier, err := nd.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	config := d.Config
	if config == nil || config.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		if config = config.Clone(); config == nil {
			config = new(tls.Config)
		}
		config.ServerName = host
	}
	c, err := Client(ctx, carrier, config, d.Options)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Dial is DialContext without a context.
func (d *Dialer) Dial(network, addr string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, addr)
}
