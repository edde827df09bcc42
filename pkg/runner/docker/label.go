// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/environment"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
)

// Labels of the containers that a Runner makes: all that the next agent must
// know of one. An image may have labels, too, so a container is a Runner's own
// only if its name fits them; an image cannot choose that.
const (
	labelOwner   = "fairlead.owner" // whose it is: rollout.Owner
	labelProject = "fairlead.project"
	labelUser    = "fairlead.user"
	labelReplica = "fairlead.replica" // PROJECT.USER.N
	labelSpec    = "fairlead.spec"    // hash of what it was made of
	labelPorts   = "fairlead.ports"   // "8080,53/udp", "80,any"
	labelDrain   = "fairlead.drain"   // "30s"
)

// anyPort stands in labelPorts where nobody wrote the only port.
const anyPort = "any"

// nameOf is the name of a replica's container.
func nameOf(owner, id string) string { return owner + "-" + id }

func labelsOf(owner, id string, w want) map[string]string {
	var ports []string
	for _, p := range listen.PortsOf(w.spec.Ports) {
		ports = append(ports, p.String())
	}
	if w.spec.AnyPort {
		ports = append(ports, anyPort)
	}
	return map[string]string{
		labelOwner: owner, labelProject: w.spec.Service.Project, labelUser: w.spec.Service.User, labelReplica: id,
		labelSpec: w.hash, labelPorts: strings.Join(ports, ","), labelDrain: w.spec.Drain.String(),
	}
}

// recognize makes a replica of a container's labels; false: it is none of this
// owner's.
func recognize(owner string, c container.Summary) (*replica, bool) {
	l := c.Labels
	id := l[labelReplica]
	if l[labelOwner] != owner || id == "" || !slices.Contains(c.Names, "/"+nameOf(owner, id)) {
		return nil, false
	}
	rep := newReplica(id, model.ServiceName{Project: l[labelProject], User: l[labelUser]}, l[labelSpec])
	for text := range strings.SplitSeq(l[labelPorts], ",") {
		number, udp := strings.CutSuffix(text, "/udp")
		if n, err := strconv.ParseUint(number, 10, 16); err == nil {
			rep.ports = append(rep.ports, listen.Port{Number: uint16(n), UDP: udp})
		}
	}
	rep.any = strings.HasSuffix(l[labelPorts], ","+anyPort)
	rep.drain, _ = time.ParseDuration(l[labelDrain])
	return rep, true
}

// hashOf covers what a running container cannot be told: a change of it needs
// a new one.
func hashOf(s activator.Spec, dns []netip.Addr) string {
	b, err := json.Marshal(struct {
		Image   string
		Command []string
		Env     map[string]string
		Ports   []listen.Port
		AnyPort bool         `json:",omitempty"`
		DNS     []netip.Addr `json:",omitempty"`
		Told    []string
	}{s.Workload.Image, s.Workload.Command, s.Workload.Env, listen.PortsOf(s.Ports), s.AnyPort, dns, environment.Fixed(s)})
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
