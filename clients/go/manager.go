package sessiond

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
)

// Manager gives the handlers of net/http their sessions. Make one with [NewManager], wrap your handler with
// LoadAndSave, and pass the context of the request to the other methods. They panic if the context is not of a request
// that came through LoadAndSave, because that is a mistake of the program.
type Manager struct {
	// ErrorFunc answers a request whose session could not be found or saved. Handlers may call it, too. Default:
	// [DefaultError].
	ErrorFunc func(w http.ResponseWriter, r *http.Request, err error)

	client *Client
	engine string
	key    *contextKey
}

type contextKey struct{ manager string }

// NewManager makes a manager for the sessions of the client's engine.
func NewManager(client *Client) *Manager { return NewEngineManager(client, "") }

// NewEngineManager makes a manager for the sessions of another engine of the daemon.
func NewEngineManager(client *Client, engine string) *Manager {
	return &Manager{client: client, engine: engine, key: &contextKey{manager: engine}, ErrorFunc: DefaultError}
}

// Client is the client that the manager uses.
func (m *Manager) Client() *Client { return m.client }

// DefaultError answers with [HTTPStatus] and, while the daemon or its store is away, with Retry-After.
func DefaultError(w http.ResponseWriter, _ *http.Request, err error) {
	SetErrorHeaders(w.Header(), err)
	status := HTTPStatus(err)
	http.Error(w, http.StatusText(status), status)
}

// SetErrorHeaders sets Retry-After, if the answer to err has it, and Cache-Control. It is for an ErrorFunc of your own.
func SetErrorHeaders(header http.Header, err error) {
	header.Set("Cache-Control", "no-store")
	if HTTPStatus(err) == http.StatusServiceUnavailable {
		header.Set("Retry-After", retryAfter(err))
	}
}

// LoadAndSave is the middleware. It finds the session of the request, and writes what the handlers change before the
// response head goes out, in one write, and only if something changed. A visitor without the session cookie costs no
// call.
//
// If the daemon or its store is away, ErrorFunc answers 503 with Retry-After: the request is never served as nobody's.
// If a change has an id from before a login, ErrorFunc answers 409; what a safe request (GET, HEAD) stores on the way is
// dropped instead.
//
// What is put after the head went out is saved when the handler returns, if there is a session; it cannot begin one.
func (m *Manager) LoadAndSave(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, err := OpenSession(r.Context(), m.client, strings.Join(r.Header["Cookie"], "; "), m.engine)
		if err != nil {
			m.fail(w, r, err)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), m.key, session))
		head := &head{ResponseWriter: w, request: r, session: session, manager: m}
		defer head.abandoned()
		next.ServeHTTP(wrap(head), r)
		head.finish()
	})
}

func (m *Manager) fail(w http.ResponseWriter, r *http.Request, err error) {
	if HTTPStatus(err) == http.StatusInternalServerError {
		m.client.logger().ErrorContext(r.Context(), "session failed", "error", err)
	}
	m.ErrorFunc(w, r, err)
}

// Session is the session of a request. It has everything that the methods of Manager have, and more.
func (m *Manager) Session(ctx context.Context) *RequestSession {
	session, ok := ctx.Value(m.key).(*RequestSession)
	if !ok {
		panic("sessiond: no session in this context: wrap the handler with LoadAndSave, and pass the request's context")
	}
	return session
}

// Put keeps a value under a key: whatever encoding/json can write. It returns an error if it cannot; if you do not look
// at it, ErrorFunc gets it at the end of the request.
func (m *Manager) Put(ctx context.Context, key string, value any) error {
	return m.Session(ctx).Put(key, value)
}

// Get decodes the value of a key as encoding/json decodes into an any: numbers are float64. It returns nil if the key is
// not there. The function [Get] decodes into a type.
func (m *Manager) Get(ctx context.Context, key string) any {
	value, _ := Get[any](ctx, m, key)
	return value
}

// GetString returns the value of a key, or "" if there is none, or one that is no string.
func (m *Manager) GetString(ctx context.Context, key string) string {
	value, _ := Get[string](ctx, m, key)
	return value
}

// GetInt returns the value of a key, or 0 if there is none, or one that is no integer.
func (m *Manager) GetInt(ctx context.Context, key string) int {
	value, _ := Get[int](ctx, m, key)
	return value
}

// GetFloat returns the value of a key, or 0 if there is none, or one that is no number.
func (m *Manager) GetFloat(ctx context.Context, key string) float64 {
	value, _ := Get[float64](ctx, m, key)
	return value
}

// GetBool returns the value of a key, or false if there is none, or one that is no boolean.
func (m *Manager) GetBool(ctx context.Context, key string) bool {
	value, _ := Get[bool](ctx, m, key)
	return value
}

// GetTime returns the value of a key, or the zero time if there is none, or one that is no time.
func (m *Manager) GetTime(ctx context.Context, key string) time.Time {
	value, _ := Get[time.Time](ctx, m, key)
	return value
}

// Exists reports whether the key is there.
func (m *Manager) Exists(ctx context.Context, key string) bool {
	return m.Session(ctx).value(key) != nil
}

// Keys returns the keys in order.
func (m *Manager) Keys(ctx context.Context) []string { return m.Session(ctx).Keys() }

// Remove removes a key.
func (m *Manager) Remove(ctx context.Context, key string) { m.Session(ctx).Remove(key) }

// Clear removes all keys. The session stays.
func (m *Manager) Clear(ctx context.Context) { m.Session(ctx).Clear() }

// Pop takes a value: of parallel requests one gets it. It is nil if the key is not there. The function [Pop] decodes
// into a type.
func (m *Manager) Pop(ctx context.Context, key string) (any, error) {
	value, _, err := Pop[any](ctx, m, key)
	return value, err
}

// PopString takes a string, as Pop. It is "" if the key is not there.
func (m *Manager) PopString(ctx context.Context, key string) (string, error) {
	value, _, err := Pop[string](ctx, m, key)
	return value, err
}

// Live reports whether there is a session.
func (m *Manager) Live(ctx context.Context) bool { return m.Session(ctx).Live() }

// ID is the public id of the session, not a credential, safe to log. Empty: there is no session.
func (m *Manager) ID(ctx context.Context) string { return m.Session(ctx).ID() }

// Principal is whom the session belongs to. Empty: nobody.
func (m *Manager) Principal(ctx context.Context) string { return m.Session(ctx).Principal() }

// RenewToken gives the browser a new id for the same session: do it at every change of privilege. Login does it itself.
func (m *Manager) RenewToken(ctx context.Context) error { return m.Session(ctx).Roll(ctx) }

// Destroy ends the session and deletes the cookie. What is put afterwards begins a new session.
func (m *Manager) Destroy(ctx context.Context) error {
	_, err := m.Logout(ctx)
	return err
}

// RememberMe says whether the cookie outlives the browser.
func (m *Manager) RememberMe(ctx context.Context, yes bool) error {
	return m.Session(ctx).SetPersistent(ctx, yes)
}

// Login gives the session to a user, under a new id; see [RequestSession.Login].
func (m *Manager) Login(ctx context.Context, principal string, options LoginOptions) error {
	return m.Session(ctx).Login(ctx, principal, options)
}

// Logout ends the session and deletes the cookie. It reports whether there was one.
func (m *Manager) Logout(ctx context.Context) (bool, error) { return m.Session(ctx).Logout(ctx) }

// LogoutOthers ends the user's other sessions. It returns how many there were.
func (m *Manager) LogoutOthers(ctx context.Context) (int, error) {
	return m.Session(ctx).LogoutOthers(ctx)
}

// LogoutEverywhere ends all of the user's sessions and deletes the cookie. It returns how many there were.
func (m *Manager) LogoutEverywhere(ctx context.Context) (int, error) {
	return m.Session(ctx).LogoutEverywhere(ctx)
}

// Devices lists the user's sessions.
func (m *Manager) Devices(ctx context.Context) ([]Device, error) { return m.Session(ctx).Devices(ctx) }

// End ends sessions of the same user by their public ids. It returns how many were live.
func (m *Manager) End(ctx context.Context, ids ...string) (int, error) {
	return m.Session(ctx).End(ctx, ids...)
}

// Get decodes the value of a key. It reports false if the key is not there, or its value is none of a T.
func Get[T any](ctx context.Context, m *Manager, key string) (T, bool) {
	var value T
	text := m.Session(ctx).value(key)
	if text == nil {
		return value, false
	}
	if decode(key, text, &value) != nil {
		var none T
		return none, false
	}
	return value, true
}

// Pop takes the value of a key from the stored session at once: of parallel requests one gets it. It reports false if
// the key is not there, or the session has ended, or is not this visitor's any more.
func Pop[T any](ctx context.Context, m *Manager, key string) (T, bool, error) {
	var value T
	s := m.Session(ctx)
	if s.value(key) == nil {
		return value, false, nil
	}
	found := false
	_, err := s.Update(ctx, func(data Data) (err error) {
		var none T
		value = none // it may be another attempt, which finds nothing
		if found, err = data.Get(key, &value); err == nil {
			delete(data, key)
		}
		return err
	})
	var none T
	switch {
	case errors.Is(err, ErrSessionGone), errors.Is(err, ErrSuperseded):
		return none, false, nil
	case err != nil:
		return none, false, err
	case !found:
		// It was put in this request and is not stored yet.
		if text := s.value(key); text != nil {
			found, err = true, decode(key, text, &value)
		}
	}
	s.Remove(key)
	return value, found, err
}

// Update reads, changes and writes the value of a key so that parallel requests lose nothing: the way to count and to
// append. change gets the stored value, or the zero value, and returns the new one. It may run again while other
// requests are faster. Update creates the session if there is none, and returns the new value.
//
// For several keys at once, and to leave off, see [RequestSession.Update]; the errors are told there.
func Update[T any](ctx context.Context, m *Manager, key string, change func(value T) T) (T, error) {
	var after T
	_, err := m.Session(ctx).Update(ctx, func(data Data) error {
		var before T
		if _, err := data.Get(key, &before); err != nil {
			return err
		}
		after = change(before)
		return data.Set(key, after)
	})
	if err != nil {
		var none T
		return none, err
	}
	return after, nil
}
