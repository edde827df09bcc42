// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// bearer is a workload that shows its token to the URL in $VERIFIER and
// answers with what came back, and with its token.
const bearer = `
import http.server, os, urllib.request, urllib.error
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        token = open(os.environ["DTZ_ACCESS_TOKEN_FILE"]).read()
        said = ask(token) if token == os.environ["DTZ_ACCESS_TOKEN"] else "the file and the variable differ"
        body = (said + "\n" + token + "\n" + os.environ["DTZ_CONTEXT_ID"]).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
def ask(token):
    try:
        return urllib.request.urlopen(urllib.request.Request(os.environ["VERIFIER"], headers={"Authorization": "Bearer " + token}), timeout=10).read().decode()
    except urllib.error.HTTPError as e:
        return e.read().decode()
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), H).serve_forever()
`

// verifier is a workload that verifies what it is shown with PyJWT, as the
// documentation says: by the keys that the platform serves, and by the file.
const verifier = `
import http.server, json, os, jwt
served = jwt.PyJWKClient(os.environ["KEYS"], cache_keys=False)
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        token = self.headers["Authorization"].removeprefix("Bearer ")
        try:
            kept = jwt.PyJWKSet.from_dict(json.load(open(os.environ["DTZ_JWKS_FILE"])))
            kid = jwt.get_unverified_header(token).get("kid")
            mine = next((k for k in kept.keys if k.key_id == kid), None)
            both = [jwt.decode(token, key.key, algorithms=["EdDSA"], audience=os.environ["DTZ_CONTEXT_ID"], issuer=os.environ["DTZ_ISSUER"])
                    for key in (served.get_signing_key_from_jwt(token), mine)]
            code, body = 200, json.dumps(both[0]) if both[0] == both[1] else "differ"
        except Exception as e:
            code, body = 401, type(e).__name__ + ": " + str(e)
        self.send_response(code); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body.encode())
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), H).serve_forever()
`

// python is the lines of a workload that is a Python program of Debian's.
func python(t *testing.T, a *lab.Agent, name, code, more string) string {
	t.Helper()
	path := a.Path(name + ".py")
	must(t, os.WriteFile(path, []byte(code), 0o644))
	return fmt.Sprintf("    driver: process\n    command: [/usr/bin/python3, -u, %q]\n%s", path, more)
}

// forged takes a token apart and puts it together again with another head and
// payload, without a signature of anybody's.
func forged(t *testing.T, token string, head, claims map[string]any, signature string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	for i, changes := range []map[string]any{head, claims} {
		if changes == nil {
			continue
		}
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		must(t, err)
		m := map[string]any{}
		must(t, json.Unmarshal(b, &m))
		for k, v := range changes {
			m[k] = v
		}
		b, err = json.Marshal(m)
		must(t, err)
		parts[i] = base64.RawURLEncoding.EncodeToString(b)
	}
	if signature != "keep" {
		parts[2] = signature
	}
	return strings.Join(parts, ".")
}

// TestD07Tokens: a workload shows its token to another one, which verifies it
// by the platform's keys, with a library that shares no code with what signed;
// also after a restart of the agent. Forged ones are refused.
func TestD07Tokens(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		a := lab.NewAgent(t, l.Node, l.Mode)
		node := lab.NodeAddr(lab.V4)
		front := "http://" + node.String()
		caller, verify := service(l, 40, "shop/caller", "80", "8090", "tcp"), service(l, 41, "shop/verifier", "80", "8090", "tcp")
		caller.Workload = python(t, a, "bearer", bearer, fmt.Sprintf("    env: {VERIFIER: \"http://%s/\"}\n    identity: mailer\n    roles: [reader]\n", vip(lab.V4, 41, 80)))
		verify.Workload = python(t, a, "verifier", verifier, fmt.Sprintf("    env: {KEYS: %q}\n", front+":9320/.well-known/jwks.json"))
		a.Write(t, lab.Config{
			Services: []lab.Service{caller, verify}, Settings: fmt.Sprintf("tokens: {prefix: DTZ, context: main}\nlisten: {metrics: %q}\n", node.String()+":9320"),
		})
		a.Run(t)
		a.WaitReady(t, 0)
		curl := func(to netip.AddrPort, more ...string) string {
			t.Helper()
			args := append([]string{"-sS", "--noproxy", "*", "--max-time", "20"}, more...)
			out, err := l.Client.Try("curl", append(args, "http://"+to.String()+"/")...)
			if err != nil {
				t.Errorf("curl %s: %v: %s", to, err, out)
			}
			return out
		}
		var token string
		for range 2 { // this agent, and the next one
			waitReplicas(t, a, "shop/caller", 1)
			waitReplicas(t, a, "shop/verifier", 1)
			said := strings.Split(curl(vip(lab.V4, 40, 80)), "\n")
			var claims struct {
				Iss, Sub, Aud, Context, Service string
				Roles                           []string
			}
			if err := json.Unmarshal([]byte(said[0]), &claims); err != nil {
				t.Fatalf("%v in %q", err, said)
			}
			if claims.Sub != "mailer" || claims.Context != "main" || claims.Aud != "main" || claims.Service != "shop/caller" || claims.Iss != "https://fairlead.test" || fmt.Sprint(claims.Roles) != "[reader]" {
				t.Errorf("the verifier was told %+v", claims)
			}
			token = said[1]
			if said[2] != "main" {
				t.Errorf("D06: context id %q", said[2])
			}
			a.Kill(t)
			a.Run(t)
			a.WaitReady(t, 0)
		}
		show := func(token string) string { return curl(vip(lab.V4, 41, 80), "-H", "Authorization: Bearer "+token) }
		if got := show(token); !strings.Contains(got, `"sub": "mailer"`) {
			t.Fatalf("a good token: %s", got)
		}
		public := l.Node.Run(t, "curl", "-sS", front+":9320/.well-known/jwks.json")
		for name, bad := range map[string]string{
			"none":      forged(t, token, map[string]any{"alg": "none"}, nil, ""),
			"hmac":      forged(t, token, map[string]any{"alg": "HS256"}, nil, base64.RawURLEncoding.EncodeToString([]byte(public[:32]))),
			"role":      forged(t, token, nil, map[string]any{"roles": []string{"admin"}}, "keep"),
			"identity":  forged(t, token, nil, map[string]any{"sub": "root"}, "keep"),
			"expiry":    forged(t, token, nil, map[string]any{"exp": time.Now().Add(time.Hour * 24 * 365).Unix()}, "keep"),
			"audience":  forged(t, token, nil, map[string]any{"aud": "other"}, "keep"),
			"key":       forged(t, token, map[string]any{"kid": "another"}, nil, "keep"),
			"signature": token[:len(token)-4] + "AAAA",
			"cut":       token[:len(token)/2],
			"empty":     "",
		} {
			if got := show(bad); !strings.Contains(got, "Error") {
				t.Errorf("%s: a forged token is taken: %s", name, got)
			}
		}
		a.Stop(t)
		if names, _ := os.ReadDir(a.Path("run/tokens")); len(names) != 0 {
			t.Errorf("tokens are left behind: %v", names)
		}
		if st, err := os.Stat(a.Path("state/tokens.json")); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the keys: %v, %v", st, err)
		}
	})
}

// TestExampleTokens: examples/tokens.yaml does what its comment says.
func TestExampleTokens(t *testing.T) {
	text, err := os.ReadFile("../../examples/tokens.yaml")
	must(t, err)
	host := lab.Bare(t)
	a := lab.NewAgent(t, host, lab.Any(t))
	marker := "  interfaces: []  "
	if strings.Count(string(text), marker) != 1 {
		t.Fatalf("tokens.yaml: want %q once", marker)
	}
	// Only the cgroup differs, so that the test does not reach into the machine.
	a.WriteText(t, strings.Replace(string(text), marker, fmt.Sprintf("  cgroup: %q\n", a.Cgroup)+marker, 1))
	a.Run(t)
	a.WaitReady(t, 0)
	waitReplicas(t, a, "whoami/demo", 1)
	served := host.Run(t, "curl", "-sS", "--noproxy", "*", "http://127.0.0.1:9320/.well-known/jwks.json")
	out, err := a.HostCommand(t, "/usr/bin/curl", "-sS", "--noproxy", "*", "http://"+a.Services(t)["whoami/demo"].VIP.String()+"/").CombinedOutput()
	for _, want := range []string{`"sub":"reporter"`, `"roles":["read","report"]`, `"context":"demo"`, `"service":"whoami/demo"`, served} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("curl: %v: %s; want %s in it", err, out, want)
		}
	}
}
