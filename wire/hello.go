package wire

import "strings"

// Types of the handshake.
const (
	TypeHello        = "hello"
	TypeSessionHello = "session_hello"
	TypeHelloAck     = "hello_ack"
)

// ProtocolVersion is the highest version of the protocol that this package speaks.
const ProtocolVersion = 1

// Capabilities that a client names in its hello; unknown ones are ignored.
const (
	CapClientAck   = "client_ack"   // acknowledges pushes by client_ack
	CapReceipts    = "receipts"     // may sign its acknowledgements and wants receipt events; a broker that says it takes them
	CapTopicEvents = "topic_events" // wants topic_joined events
	CapNoPush      = "no_push"      // only asks: gets no push and no event and counts as offline
)

// Capabilities that the broker offers in hello_ack.
const (
	CapClientAckBatch = "client_ack_batch" // client_ack.brokerMessageIds
	CapHello2         = "hello2"           // helloSignature2 and sessionSignature are checked
)

// Group is one group of a session, with the session's role in it.
type Group struct {
	Name string `json:"name"`
	Role string `json:"role,omitempty"`
}

// HelloCommon are the members that both hellos share.
type HelloCommon struct {
	ProtocolVersion Number   `json:"protocolVersion"`
	Capabilities    []string `json:"capabilities,omitempty"`
	MeshID          string   `json:"meshId"`
	DisplayName     string   `json:"displayName,omitempty"` // 1-128 characters after trimming; empty: the member's own
	SessionID       string   `json:"sessionId"`             // 1-256 characters
	PID             Number   `json:"pid"`
	Cwd             string   `json:"cwd"` // at most 4096 characters
	Hostname        string   `json:"hostname,omitempty"`
	PeerType        string   `json:"peerType,omitempty"` // ai, human or connector
	Channel         string   `json:"channel,omitempty"`
	Model           string   `json:"model,omitempty"`
	Groups          *[]Group `json:"groups,omitempty"` // at most 64; nil: not given
	Timestamp       Number   `json:"timestamp"`        // ms since the epoch, within 60 s of the broker's clock
	Signature       string   `json:"signature"`        // 128 hex digits; docs/formats.md
	// HelloSignature2, SessionSignature and Nonce (24 bytes, base64) bind the session to the signature; docs/formats.md.
	HelloSignature2  string `json:"helloSignature2,omitempty"`
	SessionSignature string `json:"sessionSignature,omitempty"`
	Nonce            string `json:"nonce,omitempty"`
}

// Hello signs a connection in with the member's own key.
type Hello struct {
	Header
	HelloCommon
	MemberID      string  `json:"memberId"`
	Pubkey        string  `json:"pubkey"`        // the member key, 64 hex digits
	SessionPubkey *string `json:"sessionPubkey"` // nil or empty: none; else 64 lower-case hex digits
	// Attestation is the member's word for SessionPubkey, to be shown to others. Optional.
	Attestation *Attestation `json:"attestation,omitempty"`
}

// Attestation is a member's statement that a session key is its own, for at most 24 hours.
type Attestation struct {
	SessionPubkey      string  `json:"sessionPubkey"`
	ParentMemberPubkey string  `json:"parentMemberPubkey"`
	ExpiresAt          *Number `json:"expiresAt"` // ms since the epoch; required
	Signature          string  `json:"signature"` // 128 hex digits, by the member key
}

// SessionHello signs a connection in with a session key that a member attested.
type SessionHello struct {
	Header
	HelloCommon
	ParentMemberID     string       `json:"parentMemberId,omitempty"`
	ParentMemberPubkey string       `json:"parentMemberPubkey"`
	SessionPubkey      string       `json:"sessionPubkey"`
	ParentAttestation  *Attestation `json:"parentAttestation"`
	Role               string       `json:"role,omitempty"`
}

// Has reports whether the client named capability c.
func (h *HelloCommon) Has(c string) bool {
	for _, have := range h.Capabilities {
		if have == c {
			return true
		}
	}
	return false
}

// Check cleans and bounds the fields that are not part of the handshake's own checks. Its faults have code invalid_args.
func (h *HelloCommon) Check() error {
	if h.DisplayName != "" {
		name, ok := DisplayName(h.DisplayName)
		if !ok {
			return BadField("displayName", "must have 1 to 128 characters, none of them a control character")
		}
		h.DisplayName = name
	}
	if h.SessionID == "" || Chars(h.SessionID) > MaxSessionID || !CleanText(h.SessionID) {
		return BadField("sessionId", "must have 1 to 256 characters")
	}
	if Chars(h.Cwd) > MaxCwd || !CleanText(h.Cwd) {
		return BadField("cwd", "must have at most 4096 characters")
	}
	if Chars(h.Hostname) > MaxHostname || !CleanText(h.Hostname) {
		return BadField("hostname", "must have at most 255 characters")
	}
	switch h.PeerType {
	case "", "ai", "human", "connector":
	default:
		return BadField("peerType", "must be ai, human or connector")
	}
	if Chars(h.Channel) > MaxLabel || !CleanText(h.Channel) {
		return BadField("channel", "must have at most 128 characters")
	}
	if Chars(h.Model) > MaxLabel || !CleanText(h.Model) {
		return BadField("model", "must have at most 128 characters")
	}
	if len(h.Capabilities) > 64 {
		return BadField("capabilities", "must have at most 64 entries")
	}
	if h.Groups != nil {
		groups, err := CheckGroups(*h.Groups)
		if err != nil {
			return err
		}
		h.Groups = &groups
	}
	return nil
}

// CheckGroups cleans a list of groups: at most 64, each of a good name, the last role of a repeated name.
func CheckGroups(in []Group) ([]Group, error) {
	if len(in) > MaxGroups {
		return nil, BadField("groups", "must have at most 64 entries")
	}
	out := make([]Group, 0, len(in))
next:
	for _, g := range in {
		name, ok := GroupName(g.Name)
		if !ok {
			return nil, BadField("groups", "must hold group names: 1 to 8 segments of 1 to 64 characters joined by /")
		}
		if Chars(g.Role) > MaxLabel || !CleanText(g.Role) {
			return nil, BadField("groups", "roles must have at most 128 characters")
		}
		for i := range out {
			if out[i].Name == name {
				out[i].Role = g.Role
				continue next
			}
		}
		out = append(out, Group{Name: name, Role: g.Role})
	}
	return out, nil
}

// Session returns the session key of a hello, empty for none.
func (h *Hello) Session() string {
	if h.SessionPubkey == nil {
		return ""
	}
	return *h.SessionPubkey
}

// MemberKey returns the member key in lower case.
func (h *Hello) MemberKey() string { return strings.ToLower(h.Pubkey) }

// HelloAck is the first frame after an accepted hello.
type HelloAck struct {
	Header
	PresenceID        string         `json:"presenceId"`
	MemberDisplayName string         `json:"memberDisplayName"`
	MemberID          string         `json:"memberId"`
	MemberProfile     *MemberProfile `json:"memberProfile,omitempty"`
	MeshPolicy        *MeshPolicy    `json:"meshPolicy,omitempty"`
	Restored          bool           `json:"restored,omitempty"`
	LastSummary       string         `json:"lastSummary,omitempty"`
	LastSeenAt        string         `json:"lastSeenAt,omitempty"`
	RestoredGroups    []Group        `json:"restoredGroups,omitempty"`
	RestoredStats     *Stats         `json:"restoredStats,omitempty"`
	Services          []any          `json:"services,omitempty"`
	ProtocolVersion   int            `json:"protocolVersion"`
	LeaseGraceMS      int64          `json:"leaseGraceMs"`
	Capabilities      []string       `json:"capabilities"`
}

// MemberProfile is what the mesh keeps of a member by default.
type MemberProfile struct {
	RoleTag     *string `json:"roleTag"`
	Groups      []Group `json:"groups"`
	MessageMode string  `json:"messageMode"` // push, inbox or off
}

// MeshPolicy says what members may change about themselves.
type MeshPolicy struct {
	SelfEditable SelfEditable `json:"selfEditable"`
}

// SelfEditable lists the members' own fields that they may change.
type SelfEditable struct {
	DisplayName bool `json:"displayName"`
	RoleTag     bool `json:"roleTag"`
	Groups      bool `json:"groups"`
	MessageMode bool `json:"messageMode"`
}
