package wire;

import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Light queues (LMQ), as RocketMQ's own examples use them: producers name them in a property of messages to an ordinary
 * topic, consumers learn from that topic's route where the broker is.
 */
final class LightScenarios {
    private static final String BROKER = "broker-a";

    private LightScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("light-pull", LightScenarios::pull);
        all.put("light-delayed", LightScenarios::delayed);
        all.put("light-push", LightScenarios::push);
        all.put("light-orderly", LightScenarios::orderly);
        all.put("light-lite", LightScenarios::lite);
        all.put("light-restart-phase1", LightScenarios::restart1);
        all.put("light-restart-phase2", LightScenarios::restart2);
        all.put("light-send", LightScenarios::sendSome);
        all.put("light-read", LightScenarios::readAll);
    }

    static MessageQueue light(Ctx ctx, String part) {
        return new MessageQueue("%LMQ%" + ctx.name(part), BROKER, 0);
    }

    static Message message(String topic, String body, MessageQueue... queues) {
        Message message = new Message(topic, "T" + body.length() % 2, body, Ctx.bytes(body));
        List<String> names = new ArrayList<>();
        for (MessageQueue queue : queues) {
            names.add(queue.getTopic());
        }
        message.putUserProperty("INNER_MULTI_DISPATCH", String.join(",", names));
        return message;
    }

    /** Sends {@code prefix + i} to the topic's queues in turn: each third only to a, only to b, to both. */
    private static void send(Ctx ctx, String topic, String prefix, int count, MessageQueue a, MessageQueue b,
        List<String> inA, List<String> inB) throws Exception {
        for (int i = 0; i < count; i++) {
            String body = prefix + i;
            switch (i % 3) {
                case 0 -> ctx.send(message(topic, body, a));
                case 1 -> ctx.send(message(topic, body, b));
                default -> ctx.send(message(topic, body, a, b));
            }
            if (i % 3 != 1) {
                inA.add(body);
            }
            if (i % 3 != 0) {
                inB.add(body);
            }
        }
    }

    /** Tells a client where light queues are: there is no route of them, but one of the topic of their messages. */
    @SuppressWarnings("unchecked")
    static void know(Ctx ctx, MQClientInstance client, String topic, MessageQueue... queues) throws Exception {
        ctx.await(10_000, () -> {
            client.updateTopicRouteInfoFromNameServer(topic);
            return client.findBrokerAddressInPublish(BROKER) != null;
        }, "the route of %s names the broker", topic);
        Map<String, Object> routes = (Map<String, Object>) inside(client, "topicRouteTable");
        for (MessageQueue queue : queues) {
            routes.put(queue.getTopic(), routes.get(topic));
        }
        client.sendHeartbeatToAllBrokerWithLock();
    }

    private static Object inside(Object client, String name) throws Exception {
        Field field = client.getClass().getDeclaredField(name);
        field.setAccessible(true);
        return field.get(client);
    }

    private static DefaultMQPullConsumer puller(Ctx ctx, String group, String topic) throws Exception {
        DefaultMQPullConsumer consumer = ctx.puller(group);
        know(ctx, consumer.getDefaultMQPullConsumerImpl().getRebalanceImpl().getmQClientFactory(), topic);
        return consumer;
    }

    private static List<MessageExt> read(Ctx ctx, DefaultMQPullConsumer consumer, MessageQueue queue, String filter,
        long from) throws Exception {
        List<MessageExt> found = new ArrayList<>();
        long offset = from;
        while (offset < consumer.maxOffset(queue)) {
            PullResult result = consumer.pull(queue, filter, offset, 7);
            if (result.getPullStatus() == PullStatus.FOUND) {
                found.addAll(result.getMsgFoundList());
            } else {
                ctx.equal(PullStatus.NO_MATCHED_MSG, result.getPullStatus(), "the answer to a pull");
            }
            offset = result.getNextBeginOffset();
        }
        return found;
    }

    private static List<String> bodies(List<MessageExt> messages) {
        List<String> bodies = new ArrayList<>();
        messages.forEach(message -> bodies.add(Ctx.text(message)));
        return bodies;
    }

    private static void pull(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = "%LMQ%" + ctx.name("g");
        ctx.createTopic(topic, 3);
        MessageQueue a = light(ctx, "a");
        MessageQueue b = light(ctx, "b");
        List<String> inA = new ArrayList<>();
        List<String> inB = new ArrayList<>();
        send(ctx, topic, "m", 30, a, b, inA, inB);
        ctx.equal(30, ctx.readTopic(topic).size(), "the number of messages in their own topic");
        DefaultMQPullConsumer consumer = puller(ctx, group, topic);
        ctx.equal(0L, consumer.minOffset(a), "the min offset of a");
        ctx.equal(20L, consumer.maxOffset(a), "the max offset of a");
        ctx.equal(0L, consumer.maxOffset(light(ctx, "never")), "the max offset of a queue never used");
        List<MessageExt> found = read(ctx, consumer, a, "*", 0);
        ctx.equal(inA, bodies(found), "what a holds");
        ctx.equal(inB, bodies(read(ctx, consumer, b, "*", 0)), "what b holds");
        ctx.equal(inB.subList(5, 20), bodies(read(ctx, consumer, b, "*", 5)), "what b holds from 5 on");
        List<String> tagged = inA.stream().filter(body -> body.length() == 3).toList();
        ctx.equal(tagged, bodies(read(ctx, consumer, a, "T1", 0)), "what a holds of one tag");
        ctx.equal(found.get(0).getStoreTimestamp(), consumer.earliestMsgStoreTime(a), "the earliest store time of a");
        long tenth = consumer.searchOffset(a, found.get(10).getStoreTimestamp());
        ctx.check(tenth <= 10 && found.get((int) tenth).getStoreTimestamp() == found.get(10).getStoreTimestamp(),
            "the search by time finds the eleventh message, or one of the same time, not %d", tenth);
        consumer.updateConsumeOffset(a, 12);
        consumer.updateConsumeOffset(b, 3);
        consumer.getOffsetStore().persistAll(new HashSet<>(Set.of(a, b)));
        DefaultMQPullConsumer next = puller(ctx, group, topic);
        for (Map.Entry<MessageQueue, Long> entry : Map.of(a, 12L, b, 3L).entrySet()) {
            ctx.await(10_000, () -> next.fetchConsumeOffset(entry.getKey(), true) == entry.getValue(),
                "another member of the group reads the offset of %s", entry.getKey());
        }
        ctx.equal(inA.subList(12, 20), bodies(read(ctx, next, a, "*", next.fetchConsumeOffset(a, true))),
            "what is left in a for the next member");
        CompletableFuture<PullResult> waiting = CompletableFuture.supplyAsync(() -> {
            try {
                return next.pullBlockIfNotFound(a, "*", 20, 32);
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        });
        ctx.send(message(topic, "late", a));
        PullResult result = waiting.get(20, TimeUnit.SECONDS);
        ctx.equal(PullStatus.FOUND, result.getPullStatus(), "the answer to a pull that waited");
        ctx.equal(List.of("late"), bodies(result.getMsgFoundList()), "what a pull waited for");
        ctx.equal(21L, result.getNextBeginOffset(), "where it goes on");
    }

    private static void delayed(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        MessageQueue a = light(ctx, "a");
        Message message = message(topic, "late", a);
        message.setDelayTimeLevel(1);
        ctx.send(message);
        DefaultMQPullConsumer consumer = puller(ctx, ctx.name("g"), topic);
        ctx.equal(0L, consumer.maxOffset(a), "the max offset while the message waits");
        ctx.await(20_000, () -> consumer.maxOffset(a) == 1, "the message gets into its light queue");
        ctx.equal(List.of("late"), bodies(read(ctx, consumer, a, "*", 0)), "what a holds");
    }

    private static DefaultMQPushConsumer member(Ctx ctx, String topic, MessageQueue queue, Inbox inbox,
        Set<String> failing) throws Exception {
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.setPullTimeDelayMillsWhenException(500);
        consumer.subscribe(queue.getTopic(), "*");
        // what is done is committed also when one after it is not
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            if (failing.remove(Ctx.text(batch.get(0)))) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            batch.forEach(inbox::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        join(ctx, consumer, topic, queue);
        return consumer;
    }

    private static void join(Ctx ctx, DefaultMQPushConsumer consumer, String topic, MessageQueue queue) throws Exception {
        ctx.started(consumer);
        know(ctx, consumer.getDefaultMQPushConsumerImpl().getmQClientFactory(), topic, queue);
        consumer.getDefaultMQPushConsumerImpl().updateTopicSubscribeInfo(queue.getTopic(), new HashSet<>(Set.of(queue)));
        consumer.getDefaultMQPushConsumerImpl().getmQClientFactory().rebalanceImmediately();
    }

    /** Members of a group on one of two light queues, one after the other; one message is tried again. */
    private static void push(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 3);
        MessageQueue a = light(ctx, "a");
        MessageQueue b = light(ctx, "b");
        List<String> inA = new ArrayList<>();
        List<String> inB = new ArrayList<>();
        send(ctx, topic, "m", 30, a, b, inA, inB);
        Inbox inbox = new Inbox();
        Set<String> failing = java.util.concurrent.ConcurrentHashMap.newKeySet();
        failing.add("m5");
        DefaultMQPushConsumer first = member(ctx, topic, b, inbox, failing);
        inbox.awaitOnce(ctx, 40_000, inB);
        for (MessageExt message : inbox.messages) {
            ctx.equal(Ctx.text(message).equals("m5") ? 1 : 0, message.getReconsumeTimes(),
                "the reconsume times of " + Ctx.text(message));
            if (message.getReconsumeTimes() == 0) {
                ctx.equal((long) inB.indexOf(Ctx.text(message)), message.getQueueOffset(), "the offset of a message");
            }
        }
        first.shutdown();
        List<String> rest = new ArrayList<>();
        send(ctx, topic, "n", 30, a, b, inA, rest);
        Inbox after = new Inbox();
        member(ctx, topic, b, after, failing);
        after.awaitOnce(ctx, 40_000, rest);
        DefaultMQPullConsumer other = puller(ctx, ctx.name("g"), topic);
        ctx.await(10_000, () -> other.fetchConsumeOffset(b, true) == 40, "the group commits the end of b");
    }

    private static void orderly(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 4);
        MessageQueue a = light(ctx, "a");
        MessageQueue b = light(ctx, "b");
        List<String> inA = new ArrayList<>();
        List<String> inB = new ArrayList<>();
        send(ctx, topic, "m", 60, a, b, inA, inB);
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(a.getTopic(), "*");
        Inbox inbox = new Inbox();
        consumer.registerMessageListener(inbox.orderly());
        join(ctx, consumer, topic, a);
        inbox.awaitOnce(ctx, 40_000, inA);
        ctx.equal(inA, inbox.bodies(), "the order of deliveries");
    }

    private static void lite(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 3);
        MessageQueue a = light(ctx, "a");
        MessageQueue b = light(ctx, "b");
        List<String> inA = new ArrayList<>();
        List<String> inB = new ArrayList<>();
        List<String> rest = new ArrayList<>();
        send(ctx, topic, "m", 30, a, b, inA, inB);
        for (List<String> wanted : List.of(inA, rest)) {
            DefaultLitePullConsumer consumer = ctx.newLite(ctx.name("g"));
            consumer.setAutoCommit(false);
            ctx.started(consumer);
            know(ctx, (MQClientInstance) inside(inside(consumer, "defaultLitePullConsumerImpl"), "mQClientFactory"), topic);
            consumer.assign(List.of(a));
            Inbox inbox = new Inbox();
            inbox.awaitPolled(ctx, consumer, wanted);
            ctx.equal(wanted, inbox.bodies(), "what was polled, in its order and none twice,");
            long end = wanted == inA ? 20 : 40;
            consumer.commitSync();
            consumer.getOffsetStore().persistAll(new HashSet<>(Set.of(a)));
            ctx.await(10_000, () -> consumer.committed(a) == end, "the committed offset is %d", end);
            consumer.shutdown();
            if (wanted == inA) {
                send(ctx, topic, "n", 30, a, b, rest, inB);
            }
        }
    }

    private static void restart1(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 3);
        List<String> inB = new ArrayList<>();
        send(ctx, topic, "m", 30, light(ctx, "a"), light(ctx, "b"), new ArrayList<>(), inB);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = member(ctx, topic, light(ctx, "b"), inbox, new HashSet<>());
        inbox.awaitOnce(ctx, 40_000, inB);
        consumer.shutdown();
        send(ctx, topic, "n", 30, light(ctx, "a"), light(ctx, "b"), new ArrayList<>(), new ArrayList<>());
    }

    private static void restart2(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        List<String> rest = new ArrayList<>();
        for (int i = 0; i < 30; i++) {
            if (i % 3 != 0) {
                rest.add("n" + i);
            }
        }
        Inbox inbox = new Inbox();
        member(ctx, topic, light(ctx, "b"), inbox, new HashSet<>());
        inbox.awaitOnce(ctx, 40_000, rest);
        ctx.send(message(topic, "after", light(ctx, "b")));
        rest.add("after");
        inbox.awaitOnce(ctx, 20_000, rest);
        DefaultMQPullConsumer other = puller(ctx, ctx.name("g"), topic);
        ctx.equal(41L, other.maxOffset(light(ctx, "b")), "the end of b");
    }

    // ---- single jobs for a test that judges by itself

    private static List<MessageQueue> named(Ctx ctx) {
        List<MessageQueue> queues = new ArrayList<>();
        for (String name : ctx.param("queues", "").split(",")) {
            queues.add(new MessageQueue("%LMQ%" + name, BROKER, 0));
        }
        return queues;
    }

    /** Sends {@code prefix + i} to a topic: to one, two, three, ... of the named light queues in turn. */
    private static void sendSome(Ctx ctx) throws Exception {
        List<MessageQueue> queues = named(ctx);
        List<Object> sent = new ArrayList<>();
        for (int i = 0; i < ctx.number("count", 10); i++) {
            List<MessageQueue> some = queues.subList(0, i % queues.size() + 1);
            String body = ctx.param("prefix", "m") + i;
            ctx.send(message(ctx.param("topic", null), body, some.toArray(new MessageQueue[0])));
            sent.add(body);
        }
        ctx.put("sent", sent);
    }

    /**
     * Per light queue: its ends, all its messages, the group's offset; and what that is set to if "commit" says so.
     */
    private static void readAll(Ctx ctx) throws Exception {
        DefaultMQPullConsumer consumer = puller(ctx, ctx.param("group", null), ctx.param("topic", null));
        Map<String, Object> rows = new java.util.TreeMap<>();
        for (MessageQueue queue : named(ctx)) {
            List<Object> messages = new ArrayList<>();
            for (MessageExt message : read(ctx, consumer, queue, "*", consumer.minOffset(queue))) {
                messages.add(List.of(Ctx.text(message), message.getCommitLogOffset(), message.getTags(), message.getMsgId()));
            }
            Map<String, Object> row = new java.util.TreeMap<>();
            row.put("min", consumer.minOffset(queue));
            row.put("max", consumer.maxOffset(queue));
            row.put("messages", messages);
            row.put("consumed", consumer.fetchConsumeOffset(queue, true));
            long commit = ctx.number("commit", -1);
            if (commit >= 0) {
                consumer.updateConsumeOffset(queue, commit);
                consumer.getOffsetStore().persistAll(new HashSet<>(Set.of(queue)));
                ctx.await(10_000, () -> consumer.fetchConsumeOffset(queue, true) == commit, "the offset is kept");
            }
            rows.put(queue.getTopic(), row);
        }
        ctx.put("queues", rows);
    }
}
