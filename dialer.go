package aftls

import (
	"context"
	"crypto/tls"
	"net"
	"time"
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
	ctx, cancel := within(ctx, d.NetDialer)
	defer cancel()
	carrier, err := dialCarrier(ctx, d.NetDialer, network, addr)
	if err != nil {
		return nil, err
	}
	c, err := Client(ctx, carrier, named(d.Config, addr), d.Options)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Dial is DialContext without a context.
func (d *Dialer) Dial(network, addr string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, addr)
}

// within is ctx with the Timeout and the Deadline of nd.
func within(ctx context.Context, nd *net.Dialer) (context.Context, context.CancelFunc) {
	if nd == nil {
		return ctx, func() {}
	}
	until := nd.Deadline
	if nd.Timeout != 0 {
		if t := time.Now().Add(nd.Timeout); until.IsZero() || t.Before(until) {
			until = t
		}
	}
	if until.IsZero() {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, until)
}

func dialCarrier(ctx context.Context, nd *net.Dialer, network, addr string) (net.Conn, error) {
	if nd == nil {
		nd = new(net.Dialer)
	}
	return nd.DialContext(ctx, network, addr)
}

// named is config with the host of addr as its ServerName, if it has none.
func named(config *tls.Config, addr string) *tls.Config {
	if config != nil && config.ServerName != "" {
		return config
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	if config = config.Clone(); config == nil {
		config = new(tls.Config)
	}
	config.ServerName = host
	return config
}
