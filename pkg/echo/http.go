// SPDX-License-Identifier: Apache-2.0

package echo

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
)

// Answer is what the HTTP echo tells, as JSON where the client accepts it.
type Answer struct {
	Name     string      `json:"name"`
	Hostname string      `json:"hostname"`
	Local    string      `json:"local"`  // address the connection came to
	Remote   string      `json:"remote"` // address it came from
	Method   string      `json:"method"`
	Host     string      `json:"host"`
	URL      string      `json:"url"`
	Proto    string      `json:"proto"`
	Headers  http.Header `json:"headers"`
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("/", s.answer)
	return mux
}

func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	a := Answer{
		Name: s.name, Hostname: s.host, Remote: r.RemoteAddr,
		Method: r.Method, Host: r.Host, URL: r.RequestURI, Proto: r.Proto, Headers: r.Header,
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		a.Local = local.String()
	}
	w.Header().Set("Cache-Control", "no-store")
	if strings.Contains(r.Header.Get("Accept"), "json") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	a.text(w)
}

func (a Answer) text(w io.Writer) {
	_, _ = fmt.Fprintf(w, "name:     %s\nhostname: %s\nlocal:    %s\nremote:   %s\n\n%s %s %s\nHost: %s\n",
		a.Name, a.Hostname, a.Local, a.Remote, a.Method, a.URL, a.Proto, a.Host)
	for _, k := range slices.Sorted(maps.Keys(a.Headers)) {
		for _, v := range a.Headers[k] {
			_, _ = fmt.Fprintf(w, "%s: %s\n", k, v)
		}
	}
}
