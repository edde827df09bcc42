// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Kind is a protocol whose connections are routed by server name: a listener.
type Kind string

// The kinds of row A20.
const (
	Postgres Kind = "POSTGRES"
	Mongo    Kind = "MONGO"
	Redis    Kind = "REDIS"
)

// Kinds lists all of them.
var Kinds = []Kind{Postgres, Mongo, Redis}

// Label is the kind in metrics and settings: "postgres", "mongo", "redis".
func (k Kind) Label() string { return strings.ToLower(string(k)) }

// title is the kind in sentences.
func (k Kind) title() string {
	switch k {
	case Postgres:
		return "PostgreSQL"
	case Mongo:
		return "MongoDB"
	}
	return "Redis"
}

// address is the listen address a state asks for; "" for none.
func (k Kind) address(l model.Listen) string {
	switch k {
	case Postgres:
		return l.Postgres
	case Mongo:
		return l.Mongo
	case Redis:
		return l.Redis
	}
	return ""
}
