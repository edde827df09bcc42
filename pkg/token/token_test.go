// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The verifier of these tests is written from RFC 7515, 7517 and 8037 with the
// standard library alone, so that it shares no code with what signs.

var errToken = errors.New("not verified")

// set is a JWK set by key id.
type set map[string]ed25519.PublicKey

func parseSet(t *testing.T, b []byte) set {
	t.Helper()
	var doc struct {
		Keys []map[string]string
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	out := set{}
	for _, k := range doc.Keys {
		x, err := base64.RawURLEncoding.DecodeString(k["x"])
		if err != nil || k["kty"] != "OKP" || k["crv"] != "Ed25519" || k["alg"] != "EdDSA" || k["use"] != "sig" || k["kid"] == "" || len(x) != ed25519.PublicKeySize {
			t.Fatalf("key %v, %v", k, err)
		}
		if _, private := k["d"]; private {
			t.Fatalf("a private key is published: %s", b)
		}
		out[k["kid"]] = x
	}
	return out
}

type payload struct {
	Iss, Sub, Aud, Jti, Context, Service string
	Roles                                []string
	Iat, Nbf, Exp                        int64
}

func (s set) verify(token string, now time.Time) (p payload, kid string, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return p, "", errToken
	}
	var raw [3][]byte
	for i := range parts {
		if raw[i], err = base64.RawURLEncoding.DecodeString(parts[i]); err != nil {
			return p, "", err
		}
	}
	var h struct{ Alg, Kid, Typ string }
	if err := json.Unmarshal(raw[0], &h); err != nil {
		return p, "", err
	}
	key, ok := s[h.Kid]
	if !ok || h.Alg != "EdDSA" || h.Typ != "JWT" || !ed25519.Verify(key, []byte(parts[0]+"."+parts[1]), raw[2]) {
		return p, h.Kid, errToken
	}
	if err := json.Unmarshal(raw[1], &p); err != nil {
		return p, h.Kid, err
	}
	if now.Unix() >= p.Exp || now.Unix() < p.Nbf || now.Unix() < p.Iat {
		return p, h.Kid, errToken
	}
	return p, h.Kid, nil
}

// clock is a time that the test moves.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time { return c.now }

func open(t *testing.T, c *clock, path string) *Ring {
	t.Helper()
	r, err := Open(Config{Path: path, Now: c.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *Ring) published(t *testing.T) set {
	t.Helper()
	b, _ := r.KeySet()
	return parseSet(t, b)
}

var shop = Claims{Issuer: "https://fairlead.test", Subject: "mailer", Context: "default", Roles: []string{"reader"}, Service: "shop/mail"}

func issue(t *testing.T, r *Ring, lifetime time.Duration) string {
	t.Helper()
	token, _, err := r.Issue(shop, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestD07Token: identity, context and roles, signed so that the published keys
// verify it, for as long as it says and not longer.
func TestD07Token(t *testing.T) {
	c := newClock()
	r := open(t, c, filepath.Join(t.TempDir(), "tokens.json"))
	token, expires, err := r.Issue(shop, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	keys := r.published(t)
	p, _, err := keys.verify(token, c.now)
	if err != nil {
		t.Fatal(err)
	}
	if p.Iss != shop.Issuer || p.Sub != "mailer" || p.Aud != "default" || p.Context != "default" || p.Service != "shop/mail" || len(p.Roles) != 1 || p.Roles[0] != "reader" || p.Jti == "" {
		t.Errorf("claims %+v", p)
	}
	if want := c.now.Add(time.Hour); p.Exp != want.Unix() || !expires.Equal(want) {
		t.Errorf("expires %d and %s, want %s", p.Exp, expires, want)
	}
	for skew, good := range map[time.Duration]bool{
		-59 * time.Second: true, -61 * time.Second: false, 59 * time.Minute: true, time.Hour: false,
	} {
		if _, _, err := keys.verify(token, c.now.Add(skew)); (err == nil) != good {
			t.Errorf("a verifier whose clock is %s off: %v, want it to be good: %v", skew, err, good)
		}
	}
	if other := issue(t, r, time.Hour); other == token {
		t.Error("two tokens are the same")
	}
	for _, lifetime := range []time.Duration{0, -time.Second, MaxLifetime + time.Second} {
		if token, _, err := r.Issue(shop, lifetime); err == nil {
			t.Errorf("a token for %s: %s", lifetime, token)
		}
	}
	if token, _, _ := r.Issue(Claims{}, time.Hour); !strings.Contains(decode(t, token), `"roles":[]`) {
		t.Errorf("without roles: %s, want an empty list", decode(t, token))
	}
}

func decode(t *testing.T, token string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestD07Tampered: no byte of a token can be changed.
func TestD07Tampered(t *testing.T) {
	c := newClock()
	r := open(t, c, "")
	token, keys := issue(t, r, time.Hour), r.published(t)
	for i := range token {
		b := []byte(token)
		b[i] ^= 1
		if string(b) == token || b[i] == '.' || strings.Count(string(b), ".") != 2 {
			continue
		}
		// The last character of a part has bits that stand for nothing.
		if i+1 == len(token) || token[i+1] == '.' {
			continue
		}
		if _, _, err := keys.verify(string(b), c.now); err == nil {
			t.Errorf("byte %d changed, and it is verified: %s", i, b)
		}
	}
}

// TestD07Rotation goes through two months by the hour with tokens of the longest
// life: every token is verified by what is published while it lives, every key
// was published long before it signed, and none is kept for nothing.
func TestD07Rotation(t *testing.T) {
	c := newClock()
	path := filepath.Join(t.TempDir(), "tokens.json")
	r := open(t, c, path)
	type issued struct {
		token string
		at    time.Time
	}
	var live []issued
	first, signed := map[string]time.Time{}, map[string]bool{}
	begun, most := c.now, 0
	for range 60 * 24 {
		keys := r.published(t)
		most = max(most, len(keys))
		for kid := range keys {
			if _, known := first[kid]; !known {
				first[kid] = c.now
			}
		}
		token := issue(t, r, MaxLifetime)
		_, kid, err := keys.verify(token, c.now)
		if err != nil {
			t.Fatalf("%s: %v", c.now, err)
		}
		if lead := c.now.Sub(first[kid]); !signed[kid] && !first[kid].Equal(begun) && lead < 2*time.Hour {
			t.Errorf("%s: a key signs that was published %s ago", c.now, lead)
		}
		signed[kid] = true
		live = append(live, issued{token, c.now})
		for len(live) > 0 && c.now.Sub(live[0].at) >= MaxLifetime {
			live = live[1:]
		}
		for _, x := range live {
			if _, _, err := keys.verify(x.token, c.now); err != nil {
				t.Fatalf("%s: the token of %s is not verified: %v", c.now, x.at, err)
			}
		}
		if c.now = c.now.Add(time.Hour); c.now.Hour()%7 == 0 { // a restart
			r = open(t, c, path)
		}
	}
	if len(signed) < 8 || most != 2 {
		t.Errorf("%d keys have signed in 60 days, %d at most were published; want one a week, and two", len(signed), most)
	}
}

// TestD07LongPause: an agent that was away for long publishes the next key and
// lets the old one sign until everybody has the new one.
func TestD07LongPause(t *testing.T) {
	c := newClock()
	path := filepath.Join(t.TempDir(), "tokens.json")
	keys := open(t, c, path).published(t)
	c.now = c.now.Add(90 * 24 * time.Hour)
	r := open(t, c, path)
	if _, _, err := keys.verify(issue(t, r, time.Hour), c.now); err != nil || len(r.published(t)) != 2 {
		t.Errorf("signed by a key that nobody has yet: %v; published %d, want 2", err, len(r.published(t)))
	}
	c.now = c.now.Add(2 * time.Hour)
	if _, _, err := keys.verify(issue(t, r, time.Hour), c.now); err == nil {
		t.Error("the old key still signs")
	}
}

// TestD07ClockAhead: a clock that was ahead for a while stops no rotation.
func TestD07ClockAhead(t *testing.T) {
	c := newClock()
	path := filepath.Join(t.TempDir(), "tokens.json")
	open(t, c, path)
	c.now = c.now.Add(10 * 365 * 24 * time.Hour)
	open(t, c, path) // makes a key of ten years hence
	c.now = newClock().now
	r := open(t, c, path)
	before := len(r.published(t))
	c.now = c.now.Add(8 * 24 * time.Hour)
	if after := len(r.published(t)); before != 2 || after != 2 {
		t.Errorf("%d keys, and %d a week later; want a new one for an old one", before, after)
	}
	if _, _, err := r.published(t).verify(issue(t, r, time.Hour), c.now); err != nil {
		t.Error(err)
	}
}

// TestD07Restart: the next agent has the same keys, and only root can read them.
func TestD07Restart(t *testing.T) {
	c := newClock()
	path := filepath.Join(t.TempDir(), "tokens.json")
	token := issue(t, open(t, c, path), time.Hour)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	r := open(t, c, path)
	if _, _, err := r.published(t).verify(token, c.now); err != nil || len(r.Problems()) > 0 {
		t.Errorf("%v, %q", err, r.Problems())
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("others may still read the keys: %v", st.Mode())
	}
	if names, _ := filepath.Glob(path + "*"); len(names) != 1 {
		t.Errorf("left behind: %q", names)
	}
}

// TestD07Corrupted: keys that cannot be read are kept aside and reported for as
// long as somebody may have a token of theirs.
func TestD07Corrupted(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good")
	open(t, newClock(), good)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty": "", "half": string(whole[:len(whole)/2]), "none": `{"version": 1, "keys": []}`, "null": `{"version": 1, "keys": [null]}`,
		"later":  strings.Replace(string(whole), `"version": 1`, `"version": 2`, 1),
		"public": `{"version": 1, "keys": [{"key": {"kty": "OKP", "kid": "a", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}]}`,
		"secret": `{"version": 1, "keys": [{"key": {"kty": "oct", "kid": "a", "k": "c2VjcmV0"}}]}`,
		"binary": "\x00\xff",
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			path := filepath.Join(t.TempDir(), "tokens.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			r := open(t, c, path)
			if _, _, err := r.published(t).verify(issue(t, r, time.Hour), c.now); err != nil {
				t.Error(err)
			}
			if got := strings.Join(r.Problems(), "\n"); !strings.Contains(got, "can no longer be verified") || !strings.Contains(got, ".invalid") {
				t.Errorf("problems %q", got)
			}
			if kept, _ := os.ReadFile(path + ".invalid"); string(kept) != content {
				t.Errorf("kept %q of %q", kept, content)
			}
			if again := open(t, c, path); len(again.Problems()) > 0 {
				t.Errorf("the new file is not good: %q", again.Problems())
			}
			if c.now = c.now.Add(MaxLifetime); len(r.Problems()) > 0 {
				t.Errorf("a day later: %q", r.Problems())
			}
		})
	}
}

// TestD07NoRoom: where the file cannot be written the key in use stays, that is
// told, and the next one comes once there is room.
func TestD07NoRoom(t *testing.T) {
	c := newClock()
	dir := filepath.Join(t.TempDir(), "state")
	path := filepath.Join(dir, "tokens.json")
	r := open(t, c, path) // the directory is not there
	token := issue(t, r, time.Hour)
	if _, _, err := r.published(t).verify(token, c.now); err != nil || len(r.Problems()) != 1 {
		t.Errorf("without a file: %v, %q", err, r.Problems())
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(saveAgain)
	if _, _, err := r.published(t).verify(token, c.now); err != nil || len(r.Problems()) != 0 {
		t.Errorf("with room again: %v, %q", err, r.Problems())
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(30 * 24 * time.Hour)
	if keys := r.published(t); len(keys) != 1 || len(r.Problems()) != 1 {
		t.Errorf("%d keys with one that is not saved, %q", len(keys), r.Problems())
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(saveAgain)
	if keys := r.published(t); len(keys) != 2 || len(r.Problems()) != 0 {
		t.Errorf("%d keys once there is room, %q", len(keys), r.Problems())
	}
}

func TestServeHTTP(t *testing.T) {
	r := open(t, newClock(), "")
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(method, "http://fairlead.test"+Path, nil))
		body, _ := io.ReadAll(w.Body)
		if got := w.Header().Get("Cache-Control"); got != "public, max-age=900" || w.Header().Get("Content-Type") != "application/jwk-set+json" {
			t.Errorf("%s: headers %v", method, w.Header())
		}
		if method == http.MethodGet && len(parseSet(t, body)) != 1 || method == http.MethodHead && len(body) > 0 {
			t.Errorf("%s: %s", method, body)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{{MaxAge: 3 * time.Hour}, {Lead: 8 * 24 * time.Hour}, {Rotate: time.Hour}} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
