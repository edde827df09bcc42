// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// archive is a txtar file: a comment, then files after "-- NAME --" lines.
type archive struct {
	comment []byte
	files   []archived
}

type archived struct {
	name string
	data []byte
}

func readArchive(t testing.TB, path string) *archive {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{}
	into := &a.comment
	for line := range bytes.Lines(data) {
		if name, ok := marker(line); ok {
			a.files = append(a.files, archived{name: name})
			into = &a.files[len(a.files)-1].data
			continue
		}
		*into = append(*into, line...)
	}
	return a
}

func marker(line []byte) (name string, ok bool) {
	s, begins := strings.CutPrefix(string(line), "-- ")
	s, ends := strings.CutSuffix(s, " --\n")
	return s, begins && ends
}

func (a *archive) write(t testing.TB, path string) {
	t.Helper()
	b := bytes.NewBuffer(nil)
	b.Write(a.comment)
	for _, f := range a.files {
		b.WriteString("-- " + f.name + " --\n")
		b.Write(f.data)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
