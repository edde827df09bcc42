// SPDX-License-Identifier: Apache-2.0

package file

import "strings"

// nearest is the name that s was probably meant to be: at most a third of its
// letters away, without regard to case. Empty: none is near.
func nearest(s string, names []string) string {
	if len(s) > 64 {
		return ""
	}
	best, least := "", max(len(s)/3, 1)+1
	for _, n := range names {
		if dist := distance(strings.ToLower(s), strings.ToLower(n)); dist < least {
			best, least = n, dist
		}
	}
	return best
}

// distance is the optimal string alignment distance: insertions, deletions,
// replacements and swaps of neighbours.
func distance(a, b string) int {
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}

func sentence(names []string) string { return strings.Join(names, ", ") }
