// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// setting is one sysctl of a link: net.<family>.conf.<link>.<name>.
type setting struct{ family, name, value string }

// apply writes the settings of a link in the thread's network namespace. One
// that already has its value is not written.
func apply(link string, settings []setting) error {
	for _, s := range settings {
		path := filepath.Join("/proc/sys/net", s.family, "conf", link, s.name)
		if b, err := os.ReadFile(path); err == nil && string(bytes.TrimSpace(b)) == s.value {
			continue
		}
		if err := os.WriteFile(path, []byte(s.value), 0); err != nil {
			return explain(fmt.Errorf("set sysctl: %w", err))
		}
	}
	return nil
}

// hasIPv6 tells whether new links of the agent's namespace speak IPv6.
func hasIPv6() bool {
	for _, which := range []string{"all", "default"} {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", which, "disable_ipv6"))
		if err != nil || strings.TrimSpace(string(b)) != "0" {
			return false
		}
	}
	return true
}

// hasRouterDefault tells whether the host has a default route that it learned
// from a router advertisement. The kernel drops all of those whenever the
// forwarding of any link is switched on (net/ipv6/addrconf.c,
// addrconf_fixup_forwarding), which would take the host off the IPv6 internet.
func hasRouterDefault() bool {
	const learned = 0x00010000 | 0x00040000 // RTF_DEFAULT, RTF_ADDRCONF of linux/ipv6_route.h
	b, err := os.ReadFile("/proc/thread-self/net/ipv6_route")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		if flags, err := strconv.ParseUint(f[8], 16, 32); err == nil && flags&learned == learned {
			return true
		}
	}
	return false
}
