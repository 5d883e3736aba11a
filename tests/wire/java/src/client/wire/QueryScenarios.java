package wire;

import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Finding messages: by key, by unique key, by offset id, by time. */
final class QueryScenarios {
    private QueryScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("query-key", QueryScenarios::byKey);
        all.put("query-many-keys", QueryScenarios::manyKeys);
        all.put("query-unique-key", QueryScenarios::byUniqueKey);
        all.put("query-offset-id", QueryScenarios::byOffsetId);
        all.put("query-offsets", QueryScenarios::offsets);
        all.put("trace", QueryScenarios::trace);
    }

    /** What a key query finds; empty when the client throws because nothing was found. */
    static List<MessageExt> query(DefaultMQProducer producer, String topic, String key, int most, long begin, long end)
        throws Exception {
        try {
            return producer.queryMessage(topic, key, most, begin, end).getMessageList();
        } catch (MQClientException nothing) {
            return List.of();
        }
    }

    private static void awaitKey(Ctx ctx, String topic, String key, int count) throws Exception {
        ctx.await(15_000, () -> query(ctx.producer(), topic, key, 64, 0, Long.MAX_VALUE).size() == count,
            "a query for key %s of %s finds %d messages", key, topic, count);
    }

    private static void byKey(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String other = ctx.name("u");
        ctx.createTopic(topic, 3);
        ctx.createTopic(other, 1);
        long begin = System.currentTimeMillis();
        for (int i = 0; i < 12; i++) {
            ctx.send(new Message(topic, "Tag", "order" + i % 3 + " ключ-" + i, Ctx.bytes("body " + i)));
        }
        ctx.send(new Message(other, null, "order0", Ctx.bytes("the other topic")));
        awaitKey(ctx, topic, "order0", 4);
        long end = System.currentTimeMillis() + 1;
        Set<String> bodies = new HashSet<>();
        for (MessageExt message : query(ctx.producer(), topic, "order0", 64, 0, Long.MAX_VALUE)) {
            bodies.add(Ctx.text(message));
            ctx.equal(topic, message.getTopic(), "the topic of a found message");
        }
        ctx.equal(Set.of("body 0", "body 3", "body 6", "body 9"), bodies, "the bodies found by key order0");
        awaitKey(ctx, topic, "ключ-7", 1);
        awaitKey(ctx, other, "order0", 1);
        ctx.equal("body 7", Ctx.text(query(ctx.producer(), topic, "ключ-7", 32, 0, Long.MAX_VALUE).get(0)),
            "the body found by a Cyrillic key");
        ctx.equal(0, query(ctx.producer(), topic, "order", 32, 0, Long.MAX_VALUE).size(), "what a prefix of a key finds");
        ctx.equal(2, query(ctx.producer(), topic, "order1", 2, 0, Long.MAX_VALUE).size(), "what maxNum=2 finds");
        ctx.equal(4, query(ctx.producer(), topic, "order1", 32, begin - 1000, end + 1000).size(),
            "what a query within the time range finds");
        ctx.equal(0, query(ctx.producer(), topic, "order1", 32, begin - 7_200_000, begin - 3_600_000).size(),
            "what a query of an hour ago finds");
    }

    private static void manyKeys(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        StringBuilder keys = new StringBuilder();
        for (int i = 0; i < 100; i++) {
            keys.append(i == 0 ? "" : " ").append("k").append(i);
        }
        Message message = new Message(topic, Ctx.bytes("a hundred keys"));
        message.setKeys(keys.toString());
        ctx.send(message);
        for (int i = 0; i < 100; i += 11) {
            awaitKey(ctx, topic, "k" + i, 1);
        }
        for (int i = 0; i < 40; i++) {
            ctx.send(new Message(topic, null, "same", Ctx.bytes("same " + i)));
        }
        awaitKey(ctx, topic, "same", 40);
    }

    private static void byUniqueKey(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        SendResult first = ctx.send(new Message(topic, "Tag", "k", Ctx.bytes("first")));
        SendResult second = ctx.send(new Message(topic, "Tag", "k", Ctx.bytes("second")));
        ctx.await(15_000, () -> viewOrNull(ctx, topic, second.getMsgId()) != null, "the second msgId is found");
        MessageExt message = viewOrNull(ctx, topic, first.getMsgId());
        ctx.check(message != null, "the first msgId is found when the second one is");
        ctx.equal("first", Ctx.text(message), "the body found by msgId");
        ctx.equal(first.getMsgId(), message.getMsgId(), "the msgId of what is found");
        ctx.equal(null, viewOrNull(ctx, topic, "0".repeat(31) + "1"), "what an unknown msgId finds");
    }

    private static MessageExt viewOrNull(Ctx ctx, String topic, String id) throws Exception {
        try {
            return ctx.producer().viewMessage(topic, id);
        } catch (MQClientException | MQBrokerException notFound) {
            return null;
        }
    }

    private static void byOffsetId(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        SendResult result = ctx.send(new Message(topic, "TagÄ", "k1 k2", Ctx.bytes("view me – ü")));
        MessageExt message = ctx.producer().viewMessage(topic, result.getOffsetMsgId());
        ctx.equal("view me – ü", Ctx.text(message), "the body at the offset id");
        ctx.equal(topic, message.getTopic(), "the topic at the offset id");
        ctx.equal("TagÄ", message.getTags(), "the tag at the offset id");
        ctx.equal(result.getQueueOffset(), message.getQueueOffset(), "the queue offset at the offset id");
        String id = result.getOffsetMsgId();
        String beyond = id.substring(0, 16) + "00FFFFFFFFFFFFFF";
        ctx.equal(null, viewOrNull(ctx, topic, beyond), "what an offset id far beyond the log finds");
    }

    private static void offsets(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        MessageQueue queue = ctx.queues(topic).get(0);
        DefaultMQProducer producer = ctx.producer();
        ctx.equal(0L, producer.maxOffset(queue), "maxOffset of an empty queue");
        ctx.equal(0L, producer.minOffset(queue), "minOffset of an empty queue");
        long[] stored = new long[6];
        for (int i = 0; i < 6; i++) {
            ctx.send(new Message(topic, Ctx.bytes("m" + i)));
            int count = i + 1;
            ctx.await(5000, () -> producer.maxOffset(queue) == count, "maxOffset becomes %d", count);
            stored[i] = ctx.readQueue(queue, "*").get(i).getStoreTimestamp();
            ctx.await(5000, () -> System.currentTimeMillis() > stored[count - 1] + 30, "the clock moves");
        }
        ctx.equal(0L, producer.minOffset(queue), "minOffset");
        ctx.equal(stored[0], producer.earliestMsgStoreTime(queue), "the store time of the earliest message");
        for (int i = 0; i < 6; i++) {
            ctx.equal((long) i, producer.searchOffset(queue, stored[i]), "searchOffset at the store time of message " + i);
        }
        ctx.equal(0L, producer.searchOffset(queue, stored[0] - 60_000), "searchOffset before the first message");
        ctx.equal(6L, producer.searchOffset(queue, System.currentTimeMillis() + 60_000), "searchOffset in the future");
        ctx.equal(4L, producer.searchOffset(queue, stored[3] + 15), "searchOffset between messages 3 and 4");
    }

    /** Message trace of a producer and a consumer, found by the msgId as the key. */
    private static void trace(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        ctx.onlyTracer();
        DefaultMQProducer producer = ctx.address(new DefaultMQProducer("P_" + ctx.name("traced"), true, null));
        producer.start();
        Inbox inbox = new Inbox();
        var consumer = ctx.address(new org.apache.rocketmq.client.consumer.DefaultMQPushConsumer(
            ctx.name("g"), null, new org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely(), true,
            null));
        consumer.setConsumeFromWhere(org.apache.rocketmq.common.consumer.ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.concurrently());
        consumer.start();
        try {
            String id = ctx.stored(producer.send(new Message(topic, "T", "traced-key", Ctx.bytes("trace me")))).getMsgId();
            inbox.awaitAll(ctx, 15_000, List.of("trace me"));
            ctx.await(30_000, () -> {
                String all = "";
                for (MessageExt found : query(ctx.producer(), "RMQ_SYS_TRACE_TOPIC", id, 32, 0, Long.MAX_VALUE)) {
                    all += Ctx.text(found);
                }
                return all.contains("Pub\001") && all.contains(topic) && all.contains(id)
                    && all.contains("SubBefore\001") && all.contains("SubAfter\001");
            }, "the trace topic has Pub, SubBefore and SubAfter records under the key %s", id);
        } finally {
            consumer.shutdown();
            producer.shutdown();
        }
    }
}
