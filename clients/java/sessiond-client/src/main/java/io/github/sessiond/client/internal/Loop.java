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
    final EventLoopGroup group;

    Loop(String address) {
        ThreadFactory threads = task -> new ClientThread(task, "sessiond-" + address);
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
        if (idle) {
            group.terminationFuture().awaitUninterruptibly(1, TimeUnit.SECONDS);
        }
    }

    static final class ClientThread extends Thread {
        ClientThread(Runnable task, String name) {
            super(task, name);
            setDaemon(true);
        }
    }
}
