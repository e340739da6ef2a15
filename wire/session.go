package wire

import (
	"math"
	"strings"
)

// Types by which a session describes itself.
const (
	TypeSetStatus  = "set_status"
	TypeSetSummary = "set_summary"
	TypeSetStats   = "set_stats"
	TypeSetVisible = "set_visible"
	TypeSetProfile = "set_profile"
	TypeJoinGroup  = "join_group"
	TypeLeaveGroup = "leave_group"
	TypeSetGrants  = "set_grants"
)

// SetStatus is a manual status. It has no reply.
type SetStatus struct {
	Header
	Status Status `json:"status"`
}

// Check fails unless the status is idle, working or dnd.
func (f *SetStatus) Check() error {
	if !f.Status.Valid() {
		return BadField("status", "must be idle, working or dnd")
	}
	return nil
}

// SetSummary says in words what the session is doing. It has no reply.
type SetSummary struct {
	Header
	Summary *string `json:"summary"` // required, at most 2000 characters, may be empty
}

// Check bounds the summary.
func (f *SetSummary) Check() error {
	if f.Summary == nil || Chars(*f.Summary) > MaxSummary || !CleanText(*f.Summary) {
		return BadField("summary", "must be a string of at most 2000 characters")
	}
	return nil
}

// Stats are a session's own counters; nil members were not given.
type Stats struct {
	MessagesIn  *float64 `json:"messagesIn,omitempty"`
	MessagesOut *float64 `json:"messagesOut,omitempty"`
	ToolCalls   *float64 `json:"toolCalls,omitempty"`
	Uptime      *float64 `json:"uptime,omitempty"`
	Errors      *float64 `json:"errors,omitempty"`
}

// SetStats replaces the session's counters. It has no reply.
type SetStats struct {
	Header
	Stats *Stats `json:"stats"`
}

// Check fails on missing stats and on negative or infinite counters.
func (f *SetStats) Check() error {
	if f.Stats == nil {
		return BadField("stats", "must be an object of numbers")
	}
	for _, n := range []*float64{f.Stats.MessagesIn, f.Stats.MessagesOut, f.Stats.ToolCalls, f.Stats.Uptime, f.Stats.Errors} {
		if n != nil && (*n < 0 || math.IsInf(*n, 0)) {
			return BadField("stats", "must hold numbers of 0 or more")
		}
	}
	return nil
}

// SetVisible shows or hides the session. The reply is an ack.
type SetVisible struct {
	Header
	Visible *bool `json:"visible"`
}

// Check fails when visible is missing.
func (f *SetVisible) Check() error {
	if f.Visible == nil {
		return BadField("visible", "must be true or false")
	}
	return nil
}

// Profile is what a session shows of itself; nil members were not given.
type Profile struct {
	Avatar       *string   `json:"avatar,omitempty"`       // at most 256 characters
	Title        *string   `json:"title,omitempty"`        // at most 128 characters
	Bio          *string   `json:"bio,omitempty"`          // at most 1024 characters
	Capabilities *[]string `json:"capabilities,omitempty"` // at most 32 of at most 64 characters
}

// Empty reports whether nothing was given.
func (p Profile) Empty() bool {
	return p.Avatar == nil && p.Title == nil && p.Bio == nil && p.Capabilities == nil
}

// Merge returns p with the members that q gives.
func (p Profile) Merge(q Profile) Profile {
	if q.Avatar != nil {
		p.Avatar = q.Avatar
	}
	if q.Title != nil {
		p.Title = q.Title
	}
	if q.Bio != nil {
		p.Bio = q.Bio
	}
	if q.Capabilities != nil {
		p.Capabilities = q.Capabilities
	}
	return p
}

// SetProfile merges the given members into the session's profile. The reply is an ack.
type SetProfile struct {
	Header
	Profile
}

// Check bounds the profile.
func (f *SetProfile) Check() error {
	bounded := func(s *string, limit int) bool { return s == nil || Chars(*s) <= limit && CleanText(*s) }
	switch {
	case !bounded(f.Avatar, 256):
		return BadField("avatar", "must have at most 256 characters")
	case !bounded(f.Title, 128):
		return BadField("title", "must have at most 128 characters")
	case !bounded(f.Bio, 1024):
		return BadField("bio", "must have at most 1024 characters")
	}
	if f.Capabilities != nil {
		if len(*f.Capabilities) > 32 {
			return BadField("capabilities", "must have at most 32 entries")
		}
		for _, c := range *f.Capabilities {
			if !bounded(&c, 64) {
				return BadField("capabilities", "entries must have at most 64 characters")
			}
		}
	}
	return nil
}

// JoinGroup puts the session into a group, or changes its role there. It has no reply.
type JoinGroup struct {
	Header
	Name string `json:"name"` // a leading @ is dropped
	Role string `json:"role,omitempty"`
}

// Check cleans and checks the name and the role.
func (f *JoinGroup) Check() error {
	name, ok := GroupName(f.Name)
	if !ok {
		return BadField("name", "must be a group: 1 to 8 segments of 1 to 64 characters joined by /, at most 128 together, not all")
	}
	f.Name = name
	if Chars(f.Role) > MaxLabel || !CleanText(f.Role) {
		return BadField("role", "must have at most 128 characters")
	}
	return nil
}

// LeaveGroup takes the session out of exactly one group. It has no reply.
type LeaveGroup struct {
	Header
	Name string `json:"name"`
}

// Check fails on a missing name.
func (f *LeaveGroup) Check() error {
	f.Name = strings.TrimPrefix(f.Name, "@")
	if f.Name == "" || Chars(f.Name) > MaxGroupName || !CleanText(f.Name) {
		return BadField("name", "must be a group name")
	}
	return nil
}

// Grantable lists what a member can grant to another. The broker enforces dm and broadcast.
var Grantable = []string{GrantRead, GrantDM, GrantBroadcast, "state-read", "state-write", "file-read"}

// The grants that have a meaning to the broker.
const (
	GrantRead      = "read"
	GrantDM        = "dm"
	GrantBroadcast = "broadcast"
)

// SetGrants merges entries into the caller's grants: what each peer may do to it. nil takes an entry away, an empty list blocks.
type SetGrants struct {
	Header
	Grants map[string]*[]string `json:"grants"`
}

// Check fails on keys that are no public keys or occur twice but for their case, and on unknown grants; keys become lower case.
func (f *SetGrants) Check() error {
	if f.Grants == nil {
		return BadField("grants", "must be an object of public keys to lists of grants or null")
	}
	clean := make(map[string]*[]string, len(f.Grants))
	for key, list := range f.Grants {
		if !IsKey(key) {
			return BadField("grants", "keys must be public keys of 64 hex digits")
		}
		if list != nil {
			for _, g := range *list {
				if !contains(Grantable, g) {
					return BadField("grants", "must be of "+strings.Join(Grantable, ", "))
				}
			}
			if len(*list) > len(Grantable) {
				return BadField("grants", "must not repeat a grant")
			}
		}
		lower := strings.ToLower(key)
		if _, twice := clean[lower]; twice { // in another case; the order of a JSON object decides nothing
			return BadField("grants", "must name each public key once")
		}
		clean[lower] = list
	}
	f.Grants = clean
	return nil
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}
