package wire;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Pairs of scenarios with a restart of the server between phase 1 and phase 2. */
final class RestartScenarios {
    /** What a phase 2 knows of its phase 1: run and scenario to state. */
    private static final Map<String, Object> KEPT = new ConcurrentHashMap<>();

    private RestartScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("restart-offsets-phase1", RestartScenarios::offsets1);
        all.put("restart-offsets-phase2", RestartScenarios::offsets2);
        all.put("restart-store-phase1", RestartScenarios::store1);
        all.put("restart-store-phase2", RestartScenarios::store2);
        all.put("restart-delay-phase1", RestartScenarios::delay1);
        all.put("restart-delay-phase2", RestartScenarios::delay2);
        all.put("restart-orderly-phase1", RestartScenarios::orderly1);
        all.put("restart-orderly-phase2", RestartScenarios::orderly2);
        all.put("restart-live-phase1", RestartScenarios::live1);
        all.put("restart-live-phase2", RestartScenarios::live2);
    }

    private static void keep(Ctx ctx, Object state) {
        KEPT.put(ctx.name("state"), state);
    }

    @SuppressWarnings("unchecked")
    private static <T> T kept(Ctx ctx) {
        Object state = KEPT.remove(ctx.name("state"));
        ctx.check(state != null, "phase 1 of this scenario went well");
        return (T) state;
    }

    private static DefaultMQPushConsumer consumer(Ctx ctx, String topic, boolean orderly, Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name(orderly ? "go" : "g"));
        consumer.setPullTimeDelayMillsWhenException(500);
        consumer.subscribe(topic, "*");
        if (orderly) {
            consumer.registerMessageListener(inbox.orderly());
        } else {
            consumer.registerMessageListener(inbox.concurrently());
        }
        ctx.nudge(consumer);
        consumer.start();
        return consumer;
    }

    private static void offsets1(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 3);
        List<String> consumed = ctx.sendMany(topic, "consumed ", 30);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(ctx, topic, false, inbox);
        try {
            inbox.awaitOnce(ctx, 20_000, consumed);
        } finally {
            consumer.shutdown();
        }
        keep(ctx, ctx.sendMany(topic, "waiting ", 12));
    }

    private static void offsets2(Ctx ctx) throws Exception {
        List<String> waiting = kept(ctx);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(ctx, ctx.name("t"), false, inbox);
        ctx.closing(consumer::shutdown);
        inbox.awaitOnce(ctx, 30_000, waiting);
    }

    private record Stored(SendResult result, String body) {
    }

    private static void store1(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 5);
        List<Stored> all = new ArrayList<>();
        for (int i = 0; i < 30; i++) {
            String body = "stored " + i + " ✓".repeat(i * 10);
            all.add(new Stored(ctx.send(new Message(topic, "T" + i % 2, "skey" + i, Ctx.bytes(body))), body));
        }
        keep(ctx, all);
    }

    private static void store2(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        List<Stored> all = kept(ctx);
        ctx.equal(5, ctx.queues(topic).size(), "the number of queues after the restart");
        Map<MessageQueue, Long> next = new HashMap<>();
        for (int i = 0; i < all.size(); i++) {
            Stored stored = all.get(i);
            next.merge(stored.result.getMessageQueue(), 1L, Long::sum);
            String key = "skey" + i;
            ctx.equal(stored.body, Ctx.text(ctx.producer().viewMessage(topic, stored.result.getOffsetMsgId())),
                "the body at offset id " + stored.result.getOffsetMsgId());
            ctx.await(10_000, () -> QueryScenarios.query(ctx.producer(), topic, key, 32, 0, Long.MAX_VALUE).size() == 1,
                "a query finds %s after the restart", key);
        }
        for (MessageQueue queue : ctx.queues(topic)) {
            ctx.equal(0L, ctx.producer().minOffset(queue), "the min offset of " + queue);
            ctx.equal(next.get(queue), ctx.producer().maxOffset(queue), "the max offset of " + queue);
        }
        Map<String, String> byId = new HashMap<>();
        for (MessageExt message : ctx.readTopic(topic, 30)) {
            byId.put(message.getMsgId(), Ctx.text(message));
        }
        for (Stored stored : all) {
            ctx.equal(stored.body, byId.get(stored.result.getMsgId()), "the body pulled for " + stored.result.getMsgId());
        }
        SendResult more = ctx.send(new Message(topic, Ctx.bytes("after")));
        ctx.equal(next.get(more.getMessageQueue()), more.getQueueOffset(), "the queue offset of the next message");
    }

    private static void delay1(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        for (int level = 1; level <= 2; level++) {
            Message message = new Message(topic, Ctx.bytes("level " + level));
            message.setDelayTimeLevel(level);
            ctx.send(message);
        }
        keep(ctx, List.of("level 1", "level 2"));
    }

    private static void delay2(Ctx ctx) throws Exception {
        List<String> bodies = kept(ctx);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(ctx, ctx.name("t"), false, inbox);
        ctx.closing(consumer::shutdown);
        inbox.awaitAll(ctx, 30_000, bodies);
    }

    /** Two members of an orderly group on one queue; before the restart one message is tried again and again. */
    private static void orderly1(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        DefaultMQProducer producer = ctx.newProducer();
        producer.start();
        Inbox inbox = new Inbox();
        AtomicBoolean stuck = new AtomicBoolean(true);
        List<DefaultMQPushConsumer> members = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("go"));
            consumer.setPullTimeDelayMillsWhenException(500);
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener((MessageListenerOrderly) (batch, context) -> {
                context.setSuspendCurrentQueueTimeMillis(100);
                if (stuck.get() && Ctx.text(batch.get(0)).equals("before 5")) {
                    return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                }
                batch.forEach(inbox::add);
                return ConsumeOrderlyStatus.SUCCESS;
            });
            ctx.nudge(consumer);
            consumer.start();
            members.add(consumer);
        }
        List<String> sent = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            ctx.stored(producer.send(new Message(topic, Ctx.bytes("before " + i))));
            sent.add("before " + i);
        }
        ctx.await(30_000, () -> inbox.distinct().size() == 5, "the group comes as far as the message that fails");
        keep(ctx, new Orderly(producer, members, inbox, stuck, sent));
    }

    private static void orderly2(Ctx ctx) throws Exception {
        Orderly live = kept(ctx);
        ctx.closing(live.producer::shutdown);
        live.members.forEach(consumer -> {
            ctx.nudge(consumer);
            ctx.closing(consumer::shutdown);
        });
        live.stuck.set(false);
        sendAgain(ctx, live.producer, live.sent);
        live.inbox.awaitAll(ctx, 45_000, live.sent);
        // messages consumed but not committed before the restart may come again; none comes before an earlier one
        ctx.equal(live.sent, live.inbox.bodies().stream().distinct().toList(), "the order of first deliveries");
    }

    private record Orderly(DefaultMQProducer producer, List<DefaultMQPushConsumer> members, Inbox inbox,
                           AtomicBoolean stuck, List<String> sent) {
    }

    /** The first sends after a restart may fail. */
    private static void sendAgain(Ctx ctx, DefaultMQProducer producer, List<String> sent) throws Exception {
        for (int i = 0; i < 10; i++) {
            Message message = new Message(ctx.name("t"), Ctx.bytes("after " + i));
            ctx.await(30_000, () -> {
                try {
                    ctx.stored(producer.send(message));
                    return true;
                } catch (MQClientException | org.apache.rocketmq.remoting.exception.RemotingException notYet) {
                    return false;
                }
            }, "the producer can send again after the restart");
            sent.add("after " + i);
        }
    }

    private record Live(DefaultMQProducer producer, List<DefaultMQPushConsumer> consumers, Inbox plain, Inbox ordered,
                        List<String> sent) {
    }

    private static void live1(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        DefaultMQProducer producer = ctx.newProducer();
        producer.start();
        Inbox plain = new Inbox();
        Inbox ordered = new Inbox();
        List<DefaultMQPushConsumer> consumers = List.of(
            consumer(ctx, topic, false, plain), consumer(ctx, topic, true, ordered));
        List<String> sent = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            ctx.stored(producer.send(new Message(topic, Ctx.bytes("before " + i))));
            sent.add("before " + i);
        }
        plain.awaitOnce(ctx, 20_000, sent);
        ordered.awaitOnce(ctx, 20_000, sent);
        keep(ctx, new Live(producer, consumers, plain, ordered, sent));
    }

    /** The same clients, which have seen their connections break. */
    private static void live2(Ctx ctx) throws Exception {
        Live live = kept(ctx);
        ctx.closing(live.producer::shutdown);
        live.consumers.forEach(consumer -> ctx.closing(consumer::shutdown));
        sendAgain(ctx, live.producer, live.sent);
        live.plain.awaitAll(ctx, 45_000, live.sent);
        live.ordered.awaitAll(ctx, 45_000, live.sent);
    }
}
