package sessiondtest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/internal/daemontest"
	"github.com/sessiond/sessiond/clients/go/sessiondtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var users atomic.Int64

func someone() string { return fmt.Sprintf("user-%d", users.Add(1)) }

// The same behaviours are asked of the fake and of the daemon.
func worlds(t *testing.T, run func(t *testing.T, client *sessiond.Client, pass func(time.Duration))) {
	t.Run("fake", func(t *testing.T) {
		t.Parallel()
		fake := sessiondtest.New(&sessiondtest.Options{Engines: map[string]sessiondtest.Engine{
			"default": {},
			"short":   {CookieName: "short", Duration: 20 * time.Second, TouchGranularity: time.Millisecond, RollGrace: time.Second},
			"two":     {CookieName: "two", MaxSessionsPerPrincipal: 2},
			"small":   {CookieName: "small", MaxDataBytes: 5000},
		}})
		run(t, fake.Client, fake.Advance)
	})
	t.Run("daemon", func(t *testing.T) {
		t.Parallel()
		daemon := daemontest.Start(t, "",
			"engine.default.cookie.name=session", "engine.default.cookie.secure=false",
			"engine.short.cookie.name=short", "engine.short.cookie.secure=false", "engine.short.duration=2s", "engine.short.touch_granularity=1ms", "engine.short.roll_grace=1s",
			"engine.two.cookie.name=two", "engine.two.cookie.secure=false", "engine.two.max_sessions_per_principal=2",
			"engine.small.cookie.name=small", "engine.small.cookie.secure=false", "engine.small.max_data_bytes=5000")
		client, err := sessiond.New(daemon.Address, &sessiond.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close(t.Context()) })
		run(t, client, time.Sleep)
	})
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func equal[T any](t *testing.T, found, expected T) {
	t.Helper()
	if a, b := fmt.Sprintf("%v", found), fmt.Sprintf("%v", expected); a != b {
		t.Errorf("expected %s, found %s", b, a)
	}
}

func is(t *testing.T, err error, kinds ...error) {
	t.Helper()
	for _, kind := range kinds {
		if !errors.Is(err, kind) {
			t.Errorf("expected %v, found %v", kind, err)
		}
	}
}

func cookieOf(lines ...string) string {
	value, _, _ := strings.Cut(lines[len(lines)-1], ";")
	return value
}

func TestBehaviour(t *testing.T) {
	worlds(t, func(t *testing.T, c *sessiond.Client, pass func(time.Duration)) {
		ctx := t.Context()
		write, resolve, destroy := must[*sessiond.WriteResult](t), must[*sessiond.ResolveResult](t), must[*sessiond.DestroyResult](t)
		token := sessiond.TokenCredential
		state := func(credential sessiond.Credential, engine string) sessiond.State {
			t.Helper()
			return resolve(c.Resolve(ctx, credential, sessiond.ResolveOptions{Engine: engine})).State
		}

		// Whatever a browser sends breaks nothing.
		equal(t, state(sessiond.Credential{}, ""), sessiond.StateNone)
		equal(t, state(sessiond.CookieHeader("other=1; sessions=2; =; ;;"), ""), sessiond.StateNone)
		for _, header := range []string{"session=junk", "session=", "session=\xff\x00\x80", "session=" + strings.Repeat("x", 70_000)} {
			equal(t, state(sessiond.CookieHeader(header), ""), sessiond.StateInvalid)
		}

		// Create, merge, exact octets.
		created := write(c.Write(ctx, sessiond.Credential{}, sessiond.WriteOptions{Set: json.RawMessage(`{"big":12345678901234567890,"e":1.50,"b":{"c":2}}`)}))
		equal(t, created.Session.Version, 1)
		equal(t, cookieOf(created.SetCookie...), "session="+created.Token)
		write(c.Write(ctx, token(created.Token), sessiond.WriteOptions{Set: map[string]any{"b": "<new>", "t": "é"}, Unset: []string{"e", "never there"}}))
		found := resolve(c.Resolve(ctx, sessiond.CookieHeader("a=\xff; "+cookieOf(created.SetCookie...)+"; b=\""), sessiond.ResolveOptions{}))
		for _, part := range []string{`"big":12345678901234567890`, `"b":"<new>"`, `"t":"é"`} {
			if !strings.Contains(string(found.Session.Data), part) {
				t.Errorf("expected %s in %s", part, found.Session.Data)
			}
		}
		equal(t, resolve(c.Resolve(ctx, sessiond.Credential{}, sessiond.ResolveOptions{Create: true})).State, sessiond.StateCreated)

		// Parallel writes, and if_version.
		var group sync.WaitGroup
		var passed atomic.Int64
		for i := range 20 {
			group.Add(1)
			go func() {
				defer group.Done()
				if _, err := c.Write(ctx, token(created.Token), sessiond.WriteOptions{Set: map[string]any{fmt.Sprint("k", i): i}}); err != nil {
					t.Error(err)
				}
			}()
		}
		group.Wait()
		found = resolve(c.Resolve(ctx, token(created.Token), sessiond.ResolveOptions{}))
		equal(t, found.Session.Version, 22)
		for range 3 {
			group.Add(1)
			go func() {
				defer group.Done()
				if _, err := c.Write(ctx, token(created.Token), sessiond.WriteOptions{Set: map[string]any{"n": 1}, IfVersion: 22}); err == nil {
					passed.Add(1)
				} else {
					is(t, err, sessiond.ErrVersionMismatch, sessiond.ReasonVersionMismatch)
				}
			}()
		}
		group.Wait()
		equal(t, passed.Load(), 1)

		// Login, another user, the id from before.
		ann, bob := someone(), someone()
		login := write(c.Write(ctx, token(created.Token), sessiond.WriteOptions{Principal: &ann, Roll: true}))
		equal(t, state(token(created.Token), ""), sessiond.StateSuperseded)
		_, err := c.Write(ctx, token(created.Token), sessiond.WriteOptions{})
		is(t, err, sessiond.ErrSessionGone)
		other := write(c.Write(ctx, token(login.Token), sessiond.WriteOptions{Principal: &bob}))
		equal(t, string(resolve(c.Resolve(ctx, token(other.Token), sessiond.ResolveOptions{})).Session.Data), "{}")

		// Lists, others, named, all.
		var tokens []string
		for range 3 {
			tokens = append(tokens, write(c.Write(ctx, sessiond.Credential{}, sessiond.WriteOptions{Principal: &ann, Label: &ann})).Token)
		}
		list := must[*sessiond.ListResult](t)(c.ListSessions(ctx, token(tokens[0]), sessiond.ListOptions{}))
		equal(t, len(list.Sessions), 3)
		equal(t, list.Sessions[0].Label, ann)
		second := resolve(c.Resolve(ctx, token(tokens[1]), sessiond.ResolveOptions{})).Session.ID
		equal(t, *destroy(c.Destroy(ctx, token(tokens[0]), sessiond.DestroyOptions{SessionIDs: []string{second, "AAAAAAAAAAAAAAAA"}})), sessiond.DestroyResult{Destroyed: 1})
		equal(t, *destroy(c.Destroy(ctx, token(tokens[0]), sessiond.DestroyOptions{Scope: sessiond.ScopeOthers})), sessiond.DestroyResult{Destroyed: 1})
		all := destroy(c.Destroy(ctx, token(tokens[0]), sessiond.DestroyOptions{Scope: sessiond.ScopeAll}))
		equal(t, all.Destroyed, 1)
		equal(t, all.SetCookie, []string{"session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; SameSite=Lax"})
		equal(t, state(token(tokens[2]), ""), sessiond.StateNotFound)

		// Limits.
		for range 2 {
			write(c.Write(ctx, sessiond.Credential{}, sessiond.WriteOptions{Engine: "two", Principal: &ann}))
		}
		_, err = c.Write(ctx, sessiond.Credential{}, sessiond.WriteOptions{Engine: "two", Principal: &ann})
		is(t, err, sessiond.ErrTooManySessions)
		_, err = c.Write(ctx, sessiond.Credential{}, sessiond.WriteOptions{Engine: "small", Set: map[string]any{"a": strings.Repeat("x", 5000)}})
		is(t, err, sessiond.ErrDataTooLarge, sessiond.ErrInvalidArgument, sessiond.ReasonDataTooLarge)
		_, err = c.Resolve(ctx, sessiond.Credential{}, sessiond.ResolveOptions{Engine: "none"})
		is(t, err, sessiond.ReasonUnknownEngine)

		// Lifetimes.
		brief := write(c.Write(ctx, sessiond.Credential{}, sessiond.WriteOptions{Engine: "short"}))
		rolled := write(c.Write(ctx, token(brief.Token), sessiond.WriteOptions{Engine: "short", Roll: true}))
		touched := must[*sessiond.TouchResult](t)(c.Touch(ctx, token(rolled.Token), sessiond.TouchOptions{Engine: "short", Duration: 1500*time.Millisecond + 1}))
		equal(t, touched.Session.Duration, 1501*time.Millisecond)
		pass(1600 * time.Millisecond)
		if expired := state(token(rolled.Token), "short"); expired != sessiond.StateExpired && expired != sessiond.StateNotFound {
			t.Errorf("expected the session to be over, found %s", expired)
		}
		equal(t, destroy(c.Destroy(ctx, token(brief.Token), sessiond.DestroyOptions{Engine: "short"})).Destroyed, 0)

		// What is refused before it is sent, and names no data.
		long := strings.Repeat("x", 257)
		for what, options := range map[string]sessiond.WriteOptions{
			"NaN": {Set: map[string]any{"key": math.NaN(), "note": "secret"}}, "a function": {Set: map[string]any{"key": func() {}}},
			"octets": {Set: map[string]any{"key": "secret\xff"}}, "a list": {Set: []int{1}}, "raw": {Set: json.RawMessage(`{"secret":`)},
			"principal": {Principal: &long}, "unset": {Unset: slices.Repeat([]string{"k"}, 1001)}, "if_version": {IfVersion: 1}, "duration": {Duration: -1},
		} {
			_, err := c.Write(ctx, sessiond.Credential{}, options)
			is(t, err, sessiond.ErrInvalidArgument)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: expected no data in %v", what, err)
			}
		}
		for _, ids := range [][]string{{}, {"unknown"}} {
			_, err = c.Destroy(ctx, token(other.Token), sessiond.DestroyOptions{SessionIDs: ids})
			is(t, err, sessiond.ErrInvalidArgument)
		}
		equal(t, state(token(other.Token), ""), sessiond.StateActive)
	})
}

func TestRequestSession(t *testing.T) {
	worlds(t, func(t *testing.T, c *sessiond.Client, _ func(time.Duration)) {
		ctx := t.Context()
		open := func(header string) *sessiond.RequestSession {
			t.Helper()
			return must[*sessiond.RequestSession](t)(sessiond.OpenSession(ctx, c, header, ""))
		}
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		s := open("a=b")
		ok(s.Put("n", 1))
		saved := must[bool](t)
		equal(t, saved(s.Save(ctx)), true)
		header := cookieOf(s.SetCookie())

		// Nothing of parallel updates is lost.
		var group sync.WaitGroup
		for range 12 {
			group.Add(1)
			go func() {
				defer group.Done()
				s, err := sessiond.OpenSession(ctx, c, header, "")
				if err == nil {
					_, err = s.Update(ctx, func(data sessiond.Data) error {
						var n int
						if _, err := data.Get("n", &n); err != nil {
							return err
						}
						return data.Set("n", n+1)
					})
				}
				if err != nil {
					t.Error(err)
				}
			}()
		}
		group.Wait()
		equal(t, string(open(header).Data()["n"]), "13")

		// Unsaved changes of other keys stay, and a key that does not change is not written.
		s = open(header)
		ok(s.Put("mine", 1))
		ok(s.Put("n", 13))
		must[sessiond.Data](t)(s.Update(ctx, func(data sessiond.Data) error { return data.Set("theirs", true) }))
		equal(t, slices.Sorted(maps.Keys(s.Data())), []string{"mine", "n", "theirs"})
		equal(t, saved(s.Save(ctx)), true)
		equal(t, s.Changed(), false)

		// Login rolls; the old id is nobody's and changes nothing; a logout works.
		inFlight, ann := open(header), someone()
		ok(s.Login(ctx, ann, sessiond.LoginOptions{Label: "Firefox"}))
		after := cookieOf(s.SetCookie())
		old := open(header)
		equal(t, []any{old.Superseded(), old.Live(), old.SetCookie()}, []any{true, false, ""})
		ok(old.Put("x", 1))
		_, err := old.Save(ctx)
		is(t, err, sessiond.ErrSuperseded)
		is(t, old.Login(ctx, ann, sessiond.LoginOptions{}), sessiond.ErrSuperseded)
		ok(inFlight.Put("x", 1))
		_, err = inFlight.Save(ctx)
		is(t, err, sessiond.ErrSuperseded)
		equal(t, inFlight.SetCookie(), "")
		equal(t, open(after).Principal(), ann)
		devices := must[[]sessiond.Device](t)(s.Devices(ctx))
		equal(t, []any{len(devices), devices[0].Current, devices[0].Label}, []any{1, true, "Firefox"})

		// What ended is not made again.
		gone := open(after)
		equal(t, saved(s.Logout(ctx)), true)
		equal(t, strings.HasPrefix(s.SetCookie(), "session=; Max-Age=0"), true)
		ok(gone.Put("x", 1))
		equal(t, saved(gone.Save(ctx)), false)
		_, err = gone.Update(ctx, func(data sessiond.Data) error { return data.Set("y", 1) })
		is(t, err, sessiond.ErrSessionGone)
		equal(t, open(after).State(), sessiond.StateNotFound)

		// Another user finds nothing of the one before.
		s = open("")
		ok(s.Put("cart", []string{"tea"}))
		ok(s.Login(ctx, someone(), sessiond.LoginOptions{}))
		ok(s.Login(ctx, someone(), sessiond.LoginOptions{}))
		equal(t, len(open(cookieOf(s.SetCookie())).Data()), 0)
	})
}

func TestFail(t *testing.T) {
	fake := sessiondtest.New(nil)
	header := fake.Cookie("ann", map[string]any{"n": 1})
	fake.Fail(sessiond.ReasonStoreUnavailable, "Resolve", 1)
	_, err := sessiond.OpenSession(t.Context(), fake.Client, header, "")
	is(t, err, sessiond.ErrUnavailable, sessiond.ReasonStoreUnavailable)
	s := must[*sessiond.RequestSession](t)(sessiond.OpenSession(t.Context(), fake.Client, header, ""))
	equal(t, s.Principal(), "ann")
	fake.Fail(sessiond.ReasonStoreUnavailable, "Write", 0)
	runs := 0
	_, err = s.Update(t.Context(), func(data sessiond.Data) error { runs++; return data.Set("n", 2) })
	var failure *sessiond.Error
	equal(t, errors.As(err, &failure) && failure.Applied == sessiond.AppliedUnknown && runs == 1, true)
}
