// SPDX-License-Identifier: Apache-2.0

package model

// Feature is a part of the config that some target must serve. What a state
// uses and no running target serves is reported as "not served yet".
type Feature string

// The features a state can ask for, named by their config field.
const (
	FeatureL4          Feature = "run"
	FeatureNodePort    Feature = "expose.port"
	FeatureHTTP        Feature = "expose.http"
	FeatureTCPName     Feature = "expose.tcp"
	FeatureFullNAT     Feature = "mode: full-nat"
	FeatureDSR         Feature = "mode: dsr"
	FeatureAffinity    Feature = "balance.affinity"
	FeaturePolicy      Feature = "balance.policy"
	FeatureHealth      Feature = "health"
	FeatureAllow       Feature = "allow"
	FeatureRateLimit   Feature = "rateLimit"
	FeatureProcess     Feature = "workload.driver: process"
	FeatureDocker      Feature = "workload.driver: docker"
	FeatureKubernetes  Feature = "workload.driver: kubernetes"
	FeatureSleep       Feature = "workload.scale.min: 0"
	FeatureAutoscale   Feature = "workload.scale.max"
	FeatureIdentity    Feature = "workload.identity"
	FeatureHTTPHead    Feature = "workload.ready: http-head"
	FeaturePlaceholder Feature = "placeholder"
	FeatureDNS         Feature = "listen.dns"
)

// Use is one place where a state asks for a feature. Service is zero for a
// setting.
type Use struct {
	Feature Feature     `json:"feature"`
	Service ServiceName `json:"service,omitzero"`
}

// Uses lists what the state asks for, in the order of its services.
func (s *State) Uses() []Use {
	var uses []Use
	if s.Settings.Listen.DNS != "" {
		uses = append(uses, Use{Feature: FeatureDNS})
	}
	for i := range s.Services {
		svc := s.Services[i]
		for _, f := range svc.features() {
			uses = append(uses, Use{Feature: f, Service: svc.Name})
		}
	}
	return uses
}

func (s *Service) features() []Feature {
	var fs []Feature
	add := func(used bool, f Feature) {
		if used {
			fs = append(fs, f)
		}
	}
	add(true, FeatureL4)
	add(len(s.NodePorts) > 0, FeatureNodePort)
	add(len(s.HTTP) > 0, FeatureHTTP)
	add(len(s.TCPNames) > 0, FeatureTCPName)
	add(s.Mode == ModeFullNAT, FeatureFullNAT)
	add(s.Mode == ModeDSR, FeatureDSR)
	add(s.Balance.Affinity != "" && s.Balance.Affinity != "none", FeatureAffinity)
	add(s.Balance.Policy != "" && s.Balance.Policy != "maglev", FeaturePolicy)
	add(s.Health.Type != "" && s.Health.Type != "none", FeatureHealth)
	add(len(s.Allow) > 0, FeatureAllow)
	add(s.RateLimit.PerSecond > 0, FeatureRateLimit)
	add(len(s.Backends) == 0 && s.Workload == nil, FeaturePlaceholder)
	if w := s.Workload; w != nil {
		add(w.Driver == "process", FeatureProcess)
		add(w.Driver == "docker", FeatureDocker)
		add(w.Driver == "kubernetes", FeatureKubernetes)
		add(w.Scale.Min == 0, FeatureSleep)
		add(w.Scale.Max > max(w.Scale.Min, 1), FeatureAutoscale)
		add(w.Identity != "", FeatureIdentity)
		add(w.Ready == "http-head", FeatureHTTPHead)
	}
	return fs
}
