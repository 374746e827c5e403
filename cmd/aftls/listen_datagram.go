package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/aftls/aftls"
)

// runListenDatagram is runListen with --dtls.
func runListenDatagram(ctx context.Context, stdout, stderr io.Writer, program []string, f listenFlags) error {
	logger, err := f.prepare(stderr, program)
	if err != nil {
		return err
	}
	var config *tls.Config
	var certs *certificates
	if f.datagram.psk == "" {
		if certs, err = newCertificates(f.cert, f.key, stderr); err != nil {
			return err
		}
		config = &tls.Config{GetCertificate: certs.get}
	}
	dc, err := f.datagram.config(config, false)
	if err != nil {
		return err
	}
	l, err := aftls.ListenDatagram("udp", f.listen, dc, aftls.Options{
		HandshakeError: func(peer net.Addr, err error) {
			logger.Warn("handshake failed", "peer", peer.String(), "err", err.Error())
		},
	})
	if err != nil {
		return hint(err, "choose another address with --listen; 127.0.0.1:0 takes a free port")
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	fmt.Fprintf(stdout, "listening %s\n", l.Addr())
	var wg sync.WaitGroup
	accepted := make(chan error, 1)
	go func() {
		limit := make(chan struct{}, maxPrograms)
		for {
			limit <- struct{}{}
			c, err := l.AcceptConn()
			if err != nil {
				accepted <- err
				return
			}
			wg.Go(func() {
				defer func() { <-limit }()
				serveDatagram(logger, c, program, stderr, f.echo)
			})
		}
	}()
	defer wg.Wait()
	defer l.Close()
	for {
		select {
		case err := <-accepted:
			return err
		case <-ctx.Done():
			return nil
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				return nil
			}
			if certs == nil {
				continue
			}
			if err := certs.load(); err != nil {
				logger.Error("certificate not reloaded, the old one stays", "err", err.Error())
			} else {
				logger.Info("certificate reloaded", "file", certs.certFile)
			}
		}
	}
}

func serveDatagram(logger *slog.Logger, c *aftls.DatagramConn, program []string, stderr io.Writer, echo bool) {
	since := time.Now()
	var err error
	if echo {
		err = echoDatagrams(c)
	} else {
		err = execDatagrams(c, program, stderr)
	}
	i := c.Info()
	args := []any{"peer", c.RemoteAddr().String(), "version", i.Send.VersionName(), "suite", i.Send.SuiteName(), "resumed", i.Resumed,
		"received", i.Receive.Records - i.Ignored, "sent", i.Send.Records, "bad", i.Bad, "replayed", i.Replayed, "lost", i.Lost,
		"duration", time.Since(since).Round(time.Millisecond).String()}
	c.Close()
	if err != nil {
		logger.Warn("association", append(args, "err", err.Error())...)
		return
	}
	logger.Info("association", args...)
}

// ending is nil for the ends that are none of anybody's fault.
func ending(err error) error {
	if err == io.EOF || errors.Is(err, net.ErrClosed) || errors.Is(err, aftls.ErrIdle) {
		return nil
	}
	return err
}

func echoDatagrams(c *aftls.DatagramConn) error {
	b := make([]byte, 1<<14)
	for {
		n, err := c.Read(b)
		if err != nil {
			return ending(err)
		}
		if _, err := c.Write(b[:n]); err != nil {
			return ending(err)
		}
	}
}

// execDatagrams runs the program with an end of messages as its standard input
// and output. A message of the program that is too large for the path, or for an
// address that the peer has not proven, is lost, as it may be on the way, and told
// of at the end. An empty one of the peer would
// be the end for the program, and is left out.
func execDatagrams(c *aftls.DatagramConn, program []string, stderr io.Writer) error {
	ours, theirs, err := messagePair()
	if err != nil {
		return hint(err, "--exec with --dtls needs Linux")
	}
	defer ours.Close()
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, stderr
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		var lost error
		b := make([]byte, 1<<16)
		for {
			n, err := ours.Read(b)
			if err != nil || n == 0 { // the program has closed its end
				c.SetReadDeadline(time.Unix(1, 0))
				sent <- lost
				return
			}
			if _, err := c.Write(b[:n]); err != nil {
				var large *aftls.DatagramTooLargeError
				if errors.As(err, &large) || errors.Is(err, aftls.ErrUnproven) {
					lost = err
					continue
				}
				sent <- ending(err)
				return
			}
		}
	}()
	b := make([]byte, 1<<14)
	var failed error
	for {
		n, err := c.Read(b)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				failed = ending(err)
			}
			break
		}
		if n > 0 {
			if _, err := ours.Write(b[:n]); err != nil {
				break // the program reads no more
			}
		}
	}
	closeWrite(ours) // the program reads its end; what it still writes is sent
	return errors.Join(failed, cmd.Wait(), <-sent)
}
