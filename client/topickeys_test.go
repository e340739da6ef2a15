package client

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

const testTopic = "Topi0000000000000000000000000001"

// room is a stub with one topic.
type room struct {
	*stub
	visibility string
	roster     []object // topic members
	members    []object // mesh members
	history    []wire.HistoryMessage
	pending    atomic.Value // []object
	copied     topickey.Sealed
	metadata   string
	status     atomic.Int64 // of GET key

	mu     sync.Mutex
	sealed []object // guarded by mu; what was posted to /seal
}

func newRoom(t testing.TB) *room {
	bob := testKey(t, "02")
	r := &room{visibility: wire.VisibilityPublic}
	r.status.Store(200)
	r.roster = []object{member(testMember, "ada", testKey(t, "01")), member(bobMember, "bob", bob)}
	r.members = append(r.members, r.roster...)
	r.pending.Store([]object{})
	r.stub = newStub(t, func(k *stubConn) {
		for f := k.read(); f != nil; f = k.read() {
			id := str(f, "_reqId")
			h := func(typ string) wire.Header { return wire.Header{Type: typ, ReqID: &id} }
			switch f["type"] {
			case wire.TypeTopicList:
				k.write(&wire.TopicListResponse{Header: h(wire.TypeTopicListResponse), Topics: []wire.TopicInfo{
					{ID: testTopic, Name: "deploys", Visibility: r.visibility},
				}})
			case wire.TypeTopicMembers:
				k.write(object{"type": wire.TypeTopicMembersReply, "_reqId": id, "topic": testTopic, "members": r.roster})
			case wire.TypeTopicHistory:
				k.write(&wire.TopicHistoryResponse{Header: h(wire.TypeTopicHistoryReply), Topic: testTopic, Messages: r.history})
			case wire.TypeTopicCreate:
				k.write(&wire.TopicCreated{
					Header: h(wire.TypeTopicCreated), Created: true, Topic: wire.TopicRef{ID: testTopic, Name: "deploys", Visibility: r.visibility},
				})
			default:
				k.answer(f)
			}
		}
	})
	r.json("GET /mesh/v1/members", 200, func(*http.Request) any { return object{"members": r.members} })
	r.json("GET /mesh/v1/topics/deploys/pending-seals", 200, func(*http.Request) any {
		return object{"topic": "deploys", "topicId": testTopic, "pending": r.pending.Load()}
	})
	r.json("DELETE /mesh/v1/topics/deploys/key", 200, func(*http.Request) any { return object{"deleted": true} })
	r.mux.HandleFunc("GET /mesh/v1/topics/deploys/key", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		status := int(r.status.Load())
		w.WriteHeader(status)
		body := object{"topicId": testTopic, "encryptedKey": r.copied.EncryptedKey, "nonce": r.copied.Nonce, "senderPubkey": r.metadata}
		switch status {
		case 404:
			body = object{"error": "key_not_sealed_for_member"}
		case 409:
			body = object{"error": "topic_unencrypted"}
		}
		raw, _ := wire.Encode(body)
		_, _ = w.Write(raw)
	})
	r.mux.HandleFunc("POST /mesh/v1/topics/deploys/seal", func(w http.ResponseWriter, q *http.Request) {
		raw, _ := io.ReadAll(q.Body)
		body := decodeObject(t, raw)
		r.mu.Lock()
		r.sealed = append(r.sealed, body)
		r.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{}`))
	})
	return r
}

func (r *room) seals() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sealed)
}

// post adds a message of another member to the history.
func (r *room) post(id int, from string, key topickey.Key) {
	nonce, ciphertext, err := topickey.SealV2("secret", key)
	require.NoError(r.t, err)
	r.history = append(r.history, wire.HistoryMessage{
		ID: messageID(id), SenderMemberID: from, SenderName: "bob", Nonce: nonce, Ciphertext: ciphertext, BodyVersion: 2,
	})
}

func xHex(k identity.KeyPair) string {
	x, _ := k.X25519()
	return hex.EncodeToString(x[:])
}

func TestH15TopicKeysAreJudgedByWhoSealedThem(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		set  func(t *testing.T, r *room, key topickey.Key, o *Options)
		want TopicKeyInfo
		err  KeyRefusal
	}{
		{name: "by itself", set: func(t *testing.T, r *room, key topickey.Key, _ *Options) {
			r.copied = sealedFor(t, key, testKey(t, "01"), testKey(t, "01"))
		}, want: TopicKeyInfo{SealedBy: testMember, Own: true}},
		{name: "by a member of the topic", set: func(t *testing.T, r *room, key topickey.Key, _ *Options) {
			r.copied = sealedFor(t, key, testKey(t, "01"), testKey(t, "02"))
			r.metadata = xHex(testKey(t, "02"))
		}, want: TopicKeyInfo{SealedBy: bobMember}},
		{name: "by the broker", set: func(t *testing.T, r *room, key topickey.Key, _ *Options) {
			r.copied = sealedFor(t, key, testKey(t, "01"), testKey(t, "07"))
			r.metadata = xHex(testKey(t, "07"))
		}, want: TopicKeyInfo{BrokerMade: true}},
		{name: "by the broker, which is not wanted", set: func(t *testing.T, r *room, key topickey.Key, o *Options) {
			r.copied = sealedFor(t, key, testKey(t, "01"), testKey(t, "07"))
			r.metadata = xHex(testKey(t, "07"))
			o.RefuseBrokerMadeKeys = true
		}, err: RefusedBrokerMade},
		{name: "by a stranger", set: func(t *testing.T, r *room, key topickey.Key, _ *Options) {
			r.copied = sealedFor(t, key, testKey(t, "01"), testKey(t, "07"))
			r.metadata = xHex(testKey(t, "02"))
		}, err: RefusedStranger},
		{name: "by a member outside, announced as the creator", set: func(t *testing.T, r *room, key topickey.Key, _ *Options) {
			r.copied = sealedFor(t, key, testKey(t, "01"), testKey(t, "03"))
			r.metadata = xHex(testKey(t, "03"))
			r.members = append(r.members, member(eveMember, "eve", testKey(t, "03")))
		}, err: RefusedOutsider},
		{name: "by a key that bob did not have", set: func(t *testing.T, r *room, key topickey.Key, o *Options) {
			o.Pins = NewMemoryPins()
			_, err := o.Pins.Pin(testMesh, Pin{PinMember, bobMember, testKey(t, "08").Public()})
			require.NoError(t, err)
			r.copied = sealedFor(t, key, testKey(t, "01"), testKey(t, "02"))
		}, err: RefusedChangedKey},
		{name: "for somebody else", set: func(t *testing.T, r *room, key topickey.Key, _ *Options) {
			r.copied = sealedFor(t, key, testKey(t, "02"), testKey(t, "02"))
		}, err: RefusedUnopenable},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRoom(t)
				key, err := topickey.NewKey()
				require.NoError(t, err)
				o := r.options()
				test.set(t, r, key, &o)
				c := r.dial(func(old *Options) { *old = o })
				got, err := c.TopicKeyInfo(context.Background(), "#deploys")
				if test.err != "" {
					refused, ok := errors.AsType[*KeyRefusedError](err)
					require.True(t, ok, "%v", err)
					require.Equal(t, test.err, refused.Reason)
					_, err = c.Post(context.Background(), "deploys", "secret")
					require.ErrorAs(t, err, &refused)
					require.Empty(t, r.of(wire.TypeSend))
					return
				}
				require.NoError(t, err)
				test.want.TopicID, test.want.Topic = testTopic, "deploys"
				require.Equal(t, test.want, got)
				have, err := c.TopicKey(context.Background(), testTopic)
				require.NoError(t, err)
				require.Equal(t, key[:], have[:])
			})
		})
	}
}

func TestH15ReceivedKeyMustOpenAPostBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		good, err := topickey.NewKey()
		require.NoError(t, err)
		bad, err := topickey.NewKey()
		require.NoError(t, err)
		r.post(1, bobMember, good)
		r.post(2, testMember, bad) // its own posts prove nothing
		r.copied = sealedFor(t, bad, testKey(t, "01"), testKey(t, "02"))
		c := r.dial()
		_, err = c.Post(context.Background(), "deploys", "hi @bob")
		refused, ok := errors.AsType[*KeyRefusedError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, RefusedNoPost, refused.Reason)
		require.NoError(t, c.RejectTopicKey(context.Background(), "deploys"))

		r.copied = sealedFor(t, good, testKey(t, "01"), testKey(t, "02"))
		sent, err := c.Post(context.Background(), "deploys", "hi @bob")
		require.NoError(t, err)
		require.True(t, sent.Encrypted)
		f := r.of(wire.TypeSend)[0]
		require.Equal(t, "#"+testTopic, f["targetSpec"])
		require.EqualValues(t, 2, f["bodyVersion"])
		require.Equal(t, []any{"bob"}, f["mentions"])
		text, err := topickey.OpenV2(str(f, "nonce"), str(f, "ciphertext"), good)
		require.NoError(t, err)
		require.Equal(t, "hi @bob", text)
		messages, err := c.History(context.Background(), "deploys", HistoryOptions{})
		require.NoError(t, err)
		require.Equal(t, "secret", messages[0].Text)
		require.Error(t, messages[1].Err)
		require.True(t, messages[1].Encrypted)
	})
}

func TestH17EncryptedTopicIsNeverDowngraded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		nonce, ciphertext := topickey.EncodeV1("from nobody")
		r.history = []wire.HistoryMessage{{ID: messageID(1), SenderMemberID: bobMember, Nonce: nonce, Ciphertext: ciphertext, BodyVersion: 1}}
		c := r.dial()
		ctx := context.Background()

		r.status.Store(409)
		sent, err := c.Post(ctx, "deploys", "open")
		require.NoError(t, err)
		require.False(t, sent.Encrypted)
		_, err = c.Post(ctx, "deploys", "open", RequireEncryption())
		require.ErrorIs(t, err, ErrUnencrypted)
		messages, err := c.History(ctx, "deploys", HistoryOptions{})
		require.NoError(t, err)
		require.False(t, messages[0].Untrusted)

		r.status.Store(404)
		_, err = c.Post(ctx, "deploys", "secret")
		require.ErrorIs(t, err, ErrKeyPending)

		r.status.Store(409)
		_, err = c.Post(ctx, "deploys", "secret")
		refused, ok := errors.AsType[*KeyRefusedError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, RefusedDowngrade, refused.Reason)
		require.Len(t, r.of(wire.TypeSend), 1)
		messages, err = c.History(ctx, "deploys", HistoryOptions{})
		require.NoError(t, err)
		require.True(t, messages[0].Untrusted)
		require.Equal(t, "from nobody", messages[0].Text)
	})
}

func TestWaitTopicKeyWaitsForASeal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.status.Store(404)
		c := r.dial()
		key, err := topickey.NewKey()
		require.NoError(t, err)
		r.copied = sealedFor(t, key, testKey(t, "01"), testKey(t, "02"))
		time.AfterFunc(time.Minute, func() { r.status.Store(200) })
		got, err := c.WaitTopicKey(context.Background(), "deploys")
		require.NoError(t, err)
		require.Equal(t, key[:], got[:])
		r.status.Store(404)
		require.NoError(t, c.RejectTopicKey(context.Background(), "deploys"))
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err = c.WaitTopicKey(ctx, "deploys")
		require.ErrorIs(t, err, ErrKeyPending)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestPushedTopicMessagesAreOpened(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		key, err := topickey.NewKey()
		require.NoError(t, err)
		r.copied = sealedFor(t, key, testKey(t, "01"), testKey(t, "02"))
		r.status.Store(404)
		serve := r.serve
		r.serve = func(k *stubConn) {
			for i := range 2 {
				p := directPush(t, messageID(i), "", testKey(t, "02"), testKey(t, "01"))
				p.Topic, p.TopicID, p.BodyVersion = "deploys", testTopic, 2
				p.Nonce, p.Ciphertext, err = topickey.SealV2("secret", key)
				k.write(p)
			}
			serve(k)
		}
		c := r.dial()
		m, err := c.Receive(context.Background())
		require.NoError(t, err)
		require.ErrorIs(t, m.Err, ErrKeyPending)
		require.Empty(t, m.Text)
		time.Sleep(missAge)
		r.status.Store(200)
		m, err = c.Receive(context.Background())
		require.NoError(t, err)
		require.NoError(t, m.Err)
		require.Equal(t, "secret", m.Text)
		require.Equal(t, ToTopic, m.To)
		require.True(t, m.Encrypted)
	})
}

func TestCreatedTopicBringsItsKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		c := r.dial()
		topic, created, err := c.CreateTopic(context.Background(), "deploys", TopicOptions{})
		require.NoError(t, err)
		require.True(t, created)
		require.Equal(t, testTopic, topic.ID)
		f := r.of(wire.TypeTopicCreate)[0]
		require.Equal(t, xHex(testKey(t, "01")), f["encryptedKeyPubkey"])
		key, sender, err := topickey.Open(topickey.Sealed{EncryptedKey: str(f, "encryptedKey"), Nonce: str(f, "nonce")}, testKey(t, "01"))
		require.NoError(t, err)
		require.Equal(t, f["encryptedKeyPubkey"], hex.EncodeToString(sender[:]))
		r.status.Store(500) // nobody is asked for the key
		_, err = c.Post(context.Background(), "deploys", "first")
		require.NoError(t, err)
		p := r.of(wire.TypeSend)[0]
		text, err := topickey.OpenV2(str(p, "nonce"), str(p, "ciphertext"), key)
		require.NoError(t, err)
		require.Equal(t, "first", text)
	})
}

func TestH16KeysArePassedOnToPinnedMembersOnly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		visibility string
		policy     SealPolicy
		want       int
	}{
		{wire.VisibilityPublic, SealPublic, 1},
		{wire.VisibilityPrivate, SealPublic, 0},
		{wire.VisibilityPrivate, SealAll, 1},
		{wire.VisibilityPublic, SealNone, 0},
	} {
		t.Run(fmt.Sprint(test.visibility, test.policy), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRoom(t)
				r.visibility = test.visibility
				carol, changed := testKey(t, "06"), "Memb0000000000000000000000000005"
				joined := make(chan struct{})
				serve := r.serve
				r.serve = func(k *stubConn) {
					go func() {
						<-joined
						p, err := wire.Event("e", testMesh, wire.EventTopicJoined, wire.TopicJoinedEvent{TopicID: testTopic}, time.Now())
						if err != nil {
							t.Error(err)
						}
						k.write(p)
					}()
					serve(k)
				}
				c := r.dial(func(o *Options) {
					o.SealPolicy = test.policy
					o.Pins = NewMemoryPins()
					_, err := o.Pins.Pin(testMesh, Pin{PinMember, changed, testKey(t, "08").Public()})
					require.NoError(t, err)
				})
				_, _, err := c.CreateTopic(context.Background(), "deploys", TopicOptions{Visibility: test.visibility})
				require.NoError(t, err)
				r.pending.Store([]object{member(eveMember, "carol", carol), member(changed, "dave", testKey(t, "09"))})
				close(joined)
				synctest.Wait()
				require.Equal(t, test.want, r.seals(), "at once")
				time.Sleep(sealInterval + time.Second)
				require.Equal(t, 2*test.want, r.seals(), "and again while the broker asks")

				sealed, skipped, err := c.SealPending(context.Background(), "deploys")
				require.NoError(t, err)
				require.Equal(t, []SealTarget{{eveMember, carol.Public(), "carol"}}, sealed)
				require.Len(t, skipped, 1)
				require.Equal(t, changed, skipped[0].MemberID)
				_, ok := errors.AsType[*KeyChangedError](skipped[0].Err)
				require.True(t, ok)
				last := r.sealed[len(r.sealed)-1]
				got, _, err := topickey.Open(topickey.Sealed{EncryptedKey: str(last, "encryptedKey"), Nonce: str(last, "nonce")}, carol)
				require.NoError(t, err)
				key, err := c.TopicKey(context.Background(), "deploys")
				require.NoError(t, err)
				require.Equal(t, key[:], got[:])
			})
		})
	}
}

// Nothing that is secret reaches the log, whatever happens.
func TestLogHoldsNoSecrets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		key, err := topickey.NewKey()
		require.NoError(t, err)
		r.copied = sealedFor(t, key, testKey(t, "01"), testKey(t, "07")) // refused
		r.post(1, bobMember, key)
		var log lockedBuffer
		c := r.dial(func(o *Options) {
			o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		_, _ = c.Post(context.Background(), "deploys", "CANARY-TEXT")
		_, _ = c.Send(context.Background(), testKey(t, "02").Public(), "CANARY-TEXT")
		_, _ = c.Send(context.Background(), "nobody", "CANARY-TEXT")
		for _, err := range c.Tail(context.Background(), "deploys", TailOptions{}) {
			require.Error(t, err)
		}
		r.stub.mu.Lock()
		for k := range r.socks {
			go func() { _ = k.ws.CloseNow() }()
		}
		r.stub.mu.Unlock()
		time.Sleep(5 * time.Second)
		require.NoError(t, c.Close())
		require.Contains(t, log.String(), "connection lost")
		own := testKey(t, "01")
		_, secret := own.X25519()
		for _, canary := range []string{
			"CANARY", own.SeedHex(), testKey(t, "04").SeedHex(), hex.EncodeToString(secret[:]), hex.EncodeToString(key[:]), "cm_secret",
		} {
			require.NotContains(t, log.String(), canary)
			require.NotContains(t, fmt.Sprintf("%v %+v %#v %x", c, c, c, c), canary)
		}
		require.Equal(t, "client of "+testMember+" in "+testMesh, fmt.Sprintf("%+v", c))
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
