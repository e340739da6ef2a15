package identity

import (
	"math"
	"strconv"
	"strings"
)

// FormatNumber writes f as ECMAScript's Number-to-string does, which is how a number stands in a signed text and in canonical
// JSON: the shortest digits that read back as f; plain from 1e-6 up to below 1e21 ("1790000000", "1.5", "0.000001"), beyond
// that with an exponent that has its sign and no leading zero ("1e+21", "1e-7"). Negative zero is "0"; the others are "NaN",
// "Infinity" and "-Infinity".
func FormatNumber(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	case f == 0:
		return "0" // of both zeros
	}
	if abs := math.Abs(f); abs >= 1e-6 && abs < 1e21 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	return mantissa + "e" + exponent[:1] + strings.TrimLeft(exponent[1:], "0") // Go pads the exponent to two digits
}
