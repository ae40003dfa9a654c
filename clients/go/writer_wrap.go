package sessiond

import (
	"io"
	"net/http"
)

// response has no more methods than this: an embedded *head would give it those of the parts twice.
type response interface {
	http.ResponseWriter
	io.StringWriter
	Unwrap() http.ResponseWriter
}

// wrap gives the response those optional interfaces that the server's response has: the combinations that net/http,
// its HTTP/2, its TimeoutHandler, httptest and other middleware make. Others are reached through Unwrap.
func wrap(h *head) http.ResponseWriter {
	_, f := h.ResponseWriter.(http.Flusher)
	_, j := h.ResponseWriter.(http.Hijacker)
	_, r := h.ResponseWriter.(io.ReaderFrom)
	_, p := h.ResponseWriter.(http.Pusher)
	_, n := h.ResponseWriter.(http.CloseNotifier)
	F, J, R, P, N := flusher{h}, hijacker{h}, readerFrom{h}, pusher{h}, closeNotifier{h}
	switch [5]bool{f, j, r, p, n} {
	case [5]bool{false, false, false, false, false}:
		return struct{ response }{h}
	case [5]bool{false, false, false, false, true}:
		return struct {
			response
			http.CloseNotifier
		}{h, N}
	case [5]bool{false, false, false, true, false}:
		return struct {
			response
			http.Pusher
		}{h, P}
	case [5]bool{false, false, false, true, true}:
		return struct {
			response
			http.Pusher
			http.CloseNotifier
		}{h, P, N}
	case [5]bool{false, false, true, false, false}:
		return struct {
			response
			io.ReaderFrom
		}{h, R}
	case [5]bool{false, false, true, false, true}:
		return struct {
			response
			io.ReaderFrom
			http.CloseNotifier
		}{h, R, N}
	case [5]bool{false, false, true, true, false}:
		return struct {
			response
			io.ReaderFrom
			http.Pusher
		}{h, R, P}
	case [5]bool{false, false, true, true, true}:
		return struct {
			response
			io.ReaderFrom
			http.Pusher
			http.CloseNotifier
		}{h, R, P, N}
	case [5]bool{false, true, false, false, false}:
		return struct {
			response
			http.Hijacker
		}{h, J}
	case [5]bool{false, true, false, false, true}:
		return struct {
			response
			http.Hijacker
			http.CloseNotifier
		}{h, J, N}
	case [5]bool{false, true, false, true, false}:
		return struct {
			response
			http.Hijacker
			http.Pusher
		}{h, J, P}
	case [5]bool{false, true, false, true, true}:
		return struct {
			response
			http.Hijacker
			http.Pusher
			http.CloseNotifier
		}{h, J, P, N}
	case [5]bool{false, true, true, false, false}:
		return struct {
			response
			http.Hijacker
			io.ReaderFrom
		}{h, J, R}
	case [5]bool{false, true, true, false, true}:
		return struct {
			response
			http.Hijacker
			io.ReaderFrom
			http.CloseNotifier
		}{h, J, R, N}
	case [5]bool{false, true, true, true, false}:
		return struct {
			response
			http.Hijacker
			io.ReaderFrom
			http.Pusher
		}{h, J, R, P}
	case [5]bool{false, true, true, true, true}:
		return struct {
			response
			http.Hijacker
			io.ReaderFrom
			http.Pusher
			http.CloseNotifier
		}{h, J, R, P, N}
	case [5]bool{true, false, false, false, false}:
		return struct {
			response
			errorFlusher
		}{h, F}
	case [5]bool{true, false, false, false, true}:
		return struct {
			response
			errorFlusher
			http.CloseNotifier
		}{h, F, N}
	case [5]bool{true, false, false, true, false}:
		return struct {
			response
			errorFlusher
			http.Pusher
		}{h, F, P}
	case [5]bool{true, false, false, true, true}:
		return struct {
			response
			errorFlusher
			http.Pusher
			http.CloseNotifier
		}{h, F, P, N}
	case [5]bool{true, false, true, false, false}:
		return struct {
			response
			errorFlusher
			io.ReaderFrom
		}{h, F, R}
	case [5]bool{true, false, true, false, true}:
		return struct {
			response
			errorFlusher
			io.ReaderFrom
			http.CloseNotifier
		}{h, F, R, N}
	case [5]bool{true, false, true, true, false}:
		return struct {
			response
			errorFlusher
			io.ReaderFrom
			http.Pusher
		}{h, F, R, P}
	case [5]bool{true, false, true, true, true}:
		return struct {
			response
			errorFlusher
			io.ReaderFrom
			http.Pusher
			http.CloseNotifier
		}{h, F, R, P, N}
	case [5]bool{true, true, false, false, false}:
		return struct {
			response
			errorFlusher
			http.Hijacker
		}{h, F, J}
	case [5]bool{true, true, false, false, true}:
		return struct {
			response
			errorFlusher
			http.Hijacker
			http.CloseNotifier
		}{h, F, J, N}
	case [5]bool{true, true, false, true, false}:
		return struct {
			response
			errorFlusher
			http.Hijacker
			http.Pusher
		}{h, F, J, P}
	case [5]bool{true, true, false, true, true}:
		return struct {
			response
			errorFlusher
			http.Hijacker
			http.Pusher
			http.CloseNotifier
		}{h, F, J, P, N}
	case [5]bool{true, true, true, false, false}:
		return struct {
			response
			errorFlusher
			http.Hijacker
			io.ReaderFrom
		}{h, F, J, R}
	case [5]bool{true, true, true, false, true}:
		return struct {
			response
			errorFlusher
			http.Hijacker
			io.ReaderFrom
			http.CloseNotifier
		}{h, F, J, R, N}
	case [5]bool{true, true, true, true, false}:
		return struct {
			response
			errorFlusher
			http.Hijacker
			io.ReaderFrom
			http.Pusher
		}{h, F, J, R, P}
	case [5]bool{true, true, true, true, true}:
		return struct {
			response
			errorFlusher
			http.Hijacker
			io.ReaderFrom
			http.Pusher
			http.CloseNotifier
		}{h, F, J, R, P, N}
	}
	panic("unreachable: all combinations are there")
}
