package broker_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// docs/differences.md names the test that proves each line; every one of them exists.
func TestDifferencesDocNamesRealTests(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("docs/differences.md")
	require.NoError(t, err)
	names := regexp.MustCompile("`((?:Test|Fuzz)[^`]*)`").FindAllStringSubmatch(string(doc), -1)
	require.Greater(t, len(names), 60)
	var code strings.Builder
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(path)
		code.Write(raw)
		return err
	}))
	for _, n := range names {
		require.Contains(t, code.String(), "func "+n[1]+"(", "docs/differences.md names a test that does not exist")
	}
}
