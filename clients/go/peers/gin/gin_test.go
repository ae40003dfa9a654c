// Package gin runs the tests that gin-contrib/sessions has for its stores. Such a store makes its cookies itself, so it
// can be written on sessiond. This one is for these tests: applications in gin need none, see docs/guides/go.md.
package gin

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/gin-contrib/sessions"
	"github.com/gin-contrib/sessions/tester"
	gorilla "github.com/gorilla/sessions"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/internal/daemontest"
)

type store struct {
	t      *testing.T
	client *sessiond.Client
	opened sync.Map // of *gorilla.Session: *sessiond.RequestSession
}

func newStore(t *testing.T) sessions.Store {
	var settings []string
	// The names that the tester uses, each for an engine and its cookie.
	for _, name := range []string{"mysession", "a", "b"} {
		settings = append(settings, fmt.Sprintf("engine.%s.cookie.name=%s", name, name), fmt.Sprintf("engine.%s.cookie.secure=false", name))
	}
	daemon := daemontest.Start(t, "", settings...)
	client, err := sessiond.New(daemon.Address, &sessiond.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(t.Context()) })
	return &store{t: t, client: client}
}

// Options are in the daemon's configuration.
func (s *store) Options(sessions.Options) {}

func (s *store) Get(r *http.Request, name string) (*gorilla.Session, error) {
	return gorilla.GetRegistry(r).Get(s, name)
}

func (s *store) New(r *http.Request, name string) (*gorilla.Session, error) {
	session := gorilla.NewSession(s, name)
	// The tester breaks the header into lines, which no server lets through.
	header := strings.ReplaceAll(strings.Join(r.Header["Cookie"], "; "), "\n", "")
	opened, err := sessiond.OpenSession(r.Context(), s.client, header, name)
	if err != nil {
		s.t.Error(err)
		return session, err
	}
	for key, text := range opened.Data() {
		var value any
		if err := json.Unmarshal(text, &value); err != nil {
			s.t.Error(err)
		}
		session.Values[key] = value
	}
	session.ID, session.IsNew = opened.ID(), !opened.Live()
	s.opened.Store(session, opened)
	return session, nil
}

func (s *store) Save(r *http.Request, w http.ResponseWriter, session *gorilla.Session) error {
	found, _ := s.opened.Load(session)
	opened := found.(*sessiond.RequestSession)
	for _, key := range opened.Keys() {
		if _, there := session.Values[key]; !there {
			opened.Remove(key)
		}
	}
	for key, value := range session.Values {
		if err := opened.Put(key.(string), value); err != nil {
			s.t.Error(err)
			return err
		}
	}
	if saved, err := opened.Save(r.Context()); err != nil || !saved {
		s.t.Errorf("expected the session to be saved, found %t %v", saved, err)
		return err
	}
	if line := opened.SetCookie(); line != "" {
		w.Header().Add("Set-Cookie", line)
	}
	return nil
}

func TestGetSet(t *testing.T)    { tester.GetSet(t, newStore) }
func TestDeleteKey(t *testing.T) { tester.DeleteKey(t, newStore) }
func TestFlashes(t *testing.T)   { tester.Flashes(t, newStore) }
func TestClear(t *testing.T)     { tester.Clear(t, newStore) }
func TestMany(t *testing.T)      { tester.Many(t, newStore) }
