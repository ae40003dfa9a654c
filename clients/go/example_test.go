package sessiond_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/sessiondtest"
)

// A page that counts, and a browser that visits it twice.
func Example() {
	fake := sessiondtest.New(nil) // sessiond.New("127.0.0.1:50051", nil) in production
	sessions := sessiond.NewManager(fake.Client)
	site := sessions.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visits, err := sessiond.Update(r.Context(), sessions, "visits", func(n int) int { return n + 1 })
		if err != nil {
			sessions.ErrorFunc(w, r, err)
			return
		}
		fmt.Fprintf(w, "visit %d", visits)
	}))

	cookie := ""
	for range 2 {
		request := httptest.NewRequest("GET", "/", nil)
		request.Header.Set("Cookie", cookie)
		response := httptest.NewRecorder()
		site.ServeHTTP(response, request)
		if line := response.Header().Get("Set-Cookie"); line != "" {
			cookie, _, _ = strings.Cut(line, ";")
		}
		fmt.Println(response.Body)
	}
	// Output:
	// visit 1
	// visit 2
}

// A login gives the browser a new id, and keeps what the visitor has stored.
func ExampleManager_Login() {
	fake := sessiondtest.New(nil)
	sessions := sessiond.NewManager(fake.Client)
	login := sessions.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		remember := true
		err := sessions.Login(r.Context(), "ann", sessiond.LoginOptions{Persistent: &remember, Label: "Firefox on Linux"})
		if err != nil {
			sessions.ErrorFunc(w, r, err)
			return
		}
		cart, _ := sessiond.Get[[]string](r.Context(), sessions, "cart")
		fmt.Fprintf(w, "%s has %v", sessions.Principal(r.Context()), cart)
	}))

	before := fake.Cookie("", map[string]any{"cart": []string{"tea"}})
	for range 2 {
		request := httptest.NewRequest("POST", "/login", nil)
		request.Header.Set("Cookie", before)
		response := httptest.NewRecorder()
		login.ServeHTTP(response, request)
		fmt.Println(response.Code, response.Body)
	}
	// Output:
	// 200 ann has [tea]
	// 409 Conflict
}

// The kinds and the reasons of errors work with errors.Is.
func ExampleError() {
	fake := sessiondtest.New(nil)
	cookie := fake.Cookie("ann", nil)
	fake.Fail(sessiond.ReasonStoreUnavailable, "Resolve", 1)
	_, err := fake.Client.Resolve(context.Background(), sessiond.CookieHeader(cookie), sessiond.ResolveOptions{})
	fmt.Println(errors.Is(err, sessiond.ErrUnavailable), errors.Is(err, sessiond.ReasonStoreUnavailable), sessiond.HTTPStatus(err))

	fake.Advance(31 * time.Minute)
	found, err := fake.Client.Resolve(context.Background(), sessiond.CookieHeader(cookie), sessiond.ResolveOptions{})
	fmt.Println(found.State, err)
	// Output:
	// true true 503
	// EXPIRED <nil>
}
