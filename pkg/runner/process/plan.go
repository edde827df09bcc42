// SPDX-License-Identifier: Apache-2.0

package process

// candidate is a replica of one workload, not stopping, as plan sees it.
type candidate struct {
	id      string
	current bool // runs what is wanted now
	ready   bool
}

// plan says how many replicas to start and which to stop so that n current
// ones run in the end. Old ones stay until as many new ones are ready; those
// that do not serve go at once. have is in the order of age.
func plan(n int, have []candidate) (start int, stop []string) {
	var current, old []candidate
	ready := 0
	for _, c := range have {
		if !c.current {
			old = append(old, c)
			continue
		}
		current = append(current, c)
		if c.ready {
			ready++
		}
	}
	surplus := len(current) - n
	for _, idle := range []bool{true, false} { // first those that do not serve
		for i := len(current) - 1; i >= 0 && surplus > 0; i-- {
			if c := current[i]; c.ready != idle {
				stop = append(stop, c.id)
				surplus--
				if c.ready {
					ready--
				}
			}
		}
	}
	keep := n - ready
	for _, c := range old {
		if c.ready && keep > 0 {
			keep--
			continue
		}
		stop = append(stop, c.id)
	}
	return max(0, n-len(current)), stop
}
