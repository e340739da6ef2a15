package wire

// Types of asking what became of a message.
const (
	TypeMessageStatus       = "message_status"
	TypeMessageStatusResult = "message_status_result"
)

// MessageStatus asks what became of a message that the caller sent or was sent.
type MessageStatus struct {
	Header
	MessageID string `json:"messageId"` // 8 to 32 letters and digits: an id or the start of one
}

// Check fails with invalid_argument on an id of the wrong shape.
func (f *MessageStatus) Check() error {
	if !IsMessageID(f.MessageID) {
		return &Fault{Code: InvalidArgument, Field: "messageId", Text: "messageId must be 8 to 32 letters and digits"}
	}
	return nil
}

// MessageStatusResult answers message_status.
type MessageStatusResult struct {
	Header
	MessageID   string            `json:"messageId"` // as requested
	TargetSpec  string            `json:"targetSpec"`
	Delivered   bool              `json:"delivered"` // every row acknowledged and nobody refused
	DeliveredAt *string           `json:"deliveredAt"`
	Recipients  []RecipientStatus `json:"recipients"`
	Refused     int               `json:"refused,omitempty"`
}

// RecipientStatus is the state of one recipient. Status is one of the three words that older clients know; State says more.
type RecipientStatus struct {
	Name     string `json:"name"`
	Pubkey   string `json:"pubkey"` // the session's key where the message went to one session, else the member's
	MemberID string `json:"memberId"`
	Status   string `json:"status"`
	State    string `json:"state"`
	Reason   string `json:"reason,omitempty"`
	Since    string `json:"since,omitempty"`
	// By says who confirmed an acked row: client (a client_ack) or transport (the recipient's process answered a ping).
	By string `json:"by,omitempty"`
	// AckedBy repeats By.
	AckedBy string `json:"ackedBy,omitempty"`
	// Receipt is the recipient's signed word, if it gave one.
	Receipt *StoredReceipt `json:"receipt,omitempty"`
}

// Words of RecipientStatus.Status.
const (
	StatusDelivered    = "delivered"
	StatusHeld         = "held"
	StatusDisconnected = "disconnected"
)

// Words of RecipientStatus.State.
const (
	StateQueued  = "queued"
	StatePushed  = "pushed"
	StateHeld    = "held"
	StateAcked   = "acked"
	StateExpired = "expired"
	StateRefused = "refused"
)

// Words of RecipientStatus.Reason.
const (
	ReasonWorking   = "working"
	ReasonDND       = "dnd"
	ReasonGrace     = "grace"
	ReasonWindow    = "window"
	ReasonOffline   = "offline"
	ReasonTTL       = "ttl"
	ReasonRevoked   = "revoked"
	ReasonQueueFull = "queue_full"
	ReasonQuota     = "quota"
)
