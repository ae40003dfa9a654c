package sessiond

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

// The daemon may send so much before it is read.
const windowBytes = 1 << 20

const service = "/sessiond.v1.SessionService/"

var pipeline = &grpc.StreamDesc{StreamName: "Pipeline", ClientStreams: true, ServerStreams: true}

func targetOf(address string) (string, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path = strings.TrimPrefix(path, "//"); !strings.HasPrefix(path, "/") {
			return "", invalidArgument("address", fmt.Sprintf("expected host:port or unix:/path, found %q", address))
		}
		return "unix://" + path, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" || strings.Contains(address, "/") {
		return "", invalidArgument("address", fmt.Sprintf("expected host:port or unix:/path, found %q", address))
	}
	return "dns:///" + address, nil
}

func dialOptions(options Options, token *tokenSource) []grpc.DialOption {
	transport := insecure.NewCredentials()
	if options.TLS != nil {
		transport = credentials.NewTLS(options.TLS)
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		// The pauses are ours; see run.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: backoffMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: backoffMax},
			MinConnectTimeout: connectTimeout,
		}),
		// A peer that has gone without a word is noticed after 15 s; 10 s is the least that grpc-go allows.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		// The daemon is a neighbor: it is never behind a proxy for the Web, and has no configuration in the DNS.
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		// Windows of a fixed size: grpc-go would measure the best one with a ping for each round trip.
		grpc.WithInitialWindowSize(windowBytes),
		grpc.WithInitialConnWindowSize(windowBytes),
	}
	if token != nil {
		dial = append(dial, grpc.WithPerRPCCredentials(token))
	}
	return dial
}

// tokenSource adds the bearer token to each call.
type tokenSource struct {
	file string
	mu   sync.Mutex
	text string
}

func newTokenSource(options Options) (*tokenSource, error) {
	if options.Token == "" && options.TokenFile == "" {
		return nil, nil
	}
	source := &tokenSource{file: options.TokenFile, text: options.Token}
	if strings.ContainsFunc(options.Token, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
		return nil, invalidArgument("Token", "expected visible ASCII characters")
	}
	return source, nil
}

// reload reads the file again. It reports whether there is another token now.
func (s *tokenSource) reload() (bool, error) {
	if s == nil || s.file == "" {
		return false, nil
	}
	text, err := os.ReadFile(s.file)
	if err != nil {
		return false, err // names the file
	}
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.TrimSpace(line)
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := line != s.text
	s.text = line
	return changed, nil
}

func (s *tokenSource) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return map[string]string{"authorization": "Bearer " + s.text}, nil
}

// RequireTransportSecurity: a daemon on the same machine, or in the same pod, has no TLS.
func (s *tokenSource) RequireTransportSecurity() bool { return false }

// run connects when somebody waits, carries the stream, and connects again.
func (t *transport) run() {
	defer t.loops.Done()
	failures := 0
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.wake:
		}
		for t.ctx.Err() == nil && t.waiting() {
			before := t.answers
			err := t.carry()
			switch {
			case t.answers != before && err == nil:
				// A connection that worked has ended: the first attempt to replace it comes at once.
				failures = 0
				continue
			case err != nil && fatal(err):
				t.failAll(err)
			}
			pause := min(backoffMax, backoffMin<<min(failures, 4))
			failures++
			if !t.sleep(time.Duration(float64(pause) * (0.5 + rand.Float64()/2))) {
				return
			}
		}
	}
}

func (t *transport) sleep(pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-t.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// fatal: the next attempt would end the same way.
func fatal(err *Error) bool {
	return err.Reason == ReasonDaemonTooOld || err.Reason == ReasonProtocolError || err.kind == ErrAuthentication
}

// carry opens a stream and carries it until it ends. An error says that there was none.
func (t *transport) carry() *Error {
	stream, cancel, err := t.open()
	if err != nil {
		t.mu.Lock()
		first := t.lastErr == nil
		t.lastErr = err
		t.mu.Unlock()
		if first && t.ctx.Err() == nil {
			t.client.logger().Warn("cannot connect to sessiond", "address", t.address, "reason", string(err.Reason), "error", err)
		}
		return err
	}
	t.mu.Lock()
	outage := t.lastErr != nil
	t.lastErr, t.ready = nil, true
	t.mu.Unlock()
	if outage {
		t.client.logger().Info("connected to sessiond again", "address", t.address)
	} else {
		t.client.logger().Debug("connected to sessiond", "address", t.address, "version", t.described.Load().GetVersion())
	}

	ended := make(chan struct{})
	var sender sync.WaitGroup
	sender.Add(1)
	go func() {
		defer sender.Done()
		t.send(stream, ended)
	}()
	end := t.receive(stream)
	close(ended)
	cancel()
	sender.Wait()
	t.cut(end)
	if t.ctx.Err() == nil {
		t.client.logger().Debug("disconnected from sessiond", "address", t.address, "reason", string(end.Reason), "error", end)
		if fatal(end) {
			t.mu.Lock()
			t.lastErr = end
			t.mu.Unlock()
			return end
		}
	}
	return nil
}

// open asks what the daemon is, and opens the Pipeline.
func (t *transport) open() (grpc.ClientStream, context.CancelFunc, *Error) {
	if _, err := t.token.reload(); err != nil {
		return nil, nil, newError(ReasonTokenUnknown, codes.Unauthenticated, NotApplied, fmt.Sprintf("the token file cannot be read: %v", err), err)
	}
	described, err := t.ask()
	if err != nil && err.kind == ErrAuthentication {
		// The file may have been replaced meanwhile.
		if changed, _ := t.token.reload(); changed {
			described, err = t.ask()
		}
	}
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(t.ctx)
	stream, failure := t.conn.NewStream(ctx, pipeline, service+"Pipeline", grpc.ForceCodecV2(codec{}))
	if failure != nil {
		cancel()
		return nil, nil, t.callError(failure)
	}
	t.described.Store(described)
	return stream, cancel, nil
}

func (t *transport) ask() (*pb.DescribeResponse, *Error) {
	ctx, cancel := context.WithTimeout(t.ctx, connectTimeout)
	defer cancel()
	t.conn.ResetConnectBackoff()
	described := new(pb.DescribeResponse)
	if err := t.conn.Invoke(ctx, service+"Describe", new(pb.DescribeRequest), described); err != nil {
		return nil, t.callError(err)
	}
	return described, nil
}

// callError is the error of a unary call or of the stream.
func (t *transport) callError(err error) *Error {
	failure := rpcError(err)
	switch {
	case failure.Code == codes.Unimplemented && failure.Reason == ReasonProtocolError:
		return newError(ReasonDaemonTooOld, codes.Unimplemented, NotApplied,
			fmt.Sprintf("the daemon at %s does not know Describe: it is older than this client (%s), or this is an address of listen.admin; "+
				"update the daemon, or use an address of listen.grpc", t.address, Version), nil)
	case failure.Reason == ReasonConnectionFailed || failure.Reason == ReasonTimeout && failure.RetryAfter == 0:
		// grpc-go knows the address as it has resolved it.
		wrapped := newError(ReasonConnectionFailed, codes.Unavailable, failure.Applied, fmt.Sprintf("the daemon at %s cannot be reached: %s", t.address, failure.message), failure)
		wrapped.RetryAfter = time.Second
		return wrapped
	case failure.Reason == ReasonProtocolError:
		return t.protocolError(failure.message, failure)
	}
	return failure
}

// send hands to the stream what is queued, until the stream has ended.
func (t *transport) send(stream grpc.ClientStream, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		default:
		}
		batch := t.next()
		for i, op := range batch {
			if !t.stage(op) {
				continue
			}
			if err := stream.SendMsg(op); err != nil {
				// The stream has ended; receive learns why. This one and the rest were never sent.
				t.unsent(batch[i:], err)
				return
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-ended:
			// It may have taken the sign that was meant for the next stream.
			t.poke()
			return
		case <-t.wake:
		}
	}
}

// receive takes the answers until the stream ends, and says why it did.
func (t *transport) receive(stream grpc.ClientStream) *Error {
	var answer received
	for {
		if err := stream.RecvMsg(&answer); err == io.EOF {
			return newError(ReasonConnectionFailed, codes.Unavailable, AppliedUnknown, fmt.Sprintf("the daemon at %s has ended the stream", t.address), nil)
		} else if err != nil {
			failure := t.callError(err)
			if failure.Reason != ReasonShuttingDown && failure.kind != ErrAuthentication {
				failure.Applied = AppliedUnknown
			}
			return failure
		}
		if err := t.answered(answer); err != nil {
			return err
		}
		t.answers++
	}
}

// List is a unary call. It is repeated like what is safe in the Pipeline.
func (t *transport) List(ctx context.Context, request *pb.SessionServiceListSessionsRequest) (*pb.SessionServiceListSessionsResponse, error) {
	t.mu.Lock()
	err := t.enter()
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer func() {
		t.mu.Lock()
		t.leave()
		t.mu.Unlock()
	}()
	// It learns that the daemon is away, or too old, as everything else does.
	if t.described.Load() == nil {
		if _, err := t.Describe(ctx); err != nil {
			return nil, err
		}
	}
	for attempt := 0; ; attempt++ {
		t.conn.ResetConnectBackoff()
		response := new(pb.SessionServiceListSessionsResponse)
		failure := t.conn.Invoke(ctx, service+"ListSessions", request, response)
		if failure == nil {
			return response, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, contextError(err, NotApplied)
		}
		err := t.callError(failure)
		pause := min(backoffMax, backoffMin<<min(attempt, 4))
		switch err.Reason {
		case ReasonConnectionFailed, ReasonShuttingDown:
		case ReasonTokenUnknown, ReasonTokenRequired, ReasonRoleRequired:
			if changed, _ := t.token.reload(); !changed {
				return nil, err
			}
		case ReasonOverloaded, ReasonStoreUnavailable:
			if attempt == maxRetries {
				return nil, err
			}
			pause = max(pause, err.RetryAfter)
		default:
			return nil, err
		}
		if deadline, ok := ctx.Deadline(); ok && time.Now().Add(pause).After(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, contextError(ctx.Err(), NotApplied)
		case <-t.ctx.Done():
			return nil, closedError(NotApplied)
		case <-time.After(pause):
		}
	}
}
