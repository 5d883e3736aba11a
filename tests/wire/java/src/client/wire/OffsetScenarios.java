package wire;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.common.message.MessageQueue;

/** Offsets that tools move and look at. */
final class OffsetScenarios {
    private OffsetScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("offset-reset-online", OffsetScenarios::resetOnline);
        all.put("offset-reset-offline", OffsetScenarios::resetOffline);
        all.put("offset-clone", OffsetScenarios::cloned);
        all.put("offset-views", OffsetScenarios::views);
    }

    private static DefaultMQPushConsumer consumer(Ctx ctx, String group, String topic, Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = ctx.newPush(group);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.concurrently());
        return ctx.started(consumer);
    }

    /** A moment after everything stored so far and before everything stored later. */
    private static long border(Ctx ctx) throws Exception {
        long before = System.currentTimeMillis();
        ctx.await(1000, () -> System.currentTimeMillis() > before + 2, "the clock moves");
        long border = System.currentTimeMillis();
        ctx.await(1000, () -> System.currentTimeMillis() > border + 2, "the clock moves");
        return border;
    }

    private static void resetOnline(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 2);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(ctx, group, topic, inbox);
        List<String> all = new ArrayList<>(ctx.sendMany(topic, "early ", 10));
        long border = border(ctx);
        List<String> late = ctx.sendMany(topic, "late ", 10);
        all.addAll(late);
        inbox.awaitOnce(ctx, 20_000, all);
        Map<MessageQueue, Long> moved = Admin.api(consumer)
            .invokeBrokerToResetOffset(ctx.param("broker", null), topic, group, border, true, 15_000);
        ctx.equal(new HashSet<>(ctx.queues(topic)), moved.keySet(), "the queues that were reset");
        ctx.equal(Set.of(5L), new HashSet<>(moved.values()), "the offsets they were reset to");
        ctx.await(40_000, () -> inbox.size() >= 30, "the member consumes again what is later than the border");
        ctx.equal(new HashSet<>(late), new HashSet<>(inbox.bodies().subList(20, 30)), "what was consumed again");
        List<String> fresh = ctx.sendMany(topic, "fresh ", 4);
        ctx.await(20_000, () -> inbox.distinct().containsAll(fresh), "the member goes on behind that");
        ctx.equal(34, inbox.size(), "the number of deliveries: the reset counts once");
    }

    private static void resetOffline(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 2);
        List<String> early = ctx.sendMany(topic, "early ", 10);
        Inbox first = new Inbox();
        DefaultMQPushConsumer gone = consumer(ctx, group, topic, first);
        first.awaitOnce(ctx, 20_000, early);
        gone.shutdown();
        ctx.sendMany(topic, "skipped ", 10);
        DefaultMQPushConsumer tool = consumer(ctx, ctx.name("tool"), topic, new Inbox());
        Admin.api(tool).invokeBrokerToResetOffset(ctx.param("broker", null), topic, group, -1, true, 15_000);
        List<String> fresh = ctx.sendMany(topic, "fresh ", 4);
        Inbox second = new Inbox();
        consumer(ctx, group, topic, second);
        second.awaitOnce(ctx, 40_000, fresh);
    }

    private static void cloned(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        List<String> early = ctx.sendMany(topic, "early ", 10);
        Inbox first = new Inbox();
        DefaultMQPushConsumer consumer = consumer(ctx, ctx.name("source"), topic, first);
        first.awaitOnce(ctx, 20_000, early);
        consumer.getDefaultMQPushConsumerImpl().persistConsumerOffset();
        MQClientAPIImpl api = Admin.api(consumer);
        String broker = ctx.param("broker", null);
        ctx.await(10_000, () -> api.getConsumeStats(broker, ctx.name("source"), topic, 15_000L).computeTotalDiff() == 0,
            "the source group has committed everything");
        Admin.createGroup(ctx, api, ctx.name("copy"), Map.of());
        api.cloneGroupOffset(broker, ctx.name("source"), ctx.name("copy"), topic, true, 15_000);
        List<String> late = ctx.sendMany(topic, "late ", 4);
        Inbox second = new Inbox();
        consumer(ctx, ctx.name("copy"), topic, second);
        second.awaitOnce(ctx, 20_000, late);
    }

    private static void views(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        String broker = ctx.param("broker", null);
        ctx.createTopic(topic, 2);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(ctx, group, topic, inbox);
        inbox.awaitOnce(ctx, 20_000, ctx.sendMany(topic, "m", 10));
        consumer.getDefaultMQPushConsumerImpl().persistConsumerOffset();
        MQClientAPIImpl api = Admin.api(consumer);
        ctx.await(10_000, () -> api.getConsumeStats(broker, group, topic, 15_000L).computeTotalDiff() == 0,
            "the group has consumed everything");
        var stats = api.getConsumeStats(broker, group, topic, 15_000L).getOffsetTable();
        ctx.equal(new HashSet<>(ctx.queues(topic)), stats.keySet(), "the queues of the consume stats");
        stats.values().forEach(row -> {
            ctx.equal(5L, row.getBrokerOffset(), "the broker offset");
            ctx.equal(5L, row.getConsumerOffset(), "the consumer offset");
            ctx.check(row.getLastTimestamp() > 0, "the time of the last consumed message is told");
        });
        var spans = api.queryConsumeTimeSpan(broker, topic, group, 15_000);
        ctx.equal(2, spans.size(), "the number of time spans");
        spans.forEach(span -> {
            ctx.check(span.getMinTimeStamp() > 0 && span.getMinTimeStamp() <= span.getMaxTimeStamp(), "times are told");
            ctx.equal(span.getMaxTimeStamp(), span.getConsumeTimeStamp(), "the time of the last consumed message");
        });
        ctx.check(api.queryTopicConsumeByWho(broker, topic, 15_000).getGroupList().contains(group),
            "the topic's groups have the group");
        if (Admin.has(api, "queryTopicsByConsumer", 3)) {
            Object topics = Admin.call(api, "queryTopicsByConsumer", broker, group, 15_000L);
            ctx.check(((Set<?>) Admin.call(topics, "getTopicList")).contains(topic), "the group's topics have the topic");
            Object subscription = Admin.call(api, "querySubscriptionByConsumer", broker, group, topic, 15_000L);
            ctx.equal("*", Admin.call(subscription, "getSubString"), "the group's filter");
        }
        boolean[] seen = {false};
        api.fetchConsumeStatsInBroker(broker, false, 15_000).getConsumeStatsList()
            .forEach(groups -> seen[0] |= groups.containsKey(group));
        ctx.check(seen[0], "the broker's consume stats have the group");
    }
}
