package sessiond

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
)

// Headers of the answer that does not go out.
var ofTheBody = []string{
	"Content-Type", "Content-Length", "Content-Encoding", "Content-Range", "Content-Disposition", "Etag", "Last-Modified",
	"Location", "Cache-Control", "Trailer",
}

// errNotSaved is what writing a body returns whose place an error has taken.
var errNotSaved = errors.New("sessiond: the session was not saved, and an error was answered instead")

// head is the response of a request. It saves the session just before the response head goes out.
type head struct {
	http.ResponseWriter
	request *http.Request
	session *RequestSession
	manager *Manager
	sent    bool // the head, or the connection was taken over
	failed  bool // the answer of ErrorFunc takes the place of the handler's
}

// Unwrap is for http.ResponseController.
func (h *head) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// commit saves the session and sets the cookie, once. It reports whether the handler's answer may go out.
func (h *head) commit() bool {
	if h.sent {
		return !h.failed
	}
	err := h.save()
	h.sent = true
	h.session.mu.Lock()
	h.session.headSent = true
	h.session.mu.Unlock()
	if err == nil {
		h.cookie()
		return true
	}
	h.failed = true
	for _, name := range ofTheBody {
		h.Header().Del(name)
	}
	h.cookie()
	h.manager.fail(h.ResponseWriter, h.request, err)
	return false
}

// save writes what changed. A safe request with an id from before a login loses its change; sent again, it has the new
// id.
func (h *head) save() error {
	_, err := h.session.Save(h.request.Context())
	if errors.Is(err, ErrSuperseded) {
		switch h.request.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
			h.session.drop(h.request.Context())
			return nil
		}
	}
	return err
}

// cookie sets the one Set-Cookie line of the session's name.
func (h *head) cookie() {
	line := h.session.SetCookie()
	if line == "" {
		return
	}
	header := h.Header()
	name, _, _ := strings.Cut(line, "=")
	var lines []string
	for _, other := range header["Set-Cookie"] {
		if found, _, _ := strings.Cut(other, "="); strings.TrimSpace(found) != name {
			lines = append(lines, other)
		}
	}
	header["Set-Cookie"] = append(lines, line)
	if !keptFromCaches.MatchString(strings.Join(header.Values("Cache-Control"), ",")) {
		header.Set("Cache-Control", "no-store")
	}
}

// A shared cache must not hand one user's cookie to others.
var keptFromCaches = regexp.MustCompile(`(?i)(^|[\s,])(no-store|private)\s*($|,)`)

// finish is called when the handler has returned.
func (h *head) finish() {
	if !h.sent {
		h.commit()
		return
	}
	if h.failed || !h.session.Changed() {
		return
	}
	ctx := h.request.Context()
	if !h.session.Live() {
		h.manager.client.logger().WarnContext(ctx, "a session was begun after the response head was sent; it is not stored: the browser would not get its cookie", "path", h.request.URL.Path)
		return
	}
	if _, err := h.session.Save(ctx); err != nil {
		h.manager.client.logger().ErrorContext(ctx, "a session that was changed after the response head was sent was not saved", "error", err)
	}
}

// abandoned is called at the end, and matters if the handler has panicked: nothing is saved then, but a middleware that
// answers has to send the cookie of a login that was done.
func (h *head) abandoned() {
	if !h.sent {
		h.sent = true
		h.cookie()
	}
}

func (h *head) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		h.ResponseWriter.WriteHeader(status) // early hints; the head comes later
		return
	}
	if h.sent && h.failed {
		return
	}
	if h.commit() {
		h.ResponseWriter.WriteHeader(status)
	}
}

func (h *head) Write(body []byte) (int, error) {
	if !h.commit() {
		return 0, errNotSaved
	}
	return h.ResponseWriter.Write(body)
}

func (h *head) WriteString(body string) (int, error) {
	if !h.commit() {
		return 0, errNotSaved
	}
	return io.WriteString(h.ResponseWriter, body)
}

// The optional interfaces of a response. A handler sees those that the response of the server has.

type flusher struct{ *head }

func (f flusher) Flush() {
	if f.commit() {
		f.ResponseWriter.(http.Flusher).Flush()
	}
}

func (f flusher) FlushError() error {
	if !f.commit() {
		return errNotSaved
	}
	if inner, ok := f.ResponseWriter.(interface{ FlushError() error }); ok {
		return inner.FlushError()
	}
	f.ResponseWriter.(http.Flusher).Flush()
	return nil
}

type errorFlusher interface {
	http.Flusher
	FlushError() error
}

type hijacker struct{ *head }

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if !h.commit() {
		return nil, nil, errNotSaved
	}
	return h.ResponseWriter.(http.Hijacker).Hijack()
}

type readerFrom struct{ *head }

func (r readerFrom) ReadFrom(source io.Reader) (int64, error) {
	if !r.commit() {
		return 0, errNotSaved
	}
	return r.ResponseWriter.(io.ReaderFrom).ReadFrom(source)
}

type pusher struct{ *head }

func (p pusher) Push(target string, options *http.PushOptions) error {
	return p.ResponseWriter.(http.Pusher).Push(target, options)
}

type closeNotifier struct{ *head }

//lint:ignore SA1019 gin still asks for it
func (c closeNotifier) CloseNotify() <-chan bool {
	return c.ResponseWriter.(http.CloseNotifier).CloseNotify()
}
