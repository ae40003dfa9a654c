package sessiond

// Held is how many operations the client keeps: those that wait for a connection, and those on the stream.
func (c *Client) Held() int {
	t := c.transport.(*transport)
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue) + len(t.sent)
}

// OnStream is how many operations were handed to the stream and have no answer.
func (c *Client) OnStream() int {
	t := c.transport.(*transport)
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sent)
}

// ParseData is parseData.
func ParseData(text []byte) (Data, error) { return parseData(text) }
