// SPDX-License-Identifier: Apache-2.0

package dns01

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// key is a TSIG key (RFC 8945). Its secret is never part of an error.
type key struct {
	name      string // fully qualified
	algorithm string
	secret    string // base64
}

// maxKeyFile bounds a key file, in bytes.
const maxKeyFile = 1 << 16

var algorithms = []string{"hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"}

// readKey reads a file as tsig-keygen writes it:
//
//	key "name" { algorithm hmac-sha256; secret "base64"; };
func readKey(path string) (key, error) {
	f, err := os.Open(path)
	if err != nil {
		return key{}, fmt.Errorf("acme.dns01.keyFile: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return key{}, fmt.Errorf("acme.dns01.keyFile: %w", err)
	}
	k, err := parseKey(string(text))
	if err != nil {
		return key{}, fmt.Errorf("acme.dns01.keyFile %s: %w; tsig-keygen writes one", path, err)
	}
	return k, nil
}

// parseKey reads the one key of a text.
func parseKey(text string) (key, error) {
	if len(text) > maxKeyFile {
		return key{}, fmt.Errorf("is larger than %d bytes", maxKeyFile)
	}
	words := split(text)
	if len(words) < 4 || words[0] != "key" || words[2] != "{" {
		return key{}, errors.New(`does not begin with: key "name" {`)
	}
	k := key{name: dns.CanonicalName(words[1])}
	for rest := words[3:]; ; rest = rest[3:] {
		if len(rest) == 2 && rest[0] == "}" && rest[1] == ";" {
			break
		}
		if len(rest) < 3 || rest[2] != ";" {
			return key{}, errors.New("is not one key of the form: key NAME { algorithm ALGORITHM; secret SECRET; };")
		}
		switch rest[0] {
		case "algorithm":
			k.algorithm = strings.ToLower(rest[1])
		case "secret":
			k.secret = rest[1]
		default:
			return key{}, errors.New("has a statement other than algorithm and secret")
		}
	}
	if _, ok := dns.IsDomainName(k.name); !ok || k.name == "." {
		return key{}, errors.New("has a name that is no domain name")
	}
	if !slices.Contains(algorithms, k.algorithm) {
		return key{}, fmt.Errorf("has an algorithm other than %s", strings.Join(algorithms, ", "))
	}
	if raw, err := base64.StdEncoding.DecodeString(k.secret); err != nil || len(raw) == 0 {
		return key{}, errors.New("has no secret in base64")
	}
	return k, nil
}

// split is the words of a text in the syntax of named.conf, without lines that
// are comments.
func split(text string) []string {
	var words []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "//") {
			continue
		}
		for _, w := range strings.Fields(strings.NewReplacer("{", " { ", "}", " } ", ";", " ; ").Replace(line)) {
			words = append(words, strings.Trim(w, `"`))
		}
	}
	return words
}
