package identity

// SealRootKeyWith is SealRootKey with a given ephemeral pair, so that its bytes can be compared.
var SealRootKeyWith = sealRootKey

// MaxJSONDepth is how deep CanonicalJSON lets values nest.
const MaxJSONDepth = maxJSONDepth
