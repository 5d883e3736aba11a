package wire;

/** One use of the client. Returns when all its checks held; throws otherwise. */
@FunctionalInterface
interface Scenario {
    void run(Ctx ctx) throws Exception;
}
