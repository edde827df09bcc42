// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"encoding/json"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// complaints collects what the browser says is wrong with the page, and
// requests to anywhere else.
type complaints struct {
	mu  sync.Mutex
	own string // the page's host and port
	all []string
}

func (c *complaints) event(method string, params json.RawMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch method {
	case "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Audits.issueAdded", "Network.loadingFailed":
		c.all = append(c.all, method+": "+string(params))
	case "Network.requestWillBeSent":
		var p struct{ Request struct{ URL string } }
		_ = json.Unmarshal(params, &p)
		if u, err := url.Parse(p.Request.URL); err != nil || u.Host != c.own && u.Scheme != "about" {
			c.all = append(c.all, "request to "+p.Request.URL)
		}
	}
}

func (c *complaints) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = nil
	return all
}

// helpers are what the tests do in the page.
const helpers = `
// drawn: there is more than the line at the bottom.
window.drawn = (c) => {
	if (c.height < 4) return false;
	const copy = new OffscreenCanvas(c.width, c.height - 3).getContext("2d", {willReadFrequently: true});
	copy.drawImage(c, 0, 0);
	return copy.getImageData(0, 0, c.width, c.height - 3).data.some((x) => x > 0);
};
window.put = (words) => {
	const input = document.querySelector("#filter");
	input.value = words;
	input.dispatchEvent(new Event("input"));
};
window.row = (name) => [...document.querySelectorAll("#services tr.pick")].find((r) => r.innerText.includes(name));
undefined`

// TestPageInChromium: what a person sees, in a real browser that complains of
// nothing; with a thousand services; and when the agent goes away.
func TestPageInChromium(t *testing.T) {
	c := &complaints{}
	b := openBrowser(t, c.event)
	open := func(f *fake) *Server {
		s, at := start(t, f.views())
		c.mu.Lock()
		c.own = at
		c.mu.Unlock()
		b.call("Page.navigate", map[string]any{"url": "http://" + at + "/"}, nil)
		b.shows("#verdict", "fairlead is running: ")
		b.eval(helpers, nil)
		return s
	}
	content := func() {
		t.Helper()
		if all := c.take(); len(all) > 0 {
			t.Errorf("the browser complains:\n%s", strings.Join(all, "\n"))
		}
	}
	b.look(1400, 1300, "light")
	open(&fake{n: 12})
	seeEverything(t, b)
	seeRates(b)
	b.shot("few-light")
	seeDetail(t, b)
	content()
	s := open(&fake{n: 1000})
	seeThousand(t, b)
	content()
	_ = s.Close()
	b.shows("#stale", "The agent does not answer", "forwarding goes on without it")
	b.shows("#services", "1004")
	b.shot("stale")
}

func seeEverything(t *testing.T, b *browser) {
	t.Helper()
	b.shows("#verdict", "fairlead is running: 12 services, 36 replicas, all targets at generation 4")
	b.shows("#problems", "certificate of shop.example.com: the CA answered 429", hostile, "not served yet: mode: dsr of web/0003")
	b.shows("#services", "late/user", "16", "10.0.3.3 down: connect: connection refused", "10.0.2.2 draining", "asleep for 10 min because of: nobody used it", "waking because of: a connection; 3 connections waiting for it", "backoff: exit status 3", "2/3")
	b.shows("#domains", "shop.example.com", "unconfirmed", "shows the records to set", "test.user.fairlead.test")
	b.shows("#certificates", "waiting", "the CA's check of http-01; the CA answered 429: too many orders; tried again in 10 min", "renewal in 30 days", "60 days")
	b.shows("#node", "eth0", "XDP native, tcx", "there is no interface of this name", "not_allowed", "ingress", "4 of 4")
	b.shows("#plots", "131\u202f072", "25.0 % of 524\u202f288 entries, 12 evicted")
	var title string
	if b.eval("document.title", &title); title != "fairlead" {
		t.Errorf("title %q, want fairlead", title)
	}
}

// seeRates waits for the second snapshot, and for the plots to be drawn.
func seeRates(b *browser) {
	b.t.Helper()
	b.until(`[...document.querySelectorAll("#plots .now b")].slice(0, 7).every((e) => /^[1-9]/.test(e.innerText))`)
	b.until(`document.querySelectorAll("#plots canvas").length === 4 && [...document.querySelectorAll("#plots canvas")].every(drawn)`)
	b.until(`drawn(row("web/0003").querySelector("canvas")) && /^[1-9]/.test(row("web/0003").cells[6].innerText)`)
}

func seeDetail(t *testing.T, b *browser) {
	t.Helper()
	b.look(1400, 1300, "dark")
	var background string
	if b.eval(`getComputedStyle(document.body).backgroundColor`, &background); background != "rgb(16, 21, 27)" {
		t.Errorf("dark background is %s", background)
	}
	b.shot("few-dark")
	b.eval(`row("web/0003").click()`, nil)
	b.shows("#detail", "Веб/0003", "down", "connect: connection refused", "90 → 8090 tcp", "https://shop3.example.com/", "198.18.0.3")
	b.until(`location.hash === "#service=web%2F0003"`)
	b.shot("detail-dark")
	b.eval(`document.querySelector("#detail .close").click()`, nil)
	b.until(`document.querySelector("#detail").hidden`)
	b.eval(`put("10.0.3.3 down")`, nil)
	b.until(`document.querySelectorAll("#services tr.pick").length === 1 && row("web/0003")`)
	b.shows("#services .count", "1 of 16")
	b.eval(`put("")`, nil)
	b.eval(`[...document.querySelectorAll("#kinds button")].find((e) => e.innerText === "1 asleep").click()`, nil)
	b.until(`document.querySelectorAll("#services tr.pick").length === 1 && row("sleepy/user")`)
}

// seeThousand: only the rows in view exist, so that drawing costs the same for
// any number of services, and the last one can be reached.
func seeThousand(t *testing.T, b *browser) {
	t.Helper()
	b.look(1400, 1000, "light")
	b.shows("#services .count", "1004")
	b.until(`drawn(row("web/0003").querySelector("canvas"))`)
	b.shot("thousand-light")
	b.eval(`document.querySelector("#services .scroll").scrollTop = 1e9`, nil)
	b.until(`row("web/0999")?.getBoundingClientRect().bottom <= document.querySelector("#services .scroll").getBoundingClientRect().bottom + 1`)
	var rows int
	if b.eval(`document.querySelectorAll("#services tr").length`, &rows); rows > 80 {
		t.Errorf("the document has %d rows of 1004 services, want those in view", rows)
	}
	b.eval(`[...document.querySelectorAll("#services th button")].find((e) => e.innerText.startsWith("Bytes/s")).click()`, nil)
	b.until(`document.querySelector("#services th[aria-sort=descending]")?.innerText.startsWith("Bytes/s")`)
	var ms float64
	b.eval(`(() => {
		const begun = performance.now();
		for (let i = 0; i < 20; i++) put(i % 2 ? "shop99" : "");
		return (performance.now() - begun) / 20;
	})()`, &ms)
	t.Logf("1 000 services: %d rows in the document, %.1f ms for a whole drawing", rows, ms) // a time is no test: it is the machine's
	b.eval(`put("shop999")`, nil)
	b.until(`document.querySelectorAll("#services tr.pick").length === 1 && row("web/0999")`)
	b.eval(`put("")`, nil)
	b.look(1400, 1000, "dark")
	b.eval(`[...document.querySelectorAll("#kinds button")].find((e) => e.innerText.endsWith("down")).click()`, nil)
	b.shows("#services .count", "101 of 1004")
	b.shot("thousand-dark")
	b.look(420, 900, "light")
	b.shot("narrow")
	b.look(1400, 1000, "light")
}
