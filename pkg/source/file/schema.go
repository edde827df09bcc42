// SPDX-License-Identifier: Apache-2.0

package file

import (
	"encoding/json"
)

// schema is a JSON Schema under construction.
type schema map[string]any

// Schema is the JSON Schema (draft 2020-12) of the config file, indented, made
// from the declarations that Parse reads with. What needs more than one field
// to judge (conflicts, ports that must exist) only Parse checks.
func Schema() []byte {
	s := root().schema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = "https://github.com/fairlead-lb/fairlead/config.schema.json"
	s["title"] = "fairlead config"
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil { // only a schema that is no JSON; a test marshals it
		return nil
	}
	return append(b, '\n')
}

func objectSchema[S any](base S, fields []field[S]) schema {
	properties := schema{}
	var required []string
	for _, f := range fields {
		properties[f.name] = f.schema(&base)
		if f.required {
			required = append(required, f.name)
		}
	}
	s := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		s["required"] = required
	}
	return s
}
