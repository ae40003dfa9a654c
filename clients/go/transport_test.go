package sessiond_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/internal/daemontest"
	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

var nobody = sessiond.Credential{}

// failureOf is the error as what it is; the test ends if it is none of ours.
func failureOf(t *testing.T, what string, err error) *sessiond.Error {
	t.Helper()
	var failure *sessiond.Error
	if !errors.As(err, &failure) {
		t.Fatalf("%s: expected an *Error, found %v", what, err)
	}
	return failure
}

func expect(t *testing.T, what string, err error, reason sessiond.Reason, applied sessiond.Applied) {
	t.Helper()
	if failure := failureOf(t, what, err); failure.Reason != reason || failure.Applied != applied {
		t.Errorf("%s: expected %s, applied %s; found %s, applied %s: %v", what, reason, applied, failure.Reason, failure.Applied, err)
	}
}

func resolveToken(client *sessiond.Client, token string) (string, error) {
	found, err := client.Resolve(context.Background(), sessiond.TokenCredential(token), sessiond.ResolveOptions{})
	if err != nil {
		return "", err
	}
	return found.Token, nil
}

// parallel runs n operations at a time, and returns their errors.
func parallel(n int, run func(i int) error) []error {
	results := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Add(1)
		go func() {
			defer group.Done()
			results[i] = run(i)
		}()
	}
	group.Wait()
	return results
}

func TestAnswersInAnyOrder(t *testing.T) {
	t.Parallel()
	const count = 50
	server := startPeer(t, described, func(s stream) error {
		for {
			var requests []*pb.PipelineRequest
			for range count {
				request := s.receive()
				if request == nil {
					return nil
				}
				requests = append(requests, request)
			}
			for _, request := range slices.Backward(requests) {
				s.answer(request)
			}
		}
	})
	client := connect(t, server.address, sessiond.Options{})
	for _, err := range parallel(count, func(i int) error {
		mine := fmt.Sprintf("token-%d", i)
		if found, err := resolveToken(client, mine); err != nil || found != mine {
			return fmt.Errorf("expected the answer to %s, found %q %w", mine, found, err)
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
}

// Before a daemon: the connection ends in the middle of the frame that has the answer.
func TestCutInTheMiddleOfAFrame(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t, "")
	between := startProxy(t, daemon.Address)
	client := connect(t, between.address, sessiond.Options{})
	credential := create(t, client)
	ctx := t.Context()

	// The next answer on a connection that is there: not that of Describe.
	cut := func() {
		t.Helper()
		if _, err := client.Resolve(ctx, credential, sessiond.ResolveOptions{Peek: true}); err != nil {
			t.Fatal(err)
		}
		between.armed.Store(true)
	}

	cut()
	found, err := client.Resolve(ctx, credential, sessiond.ResolveOptions{})
	if err != nil || found.State != sessiond.StateActive || found.Session.Version != 1 {
		t.Errorf("expected the Resolve to be repeated, found %+v %v", found, err)
	}
	cut()
	_, err = client.Write(ctx, credential, sessiond.WriteOptions{Set: map[string]any{"a": 2}})
	expect(t, "a Write", err, sessiond.ReasonConnectionFailed, sessiond.AppliedUnknown)
	cut()
	_, err = client.Write(ctx, nobody, sessiond.WriteOptions{})
	expect(t, "a create", err, sessiond.ReasonConnectionFailed, sessiond.AppliedUnknown)

	// The cut answers were those of Writes that took effect; so nothing else tells whether this one did.
	cut()
	_, err = client.Write(ctx, credential, sessiond.WriteOptions{Set: map[string]any{"a": 3}, IfVersion: 2})
	expect(t, "a Write with IfVersion", err, sessiond.ReasonVersionMismatch, sessiond.AppliedUnknown)
	if failureOf(t, "it", err).Retryable {
		t.Error("expected that such an outcome is not to be tried again")
	}
	cut()
	touched, err := client.Touch(ctx, credential, sessiond.TouchOptions{})
	if err != nil || touched.Session.Version != 3 {
		t.Errorf("expected the Touch to be repeated, and one write of each, found %+v %v", touched, err)
	}
	cut()
	if ended, err := client.Destroy(ctx, credential, sessiond.DestroyOptions{}); err != nil || ended.Destroyed != 0 {
		t.Errorf("expected the Destroy to be repeated, and to find nothing, found %+v %v", ended, err)
	}
	if between.armed.Load() {
		t.Error("expected every cut to have happened")
	}
}

// After a cut: SESSION_GONE can be the effect of the first attempt as well.
func TestCutAndGone(t *testing.T) {
	t.Parallel()
	server := startPeer(t, described, func(s stream) error {
		request := s.receive()
		if s.number == 1 {
			s.peer.cut()
			return nil
		}
		s.refuse(request, reason(codes.NotFound, sessiond.ReasonSessionGone, sessiond.NotApplied, 0))
		s.receive()
		return nil
	})
	client := connect(t, server.address, sessiond.Options{})
	_, err := client.Write(t.Context(), sessiond.TokenCredential("a"), sessiond.WriteOptions{IfVersion: 7})
	expect(t, "after a repetition", err, sessiond.ReasonSessionGone, sessiond.AppliedUnknown)
}

// What is cut off again and again is not repeated for ever.
func TestCutAlways(t *testing.T) {
	t.Parallel()
	server := startPeer(t, described, func(s stream) error {
		s.receive()
		s.peer.cut()
		return nil
	})
	client := connect(t, server.address, sessiond.Options{Timeout: 20 * time.Second})
	_, err := resolveToken(client, "a")
	expect(t, "a Resolve", err, sessiond.ReasonConnectionFailed, sessiond.AppliedUnknown)
	if streams := server.streams.Load(); streams < 2 || streams > 10 {
		t.Errorf("expected a handful of attempts, found %d", streams)
	}
}

// A server that ends each stream is not asked again without a pause.
func TestEndedAlways(t *testing.T) {
	t.Parallel()
	server := startPeer(t, described, func(s stream) error {
		s.receive()
		return reason(codes.Unavailable, sessiond.ReasonShuttingDown, sessiond.NotApplied, 0).Err()
	})
	client := connect(t, server.address, sessiond.Options{Timeout: time.Second})
	if _, err := resolveToken(client, "a"); err == nil {
		t.Error("expected an error")
	}
	// At least 50, 100, 200 and 400 ms lie between them.
	if streams := server.streams.Load(); streams > 6 {
		t.Errorf("expected a handful of streams, found %d", streams)
	}
}

// A stream that ends with SHUTTING_DOWN has applied nothing that it did not answer.
func TestShuttingDown(t *testing.T) {
	t.Parallel()
	const count = 20
	var mu sync.Mutex
	var first, second []string
	note := func(in *[]string, request *pb.PipelineRequest) {
		mu.Lock()
		defer mu.Unlock()
		*in = append(*in, request.GetWrite().GetSet())
	}
	server := startPeer(t, described, func(s stream) error {
		if s.number == 1 {
			for range count {
				note(&first, s.receive())
			}
			return reason(codes.Unavailable, sessiond.ReasonShuttingDown, sessiond.NotApplied, 0).Err()
		}
		for {
			request := s.receive()
			if request == nil {
				return nil
			}
			note(&second, request)
			s.answer(request)
		}
	})
	client := connect(t, server.address, sessiond.Options{})
	for _, err := range parallel(count, func(i int) error {
		_, err := client.Write(context.Background(), nobody, sessiond.WriteOptions{Set: map[string]any{"n": i}})
		return err
	}) {
		if err != nil {
			t.Errorf("expected the create to be repeated, found %v", err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(first, second) {
		t.Errorf("expected each once again, in order\n%v\nfound\n%v", first, second)
	}
}

// limits.max_connection_age: GOAWAY, and the end of the stream 5 s later. No operation fails, creates neither.
func TestConnectionAge(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t, "", "limits.max_connection_age=500ms")
	log := newTold()
	client, err := sessiond.New(daemon.Address, &sessiond.Options{Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(context.Background())
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	var done atomic.Int64
	for range 4 {
		group.Add(1)
		go func() {
			defer group.Done()
			for ctx.Err() == nil {
				if _, err := client.Write(context.Background(), nobody, sessiond.WriteOptions{}); err != nil {
					t.Errorf("expected no error, found %v", err)
					return
				}
				done.Add(1)
				runtime.Gosched()
				time.Sleep(2 * time.Millisecond) // two cores are all there is
			}
		}()
	}
	late := time.After(30 * time.Second)
	for connections := 0; connections < 2; {
		select {
		case line := <-log.news:
			if strings.Contains(line, "connected to sessiond") {
				connections++
			}
		case <-late:
			t.Fatal("expected another connection")
		}
	}
	before := done.Load()
	for done.Load() < before+20 && !t.Failed() {
		runtime.Gosched()
	}
	stop()
	group.Wait()
}

func TestOverloaded(t *testing.T) {
	t.Parallel()
	const pause = 30 * time.Millisecond
	refusals := map[string]struct {
		status *status.Status
		times  int32
	}{
		"busy":    {reason(codes.ResourceExhausted, sessiond.ReasonOverloaded, sessiond.NotApplied, pause), 2},
		"always":  {reason(codes.ResourceExhausted, sessiond.ReasonOverloaded, sessiond.NotApplied, pause), 1000},
		"store":   {reason(codes.Unavailable, sessiond.ReasonStoreUnavailable, sessiond.AppliedUnknown, pause), 1},
		"silent":  {reason(codes.Unavailable, sessiond.ReasonStoreUnavailable, sessiond.NotApplied, 0), 1000},
		"patient": {reason(codes.Unavailable, sessiond.ReasonStoreUnavailable, sessiond.NotApplied, time.Hour), 1000},
	}
	var mu sync.Mutex
	seen := map[string]int32{}
	server := startPeer(t, described, func(s stream) error {
		for {
			request := s.receive()
			if request == nil {
				return nil
			}
			what := string(request.GetResolve().GetCredential().GetToken()) + string(request.GetWrite().GetCredential().GetToken())
			mu.Lock()
			seen[what]++
			refusal := refusals[strings.TrimSuffix(what, "-write")]
			again := seen[what] <= refusal.times
			mu.Unlock()
			if again {
				s.refuse(request, refusal.status)
			} else {
				s.answer(request)
			}
		}
	})
	client := connect(t, server.address, sessiond.Options{})
	write := func(token string) error {
		_, err := client.Write(t.Context(), sessiond.TokenCredential(token), sessiond.WriteOptions{})
		return err
	}
	times := func(what string, expected int32) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if seen[what] != expected {
			t.Errorf("%s: expected it to be sent %d times, found %d", what, expected, seen[what])
		}
	}

	begin := time.Now()
	if _, err := resolveToken(client, "busy"); err != nil || time.Since(begin) < 2*pause {
		t.Errorf("expected two pauses and an answer, found %v after %s", err, time.Since(begin))
	}
	times("busy", 3)
	if err := write("busy-write"); err != nil {
		t.Errorf("expected a Write that was not applied to be repeated, found %v", err)
	}
	times("busy-write", 3)
	_, err := resolveToken(client, "always")
	expect(t, "always", err, sessiond.ReasonOverloaded, sessiond.NotApplied)
	if !errors.Is(err, sessiond.ErrOverloaded) || !errors.Is(err, sessiond.ErrUnavailable) || sessiond.HTTPStatus(err) != 503 || failureOf(t, "always", err).RetryAfter != pause {
		t.Errorf("expected an error for 503 with the daemon's pause, found %#v", err)
	}
	times("always", 3)
	if _, err := resolveToken(client, "store"); err != nil {
		t.Errorf("expected the Resolve to be repeated, found %v", err)
	}
	// It may have been applied.
	expect(t, "a Write", write("store-write"), sessiond.ReasonStoreUnavailable, sessiond.AppliedUnknown)
	times("store-write", 1)
	// Without a RetryInfo, or with one that is longer than there is time, nothing is repeated.
	for _, what := range []string{"silent", "patient"} {
		_, err := resolveToken(client, what)
		expect(t, what, err, sessiond.ReasonStoreUnavailable, sessiond.NotApplied)
		times(what, 1)
	}
}

// An answer that comes too late belongs to nobody.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	given := make(chan struct{})
	server := startPeer(t, described, func(s stream) error {
		late := s.receive()
		<-given
		s.answer(late)
		for {
			request := s.receive()
			if request == nil {
				return nil
			}
			s.answer(request)
		}
	})
	client := connect(t, server.address, sessiond.Options{})
	err := inTime(t, func(short context.Context) error {
		_, err := client.Write(short, nobody, sessiond.WriteOptions{})
		return err
	})
	expect(t, "it", err, sessiond.ReasonTimeout, sessiond.AppliedUnknown)
	close(given)
	if found, err := resolveToken(client, "mine"); err != nil || found != "mine" {
		t.Errorf("expected the next answer, found %q %v", found, err)
	}
	if server.streams.Load() != 1 {
		t.Errorf("expected the stream to go on, found %d", server.streams.Load())
	}
}

// Each operation tells the daemon how much time it has left.
func TestTimeLeft(t *testing.T) {
	t.Parallel()
	left := make(chan time.Duration, 2)
	server := startPeer(t, described, func(s stream) error {
		for {
			request := s.receive()
			if request == nil {
				return nil
			}
			left <- request.GetTimeout().AsDuration()
			s.answer(request)
		}
	})
	client := connect(t, server.address, sessiond.Options{Timeout: 10 * time.Second})
	resolveToken(client, "a")
	if found := <-left; found <= 0 || found > 10*time.Second {
		t.Errorf("expected at most the client's timeout, found %s", found)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	client.Resolve(ctx, nobody, sessiond.ResolveOptions{})
	if found := <-left; found <= 0 || found > 3*time.Second {
		t.Errorf("expected at most the context's time, found %s", found)
	}
}

func TestNonsense(t *testing.T) {
	t.Parallel()
	for what, respond := range map[string]func(*pb.PipelineRequest) *pb.PipelineResponse{
		"an answer to no operation": func(*pb.PipelineRequest) *pb.PipelineResponse { return &pb.PipelineResponse{Sequence: 1 << 40} },
		"an answer of another kind": func(r *pb.PipelineRequest) *pb.PipelineResponse {
			return &pb.PipelineResponse{Sequence: r.GetSequence(), Result: &pb.PipelineResponse_Touch{Touch: &pb.TouchResponse{State: pb.SessionState_SESSION_STATE_NONE}}}
		},
		"no result": func(r *pb.PipelineRequest) *pb.PipelineResponse {
			return &pb.PipelineResponse{Sequence: r.GetSequence()}
		},
		"a live session without a session": func(r *pb.PipelineRequest) *pb.PipelineResponse {
			return &pb.PipelineResponse{Sequence: r.GetSequence(), Result: &pb.PipelineResponse_Resolve{Resolve: &pb.ResolveResponse{State: pb.SessionState_SESSION_STATE_ACTIVE}}}
		},
		"a state that nobody knows": func(r *pb.PipelineRequest) *pb.PipelineResponse {
			return &pb.PipelineResponse{Sequence: r.GetSequence(), Result: &pb.PipelineResponse_Resolve{Resolve: &pb.ResolveResponse{State: 77}}}
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			server := startPeer(t, described, func(s stream) error {
				for {
					request := s.receive()
					if request == nil {
						return nil
					}
					s.SendMsg(respond(request))
				}
			})
			client := connect(t, server.address, sessiond.Options{Timeout: 2 * time.Second})
			_, err := client.Resolve(t.Context(), sessiond.TokenCredential("a-secret"), sessiond.ResolveOptions{})
			if failure := failureOf(t, what, err); failure.Reason != sessiond.ReasonProtocolError || strings.Contains(err.Error(), "a-secret") {
				t.Errorf("expected PROTOCOL_ERROR, found %v", err)
			}
		})
	}
}

func TestOldDaemon(t *testing.T) {
	t.Parallel()
	server := startPeer(t, nil, func(s stream) error {
		t.Error("expected no Pipeline to a daemon that is too old")
		return nil
	})
	client := connect(t, server.address, sessiond.Options{Timeout: 20 * time.Second})
	begin := time.Now()
	for what, ask := range map[string]func() error{
		"Resolve":      func() error { _, err := resolveToken(client, "a"); return err },
		"Describe":     func() error { _, err := client.Describe(t.Context()); return err },
		"ListSessions": func() error { _, err := client.ListSessions(t.Context(), nobody, sessiond.ListOptions{}); return err },
	} {
		err := ask()
		expect(t, what, err, sessiond.ReasonDaemonTooOld, sessiond.NotApplied)
		for _, part := range []string{server.address, sessiond.Version, "Describe", "update the daemon"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: expected %q in %q", what, part, err)
			}
		}
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("expected to be told at once, found %s", took)
	}
}
