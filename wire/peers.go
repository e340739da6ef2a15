package wire

// Types of looking around.
const (
	TypeListPeers      = "list_peers"
	TypePeersList      = "peers_list"
	TypeMeshInfo       = "mesh_info"
	TypeMeshInfoResult = "mesh_info_result"
)

// ListPeers asks for the sessions of the mesh.
type ListPeers struct{ Header }

// PeersList answers list_peers, the caller's own session included; online before grace, then by connection time.
type PeersList struct {
	Header
	Peers []Peer `json:"peers"`
}

// Peer is one session as others see it.
type Peer struct {
	Pubkey       string       `json:"pubkey"` // the key that reaches this session: its session key, else its member key
	MemberPubkey string       `json:"memberPubkey"`
	MemberID     string       `json:"memberId"`
	DisplayName  string       `json:"displayName"`
	Status       Status       `json:"status"`
	Summary      *string      `json:"summary"`
	Groups       []Group      `json:"groups"`
	SessionID    string       `json:"sessionId"`
	ConnectedAt  string       `json:"connectedAt"`
	Cwd          string       `json:"cwd"`
	PeerRole     string       `json:"peerRole"` // control-plane, session or service
	Visible      bool         `json:"visible"`
	Hostname     string       `json:"hostname,omitempty"`
	PeerType     string       `json:"peerType,omitempty"`
	Channel      string       `json:"channel,omitempty"`
	Model        string       `json:"model,omitempty"`
	Stats        *Stats       `json:"stats,omitempty"`
	Profile      *Profile     `json:"profile,omitempty"`
	Attestation  *Attestation `json:"attestation,omitempty"` // the member's word for the session key, where the session gave one
	Lease        string       `json:"lease,omitempty"`       // "grace" while the socket is lost and the lease runs
}

// Peer roles: how the session signed in.
const (
	RoleControlPlane = "control-plane" // hello
	RoleSession      = "session"       // session_hello
)

// LeaseGrace is the lease of a session whose socket was lost a moment ago.
const LeaseGrace = "grace"

// MeshInfo asks for an overview of the mesh.
type MeshInfo struct{ Header }

// MeshInfoResult answers mesh_info. What this broker does not offer is empty.
type MeshInfoResult struct {
	Header
	Mesh        string         `json:"mesh"`
	Slug        string         `json:"slug"`                  // the mesh's short name, which invites hold
	OwnerPubkey string         `json:"ownerPubkey,omitempty"` // that signs the mesh's invites
	Peers       int            `json:"peers"`
	Groups      []string       `json:"groups"`
	StateKeys   []string       `json:"stateKeys"`     // the first 1000
	StateCount  int            `json:"stateKeyCount"` // of all keys
	MemoryCount int            `json:"memoryCount"`
	FileCount   int            `json:"fileCount"`
	Tasks       map[string]int `json:"tasks"`
	Streams     []string       `json:"streams"`
	Tables      []string       `json:"tables"`
	Collections []string       `json:"collections"`
	YourName    string         `json:"yourName"`
	YourGroups  []Group        `json:"yourGroups"`
}
