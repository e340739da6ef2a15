package unittest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/examples/unittest"
)

// start runs a Deployer in the mesh whose deployments take five minutes, and fail for "broken".
func start(t *testing.T, mesh *brokertest.Mesh) *brokertest.Peer {
	bot := mesh.Join("deploy-bot")
	_, _, err := bot.CreateTopic(t.Context(), "deploys", client.TopicOptions{})
	require.NoError(t, err)
	d := &unittest.Deployer{Mesh: bot.Client, Topic: "deploys", Deploy: func(ctx context.Context, service string) error {
		select {
		case <-time.After(5 * time.Minute): // fake time: the test takes no longer for it
		case <-ctx.Done():
			return ctx.Err()
		}
		if service == "broken" {
			return errors.New("no such service")
		}
		return nil
	}}
	go d.Run(t.Context())
	return bot
}

func TestDeployerAnswersAndTellsTheTeam(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		start(t, mesh)
		ana := mesh.Join("ana")
		require.NoError(t, ana.JoinTopic(t.Context(), "deploys", ""))
		_, err := ana.WaitTopicKey(t.Context(), "deploys")
		require.NoError(t, err)

		ana.Send("deploy-bot", "deploy api")
		told := receiveWithin(t, ana, 6*time.Minute)
		require.Equal(t, "deploys", told.Topic)
		require.Equal(t, "api is deployed, for ana", told.Text)
		require.True(t, told.Encrypted)
		require.Equal(t, "api is deployed", ana.Receive().Text)
	})
}

func TestDeployerMakesOthersWaitWhileItWorks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		start(t, mesh)
		ana := mesh.Join("ana")
		first := ana.Send("deploy-bot", "deploy api")
		synctest.Wait()
		second := ana.Send("deploy-bot", "deploy broken")
		synctest.Wait()
		require.Equal(t, "acked", state(t, ana, first))
		require.Equal(t, "held", state(t, ana, second), "it is working, and the message is not urgent")
		require.Equal(t, "api is deployed", receiveWithin(t, ana, 6*time.Minute).Text)
		require.Equal(t, "broken is not deployed: no such service", receiveWithin(t, ana, 6*time.Minute).Text)
	})
}

func receiveWithin(t *testing.T, p *brokertest.Peer, limit time.Duration) client.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	msg, err := p.Client.Receive(ctx)
	require.NoError(t, err)
	return msg
}

func state(t *testing.T, p *brokertest.Peer, sent client.Sent) string {
	t.Helper()
	status, err := p.MessageStatus(t.Context(), sent.MessageID)
	require.NoError(t, err)
	return status.Recipients[0].State
}
