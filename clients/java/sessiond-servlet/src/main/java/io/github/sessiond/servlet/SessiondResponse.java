package io.github.sessiond.servlet;

import jakarta.servlet.ServletOutputStream;
import jakarta.servlet.WriteListener;
import jakarta.servlet.http.HttpServletResponse;
import jakarta.servlet.http.HttpServletResponseWrapper;
import java.io.FilterWriter;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.Writer;

/**
 * Stores the session before the head of the response goes out. The container sends it when its buffer is full, when the
 * body is as long as announced, or when it is told to.
 */
final class SessiondResponse extends HttpServletResponseWrapper {
    /** At most so many octets does a character become. */
    private static final int OCTETS = 4;

    private final Exchange exchange;
    private long written;
    private long length = Long.MAX_VALUE;
    private ServletOutputStream stream;
    private PrintWriter writer;

    SessiondResponse(HttpServletResponse response, Exchange exchange) {
        super(response);
        this.exchange = exchange;
    }

    private void commit() {
        if (!isCommitted()) {
            exchange.finish(this);
        }
    }

    /** So many octets are about to be written. */
    private void writes(long octets) {
        long before = written;
        written += octets;
        if (before < Math.min(length, getBufferSize()) && written >= Math.min(length, getBufferSize())) {
            commit();
        }
    }

    @Override
    public ServletOutputStream getOutputStream() throws IOException {
        if (stream == null) {
            stream = new Stream(super.getOutputStream());
        }
        return stream;
    }

    @Override
    public PrintWriter getWriter() throws IOException {
        if (writer == null) {
            writer = new PrintWriter(new Text(super.getWriter()));
        }
        return writer;
    }

    @Override
    public void flushBuffer() throws IOException {
        commit();
        super.flushBuffer();
    }

    @Override
    public void sendError(int status, String message) throws IOException {
        commit();
        super.sendError(status, message);
    }

    @Override
    public void sendError(int status) throws IOException {
        commit();
        super.sendError(status);
    }

    @Override
    public void sendRedirect(String location) throws IOException {
        commit();
        super.sendRedirect(location);
    }

    @Override
    public void sendRedirect(String location, int status, boolean clearBuffer) throws IOException {
        commit();
        super.sendRedirect(location, status, clearBuffer);
    }

    @Override
    public void setContentLength(int length) {
        setContentLengthLong(length);
    }

    @Override
    public void setContentLengthLong(long length) {
        this.length = length;
        super.setContentLengthLong(length);
        if (written >= length) {
            commit();
        }
    }

    @Override
    public void setHeader(String name, String value) {
        if ("Content-Length".equalsIgnoreCase(name) && value != null) {
            setContentLengthLong(Long.parseLong(value));
        } else {
            super.setHeader(name, value);
        }
    }

    @Override
    public void resetBuffer() {
        super.resetBuffer();
        written = 0;
    }

    @Override
    public void reset() {
        super.reset();
        written = 0;
        length = Long.MAX_VALUE;
    }

    private final class Stream extends ServletOutputStream {
        private final ServletOutputStream out;

        Stream(ServletOutputStream out) {
            this.out = out;
        }

        @Override
        public void write(int octet) throws IOException {
            writes(1);
            out.write(octet);
        }

        @Override
        public void write(byte[] octets, int offset, int count) throws IOException {
            writes(count);
            out.write(octets, offset, count);
        }

        @Override
        public void flush() throws IOException {
            commit();
            out.flush();
        }

        @Override
        public void close() throws IOException {
            commit();
            out.close();
        }

        @Override
        public boolean isReady() {
            return out.isReady();
        }

        @Override
        public void setWriteListener(WriteListener listener) {
            out.setWriteListener(listener);
        }
    }

    private final class Text extends FilterWriter {
        Text(Writer out) {
            super(out);
        }

        @Override
        public void write(int unit) throws IOException {
            writes(OCTETS);
            super.write(unit);
        }

        @Override
        public void write(char[] units, int offset, int count) throws IOException {
            writes((long) count * OCTETS);
            super.write(units, offset, count);
        }

        @Override
        public void write(String text, int offset, int count) throws IOException {
            writes((long) count * OCTETS);
            super.write(text, offset, count);
        }

        @Override
        public void flush() throws IOException {
            commit();
            super.flush();
        }

        @Override
        public void close() throws IOException {
            commit();
            super.close();
        }
    }
}
