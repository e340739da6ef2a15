package client

// Waiting is how many messages have arrived that Receive has not handed over yet, the one that it is just opening included.
func (c *Client) Waiting() int {
	c.inbox.mu.Lock()
	defer c.inbox.mu.Unlock()
	return len(c.inbox.queue)
}
