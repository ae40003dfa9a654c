package io.github.sessiond.client.internal;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/** A wire that can be cut, also in the middle of a frame. */
final class Relay implements AutoCloseable {
    private final ServerSocket server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
    private final List<Socket> sockets = new CopyOnWriteArrayList<>();
    volatile int target;
    /** So many octets more come from the server before the wire is cut; negative: it is not. */
    private long left = -1;

    Relay(int target) throws IOException {
        this.target = target;
        thread(() -> {
            while (true) {
                Socket client = server.accept();
                Socket upstream;
                try {
                    upstream = new Socket(InetAddress.getLoopbackAddress(), this.target);
                } catch (IOException nobody) {
                    client.close();
                    continue;
                }
                sockets.add(client);
                sockets.add(upstream);
                thread(() -> copy(client, upstream, false));
                thread(() -> copy(upstream, client, true));
            }
        });
    }

    String address() {
        return "127.0.0.1:" + server.getLocalPort();
    }

    synchronized void cutAfter(long octets) {
        left = octets;
        if (octets == 0) {
            cut();
        }
    }

    private void cut() {
        left = -1;
        sockets.forEach(socket -> {
            try {
                socket.close();
            } catch (IOException closed) {
                // As meant.
            }
        });
        sockets.clear();
    }

    private void copy(Socket from, Socket to, boolean counted) throws IOException {
        InputStream in = from.getInputStream();
        OutputStream out = to.getOutputStream();
        byte[] buffer = new byte[16_384];
        for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
            synchronized (this) {
                if (counted && left >= 0) {
                    int passes = (int) Math.min(left, count);
                    out.write(buffer, 0, passes);
                    left -= passes;
                    if (left == 0) {
                        cut();
                        return;
                    }
                    continue;
                }
            }
            out.write(buffer, 0, count);
        }
        to.close();
    }

    private interface Work {
        void run() throws IOException;
    }

    private static void thread(Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (IOException closed) {
                // The test is over, or the wire was cut.
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    @Override
    public synchronized void close() throws IOException {
        server.close();
        cut();
    }
}
