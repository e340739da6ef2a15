package wire

import "strings"

// TargetKind says what a targetSpec addresses.
type TargetKind uint8

// The kinds of target; docs/protocol.md, targets.
const (
	TargetInvalid TargetKind = iota
	TargetKey                // 64 hex digits: a member key or a session key
	TargetAll                // * or @all: every other member
	TargetGroup              // @name: members of the group and of those below it
	TargetTopic              // #id or #name: the topic's other members
)

// Target is a parsed targetSpec.
type Target struct {
	Kind TargetKind
	// Ref is the key in lower case, the group's name without @, or the topic's id or name without #; empty for TargetAll.
	Ref string
}

// ParseTarget reads a targetSpec. A spec outside the grammar gives TargetInvalid.
func ParseTarget(spec string) Target {
	switch {
	case spec == "*" || spec == "@all":
		return Target{Kind: TargetAll}
	case strings.HasPrefix(spec, "@"):
		if name, ok := GroupName(spec); ok && !strings.HasPrefix(spec, "@@") {
			return Target{Kind: TargetGroup, Ref: name}
		}
	case strings.HasPrefix(spec, "#"):
		if ref := spec[1:]; LooksLikeID(ref) {
			return Target{Kind: TargetTopic, Ref: ref}
		} else if name, ok := TopicName(ref); ok && name == ref {
			return Target{Kind: TargetTopic, Ref: name}
		}
	case IsKey(spec):
		return Target{Kind: TargetKey, Ref: strings.ToLower(spec)}
	}
	return Target{}
}

// String is the spec that parses to t again; the empty string for TargetInvalid.
func (t Target) String() string {
	switch t.Kind {
	case TargetKey:
		return t.Ref
	case TargetAll:
		return "*"
	case TargetGroup:
		return "@" + t.Ref
	case TargetTopic:
		return "#" + t.Ref
	default:
		return ""
	}
}
