package sessiond

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// So often does an update read and write before it gives up. Each time, another request has succeeded.
const maxAttempts = 20

// RequestSession is one request's view of its session: what [Manager] gives to the handlers, and what an adapter for
// another framework is made of. Methods that change something talk to the daemon one after another. It is safe for
// parallel use.
type RequestSession struct {
	client *Client
	engine string
	header string

	// One call after another: each relies on what the one before has found. Held while the daemon is asked.
	calls sync.Mutex

	// Guards what follows. Never held while the daemon is asked.
	mu         sync.Mutex
	credential Credential
	state      State
	info       *Session
	base       Data // what is stored, as far as this request knows
	changes    Data // what is not stored yet; nil: removed
	refused    map[string]error
	exact      bool // base is what is stored at the version of info
	isNew      bool
	ended      bool // it ended during this request: a logout must not be undone
	setCookie  string
	plans      plans
	headSent   bool
}

// plans are what a session that this request creates will have.
type plans struct {
	duration   time.Duration
	persistent *bool
}

// OpenSession finds the session of a Cookie header (several lines joined with "; "). It asks nothing if the header has
// no cookie of the engine's name. engine: empty is that of the client. An error means 503, never "nobody".
func OpenSession(ctx context.Context, client *Client, cookieHeader, engine string) (*RequestSession, error) {
	s := &RequestSession{client: client, engine: client.engine(engine), header: cookieHeader, base: Data{}}
	if cookieHeader == "" {
		return s, nil
	}
	described, err := s.describe(ctx)
	if err != nil {
		return nil, err
	}
	if !hasCookie(cookieHeader, described.CookieName) {
		return s, nil
	}
	s.credential = CookieHeader(cookieHeader)
	if err := s.resolve(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *RequestSession) describe(ctx context.Context) (Engine, error) {
	described, err := s.client.described(ctx)
	if err != nil {
		return Engine{}, err
	}
	engine, ok := described.Engine(s.engine)
	if !ok {
		err := newError(ReasonUnknownEngine, codes.InvalidArgument, NotApplied, fmt.Sprintf("the daemon has no engine %q", s.engine), nil)
		err.Field = "engine"
		return Engine{}, err
	}
	return engine, nil
}

// State is what became of the credential. StateNone also after a logout.
func (s *RequestSession) State() State { return read(s, func() State { return s.state }) }

// Live reports whether there is a session.
func (s *RequestSession) Live() bool { return read(s, func() bool { return s.info != nil }) }

// IsNew reports whether this request created the session.
func (s *RequestSession) IsNew() bool { return read(s, func() bool { return s.isNew }) }

// Superseded reports whether the id is from before a login: the request is nobody's, and every change is ErrSuperseded.
func (s *RequestSession) Superseded() bool { return s.State() == StateSuperseded }

// Info is the session without its data; the zero value if there is none.
func (s *RequestSession) Info() Session {
	return read(s, func() Session {
		if s.info == nil {
			return Session{}
		}
		info := *s.info
		info.Data = nil
		return info
	})
}

// ID is the public id; empty if there is no session.
func (s *RequestSession) ID() string { return s.Info().ID }

// Principal is whom the session belongs to; empty: nobody.
func (s *RequestSession) Principal() string { return s.Info().Principal }

// SetCookie is the value of the one Set-Cookie line to send; empty: none. Ask when everything else is done.
func (s *RequestSession) SetCookie() string { return read(s, func() string { return s.setCookie }) }

// Data is a copy of the data, with what is not saved yet.
func (s *RequestSession) Data() Data {
	return read(s, func() Data {
		data := maps.Clone(s.base)
		for key, value := range s.changes {
			if value == nil {
				delete(data, key)
			} else {
				data[key] = value
			}
		}
		return data
	})
}

// Keys returns the keys of the data in order.
func (s *RequestSession) Keys() []string { return slices.Sorted(maps.Keys(s.Data())) }

func (s *RequestSession) value(key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if value, ok := s.changes[key]; ok {
		return value
	}
	return s.base[key]
}

// Put keeps a value under a key, as encoding/json writes it, until [RequestSession.Save]. Later changes inside of the
// value do not count. If the value is not what JSON can hold, Put returns an error, and so does Save.
func (s *RequestSession) Put(key string, value any) error {
	text, err := valueText(key, value)
	if err == nil {
		err = validText("set", key, 0)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.refused == nil {
			s.refused = map[string]error{}
		}
		s.refused[key] = err
		return err
	}
	s.change(key, text)
	return nil
}

// change keeps a change; nil: the key is removed. The caller holds mu.
func (s *RequestSession) change(key string, text json.RawMessage) {
	if s.changes == nil {
		s.changes = Data{}
	}
	delete(s.refused, key)
	s.changes[key] = text
}

// Remove removes a key.
func (s *RequestSession) Remove(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(key, nil)
}

// Clear removes all keys. The session stays.
func (s *RequestSession) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.changes)
	clear(s.refused)
	for key := range s.base {
		s.change(key, nil)
	}
}

// Changed reports whether Save would write something.
func (s *RequestSession) Changed() bool {
	set, unset, _ := s.difference()
	return len(set) > 0 || len(unset) > 0 || read(s, func() bool { return len(s.refused) > 0 })
}

// difference is what a write has to send.
func (s *RequestSession) difference() (set Data, unset []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, err := range s.refused {
		return nil, nil, err
	}
	if len(s.changes) == 0 {
		return nil, nil, nil
	}
	set = Data{}
	for key, value := range s.changes {
		stored, ok := s.base[key]
		switch {
		case value == nil && ok:
			unset = append(unset, key)
		case value != nil && (!ok || !same(stored, value)):
			set[key] = value
		}
	}
	slices.Sort(unset)
	return set, unset, nil
}

// written takes what difference has found as stored.
func (s *RequestSession) written(set Data, unset []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, value := range set {
		s.base[key] = value
	}
	for _, key := range unset {
		delete(s.base, key)
	}
	// A handler may change more while a write is on its way: that is not stored then.
	maps.DeleteFunc(s.changes, func(key string, value json.RawMessage) bool {
		stored, ok := s.base[key]
		return value == nil && !ok || value != nil && bytes.Equal(stored, value)
	})
}

// Save writes the top-level keys that changed, in one write, and only if something changed. Manager calls it before the
// response head goes out. It creates a session if there is none and something was put.
//
// It reports false if the session ended during this request: the change is dropped then, because a logout must not be
// undone, and the logger tells.
func (s *RequestSession) Save(ctx context.Context) (bool, error) {
	s.calls.Lock()
	defer s.calls.Unlock()
	for attempt := 1; ; attempt++ {
		set, unset, err := s.difference()
		switch {
		case err != nil:
			return false, err
		case len(set) == 0 && len(unset) == 0:
			return true, nil
		case s.Superseded():
			return false, supersededError()
		case read(s, func() bool { return s.ended }):
			return s.drop(ctx), nil
		case !s.Live():
			if err := s.write(ctx, WriteOptions{Set: set}); err != nil {
				return false, err
			}
			s.written(set, unset)
			return true, nil
		}
		err = s.saveLive(ctx, set, unset)
		if !errors.Is(err, ErrSessionGone) {
			return err == nil, err
		}
		if err := s.gone(ctx); err != nil {
			return false, err
		}
		if !s.Live() || attempt > 1 {
			return s.drop(ctx), nil
		}
	}
}

func (s *RequestSession) saveLive(ctx context.Context, set Data, unset []string) error {
	// The daemon removes so many keys in one write.
	rest := unset
	for len(rest) > maxUnset {
		if err := s.write(ctx, WriteOptions{Unset: rest[:maxUnset]}); err != nil {
			return err
		}
		rest = rest[maxUnset:]
	}
	if err := s.write(ctx, WriteOptions{Set: set, Unset: rest}); err != nil {
		return err
	}
	s.written(set, unset)
	return nil
}

// drop forgets what was changed, and tells.
func (s *RequestSession) drop(ctx context.Context) bool {
	s.mu.Lock()
	keys := slices.Sorted(maps.Keys(s.changes))
	state := s.state
	s.empty()
	s.mu.Unlock()
	s.client.logger().WarnContext(ctx, "session ended during the request: its change is dropped", "state", state.String(), "keys", keys)
	return false
}

// Update reads, changes and writes the data so that parallel requests lose nothing: the way to count, append or take.
// change gets a copy of the stored data. It may run again, up to 20 times, while other requests write first, and must
// not call methods of this session that talk to the daemon. Update creates the session if there is none.
//
// What was put and not saved stays as it is, except for the keys that change changes. Update returns the new data.
//
// Errors are those of change, ErrSessionGone if the session ended during this request, ErrSuperseded if the id is from
// before a login, and ErrVersionMismatch if 20 parallel requests were faster.
func (s *RequestSession) Update(ctx context.Context, change func(data Data) error) (Data, error) {
	s.calls.Lock()
	defer s.calls.Unlock()
	for attempt := 1; ; attempt++ {
		if s.Live() && !read(s, func() bool { return s.exact }) {
			if err := s.resolve(ctx); err != nil {
				return nil, err
			}
			s.mu.Lock()
			s.ended = s.info == nil && s.state != StateSuperseded
			s.mu.Unlock()
		}
		if s.Superseded() {
			return nil, supersededError()
		}
		if read(s, func() bool { return s.ended }) {
			return nil, goneError()
		}
		before := read(s, func() Data { return maps.Clone(s.base) })
		after := maps.Clone(before)
		if err := change(after); err != nil {
			return nil, err
		}
		set, unset := compare(before, after)
		if len(set) == 0 && len(unset) == 0 {
			return after, nil
		}
		if !s.Live() && len(set) == 0 {
			return after, nil
		}
		options := WriteOptions{Set: set, Unset: unset}
		if s.Live() {
			options.IfVersion = s.Info().Version
		}
		err := s.write(ctx, options)
		if err == nil {
			s.mu.Lock()
			s.base = maps.Clone(after)
			for key := range set {
				delete(s.changes, key)
			}
			for _, key := range unset {
				delete(s.changes, key)
			}
			s.exact = true
			s.mu.Unlock()
			return after, nil
		}
		if errors.Is(err, ErrSessionGone) {
			if why := s.gone(ctx); why != nil {
				return nil, why
			}
			return nil, err
		}
		var failure *Error
		// With an unknown outcome the change may be there already. Another attempt could count twice.
		if !errors.Is(err, ErrVersionMismatch) || errors.As(err, &failure) && failure.Applied != NotApplied || attempt == maxAttempts {
			return nil, err
		}
		s.mu.Lock()
		s.exact = false
		s.mu.Unlock()
		if err := pause(ctx, time.Duration(rand.Int64N(int64(min(50*time.Millisecond, time.Millisecond<<attempt))))); err != nil {
			return nil, err
		}
	}
}

func compare(before, after Data) (set Data, unset []string) {
	set = Data{}
	for key, value := range after {
		if stored, ok := before[key]; !ok || !same(stored, value) {
			set[key] = value
		}
	}
	for key := range before {
		if _, ok := after[key]; !ok {
			unset = append(unset, key)
		}
	}
	return set, unset
}

func pause(ctx context.Context, duration time.Duration) error {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return contextError(ctx.Err(), NotApplied)
	case <-timer.C:
		return nil
	}
}

// ---- the parts

func read[T any](s *RequestSession, get func() T) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return get()
}

// resolve asks for the session. What was not saved stays.
func (s *RequestSession) resolve(ctx context.Context) error {
	credential := read(s, func() Credential { return s.credential })
	found, err := s.client.Resolve(ctx, credential, ResolveOptions{Engine: s.engine})
	if err != nil {
		return err
	}
	var base Data
	if found.Session != nil {
		if base, err = parseData(found.Session.Data); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if found.Session == nil {
		changes := s.changes
		s.over(found.State)
		s.changes = changes // Save decides what becomes of them
		s.took(found.SetCookie)
		return nil
	}
	s.took(found.SetCookie)
	if found.Token != "" {
		s.credential = TokenCredential(found.Token)
	}
	s.state, s.info, s.base, s.exact = found.State, found.Session, base, true
	return nil
}

// write changes the session, or creates one if there is none.
func (s *RequestSession) write(ctx context.Context, options WriteOptions) error {
	options.Engine = s.engine
	var (
		credential Credential
		creates    bool
		version    uint64
	)
	s.mu.Lock()
	if creates = s.info == nil; creates {
		if options.Duration == 0 {
			options.Duration = s.plans.duration
		}
		if options.Persistent == nil {
			options.Persistent = s.plans.persistent
		}
		options.Unset = nil
	} else {
		credential, version = s.credential, s.info.Version
	}
	headSent := s.headSent
	s.mu.Unlock()
	if headSent && (creates || options.Roll || options.Persistent != nil) {
		return newError(ReasonHeadSent, codes.FailedPrecondition, NotApplied, "the response head was sent already: the browser would not get its cookie", nil)
	}
	written, err := s.client.Write(ctx, credential, options)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took(written.SetCookie)
	if written.Token != "" {
		s.credential = TokenCredential(written.Token)
	}
	if creates {
		s.state, s.isNew, s.exact = StateCreated, true, true
	} else {
		s.exact = s.exact && written.Session.Version == version+1
	}
	s.info = written.Session
	return nil
}

// gone asks what became of a credential that was not live. It returns ErrSuperseded if that is why.
func (s *RequestSession) gone(ctx context.Context) error {
	if err := s.resolve(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = s.info == nil && s.state != StateSuperseded
	if s.state == StateSuperseded {
		return supersededError()
	}
	return nil
}

// over: there is no session any more. A cookie that would have renewed it does not go out. The caller holds mu.
func (s *RequestSession) over(state State) {
	s.state, s.info, s.exact, s.isNew, s.setCookie = state, nil, false, false, ""
	s.empty()
}

// empty drops the data. The caller holds mu.
func (s *RequestSession) empty() {
	s.base, s.changes, s.refused = Data{}, nil, nil
}

// took keeps the last Set-Cookie value. The caller holds mu.
func (s *RequestSession) took(lines []string) {
	if len(lines) > 0 {
		s.setCookie = lines[len(lines)-1]
	}
}
