package sessiond_test

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	sessiond "github.com/sessiond/sessiond/clients/go"
	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

// stream is a Pipeline as the server has it. number counts from 1.
type stream struct {
	grpc.ServerStream
	peer   *peer
	number int
}

// receive returns the next request, or nil if the client has gone.
func (s stream) receive() *pb.PipelineRequest {
	request := new(pb.PipelineRequest)
	if s.RecvMsg(request) != nil {
		return nil
	}
	return request
}

// answer answers a Resolve with the token that it came with, and a Write with a session of that version.
func (s stream) answer(request *pb.PipelineRequest) {
	response := &pb.PipelineResponse{Sequence: request.GetSequence()}
	switch operation := request.GetOperation().(type) {
	case *pb.PipelineRequest_Resolve:
		response.Result = &pb.PipelineResponse_Resolve{Resolve: &pb.ResolveResponse{
			State: pb.SessionState_SESSION_STATE_NONE, Token: string(operation.Resolve.GetCredential().GetToken()),
		}}
	case *pb.PipelineRequest_Write:
		response.Result = &pb.PipelineResponse_Write{Write: &pb.WriteResponse{Session: &pb.Session{Id: operation.Write.GetSet(), Version: 1}}}
	}
	s.SendMsg(response)
}

func (s stream) refuse(request *pb.PipelineRequest, reason *status.Status) {
	s.SendMsg(&pb.PipelineResponse{Sequence: request.GetSequence(), Result: &pb.PipelineResponse_Error{Error: reason.Proto()}})
}

// reason is a status as the daemon makes it.
func reason(code codes.Code, reason sessiond.Reason, applied sessiond.Applied, retry time.Duration) *status.Status {
	st, err := status.New(code, "told by a test").WithDetails(
		&errdetails.ErrorInfo{Domain: "sessiond", Reason: string(reason), Metadata: map[string]string{"applied": string(applied)}})
	if err == nil && retry > 0 {
		st, err = st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retry)})
	}
	if err != nil {
		panic(err)
	}
	return st
}

// peer is a server that does with each Pipeline what a test says. describe: nil does not know Describe.
type peer struct {
	address string
	streams atomic.Int32
	asked   atomic.Int32 // how often Describe came

	mu          sync.Mutex
	connections []net.Conn
}

func described() (*pb.DescribeResponse, error) {
	return &pb.DescribeResponse{
		Version: "9.9.9", Limits: &pb.Limits{MaxMessageBytes: 1 << 20},
		Engines: []*pb.Engine{{Name: "default", CookieName: "session", MaxDataBytes: 64 << 10, Duration: durationpb.New(time.Hour)}},
	}, nil
}

func startPeer(t testing.TB, describe func() (*pb.DescribeResponse, error), pipeline func(stream) error) *peer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{address: listener.Addr().String()}
	desc := grpc.ServiceDesc{ServiceName: "sessiond.v1.SessionService", Streams: []grpc.StreamDesc{{
		StreamName: "Pipeline", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error { return pipeline(stream{s, p, int(p.streams.Add(1))}) },
	}}}
	if describe != nil {
		desc.Methods = []grpc.MethodDesc{{MethodName: "Describe", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			p.asked.Add(1)
			if err := decode(new(pb.DescribeRequest)); err != nil {
				return nil, err
			}
			return describe()
		}}}
	}
	server := grpc.NewServer()
	server.RegisterService(&desc, nil)
	var served sync.WaitGroup
	served.Add(1)
	go func() {
		defer served.Done()
		server.Serve(noting{listener, p})
	}()
	t.Cleanup(func() {
		server.Stop()
		served.Wait()
	})
	return p
}

// noting keeps the connections, so that they can be cut.
type noting struct {
	net.Listener
	peer *peer
}

func (n noting) Accept() (net.Conn, error) {
	conn, err := n.Listener.Accept()
	if err == nil {
		n.peer.mu.Lock()
		n.peer.connections = append(n.peer.connections, conn)
		n.peer.mu.Unlock()
	}
	return conn, err
}

// cut ends all connections without a word.
func (p *peer) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.connections {
		conn.Close()
	}
	p.connections = nil
}

// proxy passes octets on to a daemon. Once armed, it ends the connection in the middle of the next answer.
type proxy struct {
	address string
	armed   atomic.Bool
}

func startProxy(t testing.TB, to string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: listener.Addr().String()}
	var served sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	served.Add(1)
	go func() {
		defer served.Done()
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			daemon, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			mu.Lock()
			open = append(open, client, daemon)
			mu.Unlock()
			served.Add(2)
			go func() {
				defer served.Done()
				io.Copy(daemon, client)
				daemon.Close()
			}()
			go func() {
				defer served.Done()
				p.answers(client, daemon)
				client.Close()
				daemon.Close()
			}()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		served.Wait()
	})
	return p
}

// answers passes on one HTTP/2 frame after another.
func (p *proxy) answers(client, daemon net.Conn) {
	const headBytes, data = 9, 0
	head := make([]byte, headBytes)
	for {
		if _, err := io.ReadFull(daemon, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(append([]byte{0}, head[:3]...)))
		if _, err := io.ReadFull(daemon, body); err != nil {
			return
		}
		cut := head[3] == data && len(body) > 1 && p.armed.CompareAndSwap(true, false)
		if cut {
			body = body[:len(body)/2]
		}
		if _, err := client.Write(append(head[:headBytes:headBytes], body...)); err != nil || cut {
			return
		}
	}
}

// told collects what the client tells its logger.
type told struct {
	mu    sync.Mutex
	lines []string
	news  chan string
}

func newTold() *told {
	return &told{news: make(chan string, 1000)}
}

func (l *told) Write(line []byte) (int, error) {
	l.mu.Lock()
	l.lines = append(l.lines, string(line))
	l.mu.Unlock()
	select {
	case l.news <- string(line):
	default:
	}
	return len(line), nil
}

func (l *told) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
