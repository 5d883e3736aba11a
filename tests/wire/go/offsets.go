package main

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"strconv"
	"time"
)

const (
	queryConsumerOffset = 14
	getMaxOffset        = 30
)

// awaitCommitted waits until a group has committed all there is in the first queues of a topic.
//
// This client's Shutdown drops its queues at once. A listener that has just returned may then find its queue dropped,
// and what it did is not committed: whoever comes next gets the message again. So whoever counts deliveries over a
// shutdown waits for the commit, which comes every five seconds.
func (c *ctx) awaitCommitted(group, topic string, queues int) {
	connection, err := net.DialTimeout("tcp", c.params["broker"], 30*time.Second)
	c.must(err, "the broker takes a connection")
	defer func() { _ = connection.Close() }()
	c.must(connection.SetDeadline(time.Now().Add(10*time.Minute)), "a deadline can be set")
	for queue := 0; queue < queues; queue++ {
		fields := map[string]string{"consumerGroup": group, "topic": topic, "queueId": strconv.Itoa(queue)}
		end := c.askOffset(connection, getMaxOffset, fields)
		c.check(end != "", "the end of queue %d is known", queue)
		c.await(40*time.Second, func() bool { return c.askOffset(connection, queryConsumerOffset, fields) == end },
			"%s has committed the %s messages of queue %d", group, end, queue)
	}
}

// askOffset sends one request of the remoting protocol and returns the offset that the answer holds; the client has
// no call for it.
func (c *ctx) askOffset(connection net.Conn, code int, fields map[string]string) string {
	header, err := json.Marshal(map[string]any{
		"code": code, "language": "GO", "version": 317, "opaque": 1, "flag": 0, "extFields": fields,
	})
	c.must(err, "a header can be encoded")
	frame := binary.BigEndian.AppendUint32(nil, uint32(4+len(header)))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(header)))
	_, err = connection.Write(append(frame, header...))
	c.must(err, "a request can be sent")
	lengths := make([]byte, 8)
	_, err = io.ReadFull(connection, lengths)
	c.must(err, "an answer comes")
	answer := make([]byte, binary.BigEndian.Uint32(lengths)-4)
	_, err = io.ReadFull(connection, answer)
	c.must(err, "an answer comes whole")
	var read struct {
		ExtFields map[string]string `json:"extFields"`
	}
	c.must(json.Unmarshal(answer[:binary.BigEndian.Uint32(lengths[4:])&0xFFFFFF], &read), "the answer can be read")
	return read.ExtFields["offset"]
}
