package shop;

import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.SessionData;
import io.github.sessiond.client.SessionGoneException;
import io.github.sessiond.client.SessiondClient;
import io.github.sessiond.client.SupersededException;
import io.github.sessiond.servlet.SessiondFilter;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;
import org.apache.tomcat.util.descriptor.web.ErrorPage;
import org.apache.tomcat.util.descriptor.web.FilterDef;
import org.apache.tomcat.util.descriptor.web.FilterMap;
import tools.jackson.core.type.TypeReference;
import tools.jackson.databind.json.JsonMapper;

/** A small shop: visits, a cart, a flash message, login, devices. sessiond owns the sessions. */
public final class Shop extends HttpServlet {
    private static final JsonMapper JSON = new JsonMapper();
    private static final TypeReference<List<String>> CART = new TypeReference<>() {};

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
        RequestSession session = SessiondFilter.session(request);
        response.setHeader("Cache-Control", "no-store");
        Object answer = switch (request.getMethod() + " " + request.getRequestURI()) {
            case "GET /session" -> session(session);
            case "POST /visit" -> Map.of("visits", session.update(Shop::countVisit));
            case "POST /cart" -> Map.of("items", session.update(data -> addToCart(data, text(request, "item"))));
            case "POST /flash" -> {
                request.getSession().setAttribute("flash", text(request, "text"));
                yield Map.of();
            }
            case "GET /flash" -> flash(session);
            case "POST /login" -> login(session, text(request, "user"));
            case "POST /theme" -> {
                request.getSession().setAttribute("theme", text(request, "theme"));
                yield Map.of("theme", text(request, "theme"));
            }
            case "POST /logout" -> {
                session.logout();
                yield Map.of();
            }
            case "POST /logout-others" -> Map.of("ended", session.logoutOthers());
            case "POST /logout-everywhere" -> Map.of("ended", session.logoutEverywhere());
            case "GET /slow" -> slow(session, text(request, "ms"));
            case "GET /devices" -> devices(session);
            default -> 404;
        };
        if (answer instanceof Integer status) {
            response.setStatus(status);
        }
        response.setContentType("application/json");
        response.getOutputStream().write(JSON.writeValueAsBytes(answer instanceof Integer ? Map.of() : answer));
    }

    private static String text(HttpServletRequest request, String field) {
        String text = request.getParameter(field);
        return text == null ? "" : text;
    }

    private static Object session(RequestSession session) {
        SessionData data = session.data();
        Map<String, Object> answer = new HashMap<>();
        answer.put("user", session.principal());
        answer.put("visits", data.get("visits", Integer.class, 0));
        answer.put("cart", data.keys().contains("cart") ? data.get("cart", CART) : List.of());
        answer.put("live", session.isLive());
        return answer;
    }

    private static int countVisit(SessionData data) {
        int visits = data.get("visits", Integer.class, 0) + 1;
        data.set("visits", visits);
        return visits;
    }

    private static int addToCart(SessionData data, String item) {
        List<String> cart = data.keys().contains("cart") ? data.get("cart", CART) : new ArrayList<>();
        cart.add(item);
        data.set("cart", cart);
        return cart.size();
    }

    private static Object flash(RequestSession session) {
        Map<String, Object> answer = new HashMap<>();
        answer.put("flash", session.data().keys().contains("flash") ? updateIfLive(session, Shop::takeFlash) : null);
        return answer;
    }

    private static String takeFlash(SessionData data) {
        String flash = data.get("flash", String.class);
        data.remove("flash");
        return flash;
    }

    private static Object login(RequestSession session, String user) {
        // A real application checks a password here.
        if (user.isEmpty() || user.getBytes(StandardCharsets.UTF_8).length > 256) {
            return HttpServletResponse.SC_BAD_REQUEST;
        }
        session.login(user);
        return Map.of("user", user);
    }

    private static Object slow(RequestSession session, String ms) {
        boolean live = session.isLive();
        sleep(ms.matches("\\d{1,6}") ? Long.parseLong(ms) : 0);
        return Map.of("written", live && updateIfLive(session, Shop::countVisit) != null);
    }

    private static Object devices(RequestSession session) {
        if (session.principal() == null) {
            return HttpServletResponse.SC_UNAUTHORIZED;
        }
        return Map.of("devices", session.devices().stream().map(one -> Map.of("id", one.id(), "current", one.current())).toList());
    }

    /** Null if the session has ended meanwhile, or a parallel login has replaced its id. */
    private static <T> T updateIfLive(RequestSession session, Function<SessionData, T> change) {
        try {
            return session.update(change);
        } catch (SessionGoneException | SupersededException over) {
            return null;
        }
    }

    private static void sleep(long ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    /** What the filter answers with 503 or 409 has a body of JSON, too. */
    private static final class Failure extends HttpServlet {
        @Override
        protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
            response.setContentType("application/json");
            response.getWriter().write("{}");
        }
    }

    /** Starts the shop: {@code SESSIOND} is the daemon's address, {@code PORT} is where to listen. */
    public static void main(String[] arguments) throws Exception {
        SessiondClient client = SessiondClient.create(System.getenv().getOrDefault("SESSIOND", "127.0.0.1:50051"));
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(System.getProperty("java.io.tmpdir"));
        tomcat.setPort(Integer.parseInt(System.getenv().getOrDefault("PORT", "3000")));
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        Context context = tomcat.addContext("", null);
        context.setRequestCharacterEncoding("UTF-8");

        FilterDef sessions = new FilterDef();
        sessions.setFilterName("sessiond");
        sessions.setFilter(new SessiondFilter(client));
        context.addFilterDef(sessions);
        FilterMap everywhere = new FilterMap();
        everywhere.setFilterName("sessiond");
        everywhere.addURLPattern("/*");
        context.addFilterMap(everywhere);

        Tomcat.addServlet(context, "shop", new Shop());
        context.addServletMappingDecoded("/", "shop");
        Tomcat.addServlet(context, "failure", new Failure());
        context.addServletMappingDecoded("/failure", "failure");
        ErrorPage page = new ErrorPage();
        page.setLocation("/failure");
        context.addErrorPage(page);

        tomcat.start();
        Runtime.getRuntime().addShutdownHook(new Thread(client::close));
        System.out.println("listening on http://127.0.0.1:" + tomcat.getConnector().getLocalPort());
        tomcat.getServer().await();
    }
}
