// net/http: bare, with scs on redigo, and with sessiond. The handlers are the same.
package main

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"log"
	"net/http"
	"os"

	"github.com/alexedwards/scs/redisstore"
	"github.com/alexedwards/scs/v2"
	"github.com/gomodule/redigo/redis"
	sessiond "github.com/sessiond/sessiond/clients/go"
)

type item struct {
	Item string `json:"item"`
	N    int    `json:"n"`
}

type data struct {
	User  string `json:"user"`
	Theme string `json:"theme"`
	Cart  []item `json:"cart"`
	Note  string `json:"note"`
}

// sessions is what the handlers use, as each library offers it.
type sessions interface {
	LoadAndSave(next http.Handler) http.Handler
	user(ctx context.Context) string
	cart(ctx context.Context) []item
	count(ctx context.Context) int
	put(ctx context.Context, key string, value any)
}

type bare struct{ data }

func (b bare) LoadAndSave(next http.Handler) http.Handler   { return next }
func (b bare) user(context.Context) string                  { return b.User }
func (b bare) cart(context.Context) []item                  { return b.Cart }
func (b bare) count(context.Context) int                    { return 0 }
func (b bare) put(_ context.Context, key string, value any) {}

type today struct{ *scs.SessionManager }

func (t today) user(ctx context.Context) string { return t.GetString(ctx, "user") }
func (t today) cart(ctx context.Context) []item {
	cart, _ := t.Get(ctx, "cart").([]item)
	return cart
}
func (t today) count(ctx context.Context) int                  { return t.GetInt(ctx, "count") }
func (t today) put(ctx context.Context, key string, value any) { t.Put(ctx, key, value) }

type ours struct{ *sessiond.Manager }

func (o ours) user(ctx context.Context) string { return o.GetString(ctx, "user") }
func (o ours) cart(ctx context.Context) []item {
	cart, _ := sessiond.Get[[]item](ctx, o.Manager, "cart")
	return cart
}
func (o ours) count(ctx context.Context) int                  { return o.GetInt(ctx, "count") }
func (o ours) put(ctx context.Context, key string, value any) { o.Put(ctx, key, value) }

func choose(variant string, from data) sessions {
	switch variant {
	case "today":
		gob.Register([]item{})
		manager := scs.New()
		manager.Cookie.Secure = false
		manager.Store = redisstore.New(&redis.Pool{
			MaxIdle: 64,
			Dial:    func() (redis.Conn, error) { return redis.DialURL(os.Getenv("REDIS")) },
		})
		return today{manager}
	case "ours":
		client, err := sessiond.New(os.Getenv("SESSIOND"), nil)
		if err != nil {
			log.Fatal(err)
		}
		return ours{sessiond.NewManager(client)}
	}
	return bare{from}
}

func main() {
	text, err := os.ReadFile("data.json")
	if err != nil {
		log.Fatal(err)
	}
	var from data
	if err := json.Unmarshal(text, &from); err != nil {
		log.Fatal(err)
	}
	s := choose(os.Getenv("VARIANT"), from)

	show := func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"user": s.user(ctx), "items": len(s.cart(ctx)), "count": s.count(ctx)})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", show)
	mux.HandleFunc("POST /change", func(w http.ResponseWriter, r *http.Request) {
		s.put(r.Context(), "count", s.count(r.Context())+1)
		show(w, r)
	})
	mux.HandleFunc("POST /begin", func(w http.ResponseWriter, r *http.Request) {
		for key, value := range map[string]any{"user": from.User, "theme": from.Theme, "cart": from.Cart, "note": from.Note} {
			s.put(r.Context(), key, value)
		}
		show(w, r)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), s.LoadAndSave(mux)))
}
