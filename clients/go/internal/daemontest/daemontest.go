// Package daemontest starts a real daemon for a test.
package daemontest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// Daemon is a daemon with its sessions in memory.
type Daemon struct {
	Address string
	command *exec.Cmd
	ended   chan struct{}
}

var ready = regexp.MustCompile(`grpc=([^,\s]+)`)

// Start starts a daemon with these lines of KEY=VALUE, and ends it with the test. listen: empty is a free port. The test
// is skipped if there is no program.
func Start(t testing.TB, listen string, set ...string) *Daemon {
	t.Helper()
	program := Program()
	if program == "" {
		t.Skip("no daemon: set SESSIOND_BIN")
	}
	daemon, err := Run(program, listen, set...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Stop(syscall.SIGKILL) })
	return daemon
}

// Run starts a daemon for a TestMain, which has to stop it.
func Run(program, listen string, set ...string) (*Daemon, error) {
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	arguments := []string{"serve", "--dev"}
	for _, line := range append([]string{"listen.grpc=" + listen, "listen.admin=", "listen.metrics=", "log.level=error"}, set...) {
		arguments = append(arguments, "--set", line)
	}
	command := exec.Command(program, arguments...)
	// The daemon reads its configuration from variables of this prefix.
	for _, line := range os.Environ() {
		if !strings.HasPrefix(line, "SESSIOND_") {
			command.Env = append(command.Env, line)
		}
	}
	command.Stderr = os.Stderr
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	daemon := &Daemon{command: command, ended: make(chan struct{})}
	line, err := bufio.NewReader(output).ReadString('\n')
	go func() {
		defer close(daemon.ended)
		command.Wait()
	}()
	match := ready.FindStringSubmatch(line)
	if match == nil {
		daemon.Stop(syscall.SIGKILL)
		return nil, fmt.Errorf("expected the daemon to be ready, found %q: %w", line, err)
	}
	daemon.Address = match[1]
	return daemon, nil
}

// Program is the daemon's: SESSIOND_BIN, or what this repository has built. Empty: there is none.
func Program() string {
	if named := os.Getenv("SESSIOND_BIN"); named != "" {
		return named
	}
	_, file, _, _ := runtime.Caller(0)
	for _, profile := range []string{"dist", "release", "debug"} {
		path := filepath.Join(filepath.Dir(file), "../../../../target", profile, "sessiond")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// Signal sends a signal, such as SIGSTOP.
func (d *Daemon) Signal(signal syscall.Signal) { d.command.Process.Signal(signal) }

// Pause stops the daemon where it is, and waits until all of its threads stand still.
func (d *Daemon) Pause() {
	d.Signal(syscall.SIGSTOP)
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.command.Process.Pid))
		if err != nil || strings.Contains(string(status), "State:\tT") {
			return
		}
		runtime.Gosched()
	}
}

// Stop ends the daemon, and waits for its end.
func (d *Daemon) Stop(signal syscall.Signal) {
	d.Signal(signal)
	<-d.ended
}
