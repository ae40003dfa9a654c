package io.github.sessiond.client.internal;

import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.nio.NioIoHandler;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeUnit;

/** The one thread of a client: its connection, its deadlines and its pauses. It does not keep the process alive. */
final class Loop {
    /** How long to wait at most for what ends by itself: on a busy machine that takes a while. */
    static final long END_SECONDS = 5;

    final EventLoopGroup group;
    private volatile Thread thread;

    Loop(String address) {
        ThreadFactory threads = task -> thread = new ClientThread(task, "sessiond-" + address);
        group = new MultiThreadIoEventLoopGroup(1, threads, NioIoHandler.newFactory());
    }

    void execute(Runnable task) {
        try {
            group.execute(task);
        } catch (RejectedExecutionException over) {
            // The client is closed: nobody waits for what a connection has to say.
        }
    }

    ScheduledFuture<?> schedule(Runnable task, long nanos) {
        return group.schedule(task, nanos, TimeUnit.NANOSECONDS);
    }

    /**
     * Ends the thread. {@code idle}: all connections have ended, so it ends before this returns; else when nothing has come
     * for a while, because an attempt to connect may still be on its way here.
     */
    void shutdown(boolean idle) {
        group.shutdownGracefully(idle ? 0 : 1, 5, TimeUnit.SECONDS);
        if (!idle) {
            return;
        }
        try {
            // Netty says so when the thread is about to end.
            if (group.terminationFuture().await(END_SECONDS, TimeUnit.SECONDS) && thread != null) {
                thread.join(TimeUnit.SECONDS.toMillis(END_SECONDS));
            }
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    static final class ClientThread extends Thread {
        ClientThread(Runnable task, String name) {
            super(task, name);
            setDaemon(true);
        }
    }
}
