package sessiond

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
)

// Reason says why an operation failed. It is an error, so that errors.Is(err, sessiond.ReasonStoreFull) works.
type Reason string

// The reasons of the daemon.
const (
	// ReasonInvalidArgument: an argument has a value that is not allowed; Error.Field names it.
	ReasonInvalidArgument Reason = "INVALID_ARGUMENT"
	// ReasonInvalidData: the data are not what JSON can hold, or not a JSON object.
	ReasonInvalidData Reason = "INVALID_DATA"
	// ReasonDataTooLarge: the data would be larger than max_data_bytes of the engine.
	ReasonDataTooLarge Reason = "DATA_TOO_LARGE"
	// ReasonUnknownEngine: the daemon has no engine of this name.
	ReasonUnknownEngine Reason = "UNKNOWN_ENGINE"
	// ReasonMalformedMessage: the daemon could not read a message.
	ReasonMalformedMessage Reason = "MALFORMED_MESSAGE"
	// ReasonMessageTooLarge: the message would be larger than limits.max_message_bytes of the daemon.
	ReasonMessageTooLarge Reason = "MESSAGE_TOO_LARGE"
	// ReasonCompressionUnsupported: the message was compressed.
	ReasonCompressionUnsupported Reason = "COMPRESSION_UNSUPPORTED"
	// ReasonSessionGone: the session of the credential is not live.
	ReasonSessionGone Reason = "SESSION_GONE"
	// ReasonVersionMismatch: the session has another version than WriteOptions.IfVersion.
	ReasonVersionMismatch Reason = "VERSION_MISMATCH"
	// ReasonTooManySessions: the principal has as many sessions as max_sessions_per_principal allows.
	ReasonTooManySessions Reason = "TOO_MANY_SESSIONS"
	// ReasonOverloaded: the daemon has too much to do.
	ReasonOverloaded Reason = "OVERLOADED"
	// ReasonStoreFull: the store has no room for more.
	ReasonStoreFull Reason = "STORE_FULL"
	// ReasonStoreUnavailable: the store cannot be reached, or has failed.
	ReasonStoreUnavailable Reason = "STORE_UNAVAILABLE"
	// ReasonShuttingDown: the daemon stops, or the connection is as old as it may be.
	ReasonShuttingDown Reason = "SHUTTING_DOWN"
	// ReasonRecordUnreadable: the stored record is damaged.
	ReasonRecordUnreadable Reason = "RECORD_UNREADABLE"
	// ReasonTokenRequired: the daemon asks for a bearer token.
	ReasonTokenRequired Reason = "TOKEN_REQUIRED"
	// ReasonTokenUnknown: the daemon does not know the bearer token, or the token file cannot be read.
	ReasonTokenUnknown Reason = "TOKEN_UNKNOWN"
	// ReasonRoleRequired: the bearer token, or the certificate, has another role than the address asks for.
	ReasonRoleRequired Reason = "ROLE_REQUIRED"
	// ReasonTimeout: the time of the operation was over.
	ReasonTimeout Reason = "TIMEOUT"
)

// The reasons of this package.
const (
	// ReasonConnectionFailed: the daemon cannot be reached, or the connection was cut.
	ReasonConnectionFailed Reason = "CONNECTION_FAILED"
	// ReasonCanceled: the caller's context was canceled.
	ReasonCanceled Reason = "CANCELED"
	// ReasonInFlightLimit: more operations at a time than Options.MaxInFlight.
	ReasonInFlightLimit Reason = "IN_FLIGHT_LIMIT"
	// ReasonClosed: the client was closed.
	ReasonClosed Reason = "CLOSED"
	// ReasonProtocolError: the other side does not speak the protocol of sessiond.
	ReasonProtocolError Reason = "PROTOCOL_ERROR"
	// ReasonDaemonTooOld: the daemon is older than this package.
	ReasonDaemonTooOld Reason = "DAEMON_TOO_OLD"
	// ReasonSuperseded: a change with an id from before a login.
	ReasonSuperseded Reason = "SUPERSEDED"
	// ReasonHeadSent: the response head was sent already, and the browser would not get its cookie.
	ReasonHeadSent Reason = "HEAD_SENT"
)

// Error is the reason itself.
func (r Reason) Error() string { return string(r) }

// Kinds of errors, for errors.Is. An [Error] is of the kind that its reason belongs to.
var (
	// ErrUnavailable: the daemon or its store is away, has too much to do, or the time is over. It never means that
	// there is no session. Answer 503 with Retry-After.
	ErrUnavailable = errors.New("sessiond: unavailable")
	// ErrOverloaded: too much at once, in this client or in the daemon. Such an error is ErrUnavailable, too.
	ErrOverloaded = errors.New("sessiond: overloaded")
	// ErrVersionMismatch: another write came first.
	ErrVersionMismatch = errors.New("sessiond: version mismatch")
	// ErrSessionGone: the session has ended. Nothing brings it back.
	ErrSessionGone = errors.New("sessiond: session gone")
	// ErrSuperseded: a change with an id from before a login. Answer 409: sent again, the request has the new cookie.
	ErrSuperseded = errors.New("sessiond: superseded")
	// ErrTooManySessions: the user has as many sessions as the daemon allows.
	ErrTooManySessions = errors.New("sessiond: too many sessions")
	// ErrInvalidArgument: an argument has a value that is not allowed, or the data are not JSON.
	ErrInvalidArgument = errors.New("sessiond: invalid argument")
	// ErrDataTooLarge: the data would be larger than the engine's max_data_bytes. Such an error is
	// ErrInvalidArgument, too.
	ErrDataTooLarge = errors.New("sessiond: data too large")
	// ErrRecordUnreadable: the stored record is damaged. Destroy ends it all the same.
	ErrRecordUnreadable = errors.New("sessiond: record unreadable")
	// ErrAuthentication: the daemon asks for a bearer token, does not know the one that was sent, or asks for another
	// role.
	ErrAuthentication = errors.New("sessiond: authentication")
)

// Applied says whether an operation that failed may have changed something all the same.
type Applied string

const (
	// NotApplied: nothing was changed. To send the operation again does no harm.
	NotApplied Applied = "no"
	// AppliedUnknown: it may have been changed.
	AppliedUnknown Applied = "unknown"
)

// Error is the type of every error of this package. No message has a token, a cookie or data of a session in it.
type Error struct {
	// Reason says why. Act upon it, or upon the kind, not upon the text.
	Reason Reason
	// Code is the gRPC code.
	Code codes.Code
	// Applied says whether something may have changed all the same.
	Applied Applied
	// Retryable says whether the same call can succeed a moment later.
	Retryable bool
	// RetryAfter says after how long to try again. 0: not known.
	RetryAfter time.Duration
	// Field names the argument that is at fault, if there is one.
	Field string

	message string
	kind    error
	cause   error
}

// Error is a text for the log. It is not for users, and it may change.
func (e *Error) Error() string { return "sessiond: " + e.message }

// Unwrap returns the error behind this one, such as context.DeadlineExceeded, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is the reason of the error, or the kind that its reason belongs to.
func (e *Error) Is(target error) bool {
	switch target {
	case e.kind, error(e.Reason):
		return true
	case ErrUnavailable:
		return e.kind == ErrOverloaded
	case ErrInvalidArgument:
		return e.kind == ErrDataTooLarge
	}
	return false
}

// HTTPStatus is the status to answer with if err ends a request: 503 for what is unavailable, 409 for a change with an
// id from before a login or of a session that ended, 413, 403, otherwise 500.
func HTTPStatus(err error) int {
	switch {
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrVersionMismatch):
		return http.StatusServiceUnavailable
	case errors.Is(err, ErrSuperseded), errors.Is(err, ErrSessionGone):
		return http.StatusConflict
	case errors.Is(err, ErrDataTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrTooManySessions):
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}

// retryAfter is the value of Retry-After, in whole seconds.
func retryAfter(err error) string {
	var failure *Error
	seconds := 1.0
	if errors.As(err, &failure) {
		seconds = math.Max(1, math.Ceil(failure.RetryAfter.Seconds()))
	}
	return strconv.Itoa(int(seconds))
}

var kinds = map[Reason]error{
	ReasonInvalidArgument:  ErrInvalidArgument,
	ReasonInvalidData:      ErrInvalidArgument,
	ReasonDataTooLarge:     ErrDataTooLarge,
	ReasonUnknownEngine:    ErrInvalidArgument,
	ReasonMessageTooLarge:  ErrDataTooLarge,
	ReasonSessionGone:      ErrSessionGone,
	ReasonVersionMismatch:  ErrVersionMismatch,
	ReasonTooManySessions:  ErrTooManySessions,
	ReasonOverloaded:       ErrOverloaded,
	ReasonInFlightLimit:    ErrOverloaded,
	ReasonStoreFull:        ErrUnavailable,
	ReasonStoreUnavailable: ErrUnavailable,
	ReasonShuttingDown:     ErrUnavailable,
	ReasonRecordUnreadable: ErrRecordUnreadable,
	ReasonTokenRequired:    ErrAuthentication,
	ReasonTokenUnknown:     ErrAuthentication,
	ReasonRoleRequired:     ErrAuthentication,
	ReasonTimeout:          ErrUnavailable,
	ReasonConnectionFailed: ErrUnavailable,
	ReasonCanceled:         ErrUnavailable,
	ReasonClosed:           ErrUnavailable,
	ReasonSuperseded:       ErrSuperseded,
}

var retryable = map[Reason]bool{
	ReasonOverloaded: true, ReasonStoreFull: true, ReasonStoreUnavailable: true, ReasonShuttingDown: true,
	ReasonVersionMismatch: true, ReasonTimeout: true, ReasonConnectionFailed: true, ReasonInFlightLimit: true,
}

func newError(reason Reason, code codes.Code, applied Applied, message string, cause error) *Error {
	return &Error{
		Reason: reason, Code: code, Applied: applied, Retryable: retryable[reason],
		message: message, kind: kinds[reason], cause: cause,
	}
}

func invalidArgument(field, message string) *Error {
	err := newError(ReasonInvalidArgument, codes.InvalidArgument, NotApplied, field+": "+message, nil)
	err.Field = field
	return err
}

func invalidData(message string, cause error) *Error {
	err := newError(ReasonInvalidData, codes.InvalidArgument, NotApplied, message, cause)
	err.Field = "set"
	return err
}

func supersededError() *Error {
	return newError(ReasonSuperseded, codes.Aborted, NotApplied, "the session id was replaced by a login; send the request again", nil)
}

func goneError() *Error {
	return newError(ReasonSessionGone, codes.NotFound, NotApplied, "the session ended during this request", nil)
}

func closedError(applied Applied) *Error {
	return newError(ReasonClosed, codes.Canceled, applied, "the client is closed", nil)
}

// contextError is what becomes of an operation whose context is done.
func contextError(cause error, applied Applied) *Error {
	if errors.Is(cause, context.Canceled) {
		return newError(ReasonCanceled, codes.Canceled, applied, "the caller's context was canceled", cause)
	}
	err := newError(ReasonTimeout, codes.DeadlineExceeded, applied, "no answer within the time of the caller's context", cause)
	err.RetryAfter = time.Second
	return err
}
