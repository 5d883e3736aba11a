package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// decider does what the body says: its first word is the outcome of the local transaction, its second that of checks.
type decider struct {
	lock    sync.Mutex
	checked []string
}

func (d *decider) ExecuteLocalTransaction(message *primitive.Message) primitive.LocalTransactionState {
	return stateOf(strings.Fields(string(message.Body))[0])
}

func (d *decider) CheckLocalTransaction(message *primitive.MessageExt) primitive.LocalTransactionState {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.checked = append(d.checked, string(message.Body))
	return stateOf(strings.Fields(string(message.Body))[1])
}

func (d *decider) checks() int {
	d.lock.Lock()
	defer d.lock.Unlock()
	return len(d.checked)
}

func stateOf(word string) primitive.LocalTransactionState {
	switch word {
	case "commit":
		return primitive.CommitMessageState
	case "rollback":
		return primitive.RollbackMessageState
	}
	return primitive.UnknowState
}

func (c *ctx) transactionProducer(decides *decider) rocketmq.TransactionProducer {
	made, err := rocketmq.NewTransactionProducer(decides,
		producer.WithNameServer(c.namesrv()),
		producer.WithGroupName("T_"+c.name("producer")),
		producer.WithInstanceName(unique()),
		producer.WithSendMsgTimeout(10*time.Second),
		producer.WithRetry(2),
	)
	c.must(err, "a transaction producer can be made")
	c.must(made.Start(), "the transaction producer starts")
	c.closing(made.Shutdown)
	return made
}

func (c *ctx) sendInTransactions(from rocketmq.TransactionProducer, topic, words string, count int) []string {
	bodies := make([]string, count)
	for i := range bodies {
		bodies[i] = fmt.Sprint(words, " ", i)
		result, err := from.SendMessageInTransaction(context.Background(), primitive.NewMessage(topic, []byte(bodies[i])))
		c.must(err, "a send in a transaction succeeds")
		c.check(result.Status == primitive.SendOK, "the send status is SendOK, not %v", result.Status)
	}
	return bodies
}

func transactionEnd(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	got := &inbox{}
	c.push(c.name("g"), topic, "*", got.listen)
	decides := &decider{}
	from := c.transactionProducer(decides)
	bodies := c.sendInTransactions(from, topic, "commit never", 10)
	c.sendInTransactions(from, topic, "rollback never", 10)
	got.awaitOnce(c, 30*time.Second, bodies)
	time.Sleep(time.Second) // a decision that was long on its way may have been asked for
	before := decides.checks()
	time.Sleep(4500 * time.Millisecond) // more than one round of checks
	after := decides.checks()
	c.check(after == before, "nothing that was decided is asked for, but %d were", after-before)
	got.awaitOnce(c, time.Second, bodies)
	for _, message := range got.all() {
		c.check(message.TransactionId != "" || message.GetProperty("__transactionId__") != "", "there is a transaction id")
	}
}

func transactionCheck(c *ctx) {
	topic := c.name("t")
	c.createTopic(topic, 2)
	got := &inbox{}
	c.push(c.name("g"), topic, "*", got.listen)
	decides := &decider{}
	from := c.transactionProducer(decides)
	bodies := c.sendInTransactions(from, topic, "unknown commit", 5)
	c.sendInTransactions(from, topic, "unknown rollback", 5)
	got.awaitOnce(c, 40*time.Second, bodies)
	c.await(10*time.Second, func() bool { return decides.checks() >= 10 }, "each is asked for")
	time.Sleep(time.Second) // an answer that was long on its way may have been asked for again
	before := decides.checks()
	time.Sleep(3500 * time.Millisecond)
	after := decides.checks()
	c.check(after == before, "nothing that was answered is asked for again, but %d were", after-before)
	got.awaitOnce(c, time.Second, bodies)
}
