// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// key is one key pair. All that happens to it follows from when it and the
// next one were made.
type key struct {
	JWK     jose.JSONWebKey `json:"key"`
	Created time.Time       `json:"created"`
}

// saveAgain is the time between two tries to write the file.
const saveAgain = 10 * time.Second

// newKey makes a key, named by its thumbprint (RFC 7638).
func newKey(now time.Time) (*key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of access tokens: %w", err)
	}
	k := &key{JWK: jose.JSONWebKey{Key: private, Algorithm: string(jose.EdDSA), Use: "sig"}, Created: now.UTC().Truncate(time.Second)}
	print, err := k.JWK.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("make key of access tokens: %w", err)
	}
	k.JWK.KeyID = base64.RawURLEncoding.EncodeToString(print)
	return k, nil
}

// signer is the newest key that has been published for Lead; before there is
// one, the oldest.
func (r *Ring) signer(now time.Time) *key {
	for _, k := range slices.Backward(r.keys) {
		if !k.Created.Add(r.cfg.Lead).After(now) {
			return k
		}
	}
	return r.keys[0]
}

// turn makes the next key when it is due, and forgets those whose last token
// has expired. The next one counts only once it is saved: no key may sign that
// a restart could lose. The first one must do without.
func (r *Ring) turn() error {
	now := r.cfg.Now()
	next := slices.Clone(r.keys)
	changed := r.unkept != nil
	for i, k := range next { // made when the clock was ahead
		if k.Created.After(now) {
			next[i], changed = &key{JWK: k.JWK, Created: now.UTC().Truncate(time.Second)}, true
		}
	}
	if n := len(next); n == 0 || now.Sub(next[n-1].Created) >= r.cfg.Rotate {
		k, err := newKey(now)
		if err != nil {
			return err
		}
		next, changed = append(next, k), true
	}
	for len(next) > 1 && now.Sub(next[1].Created) >= r.cfg.Lead+MaxLifetime+Skew {
		next, changed = next[1:], true
	}
	if !changed || now.Before(r.retry) && len(r.keys) > 0 {
		return nil
	}
	err := save(r.cfg.Path, next)
	if err != nil {
		if r.unkept == nil {
			r.cfg.Log.Error("keys of access tokens are not saved: those in use stay", "error", err)
		}
		r.unkept, r.retry = err, now.Add(saveAgain)
		if len(r.keys) > 0 {
			return nil
		}
	} else {
		if r.unkept != nil {
			r.cfg.Log.Info("keys of access tokens are saved again")
		}
		r.unkept, r.retry = nil, time.Time{}
	}
	r.keys = next
	r.set, err = publicSet(next)
	return err
}

// publicSet is the JWK set, the newest key first.
func publicSet(keys []*key) ([]byte, error) {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range slices.Backward(keys) {
		set.Keys = append(set.Keys, k.JWK.Public())
	}
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(set); err != nil {
		return nil, fmt.Errorf("write the public keys of access tokens: %w", err)
	}
	return b.Bytes(), nil
}
