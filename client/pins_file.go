//go:build !js

package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// FilePins are Pins in one JSON file, readable by its owner alone. Several processes may share it: each looks again when the
// file has changed, and writes a new file in place of the old one. Two that pin at the very same moment may lose one first
// sight, which the next sight repeats.
type FilePins struct {
	path string

	mu      sync.Mutex
	pins    MemoryPins  // guarded by mu, not by its own
	version fileVersion // guarded by mu; of the file that pins came from
}

type fileVersion struct {
	size int64
	at   time.Time
}

var _ Pins = (*FilePins)(nil)

// pinFile is the file's form: by mesh, by kind, by id.
type pinFile struct {
	Version int                                      `json:"version"` // 1
	Meshes  map[string]map[PinKind]map[string]string `json:"meshes"`
}

// OpenFilePins reads the pins in a file. One that does not exist is made with the first pin; its directory must exist.
func OpenFilePins(path string) (*FilePins, error) {
	f := &FilePins{path: path, pins: MemoryPins{pins: map[pinKey]string{}}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.loadLocked(); err != nil {
		return nil, err
	}
	return f, nil
}

// Get implements Pins.
func (f *FilePins) Get(mesh string, kind PinKind, id string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.loadLocked(); err != nil {
		return "", err
	}
	return f.pins.pins[pinKey{mesh, kind, id}], nil
}

// Pin implements Pins. Nothing is written when all was pinned before.
func (f *FilePins) Pin(mesh string, pins ...Pin) ([]Pin, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.loadLocked(); err != nil {
		return nil, err
	}
	now, added := f.pins.pinLocked(mesh, pins)
	if len(added) == 0 {
		return now, nil
	}
	if err := f.saveLocked(); err != nil {
		for _, k := range added { // not pinned if the file does not say so
			delete(f.pins.pins, k)
		}
		return nil, err
	}
	return now, nil
}

// Replace implements Pins.
func (f *FilePins) Replace(mesh string, p Pin) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.loadLocked(); err != nil {
		return err
	}
	before := Pin{Kind: p.Kind, ID: p.ID, Value: f.pins.pins[pinKey{mesh, p.Kind, p.ID}]}
	f.pins.replaceLocked(mesh, p)
	if err := f.saveLocked(); err != nil {
		f.pins.replaceLocked(mesh, before)
		return err
	}
	return nil
}

// loadLocked reads the file if it is another than before. A damaged one is an error and never empty pins: those would trust
// everybody anew.
func (f *FilePins) loadLocked() error {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("client: pins: %w", err)
	}
	version := fileVersion{info.Size(), info.ModTime()}
	if version == f.version {
		return nil
	}
	raw, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("client: pins: %w", err)
	}
	var file pinFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return fmt.Errorf("client: pins in %s are damaged: %w", f.path, err)
	}
	if file.Version != 1 {
		return fmt.Errorf("client: pins in %s have version %d, want 1", f.path, file.Version)
	}
	clear(f.pins.pins)
	for mesh, kinds := range file.Meshes {
		for kind, values := range kinds {
			for id, value := range values {
				f.pins.pins[pinKey{mesh, kind, id}] = value
			}
		}
	}
	f.version = version
	return nil
}

func (f *FilePins) saveLocked() error {
	file := pinFile{Version: 1, Meshes: map[string]map[PinKind]map[string]string{}}
	for k, value := range f.pins.pins {
		if file.Meshes[k.Mesh] == nil {
			file.Meshes[k.Mesh] = map[PinKind]map[string]string{}
		}
		if file.Meshes[k.Mesh][k.Kind] == nil {
			file.Meshes[k.Mesh][k.Kind] = map[string]string{}
		}
		file.Meshes[k.Mesh][k.Kind][k.ID] = value
	}
	raw, err := json.MarshalIndent(file, "", "\t")
	if err != nil {
		return fmt.Errorf("client: pins: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(f.path), filepath.Base(f.path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("client: pins: %w", err)
	}
	_, err = tmp.Write(append(raw, '\n'))
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // the error before says what went wrong
		return fmt.Errorf("client: pins: %w", err)
	}
	if info, err := os.Stat(f.path); err == nil {
		f.version = fileVersion{info.Size(), info.ModTime()}
	}
	return nil
}
