// SPDX-License-Identifier: Apache-2.0

package http1

// Request is the head of a request. Its slices are of the buffer that was
// parsed and live as long as that stays untouched. A Request is used again and
// again.
type Request struct {
	Message
	Method []byte
	// Path and Query are of the target, whatever its form; "*" is a path. Query
	// begins with its question mark.
	Path, Query []byte
	// Plain tells that the request line can be passed on as it came: HTTP/1.1
	// and a target in origin form.
	Plain  bool
	Host   []byte // as it came, with a port if there is one
	Expect bool   // 100-continue

	// Of headers that are not in Keep, for the proxy to replace; nil: absent.
	ForwardedFor, ForwardedHost, ForwardedProto, RequestID []byte
	// Of headers that are.
	Accept, UserAgent, TraceParent, ContentType []byte

	authority []byte // of a target in absolute form
}

// Forget drops the slices of the buffer that was parsed.
func (r *Request) Forget() {
	r.Message.reset()
	*r = Request{Message: r.Message}
}

// Options of a parser.
type Options struct {
	MaxFields int  // header lines; 0: 100
	Trusted   bool // the peer's Forwarded, X-Real-IP and X-Forwarded-* are kept, except those that Request names
}

// Parse reads the head at the start of b. It returns ErrShort if b ends
// before the head does, and an *Error if it is refused.
func (r *Request) Parse(b []byte, o Options) error {
	r.Forget()
	if o.MaxFields == 0 {
		o.MaxFields = 100
	}
	i, err := r.requestLine(b)
	if err != nil {
		return err
	}
	for r.Fields = i; ; {
		if i < len(b) && b[i] == '\r' {
			if i+1 == len(b) {
				return ErrShort
			}
			if b[i+1] != '\n' {
				return errLF
			}
			r.Len = i + 2
			return r.complete(b)
		}
		f, err := scanField(b, i)
		if err != nil {
			return err
		}
		if r.count++; r.count > o.MaxFields {
			return errMany
		}
		keep, err := r.field(b[f.start:f.nameEnd], b[f.value:f.valueEnd], o.Trusted)
		if err != nil {
			return err
		}
		if keep {
			r.Keep = r.Keep.keep(f.start, f.next)
		}
		i = f.next
	}
}

// requestLine reads up to the first header.
func (r *Request) requestLine(b []byte) (int, error) {
	i := 0
	// One empty line before the request is tolerated (RFC 9112, 2.2).
	if len(b) > 0 && b[0] == '\r' {
		if len(b) == 1 {
			return 0, ErrShort
		}
		if b[1] != '\n' {
			return 0, errLF
		}
		i = 2
	}
	r.Line = i
	for i < len(b) && isToken[b[i]] {
		i++
	}
	if i == len(b) {
		return 0, ErrShort
	}
	if b[i] != ' ' || i == r.Line {
		return 0, errMethod
	}
	r.Method = b[r.Line:i]
	i++
	start := i
	for i < len(b) && isTarget[b[i]] {
		i++
	}
	if i == len(b) {
		return 0, ErrShort
	}
	if b[i] != ' ' {
		return 0, errTarget
	}
	target := b[start:i]
	i++
	end, err := endOfLine(b, i)
	if err != nil {
		return 0, err
	}
	if r.Minor, err = version(b[i:end]); err != nil {
		return 0, err
	}
	return end + 2, r.target(target)
}

// isTarget tells which bytes a request target may have: neither white space
// nor controls. '#' would be a fragment, which some servers cut off.
var isTarget = func() (t [256]bool) {
	for c := range t {
		t[c] = c > 0x20 && c != 0x7f && c != '#'
	}
	return t
}()

func version(b []byte) (minor int, err error) {
	if len(b) != len("HTTP/1.1") || string(b[:5]) != "HTTP/" || b[6] != '.' || !digit(b[5]) || !digit(b[7]) {
		return 0, errLine
	}
	if b[5] != '1' || b[7] > '1' {
		return 0, errVersion
	}
	return int(b[7] - '0'), nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// target takes the request target apart (RFC 9112, 3.2).
func (r *Request) target(t []byte) error {
	switch {
	case len(t) == 0:
		return errTarget
	case string(r.Method) == "CONNECT":
		return errConnect
	case t[0] == '/':
		r.Plain = r.Minor == 1
	case len(t) == 1 && t[0] == '*' && string(r.Method) == "OPTIONS":
		r.Plain = r.Minor == 1
	default:
		var ok bool
		if t, ok = r.absolute(t); !ok {
			return errTarget
		}
	}
	r.Path = t
	for i, c := range t {
		if c == '?' {
			r.Path, r.Query = t[:i], t[i:]
			break
		}
	}
	if len(r.Path) == 0 {
		r.Path = slash
	}
	return nil
}

var slash = []byte("/")

// absolute notes the authority of scheme://authority/path and returns the rest.
func (r *Request) absolute(t []byte) (rest []byte, ok bool) {
	scheme := 0
	for scheme < len(t) && t[scheme] != ':' {
		scheme++
	}
	if !EqualFold(t[:scheme], "http") && !EqualFold(t[:scheme], "https") {
		return nil, false
	}
	if t = t[scheme:]; len(t) < 4 || t[1] != '/' || t[2] != '/' {
		return nil, false
	}
	t = t[3:]
	end := 0
	for end < len(t) && t[end] != '/' && t[end] != '?' {
		end++
	}
	r.authority = t[:end]
	return t[end:], end > 0
}

// complete checks the whole head.
func (r *Request) complete(b []byte) error {
	if r.Host == nil {
		return errNoHost
	}
	if r.authority != nil && !same(r.authority, r.Host) {
		return errAuthority
	}
	if err := r.framed(); err != nil {
		return err
	}
	if r.options {
		return r.dropOptions(b)
	}
	return nil
}

// ValidTarget tells whether a request target has no byte that it must not have
// and is in origin form, or "*".
func ValidTarget(t string) bool {
	for i := range len(t) {
		if !isTarget[t[i]] {
			return false
		}
	}
	return t == "*" || len(t) > 0 && t[0] == '/'
}

// ValidMethod tells whether a method is a token.
func ValidMethod(m string) bool {
	for i := range len(m) {
		if !isToken[m[i]] {
			return false
		}
	}
	return m != ""
}
