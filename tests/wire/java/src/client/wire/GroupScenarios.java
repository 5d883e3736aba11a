package wire;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.store.ReadOffsetType;
import org.apache.rocketmq.client.impl.consumer.DefaultMQPushConsumerImpl;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Members of one group that come and go, and the offsets the group keeps. */
final class GroupScenarios {
    private GroupScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("group-join-leave", ctx -> joinAndLeave(ctx, false));
        all.put("group-join-leave-orderly", ctx -> joinAndLeave(ctx, true));
        all.put("group-offsets-kept", GroupScenarios::offsetsKept);
    }

    /** The queues of a topic that a push consumer reads now. */
    static Set<MessageQueue> assigned(DefaultMQPushConsumer consumer, String topic) {
        Set<MessageQueue> queues = new HashSet<>();
        for (MessageQueue queue : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable()
            .keySet()) {
            if (queue.getTopic().equals(topic)) {
                queues.add(queue);
            }
        }
        return queues;
    }

    private static void awaitShares(Ctx ctx, List<DefaultMQPushConsumer> members, String topic, int queues,
        boolean orderly) throws Exception {
        long[] asked = {System.nanoTime()};
        ctx.await(orderly ? 60_000 : 10_000, () -> {
            if (orderly && System.nanoTime() - asked[0] > 1_000_000_000L) {
                // a queue whose lock was still held is tried again only every 20 s by the 4.x client
                asked[0] = System.nanoTime();
                members.forEach(member ->
                    member.getDefaultMQPushConsumerImpl().getmQClientFactory().rebalanceImmediately());
            }
            Set<MessageQueue> union = new HashSet<>();
            int sum = 0;
            for (DefaultMQPushConsumer member : members) {
                Set<MessageQueue> share = assigned(member, topic);
                if (share.size() < queues / members.size() || share.size() > queues / members.size() + 1) {
                    return false;
                }
                sum += share.size();
                union.addAll(share);
            }
            return sum == queues && union.size() == queues;
        }, "%d members share the %d queues evenly", members.size(), queues);
    }

    /**
     * Waits until each member has consumed to the end of its queues. Before that, what a former owner of a queue consumed
     * and did not commit may still be delivered again.
     */
    private static void awaitEnds(Ctx ctx, List<DefaultMQPushConsumer> members, String topic) throws Exception {
        ctx.await(20_000, () -> {
            for (DefaultMQPushConsumer member : members) {
                var offsets = member.getDefaultMQPushConsumerImpl().getOffsetStore();
                for (MessageQueue queue : assigned(member, topic)) {
                    if (offsets.readOffset(queue, ReadOffsetType.READ_FROM_MEMORY) != ctx.producer().maxOffset(queue)) {
                        return false;
                    }
                }
            }
            return true;
        }, "the members have consumed to the ends of their queues");
    }

    /**
     * Stores the offsets of a member until the broker has one for each of its queues. Apache's broker loses one of two
     * that come together, if they are a group's first ones: those of a member that leaves can be.
     */
    static void awaitStored(Ctx ctx, DefaultMQPushConsumer member, String topic) throws Exception {
        DefaultMQPushConsumerImpl inner = member.getDefaultMQPushConsumerImpl();
        ctx.await(20_000, () -> {
            inner.persistConsumerOffset();
            for (MessageQueue queue : assigned(member, topic)) {
                if (inner.getOffsetStore().readOffset(queue, ReadOffsetType.READ_FROM_MEMORY) > 0) {
                    String broker = inner.getmQClientFactory().findBrokerAddressInPublish(queue.getBrokerName());
                    var stored = Admin.api(member).getConsumeStats(broker, member.getConsumerGroup(), topic, 15_000L)
                        .getOffsetTable().get(queue);
                    if (stored == null || stored.getConsumerOffset() <= 0) {
                        return false;
                    }
                }
            }
            return true;
        }, "the broker has the offsets of the group");
    }

    private static DefaultMQPushConsumer join(Ctx ctx, String topic, boolean orderly, Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, "*");
        if (orderly) {
            consumer.registerMessageListener(inbox.orderly());
        } else {
            consumer.registerMessageListener(inbox.concurrently());
        }
        return ctx.startedAlone(consumer);
    }

    private static void joinAndLeave(Ctx ctx, boolean orderly) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 8);
        Inbox inbox = new Inbox();
        List<String> sent = new ArrayList<>();
        List<DefaultMQPushConsumer> members = new ArrayList<>();
        int[] steps = orderly ? new int[] {1, 2, 3, 2} : new int[] {1, 2, 4, 3, 1, 2};
        for (int want : steps) {
            // messages are on their way while the membership changes
            send(ctx, topic, sent, 40);
            while (members.size() < want) {
                members.add(join(ctx, topic, orderly, inbox));
            }
            while (members.size() > want) {
                members.remove(0).shutdown();
            }
            send(ctx, topic, sent, 40);
            awaitShares(ctx, members, topic, 8, orderly);
        }
        inbox.awaitAll(ctx, 40_000, sent);
        awaitShares(ctx, members, topic, 8, orderly);
        awaitEnds(ctx, members, topic);
        ctx.put("duplicates", inbox.size() - sent.size());
        int before = inbox.size();
        List<String> calm = new ArrayList<>();
        send(ctx, topic, calm, 80);
        sent.addAll(calm);
        inbox.awaitAll(ctx, 20_000, sent);
        ctx.equal(before + 80, inbox.size(), "the number of deliveries when nobody joins or leaves");
        if (orderly) {
            Map<Integer, Long> next = new HashMap<>();
            Set<String> seen = new HashSet<>();
            for (MessageExt message : inbox.messages) {
                if (seen.add(Ctx.text(message))) {
                    ctx.equal(next.getOrDefault(message.getQueueId(), 0L), message.getQueueOffset(),
                        "the next new offset of queue " + message.getQueueId());
                    next.merge(message.getQueueId(), 1L, Long::sum);
                }
            }
        }
    }

    private static void send(Ctx ctx, String topic, List<String> sent, int count) throws Exception {
        String start = ctx.name("m") + Ctx.unique() + "-";
        for (int i = 0; i < count; i++) {
            sent.add(start + i);
            ctx.send(new Message(topic, Ctx.bytes(start + i)));
        }
    }

    private static void offsetsKept(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 4);
        List<String> first = ctx.sendMany(topic, "first ", 40);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        try {
            inbox.awaitOnce(ctx, 20_000, first);
        } finally {
            consumer.shutdown(); // commits
        }
        List<String> second = ctx.sendMany(topic, "second ", 40);
        Inbox rest = new Inbox();
        DefaultMQPushConsumer again = ctx.newPush(ctx.name("g"));
        again.subscribe(topic, "*");
        again.registerMessageListener(rest.concurrently());
        ctx.started(again);
        rest.awaitOnce(ctx, 20_000, second);
    }
}
