package wire

import "encoding/json"

// Types of shared state.
const (
	TypeSetState    = "set_state"
	TypeGetState    = "get_state"
	TypeDeleteState = "delete_state"
	TypeListState   = "list_state"
	TypeStateChange = "state_change"
	TypeStateResult = "state_result"
	TypeStateList   = "state_list"
)

// Bounds of shared state.
const (
	MaxStateKey   = 256
	MaxStateValue = 32_768 // bytes of JSON text
)

func checkStateKey(field, key string) error {
	if key == "" || Chars(key) > MaxStateKey || !CleanText(key) || hasControl(key) {
		return BadField(field, "must have 1 to 256 characters and no control characters")
	}
	return nil
}

// SetState sets a key of the mesh's shared state. It has no reply.
type SetState struct {
	Header
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"` // any JSON; required
}

// Check bounds key and value.
func (f *SetState) Check() error {
	if err := checkStateKey("key", f.Key); err != nil {
		return err
	}
	if len(f.Value) == 0 {
		return BadField("value", "must be given; null is a value")
	}
	if len(f.Value) > MaxStateValue {
		return BadField("value", "must have at most 32768 bytes")
	}
	return nil
}

// DeleteState removes a key. The reply is an ack.
type DeleteState struct {
	Header
	Key string `json:"key"`
}

// Check bounds the key.
func (f *DeleteState) Check() error { return checkStateKey("key", f.Key) }

// GetState asks for one key.
type GetState struct {
	Header
	Key string `json:"key"`
}

// Check bounds the key.
func (f *GetState) Check() error { return checkStateKey("key", f.Key) }

// ListState asks for all keys.
type ListState struct {
	Header
	After string `json:"after,omitempty"` // only keys above it, to go on behind a truncated list
}

// Check bounds the place to go on from.
func (f *ListState) Check() error {
	if f.After == "" {
		return nil
	}
	return checkStateKey("after", f.After)
}

// StateResult answers get_state. What is not there has the value null and empty texts.
type StateResult struct {
	Header
	StateItem
}

// StateItem is one key of the shared state.
type StateItem struct {
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
	UpdatedBy string          `json:"updatedBy"` // display name at the time; empty: the host
	UpdatedAt string          `json:"updatedAt"`
}

// StateList answers list_state, by key.
type StateList struct {
	Header
	Entries   []StateItem `json:"entries"`
	Truncated bool        `json:"truncated,omitempty"` // there is more; ask again with after
}

// StateChange tells everybody else of a new value.
type StateChange struct {
	Header
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
	UpdatedBy string          `json:"updatedBy"`         // display name at the time; empty: the host
	UpdatedAt string          `json:"updatedAt"`         // rises with each change of a key
	Deleted   bool            `json:"deleted,omitempty"` // the key is gone; value is null
}
