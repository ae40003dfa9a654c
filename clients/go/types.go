package sessiond

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Options of [New]. The zero value is good for a daemon on the same machine.
type Options struct {
	// Token is the bearer token, if the daemon asks for one.
	Token string
	// TokenFile is a file with the bearer token on its first line. It is read at each connection, and again when the
	// token is refused.
	TokenFile string
	// TLS turns TLS on. A client certificate (mTLS) goes into Certificates.
	TLS *tls.Config
	// Timeout is how long an operation may take, with everything that is repeated. Default: 5 s. A context with an
	// earlier deadline counts instead.
	Timeout time.Duration
	// MaxInFlight bounds the operations under way. One more fails with ErrOverloaded at once. Default: 10,000.
	MaxInFlight int
	// Engine is the engine for operations that name none. Default: the daemon's engine "default".
	Engine string
	// Logger gets connections (debug), outages and dropped changes (warn), and slow operations (warn). Default:
	// slog.Default(). For none: slog.New(slog.DiscardHandler).
	Logger *slog.Logger
	// Observe is called after each operation, for metrics and traces. It must not block.
	Observe func(Operation)
}

// Operation is what Options.Observe is told.
type Operation struct {
	// Context is that of the caller: a trace finds its parent in it.
	Context context.Context
	// Name is "Resolve", "Touch", "Write", "Destroy" or "ListSessions".
	Name string
	// Engine is the name of the engine; empty: "default".
	Engine string
	// Start is when the caller asked.
	Start time.Time
	// Duration is how long it took, with everything that was repeated.
	Duration time.Duration
	// State is what became of the credential, if the answer says so.
	State State
	// Err is an [*Error], or nil.
	Err error
}

// Credential is what a request presents to prove which session is its own. The zero value presents nothing.
type Credential struct {
	kind  byte
	value string
}

// CookieHeader is the credential of a Cookie header, unchanged. Any octets are accepted.
func CookieHeader(header string) Credential {
	if header == "" {
		return Credential{}
	}
	return Credential{kind: 'c', value: header}
}

// RequestCredential is the credential of a request: its Cookie header lines.
func RequestCredential(r *http.Request) Credential {
	return CookieHeader(strings.Join(r.Header["Cookie"], "; "))
}

// TokenCredential is the credential of a token of an answer, for clients that keep it elsewhere than in a cookie.
func TokenCredential(token string) Credential { return Credential{kind: 't', value: token} }

// IsZero reports whether the credential presents nothing.
func (c Credential) IsZero() bool { return c.kind == 0 }

// String returns the type of the credential only: what it holds is a secret.
func (c Credential) String() string {
	switch c.kind {
	case 'c':
		return "Credential(cookie header)"
	case 't':
		return "Credential(token)"
	}
	return "Credential(none)"
}

// GoString is the same as String.
func (c Credential) GoString() string { return c.String() }

// State is what became of a credential.
type State int

const (
	// StateNone: no session cookie in the credential.
	StateNone State = iota
	// StateActive: live; there is a session.
	StateActive
	// StateCreated: created by this call.
	StateCreated
	// StateInvalid: malformed, or signed by no known secret.
	StateInvalid
	// StateNotFound: authentic, but the session was destroyed, or has expired and was removed.
	StateNotFound
	// StateExpired: authentic, but the session's time is over.
	StateExpired
	// StateSuperseded: authentic, but the id was replaced since: serve it as nobody and change no cookie.
	StateSuperseded
)

// String is the name of the API, such as "NOT_FOUND".
func (s State) String() string {
	return [...]string{"NONE", "ACTIVE", "CREATED", "INVALID", "NOT_FOUND", "EXPIRED", "SUPERSEDED"}[s]
}

// Session is a session as it is stored.
type Session struct {
	// ID is the public id, 16 characters: stable for the session's life, not a credential, safe to log.
	ID string
	// Data is a JSON object, octet by octet as it is stored. Empty in the answers of Touch, Write and ListSessions.
	Data json.RawMessage
	// Version is 1 at creation, and one more with each write.
	Version uint64
	// Principal is whom the session belongs to. Empty: nobody.
	Principal string
	// CreateTime is when the session was created.
	CreateTime time.Time
	// ExpireTime is when the session ends, unless it is used before.
	ExpireTime time.Time
	// LastUseTime is when the session was last used, exact to the engine's touch_granularity.
	LastUseTime time.Time
	// Duration is the idle timeout in force.
	Duration time.Duration
	// Label is the text for the user's list of devices.
	Label string
}

// ResolveOptions are the options of [Client.Resolve].
type ResolveOptions struct {
	// Engine is the name of the engine. Default: that of the client.
	Engine string
	// Peek looks without moving the deadline.
	Peek bool
	// Create makes a session if the credential is not live.
	Create bool
}

// ResolveResult is the answer of [Client.Resolve].
type ResolveResult struct {
	// State is what became of the credential.
	State State
	// Session is nil unless the state is StateActive or StateCreated.
	Session *Session
	// SetCookie has the values of Set-Cookie lines to send.
	SetCookie []string
	// Token is the token, if it is new to the caller.
	Token string
}

// TouchOptions are the options of [Client.Touch].
type TouchOptions struct {
	// Engine is the name of the engine. Default: that of the client.
	Engine string
	// Duration is the session's own idle timeout from now on, at most 400 days. 0: as it was.
	Duration time.Duration
}

// TouchResult is the answer of [Client.Touch].
type TouchResult struct {
	// State is what became of the credential.
	State State
	// Session is nil unless the state is StateActive. It has no data.
	Session *Session
	// SetCookie has the values of Set-Cookie lines to send.
	SetCookie []string
}

// WriteOptions are what a [Client.Write] changes. Replace applies first, then Unset, then Set.
type WriteOptions struct {
	// Engine is the name of the engine. Default: that of the client.
	Engine string
	// Set has top-level keys to set; the other keys stay as they are. It is a map or a struct that encoding/json
	// makes an object of, or a json.RawMessage with the text of an object.
	Set any
	// Unset names top-level keys to remove, at most 1000.
	Unset []string
	// Replace drops all data first.
	Replace bool
	// IfVersion changes the session only at this version; otherwise ErrVersionMismatch. 0: at any. Not when creating.
	IfVersion uint64
	// Roll gives the browser a new id for the same session. Set it at every login.
	Roll bool
	// Principal is whom the session belongs to, at most 256 octets. Empty: nobody. nil: as it was.
	Principal *string
	// Duration is the session's own idle timeout, at most 400 days. 0: as it was.
	Duration time.Duration
	// Persistent says whether the cookie outlives the browser. nil: as it was, or as the engine says.
	Persistent *bool
	// Label is a text for the user's list of devices, at most 256 octets. Empty removes it. nil: as it was.
	Label *string
}

// WriteResult is the answer of [Client.Write].
type WriteResult struct {
	// Session is the session after the change, without data.
	Session *Session
	// SetCookie has the values of Set-Cookie lines to send.
	SetCookie []string
	// Token is the token, if it is new to the caller: created, rolled or signed again.
	Token string
}

// Scope is which sessions a Destroy ends.
type Scope int

const (
	// ScopeThis: the session of the credential.
	ScopeThis Scope = iota
	// ScopeOthers: all of the principal's sessions but this one.
	ScopeOthers
	// ScopeAll: all of the principal's sessions.
	ScopeAll
)

// DestroyOptions are the options of [Client.Destroy].
type DestroyOptions struct {
	// Engine is the name of the engine. Default: that of the client.
	Engine string
	// Scope is which sessions end.
	Scope Scope
	// SessionIDs are public ids of sessions of the same principal to end, at most 1000, instead of a scope. nil: the
	// scope counts. Empty, but not nil: an error, so that an empty list does not end the session itself.
	SessionIDs []string
}

// DestroyResult is the answer of [Client.Destroy].
type DestroyResult struct {
	// Destroyed is how many live sessions were ended.
	Destroyed int
	// SetCookie has the deletion cookie, if the credential held a session cookie and its session is meant.
	SetCookie []string
}

// ListOptions are the options of [Client.ListSessions].
type ListOptions struct {
	// Engine is the name of the engine. Default: that of the client.
	Engine string
}

// ListResult is the answer of [Client.ListSessions].
type ListResult struct {
	// State is what became of the credential.
	State State
	// Sessions are the live sessions of the credential's principal, ordered by id, without data.
	Sessions []*Session
	// CurrentSessionID is the public id of the credential's own session.
	CurrentSessionID string
}

// Description is what the daemon says of itself.
type Description struct {
	// Version is its version, such as "0.2.0".
	Version string
	// Limits are what it takes of a client.
	Limits Limits
	// Engines are its engines, ordered by name.
	Engines []Engine
}

// Limits are what the daemon takes of a client.
type Limits struct {
	// MaxMessageBytes is the length of a message, encoded.
	MaxMessageBytes int
	// PipelineInFlight is how many operations of one stream the daemon works on. More are held by flow control.
	PipelineInFlight int
	// MaxCookieHeaderBytes is the length of a Cookie header. A longer one is StateInvalid.
	MaxCookieHeaderBytes int
	// MaxPrincipalBytes is the length of a principal.
	MaxPrincipalBytes int
	// MaxLabelBytes is the length of a label.
	MaxLabelBytes int
	// MaxKeys is how many top-level keys a session has.
	MaxKeys int
	// MaxUnset is how many keys one write removes.
	MaxUnset int
	// MaxSessionIDs is how many sessions one Destroy names.
	MaxSessionIDs int
	// MaxDuration is the longest idle timeout.
	MaxDuration time.Duration
}

// Engine is a kind of session, as the daemon is configured.
type Engine struct {
	// Name is what the options call it.
	Name string
	// CookieName is the name of its cookie.
	CookieName string
	// ExpressFormat: the cookie has the "s:" of express-session before the token.
	ExpressFormat bool
	// Persistent says whether its cookies outlive the browser, unless a write says otherwise.
	Persistent bool
	// Duration is the idle timeout, unless a session has its own.
	Duration time.Duration
	// AbsoluteDuration is the longest life of a session. 0: no limit.
	AbsoluteDuration time.Duration
	// TouchGranularity is by how much a deadline must move before it is stored.
	TouchGranularity time.Duration
	// AutomaticTouch says whether Resolve moves the deadline.
	AutomaticTouch bool
	// MaxDataBytes is the length of a session's data as JSON text.
	MaxDataBytes int
}
