// SPDX-License-Identifier: Apache-2.0

package http1

// Response is the head of a response; see Request.
type Response struct {
	Message
	Status int
}

// Forget drops the slices of the buffer that was parsed.
func (r *Response) Forget() {
	r.Message.reset()
	*r = Response{Message: r.Message}
}

// Parse reads the head at the start of b. It returns ErrShort if b ends
// before the head does, and an *Error if it is refused.
func (r *Response) Parse(b []byte, o Options) error {
	r.Forget()
	if o.MaxFields == 0 {
		o.MaxFields = 100
	}
	i, err := r.statusLine(b)
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
			if err := r.framed(); err != nil {
				return err
			}
			if r.options {
				return r.dropOptions(b)
			}
			return nil
		}
		f, err := scanField(b, i)
		if err != nil {
			return err
		}
		if r.count++; r.count > o.MaxFields {
			return errMany
		}
		keep, err := r.field(b[f.start:f.nameEnd], b[f.value:f.valueEnd])
		if err != nil {
			return err
		}
		if keep {
			r.Keep = r.Keep.keep(f.start, f.next)
		}
		i = f.next
	}
}

// statusLine reads up to the first header: HTTP/1.1 200 OK. The space before
// an empty reason may be missing, as many servers have it.
func (r *Response) statusLine(b []byte) (int, error) {
	end, err := endOfLine(b, 0)
	if err != nil {
		return 0, err
	}
	line := b[:end]
	if len(line) < len("HTTP/1.1 200") || line[8] != ' ' {
		return 0, errStatus
	}
	if r.Minor, err = version(line[:8]); err != nil {
		return 0, errStatus
	}
	for _, c := range line[9:12] {
		if !digit(c) {
			return 0, errStatus
		}
		r.Status = r.Status*10 + int(c-'0')
	}
	if len(line) > 12 && line[12] != ' ' || r.Status < 100 || r.Status > 599 {
		return 0, errStatus
	}
	return end + 2, nil
}

func (r *Response) field(name, value []byte) (keep bool, err error) {
	switch name[0] | 0x20 {
	case 'c':
		switch {
		case EqualFold(name, "connection"):
			r.connection(value)
			return false, nil
		case EqualFold(name, "content-length"):
			return true, r.length(value)
		}
	case 't':
		switch {
		case EqualFold(name, "transfer-encoding"):
			return true, r.coding(value)
		case EqualFold(name, "te"):
			return false, nil
		}
	case 'u':
		if EqualFold(name, "upgrade") {
			r.upgrade = value
			return false, nil
		}
	case 'k':
		return !EqualFold(name, "keep-alive"), nil
	case 'p':
		return !EqualFold(name, "proxy-connection"), nil
	}
	return true, nil
}

// Bodiless tells whether the response has no body whatever its head says
// (RFC 9112, 6.3).
func (r *Response) Bodiless(method []byte) bool {
	return r.Status < 200 || r.Status == 204 || r.Status == 304 || string(method) == "HEAD"
}
