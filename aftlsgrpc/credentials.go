// Package aftlsgrpc lets google.golang.org/grpc run over TLS sockets, on the
// client's side, the server's, or both.
package aftlsgrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"slices"

	"github.com/aftls/aftls"
	"google.golang.org/grpc/credentials"
)

// protoHTTP2 is what gRPC runs over, in ALPN.
const protoHTTP2 = "h2"

var errNoHTTP2 = errors.New("aftlsgrpc: the peer did not agree on h2 by ALPN, without which there is no gRPC")

// NewTLS returns credentials for grpc.WithTransportCredentials and grpc.Creds:
// credentials.NewTLS over TLS sockets. config is read once; without a MinVersion
// it is TLS 1.2, and h2 is added to its NextProtos. The AuthInfo of a connection
// is a credentials.TLSInfo, as with credentials.NewTLS. gRPC's channelz knows no
// socket options of these connections, as they do not give out their descriptor.
func NewTLS(config *tls.Config, opt aftls.Options) credentials.TransportCredentials {
	c := &creds{config: forGRPC(config), opt: opt}
	if get := c.config.GetConfigForClient; get != nil {
		c.config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			config, err := get(hello)
			if err != nil || config == nil {
				return config, err
			}
			return forGRPC(config), nil
		}
	}
	return c
}

// forGRPC is a copy of config that keeps to HTTP/2 (RFC 9113, 9.2).
func forGRPC(config *tls.Config) *tls.Config {
	if config = config.Clone(); config == nil {
		config = new(tls.Config)
	}
	if !slices.Contains(config.NextProtos, protoHTTP2) {
		config.NextProtos = append(slices.Clip(config.NextProtos), protoHTTP2)
	}
	if config.MinVersion == 0 && (config.MaxVersion == 0 || config.MaxVersion >= tls.VersionTLS12) {
		config.MinVersion = tls.VersionTLS12
	}
	if config.CipherSuites == nil {
		for _, s := range tls.CipherSuites() {
			// Those without forward secrecy or AEAD are forbidden to HTTP/2.
			switch s.ID {
			case tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
				tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
				tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
				config.CipherSuites = append(config.CipherSuites, s.ID)
			}
		}
	}
	return config
}

type creds struct {
	config *tls.Config
	opt    aftls.Options
}

func (c *creds) ClientHandshake(ctx context.Context, authority string, carrier net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config := c.config.Clone()
	if host, _, err := net.SplitHostPort(authority); err == nil {
		config.ServerName = host
	} else {
		config.ServerName = authority
	}
	return finish(aftls.Client(ctx, carrier, config, c.opt))
}

// ServerHandshake has the time that grpc.ConnectionTimeout gives carrier.
func (c *creds) ServerHandshake(carrier net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return finish(aftls.Server(context.Background(), carrier, c.config, c.opt))
}

func finish(c *aftls.Conn, err error) (net.Conn, credentials.AuthInfo, error) {
	if err != nil {
		// gRPC asks an error that can tell whether it is temporary. A
		// net.OpError says that nothing of a handshake is, and what is in it
		// is what credentials.NewTLS would return.
		if e, ok := err.(*net.OpError); ok {
			err = e.Err
		}
		return nil, nil, err
	}
	state := c.ConnectionState()
	if state.NegotiatedProtocol != protoHTTP2 {
		c.Close()
		return nil, nil, errNoHTTP2
	}
	return c, credentials.TLSInfo{
		State:          state,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		SPIFFEID:       spiffeID(state),
	}, nil
}

// spiffeID is the SPIFFE ID of the peer: the only URI of its certificate, if it
// has the form of one (SPIFFE-ID, 2).
func spiffeID(state tls.ConnectionState) *url.URL {
	const maxID, maxDomain = 2048, 255
	if len(state.PeerCertificates) == 0 || len(state.PeerCertificates[0].URIs) != 1 {
		return nil
	}
	u := state.PeerCertificates[0].URIs[0]
	if u.Scheme != "spiffe" || u.Opaque != "" || u.User != nil || u.Path == "" || u.Host == "" ||
		len(u.Host) > maxDomain || len(u.String()) > maxID {
		return nil
	}
	return u
}

func (c *creds) Info() credentials.ProtocolInfo {
	//nolint:staticcheck // ServerName is how gRPC learns that config names the authority
	return credentials.ProtocolInfo{SecurityProtocol: "tls", ServerName: c.config.ServerName}
}

func (c *creds) Clone() credentials.TransportCredentials {
	return &creds{config: c.config.Clone(), opt: c.opt}
}

// OverrideServerName is part of the interface and used by nobody.
func (c *creds) OverrideServerName(name string) error {
	c.config.ServerName = name
	return nil
}
