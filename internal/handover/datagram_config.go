package handover

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/aftls/aftls/record"
	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/elliptic"
	"github.com/pion/logging"
)

// DatagramConfig is package aftls's type of the same name, which documents it.
type DatagramConfig struct {
	TLS          *tls.Config
	PSK          func(identity []byte) ([]byte, error)
	PSKIdentity  []byte
	CIDLen       int
	SRTPProfiles []uint16
	Sessions     *DatagramSessions
}

// Suites that both pion and the record layer have, the best first.
var (
	certificateSuites = []dtls.CipherSuiteID{
		dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, dtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		dtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, dtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	pskSuites = []dtls.CipherSuiteID{
		dtls.TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256, dtls.TLS_PSK_WITH_AES_128_GCM_SHA256, dtls.TLS_PSK_WITH_CHACHA20_POLY1305_SHA256,
	}
)

var curves = map[tls.CurveID]elliptic.Curve{tls.X25519: elliptic.X25519, tls.CurveP256: elliptic.P256, tls.CurveP384: elliptic.P384}

// pionOptions are options in the two forms that pion has of them.
type pionOptions struct {
	both       []dtls.Option
	serverOnly []dtls.ServerOption
}

func (o *pionOptions) client() (out []dtls.ClientOption) {
	for _, x := range o.both {
		out = append(out, x)
	}
	return out
}

func (o *pionOptions) server() (out []dtls.ServerOption) {
	for _, x := range o.both {
		out = append(out, x)
	}
	return append(out, o.serverOnly...)
}

// Check reports what a handshake with this config could not keep to.
func (c *DatagramConfig) Check(client bool) error {
	t := c.TLS
	if t == nil {
		t = new(tls.Config)
	}
	switch {
	case t.MinVersion > tls.VersionTLS12:
		return errors.New("Config.MinVersion asks for DTLS 1.3, for which there is no handshake yet")
	case t.MaxVersion != 0 && t.MaxVersion < tls.VersionTLS12:
		return errors.New("Config.MaxVersion rules DTLS 1.2 out, the only version with a handshake")
	case t.GetConfigForClient != nil:
		return errors.New("Config.GetConfigForClient has no counterpart in DTLS: listen on a socket for each Config")
	case len(t.EncryptedClientHelloConfigList) > 0 || len(t.EncryptedClientHelloKeys) > 0:
		return errors.New("Config asks for encrypted ClientHellos, which DTLS 1.2 does not have")
	case client && c.PSK == nil && t.ServerName == "" && !t.InsecureSkipVerify:
		return errors.New("Config needs a ServerName to verify, or InsecureSkipVerify")
	case client && c.PSK != nil && c.PSKIdentity == nil:
		return errors.New("a client with a PSK needs a PSKIdentity")
	case !client && c.PSK == nil && len(t.Certificates) == 0 && t.GetCertificate == nil:
		return errors.New("a server needs a certificate, or a PSK")
	case c.CIDLen > record.MaxCID:
		return record.ErrCID
	}
	if len(c.suites(client)) == 0 {
		return errors.New("Config.CipherSuites leaves no suite that DTLS sockets have")
	}
	for _, id := range c.suites(client) {
		if err := record.Usable(record.DTLS12, uint16(id)); err != nil {
			return err
		}
	}
	return nil
}

func (c *DatagramConfig) suites(client bool) []dtls.CipherSuiteID {
	var out []dtls.CipherSuiteID
	if t := c.TLS; c.PSK == nil || t != nil && (len(t.Certificates) > 0 || t.GetCertificate != nil || client && (t.RootCAs != nil || t.InsecureSkipVerify)) {
		out = append(out, certificateSuites...)
	}
	if c.PSK != nil {
		out = append(out, pskSuites...)
	}
	if c.TLS != nil && c.TLS.CipherSuites != nil {
		out = slices.DeleteFunc(out, func(id dtls.CipherSuiteID) bool { return !slices.Contains(c.TLS.CipherSuites, uint16(id)) })
	}
	return out
}

// options makes pion's options of the config. verified is told the chains that
// were verified.
func (c *DatagramConfig) options(client bool, cid []byte, verified func([][]*x509.Certificate)) (*pionOptions, error) {
	if err := c.Check(client); err != nil {
		return nil, err
	}
	t := c.TLS
	if t == nil {
		t = new(tls.Config)
	}
	o := new(pionOptions)
	add := func(x ...dtls.Option) { o.both = append(o.both, x...) }
	add(dtls.WithCipherSuites(c.suites(client)...),
		// Without it what is exported could be another handshake's too (RFC 7627).
		dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret),
		// Doubling the second between two attempts, as RFC 6347, 4.2.4.1 would
		// have it, leaves too few of them where a third of all datagrams is lost.
		dtls.WithDisableRetransmitBackoff(true),
		dtls.WithLoggerFactory(&logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}),
		dtls.WithInsecureSkipVerify(t.InsecureSkipVerify),
		dtls.WithRootCAs(t.RootCAs),
		dtls.WithServerName(t.ServerName))
	if len(t.Certificates) > 0 {
		add(dtls.WithCertificates(t.Certificates...))
	}
	if len(t.NextProtos) > 0 {
		add(dtls.WithSupportedProtocols(t.NextProtos...))
	}
	if t.KeyLogWriter != nil {
		add(dtls.WithKeyLogWriter(t.KeyLogWriter))
	}
	if c.PSK != nil {
		add(dtls.WithPSK(c.PSK))
		if c.PSKIdentity != nil {
			add(dtls.WithPSKIdentityHint(c.PSKIdentity))
		}
	}
	if c.CIDLen >= 0 {
		add(dtls.WithConnectionIDGenerator(func() []byte { return cid }))
	}
	if len(c.SRTPProfiles) > 0 {
		var p []dtls.SRTPProtectionProfile
		for _, x := range c.SRTPProfiles {
			p = append(p, dtls.SRTPProtectionProfile(x))
		}
		add(dtls.WithSRTPProtectionProfiles(p...))
	}
	if c.Sessions != nil {
		add(dtls.WithSessionStore(c.Sessions))
	}
	var list []elliptic.Curve
	for _, id := range t.CurvePreferences {
		if e, ok := curves[id]; ok {
			list = append(list, e)
		}
	}
	if len(list) > 0 {
		add(dtls.WithEllipticCurves(list...))
	} else if len(t.CurvePreferences) > 0 {
		return nil, errors.New("Config.CurvePreferences leaves no curve that DTLS sockets have: X25519, P-256 or P-384")
	}
	add(verification(t, verified)...)
	if client {
		if f := t.GetClientCertificate; f != nil {
			add(dtls.WithGetClientCertificate(func(i *dtls.CertificateRequestInfo) (*tls.Certificate, error) {
				return f(&tls.CertificateRequestInfo{AcceptableCAs: i.AcceptableCAs, Version: tls.VersionTLS12})
			}))
		}
		return o, nil
	}
	o.serverOnly = append(o.serverOnly, dtls.WithClientAuth(clientAuth(t.ClientAuth)), dtls.WithClientCAs(t.ClientCAs))
	if f := t.GetCertificate; f != nil {
		o.serverOnly = append(o.serverOnly, dtls.WithGetCertificate(func(i *dtls.ClientHelloInfo) (*tls.Certificate, error) {
			h := &tls.ClientHelloInfo{ServerName: i.ServerName, SupportedVersions: []uint16{tls.VersionTLS12}}
			for _, id := range i.CipherSuites {
				h.CipherSuites = append(h.CipherSuites, uint16(id))
			}
			return f(h)
		}))
	}
	return o, nil
}

// verification makes the user's callbacks those of pion.
func verification(t *tls.Config, verified func([][]*x509.Certificate)) []dtls.Option {
	var chains [][]*x509.Certificate
	out := []dtls.Option{dtls.WithVerifyPeerCertificate(func(raw [][]byte, c [][]*x509.Certificate) error {
		chains = c
		verified(c)
		if t.VerifyPeerCertificate != nil {
			return t.VerifyPeerCertificate(raw, c)
		}
		return nil
	})}
	if f := t.VerifyConnection; f != nil {
		out = append(out, dtls.WithVerifyConnection(func(s *dtls.State) error {
			cs := tls.ConnectionState{
				Version: record.DTLS12, CipherSuite: uint16(s.CipherSuiteID), ServerName: t.ServerName,
				NegotiatedProtocol: s.NegotiatedProtocol, VerifiedChains: chains,
			}
			for _, der := range s.PeerCertificates {
				cert, err := x509.ParseCertificate(der)
				if err != nil {
					return fmt.Errorf("certificate of the peer: %w", err)
				}
				cs.PeerCertificates = append(cs.PeerCertificates, cert)
			}
			return f(cs)
		}))
	}
	return out
}

func clientAuth(a tls.ClientAuthType) dtls.ClientAuthType {
	switch a {
	case tls.RequestClientCert:
		return dtls.RequestClientCert
	case tls.RequireAnyClientCert:
		return dtls.RequireAnyClientCert
	case tls.VerifyClientCertIfGiven:
		return dtls.VerifyClientCertIfGiven
	case tls.RequireAndVerifyClientCert:
		return dtls.RequireAndVerifyClientCert
	}
	return dtls.NoClientCert
}
