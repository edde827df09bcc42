// SPDX-License-Identifier: Apache-2.0

package names

import (
	"fmt"
	"strings"
	"unicode"
)

// TableVersion numbers the transliteration table. A name never changes once
// given, so a table that answers differently for any input is a new version
// beside the old one, not an edit.
const TableVersion = 1

// cyrillic is version 1 of the table, lower case. Russian as row A12 decides;
// the Ukrainian є and ї follow its ю and я; Kazakh letters are those of the
// Latin alphabet of 2021 without their marks.
var cyrillic = map[rune]string{
	'а': "a", 'б': "b", 'в': "v", 'г': "g", 'д': "d", 'е': "e", 'ё': "e",
	'ж': "zh", 'з': "z", 'и': "i", 'й': "y", 'к': "k", 'л': "l", 'м': "m",
	'н': "n", 'о': "o", 'п': "p", 'р': "r", 'с': "s", 'т': "t", 'у': "u",
	'ф': "f", 'х': "kh", 'ц': "ts", 'ч': "ch", 'ш': "sh", 'щ': "shch",
	'ъ': "", 'ы': "y", 'ь': "", 'э': "e", 'ю': "yu", 'я': "ya",
	// Ukrainian and Belarusian.
	'ґ': "g", 'є': "ye", 'і': "i", 'ї': "yi", 'ў': "u",
	// Kazakh.
	'ә': "a", 'ғ': "g", 'қ': "q", 'ң': "n", 'ө': "o", 'ұ': "u", 'ү': "u", 'һ': "h",
}

// compose joins a letter and its combining mark: some editors store й as и
// and a breve, which would otherwise become another name.
var compose = strings.NewReplacer(
	"и\u0306", "й", "И\u0306", "й", "у\u0306", "ў", "У\u0306", "ў",
	"е\u0308", "ё", "Е\u0308", "ё", "і\u0308", "ї", "І\u0308", "ї",
)

// Label makes an LDH label of what a person wrote: ASCII letters become lower
// case, Cyrillic is transliterated by the table, and any run of other
// characters becomes one '-', none at the ends. The result for an input never
// changes. Errors: nothing is left, or the label is over 63 bytes.
func Label(s string) (string, error) {
	var b strings.Builder
	pending := false // a '-' is due before the next letter
	for _, r := range compose.Replace(s) {
		text, known := transliterate(r)
		if !known {
			pending = true
			continue
		}
		if text == "" {
			continue
		}
		if pending && b.Len() > 0 {
			b.WriteByte('-')
		}
		pending = false
		b.WriteString(text)
	}
	label := b.String()
	switch {
	case label == "":
		return "", fmt.Errorf("no letter or digit of %q can be part of a name; use Latin or Cyrillic letters or digits", clip(s))
	case len(label) > MaxLabel:
		return "", fmt.Errorf("%q becomes the label %q of %d bytes, at most %d fit; choose a shorter one", clip(s), clip(label), len(label), MaxLabel)
	}
	return label, nil
}

// transliterate answers for one rune; not known means "becomes a '-'".
func transliterate(r rune) (text string, known bool) {
	if 'A' <= r && r <= 'Z' {
		r += 'a' - 'A'
	}
	if isLetterDigit(r) {
		return string(r), true
	}
	text, known = cyrillic[unicode.ToLower(r)]
	return text, known
}

// clip keeps a hostile input from filling the message.
func clip(s string) string {
	const most = 80
	for i := range s {
		if i >= most {
			return s[:i] + "…"
		}
	}
	return s
}
