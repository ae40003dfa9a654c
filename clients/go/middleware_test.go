package sessiond_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/internal/daemontest"
	"github.com/sessiond/sessiond/clients/go/sessiondtest"
)

type secretive struct{}

func (secretive) MarshalJSON() ([]byte, error) { return nil, errors.New("top secret") }

type sloppy struct{}

func (sloppy) MarshalJSON() ([]byte, error) { return []byte(`{"top secret":`), nil }

// What JSON cannot hold is refused by Put and, if nobody looks at that, by the answer. Nothing of it is stored.
func TestWhatJSONCannotHold(t *testing.T) {
	t.Parallel()
	type node struct{ Next *node }
	ring := &node{}
	ring.Next = ring
	loop := map[string]any{"note": "top secret"}
	loop["loop"] = loop
	list := []any{nil}
	list[0] = list

	fake := sessiondtest.New(nil)
	m := sessiond.NewManager(fake.Client)
	cookie := fake.Cookie("ann", map[string]any{"kept": 1})
	for what, value := range map[string]any{
		"a function": func() {}, "a channel": make(chan int), "a complex number": 1i, "NaN": math.NaN(), "infinity": math.Inf(1),
		"NaN inside": map[string]any{"note": "top secret", "n": []float64{math.NaN()}}, "a ring": ring, "a map with itself": loop, "a list with itself": list,
		"octets that are no text": "top secret\xff", "octets inside": []string{"top secret", "\xc3\x28"}, "octets as a key": map[string]int{"top secret\xff": 1},
		"a marshaler that fails": secretive{}, "a marshaler of nonsense": sloppy{}, "a raw message of nonsense": json.RawMessage(`{"top secret"`),
	} {
		response := serve(t, m, func(w http.ResponseWriter, r *http.Request) {
			err := m.Put(r.Context(), "key", value)
			expect(t, what, err, sessiond.ReasonInvalidData, sessiond.NotApplied)
			if !errors.Is(err, sessiond.ErrInvalidArgument) || !strings.Contains(err.Error(), `"key"`) || strings.Contains(err.Error(), "top secret") {
				t.Errorf("%s: expected an error that names the key and no data, found %v", what, err)
			}
			if m.Exists(r.Context(), "key") {
				t.Errorf("%s: expected it not to be there", what)
			}
			m.Put(r.Context(), "other", 1)
			io.WriteString(w, "all is well")
		}, "POST", cookie)
		if text, _ := io.ReadAll(response.Body); response.StatusCode != 500 || strings.Contains(string(text), "well") {
			t.Errorf("%s: expected 500, found %d %s", what, response.StatusCode, text)
		}
		// Another value takes its place.
		response = serve(t, m, func(w http.ResponseWriter, r *http.Request) {
			m.Put(r.Context(), "key", value)
			m.Remove(r.Context(), "key")
		}, "POST", cookie)
		if response.StatusCode != 200 {
			t.Errorf("%s: expected 200 without it, found %d", what, response.StatusCode)
		}
	}
	response := serve(t, m, func(w http.ResponseWriter, r *http.Request) { m.Put(r.Context(), "a\xffb", 1) }, "POST", cookie)
	if response.StatusCode != 500 {
		t.Errorf("a key that is no text: expected 500, found %d", response.StatusCode)
	}
	if _, err := sessiond.NewManager(fake.Client).Client().Write(t.Context(), nobody, sessiond.WriteOptions{Set: map[string]any{"a\xffb": 1}}); !errors.Is(err, sessiond.ErrInvalidArgument) {
		t.Errorf("a key that is no text: expected ErrInvalidArgument, found %v", err)
	}
	if stored := fake.Sessions(""); len(stored) != 1 || stored[0].Version != 1 || len(stored[0].Data) != 1 {
		t.Errorf("expected the session as it was, found %+v", stored)
	}
}

// What JSON can hold comes back as it was.
func TestWhatJSONCanHold(t *testing.T) {
	t.Parallel()
	fake := sessiondtest.New(nil)
	m := sessiond.NewManager(fake.Client)
	cookie := fake.Cookie("", nil)
	type item struct {
		Name  string  `json:"name"`
		Price float64 `json:"price"`
	}
	moment := time.Date(2026, 5, 4, 3, 2, 1, 987654321, time.UTC)
	serve(t, m, func(w http.ResponseWriter, r *http.Request) {
		for key, value := range map[string]any{
			"text": "<b>&amp; \u2028 é 🍵 \ufffd \\ufffd", "int": int64(math.MaxInt64), "float": 1.5, "bool": true, "time": moment,
			"octets": []byte{0, 255}, "item": item{"tea", 2.5}, "null": nil, "": "no name",
		} {
			if err := m.Put(r.Context(), key, value); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		}
	}, "POST", cookie)
	serve(t, m, func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		octets, _ := sessiond.Get[[]byte](ctx, m, "octets")
		found, _ := sessiond.Get[item](ctx, m, "item")
		big, _ := sessiond.Get[int64](ctx, m, "int")
		for what, pair := range map[string][2]any{
			"text": {m.GetString(ctx, "text"), "<b>&amp; \u2028 é 🍵 \ufffd \\ufffd"}, "int": {big, int64(math.MaxInt64)}, "float": {m.GetFloat(ctx, "float"), 1.5},
			"bool": {m.GetBool(ctx, "bool"), true}, "time": {m.GetTime(ctx, "time").Equal(moment), true}, "octets": {octets, []byte{0, 255}},
			"item": {found, item{"tea", 2.5}}, "null": {m.Get(ctx, "null"), nil}, "null is there": {m.Exists(ctx, "null"), true}, "no name": {m.Get(ctx, ""), "no name"},
			// Another type is as if it were not there.
			"a text as a number": {m.GetInt(ctx, "text"), 0}, "a number as a text": {m.GetString(ctx, "int"), ""}, "a number as a time": {m.GetTime(ctx, "float").IsZero(), true},
			"what is not there": {m.Get(ctx, "nothing"), nil}, "nor exists": {m.Exists(ctx, "nothing"), false},
			"keys": {m.Keys(ctx), []string{"", "bool", "float", "int", "item", "null", "octets", "text", "time"}},
		} {
			if !reflect.DeepEqual(pair[0], pair[1]) {
				t.Errorf("%s: expected %#v, found %#v", what, pair[1], pair[0])
			}
		}
		_, err := sessiond.Update(ctx, m, "float", func(text string) string { return text })
		if expect(t, "a number as a text", err, sessiond.ReasonInvalidData, sessiond.NotApplied); strings.Contains(err.Error(), "1.5") {
			t.Errorf("expected no data in %v", err)
		}
		text, err := m.PopString(ctx, "text")
		if err != nil || text == "" || m.Exists(ctx, "text") {
			t.Errorf("expected the text once, found %q %v", text, err)
		}
		if text, err = m.PopString(ctx, "text"); err != nil || text != "" {
			t.Errorf("expected nothing, found %q %v", text, err)
		}
		m.Clear(ctx)
		if keys := m.Keys(ctx); len(keys) != 0 {
			t.Errorf("expected no keys, found %v", keys)
		}
	}, "POST", cookie)
	if stored := fake.Sessions(""); len(stored[0].Data) != 0 {
		t.Errorf("expected no data, found %v", stored[0].Data)
	}
}

// Over max_data_bytes: 413, and the session as it was.
func TestTooMuchInAHandler(t *testing.T) {
	t.Parallel()
	fake := sessiondtest.New(&sessiondtest.Options{Engines: map[string]sessiondtest.Engine{"default": {MaxDataBytes: 5000}}})
	m := sessiond.NewManager(fake.Client)
	cookie := fake.Cookie("ann", map[string]any{"kept": 1})
	response := serve(t, m, func(w http.ResponseWriter, r *http.Request) {
		m.Put(r.Context(), "a", strings.Repeat("x", 5000))
		http.Redirect(w, r, "/thanks", http.StatusSeeOther)
	}, "POST", cookie)
	if response.StatusCode != 413 || response.Header.Get("Location") != "" || response.Header["Set-Cookie"] != nil {
		t.Errorf("expected 413, found %d %v", response.StatusCode, response.Header)
	}
	if stored := fake.Sessions(""); stored[0].Version != 1 {
		t.Errorf("expected the session as it was, found %+v", stored)
	}
}

// After the head went out: a session that is there is saved, none begins, and no cookie changes.
func TestAfterTheHead(t *testing.T) {
	t.Parallel()
	log := newTold()
	fake := sessiondtest.New(&sessiondtest.Options{Client: &sessiond.Options{Logger: log.logger()}})
	m := sessiond.NewManager(fake.Client)
	cookie := fake.Cookie("", map[string]any{"n": 1})
	late := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		m.Put(r.Context(), "n", 2)
	}
	if response := serve(t, m, late, "POST", cookie); response.StatusCode != 202 || string(fake.Sessions("")[0].Data["n"]) != "2" {
		t.Errorf("expected the change to be saved, found %d %v", response.StatusCode, fake.Sessions(""))
	}
	if response := serve(t, m, late, "POST", ""); response.StatusCode != 202 || response.Header["Set-Cookie"] != nil || len(fake.Sessions("")) != 1 {
		t.Errorf("expected no session to begin, found %d %v", response.StatusCode, response.Header)
	}
	select {
	case line := <-log.news:
		if !strings.Contains(line, "response head") {
			t.Errorf("expected it to be told, found %s", line)
		}
	default:
		t.Error("expected it to be told")
	}
	serve(t, m, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello")
		expect(t, "a login", m.Login(r.Context(), "ann", sessiond.LoginOptions{}), sessiond.ReasonHeadSent, sessiond.NotApplied)
		expect(t, "a new id", m.RenewToken(r.Context()), sessiond.ReasonHeadSent, sessiond.NotApplied)
	}, "POST", cookie)
	if stored := fake.Sessions("")[0]; stored.Principal != "" || stored.Version != 2 {
		t.Errorf("expected the session as it was, found %+v", stored)
	}
}

// A handler that panics saves nothing. A login that was done before keeps its cookie, whoever answers.
func TestPanic(t *testing.T) {
	t.Parallel()
	fake := sessiondtest.New(nil)
	m := sessiond.NewManager(fake.Client)
	cookie := fake.Cookie("", map[string]any{"n": 1})
	recorder := httptest.NewRecorder()
	request := httptest.NewRequest("POST", "/", nil)
	request.Header.Set("Cookie", cookie)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("expected the panic to go on")
			}
			recorder.WriteHeader(500)
		}()
		m.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := m.Login(r.Context(), "ann", sessiond.LoginOptions{}); err != nil {
				t.Error(err)
			}
			m.Put(r.Context(), "n", 2)
			panic("a mistake")
		})).ServeHTTP(recorder, request)
	}()
	stored := fake.Sessions("")[0]
	if lines := recorder.Result().Header["Set-Cookie"]; len(lines) != 1 || stored.Principal != "ann" || string(stored.Data["n"]) != "1" {
		t.Errorf("expected the cookie of the login, and nothing else saved, found %v %+v", lines, stored)
	}
}

// Two engines beside each other, each with its cookie.
func TestTwoManagers(t *testing.T) {
	t.Parallel()
	fake := sessiondtest.New(&sessiondtest.Options{Engines: map[string]sessiondtest.Engine{"default": {}, "admin": {CookieName: "admin", SessionCookie: true}}})
	shop, admin := sessiond.NewManager(fake.Client), sessiond.NewEngineManager(fake.Client, "admin")
	recorder := httptest.NewRecorder()
	shop.LoadAndSave(admin.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shop.Put(r.Context(), "where", "shop")
		admin.Put(r.Context(), "where", "admin")
		if err := admin.RememberMe(r.Context(), true); err != nil {
			t.Error(err)
		}
	}))).ServeHTTP(recorder, httptest.NewRequest("POST", "/", nil))
	lines := recorder.Result().Header["Set-Cookie"]
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "admin=") || !strings.Contains(lines[0], "Max-Age=") || !strings.HasPrefix(lines[1], "session=") {
		t.Errorf("expected a cookie of each, found %v", lines)
	}
	for engine, where := range map[string]string{"default": `"shop"`, "admin": `"admin"`} {
		if stored := fake.Sessions(engine); len(stored) != 1 || string(stored[0].Data["where"]) != where {
			t.Errorf("%s: expected %s, found %+v", engine, where, stored)
		}
	}
	_, err := sessiond.OpenSession(t.Context(), fake.Client, "a=b", "none")
	expect(t, "an engine that is not there", err, sessiond.ReasonUnknownEngine, sessiond.NotApplied)
	defer func() {
		if recover() == nil {
			t.Error("expected a panic without LoadAndSave")
		}
	}()
	shop.Put(t.Context(), "a", 1)
}

// Many visitors at once, over a real daemon: each finds what is its own, whatever else its Cookie header has.
func TestVisitors(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t, "", "engine.default.cookie.name=session", "engine.default.cookie.secure=false")
	m := sessiond.NewManager(connect(t, daemon.Address, sessiond.Options{}))
	server := httptest.NewServer(m.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("name")
		switch before := m.GetString(r.Context(), "name"); {
		case before == "" && r.Method == http.MethodPost:
			m.Put(r.Context(), "name", name)
		case before != name:
			t.Errorf("expected the session of %q, found %q", name, before)
		}
		count, err := sessiond.Update(r.Context(), m, "count", func(n int) int { return n + 1 })
		if err != nil {
			m.ErrorFunc(w, r, err)
			return
		}
		fmt.Fprint(w, count)
	})))
	defer server.Close()
	for _, err := range parallel(40, func(i int) error {
		jar, _ := cookiejar.New(nil)
		browser := &http.Client{Jar: jar, Transport: server.Client().Transport}
		for count := 1; count <= 5; count++ {
			method := http.MethodGet
			if count == 1 {
				method = http.MethodPost
			}
			request, _ := http.NewRequest(method, fmt.Sprintf("%s/?name=visitor-%d", server.URL, i), nil)
			request.Header.Set("Cookie", "junk=\xff\x80; session=nonsense")
			response, err := browser.Do(request)
			if err != nil {
				return err
			}
			text, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if cookies := len(response.Header["Set-Cookie"]); response.StatusCode != 200 || string(text) != fmt.Sprint(count) || cookies != map[bool]int{true: 1}[count == 1] {
				return fmt.Errorf("expected visit %d, found %d %s with %d cookies", count, response.StatusCode, text, cookies)
			}
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
}

// A daemon that stands still: 503 with Retry-After in good time, nobody is logged out, and all goes on afterwards.
func TestStandstillOfTheSite(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t, "", "engine.default.cookie.name=session", "engine.default.cookie.secure=false")
	m := sessiond.NewManager(connect(t, daemon.Address, sessiond.Options{Timeout: 3 * time.Second}))
	hello := func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, m.Principal(r.Context())) }
	response := serve(t, m, func(w http.ResponseWriter, r *http.Request) {
		if err := m.Login(r.Context(), "ann", sessiond.LoginOptions{}); err != nil {
			t.Error(err)
		}
	}, "POST", "")
	cookie, _, _ := strings.Cut(response.Header.Get("Set-Cookie"), ";")
	daemon.Pause()
	for _, err := range parallel(20, func(int) error {
		response := serve(t, m, hello, "GET", cookie)
		if response.StatusCode != 503 || response.Header.Get("Retry-After") != "1" || response.Header["Set-Cookie"] != nil || response.Header.Get("Cache-Control") != "no-store" {
			return fmt.Errorf("expected 503, found %d %v", response.StatusCode, response.Header)
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	// A visitor without a cookie needs no daemon.
	if response := serve(t, m, hello, "GET", "other=1"); response.StatusCode != 200 {
		t.Errorf("expected 200, found %d", response.StatusCode)
	}
	daemon.Signal(syscall.SIGCONT)
	for end := time.Now().Add(30 * time.Second); ; {
		response := serve(t, m, hello, "GET", cookie)
		if text, _ := io.ReadAll(response.Body); response.StatusCode == 200 && string(text) == "ann" {
			break
		} else if response.StatusCode != 503 || time.Now().After(end) {
			t.Fatalf("expected ann to be there again, found %d %s", response.StatusCode, text)
		}
	}
}

// FuzzText: a text is kept as it is, or refused if it is not UTF-8.
func FuzzText(f *testing.F) {
	for _, text := range []string{"", "tea", "<&>\u2028", "\ufffd", `\ufffd`, `\\ufffd`, "\xff", "a\xc3", "\\\xff", "\x00\x1f\x7f", "\ud7ff🍵"} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, key, text string) {
		data := sessiond.Data{}
		valid := strings.ToValidUTF8(text, "") == text
		if err := data.Set(key, []string{text}); (err == nil) != valid {
			t.Fatalf("%q: expected an error if it is not UTF-8, found %v", text, err)
		}
		if !valid {
			return
		}
		var found []string
		if _, err := data.Get(key, &found); err != nil || len(found) != 1 || found[0] != text {
			t.Fatalf("expected %q, found %q %v", text, found, err)
		}
	})
}

// FuzzData: the values of stored data are found as encoding/json finds them, and what is no object is refused.
func FuzzData(f *testing.F) {
	for _, text := range []string{
		`{}`, ` { } `, `{"a":1}`, `{"a":"x","b":[1,{"c":"]}\\\""}],"c":null}`, "{\"a\" :\t-1.5e3 ,\n\"a\": true\r}",
		`{"\u00e9":"é","":{}}`, `{"a":9223372036854775807}`, ``, `[]`, `null`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`,
		`{,}`, `{"a" 1}`, `{"a":}`, `{"a":"x}`, `{"a":[}`, `{"a":{"b":1}`, `{a:1}`, `{"a":1}}`, `{"a":1} x`, `{"a":1 "b":2}`, `{"a":"\`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found, err := sessiond.ParseData([]byte(text))
		if !strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") {
			if (err == nil) != (text == "") {
				t.Fatalf("%q: expected an error if it is no object, found %v", text, err)
			}
			return
		}
		var expected sessiond.Data
		if !utf8.ValidString(text) || json.Unmarshal([]byte(text), &expected) != nil {
			return // the daemon stores nothing like this: no panic is enough
		}
		if err != nil || !maps.EqualFunc(found, expected, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
			t.Fatalf("%q: expected %q, found %q %v", text, expected, found, err)
		}
	})
}

func TestPlainValues(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`"tea"`, `"é\u0041"`, `""`, `0`, `7`, `-7`, `007`, `123456789`, `9223372036854775807`, `1.0`, `1e3`, `true`, `null`, `"`, ``, `[]`} {
		data := sessiond.Data{"a": json.RawMessage(text)}
		var word, expectedWord string
		var number, expectedNumber int
		_, err := data.Get("a", &word)
		if expected := json.Unmarshal([]byte(text), &expectedWord); (err == nil) != (expected == nil) || word != expectedWord {
			t.Errorf("%s: expected the string %q %v, found %q %v", text, expectedWord, expected, word, err)
		}
		_, err = data.Get("a", &number)
		if expected := json.Unmarshal([]byte(text), &expectedNumber); (err == nil) != (expected == nil) || expected == nil && number != expectedNumber {
			t.Errorf("%s: expected the integer %d %v, found %d %v", text, expectedNumber, expected, number, err)
		}
	}
}
