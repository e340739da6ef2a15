package memory

import (
	"maps"
	"slices"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// pointer returns a pointer to a copy, or nil.
func pointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

func cloneMember(m store.Member) store.Member {
	m.DefaultGroups = slices.Clone(m.DefaultGroups)
	m.Grants = cloneGrants(m.Grants)
	return m
}

func cloneGrants(grants map[string][]string) map[string][]string {
	grants = maps.Clone(grants)
	for k, v := range grants {
		grants[k] = slices.Clone(v)
	}
	return grants
}

func cloneProfile(p wire.Profile) wire.Profile {
	p.Avatar, p.Title, p.Bio = pointer(p.Avatar), pointer(p.Title), pointer(p.Bio)
	p.Capabilities = cloneList(p.Capabilities)
	return p
}

func cloneStats(s wire.Stats) wire.Stats {
	return wire.Stats{
		MessagesIn:  pointer(s.MessagesIn),
		MessagesOut: pointer(s.MessagesOut),
		ToolCalls:   pointer(s.ToolCalls),
		Uptime:      pointer(s.Uptime),
		Errors:      pointer(s.Errors),
	}
}

func clonePeerState(p store.PeerState) store.PeerState {
	p.Groups = slices.Clone(p.Groups)
	p.Profile = cloneProfile(p.Profile)
	p.Stats = cloneStats(p.Stats)
	return p
}

func cloneStatsPointer(s *wire.Stats) *wire.Stats {
	if s == nil {
		return nil
	}
	stats := cloneStats(*s)
	return &stats
}

// cloneAttestation copies what a caller may change afterwards. Kept ones are shared by all who read them.
func cloneAttestation(a *wire.Attestation) *wire.Attestation {
	a = pointer(a)
	if a != nil {
		a.ExpiresAt = pointer(a.ExpiresAt)
	}
	return a
}

func clonePresence(p store.Presence) store.Presence {
	p.Summary = pointer(p.Summary)
	p.Groups = slices.Clone(p.Groups)
	p.Profile = cloneProfile(p.Profile)
	p.Stats, p.StatsSaved = cloneStatsPointer(p.Stats), cloneStatsPointer(p.StatsSaved)
	p.Attestation = cloneAttestation(p.Attestation)
	return p
}

func cloneMessage(m store.Message) store.Message {
	m.Refused = slices.Clone(m.Refused)
	return m
}

func cloneAPIKey(k store.APIKey) store.APIKey {
	k.Capabilities = slices.Clone(k.Capabilities)
	k.TopicScopes = cloneList(k.TopicScopes)
	return k
}

func cloneInvite(i store.Invite) store.Invite {
	i.Preset.Groups = slices.Clone(i.Preset.Groups)
	return i
}

func cloneList(list *[]string) *[]string {
	if list == nil {
		return nil
	}
	out := slices.Clone(*list)
	return &out
}
