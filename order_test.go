package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/brokertest"
)

// H26: an acknowledgement takes effect before the requests behind it.
func TestH26AckTakesEffectBeforeLaterRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		for range 50 {
			ack := ana.Say(bo.Member.Pubkey, "now", "x")
			push := bo.ExpectPush()
			bo.Send(frame{"type": "client_ack", "brokerMessageId": push["messageId"]})
			require.Equal(t, true, bo.Request(frame{"type": "message_status", "messageId": ack["messageId"]})["delivered"])
			ack = ana.Say(bo.Member.Pubkey, "now", "y")
			push = bo.ExpectPush()
			bo.Request(frame{"type": "client_ack", "brokerMessageId": push["messageId"]})
			require.Equal(t, true, ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})["delivered"])
		}
	})
}

// A message whose time is up is expired, whether or not a sweep has come by.
func TestExpiredIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Member("bo")
		soon := time.Now().Add(2 * time.Second).UTC().Format("2006-01-02T15:04:05.000Z")
		ack := ana.Request(frame{"type": "send", "targetSpec": bo.Pubkey, "nonce": "", "ciphertext": brokertest.Body("x"), "expiresAt": soon})
		time.Sleep(2 * time.Second)
		c := mesh.Dial("bo", explicit)
		synctest.Wait()
		require.Empty(t, c.Pushes())
		r := ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})["recipients"].([]any)[0].(map[string]any)
		require.Equal(t, []any{"disconnected", "expired", "ttl", soon}, []any{r["status"], r["state"], r["reason"], r["since"]})
	})
}

// An invalid field is named in the words that clients compare, and explained beside them.
func TestInvalidFieldIsNamedAndExplained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		for field, value := range map[string]any{"priority": "soon", "expiresAt": "yesterday", "bodyVersion": 3, "mentions": "bo", "targetSpec": 5} {
			send := frame{"type": "send", "targetSpec": "*", "nonce": "", "ciphertext": "eA=="}
			send[field] = value
			ack := ana.Request(send)
			require.Equal(t, "invalid: "+field, ack["error"])
			require.True(t, strings.HasPrefix(ack.Str("detail"), field+" must "), ack["detail"])
		}
	})
}

// An empty client_ack is no acknowledgement: the connection stays one that a pong confirms.
func TestEmptyClientAckIsIgnored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		bo.Send(frame{"type": "client_ack"})
		bo.Send(frame{"type": "client_ack", "brokerMessageIds": "x"})
		ack := ana.Say(bo.Member.Pubkey, "now", "x")
		time.Sleep(2 * time.Second)
		require.Equal(t, true, ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})["delivered"])
	})
}
