// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"fmt"
	"time"
)

// Scale is how many replicas a service has that may have more or fewer, and why.
type Scale struct {
	Want    int        `json:"want"`
	Min     int        `json:"min"`
	Max     int        `json:"max"`
	Load    int        `json:"load"`   // requests and connections
	Target  int        `json:"target"` // of these for each replica
	Since   time.Time  `json:"since"`  // Want is so
	Cause   string     `json:"cause,omitempty"`
	Shrinks *time.Time `json:"shrinks,omitempty"` // when one replica goes, if the load stays
	Note    string     `json:"note,omitempty"`    // why it is not scaled
}

// String says it to a person.
func (s Scale) String() string {
	out := fmt.Sprintf("%d of %d to %d, for %d requests and connections at most, %d for each", s.Want, s.Min, s.Max, s.Load, s.Target)
	if s.Want > 0 {
		out += "; since " + s.Since.Local().Format(time.DateTime) + " because of: " + s.Cause
	}
	if s.Shrinks != nil {
		out += "; one fewer at " + s.Shrinks.Local().Format(time.DateTime) + " if no more come"
	}
	if s.Note != "" {
		out += "; " + s.Note
	}
	return out
}
