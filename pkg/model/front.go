// SPDX-License-Identifier: Apache-2.0

package model

import "time"

// HTTPHost is a host name served by the HTTP front.
type HTTPHost struct {
	Host     string     `json:"host"`
	Free     bool       `json:"free,omitempty"` // made by the names.http template
	TLS      bool       `json:"tls"`
	Redirect bool       `json:"redirect"`
	Paths    []HTTPPath `json:"paths"`
}

// HTTPPath routes a whole-segment path prefix to a service port.
type HTTPPath struct {
	Path        string     `json:"path"`
	ServicePort uint16     `json:"servicePort"`
	WebSocket   bool       `json:"websocket,omitempty"`
	StripPrefix bool       `json:"stripPrefix,omitempty"`
	Rewrite     Rewrite    `json:"rewrite"`
	BackendTLS  BackendTLS `json:"backendTLS"`
}

// Rewrite replaces the path: a regular expression (RE2) and its target.
type Rewrite struct {
	Match  string `json:"match,omitempty"`
	Target string `json:"target,omitempty"`
}

// BackendTLS is TLS towards the replica.
type BackendTLS struct {
	Mode       string `json:"mode"` // "off" | "on" | "verify"
	ServerName string `json:"serverName,omitempty"`
	CAFile     string `json:"caFile,omitempty"`
}

// TCPName routes connections by TLS server name on a database port.
type TCPName struct {
	Host string `json:"host"`
	Kind string `json:"kind"` // "POSTGRES" | "MONGO" | "REDIS"
	TLS  string `json:"tls"`  // "passthrough" | "terminate"
	// BackendTLS is TLS towards the replica, with terminate only: with
	// passthrough it is the client's. Zero: off.
	BackendTLS BackendTLS `json:"backendTLS,omitzero"`
	// ProxyProtocol has every connection to a replica begin with a PROXY
	// protocol header, version 2, that names the client.
	ProxyProtocol bool `json:"proxyProtocol,omitempty"`
}

// ServicePort is the service port that the kind stands for (row A20).
func (t TCPName) ServicePort() uint16 {
	switch t.Kind {
	case "POSTGRES":
		return 5432
	case "MONGO":
		return 27017
	case "REDIS":
		return 6379
	}
	return 0
}

// Workload is what runs the replicas of a service.
type Workload struct {
	Driver   string            `json:"driver"` // "process" | "docker" | "kubernetes"
	Command  []string          `json:"command,omitempty"`
	Image    string            `json:"image,omitempty"`
	Env      map[string]string `json:"env,omitempty"`
	Identity string            `json:"identity,omitempty"` // empty: PROJECT/USER
	Roles    []string          `json:"roles,omitempty"`
	Scale    Scale             `json:"scale"`
	Ready    string            `json:"ready"` // "listen" | "http-head"
}

// Scale bounds the number of replicas.
type Scale struct {
	Min          int           `json:"min"`
	Max          int           `json:"max"`
	Target       int           `json:"target"` // requests in flight or connections per replica
	Idle         time.Duration `json:"idle"`
	StartTimeout time.Duration `json:"startTimeout"`
	Queue        int           `json:"queue"`
	Paused       bool          `json:"paused"`
	// Page is how long a person's page is held for a start before the waiting
	// page is shown.
	Page time.Duration `json:"waitingPage"`
}
