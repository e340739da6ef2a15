package topickey_test

import (
	"fmt"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/topickey"
)

// Ana makes a topic's key, seals a copy for Bo, and posts; Bo opens the copy, sees that it is from Ana, and reads.
func Example() {
	ana, _ := identity.GenerateKey()
	bo, _ := identity.GenerateKey()

	key, err := topickey.NewKey()
	if err != nil {
		fmt.Println(err)
		return
	}
	forBo, err := topickey.Seal(key, bo.Public(), ana)
	if err != nil {
		fmt.Println(err)
		return
	}
	nonce, ciphertext, err := topickey.SealV2("deployed, @bo please check", key)
	if err != nil {
		fmt.Println(err)
		return
	}

	opened, sealer, err := topickey.Open(forBo, bo)
	if err != nil {
		fmt.Println(err)
		return
	}
	anaX, _ := identity.PublicToX25519(ana.Public())
	fmt.Println("sealed by Ana:", sealer == anaX)
	text, err := topickey.OpenV2(nonce, ciphertext, opened)
	fmt.Println(text, err)
	fmt.Println(topickey.Mentions(text))
	fmt.Println(opened)
	// Output:
	// sealed by Ana: true
	// deployed, @bo please check <nil>
	// [bo]
	// [redacted]
}
