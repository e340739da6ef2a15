// Package transcript infers from an editor's transcript whether its session is working or idle.
//
// An editor keeps one directory of JSONL transcripts per working directory, under <home>/.claude/projects. The newest
// transcript of a session's directory tells whether the assistant's last turn called a tool. This reads the disk of the
// broker's host, so it is for hosts that switch it on, and for connections from loopback. The rules are in
// docs/presence.md, "Inference from transcripts".
package transcript

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// The two answers of [Reader.Infer]; both are words of the wire.
const (
	idle    = "idle"
	working = "working"
)

// tailBytes is how much of a transcript is read, from its end; docs/presence.md, "Constants".
const tailBytes = 8192

// Reader looks for transcripts under Root. It keeps nothing open and is safe for concurrent use.
type Reader struct {
	// Root is the directory that holds the transcript directories, as in /home/ana/.claude/projects. Nothing outside of it
	// is read, whatever links lead there.
	Root string
}

// Infer returns "working" or "idle" for a session in the directory cwd, which need not exist on this host. found reports
// whether a transcript was there; without one the status is "idle", a guess that should change nothing. Infer does file
// I/O and never fails: what cannot be read counts as absent, or as idle.
func (r Reader) Infer(cwd string) (status string, found bool) {
	if r.Root == "" {
		return idle, false // not the current directory
	}
	root, err := os.OpenRoot(r.Root)
	if err != nil {
		return idle, false
	}
	defer root.Close()
	for _, key := range keys(cwd) {
		if tail, ok := newestTail(root, key); ok {
			status, _ := scan(tail)
			return status, true
		}
	}
	return idle, false
}

// keys returns the names under which the transcripts of cwd may lie, in the order in which they are tried. Every one is a
// single path element.
func keys(cwd string) []string {
	dashes := strings.NewReplacer(`\`, "-", "/", "-").Replace
	noDrive := cwd
	if len(cwd) >= 2 && cwd[1] == ':' && ('A' <= cwd[0] && cwd[0] <= 'Z' || 'a' <= cwd[0] && cwd[0] <= 'z') {
		noDrive = cwd[2:]
	}
	all := []string{
		strings.ReplaceAll(dashes(cwd), ":", "-"),
		strings.ReplaceAll(cwd, "/", "-"),
		dashes(cwd),
		dashes(noDrive),
	}
	for _, key := range all[:len(all):len(all)] {
		if key != "" && !strings.HasPrefix(key, "-") {
			all = append(all, "-"+key)
		}
	}
	var out []string
	for _, key := range all {
		// The second rule leaves backslashes alone, which is harmless where they are no separators, but cwd is a peer's word.
		bad := key == "" || key == "." || key == ".." || strings.ContainsAny(key, "/\\\x00")
		if !bad && !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	return out
}

// newestTail returns the end of the newest readable transcript in the directory key; ok is false if there is none.
func newestTail(root *os.Root, key string) (tail []byte, ok bool) {
	// Stat goes by way of root, so that links are followed, but not out of it. To open a pipe would block.
	if info, err := root.Stat(key); err != nil || !info.IsDir() {
		return nil, false
	}
	dir, err := root.Open(key)
	if err != nil {
		return nil, false
	}
	entries, _ := dir.ReadDir(-1) // what was listed before an error is as good as the rest
	dir.Close()
	type file struct {
		name string
		info fs.FileInfo
	}
	var files []file
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".jsonl") {
			continue
		}
		name := path.Join(key, e.Name())
		if info, err := root.Stat(name); err == nil && info.Mode().IsRegular() {
			files = append(files, file{name, info})
		}
	}
	slices.SortFunc(files, func(a, b file) int {
		return cmp.Or(b.info.ModTime().Compare(a.info.ModTime()), cmp.Compare(a.name, b.name))
	})
	for _, f := range files {
		if opened, err := root.Open(f.name); err == nil {
			tail := readTail(opened)
			opened.Close()
			return tail, true
		}
	}
	return nil, false
}

// readTail returns the last tailBytes of f, or nothing if it cannot be read.
func readTail(f *os.File) []byte {
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	n := min(info.Size(), tailBytes)
	tail, err := io.ReadAll(io.NewSectionReader(f, info.Size()-n, n))
	if err != nil {
		return nil
	}
	return tail
}

// scan looks for the last line that decides. Without one, decided is false and the status idle.
func scan(tail []byte) (status string, decided bool) {
	for len(tail) > 0 {
		line := tail
		if i := bytes.LastIndexByte(tail, '\n'); i >= 0 {
			tail, line = tail[:i], tail[i+1:]
		} else {
			tail = nil
		}
		if !bytes.Contains(line, []byte(`"assistant"`)) {
			continue
		}
		if content, ok := assistantContent(line); ok {
			if slices.ContainsFunc(content, isToolUse) {
				return working, true
			}
			return idle, true
		}
	}
	return idle, false
}

// assistantContent returns the content of line's message; ok is false unless line is an assistant's turn. It decodes into
// maps because a struct would match names without regard to case.
func assistantContent(line []byte) (content []json.RawMessage, ok bool) {
	var turn, message map[string]json.RawMessage
	if json.Unmarshal(line, &turn) != nil || text(turn["type"]) != "assistant" {
		return nil, false
	}
	if json.Unmarshal(turn["message"], &message) != nil || json.Unmarshal(message["content"], &content) != nil {
		return nil, false
	}
	return content, content != nil // null is no array
}

func isToolUse(item json.RawMessage) bool {
	var fields map[string]json.RawMessage
	return json.Unmarshal(item, &fields) == nil && text(fields["type"]) == "tool_use"
}

// text returns the string that raw holds, or "" if it holds none.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
