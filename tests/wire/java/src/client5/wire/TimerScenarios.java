package wire;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Messages for any time, which only clients of 5.x know, and taking them back. */
final class TimerScenarios {
    private static final Map<String, Object> KEPT = new ConcurrentHashMap<>();

    private TimerScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("timer", TimerScenarios::timer);
        all.put("timer-recall", TimerScenarios::recall);
        all.put("timer-refused", TimerScenarios::refused);
        all.put("restart-timer-phase1", TimerScenarios::restart1);
        all.put("restart-timer-phase2", TimerScenarios::restart2);
    }

    private static Inbox consume(Ctx ctx, String topic) throws Exception {
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        return inbox;
    }

    private static void timer(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Inbox inbox = consume(ctx, topic);
        List<Long> due = new ArrayList<>();
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < 6; i++) {
            Message message = new Message(topic, "T" + i, "timed-" + i, Ctx.bytes("timed " + i));
            message.putUserProperty("mine", "kept");
            long wait = 5000 - i * 431L;
            long sent = System.currentTimeMillis();
            if (i == 0) {
                message.setDelayTimeSec(5);
                due.add(sent + 5000);
            } else if (i < 3) {
                message.setDelayTimeMs(wait);
                due.add(sent + wait);
            } else {
                message.setDeliverTimeMs(sent + wait);
                due.add(sent + wait);
            }
            SendResult result = ctx.send(message);
            ctx.check(result.getRecallHandle() != null, "the send result has a recall handle");
            bodies.add("timed " + i);
        }
        Message past = new Message(topic, Ctx.bytes("past"));
        past.setDeliverTimeMs(System.currentTimeMillis() - 60_000);
        ctx.check(ctx.send(past).getRecallHandle() == null, "a message for a time that has passed has no recall handle");
        bodies.add("past");
        inbox.awaitOnce(ctx, 20_000, bodies);
        long latest = 0;
        for (int i = 0; i < bodies.size(); i++) {
            MessageExt message = inbox.messages.get(i);
            if (Ctx.text(message).equals("past")) {
                continue;
            }
            int number = Integer.parseInt(Ctx.text(message).substring(6));
            long late = inbox.times.get(i) - due.get(number);
            latest = Math.max(latest, late);
            ctx.check(late >= 0, "message %d does not come %d ms early", number, -late);
            ctx.equal(topic, message.getTopic(), "the topic of the delivered message");
            ctx.equal("kept", message.getUserProperty("mine"), "the user property of the delivered message");
            ctx.equal("T" + number, message.getTags(), "the tag of the delivered message");
            ctx.equal("timed-" + number, message.getKeys(), "the key of the delivered message");
        }
        ctx.put("latest", latest);
    }

    private static void recall(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Inbox inbox = consume(ctx, topic);
        SendResult[] results = new SendResult[4];
        for (int i = 0; i < results.length; i++) {
            Message message = new Message(topic, Ctx.bytes("timed " + i));
            message.setDelayTimeMs(10_000); // time enough to take it back
            results[i] = ctx.send(message);
        }
        for (int i = 0; i < results.length; i += 2) {
            String id = ctx.producer().recallMessage(topic, results[i].getRecallHandle());
            ctx.equal(results[i].getMsgId(), id, "the id of the message taken back");
        }
        inbox.awaitOnce(ctx, 20_000, List.of("timed 1", "timed 3"));
        try {
            ctx.producer().recallMessage(topic, results[1].getRecallHandle());
            ctx.check(false, "a delivered message cannot be taken back");
        } catch (MQBrokerException refusal) {
            ctx.equal(604, refusal.getResponseCode(), "the answer to a recall of a delivered message");
        }
        ctx.equal(2, ctx.readTopic(topic).size(), "the number of messages in the topic");
    }

    private static void refused(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Message far = new Message(topic, Ctx.bytes("far"));
        far.setDelayTimeSec(4 * 86_400);
        try {
            ctx.producer().send(far);
            ctx.check(false, "a message for in four days is refused");
        } catch (MQBrokerException refusal) {
            ctx.equal(13, refusal.getResponseCode(), "the answer to a message for in four days");
        }
        try {
            ctx.producer().recallMessage(topic, "bm9uc2Vuc2U=");
            ctx.check(false, "nonsense is no recall handle");
        } catch (Exception expected) {
            ctx.put("refusal", String.valueOf(expected.getMessage()));
        }
    }

    private static void restart1(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        List<String> bodies = new ArrayList<>();
        SendResult taken = null;
        for (int i = 0; i < 12; i++) {
            Message message = new Message(topic, Ctx.bytes("timed " + i));
            message.setDelayTimeMs(2000 + i * 700L);
            SendResult result = ctx.send(message);
            if (i == 11) {
                taken = result;
            } else {
                bodies.add("timed " + i);
            }
        }
        ctx.producer().recallMessage(topic, taken.getRecallHandle());
        KEPT.put(ctx.name("state"), bodies);
    }

    @SuppressWarnings("unchecked")
    private static void restart2(Ctx ctx) throws Exception {
        List<String> bodies = (List<String>) KEPT.remove(ctx.name("state"));
        ctx.check(bodies != null, "phase 1 of this scenario went well");
        Inbox inbox = consume(ctx, ctx.name("t"));
        inbox.awaitAll(ctx, 30_000, bodies);
        ctx.check(!inbox.distinct().contains("timed 11"), "the message taken back does not come");
    }
}
