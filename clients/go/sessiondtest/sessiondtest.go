// Package sessiondtest has a fake of the daemon, in memory, for the tests of an application: the same answers without a
// daemon. One suite of behaviours runs against both.
package sessiondtest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/internal/link"
	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

// Engine is an engine of the fake. What is zero has the daemon's default.
type Engine struct {
	// CookieName is the name of its cookie. Default: "session".
	CookieName string
	// ExpressFormat puts "s:" before the token, as express-session does.
	ExpressFormat bool
	// SessionCookie: its cookies go with the browser, unless a write says otherwise.
	SessionCookie bool
	// Duration is the idle timeout. Default: 30 minutes.
	Duration time.Duration
	// AbsoluteDuration is the longest life of a session. 0: no limit.
	AbsoluteDuration time.Duration
	// TouchGranularity is by how much a deadline must move. Default: a 64th of the duration, at most a minute.
	TouchGranularity time.Duration
	// ManualTouch turns automatic_touch off: Resolve moves no deadline.
	ManualTouch bool
	// MaxDataBytes is the length of a session's data. Default: 64 KiB.
	MaxDataBytes int
	// RollGrace is how long an id from before a roll can still end its session. Default: a minute.
	RollGrace time.Duration
	// MaxSessionsPerPrincipal is how many live sessions a principal may have. 0: any number.
	MaxSessionsPerPrincipal int
	// EndIdlest ends a principal's idlest session above that. Otherwise the login is refused.
	EndIdlest bool
}

// Options of [New].
type Options struct {
	// Engines by name. Default: one called "default".
	Engines map[string]Engine
	// Clock is the time. Default: time.Now. Advance comes on top of it.
	Clock func() time.Time
	// Client are the options of the client. Default: those of sessiond.New, with a logger that discards.
	Client *sessiond.Options
}

// Session is a session in the fake, for a test to look at.
type Session struct {
	// ID is the public id.
	ID string
	// Principal is whom it belongs to. Empty: nobody.
	Principal string
	// Version is 1 at creation, and one more with each write.
	Version uint64
	// Label is the text for the user's list of devices.
	Label string
	// Data are a copy of its data.
	Data sessiond.Data
}

// Fake is a fake of the daemon, and a client of it. Pass its Client to sessiond.NewManager.
type Fake struct {
	// Client is a client as sessiond.New makes it, over the fake.
	Client *sessiond.Client

	clock func() time.Time
	mu    sync.Mutex
	ahead time.Duration
	// stores by name of the engine
	stores    map[string]*store
	described *pb.DescribeResponse
	closed    bool
	failure   *failure
}

type failure struct {
	reason    sessiond.Reason
	times     int // 0: until the next Fail
	operation string
}

// New makes a fake. Nothing listens, and nothing is stored outside of it. It panics if an option is not allowed.
func New(options *Options) *Fake {
	if options == nil {
		options = &Options{}
	}
	fake := &Fake{clock: options.Clock, stores: map[string]*store{}}
	if fake.clock == nil {
		fake.clock = time.Now
	}
	engines := options.Engines
	if engines == nil {
		engines = map[string]Engine{"default": {}}
	}
	fake.described = &pb.DescribeResponse{Version: sessiond.Version, Limits: &pb.Limits{
		MaxMessageBytes: 1 << 20, PipelineInFlight: 256, MaxCookieHeaderBytes: maxHeader, MaxPrincipalBytes: 256, MaxLabelBytes: 256,
		MaxKeys: maxKeys, MaxUnset: 1000, MaxSessionIds: 1000, MaxDuration: durationpb.New(400 * 24 * time.Hour),
	}}
	for name, engine := range engines {
		engine = engine.settled()
		fake.stores[name] = &store{engine: engine, key: []byte(random(32)), now: fake.now, records: map[string]*record{}}
		fake.described.Engines = append(fake.described.Engines, engine.described(name))
	}
	slices.SortFunc(fake.described.Engines, func(a, b *pb.Engine) int { return strings.Compare(a.GetName(), b.GetName()) })
	settled := options.Client
	if settled == nil {
		settled = &sessiond.Options{Logger: slog.New(slog.DiscardHandler)}
	}
	client, err := sessiond.NewClient((*transport)(fake), settled)
	if err != nil {
		panic(err)
	}
	fake.Client = client
	return fake
}

func (e Engine) settled() Engine {
	if e.CookieName == "" {
		e.CookieName = "session"
	}
	if e.Duration == 0 {
		e.Duration = 30 * time.Minute
	}
	if e.MaxDataBytes == 0 {
		e.MaxDataBytes = 64 << 10
	}
	if e.RollGrace == 0 {
		e.RollGrace = time.Minute
	}
	return e
}

func (e Engine) described(name string) *pb.Engine {
	described := &pb.Engine{
		Name: name, CookieName: e.CookieName, CookieFormat: pb.CookieFormat_COOKIE_FORMAT_PLAIN, Persistent: !e.SessionCookie,
		Duration: durationpb.New(e.Duration), TouchGranularity: durationpb.New(e.TouchGranularity), AutomaticTouch: !e.ManualTouch,
		MaxDataBytes: uint32(e.MaxDataBytes),
	}
	if e.TouchGranularity == 0 {
		described.TouchGranularity = durationpb.New(min(e.Duration/64, time.Minute))
	}
	if e.ExpressFormat {
		described.CookieFormat = pb.CookieFormat_COOKIE_FORMAT_EXPRESS
	}
	if e.AbsoluteDuration > 0 {
		described.AbsoluteDuration = durationpb.New(e.AbsoluteDuration)
	}
	return described
}

// now is the time of the fake. The caller holds mu.
func (f *Fake) now() time.Time { return f.clock().Add(f.ahead) }

// Now is the time of the fake.
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now()
}

// Advance moves the clock forward: sessions expire, grace periods end.
func (f *Fake) Advance(duration time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ahead += duration
}

// Fail lets operations fail with a reason of the daemon from now on, such as sessiond.ReasonStoreUnavailable. Nothing is
// changed by them. An empty reason ends it. operation is "Resolve", "Touch", "Write", "Destroy", "ListSessions", or empty
// for all; times is how many fail, 0 for all until the next Fail. It panics if there is no such reason.
func (f *Fake) Fail(reason sessiond.Reason, operation string, times int) {
	if reason != "" {
		statusOf(reason, "") // panics if there is none
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failure = nil
	if reason != "" {
		f.failure = &failure{reason: reason, operation: operation, times: times}
	}
}

// Cookie makes a session of the default engine, and returns the Cookie header that a browser sends for it. data is what
// sessiond.WriteOptions.Set takes. It panics if they are not allowed.
func (f *Fake) Cookie(principal string, data any) string {
	return f.EngineCookie("default", principal, data)
}

// EngineCookie is Cookie for another engine.
func (f *Fake) EngineCookie(engine, principal string, data any) string {
	set, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.store(engine)
	if data == nil {
		set = nil
	}
	_, token, err := s.create(&pb.WriteRequest{Set: string(set), Principal: &principal})
	if err != nil {
		panic(err)
	}
	return s.engine.CookieName + "=" + s.engine.prefix() + token
}

// Sessions are the live sessions of an engine; empty: "default".
func (f *Fake) Sessions(engine string) []Session {
	f.mu.Lock()
	defer f.mu.Unlock()
	var sessions []Session
	for _, r := range f.store(engine).live() {
		sessions = append(sessions, Session{ID: r.id, Principal: r.principal, Version: r.version, Label: r.label, Data: maps.Clone(r.data)})
	}
	return sessions
}

func (f *Fake) store(name string) *store {
	if name == "" {
		name = "default"
	}
	s, ok := f.stores[name]
	if !ok {
		panic(fmt.Sprintf("sessiondtest: no engine %q", name))
	}
	return s
}

// transport is the fake as the client sees it.
type transport Fake

func (t *transport) fails(operation, engine string) error {
	if t.closed {
		return refusal(sessiond.ReasonClosed, "")
	}
	if planned := t.failure; planned != nil && (planned.operation == "" || planned.operation == operation) {
		if planned.times == 1 {
			t.failure = nil
		}
		planned.times = max(0, planned.times-1)
		return refusal(planned.reason, "")
	}
	if engine == "" {
		engine = "default"
	}
	if t.stores[engine] == nil {
		return refusal(sessiond.ReasonUnknownEngine, "engine")
	}
	return nil
}

func (t *transport) Do(ctx context.Context, request *pb.PipelineRequest, _ bool) (link.Answer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	response := &pb.PipelineResponse{}
	if err := t.run(ctx, request, response); err != nil {
		response.Result = &pb.PipelineResponse_Error{Error: status.Convert(err).Proto()}
	}
	return link.Answer{Response: response}, nil
}

func (t *transport) run(ctx context.Context, request *pb.PipelineRequest, response *pb.PipelineResponse) error {
	if ctx.Err() != nil {
		return refusal(sessiond.ReasonTimeout, "")
	}
	switch operation := request.GetOperation().(type) {
	case *pb.PipelineRequest_Resolve:
		if err := t.fails("Resolve", operation.Resolve.GetEngine()); err != nil {
			return err
		}
		answer, err := (*Fake)(t).store(operation.Resolve.GetEngine()).resolve(operation.Resolve)
		response.Result = &pb.PipelineResponse_Resolve{Resolve: answer}
		return err
	case *pb.PipelineRequest_Touch:
		if err := t.fails("Touch", operation.Touch.GetEngine()); err != nil {
			return err
		}
		answer, err := (*Fake)(t).store(operation.Touch.GetEngine()).touch(operation.Touch)
		response.Result = &pb.PipelineResponse_Touch{Touch: answer}
		return err
	case *pb.PipelineRequest_Write:
		if err := t.fails("Write", operation.Write.GetEngine()); err != nil {
			return err
		}
		answer, err := (*Fake)(t).store(operation.Write.GetEngine()).write(operation.Write)
		response.Result = &pb.PipelineResponse_Write{Write: answer}
		return err
	case *pb.PipelineRequest_Destroy:
		if err := t.fails("Destroy", operation.Destroy.GetEngine()); err != nil {
			return err
		}
		answer, err := (*Fake)(t).store(operation.Destroy.GetEngine()).destroy(operation.Destroy)
		response.Result = &pb.PipelineResponse_Destroy{Destroy: answer}
		return err
	}
	return refusal(sessiond.ReasonInvalidArgument, "operation")
}

func (t *transport) List(_ context.Context, request *pb.SessionServiceListSessionsRequest) (*pb.SessionServiceListSessionsResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.fails("ListSessions", request.GetEngine()); err != nil {
		return nil, sessiond.StatusError(err)
	}
	return (*Fake)(t).store(request.GetEngine()).list(request), nil
}

func (t *transport) Describe(context.Context) (*pb.DescribeResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, sessiond.StatusError(refusal(sessiond.ReasonClosed, ""))
	}
	return t.described, nil
}

func (t *transport) Described() *pb.DescribeResponse { return t.described }

func (t *transport) Close(context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return nil
}

// What the daemon answers: code, whether it may have been applied, RetryInfo, message.
var reasons = map[sessiond.Reason]struct {
	code    codes.Code
	applied sessiond.Applied
	retry   time.Duration
	message string
}{
	sessiond.ReasonInvalidArgument:  {codes.InvalidArgument, sessiond.NotApplied, 0, "an argument is not allowed"},
	sessiond.ReasonInvalidData:      {codes.InvalidArgument, sessiond.NotApplied, 0, "the data are not allowed"},
	sessiond.ReasonDataTooLarge:     {codes.InvalidArgument, sessiond.NotApplied, 0, "the data are larger than max_data_bytes"},
	sessiond.ReasonUnknownEngine:    {codes.InvalidArgument, sessiond.NotApplied, 0, "no engine of that name is configured"},
	sessiond.ReasonSessionGone:      {codes.NotFound, sessiond.NotApplied, 0, "the session is not live"},
	sessiond.ReasonVersionMismatch:  {codes.Aborted, sessiond.NotApplied, 0, "another write came first"},
	sessiond.ReasonTooManySessions:  {codes.FailedPrecondition, sessiond.NotApplied, 0, "the principal has as many sessions as allowed"},
	sessiond.ReasonOverloaded:       {codes.ResourceExhausted, sessiond.NotApplied, time.Second, "too many operations wait"},
	sessiond.ReasonStoreFull:        {codes.ResourceExhausted, sessiond.NotApplied, 0, "the store is full"},
	sessiond.ReasonStoreUnavailable: {codes.Unavailable, sessiond.AppliedUnknown, time.Second, "the store has failed"},
	sessiond.ReasonShuttingDown:     {codes.Unavailable, sessiond.NotApplied, time.Second, "the daemon stops"},
	sessiond.ReasonRecordUnreadable: {codes.DataLoss, sessiond.NotApplied, 0, "the record is damaged"},
	sessiond.ReasonTokenRequired:    {codes.Unauthenticated, sessiond.NotApplied, 0, "the call has no bearer token"},
	sessiond.ReasonTokenUnknown:     {codes.Unauthenticated, sessiond.NotApplied, 0, "the bearer token is unknown"},
	sessiond.ReasonRoleRequired:     {codes.PermissionDenied, sessiond.NotApplied, 0, "the caller does not have the role"},
	sessiond.ReasonTimeout:          {codes.DeadlineExceeded, sessiond.AppliedUnknown, time.Second, "the time is over"},
	sessiond.ReasonConnectionFailed: {codes.Unavailable, sessiond.AppliedUnknown, time.Second, "the daemon cannot be reached"},
	sessiond.ReasonClosed:           {codes.Canceled, sessiond.NotApplied, 0, "the client is closed"},
}

func statusOf(reason sessiond.Reason, field string) *status.Status {
	known, ok := reasons[reason]
	if !ok {
		panic(fmt.Sprintf("sessiondtest: no such reason: %q", string(reason)))
	}
	st := status.New(known.code, known.message)
	st, err := st.WithDetails(&errdetails.ErrorInfo{Domain: "sessiond", Reason: string(reason), Metadata: map[string]string{"applied": string(known.applied)}})
	if err == nil && known.retry > 0 {
		st, err = st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(known.retry)})
	}
	if err == nil && field != "" {
		st, err = st.WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field}}})
	}
	if err != nil {
		panic(err)
	}
	return st
}

func refusal(reason sessiond.Reason, field string) error { return statusOf(reason, field).Err() }
