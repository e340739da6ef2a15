package wire

import (
	"math"
	"strings"
)

// Types of administration.
const (
	TypeKick           = "kick"
	TypeKickAck        = "kick_ack"
	TypeDisconnect     = "disconnect"
	TypeDisconnectAck  = "disconnect_ack"
	TypeBan            = "ban"
	TypeBanAck         = "ban_ack"
	TypeUnban          = "unban"
	TypeUnbanAck       = "unban_ack"
	TypeListBans       = "list_bans"
	TypeListBansResult = "list_bans_result"
	TypeMemberRole     = "member_role"
)

// Reasons of a close for silence; the others are beside the close codes.
const (
	ReasonKickedStale       = "kicked_stale"
	ReasonDisconnectedStale = "disconnected_stale"
)

// invalidArg is the fault for an argument of an administrative request.
func invalidArg(field, want string) *Fault {
	return &Fault{Code: Invalid, Field: field, Text: field + " " + want}
}

// Selection says whose sessions an administrative request is about: all, else those that were silent for longer than stale, else those of target.
type Selection struct {
	Target string  `json:"target,omitempty"` // display name, member key, session key, or the first 8 or more digits of a member key
	Stale  *Number `json:"stale,omitempty"`  // milliseconds
	All    bool    `json:"all,omitempty"`
}

func (s *Selection) check() error {
	switch {
	case s.All:
		return nil
	case s.Stale != nil:
		if n := float64(*s.Stale); n < 0 || math.IsInf(n, 0) {
			return invalidArg("stale", "must be milliseconds, 0 or more")
		}
		return nil
	case strings.TrimSpace(s.Target) == "":
		return &Fault{Code: Invalid, Field: "target", Text: "one of target, stale and all is required"}
	default:
		return checkAdminTarget(s.Target)
	}
}

func checkAdminTarget(target string) error {
	if strings.TrimSpace(target) == "" || Chars(target) > MaxDisplayName || !CleanText(target) {
		return invalidArg("target", "must be a display name, a member key or session key, or the first 8 or more digits of a member key")
	}
	return nil
}

// Kick ends sessions and asks their clients not to come back by themselves.
type Kick struct {
	Header
	Selection
}

// Check fails with invalid unless somebody is selected.
func (f *Kick) Check() error { return f.check() }

// Disconnect ends sessions, whose clients may come back.
type Disconnect struct {
	Header
	Selection
}

// Check fails with invalid unless somebody is selected.
func (f *Disconnect) Check() error { return f.check() }

// KickAck answers kick and disconnect: the names of the sessions that were ended.
type KickAck struct {
	Header
	Kicked   []string `json:"kicked"`
	Affected []string `json:"affected"` // repeats Kicked
	// SkippedControlPlane are the names of control connections without a session key, which kick leaves alone.
	SkippedControlPlane []string `json:"skipped_control_plane,omitempty"`
}

// Ban removes a member from the mesh.
type Ban struct {
	Header
	Target string `json:"target"`
	Reason string `json:"reason,omitempty"` // for the audit log, at most 500 characters
}

// Check fails with invalid unless somebody is named.
func (f *Ban) Check() error {
	if Chars(f.Reason) > 500 || !CleanText(f.Reason) {
		return invalidArg("reason", "must have at most 500 characters")
	}
	return checkAdminTarget(f.Target)
}

// BanAck answers ban.
type BanAck struct {
	Header
	Banned string `json:"banned"`
}

// Unban lets a banned member sign in again.
type Unban struct {
	Header
	Target string `json:"target"`
}

// Check fails with invalid unless somebody is named.
func (f *Unban) Check() error { return checkAdminTarget(f.Target) }

// UnbanAck answers unban.
type UnbanAck struct {
	Header
	Unbanned string `json:"unbanned"`
}

// ListBans asks who is banned.
type ListBans struct{ Header }

// ListBansResult answers list_bans, the latest ban first.
type ListBansResult struct {
	Header
	Bans []BanInfo `json:"bans"`
}

// BanInfo is one banned member.
type BanInfo struct {
	Name      string `json:"name"`
	Pubkey    string `json:"pubkey"`
	RevokedAt string `json:"revokedAt"`
}

// MemberRole changes what a member may do in the mesh. The reply is an ack.
type MemberRole struct {
	Header
	Member string `json:"member"` // id or public key
	Role   string `json:"role"`   // admin or member
}

// Check fails with invalid on a missing member or an unknown role.
func (f *MemberRole) Check() error {
	if !IsID(f.Member) {
		return invalidArg("member", "must be a member's id or public key")
	}
	if f.Role != "admin" && f.Role != "member" {
		return invalidArg("role", "must be admin or member")
	}
	return nil
}
