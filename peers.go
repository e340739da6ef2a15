package broker

import (
	"context"
	"fmt"
	"slices"

	"github.com/claudemesh/broker/wire"
)

var (
	_ = op(wire.TypeListPeers, (*Broker).listPeers)
	_ = op(wire.TypeMeshInfo, (*Broker).meshInfo)
)

// shownToLocked reports whether a member may know that this session is there: a hidden one is offline for everybody but its own member. Lists, counts
// and states all ask here or in [session.shownTo].
func (p *presence) shownToLocked(member string) bool { return p.row.Visible || p.member.ID == member }

// shownTo is shownToLocked without mesh.mu.
func (s *session) shownTo(member string) bool {
	v := s.view.Load()
	return v != nil && v.visible || s.member.ID == member
}

// listPeers lists the sessions of the mesh. Hidden ones are there only for their own member.
func (b *Broker) listPeers(_ context.Context, by Caller, _ wire.ListPeers) (wire.Message, error) {
	m := by.session.mesh
	list := &wire.PeersList{Header: wire.Header{Type: wire.TypePeersList}, Peers: []wire.Peer{}}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.presencesLocked() {
		if p.shownToLocked(by.Member.ID) {
			list.Peers = append(list.Peers, p.peerLocked())
		}
	}
	return list, nil
}

func (p *presence) peerLocked() wire.Peer {
	row := &p.row
	peer := wire.Peer{
		Pubkey: p.keyLocked(), MemberPubkey: p.member.Pubkey, MemberID: p.member.ID, DisplayName: p.nameLocked(),
		Status: row.Status, Summary: row.Summary, Groups: slices.Clone(row.Groups), SessionID: row.SessionID,
		ConnectedAt: wire.FormatTime(row.ConnectedAt), Cwd: row.Cwd, PeerRole: row.PeerRole, Visible: row.Visible,
		Hostname: row.Hostname, PeerType: row.PeerType, Channel: row.Channel, Model: row.Model, Stats: row.Stats, Attestation: row.Attestation,
	}
	if peer.Groups == nil {
		peer.Groups = []wire.Group{}
	}
	if !row.Profile.Empty() {
		profile := row.Profile
		peer.Profile = &profile
	}
	if p.sess == nil {
		peer.Lease = wire.LeaseGrace
	}
	return peer
}

// meshInfo gives an overview of the mesh. What this broker does not offer is empty.
func (b *Broker) meshInfo(ctx context.Context, by Caller, _ wire.MeshInfo) (wire.Message, error) {
	m := by.session.mesh
	keys, err := b.store.StateKeys(ctx, m.id)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	info := &wire.MeshInfoResult{
		Header: wire.Header{Type: wire.TypeMeshInfoResult}, Mesh: m.id, Groups: []string{}, StateKeys: []string{}, StateCount: len(keys),
		Tasks: map[string]int{"open": 0, "claimed": 0, "done": 0}, Streams: []string{}, Tables: []string{}, Collections: []string{},
		YourName: by.Name, YourGroups: []wire.Group{},
	}
	info.StateKeys = append(info.StateKeys, keys[:min(len(keys), maxStateKeys)]...)
	m.mu.Lock()
	defer m.mu.Unlock()
	info.Slug, info.OwnerPubkey = m.info.Slug, m.info.OwnerPubkey
	for _, p := range m.presences {
		if !p.shownToLocked(by.Member.ID) {
			continue
		}
		info.Peers++
		for _, g := range p.row.Groups {
			info.Groups = append(info.Groups, "@"+g.Name)
		}
	}
	slices.Sort(info.Groups)
	info.Groups = slices.Compact(info.Groups)
	info.YourGroups = append(info.YourGroups, by.session.place.row.Groups...)
	return info, nil
}
