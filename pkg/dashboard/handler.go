// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"embed"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

//go:embed page
var files embed.FS

// headers go with every answer. The page runs its own scripts and styles, asks
// its own origin, is shown in no frame, and makes no HTML out of strings.
var headers = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=()",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Cache-Control":                "no-store", // a new agent has a new page
}

// handler answers for a listener on address.
func handler(v *views, address string) http.Handler {
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the name is wrong: go:embed above
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(page))
	mux.HandleFunc("GET /view.json", func(w http.ResponseWriter, r *http.Request) {
		packed := strings.Contains(r.Header.Get("Accept-Encoding"), "gzip")
		body, err := v.json(packed)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("Vary", "Accept-Encoding")
		if packed {
			h.Set("Content-Encoding", "gzip")
		}
		_, _ = w.Write(body)
	})
	return guard(mux, address)
}

// guard refuses every method but GET and HEAD, and every Host that a name
// server could have led here: a page of a stranger whose name is made to point
// at this address (DNS rebinding) would otherwise read what its own origin may.
func guard(next http.Handler, address string) http.Handler {
	listen, _, _ := net.SplitHostPort(address)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the dashboard only shows: GET it; \"fairlead help\" lists the commands that change something", http.StatusMethodNotAllowed)
			return
		}
		if !known(r, listen) {
			http.Error(w, fmt.Sprintf("host %q is not one of this dashboard: ask for it as localhost or by the IP address it listens on", r.Host),
				http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// known tells whether the request's Host is localhost, a loopback address, the
// address of the config, or the address the client has connected to, which
// stands for the wildcard. The port is left alone: it differs behind "ssh -L".
func known(r *http.Request, listen string) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if strings.EqualFold(host, "localhost") || listen != "" && strings.EqualFold(host, listen) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if ip.Unmap().IsLoopback() {
		return true
	}
	at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	own, err := netip.ParseAddrPort(at.String())
	return err == nil && own.Addr().Unmap() == ip.Unmap()
}
