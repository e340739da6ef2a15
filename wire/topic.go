package wire

// Types of topics.
const (
	TypeTopicCreate       = "topic_create"
	TypeTopicCreated      = "topic_created"
	TypeTopicList         = "topic_list"
	TypeTopicListResponse = "topic_list_response"
	TypeTopicJoin         = "topic_join"
	TypeTopicLeave        = "topic_leave"
	TypeTopicMembers      = "topic_members"
	TypeTopicMembersReply = "topic_members_response"
	TypeTopicHistory      = "topic_history"
	TypeTopicHistoryReply = "topic_history_response"
	TypeTopicMarkRead     = "topic_mark_read"
	TypeTopicAdd          = "topic_add"
	TypeTopicArchive      = "topic_archive"
)

// Visibilities of a topic. Private and dm topics exist only for their members and the mesh's admins.
const (
	VisibilityPublic  = "public"
	VisibilityPrivate = "private"
	VisibilityDM      = "dm"
)

// Roles in a topic. Only lead has rights of its own.
const (
	TopicLead     = "lead"
	TopicMember   = "member"
	TopicObserver = "observer"
)

// ValidTopicRole reports whether role is lead, member or observer.
func ValidTopicRole(role string) bool {
	return role == TopicLead || role == TopicMember || role == TopicObserver
}

// TopicCreate makes a topic, or finds the one of that name. With the three key fields, all or none, the creator brings its own
// sealed copy of a key that it made, and the broker never holds the key.
type TopicCreate struct {
	Header
	Name               string `json:"name"`
	Description        string `json:"description,omitempty"`
	Visibility         string `json:"visibility,omitempty"` // default public
	EncryptedKeyPubkey string `json:"encryptedKeyPubkey,omitempty"`
	EncryptedKey       string `json:"encryptedKey,omitempty"`
	Nonce              string `json:"nonce,omitempty"`
}

// HasKey reports whether any of the three key fields was given.
func (f *TopicCreate) HasKey() bool {
	return f.EncryptedKeyPubkey != "" || f.EncryptedKey != "" || f.Nonce != ""
}

// Check cleans the name and checks everything but the sealed copy's bytes.
func (f *TopicCreate) Check() error {
	name, ok := TopicName(f.Name)
	if !ok {
		return BadField("name", "must have 1 to 64 characters, no leading # and no control characters")
	}
	f.Name = name
	if Chars(f.Description) > MaxDescription || !CleanText(f.Description) {
		return BadField("description", "must have at most 512 characters")
	}
	switch f.Visibility {
	case "":
		f.Visibility = VisibilityPublic
	case VisibilityPublic, VisibilityPrivate, VisibilityDM:
	default:
		return BadField("visibility", "must be public, private or dm")
	}
	if f.HasKey() && (f.EncryptedKey == "" || f.Nonce == "" || !IsKey(f.EncryptedKeyPubkey)) {
		return BadField("encryptedKeyPubkey", "(64 hex digits), encryptedKey and nonce must be given together")
	}
	return nil
}

// TopicCreated answers topic_create.
type TopicCreated struct {
	Header
	Topic   TopicRef `json:"topic"`
	Created bool     `json:"created"`
}

// TopicRef names a topic.
type TopicRef struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Visibility string `json:"visibility"`
}

// TopicList asks for the topics that the caller may see.
type TopicList struct{ Header }

// TopicListResponse answers topic_list, by name.
type TopicListResponse struct {
	Header
	Topics []TopicInfo `json:"topics"`
}

// TopicInfo is one topic of a list.
type TopicInfo struct {
	ID          string  `json:"id"`
	Name        string  `json:"name"`
	Description *string `json:"description"`
	Visibility  string  `json:"visibility"`
	MemberCount int     `json:"memberCount"`
	CreatedAt   string  `json:"createdAt"`
}

// TopicJoin subscribes the caller. It has no reply.
type TopicJoin struct {
	Header
	Topic string `json:"topic"` // id or name
	Role  string `json:"role,omitempty"`
}

// Check sets the default role and checks both fields.
func (f *TopicJoin) Check() error { return checkTopicRole(f.Topic, &f.Role) }

// TopicLeave takes the caller's subscription and its copy of the topic key away. It has no reply.
type TopicLeave struct {
	Header
	Topic string `json:"topic"`
}

// Check fails on a missing topic.
func (f *TopicLeave) Check() error { return checkTopic(f.Topic) }

// TopicMembers asks who is subscribed.
type TopicMembers struct {
	Header
	Topic string `json:"topic"`
}

// Check fails on a missing topic.
func (f *TopicMembers) Check() error { return checkTopic(f.Topic) }

// TopicMembersResponse answers topic_members, by display name.
type TopicMembersResponse struct {
	Header
	Topic   string            `json:"topic"` // as requested
	Members []TopicMemberInfo `json:"members"`
}

// TopicMemberInfo is one subscriber.
type TopicMemberInfo struct {
	MemberID    string  `json:"memberId"`
	Pubkey      string  `json:"pubkey"`
	DisplayName string  `json:"displayName"`
	Role        string  `json:"role"`
	JoinedAt    string  `json:"joinedAt"`
	LastReadAt  *string `json:"lastReadAt"`
	HasKey      bool    `json:"hasKey"` // holds a sealed copy of the topic key
}

// TopicHistory asks for messages, newest first.
type TopicHistory struct {
	Header
	Topic    string  `json:"topic"`
	Limit    *Number `json:"limit,omitempty"`    // default 50, clamped to 1..200
	BeforeID string  `json:"beforeId,omitempty"` // strictly older than this message; unknown: an empty list
}

// Check fails on a missing topic.
func (f *TopicHistory) Check() error { return checkTopic(f.Topic) }

// Count is the limit that applies.
func (f *TopicHistory) Count() int {
	if f.Limit == nil || *f.Limit != *f.Limit {
		return 50
	}
	return int(min(max(float64(*f.Limit), 1), 200))
}

// TopicHistoryResponse answers topic_history.
type TopicHistoryResponse struct {
	Header
	Topic    string           `json:"topic"` // as requested
	Messages []HistoryMessage `json:"messages"`
	// Truncated says that the page was cut at 4 MiB; ask for the rest with beforeId.
	Truncated bool `json:"truncated,omitempty"`
}

// HistoryMessage is one message of a topic's history on the socket.
type HistoryMessage struct {
	ID             string `json:"id"`
	SenderPubkey   string `json:"senderPubkey"` // session key at the time, else member key
	SenderMemberID string `json:"senderMemberId"`
	SenderName     string `json:"senderName"`
	Nonce          string `json:"nonce"`
	Ciphertext     string `json:"ciphertext"`
	BodyVersion    int    `json:"bodyVersion"`
	ReplyToID      string `json:"replyToId,omitempty"`
	CreatedAt      string `json:"createdAt"`
}

// TopicMarkRead says that the caller has read the topic until now. It has no reply.
type TopicMarkRead struct {
	Header
	Topic string `json:"topic"`
}

// Check fails on a missing topic.
func (f *TopicMarkRead) Check() error { return checkTopic(f.Topic) }

// TopicAdd subscribes another member; by a lead or an admin. The reply is an ack.
type TopicAdd struct {
	Header
	Topic  string `json:"topic"`
	Member string `json:"member"` // member id or public key
	Role   string `json:"role,omitempty"`
}

// Check checks the fields; an absent role stays empty, because only a given one replaces the old one.
func (f *TopicAdd) Check() error {
	if f.Member == "" || len(f.Member) > 64 {
		return BadField("member", "must be a member id or a public key")
	}
	if f.Role != "" && !ValidTopicRole(f.Role) {
		return BadField("role", "must be lead, member or observer")
	}
	return checkTopic(f.Topic)
}

// TopicArchive ends a topic and keeps its history; by a lead or an admin. The reply is an ack.
type TopicArchive struct {
	Header
	Topic string `json:"topic"`
}

// Check fails on a missing topic.
func (f *TopicArchive) Check() error { return checkTopic(f.Topic) }

func checkTopic(topic string) error {
	if topic == "" || !CleanText(topic) || Chars(topic) > MaxTopicName {
		return BadField("topic", "must be a topic's id or name")
	}
	return nil
}

func checkTopicRole(topic string, role *string) error {
	if *role == "" {
		*role = TopicMember
	}
	if !ValidTopicRole(*role) {
		return BadField("role", "must be lead, member or observer")
	}
	return checkTopic(topic)
}
