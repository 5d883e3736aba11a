package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

var scenarios = map[string]func(*ctx){
	"send-sync":              sendSync,
	"send-async":             sendAsync,
	"send-oneway":            sendOneway,
	"send-batch":             sendBatch,
	"send-ordered":           sendOrdered,
	"send-large":             sendLarge,
	"push-orderly":           pushOrderly,
	"push-broadcast":         pushBroadcast,
	"push-tags":              pushTags,
	"pull":                   pull,
	"delay":                  delay,
	"group-join-leave":       joinLeave,
	"retry-to-dead-letter":   deadLetter,
	"group-offsets-kept":     offsetsKept,
	"request-reply":          requestReply,
	"transaction-end":        transactionEnd,
	"transaction-check":      transactionCheck,
	"restart-offsets-phase1": restartOffsets1,
	"restart-offsets-phase2": restartOffsets2,
	"restart-live-phase1":    restartLive1,
	"restart-live-phase2":    restartLive2,
}

var messageID = regexp.MustCompile(`^([0-9A-Fa-f]{32}|[0-9A-Fa-f]{56})$`)

func sendSync(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 4)
	got := &inbox{}
	c.push(c.name("g"), topic, "*", got.listen)
	var bodies []string
	ids := map[string]string{}
	next := map[int]int64{}
	for i := 0; i < 40; i++ {
		body := fmt.Sprintf("sync ✓ %d", i)
		message := primitive.NewMessage(topic, []byte(body)).WithTag("Täg").WithKeys([]string{"k1", fmt.Sprint("k", i)})
		message.WithProperty("stadt", "Zürich – 東京")
		result := c.send(message)
		c.check(messageID.MatchString(result.MsgID), "the message id %q is 32 or 56 hex digits", result.MsgID)
		c.check(len(result.OffsetMsgID) == 32, "the offset message id %q is 32 digits long", result.OffsetMsgID)
		c.check(result.MessageQueue.Topic == topic, "the send result names the topic")
		queue := result.MessageQueue.QueueId
		c.check(result.QueueOffset == next[queue], "the queue offset is %d, not %d", next[queue], result.QueueOffset)
		next[queue]++
		ids[body] = result.MsgID
		bodies = append(bodies, body)
	}
	c.check(len(next) == 4, "40 sends reach 4 queues, not %d", len(next))
	got.awaitOnce(c, 30*time.Second, bodies)
	for _, message := range got.all() {
		c.check(message.MsgId == ids[string(message.Body)], "the consumed message id is that of the send result")
		c.check(message.GetTags() == "Täg", "the tag is Täg, not %q", message.GetTags())
		c.check(message.GetProperty("stadt") == "Zürich – 東京", "the property comes back")
		c.check(strings.HasPrefix(message.GetKeys(), "k1 k"), "the keys come back, not %q", message.GetKeys())
		c.check(message.Topic == topic && message.ReconsumeTimes == 0, "topic and reconsume times are right")
		c.check(strings.HasPrefix(message.StoreHost, "127.0.0.1:"), "the store host is the broker, not %s", message.StoreHost)
	}
}

func sendAsync(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	got := &inbox{}
	c.push(c.name("g"), topic, "*", got.listen)
	var waiting sync.WaitGroup
	var failed atomic.Int32
	var bodies []string
	for i := 0; i < 60; i++ {
		body := fmt.Sprint("async ", i)
		bodies = append(bodies, body)
		waiting.Add(1)
		c.must(c.producer().SendAsync(context.Background(),
			func(_ context.Context, result *primitive.SendResult, err error) {
				if err != nil || result.Status != primitive.SendOK {
					failed.Add(1)
				}
				waiting.Done()
			}, primitive.NewMessage(topic, []byte(body))), "an async send starts")
	}
	waiting.Wait()
	c.check(failed.Load() == 0, "no async send fails, but %d did", failed.Load())
	got.awaitOnce(c, 30*time.Second, bodies)
}

func sendOneway(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	got := &inbox{}
	c.push(c.name("g"), topic, "*", got.listen)
	var bodies []string
	for i := 0; i < 50; i++ {
		bodies = append(bodies, fmt.Sprint("oneway ", i))
		c.must(c.producer().SendOneWay(context.Background(), primitive.NewMessage(topic, []byte(bodies[i]))), "a oneway send")
	}
	got.awaitOnce(c, 30*time.Second, bodies)
}

func sendBatch(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	var batch []*primitive.Message
	var bodies []string
	for i := 0; i < 30; i++ {
		bodies = append(bodies, fmt.Sprint("batch ", i))
		batch = append(batch, primitive.NewMessage(topic, []byte(bodies[i])).WithTag(fmt.Sprint("T", i%2)))
	}
	result, err := c.producer().SendSync(context.Background(), batch...)
	c.must(err, "a batch is sent")
	c.check(len(strings.Split(result.OffsetMsgID, ",")) == 30, "the result has 30 offset ids: %s", result.OffsetMsgID)
	got, odd := &inbox{}, &inbox{}
	c.push(c.name("g"), topic, "*", got.listen)
	c.push(c.name("odd"), topic, "T1", odd.listen)
	got.awaitOnce(c, 30*time.Second, bodies)
	c.await(30*time.Second, func() bool { return len(odd.all()) == 15 }, "the subscriber of T1 gets its half")
	seen := map[int64]string{}
	for _, message := range got.all() {
		c.check(message.Queue.QueueId == result.MessageQueue.QueueId, "the whole batch is in one queue")
		seen[message.QueueOffset] = string(message.Body)
	}
	for i, body := range bodies {
		c.check(seen[int64(i)] == body, "offset %d of the queue has %q, not %q", i, body, seen[int64(i)])
	}
}

func sendOrdered(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 4)
	sender := c.newProducer(producer.WithQueueSelector(producer.NewHashQueueSelector()))
	c.closing(sender.Shutdown)
	queues := map[string]int{}
	for i := 0; i < 40; i++ {
		key := fmt.Sprint("order", i%8)
		message := primitive.NewMessage(topic, []byte(fmt.Sprintf("%s:%d", key, i/8))).WithShardingKey(key)
		result, err := sender.SendSync(context.Background(), message)
		c.must(err, "an ordered send succeeds")
		if queue, known := queues[key]; known {
			c.check(queue == result.MessageQueue.QueueId, "%s stays in its queue", key)
		}
		queues[key] = result.MessageQueue.QueueId
	}
	got := &inbox{}
	c.push(c.name("g"), topic, "*", got.listen, consumer.WithConsumerOrder(true))
	c.await(40*time.Second, func() bool { return len(got.all()) >= 40 }, "the orderly consumer gets 40 messages")
	next := map[string]int{}
	for _, message := range got.all() {
		key, step, _ := strings.Cut(string(message.Body), ":")
		c.check(step == fmt.Sprint(next[key]), "step %d of %s is next, not %s", next[key], key, step)
		next[key]++
	}
}

func sendLarge(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 1)
	got := &inbox{}
	c.push(c.name("g"), topic, "*", got.listen)
	text := strings.Repeat("compress me ", 20_000)
	noise := make([]byte, 3_900_000)
	state := uint64(1)
	for i := range noise {
		state = state*6364136223846793005 + 1442695040888963407
		noise[i] = byte(state >> 56)
	}
	c.send(primitive.NewMessage(topic, []byte(text)))
	c.send(primitive.NewMessage(topic, noise))
	got.awaitOnce(c, 40*time.Second, []string{text, string(noise)})
}

func pushOrderly(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 3)
	got := &inbox{}
	var failures atomic.Int32
	c.push(c.name("g"), topic, "*", func(x context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		if string(messages[0].Body) == "3" && failures.Add(1) <= 2 {
			return consumer.SuspendCurrentQueueAMoment, nil
		}
		return got.listen(x, messages...)
	}, consumer.WithConsumerOrder(true), consumer.WithSuspendCurrentQueueTimeMillis(100*time.Millisecond))
	var bodies []string
	for i := 0; i < 60; i++ {
		bodies = append(bodies, fmt.Sprint(i))
		c.send(primitive.NewMessage(topic, []byte(bodies[i])))
	}
	got.awaitOnce(c, 45*time.Second, bodies)
	next := map[int]int64{}
	for _, message := range got.all() {
		queue := message.Queue.QueueId
		c.check(message.QueueOffset == next[queue], "offset %d of queue %d is next, not %d", next[queue], queue, message.QueueOffset)
		next[queue]++
	}
	c.check(failures.Load() == 3, "the suspended message was tried three times, not %d", failures.Load())
}

func pushBroadcast(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	first, second := &inbox{}, &inbox{}
	for _, box := range []*inbox{first, second} {
		c.push(c.name("g"), topic, "*", box.listen, consumer.WithConsumerModel(consumer.BroadCasting))
	}
	bodies := c.sendMany(topic, "to all ", 30)
	first.awaitOnce(c, 40*time.Second, bodies)
	second.awaitOnce(c, 40*time.Second, bodies)
}

func pushTags(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	// ASCII only: this client's hash of any other tag is not the one the broker computes
	two, long := &inbox{}, &inbox{}
	c.push(c.name("ab"), topic, "A || B", two.listen)
	c.push(c.name("long"), topic, "a-rather-long-tag", long.listen)
	var wantTwo, wantLong []string
	for i := 0; i < 40; i++ {
		tag := []string{"A", "B", "C", "a-rather-long-tag"}[i%4]
		body := fmt.Sprint(tag, i)
		c.send(primitive.NewMessage(topic, []byte(body)).WithTag(tag))
		switch tag {
		case "A", "B":
			wantTwo = append(wantTwo, body)
		default:
			if tag != "C" {
				wantLong = append(wantLong, body)
			}
		}
	}
	two.awaitOnce(c, 40*time.Second, wantTwo)
	long.awaitOnce(c, 40*time.Second, wantLong)
}

func pull(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	bodies := c.sendMany(topic, "pull ", 40)
	made, err := rocketmq.NewPullConsumer(
		consumer.WithNameServer(c.namesrv()),
		consumer.WithGroupName(c.name("g")),
		consumer.WithInstance(unique()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	)
	c.must(err, "a pull consumer can be made")
	c.must(made.Subscribe(topic, tags("*")), "it subscribes")
	c.must(made.Start(), "it starts")
	c.closing(made.Shutdown)
	got := &inbox{}
	c.await(40*time.Second, func() bool {
		request, err := made.Poll(context.Background(), time.Second)
		if err == nil && request != nil {
			got.add(request.GetMsgList()...)
			made.ACK(context.Background(), request, consumer.ConsumeSuccess)
		}
		return len(got.all()) >= len(bodies)
	}, "poll returns %d messages, but there are %d", len(bodies), len(got.all()))
	got.awaitOnce(c, time.Second, bodies)
}

func delay(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 1)
	got := &inbox{}
	c.push(c.name("g"), topic, "*", got.listen)
	sent := map[string]time.Time{}
	for level := 1; level <= 2; level++ {
		body := fmt.Sprint("level ", level)
		sent[body] = time.Now()
		c.send(primitive.NewMessage(topic, []byte(body)).WithDelayTimeLevel(level))
	}
	got.awaitOnce(c, 40*time.Second, []string{"level 1", "level 2"})
	for i, message := range got.all() {
		took := got.times[i].Sub(sent[string(message.Body)])
		least := time.Duration(i+1)*time.Second - 20*time.Millisecond
		c.check(took >= least, "%s does not arrive after %v", message.Body, took)
	}
}

func joinLeave(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 6)
	got := &inbox{}
	var bodies []string
	send := func(prefix string) {
		bodies = append(bodies, c.sendMany(topic, prefix, 30)...)
	}
	send("nobody ")
	first := c.push(c.name("g"), topic, "*", got.listen)
	send("one ")
	got.awaitAll(c, 40*time.Second, bodies)
	own := []*inbox{{}, {}}
	for _, box := range own {
		c.push(c.name("g"), topic, "*", func(x context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			box.add(messages...)
			return got.listen(x, messages...)
		})
		send("more ")
	}
	// all three work when the second and the third have got something
	round := 0
	c.await(60*time.Second, func() bool {
		round++
		send(fmt.Sprint("round ", round, " "))
		return len(own[0].all()) > 0 && len(own[1].all()) > 0
	}, "the members that joined get messages")
	send("three ")
	c.must(first(), "the first member leaves")
	send("two ")
	got.awaitAll(c, 60*time.Second, bodies)
	// until then, what a member consumed and did not commit may be delivered again to who has its queue now
	c.awaitCommitted(c.name("g"), topic, 6)
	c.data["duplicates"] = len(got.all()) - len(bodies)
	before := len(got.all())
	send("calm ")
	got.awaitAll(c, 30*time.Second, bodies)
	c.check(len(got.all()) == before+30, "30 messages are delivered once each when nobody joins or leaves")
}

func deadLetter(c *ctx) {
	topic, group := c.name("t"), c.name("g")
	c.createTopic(topic, 1)
	var tries atomic.Int32
	c.push(group, topic, "*", func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		tries.Add(1)
		return consumer.ConsumeRetryLater, nil
	}, consumer.WithMaxReconsumeTimes(1))
	c.send(primitive.NewMessage(topic, []byte("poison ☠")).WithTag("P").WithKeys([]string{"keyP"}))
	dead := &inbox{}
	c.await(70*time.Second, func() bool { return tries.Load() >= 2 }, "the listener sees the message twice")
	c.awaitTopic("%DLQ%"+group, 70*time.Second) // this client refuses to start when a topic has no route
	c.push(c.name("undertaker"), "%DLQ%"+group, "*", dead.listen)
	dead.awaitOnce(c, 70*time.Second, []string{"poison ☠"})
	message := dead.all()[0]
	c.check(message.GetTags() == "P" && message.GetKeys() == "keyP", "the dead letter keeps its tag and key")
	c.check(tries.Load() == 2, "the listener saw the message twice, not %d times", tries.Load())
}

func offsetsKept(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	first := c.sendMany(topic, "first ", 20)
	got := &inbox{}
	stop := c.push(c.name("g"), topic, "*", got.listen)
	got.awaitOnce(c, 40*time.Second, first)
	c.awaitCommitted(c.name("g"), topic, 2)
	c.must(stop(), "the consumer shuts down")
	second := c.sendMany(topic, "second ", 20)
	rest := &inbox{}
	c.push(c.name("g"), topic, "*", rest.listen)
	rest.awaitOnce(c, 65*time.Second, second) // the group may count the member that left until two rebalances later
}

func requestReply(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 1)
	replier := c.newProducer()
	c.closing(replier.Shutdown)
	c.push(c.name("g"), topic, "*", func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, message := range messages {
			// it takes the body for properties, so the body is set by hand
			reply, err := consumer.CreateReplyMessage(message, nil)
			if err == nil {
				reply.Body = []byte("re: " + string(message.Body))
				_, _ = replier.SendSync(context.Background(), reply)
			}
		}
		return consumer.ConsumeSuccess, nil
	})
	asker := c.newProducer()
	c.closing(asker.Shutdown)
	// answers find the asker only after its next heartbeat, up to 30 s later: this client sends none before a request
	var answer *primitive.Message
	c.await(60*time.Second, func() bool {
		var err error
		answer, err = asker.Request(context.Background(), 3*time.Second, primitive.NewMessage(topic, []byte("question")))
		return err == nil
	}, "a request is answered")
	c.check(string(answer.Body) == "re: question", "the answer is right, not %q", answer.Body)
}

// ---- pairs with a restart of the server in between

var kept sync.Map

func restartOffsets1(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	first := c.sendMany(topic, "consumed ", 20)
	got := &inbox{}
	stop := c.push(c.name("g"), topic, "*", got.listen)
	got.awaitOnce(c, 40*time.Second, first)
	c.awaitCommitted(c.name("g"), topic, 2)
	c.must(stop(), "the consumer shuts down")
	kept.Store(c.name("state"), c.sendMany(topic, "waiting ", 10))
}

func restartOffsets2(c *ctx) {
	waiting, known := kept.Load(c.name("state"))
	c.check(known, "phase 1 went well")
	got := &inbox{}
	c.push(c.name("g"), c.name("t"), "*", got.listen)
	got.awaitOnce(c, 40*time.Second, waiting.([]string))
}

type live struct {
	sender rocketmq.Producer
	got    *inbox
	stop   func() error
	bodies []string
}

func restartLive1(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	state := &live{sender: c.newProducer(), got: &inbox{}}
	owner := &ctx{scenario: c.scenario, params: c.params, data: c.data}
	state.stop = owner.push(c.name("g"), topic, "*", state.got.listen)
	state.bodies = c.sendMany(topic, "before ", 10)
	state.got.awaitOnce(c, 40*time.Second, state.bodies)
	kept.Store(c.name("state"), state)
}

func restartLive2(c *ctx) {
	loaded, known := kept.Load(c.name("state"))
	c.check(known, "phase 1 went well")
	state := loaded.(*live)
	c.closing(state.sender.Shutdown)
	c.closing(state.stop)
	for i := 0; i < 10; i++ {
		body := fmt.Sprint("after ", i)
		c.await(40*time.Second, func() bool {
			result, err := state.sender.SendSync(context.Background(), primitive.NewMessage(c.name("t"), []byte(body)))
			return err == nil && result.Status == primitive.SendOK
		}, "the producer can send again after the restart")
		state.bodies = append(state.bodies, body)
	}
	state.got.awaitAll(c, 60*time.Second, state.bodies)
}
