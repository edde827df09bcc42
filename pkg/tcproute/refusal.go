// SPDX-License-Identifier: Apache-2.0

package tcproute

import "fmt"

// Result is what became of a connection: the label of
// fairlead_tcp_router_connections_total.
type Result string

// The results. Only the first two reach a replica.
const (
	Routed        Result = "routed"
	Canceled      Result = "cancel"         // a Postgres CancelRequest, handed on
	CancelUnknown Result = "cancel_unknown" // one with a key nobody has seen
	NoTLS         Result = "no_tls"
	NoName        Result = "no_name"
	UnknownName   Result = "unknown_name"
	Malformed     Result = "malformed"
	TimedOut      Result = "timeout" // said too little within 10 s
	Gone          Result = "gone"    // closed before it said what it wants
	NotAllowed    Result = "not_allowed"
	RateLimited   Result = "rate_limited"
	NoReplica     Result = "no_replica"
	NotWoken      Result = "not_woken"      // the service sleeps and could not be started, or too many wait
	BackendFailed Result = "backend_failed" // no replica could be reached, or none speaks as it should
	NoCertificate Result = "no_certificate"
	Handshake     Result = "handshake" // the TLS handshake with the client failed
	Limited       Result = "limited"   // too many connections
)

// Results lists all of them.
var Results = []Result{
	Routed, Canceled, CancelUnknown, NoTLS, NoName, UnknownName, Malformed, TimedOut, Gone, NotAllowed, RateLimited,
	NoReplica, NotWoken, BackendFailed, NoCertificate, Handshake, Limited,
}

// TLS alerts (RFC 8446, section 6).
const (
	alertDecodeError      = 50
	alertAccessDenied     = 49
	alertInternalError    = 80
	alertUnrecognizedName = 112
)

// refusal is why a connection is closed, and what its client is told. It is
// silent where text is empty.
type refusal struct {
	result Result
	text   string // a sentence that says what is wrong
	hint   string // and one that says what to do
	state  string // SQLSTATE
	code   int32  // of MongoDB
	alert  byte   // of TLS
	cause  error  // for the log
}

func (r *refusal) Error() string {
	if r.cause != nil {
		return fmt.Sprintf("%s: %v", r.result, r.cause)
	}
	return string(r.result)
}

// SQLSTATEs (PostgreSQL documentation, appendix A) and MongoDB's error codes
// (error_codes.yml).
const (
	stateProtocol  = "08P01"
	stateRejected  = "08004"
	stateFailed    = "08006"
	stateAuth      = "28000"
	stateTooMany   = "53300"
	stateNotNow    = "57P03"
	mongoUnreach   = 6
	mongoUnauth    = 13
	mongoProtocol  = 17 // ProtocolError
	mongoNoService = 8000
)

func noTLS(k Kind) *refusal {
	r := &refusal{
		result: NoTLS, text: "this server needs TLS: it finds your database by the host name in the TLS handshake",
		state: stateAuth, code: mongoUnauth,
	}
	switch k {
	case Postgres:
		r.hint = "Connect with sslmode=require, verify-ca or verify-full."
	case Mongo:
		r.hint = "Connect with tls=true."
	case Redis:
		r.hint = "Connect with rediss://, or redis-cli --tls --sni HOST."
	}
	return r
}

func noName(sent string) *refusal {
	r := &refusal{
		result: NoName, text: "no host name in the TLS handshake",
		hint:  "Connect to the host name of the database, not to an IP address, with a client that sends it (SNI).",
		state: stateRejected, code: mongoNoService, alert: alertUnrecognizedName,
	}
	if sent != "" {
		r.text = fmt.Sprintf("%.80q in the TLS handshake is no host name", sent)
	}
	return r
}

func unknownName(name string, k Kind) *refusal {
	return &refusal{
		result: UnknownName, text: fmt.Sprintf("no %s service has the host name %.253q here", k.title(), name),
		hint:  "Compare the host name with the one in your service's settings.",
		state: stateRejected, code: mongoNoService, alert: alertUnrecognizedName,
	}
}

func malformed(why error) *refusal {
	return &refusal{
		result: Malformed, text: "what the client sent is no beginning of a connection", state: stateProtocol, code: mongoProtocol,
		alert: alertDecodeError, cause: why,
	}
}

func notAllowed() *refusal {
	return &refusal{
		result: NotAllowed, text: "your address is not in the list of those that may connect to this service",
		state: stateAuth, code: mongoUnauth, alert: alertAccessDenied,
	}
}

func rateLimited() *refusal {
	return &refusal{
		result: RateLimited, text: "you open connections faster than this service allows", hint: "Wait, or use a pool of connections.",
		state: stateTooMany, code: mongoNoService, alert: alertAccessDenied,
	}
}

func noReplica(why string) *refusal {
	text := "the service has no replica that takes connections now"
	if why != "" {
		text += ": " + why
	}
	return &refusal{
		result: NoReplica, text: text, hint: "Try again later.",
		state: stateNotNow, code: mongoUnreach, alert: alertInternalError,
	}
}

func notWoken(why error) *refusal {
	return &refusal{
		result: NotWoken, text: "the service sleeps and could not be woken: " + why.Error(), hint: "Try again later.",
		state: stateNotNow, code: mongoUnreach, alert: alertInternalError, cause: why,
	}
}

func backendFailed(why error) *refusal {
	return &refusal{
		result: BackendFailed, text: "no replica of the service could be reached", hint: "Try again later.",
		state: stateFailed, code: mongoUnreach, alert: alertInternalError, cause: why,
	}
}

func noCertificate(host string, why error) *refusal {
	return &refusal{
		result: NoCertificate, text: fmt.Sprintf("there is no certificate for %.253q yet", host), hint: "Try again later.",
		state: stateNotNow, code: mongoUnreach, alert: alertInternalError, cause: why,
	}
}
