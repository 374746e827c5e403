package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/aftls/aftls"
	"github.com/spf13/cobra"
)

// version is a flag value: the least TLS version.
type version uint16

func (v *version) String() string {
	switch uint16(*v) {
	case tls.VersionTLS12:
		return "1.2"
	case tls.VersionTLS13:
		return "1.3"
	}
	return ""
}

func (v *version) Set(s string) error {
	switch s {
	case "1.2":
		*v = tls.VersionTLS12
	case "1.3":
		*v = tls.VersionTLS13
	default:
		return fmt.Errorf("no TLS version %q: 1.2 or 1.3", s)
	}
	return nil
}

func (v *version) Type() string { return "version" }

func addVersion(c *cobra.Command, v *version) {
	*v = tls.VersionTLS12
	c.Flags().Var(v, "min-version", "least TLS version: 1.2 or 1.3")
	c.RegisterFlagCompletionFunc("min-version", cobra.FixedCompletions([]string{"1.2", "1.3"}, cobra.ShellCompDirectiveNoFileComp))
}

// provider is a flag value: who does the record work.
type provider aftls.Provider

func (p *provider) String() string { return aftls.Provider(*p).String() }

func (p *provider) Set(s string) error {
	switch s {
	case "auto":
		*p = provider(aftls.Auto)
	case "soft":
		*p = provider(aftls.Soft)
	case "kernel":
		*p = provider(aftls.Kernel)
	default:
		return fmt.Errorf("no provider %q: auto, soft or kernel", s)
	}
	return nil
}

func (p *provider) Type() string { return "provider" }

func (p *provider) add(c *cobra.Command) {
	c.Flags().Var(p, "provider", "who does the record work: auto, soft or kernel; with kernel a connection of which the kernel cannot send the records is refused")
	c.RegisterFlagCompletionFunc("provider", cobra.FixedCompletions([]string{"auto", "soft", "kernel"}, cobra.ShellCompDirectiveNoFileComp))
}

// options are those of connections with this provider. Whoever names the kernel
// means it.
func (p provider) options() aftls.Options {
	return aftls.Options{Provider: aftls.Provider(p), RequireKernel: p == provider(aftls.Kernel)}
}

// listen listens for carriers of this provider: Multipath TCP has no TLS in the
// kernel.
func (p provider) listen(network, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	if p != provider(aftls.Soft) {
		lc.SetMultipathTCP(false)
	}
	return lc.Listen(context.Background(), network, addr)
}

// serverFlags are those of every command that accepts TLS connections.
type serverFlags struct {
	cert, key, logFormat string
	provider             provider
	minVersion           version
}

func (f *serverFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.cert, "cert", "", "certificate chain, PEM (default: a development certificate)")
	c.Flags().StringVar(&f.key, "key", "", "private key, PEM")
	c.MarkFlagsRequiredTogether("cert", "key")
	f.provider.add(c)
	addVersion(c, &f.minVersion)
	c.Flags().StringVar(&f.logFormat, "log", "text", "log of connections: text or json")
	c.RegisterFlagCompletionFunc("log", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}
