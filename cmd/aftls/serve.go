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
	"github.com/aftls/aftls/aftlshttp"
	"github.com/spf13/cobra"
)

// drainTimeout is how long what is under way may take after the first signal.
const drainTimeout = 30 * time.Second

type serveFlags struct {
	listen string
	serverFlags
	observe observeFlags
}

func serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "serve the files of a folder over HTTPS",
		Long: `Serves the files below DIR (default: the present folder) over HTTPS, HTTP/2 and
HTTP/1.1, with ranges and directory pages. Nothing outside DIR is served, links
included.

Without --cert a development certificate for localhost, 127.0.0.1 and ::1 is
made once and kept in your state folder. When ready, one line goes to stdout:
"listening https://ADDR". The log of connections goes to stderr.

SIGINT or SIGTERM ends it after the requests under way, a second one at once.
SIGHUP reads the certificate again.

--tap and --tap-socket make the plaintext of all connections readable for whoever
can read the file or open the socket, which are made with mode 0600. They are off
by default, and the log says when they are on. --top-socket and --metrics show
counters, and the socket addresses.`,
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
	f.serverFlags.add(c)
	f.observe.add(c)
	return c
}

func serve(ctx context.Context, stdout, stderr io.Writer, dir string, f serveFlags) error {
	handler, err := logHandler(f.logFormat, stderr)
	if err != nil {
		return err
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
		NextProtos:     []string{"h2", "http/1.1"},
	}
	inner, err := f.provider.listen("tcp", f.listen)
	if err != nil {
		return hint(err, "choose another address with --listen; 127.0.0.1:0 takes a free port")
	}
	roster := newRoster("serve", logger)
	carriers, endObserving, err := f.observe.open(inner, config, roster)
	if err != nil {
		inner.Close()
		return err
	}
	defer endObserving()
	opt := f.provider.options()
	opt.HandshakeError = roster.failed
	ln := aftls.NewListener(carriers, config, opt)
	if f.cert == "" {
		fmt.Fprintf(stderr, "try: curl --cacert %s https://%s/\n", certs.certFile, ln.Addr())
	}
	srv := &http.Server{
		Handler:           http.FileServer(folder{root}),
		ReadHeaderTimeout: 20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(handler, slog.LevelWarn),
		ConnState:         func(c net.Conn, s http.ConnState) { roster.state(c, s); logClosed(logger, c, s) },
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	fmt.Fprintf(stdout, "listening https://%s\n", ln.Addr())
	served := make(chan error, 1)
	go func() { served <- aftlshttp.Serve(srv, ln) }()
	return supervise(ctx, srv, served, signals, certs, logger)
}

// logHandler writes a log of the given format.
func logHandler(format string, stderr io.Writer) (slog.Handler, error) {
	switch format {
	case "text":
		return slog.NewTextHandler(stderr, nil), nil
	case "json":
		return slog.NewJSONHandler(stderr, nil), nil
	}
	return nil, hint(fmt.Errorf("no log format %q", format), "use --log text or --log json")
}

// server is what signals end: at once, or when what is under way has ended.
type server interface {
	Shutdown(context.Context) error
	Close() error
}

// supervise waits for the end of the server and does what signals ask for.
func supervise(ctx context.Context, srv server, served <-chan error, signals <-chan os.Signal, certs *certificates, logger *slog.Logger) error {
	var drained chan error
	for {
		select {
		case err := <-served:
			if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
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
				return hint(errors.New("ended at once by a second signal"), "what was under way was cut off")
			default:
				logger.Info("draining", "signal", sig.String())
				drained = make(chan error, 1)
				go func() { drained <- drain(srv) }()
			}
		}
	}
}

func drain(srv server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		srv.Close()
		return hint(fmt.Errorf("connections were still in use after %v", drainTimeout), "their clients saw truncated streams")
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
		"bytes_sent", i.Send.Bytes, "bytes_received", i.Receive.Bytes, "tapped", i.Tapped)
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
