package wire;

import java.io.FileOutputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.message.Message;

/** Strict order: one queue, one consumer at a time, whoever it is. */
final class OrderScenarios {
    private OrderScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("order-handover", OrderScenarios::handover);
        all.put("order-shared-group", OrderScenarios::sharedGroup);
        all.put("order-journal", OrderScenarios::journal);
    }

    private static final class Queue {
        final Inbox inbox = new Inbox();
        final AtomicInteger running = new AtomicInteger();
        final AtomicInteger overlaps = new AtomicInteger();

        MessageListenerOrderly listener() {
            return (batch, context) -> {
                if (running.incrementAndGet() > 1) {
                    overlaps.incrementAndGet();
                }
                batch.forEach(inbox::add);
                running.decrementAndGet();
                return ConsumeOrderlyStatus.SUCCESS;
            };
        }
    }

    private static DefaultMQPushConsumer join(Ctx ctx, String topic, Queue queue) throws Exception {
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(queue.listener());
        return ctx.started(consumer);
    }

    private static void check(Ctx ctx, Queue queue, List<String> sent) throws Exception {
        queue.inbox.awaitAll(ctx, 40_000, sent);
        ctx.equal(sent, queue.inbox.bodies().stream().distinct().toList(), "the order of first deliveries");
        ctx.equal(0, queue.overlaps.get(), "how often two listener calls ran at once");
    }

    /** Each member leaves and the next one goes on. */
    private static void handover(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Queue queue = new Queue();
        List<String> sent = new ArrayList<>();
        for (int turn = 0; turn < 3; turn++) {
            DefaultMQPushConsumer member = join(ctx, topic, queue);
            sent.addAll(ctx.sendMany(topic, "turn " + turn + "/", 20));
            check(ctx, queue, sent);
            member.shutdown();
        }
    }

    /** Two members, one queue: one of them works, the other one waits. */
    private static void sharedGroup(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Queue queue = new Queue();
        join(ctx, topic, queue);
        List<String> sent = new ArrayList<>(ctx.sendMany(topic, "alone ", 20));
        check(ctx, queue, sent);
        DefaultMQPushConsumer second = join(ctx, topic, queue);
        sent.addAll(ctx.sendMany(topic, "both ", 40));
        check(ctx, queue, sent);
        second.shutdown();
        sent.addAll(ctx.sendMany(topic, "alone again ", 20));
        check(ctx, queue, sent);
    }

    /**
     * A member that stays until the program ends or is killed, and writes down when it begins and ends each message:
     * {@code name TAB begin|end TAB body TAB ms} in one write each.
     */
    private static void journal(Ctx ctx) throws Exception {
        String topic = ctx.param("topic", null);
        String name = ctx.param("member", null);
        FileOutputStream file = new FileOutputStream(ctx.param("journal", null), true);
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.param("group", null));
        consumer.setHeartbeatBrokerInterval(1000);
        consumer.setPullTimeDelayMillsWhenException(200);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (batch, context) -> {
            try {
                for (Message message : batch) {
                    for (String step : List.of("begin", "end")) {
                        file.write(Ctx.bytes(name + "\t" + step + "\t" + Ctx.text(message) + "\t"
                            + System.currentTimeMillis() + "\n"));
                        Thread.sleep(10); // work that takes its time: what overlaps is seen
                    }
                }
                return ConsumeOrderlyStatus.SUCCESS;
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        });
        consumer.start();
    }
}
