package sessiond_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sessiond "github.com/sessiond/sessiond/clients/go"
	"github.com/sessiond/sessiond/clients/go/internal/daemontest"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, key := a.sign(template, template, nil)
	a.key = key
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// issue makes a certificate for 127.0.0.1, which is good for a server and for a client.
func (a *authority) issue(name string) (certificate, key []byte) {
	der, private := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) pair(name string) tls.Certificate {
	certificate, key := a.issue(name)
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}

func write(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	certificate, key := ours.issue("daemon.test")
	settings := []string{"listen.tls.cert_file=" + write(t, "cert.pem", certificate), "listen.tls.key_file=" + write(t, "key.pem", key)}
	secure := daemontest.Start(t, "", settings...)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ours.cert.Raw})
	mutual := daemontest.Start(t, "", append(settings, "listen.tls.client_ca_file="+write(t, "ca.pem", ca))...)
	plain := daemontest.Start(t, "")
	mine := []tls.Certificate{ours.pair("app.test")}

	for what, good := range map[string]struct {
		address string
		config  *tls.Config
	}{
		"TLS by address":            {secure.Address, &tls.Config{RootCAs: ours.pool()}},
		"TLS by name":               {secure.Address, &tls.Config{RootCAs: ours.pool(), ServerName: "daemon.test"}},
		"mTLS":                      {mutual.Address, &tls.Config{RootCAs: ours.pool(), Certificates: mine}},
		"a certificate too many":    {secure.Address, &tls.Config{RootCAs: ours.pool(), Certificates: mine}},
		"without TLS on both sides": {plain.Address, nil},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			client := connect(t, good.address, sessiond.Options{TLS: good.config})
			credential := create(t, client)
			if found, err := client.Resolve(t.Context(), credential, sessiond.ResolveOptions{}); err != nil || found.State != sessiond.StateActive {
				t.Errorf("expected the session, found %+v %v", found, err)
			}
		})
	}
	for what, bad := range map[string]struct {
		address string
		config  *tls.Config
		says    string
	}{
		"a client without TLS":        {secure.Address, nil, ""},
		"a daemon without TLS":        {plain.Address, &tls.Config{RootCAs: ours.pool()}, ""},
		"an authority nobody trusts":  {secure.Address, &tls.Config{RootCAs: theirs.pool()}, "certificate signed by unknown authority"},
		"another name":                {secure.Address, &tls.Config{RootCAs: ours.pool(), ServerName: "other.test"}, "other.test"},
		"no certificate":              {mutual.Address, &tls.Config{RootCAs: ours.pool()}, ""},
		"a certificate of a stranger": {mutual.Address, &tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{theirs.pair("app.test")}}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			client := connect(t, bad.address, sessiond.Options{TLS: bad.config, Timeout: 5 * time.Second})
			_, err := client.Write(t.Context(), nobody, sessiond.WriteOptions{})
			expect(t, what, err, sessiond.ReasonConnectionFailed, sessiond.NotApplied)
			for _, part := range []string{bad.says, bad.address} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("expected %q in %q", part, err)
				}
			}
			if sessiond.HTTPStatus(err) != 503 {
				t.Errorf("expected 503, found %d", sessiond.HTTPStatus(err))
			}
		})
	}
}
