package wire

// Types of inviting.
const (
	TypeInviteCreate     = "invite_create"
	TypeInviteCreated    = "invite_created"
	TypeInviteList       = "invite_list"
	TypeInviteListResult = "invite_list_result"
	TypeInviteRevoke     = "invite_revoke"
)

// Codes of a refused invite_create, besides invalid_args and forbidden.
const (
	InviteV2Disabled Code = "invite_v2_disabled" // a version-2 invite where those are switched off
	InviteExists     Code = "invite_exists"      // this very invite was registered before, whatever has become of it since
	InviteCodeInUse  Code = "invite_code_in_use" // the code is another invite's; make another code
	RootKeyRequired  Code = "root_key_required"  // a version-2 invite needs rootKey: the mesh has no root key yet, and only its owner can give it
)

// MaxInviteUses is the largest number of uses of one invite.
const MaxInviteUses = 10_000

// InviteCreate registers an invite that the mesh's owner signed.
type InviteCreate struct {
	Header
	Version   *Number       `json:"version"`             // 1 (default) or 2
	Token     string        `json:"token,omitempty"`     // version 1
	Canonical string        `json:"canonical,omitempty"` // version 2: the signed text
	Signature string        `json:"signature,omitempty"` // version 2: 128 hex digits by the owner's key
	Code      string        `json:"code,omitempty"`      // version 2: 6 to 16 letters and digits
	RootKey   string        `json:"rootKey,omitempty"`   // version 2, from the owner only: the mesh's root key, to be sealed for who claims
	MaxUses   *Number       `json:"maxUses"`             // 1 (default) to 10,000
	Preset    *InvitePreset `json:"preset,omitempty"`
}

// InvitePreset is what a member gets by joining through an invite.
type InvitePreset struct {
	DisplayName string  `json:"displayName,omitempty"`
	RoleTag     string  `json:"roleTag,omitempty"`
	Groups      []Group `json:"groups,omitempty"`
	MessageMode string  `json:"messageMode,omitempty"` // push, inbox or off
}

// Check looks at the shape; whether the invite is any good, the broker knows.
func (f *InviteCreate) Check() error {
	if f.Version != nil && *f.Version != 1 && *f.Version != 2 {
		return BadField("version", "must be 1 or 2")
	}
	if f.MaxUses != nil && !within(*f.MaxUses, 1, MaxInviteUses) {
		return BadField("maxUses", "must be a whole number from 1 to 10000")
	}
	switch {
	case f.V() == 1 && f.Token == "":
		return BadField("token", "must be the token of an invite")
	case f.V() == 2 && (f.Canonical == "" || f.Signature == ""):
		return BadField("canonical", "and signature must be those of an invite")
	case f.V() == 2 && !IsInviteCode(f.Code):
		return BadField("code", "must be 6 to 16 letters and digits")
	case f.Preset != nil:
		return f.Preset.check()
	}
	return nil
}

// check bounds and cleans what a new member gets.
func (p *InvitePreset) check() error {
	var ok bool
	if p.DisplayName != "" {
		if p.DisplayName, ok = DisplayName(p.DisplayName); !ok {
			return BadField("preset.displayName", "must have 1 to 128 characters and no control characters")
		}
	}
	if Chars(p.RoleTag) > MaxLabel || !CleanText(p.RoleTag) {
		return BadField("preset.roleTag", "must have at most 128 characters")
	}
	switch p.MessageMode {
	case "", "push", "inbox", "off":
	default:
		return BadField("preset.messageMode", "must be push, inbox or off")
	}
	if p.Groups == nil {
		return nil
	}
	var err error
	p.Groups, err = CheckGroups(p.Groups)
	return err
}

// V is the version.
func (f *InviteCreate) V() int {
	if f.Version == nil {
		return 1
	}
	return int(*f.Version)
}

// Uses is how many may join.
func (f *InviteCreate) Uses() int {
	if f.MaxUses == nil {
		return 1
	}
	return int(*f.MaxUses)
}

// IsInviteCode reports whether s has the shape of a version-2 code.
func IsInviteCode(s string) bool {
	if len(s) < 6 || len(s) > 16 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

// InviteCreated answers invite_create.
type InviteCreated struct {
	Header
	ID        string `json:"id"`
	ExpiresAt string `json:"expiresAt"`
}

// InviteList asks for the invites of the mesh. For admins.
type InviteList struct{ Header }

// InviteListResult answers invite_list, newest first. It never holds a token or a code.
type InviteListResult struct {
	Header
	Invites   []InviteInfo `json:"invites"`             // at most 1000: of more, those that are good and then the newest
	Truncated bool         `json:"truncated,omitempty"` // there are more
}

// InviteInfo is one invite.
type InviteInfo struct {
	ID        string  `json:"id"`
	Version   int     `json:"version"`
	Role      string  `json:"role"`
	MaxUses   int     `json:"maxUses"`
	UsedCount int     `json:"usedCount"`
	ExpiresAt string  `json:"expiresAt"`
	CreatedAt string  `json:"createdAt"`
	RevokedAt *string `json:"revokedAt"`
}

// InviteRevoke ends an invite. The reply is an ack. For admins.
type InviteRevoke struct {
	Header
	ID string `json:"id"`
}

// Check fails on an id of the wrong shape.
func (f *InviteRevoke) Check() error {
	if !IsID(f.ID) {
		return BadField("id", "must be an invite's id")
	}
	return nil
}
