package wire;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Failed consumption: again later, and in the end the dead letter queue. The server's delay levels are short. */
final class RetryScenarios {
    private RetryScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("retry-then-success", RetryScenarios::thenSuccess);
        all.put("retry-to-dead-letter", RetryScenarios::deadLetter);
        all.put("retry-level-chosen", RetryScenarios::levelChosen);
        all.put("retry-more-queues", RetryScenarios::moreQueues);
        all.put("retry-not-wanted", RetryScenarios::notWanted);
        all.put("retry-orderly", RetryScenarios::orderly);
        all.put("retry-orderly-to-dead-letter", RetryScenarios::orderlyDeadLetter);
    }

    private static void thenSuccess(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        Inbox done = new Inbox();
        List<MessageExt> seen = new CopyOnWriteArrayList<>();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, "TagR");
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            MessageExt message = batch.get(0);
            seen.add(message);
            if (Ctx.text(message).endsWith("3") && message.getReconsumeTimes() < 2) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            done.add(message);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        ctx.started(consumer);
        List<String> bodies = new ArrayList<>();
        SendResult result = null;
        for (int i = 0; i < 5; i++) {
            Message message = new Message(topic, "TagR", "keyR" + i, Ctx.bytes("r" + i));
            message.putUserProperty("mine", "süß");
            bodies.add("r" + i);
            SendResult sent = ctx.send(message);
            result = i == 3 ? sent : result;
        }
        done.awaitOnce(ctx, 30_000, bodies);
        List<Integer> times = new ArrayList<>();
        for (MessageExt message : seen) {
            ctx.equal(topic, message.getTopic(), "the topic of a message that is tried again");
            ctx.equal("süß", message.getUserProperty("mine"), "the user property of a message that is tried again");
            ctx.equal("TagR", message.getTags(), "the tag of a message that is tried again");
            if (Ctx.text(message).equals("r3")) {
                times.add(message.getReconsumeTimes());
                ctx.equal(result.getMsgId(), message.getMsgId(), "the msgId of a message that is tried again");
                ctx.equal("keyR3", message.getKeys(), "the key of a message that is tried again");
            }
        }
        ctx.equal(List.of(0, 1, 2), times, "the reconsume times the listener saw");
    }

    private static void deadLetter(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 1);
        AtomicInteger tries = new AtomicInteger();
        Inbox good = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(group);
        consumer.setMaxReconsumeTimes(2);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            MessageExt message = batch.get(0);
            if (Ctx.text(message).equals("poison – ☠")) {
                tries.incrementAndGet();
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            good.add(message);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        ctx.started(consumer);
        Message poison = new Message(topic, "TagP", "keyP", Ctx.bytes("poison – ☠"));
        poison.putUserProperty("mine", "kept");
        SendResult sent = ctx.send(poison);
        List<String> bodies = ctx.sendMany(topic, "fine ", 5);
        good.awaitOnce(ctx, 20_000, bodies);
        List<MessageExt> dead = ctx.readTopicWhenThere("%DLQ%" + group, 1, 30_000);
        ctx.equal(3, tries.get(), "how often the listener saw the message (once and two retries)");
        MessageExt message = dead.get(0);
        ctx.put("properties", new TreeMap<>(message.getProperties()));
        ctx.equal("%DLQ%" + group, message.getTopic(), "the topic of the dead letter");
        ctx.equal("poison – ☠", Ctx.text(message), "the body of the dead letter");
        ctx.equal("TagP", message.getTags(), "the tag of the dead letter");
        ctx.equal("keyP", message.getKeys(), "the key of the dead letter");
        ctx.equal("kept", message.getUserProperty("mine"), "the user property of the dead letter");
        ctx.equal(sent.getMsgId(), message.getMsgId(), "the msgId of the dead letter");
        ctx.equal(topic, message.getProperty("RETRY_TOPIC"), "the property RETRY_TOPIC of the dead letter");
        ctx.equal(sent.getOffsetMsgId(), message.getProperty("ORIGIN_MESSAGE_ID"),
            "the property ORIGIN_MESSAGE_ID of the dead letter");
        Inbox undertaker = new Inbox();
        DefaultMQPushConsumer reader = ctx.newPush(ctx.name("undertaker"));
        reader.subscribe("%DLQ%" + group, "*");
        reader.registerMessageListener(undertaker.concurrently());
        ctx.started(reader);
        undertaker.awaitOnce(ctx, 20_000, List.of("poison – ☠"));
    }

    /** The listener says itself when it wants a message again; a negative level: never. */
    private static void levelChosen(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 1);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(group);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            MessageExt message = batch.get(0);
            inbox.add(message);
            if (message.getReconsumeTimes() > 0) {
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
            context.setDelayLevelWhenNextConsume(Ctx.text(message).equals("never") ? -1 : 1);
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        ctx.started(consumer);
        ctx.send(new Message(topic, Ctx.bytes("never")));
        ctx.send(new Message(topic, Ctx.bytes("level 1")));
        ctx.equal("never", Ctx.text(ctx.readTopicWhenThere("%DLQ%" + group, 1, 30_000).get(0)), "the dead letter");
        ctx.await(30_000, () -> inbox.size() >= 3, "the other message comes again");
        ctx.equal("level 1", inbox.bodies().get(2), "the message that comes again");
        ctx.equal(3, inbox.size(), "the number of deliveries");
    }

    private static DefaultMQPushConsumer tool(Ctx ctx, String topic) throws Exception {
        DefaultMQPushConsumer tool = ctx.newPush(ctx.name("tool"));
        tool.subscribe(topic, "*");
        tool.registerMessageListener(new Inbox().concurrently());
        return ctx.started(tool);
    }

    /** A group that asks for more retry queues while its members are there: what lies in the new ones is read, too. */
    private static void moreQueues(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 1);
        Inbox done = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(group);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            if (batch.get(0).getReconsumeTimes() == 0) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            batch.forEach(done::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        ctx.started(consumer);
        done.awaitOnce(ctx, 20_000, ctx.sendMany(topic, "one queue ", 2));
        Admin.createGroup(ctx, Admin.api(tool(ctx, topic)), group, Map.of("RetryQueueNums", 4));
        List<String> expected = new ArrayList<>(done.bodies());
        expected.addAll(ctx.sendMany(topic, "four queues ", 16));
        done.awaitOnce(ctx, 30_000, expected);
        ctx.equal(4, ctx.queues("%RETRY%" + group).size(), "the number of retry queues");
    }

    /** With retryQueueNums=0 a group gives up what fails, without a trace. */
    private static void notWanted(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 1);
        Admin.createGroup(ctx, Admin.api(tool(ctx, topic)), group, Map.of("RetryQueueNums", 0));
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(group);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            batch.forEach(inbox::add);
            context.setDelayLevelWhenNextConsume(1);
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        ctx.started(consumer);
        List<String> bodies = ctx.sendMany(topic, "m", 5);
        inbox.awaitOnce(ctx, 20_000, bodies);
        Message marker = new Message(topic, Ctx.bytes("marker"));
        marker.setDelayTimeLevel(2); // longer than the level of the failed ones
        ctx.send(marker);
        ctx.await(20_000, () -> inbox.size() > 5, "a later message arrives");
        ctx.equal("marker", inbox.bodies().get(5), "what arrives after the messages that failed");
    }

    private static void orderly(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        List<String> seen = new CopyOnWriteArrayList<>();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.setSuspendCurrentQueueTimeMillis(100);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (batch, context) -> {
            String body = Ctx.text(batch.get(0));
            seen.add(body);
            context.setSuspendCurrentQueueTimeMillis(100);
            return body.equals("o2") && seen.stream().filter("o2"::equals).count() < 3
                ? ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT : ConsumeOrderlyStatus.SUCCESS;
        });
        ctx.started(consumer);
        ctx.sendMany(topic, "o", 5);
        List<String> expected = List.of("o0", "o1", "o2", "o2", "o2", "o3", "o4");
        ctx.await(30_000, () -> seen.size() >= expected.size(), "the listener is called %d times", expected.size());
        ctx.equal(expected, List.copyOf(seen), "what the listener saw");
    }

    private static void orderlyDeadLetter(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String group = ctx.name("g");
        ctx.createTopic(topic, 1);
        List<String> seen = new CopyOnWriteArrayList<>();
        DefaultMQPushConsumer consumer = ctx.newPush(group);
        consumer.setMaxReconsumeTimes(1);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (batch, context) -> {
            String body = Ctx.text(batch.get(0));
            seen.add(body);
            context.setSuspendCurrentQueueTimeMillis(100);
            return body.equals("o1") ? ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT : ConsumeOrderlyStatus.SUCCESS;
        });
        ctx.started(consumer);
        ctx.sendMany(topic, "o", 4);
        List<String> expected = List.of("o0", "o1", "o1", "o2", "o3");
        ctx.await(30_000, () -> seen.size() >= expected.size(), "the listener is called %d times", expected.size());
        ctx.equal(expected, List.copyOf(seen), "what the listener saw");
        ctx.equal("o1", Ctx.text(ctx.readTopicWhenThere("%DLQ%" + group, 1, 30_000).get(0)), "the dead letter");
    }
}
