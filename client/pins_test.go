//go:build !js

package client

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPinsKeepTheFirstValue(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pins.json")
	file, err := OpenFilePins(path)
	require.NoError(t, err)
	for name, pins := range map[string]Pins{"memory": NewMemoryPins(), "file": file} {
		now, err := pins.Pin("m", Pin{PinMember, "a", "1"}, Pin{PinMember, "a", "2"}, Pin{PinName, "a", "3"}, Pin{PinTopic, "t", ""})
		require.NoError(t, err, name)
		require.Equal(t, []Pin{{PinMember, "a", "1"}, {PinMember, "a", "1"}, {PinName, "a", "3"}, {PinTopic, "t", ""}}, now, name)
		v, err := pins.Get("other", PinMember, "a")
		require.NoError(t, err, name)
		require.Empty(t, v, name)
		require.NoError(t, pins.Replace("m", Pin{PinMember, "a", "4"}), name)
		v, err = pins.Get("m", PinMember, "a")
		require.NoError(t, err, name)
		require.Equal(t, "4", v, name)
		require.NoError(t, pins.Replace("m", Pin{PinName, "a", ""}), name)
		v, err = pins.Get("m", PinName, "a")
		require.NoError(t, err, name)
		require.Empty(t, v, name)
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	// Another process sees it, and what it adds is seen here.
	second, err := OpenFilePins(path)
	require.NoError(t, err)
	now, err := second.Pin("m", Pin{PinMember, "a", "5"}, Pin{PinMember, "b", "6"})
	require.NoError(t, err)
	require.Equal(t, []Pin{{PinMember, "a", "4"}, {PinMember, "b", "6"}}, now)
	v, err := file.Get("m", PinMember, "b")
	require.NoError(t, err)
	require.Equal(t, "6", v)

	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary file stays")
}

func TestDamagedPinsAreAnError(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pins.json")
	for _, content := range []string{"", "{}", `{"version":2}`, "no json"} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		_, err := OpenFilePins(path)
		require.ErrorContains(t, err, "pins", content)
	}
}

func TestPinsThatCannotBeWrittenAreNotPinned(t *testing.T) {
	t.Parallel()
	pins, err := OpenFilePins(filepath.Join(t.TempDir(), "nowhere", "pins.json"))
	require.NoError(t, err)
	_, err = pins.Pin("m", Pin{PinMember, "a", "1"})
	require.Error(t, err)
	v, err := pins.Get("m", PinMember, "a")
	require.NoError(t, err)
	require.Empty(t, v)
}
