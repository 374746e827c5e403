package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aftls/aftls"
	"github.com/spf13/cobra"
)

// drainTimeout is how long requests under way may take after the first signal.
const drainTimeout = 30 * time.Second

type serveFlags struct {
	listen, cert, key, logFormat string
	provider                     provider
	minVersion                   version
}

func serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "serve the files of a folder over HTTPS",
		Long: `Serves the files below DIR (default: the present folder) over HTTPS, HTTP/1.1,
with ranges and directory pages. Nothing outside DIR is served, links included.

Without --cert a development certificate for localhost, 127.0.0.1 and ::1 is
made once and kept in your state folder. When ready, one line goes to stdout:
"listening https://ADDR". The log of connections goes to stderr.

SIGINT or SIGTERM ends it after the requests under way, a second one at once.
SIGHUP reads the certificate again.`,
		Example: "  aftls serve ./public\n  curl --cacert ~/.local/state/aftls/cert.pem https://localhost:8443/",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			return serve(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), dir, f)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:8443", "address to listen on; port 0 takes a free one")
	c.Flags().StringVar(&f.cert, "cert", "", "certificate chain, PEM (default: a development certificate)")
	c.Flags().StringVar(&f.key, "key", "", "private key, PEM")
	c.MarkFlagsRequiredTogether("cert", "key")
	c.Flags().Var(&f.provider, "provider", "who does the record work: auto or soft")
	c.RegisterFlagCompletionFunc("provider", cobra.FixedCompletions([]string{"auto", "soft"}, cobra.ShellCompDirectiveNoFileComp))
	addVersion(c, &f.minVersion)
	c.Flags().StringVar(&f.logFormat, "log", "text", "log of connections: text or json")
	c.RegisterFlagCompletionFunc("log", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func serve(ctx context.Context, stdout, stderr io.Writer, dir string, f serveFlags) error {
	var handler slog.Handler
	switch f.logFormat {
	case "text":
		handler = slog.NewTextHandler(stderr, nil)
	case "json":
		handler = slog.NewJSONHandler(stderr, nil)
	default:
		return hint(fmt.Errorf("no log format %q", f.logFormat), "use --log text or --log json")
	}
	logger := slog.New(handler)

	root, err := os.OpenRoot(dir)
	if err != nil {
		return hint(err, "name a folder that exists and that you may read")
	}
	defer root.Close()
	certs, err := newCertificates(f.cert, f.key, stderr)
	if err != nil {
		return err
	}
	config := &tls.Config{
		GetCertificate: certs.get,
		MinVersion:     uint16(f.minVersion),
		NextProtos:     []string{"http/1.1"},
	}
	opt := aftls.Options{
		Provider: aftls.Provider(f.provider),
		HandshakeError: func(peer net.Addr, err error) {
			logger.Warn("handshake failed", "peer", peer.String(), "err", err.Error())
		},
	}
	ln, err := aftls.Listen("tcp", f.listen, config, opt)
	if err != nil {
		return hint(err, "choose another address with --listen; 127.0.0.1:0 takes a free port")
	}
	if f.cert == "" {
		fmt.Fprintf(stderr, "try: curl --cacert %s https://%s/\n", certs.certFile, ln.Addr())
	}
	srv := &http.Server{
		Handler:           http.FileServer(folder{root}),
		ReadHeaderTimeout: 20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(handler, slog.LevelWarn),
		ConnState:         func(c net.Conn, s http.ConnState) { logClosed(logger, c, s) },
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	fmt.Fprintf(stdout, "listening https://%s\n", ln.Addr())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	return supervise(ctx, srv, served, signals, certs, logger)
}

// supervise waits for the end of the server and does what signals ask for.
func supervise(ctx context.Context, srv *http.Server, served <-chan error, signals <-chan os.Signal, certs *certificates, logger *slog.Logger) error {
	var drained chan error
	for {
		select {
		case err := <-served:
			if !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			served = nil // Shutdown is under way
		case err := <-drained:
			return err
		case <-ctx.Done():
			return srv.Close()
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				if err := certs.load(); err != nil {
					logger.Error("certificate not reloaded, the old one stays", "err", err.Error())
				} else {
					logger.Info("certificate reloaded", "file", certs.certFile)
				}
			case drained != nil:
				srv.Close()
				return hint(errors.New("ended at once by a second signal"), "requests under way were cut off")
			default:
				logger.Info("draining", "signal", sig.String())
				drained = make(chan error, 1)
				go func() { drained <- drain(srv) }()
			}
		}
	}
}

func drain(srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		srv.Close()
		return hint(fmt.Errorf("requests were still under way after %v", drainTimeout), "their clients saw truncated answers")
	}
	return nil
}

// logClosed writes the line of a connection, when it is over.
func logClosed(logger *slog.Logger, nc net.Conn, state http.ConnState) {
	c, ok := nc.(*aftls.Conn)
	if !ok || state != http.StateClosed {
		return
	}
	i := c.Info()
	logger.Info("connection",
		"peer", c.RemoteAddr().String(), "version", i.Send.VersionName(), "suite", i.Send.SuiteName(),
		"resumed", i.Resumed, "send", i.Send.Provider.String(), "receive", i.Receive.Provider.String(),
		"bytes_sent", i.Send.Bytes, "bytes_received", i.Receive.Bytes)
}

// folder is a http.FileSystem that never leaves its root, and opens *os.File
// as they are, so that a Conn can read them into its records.
type folder struct{ root *os.Root }

func (f folder) Open(name string) (http.File, error) {
	if name = name[1:]; name == "" { // net/http gives a clean path that starts with a slash
		name = "."
	}
	file, err := f.root.Open(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// A link that leads out of the folder, or a file that may not be
		// read: the client learns no more than that.
		return nil, fs.ErrPermission
	}
	if err != nil {
		return nil, err
	}
	return file, nil
}

// certificates holds the certificate that the next handshake gets.
type certificates struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
}

// newCertificates loads the files, or the development certificate when there
// are none.
func newCertificates(cert, key string, stderr io.Writer) (*certificates, error) {
	c := &certificates{certFile: cert, keyFile: key}
	if cert == "" {
		var err error
		if c.certFile, c.keyFile, err = developmentCertificate(time.Now()); err != nil {
			return nil, hint(err, "name a certificate with --cert and --key")
		}
		fmt.Fprintf(stderr, "certificate: for development only, %s\n", c.certFile)
	}
	return c, hint(c.load(), "--cert and --key take PEM files that belong together")
}

func (c *certificates) load() error {
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err == nil {
		c.current.Store(&cert)
	}
	return err
}

func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}
