// Package link is the seam between the client and what carries its operations: a connection to the daemon, or the
// fake of package sessiondtest. Because requests and answers are the messages of the API on both sides, the fake
// shares everything else with the real client.
package link

import (
	"context"

	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

// Transport carries operations. Errors are of package sessiond; an operation that the daemon has refused is not an
// error here, but an answer with a status.
type Transport interface {
	// Do runs one operation. safe: it may be repeated after an unknown outcome.
	Do(ctx context.Context, request *pb.PipelineRequest, safe bool) (Answer, error)
	// List asks for one page of ListSessions.
	List(ctx context.Context, request *pb.SessionServiceListSessionsRequest) (*pb.SessionServiceListSessionsResponse, error)
	// Describe tells what the daemon is.
	Describe(ctx context.Context) (*pb.DescribeResponse, error)
	// Described is the last answer of Describe, or nil.
	Described() *pb.DescribeResponse
	// Close takes nothing new, waits for what is under way until ctx is done, and ends the connection.
	Close(ctx context.Context) error
}

// Answer is the answer to an operation.
type Answer struct {
	Response *pb.PipelineResponse
	// Uncertain says that the operation was sent before, with an unknown outcome.
	Uncertain bool
}
