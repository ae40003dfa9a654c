// A small shop: visits, a cart, a flash message, login, devices. sessiond owns the sessions.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	sessiond "github.com/sessiond/sessiond/clients/go"
)

var sessions *sessiond.Manager

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client, err := sessiond.New(cmp.Or(os.Getenv("SESSIOND"), "127.0.0.1:50051"), nil)
	if err != nil {
		log.Fatal(err)
	}
	sessions = sessiond.NewManager(client)
	sessions.ErrorFunc = fail

	mux := http.NewServeMux()
	mux.HandleFunc("GET /session", session)
	mux.HandleFunc("POST /visit", visit)
	mux.HandleFunc("POST /cart", addToCart)
	mux.HandleFunc("POST /flash", setFlash)
	mux.HandleFunc("GET /flash", takeFlash)
	mux.HandleFunc("POST /login", login)
	mux.HandleFunc("POST /theme", setTheme)
	mux.HandleFunc("POST /logout", logout)
	mux.HandleFunc("POST /logout-others", logoutOthers)
	mux.HandleFunc("POST /logout-everywhere", logoutEverywhere)
	mux.HandleFunc("GET /slow", slow)
	mux.HandleFunc("GET /devices", devices)

	server := &http.Server{Handler: sessions.LoadAndSave(mux), ReadHeaderTimeout: 10 * time.Second}
	listener, err := net.Listen("tcp", "127.0.0.1:"+cmp.Or(os.Getenv("PORT"), "3000"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	go server.Serve(listener)
	<-ctx.Done()
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	server.Shutdown(last)
	client.Close(last)
}

type object map[string]any

func session(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	var user any
	if principal := sessions.Principal(ctx); principal != "" {
		user = principal
	}
	cart, _ := sessiond.Get[[]string](ctx, sessions, "cart")
	if cart == nil {
		cart = []string{}
	}
	answer(w, object{"user": user, "visits": sessions.GetInt(ctx, "visits"), "cart": cart, "live": sessions.Live(ctx)})
}

func visit(w http.ResponseWriter, r *http.Request) {
	visits, err := countVisit(r.Context())
	answerOr(w, r, object{"visits": visits}, err)
}

func addToCart(w http.ResponseWriter, r *http.Request) {
	cart, err := sessiond.Update(r.Context(), sessions, "cart", func(cart []string) []string {
		return append(cart, r.PostFormValue("item"))
	})
	answerOr(w, r, object{"items": len(cart)}, err)
}

func setFlash(w http.ResponseWriter, r *http.Request) {
	err := sessions.Put(r.Context(), "flash", r.PostFormValue("text"))
	answerOr(w, r, object{}, err)
}

func takeFlash(w http.ResponseWriter, r *http.Request) {
	flash, err := sessions.Pop(r.Context(), "flash")
	answerOr(w, r, object{"flash": flash}, err)
}

func login(w http.ResponseWriter, r *http.Request) {
	// A real application checks a password here.
	user := r.PostFormValue("user")
	err := sessions.Login(r.Context(), user, sessiond.LoginOptions{})
	answerOr(w, r, object{"user": user}, err)
}

func setTheme(w http.ResponseWriter, r *http.Request) {
	theme := r.PostFormValue("theme")
	err := sessions.Put(r.Context(), "theme", theme)
	answerOr(w, r, object{"theme": theme}, err)
}

func logout(w http.ResponseWriter, r *http.Request) {
	_, err := sessions.Logout(r.Context())
	answerOr(w, r, object{}, err)
}

func logoutOthers(w http.ResponseWriter, r *http.Request) {
	ended, err := sessions.LogoutOthers(r.Context())
	answerOr(w, r, object{"ended": ended}, err)
}

func logoutEverywhere(w http.ResponseWriter, r *http.Request) {
	ended, err := sessions.LogoutEverywhere(r.Context())
	answerOr(w, r, object{"ended": ended}, err)
}

func slow(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if !sessions.Live(ctx) {
		answer(w, object{"written": false})
		return
	}
	milliseconds, _ := strconv.Atoi(r.FormValue("ms"))
	time.Sleep(time.Duration(milliseconds) * time.Millisecond)
	_, err := countVisit(ctx)
	// It has ended meanwhile, or a parallel login has replaced its id.
	if errors.Is(err, sessiond.ErrSessionGone) || errors.Is(err, sessiond.ErrSuperseded) {
		answer(w, object{"written": false})
		return
	}
	answerOr(w, r, object{"written": true}, err)
}

func devices(w http.ResponseWriter, r *http.Request) {
	if sessions.Principal(r.Context()) == "" {
		write(w, http.StatusUnauthorized, object{})
		return
	}
	list, err := sessions.Devices(r.Context())
	devices := []object{}
	for _, device := range list {
		devices = append(devices, object{"id": device.ID, "current": device.Current})
	}
	answerOr(w, r, object{"devices": devices}, err)
}

func countVisit(ctx context.Context) (int, error) {
	return sessiond.Update(ctx, sessions, "visits", func(visits int) int { return visits + 1 })
}

func answer(w http.ResponseWriter, body object) { write(w, http.StatusOK, body) }

func answerOr(w http.ResponseWriter, r *http.Request, body object, err error) {
	if err != nil {
		fail(w, r, err)
		return
	}
	answer(w, body)
}

// fail answers 503 with Retry-After while the daemon is away, 409 for a change with an id from before a login, and 400
// for what is not allowed.
func fail(w http.ResponseWriter, _ *http.Request, err error) {
	status := sessiond.HTTPStatus(err)
	if errors.Is(err, sessiond.ReasonInvalidArgument) || errors.Is(err, sessiond.ReasonInvalidData) {
		status = http.StatusBadRequest
	}
	if status == http.StatusInternalServerError {
		log.Print(err)
	}
	sessiond.SetErrorHeaders(w.Header(), err)
	write(w, status, object{})
}

func write(w http.ResponseWriter, status int, body object) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
