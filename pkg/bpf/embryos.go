// SPDX-License-Identifier: Apache-2.0

package bpf

// EachEmbryo calls yield for every entry of a flow that nobody has confirmed
// yet, both directions, until it returns false.
func (o *Objects) EachEmbryo(yield func(k FlowKey, f Flow) bool) error {
	return eachFlow(o.maps[lbMapFlEmbryos], yield)
}
