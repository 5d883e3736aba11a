package wire;

import java.lang.reflect.Method;
import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;

/** What tools ask of a broker, with the requests that every client library has. */
final class Admin {
    private Admin() {
    }

    static MQClientAPIImpl api(DefaultMQPushConsumer consumer) {
        return consumer.getDefaultMQPushConsumerImpl().getmQClientFactory().getMQClientAPIImpl();
    }

    static String clientId(DefaultMQPushConsumer consumer) {
        return consumer.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId();
    }

    /** Calls a method whose package of types or number of parameters differs between client versions. */
    static Object call(Object target, String name, Object... arguments) throws Exception {
        for (Method method : target.getClass().getMethods()) {
            if (method.getName().equals(name) && method.getParameterCount() == arguments.length) {
                return method.invoke(target, arguments);
            }
        }
        throw new NoSuchMethodException(name + " with " + arguments.length + " parameters");
    }

    static boolean has(Object target, String name, int parameters) {
        for (Method method : target.getClass().getMethods()) {
            if (method.getName().equals(name) && method.getParameterCount() == parameters) {
                return true;
            }
        }
        return false;
    }

    /** Creates a consumer group with settings named as their setters, for example {@code RetryMaxTimes}. */
    static void createGroup(Ctx ctx, MQClientAPIImpl api, String group, Map<String, Object> settings) throws Exception {
        for (Method method : api.getClass().getMethods()) {
            if (method.getName().equals("createSubscriptionGroup")) {
                Object config = method.getParameterTypes()[1].getConstructor().newInstance();
                call(config, "setGroupName", group);
                for (Map.Entry<String, Object> setting : settings.entrySet()) {
                    call(config, "set" + setting.getKey(), setting.getValue());
                }
                method.invoke(api, ctx.param("broker", null), config, 15_000L);
                return;
            }
        }
        throw new NoSuchMethodException("createSubscriptionGroup");
    }
}
