package sessiondtest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

// Ids, tokens and cookies as the daemon makes and reads them, so that a test sees what a browser would see.

const (
	maxHeader     = 64 << 10
	maxCandidates = 8
)

var shape = regexp.MustCompile(`^([A-Za-z0-9_-]{40})\.([A-Za-z0-9+/]{43})$`)

// publicID is the form of a session's public id.
var publicID = regexp.MustCompile(`^[A-Za-z0-9_-]{16}$`)

// identity is a session id: 16 characters that are public, 24 that are secret.
type identity struct{ id, secret string }

func random(octets int) string {
	buffer := make([]byte, octets)
	rand.Read(buffer) // never fails
	return base64.RawURLEncoding.EncodeToString(buffer)
}

func newIdentity(id string) identity {
	if id == "" {
		id = random(12)
	}
	return identity{id: id, secret: random(18)}
}

// verifier is what a record keeps of the secret half.
func (i identity) verifier() [32]byte { return sha256.Sum256([]byte(i.secret)) }

func mac(key []byte, text string) []byte {
	sum := hmac.New(sha256.New, key)
	sum.Write([]byte(text))
	return sum.Sum(nil)
}

func (i identity) token(key []byte) string {
	text := i.id + i.secret
	return text + "." + base64.RawStdEncoding.EncodeToString(mac(key, text))
}

// present finds the ids that a credential proves, and why there is none if none of them is live.
func present(credential *pb.Credential, engine *Engine, key []byte) ([]identity, pb.SessionState) {
	var values []string
	switch kind := credential.GetKind().(type) {
	case *pb.Credential_CookieHeader:
		if len(kind.CookieHeader) > maxHeader {
			return nil, pb.SessionState_SESSION_STATE_INVALID
		}
		values = cookieValues(string(kind.CookieHeader), engine.CookieName)
	case *pb.Credential_Token:
		values = []string{string(kind.Token)}
	}
	if len(values) == 0 {
		return nil, pb.SessionState_SESSION_STATE_NONE
	}
	state := pb.SessionState_SESSION_STATE_INVALID
	var ids []identity
	candidates := 0
	for _, value := range values {
		match := shape.FindStringSubmatch(spelled(value))
		if match == nil {
			continue
		}
		if candidates++; candidates > maxCandidates {
			break
		}
		given, err := base64.RawStdEncoding.DecodeString(match[2])
		if err != nil || !hmac.Equal(given, mac(key, match[1])) {
			continue
		}
		state = pb.SessionState_SESSION_STATE_NOT_FOUND
		ids = append(ids, identity{id: match[1][:16], secret: match[1][16:]})
	}
	return ids, state
}

func cookieValues(header, name string) []string {
	var values []string
	for pair := range strings.SplitSeq(header, ";") {
		found, value, ok := strings.Cut(pair, "=")
		if !ok || strings.Trim(found, " \t") != name {
			continue
		}
		value = strings.Trim(value, " \t")
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		values = append(values, value)
	}
	return values
}

var (
	prefix  = regexp.MustCompile(`^s(:|%3[aA])`)
	escapes = strings.NewReplacer("%2b", "+", "%2B", "+", "%2f", "/", "%2F", "/")
)

// spelled: a token may have the prefix of express-session, and be percent-encoded.
func spelled(value string) string {
	return escapes.Replace(prefix.ReplaceAllString(value, ""))
}

// setCookie is the value of a Set-Cookie line. maxAge 0: not persistent.
func setCookie(engine *Engine, token string, maxAge time.Duration, now time.Time) string {
	age := ""
	if maxAge > 0 {
		seconds := (maxAge + time.Second - 1) / time.Second
		age = fmt.Sprintf("; Max-Age=%d; Expires=%s", seconds, now.Add(maxAge).UTC().Format(http.TimeFormat))
	}
	return engine.CookieName + "=" + engine.prefix() + token + age + attributes(engine)
}

// deletion is the value of the Set-Cookie line that deletes the cookie.
func deletion(engine *Engine) string {
	return engine.CookieName + "=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT" + attributes(engine)
}

func attributes(engine *Engine) string {
	secure := ""
	if strings.HasPrefix(engine.CookieName, "__Host-") || strings.HasPrefix(engine.CookieName, "__Secure-") {
		secure = "; Secure"
	}
	return "; Path=/; HttpOnly" + secure + "; SameSite=Lax"
}

func (e *Engine) prefix() string {
	if e.ExpressFormat {
		return "s:"
	}
	return ""
}
