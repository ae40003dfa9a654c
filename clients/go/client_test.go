package sessiond_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/reflect/protoreflect"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/internal/daemontest"
	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
	"github.com/sessiond/sessiond/clients/go/sessiondtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t testing.TB, address string, options sessiond.Options) *sessiond.Client {
	t.Helper()
	options.Logger = slog.New(slog.DiscardHandler)
	client, err := sessiond.New(address, &options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(context.Background()) })
	return client
}

func create(t testing.TB, client *sessiond.Client) sessiond.Credential {
	t.Helper()
	written, err := client.Write(context.Background(), sessiond.Credential{}, sessiond.WriteOptions{Set: map[string]any{"a": 1}})
	if err != nil {
		t.Fatal(err)
	}
	return sessiond.TokenCredential(written.Token)
}

func TestAddresses(t *testing.T) {
	for _, address := range []string{"", "localhost", "http://127.0.0.1:1", "unix:relative", ":50051"} {
		if _, err := sessiond.New(address, nil); !errors.Is(err, sessiond.ErrInvalidArgument) {
			t.Errorf("%q: expected ErrInvalidArgument, found %v", address, err)
		}
	}
}

// No request fails while the daemon restarts.
func TestRestart(t *testing.T) {
	t.Parallel()
	socket := "unix:" + filepath.Join(t.TempDir(), "s")
	daemon := daemontest.Start(t, socket)
	client := connect(t, socket, sessiond.Options{})
	create(t, client)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := client.Resolve(t.Context(), sessiond.CookieHeader("session=x; __Host-session=x"), sessiond.ResolveOptions{}); err != nil {
					t.Errorf("expected no error, found %v", err)
					return
				}
			}
		}()
	}
	daemon.Stop(syscall.SIGTERM)
	daemontest.Start(t, socket)
	create(t, client)
	close(stop)
	group.Wait()
}

func TestAway(t *testing.T) {
	t.Parallel()
	// Nobody listens there, and no other test gets this port.
	client := connect(t, "127.0.0.1:1", sessiond.Options{Timeout: 2 * time.Second, MaxInFlight: 1})
	_, err := client.Resolve(t.Context(), sessiond.CookieHeader("a=b"), sessiond.ResolveOptions{})
	var failure *sessiond.Error
	if !errors.As(err, &failure) || failure.Reason != sessiond.ReasonConnectionFailed || failure.Applied != sessiond.NotApplied || sessiond.HTTPStatus(err) != 503 {
		t.Errorf("expected CONNECTION_FAILED, not applied, found %#v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := client.Resolve(ctx, sessiond.Credential{}, sessiond.ResolveOptions{})
			done <- err
		}()
	}
	if err := <-done; !errors.Is(err, sessiond.ErrOverloaded) || !errors.Is(err, sessiond.ReasonInFlightLimit) {
		t.Errorf("expected one to be too much, found %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("expected the context's error, found %v", err)
	}
	client.Close(t.Context())
	if _, err := client.Resolve(t.Context(), sessiond.Credential{}, sessiond.ResolveOptions{}); !errors.Is(err, sessiond.ReasonClosed) {
		t.Errorf("expected CLOSED, found %v", err)
	}
}

// A daemon that stands still, and one that is killed: what may have been applied says so, what is safe goes on.
func TestStandstillAndKill(t *testing.T) {
	t.Parallel()
	for range 20 {
		if standstillAndKill(t) || t.Failed() {
			return
		}
	}
	t.Error("expected the Write to be on the stream")
}

// It reports false if the Write was about to be sent when the daemon was killed: the next one has made it.
func standstillAndKill(t *testing.T) bool {
	socket := "unix:" + filepath.Join(t.TempDir(), "s")
	daemon := daemontest.Start(t, socket)
	client := connect(t, socket, sessiond.Options{Timeout: 30 * time.Second})
	credential := create(t, client)
	daemon.Pause()
	err := inTime(t, func(short context.Context) error {
		_, err := client.Write(short, credential, sessiond.WriteOptions{Set: map[string]any{"b": 1}})
		return err
	})
	var failure *sessiond.Error
	if !errors.As(err, &failure) || failure.Reason != sessiond.ReasonTimeout || failure.Applied != sessiond.AppliedUnknown || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("expected TIMEOUT with an unknown outcome, found %#v", err)
	}
	writes, reads := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := client.Write(t.Context(), credential, sessiond.WriteOptions{Set: map[string]any{"b": 1}})
		writes <- err
	}()
	go func() {
		_, err := client.Resolve(t.Context(), credential, sessiond.ResolveOptions{})
		reads <- err
	}()
	for client.OnStream() < 2 {
		runtime.Gosched()
	}
	daemon.Stop(syscall.SIGKILL)
	daemontest.Start(t, socket)
	if err := <-reads; err != nil {
		t.Errorf("expected the Resolve to be repeated, found %v", err)
	}
	err = <-writes
	if err == nil || errors.Is(err, sessiond.ErrSessionGone) {
		return false
	}
	if !errors.As(err, &failure) || failure.Applied != sessiond.AppliedUnknown || !errors.Is(err, sessiond.ErrUnavailable) {
		t.Errorf("expected an unknown outcome, found %v", err)
	}
	return true
}

// inTime is the error of an operation whose context ends after it was sent. On a busy machine a short time may be over before.
func inTime(t *testing.T, run func(context.Context) error) error {
	t.Helper()
	var err error
	for _, timeout := range []time.Duration{100 * time.Millisecond, time.Second, 10 * time.Second} {
		short, cancel := context.WithTimeout(t.Context(), timeout)
		err = run(short)
		cancel()
		var failure *sessiond.Error
		if !errors.As(err, &failure) || failure.Applied != sessiond.NotApplied {
			break
		}
	}
	return err
}

func TestToken(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	right := strings.Repeat("0123456789abcdef", 4)
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(right)
	daemon := daemontest.Start(t, "", "listen.auth.token_file="+file)
	if _, err := connect(t, daemon.Address, sessiond.Options{}).Describe(t.Context()); !errors.Is(err, sessiond.ErrAuthentication) {
		t.Errorf("expected ErrAuthentication, found %v", err)
	}
	mine := filepath.Join(t.TempDir(), "mine")
	os.WriteFile(mine, []byte("wrong"), 0o600)
	client := connect(t, daemon.Address, sessiond.Options{TokenFile: mine})
	_, err := client.Describe(t.Context())
	if !errors.Is(err, sessiond.ReasonTokenUnknown) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("expected TOKEN_UNKNOWN, found %v", err)
	}
	os.WriteFile(mine, []byte(right), 0o600)
	create(t, client)
}

func TestRole(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	frontends, operators := strings.Repeat("0123456789abcdef", 2), strings.Repeat("fedcba9876543210", 2)
	text := "frontend shop " + frontends + "\nadmin ops " + operators + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := daemontest.Start(t, "", "listen.auth.token_file="+file)
	_, err := connect(t, daemon.Address, sessiond.Options{Token: operators}).Describe(t.Context())
	var failure *sessiond.Error
	if !errors.As(err, &failure) || !errors.Is(err, sessiond.ErrAuthentication) || failure.Reason != sessiond.ReasonRoleRequired {
		t.Fatalf("expected ROLE_REQUIRED, an authentication error, found %v", err)
	}
	if failure.Retryable || failure.Applied != sessiond.NotApplied {
		t.Errorf("expected an error that says not to repeat, found %+v", failure)
	}
	create(t, connect(t, daemon.Address, sessiond.Options{Token: frontends}))
}

func TestNotADaemon(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	client := connect(t, server.Listener.Addr().String(), sessiond.Options{Timeout: 500 * time.Millisecond})
	if _, err := client.Resolve(t.Context(), sessiond.Credential{}, sessiond.ResolveOptions{}); !errors.Is(err, sessiond.ErrUnavailable) && !errors.Is(err, sessiond.ReasonProtocolError) {
		t.Errorf("expected an error, found %v", err)
	}
}

// The versions of all packages follow the daemon's.
func TestVersion(t *testing.T) {
	text, err := os.ReadFile("../../Cargo.toml")
	if err != nil {
		t.Skip("outside of the repository")
	}
	if line := fmt.Sprintf("\nversion = %q\n", sessiond.Version); !strings.Contains(string(text), line) {
		t.Errorf("expected the version of Cargo.toml, found %s", sessiond.Version)
	}
}

// The generated messages are those of proto/: every field, with its number.
func TestMessagesAreCurrent(t *testing.T) {
	text, err := os.ReadFile("../../proto/sessiond/v1/session_service.proto")
	if err != nil {
		t.Skip("outside of the repository")
	}
	file := pb.File_sessiond_v1_session_service_proto
	var message protoreflect.MessageDescriptor
	begins, field := regexp.MustCompile(`^message (\w+) \{`), regexp.MustCompile(`^\s+(?:repeated |optional )?[\w.]+ (\w+) = (\d+);`)
	found := map[string]int{}
	for _, line := range strings.Split(string(text), "\n") {
		if match := begins.FindStringSubmatch(line); match != nil {
			if message = file.Messages().ByName(protoreflect.Name(match[1])); message == nil {
				t.Fatalf("expected a message %s: run go generate", match[1])
			}
			if strings.Contains(line, "{}") {
				message = nil
			}
		} else if strings.HasPrefix(line, "}") {
			message = nil
		} else if match := field.FindStringSubmatch(line); match != nil && message != nil {
			found[string(message.Name())]++
			if of := message.Fields().ByName(protoreflect.Name(match[1])); of == nil || fmt.Sprint(of.Number()) != match[2] {
				t.Errorf("expected %s.%s = %s: run go generate", message.Name(), match[1], match[2])
			}
		}
	}
	for name, count := range found {
		if generated := file.Messages().ByName(protoreflect.Name(name)).Fields().Len(); generated != count {
			t.Errorf("expected %d fields of %s, found %d: run go generate", count, name, generated)
		}
	}
	if len(found) < 15 {
		t.Errorf("expected the messages of the API, found %v", found)
	}
}

// ---- the middleware

func serve(t *testing.T, m *sessiond.Manager, handler http.HandlerFunc, method, cookie string) *http.Response {
	t.Helper()
	request := httptest.NewRequest(method, "/", nil)
	if cookie != "" {
		request.Header.Set("Cookie", cookie)
	}
	recorder := httptest.NewRecorder()
	m.LoadAndSave(handler).ServeHTTP(recorder, request)
	return recorder.Result()
}

func TestManager(t *testing.T) {
	fake := sessiondtest.New(nil)
	m := sessiond.NewManager(fake.Client)
	body := func(r *http.Response) string { text, _ := io.ReadAll(r.Body); return string(text) }

	response := serve(t, m, func(w http.ResponseWriter, r *http.Request) {
		m.Put(r.Context(), "n", 1)
		m.Put(r.Context(), "name", "<ann>")
		w.Header().Add("Set-Cookie", "session=mine")
		w.Header().Add("Set-Cookie", "other=1")
		w.WriteHeader(201)
		io.WriteString(w, "hello")
	}, "POST", "")
	lines := response.Header["Set-Cookie"]
	if len(lines) != 2 || lines[0] != "other=1" || response.Header.Get("Cache-Control") != "no-store" || response.StatusCode != 201 || body(response) != "hello" {
		t.Fatalf("expected one cookie of ours, found %v", response.Header)
	}
	cookie, _, _ := strings.Cut(lines[1], ";")
	serve(t, m, func(w http.ResponseWriter, r *http.Request) {
		if m.GetInt(r.Context(), "n") != 1 || m.GetString(r.Context(), "name") != "<ann>" || !m.Exists(r.Context(), "n") {
			t.Errorf("expected the data, found %v", m.Keys(r.Context()))
		}
	}, "GET", cookie)

	// Once the session is not saved, the handler's answer does not go out.
	fake.Fail(sessiond.ReasonStoreUnavailable, "Write", 0)
	response = serve(t, m, func(w http.ResponseWriter, r *http.Request) {
		m.Put(r.Context(), "n", 2)
		w.Header().Set("Content-Length", "6")
		if _, err := io.WriteString(w, "secret"); err == nil {
			t.Error("expected an error of Write")
		}
	}, "POST", cookie)
	if text := body(response); response.StatusCode != 503 || response.Header.Get("Retry-After") != "1" || strings.Contains(text, "secret") || response.Header.Get("Content-Length") == "6" {
		t.Errorf("expected 503, found %d %v %s", response.StatusCode, response.Header, text)
	}
	fake.Fail("", "", 0)

	// What is no JSON is told, even if nobody looks at the error of Put.
	response = serve(t, m, func(w http.ResponseWriter, r *http.Request) { m.Put(r.Context(), "f", func() {}) }, "POST", cookie)
	if response.StatusCode != 500 {
		t.Errorf("expected 500, found %d", response.StatusCode)
	}

	// An id from before a login.
	serve(t, m, func(w http.ResponseWriter, r *http.Request) {
		if err := m.Login(r.Context(), "ann", sessiond.LoginOptions{}); err != nil {
			t.Error(err)
		}
	}, "POST", cookie)
	for method, status := range map[string]int{"GET": 200, "POST": 409} {
		response = serve(t, m, func(w http.ResponseWriter, r *http.Request) { m.Put(r.Context(), "x", 1) }, method, cookie)
		if response.StatusCode != status || response.Header["Set-Cookie"] != nil {
			t.Errorf("%s: expected %d without a cookie, found %d %v", method, status, response.StatusCode, response.Header)
		}
	}

	// Pop, of many.
	flash := fake.Cookie("", map[string]any{"flash": "hi"})
	var group sync.WaitGroup
	shown := make(chan string, 8)
	for range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			serve(t, m, func(w http.ResponseWriter, r *http.Request) {
				text, found, err := sessiond.Pop[string](r.Context(), m, "flash")
				if err != nil || found != (text != "") {
					t.Errorf("found %q %t %v", text, found, err)
				} else if found {
					shown <- text
				}
			}, "GET", flash)
		}()
	}
	group.Wait()
	if len(shown) != 1 {
		t.Errorf("expected the flash once, found it %d times", len(shown))
	}
}

// A handler sees the optional interfaces of the server's response, and no others.
func TestResponseInterfaces(t *testing.T) {
	m := sessiond.NewManager(sessiondtest.New(nil).Client)
	check := func(of http.ResponseWriter, w http.ResponseWriter) {
		has := func(w http.ResponseWriter) [5]bool {
			_, f := w.(http.Flusher)
			_, j := w.(http.Hijacker)
			_, r := w.(io.ReaderFrom)
			_, p := w.(http.Pusher)
			_, n := w.(http.CloseNotifier)
			return [5]bool{f, j, r, p, n}
		}
		if has(of) != has(w) {
			t.Errorf("%T: expected %v, found %v", of, has(of), has(w))
		}
	}
	for _, http2 := range []bool{false, true} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(of http.ResponseWriter, r *http.Request) {
			m.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				check(of, w)
				m.Put(r.Context(), "a", 1)
				if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Error(err)
				}
				if r.URL.Path == "/hijack" {
					conn, _, err := w.(http.Hijacker).Hijack()
					if err != nil || len(w.Header()["Set-Cookie"]) != 1 {
						t.Errorf("expected the cookie among the headers, found %v %v", w.Header(), err)
						return
					}
					io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
					conn.Close()
					return
				}
				w.WriteHeader(http.StatusEarlyHints)
				if source, ok := w.(io.ReaderFrom); ok {
					source.ReadFrom(strings.NewReader("hello"))
				}
				w.(http.Flusher).Flush()
			})).ServeHTTP(of, r)
		}))
		server.EnableHTTP2 = http2
		server.StartTLS()
		response, err := server.Client().Get(server.URL)
		if err != nil || len(response.Header["Set-Cookie"]) != 1 {
			t.Errorf("expected a cookie, found %v %v", response, err)
		} else {
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		if !http2 {
			if response, err = server.Client().Get(server.URL + "/hijack"); err != nil || response.StatusCode != 204 {
				t.Errorf("expected 204, found %v %v", response, err)
			}
		}
		server.CloseClientConnections()
		server.Close()
	}
	check(httptest.NewRecorder(), httptest.NewRecorder())
}
