package sessiond

import (
	"context"
	"errors"
	"slices"
	"time"
)

// LoginOptions are the options of a login.
type LoginOptions struct {
	// Persistent says whether the cookie outlives the browser ("remember me"). nil: as the engine says.
	Persistent *bool
	// Label is a text for the user's list of devices, such as "Firefox on Linux", at most 256 octets.
	Label string
	// Duration is the session's own idle timeout. 0: as the engine says.
	Duration time.Duration
}

// Device is one of a user's sessions.
type Device struct {
	// ID is the public id: pass it to End.
	ID string
	// Current says whether it is the session of this request.
	Current bool
	// Label is what a login has set.
	Label string
	// CreateTime is when the session was created.
	CreateTime time.Time
	// LastUseTime is when it was last used, exact to the engine's touch_granularity.
	LastUseTime time.Time
	// ExpireTime is when the session ends, unless it is used before.
	ExpireTime time.Time
}

// Login gives the session to a user, under a new id: somebody who knows the old one gains nothing. It creates a session
// if there is none. What an anonymous visitor has stored stays; what another user has stored is dropped. What was put
// and not saved is written with it.
//
// principal is whom the session belongs to from now on, such as a user id: 1 to 256 octets of UTF-8.
func (s *RequestSession) Login(ctx context.Context, principal string, options LoginOptions) error {
	if principal == "" {
		return invalidArgument("principal", "expected a text that is not empty")
	}
	s.calls.Lock()
	defer s.calls.Unlock()
	for attempt := 1; ; attempt++ {
		if s.Superseded() {
			return supersededError()
		}
		owner := s.Principal()
		foreign := owner != "" && owner != principal
		write := WriteOptions{Principal: &principal, Persistent: options.Persistent, Duration: options.Duration}
		if options.Label != "" || foreign {
			write.Label = &options.Label
		}
		var set Data
		var unset []string
		if foreign {
			// Nothing of the one before is left.
			engine, err := s.describe(ctx)
			if err != nil {
				return err
			}
			if write.Persistent == nil {
				write.Persistent = &engine.Persistent
			}
			if write.Duration == 0 {
				write.Duration = engine.Duration
			}
		} else {
			var err error
			if set, unset, err = s.difference(); err != nil {
				return err
			}
			write.Set, write.Unset = set, unset
		}
		if write.Roll = s.Live(); write.Roll && attempt > 2 {
			return goneError()
		}
		if err := s.write(ctx, write); errors.Is(err, ErrSessionGone) {
			// Whoever logs in wants a session, also if the anonymous one has just ended.
			if err := s.gone(ctx); err != nil {
				return err
			}
			continue
		} else if err != nil {
			return err
		}
		s.mu.Lock()
		s.ended = false
		if foreign {
			s.empty()
		}
		s.mu.Unlock()
		s.written(set, unset)
		return nil
	}
}

// Logout ends this session and deletes the cookie, also with an id from just before a login. It reports whether there
// was one.
func (s *RequestSession) Logout(ctx context.Context) (bool, error) {
	s.calls.Lock()
	defer s.calls.Unlock()
	ended, err := s.destroy(ctx, DestroyOptions{})
	return ended > 0, err
}

// LogoutOthers ends the user's other sessions. It returns how many there were.
func (s *RequestSession) LogoutOthers(ctx context.Context) (int, error) {
	s.calls.Lock()
	defer s.calls.Unlock()
	if s.Superseded() {
		return 0, supersededError()
	}
	if !s.Live() {
		return 0, nil
	}
	return s.destroyOthers(ctx, DestroyOptions{Scope: ScopeOthers})
}

// LogoutEverywhere ends all of the user's sessions, this one too, and deletes the cookie. It returns how many there were.
func (s *RequestSession) LogoutEverywhere(ctx context.Context) (int, error) {
	s.calls.Lock()
	defer s.calls.Unlock()
	if s.Superseded() {
		return 0, supersededError()
	}
	return s.destroy(ctx, DestroyOptions{Scope: ScopeAll})
}

// Devices lists the user's live sessions, ordered by id; that of an anonymous visitor alone; none if there is no session.
func (s *RequestSession) Devices(ctx context.Context) ([]Device, error) {
	if !s.Live() {
		return nil, nil
	}
	credential := read(s, func() Credential { return s.credential })
	list, err := s.client.ListSessions(ctx, credential, ListOptions{Engine: s.engine})
	if err != nil {
		return nil, err
	}
	devices := make([]Device, 0, len(list.Sessions))
	for _, session := range list.Sessions {
		devices = append(devices, Device{
			ID: session.ID, Current: session.ID == list.CurrentSessionID, Label: session.Label,
			CreateTime: session.CreateTime, LastUseTime: session.LastUseTime, ExpireTime: session.ExpireTime,
		})
	}
	return devices, nil
}

// End ends sessions of the same user by their public ids. Other ids are ignored. It returns how many were live.
func (s *RequestSession) End(ctx context.Context, ids ...string) (int, error) {
	s.calls.Lock()
	defer s.calls.Unlock()
	if s.Superseded() {
		return 0, supersededError()
	}
	if !s.Live() || len(ids) == 0 {
		return 0, nil
	}
	if slices.Contains(ids, s.ID()) {
		return s.destroy(ctx, DestroyOptions{SessionIDs: ids})
	}
	return s.destroyOthers(ctx, DestroyOptions{SessionIDs: ids})
}

// Roll gives the browser a new id for the same session: do it at every change of privilege. What was put and not saved
// is written with it. Nothing happens if there is no session.
func (s *RequestSession) Roll(ctx context.Context) error {
	set, unset, err := s.difference()
	if err != nil {
		return err
	}
	s.calls.Lock()
	defer s.calls.Unlock()
	if err := s.apply(ctx, WriteOptions{Roll: true, Set: set, Unset: unset}); err != nil || !s.Live() {
		return err
	}
	s.written(set, unset)
	return nil
}

// SetPersistent says whether the cookie outlives the browser ("remember me"). Without a session, it is kept for the one
// that this request creates.
func (s *RequestSession) SetPersistent(ctx context.Context, persistent bool) error {
	s.calls.Lock()
	defer s.calls.Unlock()
	if !s.Live() {
		s.mu.Lock()
		s.plans.persistent = &persistent
		s.mu.Unlock()
	}
	return s.apply(ctx, WriteOptions{Persistent: &persistent})
}

// Touch moves the deadline. duration is the session's own idle timeout from now on; 0: as it was. Without a session, it
// is kept for the one that this request creates. It reports whether there is a session.
func (s *RequestSession) Touch(ctx context.Context, duration time.Duration) (bool, error) {
	s.calls.Lock()
	defer s.calls.Unlock()
	if s.Superseded() {
		return false, supersededError()
	}
	if err := validDuration(duration); err != nil {
		return false, err
	}
	if !s.Live() {
		s.mu.Lock()
		s.plans.duration = duration
		s.mu.Unlock()
		return false, nil
	}
	credential := read(s, func() Credential { return s.credential })
	touched, err := s.client.Touch(ctx, credential, TouchOptions{Engine: s.engine, Duration: duration})
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if touched.Session == nil {
		s.over(touched.State)
		return false, nil
	}
	s.took(touched.SetCookie)
	s.exact = s.exact && touched.Session.Version == s.info.Version
	s.info = touched.Session
	return true, nil
}

// Reload reads the session again. What was put and not saved is dropped. It reports whether there is a session.
func (s *RequestSession) Reload(ctx context.Context) (bool, error) {
	s.calls.Lock()
	defer s.calls.Unlock()
	if !read(s, func() bool { return s.credential.IsZero() }) {
		if err := s.resolve(ctx); err != nil {
			return false, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes, s.refused = nil, nil
	return s.info != nil, nil
}

// apply makes a change of the live session that is no change of its data by itself.
func (s *RequestSession) apply(ctx context.Context, options WriteOptions) error {
	if s.Superseded() {
		return supersededError()
	}
	if !s.Live() {
		return nil
	}
	err := s.write(ctx, options)
	if errors.Is(err, ErrSessionGone) {
		if why := s.gone(ctx); why != nil {
			return why
		}
	}
	return err
}

// destroy ends sessions, this one among them.
func (s *RequestSession) destroy(ctx context.Context, options DestroyOptions) (int, error) {
	credential := read(s, func() Credential { return s.credential })
	if credential.IsZero() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.over(StateNone)
		return 0, nil
	}
	options.Engine = s.engine
	ended, err := s.client.Destroy(ctx, credential, options)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over(StateNone)
	s.took(ended.SetCookie)
	s.credential = Credential{}
	return ended.Destroyed, nil
}

func (s *RequestSession) destroyOthers(ctx context.Context, options DestroyOptions) (int, error) {
	options.Engine = s.engine
	credential := read(s, func() Credential { return s.credential })
	ended, err := s.client.Destroy(ctx, credential, options)
	if err != nil {
		return 0, err
	}
	return ended.Destroyed, nil
}
