package io.github.sessiond.servlet;

import jakarta.servlet.Filter;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import org.apache.catalina.Context;
import org.apache.catalina.LifecycleException;
import org.apache.catalina.Wrapper;
import org.apache.catalina.startup.Tomcat;
import org.apache.tomcat.util.descriptor.web.FilterDef;
import org.apache.tomcat.util.descriptor.web.FilterMap;

/** A real container with one servlet behind the filter, and a browser in front of it. */
final class Site implements AutoCloseable {
    /** What the servlet does. */
    interface Page {
        void answer(HttpServletRequest request, HttpServletResponse response) throws IOException, ServletException;
    }

    private final Tomcat tomcat = new Tomcat();
    private final HttpClient http = HttpClient.newHttpClient();
    private volatile Page page;
    private volatile AssertionError failure;
    String cookie;

    Site(Filter filter, Path folder) throws LifecycleException {
        tomcat.setBaseDir(folder.toString());
        tomcat.setPort(0);
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        tomcat.setSilent(true);
        Context context = tomcat.addContext("", folder.toString());
        FilterDef definition = new FilterDef();
        definition.setFilterName("sessiond");
        definition.setFilter(filter);
        definition.setAsyncSupported("true");
        context.addFilterDef(definition);
        FilterMap everywhere = new FilterMap();
        everywhere.setFilterName("sessiond");
        everywhere.addURLPattern("/*");
        everywhere.setDispatcher("REQUEST");
        everywhere.setDispatcher("ASYNC");
        context.addFilterMap(everywhere);
        Wrapper servlet = Tomcat.addServlet(context, "page", new HttpServlet() {
            private static final long serialVersionUID = 1;

            @Override
            protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException, ServletException {
                try {
                    page.answer(request, response);
                } catch (AssertionError failed) {
                    failure = failed;
                    throw failed;
                }
            }
        });
        servlet.setAsyncSupported(true);
        context.addServletMappingDecoded("/", "page");
        tomcat.start();
    }

    /** Asks the page, with the cookie of this browser, and keeps the new one. */
    HttpResponse<String> ask(Page page) throws Exception {
        this.page = page;
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + tomcat.getConnector().getLocalPort() + "/"));
        Optional.ofNullable(cookie).ifPresent(value -> request.header("Cookie", value));
        HttpResponse<String> response = http.send(request.build(), HttpResponse.BodyHandlers.ofString());
        if (failure != null) {
            throw failure;
        }
        List<String> lines = response.headers().allValues("Set-Cookie");
        if (!lines.isEmpty()) {
            String line = lines.get(lines.size() - 1);
            cookie = line.contains("Max-Age=0") ? null : line.substring(0, line.indexOf(';'));
        }
        return response;
    }

    @Override
    public void close() throws LifecycleException {
        tomcat.stop();
        tomcat.destroy();
    }
}
