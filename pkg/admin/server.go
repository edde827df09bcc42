// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/webserver"
)

const (
	maxPath      = 107              // bytes of sockaddr_un.sun_path before its NUL, unix(7)
	maxBody      = 64 << 10         // of a request
	readTimeout  = 10 * time.Second // of a request's head and body
	writeTimeout = 30 * time.Second // of one write; a listing of flows renews it
	noteHeader   = "Fairlead-Note"  // why a list is empty
	ndjson       = "application/x-ndjson"
)

// ServerConfig is what a Server needs.
type ServerConfig struct {
	RunDir string
	Views  Views
	Log    *slog.Logger // default slog.Default()
}

// Server answers on the Unix socket. Create it with Listen, run it once.
type Server struct {
	cfg ServerConfig
	l   net.Listener
	// stop ends listings of flows and traces that are under way.
	stop context.CancelFunc
	http *webserver.Graceful
}

// Listen opens <run>/fairlead.sock with mode 0600. A socket that nobody
// answers on is replaced; one that somebody answers on is an error. The caller
// runs the server, or closes it.
func Listen(cfg ServerConfig) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	path := SocketPath(cfg.RunDir)
	if len(path) > maxPath {
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, a Unix socket takes %d: choose a shorter --run directory", path, len(path), maxPath)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The mode is set before bind: at no moment may others connect.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		if err := c.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return chmod
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("restrict %s to its owner: %w", path, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{cfg: cfg, l: l, stop: stop}
	s.http = webserver.NewGraceful(&http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: readTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}, l)
	return s, nil
}

func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen on %s: a file is in the way that is not a socket: move it away", path)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return fmt.Errorf("listen on %s: somebody answers there already", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove old socket: %w", err)
	}
	return nil
}

// Run answers until ctx ends, then closes the socket and gives requests that
// are under way, and clients that have connected, a second.
func (s *Server) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.http.Serve() }()
	select {
	case err := <-done:
		s.stop()
		return fmt.Errorf("serve %s: %w", s.l.Addr(), err)
	case <-ctx.Done():
	}
	s.stop()
	s.http.End(time.Second)
	<-done
	return nil
}

// Close closes a server that was never run.
func (s *Server) Close() error {
	s.stop()
	return s.l.Close()
}

// Handler is the API under /v1/.
func (s *Server) Handler() http.Handler {
	v := s.cfg.Views
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		st := v.Status()
		st.normalize()
		reply(w, http.StatusOK, st)
	})
	mux.HandleFunc("GET /v1/services", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, list(v.Services())) })
	mux.HandleFunc("GET /v1/services/{name...}", s.service)
	mux.HandleFunc("GET /v1/flows", s.flows)
	mux.HandleFunc("GET /v1/trace", s.trace)
	mux.HandleFunc("GET /v1/workloads", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, list(v.Workloads())) })
	mux.HandleFunc("GET /v1/domains", func(w http.ResponseWriter, _ *http.Request) {
		d := v.Domains()
		w.Header().Set(noteHeader, d.Note)
		reply(w, http.StatusOK, list(d.Domains))
	})
	mux.HandleFunc("GET /v1/certificates", func(w http.ResponseWriter, _ *http.Request) {
		c := v.Certificates()
		w.Header().Set(noteHeader, c.Note)
		reply(w, http.StatusOK, list(c.Certificates))
	})
	mux.HandleFunc("POST /v1/drain", s.drain)
	mux.HandleFunc("POST /v1/domain", s.domain)
	mux.HandleFunc("POST /v1/sleep", s.sleep)
	mux.HandleFunc("POST /v1/upgrade", s.upgrade)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("%s %s: no such call", r.Method, r.URL.Path))
	})
	return mux
}

func (s *Server) service(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	services := s.cfg.Views.Services()
	svc, err := FindService(services, name)
	if err != nil {
		fail(w, http.StatusNotFound, err)
		return
	}
	if parsed, err := model.ParseServiceName(svc.Name); err == nil && svc.Sleep != nil {
		svc.Uses, svc.MoreUses = s.cfg.Views.Uses(r.Context(), parsed)
	}
	reply(w, http.StatusOK, svc)
}

// FindService finds a service by PROJECT/USER, transliterated or as its owner
// wrote it. The error names what is there.
func FindService(services []Service, name string) (Service, error) {
	for _, svc := range services {
		if svc.Name == name {
			return svc, nil
		}
	}
	for _, svc := range services {
		if svc.Title != "" && strings.EqualFold(svc.Title, name) {
			return svc, nil
		}
	}
	known := make([]string, len(services))
	for i, svc := range services {
		known[i] = svc.Name
	}
	return Service{}, fmt.Errorf("no service %q: %s", name, knownNames(known, "there is none at all: add one to the config"))
}

func (s *Server) drain(w http.ResponseWriter, r *http.Request) {
	var req DrainRequest
	if !decode(w, r, &req) {
		return
	}
	res, err := s.cfg.Views.Drain(r.Context(), req)
	switch {
	case errors.Is(err, ErrUnknownAddress):
		fail(w, http.StatusNotFound, err)
	case err != nil:
		fail(w, http.StatusBadRequest, err)
	default:
		res.Services = list(res.Services)
		reply(w, http.StatusOK, res)
	}
}

// decode reads the body of a request; if it cannot, the answer is written.
func decode(w http.ResponseWriter, r *http.Request, to any) bool {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(readTimeout))
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read request: %w", err))
		return false
	}
	_ = rc.SetReadDeadline(time.Time{})
	return true
}

func (s *Server) domain(w http.ResponseWriter, r *http.Request) {
	var req DomainRequest
	if !decode(w, r, &req) {
		return
	}
	res, err := s.cfg.Views.Domain(r.Context(), req)
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		fail(w, refusal.Code, err)
	case err != nil:
		fail(w, http.StatusBadRequest, err)
	default:
		res.Records = slices.Clone(list(res.Records))
		for i := range res.Records {
			res.Records[i].Want, res.Records[i].Found = list(res.Records[i].Want), list(res.Records[i].Found)
		}
		reply(w, http.StatusOK, res)
	}
}

func (s *Server) sleep(w http.ResponseWriter, r *http.Request) {
	var req SleepRequest
	if !decode(w, r, &req) {
		return
	}
	res, err := s.cfg.Views.Sleep(r.Context(), req)
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		fail(w, refusal.Code, err)
	case err != nil:
		fail(w, http.StatusBadRequest, err)
	default:
		reply(w, http.StatusOK, res)
	}
}

func (s *Server) upgrade(w http.ResponseWriter, _ *http.Request) {
	up, err := s.cfg.Views.Upgrade()
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		fail(w, refusal.Code, err)
	case err != nil:
		fail(w, http.StatusInternalServerError, err)
	default:
		reply(w, http.StatusOK, up)
	}
}

// flows streams one JSON object a line; an error on the way is a last line
// {"error": …}.
func (s *Server) flows(w http.ResponseWriter, r *http.Request) {
	q, err := flowQuery(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if q.Service != "" {
		svc, err := FindService(s.cfg.Views.Services(), q.Service)
		if err != nil {
			fail(w, http.StatusNotFound, err)
			return
		}
		q.Service = svc.Name
	}
	w.Header().Set("Content-Type", ndjson)
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	enc := json.NewEncoder(w)
	var n int
	var writeErr error
	err = s.cfg.Views.Flows(r.Context(), q, func(f Flow) bool {
		if n++; n%256 == 0 {
			_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		}
		writeErr = enc.Encode(f)
		return writeErr == nil && (q.Limit == 0 || n < q.Limit)
	})
	if err != nil && writeErr == nil {
		_ = enc.Encode(apiError{Message: "list flows: " + err.Error()})
	}
}

func flowQuery(v url.Values) (FlowQuery, error) {
	q := FlowQuery{Service: v.Get("service")}
	var err error
	for key, to := range map[string]*netip.Addr{"client": &q.Client, "backend": &q.Backend} {
		if s := v.Get(key); s != "" {
			if *to, err = netip.ParseAddr(s); err != nil {
				return q, fmt.Errorf("%s %q: want an IP address", key, s)
			}
			*to = to.Unmap()
		}
	}
	if s := v.Get("limit"); s != "" {
		if q.Limit, err = strconv.Atoi(s); err != nil || q.Limit < 0 {
			return q, fmt.Errorf("limit %q: want a number, 0 for no limit", s)
		}
	}
	return q, nil
}

type apiError struct {
	Message string `json:"error"`
}

func fail(w http.ResponseWriter, code int, err error) { reply(w, code, apiError{Message: err.Error()}) }

func reply(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		code, body = http.StatusInternalServerError, []byte(`{"error":"encode answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}
