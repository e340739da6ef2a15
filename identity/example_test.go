package identity_test

import (
	"fmt"
	"time"

	"github.com/claudemesh/broker/identity"
)

// A member signs a hello, and the broker verifies it from the fields of the frame.
func Example() {
	now := time.UnixMilli(1777752191000)
	key, err := identity.GenerateKey()
	if err != nil {
		fmt.Println(err)
		return
	}

	hello := identity.Hello{MeshID: "m_demo", MemberID: "mem_a", Pubkey: key.Public(), Timestamp: float64(now.UnixMilli())}
	hello.Signature = key.Sign(identity.HelloText(hello.MeshID, hello.MemberID, hello.Pubkey, hello.Timestamp))

	fmt.Println("fresh:", hello.Verify(now))
	fmt.Println("stale:", identity.ClassOf(hello.Verify(now.Add(2*time.Minute))))
	hello.MeshID = "m_other"
	fmt.Println("elsewhere:", identity.ClassOf(hello.Verify(now)))
	fmt.Println("the key prints as", key)
	// Output:
	// fresh: <nil>
	// stale: timestamp_skew
	// elsewhere: bad_signature
	// the key prints as [redacted]
}

// A direct message opens for its recipient, who knows the sender's public key.
func ExampleSealDirect() {
	ana, _ := identity.GenerateKey()
	bo, _ := identity.GenerateKey()

	nonce, ciphertext, err := identity.SealDirect("the build is green", bo.Public(), ana)
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := identity.OpenDirect(nonce, ciphertext, ana.Public(), bo)
	fmt.Println(text, err)
	// Output: the build is green <nil>
}
