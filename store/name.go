package store

import (
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// FoldName is the form in which names are compared, so that no two that look alike pass as different: NFKC, lower case, without
// control and format characters (bidirectional marks among them), without white space at the ends.
func FoldName(name string) string {
	folded := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, norm.NFKC.String(name))
	return strings.TrimSpace(norm.NFKC.String(folded))
}

// NumberedName is the nth name to try for someone called name: the name itself for 1, else with "-n" behind it, cut so that at most
// 128 characters remain.
func NumberedName(name string, n int) string {
	if n <= 1 {
		return name
	}
	suffix := "-" + strconv.Itoa(n)
	runes := []rune(name)
	return string(runes[:min(len(runes), 128-len(suffix))]) + suffix
}
