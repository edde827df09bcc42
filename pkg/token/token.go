// SPDX-License-Identifier: Apache-2.0

// Package token issues the access tokens of workloads: JSON Web Tokens (RFC
// 7519) signed with Ed25519 (RFC 8037), and the keys by which anybody verifies
// them, as a JWK set (RFC 7517). It keeps the keys in one file and rotates them.
// It does not know who gets a token, and verifies none.
package token

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// MaxLifetime bounds the life of a token. A key that signs no more is published
// for so long, so that no token outlives the key that verifies it.
const MaxLifetime = 24 * time.Hour

// Skew is how far a verifier's clock may be behind: tokens say that they were
// issued so much earlier.
const Skew = time.Minute

// Config is what a Ring needs.
type Config struct {
	Path string           // of the file with the keys; empty: they live in memory alone
	Log  *slog.Logger     // default slog.Default()
	Now  func() time.Time // default time.Now
	// Rotate is how long a key signs before the next one does. Default 7 days.
	Rotate time.Duration
	// Lead is how long a key is published before it signs. Default 2 h.
	Lead time.Duration
	// MaxAge is how long verifiers may keep the set of keys; less than Lead, so
	// that everybody has a key when it begins to sign. Default 15 min.
	MaxAge time.Duration
}

// Claims is what a token says of its bearer.
type Claims struct {
	Issuer  string   `json:"iss"`
	Subject string   `json:"sub"` // the identity
	Context string   `json:"context"`
	Roles   []string `json:"roles"`
	Service string   `json:"service"` // PROJECT/USER that runs; unlike the identity nobody can choose it
}

// claims is a token's payload. Its audience is the context: there it is good.
type claims struct {
	Claims
	Audience  string           `json:"aud"`
	ID        string           `json:"jti"`
	IssuedAt  *jwt.NumericDate `json:"iat"`
	NotBefore *jwt.NumericDate `json:"nbf"`
	Expires   *jwt.NumericDate `json:"exp"`
}

// Ring is the keys: one signs, those before it and the next one are published
// as well. Safe for concurrent use; it needs no goroutine, as every call first
// does what is due.
type Ring struct {
	cfg Config

	mu     sync.Mutex
	keys   []*key // by age, the oldest first; never empty
	set    []byte // of the public keys
	lost   string // why the keys before these are not known; empty: they are
	lostAt time.Time
	unkept error     // why the file is not up to date; nil: it is
	retry  time.Time // when it is tried again
}

// Open reads the keys, or makes the first one. A file that cannot be read or
// understood is moved aside, reported, and replaced by a new key: tokens issued
// before can no longer be verified then. An error means a wrong Config.
func Open(cfg Config) (*Ring, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	for _, d := range []struct {
		to        *time.Duration
		otherwise time.Duration
	}{{&cfg.Rotate, 7 * 24 * time.Hour}, {&cfg.Lead, 2 * time.Hour}, {&cfg.MaxAge, 15 * time.Minute}} {
		if *d.to == 0 {
			*d.to = d.otherwise
		}
	}
	if cfg.MaxAge >= cfg.Lead || cfg.Lead >= cfg.Rotate {
		return nil, fmt.Errorf("keys of access tokens: max age %s, lead %s and rotation %s must be longer in this order", cfg.MaxAge, cfg.Lead, cfg.Rotate)
	}
	r := &Ring{cfg: cfg}
	r.load()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.turn(); err != nil {
		return nil, err
	}
	var err error
	r.set, err = publicSet(r.keys)
	return r, err
}

// Issue signs a token that is good for lifetime, at most MaxLifetime, and tells
// when it expires.
func (r *Ring) Issue(c Claims, lifetime time.Duration) (token string, expires time.Time, err error) {
	if lifetime <= 0 || lifetime > MaxLifetime {
		return "", time.Time{}, fmt.Errorf("issue access token: lifetime %s, want up to %s", lifetime, MaxLifetime)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.turn(); err != nil {
		return "", time.Time{}, err
	}
	now := r.cfg.Now()
	k := r.signer(now)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: k.JWK}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", time.Time{}, fmt.Errorf("issue access token: %w", err)
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	if c.Roles == nil {
		c.Roles = []string{}
	}
	expires = now.Add(lifetime).Truncate(time.Second)
	token, err = jwt.Signed(signer).Claims(claims{
		Claims: c, Audience: c.Context, ID: base64.RawURLEncoding.EncodeToString(id),
		IssuedAt: jwt.NewNumericDate(now.Add(-Skew)), NotBefore: jwt.NewNumericDate(now.Add(-Skew)), Expires: jwt.NewNumericDate(expires),
	}).Serialize()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("issue access token: %w", err)
	}
	return token, expires, nil
}

// KeySet is the JWK set of the keys that tokens may be signed with, and how
// long it may be kept. The caller does not change it.
func (r *Ring) KeySet() (set []byte, maxAge time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.turn(); err != nil {
		r.cfg.Log.Error("rotate the keys of access tokens", "error", err)
	}
	return r.set, r.cfg.MaxAge
}

// Problems says, in words, what a person should know of the keys.
func (r *Ring) Problems() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost != "" && r.cfg.Now().Sub(r.lostAt) < MaxLifetime {
		out = append(out, fmt.Sprintf("access tokens issued before %s can no longer be verified: %s", r.lostAt.Format(time.RFC3339), r.lost))
	}
	if r.unkept != nil {
		out = append(out, fmt.Sprintf("keys of access tokens are not saved, a restart would lose them: %v", r.unkept))
	}
	return out
}

var errNoKey = errors.New("there is no key in it")
