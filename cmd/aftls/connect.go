package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/aftls/aftls"
	"github.com/spf13/cobra"
)

type connectFlags struct {
	ca, serverName string
	insecure       bool
	alpn           []string
	provider       provider
	minVersion     version
	datagram       datagramFlags
}

func connectCommand() *cobra.Command {
	var f connectFlags
	c := &cobra.Command{
		Use:   "connect HOST:PORT",
		Short: "send stdin to a TLS server, and what it answers to stdout",
		Long: `Connects, sends stdin and writes what comes back to stdout. At the end of stdin
it sends close_notify and goes on reading. What was agreed on goes to stderr.

The exit code is 0 only when the server ended the stream with close_notify:
then nothing was cut off.

With --dtls it sends every read of stdin, of up to 1200 bytes, as one datagram of
DTLS 1.2, and writes what each datagram brings. Datagrams may be lost on the way;
the exit code is 0 when nothing failed here.`,
		Example: "  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | aftls connect --ca ~/.local/state/aftls/cert.pem localhost:8443",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.datagram.check(c); err != nil {
				return err
			}
			return connect(c.Context(), c.InOrStdin(), c.OutOrStdout(), c.ErrOrStderr(), args[0], f)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c.Flags().StringVar(&f.ca, "ca", "", "trust the certificates of this PEM file instead of the system's")
	c.Flags().BoolVar(&f.insecure, "insecure", false, "trust any certificate: anybody on the way can read along")
	c.MarkFlagsMutuallyExclusive("ca", "insecure")
	c.Flags().StringVar(&f.serverName, "servername", "", "name to ask for and to verify (default: HOST)")
	c.Flags().StringSliceVar(&f.alpn, "alpn", nil, "application protocols to offer, best first")
	f.provider.add(c)
	addVersion(c, &f.minVersion)
	f.datagram.add(c, true)
	return c
}

func connect(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, addr string, f connectFlags) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return hint(err, "name the port too, as in localhost:8443")
	}
	config := &tls.Config{
		ServerName:         f.serverName,
		NextProtos:         f.alpn,
		MinVersion:         uint16(f.minVersion),
		InsecureSkipVerify: f.insecure,
	}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return hint(err, "--ca takes a PEM file")
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return hint(fmt.Errorf("no certificate in %s", f.ca), "--ca takes a PEM file")
		}
	}
	if f.datagram.dtls {
		return connectDatagram(ctx, stdin, stdout, stderr, addr, config, f.datagram)
	}
	d := &aftls.Dialer{Config: config, Options: f.provider.options()}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return dialHint(err)
	}
	conn := nc.(*aftls.Conn)
	defer conn.Close()
	fmt.Fprintln(stderr, facts(conn))

	sent := make(chan error, 1)
	go func() {
		_, err := conn.ReadFrom(stdin)
		sent <- errors.Join(err, conn.CloseWrite())
	}()
	_, err = conn.WriteTo(stdout)
	if err != nil {
		select {
		case werr := <-sent:
			err = errors.Join(err, werr)
		default: // stdin may never end
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return hint(err, "the server, or somebody on the way, closed without close_notify; what came may be incomplete")
	}
	return hint(err, "the connection failed while it was in use")
}

func dialHint(err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return hint(err, "name the server's authority with --ca, or another name with --servername")
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return hint(err, "the server does not speak TLS on this port")
	}
	return hint(err, "check host and port, and what TLS versions the server speaks")
}

// facts is one line about what was agreed on.
func facts(c *aftls.Conn) string {
	i, cs := c.Info(), c.ConnectionState()
	s := []string{
		"connected " + c.RemoteAddr().String(), i.Send.VersionName(), i.Send.SuiteName(), cs.CurveID.String(),
		"send=" + i.Send.Provider.String(), "receive=" + i.Receive.Provider.String(),
	}
	if cs.NegotiatedProtocol != "" {
		s = append(s, "alpn="+cs.NegotiatedProtocol)
	}
	if len(cs.PeerCertificates) > 0 {
		p := cs.PeerCertificates[0]
		s = append(s, fmt.Sprintf("certificate=%q until %s", p.Subject.CommonName, p.NotAfter.Format("2006-01-02")))
	}
	return strings.Join(s, " ")
}
