package wire

import "encoding/json"

// Types of asking for the audit log.
const (
	TypeAuditQuery        = "audit_query"
	TypeAuditResult       = "audit_result"
	TypeAuditVerify       = "audit_verify"
	TypeAuditVerifyResult = "audit_verify_result"
	TypeAuditExport       = "audit_export"
	TypeAuditPage         = "audit_page"
)

// Types of audit entries; docs/protocol.md, audit, says what each holds.
const (
	AuditPeerJoined       = "peer_joined"
	AuditPeerLeft         = "peer_left"
	AuditPeerKicked       = "peer_kicked"
	AuditMessageSent      = "message_sent"
	AuditStateSet         = "state_set"
	AuditStateDeleted     = "state_deleted"
	AuditMemberJoined     = "member_joined"
	AuditMemberBanned     = "member_banned"
	AuditMemberUnbanned   = "member_unbanned"
	AuditMemberRole       = "member_role"
	AuditMemberRekeyed    = "member_rekeyed"
	AuditAPIKeyCreated    = "apikey_created"
	AuditAPIKeyRevoked    = "apikey_revoked"
	AuditTopicCreated     = "topic_created"
	AuditTopicArchived    = "topic_archived"
	AuditTopicMemberAdded = "topic_member_added"
	AuditTopicMemberLeft  = "topic_member_left"
	AuditTopicRestored    = "topic_restored"
	AuditOwnerSet         = "owner_set"
	AuditInviteCreated    = "invite_created"
	AuditInviteRevoked    = "invite_revoked"
)

// Bounds of audit requests.
const (
	DefaultAuditLimit  = 50
	MaxAuditLimit      = 500
	MaxAuditOffset     = 1_000_000
	MaxAuditExportPage = 1000
)

// AuditQuery asks for entries of the audit log, newest first: an admin for all, others for their own.
type AuditQuery struct {
	Header
	Limit     *Number `json:"limit"`  // 1 to 500; default 50
	Offset    *Number `json:"offset"` // newer entries to be left out; default 0
	EventType string  `json:"eventType,omitempty"`
}

// Check bounds the page.
func (f *AuditQuery) Check() error {
	if f.Limit != nil && !within(*f.Limit, 1, MaxAuditLimit) {
		return BadField("limit", "must be a whole number from 1 to 500")
	}
	if f.Offset != nil && !within(*f.Offset, 0, MaxAuditOffset) {
		return BadField("offset", "must be a whole number from 0 to 1000000")
	}
	if Chars(f.EventType) > MaxLabel || !CleanText(f.EventType) {
		return BadField("eventType", "must have at most 128 characters")
	}
	return nil
}

// Page returns limit and offset with their defaults.
func (f *AuditQuery) Page() (limit, offset int) {
	limit = DefaultAuditLimit
	if f.Limit != nil {
		limit = int(*f.Limit)
	}
	if f.Offset != nil {
		offset = int(*f.Offset)
	}
	return limit, offset
}

// within reports whether n is a whole number from low to high.
func within(n Number, low, high int) bool {
	return n >= Number(low) && n <= Number(high) && n == Number(int(n))
}

// AuditResult answers audit_query.
type AuditResult struct {
	Header
	Entries   []AuditItem `json:"entries"`
	Total     int         `json:"total"`               // entries that match; with a filter counted up to 10,000
	Truncated bool        `json:"truncated,omitempty"` // there were more of them than fit; ask again with an offset
}

// AuditItem is an audit entry for people.
type AuditItem struct {
	ID        int64           `json:"id"`
	EventType string          `json:"eventType"`
	Actor     string          `json:"actor"` // display name at the time, else the member's id, else "system"
	Payload   json.RawMessage `json:"payload"`
	Hash      string          `json:"hash"`
	CreatedAt string          `json:"createdAt"`
}

// AuditVerify asks whether the hashes of the whole log fit.
type AuditVerify struct{ Header }

// AuditVerifyResult answers audit_verify.
type AuditVerifyResult struct {
	Header
	Valid    bool   `json:"valid"`
	Entries  int64  `json:"entries"`
	BrokenAt *int64 `json:"brokenAt,omitempty"` // id of the first entry that does not fit
}

// AuditExport asks for entries as they were hashed, oldest first. For admins.
type AuditExport struct {
	Header
	AfterID *Number `json:"afterId"` // entries with a larger id; default 0
	Limit   *Number `json:"limit"`   // 1 to 1000; default 1000
}

// Check bounds the page.
func (f *AuditExport) Check() error {
	if f.AfterID != nil && !within(*f.AfterID, 0, 1<<53) {
		return BadField("afterId", "must be an entry's id, or 0")
	}
	if f.Limit != nil && !within(*f.Limit, 1, MaxAuditExportPage) {
		return BadField("limit", "must be a whole number from 1 to 1000")
	}
	return nil
}

// AuditPage answers audit_export. What is the same in each page of an export tells how the log stood when that page was read.
type AuditPage struct {
	Header
	MeshID      string        `json:"meshId"`
	Key         string        `json:"key"` // that signs the checkpoints
	AnchorCount int64         `json:"anchorCount"`
	AnchorHash  string        `json:"anchorHash"` // of the last entry that is not kept, or "genesis"
	Count       int64         `json:"count"`      // entries ever written
	Hash        string        `json:"hash"`       // of the newest
	Entries     []AuditRecord `json:"entries"`
	More        bool          `json:"more"` // there are entries behind the last one
}

// AuditRecord is an audit entry as it was hashed.
type AuditRecord struct {
	ID        int64           `json:"id"`
	EventType string          `json:"eventType"`
	Actor     *string         `json:"actor"` // member id, or null
	Payload   json.RawMessage `json:"payload"`
	PrevHash  string          `json:"prevHash"`
	Hash      string          `json:"hash"`
	CreatedAt string          `json:"createdAt"`
}
