package wire;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.AckCallback;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.AckStatus;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PopCallback;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.consumer.PopStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.message.MessageRequestMode;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ChangeInvisibleTimeRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;

/** POP, which only clients of 5.x know: as a push consumer does it, and its requests one by one. */
final class PopScenarios {
    /** On a busy machine what was popped takes seconds to be acknowledged; it must not come again meanwhile. */
    private static final int INVISIBLE_MILLIS = 10_000;

    private PopScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("pop-push", PopScenarios::push);
        all.put("pop-two-members", PopScenarios::twoMembers);
        all.put("pop-retry", PopScenarios::retry);
        all.put("pop-dead-letter", PopScenarios::deadLetter);
        all.put("pop-tags", PopScenarios::tags);
        all.put("pop-requests", PopScenarios::requests);
        all.put("pop-waits", PopScenarios::waits);
        all.put("pop-orderly", PopScenarios::orderly);
        all.put("light-pop", PopScenarios::light);
        all.put("restart-pop-phase1", PopScenarios::beforeRestart);
        all.put("restart-pop-phase2", PopScenarios::afterRestart);
    }

    // ---- push consumers in POP mode

    private static MQClientAPIImpl api(Ctx ctx) throws Exception {
        return ctx.producer().getDefaultMQProducerImpl().getMqClientFactory().getMQClientAPIImpl();
    }

    private static void popMode(Ctx ctx, String topic, String group) throws Exception {
        api(ctx).setMessageRequestMode(ctx.param("broker", null), topic, group, MessageRequestMode.POP, 0, 15_000);
    }

    private static DefaultMQPushConsumer newPop(Ctx ctx, String topic, String group) throws Exception {
        DefaultMQPushConsumer consumer = ctx.newPush(group);
        consumer.setClientRebalance(false);
        consumer.setPopInvisibleTime(INVISIBLE_MILLIS);
        consumer.subscribe(topic, "*");
        return consumer;
    }

    /** A second before a failed message comes again; the client's own times begin with ten. */
    private static void retryQuickly(DefaultMQPushConsumer consumer) throws Exception {
        java.lang.reflect.Field field =
            consumer.getDefaultMQPushConsumerImpl().getClass().getDeclaredField("popDelayLevel");
        field.setAccessible(true);
        java.util.Arrays.fill((int[]) field.get(consumer.getDefaultMQPushConsumerImpl()), 1);
    }

    private static void push(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 4);
        popMode(ctx, topic, ctx.name("g"));
        List<String> bodies = ctx.sendMany(topic, "before ", 20);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = newPop(ctx, topic, ctx.name("g"));
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        inbox.awaitAll(ctx, 30_000, bodies);
        bodies.addAll(ctx.sendMany(topic, "after ", 20));
        inbox.awaitOnce(ctx, 30_000, bodies);
        for (MessageExt message : inbox.messages) {
            ctx.equal(8, message.getProperty("POP_CK").split(" ").length, "the number of fields of POP_CK");
            ctx.equal(0, message.getReconsumeTimes(), "the reconsume times of a first delivery");
        }
    }

    /** A light queue (LMQ) that is popped: places in it are others than in the queues of its messages' topic. */
    private static void light(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 3);
        MessageQueue queue = LightScenarios.light(ctx, "a");
        popMode(ctx, queue.getTopic(), ctx.name("g"));
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            ctx.send(LightScenarios.message(topic, "other " + i, LightScenarios.light(ctx, "b")));
            ctx.send(LightScenarios.message(topic, "l" + i, LightScenarios.light(ctx, "b"), queue));
            bodies.add("l" + i);
        }
        Inbox inbox = new Inbox();
        Set<String> failing = java.util.concurrent.ConcurrentHashMap.newKeySet();
        failing.add("l7");
        DefaultMQPushConsumer consumer = newPop(ctx, queue.getTopic(), ctx.name("g"));
        retryQuickly(consumer);
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            if (failing.remove(Ctx.text(batch.get(0)))) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            batch.forEach(inbox::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        ctx.started(consumer);
        LightScenarios.know(ctx, consumer.getDefaultMQPushConsumerImpl().getmQClientFactory(), topic, queue);
        inbox.awaitOnce(ctx, 40_000, bodies);
        for (int i = 0; i < 10; i++) {
            ctx.send(LightScenarios.message(topic, "more " + i, queue));
            bodies.add("more " + i);
        }
        inbox.awaitOnce(ctx, 30_000, bodies);
        // what was acked does not come again when its time is over
        long last = System.currentTimeMillis();
        ctx.await(15_000, () -> System.currentTimeMillis() > last + INVISIBLE_MILLIS + 2_000, "the invisible time passes");
        inbox.awaitOnce(ctx, 1_000, bodies);
        for (MessageExt message : inbox.messages) {
            ctx.equal(Ctx.text(message).equals("l7") ? 1 : 0, message.getReconsumeTimes(),
                "the reconsume times of " + Ctx.text(message));
        }
    }

    private static void twoMembers(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 2);
        popMode(ctx, topic, group);
        Inbox all = new Inbox();
        Set<Integer> members = java.util.concurrent.ConcurrentHashMap.newKeySet();
        for (int i = 0; i < 2; i++) {
            int member = i;
            DefaultMQPushConsumer consumer = newPop(ctx, topic, group);
            consumer.setPopBatchNums(1);
            consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
                members.add(member);
                batch.forEach(all::add);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            ctx.started(consumer);
        }
        List<String> bodies = new ArrayList<>();
        for (int round = 0; round < 200 && members.size() < 2; round++) {
            bodies.addAll(ctx.sendMany(topic, "m" + round + "-", 4));
            int sent = bodies.size();
            ctx.await(30_000, () -> all.distinct().size() >= sent, "the members get %d messages", sent);
        }
        ctx.equal(Set.of(0, 1), members, "the members that got messages");
        all.awaitOnce(ctx, 1000, bodies);
    }

    private static void retry(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        popMode(ctx, topic, ctx.name("g"));
        Inbox done = new Inbox();
        List<MessageExt> seen = new CopyOnWriteArrayList<>();
        DefaultMQPushConsumer consumer = newPop(ctx, topic, ctx.name("g"));
        retryQuickly(consumer);
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            MessageExt message = batch.get(0);
            seen.add(message);
            if (Ctx.text(message).equals("r3") && message.getReconsumeTimes() < 2) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            done.add(message);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        ctx.started(consumer);
        List<String> bodies = new ArrayList<>();
        String id = null;
        for (int i = 0; i < 5; i++) {
            Message message = new Message(topic, "TagR", "keyR" + i, Ctx.bytes("r" + i));
            message.putUserProperty("mine", "süß");
            String sent = ctx.send(message).getMsgId();
            id = i == 3 ? sent : id;
            bodies.add("r" + i);
        }
        done.awaitOnce(ctx, 40_000, bodies);
        List<Integer> times = new ArrayList<>();
        for (MessageExt message : seen) {
            ctx.equal(topic, message.getTopic(), "the topic of a message that is tried again");
            ctx.equal("süß", message.getUserProperty("mine"), "the user property of a message that is tried again");
            if (Ctx.text(message).equals("r3")) {
                times.add(message.getReconsumeTimes());
                ctx.equal(id, message.getMsgId(), "the msgId of a message that is tried again");
                ctx.equal("TagR", message.getTags(), "the tag of a message that is tried again");
            }
        }
        ctx.equal(List.of(0, 1, 2), times, "the reconsume times the listener saw");
    }

    /** What the gRPC proxy does with a message that was tried too often: send it back for good, acknowledge it. */
    private static void deadLetter(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 1);
        popMode(ctx, topic, group);
        List<Integer> tries = new CopyOnWriteArrayList<>();
        DefaultMQPushConsumer consumer = newPop(ctx, topic, group);
        retryQuickly(consumer);
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            MessageExt message = batch.get(0);
            tries.add(message.getReconsumeTimes());
            if (message.getReconsumeTimes() < 1) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            try {
                consumer.sendMessageBack(message, -1);
            } catch (Exception again) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        ctx.started(consumer);
        ctx.send(new Message(topic, "TagP", "keyP", Ctx.bytes("poison – ☠")));
        MessageExt dead = ctx.readTopicWhenThere("%DLQ%" + group, 1, 40_000).get(0);
        ctx.equal("poison – ☠", Ctx.text(dead), "the body of the dead letter");
        ctx.equal("keyP", dead.getKeys(), "the key of the dead letter");
        ctx.equal(List.of(0, 1), List.copyOf(tries), "the reconsume times the listener saw");
    }

    private static void tags(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        popMode(ctx, topic, ctx.name("g"));
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = newPop(ctx, topic, ctx.name("g"));
        consumer.subscribe(topic, "TagA || TagC");
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        List<String> wanted = new ArrayList<>();
        for (int i = 0; i < 30; i++) {
            String tag = "Tag" + "ABC".charAt(i % 3);
            ctx.send(new Message(topic, tag, Ctx.bytes(tag + i)));
            if (i % 3 != 1) {
                wanted.add(tag + i);
            }
        }
        inbox.awaitOnce(ctx, 30_000, wanted);
    }

    // ---- the requests one by one

    private static PopMessageRequestHeader header(Ctx ctx, String topic, int most, long invisible, long poll) {
        PopMessageRequestHeader header = new PopMessageRequestHeader();
        header.setConsumerGroup(ctx.name("g"));
        header.setTopic(topic);
        header.setQueueId(-1);
        header.setMaxMsgNums(most);
        header.setInvisibleTime(invisible);
        header.setPollTime(poll);
        header.setBornTime(System.currentTimeMillis());
        header.setInitMode(0);
        header.setExpType("TAG");
        header.setExp("*");
        header.setOrder(false);
        return header;
    }

    private static PopResult pop(Ctx ctx, PopMessageRequestHeader header) throws Exception {
        CompletableFuture<PopResult> result = new CompletableFuture<>();
        String brokerName = ctx.queues(header.getTopic()).get(0).getBrokerName();
        api(ctx).popMessageAsync(brokerName, ctx.param("broker", null), header, header.getPollTime() + 15_000,
            new PopCallback() {
                @Override
                public void onSuccess(PopResult found) {
                    result.complete(found);
                }

                @Override
                public void onException(Throwable error) {
                    result.completeExceptionally(error);
                }
            });
        return result.get(header.getPollTime() + 20_000, TimeUnit.MILLISECONDS);
    }

    /** Pops until so many different messages came. */
    private static List<MessageExt> popAll(Ctx ctx, String topic, int count, long invisible, long millis)
        throws Exception {
        List<MessageExt> found = new ArrayList<>();
        Set<String> bodies = new HashSet<>();
        ctx.await(millis, () -> {
            PopResult result = pop(ctx, header(ctx, topic, 32, invisible, 1000));
            if (result.getPopStatus() == PopStatus.FOUND) {
                for (MessageExt message : result.getMsgFoundList()) {
                    found.add(message);
                    bodies.add(Ctx.text(message));
                }
            }
            return bodies.size() >= count;
        }, "pops give %d messages", count);
        ctx.equal(count, found.size(), "the number of popped messages, none twice,");
        return found;
    }

    private static String realTopic(Ctx ctx, MessageExt message) {
        return message.getProperty("POP_CK").split(" ")[4].equals("1")
            ? "%RETRY%" + ctx.name("g") + "_" + message.getTopic() : message.getTopic();
    }

    private static final class Answer implements AckCallback {
        final CompletableFuture<AckResult> result = new CompletableFuture<>();

        @Override
        public void onSuccess(AckResult found) {
            result.complete(found);
        }

        @Override
        public void onException(Throwable error) {
            result.completeExceptionally(error);
        }
    }

    private static void ack(Ctx ctx, MessageExt message, String handle) throws Exception {
        String[] fields = handle.split(" ");
        AckMessageRequestHeader header = new AckMessageRequestHeader();
        header.setConsumerGroup(ctx.name("g"));
        header.setTopic(realTopic(ctx, message));
        header.setQueueId(Integer.parseInt(fields[6]));
        header.setOffset(Long.parseLong(fields[7]));
        header.setExtraInfo(handle);
        Answer answer = new Answer();
        api(ctx).ackMessageAsync(ctx.param("broker", null), 15_000, answer, header);
        ctx.equal(AckStatus.OK, answer.result.get(20, TimeUnit.SECONDS).getStatus(), "the status of an ack");
    }

    private static void ack(Ctx ctx, MessageExt message) throws Exception {
        ack(ctx, message, message.getProperty("POP_CK"));
    }

    /** Gives the new handle. */
    private static String change(Ctx ctx, MessageExt message, long invisible) throws Exception {
        String handle = message.getProperty("POP_CK");
        String[] fields = handle.split(" ");
        ChangeInvisibleTimeRequestHeader header = new ChangeInvisibleTimeRequestHeader();
        header.setConsumerGroup(ctx.name("g"));
        header.setTopic(realTopic(ctx, message));
        header.setQueueId(Integer.parseInt(fields[6]));
        header.setOffset(Long.parseLong(fields[7]));
        header.setExtraInfo(handle);
        header.setInvisibleTime(invisible);
        Answer answer = new Answer();
        api(ctx).changeInvisibleTimeAsync(fields[5], ctx.param("broker", null), header, 15_000, answer);
        AckResult result = answer.result.get(20, TimeUnit.SECONDS);
        ctx.equal(AckStatus.OK, result.getStatus(), "the status of a change of the invisible time");
        return result.getExtraInfo();
    }

    private static void requests(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        ctx.sendMany(topic, "m", 8);
        List<MessageExt> first = popAll(ctx, topic, 8, INVISIBLE_MILLIS, 20_000);
        long popped = System.currentTimeMillis();
        Set<String> back = new HashSet<>();
        List<String> batch = new ArrayList<>();
        for (MessageExt message : first) {
            switch (Ctx.text(message)) {
                case "m0", "m1" -> ack(ctx, message);
                case "m2", "m3" -> batch.add(message.getProperty("POP_CK"));
                case "m4" -> ack(ctx, message, change(ctx, message, 60_000));
                case "m5" -> change(ctx, message, 600_000);
                default -> back.add(Ctx.text(message));
            }
        }
        Answer answer = new Answer();
        api(ctx).batchAckMessageAsync(ctx.param("broker", null), 15_000, answer, topic, ctx.name("g"), batch);
        ctx.equal(AckStatus.OK, answer.result.get(20, TimeUnit.SECONDS).getStatus(), "the status of a batch ack");
        List<MessageExt> again = popAll(ctx, topic, 2, 60_000, 20_000);
        ctx.put("back-after", System.currentTimeMillis() - popped);
        for (MessageExt message : again) {
            ctx.check(back.contains(Ctx.text(message)), "%s comes back", Ctx.text(message));
            ctx.equal(1, message.getReconsumeTimes(), "the reconsume times of a message that came back");
            ctx.equal(topic, message.getTopic(), "the topic of a message that came back");
            ctx.equal("1", message.getProperty("POP_CK").split(" ")[4], "the retry flag of a message that came back");
            ack(ctx, message);
        }
        PopResult nothing = pop(ctx, header(ctx, topic, 32, 60_000, 1500));
        ctx.check(nothing.getPopStatus() != PopStatus.FOUND, "nothing is left, but there is %s", nothing);
    }

    private static void waits(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 4);
        PopResult nothing = pop(ctx, header(ctx, topic, 1, 60_000, 500));
        ctx.check(nothing.getPopStatus() != PopStatus.FOUND, "an empty topic gives nothing");
        CompletableFuture<PopResult> waiting = CompletableFuture.supplyAsync(() -> {
            try {
                return pop(ctx, header(ctx, topic, 1, 60_000, 20_000));
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        });
        Thread.sleep(300);
        ctx.check(!waiting.isDone(), "a pop of an empty topic waits");
        long sent = System.currentTimeMillis();
        ctx.send(new Message(topic, Ctx.bytes("at last")));
        PopResult found = waiting.get(15, TimeUnit.SECONDS);
        ctx.put("waited", System.currentTimeMillis() - sent);
        ctx.equal(PopStatus.FOUND, found.getPopStatus(), "the status of the pop that waited");
        ctx.equal("at last", Ctx.text(found.getMsgFoundList().get(0)), "the message it got");
    }

    private static void orderly(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        ctx.sendMany(topic, "o", 4);
        PopMessageRequestHeader header = header(ctx, topic, 2, INVISIBLE_MILLIS, 0);
        header.setQueueId(0);
        header.setOrder(true);
        header.setAttemptId("one");
        List<String> first = new ArrayList<>();
        ctx.await(10_000, () -> { // what is stored may come into its queue a moment later
            header.setBornTime(System.currentTimeMillis());
            first.addAll(bodies(pop(ctx, header)));
            return !first.isEmpty();
        }, "the first pop gives something");
        ctx.equal(List.of("o0", "o1"), first, "what the first pop gives");
        header.setAttemptId("two");
        header.setBornTime(System.currentTimeMillis());
        ctx.check(pop(ctx, header).getPopStatus() != PopStatus.FOUND, "the queue is blocked for others");
        header.setAttemptId("one");
        header.setBornTime(System.currentTimeMillis());
        PopResult same = pop(ctx, header);
        ctx.equal(List.of("o0", "o1"), bodies(same), "what the same attempt gets");
        ack(ctx, same.getMsgFoundList().get(0));
        header.setAttemptId("three");
        List<MessageExt> later = new ArrayList<>();
        ctx.await(20_000, () -> {
            header.setBornTime(System.currentTimeMillis());
            PopResult result = pop(ctx, header);
            if (result.getPopStatus() == PopStatus.FOUND) {
                later.addAll(result.getMsgFoundList());
            }
            return !later.isEmpty();
        }, "the queue is free when the time of the first batch is over");
        ctx.equal("o1", Ctx.text(later.get(0)), "the first message that was not acknowledged");
        ctx.check(later.get(0).getReconsumeTimes() > 0, "it is counted as consumed before");
        for (MessageExt message : later) {
            ack(ctx, message);
        }
        header.setAttemptId("four");
        header.setBornTime(System.currentTimeMillis());
        ctx.equal(List.of("o3"), bodies(pop(ctx, header)), "what comes when all were acknowledged");
    }

    private static List<String> bodies(PopResult result) {
        List<String> bodies = new ArrayList<>();
        if (result.getMsgFoundList() != null) {
            result.getMsgFoundList().forEach(message -> bodies.add(Ctx.text(message)));
        }
        return bodies;
    }

    // ---- over a restart of the server

    private static void beforeRestart(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        ctx.sendMany(topic, "m", 10);
        for (MessageExt message : popAll(ctx, topic, 10, 15_000, 20_000)) {
            if (Ctx.text(message).compareTo("m5") < 0) {
                ack(ctx, message);
            }
        }
    }

    private static void afterRestart(Ctx ctx) throws Exception {
        Set<String> back = new HashSet<>();
        for (MessageExt message : popAll(ctx, ctx.name("t"), 5, 60_000, 60_000)) {
            back.add(Ctx.text(message));
            ctx.equal(1, message.getReconsumeTimes(), "the reconsume times of a message that came back");
        }
        ctx.equal(Set.of("m5", "m6", "m7", "m8", "m9"), back, "what came back after the restart");
    }
}
