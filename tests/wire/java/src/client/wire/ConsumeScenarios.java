package wire;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.UtilAll;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Push consumers. */
final class ConsumeScenarios {
    private ConsumeScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("push-concurrent", ConsumeScenarios::concurrent);
        all.put("push-orderly", ConsumeScenarios::orderly);
        all.put("push-broadcast", ConsumeScenarios::broadcast);
        all.put("push-tags", ConsumeScenarios::tags);
        all.put("push-batches", ConsumeScenarios::batches);
        all.put("push-two-topics", ConsumeScenarios::twoTopics);
        all.put("push-latency", ConsumeScenarios::latency);
        all.put("push-from-where", ConsumeScenarios::fromWhere);
        all.put("push-topic-later", ConsumeScenarios::topicLater);
        all.put("delay", ConsumeScenarios::delay);
        all.put("namespace", ConsumeScenarios::namespace);
        all.put("request-reply", ConsumeScenarios::requestReply);
    }

    private static DefaultMQPushConsumer push(Ctx ctx, String group, String topic, String tags, Inbox inbox)
        throws Exception {
        DefaultMQPushConsumer consumer = ctx.newPush(group);
        consumer.subscribe(topic, tags);
        consumer.registerMessageListener(inbox.concurrently());
        return ctx.started(consumer);
    }

    private static void concurrent(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 4);
        List<String> bodies = ctx.sendMany(topic, "before ", 100);
        Inbox inbox = new Inbox();
        push(ctx, ctx.name("g"), topic, "*", inbox);
        inbox.awaitOnce(ctx, 20_000, bodies);
        bodies.addAll(ctx.sendMany(topic, "while ", 100));
        inbox.awaitOnce(ctx, 20_000, bodies);
        for (MessageExt message : inbox.messages) {
            ctx.equal(topic, message.getTopic(), "the topic of a consumed message");
            ctx.equal(0, message.getReconsumeTimes(), "the reconsume times of a consumed message");
        }
    }

    private static void orderly(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 3);
        Map<Integer, Integer> running = new ConcurrentHashMap<>();
        AtomicInteger overlaps = new AtomicInteger();
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (batch, context) -> {
            int queue = context.getMessageQueue().getQueueId();
            if (running.merge(queue, 1, Integer::sum) > 1) {
                overlaps.incrementAndGet();
            }
            batch.forEach(inbox::add);
            running.merge(queue, -1, Integer::sum);
            return ConsumeOrderlyStatus.SUCCESS;
        });
        ctx.started(consumer);
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < 90; i++) {
            bodies.add(i % 3 + ":" + i / 3);
            ctx.producer().send(new Message(topic, Ctx.bytes(i % 3 + ":" + i / 3)),
                (queues, message, argument) -> queues.get((Integer) argument), i % 3);
        }
        inbox.awaitOnce(ctx, 30_000, bodies);
        Map<String, Integer> next = new HashMap<>();
        for (String body : inbox.bodies()) {
            String[] parts = body.split(":");
            ctx.equal(next.getOrDefault(parts[0], 0), Integer.valueOf(parts[1]), "the next message of queue " + parts[0]);
            next.merge(parts[0], 1, Integer::sum);
        }
        ctx.equal(0, overlaps.get(), "how often two listener calls of one queue ran at once");
    }

    private static void broadcast(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        String group = ctx.name("g");
        Inbox[] inboxes = {new Inbox(), new Inbox()};
        for (Inbox inbox : inboxes) {
            DefaultMQPushConsumer consumer = ctx.newPush(group);
            Ctx.setEnum(consumer, "setMessageModel", "BROADCASTING");
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener(inbox.concurrently());
            ctx.started(consumer);
        }
        List<String> bodies = ctx.sendMany(topic, "to all ", 40);
        for (Inbox inbox : inboxes) {
            inbox.awaitOnce(ctx, 20_000, bodies);
        }
    }

    private static void tags(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        Inbox aOrB = new Inbox();
        Inbox unicode = new Inbox();
        Inbox everything = new Inbox();
        push(ctx, ctx.name("ab"), topic, "A || B", aOrB);
        push(ctx, ctx.name("uni"), topic, "标签-é", unicode);
        push(ctx, ctx.name("all"), topic, "*", everything);
        List<String> all = new ArrayList<>();
        String[] tags = {"A", "B", "C", "标签-é", null, "AB"};
        for (int i = 0; i < 60; i++) {
            String tag = tags[i % tags.length];
            all.add(tag + "/" + i);
            ctx.send(new Message(topic, tag, Ctx.bytes(tag + "/" + i)));
        }
        everything.awaitOnce(ctx, 20_000, all);
        aOrB.awaitOnce(ctx, 20_000, all.stream().filter(body -> body.matches("[AB]/.*")).toList());
        unicode.awaitOnce(ctx, 20_000, all.stream().filter(body -> body.startsWith("标签-é/")).toList());
        // tags with the same hash code: the broker cannot tell them apart, the client must
        Inbox collision = new Inbox();
        push(ctx, ctx.name("col"), topic, "Aa", collision);
        ctx.send(new Message(topic, "BB", Ctx.bytes("not for you")));
        ctx.send(new Message(topic, "Aa", Ctx.bytes("for you")));
        collision.awaitOnce(ctx, 20_000, List.of("for you"));
    }

    private static void batches(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        List<String> bodies = ctx.sendMany(topic, "b", 100);
        Inbox inbox = new Inbox();
        AtomicInteger largest = new AtomicInteger();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.setConsumeMessageBatchMaxSize(16);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            largest.accumulateAndGet(batch.size(), Math::max);
            batch.forEach(inbox::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        ctx.started(consumer);
        inbox.awaitOnce(ctx, 20_000, bodies);
        ctx.equal(16, largest.get(), "the largest batch, with 100 messages waiting and a limit of 16,");
    }

    private static void twoTopics(Ctx ctx) throws Exception {
        String one = ctx.name("t1");
        String two = ctx.name("t2");
        ctx.createTopic(one, 1);
        ctx.createTopic(two, 2);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(one, "X");
        consumer.subscribe(two, "*");
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        ctx.send(new Message(one, "X", Ctx.bytes("one X")));
        ctx.send(new Message(one, "Y", Ctx.bytes("one Y")));
        ctx.send(new Message(two, "Y", Ctx.bytes("two Y")));
        inbox.awaitOnce(ctx, 15_000, List.of("one X", "two Y"));
    }

    /** A pull that waits on an empty queue is answered when a message comes. */
    private static void latency(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Inbox inbox = new Inbox();
        push(ctx, ctx.name("g"), topic, "*", inbox);
        ctx.send(new Message(topic, Ctx.bytes("warm up")));
        ctx.await(20_000, () -> inbox.size() == 1, "the first message arrives");
        List<Long> delays = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            int count = i + 2;
            long sent = System.nanoTime();
            ctx.send(new Message(topic, Ctx.bytes("now " + i)));
            ctx.await(10_000, () -> inbox.size() == count, "message %d arrives", i);
            delays.add((System.nanoTime() - sent) / 1_000_000);
        }
        delays.sort(null);
        ctx.put("delays_ms", delays);
        // a pull that nobody wakes is answered after seconds, each time
        ctx.check(delays.get(2) < 1000, "messages reach a waiting consumer at once, not after %s ms", delays);
    }

    /**
     * Groups seen for the first time. While a queue still has its first message and that message is in memory, the
     * broker may answer offset 0, and the client's setting does not matter: Apache does so when the page happens to
     * be loaded. So a group begins either at 0 or where the setting says, and loses nothing from there on.
     */
    private static void fromWhere(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        List<String> old = ctx.sendMany(topic, "old ", 5);
        // consumeTimestamp has a resolution of one second: put a second's border between old and new
        long border = (System.currentTimeMillis() / 1000 + 1) * 1000 + 100;
        ctx.await(5000, () -> System.currentTimeMillis() >= border, "the border second comes");
        List<String> later = ctx.sendMany(topic, "later ", 5);
        ConsumeFromWhere[] wheres = {ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            ConsumeFromWhere.CONSUME_FROM_TIMESTAMP, ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET};
        Inbox[] inboxes = {new Inbox(), new Inbox(), new Inbox()};
        for (int i = 0; i < 3; i++) {
            DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g" + i));
            consumer.setConsumeFromWhere(wheres[i]);
            consumer.setConsumeTimestamp(UtilAll.timeMillisToHumanString3(border));
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener(inboxes[i].concurrently());
            ctx.started(consumer);
            ctx.await(15_000, () -> !GroupScenarios.assigned(consumer, topic).isEmpty(), "the consumer has its queue");
        }
        List<String> all = new ArrayList<>(old);
        all.addAll(later);
        List<String> now = ctx.sendMany(topic, "now ", 5);
        all.addAll(now);
        inboxes[0].awaitOnce(ctx, 15_000, all);
        List<String> sinceBorder = new ArrayList<>(later);
        sinceBorder.addAll(now);
        List<List<String>> least = List.of(all, sinceBorder, now);
        for (int i = 1; i < 3; i++) {
            Inbox inbox = inboxes[i];
            List<String> wanted = least.get(i);
            // four threads consume: older messages may end after newer ones
            ctx.await(15_000, () -> inbox.distinct().containsAll(wanted)
                && (inbox.size() == wanted.size() || inbox.distinct().size() == all.size()),
                "a consumer with %s gets %s or everything", wheres[i], wanted);
            ctx.put(wheres[i].name(), inbox.size());
        }
    }

    /** Subscribed before the topic exists: found at a later route refresh. */
    private static void topicLater(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        Inbox inbox = new Inbox();
        push(ctx, ctx.name("g"), topic, "*", inbox);
        List<String> bodies = ctx.sendMany(topic, "later ", 10);
        inbox.awaitAll(ctx, 40_000, bodies);
    }

    /** messageDelayLevel of the test server starts "1s 2s". */
    private static void delay(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Inbox inbox = new Inbox();
        push(ctx, ctx.name("g"), topic, "*", inbox);
        ctx.send(new Message(topic, Ctx.bytes("warm up")));
        inbox.awaitOnce(ctx, 30_000, List.of("warm up"));
        long[] sent = new long[3];
        for (int level = 0; level <= 2; level++) {
            Message message = new Message(topic, "T" + level, "delayed-" + level, Ctx.bytes("level " + level));
            message.setDelayTimeLevel(level);
            message.putUserProperty("mine", "kept");
            sent[level] = System.currentTimeMillis();
            ctx.send(message);
        }
        inbox.awaitOnce(ctx, 20_000, List.of("warm up", "level 0", "level 1", "level 2"));
        // what the broker did: on a busy machine they may come together, and then the client's threads race
        List<MessageExt> delivered = new ArrayList<>(inbox.messages);
        delivered.sort(Comparator.comparingLong(MessageExt::getQueueOffset));
        for (int i = 1; i <= 3; i++) {
            MessageExt message = delivered.get(i);
            int level = Integer.parseInt(Ctx.text(message).substring(6));
            long took = message.getStoreTimestamp() - sent[level];
            ctx.equal(i - 1, level, "the level of message " + i + " to arrive");
            ctx.check(took >= level * 1000L - 20, "a message of level %d (%d s) does not come after %d ms", level, level, took);
            ctx.equal(topic, message.getTopic(), "the topic of the delivered message");
            ctx.equal("kept", message.getUserProperty("mine"), "the user property of the delivered message");
            ctx.equal("T" + level, message.getTags(), "the tag of the delivered message");
            ctx.equal("delayed-" + level, message.getKeys(), "the key of the delivered message");
        }
    }

    @SuppressWarnings("deprecation")
    private static void namespace(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        DefaultMQProducer producer = ctx.newProducer();
        producer.setNamespace("MQ_INST_wire");
        ctx.started(producer);
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            bodies.add("ns " + i);
            var result = ctx.stored(producer.send(new Message(topic, "T", "nskey" + i, Ctx.bytes("ns " + i))));
            ctx.equal(topic, result.getMessageQueue().getTopic(), "the topic in the send result");
        }
        Inbox inbox = new Inbox();
        AtomicInteger failures = new AtomicInteger();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.setNamespace("MQ_INST_wire");
        consumer.subscribe(topic, "T");
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            if (Ctx.text(batch.get(0)).equals("ns 3") && failures.getAndIncrement() == 0) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            batch.forEach(inbox::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        ctx.started(consumer);
        inbox.awaitOnce(ctx, 20_000, bodies);
        for (MessageExt message : inbox.messages) {
            ctx.equal(topic, message.getTopic(), "the topic without its namespace");
        }
        ctx.equal(10, ctx.readTopic("MQ_INST_wire%" + topic).size(), "what a client without namespace reads");
    }

    /** The callback form: the blocking form of client 5.3.3 is broken against every broker. */
    private static void requestReply(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        DefaultMQProducer replier = ctx.started(ctx.newProducer());
        List<String> errors = new CopyOnWriteArrayList<>();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            for (MessageExt message : batch) {
                try {
                    Message reply = MessageUtil.createReplyMessage(message, Ctx.bytes("re: " + Ctx.text(message)));
                    reply.putUserProperty("answered", "yes");
                    replier.send(reply, 15_000);
                } catch (Exception error) {
                    errors.add(error.toString());
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        ctx.started(consumer);
        DefaultMQProducer asker = ctx.started(ctx.newProducer());
        for (int i = 0; i < 3; i++) {
            CountDownLatch done = new CountDownLatch(1);
            AtomicReference<Message> answer = new AtomicReference<>();
            asker.request(new Message(topic, Ctx.bytes("question " + i)), new RequestCallback() {
                @Override
                public void onSuccess(Message message) {
                    // all client versions also call this, with null, when the request itself was stored
                    if (message != null) {
                        answer.set(message);
                        done.countDown();
                    }
                }

                @Override
                public void onException(Throwable error) {
                    errors.add(error.toString());
                    done.countDown();
                }
            }, 15_000);
            ctx.await(20_000, () -> done.getCount() == 0, "the request gets an answer");
            ctx.check(errors.isEmpty(), "no errors occur: %s", errors);
            ctx.equal("re: question " + i, Ctx.text(answer.get()), "the answer");
            ctx.equal("yes", answer.get().getProperty("answered"), "the user property of the answer");
        }
    }
}
