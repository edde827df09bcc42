// SPDX-License-Identifier: Apache-2.0

package names

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// TestA12Label: the table of row A12. A changed answer is a new TableVersion.
func TestA12Label(t *testing.T) {
	if TableVersion != 1 {
		t.Errorf("table version is %d, these are the answers of 1", TableVersion)
	}
	for in, want := range map[string]string{
		"Тест":                       "test",
		"тест":                       "test",
		"user":                       "user",
		"My App":                     "my-app",
		"abcdefghijklmnopqrstuvwxyz": "abcdefghijklmnopqrstuvwxyz",
		"ABCXYZ 0189":                "abcxyz-0189",
		// Russian, both cases.
		"абвгдеёжзийклмнопрстуфхцчшщъыьэюя": "abvgdeezhziyklmnoprstufkhtschshshchyeyuya",
		"АБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ": "abvgdeezhziyklmnoprstufkhtschshshchyeyuya",
		"Объём": "obem",
		"Щука":  "shchuka",
		"Юлия":  "yuliya",
		"Цирк":  "tsirk",
		"Мышь":  "mysh",
		// Ukrainian, Belarusian, Kazakh.
		"Ґанок їжак єнот ізюм": "ganok-yizhak-yenot-izyum",
		"ҐЄІЇ":                 "gyeiyi",
		"Ўсход ў":              "uskhod-u",
		"әғқңөұүһі":            "agqnouuhi",
		"ӘҒҚҢӨҰҮҺІ":            "agqnouuhi",
		"Қазақстан":            "qazaqstan",
		// Letters stored as a base and a mark.
		"и\u0306 И\u0306": "y-y", "е\u0308": "e", "і\u0308": "yi", "у\u0306": "u",
		// Runs of other characters, and the ends.
		"a  b":          "a-b",
		"a--b":          "a-b",
		"a - _ . b":     "a-b",
		"--a--":         "a",
		"  Тест!!! ":    "test",
		"a/b@c":         "a-b-c",
		"日本 a 語":        "a",
		"ьaъ":           "a",
		"a ь b":         "a-b",
		"a\xff\xfeb":    "a-b",
		"a\x00b":        "a-b",
		"é":             "",
		"\u212A kelvin": "kelvin", // lower-cases to k, but is no letter of the table
		"":              "",
		"ь":             "",
		"---":           "",
		"🙂":             "",
	} {
		got, err := Label(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Label(%q): got %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestA13Label(t *testing.T) {
	for in, want := range map[string]string{
		strings.Repeat("a", 63): "",
		strings.Repeat("a", 64): "64 bytes",
		strings.Repeat("щ", 15): "",
		strings.Repeat("щ", 16): "64 bytes",
	} {
		_, err := Label(in)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "at most 63")) {
			t.Errorf("Label(%q): got %v, want %q", in, err, want)
		}
	}
	if _, err := Label(strings.Repeat("я", 1_000_000)); err == nil || len(err.Error()) > 600 {
		t.Errorf("a huge input: want an error of one line, got %d bytes", len(err.Error()))
	}
}

var vars = Vars{Prefix: "fairlead", Project: "test", User: "user", Region: "local", Domain: "fairlead.test", TCPDomain: "db.test"}

func TestA07A09A10Templates(t *testing.T) {
	for text, want := range map[string]string{
		"{prefix}-{project}-run-{user}":            "fairlead-test-run-user",
		"{user}-{project}":                         "user-test",
		"{project}.{user}.{domain}":                "test.user.fairlead.test",
		"{project}-{user}.{domain}":                "test-user.fairlead.test",
		"{project}.{user}.db-{region}.{tcpDomain}": "test.user.db-local.db.test",
		"plain": "plain",
	} {
		tmpl, err := ParseTemplate(text)
		if err != nil {
			t.Errorf("ParseTemplate(%q): %v", text, err)
			continue
		}
		if got, err := tmpl.Expand(vars); got != want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
		if tmpl.String() != text {
			t.Errorf("%q: String is %q", text, tmpl.String())
		}
	}
}

func TestA13TemplateFaults(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "empty",
		"{nope}.{domain}":       "{nope}, which is unknown; want one of {prefix} {project}",
		"{project":              "'{' without its '}'",
		"project}":              "'}' without its '{'",
		"{{project}}":           "unknown",
		"{}":                    "unknown",
		"{Project}":             "unknown",
		"{project}_{user}":      `holds '_'`,
		"{project}..{user}":     "is empty",
		".{project}":            "is empty",
		"-{project}":            "begins or ends with '-'",
		"{project}-.{domain}":   "begins or ends with '-'",
		"{project}.Test":        `holds 'T'`,
		"{project} {user}":      `holds ' '`,
		"{project}.тест":        `holds 'т'`,
		strings.Repeat("a", 64): "64 bytes",
	} {
		_, err := ParseTemplate(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseTemplate(%q): got %v, want %s", text, err, want)
		}
	}
}

func TestA13Expand(t *testing.T) {
	tmpl, err := ParseTemplate("{prefix}-{project}.{domain}")
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("abcdefghi.", 24) + "abcd" // 244 bytes
	for _, c := range []struct {
		v    Vars
		want string
	}{
		{Vars{Prefix: strings.Repeat("p", 30), Project: strings.Repeat("q", 32), Domain: "d"}, ""},
		{Vars{Prefix: strings.Repeat("p", 30), Project: strings.Repeat("q", 33), Domain: "d"}, "64 bytes long, at most 63"},
		{Vars{Prefix: "pppp", Project: "qqq", Domain: long}, ""},
		{Vars{Prefix: "pppp", Project: "qqqq", Domain: long}, "254 bytes long, at most 253"},
		{Vars{Prefix: "p", Project: "Q", Domain: "d"}, `holds 'Q'`},
		{Vars{Prefix: "p", Project: "q", Domain: ""}, "is empty"},
	} {
		got, err := tmpl.Expand(c.v)
		if c.want == "" && err != nil || c.want != "" && (err == nil || got != "" || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("Expand(%+v): got %q, %v, want %q", c.v, got, err, c.want)
		}
	}
}

func TestA11Registry(t *testing.T) {
	a := model.ServiceName{Project: "a", User: "u"}
	b := model.ServiceName{Project: "b", User: "u"}
	var r Registry
	for _, c := range []Claim{
		{"internal name", "x", a, "f.yaml:1:2"},
		{"internal name", "y", b, ""},
		{"free name", "x", b, ""}, // another kind is another name
	} {
		if err := r.Claim(c); err != nil {
			t.Errorf("claim %+v: %v", c, err)
		}
	}
	err := r.Claim(Claim{"internal name", "x", b, "f.yaml:9:9"})
	var conflict *ConflictError
	if !errors.As(err, &conflict) || conflict.First.Owner != a || conflict.Claim.Owner != b {
		t.Fatalf("second claim: got %v, want a conflict with %s", err, a)
	}
	if want := `internal name "x" is taken by a/u (f.yaml:1:2)`; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if err := r.Claim(Claim{"internal name", "y", b, ""}); err == nil || err.Error() != `internal name "y" is taken by b/u` {
		t.Errorf("a claim of the same service again: got %v", err)
	}
}

func FuzzLabel(f *testing.F) {
	for _, s := range []string{"Тест", "a b", "", "--", "Щ", "\xff", "и\u0306", strings.Repeat("щ", 16), "Қазақстан", "a--b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		label, err := Label(s)
		if err != nil {
			if label != "" || !utf8.ValidString(err.Error()) {
				t.Errorf("Label(%q): %q and %q", s, label, err)
			}
			return
		}
		if err := CheckLabel(label); err != nil {
			t.Errorf("Label(%q): %v", s, err)
		}
		if again, err := Label(label); again != label || err != nil {
			t.Errorf("Label(%q) is %q, whose label is %q, %v", s, label, again, err)
		}
	})
}

func FuzzParseTemplate(f *testing.F) {
	for _, s := range []string{"{prefix}-{project}-run-{user}", "{", "}", "{}", "a.{domain}", "{project}{user}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tmpl, err := ParseTemplate(s)
		if err != nil {
			return
		}
		name, err := tmpl.Expand(vars)
		if err == nil && CheckName(name) != nil {
			t.Errorf("%q expands to %q: %v", s, name, CheckName(name))
		}
	})
}
