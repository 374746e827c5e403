package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlsgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

const rowGRPC = "grpc"

// grpcMessage is the size of the messages of a stream, in bytes.
const grpcMessage = 256 << 10

// grpc: gRPC's test service, a stream of large messages each way, and small
// calls. The client is gRPC over crypto/tls.
func (r *runner) grpc() error {
	messages := max(int(r.scale.proxyBytes/fileConns/grpcMessage), 1)
	calls := max(r.scale.echoMessages/fileConns/h2Streams, 1)
	bytes := int64(messages) * grpcMessage * fileConns
	connect := func(addr string) (testpb.TestServiceClient, func(), error) {
		cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(r.clientConfig())),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2*grpcMessage)))
		if err != nil {
			return nil, nil, err
		}
		return testpb.NewTestServiceClient(cc), func() { cc.Close() }, nil
	}
	ofBytes := func(cpu time.Duration) []float64 { return perGB(cpu, bytes) }
	return measureParts(r, rowGRPC, connect, []part[testpb.TestServiceClient]{
		{"grpc down", unitPerGB, ofBytes, func(c testpb.TestServiceClient) error { return grpcDown(r.ctx, c, messages) }},
		{"grpc upload", unitPerGB, ofBytes, func(c testpb.TestServiceClient) error { return grpcUp(r.ctx, c, messages) }},
		{fmt.Sprintf("grpc %d B x %d", messageSize, fileConns*h2Streams), "CPU us/call", func(cpu time.Duration) []float64 {
			return []float64{float64(cpu) / float64(time.Microsecond) / float64(calls*fileConns*h2Streams)}
		}, func(c testpb.TestServiceClient) error {
			return each(make([]struct{}, h2Streams), func(struct{}) error { return grpcCalls(r.ctx, c, calls) })
		}},
	})
}

func grpcDown(ctx context.Context, c testpb.TestServiceClient, messages int) error {
	req := new(testpb.StreamingOutputCallRequest)
	for range messages {
		req.ResponseParameters = append(req.ResponseParameters, &testpb.ResponseParameters{Size: grpcMessage})
	}
	stream, err := c.StreamingOutputCall(ctx, req)
	if err != nil {
		return err
	}
	for got := 0; ; got++ {
		m, err := stream.Recv()
		if err == io.EOF && got == messages {
			return nil
		}
		if err != nil {
			return err
		}
		if n := len(m.GetPayload().GetBody()); n != grpcMessage {
			return fmt.Errorf("a message of %d bytes", n)
		}
	}
}

func grpcUp(ctx context.Context, c testpb.TestServiceClient, messages int) error {
	stream, err := c.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	m := &testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: make([]byte, grpcMessage)}}
	for range messages {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	resp, err := stream.CloseAndRecv()
	if err == nil && int(resp.AggregatedPayloadSize) != messages*grpcMessage {
		err = fmt.Errorf("%d bytes arrived", resp.AggregatedPayloadSize)
	}
	return err
}

func grpcCalls(ctx context.Context, c testpb.TestServiceClient, calls int) error {
	req := &testpb.SimpleRequest{ResponseSize: messageSize, Payload: &testpb.Payload{Body: make([]byte, messageSize)}}
	for range calls {
		resp, err := c.UnaryCall(ctx, req)
		if err != nil {
			return err
		}
		if n := len(resp.GetPayload().GetBody()); n != messageSize {
			return fmt.Errorf("an answer of %d bytes", n)
		}
	}
	return nil
}

// serveGRPC is the server of the row. gRPC does the handshakes itself, so inner
// is no listener of the peer's.
func serveGRPC(peer string, inner net.Listener, config *tls.Config) error {
	creds := credentials.NewTLS(config)
	if peer == peers[0].name {
		creds = aftlsgrpc.NewTLS(config, aftls.Options{RequireSocket: true})
	}
	srv := grpc.NewServer(grpc.Creds(creds), grpc.MaxRecvMsgSize(2*grpcMessage))
	testpb.RegisterTestServiceServer(srv, grpcService{})
	return srv.Serve(inner)
}

// grpcService is what the row needs of gRPC's test service.
type grpcService struct {
	testpb.UnimplementedTestServiceServer
}

var grpcBody = make([]byte, grpcMessage)

func (grpcService) UnaryCall(_ context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{Payload: &testpb.Payload{Body: grpcBody[:min(int(req.ResponseSize), grpcMessage)]}}, nil
}

func (grpcService) StreamingOutputCall(req *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	for _, p := range req.ResponseParameters {
		body := grpcBody[:min(int(p.Size), grpcMessage)]
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: body}}); err != nil {
			return err
		}
	}
	return nil
}

func (grpcService) StreamingInputCall(stream testpb.TestService_StreamingInputCallServer) error {
	sum := 0
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
		}
		if err != nil {
			return err
		}
		sum += len(m.GetPayload().GetBody())
	}
}
