// SPDX-License-Identifier: Apache-2.0

package dns01

import (
	"net/netip"
	"strings"
	"testing"
)

const secret = "c2VjcmV0IG9mIGEgdGVzdCwgMzIgYnl0ZXMgbG9uZyEh"

func TestParseKey(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"tsig-keygen's", "key \"a.example\" {\n\talgorithm hmac-sha256;\n\tsecret \"" + secret + "\";\n};\n", ""},
		{"one line", `key a { secret ` + secret + `; algorithm HMAC-SHA512; };`, ""},
		{"comments", "# of the primary\n// 2026\nkey a { algorithm hmac-sha1; secret \"" + secret + "\"; };", ""},
		{"empty", "", "begin with"},
		{"the secret alone", secret, "begin with"},
		{"not closed", `key a { algorithm hmac-sha256; secret ` + secret + `;`, "of the form"},
		{"two keys", strings.Repeat(`key a { algorithm hmac-sha256; secret `+secret+`; };`, 2), "of the form"},
		{"md5", `key a { algorithm hmac-md5; secret ` + secret + `; };`, "algorithm"},
		{"no algorithm", `key a { secret ` + secret + `; };`, "algorithm"},
		{"no secret", `key a { algorithm hmac-sha256; };`, "base64"},
		{"broken secret", `key a { algorithm hmac-sha256; secret ` + secret + `%; };`, "base64"},
		{"other statement", `key a { algorithm hmac-sha256; ` + secret + ` x; };`, "other than"},
		{"no name", `key "" { algorithm hmac-sha256; secret ` + secret + `; };`, "name"},
		{"long", strings.Repeat(secret, 2000), "larger"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, err := parseKey(tt.text)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want == "" && (k.secret != secret || !strings.HasPrefix(k.name, "a.")):
				t.Errorf("got the key %q with %q", k.name, k.algorithm)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want %q in it", err, tt.want)
			case err != nil && strings.Contains(err.Error(), secret[:8]):
				t.Errorf("error %q tells the secret", err)
			}
		})
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("key \"a\" {\n\talgorithm hmac-sha256;\n\tsecret \"" + secret + "\";\n};\n")
	f.Add("key a {")
	f.Add("key { ; } ;")
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := parseKey(text); err == nil && (k.name == "" || k.secret == "" || k.algorithm == "") {
			t.Errorf("accepted %q as a key without a part", text)
		}
	})
}

func TestLacking(t *testing.T) {
	at := func(last byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 53)
	}
	shows, lacks, silent := view{server: at(1), shown: true}, view{server: at(2), why: "does not have it yet"}, view{server: at(3), silent: true, why: "does not answer"}
	for _, tt := range []struct {
		name  string
		views []view
		want  string
	}{
		{"all show it", []view{shows, shows}, ""},
		{"one lags", []view{shows, lacks}, "192.0.2.2:53 does not have it yet"},
		{"one is down", []view{shows, silent}, ""},
		{"one lags, one is down", []view{lacks, silent}, "192.0.2.2:53 does not have it yet, 192.0.2.3:53 does not answer"},
		{"all are down", []view{silent}, "192.0.2.3:53 does not answer"},
	} {
		if got := lacking(tt.views); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestWhatAProgramSaysIsPlainText(t *testing.T) {
	out := &tail{most: 20}
	_, _ = out.Write([]byte("the beginning is lost\x1b[31m red\n\tend\xff\n"))
	if got := out.said(); got != "; it says: lost [31m red end" {
		t.Errorf("got %q", got)
	}
}
