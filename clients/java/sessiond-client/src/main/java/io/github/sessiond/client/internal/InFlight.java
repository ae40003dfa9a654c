package io.github.sessiond.client.internal;

/** The operations under way, in the order of their deadlines. Whoever calls holds the lock of the {@link Dispatcher}. */
final class InFlight {
    private Operation first;
    private Operation last;
    private int count;

    /** The one whose time is over first; null: there is none. */
    Operation first() {
        return first;
    }

    int count() {
        return count;
    }

    /** All operations have the same timeout, so a new one is the last. */
    void add(Operation operation) {
        operation.previous = last;
        if (last != null) {
            last.next = operation;
        } else {
            first = operation;
        }
        last = operation;
        count++;
    }

    void remove(Operation operation) {
        operation.done = true;
        if (operation.previous != null) {
            operation.previous.next = operation.next;
        } else {
            first = operation.next;
        }
        if (operation.next != null) {
            operation.next.previous = operation.previous;
        } else {
            last = operation.previous;
        }
        operation.previous = null;
        operation.next = null;
        count--;
    }
}
