package wire

// Types of API keys.
const (
	TypeAPIKeyCreate         = "apikey_create"
	TypeAPIKeyCreated        = "apikey_created"
	TypeAPIKeyList           = "apikey_list"
	TypeAPIKeyListResponse   = "apikey_list_response"
	TypeAPIKeyRevoke         = "apikey_revoke"
	TypeAPIKeyRevokeResponse = "apikey_revoke_response"
)

// Capabilities of an API key. Admin implies the others and is minted only by admins.
const (
	KeySend       = "send"
	KeyRead       = "read"
	KeyStateWrite = "state_write"
	KeyAdmin      = "admin"
)

// APIKeyCreate mints a key that acts for the caller over REST.
type APIKeyCreate struct {
	Header
	Label        string    `json:"label"` // 1-128 characters
	Capabilities []string  `json:"capabilities"`
	TopicScopes  *[]string `json:"topicScopes"`         // topic names; nil: all topics, empty: none
	ExpiresAt    *string   `json:"expiresAt,omitempty"` // ISO-8601
}

// Check fails on a missing label or capability, an unknown capability and a bad scope.
func (f *APIKeyCreate) Check() error {
	if f.Label == "" || Chars(f.Label) > MaxLabel || !CleanText(f.Label) {
		return BadField("label", "must have 1 to 128 characters")
	}
	if len(f.Capabilities) == 0 || len(f.Capabilities) > 4 {
		return BadField("capabilities", "must be some of send, read, state_write, admin")
	}
	for i, c := range f.Capabilities {
		if c != KeySend && c != KeyRead && c != KeyStateWrite && c != KeyAdmin || contains(f.Capabilities[:i], c) {
			return BadField("capabilities", "must be some of send, read, state_write, admin, each once")
		}
	}
	if f.TopicScopes != nil {
		if len(*f.TopicScopes) > MaxTopicScopes {
			return BadField("topicScopes", "must have at most 200 names")
		}
		for _, t := range *f.TopicScopes {
			if name, ok := TopicName(t); !ok || name != t {
				return BadField("topicScopes", "must hold topic names")
			}
		}
	}
	return nil
}

// APIKeyCreated answers apikey_create. The secret is shown this once.
type APIKeyCreated struct {
	Header
	ID           string    `json:"id"`
	Secret       string    `json:"secret"`
	Label        string    `json:"label"`
	Prefix       string    `json:"prefix"`
	Capabilities []string  `json:"capabilities"`
	TopicScopes  *[]string `json:"topicScopes"`
	CreatedAt    string    `json:"createdAt"`
	ExpiresAt    *string   `json:"expiresAt"`
}

// APIKeyList asks for the keys that the caller may see: its own, or all for an admin.
type APIKeyList struct{ Header }

// APIKeyListResponse answers apikey_list, newest first, without secrets.
type APIKeyListResponse struct {
	Header
	Keys []APIKeyInfo `json:"keys"`
	// Truncated says that there are older ones.
	Truncated bool `json:"truncated,omitempty"`
}

// APIKeyInfo is one key of a list.
type APIKeyInfo struct {
	ID           string    `json:"id"`
	Label        string    `json:"label"`
	Prefix       string    `json:"prefix"`
	Capabilities []string  `json:"capabilities"`
	TopicScopes  *[]string `json:"topicScopes"`
	CreatedAt    string    `json:"createdAt"`
	LastUsedAt   *string   `json:"lastUsedAt"`
	RevokedAt    *string   `json:"revokedAt"`
	ExpiresAt    *string   `json:"expiresAt"`
}

// APIKeyRevoke ends a key.
type APIKeyRevoke struct {
	Header
	ID string `json:"id"` // exact id, else the start of one (6 or more), else the 11-character prefix of the secret
}

// Check fails on a missing id.
func (f *APIKeyRevoke) Check() error {
	if f.ID == "" || len(f.ID) > 64 {
		return BadField("id", "must be a key's id, the start of one, or the key's prefix")
	}
	return nil
}

// APIKeyRevokeResponse answers apikey_revoke: status revoked, not_found, or not_unique with the number of matches.
type APIKeyRevokeResponse struct {
	Header
	Status  string `json:"status"`
	ID      string `json:"id,omitempty"`
	Matches int    `json:"matches,omitempty"`
}
