package wire;

/** A check that did not hold; the message is a sentence about it. */
final class Failure extends RuntimeException {
    private static final long serialVersionUID = 1L;

    Failure(String sentence) {
        super(sentence);
    }
}
