// SPDX-License-Identifier: Apache-2.0

package http1

// field notes a header of a request and tells whether it is passed on. It
// looks at length and first letter before it compares.
func (r *Request) field(name, value []byte, trusted bool) (keep bool, err error) {
	switch name[0] | 0x20 {
	case 'h':
		switch {
		case EqualFold(name, "host"):
			return true, r.host(value)
		case EqualFold(name, "http2-settings"):
			return false, nil
		}
	case 'c':
		switch {
		case EqualFold(name, "connection"):
			r.connection(value)
			return false, nil
		case EqualFold(name, "content-length"):
			return true, r.length(value)
		case EqualFold(name, "content-type"):
			r.ContentType = value
		}
	case 't':
		switch {
		case EqualFold(name, "transfer-encoding"):
			return true, r.coding(value)
		case EqualFold(name, "te"):
			// The only one that says something to the replica, too.
			return EqualFold(value, "trailers"), nil
		case EqualFold(name, "traceparent"):
			r.TraceParent = value
		}
	case 'a':
		if EqualFold(name, "accept") {
			r.Accept = value
		}
	case 'u':
		switch {
		case EqualFold(name, "user-agent"):
			r.UserAgent = value
		case EqualFold(name, "upgrade"):
			r.upgrade = value
			return false, nil
		}
	case 'e':
		if EqualFold(name, "expect") && EqualFold(value, "100-continue") {
			r.Expect = true
		}
	case 'k':
		return !EqualFold(name, "keep-alive"), nil
	case 'p':
		return !proxyOnly(name), nil
	case 'f':
		return trusted || !EqualFold(name, "forwarded"), nil
	case 'x':
		return r.forwarded(name, value, trusted), nil
	}
	return true, nil
}

// proxyOnly tells of headers for the first proxy alone, and of Proxy, which CGI
// programs take for a setting of theirs ("httpoxy").
func proxyOnly(name []byte) bool {
	switch len(name) {
	case len("proxy"):
		return EqualFold(name, "proxy")
	case len("proxy-connection"):
		return EqualFold(name, "proxy-connection")
	case len("proxy-authorization"):
		return EqualFold(name, "proxy-authorization")
	}
	return false
}

// forwarded notes what an earlier proxy says of the client. A name with
// underscores is the same to CGI programs, so it is never passed on.
func (r *Request) forwarded(name, value []byte, trusted bool) (keep bool) {
	const family = "x-forwarded-"
	exact, like := alike(name, "x-request-id")
	switch {
	case exact:
		r.RequestID = value
		return false
	case like:
		return false
	}
	if exact, like = alike(name, "x-real-ip"); like {
		return exact && trusted
	}
	if len(name) <= len(family) {
		return true
	}
	if exact, like = alike(name[:len(family)], family); !like {
		return true
	}
	switch {
	case EqualFold(name, "x-forwarded-for"):
		r.ForwardedFor = value
	case EqualFold(name, "x-forwarded-host"):
		r.ForwardedHost = value
	case EqualFold(name, "x-forwarded-proto"):
		r.ForwardedProto = value
	default:
		return exact && trusted
	}
	return false
}

// alike tells whether name is s, exactly or with underscores for hyphens.
func alike(name []byte, s string) (exact, like bool) {
	if len(name) != len(s) {
		return false, false
	}
	exact = true
	for i := range len(s) {
		c := name[i]
		if c == '_' && s[i] == '-' {
			exact = false
		} else if c|0x20 != s[i] {
			return false, false
		}
	}
	return exact, true
}

// host checks the value of Host: a name or an address, and a port.
func (r *Request) host(value []byte) error {
	if r.Host != nil {
		return errHosts
	}
	if _, ok := HostName(value); !ok {
		return errHost
	}
	r.Host = value
	return nil
}

// HostName is the host of a Host header, without the port. IPv6 addresses keep
// their brackets.
func HostName(value []byte) (name []byte, ok bool) {
	i := 0
	if len(value) > 0 && value[0] == '[' {
		for i < len(value) && value[i] != ']' {
			if c := value[i]; i > 0 && !hex(c) && c != ':' && c != '.' {
				return nil, false
			}
			i++
		}
		if i == len(value) || i < 3 {
			return nil, false
		}
		i++
	} else {
		for i < len(value) && isHost[value[i]] {
			i++
		}
	}
	if name = value[:i]; i == 0 || i > 255 {
		return nil, false
	}
	if i == len(value) {
		return name, true
	}
	if value[i] != ':' || len(value)-i > len(":65535") {
		return nil, false
	}
	for _, c := range value[i+1:] {
		if !digit(c) {
			return nil, false
		}
	}
	return name, true
}

var isHost = func() (t [256]bool) {
	for c := range t {
		t[c] = digit(byte(c)) || 'a' <= lower(byte(c)) && lower(byte(c)) <= 'z' || c == '-' || c == '.' || c == '_'
	}
	return t
}()

func hex(c byte) bool { return digit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }
