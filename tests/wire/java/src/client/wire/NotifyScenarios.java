package wire;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.LinkedBlockingQueue;
import org.apache.rocketmq.client.consumer.AllocateMessageQueueStrategy;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** What the broker asks and tells its clients, and the traces that clients write. */
final class NotifyScenarios {
    private NotifyScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("notify-running-info", NotifyScenarios::runningInfo);
        all.put("notify-consume-directly", NotifyScenarios::consumeDirectly);
        all.put("notify-status", NotifyScenarios::status);
        all.put("request-nobody-answers", NotifyScenarios::nobodyAnswers);
        all.put("request-requester-gone", NotifyScenarios::requesterGone);
        all.put("request-requester-restarted", NotifyScenarios::requesterRestarted);
        all.put("trace-own-topic", NotifyScenarios::traceOwnTopic);
    }

    private static DefaultMQPushConsumer consumer(Ctx ctx, String topic, MessageListenerConcurrently listener)
        throws Exception {
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(listener);
        return ctx.started(consumer);
    }

    private static void runningInfo(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(ctx, topic, inbox.concurrently());
        inbox.awaitOnce(ctx, 20_000, ctx.sendMany(topic, "m", 4));
        MQClientAPIImpl api = Admin.api(consumer);
        String broker = ctx.param("broker", null);
        var plain = api.getConsumerRunningInfo(broker, ctx.name("g"), Admin.clientId(consumer), false, 15_000);
        ctx.check(plain.getMqTable().keySet().containsAll(ctx.queues(topic)), "the client's queues are shown");
        ctx.equal("CONSUME_PASSIVELY", plain.getProperties().getProperty("PROP_CONSUME_TYPE"), "the client's kind");
        ctx.check(plain.getJstack() == null || plain.getJstack().isEmpty(), "no threads are shown unless asked for");
        var deep = api.getConsumerRunningInfo(broker, ctx.name("g"), Admin.clientId(consumer), true, 15_000);
        ctx.check(deep.getJstack().contains("ConsumeMessageThread"), "the client's threads are shown when asked for");
        try {
            api.getConsumerRunningInfo(broker, ctx.name("g"), "nobody@there", false, 15_000);
            throw new Failure("expected that a client which is not there is an error");
        } catch (MQClientException refused) {
            ctx.equal(1, refused.getResponseCode(), "the code for a client that is not there");
        }
    }

    private static void consumeDirectly(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(ctx, topic, inbox.concurrently());
        SendResult sent = ctx.send(new Message(topic, "T", "k", Ctx.bytes("once more")));
        inbox.awaitOnce(ctx, 20_000, List.of("once more"));
        MQClientAPIImpl api = Admin.api(consumer);
        String broker = ctx.param("broker", null);
        String group = ctx.name("g");
        Object result = Admin.has(api, "consumeMessageDirectly", 5)
            ? Admin.call(api, "consumeMessageDirectly", broker, group, Admin.clientId(consumer), sent.getOffsetMsgId(), 15_000L)
            : Admin.call(api, "consumeMessageDirectly", broker, group, Admin.clientId(consumer), topic,
                sent.getOffsetMsgId(), 15_000L);
        ctx.equal("CR_SUCCESS", Admin.call(result, "getConsumeResult").toString(), "the outcome");
        ctx.equal(List.of("once more", "once more"), inbox.bodies(), "what the listener saw");
        // the 4.x client shows the offset id as the message id then
        ctx.equal(sent.getMsgId(), inbox.messages.get(1).getProperty("UNIQ_KEY"), "the id of the message consumed directly");
    }

    private static void status(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(ctx, topic, inbox.concurrently());
        inbox.awaitOnce(ctx, 20_000, ctx.sendMany(topic, "m", 3));
        ctx.await(10_000, () -> {
            Map<String, Map<MessageQueue, Long>> told = Admin.api(consumer).invokeBrokerToGetConsumerStatus(
                ctx.param("broker", null), topic, ctx.name("g"), "", 15_000);
            Map<MessageQueue, Long> own = told.get(Admin.clientId(consumer));
            return own != null && Long.valueOf(3).equals(own.get(ctx.queues(topic).get(0)));
        }, "the member tells offset 3 of its queue");
    }

    private static void ask(DefaultMQProducer asker, Message question, long millis, List<String> answers) throws Exception {
        asker.request(question, new RequestCallback() {
            @Override
            public void onSuccess(Message message) {
                // all client versions also call this, with null, when the request itself was stored
                if (message != null) {
                    answers.add(Ctx.text(message));
                }
            }

            @Override
            public void onException(Throwable error) {
                answers.add("error " + error.getMessage());
            }
        }, millis);
    }

    private static void nobodyAnswers(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        List<String> answers = new CopyOnWriteArrayList<>();
        ask(ctx.producer(), new Message(topic, Ctx.bytes("anybody?")), 1000, answers);
        ctx.await(15_000, () -> !answers.isEmpty(), "the request ends");
        ctx.check(answers.get(0).startsWith("error "), "it ends with an error, not with %s", answers);
        ctx.equal("anybody?", Ctx.text(ctx.readTopic(topic, 1).get(0)), "the question, which is stored");
    }

    /** A replier that keeps its questions until the scenario answers them. */
    private static BlockingQueue<MessageExt> questions(Ctx ctx, String topic) throws Exception {
        BlockingQueue<MessageExt> questions = new LinkedBlockingQueue<>();
        consumer(ctx, topic, (batch, context) -> {
            questions.addAll(batch);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        return questions;
    }

    private static MessageExt next(Ctx ctx, BlockingQueue<MessageExt> questions) throws Exception {
        ctx.await(20_000, () -> !questions.isEmpty(), "the question reaches the replier");
        return questions.remove();
    }

    private static void requesterGone(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        BlockingQueue<MessageExt> questions = questions(ctx, topic);
        DefaultMQProducer asker = ctx.newProducer();
        asker.start();
        ask(asker, new Message(topic, Ctx.bytes("quick!")), 10_000, new ArrayList<>());
        MessageExt question = next(ctx, questions);
        asker.shutdown();
        DefaultMQProducer replier = ctx.newProducer();
        replier.setRetryTimesWhenSendFailed(0);
        ctx.started(replier);
        Message reply = MessageUtil.createReplyMessage(question, Ctx.bytes("too late"));
        ctx.await(15_000, () -> {
            try {
                replier.send(reply, 15_000);
                return false; // the broker has not seen yet that the asker left
            } catch (MQBrokerException | MQClientException refused) {
                ctx.check(refused.getMessage().contains("CODE: 1 ") && refused.getMessage().contains("not found")
                    || String.valueOf(refused.getCause()).contains("not found"), "it says why: %s", refused);
                return true;
            }
        }, "a reply to somebody who left is refused");
    }

    private static void requesterRestarted(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        BlockingQueue<MessageExt> questions = questions(ctx, topic);
        DefaultMQProducer replier = ctx.started(ctx.newProducer());
        String instance = Ctx.unique();
        List<String> answers = new CopyOnWriteArrayList<>();
        DefaultMQProducer before = ctx.newProducer();
        before.setInstanceName(instance);
        before.start();
        ask(before, new Message(topic, Ctx.bytes("before")), 10_000, answers);
        MessageExt lost = next(ctx, questions);
        before.shutdown();
        DefaultMQProducer after = ctx.newProducer();
        after.setInstanceName(instance);
        ctx.started(after);
        ask(after, new Message(topic, Ctx.bytes("after")), 20_000, answers);
        MessageExt question = next(ctx, questions);
        // the answer to the first life goes to the second one, too: a client is found by its id
        ctx.stored(replier.send(MessageUtil.createReplyMessage(lost, Ctx.bytes("re: before")), 15_000));
        ctx.stored(replier.send(MessageUtil.createReplyMessage(question, Ctx.bytes("re: after")), 15_000));
        ctx.await(20_000, () -> answers.contains("re: after"), "the question of the second life is answered");
    }

    private static void traceOwnTopic(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        String traces = ctx.name("traces");
        ctx.createTopic(topic, 1);
        ctx.createTopic(traces, 1);
        ctx.onlyTracer();
        DefaultMQProducer producer =
            ctx.started(ctx.address(new DefaultMQProducer("P_" + ctx.name("traced"), true, traces)));
        Inbox inbox = new Inbox();
        AllocateMessageQueueStrategy strategy = new AllocateMessageQueueAveragely();
        DefaultMQPushConsumer consumer =
            ctx.address(new DefaultMQPushConsumer(ctx.name("g"), null, strategy, true, traces));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        String id = ctx.stored(producer.send(new Message(topic, "T", "own", Ctx.bytes("trace me")))).getMsgId();
        inbox.awaitAll(ctx, 15_000, List.of("trace me"));
        ctx.await(30_000, () -> {
            StringBuilder all = new StringBuilder();
            for (MessageExt found : QueryScenarios.query(ctx.producer(), traces, id, 32, 0, Long.MAX_VALUE)) {
                all.append(Ctx.text(found));
            }
            return all.indexOf("Pub\001") >= 0 && all.indexOf("SubBefore\001") >= 0 && all.indexOf("SubAfter\001") >= 0;
        }, "the topic named for traces has Pub, SubBefore and SubAfter records under the key %s", id);
    }
}
