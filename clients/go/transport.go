package sessiond

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sessiond/sessiond/clients/go/internal/link"
	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

const (
	backoffMin = 100 * time.Millisecond
	backoffMax = time.Second
	// An attempt that takes longer is given up: the next one may reach a daemon that is back.
	connectTimeout = 2 * time.Second
	// How often OVERLOADED and STORE_UNAVAILABLE are repeated, and how often what was cut off is.
	maxRetries = 2
	maxCuts    = 5
)

// operation is one operation on its way. Its fields are guarded by transport.mu, except those that never change.
type operation struct {
	lookup   lookup              // if it has a kind
	request  *pb.PipelineRequest // otherwise; nil: Describe
	safe     bool                // a repetition does no harm after an unknown outcome
	deadline time.Time           // of the caller's context, or expires
	expires  time.Time           // the timeout of the client
	outcome  chan outcome        // has room for one

	// Of its last message. Only the sender writes them, with mu.
	sequence uint64
	left     time.Duration

	// Neighbours in the list of all operations, which is in the order in which they expire.
	previous, next *operation

	done      bool // somebody has the outcome, or nobody waits any more
	sent      bool // on the stream, and not answered
	uncertain bool // may have taken effect already
	retries   int
	cuts      int
}

func (op *operation) isDescribe() bool { return op.lookup.kind == 0 && op.request == nil }

// outcome is what became of an operation. uncertain: it was sent before, with an unknown outcome.
type outcome struct {
	found     *found               // the answer to a lookup
	response  *pb.PipelineResponse // any other answer
	uncertain bool
	err       error
}

// transport is the client's side of the Pipeline: the queue, the connection, and what may be repeated.
type transport struct {
	address string
	options Options
	client  Client // for its logger
	conn    *grpc.ClientConn
	token   *tokenSource
	ctx     context.Context // ends with the transport
	cancel  context.CancelFunc
	loops   sync.WaitGroup
	wake    chan struct{} // has room for one: the queue is not empty, or the transport closes

	described atomic.Pointer[pb.DescribeResponse]
	answers   uint64 // how many have come; of the goroutine of run

	mu       sync.Mutex
	started  bool
	closed   bool
	count    int        // operations under way
	first    *operation // of all that are under way, the one that expires first
	last     *operation
	sweeping bool          // the sweeper will run
	sweeper  *time.Timer   // ends those whose time is over; one timer for all is cheaper than one for each
	drained  chan struct{} // closed when count is 0 and nothing new comes
	sequence uint64
	queue    []*operation
	sent     map[uint64]*operation
	ready    bool   // there is a stream
	lastErr  *Error // of the last attempt to connect; nil if it succeeded
}

// Whoever waits for an operation has its channel, and is sent one outcome at most: then it can be used again.
var outcomes = sync.Pool{New: func() any { return make(chan outcome, 1) }}

func newTransport(address string, options Options) (*transport, error) {
	target, err := targetOf(address)
	if err != nil {
		return nil, err
	}
	token, err := newTokenSource(options)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target, dialOptions(options, token)...)
	if err != nil {
		return nil, newError(ReasonInvalidArgument, codes.InvalidArgument, NotApplied, fmt.Sprintf("address: %v", err), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &transport{
		address: address, options: options, client: Client{options: options}, conn: conn, token: token, ctx: ctx, cancel: cancel,
		wake: make(chan struct{}, 1), drained: make(chan struct{}), sent: map[uint64]*operation{},
	}, nil
}

func (t *transport) Do(ctx context.Context, request *pb.PipelineRequest, safe bool) (link.Answer, error) {
	outcome := t.wait(ctx, &operation{request: request, safe: safe}, time.Now())
	return link.Answer{Response: outcome.response, Uncertain: outcome.uncertain}, outcome.err
}

// wait runs an operation, and returns what became of it.
func (t *transport) wait(ctx context.Context, op *operation, now time.Time) outcome {
	op.expires = now.Add(t.options.Timeout)
	op.deadline = op.expires
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(op.deadline) {
		op.deadline = earlier
	}
	channel := outcomes.Get().(chan outcome)
	defer outcomes.Put(channel)
	op.outcome = channel
	if err := t.begin(ctx, op); err != nil {
		return outcome{err: err}
	}
	select {
	case outcome := <-channel:
		return outcome
	case <-ctx.Done():
		return t.abandon(op, ctx.Err())
	}
}

func (t *transport) Described() *pb.DescribeResponse { return t.described.Load() }

func (t *transport) Describe(ctx context.Context) (*pb.DescribeResponse, error) {
	t.mu.Lock()
	described := t.described.Load()
	fresh := t.ready && described != nil && !t.closed
	t.mu.Unlock()
	if fresh {
		return described, nil
	}
	// It is answered by the sender as soon as there is a connection.
	if _, err := t.Do(ctx, nil, true); err != nil {
		return nil, err
	}
	return t.described.Load(), nil
}

// begin takes an operation into the queue.
func (t *transport) begin(ctx context.Context, op *operation) error {
	if err := ctx.Err(); err != nil {
		return contextError(err, NotApplied)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter(); err != nil {
		return err
	}
	op.previous = t.last
	if t.last != nil {
		t.last.next = op
	} else {
		t.first = op
	}
	t.last = op
	if t.sweeper == nil {
		t.sweeping, t.sweeper = true, time.AfterFunc(time.Until(op.expires), t.sweep)
	} else if !t.sweeping {
		t.sweeping = true
		t.sweeper.Reset(time.Until(op.expires))
	}
	t.queue = append(t.queue, op)
	t.poke()
	return nil
}

// over: somebody has the outcome, or nobody waits any more. The caller holds mu.
func (t *transport) over(op *operation) {
	op.done = true
	if op.previous != nil {
		op.previous.next = op.next
	} else {
		t.first = op.next
	}
	if op.next != nil {
		op.next.previous = op.previous
	} else {
		t.last = op.previous
	}
	op.previous, op.next = nil, nil
	t.leave()
}

// sweep ends the operations whose time is over.
func (t *transport) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for t.first != nil && !now.Before(t.first.expires) {
		op := t.first
		err := t.lost(op, nil)
		t.over(op)
		op.outcome <- outcome{err: err}
	}
	if t.sweeping = t.first != nil; t.sweeping {
		t.sweeper.Reset(t.first.expires.Sub(now))
	}
}

// enter counts one more operation. The caller holds mu.
func (t *transport) enter() error {
	if t.closed {
		return closedError(NotApplied)
	}
	if t.count >= t.options.MaxInFlight {
		err := newError(ReasonInFlightLimit, codes.ResourceExhausted, NotApplied, fmt.Sprintf("%d operations are under way already (MaxInFlight)", t.count), nil)
		err.RetryAfter = time.Second
		return err
	}
	t.count++
	if !t.started {
		t.started = true
		t.loops.Add(1)
		go t.run()
	}
	return nil
}

// leave counts one operation less. The caller holds mu.
func (t *transport) leave() {
	if t.count--; t.count == 0 && t.closed {
		close(t.drained)
	}
}

// poke wakes whoever sends or connects.
func (t *transport) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// abandon gives an operation up: its caller has gone. cause: the error of the caller's context.
func (t *transport) abandon(op *operation, cause error) outcome {
	t.mu.Lock()
	defer t.mu.Unlock()
	if op.done {
		// The outcome came at the same moment.
		return <-op.outcome
	}
	err := t.lost(op, cause)
	t.over(op)
	return outcome{err: err}
}

// lost forgets an operation that has no answer, and is the error that says why. cause: the error of the caller's context;
// nil: its time is over. The caller holds mu.
func (t *transport) lost(op *operation, cause error) *Error {
	// A daemon that reads and does not answer would keep it for ever. A late answer is known by its sequence.
	delete(t.sent, op.sequence)
	// A daemon that stands still takes nothing from the queue.
	if len(t.queue) > 2*t.options.MaxInFlight {
		t.queue = slices.DeleteFunc(t.queue, func(op *operation) bool { return op.done })
	}
	applied := NotApplied
	if op.sent || op.uncertain {
		applied = AppliedUnknown
	}
	switch {
	case cause != nil && (t.ready || t.lastErr == nil || cause == context.Canceled):
		return contextError(cause, applied)
	case !t.ready && t.lastErr != nil:
		err := newError(ReasonConnectionFailed, codes.Unavailable, applied, t.lastErr.message, t.lastErr)
		if cause != nil {
			err.cause = cause
		}
		err.RetryAfter = time.Second
		return err
	}
	err := newError(ReasonTimeout, codes.DeadlineExceeded, applied, fmt.Sprintf("no answer within %s from the daemon at %s", t.options.Timeout, t.address), nil)
	err.RetryAfter = time.Second
	return err
}

// finish gives an operation its outcome. The caller holds mu.
func (t *transport) finish(op *operation, what outcome) {
	if op.done {
		return
	}
	t.over(op)
	op.outcome <- what
}

// answered is called with each message of the stream.
func (t *transport) answered(answer received) *Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	op, ok := t.sent[answer.sequence]
	if !ok {
		if answer.sequence == 0 || answer.sequence > t.sequence {
			return t.protocolError("an answer to no operation", nil)
		}
		return nil // to something that was given up
	}
	delete(t.sent, answer.sequence)
	op.sent = false
	if op.done {
		return nil
	}
	if failed := answer.message.GetError(); failed != nil {
		err := statusError(failed, op.uncertain)
		if pause, ok := t.retry(op, err); ok {
			op.uncertain = op.uncertain || err.Applied != NotApplied
			time.AfterFunc(pause, func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.requeue([]*operation{op})
			})
			return nil
		}
	}
	t.finish(op, outcome{found: answer.found, response: answer.message, uncertain: op.uncertain})
	return nil
}

// retry reports whether an operation that the daemon has refused is sent again, and when. The caller holds mu.
func (t *transport) retry(op *operation, err *Error) (time.Duration, bool) {
	if (err.Reason != ReasonOverloaded && err.Reason != ReasonStoreUnavailable) || err.RetryAfter <= 0 {
		return 0, false
	}
	if op.retries == maxRetries || t.closed || (err.Applied != NotApplied && !op.safe) {
		return 0, false
	}
	pause := time.Duration(float64(err.RetryAfter) * (1 + rand.Float64()/4))
	if time.Now().Add(pause).After(op.deadline) {
		return 0, false
	}
	op.retries++
	return pause, true
}

// requeue puts operations before what is queued. The caller holds mu.
func (t *transport) requeue(again []*operation) {
	again = slices.DeleteFunc(again, func(op *operation) bool { return op.done })
	if len(again) == 0 {
		return
	}
	if t.ctx.Err() != nil {
		for _, op := range again {
			applied := NotApplied
			if op.uncertain {
				applied = AppliedUnknown
			}
			t.finish(op, outcome{err: closedError(applied)})
		}
		return
	}
	t.queue = append(again, t.queue...)
	t.poke()
}

// waiting reports whether somebody waits for a connection.
func (t *transport) waiting() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = slices.DeleteFunc(t.queue, func(op *operation) bool { return op.done })
	return len(t.queue) > 0
}

// next takes what is queued, and marks it as sent.
func (t *transport) next() []*operation {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.queue
	t.queue = nil
	return taken
}

// stage prepares an operation for the stream. It reports false if there is nothing to send.
func (t *transport) stage(op *operation) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if op.done {
		return false
	}
	if op.isDescribe() {
		t.finish(op, outcome{})
		return false
	}
	left := time.Until(op.deadline)
	if left <= 0 {
		return false // whoever waits sees it in a moment
	}
	t.sequence++
	op.sequence, op.left = t.sequence, left
	if err := t.refuse(op); err != nil {
		t.finish(op, outcome{err: err})
		return false
	}
	op.sent = true
	t.sent[t.sequence] = op
	return true
}

// unsent takes back what the stream did not accept.
func (t *transport) unsent(batch []*operation, cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	op := batch[0]
	delete(t.sent, op.sequence)
	op.sent = false
	if cause != io.EOF {
		// The message cannot be encoded: it would end the next stream as well.
		if op.cuts++; op.cuts > maxCuts {
			t.finish(op, outcome{err: cutError(rpcError(cause))})
		}
	}
	t.requeue(batch)
}

// refuse finds what the daemon would refuse by ending the stream, for everybody, and data that are too large anyhow.
func (t *transport) refuse(op *operation) *Error {
	described := t.described.Load()
	if write := op.request.GetWrite(); write != nil && len(write.GetSet()) > 4096 {
		if engine, ok := descriptionEngine(described, write.GetEngine()); ok && len(write.GetSet()) > int(engine.GetMaxDataBytes()) {
			err := newError(ReasonDataTooLarge, codes.InvalidArgument, NotApplied, fmt.Sprintf("the data are larger than max_data_bytes of the engine (%d bytes)", engine.GetMaxDataBytes()), nil)
			err.Field = "set"
			return err
		}
	}
	if limit := int(described.GetLimits().GetMaxMessageBytes()); limit > 0 && op.exceeds(limit) {
		return newError(ReasonMessageTooLarge, codes.InvalidArgument, NotApplied, fmt.Sprintf("the message is larger than limits.max_message_bytes of the daemon (%d bytes)", limit), nil)
	}
	return nil
}

// exceeds reports whether the message has more octets than these.
func (op *operation) exceeds(limit int) bool {
	if op.lookup.kind != 0 {
		return op.lookup.longest() > limit && op.lookup.size(op.sequence, op.left) > limit
	}
	op.request.Sequence, op.request.Timeout = op.sequence, durationpb.New(op.left)
	return proto.Size(op.request) > limit
}

func descriptionEngine(described *pb.DescribeResponse, name string) (*pb.Engine, bool) {
	if name == "" {
		name = "default"
	}
	for _, engine := range described.GetEngines() {
		if engine.GetName() == name {
			return engine, true
		}
	}
	return nil, false
}

// cut decides what becomes of the operations that a stream that ended has not answered.
func (t *transport) cut(err *Error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ready = false
	sequences := make([]uint64, 0, len(t.sent))
	for sequence := range t.sent {
		sequences = append(sequences, sequence)
	}
	slices.Sort(sequences)
	var again []*operation
	for _, sequence := range sequences {
		op := t.sent[sequence]
		delete(t.sent, sequence)
		op.sent = false
		if err.Applied != NotApplied {
			if op.cuts++; !op.safe || op.cuts > maxCuts {
				t.finish(op, outcome{err: cutError(err)})
				continue
			}
			op.uncertain = true
		}
		again = append(again, op)
	}
	t.requeue(again)
}

// cutError is the error of an operation that was cut off.
func cutError(cause *Error) *Error {
	if cause.Reason == ReasonProtocolError {
		return cause
	}
	reason := ReasonConnectionFailed
	if kinds[cause.Reason] == ErrUnavailable {
		reason = cause.Reason
	}
	err := newError(reason, codes.Unavailable, AppliedUnknown, cause.message, cause)
	err.Retryable = false
	err.RetryAfter = max(cause.RetryAfter, time.Second)
	return err
}

// failAll ends what is queued: to wait makes nothing better.
func (t *transport) failAll(err *Error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, op := range t.queue {
		failure := *err
		if op.uncertain {
			failure.Applied = AppliedUnknown
		}
		t.finish(op, outcome{err: &failure})
	}
	t.queue = nil
}

func (t *transport) protocolError(what string, cause error) *Error {
	return newError(ReasonProtocolError, codes.Internal, AppliedUnknown, fmt.Sprintf("the server at %s does not speak the protocol of sessiond: %s", t.address, what), cause)
}

func (t *transport) Close(ctx context.Context) error {
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		if t.count == 0 {
			close(t.drained)
		}
	}
	t.mu.Unlock()
	select {
	case <-t.drained:
	case <-ctx.Done():
		t.mu.Lock()
		for _, op := range t.sent {
			t.finish(op, outcome{err: closedError(AppliedUnknown)})
		}
		t.mu.Unlock()
		t.failAll(closedError(NotApplied))
	}
	t.cancel()
	t.poke()
	t.mu.Lock()
	if t.sweeper != nil {
		t.sweeper.Stop()
	}
	t.mu.Unlock()
	err := t.conn.Close()
	t.loops.Wait()
	if status.Code(err) == codes.Canceled {
		err = nil // it was closed before
	}
	return err
}
