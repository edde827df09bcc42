// SPDX-License-Identifier: Apache-2.0

package names

import (
	"fmt"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Registry remembers who claimed which name first (row A11). The zero value
// is empty and ready. It is not safe for concurrent use.
type Registry struct {
	first map[key]Claim
}

type key struct{ kind, name string }

// Claim is one service's wish for a name.
type Claim struct {
	Kind  string // what is claimed, in words a person reads: "internal name"
	Name  string
	Owner model.ServiceName
	Where string // the place of the claim, such as FILE:LINE:COL; may be empty
}

// ConflictError refuses a claim and names the one that came first.
type ConflictError struct {
	Claim Claim
	First Claim
}

// Error names the thing, who has it, and where that was said.
func (e *ConflictError) Error() string {
	at := ""
	if e.First.Where != "" {
		at = " (" + e.First.Where + ")"
	}
	return fmt.Sprintf("%s %q is taken by %s%s", e.Claim.Kind, e.Claim.Name, e.First.Owner, at)
}

// Claim records c, or returns a *ConflictError when its kind and name were
// claimed before, by whomever: a service that claims a name twice made a
// mistake as well. The first claim stays in force.
func (r *Registry) Claim(c Claim) error {
	k := key{c.Kind, c.Name}
	if first, taken := r.first[k]; taken {
		return &ConflictError{Claim: c, First: first}
	}
	if r.first == nil {
		r.first = map[key]Claim{}
	}
	r.first[k] = c
	return nil
}
