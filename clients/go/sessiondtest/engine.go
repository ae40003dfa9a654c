package sessiondtest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sessiond "github.com/sessiond/sessiond/clients/go"
	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

const (
	maxKeys   = 4096
	maxLevels = 64
	maxFormer = 4
)

// record is what is stored of a session.
type record struct {
	id         string
	verifier   [32]byte
	former     []former // from before the last rolls
	version    uint64
	created    time.Time
	deadline   time.Time
	duration   time.Duration // 0: that of the engine
	principal  string
	data       sessiond.Data
	persistent *bool
	label      string
}

type former struct {
	verifier [32]byte
	rolled   time.Time
}

// store has the sessions of one engine: the rules of the daemon over a map. The fake calls it under its lock, so that
// operations are as linearizable as the daemon's.
type store struct {
	engine  Engine
	key     []byte
	now     func() time.Time
	records map[string]*record
}

// found is the live record of a credential, or why there is none.
type found struct {
	record *record
	id     identity
	state  pb.SessionState
	// just: the id was rolled within roll_grace.
	just bool
}

var rank = []pb.SessionState{
	pb.SessionState_SESSION_STATE_NONE, pb.SessionState_SESSION_STATE_INVALID, pb.SessionState_SESSION_STATE_NOT_FOUND,
	pb.SessionState_SESSION_STATE_SUPERSEDED, pb.SessionState_SESSION_STATE_EXPIRED,
}

func (s *store) find(credential *pb.Credential) found {
	ids, state := present(credential, &s.engine, s.key)
	just := false
	for _, id := range ids {
		r := s.records[id.id]
		switch {
		case r == nil:
		case r.verifier == id.verifier():
			if !s.expired(r) {
				return found{record: r, id: id, state: pb.SessionState_SESSION_STATE_ACTIVE}
			}
			state = pb.SessionState_SESSION_STATE_EXPIRED
		default:
			just = just || s.justRolled(r, id) || !s.expired(r) && slices.ContainsFunc(r.former, s.recent)
			if slices.Index(rank, state) < slices.Index(rank, pb.SessionState_SESSION_STATE_SUPERSEDED) {
				state = pb.SessionState_SESSION_STATE_SUPERSEDED
			}
		}
	}
	if just {
		state = pb.SessionState_SESSION_STATE_SUPERSEDED
	}
	return found{state: state, just: just}
}

func (s *store) recent(f former) bool { return f.rolled.After(s.now().Add(-s.engine.RollGrace)) }

func (s *store) justRolled(r *record, id identity) bool {
	return slices.ContainsFunc(r.former, func(f former) bool { return f.verifier == id.verifier() && s.recent(f) })
}

func (s *store) resolve(request *pb.ResolveRequest) (*pb.ResolveResponse, error) {
	f := s.find(request.GetCredential())
	if f.record != nil {
		moved := !s.engine.ManualTouch && !request.GetPeek() && s.slide(f.record)
		return &pb.ResolveResponse{State: f.state, Session: s.session(f.record, true), SetCookie: s.renewal(f, moved)}, nil
	}
	if !request.GetCreate() || f.just {
		return &pb.ResolveResponse{State: f.state}, nil
	}
	r, token, err := s.create(&pb.WriteRequest{})
	if err != nil {
		return nil, err
	}
	return &pb.ResolveResponse{State: pb.SessionState_SESSION_STATE_CREATED, Session: s.session(r, true), SetCookie: []string{s.cookie(r, token)}, Token: token}, nil
}

func (s *store) touch(request *pb.TouchRequest) (*pb.TouchResponse, error) {
	f := s.find(request.GetCredential())
	if f.record == nil {
		return &pb.TouchResponse{State: f.state}, nil
	}
	moved := s.use(f.record, rounded(request.GetDuration()))
	return &pb.TouchResponse{State: f.state, Session: s.session(f.record, false), SetCookie: s.renewal(f, moved)}, nil
}

func (s *store) write(request *pb.WriteRequest) (*pb.WriteResponse, error) {
	if len(request.GetSet()) > max(s.engine.MaxDataBytes, 4096) {
		return nil, refusal(sessiond.ReasonDataTooLarge, "set")
	}
	if request.GetCredential() == nil {
		r, token, err := s.create(request)
		if err != nil {
			return nil, err
		}
		return &pb.WriteResponse{Session: s.session(r, false), SetCookie: []string{s.cookie(r, token)}, Token: token}, nil
	}
	f := s.find(request.GetCredential())
	r := f.record
	if r == nil {
		return nil, refusal(sessiond.ReasonSessionGone, "")
	}
	changes := request.Principal != nil && request.GetPrincipal() != r.principal
	if changes {
		if err := s.refuseNewest(request.GetPrincipal()); err != nil {
			return nil, err
		}
	}
	if request.IfVersion != nil && request.GetIfVersion() != r.version {
		return nil, refusal(sessiond.ReasonVersionMismatch, "")
	}
	before := r.data
	if request.GetReplace() || changes && r.principal != "" {
		before = nil
	}
	data, err := s.edited(before, request)
	if err != nil {
		return nil, err
	}
	r.data = data
	r.version++
	id, token := f.id, ""
	rolls := request.GetRoll() || changes
	if rolls {
		id = newIdentity(r.id)
		r.former = append([]former{{verifier: r.verifier, rolled: s.now()}}, r.former...)
		r.former = r.former[:min(len(r.former), maxFormer)]
		r.verifier = id.verifier()
		token = id.token(s.key)
	}
	if request.Principal != nil {
		r.principal = request.GetPrincipal()
	}
	if request.Label != nil {
		r.label = request.GetLabel()
	}
	was := s.persistent(r)
	if request.Persistent != nil {
		r.persistent = request.Persistent
	}
	moved := s.use(r, rounded(request.GetDuration()))
	if changes {
		s.endIdlest(r)
	}
	var lines []string
	if rolls || s.persistent(r) != was || moved && s.persistent(r) {
		lines = []string{s.cookie(r, id.token(s.key))}
	}
	return &pb.WriteResponse{Session: s.session(r, false), SetCookie: lines, Token: token}, nil
}

func (s *store) destroy(request *pb.DestroyRequest) (*pb.DestroyResponse, error) {
	ids, absence := present(request.GetCredential(), &s.engine, s.key)
	var own []*record
	for _, id := range ids {
		if r := s.records[id.id]; r != nil && r.verifier == id.verifier() && !s.expired(r) {
			own = append(own, r)
		}
	}
	for _, id := range request.GetSessionIds() {
		if !publicID.MatchString(id) {
			return nil, refusal(sessiond.ReasonInvalidArgument, "session_ids")
		}
	}
	response := &pb.DestroyResponse{}
	end := func(r *record) {
		if !s.expired(r) {
			response.Destroyed++
		}
		delete(s.records, r.id)
	}
	named := request.GetSessionIds()
	if request.GetScope() >= pb.DestroyScope_DESTROY_SCOPE_OTHERS || len(named) > 0 {
		for _, r := range slices.Collect(maps.Values(s.records)) {
			mine := slices.Contains(own, r)
			theirs := r.principal != "" && slices.ContainsFunc(own, func(o *record) bool { return o.principal == r.principal })
			switch {
			case len(named) > 0:
				if (theirs || mine) && slices.Contains(named, r.id) {
					end(r)
				}
			case theirs && !mine:
				end(r)
			}
		}
		if request.GetScope() == pb.DestroyScope_DESTROY_SCOPE_OTHERS {
			return response, nil
		}
		if len(named) > 0 {
			all := len(own) > 0 && !slices.ContainsFunc(own, func(o *record) bool { return !slices.Contains(named, o.id) })
			if all && absence != pb.SessionState_SESSION_STATE_NONE {
				response.SetCookie = []string{deletion(&s.engine)}
			}
			return response, nil
		}
	}
	for _, id := range ids {
		if r := s.records[id.id]; r != nil && (r.verifier == id.verifier() || s.justRolled(r, id)) {
			end(r)
		}
	}
	if absence != pb.SessionState_SESSION_STATE_NONE {
		response.SetCookie = []string{deletion(&s.engine)}
	}
	return response, nil
}

func (s *store) list(request *pb.SessionServiceListSessionsRequest) *pb.SessionServiceListSessionsResponse {
	f := s.find(request.GetCredential())
	if f.record == nil {
		return &pb.SessionServiceListSessionsResponse{State: f.state}
	}
	all := []*record{f.record}
	if f.record.principal != "" {
		all = s.of(f.record.principal)
	}
	slices.SortFunc(all, func(a, b *record) int { return cmp.Compare(decoded(a.id), decoded(b.id)) })
	response := &pb.SessionServiceListSessionsResponse{State: f.state, CurrentSessionId: f.record.id}
	for _, r := range all {
		response.Sessions = append(response.Sessions, s.session(r, false))
	}
	return response
}

func decoded(id string) string {
	octets, _ := base64.RawURLEncoding.DecodeString(id)
	return string(octets)
}

func (s *store) create(request *pb.WriteRequest) (*record, string, error) {
	data, err := s.edited(nil, &pb.WriteRequest{Set: request.GetSet()})
	if err != nil {
		return nil, "", err
	}
	if err := s.refuseNewest(request.GetPrincipal()); err != nil {
		return nil, "", err
	}
	id := newIdentity("")
	r := &record{
		id: id.id, verifier: id.verifier(), version: 1, created: s.now(), duration: rounded(request.GetDuration()),
		principal: request.GetPrincipal(), data: data, persistent: request.Persistent, label: request.GetLabel(),
	}
	r.deadline = s.next(r)
	s.records[r.id] = r
	s.endIdlest(r)
	return r, id.token(s.key), nil
}

// edited is the data after a write.
func (s *store) edited(before sessiond.Data, request *pb.WriteRequest) (sessiond.Data, error) {
	data := maps.Clone(before)
	if data == nil {
		data = sessiond.Data{}
	}
	for _, key := range request.GetUnset() {
		delete(data, key)
	}
	if set := request.GetSet(); set != "" {
		var members sessiond.Data
		if !json.Valid([]byte(set)) || levels(set) > maxLevels || json.Unmarshal([]byte(set), &members) != nil || members == nil {
			return nil, refusal(sessiond.ReasonInvalidData, "set")
		}
		maps.Copy(data, members)
	}
	if len(data) > maxKeys {
		return nil, refusal(sessiond.ReasonInvalidData, "set")
	}
	if len(text(data)) > s.engine.MaxDataBytes {
		return nil, refusal(sessiond.ReasonDataTooLarge, "set")
	}
	return data, nil
}

// text is the JSON text of data: each value as it was written.
func text(data sessiond.Data) string {
	out := []byte{'{'}
	for i, key := range slices.Sorted(maps.Keys(data)) {
		if i > 0 {
			out = append(out, ',')
		}
		name, _ := json.Marshal(key)
		out = append(append(append(out, name...), ':'), data[key]...)
	}
	return string(append(out, '}'))
}

// levels is how deep a valid JSON text is.
func levels(text string) int {
	deepest, level, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

func (s *store) live() []*record {
	var live []*record
	for _, r := range s.records {
		if !s.expired(r) {
			live = append(live, r)
		}
	}
	return live
}

func (s *store) of(principal string) []*record {
	return slices.DeleteFunc(s.live(), func(r *record) bool { return r.principal != principal })
}

func (s *store) refuseNewest(principal string) error {
	limit := s.engine.MaxSessionsPerPrincipal
	if principal != "" && limit > 0 && !s.engine.EndIdlest && len(s.of(principal)) >= limit {
		return refusal(sessiond.ReasonTooManySessions, "")
	}
	return nil
}

func (s *store) endIdlest(newest *record) {
	limit := s.engine.MaxSessionsPerPrincipal
	if newest.principal == "" || limit == 0 || !s.engine.EndIdlest {
		return
	}
	others := slices.DeleteFunc(s.of(newest.principal), func(r *record) bool { return r == newest })
	slices.SortFunc(others, func(a, b *record) int { return s.lastUse(a).Compare(s.lastUse(b)) })
	for _, r := range others[:max(0, len(others)+1-limit)] {
		delete(s.records, r.id)
	}
}

// ---- lifetimes

func (s *store) idle(r *record) time.Duration {
	if r.duration > 0 {
		return r.duration
	}
	return s.engine.Duration
}

func (s *store) granularity(r *record) time.Duration {
	if s.engine.TouchGranularity == 0 {
		return min(s.idle(r)/64, time.Minute) // "auto"
	}
	return min(s.engine.TouchGranularity, s.idle(r))
}

// capped is not later than the absolute end of the session.
func (s *store) capped(r *record, at time.Time) time.Time {
	if absolute := s.engine.AbsoluteDuration; absolute > 0 && r.created.Add(absolute).Before(at) {
		return r.created.Add(absolute)
	}
	return at
}

func (s *store) next(r *record) time.Time {
	return s.capped(r, s.now().Add(s.idle(r)+s.granularity(r)))
}

func (s *store) expired(r *record) bool { return !s.now().Before(r.deadline) }

func (s *store) lastUse(r *record) time.Time {
	used := r.deadline.Add(-s.idle(r) - s.granularity(r))
	if used.Before(r.created) {
		return r.created
	}
	return used
}

// slide moves the deadline if the stored one does not give the session its idle timeout from now.
func (s *store) slide(r *record) bool {
	if !r.deadline.Before(s.capped(r, s.now().Add(s.idle(r)))) {
		return false
	}
	r.deadline = s.next(r)
	return true
}

func (s *store) use(r *record, duration time.Duration) bool {
	if duration == 0 || duration == r.duration {
		return s.slide(r)
	}
	before := r.deadline
	r.duration = duration
	r.deadline = s.next(r)
	return !r.deadline.Equal(before)
}

// rounded: durations are rounded up to milliseconds once, where they enter.
func rounded(duration *durationpb.Duration) time.Duration {
	return (duration.AsDuration() + time.Millisecond - 1).Truncate(time.Millisecond)
}

// ---- answers

func (s *store) persistent(r *record) bool {
	if r.persistent != nil {
		return *r.persistent
	}
	return !s.engine.SessionCookie
}

func (s *store) cookie(r *record, token string) string {
	age := time.Duration(0)
	if s.persistent(r) {
		age = r.deadline.Sub(s.now())
	}
	return setCookie(&s.engine, token, age, s.now())
}

func (s *store) renewal(f found, moved bool) []string {
	if !moved || !s.persistent(f.record) {
		return nil
	}
	return []string{s.cookie(f.record, f.id.token(s.key))}
}

func (s *store) session(r *record, withData bool) *pb.Session {
	session := &pb.Session{
		Id: r.id, Version: r.version, Principal: r.principal, Label: r.label, Duration: durationpb.New(s.idle(r)),
		CreateTime: timestamppb.New(r.created), ExpireTime: timestamppb.New(r.deadline), LastUseTime: timestamppb.New(s.lastUse(r)),
	}
	if withData {
		session.Data = text(r.data)
	}
	return session
}
