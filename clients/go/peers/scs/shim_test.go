// Package scs is what scs's own tests of its middleware take for scs. scripts/peer-tests lays their files beside this one.
package scs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	// So that go.mod names the version whose tests are run.
	_ "github.com/alexedwards/scs/v2"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/internal/daemontest"
)

var client *sessiond.Client

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	program := daemontest.Program()
	if program == "" {
		fmt.Fprintln(os.Stderr, "no daemon: set SESSIOND_BIN")
		return 1
	}
	// What the tests set for a manager belongs to the daemon's configuration: an engine for each.
	daemon, err := daemontest.Run(program, "",
		"engine.default.cookie.name=session",
		"engine.brief.cookie.name=session", "engine.brief.duration=500ms", "engine.brief.absolute_duration=500ms",
		"engine.transient.cookie.name=session", "engine.transient.cookie.persistent=false")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer daemon.Stop(syscall.SIGKILL)
	if client, err = sessiond.New(daemon.Address, &sessiond.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer client.Close(context.Background())
	return m.Run()
}

// SessionManager has the fields that the tests set.
type SessionManager struct {
	*sessiond.Manager
	Lifetime    time.Duration
	IdleTimeout time.Duration
	Cookie      struct {
		Name    string
		Persist bool
	}
}

// New has the defaults of scs.
func New() *SessionManager {
	m := &SessionManager{Manager: sessiond.NewManager(client), Lifetime: 24 * time.Hour}
	m.Cookie.Name, m.Cookie.Persist = "session", true
	return m
}

// LoadAndSave picks the engine.
func (m *SessionManager) LoadAndSave(next http.Handler) http.Handler {
	engine := "default"
	switch {
	case m.Lifetime == 500*time.Millisecond:
		engine = "brief"
	case !m.Cookie.Persist:
		engine = "transient"
	}
	*m.Manager = *sessiond.NewEngineManager(client, engine)
	return m.Manager.LoadAndSave(next)
}

// Iterate is not offered; the tests need it to be built.
func (m *SessionManager) Iterate(context.Context, func(context.Context) error) error {
	return errors.New("not offered: the daemon lists sessions at its admin address")
}
