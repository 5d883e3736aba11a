package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// patience is how many times as long as it may take on a quiet machine a scenario waits.
const patience = 3

var instances atomic.Int64

var phase = regexp.MustCompile(`-phase\d$`)

// the admin client has one fixed instance name: one at a time
var adminLock sync.Mutex

// ctx is what a scenario works with: parameters, clients that are shut down at its end, checks, waiting.
type ctx struct {
	scenario string
	params   map[string]string
	data     map[string]any
	open     []func() error
	sender   rocketmq.Producer
}

func (c *ctx) name(part string) string {
	return "go-" + phase.ReplaceAllString(c.scenario, "") + "_" + part + "_" + c.params["run"]
}

func (c *ctx) namesrv() primitive.NamesrvAddr {
	return primitive.NamesrvAddr{c.params["namesrv"]}
}

func unique() string {
	return "go" + strconv.Itoa(os.Getpid()) + "x" + strconv.FormatInt(instances.Add(1), 10)
}

func (c *ctx) closing(stop func() error) {
	c.open = append(c.open, stop)
}

func (c *ctx) close() {
	for i := len(c.open) - 1; i >= 0; i-- {
		_ = c.open[i]()
	}
}

func (c *ctx) newProducer(options ...producer.Option) rocketmq.Producer {
	all := append([]producer.Option{
		producer.WithNameServer(c.namesrv()),
		producer.WithGroupName("P_" + c.name("producer")),
		producer.WithInstanceName(unique()),
		producer.WithSendMsgTimeout(10 * time.Second),
		producer.WithRetry(2),
	}, options...)
	made, err := rocketmq.NewProducer(all...)
	c.must(err, "a producer can be made")
	c.must(made.Start(), "the producer starts")
	return made
}

func (c *ctx) producer() rocketmq.Producer {
	if c.sender == nil {
		c.sender = c.newProducer()
		c.closing(c.sender.Shutdown)
	}
	return c.sender
}

func (c *ctx) send(message *primitive.Message) *primitive.SendResult {
	result, err := c.producer().SendSync(context.Background(), message)
	c.must(err, "a send succeeds")
	c.check(result.Status == primitive.SendOK, "the send status is SendOK, not %v", result.Status)
	return result
}

func (c *ctx) sendMany(topic, prefix string, count int) []string {
	bodies := make([]string, count)
	for i := range bodies {
		bodies[i] = prefix + strconv.Itoa(i)
		c.send(primitive.NewMessage(topic, []byte(bodies[i])))
	}
	return bodies
}

func (c *ctx) createTopic(topic string, queues int) {
	adminLock.Lock()
	defer adminLock.Unlock()
	tool, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver(c.namesrv())))
	c.must(err, "an admin client can be made")
	defer tool.Close()
	c.must(tool.CreateTopic(context.Background(), admin.WithTopicCreate(topic),
		admin.WithBrokerAddrCreate(c.params["broker"]), admin.WithReadQueueNums(queues),
		admin.WithWriteQueueNums(queues)), "createTopic succeeds")
	c.await(15*time.Second, func() bool {
		found, err := tool.FetchPublishMessageQueues(context.Background(), topic)
		return err == nil && len(found) == queues
	}, "the route of %s shows %d queues", topic, queues)
}

// awaitTopic waits until the name server knows a topic.
func (c *ctx) awaitTopic(topic string, limit time.Duration) {
	adminLock.Lock()
	defer adminLock.Unlock()
	tool, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver(c.namesrv())))
	c.must(err, "an admin client can be made")
	defer tool.Close()
	c.await(limit, func() bool {
		found, err := tool.FetchPublishMessageQueues(context.Background(), topic)
		return err == nil && len(found) > 0
	}, "%s has a route", topic)
}

type listener = func(context.Context, ...*primitive.MessageExt) (consumer.ConsumeResult, error)

func tags(expression string) consumer.MessageSelector {
	return consumer.MessageSelector{Type: consumer.TAG, Expression: expression}
}

// push starts a push consumer and returns what shuts it down.
func (c *ctx) push(group, topic, expression string, listen listener, options ...consumer.Option) func() error {
	all := append([]consumer.Option{
		consumer.WithNameServer(c.namesrv()),
		consumer.WithGroupName(group),
		consumer.WithInstance(unique()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithConsumeGoroutineNums(4),
	}, options...)
	made, err := rocketmq.NewPushConsumer(all...)
	c.must(err, "a push consumer can be made")
	c.must(made.Subscribe(topic, tags(expression), listen), "the consumer subscribes")
	c.must(made.Start(), "the consumer starts")
	var once sync.Once
	stop := func() (err error) {
		once.Do(func() { err = made.Shutdown() })
		return err
	}
	c.closing(stop)
	return stop
}

// inbox is what consumers got, in their order.
type inbox struct {
	lock     sync.Mutex
	messages []*primitive.MessageExt
	times    []time.Time
}

func (b *inbox) add(messages ...*primitive.MessageExt) {
	b.lock.Lock()
	defer b.lock.Unlock()
	for _, message := range messages {
		b.messages = append(b.messages, message)
		b.times = append(b.times, time.Now())
	}
}

func (b *inbox) listen(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
	b.add(messages...)
	return consumer.ConsumeSuccess, nil
}

func (b *inbox) all() []*primitive.MessageExt {
	b.lock.Lock()
	defer b.lock.Unlock()
	return append([]*primitive.MessageExt(nil), b.messages...)
}

func (b *inbox) counts() map[string]int {
	counts := map[string]int{}
	for _, message := range b.all() {
		counts[string(message.Body)]++
	}
	return counts
}

func (b *inbox) awaitAll(c *ctx, limit time.Duration, bodies []string) {
	limit *= patience
	deadline := time.Now().Add(limit)
	for {
		counts := b.counts()
		var missing []string
		for _, body := range bodies {
			if counts[body] == 0 {
				missing = append(missing, body)
			}
		}
		if len(missing) == 0 {
			wanted := map[string]bool{}
			for _, body := range bodies {
				wanted[body] = true
			}
			for body := range counts {
				c.check(wanted[body], "no other messages arrive, but %q did", body)
			}
			return
		}
		if time.Now().After(deadline) {
			sort.Strings(missing)
			panic(failure(fmt.Sprintf("%d of %d messages did not arrive within %v, for example %q",
				len(missing), len(bodies), limit, missing[0])))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *inbox) awaitOnce(c *ctx, limit time.Duration, bodies []string) {
	b.awaitAll(c, limit, bodies)
	c.check(len(b.all()) == len(bodies), "%d messages are delivered once each, but there were %d deliveries",
		len(bodies), len(b.all()))
}

func (c *ctx) check(holds bool, sentence string, args ...any) {
	if !holds {
		panic(failure("expected that " + fmt.Sprintf(sentence, args...)))
	}
}

func (c *ctx) must(err error, sentence string) {
	if err != nil {
		panic(failure("expected that " + sentence + ", but: " + err.Error()))
	}
}

func (c *ctx) await(limit time.Duration, condition func() bool, sentence string, args ...any) {
	limit *= patience
	deadline := time.Now().Add(limit)
	for !condition() {
		if time.Now().After(deadline) {
			panic(failure(fmt.Sprintf("within %v it did not come true that %s", limit, fmt.Sprintf(sentence, args...))))
		}
		time.Sleep(20 * time.Millisecond)
	}
}
