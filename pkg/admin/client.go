// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

// ErrNoAgent is returned when nobody answers on the socket.
var ErrNoAgent = errors.New("no agent answers")

// Client speaks to the agent of a run directory. Close it.
type Client struct {
	path string
	http http.Client
}

// NewClient makes a client; it connects with the first call.
func NewClient(runDir string) *Client {
	path := SocketPath(runDir)
	var d net.Dialer
	return &Client{path: path, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		},
		ResponseHeaderTimeout: 30 * time.Second,
	}}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status of the agent.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	_, err := c.call(ctx, "GET", "/v1/status", nil, &s)
	return s, err
}

// Services lists all services, by name.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	var s []Service
	_, err := c.call(ctx, "GET", "/v1/services", nil, &s)
	return s, err
}

// Service is one service by PROJECT/USER.
func (c *Client) Service(ctx context.Context, name string) (Service, error) {
	var s Service
	_, err := c.call(ctx, "GET", (&url.URL{Path: "/v1/services/" + name}).EscapedPath(), nil, &s)
	return s, err
}

// Workloads lists the replicas that fairlead runs.
func (c *Client) Workloads(ctx context.Context) ([]Workload, error) {
	var w []Workload
	_, err := c.call(ctx, "GET", "/v1/workloads", nil, &w)
	return w, err
}

// Domains lists the host names.
func (c *Client) Domains(ctx context.Context) (Domains, error) {
	var d Domains
	note, err := c.call(ctx, "GET", "/v1/domains", nil, &d.Domains)
	d.Note = note
	return d, err
}

// Certificates lists the certificates.
func (c *Client) Certificates(ctx context.Context) (Certificates, error) {
	var d Certificates
	note, err := c.call(ctx, "GET", "/v1/certificates", nil, &d.Certificates)
	d.Note = note
	return d, err
}

// Drain starts or ends the drain of an address.
func (c *Client) Drain(ctx context.Context, r DrainRequest) (DrainResult, error) {
	var res DrainResult
	_, err := c.call(ctx, "POST", "/v1/drain", r, &res)
	return res, err
}

// Domain does a verb on an own domain.
func (c *Client) Domain(ctx context.Context, r DomainRequest) (DomainResult, error) {
	var res DomainResult
	_, err := c.call(ctx, "POST", "/v1/domain", r, &res)
	return res, err
}

// Sleep does a verb on a workload.
func (c *Client) Sleep(ctx context.Context, r SleepRequest) (SleepResult, error) {
	var res SleepResult
	_, err := c.call(ctx, "POST", "/v1/sleep", r, &res)
	return res, err
}

// Upgrade starts an agent that is to take the place of the one that answers.
func (c *Client) Upgrade(ctx context.Context) (Upgrade, error) {
	var up Upgrade
	_, err := c.call(ctx, "POST", "/v1/upgrade", nil, &up)
	return up, err
}

// Flows yields tracked connections as they arrive, until yield returns false.
func (c *Client) Flows(ctx context.Context, q FlowQuery, yield func(Flow) bool) error {
	v := url.Values{}
	if q.Service != "" {
		v.Set("service", q.Service)
	}
	if q.Client.IsValid() {
		v.Set("client", q.Client.String())
	}
	if q.Backend.IsValid() {
		v.Set("backend", q.Backend.String())
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	resp, err := c.do(ctx, "GET", "/v1/flows?"+v.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxBody)
	for lines.Scan() {
		var line struct {
			Flow
			apiError
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("read flows: %w", err)
		}
		if line.Message != "" {
			return errors.New(line.Message)
		}
		if !yield(line.Flow) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read flows: %w", err)
	}
	return nil
}

// call returns the note of an empty list.
func (c *Client) call(ctx context.Context, method, path string, in, out any) (note string, err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return "", fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return "", fmt.Errorf("read answer of %s: %w", path, err)
	}
	return resp.Header.Get(noteHeader), nil
}

// do makes one request; an answer other than 200 is its error message.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://fairlead"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w at %s", ErrNoAgent, c.path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open %s: permission denied: only the user who runs the agent may, so try with sudo", c.path)
	case err != nil:
		return nil, fmt.Errorf("ask the agent at %s: %w", c.path, err)
	case resp.StatusCode == http.StatusOK:
		return resp, nil
	}
	defer resp.Body.Close()
	var e apiError
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&e); err != nil || e.Message == "" {
		return nil, fmt.Errorf("ask the agent at %s: %s %s answered %s", c.path, method, path, resp.Status)
	}
	return nil, errors.New(e.Message)
}
