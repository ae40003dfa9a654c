package sessiond

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

func wireCredential(credential Credential) *pb.Credential {
	switch credential.kind {
	case 'c':
		return &pb.Credential{Kind: &pb.Credential_CookieHeader{CookieHeader: []byte(credential.value)}}
	case 't':
		return &pb.Credential{Kind: &pb.Credential_Token{Token: []byte(credential.value)}}
	}
	return nil
}

func wireDuration(duration time.Duration) *durationpb.Duration {
	if duration == 0 {
		return nil
	}
	return durationpb.New(duration)
}

func writeRequest(engine string, credential Credential, options WriteOptions) (*pb.WriteRequest, error) {
	request := &pb.WriteRequest{
		Engine: engine, Credential: wireCredential(credential), Unset: options.Unset, Replace: options.Replace, Roll: options.Roll,
		Principal: options.Principal, Duration: wireDuration(options.Duration), Persistent: options.Persistent, Label: options.Label,
	}
	if err := errors.Join(validText("engine", engine, 0), validDuration(options.Duration)); err != nil {
		return nil, first(err)
	}
	if options.Principal != nil {
		if err := validText("principal", *options.Principal, maxTextBytes); err != nil {
			return nil, err
		}
	}
	if options.Label != nil {
		if err := validText("label", *options.Label, maxTextBytes); err != nil {
			return nil, err
		}
	}
	if len(options.Unset) > maxUnset {
		return nil, invalidArgument("unset", fmt.Sprintf("more than %d keys", maxUnset))
	}
	for _, key := range options.Unset {
		if err := validText("unset", key, 0); err != nil {
			return nil, err
		}
	}
	if options.IfVersion > 0 {
		if credential.IsZero() {
			return nil, invalidArgument("if_version", "not when creating")
		}
		request.IfVersion = &options.IfVersion
	}
	set, err := objectText(options.Set)
	if err != nil {
		return nil, err
	}
	request.Set = set
	return request, nil
}

func destroyRequest(engine string, credential Credential, options DestroyOptions) (*pb.DestroyRequest, error) {
	if err := validText("engine", engine, 0); err != nil {
		return nil, err
	}
	if options.Scope < ScopeThis || options.Scope > ScopeAll {
		return nil, invalidArgument("scope", "expected ScopeThis, ScopeOthers or ScopeAll")
	}
	request := &pb.DestroyRequest{Engine: engine, Credential: wireCredential(credential), SessionIds: options.SessionIDs}
	if options.SessionIDs == nil {
		request.Scope = pb.DestroyScope(options.Scope) + pb.DestroyScope_DESTROY_SCOPE_THIS
		return request, nil
	}
	if n := len(options.SessionIDs); n == 0 || n > maxSessionIDs {
		return nil, invalidArgument("session_ids", fmt.Sprintf("expected 1 to %d ids, found %d", maxSessionIDs, n))
	}
	if options.Scope != ScopeThis {
		return nil, invalidArgument("session_ids", "not together with a scope")
	}
	for _, id := range options.SessionIDs {
		if err := validText("session_ids", id, 0); err != nil {
			return nil, err
		}
	}
	return request, nil
}

// validText refuses what the daemon would refuse, and what cannot be encoded: that would end the stream for everybody.
func validText(field, text string, limit int) error {
	if !utf8.ValidString(text) {
		return invalidArgument(field, "expected UTF-8")
	}
	if limit > 0 && len(text) > limit {
		return invalidArgument(field, fmt.Sprintf("longer than %d octets", limit))
	}
	return nil
}

func validDuration(duration time.Duration) error {
	if duration < 0 || duration > maxDuration {
		return invalidArgument("duration", "expected more than zero, at most 400 days")
	}
	return nil
}

// first is the first of joined errors.
func first(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()[0]
	}
	return err
}

// states has the states of the API by their number.
var states = [...]State{
	pb.SessionState_SESSION_STATE_ACTIVE:     StateActive,
	pb.SessionState_SESSION_STATE_CREATED:    StateCreated,
	pb.SessionState_SESSION_STATE_NONE:       StateNone,
	pb.SessionState_SESSION_STATE_INVALID:    StateInvalid,
	pb.SessionState_SESSION_STATE_NOT_FOUND:  StateNotFound,
	pb.SessionState_SESSION_STATE_EXPIRED:    StateExpired,
	pb.SessionState_SESSION_STATE_SUPERSEDED: StateSuperseded,
}

func stateOf(state pb.SessionState, session bool) (State, error) {
	if state <= pb.SessionState_SESSION_STATE_UNSPECIFIED || int(state) >= len(states) || session != isLive(states[state]) {
		// To take it for "no session" would log somebody out.
		return 0, newError(ReasonProtocolError, codes.Internal, AppliedUnknown, fmt.Sprintf("the daemon answered with the state %s, session: %t", state, session), nil)
	}
	return states[state], nil
}

func isLive(state State) bool { return state == StateActive || state == StateCreated }

func sessionOf(session *pb.Session) *Session {
	if session == nil {
		return nil
	}
	return &Session{
		ID: session.GetId(), Data: []byte(session.GetData()), Version: session.GetVersion(), Principal: session.GetPrincipal(),
		CreateTime: session.GetCreateTime().AsTime(), ExpireTime: session.GetExpireTime().AsTime(), LastUseTime: session.GetLastUseTime().AsTime(),
		Duration: session.GetDuration().AsDuration(), Label: session.GetLabel(),
	}
}

func descriptionOf(described *pb.DescribeResponse) *Description {
	limits := described.GetLimits()
	description := &Description{
		Version: described.GetVersion(),
		Limits: Limits{
			MaxMessageBytes: int(limits.GetMaxMessageBytes()), PipelineInFlight: int(limits.GetPipelineInFlight()),
			MaxCookieHeaderBytes: int(limits.GetMaxCookieHeaderBytes()), MaxPrincipalBytes: int(limits.GetMaxPrincipalBytes()),
			MaxLabelBytes: int(limits.GetMaxLabelBytes()), MaxKeys: int(limits.GetMaxKeys()), MaxUnset: int(limits.GetMaxUnset()),
			MaxSessionIDs: int(limits.GetMaxSessionIds()), MaxDuration: limits.GetMaxDuration().AsDuration(),
		},
	}
	for _, engine := range described.GetEngines() {
		description.Engines = append(description.Engines, Engine{
			Name: engine.GetName(), CookieName: engine.GetCookieName(),
			ExpressFormat: engine.GetCookieFormat() == pb.CookieFormat_COOKIE_FORMAT_EXPRESS,
			Persistent:    engine.GetPersistent(), Duration: engine.GetDuration().AsDuration(), AbsoluteDuration: engine.GetAbsoluteDuration().AsDuration(),
			TouchGranularity: engine.GetTouchGranularity().AsDuration(), AutomaticTouch: engine.GetAutomaticTouch(), MaxDataBytes: int(engine.GetMaxDataBytes()),
		})
	}
	return description
}

// Engine is the engine of this name; empty: "default".
func (d *Description) Engine(name string) (Engine, bool) {
	if name == "" {
		name = "default"
	}
	for _, engine := range d.Engines {
		if engine.Name == name {
			return engine, true
		}
	}
	return Engine{}, false
}

// hasCookie reports whether a Cookie header has a cookie of this name, octet by octet. SP and HTAB around a name do not
// count.
func hasCookie(header, name string) bool {
	for pair := range strings.SplitSeq(header, ";") {
		if found, _, ok := strings.Cut(pair, "="); ok && strings.Trim(found, " \t") == name {
			return true
		}
	}
	return false
}
