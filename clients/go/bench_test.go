package sessiond_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/internal/daemontest"
)

func BenchmarkResolve(b *testing.B) {
	daemon := daemontest.Start(b, "unix:"+filepath.Join(b.TempDir(), "s"))
	client := connect(b, daemon.Address, sessiond.Options{})
	credential := create(b, client)
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := client.Resolve(context.Background(), credential, sessiond.ResolveOptions{}); err != nil {
				b.Error(err)
			}
		}
	})
}

// cpuTime is the CPU time of this process; the daemon is another one.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// What a request costs that reads two keys of a session of 400 bytes.
func BenchmarkLoadAndSave(b *testing.B) {
	daemon := daemontest.Start(b, "unix:"+filepath.Join(b.TempDir(), "s"), "engine.default.cookie.name=session", "engine.default.cookie.secure=false")
	client := connect(b, daemon.Address, sessiond.Options{})
	m := sessiond.NewManager(client)
	written, err := client.Write(context.Background(), nobody, sessiond.WriteOptions{Set: map[string]any{
		"user": "ann", "theme": "dark", "cart": []string{"tea", "milk", "bread"}, "note": strings.Repeat("x", 320),
	}})
	if err != nil {
		b.Fatal(err)
	}
	site := m.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cart, _ := sessiond.Get[[]string](r.Context(), m, "cart"); m.GetString(r.Context(), "user") != "ann" || len(cart) != 3 {
			b.Error("expected the session of ann")
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	b.ReportAllocs()
	b.SetParallelism(64)
	b.ResetTimer()
	before := cpuTime()
	defer func() { b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op") }()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			request := httptest.NewRequest("GET", "/", nil)
			request.Header.Set("Cookie", "session="+written.Token)
			site.ServeHTTP(httptest.NewRecorder(), request)
		}
	})
}
