// SPDX-License-Identifier: Apache-2.0

// Package environment makes what a replica is told of itself and the platform,
// whatever runs it: the variables of its process, and a directory with its
// access token and the platform's public keys, which a Keeper keeps fresh. It
// starts nothing.
package environment

import (
	"cmp"
	"maps"
	"path/filepath"
	"strconv"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/token"
)

// Names of the files in a replica's directory.
const (
	TokenFile = "token"
	KeysFile  = "jwks.json"
)

// What follows the platform's prefix in the names of variables.
const (
	AccessToken     = "_ACCESS_TOKEN"
	AccessTokenFile = "_ACCESS_TOKEN_FILE"
	KeySetFile      = "_JWKS_FILE"
	Issuer          = "_ISSUER"
	ContextID       = "_CONTEXT_ID"
)

// Plain is the variables that need no token: PORT, the first container port,
// FAIRLEAD_REPLICA, and the owner's, which win.
func Plain(s activator.Spec, replica string) map[string]string {
	env := map[string]string{"FAIRLEAD_REPLICA": replica}
	if len(s.Ports) > 0 {
		env["PORT"] = strconv.Itoa(int(s.Ports[0].Container))
	}
	maps.Copy(env, s.Workload.Env)
	return env
}

// full is Plain with what tells of the token; dir is where the replica sees its
// directory; empty: it has none. The owner's variables win over all but the context id (row D06).
func full(s activator.Spec, replica, dir, access string) map[string]string {
	p := s.Tokens.Prefix
	env := map[string]string{p + AccessToken: access, p + Issuer: s.Tokens.Issuer()}
	if dir != "" {
		env[p+AccessTokenFile], env[p+KeySetFile] = filepath.Join(dir, TokenFile), filepath.Join(dir, KeysFile)
	}
	maps.Copy(env, Plain(s, replica))
	env[p+ContextID] = s.Tokens.Context
	return env
}

// Fixed is what of the platform and of a workload's token a running replica
// cannot be told: a change of it needs a new one.
func Fixed(s activator.Spec) []string {
	return append([]string{s.Tokens.Prefix, s.Tokens.Context, s.Tokens.Host, s.Workload.Identity}, s.Workload.Roles...)
}

// claimsOf is what the token of a workload says.
func claimsOf(t model.Tokens, name model.ServiceName, w *model.Workload) token.Claims {
	return token.Claims{
		Issuer: t.Issuer(), Subject: cmp.Or(w.Identity, name.String()), Context: t.Context, Roles: w.Roles, Service: name.String(),
	}
}
