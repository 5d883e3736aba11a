package wire;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** Consumers with SQL92 filters. */
final class FilterScenarios {
    private static final String FILTER = "n BETWEEN 10 AND 29 AND (color = 'red' OR size IS NULL) AND TAGS IN ('A', 'B')";

    private FilterScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("filter-push", FilterScenarios::push);
        all.put("filter-retry", FilterScenarios::retry);
        all.put("filter-lite", FilterScenarios::lite);
        all.put("filter-pull", FilterScenarios::pull);
        all.put("filter-broken", FilterScenarios::broken);
    }

    /** Messages of which FILTER matches the bodies that are returned. */
    private static List<String> sendMixed(Ctx ctx, String topic, String prefix) throws Exception {
        List<String> wanted = new ArrayList<>();
        for (int i = 0; i < 40; i++) {
            String tag = new String[] {"A", "B", "C"}[i % 3];
            Message message = new Message(topic, tag, Ctx.bytes(prefix + i));
            message.putUserProperty("n", Integer.toString(i));
            message.putUserProperty("color", i % 4 == 0 ? "red" : "green");
            if (i % 2 == 0) {
                message.putUserProperty("size", "big");
            }
            if (i >= 10 && i <= 29 && (i % 4 == 0 || i % 2 != 0) && i % 3 != 2) {
                wanted.add(prefix + i);
            }
            ctx.send(message);
        }
        Message strange = new Message(topic, "A", Ctx.bytes(prefix + "strange"));
        strange.putUserProperty("n", "no number");
        ctx.send(strange);
        return wanted;
    }

    private static void push(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 3);
        List<String> wanted = sendMixed(ctx, topic, "before ");
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, MessageSelector.bySql(FILTER));
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        inbox.awaitOnce(ctx, 30_000, wanted);
        wanted.addAll(sendMixed(ctx, topic, "while "));
        inbox.awaitOnce(ctx, 30_000, wanted);
        // another filter from now on, as an application changes it while it runs
        consumer.subscribe(topic, MessageSelector.bySql("n = 7"));
        ctx.nudge(consumer);
        ctx.await(30_000, () -> {
            Message message = new Message(topic, "C", Ctx.bytes("seven"));
            message.putUserProperty("n", "7");
            ctx.send(message);
            return inbox.distinct().contains("seven");
        }, "the new filter lets pass what it should");
        ctx.check(inbox.bodies().stream().noneMatch(body -> body.contains("strange")),
            "a property that is no number matches no comparison");
    }

    /** A message that failed comes back whatever the filter says of the retry topic. */
    private static void retry(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Inbox inbox = new Inbox();
        AtomicBoolean failed = new AtomicBoolean();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, MessageSelector.bySql("n > 5"));
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            if (failed.compareAndSet(false, true)) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            messages.forEach(inbox::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        ctx.started(consumer);
        for (int i = 5; i < 7; i++) {
            Message message = new Message(topic, Ctx.bytes("r" + i));
            message.putUserProperty("n", Integer.toString(i));
            ctx.send(message);
        }
        inbox.awaitOnce(ctx, 40_000, List.of("r6"));
        ctx.equal(1, inbox.messages.get(0).getReconsumeTimes(), "the reconsume times of the message that came back");
    }

    private static void lite(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        DefaultLitePullConsumer consumer = ctx.newLite(ctx.name("g"));
        consumer.subscribe(topic, MessageSelector.bySql(FILTER));
        ctx.started(consumer);
        List<String> wanted = sendMixed(ctx, topic, "");
        Inbox inbox = new Inbox();
        inbox.awaitPolled(ctx, consumer, wanted);
        ctx.equal(wanted.size(), inbox.size(), "the number of polled messages, none twice and none too many,");
    }

    private static void pull(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        DefaultMQPullConsumer consumer = ctx.puller(ctx.name("g"));
        MessageQueue queue = consumer.fetchSubscribeMessageQueues(topic).iterator().next();
        List<String> wanted = sendMixed(ctx, topic, "");
        List<String> found = new ArrayList<>();
        // the client filters only once a heartbeat has told it the version of the broker
        ctx.await(20_000, () -> {
            try {
                consumer.pull(queue, MessageSelector.bySql("TRUE"), 0, 1);
                return true;
            } catch (MQClientException early) {
                return false;
            }
        }, "the client knows that the broker can filter");
        long offset = 0;
        while (offset < 41) {
            PullResult result = consumer.pull(queue, MessageSelector.bySql(FILTER), offset, 4);
            ctx.check(result.getNextBeginOffset() > offset, "a filtered pull at %d goes on, not to %d", offset,
                result.getNextBeginOffset());
            if (result.getPullStatus() == PullStatus.FOUND) {
                result.getMsgFoundList().forEach(message -> found.add(Ctx.text(message)));
            }
            offset = result.getNextBeginOffset();
        }
        ctx.equal(wanted, found, "the bodies that filtered pulls find");
        long scanned = 0;
        while (scanned < 41) { // a broker that is busy looks at a part only
            PullResult none = consumer.pull(queue, MessageSelector.bySql("n > 1000"), scanned, 4);
            ctx.equal(PullStatus.NO_MATCHED_MSG, none.getPullStatus(), "the status of a pull that matches nothing");
            ctx.check(none.getNextBeginOffset() > scanned, "a pull that matches nothing at %d goes on", scanned);
            scanned = none.getNextBeginOffset();
        }
        ctx.equal(41L, scanned, "where to go on after pulls that matched nothing");
    }

    private static void broken(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, MessageSelector.bySql("n >> 5"));
        consumer.registerMessageListener(new Inbox().concurrently());
        try {
            ctx.started(consumer);
        } catch (MQClientException error) {
            ctx.equal(23, error.getResponseCode(), "the code of a refused filter");
            ctx.check(error.getErrorMessage().contains("line 1, column 4"),
                "the error points at the place: %s", error.getErrorMessage());
            return;
        } finally {
            consumer.shutdown();
        }
        ctx.check(false, "a consumer with a filter that does not compile does not start");
    }
}
