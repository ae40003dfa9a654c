// Package sessiond is the client of sessiond, a daemon that owns the web sessions of all services of an application.
//
// [Manager] is for net/http: a middleware finds the session of each request, and handlers read and change it.
// [Client] is the API below it. Package sessiondtest has a fake for tests.
package sessiond

// Version is the version of this package, and of the daemon that it is made for. A later daemon works too.
const Version = "0.1.0"

//go:generate npx --yes @bufbuild/buf@1.75.0 generate
