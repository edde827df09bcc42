// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"strconv"
)

// fault is an answer that no replica gave.
type fault struct {
	code   int
	reason string // in words, for a person
	retry  int    // seconds of Retry-After; 0: none
	extra  string // header lines, each with its CR LF
	wait   bool   // the page says that it reloads by itself
}

// page makes the body of an answer by what the client accepts: JSON if it
// names that and not HTML, else a small page.
func (f *fault) page(accept []byte, id string) (contentType string, body []byte) {
	title := http.StatusText(f.code)
	if f.wait {
		return "text/html; charset=utf-8", fmt.Appendf(nil, waiting, f.retry, html.EscapeString(f.reason), id)
	}
	if wantsJSON(accept) {
		body, _ = json.Marshal(struct {
			Status    int    `json:"status"`
			Error     string `json:"error"`
			Reason    string `json:"reason"`
			RequestID string `json:"requestId"`
		}{f.code, title, f.reason, id})
		return "application/json", append(body, '\n')
	}
	return "text/html; charset=utf-8", fmt.Appendf(nil, document, f.code, title, f.code, title, html.EscapeString(f.reason), id)
}

const style = `<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:15vh auto;padding:0 1em;color:#223;background:#fff}` +
	`h1{font-size:1.4em}small{color:#667}@media(prefers-color-scheme:dark){body{color:#dde;background:#112}}</style>`

const document = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">` +
	`<title>%d %s</title>` + style + `</head>` + "\n" + `<body><h1>%d %s</h1><p>%s</p><p><small>request %s</small></p></body></html>` + "\n"

// waiting is the page of a service that is being started (row W07).
const waiting = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">` +
	`<meta http-equiv="refresh" content="%d"><title>Starting …</title>` + style + `</head>` + "\n" +
	`<body><h1>Starting …</h1><p>%s</p><p>This page reloads by itself.</p><p><small>request %s</small></p></body></html>` + "\n"

// wantsHTML tells whether somebody looks at the answer: clients that are
// programs take anything, and name nothing.
func wantsHTML(accept []byte) bool { return bytes.Contains(accept, []byte("text/html")) }

func wantsJSON(accept []byte) bool {
	return bytes.Contains(accept, []byte("json")) && !bytes.Contains(accept, []byte("text/html"))
}

// placeholder is the page of a service that has nothing to run yet.
const placeholder = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">` +
	`<title>%s</title>` + style + `</head>` + "\n" + `<body><h1>%s</h1><p>This address is ready. Nothing is deployed here yet.</p></body></html>` + "\n"

// answer is a whole response of our own, before it is written.
type answer struct {
	code        int
	contentType string
	body        []byte
	retry       int
	extra       string
	location    string
	cache       string // Cache-Control; empty: no-store
	id          string
}

func (f *fault) answer(accept []byte, id string) answer {
	a := answer{code: f.code, retry: f.retry, extra: f.extra, id: id}
	a.contentType, a.body = f.page(accept, id)
	return a
}

// placeholderFor is the answer of a service without replicas and workload.
func placeholderFor(svc *service, id string) answer {
	name := html.EscapeString(svc.text)
	return answer{code: http.StatusOK, contentType: "text/html; charset=utf-8", body: fmt.Appendf(nil, placeholder, name, name), id: id}
}

// append writes the answer in HTTP/1.1.
func (a *answer) append(b []byte, head, closing bool) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.code), 10)
	b = append(append(b, ' '), http.StatusText(a.code)...)
	b = append(b, "\r\n"...)
	line := func(name, value string) {
		b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
	}
	if a.contentType != "" {
		line("Content-Type", a.contentType)
	}
	line("Content-Length", strconv.Itoa(len(a.body)))
	line("Cache-Control", cmp.Or(a.cache, "no-store"))
	line("X-Request-ID", a.id)
	if a.location != "" {
		line("Location", a.location)
	}
	if a.retry > 0 {
		line("Retry-After", strconv.Itoa(a.retry))
	}
	b = append(b, a.extra...)
	if closing {
		line("Connection", "close")
	}
	b = append(b, "\r\n"...)
	if !head {
		b = append(b, a.body...)
	}
	return b
}
