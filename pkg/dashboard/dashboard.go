// SPDX-License-Identifier: Apache-2.0

// Package dashboard serves one web page that shows what the agent does, and
// the JSON it is drawn from. It only reads: there is no verb, no cookie and no
// secret in it. The listener is a reconcile.Target, so that its address follows
// the config and an address in use is reported and tried again.
//
// There is no login. The default address is this host's own, and requests are
// answered only under names that a stranger's page cannot make its own.
package dashboard

// Views is what the page shows. Every field must be set; they are called from
// many goroutines, though never more than one at once.
//
// Those that return any are package admin's views, which this package may not
// know: they are encoded as they are, and the page reads the JSON that the
// admin socket has promised to keep stable.
type Views struct {
	Status       func() any // admin.Status
	Services     func() any // []admin.Service
	Workloads    func() any // []admin.Workload
	Domains      func() any // admin.Domains
	Certificates func() any // admin.Certificates
	Requests     func() []Requests
}

// Requests is what the HTTP front has answered for a service.
type Requests struct {
	Service string         `json:"service"` // PROJECT/USER, or "none"
	Codes   map[int]uint64 `json:"codes"`   // by status, since the start of the agent
}
