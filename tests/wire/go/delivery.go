package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

func init() {
	scenarios["retry-then-success"] = retryThenSuccess
	scenarios["retry-orderly-to-dead-letter"] = orderlyDeadLetter
	scenarios["request-nobody-answers"] = nobodyAnswers
	scenarios["trace"] = trace
	scenarios["admin"] = adminTool
}

func retryThenSuccess(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 1)
	got := &inbox{}
	var times []int32
	c.push(c.name("g"), topic, "*", func(x context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		if string(messages[0].Body) == "r3" {
			got.lock.Lock()
			times = append(times, messages[0].ReconsumeTimes)
			got.lock.Unlock()
			if messages[0].ReconsumeTimes < 2 {
				return consumer.ConsumeRetryLater, nil
			}
		}
		return got.listen(x, messages...)
	})
	var bodies []string
	for i := 0; i < 5; i++ {
		bodies = append(bodies, fmt.Sprint("r", i))
		c.send(primitive.NewMessage(topic, []byte(bodies[i])).WithTag("R").WithKeys([]string{"key" + bodies[i]}))
	}
	got.awaitOnce(c, 70*time.Second, bodies)
	c.check(fmt.Sprint(times) == "[0 1 2]", "the listener sees reconsume times 0 1 2, not %v", times)
	last := got.all()[4]
	c.check(string(last.Body) == "r3" && last.GetTags() == "R" && last.GetKeys() == "keyr3", "the retried message is whole")
}

// An orderly consumer of this client retries by itself and then sends the message back with level -1.
func orderlyDeadLetter(c *ctx) {
	topic, group := c.name("t"), c.name("g")
	c.createTopic(topic, 1)
	var tries atomic.Int32
	got := &inbox{}
	c.push(group, topic, "*", func(x context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		if string(messages[0].Body) == "o1" {
			tries.Add(1)
			return consumer.SuspendCurrentQueueAMoment, nil
		}
		return got.listen(x, messages...)
	}, consumer.WithConsumerOrder(true), consumer.WithMaxReconsumeTimes(2),
		consumer.WithSuspendCurrentQueueTimeMillis(100*time.Millisecond))
	c.sendMany(topic, "o", 4)
	got.awaitOnce(c, 70*time.Second, []string{"o0", "o2", "o3"})
	c.check(tries.Load() >= 3, "the failing message was tried at least three times, not %d", tries.Load())
	c.awaitTopic("%DLQ%"+group, 60*time.Second)
	dead := &inbox{}
	c.push(c.name("undertaker"), "%DLQ%"+group, "*", dead.listen)
	dead.awaitOnce(c, 70*time.Second, []string{"o1"})
}

func nobodyAnswers(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 1)
	_, err := c.producer().Request(context.Background(), time.Second, primitive.NewMessage(topic, []byte("anybody?")))
	c.check(err != nil, "a request that nobody answers ends with an error")
}

func trace(c *ctx) {
	topic, traces := c.name("t"), c.name("traces")
	c.createTopic(topic, 1)
	c.createTopic(traces, 1)
	config := &primitive.TraceConfig{
		TraceTopic: traces,
		GroupName:  c.name("tracer"),
		Access:     primitive.Local,
		Resolver:   primitive.NewPassthroughResolver(c.namesrv()),
	}
	sender := c.newProducer(producer.WithTrace(config))
	c.closing(sender.Shutdown)
	got := &inbox{}
	c.push(c.name("g"), topic, "*", got.listen, consumer.WithTrace(config))
	result, err := sender.SendSync(context.Background(), primitive.NewMessage(topic, []byte("trace me")))
	c.must(err, "a traced send succeeds")
	got.awaitOnce(c, 40*time.Second, []string{"trace me"})
	records := &inbox{}
	c.push(c.name("reader"), traces, "*", records.listen)
	c.await(60*time.Second, func() bool {
		text := ""
		for _, record := range records.all() {
			text += string(record.Body)
		}
		return strings.Contains(text, "Pub\x01") && strings.Contains(text, "SubBefore\x01") &&
			strings.Contains(text, "SubAfter\x01") && strings.Contains(text, result.MsgID)
	}, "the trace topic gets Pub, SubBefore and SubAfter records of %s", result.MsgID)
}

func adminTool(c *ctx) {
	topic, group := c.name("t"), c.name("g")
	c.createTopic(topic, 3)
	got := &inbox{}
	c.push(group, topic, "*", got.listen)
	got.awaitOnce(c, 40*time.Second, c.sendMany(topic, "m", 3))
	adminLock.Lock()
	defer adminLock.Unlock()
	tool, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver(c.namesrv())))
	c.must(err, "an admin client can be made")
	defer tool.Close()
	listed := func() bool {
		topics, err := tool.FetchAllTopicList(context.Background())
		c.must(err, "topics can be listed")
		for _, one := range topics.TopicList {
			if one == topic {
				return true
			}
		}
		return false
	}
	c.check(listed(), "the topic is listed")
	groups, err := tool.GetAllSubscriptionGroup(context.Background(), c.params["broker"], 15*time.Second)
	c.must(err, "groups can be listed")
	config, known := groups.SubscriptionGroupTable[group]
	c.check(known && config.RetryMaxTimes == 16, "the group is listed with its 16 retries")
	c.must(tool.DeleteTopic(context.Background(), admin.WithTopicDelete(topic),
		admin.WithBrokerAddrDelete(c.params["broker"])), "the topic can be deleted")
	c.await(15*time.Second, func() bool { return !listed() }, "the deleted topic is listed no more")
}
