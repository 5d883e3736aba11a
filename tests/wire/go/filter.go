package main

import (
	"fmt"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

func init() {
	scenarios["filter-push"] = filterPush
}

// filterPush: a push consumer with an SQL92 filter gets what matches, before and while it waits.
func filterPush(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	got := &inbox{}
	made, err := rocketmq.NewPushConsumer(
		consumer.WithNameServer(c.namesrv()),
		consumer.WithGroupName(c.name("g")),
		consumer.WithInstance(unique()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithConsumeGoroutineNums(4),
	)
	c.must(err, "a push consumer can be made")
	filter := "n BETWEEN 5 AND 14 AND (color = 'red' OR color IS NULL)"
	c.must(made.Subscribe(topic, consumer.MessageSelector{Type: consumer.SQL92, Expression: filter}, got.listen),
		"the consumer subscribes")
	var wanted []string
	send := func(prefix string) {
		for i := 0; i < 20; i++ {
			body := fmt.Sprint(prefix, i)
			message := primitive.NewMessage(topic, []byte(body))
			message.WithProperty("n", fmt.Sprint(i))
			if i%3 == 0 {
				message.WithProperty("color", "red")
			}
			if i%3 == 1 {
				message.WithProperty("color", "blue")
			}
			c.send(message)
			if i >= 5 && i <= 14 && i%3 != 1 {
				wanted = append(wanted, body)
			}
		}
	}
	send("before ")
	c.must(made.Start(), "the consumer starts")
	c.closing(made.Shutdown)
	got.awaitOnce(c, 60*time.Second, wanted)
	send("while ")
	got.awaitOnce(c, 60*time.Second, wanted)
}
