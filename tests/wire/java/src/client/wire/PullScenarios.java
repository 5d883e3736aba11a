package wire;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Consumers that ask: lite pull in both modes, and the older pull consumer. */
final class PullScenarios {
    private PullScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("lite-subscribe", PullScenarios::liteSubscribe);
        all.put("lite-assign", PullScenarios::liteAssign);
        all.put("lite-two-members", PullScenarios::liteTwoMembers);
        all.put("pull", PullScenarios::pull);
        all.put("pull-waits", PullScenarios::pullWaits);
        all.put("pull-offsets", PullScenarios::pullOffsets);
    }

    private static void awaitPolled(Ctx ctx, DefaultLitePullConsumer consumer, Inbox inbox, List<String> bodies)
        throws Exception {
        inbox.awaitPolled(ctx, consumer, bodies);
        ctx.equal(bodies.size(), inbox.size(), "the number of polled messages, none twice,");
    }

    private interface Seek {
        void run() throws Exception;
    }

    /**
     * As inbox.awaitPolled, after a seek that is repeated every 5 s. A seek interrupts the pull that is under way. If that
     * is just being sent the client closes its connection, and when the next pull fails for that it forgets the seek and
     * goes on behind what it had got before, whatever the broker is.
     */
    private static void awaitSought(Ctx ctx, DefaultLitePullConsumer consumer, Seek seek, Inbox inbox, List<String> bodies)
        throws Exception {
        long[] sought = {System.nanoTime()};
        seek.run();
        ctx.await(45_000, () -> {
            inbox.poll(consumer);
            boolean all = inbox.distinct().containsAll(bodies);
            if (!all && System.nanoTime() - sought[0] > 5_000_000_000L) {
                sought[0] = System.nanoTime();
                seek.run();
            }
            return all;
        }, "poll returns all %d messages from where the client went", bodies.size());
    }

    private static void liteSubscribe(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 3);
        List<String> bodies = ctx.sendMany(topic, "lite ", 60);
        ctx.send(new Message(topic, "Other", Ctx.bytes("not subscribed")));
        for (int i = 0; i < 5; i++) {
            bodies.add("tagged " + i);
            ctx.send(new Message(topic, "Tag", Ctx.bytes("tagged " + i)));
        }
        List<String> wanted = bodies.subList(60, 65);
        DefaultLitePullConsumer consumer = ctx.newLite(group);
        consumer.subscribe(topic, "Tag || Tog");
        consumer.start();
        Inbox inbox = new Inbox();
        try {
            awaitPolled(ctx, consumer, inbox, wanted);
        } finally {
            consumer.shutdown();
        }
        // the next member of the group goes on where this one stopped (offsets of the last poll included)
        Message more = new Message(topic, "Tag", Ctx.bytes("after"));
        ctx.send(more);
        DefaultLitePullConsumer next = ctx.newLite(group);
        next.subscribe(topic, "Tag || Tog");
        ctx.started(next);
        Inbox rest = new Inbox();
        ctx.await(45_000, () -> {
            rest.poll(next);
            return rest.distinct().contains("after");
        }, "the second member polls the message sent after the first one left");
    }

    private static void liteAssign(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        DefaultLitePullConsumer consumer = ctx.newLite(ctx.name("g"));
        consumer.setAutoCommit(false);
        ctx.started(consumer);
        List<MessageQueue> queues = new ArrayList<>(consumer.fetchMessageQueues(topic));
        ctx.equal(2, queues.size(), "the number of queues found by fetchMessageQueues");
        queues.sort(null);
        MessageQueue queue = queues.get(1);
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            bodies.add("a" + i);
            ctx.stored(ctx.producer().send(new Message(topic, Ctx.bytes("a" + i)), queue));
        }
        ctx.stored(ctx.producer().send(new Message(topic, Ctx.bytes("elsewhere")), queues.get(0)));
        consumer.assign(List.of(queue));
        // what was pulled between assign and seek may come twice or early
        awaitSought(ctx, consumer, () -> consumer.seekToBegin(queue), new Inbox(), bodies);
        Inbox again = new Inbox();
        awaitSought(ctx, consumer, () -> consumer.seek(queue, 15), again, bodies.subList(15, 20));
        consumer.commitSync();
        consumer.getOffsetStore().persistAll(Set.of(queue));
        ctx.await(10_000, () -> consumer.committed(queue) == 20L, "the committed offset is 20");
        consumer.seekToEnd(queue);
        ctx.stored(ctx.producer().send(new Message(topic, Ctx.bytes("a20")), queue));
        Inbox end = new Inbox();
        awaitPolled(ctx, consumer, end, List.of("a20"));
        long time = again.messages.get(0).getStoreTimestamp();
        Long offset = consumer.offsetForTimestamp(queue, time);
        ctx.check(offset <= 15 && offset >= 0, "offsetForTimestamp(%d) is at or before 15, not %d", time, offset);
    }

    private static void liteTwoMembers(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 4);
        DefaultLitePullConsumer[] members = new DefaultLitePullConsumer[2];
        Inbox[] inboxes = {new Inbox(), new Inbox()};
        for (int i = 0; i < 2; i++) {
            members[i] = ctx.newLite(ctx.name("g"));
            members[i].subscribe(topic, "*");
            ctx.started(members[i]);
        }
        ctx.await(30_000, () -> members[0].assignment().size() == 2 && members[1].assignment().size() == 2,
            "each of two members has two of four queues");
        List<String> bodies = ctx.sendMany(topic, "m", 40);
        ctx.await(20_000, () -> {
            inboxes[0].poll(members[0]);
            inboxes[1].poll(members[1]);
            return inboxes[0].size() + inboxes[1].size() >= 40;
        }, "the members get 40 messages together");
        Set<String> all = new HashSet<>(inboxes[0].bodies());
        all.addAll(inboxes[1].bodies());
        ctx.equal(new HashSet<>(bodies), all, "the messages of both members");
        ctx.equal(20, inboxes[0].size(), "the share of the first member");
    }

    private static PullResult pullOnce(DefaultMQPullConsumer consumer, MessageQueue queue, String tags, long offset)
        throws Exception {
        for (int i = 0; ; i++) {
            try {
                return consumer.pull(queue, tags, offset, 32);
            } catch (MQBrokerException subscriptionNotThereYet) {
                if (i == 20) {
                    throw subscriptionNotThereYet;
                }
            }
        }
    }

    private static void pull(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        DefaultMQPullConsumer consumer = ctx.puller(ctx.name("g"));
        MessageQueue queue = consumer.fetchSubscribeMessageQueues(topic).iterator().next();
        PullResult result = pullOnce(consumer, queue, "*", 0);
        ctx.check(result.getPullStatus() == PullStatus.NO_NEW_MSG || result.getPullStatus() == PullStatus.OFFSET_ILLEGAL,
            "a pull of an empty queue finds nothing, it says %s", result.getPullStatus());
        for (int i = 0; i < 50; i++) {
            ctx.send(new Message(topic, i % 2 == 0 ? "Even" : "Odd", Ctx.bytes("p" + i)));
        }
        ctx.await(10_000, () -> consumer.maxOffset(queue) == 50, "the max offset becomes 50");
        result = pullOnce(consumer, queue, "*", 0);
        ctx.equal(PullStatus.FOUND, result.getPullStatus(), "the status of a pull at 0");
        ctx.equal(32, result.getMsgFoundList().size(), "the number of messages of a pull of 32");
        ctx.equal(32L, result.getNextBeginOffset(), "the next offset");
        ctx.equal(0L, result.getMinOffset(), "the min offset in the pull result");
        ctx.equal(50L, result.getMaxOffset(), "the max offset in the pull result");
        result = pullOnce(consumer, queue, "Odd", 40);
        ctx.equal(5, result.getMsgFoundList().size(), "the number of Odd messages from 40");
        result = pullOnce(consumer, queue, "Neither", 40);
        ctx.equal(PullStatus.NO_MATCHED_MSG, result.getPullStatus(), "the status of a pull that matches nothing");
        ctx.equal(50L, result.getNextBeginOffset(), "where to go on after a pull that matched nothing");
        result = pullOnce(consumer, queue, "*", 50);
        ctx.equal(PullStatus.NO_NEW_MSG, result.getPullStatus(), "the status of a pull at the end");
        result = pullOnce(consumer, queue, "*", 70);
        ctx.equal(PullStatus.OFFSET_ILLEGAL, result.getPullStatus(), "the status of a pull beyond the end");
        ctx.equal(50L, result.getNextBeginOffset(), "where a pull beyond the end is sent");
    }

    private static void pullWaits(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        DefaultMQPullConsumer consumer = ctx.puller(ctx.name("g"));
        MessageQueue queue = consumer.fetchSubscribeMessageQueues(topic).iterator().next();
        ctx.send(new Message(topic, "A", Ctx.bytes("first")));
        pullOnce(consumer, queue, "*", 0);
        Thread sender = new Thread(() -> {
            try {
                Thread.sleep(400); // the pull below must be waiting by then
                ctx.send(new Message(topic, "Not", Ctx.bytes("no match")));
                ctx.send(new Message(topic, "A", Ctx.bytes("match")));
            } catch (Exception error) {
                ctx.put("sender", error.toString());
            }
        });
        long start = System.nanoTime();
        sender.start();
        List<String> got = new ArrayList<>();
        long offset = 1;
        while (got.isEmpty()) {
            PullResult result = consumer.pullBlockIfNotFound(queue, "A", offset, 32);
            if (result.getPullStatus() == PullStatus.FOUND) {
                result.getMsgFoundList().forEach(message -> got.add(Ctx.text(message)));
            }
            offset = result.getNextBeginOffset();
            ctx.check(System.nanoTime() - start < 60_000_000_000L, "the waiting pull is answered within a minute");
        }
        sender.join();
        long took = (System.nanoTime() - start) / 1_000_000;
        ctx.equal(List.of("match"), got, "what the waiting pull got");
        // a pull that nobody wakes is held for 20 s
        ctx.check(took >= 390 && took < 15_000, "the waiting pull ends when the message comes, not after %d ms", took);
    }

    private static void pullOffsets(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 2);
        ctx.sendMany(topic, "x", 20);
        Map<MessageQueue, Long> want = new HashMap<>();
        DefaultMQPullConsumer consumer = ctx.address(new DefaultMQPullConsumer(group));
        consumer.start();
        try {
            for (MessageQueue queue : consumer.fetchSubscribeMessageQueues(topic)) {
                ctx.check(consumer.fetchConsumeOffset(queue, true) <= 0, "a new group has no offset");
                want.put(queue, 3L + queue.getQueueId());
                // again until the broker knows the group, which a 4.x client's first heartbeat tells it after 1 s
                ctx.await(10_000, () -> {
                    consumer.updateConsumeOffset(queue, want.get(queue));
                    consumer.getOffsetStore().persistAll(new HashSet<>(want.keySet()));
                    return consumer.fetchConsumeOffset(queue, true) == want.get(queue);
                }, "the broker keeps the offset %d of %s", want.get(queue), queue);
            }
        } finally {
            consumer.shutdown();
        }
        DefaultMQPullConsumer next = ctx.puller(group);
        next.fetchSubscribeMessageQueues(topic);
        for (Map.Entry<MessageQueue, Long> entry : want.entrySet()) {
            ctx.await(10_000, () -> next.fetchConsumeOffset(entry.getKey(), true) == entry.getValue(),
                "another member reads the offset %d of %s", entry.getValue(), entry.getKey());
        }
    }
}
