package shop;

import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.SessionData;
import io.github.sessiond.client.SessionGoneException;
import io.github.sessiond.client.SupersededException;
import jakarta.servlet.http.HttpSession;
import java.security.Principal;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.springframework.boot.webmvc.error.ErrorController;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import tools.jackson.core.type.TypeReference;

/** The pages. Spring Security has those of the login and the logout. */
@RestController
public class Pages implements ErrorController {
    private static final TypeReference<List<String>> CART = new TypeReference<>() {};

    public record Shown(String user, int visits, List<String> cart, boolean live) {}

    public record Device(String id, boolean current) {}

    @GetMapping("/session")
    Shown session(RequestSession session, Principal user) {
        SessionData data = session.data();
        return new Shown(user == null ? null : user.getName(), data.get("visits", Integer.class, 0), cart(data), session.isLive());
    }

    @PostMapping("/visit")
    Map<String, ?> visit(RequestSession session) {
        return Map.of("visits", session.update(Pages::countVisit));
    }

    @PostMapping("/cart")
    Map<String, ?> cart(RequestSession session, @RequestParam String item) {
        return Map.of("items", session.update(data -> {
            List<String> cart = cart(data);
            cart.add(item);
            data.set("cart", cart);
            return cart.size();
        }));
    }

    @PostMapping("/flash")
    Map<String, ?> flash(HttpSession session, @RequestParam String text) {
        session.setAttribute("flash", text);
        return Map.of();
    }

    @GetMapping("/flash")
    Map<String, ?> flash(RequestSession session) {
        String flash = session.data().keys().contains("flash") ? updateIfLive(session, Pages::takeFlash) : null;
        return Collections.singletonMap("flash", flash);
    }

    @PostMapping("/theme")
    Map<String, ?> theme(HttpSession session, @RequestParam String theme) {
        session.setAttribute("theme", theme);
        return Map.of("theme", theme);
    }

    @PostMapping("/logout-others")
    Map<String, ?> logoutOthers(RequestSession session) {
        return Map.of("ended", session.logoutOthers());
    }

    @PostMapping("/logout-everywhere")
    Map<String, ?> logoutEverywhere(RequestSession session) {
        return Map.of("ended", session.logoutEverywhere());
    }

    @GetMapping("/slow")
    Map<String, ?> slow(RequestSession session, @RequestParam(defaultValue = "0") long ms) throws InterruptedException {
        boolean live = session.isLive();
        Thread.sleep(Math.max(0, ms));
        return Map.of("written", live && updateIfLive(session, Pages::countVisit) != null);
    }

    @GetMapping("/devices")
    ResponseEntity<?> devices(RequestSession session, Principal user) {
        if (user == null) {
            return ResponseEntity.status(401).body(Map.of());
        }
        List<Device> devices = session.devices().stream().map(one -> new Device(one.id(), one.current())).toList();
        return ResponseEntity.ok(Map.of("devices", devices));
    }

    /** 503 with Retry-After while the daemon is away, 409 for a change with an id from before a login. */
    @RequestMapping("/error")
    Map<String, ?> error() {
        return Map.of();
    }

    private static List<String> cart(SessionData data) {
        return data.keys().contains("cart") ? data.get("cart", CART) : new ArrayList<>();
    }

    private static int countVisit(SessionData data) {
        int visits = data.get("visits", Integer.class, 0) + 1;
        data.set("visits", visits);
        return visits;
    }

    private static String takeFlash(SessionData data) {
        String flash = data.get("flash", String.class);
        data.remove("flash");
        return flash;
    }

    /** Null if the session has ended meanwhile, or a parallel login has replaced its id. */
    private static <T> T updateIfLive(RequestSession session, Function<SessionData, T> change) {
        try {
            return session.update(change);
        } catch (SessionGoneException | SupersededException over) {
            return null;
        }
    }
}
