package wire

// TypeAttest brings a session's attestation, or a fresh one in time before the old one ends. The reply is an ack.
const TypeAttest = "attest"

// Attest is a member's new word for the key of the session that sends it. It takes the place of the one that the hello brought.
type Attest struct {
	Header
	Attestation *Attestation `json:"attestation"` // required; names exactly this session's key and its member's
}

// Check fails when there is no attestation. What it says is the operation's business.
func (f *Attest) Check() error {
	if f.Attestation == nil {
		return BadField("attestation", "must be an object")
	}
	return nil
}
