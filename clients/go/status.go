package sessiond

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What an error says about the operation if the daemon does not: these refuse it before anything is done.
var refusing = map[codes.Code]bool{
	codes.InvalidArgument: true, codes.NotFound: true, codes.Aborted: true,
	codes.FailedPrecondition: true, codes.Unauthenticated: true, codes.Unimplemented: true,
}

// Without a reason, the code says what can be said.
var byCode = map[codes.Code]Reason{
	codes.InvalidArgument:   ReasonInvalidArgument,
	codes.DeadlineExceeded:  ReasonTimeout,
	codes.ResourceExhausted: ReasonOverloaded,
	codes.Unavailable:       ReasonConnectionFailed,
	codes.Canceled:          ReasonConnectionFailed,
	codes.Unauthenticated:   ReasonTokenUnknown,
}

// statusError makes an error of a status. uncertain: the operation was sent before, with an unknown outcome.
func statusError(proto *spb.Status, uncertain bool) *Error {
	st := status.FromProto(proto)
	var (
		reason  Reason
		applied Applied
		pause   time.Duration
		field   string
	)
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == "sessiond" {
				reason, applied = Reason(detail.GetReason()), Applied(detail.GetMetadata()["applied"])
			}
		case *errdetails.RetryInfo:
			pause = detail.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			if violations := detail.GetFieldViolations(); len(violations) > 0 {
				field = violations[0].GetField()
			}
		}
	}
	if reason == "" {
		reason = byCode[st.Code()]
	}
	if reason == "" {
		reason = ReasonProtocolError
	}
	switch applied {
	case NotApplied, AppliedUnknown:
	default:
		applied = AppliedUnknown
		if refusing[st.Code()] {
			applied = NotApplied
		}
	}
	message := st.Message()
	if message == "" {
		message = fmt.Sprintf("the daemon answered %s", st.Code())
	}
	err := newError(reason, st.Code(), applied, message, nil)
	err.RetryAfter, err.Field = pause, field
	// After a repetition these can be the effect of the first attempt.
	if uncertain && (reason == ReasonVersionMismatch || reason == ReasonSessionGone) {
		err.Applied = AppliedUnknown
		err.Retryable = false
	}
	return err
}

// rpcError is the error of a call or of the stream.
func rpcError(err error) *Error {
	return statusError(status.Convert(err).Proto(), false)
}

// StatusError makes an [*Error] of an error of google.golang.org/grpc. It is for package sessiondtest, and for programs
// that call the daemon's administration themselves.
func StatusError(err error) error { return rpcError(err) }
