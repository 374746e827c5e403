package aftlsgrpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlsgrpc"
	"github.com/aftls/aftls/aftlstest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const patience = 60 * time.Second

// pair is one server, and the configs for it and its clients.
type pair struct {
	t              *testing.T
	server, client *tls.Config
}

func newPair(t *testing.T) *pair {
	ca := aftlstest.NewCA(t)
	return &pair{t,
		&tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, "localhost")}},
		&tls.Config{RootCAs: ca.Pool},
	}
}

// serve runs gRPC's interop server with creds until the test ends.
func (p *pair) serve(creds credentials.TransportCredentials, opts ...grpc.ServerOption) (addr string) {
	p.t.Helper()
	ln, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		p.t.Fatal(err)
	}
	srv := grpc.NewServer(append(opts, grpc.Creds(creds))...)
	testpb.RegisterTestServiceServer(srv, interop.NewTestServer())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	p.t.Cleanup(func() {
		srv.Stop()
		if err := <-ended; err != nil {
			p.t.Error(err)
		}
	})
	return ln.Addr().String()
}

func (p *pair) dial(addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	p.t.Helper()
	_, port, _ := net.SplitHostPort(addr)
	cc, err := grpc.NewClient("localhost:"+port, grpc.WithTransportCredentials(creds))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { cc.Close() })
	return cc
}

// The cases of gRPC's interop client (grpc/doc/interop-test-descriptions.md) that
// need no account at Google. A failing case ends the process.
func TestInterop(t *testing.T) {
	p := newPair(t)
	ours, theirs := aftlsgrpc.NewTLS, func(c *tls.Config, _ aftls.Options) credentials.TransportCredentials { return credentials.NewTLS(c) }
	type side = func(*tls.Config, aftls.Options) credentials.TransportCredentials
	for name, of := range map[string]struct{ server, client side }{
		"both": {ours, ours}, "server": {ours, theirs}, "client": {theirs, ours},
	} {
		t.Run(name, func(t *testing.T) {
			cc := p.dial(p.serve(of.server(p.server, aftls.Options{RequireSocket: true})), of.client(p.client, aftls.Options{RequireSocket: true}))
			tc := testpb.NewTestServiceClient(cc)
			for name, run := range map[string]func(context.Context, testpb.TestServiceClient, ...grpc.CallOption){
				"empty_unary": interop.DoEmptyUnaryCall, "large_unary": interop.DoLargeUnaryCall,
				"client_streaming": interop.DoClientStreaming, "server_streaming": interop.DoServerStreaming,
				"ping_pong": interop.DoPingPong, "empty_stream": interop.DoEmptyStream,
				"timeout_on_sleeping_server": interop.DoTimeoutOnSleepingServer,
				"cancel_after_begin":         interop.DoCancelAfterBegin, "cancel_after_first_response": interop.DoCancelAfterFirstResponse,
				"custom_metadata": interop.DoCustomMetadata, "status_code_and_message": interop.DoStatusCodeAndMessage,
				"special_status_message": interop.DoSpecialStatusMessage,
				"unimplemented_method": func(ctx context.Context, _ testpb.TestServiceClient, _ ...grpc.CallOption) {
					interop.DoUnimplementedMethod(ctx, cc)
				},
				"unimplemented_service": func(ctx context.Context, _ testpb.TestServiceClient, _ ...grpc.CallOption) {
					interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(cc))
				},
			} {
				t.Run(name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					run(ctx, tc)
				})
			}
		})
	}
}

func call(t *testing.T, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := testpb.NewTestServiceClient(cc).EmptyCall(ctx, &testpb.Empty{}, opts...)
	return err
}

// Both sides learn of the connection what they would learn of credentials.NewTLS.
func TestAuthInfo(t *testing.T) {
	p := newPair(t)
	ca := aftlstest.NewCA(t)
	p.server.ClientAuth, p.server.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool
	p.client.Certificates = []tls.Certificate{ca.Leaf(t, "client.test")}
	seen := make(chan credentials.AuthInfo, 1)
	addr := p.serve(aftlsgrpc.NewTLS(p.server, aftls.Options{}), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			pr, _ := peer.FromContext(ctx)
			seen <- pr.AuthInfo
			return h(ctx, req)
		}))
	var pr peer.Peer
	if err := call(t, p.dial(addr, aftlsgrpc.NewTLS(p.client, aftls.Options{})), grpc.Peer(&pr)); err != nil {
		t.Fatal(err)
	}
	for side, auth := range map[string]credentials.AuthInfo{"server": <-seen, "client": pr.AuthInfo} {
		info, ok := auth.(credentials.TLSInfo)
		if !ok || info.State.NegotiatedProtocol != "h2" || len(info.State.VerifiedChains) == 0 || info.SecurityLevel != credentials.PrivacyAndIntegrity {
			t.Errorf("%s: %T %+v", side, auth, auth)
		}
	}
}

// The name in the Config is the one that is asked for and verified.
func TestServerName(t *testing.T) {
	p := newPair(t)
	p.client.ServerName = "localhost"
	addr := p.serve(aftlsgrpc.NewTLS(p.server, aftls.Options{}))
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(aftlsgrpc.NewTLS(p.client, aftls.Options{})))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	if err := call(t, cc); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	p := newPair(t)
	addr := p.serve(aftlsgrpc.NewTLS(p.server, aftls.Options{}))
	stranger := call(t, p.dial(addr, aftlsgrpc.NewTLS(nil, aftls.Options{})))
	if status.Code(stranger) != codes.Unavailable || !strings.Contains(stranger.Error(), "certificate signed by unknown authority") {
		t.Errorf("unknown authority: %v", stranger)
	}
	// A client without ALPN is none of gRPC.
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: p.client.RootCAs, ServerName: "localhost"})
	if err == nil {
		c.SetDeadline(time.Now().Add(patience))
		if b, err := io.ReadAll(c); len(b) > 0 {
			t.Errorf("without ALPN: %q, %v", b, err)
		}
		c.Close()
	}
	// Nor is a server without it.
	ln, err := tls.Listen("tcp", "localhost:0", p.server)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	if err := call(t, p.dial(ln.Addr().String(), aftlsgrpc.NewTLS(p.client, aftls.Options{}))); !strings.Contains(fmt.Sprint(err), "did not agree on h2") {
		t.Errorf("server without ALPN: %v", err)
	}
}

// A handshake that the client does not go on with ends with the context.
func TestHandshakeKeepsToItsContext(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		b.Read(make([]byte, 1))
		cancel()
		io.Copy(io.Discard, b)
	}()
	_, _, err := aftlsgrpc.NewTLS(nil, aftls.Options{}).ClientHandshake(ctx, "localhost:1", a)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := a.Write([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the carrier is still open: %v", err)
	}
}

func TestManyCallsAtOnce(t *testing.T) {
	p := newPair(t)
	cc := p.dial(p.serve(aftlsgrpc.NewTLS(p.server, aftls.Options{})), aftlsgrpc.NewTLS(p.client, aftls.Options{}))
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			resp, err := testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{
				ResponseSize: 100_000, Payload: &testpb.Payload{Body: make([]byte, 100_000)},
			})
			if err != nil || len(resp.GetPayload().GetBody()) != 100_000 {
				t.Error(len(resp.GetPayload().GetBody()), err)
			}
		})
	}
	wg.Wait()
}

// The line that changes is the one with the credentials.
func ExampleNewTLS() {
	cert, err := tls.LoadX509KeyPair("cert.pem", "key.pem")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := grpc.NewServer(grpc.Creds(aftlsgrpc.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}}, aftls.Options{})))
	ln, err := net.Listen("tcp", ":50051")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(srv.Serve(ln))
}

func ExampleNewTLS_client() {
	cc, err := grpc.NewClient("dns:///example.com:443", grpc.WithTransportCredentials(aftlsgrpc.NewTLS(nil, aftls.Options{})))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cc.Close()
}
