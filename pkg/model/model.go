// SPDX-License-Identifier: Apache-2.0

// Package model holds the immutable desired state: what the machine (or the
// node of a cluster) should serve. Values are built by a source, merged by
// package source, and read by every target. Nothing in here does I/O.
//
// A State and everything reachable from it is immutable once published: a
// change is a new State.
package model

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// ServiceName names a service in every command, log line and metric.
// Both parts are LDH labels (see package names).
type ServiceName struct {
	Project string
	User    string
}

// String is "project/user".
func (n ServiceName) String() string { return n.Project + "/" + n.User }

// MarshalText writes "project/user".
func (n ServiceName) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads "project/user".
func (n *ServiceName) UnmarshalText(b []byte) error {
	parsed, err := ParseServiceName(string(b))
	if err != nil {
		return err
	}
	*n = parsed
	return nil
}

// ParseServiceName reads "project/user". It does not transliterate.
func ParseServiceName(s string) (ServiceName, error) {
	project, user, ok := strings.Cut(s, "/")
	if !ok || project == "" || user == "" || strings.Contains(user, "/") {
		return ServiceName{}, fmt.Errorf("parse service name %q: want PROJECT/USER", s)
	}
	return ServiceName{Project: project, User: user}, nil
}

// Compare orders names by user-visible text.
func (n ServiceName) Compare(o ServiceName) int {
	if n.Project == o.Project {
		return strings.Compare(n.User, o.User)
	}
	p, q := n.Project, o.Project
	switch m := min(len(p), len(q)); {
	case p[:m] != q[:m]:
		return strings.Compare(p, q)
	case len(p) < len(q):
		return strings.Compare("/"+n.User, q[m:]+"/"+o.User)
	default:
		return strings.Compare(p[m:]+"/"+n.User, "/"+o.User)
	}
}

// State is the whole desired state. Generation grows by one with every
// published change; equal states share a generation. A service that is the
// same in two states of one Merge is the same value at the same place in
// memory: comparing pointers finds what may have changed.
type State struct {
	Generation uint64
	Settings   Settings
	Services   []*Service // sorted by Name, unique
}

// Equal tells whether both states ask for the same, whatever their generation.
func (s *State) Equal(o *State) bool {
	return reflect.DeepEqual(s.Settings, o.Settings) && slices.EqualFunc(s.Services, o.Services, (*Service).Equal)
}

// Equal tells whether both ask for the same.
func (s *Service) Equal(o *Service) bool { return s == o || reflect.DeepEqual(s, o) }

// Service finds a service by name.
func (s *State) Service(name ServiceName) (*Service, bool) {
	i, ok := slices.BinarySearchFunc(s.Services, name, func(svc *Service, n ServiceName) int {
		return svc.Name.Compare(n)
	})
	if !ok {
		return nil, false
	}
	return s.Services[i], true
}

// VIPs lists the service's virtual IPs, IPv4 first; none allocated: empty.
func (s *Service) VIPs() []netip.Addr {
	var vips []netip.Addr
	for _, a := range []netip.Addr{s.VIP4, s.VIP6} {
		if a.IsValid() {
			vips = append(vips, a)
		}
	}
	return vips
}
