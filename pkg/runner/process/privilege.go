// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// explain adds to a refused operation which privilege is missing, and what to
// do. Other errors are returned as they are.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: it is mounted read-only; in a container run it privileged, or mount it writable", err)
	case !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES):
		return err
	}
	if lacks := missing(); lacks != "" {
		return fmt.Errorf("%w: this needs %s; run fairlead as root or give it these capabilities", err, lacks)
	}
	return fmt.Errorf("%w: a security module, a seccomp filter or an outer container forbids it", err)
}

// missing names the capabilities the process driver needs and lacks.
func missing() string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return ""
	}
	var lacks []string
	for line := range strings.Lines(string(b)) {
		hex, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		effective, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return ""
		}
		if effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
			lacks = append(lacks, "CAP_SYS_ADMIN (network namespaces)")
		}
		if effective&(1<<unix.CAP_NET_ADMIN) == 0 {
			lacks = append(lacks, "CAP_NET_ADMIN (links and routes)")
		}
		if effective&(1<<unix.CAP_DAC_OVERRIDE) == 0 {
			lacks = append(lacks, "CAP_DAC_OVERRIDE (cgroups and sysctls)")
		}
	}
	return strings.Join(lacks, " and ")
}
