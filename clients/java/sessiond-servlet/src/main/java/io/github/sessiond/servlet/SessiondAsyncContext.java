package io.github.sessiond.servlet;

import io.github.sessiond.client.SessiondException;
import jakarta.servlet.AsyncContext;
import jakarta.servlet.AsyncEvent;
import jakarta.servlet.AsyncListener;
import jakarta.servlet.ServletContext;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import java.io.IOException;
import java.io.UncheckedIOException;

/** Stores the session before an asynchronous response is complete. */
record SessiondAsyncContext(AsyncContext context, Exchange exchange, SessiondResponse response) implements AsyncContext {
    @Override
    public void complete() {
        try {
            exchange.finish(response);
        } catch (SessiondException cause) {
            exchange.abandon();
            if (!isAnswered(cause)) {
                throw cause;
            }
        } finally {
            context.complete();
        }
    }

    /** What could not be stored is not told as stored. */
    private boolean isAnswered(SessiondException cause) {
        try {
            return Responses.answer(response, cause);
        } catch (IOException unwritable) {
            throw new UncheckedIOException(unwritable);
        }
    }

    /** The container tells a listener its own context; one that completes it must complete this one. */
    private record Listening(AsyncListener listener, SessiondAsyncContext of) implements AsyncListener {
        private AsyncEvent event(AsyncEvent event) {
            return new AsyncEvent(
                    new SessiondAsyncContext(event.getAsyncContext(), of.exchange, of.response),
                    event.getSuppliedRequest(),
                    event.getSuppliedResponse(),
                    event.getThrowable());
        }

        @Override
        public void onComplete(AsyncEvent event) throws IOException {
            listener.onComplete(event(event));
        }

        @Override
        public void onTimeout(AsyncEvent event) throws IOException {
            listener.onTimeout(event(event));
        }

        @Override
        public void onError(AsyncEvent event) throws IOException {
            listener.onError(event(event));
        }

        @Override
        public void onStartAsync(AsyncEvent event) throws IOException {
            listener.onStartAsync(event(event));
        }
    }

    @Override
    public ServletRequest getRequest() {
        return context.getRequest();
    }

    @Override
    public ServletResponse getResponse() {
        return context.getResponse();
    }

    @Override
    public boolean hasOriginalRequestAndResponse() {
        return context.hasOriginalRequestAndResponse();
    }

    @Override
    public void dispatch() {
        context.dispatch();
    }

    @Override
    public void dispatch(String path) {
        context.dispatch(path);
    }

    @Override
    public void dispatch(ServletContext servletContext, String path) {
        context.dispatch(servletContext, path);
    }

    @Override
    public void start(Runnable run) {
        context.start(run);
    }

    @Override
    public void addListener(AsyncListener listener) {
        context.addListener(new Listening(listener, this));
    }

    @Override
    public void addListener(AsyncListener listener, ServletRequest request, ServletResponse answer) {
        context.addListener(new Listening(listener, this), request, answer);
    }

    @Override
    public <T extends AsyncListener> T createListener(Class<T> type) throws ServletException {
        return context.createListener(type);
    }

    @Override
    public void setTimeout(long timeout) {
        context.setTimeout(timeout);
    }

    @Override
    public long getTimeout() {
        return context.getTimeout();
    }
}
