// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/names"
)

type rawACME struct {
	directory, email, caFile string
	dns01                    rawDNS01
}

type rawDNS01 struct {
	server        located[*netip.AddrPort]
	keyFile, zone located[string]
	command       located[[]string]
	nameServers   []netip.AddrPort
	propagation   time.Duration
}

const letsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

func defaultACME() model.ACME { return model.ACME{Directory: letsEncrypt} }

func defaultDNS01() rawDNS01 { return rawDNS01{propagation: 2 * time.Minute} }

// acmeCodec is the settings as they were written, built when all keys are read.
func acmeCodec() codec[model.ACME] {
	raw := rawACMECodec()
	return unset(codec[model.ACME]{schema: raw.schema, decode: func(d *decoder, v value) (model.ACME, bool) {
		r, ok := raw.decode(d, v)
		return r.build(d), ok
	}})
}

func rawACMECodec() codec[rawACME] {
	directory := str("an https:// URL", func(s string) error {
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("got %s, want an https:// URL (RFC 8555 asks for TLS; a private server's CA goes into caFile)", quote(s))
		}
		return nil
	})
	email := str("an e-mail address", func(s string) error {
		if user, host, ok := strings.Cut(s, "@"); s != "" && (!ok || user == "" || host == "" || strings.ContainsAny(s, " ,")) {
			return fmt.Errorf(`got %s, want one e-mail address, or "" for none`, quote(s))
		}
		return nil
	})
	return object(rawACME{directory: letsEncrypt, dns01: defaultDNS01()},
		opt("directory", "Directory URL of the certificate authority.", directory, func(n *rawACME) *string { return &n.directory }),
		opt("email", "Where the certificate authority writes to.", email, func(n *rawACME) *string { return &n.email }),
		opt("caFile", "PEM file with the CA of a private ACME server.", absolutePath(), func(n *rawACME) *string { return &n.caFile }),
		opt("dns01", "How the records of dns-01 challenges are written: with it, free names that differ in their first label share a wildcard certificate.",
			dns01Codec(), func(n *rawACME) *rawDNS01 { return &n.dns01 }))
}

func dns01Codec() codec[rawDNS01] {
	zone := str("a domain name", func(s string) error {
		if s == "" {
			return nil
		}
		return names.CheckName(s)
	})
	word := str("a word of a command", anything)
	return object(defaultDNS01(),
		opt("server", "Primary name server that takes dynamic updates (RFC 2136), by TCP.", where(pointer(server())), func(n *rawDNS01) *located[*netip.AddrPort] { return &n.server }),
		opt("keyFile", `File with the TSIG key of the updates, as tsig-keygen writes it. "": they are not signed.`, where(absolutePath()), func(n *rawDNS01) *located[string] { return &n.keyFile }),
		opt("zone", `Zone that the updates are for. "": the server is asked.`, where(zone), func(n *rawDNS01) *located[string] { return &n.zone }),
		opt("command", "Program that writes the records in place of server: it is called with present or cleanup, the record's name and its value.", where(list(word, 100)), func(n *rawDNS01) *located[[]string] { return &n.command }),
		opt("nameServers", "Name servers that must show a record before the authority is told to look. Default: those of the zone; with command: none.",
			list(server(), 64), func(n *rawDNS01) *[]netip.AddrPort { return &n.nameServers }),
		opt("propagation", "How long they may take to show it.", duration(time.Second, time.Hour), func(n *rawDNS01) *time.Duration { return &n.propagation }))
}

// build makes the settings and reports keys that do not go together.
func (r *rawACME) build(d *decoder) model.ACME {
	out := model.ACME{Directory: r.directory, Email: r.email, CAFile: r.caFile}
	raw := &r.dns01
	byServer, byCommand := raw.server.given(), len(raw.command.v) > 0
	switch {
	case byServer && byCommand:
		d.report(raw.command.place, "stands beside server, which writes the records itself; remove one of the two")
		return out
	case raw.command.usable() && !byCommand:
		d.report(raw.command.place, "is an empty list; give a program, or remove the key")
		return out
	case byCommand && !strings.HasPrefix(raw.command.v[0], "/"):
		d.report(raw.command.place, `begins with %s, want the path of a program that begins with "/"`, quote(raw.command.v[0]))
		return out
	}
	for _, k := range []located[string]{raw.keyFile, raw.zone} {
		if k.usable() && k.v != "" && !byServer {
			d.report(k.place, "is for updates, which need server beside it; add server, or remove this key")
		}
	}
	if !byServer && !byCommand {
		return out
	}
	out.DNS01 = model.DNS01{
		KeyFile: raw.keyFile.v, Zone: raw.zone.v, Command: raw.command.v,
		NameServers: raw.nameServers, Propagation: raw.propagation,
	}
	if raw.server.v != nil {
		out.DNS01.Server = *raw.server.v
	}
	return out
}
