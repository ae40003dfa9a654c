package sessiond

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sessiond/sessiond/clients/go/internal/link"
	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

const (
	defaultTimeout     = 5 * time.Second
	defaultMaxInFlight = 10_000
	maxDuration        = 400 * 24 * time.Hour
	maxUnset           = 1000
	maxSessionIDs      = 1000
	maxTextBytes       = 256
)

// Client is a connection to the daemon. It opens its connection at the first operation, and opens it again by itself.
// While the daemon restarts, operations wait until their deadline. Make one client for each process; it is safe for
// parallel use.
//
// Every method returns an [*Error], and never later than the client's timeout or the context's deadline.
//
// Operations on one session that run in parallel take effect in some order. If you need an order, wait for the answer.
type Client struct {
	address   string
	options   Options
	transport link.Transport
	describe  sync.Mutex
	from      *pb.DescribeResponse
	known     *Description
}

// New makes a client for the daemon at address: "host:port" or "unix:/path". It does not connect yet. It returns an
// error if the address or an option is not allowed.
func New(address string, options *Options) (*Client, error) {
	settled, err := settle(options)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(address, settled)
	if err != nil {
		return nil, err
	}
	return &Client{address: address, options: settled, transport: transport}, nil
}

// NewClient makes a client over another transport. It is for package sessiondtest.
func NewClient(transport link.Transport, options *Options) (*Client, error) {
	settled, err := settle(options)
	if err != nil {
		return nil, err
	}
	return &Client{address: "fake", options: settled, transport: transport}, nil
}

func settle(options *Options) (Options, error) {
	var settled Options
	if options != nil {
		settled = *options
	}
	switch {
	case settled.Timeout < 0:
		return settled, invalidArgument("Timeout", "expected more than zero")
	case settled.MaxInFlight < 0:
		return settled, invalidArgument("MaxInFlight", "expected more than zero")
	case settled.Token != "" && settled.TokenFile != "":
		return settled, invalidArgument("TokenFile", "Token is set as well")
	}
	if settled.Timeout == 0 {
		settled.Timeout = defaultTimeout
	}
	if settled.MaxInFlight == 0 {
		settled.MaxInFlight = defaultMaxInFlight
	}
	return settled, nil
}

// Address is where the daemon is.
func (c *Client) Address() string { return c.address }

func (c *Client) logger() *slog.Logger {
	if c.options.Logger != nil {
		return c.options.Logger
	}
	return slog.Default()
}

func (c *Client) engine(name string) string {
	if name != "" {
		return name
	}
	return c.options.Engine
}

// Resolve finds the session of a request.
func (c *Client) Resolve(ctx context.Context, credential Credential, options ResolveOptions) (*ResolveResult, error) {
	started := time.Now()
	engine := c.engine(options.Engine)
	result, err := func() (*ResolveResult, error) {
		if err := validText("engine", engine, 0); err != nil {
			return nil, err
		}
		asked := lookup{kind: isResolve, engine: engine, credential: credential, peek: options.Peek, create: options.Create}
		return c.lookUp(ctx, "Resolve", asked, !options.Create, started)
	}()
	if err != nil {
		return nil, c.done(ctx, "Resolve", engine, started, 0, err)
	}
	c.done(ctx, "Resolve", engine, started, result.State, nil)
	return result, nil
}

// Touch moves the session's deadline.
func (c *Client) Touch(ctx context.Context, credential Credential, options TouchOptions) (*TouchResult, error) {
	started := time.Now()
	engine := c.engine(options.Engine)
	result, err := func() (*TouchResult, error) {
		if err := errors.Join(validText("engine", engine, 0), validDuration(options.Duration)); err != nil {
			return nil, first(err)
		}
		asked := lookup{kind: isTouch, engine: engine, credential: credential, duration: options.Duration}
		found, err := c.lookUp(ctx, "Touch", asked, true, started)
		if err != nil {
			return nil, err
		}
		return &TouchResult{State: found.State, Session: found.Session, SetCookie: found.SetCookie}, nil
	}()
	if err != nil {
		return nil, c.done(ctx, "Touch", engine, started, 0, err)
	}
	c.done(ctx, "Touch", engine, started, result.State, nil)
	return result, nil
}

// Write changes the session of the credential. The zero credential creates one; any other never does: if its session
// is not live, the error is ErrSessionGone.
func (c *Client) Write(ctx context.Context, credential Credential, options WriteOptions) (*WriteResult, error) {
	started := time.Now()
	engine := c.engine(options.Engine)
	result, err := func() (*WriteResult, error) {
		request, err := writeRequest(engine, credential, options)
		if err != nil {
			return nil, err
		}
		response, err := c.do(ctx, &pb.PipelineRequest{Operation: &pb.PipelineRequest_Write{Write: request}}, options.IfVersion > 0)
		if err != nil {
			return nil, err
		}
		answer, ok := response.GetResult().(*pb.PipelineResponse_Write)
		if !ok || answer.Write.GetSession() == nil {
			return nil, c.wrongAnswer("Write")
		}
		return &WriteResult{Session: sessionOf(answer.Write.GetSession()), SetCookie: answer.Write.GetSetCookie(), Token: answer.Write.GetToken()}, nil
	}()
	if err != nil {
		return nil, c.done(ctx, "Write", engine, started, 0, err)
	}
	c.done(ctx, "Write", engine, started, StateActive, nil)
	return result, nil
}

// Destroy ends sessions.
func (c *Client) Destroy(ctx context.Context, credential Credential, options DestroyOptions) (*DestroyResult, error) {
	started := time.Now()
	engine := c.engine(options.Engine)
	result, err := func() (*DestroyResult, error) {
		request, err := destroyRequest(engine, credential, options)
		if err != nil {
			return nil, err
		}
		response, err := c.do(ctx, &pb.PipelineRequest{Operation: &pb.PipelineRequest_Destroy{Destroy: request}}, true)
		if err != nil {
			return nil, err
		}
		answer, ok := response.GetResult().(*pb.PipelineResponse_Destroy)
		if !ok {
			return nil, c.wrongAnswer("Destroy")
		}
		return &DestroyResult{Destroyed: int(answer.Destroy.GetDestroyed()), SetCookie: answer.Destroy.GetSetCookie()}, nil
	}()
	if err != nil {
		return nil, c.done(ctx, "Destroy", engine, started, 0, err)
	}
	c.done(ctx, "Destroy", engine, started, StateNone, nil)
	return result, nil
}

// ListSessions lists the live sessions of the credential's principal: all pages.
func (c *Client) ListSessions(ctx context.Context, credential Credential, options ListOptions) (*ListResult, error) {
	started := time.Now()
	engine := c.engine(options.Engine)
	result, err := func() (*ListResult, error) {
		if err := validText("engine", engine, 0); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
		defer cancel()
		result := &ListResult{}
		token := ""
		for {
			page, err := c.transport.List(ctx, &pb.SessionServiceListSessionsRequest{
				Engine: engine, Credential: wireCredential(credential), PageSize: 1000, PageToken: token,
			})
			if err != nil {
				return nil, err
			}
			if result.State, err = stateOf(page.GetState(), page.GetCurrentSessionId() != ""); err != nil {
				return nil, err
			}
			if result.State != StateActive {
				// It ended between two pages.
				return &ListResult{State: result.State}, nil
			}
			result.CurrentSessionID = page.GetCurrentSessionId()
			for _, session := range page.GetSessions() {
				result.Sessions = append(result.Sessions, sessionOf(session))
			}
			if token = page.GetNextPageToken(); token == "" {
				return result, nil
			}
		}
	}()
	if err != nil {
		return nil, c.done(ctx, "ListSessions", engine, started, 0, err)
	}
	c.done(ctx, "ListSessions", engine, started, result.State, nil)
	return result, nil
}

// Describe tells what the daemon is. It asks once for each connection.
func (c *Client) Describe(ctx context.Context) (*Description, error) {
	described, err := c.transport.Describe(ctx)
	if err != nil {
		return nil, err
	}
	return c.description(described), nil
}

// described is what the daemon has said last, also while it is away.
func (c *Client) described(ctx context.Context) (*Description, error) {
	if known := c.transport.Described(); known != nil {
		return c.description(known), nil
	}
	return c.Describe(ctx)
}

func (c *Client) description(described *pb.DescribeResponse) *Description {
	c.describe.Lock()
	defer c.describe.Unlock()
	if c.from != described {
		c.from, c.known = described, descriptionOf(described)
	}
	return c.known
}

// Close takes nothing new, waits for what is under way until ctx is done (at most the client's timeout), and closes the
// connection. What takes longer fails with reason CLOSED.
func (c *Client) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	return c.transport.Close(ctx)
}

func (c *Client) do(ctx context.Context, request *pb.PipelineRequest, safe bool) (*pb.PipelineResponse, error) {
	answer, err := c.transport.Do(ctx, request, safe)
	if err != nil {
		return nil, err
	}
	if failed, ok := answer.Response.GetResult().(*pb.PipelineResponse_Error); ok {
		return nil, statusError(failed.Error, answer.Uncertain)
	}
	return answer.Response, nil
}

// lookUp runs a Resolve or a Touch. A connection to the daemon has a short way for them; the fake has none.
func (c *Client) lookUp(ctx context.Context, name string, asked lookup, safe bool, now time.Time) (*ResolveResult, error) {
	var answer *found
	if t, ok := c.transport.(*transport); ok {
		outcome := t.wait(ctx, &operation{lookup: asked, safe: safe}, now)
		if outcome.err != nil {
			return nil, outcome.err
		}
		if failed := outcome.response.GetError(); failed != nil {
			return nil, statusError(failed, outcome.uncertain)
		}
		answer = outcome.found
	} else {
		response, err := c.do(ctx, asked.message(), safe)
		if err != nil {
			return nil, err
		}
		answer = foundIn(response)
	}
	if answer == nil || answer.kind != asked.kind {
		return nil, c.wrongAnswer(name)
	}
	state, err := stateOf(answer.state, answer.live)
	if err != nil {
		return nil, err
	}
	answer.result.State = state
	if answer.live {
		answer.result.Session = &answer.session
	}
	return &answer.result, nil
}

func (c *Client) wrongAnswer(operation string) *Error {
	return newError(ReasonProtocolError, codes.Internal, AppliedUnknown,
		fmt.Sprintf("the server at %s does not speak the protocol of sessiond: a %s was answered with something else", c.address, operation), nil)
}

// done tells of an operation, and returns its error.
func (c *Client) done(ctx context.Context, name, engine string, started time.Time, state State, err error) error {
	duration := time.Since(started)
	if c.options.Observe != nil {
		c.options.Observe(Operation{Context: ctx, Name: name, Engine: engine, Start: started, Duration: duration, State: state, Err: err})
	}
	switch {
	// An outage of the connection is told once, by the transport.
	case errors.Is(err, ErrUnavailable) && !errors.Is(err, ReasonCanceled) && !errors.Is(err, ReasonConnectionFailed):
		c.logger().WarnContext(ctx, "session operation failed", "operation", name, "duration", duration, "error", err)
	case duration > c.options.Timeout/2:
		c.logger().WarnContext(ctx, "slow session operation", "operation", name, "duration", duration)
	}
	return err
}
