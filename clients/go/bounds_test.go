package sessiond_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/internal/daemontest"
	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

// A message that the daemon would refuse by ending the stream, for everybody, is never sent.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t, "", "engine.default.max_data_bytes=8KiB")
	log := newTold()
	client, err := sessiond.New(daemon.Address, &sessiond.Options{Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(context.Background())
	ctx := t.Context()
	credential := create(t, client)
	big := strings.Repeat("top secret ", 1000)

	_, err = client.Write(ctx, credential, sessiond.WriteOptions{Set: map[string]any{"a": big}})
	expect(t, "too much in a Write", err, sessiond.ReasonDataTooLarge, sessiond.NotApplied)
	// Only the daemon knows what the session has already.
	half := big[:6000]
	if _, err = client.Write(ctx, credential, sessiond.WriteOptions{Set: map[string]any{"a": half}}); err != nil {
		t.Fatal(err)
	}
	_, err = client.Write(ctx, credential, sessiond.WriteOptions{Set: map[string]any{"b": half}})
	expect(t, "too much together", err, sessiond.ReasonDataTooLarge, sessiond.NotApplied)
	if !errors.Is(err, sessiond.ErrDataTooLarge) || sessiond.HTTPStatus(err) != 413 || strings.Contains(err.Error(), "secret") {
		t.Errorf("expected ErrDataTooLarge without the data, found %v", err)
	}
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprint(i, strings.Repeat("k", 2000))
	}
	_, err = client.Write(ctx, credential, sessiond.WriteOptions{Unset: keys})
	expect(t, "a message that is too large", err, sessiond.ReasonMessageTooLarge, sessiond.NotApplied)
	_, err = client.Resolve(ctx, sessiond.CookieHeader("a="+strings.Repeat("x", 2<<20)), sessiond.ResolveOptions{})
	expect(t, "a header that is too large", err, sessiond.ReasonMessageTooLarge, sessiond.NotApplied)

	found, err := client.Resolve(ctx, credential, sessiond.ResolveOptions{})
	if err != nil || found.Session.Version != 2 {
		t.Errorf("expected the session with one change, found %+v %v", found, err)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if len(log.lines) != 1 || !strings.Contains(log.lines[0], "connected to sessiond") {
		t.Errorf("expected one connection and nothing else, found %v", log.lines)
	}
}

// Neither a daemon that reads and does not answer nor one that does not read makes the client keep more than MaxInFlight
// twice: what waits, and what was given up and is not swept out yet.
func TestBounded(t *testing.T) {
	t.Parallel()
	for what, reads := range map[string]bool{"reads and does not answer": true, "does not read": false} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			const limit = 200
			var received atomic.Int64
			server := startPeer(t, described, func(s stream) error {
				for reads && s.receive() != nil {
					received.Add(1)
				}
				<-s.Context().Done()
				return nil
			})
			client := connect(t, server.address, sessiond.Options{MaxInFlight: limit, Timeout: time.Minute})
			set := map[string]any{"a": strings.Repeat("x", 4000)}
			for round := int64(1); round <= 5; round++ {
				ctx, cancel := context.WithCancel(t.Context())
				results := make(chan []error)
				go func() {
					results <- parallel(limit, func(int) error {
						_, err := client.Write(ctx, nobody, sessiond.WriteOptions{Set: set})
						return err
					})
				}()
				for reads && received.Load() < round*limit || client.Held() == 0 {
					time.Sleep(time.Millisecond)
				}
				cancel()
				for _, err := range <-results {
					expect(t, what, err, sessiond.ReasonCanceled, failureOf(t, what, err).Applied)
				}
				if held := client.Held(); held > 2*limit {
					t.Fatalf("expected at most %d operations to be kept, found %d", 2*limit, held)
				}
			}
		})
	}
}

// MaxInFlight is how many there may be, and the next fails at once.
func TestInFlightLimit(t *testing.T) {
	t.Parallel()
	const limit = 10_000
	var arrived atomic.Int64
	release := make(chan struct{})
	server := startPeer(t, described, func(s stream) error {
		var requests []*pb.PipelineRequest
		for range limit {
			requests = append(requests, s.receive())
			arrived.Add(1)
		}
		<-release
		for _, request := range requests {
			s.answer(request)
		}
		s.receive()
		return nil
	})
	client := connect(t, server.address, sessiond.Options{Timeout: time.Minute})
	results := make(chan []error)
	go func() {
		results <- parallel(limit, func(int) error { _, err := resolveToken(client, "a"); return err })
	}()
	for arrived.Load() < limit {
		runtime.Gosched()
		time.Sleep(time.Millisecond)
	}
	begin := time.Now()
	_, err := resolveToken(client, "b")
	expect(t, "one more", err, sessiond.ReasonInFlightLimit, sessiond.NotApplied)
	if took := time.Since(begin); took > 20*time.Second || !failureOf(t, "it", err).Retryable {
		t.Errorf("expected to be told at once, and to try again later, found %s: %v", took, err)
	}
	close(release)
	for _, err := range <-results {
		if err != nil {
			t.Fatalf("expected those under way to go on, found %v", err)
		}
	}
	if held := client.Held(); held != 0 {
		t.Errorf("expected nothing to be left, found %d", held)
	}
}

func TestCloseDrains(t *testing.T) {
	t.Parallel()
	const count = 5
	arrived, answers := make(chan struct{}), make(chan struct{})
	server := startPeer(t, described, func(s stream) error {
		var requests []*pb.PipelineRequest
		for range count {
			requests = append(requests, s.receive())
		}
		close(arrived)
		<-answers
		for _, request := range requests {
			s.answer(request)
		}
		s.receive()
		return nil
	})
	client := connect(t, server.address, sessiond.Options{})
	results := make(chan []error)
	go func() {
		results <- parallel(count, func(int) error { _, err := resolveToken(client, "a"); return err })
	}()
	<-arrived
	closed := make(chan error)
	go func() { closed <- client.Close(context.Background()) }()
	// From some moment on, nothing new is taken.
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := client.Resolve(ctx, nobody, sessiond.ResolveOptions{})
		cancel()
		if errors.Is(err, sessiond.ReasonClosed) {
			break
		}
	}
	select {
	case err := <-closed:
		t.Fatalf("expected Close to wait for what is under way, found %v", err)
	default:
	}
	close(answers)
	for _, err := range <-results {
		if err != nil {
			t.Errorf("expected an answer, found %v", err)
		}
	}
	if err := <-closed; err != nil {
		t.Errorf("expected no error of Close, found %v", err)
	}
}

// Close waits until its context is done, and no longer.
func TestCloseGivesUp(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	server := startPeer(t, described, func(s stream) error {
		s.receive()
		close(arrived)
		<-s.Context().Done()
		return nil
	})
	client := connect(t, server.address, sessiond.Options{Timeout: time.Minute})
	result := make(chan error)
	go func() {
		_, err := client.Write(context.Background(), nobody, sessiond.WriteOptions{})
		result <- err
	}()
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	client.Close(ctx)
	expect(t, "what was under way", <-result, sessiond.ReasonClosed, sessiond.AppliedUnknown)
	if err := client.Close(t.Context()); err != nil {
		t.Errorf("expected a second Close to do no harm, found %v", err)
	}
}

// What the client tells its logger and Observe has no secret in it.
func TestTells(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var operations []sessiond.Operation
	server := startPeer(t, described, func(s stream) error {
		for {
			request := s.receive()
			if request == nil {
				return nil
			}
			if request.GetWrite() != nil {
				s.refuse(request, reason(codes.ResourceExhausted, sessiond.ReasonStoreFull, sessiond.NotApplied, 0))
				continue
			}
			s.answer(request)
		}
	})
	log := newTold()
	client, err := sessiond.New(server.address, &sessiond.Options{Logger: log.logger(), Engine: "default", Observe: func(o sessiond.Operation) {
		mu.Lock()
		defer mu.Unlock()
		operations = append(operations, o)
	}})
	if err != nil {
		t.Fatal(err)
	}
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "trace")
	client.Resolve(ctx, sessiond.TokenCredential("a-secret"), sessiond.ResolveOptions{})
	client.Write(ctx, sessiond.TokenCredential("a-secret"), sessiond.WriteOptions{Set: map[string]any{"k": "a-secret"}})
	client.Close(ctx)
	if len(operations) != 2 || operations[0].Name != "Resolve" || operations[0].Err != nil || operations[0].Engine != "default" ||
		operations[0].Context.Value(key{}) != "trace" || operations[1].Name != "Write" || !errors.Is(operations[1].Err, sessiond.ReasonStoreFull) || operations[1].Duration <= 0 {
		t.Errorf("expected both operations, found %+v", operations)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	all := strings.Join(log.lines, "")
	for _, part := range []string{"connected to sessiond", "session operation failed"} {
		if !strings.Contains(all, part) {
			t.Errorf("expected %q to be told, found %s", part, all)
		}
	}
	if strings.Contains(all, "a-secret") || strings.Contains(fmt.Sprintf("%v %+v %#v", sessiond.TokenCredential("a-secret"), sessiond.TokenCredential("a-secret"), sessiond.TokenCredential("a-secret")), "a-secret") {
		t.Errorf("expected no secret, found %s", all)
	}
}
